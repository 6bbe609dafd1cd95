//! btrfs for reading, over `rust-fs-btrfs`: subvolumes are folders, compression is undone by the crate.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fs_btrfs::Filesystem;
use fs_btrfs::dir::DirEntry as Entry;

use super::device::Reader;
use super::{DirEntry, FileType, GuestFs, Node, Stat, guarded};
use crate::engine::error::{Error, Result};
use crate::engine::guest::recognise::FsInfo;
use crate::engine::io::Device;

/// First inode of every subvolume.
const SUBVOLUME_ROOT: u64 = 256;

/// A btrfs filesystem with the subvolumes entered so far. Inode numbers are only unique within a subvolume, so a node of ours
/// is the number of the subvolume in `trees` in the upper 16 bits and the inode in the lower 48.
pub(super) struct Btrfs {
    trees: Mutex<Vec<(u64, Arc<Filesystem>)>>,
    info: FsInfo,
}

impl Btrfs {
    pub(super) fn open(dev: Device, info: FsInfo) -> Result<Self> {
        let fs = guarded("open btrfs", || Filesystem::mount(Arc::new(Reader(dev))))?;
        Ok(Btrfs { trees: Mutex::new(vec![(5, Arc::new(fs))]), info })
    }
    fn trees(&self) -> MutexGuard<'_, Vec<(u64, Arc<Filesystem>)>> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn at(&self, node: Node) -> Result<(u64, Arc<Filesystem>, u64)> {
        let tree = node >> 48;
        let found = usize::try_from(tree).ok().and_then(|t| self.trees().get(t).map(|(_, fs)| fs.clone()));
        found.map(|fs| (tree, fs, node & ((1 << 48) - 1))).ok_or_else(|| Error::usage("no such file number"))
    }
    fn node(&self, tree: u64, entry: &Entry) -> Result<Node> {
        if entry.location_type == fs_btrfs::inode::INODE_ITEM_KEY {
            return join(tree, entry.ino);
        }
        let mut trees = self.trees();
        let index = match trees.iter().position(|(id, _)| *id == entry.ino) {
            Some(i) => i,
            None => {
                let Some((_, top)) = trees.first() else { return Err(Error::usage("no such file number")) };
                let sub = guarded("open subvolume", || top.open_subvolume(entry.ino))?;
                trees.push((entry.ino, Arc::new(sub)));
                trees.len() - 1
            }
        };
        drop(trees);
        join(index as u64, SUBVOLUME_ROOT)
    }
}

fn join(tree: u64, ino: u64) -> Result<Node> {
    if tree >= 1 << 16 || ino >= 1 << 48 {
        return Err(Error::unsupported("more subvolumes or files than cowshed can number"));
    }
    Ok(tree << 48 | ino)
}

impl GuestFs for Btrfs {
    fn info(&self) -> &FsInfo {
        &self.info
    }
    fn root(&self) -> Node {
        SUBVOLUME_ROOT
    }
    fn stat(&self, node: Node) -> Result<Stat> {
        let (_, fs, ino) = self.at(node)?;
        let i = guarded("read inode", || fs.read_inode(ino))?;
        Ok(Stat {
            node,
            kind: FileType::of_mode(i.mode),
            mode: i.mode & 0o7777,
            uid: i.uid,
            gid: i.gid,
            size: i.size,
            links: i.nlink,
            mtime: i.mtime.sec,
        })
    }
    fn list(&self, dir: Node) -> Result<Vec<DirEntry>> {
        let (tree, fs, ino) = self.at(dir)?;
        let found = guarded("read folder", || fs.read_dir(ino))?;
        let mut out = Vec::with_capacity(found.len());
        for e in found {
            let node = self.node(tree, &e)?;
            out.push(DirEntry { name: e.name, node });
        }
        Ok(out)
    }
    fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let (_, fs, ino) = self.at(node)?;
        guarded("read file", || fs.read_at(ino, offset, buf))
    }
    fn read_link(&self, node: Node) -> Result<Vec<u8>> {
        let (_, fs, ino) = self.at(node)?;
        guarded("read link", || fs.read_link(ino))
    }
}
