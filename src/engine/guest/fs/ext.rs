//! ext2, ext3 and ext4, read over `rust-fs-ext4`. A journal that was not replayed is replayed in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use fs_ext4::bgd::locate_inode;
use fs_ext4::fs::Filesystem;
use fs_ext4::inode::Inode;

use super::device::Reader;
use super::{DirEntry, FileExtent, FileType, GuestFs, Node, Stat, Stored, ext_grow, ext_holes, guarded};
use crate::engine::error::{Context, Error, Result};
use crate::engine::guest::recognise::FsInfo;
use crate::engine::io::bytes::{be32, le16, le32};
use crate::engine::io::{Device, read_vec};

/// Incompatible feature: folders in which case does not count.
const CASEFOLD: u32 = 0x2_0000;

/// An ext filesystem.
pub(super) struct Ext {
    pub(super) fs: Filesystem,
    /// Where blocks are read without the crate, which copies a whole one for every inode. `None` where it holds blocks that a journal
    /// replayed in memory put before the device's.
    dev: Option<Device>,
    info: FsInfo,
    /// Folder entries carry the file type (incompat FILETYPE).
    pub(super) typed: bool,
}

impl Ext {
    pub(super) fn open(dev: Device, info: FsInfo) -> Result<Self> {
        let fs = guarded("open ext filesystem", || Filesystem::mount(Arc::new(Reader(dev.clone()))))?;
        Ok(Ext::over(fs, dev, info))
    }

    /// `fs`, which is on `dev`.
    pub(super) fn over(fs: Filesystem, dev: Device, info: FsInfo) -> Self {
        let (typed, journal) = (fs.sb.feature_incompat & 2 != 0, fs.sb.feature_incompat & 4 != 0);
        Ext { fs, dev: (!journal).then_some(dev), info, typed }
    }

    /// The bytes of block number `block`.
    pub(super) fn block(&self, block: u64) -> Result<Vec<u8>> {
        let size = u64::from(self.fs.sb.block_size());
        match &self.dev {
            Some(dev) => read_vec(dev.as_ref(), block.saturating_mul(size), size, size).op("read block"),
            None => guarded("read block", || self.fs.read_block(block)),
        }
    }

    /// Reads `count` blocks from number `block` on into `into`, which becomes as long.
    pub(super) fn blocks_into(&self, block: u64, count: u64, into: &mut Vec<u8>) -> Result<()> {
        let size = u64::from(self.fs.sb.block_size());
        let Some(dev) = &self.dev else {
            into.clear();
            return (block..block.saturating_add(count)).try_for_each(|b| {
                into.extend(self.block(b)?);
                Ok(())
            });
        };
        into.resize((count * size) as usize, 0);
        dev.read_at(block.saturating_mul(size), into).op("read block")
    }

    pub(super) fn inode(&self, node: Node) -> Result<(u32, Inode, Vec<u8>)> {
        let ino = u32::try_from(node).map_err(|_| Error::corrupt("an inode number past 2^32"))?;
        let Some(dev) = &self.dev else {
            let (inode, raw) = guarded("read inode", || self.fs.read_inode_verified(ino))?;
            return Ok((ino, inode, raw));
        };
        let (fs, sb) = (&self.fs, &self.fs.sb);
        let (block, within) = guarded("find inode", || locate_inode(sb, &fs.groups, ino))?;
        let (block_size, size) = (u64::from(sb.block_size()), u64::from(sb.inode_size));
        let raw = read_vec(dev.as_ref(), block.saturating_mul(block_size).saturating_add(u64::from(within)), size, block_size)
            .op("read inode")?;
        let inode = guarded("read inode", || Inode::parse(&raw))?;
        if fs.csum.enabled && !fs.csum.verify_inode(ino, inode.generation, &raw) {
            return Err(Error::corrupt(format!("the checksum of inode {ino} is wrong")).op("read inode"));
        }
        // The blocks of a folder are all there: one that says more would be gone through for ever.
        if inode.is_dir() && inode.size > guarded("read inode", || fs.byte_ceiling())? {
            return Err(Error::corrupt(format!("inode {ino} is a folder longer than its filesystem")).op("read inode"));
        }
        Ok((ino, inode, raw))
    }

