//! Wiping what edits leave behind inside a filesystem's own structures. Free space is wiped by whoever knows the disk.

use super::{Node, ext_scrub, xfs_scrub};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::guest::recognise::{FsKind, recognise};
use crate::engine::io::{Device, WriteDevice};

/// Where edits may have left something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traces {
    /// Folders that lost names, and are still there.
    pub folders: Vec<Node>,
    /// Files, links and folders that are gone.
    pub gone: Vec<Node>,
}

/// What was wiped, and what that means for whoever writes it to an image. Offsets and lengths in bytes of the volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Their old content is nobody's: an undo leaves them as they are.
    pub unsaved: Vec<(u64, u64)>,
    /// Must be saved for an undo whether they change or not.
    pub saved: Vec<(u64, u64)>,
    /// Parts of an XFS log to be stamped (see [`crate::engine::io::draft::Draft::stamp`]).
    pub stamps: Vec<(u64, u64)>,
}

/// Wipes what is left on `dev`, whose filesystem was closed by [`super::GuestWrite::finish`]; `before` is the volume as it was.
pub fn scrub(before: &Device, dev: &WriteDevice, traces: &Traces) -> Result<Scrubbed> {
    let read: Device = dev.clone();
    let info = recognise(read.as_ref())?.ok_or_else(|| Error::new(ErrorKind::Format, "no filesystem is recognised there"))?;
    match info.kind {
        FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4 => ext_scrub::scrub(dev, info, traces),
        FsKind::Xfs => xfs_scrub::scrub(before, dev, info, traces),
        other => Err(Error::unsupported(format!("{} is not wiped", other.name()))),
    }
}
