//! Extended attributes, as far as removing a file needs them: in the inode behind its fields, and in a block that files with the same
//! ones share. Documentation/filesystems/ext4/attributes.rst.

use std::ops::Range;

use super::super::ext_super::{Sums, Super, raw_crc32c};
use super::account::Account;
use super::inode::Inode;
use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{le16, le32, put_le32};
use crate::engine::io::{WriteAt, read_vec};

const MAGIC: u32 = 0xea02_0000;
/// Bytes before the first entry: in an inode, and in a block.
const INODE_HEAD: usize = 4;
const BLOCK_HEAD: usize = 32;
/// Where a block counts its users, and has its checksum.
const USERS: usize = 4;
const SUM: usize = 16;
/// Bytes of an entry before its name.
const ENTRY: usize = 16;
/// The name space of `system.data`, which holds what of a small file or folder does not fit its inode's map.
const SYSTEM: u8 = 7;

/// The value of `system.data` within the inode; `None` when there is none.
pub(super) fn more_content(inode: &Inode) -> Result<Option<Range<usize>>> {
    let Some(first) = first_in(inode) else { return Ok(None) };
    let entries = entries(inode.raw.get(first..).unwrap_or_default())?;
    let Some(e) = entries.iter().find(|e| e.space == SYSTEM && e.name == b"data") else { return Ok(None) };
    let range = first + e.value..first + e.value + e.size;
    match inode.raw.get(range.clone()) {
        Some(_) => Ok(Some(range)),
        None => Err(bad(inode)),
    }
}

/// What is given up with the attributes of `inode`: the block they are in, when nobody else uses it, and inodes that are values of
/// theirs. A block that others use counts one less.
pub(super) fn release(dev: &dyn WriteAt, books: &mut Account, inode: &Inode) -> Result<Vec<u32>> {
    let mut values = Vec::new();
    if let Some(first) = first_in(inode) {
        values.extend(entries(inode.raw.get(first..).unwrap_or_default())?.iter().map(|e| e.inode));
    }
    let place = inode.attribute_block();
    if place != 0 {
        let size = books.sb.block_size();
        if place < books.sb.first_block() || place >= books.sb.blocks() {
            return Err(bad(inode));
        }
        let mut block = read_vec(dev, place.saturating_mul(size), size, size)?;
        let users = le32(&block, USERS).unwrap_or(0);
        if le32(&block, 0) != Some(MAGIC)
            || users == 0
            || sum(&books.sb, place, &block).is_some_and(|s| le32(&block, SUM) != Some(s))
        {
            return Err(bad(inode));
        }
        if users == 1 {
            values.extend(entries(block.get(BLOCK_HEAD..).unwrap_or_default())?.iter().map(|e| e.inode));
            books.free_blocks(dev, place, 1)?;
        } else {
            let _ = put_le32(&mut block, USERS, users - 1);
            if let Some(sum) = sum(&books.sb, place, &block) {
                let _ = put_le32(&mut block, SUM, sum);
            }
            dev.write_at(place.saturating_mul(size), &block)?;
        }
    }
    values.retain(|ino| *ino != 0);
    Ok(values)
}

fn bad(inode: &Inode) -> Error {
    Error::corrupt(format!("the attributes of inode {} make no sense", inode.ino)).hint("let e2fsck mend it")
}

/// Where the entries in an inode's own space begin.
fn first_in(inode: &Inode) -> Option<usize> {
    let at = inode.attributes_at();
    (le32(&inode.raw, at) == Some(MAGIC)).then_some(at + INODE_HEAD)
}

struct Entry<'a> {
    space: u8,
    name: &'a [u8],
    /// Where its value is: in bytes from the first entry in an inode, from the block's begin in a block.
    value: usize,
    size: usize,
    /// The inode that is its value, or 0.
    inode: u32,
}

/// Those of `area`, which begins with the first one and ends with a word of zeros or where the space does.
fn entries(area: &[u8]) -> Result<Vec<Entry<'_>>> {
    let (mut at, mut out) = (0usize, Vec::new());
    while le32(area, at).is_some_and(|word| word != 0) {
        let len = area.get(at).map_or(0, |n| usize::from(*n));
        let (name, value, inode, size) =
            (area.get(at + ENTRY..at + ENTRY + len), le16(area, at + 2), le32(area, at + 4), le32(area, at + 8));
        let (Some(name), Some(value), Some(inode), Some(size)) = (name, value, inode, size) else {
            return Err(Error::corrupt("attributes that make no sense").hint("let e2fsck mend it"));
        };
        let space = area.get(at + 1).copied().unwrap_or(0);
        out.push(Entry { space, name, value: usize::from(value), size: size as usize, inode });
        at += (ENTRY + len).next_multiple_of(4);
    }
    Ok(out)
}

/// The checksum of the block at `place`; `None` where there are none.
fn sum(sb: &Super, place: u64, block: &[u8]) -> Option<u32> {
    if sb.sums() != Sums::Crc32c {
        return None;
    }
    let parts =
        [&place.to_le_bytes()[..], block.get(..SUM).unwrap_or_default(), &[0; 4], block.get(SUM + 4..).unwrap_or_default()];
    Some(parts.iter().fold(sb.seed(), |sum, part| raw_crc32c(sum, part)))
}
