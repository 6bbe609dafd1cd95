//! An inode, and which blocks are its own. "XFS Algorithms & Data Structures": inodes, data and attribute forks.

use std::time::{SystemTime, UNIX_EPOCH};

use fs_xfs::inode::{FileType, Format, Inode};

use super::Volume;
use crate::engine::error::{Error, Result};
use crate::engine::guest::fs::guarded;
use crate::engine::guest::fs::xfs_scrub::stamp_crc;
use crate::engine::io::bytes::{be32, be64, put, put_be16, put_be32, put_be64};

/// Bytes of the core of a version 3 inode, behind which its forks are.
pub(super) const CORE: usize = 176;

/// Where the fields are that change.
const MODE: usize = 2;
const FORMAT: usize = 5;
const LINKS: usize = 16;
const WIDE_EXTENTS: usize = 24;
const MTIME: usize = 40;
const CTIME: usize = 48;
const SIZE: usize = 56;
const BLOCKS: usize = 64;
const EXTENT_HINT: usize = 72;
const EXTENTS: usize = 76;
const FORK_OFFSET: usize = 82;
const ATTR_FORMAT: usize = 83;
const FLAGS: usize = 90;
const GENERATION: usize = 92;
const CRC: usize = 100;
const CHANGES: usize = 104;
const FLAGS2: usize = 120;
const COW_HINT: usize = 128;

/// Flags: times are 64 bits of nanoseconds; extents are counted in wider fields.
const BIG_TIME: u64 = 1 << 3;
const WIDE_COUNTS: u64 = 1 << 4;
/// Formats of a fork: in the inode, as a list of extents, and as a tree of them.
const LOCAL: u8 = 1;
const LIST: u8 = 2;
const TREE: u8 = 3;
/// Seconds before 1970 at which times of 64 bits begin.
const BIG_TIME_EPOCH: u64 = 1 << 31;

/// Blocks that belong together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// The first, as extents name it.
    pub(super) start: u64,
    pub(super) len: u64,
}

/// An inode that is read, changed and written.
pub(super) struct Entry {
    pub(super) inode: Inode,
    pub(super) raw: Vec<u8>,
}

impl Entry {
    /// Reads one that is in use.
    pub(super) fn read(v: &Volume<'_>, ino: u64) -> Result<Entry> {
        let (inode, raw) = guarded("read inode", || v.fs.read_inode_raw(ino))?;
        if inode.mode == 0 || raw.len() < CORE {
            return Err(Error::corrupt(format!("inode {ino} has a name and is free")).hint("let xfs_repair mend it"));
        }
        Ok(Entry { inode, raw })
    }

    pub(super) fn is_folder(&self) -> bool {
        self.inode.file_type() == Some(FileType::Directory)
    }

    /// Bytes of its data fork.
    pub(super) fn fork(&self) -> &[u8] {
        let (start, end) = self.inode.data_fork_range(self.raw.len());
        self.raw.get(start..end).unwrap_or_default()
    }

    /// All blocks it has: data, attributes, and the nodes of the trees that map them.
    pub(super) fn blocks(&self, v: &Volume<'_>) -> Result<Vec<Run>> {
        let (mut out, tree) = mapped(v, self.inode.ino, self.inode.format, self.fork(), self.inode.nextents)?;
        out.extend(tree);
        if let Some((start, end)) = self.inode.attr_fork_range(self.raw.len()) {
            let fork = self.raw.get(start..end).unwrap_or_default();
            let (data, tree) = mapped(v, self.inode.ino, self.inode.aformat, fork, u64::from(self.inode.anextents))?;
            out.extend(data.into_iter().chain(tree));
        }
        match out.iter().try_fold(0u64, |sum, r| sum.checked_add(r.len)) {
            Some(sum) if sum == self.inode.nblocks => Ok(out),
            _ => Err(Error::corrupt(format!("inode {} counts other blocks than it has", self.inode.ino))
                .hint("let xfs_repair mend it")),
        }
    }

    pub(super) fn set_links(&mut self, links: u32) {
        let _ = put_be32(&mut self.raw, LINKS, links);
    }

