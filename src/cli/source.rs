//! The flags that every verb with an image to read shares: format, sharing, secrets, which references may be followed.

use std::path::{Path, PathBuf};

use crate::engine::chain::{Chain, OpenOptions};
use crate::engine::error::{Error, Result};
use crate::engine::format::Format;
use crate::engine::io::ReadAt;
use crate::engine::io::file::FileDevice;
use crate::engine::io::gate::Gate;
use crate::engine::io::locks::{Guard, LockMode, LockState, lock, state};
use crate::engine::units::printable;

/// How images are opened.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    /// Format of the image (default: recognised by its content)
    #[arg(short, long, value_name = "FMT")]
    pub(super) format: Option<String>,

    #[command(flatten)]
    pub(super) access: Access,
}

/// The same without the format, for verbs that name several.
#[derive(Debug, clap::Args)]
pub(super) struct Access {
    /// Look at an image that another process is writing to; what is shown may be stale
    #[arg(short = 'U', long)]
    pub(super) force_share: bool,

    /// Taken for qemu-img's sake: encrypted content cannot be read yet
    #[arg(long, value_name = "id=ID,file=FILE")]
    pub(super) secret: Vec<String>,

    /// Taken, but of no use yet: encrypted content cannot be read
    #[arg(long, value_name = "FILE")]
    pub(super) passphrase_file: Option<PathBuf>,

    #[command(flatten)]
    pub(super) named: Named,
}

/// What every verb that opens an image takes, also those that write it.
#[derive(Debug, clap::Args)]
pub(super) struct Named {
    /// Open files named inside images wherever they are, not only below the image's own folder
    #[arg(long)]
    pub(super) follow: bool,

    /// Taken for qemu-img's sake, secrets only (`secret,id=ID,file=FILE`): encrypted content cannot be read or made yet
    #[arg(long, value_name = "OBJDEF")]
    object: Vec<String>,

    /// Not supported: images are files, named by their path
    #[arg(long, hide = true)]
    image_opts: bool,
}

impl Named {
    /// Refuses what is taken for qemu-img's sake and cannot be honoured.
    pub(super) fn check(&self) -> Result<()> {
        if self.image_opts {
            return Err(Error::usage("--image-opts is not supported").hint("name the image by its path, and its format with -f"));
        }
        match self.object.iter().find(|o| !o.starts_with("secret,") || !o.contains("file=")) {
            Some(object) => Err(Error::usage(format!("--object {object}: only secrets that are kept in a file are taken"))
                .hint("--object secret,id=ID,file=FILE, or --passphrase-file FILE")),
            None => Ok(()),
        }
    }
}

/// A chain that is held for reading: nobody changes it under us, unless `-U` allowed that.
pub(super) struct Held {
    pub(super) chain: Chain,
    _guards: Vec<Guard>,
}

impl Source {
    /// Opens the image at `path` with its chain, and holds it.
    pub(super) fn open(&self, path: &Path) -> Result<Held> {
        self.access.open(path, self.format.as_deref())
    }
    /// How to open the image at `path`.
    pub(super) fn options(&self, path: &Path) -> Result<OpenOptions> {
        self.access.options(path, self.format.as_deref())
    }
    /// Holds the file at `path` alone, for verbs that look at one layer. Errors: another process is writing it.
    pub(super) fn open_top(&self, path: &Path) -> Result<(FileDevice, Guard)> {
        let file = FileDevice::open(path)?;
        let mode = if self.access.force_share { LockMode::Shared } else { LockMode::Read };
        if self.access.force_share {
            tell_in_use(&file);
        }
        let guard = lock(&file, mode).map_err(|e| e.hint("-U looks at it all the same; what is shown may be stale"))?;
        Ok((file, guard))
    }
}

impl Access {
    /// How to open the image at `path` of the format called `format`.
    pub(super) fn options(&self, path: &Path, format: Option<&str>) -> Result<OpenOptions> {
        self.named.check()?;
        let gate = Gate::around(path).follow(self.named.follow);
        Ok(OpenOptions { format: format.map(Format::parse).transpose()?, gate: Some(gate), ..OpenOptions::default() })
    }

    /// Opens the image at `path` with its chain, and holds every file of it. Errors: another process is writing one of them.
    pub(super) fn open(&self, path: &Path, format: Option<&str>) -> Result<Held> {
        let chain = Chain::open(path, &self.options(path, format)?)?;
        let mode = if self.force_share { LockMode::Shared } else { LockMode::Read };
        let mut guards = Vec::new();
        for dev in chain.layers.iter().flat_map(|layer| layer.files()) {
            let Some(file) = dev.as_file() else { continue };
            if self.force_share {
                tell_in_use(file);
            }
            guards.push(lock(file, mode).map_err(|e| e.hint("-U looks at it all the same; what is shown may be stale"))?);
        }
        Ok(Held { chain, _guards: guards })
    }
}

/// Says on standard error when another process writes `file`: what is read of it may be stale.
fn tell_in_use(file: &FileDevice) {
    let state = state(file);
    if matches!(state, LockState::Writer(_) | LockState::Other(..)) {
        let name = file.path().unwrap_or(Path::new("")).display().to_string();
        eprintln!("cowshed: warning, {}: in use, may be stale ({state})", printable(&name));
    }
}

/// The same for the files of the images at `paths` and all they stand on, before a job reads them with `-U`. What cannot be opened
/// is the job's to tell.
pub(super) fn tell_all_in_use<'a>(paths: impl IntoIterator<Item = &'a PathBuf>, format: Option<Format>, follow: bool) {
    for path in paths {
        let options = OpenOptions { format, gate: Some(Gate::around(path).follow(follow)), ..OpenOptions::default() };
        let layers = Chain::open(path, &options).map(|c| c.layers).unwrap_or_default();
        layers.iter().flat_map(|l| l.files()).filter_map(|d| d.as_file().map(tell_in_use)).for_each(drop);
    }
}

/// A cache mode as qemu-img takes it; it changes nothing here but must be one there is.
pub(super) fn cache_mode(text: &str) -> std::result::Result<String, String> {
    match text {
        "none" | "off" | "writeback" | "writethrough" | "directsync" | "unsafe" => Ok(text.to_string()),
        _ => Err("it is none of none, writeback, writethrough, directsync, unsafe".into()),
    }
}

/// The id or name in `-l`: qemu-img also takes `snapshot.id=1` and `snapshot.name=NAME`.
pub(super) fn snapshot_name(text: &str) -> &str {
    let first = text.split(",snapshot.").next().unwrap_or(text);
    first.strip_prefix("snapshot.id=").or_else(|| first.strip_prefix("snapshot.name=")).unwrap_or(text)
}
