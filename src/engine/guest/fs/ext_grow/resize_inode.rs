//! Inode 7 keeps the blocks behind the group descriptors for more of them. Its double indirect block names them; each of them, in the
//! first group, names its counterparts in the groups with copies. A block that becomes one of descriptors leaves the inode; groups with
//! copies that come to be are entered.

use super::super::ext_groups::Groups;
use super::super::ext_super::{Sums, Super, raw_crc32c};
use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{le16, le32, put_le16, put_le32};
use crate::engine::io::{WriteAt, read_vec};

const NUMBER: u32 = 7;
/// Offset in an inode of the pointer to its double indirect block.
const DOUBLE: usize = 0x28 + 13 * 4;

/// Brings it up to date on `dev` after the superblock `old` became `new`.
///
/// Errors: it is not as it must be.
pub(super) fn update(dev: &dyn WriteAt, groups: &Groups, old: &Super, new: &Super) -> Result<()> {
    let damaged =
        |what: &str| Error::corrupt(format!("the inode that reserves group descriptors {what}")).hint("let e2fsck mend it");
    let block = new.block_size();
    let at = groups.inode_table(0) * block + u64::from(NUMBER - 1) * new.inode_size();
    let mut inode = read_vec(dev, at, new.inode_size(), block)?;
    let double = u64::from(le32(&inode, DOUBLE).unwrap_or(0));
    if double == 0 || double >= old.blocks() {
        return Err(damaged("names no block"));
    }
    let mut names = read_vec(dev, double * block, block, block)?;
    let entries = block / 4;
    let copies: Vec<u64> = (1..new.groups()).filter(|g| new.has_super(*g)).collect();
    if copies.len() as u64 > entries {
        return Err(Error::unsupported("the copies of its group descriptors become too many for the inode that reserves them"));
    }
    let slot = |index: u64| ((index % entries) * 4) as usize;
    for index in old.table_blocks()..old.table_blocks() + old.reserved() {
        let place = old.first_block() + 1 + index;
        if le32(&names, slot(index)).map(u64::from) != Some(place) {
            return Err(damaged(&format!("does not name block {place}")));
        }
        if index < new.table_blocks() {
            let _ = put_le32(&mut names, slot(index), 0);
            continue;
        }
        let mut list = read_vec(dev, place * block, block, block)?;
        for (i, group) in copies.iter().enumerate() {
            let copy = u32::try_from(place + group * new.per_group());
            let copy = copy.map_err(|_| Error::unsupported("a copy of its group descriptors would lie past block 2^32"))?;
            let was = le32(&list, i * 4);
            if *group < old.groups() && was != Some(copy) {
                return Err(damaged(&format!("does not name block {copy}")));
            }
            let _ = put_le32(&mut list, i * 4, copy);
        }
        dev.write_at(place * block, &list)?;
    }
    dev.write_at(double * block, &names)?;
    // Blocks of the inode in units of 512 bytes: the double indirect one, and the reserved ones with their copies.
    let blocks = (1 + new.reserved() * (1 + copies.len() as u64)) * (block / 512);
    let _ = put_le32(&mut inode, 0x1c, u32::try_from(blocks).unwrap_or(u32::MAX));
    seal(new, &mut inode);
    dev.write_at(at, &inode)
}

/// Seals an inode (`struct ext4_inode`: the sum's halves lie at 0x7c and, where there is room, 0x82).
fn seal(sb: &Super, inode: &mut [u8]) {
    if sb.sums() != Sums::Crc32c {
        return;
    }
    let high = inode.len() > 128 && le16(inode, 0x80).is_some_and(|extra| extra >= 4);
    let _ = put_le16(inode, 0x7c, 0) && high && put_le16(inode, 0x82, 0);
    let generation = inode.get(0x64..0x68).unwrap_or_default();
    let sum = [&NUMBER.to_le_bytes()[..], generation, inode].iter().fold(sb.seed(), |sum, part| raw_crc32c(sum, part));
    let _ = put_le16(inode, 0x7c, sum as u16) && high && put_le16(inode, 0x82, (sum >> 16) as u16);
}
