//! The marker beside an image whose undo file lies elsewhere: it names that file while the image may be half done, so that whoever opens
//! the image finds out.
//!
//! ```text
//!  "cowshed undo file\n", when the undo file was made, "\n", where it is (absolute)
//! ```
//!
//! It is durable before the first byte of the image is written, and gone when the image is whole: after the undo file says "done",
//! or when the old bytes are all back.

use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::undo::{self, State, Undo};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::ops::absolute;

const MAGIC: &[u8] = b"cowshed undo file\n";
/// Bytes of a marker, at most: a path and a date.
const MAX: u64 = 8192;

/// Where the undo file of a change that may be half done is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    /// The undo file.
    pub(super) undo: PathBuf,
    /// When that was made, as it says itself.
    pub(super) made: String,
}

/// Where the marker of the image at `path` is.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".sanitize-undo-at");
    PathBuf::from(name)
}

/// Says beside `image` where `undo` is. Nothing is to be said of the one that is beside the image itself.
pub(super) fn set(image: &Path, undo: &Path, made: &str) -> Result<()> {
    let undo = absolute(undo.to_path_buf());
    if undo == absolute(undo::beside(image)) {
        return Ok(());
    }
    let path = beside(image);
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&path)?;
        file.write_all(&[MAGIC, made.as_bytes(), b"\n", undo.as_os_str().as_bytes()].concat())?;
        file.sync_all()
    };
    write().op("say where the undo file is").path(&path)?;
    undo::sync_folder(&path)
}

/// The marker of `image`, if there is one. A file cut short is none: nothing was written to the image after it.
pub(super) fn of(image: &Path) -> Option<Marker> {
    let path = beside(image);
    if !std::fs::symlink_metadata(&path).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(MAX).read_to_end(&mut bytes).ok()?;
    let rest = bytes.strip_prefix(MAGIC)?;
    let end = rest.iter().position(|b| *b == b'\n')?;
    let (made, undo) = rest.split_at(end);
    let undo = PathBuf::from(std::ffi::OsString::from_vec(undo.get(1..)?.to_vec()));
    undo.is_absolute().then(|| Marker { undo, made: String::from_utf8_lossy(made).into_owned() })
}

/// Takes it away, durably. The image is whole.
pub(super) fn clear(image: &Path) -> Result<()> {
    let path = beside(image);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.op("remove").path(&path).and_then(|()| undo::sync_folder(&path)),
    }
}

impl Marker {
    /// The undo file it names; where that is now when it lies at `given` instead.
    ///
    /// Errors: it is not there, or is another one.
    pub(super) fn open(&self, image: &Path, given: Option<&Path>) -> Result<(PathBuf, Undo)> {
        for path in given.into_iter().chain([self.undo.as_path()]) {
            if let Some(undo) = Undo::open(path)?.filter(|u| u.header.made == self.made) {
                return Ok((path.to_path_buf(), undo));
            }
        }
        Err(Error::new(ErrorKind::NotFound, "the undo file of what is half done is not there")
            .op("take back what is half done")
            .path(&self.undo)
            .hint(format!(
                "bring it back, or name it with --undo-file; {} says where it was, and without that the image is used as it is",
                beside(image).display()
            )))
    }

    /// True unless the undo file says that the image is whole.
    pub(super) fn half_done(&self, image: &Path) -> bool {
        self.open(image, None).map_or(true, |(_, u)| u.state != State::Done)
    }
}
