//! Resizing VHDXs in place. The size is one field of the metadata; changing it, through the log, is the one moment in which the
//! new size holds.
//!
//! Growing: the BAT's new entries are written first. Where its region has no room, a longer copy is made at the end of the file and
//! the region tables are switched to it, one after the other: both hold the same entries then. Shrinking: the size first, then the
//! blocks beyond are given up and their space goes back to the host.

use super::log::SECTOR;
use super::metadata::Metadata;
use super::regions::{self, Region};
use super::state;
use super::write::Writer;
use crate::engine::error::Result;
use crate::engine::format::blocks::Layout;
use crate::engine::io::bytes::put_le64;
use crate::engine::limits::COPY_CHUNK;
use crate::engine::units::MIB;

impl Writer {
    /// Makes the metadata say `size`, durably.
    fn switch(&mut self, size: u64) -> Result<()> {
        let at = self.image.metadata_at.at + Metadata::size_at(self.dev.as_ref(), self.image.metadata_at)?;
        let first = at - at % SECTOR;
        // The field may lie across the border of two sectors; then both are in one log entry.
        let mut b = self.read(first, 2 * SECTOR)?;
        let _ = put_le64(&mut b, (at - first) as usize, size);
        let (one, two) = b.split_at(SECTOR as usize);
        let mut sectors = vec![(first, one.to_vec())];
        if at - first + 8 > SECTOR {
            sectors.push((first + SECTOR, two.to_vec()));
        }
        self.change(&sectors)
    }

    /// Makes the disk `size` bytes long, which is more than it is.
    pub(super) fn grow(&mut self, size: u64) -> Result<()> {
        let old = self.image.metadata.clone();
        let new = Metadata { size, ..old.clone() };
        let (had, needed) = (old.bat_entries() * 8, new.bat_entries() * 8);
        let mut bat_at = self.image.bat_at;
        if needed > self.image.bat_len {
            let region = Region { at: self.end, len: needed.next_multiple_of(MIB) };
            self.end += region.len;
            if self.dev.len() < self.end {
                self.dev.set_len(self.end)?;
            }
            self.dev.write_zeroes(region.at, region.len)?;
            let mut done = 0;
            while done < had {
                let n = (had - done).min(COPY_CHUNK as u64);
                let part = self.read(bat_at + done, n)?;
                self.dev.write_at(region.at + done, &part)?;
                done += n;
            }
            self.dev.flush()?;
            regions::move_bat(self.dev.as_ref(), region)?;
            bat_at = region.at;
        } else {
            self.dev.write_zeroes(bat_at + had, needed - had)?;
        }
        // Entries past the old end: not there; zeros, where a longer parent would show; stored, in a fixed disk.
        for index in old.blocks()..new.blocks() {
            let entry = if new.leave_allocated && !new.has_parent {
                let place = self.allocate()?;
                if !place.zeroed {
                    self.dev.write_zeroes(place.at, new.block_size)?;
                }
                place.at | state::FULLY_PRESENT
            } else if new.has_parent {
                state::ZERO
            } else {
                break;
            };
            self.dev.write_at(bat_at + self.image.entry_of(index) * 8, &entry.to_le_bytes())?;
        }
        self.dev.flush()?;
        self.switch(size)
    }

    /// Makes the disk `size` bytes long, which is less than it is.
    pub(super) fn shrink(&mut self, size: u64) -> Result<()> {
        self.switch(size)?;
        let keep = size.div_ceil(self.image.metadata.block_size);
        let (live, cut): (Vec<_>, Vec<_>) = self.stored()?.into_iter().partition(|(_, _, index)| index.is_none_or(|i| i < keep));
        for index in cut.iter().filter_map(|(_, _, index)| *index) {
            self.image.bat.set(self.image.entry_of(index) * 8, &state::NOT_PRESENT.to_le_bytes())?;
        }
        self.commit()?;
        for (at, len, _) in &cut {
            self.dev.write_zeroes(*at, *len)?;
        }
        let end = live.last().map_or(0, |(at, len, _)| at + len).max(self.structures_end()).next_multiple_of(MIB);
        if end < self.end {
            self.end = end;
            self.dev.set_len(end)?;
        }
        self.dev.flush()
    }
}
