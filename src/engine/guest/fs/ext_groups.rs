//! Block group descriptors of ext. Documentation/filesystems/ext4/group_descr.rst.

use super::ext_super::{Sums, Super, raw_crc32c};
use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{le16, le32, put_le16, put_le32};
use crate::engine::io::{ReadAt, read_vec};

/// Bytes of all descriptors, at most.
const MAX_TABLE: u64 = 256 << 20;

/// The inode table and its bitmap were never used.
pub(super) const INODE_UNINIT: u16 = 1;
/// The block bitmap was never written: what the group's own structures take is all that is taken.
pub(super) const BLOCK_UNINIT: u16 = 2;
/// The inode table is zeros.
pub(super) const INODE_ZEROED: u16 = 4;

/// All descriptors, one after the other.
pub(super) struct Groups {
    raw: Vec<u8>,
    size: usize,
}

impl Groups {
    /// Reads those that count. Errors: one is damaged, or too many.
    pub(super) fn read(dev: &dyn ReadAt, sb: &Super) -> Result<Groups> {
        if sb.table_blocks().saturating_mul(sb.block_size()) > MAX_TABLE {
            return Err(Error::unsupported("it has more groups than are dealt with here"));
        }
        let mut raw = Vec::new();
        for index in 0..sb.table_blocks() {
            let place = sb.descriptor_place(index);
            raw.extend(read_vec(dev, place.saturating_mul(sb.block_size()), sb.block_size(), sb.block_size())?);
        }
        let groups = Groups { raw, size: sb.descriptor_size() as usize };
        for g in 0..sb.groups() {
            let inside = |block: u64, n: u64| block > 0 && block.checked_add(n).is_some_and(|end| end <= sb.blocks());
            let bitmaps = inside(groups.block_bitmap(g), 1) && inside(groups.inode_bitmap(g), 1);
            let sane = bitmaps && inside(groups.inode_table(g), sb.inode_blocks());
            if !sane || !groups.is_sealed(sb, g) || groups.free_blocks(g) > sb.per_group() {
                return Err(Error::corrupt(format!("the descriptor of group {g} is damaged")).hint("let e2fsck mend it"));
            }
        }
        Ok(groups)
    }
    /// Makes it hold `n`; new ones are zeros.
    pub(super) fn resize(&mut self, n: u64) {
        self.raw.resize((n as usize).saturating_mul(self.size), 0);
    }
    /// The bytes of block `index` of the table, filled up with zeros.
    pub(super) fn block(&self, sb: &Super, index: u64) -> Vec<u8> {
        let (from, len) = ((index * sb.block_size()) as usize, sb.block_size() as usize);
        let mut out = self.raw.get(from..self.raw.len().min(from + len)).unwrap_or_default().to_vec();
        out.resize(len, 0);
        out
    }
    fn one(&self, group: u64) -> &[u8] {
        let at = (group as usize).saturating_mul(self.size);
        self.raw.get(at..at.saturating_add(self.size)).unwrap_or_default()
    }
    fn one_mut(&mut self, group: u64) -> &mut [u8] {
        let at = (group as usize).saturating_mul(self.size);
        self.raw.get_mut(at..at.saturating_add(self.size)).unwrap_or_default()
    }
    fn wide(&self) -> bool {
        self.size >= 64
    }
    fn word(&self, group: u64, low: usize, high: usize) -> u64 {
        let d = self.one(group);
        let high = if self.wide() { le16(d, high).unwrap_or(0) } else { 0 };
        u64::from(le16(d, low).unwrap_or(0)) | u64::from(high) << 16
    }
    fn long(&self, group: u64, low: usize, high: usize) -> u64 {
        let d = self.one(group);
        let high = if self.wide() { le32(d, high).unwrap_or(0) } else { 0 };
        u64::from(le32(d, low).unwrap_or(0)) | u64::from(high) << 32
    }
    fn set_word(&mut self, group: u64, low: usize, high: usize, value: u64) {
        let wide = self.wide();
        let d = self.one_mut(group);
        // Both halves lie in every descriptor of that size.
        let _ = put_le16(d, low, value as u16) && wide && put_le16(d, high, (value >> 16) as u16);
    }
    fn set_long(&mut self, group: u64, low: usize, high: usize, value: u64) {
        let wide = self.wide();
        let d = self.one_mut(group);
        let _ = put_le32(d, low, value as u32) && wide && put_le32(d, high, (value >> 32) as u32);
    }

