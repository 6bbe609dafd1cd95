//! The two trees of a group's free space (by place, and by size), given one more free extent at the end of the group.
//!
//! The trees keep their blocks and their shape: records are laid out anew, evenly, over the leaves that are there, and the keys above
//! them follow. So no block is allocated or freed, and nothing else that counts blocks changes. A tree with no room for one more
//! record, which would have to grow a block, is refused.

use super::super::xfs_scrub::stamp_crc;
use super::group::{TREE_CRC, TREE_HEADER};
use super::superblock::Super;
use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{be16, be32, put_be16};
use crate::engine::io::{WriteAt, read_vec};

/// Levels of a tree, at most (`XFS_BTREE_MAXLEVELS`).
const MAX_LEVELS: u32 = 9;

/// A free extent: its first block in the group, and how many.
pub(super) type Extent = (u32, u32);

/// A block of a tree.
struct Node {
    at: u64,
    bytes: Vec<u8>,
}

impl Node {
    fn count(&self) -> usize {
        be16(&self.bytes, 6).map_or(0, usize::from)
    }
}

/// A tree, level by level from the root down to the leaves; each level from left to right.
pub(super) struct Tree {
    levels: Vec<Vec<Node>>,
}

/// Pairs of numbers that fit a leaf of `block` bytes.
fn per_leaf(block: u64) -> usize {
    (block as usize - TREE_HEADER) / 8
}
/// Keys (two numbers) with pointers that fit a node.
fn per_node(block: u64) -> usize {
    (block as usize - TREE_HEADER) / 12
}

impl Tree {
    /// Reads the tree of group `ag`, whose root is at `root`.
    ///
    /// Errors: it is damaged.
    pub(super) fn read(dev: &dyn WriteAt, sb: &Super, ag: u64, root: u32, levels: u32, magic: &[u8; 4]) -> Result<Tree> {
        let damaged = |at: u64| {
            Error::corrupt(format!("a tree of free space of group {ag} is damaged")).at(at).hint("let xfs_repair mend it")
        };
        let block = sb.block_size();
        if !(1..=MAX_LEVELS).contains(&levels) {
            return Err(damaged(sb.start_of(ag)));
        }
        let (mut places, mut out, mut seen) = (vec![root], Vec::new(), 0);
        for level in (0..levels).rev() {
            let (mut row, mut below) = (Vec::new(), Vec::new());
            seen += places.len() as u64;
            if seen > sb.len_of(ag) {
                return Err(damaged(sb.start_of(ag)));
            }
            for place in places {
                let at = sb.start_of(ag) + u64::from(place) * block;
                if u64::from(place) >= sb.len_of(ag) || place == 0 {
                    return Err(damaged(at));
                }
                let node = Node { at, bytes: read_vec(dev, at, block, block)? };
                let mut sealed = node.bytes.clone();
                stamp_crc(&mut sealed, TREE_CRC);
                let most = if level == 0 { per_leaf(block) } else { per_node(block) };
                let own = node.bytes.starts_with(magic)
                    && be16(&node.bytes, 4).map(u32::from) == Some(level)
                    && be32(&node.bytes, 48) == Some(ag as u32)
                    && node.count() <= most
                    && (node.count() > 0 || levels == 1);
                if !own || sealed != node.bytes {
                    return Err(damaged(at));
                }
                if level > 0 {
                    let pointer = |i| be32(&node.bytes, TREE_HEADER + per_node(block) * 8 + i * 4);
                    below.extend((0..node.count()).filter_map(pointer));
                }
                row.push(node);
            }
            out.push(row);
            places = below;
        }
        Ok(Tree { levels: out })
    }

    /// Its records, from left to right.
    pub(super) fn records(&self) -> Vec<Extent> {
        let pair = |b: &[u8], i: usize| Some((be32(b, TREE_HEADER + i * 8)?, be32(b, TREE_HEADER + i * 8 + 4)?));
        let leaves = self.levels.last().map_or(&[][..], Vec::as_slice);
        leaves.iter().flat_map(|n| (0..n.count()).filter_map(|i| pair(&n.bytes, i))).collect()
    }

    /// Makes `records` (in the tree's order) its records, and writes it. Errors: they do not fit it.
    pub(super) fn write(mut self, dev: &dyn WriteAt, sb: &Super, records: &[Extent]) -> Result<()> {
        let block = sb.block_size();
        let leaves = self.levels.last().map_or(1, Vec::len).max(1);
        if records.len() > leaves * per_leaf(block) {
            return Err(Error::unsupported("the tree of its free space is full to the last record"));
        }
        let mut rest = records;
        // First record of each block of the level below the one that is looked at.
        let mut firsts: Vec<Extent> = Vec::new();
        for (i, leaf) in self.levels.last_mut().into_iter().flatten().enumerate() {
            let n = records.len() / leaves + usize::from(i < records.len() % leaves);
            let (own, more) = rest.split_at_checked(n).unwrap_or((rest, &[]));
            rest = more;
            fill(leaf, own);
            let _ = put_be16(&mut leaf.bytes, 6, own.len() as u16);
            firsts.extend(own.first());
        }
        for row in self.levels.iter_mut().rev().skip(1) {
            let mut below = firsts.as_slice();
            let mut own = Vec::new();
            for node in row {
                let (keys, more) = below.split_at_checked(node.count()).unwrap_or((below, &[]));
                below = more;
                fill(node, keys);
                own.extend(keys.first());
            }
            firsts = own;
        }
        for node in self.levels.iter_mut().flatten() {
            stamp_crc(&mut node.bytes, TREE_CRC);
            dev.write_at(node.at, &node.bytes)?;
        }
        Ok(())
    }
}

/// Records of a leaf, or keys of a node: both are pairs behind the header.
fn fill(node: &mut Node, pairs: &[Extent]) {
    let bytes: Vec<u8> = pairs.iter().flat_map(|(a, b)| [a.to_be_bytes(), b.to_be_bytes()].concat()).collect();
    let _ = crate::engine::io::bytes::put(&mut node.bytes, TREE_HEADER, &bytes);
}

/// `records` by place, with the extent `more` behind them all, joined to its neighbour where they touch.
pub(super) fn appended(mut records: Vec<Extent>, more: Extent) -> Vec<Extent> {
    match records.last_mut() {
        Some((at, len)) if at.checked_add(*len) == Some(more.0) => *len = len.saturating_add(more.1),
        _ => records.push(more),
    }
    records
}
