//! Removing many names at once. One by one, each would read its folder through and write the counts again.

use super::{Node, ext_remove, fat, xfs_write};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::guest::recognise::{FsKind, recognise};
use crate::engine::io::WriteDevice;

/// A name to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal<'a> {
    /// The folder it is in.
    pub dir: Node,
    /// The name.
    pub name: &'a [u8],
    /// What it stands for.
    pub node: Node,
    /// That is a folder, which goes when nothing is in it.
    pub folder: bool,
}

/// Removes the names in `wanted` from the filesystem on `dev`, which nobody else has open; with its last name a file is gone. First go
/// files, then folders, in the order given: a folder that something is still in stays. Tells of each whether it went.
///
/// Several structures change: `dev` is a [`crate::engine::io::draft::Draft`], to be thrown away after an error.
///
/// Errors: a filesystem that cannot be written; a name that is not there or stands for something else; damage.
pub fn remove_all(dev: &WriteDevice, wanted: &[Removal<'_>]) -> Result<Vec<bool>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let Some(info) = recognise(dev.as_ref())? else {
        return Err(Error::new(ErrorKind::Format, "no filesystem is recognised there"));
    };
    match info.kind {
        FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4 => ext_remove::remove(dev.as_ref(), wanted),
        FsKind::Xfs => xfs_write::remove(dev, info, wanted),
        FsKind::Fat12 | FsKind::Fat16 | FsKind::Fat32 => fat::remove(dev, info, wanted),
        other => Err(Error::unsupported(format!("files in {} cannot be removed", other.name()))),
    }
}