    /// The block of its block bitmap.
    pub(super) fn block_bitmap(&self, group: u64) -> u64 {
        self.long(group, 0x0, 0x20)
    }
    /// The block of its inode bitmap.
    pub(super) fn inode_bitmap(&self, group: u64) -> u64 {
        self.long(group, 0x4, 0x24)
    }
    /// The first block of its inodes.
    pub(super) fn inode_table(&self, group: u64) -> u64 {
        self.long(group, 0x8, 0x28)
    }
    /// Places its structures: block bitmap, inode bitmap, inodes.
    pub(super) fn place(&mut self, group: u64, bitmap: u64, inode_bitmap: u64, table: u64) {
        self.set_long(group, 0x0, 0x20, bitmap);
        self.set_long(group, 0x4, 0x24, inode_bitmap);
        self.set_long(group, 0x8, 0x28, table);
    }
    /// Blocks free.
    pub(super) fn free_blocks(&self, group: u64) -> u64 {
        self.word(group, 0xc, 0x2c)
    }
    /// Sets the blocks that are free.
    pub(super) fn set_free_blocks(&mut self, group: u64, n: u64) {
        self.set_word(group, 0xc, 0x2c, n);
    }
    /// Inodes free.
    pub(super) fn free_inodes(&self, group: u64) -> u64 {
        self.word(group, 0xe, 0x2e)
    }
    /// Sets the inodes that are free, and how many at the end were never used.
    pub(super) fn set_free_inodes(&mut self, group: u64, n: u64, unused: u64) {
        self.set_word(group, 0xe, 0x2e, n);
        self.set_word(group, 0x1c, 0x32, unused);
    }
    /// Inodes at its end that were never used.
    pub(super) fn unused_inodes(&self, group: u64) -> u64 {
        self.word(group, 0x1c, 0x32)
    }
    /// Inodes of it that are folders.
    pub(super) fn folders(&self, group: u64) -> u64 {
        self.word(group, 0x10, 0x30)
    }
    /// Sets how many are.
    pub(super) fn set_folders(&mut self, group: u64, n: u64) {
        self.set_word(group, 0x10, 0x30, n);
    }
    /// Its flags.
    pub(super) fn flags(&self, group: u64) -> u16 {
        le16(self.one(group), 0x12).unwrap_or(0)
    }
    /// Sets its flags.
    pub(super) fn set_flags(&mut self, group: u64, flags: u16) {
        let _ = put_le16(self.one_mut(group), 0x12, flags);
    }
    /// Notes the sum of its block bitmap.
    pub(super) fn sum_blocks(&mut self, sb: &Super, group: u64, bitmap: &[u8]) {
        self.sum_bitmap(sb, group, (0x18, 0x38), bitmap.get(..(sb.per_group() / 8) as usize).unwrap_or_default());
    }
    /// Notes the sum of its inode bitmap.
    pub(super) fn sum_inodes(&mut self, sb: &Super, group: u64, bitmap: &[u8]) {
        self.sum_bitmap(sb, group, (0x1a, 0x3a), bitmap.get(..(sb.inodes_per_group() / 8) as usize).unwrap_or_default());
    }
    fn sum_bitmap(&mut self, sb: &Super, group: u64, (low, high): (usize, usize), bytes: &[u8]) {
        if sb.sums() == Sums::Crc32c {
            self.set_word(group, low, high, u64::from(raw_crc32c(sb.seed(), bytes)));
        }
    }
    /// The sum its descriptor has to have; `None` where there are none.
    fn sum(&self, sb: &Super, group: u64) -> Option<u16> {
        let number = u32::try_from(group).unwrap_or(0).to_le_bytes();
        let d = self.one(group);
        let (head, tail) = (d.get(..0x1e).unwrap_or_default(), d.get(0x20..).unwrap_or_default());
        match sb.sums() {
            Sums::None => None,
            Sums::Crc32c => {
                let sum = [&number, head, &[0, 0], tail].iter().fold(sb.seed(), |sum, part| raw_crc32c(sum, part));
                Some(sum as u16)
            }
            Sums::Crc16 => Some([&sb.uuid(), &number[..], head, tail].iter().fold(!0, |sum, part| crc16(sum, part))),
        }
    }
    /// Its descriptor is what it was when it was sealed.
    pub(super) fn is_sealed(&self, sb: &Super, group: u64) -> bool {
        self.sum(sb, group).is_none_or(|sum| le16(self.one(group), 0x1e) == Some(sum))
    }
    /// Seals its descriptor.
    pub(super) fn seal(&mut self, sb: &Super, group: u64) {
        if let Some(sum) = self.sum(sb, group) {
            let _ = put_le16(self.one_mut(group), 0x1e, sum);
        }
    }
}

/// CRC-16 with the polynomial 0x8005, bits reflected.
fn crc16(mut sum: u16, bytes: &[u8]) -> u16 {
    for b in bytes {
        sum ^= u16::from(*b);
        for _ in 0..8 {
            sum = if sum & 1 != 0 { (sum >> 1) ^ 0xa001 } else { sum >> 1 };
        }
    }
    sum
}
