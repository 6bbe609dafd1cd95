//! The superblock of ext, as far as growing and removing need it: sizes, counts, features, which groups hold a copy.
//! Documentation/filesystems/ext4/super.rst; offsets are those of `struct ext4_super_block`.

use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{array, le16, le32, put_le16, put_le32};
use crate::engine::io::{ReadAt, read_vec};

/// Where the first superblock is.
pub(super) const AT: u64 = 1024;
/// Bytes of a superblock.
const LEN: u64 = 1024;

const SPARSE_SUPER: u32 = 0x1;
const GDT_CSUM: u32 = 0x10;
const METADATA_CSUM: u32 = 0x400;
const META_BG: u32 = 0x10;
const TYPED: u32 = 0x2;
const WIDE: u32 = 0x80;
const CSUM_SEED: u32 = 0x2000;
const RESIZE_INODE: u32 = 0x10;
const SPARSE_SUPER2: u32 = 0x200;
const RECOVER: u32 = 0x4;

/// Compatible features that do not matter to where things lie, or are kept right here: dir_prealloc, imagic, has_journal, ext_attr,
/// resize_inode, dir_index, sparse_super2, fast_commit, stable_inodes, orphan_file.
const COMPAT_KNOWN: u32 = 0x1 | 0x2 | 0x4 | 0x8 | RESIZE_INODE | 0x20 | SPARSE_SUPER2 | 0x400 | 0x800 | 0x1000;
/// The same of features for which an unknowing kernel only reads: sparse_super, large_file, btree_dir, huge_file, gdt_csum, dir_nlink,
/// extra_isize, metadata_csum.
const READ_ONLY_KNOWN: u32 = SPARSE_SUPER | 0x2 | 0x4 | 0x8 | GDT_CSUM | 0x20 | 0x40 | METADATA_CSUM;
/// Files that were deleted while open wait to be freed.
const ORPHANS: u32 = 0x1_0000;

/// How block group descriptors are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sums {
    /// Not at all: nothing may be left uninitialised either.
    None,
    /// CRC-16 of the descriptors.
    Crc16,
    /// CRC32C of every structure.
    Crc32c,
}

/// A superblock, checked: its sizes make sense and its features are known.
#[derive(Debug, Clone)]
pub(super) struct Super {
    raw: Vec<u8>,
}

impl Super {
    /// Reads the first one. Errors: it makes no sense.
    pub(super) fn read(dev: &dyn ReadAt) -> Result<Super> {
        let sb = Super { raw: read_vec(dev, AT, LEN, LEN)? };
        sb.check().map_err(|why| Error::corrupt(why).at(AT).op("read the ext superblock"))?;
        Ok(sb)
    }

    /// Over the bytes of one that somebody else has checked.
    pub(super) fn over(raw: &[u8]) -> Super {
        Super { raw: raw.to_vec() }
    }

