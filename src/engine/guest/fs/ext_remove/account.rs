//! What is in use: bitmaps, group descriptors, and the superblock's counts. Documentation/filesystems/ext4/{bitmaps,group_descr}.rst.

use std::collections::BTreeMap;

use super::super::ext_groups::{BLOCK_UNINIT, Groups, INODE_UNINIT};
use super::super::ext_super::{AT, Super};
use crate::engine::error::{Error, Result};
use crate::engine::io::{WriteAt, read_vec};

/// The filesystem's books while something is given up. What changes reaches the device with [`Account::close`].
pub(super) struct Account {
    pub(super) sb: Super,
    pub(super) groups: Groups,
    /// Bitmaps that changed, by group: of blocks, and of inodes.
    blocks: BTreeMap<u64, Vec<u8>>,
    inodes: BTreeMap<u64, Vec<u8>>,
}

impl Account {
    /// Reads them. Errors: they make no sense.
    pub(super) fn open(dev: &dyn WriteAt) -> Result<Account> {
        let sb = Super::read(dev)?;
        if sb.blocks().checked_mul(sb.block_size()).is_none_or(|size| size > dev.len()) {
            return Err(Error::corrupt("the filesystem is larger than the volume that holds it").at(AT));
        }
        let groups = Groups::read(dev, &sb)?;
        Ok(Account { sb, groups, blocks: BTreeMap::new(), inodes: BTreeMap::new() })
    }

    /// Gives up `len` blocks from `start` on. Errors: one of them is free already, or none of the filesystem's.
    pub(super) fn free_blocks(&mut self, dev: &dyn WriteAt, start: u64, len: u64) -> Result<()> {
        let sb = &self.sb;
        let end = start.checked_add(len).filter(|end| start >= sb.first_block() && *end <= sb.blocks());
        let end = end.ok_or_else(|| Error::corrupt(format!("block {start} and {len} in all are none of the filesystem's")))?;
        let mut at = start;
        while at < end {
            let g = (at - sb.first_block()) / sb.per_group().max(1);
            let from = at - sb.group_start(g);
            let to = (end - sb.group_start(g)).min(sb.group_len(g));
            if self.groups.flags(g) & BLOCK_UNINIT != 0 {
                return Err(free_already("block", at));
            }
            let bits = bitmap(&mut self.blocks, dev, sb, g, self.groups.block_bitmap(g))?;
            (from..to)
                .try_for_each(|i| if clear(bits, i) { Ok(()) } else { Err(free_already("block", sb.group_start(g) + i)) })?;
            self.groups.set_free_blocks(g, self.groups.free_blocks(g) + (to - from));
            at += (to - from).max(1);
        }
        Ok(())
    }

    /// Gives up the inode `ino`. Errors: it is free already, or one of the filesystem's own.
    pub(super) fn free_inode(&mut self, dev: &dyn WriteAt, ino: u32, folder: bool) -> Result<()> {
        let sb = &self.sb;
        if u64::from(ino) < sb.first_file() || u64::from(ino) > sb.inodes() {
            return Err(Error::corrupt(format!("inode {ino} is none of a file's")));
        }
        let per_group = sb.inodes_per_group().max(1);
        let (g, i) = (u64::from(ino - 1) / per_group, u64::from(ino - 1) % per_group);
        if self.groups.flags(g) & INODE_UNINIT != 0 {
            return Err(free_already("inode", u64::from(ino)));
        }
        let bits = bitmap(&mut self.inodes, dev, sb, g, self.groups.inode_bitmap(g))?;
        if !clear(bits, i) {
            return Err(free_already("inode", u64::from(ino)));
        }
        self.groups.set_free_inodes(g, self.groups.free_inodes(g) + 1, self.groups.unused_inodes(g));
        if folder {
            self.groups.set_folders(g, self.groups.folders(g).saturating_sub(1));
        }
        Ok(())
    }

    /// Where the inode `ino` lies, in bytes. Errors: there is none of that number.
    pub(super) fn inode_place(&self, ino: u32) -> Result<u64> {
        let bad = || Error::corrupt(format!("inode {ino} is not there"));
        let index = ino.checked_sub(1).filter(|_| u64::from(ino) <= self.sb.inodes()).map(u64::from).ok_or_else(bad)?;
        let per_group = self.sb.inodes_per_group().max(1);
        let table = self.groups.inode_table(index / per_group);
        let within = index % per_group * self.sb.inode_size();
        table.checked_mul(self.sb.block_size()).and_then(|t| t.checked_add(within)).ok_or_else(bad)
    }

    /// Writes what changed. Copies of the superblock and of the descriptors do not keep up with counts, as under a kernel.
    pub(super) fn close(mut self, dev: &dyn WriteAt) -> Result<()> {
        let (sb, block) = (&self.sb, self.sb.block_size());
        for (g, bits) in &self.blocks {
            dev.write_at(self.groups.block_bitmap(*g).saturating_mul(block), bits)?;
            self.groups.sum_blocks(sb, *g, bits);
        }
        for (g, bits) in &self.inodes {
            dev.write_at(self.groups.inode_bitmap(*g).saturating_mul(block), bits)?;
            self.groups.sum_inodes(sb, *g, bits);
        }
        let mut changed: Vec<u64> = self.blocks.keys().chain(self.inodes.keys()).copied().collect();
        changed.iter().for_each(|g| self.groups.seal(sb, *g));
        changed.iter_mut().for_each(|g| *g /= sb.per_block().max(1));
        changed.sort_unstable();
        changed.dedup();
        for index in changed {
            dev.write_at(sb.descriptor_place(index).saturating_mul(block), &self.groups.block(sb, index))?;
        }
        let all = 0..sb.groups();
        let free = (all.clone().map(|g| self.groups.free_blocks(g)).sum(), all.map(|g| self.groups.free_inodes(g)).sum());
        self.sb.set_free(free.0, free.1);
        dev.write_at(AT, &self.sb.bytes(0))
    }
}

fn free_already(what: &str, which: u64) -> Error {
    Error::corrupt(format!("{what} {which} is in use and said to be free")).hint("let e2fsck mend it")
}

/// The bitmap of group `g`, which is block `place`.
fn bitmap<'a>(
    known: &'a mut BTreeMap<u64, Vec<u8>>,
    dev: &dyn WriteAt,
    sb: &Super,
    g: u64,
    place: u64,
) -> Result<&'a mut Vec<u8>> {
    match known.entry(g) {
        std::collections::btree_map::Entry::Occupied(o) => Ok(o.into_mut()),
        std::collections::btree_map::Entry::Vacant(v) => {
            let at = place.saturating_mul(sb.block_size());
            Ok(v.insert(read_vec(dev, at, sb.block_size(), sb.block_size())?))
        }
    }
}

/// Clears bit `i`; false when it was not set.
fn clear(bits: &mut [u8], i: u64) -> bool {
    let Some(byte) = bits.get_mut((i / 8) as usize) else { return false };
    let bit = 1 << (i % 8);
    let was = *byte & bit != 0;
    *byte &= !bit;
    was
}
