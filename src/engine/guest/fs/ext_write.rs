//! Writing ext2, ext3 and ext4, over `rust-fs-ext4`. What the crate does by path only (files mapped by block lists) gets the path
//! found out here.

use std::sync::Arc;

use fs_ext4::fs::Filesystem;

use super::device::Writer;
use super::write::{GuestWrite, Owner, present, regular};
use super::{Ext, Node, guarded};
use crate::engine::error::{Error, Result};
use crate::engine::guest::recognise::FsInfo;
use crate::engine::io::WriteDevice;

/// Folders above a file, at most, when its path is found out.
const MAX_DEPTH: usize = 256;

impl Ext {
    /// Opens it for writing.
    pub(super) fn open_rw(dev: WriteDevice, info: FsInfo) -> Result<Self> {
        let fs = guarded("open ext filesystem for writing", || Filesystem::mount(Arc::new(Writer(dev.clone()))))?;
        Ok(Ext::over(fs, dev, info))
    }

    fn number(node: Node) -> Result<u32> {
        u32::try_from(node).map_err(|_| Error::corrupt("an inode number past 2^32"))
    }

    /// The path of `name` in `dir` from the filesystem's root: each folder's `..`, and the name it has there.
    fn path_of(&self, dir: Node, name: &[u8]) -> Result<String> {
        let mut parts = vec![name.to_vec()];
        let mut here = dir;
        for _ in 0..MAX_DEPTH {
            if here == 2 {
                parts.reverse();
                let path: Vec<u8> = parts.iter().flat_map(|p| [b"/".as_slice(), p].concat()).collect();
                return String::from_utf8(path).map_err(|_| Error::unsupported("a path that is not UTF-8, on ext2 or ext3"));
            }
            let above = self.entries(here)?.into_iter().find(|e| e.name == b"..").map(|e| e.node);
            let above = above.ok_or_else(|| Error::corrupt("a folder without '..'"))?;
            let own = self.entries(above)?.into_iter().find(|e| e.node == here && e.name != b"." && e.name != b"..");
            parts.push(own.ok_or_else(|| Error::corrupt("a folder that its parent does not name"))?.name);
            here = above;
        }
        Err(Error::corrupt("folders that contain each other"))
    }
}

impl GuestWrite for Ext {
    fn empty(&self, dir: Node, name: &[u8]) -> Result<()> {
        self.replace(dir, name, &[])
    }
    fn replace(&self, dir: Node, name: &[u8], content: &[u8]) -> Result<()> {
        let node = regular(self, dir, name)?;
        let (ino, inode, _) = self.inode(node)?;
        if !inode.has_extents() && !inode.has_inline_data() {
            let path = self.path_of(dir, name)?;
            return guarded("replace a file's content", || self.fs.apply_replace_file_content(&path, content)).map(drop);
        }
        guarded("empty a file", || self.fs.apply_truncate_ino(ino, 0))?;
        if content.is_empty() {
            return Ok(());
        }
        guarded("replace a file's content", || self.fs.apply_pwrite_ino(ino, 0, content)).map(drop)
    }
    fn remove(&self, dir: Node, name: &[u8]) -> Result<()> {
        present(self, dir, name)?;
        let dir = Self::number(dir)?;
        guarded("remove a file", || self.fs.apply_unlink_at(dir, name))
    }
    fn remove_folder(&self, dir: Node, name: &[u8]) -> Result<()> {
        present(self, dir, name)?;
        let dir = Self::number(dir)?;
        guarded("remove a folder", || self.fs.apply_rmdir_at(dir, name))
    }
    fn create(&self, dir: Node, name: &[u8], owner: Owner) -> Result<Node> {
        let dir = Self::number(dir)?;
        let ino = guarded("create a file", || self.fs.apply_create_at(dir, name, owner.mode))?;
        guarded("set the owner", || self.fs.apply_chown_ino(ino, owner.uid, owner.gid))?;
        Ok(u64::from(ino))
    }
    fn make_folder(&self, dir: Node, name: &[u8], owner: Owner) -> Result<Node> {
        let dir = Self::number(dir)?;
        let ino = guarded("create a folder", || self.fs.apply_mkdir_at(dir, name, owner.mode))?;
        guarded("set the owner", || self.fs.apply_chown_ino(ino, owner.uid, owner.gid))?;
        Ok(u64::from(ino))
    }
    fn symlink(&self, dir: Node, name: &[u8], target: &[u8]) -> Result<Node> {
        let dir = Self::number(dir)?;
        guarded("create a link", || self.fs.apply_symlink_at(dir, name, target)).map(u64::from)
    }
    fn set_mode(&self, node: Node, mode: u16) -> Result<()> {
        let ino = Self::number(node)?;
        guarded("set the mode", || self.fs.apply_chmod_ino(ino, mode))
    }
    fn finish(self: Box<Self>) -> Result<()> {
        guarded("close ext filesystem", || self.fs.finish())
    }
}