    /// Where the content of `node` lies; with `unwritten` also what is reserved for it and was never written.
    pub(super) fn places(&self, node: Node, unwritten: bool) -> Result<Vec<FileExtent>> {
        let (_, inode, _) = self.inode(node)?;
        self.places_of(node, &inode, unwritten)
    }

    /// The same, of `node`'s `inode`.
    pub(super) fn places_of(&self, node: Node, inode: &Inode, unwritten: bool) -> Result<Vec<FileExtent>> {
        if inode.has_inline_data() {
            return Ok(Vec::new());
        }
        let block = u64::from(self.fs.sb.block_size());
        let blocks = inode.size.div_ceil(block.max(1));
        if inode.has_extents() {
            return Ok(self.stored(&self.tree(&inode.block)?, unwritten).collect());
        }
        let mut out: Vec<FileExtent> = Vec::new();
        let stored = inode.blocks.saturating_mul(512).div_ceil(block.max(1));
        let per_list = (block / 4).max(1);
        // A sparse file of many terabytes has few stored blocks: stop when all have been seen. Lists that name each other have no end.
        let most = self.fs.sb.blocks_count.saturating_mul(per_list).saturating_add(per_list);
        let (mut seen, mut steps, mut at) = (0, 0u64, 0);
        while at < blocks && seen < stored {
            let logical = at;
            steps += 1;
            if seen > self.fs.sb.blocks_count || steps > most {
                return Err(Error::corrupt(format!("inode {node} has more blocks than its filesystem")).op("read block map"));
            }
            let Some(physical) = guarded("read block map", || self.fs.map_inode_logical(inode, logical))? else {
                let pointer =
                    |list: u64, n: u64| Ok(self.block(list)?.get(n as usize * 4..).and_then(|b| le32(b, 0)).unwrap_or(0).into());
                at = ext_holes::behind(inode, logical, per_list, pointer)?;
                continue;
            };
            at += 1;
            seen += 1;
            let next = FileExtent { offset: logical * block, place: physical.saturating_mul(block), len: block };
            match out.last_mut().filter(|l| l.offset + l.len == next.offset && l.place + l.len == next.place) {
                Some(last) => last.len += block,
                None => out.push(next),
            }
        }
        Ok(out)
    }
}

