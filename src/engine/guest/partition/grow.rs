//! Changing a partition table for a disk of another size: the backup GPT at the new end, the last partition longer. What is to be
//! written is worked out from the disk as it is and handed back as [`Edits`]; nothing is written before [`Edits::apply`].
//!
//! Every edit is made of steps that are durable one before the next, and after each of them (and in the middle of each) a reader
//! finds the old table or the new one, never none:
//!
//! ```text
//!  GPT  1  backup entries and header at the new end      primary still good: the old table
//!       2  primary entries and header                    header and entries disagree for a moment: the backup says the new one
//!       3  size in the protective MBR                    readers go by the header
//!       4  the header that was the backup is wiped       nothing points to it any more
//!  MBR  1  the extended partition, if it must grow       larger than what is in it
//!       2  the partition's own entry                     one sector: the old table or the new one
//! ```
//!
//! This module must not know image formats; the disk is any device.

use super::{Partition, TableKind, grow_gpt, grow_mbr, read};
use crate::engine::error::{Error, Result};
use crate::engine::io::{ReadAt, WriteAt};
use crate::engine::units::MIB;

/// Where partitions are made to end: what every partitioning program aligns to.
const ALIGN: u64 = MIB;

/// Writes that are made durable together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// In a few words, for a plan.
    pub what: String,
    /// Byte on the disk, and what goes there.
    pub writes: Vec<(u64, Vec<u8>)>,
}

/// Changes of a partition table, in the order they are written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Edits {
    /// One after the other.
    pub steps: Vec<Step>,
}

impl Edits {
    /// Writes them to `disk`, flushing after every step.
    pub fn apply(&self, disk: &dyn WriteAt) -> Result<()> {
        for step in &self.steps {
            step.writes.iter().try_for_each(|(at, bytes)| disk.write_at(*at, bytes))?;
            disk.flush()?;
        }
        Ok(())
    }

    pub(super) fn step(&mut self, what: impl Into<String>, writes: Vec<(u64, Vec<u8>)>) {
        if !writes.is_empty() {
            self.steps.push(Step { what: what.into(), writes });
        }
    }
}

/// The last partition, made longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grown {
    /// The partition as it was.
    pub partition: Partition,
    /// Bytes it has afterwards.
    pub len: u64,
    /// What to write. On a GPT disk this moves the backup to the end as well.
    pub edits: Edits,
}

/// What moves the backup GPT of `disk` to the end of `size` bytes, which may be more or fewer than the disk has now; `None` when the
/// disk has no GPT, or it is right already. On a disk that grows apply it after growing, on one that shrinks before shrinking.
///
/// Errors: the primary header is damaged; a partition would not fit.
pub fn move_backup(disk: &dyn ReadAt, size: u64) -> Result<Option<Edits>> {
    match read(disk)? {
        Some(table) if table.kind != TableKind::Mbr => {
            let edits = grow_gpt::edits(disk, table.sector, size, None)?;
            Ok(Some(edits).filter(|e| !e.steps.is_empty()))
        }
        _ => Ok(None),
    }
}

/// What lets the partition that reaches furthest take all of a disk of `size` bytes, down to a whole MiB. `None` when there is no
/// partition table, no partition, or nothing to gain. Content is not touched: growing the filesystem is another's work.
///
/// Errors: a table that is damaged, or a hybrid one, whose two halves would have to be kept in step.
pub fn grow_last(disk: &dyn ReadAt, size: u64) -> Result<Option<Grown>> {
    let Some(table) = read(disk)? else { return Ok(None) };
    let Some(last) = table.last().cloned() else { return Ok(None) };
    let end = match table.kind {
        TableKind::Hybrid => {
            return Err(Error::unsupported("a hybrid of GPT and MBR is not changed: both tables would have to agree")
                .hint("use gdisk inside the guest"));
        }
        TableKind::Gpt => grow_gpt::usable_end(disk, table.sector, size)?,
        TableKind::Mbr => size.min(grow_mbr::LIMIT),
    };
    let end = end / ALIGN * ALIGN;
    if end <= last.end() {
        return Ok(None);
    }
    let edits = match table.kind {
        TableKind::Mbr => grow_mbr::edits(disk, &last, end)?,
        _ => grow_gpt::edits(disk, table.sector, size, Some((last.number, end / table.sector - 1)))?,
    };
    Ok(Some(Grown { len: end - last.start, partition: last, edits }))
}
