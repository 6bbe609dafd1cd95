//! Writing XFS (version 5), over `rust-fs-xfs`: every change through its log, which [`GuestWrite::finish`] leaves clean.

use std::sync::Arc;

use fs_xfs::Filesystem;
use fs_xfs::write::AttrChange;

use super::device::Writer;
use super::write::{GuestWrite, Owner, present, regular};
use super::{Node, Xfs, guarded};
use crate::engine::error::Result;
use crate::engine::guest::recognise::FsInfo;
use crate::engine::io::WriteDevice;

impl Xfs {
    /// Opens it for writing.
    pub(super) fn open_rw(dev: WriteDevice, info: FsInfo) -> Result<Self> {
        let fs = guarded("open XFS for writing", || Filesystem::mount_rw(Arc::new(Writer(dev))))?;
        Xfs::over(fs, info)
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
        guarded("close XFS", || self.fs.unmount())
    }
}
