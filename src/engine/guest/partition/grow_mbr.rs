//! The MBR's side of [`super::grow`]: the length in a partition's entry, and of the extended partition around it.

use super::Partition;
use super::grow::Edits;
use super::mbr::is_extended;
use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{le32, put, put_le32};
use crate::engine::io::{ReadAt, read_padded};
use crate::engine::units::SECTOR;

/// Bytes that 32-bit sector numbers can say.
pub(super) const LIMIT: u64 = u32::MAX as u64 * SECTOR;
/// Extended boot records looked through, as many as are read.
const MAX_RECORDS: usize = 256;

/// A boot record: its sector on the disk, and its bytes.
struct Record {
    at: u64,
    bytes: Vec<u8>,
}

impl Record {
    fn read(disk: &dyn ReadAt, at: u64) -> Result<Record> {
        let mut bytes = vec![0u8; SECTOR as usize];
        read_padded(disk, at.saturating_mul(SECTOR), &mut bytes)?;
        Ok(Record { at, bytes })
    }
    fn code(&self, entry: usize) -> u8 {
        self.bytes.get(446 + entry * 16 + 4).copied().unwrap_or(0)
    }
    fn start(&self, entry: usize) -> u64 {
        u64::from(le32(&self.bytes, 446 + entry * 16 + 8).unwrap_or(0))
    }
    /// Makes entry `entry` end at sector `end` of the disk, `base` being what its start counts from.
    fn end(&mut self, entry: usize, base: u64, end: u64) -> Result<(u64, Vec<u8>)> {
        let len = end.checked_sub(base.saturating_add(self.start(entry))).and_then(|n| u32::try_from(n).ok());
        let at = 446 + entry * 16;
        let ok = len.is_some_and(|n| put_le32(&mut self.bytes, at + 12, n)) && put(&mut self.bytes, at + 5, &chs(end - 1));
        if ok {
            Ok((self.at * SECTOR, self.bytes.clone()))
        } else {
            Err(Error::corrupt("a partition's entry does not fit its place").at(self.at * SECTOR))
        }
    }
}

/// Cylinder, head and sector of a sector, for a disk of 255 heads and 63 sectors; the mark for "beyond" where they end.
fn chs(sector: u64) -> [u8; 3] {
    let (cylinder, rest) = (sector / (255 * 63), sector % (255 * 63));
    if cylinder > 1023 {
        return [0xfe, 0xff, 0xff];
    }
    [(rest / 63) as u8, (rest % 63 + 1) as u8 | ((cylinder >> 2) & 0xc0) as u8, cylinder as u8]
}

/// What makes `partition`, the last of the disk, end at byte `end`.
pub(super) fn edits(disk: &dyn ReadAt, partition: &Partition, end: u64) -> Result<Edits> {
    let (mut mbr, end) = (Record::read(disk, 0)?, end / SECTOR);
    let mut out = Edits::default();
    let what = format!("partition {} ends at sector {}", partition.number, end - 1);
    if !partition.logical {
        let write = mbr.end((partition.number as usize).saturating_sub(1).min(3), 0, end)?;
        out.step(what, vec![write]);
        return Ok(out);
    }
    let gone = || Error::corrupt("the record of the last logical partition is not to be found");
    let container = (0..4).find(|i| is_extended(mbr.code(*i))).ok_or_else(gone)?;
    let first = mbr.start(container);
    let (mut before, mut record): (Option<Record>, _) = (None, Record::read(disk, first)?);
    for _ in 0..MAX_RECORDS {
        if record.code(0) != 0 && (record.at + record.start(0)) * SECTOR == partition.start {
            out.step("the extended partition reaches as far", vec![mbr.end(container, 0, end)?]);
            if let Some(mut link) = before.take() {
                out.step("the link to the partition's record", vec![link.end(1, first, end)?]);
            }
            let base = record.at;
            out.step(what, vec![record.end(0, base, end)?]);
            return Ok(out);
        }
        if !is_extended(record.code(1)) {
            break;
        }
        let next = Record::read(disk, first + record.start(1))?;
        before = Some(std::mem::replace(&mut record, next));
    }
    Err(gone())
}
