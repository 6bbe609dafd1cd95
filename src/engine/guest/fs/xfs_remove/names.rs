//! Names in a block of a folder, and in its inode. "XFS Algorithms & Data Structures": directories.

use crate::engine::error::{Error, Result};
use crate::engine::guest::fs::xfs_folder::{HEAD, each_entry, each_kept, entry_len, hash};
use crate::engine::guest::fs::xfs_scrub::stamp_crc;
use crate::engine::io::bytes::{be16, put, put_be16, put_be32, put_be64};

/// Magic numbers of a block of names, alone and with its index.
pub(super) const NAMES: &[u8; 4] = b"XDD3";
pub(super) const BOTH: &[u8; 4] = b"XDB3";
/// Where a block of names says where it is, has its checksum, and its three largest gaps.
pub(super) const PLACE: usize = 8;
pub(super) const CRC: usize = 4;
const GAPS: usize = 48;
/// What marks a gap, in place of the first bytes of an inode number.
const GAP: u16 = 0xffff;
/// Bytes of an entry of the index, and of the tail behind it in a block that has both.
pub(super) const INDEX_ENTRY: usize = 8;
const TAIL: usize = 8;
/// Bytes of `.` and `..` in a block.
const OWN_ENTRIES: usize = 32;
/// Inode numbers from here on take 8 bytes in an inode's own list.
const WIDE: u64 = 1 << 32;

/// A name in a folder.
#[derive(Debug, Clone)]
pub(super) struct Name {
    pub(super) name: Vec<u8>,
    pub(super) ino: u64,
    /// The type as it is stored.
    pub(super) kind: u8,
    /// Where it begins: in its block, or as an inode's own list says.
    pub(super) at: usize,
}

impl Name {
    /// Bytes it takes in a block.
    pub(super) fn len(&self) -> usize {
        entry_len(self.name.len())
    }
    /// `.` or `..`.
    pub(super) fn is_own(&self) -> bool {
        matches!(self.name.as_slice(), b"." | b"..")
    }
}

fn bad() -> Error {
    Error::corrupt("names that make no sense").hint("let xfs_repair mend it")
}

/// The names in a block.
pub(super) fn read(block: &[u8]) -> Result<Vec<Name>> {
    let mut out = Vec::new();
    each_entry(block, |e| {
        out.push(Name { name: e.name.to_vec(), ino: e.ino, kind: e.kind, at: e.at });
        true
    })
    .ok_or_else(bad)?;
    Ok(out)
}

/// Leaves only `kept` (in ascending order) in a block of names: gaps are between them, of which the three largest are named. Returns
/// the length of the largest.
pub(super) fn keep(block: &mut [u8], kept: &[Name]) -> u16 {
    let end = block.len();
    let (mut at, mut gaps) = (HEAD, Vec::new());
    for (from, to) in kept.iter().map(|n| (n.at, n.at + n.len())).chain([(end, end)]) {
        if at < from {
            gap(block, at, from - at);
            gaps.push((from - at, at));
        }
        at = to;
    }
    name_gaps(block, gaps)
}

fn gap(block: &mut [u8], at: usize, len: usize) {
    if let Some(bytes) = block.get_mut(at..at + len) {
        bytes.fill(0);
    }
    // A block has at most 64 KiB, and a header.
    let _ = put_be16(block, at, GAP) && put_be16(block, at + 2, len as u16) && put_be16(block, at + len - 2, at as u16);
}

/// Names the three largest of `gaps` (length, place).
fn name_gaps(block: &mut [u8], mut gaps: Vec<(usize, usize)>) -> u16 {
    gaps.sort_unstable_by_key(|(len, at)| (std::cmp::Reverse(*len), *at));
    for i in 0..3 {
        let (len, at) = gaps.get(i).copied().unwrap_or((0, 0));
        let _ = put_be16(block, GAPS + i * 4, at as u16) && put_be16(block, GAPS + i * 4 + 2, len as u16);
    }
    gaps.first().map_or(0, |(len, _)| *len as u16)
}

