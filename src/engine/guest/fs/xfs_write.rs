//! Writing XFS (version 5), over `rust-fs-xfs`.
//!
//! The crate writes every change to the filesystem's log and then to its place. The log is for crashes, of which a draft has none, and
//! is many times longer than what changes: it is left as it is, clean, and the crate's records go nowhere. No structure names a record
//! of them (the crate leaves their sequence numbers as they were).

use std::sync::Arc;

use fs_xfs::Filesystem;
use fs_xfs::write::AttrChange;

use super::device::Writer;
use super::write::{GuestWrite, Owner, present, regular};
use super::xfs::superblock;
use super::xfs_log::{Unlogged, is_clean};
use super::{GuestFs, Node, Removal, Xfs, guarded, xfs_remove};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::guest::recognise::FsInfo;
use crate::engine::io::{Device, WriteDevice};

/// Bytes of changes that the crate keeps in memory, about, before they go to their places.
const KEPT: usize = 1 << 20;

/// Does what [`super::remove_all`] says.
pub(super) fn remove(dev: &WriteDevice, info: FsInfo, wanted: &[Removal<'_>]) -> Result<Vec<bool>> {
    if let Some(gone) = xfs_remove::remove(dev, wanted)? {
        return Ok(gone);
    }
    let xfs = Xfs::open_rw(dev.clone(), info)?;
    let mut gone = vec![false; wanted.len()];
    for (w, gone) in wanted.iter().zip(&mut gone).filter(|(w, _)| !w.folder) {
        xfs.take(w)?;
        *gone = true;
    }
    for (w, gone) in wanted.iter().zip(&mut gone).filter(|(w, _)| w.folder) {
        if xfs.list(w.node)?.is_empty() {
            xfs.take(w)?;
            *gone = true;
        }
    }
    Box::new(xfs).finish()?;
    Ok(gone)
}

impl Xfs {
    fn take(&self, w: &Removal<'_>) -> Result<()> {
        let remove = || match w.folder {
            true => self.fs.remove_directory(w.dir, w.name),
            false => self.fs.unlink_file(w.dir, w.name),
        };
        let found = guarded("remove a file", || match remove() {
            Err(fs_xfs::Error::NotFound) => Ok(None),
            other => other.map(|(ino, _)| Some(ino)),
        })?;
        let name = || crate::engine::units::printable_bytes(w.name).to_string();
        match found {
            Some(ino) if ino == w.node => {}
            Some(_) => return Err(Error::corrupt(format!("'{}' stands for another file than was looked up", name()))),
            None => return Err(Error::new(ErrorKind::NotFound, format!("there is no '{}' in that folder", name()))),
        }
        if self.fs.dirty_bytes() >= KEPT {
            guarded("write what changed", || self.fs.sync())?;
        }
        Ok(())
    }
    /// Opens it for writing.
    pub(super) fn open_rw(dev: WriteDevice, info: FsInfo) -> Result<Self> {
        let (sb, read) = (superblock(dev.as_ref())?, dev.clone() as Device);
        let fs = guarded("open XFS for writing", || match is_clean(&read, &sb)? {
            true => Filesystem::mount_rw(Arc::new(Writer(Arc::new(Unlogged::new(dev.clone(), &sb))))),
            false => Err(fs_xfs::Error::DirtyLog),
        })?;
        let mut xfs = Xfs::over(fs, info)?;
        xfs.rw = Some(dev);
        Ok(xfs)
    }
    /// Makes the regular file `node` empty; the crate refuses what has nothing to free.
    fn cut(&self, node: Node) -> Result<()> {
        let (inode, _) = self.inode(node)?;
        match (inode.nextents, inode.size) {
            (0, 0) => Ok(()),
            (0, _) => guarded("empty a file", || self.fs.truncate_to(node, 0)).map(drop),
            _ => guarded("empty a file", || self.fs.truncate_to_zero(node)).map(drop),
        }
    }
    fn set_owner(&self, node: Node, owner: Owner) -> Result<()> {
        let change = AttrChange { uid: Some(owner.uid), gid: Some(owner.gid), ..AttrChange::default() };
        guarded("set the owner", || self.fs.change_attributes(node, &change)).map(drop)
    }
}

impl GuestWrite for Xfs {
    fn empty(&self, dir: Node, name: &[u8]) -> Result<()> {
        self.cut(regular(self, dir, name)?)
    }
    fn replace(&self, dir: Node, name: &[u8], content: &[u8]) -> Result<()> {
        let node = regular(self, dir, name)?;
        self.cut(node)?;
        if content.is_empty() {
            return Ok(());
        }
        guarded("replace a file's content", || self.fs.write_into_empty_file(node, content)).map(drop)
    }
    fn remove(&self, dir: Node, name: &[u8]) -> Result<()> {
        present(self, dir, name)?;
        guarded("remove a file", || self.fs.unlink_file(dir, name)).map(drop)
    }
    fn remove_folder(&self, dir: Node, name: &[u8]) -> Result<()> {
        present(self, dir, name)?;
        guarded("remove a folder", || self.fs.remove_directory(dir, name)).map(drop)
    }
    fn create(&self, dir: Node, name: &[u8], owner: Owner) -> Result<Node> {
        let (node, _) = guarded("create a file", || self.fs.create_file(dir, name, owner.mode))?;
        self.set_owner(node, owner)?;
        Ok(node)
    }
    fn make_folder(&self, dir: Node, name: &[u8], owner: Owner) -> Result<Node> {
        let (node, _) = guarded("create a folder", || self.fs.create_directory(dir, name, owner.mode))?;
        self.set_owner(node, owner)?;
        Ok(node)
    }
    fn symlink(&self, dir: Node, name: &[u8], target: &[u8]) -> Result<Node> {
        guarded("create a link", || self.fs.create_symlink(dir, name, target)).map(|(node, _)| node)
    }
    fn set_mode(&self, node: Node, mode: u16) -> Result<()> {
        let change = AttrChange { permissions: Some(mode), ..AttrChange::default() };
        guarded("set the mode", || self.fs.change_attributes(node, &change)).map(drop)
    }
    fn finish(self: Box<Self>) -> Result<()> {
        let Xfs { fs, rw, .. } = *self;
        guarded("close XFS", || fs.unmount())?;
        rw.iter().try_for_each(super::xfs_rows::join)
    }
}
