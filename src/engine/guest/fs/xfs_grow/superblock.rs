//! The superblock of XFS version 5, as far as growing needs it. XFS Algorithms & Data Structures, "Superblocks"; numbers are big-endian.

use super::super::xfs_scrub::stamp_crc;
use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{array, be16, be32, be64, put_be32, put_be64};
use crate::engine::io::{ReadAt, read_vec};

/// Where the checksum is.
const CRC: usize = 224;
/// Features for which an unknowing kernel only reads: finobt, rmapbt, reflink, inobtcount.
const READ_ONLY_KNOWN: u32 = 0xf;
/// Features that must be known: ftype, sparse inodes, meta_uuid, bigtime, nrext64, exchange-range, parent pointers.
const INCOMPAT_KNOWN: u32 = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80;
/// Features of records in a log, of which a clean one has none: extended attributes.
const LOG_KNOWN: u32 = 0x1;
/// Blocks of the smallest allocation group.
const MIN_GROUP: u64 = 64;
/// Allocation groups, at most: headers of new ones are kept in memory until they are committed.
const MAX_GROUPS: u64 = 1 << 16;

/// A superblock, checked: its sizes make sense and its features are known.
#[derive(Debug, Clone)]
pub(super) struct Super {
    raw: Vec<u8>,
}

impl Super {
    /// Reads the first one. Errors: it makes no sense, or growing it is refused, with the reason.
    pub(super) fn read(dev: &dyn ReadAt) -> Result<Super> {
        let sector = be16(&read_vec(dev, 0, 512, 512)?, 102).map_or(0, u64::from);
        if !sector.is_power_of_two() || !(512..=32768).contains(&sector) {
            return Err(Error::corrupt("the superblock's size makes no sense").at(102));
        }
        let sb = Super { raw: read_vec(dev, 0, sector, sector)? };
        let mut sealed = sb.raw.clone();
        stamp_crc(&mut sealed, CRC);
        if sealed != sb.raw {
            return Err(Error::corrupt("the superblock's checksum is wrong").at(CRC as u64));
        }
        sb.check().map_err(|why| Error::corrupt(why).at(0).op("read the XFS superblock"))?;
        let unknown = |at: usize, known: u32| Some(sb.long(at) & !known).filter(|b| *b != 0);
        let found = [(208, 0), (212, READ_ONLY_KNOWN), (216, INCOMPAT_KNOWN), (220, LOG_KNOWN)];
        if let Some(bits) = found.iter().find_map(|(at, known)| unknown(*at, *known)) {
            return Err(Error::unsupported(if bits == 0x10 {
                "it is marked as needing repair".to_string()
            } else {
                format!("it has features that growing does not know ({bits:#x})")
            }));
        }
        Ok(sb)
    }

    fn check(&self) -> std::result::Result<(), &'static str> {
        let (block, group) = (self.block_size(), self.group_len());
        if !block.is_power_of_two() || !(1024..=65536).contains(&block) || block < self.sector() {
            return Err("its block size makes no sense");
        }
        if !(MIN_GROUP..=1 << 31).contains(&group) || group > 1u64.checked_shl(u32::from(self.byte(124))).unwrap_or(0) {
            return Err("its allocation groups make no sense");
        }
        if self.groups() == 0 || self.blocks().div_ceil(group) != self.groups() {
            return Err("its counts of blocks and groups contradict each other");
        }
        if self.byte(126) != 0 {
            return Err("making or growing it was interrupted");
        }
        Ok(())
    }

    fn byte(&self, at: usize) -> u8 {
        self.raw.get(at).copied().unwrap_or(0)
    }
    fn long(&self, at: usize) -> u32 {
        be32(&self.raw, at).unwrap_or(0)
    }
    /// Bytes of a block.
    pub(super) fn block_size(&self) -> u64 {
        u64::from(self.long(4))
    }
    /// Bytes of a sector, as large as each header of a group.
    pub(super) fn sector(&self) -> u64 {
        u64::from(be16(&self.raw, 102).unwrap_or(0))
    }
    /// Blocks in all.
    pub(super) fn blocks(&self) -> u64 {
        be64(&self.raw, 8).unwrap_or(0)
    }
    /// Blocks of every group but the last.
    pub(super) fn group_len(&self) -> u64 {
        u64::from(self.long(84))
    }
    /// Allocation groups.
    pub(super) fn groups(&self) -> u64 {
        u64::from(self.long(88))
    }
    /// Blocks of group `ag`.
    pub(super) fn len_of(&self, ag: u64) -> u64 {
        self.blocks().saturating_sub(ag * self.group_len()).min(self.group_len())
    }
    /// The byte that group `ag` begins with.
    pub(super) fn start_of(&self, ag: u64) -> u64 {
        ag * self.group_len() * self.block_size()
    }
    /// The UUID that structures carry.
    pub(super) fn uuid(&self) -> [u8; 16] {
        array(&self.raw, if self.long(216) & 0x4 != 0 { 248 } else { 32 }).unwrap_or_default()
    }
    /// There is a tree of chunks with free inodes.
    pub(super) fn has_finobt(&self) -> bool {
        self.long(212) & 0x1 != 0
    }
    /// There is a tree of who owns each block.
    pub(super) fn has_rmapbt(&self) -> bool {
        self.long(212) & 0x2 != 0
    }
    /// There is a tree of shared blocks.
    pub(super) fn has_reflink(&self) -> bool {
        self.long(212) & 0x4 != 0
    }
    /// Headers count the blocks of inode trees.
    pub(super) fn has_inobtcount(&self) -> bool {
        self.long(212) & 0x8 != 0
    }
    /// The one for a volume of `blocks`; `None` when that gains nothing.
    ///
    /// Errors: there would be too many groups.
    pub(super) fn for_blocks(&self, blocks: u64) -> Result<Option<Super>> {
        let rest = blocks % self.group_len();
        // What is left at the end may be too small for a group of its own.
        let blocks = if rest < MIN_GROUP { blocks - rest } else { blocks };
        if blocks <= self.blocks() {
            return Ok(None);
        }
        let groups = blocks.div_ceil(self.group_len());
        if groups > MAX_GROUPS {
            return Err(Error::unsupported(format!(
                "it would have {groups} allocation groups of {} blocks each, more than are dealt with here",
                self.group_len()
            )));
        }
        let mut new = self.clone();
        let _ = put_be64(&mut new.raw, 8, blocks) && put_be32(&mut new.raw, 88, groups as u32);
        Ok(Some(new))
    }
    /// Counts `blocks` more that are free.
    pub(super) fn add_free(&mut self, blocks: u64) {
        let free = be64(&self.raw, 144).unwrap_or(0).saturating_add(blocks);
        let _ = put_be64(&mut self.raw, 144, free);
    }
    /// Its bytes, sealed.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = self.raw.clone();
        stamp_crc(&mut out, CRC);
        out
    }
}
