//! XFS for reading, over `rust-fs-xfs`. A dirty log is replayed in memory by the crate.

use std::sync::Arc;

use fs_xfs::inode::Inode;
use fs_xfs::{Filesystem, Superblock};

use super::device::Reader;
use super::xfs_check::{Doubt, sound};
use super::xfs_log::{Unlogged, unmounted};
use super::{DirEntry, FileExtent, FileType, GuestFs, Node, Stat, Stored, guarded};
use crate::engine::error::Result;
use crate::engine::guest::recognise::FsInfo;
use crate::engine::io::{Device, ReadAt, WriteDevice, read_up_to};

/// An XFS filesystem.
pub(super) struct Xfs {
    pub(super) fs: Filesystem,
    /// What it is written to, if it is open for that.
    pub(super) rw: Option<WriteDevice>,
    info: FsInfo,
    root: Node,
}

/// The filesystem on `dev`, open for reading.
pub(super) fn mount(dev: Device) -> Result<Filesystem> {
    let sb = superblock(dev.as_ref())?;
    // Without the crate's own cache: guests are read through one of ours, and who reads free space alone reads each block once.
    guarded("open XFS", || match unmounted(dev.as_ref(), &sb) {
        Some(_) => Filesystem::mount_with_cache(Arc::new(Reader(Arc::new(Unlogged::new(dev.clone(), &sb)))), 0),
        None => Filesystem::mount_with_cache(Arc::new(Reader(dev.clone())), 0),
    })
}

/// The superblock of the filesystem on `dev`.
pub(super) fn superblock(dev: &dyn ReadAt) -> Result<Superblock> {
    let head = read_up_to(dev, 0, 4096)?;
    guarded("read XFS superblock", || Superblock::parse(&head))
}

impl Xfs {
    pub(super) fn open(dev: Device, info: FsInfo) -> Result<Self> {
        Xfs::over(mount(dev)?, info)
    }
    pub(super) fn over(fs: Filesystem, info: FsInfo) -> Result<Self> {
        let root = guarded("open XFS", || fs.root_inode())?.ino;
        Ok(Xfs { fs, rw: None, info, root })
    }
    pub(super) fn inode(&self, node: Node) -> Result<(Inode, Vec<u8>)> {
        guarded("read inode", || self.fs.read_inode_raw(node))
    }

    /// Where the content of `node` lies; with `unwritten` also what is reserved for it and was never written.
    pub(super) fn places(&self, node: Node, unwritten: bool) -> Result<Vec<FileExtent>> {
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
        self.entries(dir)
    }
    fn lookup(&self, dir: Node, name: &[u8]) -> Result<Option<Node>> {
        self.named(dir, name)
    }
    fn minds_case(&self) -> bool {
        !self.fs.superblock().has_case_insensitive_dirs()
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
    fn each_stored(&self, visit: &mut dyn FnMut(&Stored<'_>)) -> Result<()> {
        Xfs::each_stored(self, visit)
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
        let doubt = match guarded("check XFS", || Ok::<_, fs_xfs::Error>(sound(&self.fs))) {
            Ok(Ok(())) => return Ok(Vec::new()),
            Ok(Err(Doubt::Wrong(what))) => Some(what),
            Ok(Err(Doubt::Unknown)) => None,
            Err(_) => Some("its structures make no sense"),
        };
        let mut found = match (self.full_check(), doubt) {
            (Err(_), Some(what)) => return Ok(vec![what.to_string()]),
            (found, _) => found?,
        };
        found.extend(doubt.filter(|_| found.is_empty()).map(String::from));
        Ok(found)
    }
    fn free_ranges(&self, visit: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let sb = self.fs.superblock();
        let block = u64::from(sb.blocksize);
        let group = u64::from(sb.agblocks).saturating_mul(block);
        for ag in 0..sb.agcount {
            let free = guarded("read free space", || self.fs.free_extents(ag))?;
            let mut free: Vec<(u64, u64)> = free.iter().map(|e| (e.startblock.into(), e.blockcount.into())).collect();
            // Blocks set aside for the group's trees are as free as the others, and hold what they held when they were a file's.
            free.extend(guarded("read the free list", || self.set_aside(ag))?.into_iter().map(|b| (u64::from(b), 1)));
            free.sort_unstable();
            for (start, len) in free {
                visit(u64::from(ag) * group + start * block, len * block);
            }
        }
        Ok(())
    }
}

impl Xfs {
    /// The crate's check, which knows all and takes much memory.
    fn full_check(&self) -> Result<Vec<String>> {
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

    /// The blocks of group `ag` that its free list has, counted in the group.
    fn set_aside(&self, ag: u32) -> std::result::Result<Vec<u32>, fs_xfs::Error> {
        let sb = self.fs.superblock();
        let mut raw = vec![0; usize::from(sb.sectsize)];
        let head = u64::from(ag) * u64::from(sb.agblocks) * u64::from(sb.blocksize);
        self.fs.device().read_at(head + 3 * u64::from(sb.sectsize), &mut raw)?;
        let agf = self.fs.read_agf(ag)?;
        let list = fs_xfs::agfl::Agfl::parse(&raw, sb, &agf, ag)?.entries(sb);
        Ok(list.into_iter().filter(|b| *b < agf.length).collect())
    }
}
