//! What `inspect`, `ls` and `cat` share: opening an image's guest.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::source::{Held, Source, snapshot_name};
use crate::engine::error::{Context, Error, Result};
use crate::engine::guest::tree::Guest;
use crate::engine::io::Device;

/// How a guest is opened.
#[derive(Debug, clap::Args)]
pub(super) struct GuestSource {
    #[command(flatten)]
    source: Source,

    /// Look at this internal snapshot (qcow2) instead of the current state
    #[arg(short = 'l', long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,

    /// Look at the filesystem of this partition alone (default: the guest's root, with what it mounts)
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
}

impl GuestSource {
    /// The disk of the image at `path`, held while the first of the pair lives.
    pub(super) fn disk(&self, path: &Path) -> Result<(Held, Device)> {
        let held = self.source.open(path)?;
        let disk = match &self.snapshot {
            Some(which) => held.chain.snapshot_disk(snapshot_name(which))?,
            None => held.chain.disk()?,
        };
        Ok((held, Arc::new(disk)))
    }

    /// Its guest: the root filesystem, or the partition that was asked for.
    pub(super) fn open(&self, path: &Path) -> Result<(Held, Guest)> {
        let (held, disk) = self.disk(path)?;
        let guest = Guest::open_for(&disk, self.partition).path(path)?;
        Ok((held, guest))
    }
}

/// `IMAGE:PATH` taken apart at the first colon behind which an absolute path begins; without one the path is `/`.
pub(super) fn image_and_path(text: &str) -> Result<(PathBuf, String)> {
    match text.split_once(":/") {
        Some((image, path)) if !image.is_empty() => Ok((image.into(), format!("/{path}"))),
        _ if Path::new(text).exists() => Ok((text.into(), "/".into())),
        _ => Err(Error::usage(format!("'{text}' is not IMAGE:PATH"))
            .hint("write the path in the guest behind a colon: disk.qcow2:/etc")),
    }
}
