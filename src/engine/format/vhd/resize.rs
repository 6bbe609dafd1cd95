//! Resizing VHDs in place. The footer says the size; it is one sector, and its copy at the start is switched first.
//!
//! Growing a dynamic disk: the table's new entries are written behind the old ones, or, where there is no room, a longer table is
//! written to the end of the file and the header (its first sector) is switched to it; then the footers are switched. Shrinking:
//! the footers are switched, then the blocks beyond are given up, punched out of the file, and the end of the file follows.
//!
//! A fixed disk has one footer, at the end. While it moves there is always a valid one in the last sector: it is put to the new end
//! still saying the old size (or, shrinking, is made to say the new size where it is) before anything else happens.

use super::FREE;
use super::footer::{BYTES, geometry};
use super::write::Writer;
use crate::engine::error::Result;
use crate::engine::format::blocks::Layout;
use crate::engine::units::SECTOR;

impl Writer {
    /// Makes the footer say `size`. A creator whose disks are counted by geometry cannot say any size: it becomes another.
    fn say(&mut self, size: u64) {
        self.footer.current_size = size;
        self.footer.geometry = geometry(size / SECTOR);
        if self.footer.size() != size {
            self.footer.creator = *b"win ";
        }
    }

    /// Makes both footers say `size`, durably, the copy first.
    fn switch(&mut self, size: u64) -> Result<()> {
        self.say(size);
        self.dev.write_at(0, &self.footer.encode())?;
        self.dev.flush()?;
        self.write_footer()?;
        self.dev.flush()
    }

    /// Makes a fixed disk `size` bytes long.
    pub(super) fn resize_fixed(&mut self, size: u64) -> Result<()> {
        let old = self.image.size;
        if size > old {
            let len = self.dev.len();
            let footer_was = self.end;
            self.end = size;
            self.write_footer()?;
            self.dev.flush()?;
            self.dev.write_zeroes(old, len.max(footer_was).min(size).saturating_sub(old))?;
            self.dev.flush()?;
            self.say(size);
            self.write_footer()?;
        } else {
            self.say(size);
            self.write_footer()?;
            self.dev.flush()?;
            self.end = size;
            self.write_footer()?;
            self.dev.flush()?;
            self.dev.set_len(size + BYTES as u64)?;
        }
        self.dev.flush()
    }

    /// Makes a dynamic or differencing disk `size` bytes long, which is more than it is.
    pub(super) fn grow(&mut self, size: u64, below: u64) -> Result<()> {
        let mut h = self.header()?.clone();
        let had = self.image.size.div_ceil(h.block_size);
        let needed = size.div_ceil(h.block_size);
        let stored = self.stored()?;
        // What follows the table: a block, a parent's name, or the footer.
        let after = |at: u64| (at >= h.table_at).then_some(at);
        let next = stored
            .iter()
            .map(|(at, _)| *at)
            .chain(h.locators.iter().filter(|l| l.code != [0; 4]).map(|l| l.at))
            .chain(self.image.blocks.as_ref().map(|b| b.header_at))
            .filter_map(after)
            .fold(self.end, u64::min);
        if h.table_at + needed * 4 > next {
            let mut table = vec![0u8; (had * 4) as usize];
            self.dev.read_at(h.table_at, &mut table)?;
            h.table_at = self.end;
            self.end = (h.table_at + needed * 4).next_multiple_of(SECTOR);
            if self.dev.len() < self.end + BYTES as u64 {
                self.dev.set_len(self.end + BYTES as u64)?;
            }
            self.dev.write_at(h.table_at, &table)?;
            self.displaced = true;
        }
        write_free(self, h.table_at + had * 4, needed - had)?;
        self.commit()?;
        if needed > h.entries.into() || self.header()?.table_at != h.table_at {
            h.entries = h.entries.max(needed as u32);
            // All that changes is in the first sector, so this cannot be torn.
            let at = self.footer.data_offset;
            self.dev.write_at(at, h.encode().get(..SECTOR as usize).unwrap_or_default())?;
            self.dev.flush()?;
        }
        if self.has_parent() && below > had * h.block_size {
            // The parent is longer: blocks of zeros hide what it has there.
            let mut hidden = Vec::new();
            for index in had..needed.min(below.div_ceil(h.block_size)) {
                let place = self.allocate()?;
                if !place.zeroed {
                    self.dev.write_zeroes(place.at, h.block_size)?;
                }
                hidden.push((index, ((place.at - h.bitmap_bytes()) / SECTOR) as u32));
            }
            self.commit()?;
            for (index, entry) in hidden {
                self.dev.write_at(h.table_at + index * 4, &entry.to_be_bytes())?;
            }
            self.dev.flush()?;
        }
        self.switch(size)
    }

    /// Makes a dynamic or differencing disk `size` bytes long, which is less than it is.
    pub(super) fn shrink(&mut self, size: u64) -> Result<()> {
        self.switch(size)?;
        let h = self.header()?;
        let stride = h.bitmap_bytes() + h.block_size;
        let keep = size.div_ceil(h.block_size);
        let (live, cut): (Vec<_>, Vec<_>) = self.stored()?.into_iter().partition(|(_, index)| *index < keep);
        if let Some(blocks) = &self.image.blocks {
            for (_, index) in &cut {
                blocks.table.set(index * 4, &FREE.to_be_bytes())?;
            }
        }
        self.commit()?;
        for (at, _) in &cut {
            self.dev.write_zeroes(*at, stride)?;
        }
        let end = live.last().map_or(0, |(at, _)| at + stride).max(self.structures_end());
        if end < self.end {
            self.end = end;
            self.write_footer()?;
            self.dev.flush()?;
            self.dev.set_len(end + BYTES as u64)?;
        }
        self.dev.flush()
    }
}

/// Writes `count` free entries at byte `at`.
fn write_free(writer: &Writer, at: u64, count: u64) -> Result<()> {
    const AT_ONCE: u64 = 64 << 10;
    let free = vec![0xff; (count * 4).min(AT_ONCE) as usize];
    let mut done = 0;
    while done < count * 4 {
        let n = (count * 4 - done).min(AT_ONCE);
        writer.dev.write_at(at + done, free.get(..n as usize).unwrap_or_default())?;
        done += n;
    }
    Ok(())
}
