//! `cowshed demo`: a small library of every format, unpacked from the program itself, and the workbench opened on it.

mod archive;

use std::path::{Path, PathBuf};

use super::out::Out;
use super::{Failure, Verb};
use crate::engine::error::{Context, Error, Result};

/// Unpack a small library of every format, and open it
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cowshed demo\n  \
    cowshed demo ~/demo\n  \
    cowshed demo --no-tui /tmp/demo")]
pub(super) struct Args {
    /// Only make it
    #[arg(long)]
    no_tui: bool,

    /// Where to (default: in the user's cache folder)
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// The library, made by `tests/data/demo/make`.
static ARCHIVE: &[u8] = include_bytes!("../../../assets/demo.zst");

/// Lies in a folder that was made here, and says how far that came.
const MARKER: &str = ".cowshed-demo";
const BEGUN: &str = "being unpacked\n";
const DONE: &str = "made by cowshed demo; delete the folder when you like\n";

impl Verb for Args {
    fn run(self, out: &mut Out) -> std::result::Result<u8, Failure> {
        let dir = self.dir.unwrap_or_else(default_dir);
        let made = make(&dir)?;
        if !out.quiet {
            let how = if made { "demo library" } else { "demo library, kept as it was" };
            out.line(format!("{how}: {}", crate::engine::units::printable(&dir.to_string_lossy())))?;
        }
        if self.no_tui {
            return Ok(0);
        }
        out.flush()?;
        super::workbench(crate::app::Options { roots: vec![dir], ..Default::default() })
    }
}

fn default_dir() -> PathBuf {
    directories::ProjectDirs::from("", "", "cowshed")
        .map_or_else(|| std::env::temp_dir().join("cowshed-demo"), |d| d.cache_dir().join("demo"))
}

/// Makes the library in `dir` unless it is there. True when it was made now.
///
/// Errors: the folder holds other things (nothing of a user's is ever overwritten), or cannot be written.
fn make(dir: &Path) -> Result<bool> {
    std::fs::create_dir_all(dir).op("make the demo library").path(dir)?;
    let marker = dir.join(MARKER);
    match std::fs::read_to_string(&marker) {
        Ok(text) if text == DONE => return Ok(false),
        // It was interrupted: what is there is whole, what is missing follows.
        Ok(_) => {}
        Err(_) => {
            if std::fs::read_dir(dir).op("make the demo library").path(dir)?.next().is_some() {
                return Err(Error::usage("the folder is not empty, and was not made by cowshed demo")
                    .op("make the demo library")
                    .path(dir)
                    .hint("name a folder that does not exist yet"));
            }
            std::fs::write(&marker, BEGUN).op("make the demo library").path(&marker)?;
        }
    }
    archive::unpack(ARCHIVE, dir)?;
    std::fs::write(&marker, DONE).op("make the demo library").path(&marker)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::error::ErrorKind;

    #[test]
    fn nothing_of_a_users_is_touched_and_what_was_made_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mine"), "x").unwrap();
        assert_eq!(make(dir.path()).unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let demo = dir.path().join("a/demo");
        assert!(make(&demo).unwrap());
        let readme = demo.join("README.txt");
        std::fs::write(&readme, "changed").unwrap();
        assert!(!make(&demo).unwrap());
        assert_eq!(std::fs::read_to_string(&readme).unwrap(), "changed");
        // Interrupted before: what is missing is made, what is there stays.
        std::fs::write(demo.join(MARKER), BEGUN).unwrap();
        std::fs::remove_file(demo.join("old/root_fs")).unwrap();
        assert!(make(&demo).unwrap());
        assert!(demo.join("old/root_fs").exists());
        assert_eq!(std::fs::read_to_string(&readme).unwrap(), "changed");
    }
}