    fn check(&self) -> std::result::Result<(), &'static str> {
        let wide_ok = self.feature(0x60, WIDE) == (self.word(0xfe) >= 64) || !self.feature(0x60, WIDE);
        let powers = self.raw_log(0x18) <= 6 && self.inode_size().is_power_of_two() && self.descriptor_size().is_power_of_two();
        if !powers || !wide_ok || self.descriptor_size() > 1024 || !(128..=self.block_size()).contains(&self.inode_size()) {
            return Err("the sizes of its structures make no sense");
        }
        let (block, bits) = (self.block_size(), self.block_size() * 8);
        if self.first_block() != u64::from(block == 1024) {
            return Err("its first block is not where it must be");
        }
        let groups_ok = (8..=bits).contains(&self.per_group()) && self.per_group().is_multiple_of(8);
        let inodes_ok = (8..=bits).contains(&self.inodes_per_group()) && self.inodes_per_group().is_multiple_of(8);
        if !groups_ok || !inodes_ok || !(self.inodes_per_group() * self.inode_size()).is_multiple_of(block) {
            return Err("its groups make no sense");
        }
        if self.blocks() <= self.first_block() || self.groups() * self.inodes_per_group() != u64::from(self.long(0x0)) {
            return Err("its counts of blocks and inodes contradict each other");
        }
        if self.table_blocks() + self.reserved() + 1 >= self.per_group() && !self.has_meta_groups() {
            return Err("its descriptors do not fit a group");
        }
        if self.feature(0x64, METADATA_CSUM) && self.long(0x3fc) != self.sum() {
            return Err("its checksum is wrong");
        }
        Ok(())
    }

    /// Errors: growing it is refused, with the reason.
    pub(super) fn refuse_growing(&self) -> Result<()> {
        let dirty =
            |why: &str| Err(Error::unsupported(why).hint("start the guest and shut it down properly, or let e2fsck mend it"));
        if self.feature(0x60, RECOVER) {
            return dirty("its journal was not replayed: the guest was not shut down properly");
        }
        if self.feature(0x64, ORPHANS) || self.long(0xe8) != 0 {
            return dirty("deleted files wait in it to be freed: the guest was not shut down properly");
        }
        if self.word(0x3a) & 3 != 1 {
            return dirty("it was not unmounted cleanly, or has errors");
        }
        for (at, known) in [(0x5c, COMPAT_KNOWN), (0x64, READ_ONLY_KNOWN)] {
            let unknown = self.long(at) & !known;
            if unknown != 0 {
                return Err(Error::unsupported(format!("it has features that growing does not know ({unknown:#x})")));
            }
        }
        Ok(())
    }

    fn word(&self, at: usize) -> u16 {
        le16(&self.raw, at).unwrap_or(0)
    }
    fn long(&self, at: usize) -> u32 {
        le32(&self.raw, at).unwrap_or(0)
    }
    fn feature(&self, at: usize, bit: u32) -> bool {
        self.long(at) & bit != 0
    }
    fn raw_log(&self, at: usize) -> u32 {
        self.long(at)
    }
    fn count(&self, low: usize, high: usize) -> u64 {
        u64::from(self.long(low)) | if self.is_wide() { u64::from(self.long(high)) << 32 } else { 0 }
    }
    fn set(&mut self, at: usize, value: u32) {
        // Every offset lies in the 1024 bytes.
        let _ = put_le32(&mut self.raw, at, value);
    }
    fn set_count(&mut self, low: usize, high: usize, value: u64) {
        self.set(low, value as u32);
        if self.is_wide() {
            self.set(high, (value >> 32) as u32);
        }
    }

    /// Block numbers have 64 bits.
    pub(super) fn is_wide(&self) -> bool {
        self.feature(0x60, WIDE)
    }
    /// Bytes of a block.
    pub(super) fn block_size(&self) -> u64 {
        1024u64.checked_shl(self.raw_log(0x18)).unwrap_or(0)
    }
    /// The block that group 0 begins with.
    pub(super) fn first_block(&self) -> u64 {
        u64::from(self.long(0x14))
    }
    /// Blocks in all.
    pub(super) fn blocks(&self) -> u64 {
        self.count(0x4, 0x150)
    }
    /// Blocks of a group.
    pub(super) fn per_group(&self) -> u64 {
        u64::from(self.long(0x20))
    }
    /// Inodes of a group.
    pub(super) fn inodes_per_group(&self) -> u64 {
        u64::from(self.long(0x28))
    }
    /// Bytes of an inode.
    pub(super) fn inode_size(&self) -> u64 {
        if self.long(0x4c) == 0 { 128 } else { u64::from(self.word(0x58)) }
    }
    /// Blocks of a group's inode table.
    pub(super) fn inode_blocks(&self) -> u64 {
        self.inodes_per_group() * self.inode_size() / self.block_size()
    }
    /// Bytes of a group descriptor.
    pub(super) fn descriptor_size(&self) -> u64 {
        if self.is_wide() { u64::from(self.word(0xfe)) } else { 32 }
    }
    /// Descriptors in a block.
    pub(super) fn per_block(&self) -> u64 {
        self.block_size() / self.descriptor_size().max(1)
    }
    /// Groups in all.
    pub(super) fn groups(&self) -> u64 {
        self.blocks().saturating_sub(self.first_block()).div_ceil(self.per_group().max(1))
    }
    /// Blocks that all descriptors take.
    pub(super) fn table_blocks(&self) -> u64 {
        self.groups().div_ceil(self.per_block().max(1))
    }
    /// Blocks behind the descriptors that are kept for more of them.
    pub(super) fn reserved(&self) -> u64 {
        if self.feature(0x5c, RESIZE_INODE) { u64::from(self.word(0xce)) } else { 0 }
    }
    /// Descriptors lie in the groups they describe, from some group on.
    pub(super) fn has_meta_groups(&self) -> bool {
        self.feature(0x60, META_BG)
    }
    /// The block of descriptors from which on they do.
    pub(super) fn first_meta_group(&self) -> u64 {
        u64::from(self.long(0x104))
    }
    /// How descriptors are protected.
    pub(super) fn sums(&self) -> Sums {
        match (self.feature(0x64, METADATA_CSUM), self.feature(0x64, GDT_CSUM)) {
            (true, _) => Sums::Crc32c,
            (_, true) => Sums::Crc16,
            _ => Sums::None,
        }
    }
    /// The filesystem's UUID.
    pub(super) fn uuid(&self) -> [u8; 16] {
        array(&self.raw, 0x68).unwrap_or_default()
    }
    /// What CRC32C sums of its structures begin with.
    pub(super) fn seed(&self) -> u32 {
        if self.feature(0x60, CSUM_SEED) { self.long(0x270) } else { raw_crc32c(!0, &self.uuid()) }
    }
    /// The first block of a group.
    pub(super) fn group_start(&self, group: u64) -> u64 {
        self.first_block().saturating_add(group.saturating_mul(self.per_group()))
    }
    /// Blocks a group has.
    pub(super) fn group_len(&self, group: u64) -> u64 {
        self.blocks().saturating_sub(self.group_start(group)).min(self.per_group())
    }
    /// The group begins with a superblock.
    pub(super) fn has_super(&self, group: u64) -> bool {
        let power_of = |base: u64| {
            let mut n = group;
            while n > 1 && n.is_multiple_of(base) {
                n /= base;
            }
            n == 1
        };
        if group == 0 {
            true
        } else if self.feature(0x5c, SPARSE_SUPER2) {
            [0x24c, 0x250].iter().any(|at| u64::from(self.long(*at)) == group)
        } else {
            !self.feature(0x64, SPARSE_SUPER) || [3, 5, 7].iter().any(|b| power_of(*b))
        }
    }
    /// Blocks a group begins with that are neither bitmaps nor inodes: superblock, descriptors, what is reserved for more.
    pub(super) fn base_len(&self, group: u64) -> u64 {
        let has_super = u64::from(self.has_super(group));
        let meta = group / self.per_block().max(1);
        if !self.has_meta_groups() {
            has_super * (1 + self.table_blocks() + self.reserved())
        } else if meta < self.first_meta_group() {
            has_super * (1 + self.first_meta_group() + self.reserved())
        } else {
            let place = group % self.per_block().max(1);
            has_super + u64::from(place <= 1 || place + 1 == self.per_block())
        }
    }
    /// Where the `index`th block of descriptors is, of its places the one that counts.
    pub(super) fn descriptor_place(&self, index: u64) -> u64 {
        if self.has_meta_groups() && index >= self.first_meta_group() {
            let group = index.saturating_mul(self.per_block());
            return self.group_start(group).saturating_add(u64::from(self.has_super(group)));
        }
        self.first_block().saturating_add(1).saturating_add(index)
    }
    /// Every place of the `index`th block of descriptors, the one that counts first.
    pub(super) fn descriptor_places(&self, index: u64) -> Vec<u64> {
        if self.has_meta_groups() && index >= self.first_meta_group() {
            let first = index * self.per_block();
            let groups = [first, first + 1, first + self.per_block() - 1];
            return groups
                .iter()
                .filter(|g| **g < self.groups())
                .map(|g| self.group_start(*g) + u64::from(self.has_super(*g)))
                .collect();
        }
        (0..self.groups()).filter(|g| self.has_super(*g)).map(|g| self.group_start(g) + 1 + index).collect()
    }
    /// Makes it span `blocks`. Reserved blocks of descriptors that come into use are no longer reserved.
    ///
    /// Errors: too many inodes; more descriptors than there is room for.
    pub(super) fn grow(&mut self, blocks: u64) -> Result<()> {
        let (old, table, kept) = (self.blocks(), self.table_blocks(), self.count(0x8, 0x154));
        self.set_count(0x4, 0x150, blocks);
        let inodes = u32::try_from(self.groups() * self.inodes_per_group());
        self.set(0x0, inodes.map_err(|_| Error::unsupported("it would have more than 2^32 inodes"))?);
        // What is kept for the administrator stays the same share.
        let share = u128::from(kept) * u128::from(blocks) / u128::from(old.max(1));
        self.set_count(0x8, 0x154, share as u64);
        if !self.has_meta_groups() {
            let more = self.table_blocks() - table;
            if more > self.reserved() {
                return Err(Error::unsupported(format!(
                    "{} more blocks of group descriptors are needed, and {} are reserved for them",
                    more,
                    self.reserved()
                )));
            }
            let left = u16::try_from(self.reserved() - more).unwrap_or(0);
            if more > 0 {
                let _ = put_le16(&mut self.raw, 0xce, left);
            }
        }
        Ok(())
    }
    /// Notes how much is free.
    pub(super) fn set_free(&mut self, blocks: u64, inodes: u64) {
        self.set_count(0xc, 0x158, blocks);
        self.set(0x10, inodes as u32);
    }
    /// Forgets how many blocks can never hold data: the kernel counts them anew.
    pub(super) fn forget_overhead(&mut self) {
        self.set(0x248, 0);
    }
    /// Inodes in all.
    pub(super) fn inodes(&self) -> u64 {
        u64::from(self.long(0x0))
    }
    /// The first inode that can be a file's; those before it are the filesystem's own.
    pub(super) fn first_file(&self) -> u64 {
        if self.long(0x4c) == 0 { 11 } else { u64::from(self.long(0x54)).max(11) }
    }
    /// Names in folders tell what they stand for (filetype).
    pub(super) fn typed(&self) -> bool {
        self.feature(0x60, TYPED)
    }
    fn sum(&self) -> u32 {
        raw_crc32c(!0, self.raw.get(..0x3fc).unwrap_or_default())
    }
    /// Its bytes as they stand in `group`, sealed. Copies are not marked as clean: only the first one is ever unmounted.
    pub(super) fn bytes(&self, group: u64) -> Vec<u8> {
        let mut copy = self.clone();
        let _ = put_le16(&mut copy.raw, 0x5a, group as u16);
        if group != 0 {
            let _ = put_le16(&mut copy.raw, 0x3a, self.word(0x3a) & !1);
        }
        if self.sums() == Sums::Crc32c {
            copy.set(0x3fc, copy.sum());
        }
        copy.raw
    }
}

/// CRC32C as ext keeps it: begun with any value, and not inverted at the end.
pub(super) fn raw_crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}