/// The length of the largest gap a block names.
pub(super) fn largest_gap(block: &[u8]) -> u16 {
    be16(block, GAPS + 2).unwrap_or(0)
}

/// Bytes of one block that has all of `names` (with `.` and `..`) and their index.
pub(super) fn block_len(names: &[Name]) -> usize {
    HEAD + names.iter().map(|n| n.len() + INDEX_ENTRY).sum::<usize>() + TAIL
}

/// Makes `block`, which was one of this folder's names, the only one: with all of `names` (of which `.` and `..` are the first) and
/// their index.
pub(super) fn only_block(block: &mut [u8], names: &[Name]) {
    let tail = block.len() - TAIL;
    let index = tail - names.len() * INDEX_ENTRY;
    if let Some(rest) = block.get_mut(GAPS..) {
        rest.fill(0);
    }
    let _ = put(block, 0, BOTH);
    let (mut at, mut entries) = (HEAD, Vec::new());
    for n in names {
        let len = n.len();
        let _ = put_be64(block, at, n.ino)
            && put(block, at + 8, &[n.name.len() as u8])
            && put(block, at + 9, &n.name)
            && put(block, at + 9 + n.name.len(), &[n.kind])
            && put_be16(block, at + len - 2, at as u16);
        entries.push((hash(&n.name), (at / 8) as u32));
        at += len;
    }
    let mut gaps = Vec::new();
    if at < index {
        gap(block, at, index - at);
        gaps.push((index - at, at));
    }
    name_gaps(block, gaps);
    entries.sort_unstable();
    for (i, (hash, address)) in entries.iter().enumerate() {
        let _ = put_be32(block, index + i * INDEX_ENTRY, *hash) && put_be32(block, index + i * INDEX_ENTRY + 4, *address);
    }
    let _ = put_be32(block, tail, names.len() as u32);
    stamp_crc(block, CRC);
}

/// The list of names an inode keeps itself: the folder above, and the names.
pub(super) fn read_list(list: &[u8]) -> Result<(u64, Vec<Name>)> {
    let mut out = Vec::new();
    let above =
        each_kept(list, |e| out.push(Name { name: e.name.to_vec(), ino: e.ino, kind: e.kind, at: e.at })).ok_or_else(bad)?;
    Ok((above, out))
}

/// Such a list. Whether it fits the inode is for the caller to see.
pub(super) fn list(above: u64, names: &[Name]) -> Vec<u8> {
    let wide = names.iter().map(|n| n.ino).chain([above]).filter(|ino| *ino >= WIDE).count();
    let number = |ino: u64| if wide > 0 { ino.to_be_bytes().to_vec() } else { (ino as u32).to_be_bytes().to_vec() };
    let mut out = vec![names.len() as u8, wide as u8];
    out.extend(number(above));
    for n in names {
        out.push(n.name.len() as u8);
        out.extend((n.at as u16).to_be_bytes());
        out.extend(&n.name);
        out.push(n.kind);
        out.extend(number(n.ino));
    }
    out
}

/// Gives `names` the places they would have in a block, one after the other, as an inode's own list has them.
pub(super) fn place(names: &mut [Name]) {
    let mut at = HEAD + OWN_ENTRIES;
    for n in names {
        n.at = at;
        at += n.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inodes_own_list_is_read_as_it_was_written_and_nothing_else_is() {
        let name = |name: &[u8], ino| Name { name: name.to_vec(), ino, kind: 1, at: 96 };
        for (above, wide) in [(128, 0), (WIDE, 1)] {
            let written = list(above, &[name(b"a", 131), name(b"longer-than-that", 4_000_000_000)]);
            let (read_above, read) = read_list(&written).unwrap();
            assert_eq!((read_above, list(read_above, &read), written[1]), (above, written.clone(), wide));
            assert!((0..written.len()).all(|n| read_list(&written[..n]).is_err()), "cut off anywhere");
            assert!(read_list(&[written.as_slice(), &[0]].concat()).is_err(), "more than its names");
            let mut other = written.clone();
            other[1] += 1;
            assert!(read_list(&other).is_err(), "numbers of another width, or another count of wide ones");
        }
    }
}
