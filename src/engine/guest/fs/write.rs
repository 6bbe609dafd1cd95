//! The write side of guest filesystems: what sanitising needs, and no more.
//!
//! Every edit goes to the device the filesystem was opened on; whoever plans gives a [`crate::engine::io::draft::Draft`] placed
//! over the disk, so that nothing touches an image before the commit.

use super::{Ext, GuestFs, Node, Xfs, fat};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::guest::recognise::{FsKind, recognise};
use crate::engine::io::{Device, WriteDevice};

/// Whose a new file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits (07777).
    pub mode: u16,
}

/// A filesystem open for writing. Files are named by their folder and their name in it; links are not followed.
///
/// Editing a file in place keeps its number, mode, owner, labels and other names.
pub trait GuestWrite: GuestFs {
    /// Makes the regular file empty.
    fn empty(&self, dir: Node, name: &[u8]) -> Result<()>;

    /// Makes `content` the whole content of the regular file.
    fn replace(&self, dir: Node, name: &[u8], content: &[u8]) -> Result<()>;

    /// Removes the name of anything but a folder; with its last name the file is gone.
    fn remove(&self, dir: Node, name: &[u8]) -> Result<()>;

    /// Removes an empty folder.
    fn remove_folder(&self, dir: Node, name: &[u8]) -> Result<()>;

    /// Makes an empty regular file.
    fn create(&self, dir: Node, name: &[u8], owner: Owner) -> Result<Node>;

    /// Makes a folder.
    fn make_folder(&self, dir: Node, name: &[u8], owner: Owner) -> Result<Node>;

    /// Makes a symbolic link to `target`.
    fn symlink(&self, dir: Node, name: &[u8], target: &[u8]) -> Result<Node>;

    /// Sets the permission bits (07777).
    fn set_mode(&self, node: Node, mode: u16) -> Result<()>;

    /// Closes it: what is still in memory reaches the device, and the filesystem there is clean.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Opens the filesystem on `dev` for writing. A crash meanwhile may leave anything: on XFS nothing is logged.
///
/// Errors: one that cannot be written (with the reason), one that was not closed properly, damage.
pub fn open_rw(dev: WriteDevice) -> Result<Box<dyn GuestWrite>> {
    let read: Device = dev.clone();
    let Some(info) = recognise(read.as_ref())? else {
        return Err(Error::new(ErrorKind::Format, "no filesystem is recognised there"));
    };
    match info.kind {
        FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4 => Ok(Box::new(Ext::open_rw(dev, info)?)),
        FsKind::Xfs => Ok(Box::new(Xfs::open_rw(dev, info)?)),
        FsKind::Fat12 | FsKind::Fat16 | FsKind::Fat32 => Ok(Box::new(fat::FatWriter::open(dev, info)?)),
        other => Err(Error::unsupported(format!("files in {} cannot be changed", other.name()))),
    }
}

/// The number of a regular file; folders, links and special files are refused.
pub(super) fn regular(fs: &dyn GuestFs, dir: Node, name: &[u8]) -> Result<Node> {
    let node = present(fs, dir, name)?;
    if fs.stat(node)?.kind != super::FileType::File {
        return Err(Error::usage("it is no regular file"));
    }
    Ok(node)
}

/// What `name` stands for, or `NotFound`.
pub(super) fn present(fs: &dyn GuestFs, dir: Node, name: &[u8]) -> Result<Node> {
    fs.lookup(dir, name)?.ok_or_else(|| {
        let name = crate::engine::units::printable_bytes(name);
        Error::new(ErrorKind::NotFound, format!("there is no '{name}' in that folder"))
    })
}
