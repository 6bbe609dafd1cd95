//! The index of a folder's names by their hashes, and the list of the room its blocks have. All of them are made anew.
//!
//! ```text
//!  few     one block: entries, and at its end the largest gap of each block of names
//!  many    leaves of entries, nodes above them that lead to these; the gaps in blocks of their own
//! ```

use super::names::INDEX_ENTRY;
use crate::engine::guest::fs::xfs_scrub::stamp_crc;
use crate::engine::io::bytes::{put, put_be16, put_be32, put_be64};

/// Bytes before the first entry, in each sort of block.
const HEAD: usize = 64;
/// Magic numbers: a leaf that is all of the index, one of many, a node.
const ONLY_LEAF: u16 = 0x3df1;
const LEAF: u16 = 0x3dff;
const NODE: u16 = 0x3ebe;
const ROOM: &[u8; 4] = b"XDF3";
/// Where checksums are: in blocks of the index, and in those of room.
const CRC: usize = 12;
const ROOM_CRC: usize = 4;
/// In place of a gap: there is no such block.
pub(super) const NO_BLOCK: u16 = 0xffff;

/// What the blocks of a folder say of themselves.
pub(super) struct Identity {
    pub(super) uuid: [u8; 16],
    pub(super) owner: u64,
    /// Bytes of a block of the folder.
    pub(super) len: usize,
}

impl Identity {
    fn block(&self, place: u64, back: u32, forward: u32, magic: u16) -> Vec<u8> {
        let mut out = vec![0; self.len];
        let _ = put_be32(&mut out, 0, forward)
            && put_be32(&mut out, 4, back)
            && put_be16(&mut out, 8, magic)
            && put_be64(&mut out, 16, place / 512)
            && put(&mut out, 32, &self.uuid)
            && put_be64(&mut out, 48, self.owner);
        out
    }
    /// Entries (two numbers each) of a leaf, or keys with what they lead to.
    fn fill(block: &mut [u8], entries: &[(u32, u32)]) {
        let _ = put_be16(block, 56, entries.len() as u16);
        for (i, (a, b)) in entries.iter().enumerate() {
            let _ = put_be32(block, HEAD + i * INDEX_ENTRY, *a) && put_be32(block, HEAD + i * INDEX_ENTRY + 4, *b);
        }
    }

    /// Whether one block has room for `entries` and the gaps of `blocks` blocks.
    pub(super) fn one_will_do(&self, entries: usize, blocks: usize) -> bool {
        HEAD + entries * INDEX_ENTRY + blocks * 2 + 4 <= self.len
    }

    /// An index of one block, at `place` (in bytes on the volume).
    pub(super) fn only(&self, place: u64, entries: &[(u32, u32)], gaps: &[u16]) -> Vec<u8> {
        let mut out = self.block(place, 0, 0, ONLY_LEAF);
        Identity::fill(&mut out, entries);
        let tail = self.len - 4;
        for (i, gap) in gaps.iter().enumerate() {
            let _ = put_be16(&mut out, tail - gaps.len() * 2 + i * 2, *gap);
        }
        let _ = put_be32(&mut out, tail, gaps.len() as u32);
        stamp_crc(&mut out, CRC);
        out
    }

    /// How many blocks the levels of an index of `entries` have, from its leaves to its root.
    pub(super) fn levels(&self, entries: usize) -> Vec<usize> {
        let each = (self.len - HEAD) / INDEX_ENTRY;
        let mut levels = vec![entries.div_ceil(each).max(1)];
        while let Some(below) = levels.last().copied().filter(|n| *n > 1) {
            levels.push(below.div_ceil(each));
        }
        levels
    }

    /// An index of many blocks. `places` has as many as [`Identity::levels`] says: the root, then the leaves, then what is between;
    /// of each, its number in the folder and its place in bytes on the volume. Made in the same order.
    pub(super) fn many(&self, entries: &[(u32, u32)], places: &[(u32, u64)]) -> Vec<Vec<u8>> {
        let levels = self.levels(entries.len());
        let mut rest = places.get(1..).unwrap_or_default();
        let mut made = Vec::new();
        let mut below = entries.to_vec();
        for (level, n) in levels.iter().copied().enumerate() {
            let root = level + 1 == levels.len();
            let (own, more) =
                if root { (places.get(..1).unwrap_or_default(), rest) } else { rest.split_at_checked(n).unwrap_or_default() };
            rest = more;
            let (mut left, mut above, mut row) = (below.as_slice(), Vec::new(), Vec::new());
            for (i, (number, place)) in own.iter().enumerate() {
                let share = below.len() / n + usize::from(i < below.len() % n);
                let (part, more) = left.split_at_checked(share).unwrap_or_default();
                left = more;
                let beside = |i: Option<usize>| i.and_then(|i| own.get(i)).map_or(0, |(number, _)| *number);
                let magic = if level == 0 { LEAF } else { NODE };
                let mut block = self.block(*place, beside(i.checked_sub(1)), beside(Some(i + 1)), magic);
                Identity::fill(&mut block, part);
                if level > 0 {
                    let _ = put_be16(&mut block, 58, level as u16);
                }
                stamp_crc(&mut block, CRC);
                above.push((part.last().map_or(0, |(hash, _)| *hash), *number));
                row.push(block);
            }
            match root {
                true => made.splice(0..0, row).for_each(drop),
                false => made.extend(row),
            }
            below = above;
        }
        made
    }

    /// How many gaps a block of room names.
    pub(super) fn gaps_per_block(&self) -> usize {
        (self.len - HEAD) / 2
    }

    /// A block of room, at `place`: the largest gaps of the blocks of names from `first` on.
    pub(super) fn room(&self, place: u64, first: usize, gaps: &[u16]) -> Vec<u8> {
        let mut out = vec![0; self.len];
        let used = gaps.iter().filter(|g| **g != NO_BLOCK).count();
        let _ = put(&mut out, 0, ROOM)
            && put_be64(&mut out, 8, place / 512)
            && put(&mut out, 24, &self.uuid)
            && put_be64(&mut out, 40, self.owner)
            && put_be32(&mut out, 48, first as u32)
            && put_be32(&mut out, 52, gaps.len() as u32)
            && put_be32(&mut out, 56, used as u32);
        for (i, gap) in gaps.iter().enumerate() {
            let _ = put_be16(&mut out, HEAD + i * 2, *gap);
        }
        stamp_crc(&mut out, ROOM_CRC);
        out
    }
}
