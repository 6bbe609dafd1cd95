//! Which blocks an inode has: by extents, or by the older lists. Documentation/filesystems/ext4/{ifork,blockmap}.rst.

use std::collections::HashSet;

use super::super::ext_super::{Sums, Super, raw_crc32c};
use super::inode::{EXTENTS, FILE, FOLDER, INLINE, Inode, LINK, MAP};
use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{le16, le32};
use crate::engine::io::{WriteAt, read_vec};

/// Levels of an extent tree, at most.
const LEVELS: u16 = 5;
/// Links shorter than this are kept in the inode.
const LONG_LINK: u64 = 60;

/// The blocks of one inode: first block, and how many.
#[derive(Default)]
pub(super) struct Blocks {
    /// Its content, in the order of the file.
    pub(super) data: Vec<(u64, u64)>,
    /// The nodes of the map itself.
    pub(super) nodes: Vec<u64>,
}

/// Those of `inode`. Errors: a map that makes no sense.
pub(super) fn of(dev: &dyn WriteAt, sb: &Super, inode: &Inode) -> Result<Blocks> {
    let flags = inode.flags();
    let short = inode.kind() == LINK && flags & EXTENTS == 0 && inode.size() < LONG_LINK;
    // Devices, pipes and sockets have no content.
    if flags & INLINE != 0 || short || !matches!(inode.kind(), FILE | FOLDER | LINK) {
        return Ok(Blocks::default());
    }
    let mut walk = Walk { dev, sb, inode, out: Blocks::default(), seen: HashSet::new(), total: 0 };
    let map = inode.raw.get(MAP).unwrap_or_default();
    if flags & EXTENTS != 0 {
        walk.extents(map, None)?;
    } else {
        walk.list(map)?;
    }
    Ok(walk.out)
}

struct Walk<'a> {
    dev: &'a dyn WriteAt,
    sb: &'a Super,
    inode: &'a Inode,
    out: Blocks,
    seen: HashSet<u64>,
    total: u64,
}

impl Walk<'_> {
    fn bad(&self, what: &str) -> Error {
        Error::corrupt(format!("inode {}: {what}", self.inode.ino)).hint("let e2fsck mend it")
    }
    /// Notes blocks of the content. No file has more than the filesystem, which ends every walk.
    fn data(&mut self, start: u64, len: u64) -> Result<()> {
        self.total = self.total.saturating_add(len);
        let inside = start >= self.sb.first_block() && start.checked_add(len).is_some_and(|end| end <= self.sb.blocks());
        if !inside || len == 0 || self.total > self.sb.blocks() {
            return Err(self.bad("blocks that cannot be its own"));
        }
        match self.out.data.last_mut().filter(|(s, n)| *s + *n == start) {
            Some((_, n)) => *n += len,
            None => self.out.data.push((start, len)),
        }
        Ok(())
    }
    /// Reads a node, each once.
    fn node(&mut self, block: u64) -> Result<Vec<u8>> {
        if block < self.sb.first_block() || block >= self.sb.blocks() || !self.seen.insert(block) {
            return Err(self.bad("the map of its blocks makes no sense"));
        }
        self.out.nodes.push(block);
        let size = self.sb.block_size();
        read_vec(self.dev, block.saturating_mul(size), size, size)
    }
    /// A node of an extent tree: a head of 12 bytes, then entries of 12.
    fn extents(&mut self, node: &[u8], level: Option<u16>) -> Result<()> {
        let word = |at| le16(node, at).unwrap_or(0);
        let (entries, most, depth) = (usize::from(word(2)), usize::from(word(4)), word(6));
        let fits = entries <= most && most * 12 + 12 <= node.len();
        if word(0) != 0xf30a || !fits || depth > LEVELS || level.is_some_and(|l| l != depth) {
            return Err(self.bad("its extent tree makes no sense"));
        }
        // A root lies in the inode, and has its checksum from there.
        if level.is_some() && self.sb.sums() == Sums::Crc32c {
            let (end, seed) = (12 + most * 12, self.inode.seed(self.sb));
            if le32(node, end) != Some(raw_crc32c(seed, node.get(..end).unwrap_or_default())) {
                return Err(self.bad("the checksum of its extent tree is wrong"));
            }
        }
        for e in node.get(12..).unwrap_or_default().chunks_exact(12).take(entries) {
            let high = |at| u64::from(le16(e, at).unwrap_or(0)) << 32;
            if depth > 0 {
                let child = self.node(u64::from(le32(e, 4).unwrap_or(0)) | high(8))?;
                self.extents(&child, Some(depth - 1))?;
            } else {
                let len = u64::from(le16(e, 4).unwrap_or(0));
                // Longer than 32768: reserved, and not yet written.
                let len = if len > 0x8000 { len - 0x8000 } else { len };
                self.data(u64::from(le32(e, 8).unwrap_or(0)) | high(6), len)?;
            }
        }
        Ok(())
    }
    /// Twelve blocks, then three trees of lists.
    fn list(&mut self, map: &[u8]) -> Result<()> {
        for (i, word) in map.chunks_exact(4).enumerate() {
            self.listed(le32(word, 0).unwrap_or(0), (i as u32).saturating_sub(11))?;
        }
        Ok(())
    }
    /// A block of a list `level` lists above the content.
    fn listed(&mut self, block: u32, level: u32) -> Result<()> {
        match (block, level) {
            (0, _) => Ok(()),
            (_, 0) => self.data(u64::from(block), 1),
            _ => {
                let below = self.node(u64::from(block))?;
                below.chunks_exact(4).try_for_each(|word| self.listed(le32(word, 0).unwrap_or(0), level - 1))
            }
        }
    }
}
