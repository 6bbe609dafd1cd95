//! One inode, as far as removing needs it. Documentation/filesystems/ext4/inodes.rst.

use super::super::ext_super::{Sums, Super, raw_crc32c};
use super::account::Account;
use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{le16, le32, put_le16, put_le32};
use crate::engine::io::{WriteAt, read_vec};

/// Kinds, as the mode has them.
pub(super) const FOLDER: u16 = 0x4000;
pub(super) const FILE: u16 = 0x8000;
pub(super) const LINK: u16 = 0xa000;
/// Flags: a folder with an index, mapped by extents, an attribute's value, content in the inode.
pub(super) const INDEXED: u32 = 0x1000;
pub(super) const EXTENTS: u32 = 0x8_0000;
pub(super) const VALUE: u32 = 0x20_0000;
pub(super) const INLINE: u32 = 0x1000_0000;
/// What every inode has; what more there is says its first field.
const CORE: usize = 128;
/// Where the map of its blocks is, or its content.
pub(super) const MAP: std::ops::Range<usize> = 40..100;
/// The two halves of its checksum.
const SUM: (usize, usize) = (0x7c, 0x82);

/// An inode, read and whole.
pub(super) struct Inode {
    pub(super) ino: u32,
    place: u64,
    pub(super) raw: Vec<u8>,
}

impl Inode {
    /// Reads it. Errors: there is none of that number; its checksum is wrong.
    pub(super) fn read(dev: &dyn WriteAt, books: &Account, ino: u32) -> Result<Inode> {
        let place = books.inode_place(ino)?;
        let raw = read_vec(dev, place, books.sb.inode_size(), books.sb.block_size())?;
        let inode = Inode { ino, place, raw };
        match inode.sum(&books.sb) {
            Some(sum) if sum != inode.stored() => Err(Error::corrupt(format!("the checksum of inode {ino} is wrong")).at(place)),
            _ => Ok(inode),
        }
    }
    /// Writes it, sealed.
    pub(super) fn write(mut self, dev: &dyn WriteAt, sb: &Super) -> Result<()> {
        if let Some(sum) = self.sum(sb) {
            let _ = put_le16(&mut self.raw, SUM.0, sum as u16)
                && self.wide_sum()
                && put_le16(&mut self.raw, SUM.1, (sum >> 16) as u16);
        }
        dev.write_at(self.place, &self.raw)
    }
    /// Makes it one that is gone since `now`: nothing is left but its generation, which tells the next file of that number from it.
    pub(super) fn clear(&mut self, now: i64) {
        let generation = self.generation();
        self.raw.fill(0);
        self.set(0x14, now as u32);
        self.set(0x64, generation);
    }

    fn word(&self, at: usize) -> u16 {
        le16(&self.raw, at).unwrap_or(0)
    }
    fn long(&self, at: usize) -> u32 {
        le32(&self.raw, at).unwrap_or(0)
    }
    fn set(&mut self, at: usize, value: u32) {
        let _ = put_le32(&mut self.raw, at, value);
    }

    /// Its kind: [`FOLDER`], [`FILE`], [`LINK`] or another.
    pub(super) fn kind(&self) -> u16 {
        self.word(0) & 0xf000
    }
    /// Names it has.
    pub(super) fn links(&self) -> u16 {
        self.word(0x1a)
    }
    /// Sets the names it has.
    pub(super) fn set_links(&mut self, n: u16) {
        let _ = put_le16(&mut self.raw, 0x1a, n);
    }
    /// Its flags.
    pub(super) fn flags(&self) -> u32 {
        self.long(0x20)
    }
    /// Bytes of its content.
    pub(super) fn size(&self) -> u64 {
        let high = if matches!(self.kind(), FILE | FOLDER) { u64::from(self.long(0x6c)) << 32 } else { 0 };
        u64::from(self.long(0x4)) | high
    }
    /// The block with its attributes, or 0.
    pub(super) fn attribute_block(&self) -> u64 {
        u64::from(self.long(0x68)) | u64::from(self.word(0x76)) << 32
    }
    /// Which of the files that had this number it is.
    pub(super) fn generation(&self) -> u32 {
        self.long(0x64)
    }
    /// How many attributes use it, when it is the value of some ([`VALUE`]).
    pub(super) fn uses(&self) -> u64 {
        u64::from(self.long(0xc)) << 32 | u64::from(self.long(0x24))
    }
    /// Sets how many do.
    pub(super) fn set_uses(&mut self, n: u64) {
        self.set(0xc, (n >> 32) as u32);
        self.set(0x24, n as u32);
    }
    /// Where the space for attributes begins within it; its end when there is none.
    pub(super) fn attributes_at(&self) -> usize {
        CORE + usize::from(self.extra())
    }
    /// Bytes of fields behind the core.
    fn extra(&self) -> u16 {
        if self.raw.len() > CORE { self.word(CORE) } else { 0 }
    }
    /// Notes that it changed at `now`, and with `content` that its content did.
    pub(super) fn touch(&mut self, now: i64, content: bool) {
        // Seconds past 32 bits are the lowest two of the field that has the nanoseconds.
        let epoch = ((now - i64::from(now as i32)) >> 32) as u32 & 3;
        for (at, more) in [(0xc, 0x84), (0x10, 0x88)].into_iter().take(if content { 2 } else { 1 }) {
            self.set(at, now as u32);
            if more + 4 <= CORE + usize::from(self.extra()) {
                self.set(more, epoch);
            }
        }
    }

    /// What sums of what belongs to it begin with.
    pub(super) fn seed(&self, sb: &Super) -> u32 {
        raw_crc32c(raw_crc32c(sb.seed(), &self.ino.to_le_bytes()), &self.generation().to_le_bytes())
    }
    fn wide_sum(&self) -> bool {
        self.extra() >= 4
    }
    /// The sum it has to have; `None` where there are none.
    fn sum(&self, sb: &Super) -> Option<u32> {
        if sb.sums() != Sums::Crc32c {
            return None;
        }
        let part = |from: usize, to: usize| self.raw.get(from..to.min(self.raw.len())).unwrap_or_default();
        let sum = [part(0, SUM.0), &[0, 0], part(SUM.0 + 2, SUM.1)].iter().fold(self.seed(sb), |s, p| raw_crc32c(s, p));
        if !self.wide_sum() {
            return Some(raw_crc32c(sum, part(SUM.1, self.raw.len())) & 0xffff);
        }
        Some([&[0, 0], part(SUM.1 + 2, self.raw.len())].iter().fold(sum, |s, p| raw_crc32c(s, p)))
    }
    fn stored(&self) -> u32 {
        u32::from(self.word(SUM.0)) | if self.wide_sum() { u32::from(self.word(SUM.1)) << 16 } else { 0 }
    }
}
