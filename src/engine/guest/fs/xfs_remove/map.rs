//! A tree of extents whose root is in the inode, laid anew with fewer extents.

use super::Volume;
use crate::engine::guest::fs::xfs_scrub::stamp_crc;
use crate::engine::io::bytes::{be64, put, put_be16, put_be64};

/// Bytes before the first record or key: in a block, and in an inode.
const HEAD: usize = 72;
const ROOT_HEAD: usize = 4;
const CRC: usize = 64;
const MAGIC: &[u8; 4] = b"BMA3";
/// No neighbour.
const NONE: u64 = u64::MAX;

/// An extent as it is stored; or a key and what it leads to, of eight bytes each.
pub(super) type Record = [u8; 16];

/// A tree as it is to be written.
pub(super) struct Map {
    /// What is in the inode.
    pub(super) root: Vec<u8>,
    /// The others: block, content.
    pub(super) nodes: Vec<(u64, Vec<u8>)>,
}

/// The tree of `extents` of inode `owner`, with `room` bytes for its root, over the first of `blocks`. `None`: these are not enough.
pub(super) fn laid(v: &Volume<'_>, owner: u64, extents: Vec<Record>, room: usize, blocks: &[u64]) -> Option<Map> {
    let each = (v.sb.blocksize as usize).checked_sub(HEAD)? / size_of::<Record>();
    let in_root = room.checked_sub(ROOT_HEAD)? / size_of::<Record>();
    let (mut below, mut rest, mut nodes, mut level) = (extents, blocks, Vec::new(), 0u16);
    // The root has branches only.
    while level == 0 || below.len() > in_root {
        let n = below.len().div_ceil(each).max(1);
        let (own, more) = rest.split_at_checked(n)?;
        rest = more;
        let (mut left, mut above) = (below.as_slice(), Vec::new());
        for (i, block) in own.iter().enumerate() {
            let (part, more) = left.split_at_checked(below.len() / n + usize::from(i < below.len() % n))?;
            left = more;
            let beside = |i: Option<usize>| i.and_then(|i| own.get(i)).copied().unwrap_or(NONE);
            let mut raw = vec![0; v.sb.blocksize as usize];
            let _ = put(&mut raw, 0, MAGIC)
                && put_be16(&mut raw, 4, level)
                && put_be16(&mut raw, 6, part.len() as u16)
                && put_be64(&mut raw, 8, beside(i.checked_sub(1)))
                && put_be64(&mut raw, 16, beside(Some(i + 1)))
                && put_be64(&mut raw, 24, v.sb.fsblock_offset(*block) / 512)
                && put(&mut raw, 40, &v.sb.meta_uuid)
                && put_be64(&mut raw, 56, owner);
            fill(&mut raw, HEAD, each, level, part);
            stamp_crc(&mut raw, CRC);
            nodes.push((*block, raw));
            let mut branch = *part.first()?;
            if level == 0 {
                let from = be64(&branch, 0)? >> 9 & ((1 << 54) - 1);
                let _ = put_be64(&mut branch, 0, from);
            }
            let _ = put_be64(&mut branch, 8, *block);
            above.push(branch);
        }
        (below, level) = (above, level + 1);
    }
    let mut root = vec![0; room];
    let _ = put_be16(&mut root, 0, level) && put_be16(&mut root, 2, below.len() as u16);
    fill(&mut root, ROOT_HEAD, in_root, level, &below);
    Some(Map { root, nodes })
}

/// Writes records, or keys and behind room for `most` of them what they lead to.
fn fill(raw: &mut [u8], head: usize, most: usize, level: u16, records: &[Record]) {
    for (i, record) in records.iter().enumerate() {
        if level == 0 {
            let _ = put(raw, head + i * 16, record);
        } else {
            let (key, to) = record.split_at(8);
            let _ = put(raw, head + i * 8, key) && put(raw, head + (most + i) * 8, to);
        }
    }
}