impl GuestFs for Ext {
    fn info(&self) -> &FsInfo {
        &self.info
    }
    fn root(&self) -> Node {
        2
    }
    fn stat(&self, node: Node) -> Result<Stat> {
        let (_, i, _) = self.inode(node)?;
        Ok(Stat {
            node,
            kind: FileType::of_mode(u32::from(i.mode)),
            mode: u32::from(i.mode) & 0o7777,
            uid: i.uid,
            gid: i.gid,
            size: i.size,
            links: u32::from(i.links_count),
            mtime: i.mtime,
        })
    }
    fn list(&self, dir: Node) -> Result<Vec<DirEntry>> {
        let mut entries = self.entries(dir)?;
        entries.retain(|e| e.name != b"." && e.name != b"..");
        Ok(entries)
    }
    fn each_name(&self, dir: Node, visit: &mut dyn FnMut(&[u8], Node)) -> Result<()> {
        self.names_until(dir, &mut |name, node| {
            if name != b"." && name != b".." {
                visit(name, node);
            }
            true
        })
    }
    fn lookup(&self, dir: Node, name: &[u8]) -> Result<Option<Node>> {
        self.named(dir, name)
    }
    fn minds_case(&self) -> bool {
        self.fs.sb.feature_incompat & CASEFOLD == 0
    }
    fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let (ino, inode, _) = self.inode(node)?;
        if !inode.is_file() {
            return Err(Error::usage("it is not a regular file"));
        }
        if offset >= inode.size {
            return Ok(0);
        }
        guarded("read file", || self.fs.read_ino(ino, offset, buf))
    }
    fn read_link(&self, node: Node) -> Result<Vec<u8>> {
        let (ino, _, _) = self.inode(node)?;
        guarded("read link", || self.fs.read_link_ino(ino))
    }
    fn extents(&self, node: Node) -> Result<Vec<FileExtent>> {
        self.places(node, false)
    }
    fn allocated(&self, node: Node) -> Result<Vec<FileExtent>> {
        self.places(node, true)
    }
    fn each_stored(&self, visit: &mut dyn FnMut(&Stored<'_>)) -> Result<()> {
        Ext::each_stored(self, visit)
    }
    fn own_areas(&self, visit: &mut dyn FnMut(&'static str, u64, u64)) -> Result<()> {
        let sb = &self.fs.sb;
        let block = u64::from(sb.block_size());
        let table = (u64::from(sb.inodes_per_group) * u64::from(sb.inode_size)).next_multiple_of(block.max(1));
        for g in &self.fs.groups {
            visit("block bitmap", g.block_bitmap.saturating_mul(block), block);
            visit("inode bitmap", g.inode_bitmap.saturating_mul(block), block);
            visit("inode table", g.inode_table.saturating_mul(block), table);
        }
        if sb.feature_compat & 4 != 0 && sb.journal_inode != 0 {
            for e in self.allocated(u64::from(sb.journal_inode))? {
                visit("journal", e.place, e.len);
            }
        }
        visit("superblock", 1024, 1024);
        Ok(())
    }
    fn free_ranges(&self, visit: &mut dyn FnMut(u64, u64)) -> Result<()> {
        free_blocks(self, visit)
    }
    fn check(&self) -> Result<Vec<String>> {
        super::ext_check::check(self)
    }
}

/// Free blocks by the groups' bitmaps. A group whose bitmap was never initialised is free but for the metadata that lies in it.
pub(super) fn free_blocks(ext: &Ext, visit: &mut dyn FnMut(u64, u64)) -> Result<()> {
    let fs = &ext.fs;
    let sb = &fs.sb;
    let block = u64::from(sb.block_size());
    let raw = &sb.raw;
    let (per_group, first) = (u64::from(le32(raw, 0x20).unwrap_or(0)), u64::from(le32(raw, 0x14).unwrap_or(0)));
    if le16(raw, 0x38) != Some(0xef53) || per_group == 0 || be32(raw, 0).is_none() {
        return Err(Error::corrupt("the superblock has no groups"));
    }
    let total = sb.blocks_count;
    let metadata = metadata(fs);
    let mut run: Option<(u64, u64)> = None;
    let mut free = |start: u64, len: u64| match &mut run {
        _ if len == 0 => {}
        Some((s, l)) if *s + *l == start => *l += len,
        known => {
            if let Some((s, l)) = known.replace((start, len)) {
                visit(s * block, l * block);
            }
        }
    };
    for (n, group) in fs.groups.iter().enumerate() {
        let start = first + n as u64 * per_group;
        let end = start + per_group.min(total.saturating_sub(start));
        if group.flags & 2 != 0 {
            let mut at = start;
            let before = metadata.range(..start).next_back();
            for (s, e) in before.into_iter().chain(metadata.range(start..end.max(start))) {
                free(at, s.saturating_sub(at));
                at = at.max(*e);
            }
            free(at, end.saturating_sub(at));
            continue;
        }
        let bitmap = ext.block(group.block_bitmap)?;
        let mut at = start;
        for bits in bitmap {
            let eight = 8.min(end.saturating_sub(at));
            match bits {
                0 => free(at, eight),
                0xff => {}
                _ => (0..eight).filter(|i| bits & (1 << i) == 0).for_each(|i| free(at + i, 1)),
            }
            at += eight;
        }
    }
    if let Some((s, l)) = run {
        visit(s * block, l * block);
    }
    Ok(())
}

/// Where the groups' bitmaps, inode tables, superblock copies and descriptors lie: block ranges, start to end, those that touch
/// joined.
pub(super) fn metadata(fs: &Filesystem) -> BTreeMap<u64, u64> {
    let sb = &fs.sb;
    let block = u64::from(sb.block_size()).max(1);
    let table = (u64::from(sb.inodes_per_group) * u64::from(sb.inode_size)).div_ceil(block);
    let mut all = ext_grow::fixed(&sb.raw, fs.groups.len() as u64);
    for g in &fs.groups {
        all.extend([(g.block_bitmap, 1), (g.inode_bitmap, 1), (g.inode_table, table)]);
    }
    all.sort_unstable();
    let mut out: BTreeMap<u64, u64> = BTreeMap::new();
    let mut last: Option<(u64, u64)> = None;
    for (start, len) in all {
        let end = start.saturating_add(len);
        last = match last {
            Some((s, e)) if start <= e => Some((s, e.max(end))),
            _ => Some((start, end)),
        };
        if let Some((s, e)) = last {
            out.insert(s, e);
        }
    }
    out
}
