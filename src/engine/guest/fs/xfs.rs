//! XFS for reading, over `rust-fs-xfs`. A dirty log is replayed in memory by the crate.

use std::sync::Arc;

use fs_xfs::Filesystem;
use fs_xfs::inode::Inode;

use super::device::Reader;
use super::{DirEntry, FileExtent, FileType, GuestFs, Node, Stat, guarded};
use crate::engine::error::Result;
use crate::engine::guest::recognise::FsInfo;
use crate::engine::io::Device;

/// An XFS filesystem.
pub(super) struct Xfs {
    pub(super) fs: Filesystem,
    info: FsInfo,
    root: Node,
}

impl Xfs {
    pub(super) fn open(dev: Device, info: FsInfo) -> Result<Self> {
        let fs = guarded("open XFS", || Filesystem::mount(Arc::new(Reader(dev))))?;
        Xfs::over(fs, info)
    }
    pub(super) fn over(fs: Filesystem, info: FsInfo) -> Result<Self> {
        let root = guarded("open XFS", || fs.root_inode())?.ino;
        Ok(Xfs { fs, info, root })
    }
    pub(super) fn inode(&self, node: Node) -> Result<(Inode, Vec<u8>)> {
        guarded("read inode", || self.fs.read_inode_raw(node))
    }

    /// Where the content of `node` lies; with `unwritten` also what is reserved for it and was never written.
    fn places(&self, node: Node, unwritten: bool) -> Result<Vec<FileExtent>> {
        let (inode, raw) = self.inode(node)?;
        // Kept in the inode itself.
        if inode.format == fs_xfs::inode::Format::Local {
            return Ok(Vec::new());
        }
        let sb = self.fs.superblock();
        let block = u64::from(sb.blocksize);
        let all = guarded("read extents", || self.fs.data_extents(&inode, &raw))?;
        let stored = all.iter().filter(|e| unwritten || !e.unwritten);
        Ok(stored
            .map(|e| FileExtent {
                offset: e.startoff.saturating_mul(block),
                place: sb.fsblock_offset(e.startblock),
                len: e.blockcount.saturating_mul(block),
            })
            .collect())
    }
}

impl GuestFs for Xfs {
    fn info(&self) -> &FsInfo {
        &self.info
    }
    fn root(&self) -> Node {
        self.root
    }
    fn stat(&self, node: Node) -> Result<Stat> {
        let (i, _) = self.inode(node)?;
        Ok(Stat {
            node,
            kind: FileType::of_mode(u32::from(i.mode)),
            mode: u32::from(i.mode) & 0o7777,
            uid: i.uid,
            gid: i.gid,
            size: i.size,
            links: i.nlink,
            mtime: i.mtime.sec,
        })
    }
    fn list(&self, dir: Node) -> Result<Vec<DirEntry>> {
        let (inode, raw) = self.inode(dir)?;
        let found = guarded("read folder", || self.fs.read_dir(&inode, &raw))?;
        Ok(found
            .into_iter()
            .filter(|e| e.name != b"." && e.name != b"..")
            .map(|e| DirEntry { name: e.name, node: e.ino })
            .collect())
    }
    fn lookup(&self, dir: Node, name: &[u8]) -> Result<Option<Node>> {
        let (inode, raw) = self.inode(dir)?;
        guarded("look up a name", || match self.fs.lookup(&inode, &raw, name) {
            Ok(i) => Ok(Some(i.ino)),
            Err(fs_xfs::Error::NotFound) => Ok(None),
            Err(e) => Err(e),
        })
    }
    fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let (inode, raw) = self.inode(node)?;
        if offset >= inode.size {
            return Ok(0);
        }
        guarded("read file", || self.fs.read_at(&inode, &raw, offset, buf))
    }
    fn read_link(&self, node: Node) -> Result<Vec<u8>> {
        let (inode, raw) = self.inode(node)?;
        guarded("read link", || self.fs.read_link(&inode, &raw))
    }
    fn extents(&self, node: Node) -> Result<Vec<FileExtent>> {
        self.places(node, false)
    }
    fn allocated(&self, node: Node) -> Result<Vec<FileExtent>> {
        self.places(node, true)
    }
    fn own_areas(&self, visit: &mut dyn FnMut(&'static str, u64, u64)) -> Result<()> {
        let sb = self.fs.superblock();
        let block = u64::from(sb.blocksize);
        for ag in 0..u64::from(sb.agcount) {
            visit("allocation group header", ag * u64::from(sb.agblocks) * block, 4 * u64::from(sb.sectsize));
        }
        if sb.logstart != 0 {
            visit("log", sb.fsblock_offset(sb.logstart), u64::from(sb.logblocks) * block);
        }
        Ok(())
    }
    fn check(&self) -> Result<Vec<String>> {
        if guarded("check XFS", || Ok::<_, fs_xfs::Error>(super::xfs_check::sound(&self.fs).is_ok())).unwrap_or(false) {
            return Ok(Vec::new());
        }
        let report = guarded("check XFS", || Ok::<_, fs_xfs::Error>(fs_xfs::check::check(&self.fs)))?;
        if report.is_clean() {
            return Ok(Vec::new());
        }
        let errors = report.findings.iter().filter(|f| f.severity() == fs_xfs::check::Severity::Error);
        let mut found: Vec<String> = errors.take(20).map(|f| f.what.clone()).collect();
        if found.is_empty() {
            found.push("a part of it cannot be read".into());
        }
        Ok(found)
    }
    fn free_ranges(&self, visit: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let sb = self.fs.superblock();
        let block = u64::from(sb.blocksize);
        let group = u64::from(sb.agblocks).saturating_mul(block);
        for ag in 0..sb.agcount {
            let mut free = guarded("read free space", || self.fs.free_extents(ag))?;
            free.sort_by_key(|e| e.startblock);
            for e in free {
                visit(u64::from(ag) * group + u64::from(e.startblock) * block, u64::from(e.blockcount) * block);
            }
        }
        Ok(())
    }
}