    /// Stamps it: with `content` as changed in content, too.
    pub(super) fn touch(&mut self, content: bool) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let stamp = if be64(&self.raw, FLAGS2).unwrap_or(0) & BIG_TIME != 0 {
            since.as_secs().wrapping_add(BIG_TIME_EPOCH).wrapping_mul(1_000_000_000).wrapping_add(since.subsec_nanos().into())
        } else {
            since.as_secs() << 32 | u64::from(since.subsec_nanos())
        };
        let changes = be64(&self.raw, CHANGES).unwrap_or(0).wrapping_add(1);
        let _ = put_be64(&mut self.raw, CTIME, stamp) && put_be64(&mut self.raw, CHANGES, changes);
        if content {
            let _ = put_be64(&mut self.raw, MTIME, stamp);
        }
    }

    /// Gives it content that lies in the inode itself, which fits.
    pub(super) fn set_local(&mut self, content: &[u8]) {
        self.set_fork(LOCAL, content, 0);
    }

    /// Gives it `extents` (encoded, which fit).
    pub(super) fn set_extents(&mut self, extents: &[u8]) {
        self.set_fork(LIST, extents, (extents.len() / 16) as u64);
    }

    /// Gives it `count` extents in a tree with `root`.
    pub(super) fn set_tree(&mut self, root: &[u8], count: u64) {
        self.set_fork(TREE, root, count);
    }

    fn set_fork(&mut self, format: u8, content: &[u8], extents: u64) {
        let (start, end) = self.inode.data_fork_range(self.raw.len());
        if let Some(fork) = self.raw.get_mut(start..end) {
            fork.fill(0);
        }
        let _ = put(&mut self.raw, FORMAT, &[format]) && put(&mut self.raw, start, content);
        let _ = match be64(&self.raw, FLAGS2).unwrap_or(0) & WIDE_COUNTS {
            0 => put_be32(&mut self.raw, EXTENTS, extents as u32),
            _ => put_be64(&mut self.raw, WIDE_EXTENTS, extents),
        };
    }

    pub(super) fn set_size(&mut self, size: u64) {
        let _ = put_be64(&mut self.raw, SIZE, size);
    }

    pub(super) fn set_blocks(&mut self, blocks: u64) {
        let _ = put_be64(&mut self.raw, BLOCKS, blocks);
    }

    /// Makes it a free one, as the kernel's `xfs_ifree` leaves it; what was in its forks is gone.
    pub(super) fn clear(&mut self) {
        self.touch(true);
        let generation = be32(&self.raw, GENERATION).unwrap_or(0).wrapping_add(1);
        let flags = be64(&self.raw, FLAGS2).unwrap_or(0) & (BIG_TIME | WIDE_COUNTS);
        let raw = &mut self.raw;
        let _ = put_be16(raw, MODE, 0)
            && put_be32(raw, LINKS, 0)
            && put_be64(raw, WIDE_EXTENTS, 0)
            && put_be64(raw, SIZE, 0)
            && put_be64(raw, BLOCKS, 0)
            && put_be32(raw, EXTENT_HINT, 0)
            && put(raw, EXTENTS, &[0; 6])
            && put(raw, FORK_OFFSET, &[0])
            && put(raw, FORMAT, &[LIST])
            && put(raw, ATTR_FORMAT, &[LIST])
            && put_be16(raw, FLAGS, 0)
            && put_be32(raw, GENERATION, generation)
            && put_be64(raw, FLAGS2, flags)
            && put_be32(raw, COW_HINT, 0);
        raw.iter_mut().skip(CORE).for_each(|b| *b = 0);
    }

    pub(super) fn write(mut self, v: &Volume<'_>) -> Result<()> {
        let place = guarded("write inode", || v.fs.inode_offset(self.inode.ino))?;
        stamp_crc(&mut self.raw, CRC);
        v.dev.write_at(place, &self.raw)
    }
}

/// What a fork maps, and the nodes of the tree it is mapped by.
fn mapped(v: &Volume<'_>, ino: u64, format: Format, fork: &[u8], extents: u64) -> Result<(Vec<Run>, Vec<Run>)> {
    let (extents, tree) = match format {
        Format::Extents => (guarded("read extents", || fs_xfs::extent::parse_list(fork, extents))?, Vec::new()),
        Format::Btree => {
            guarded("read extents", || fs_xfs::bmbt::walk_with_blocks(fork, extents, v.sb, ino, |block| v.read_block(block)))?
        }
        _ => return Ok((Vec::new(), Vec::new())),
    };
    let data = extents.iter().map(|e| Run { start: e.startblock, len: e.blockcount }).collect();
    Ok((data, tree.into_iter().map(|start| Run { start, len: 1 }).collect()))
}
