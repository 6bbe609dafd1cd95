//! Resizing VDIs in place. The header is one sector, so that switching it is the one moment in which the new size holds.
//!
//! Growing: the map's new entries are written behind the old ones, then the header is switched. Where the map has no room, the
//! first blocks are moved to the end first, a new map is written where they were, and the header is switched to it: the old map
//! stays whole until then.
//!
//! Shrinking: the header is switched to the new size, then the blocks beyond are given up, then the last blocks are moved into the
//! places that became free (VirtualBox wants no gaps), then the count and the file's length follow.

use super::create::{new_entry, write_entries};
use super::header::{ImageType, MAX_BLOCKS};
use super::write::Writer;
use super::{FREE, ZERO};
use crate::engine::error::{Error, Result};
use crate::engine::format::blocks::Layout;
use crate::engine::limits::COPY_CHUNK;
use crate::engine::units::{SECTOR, round_up};

impl Writer {
    /// Switches the header to its fields, durably.
    fn switch(&mut self) -> Result<()> {
        self.write_header()?;
        self.dev.flush()
    }

    /// Copies stored block `from` to the place of stored block `to`.
    fn copy_block(&self, from: u64, to: u64) -> Result<()> {
        let (from, to) = (self.header.block_at(from), self.header.block_at(to));
        let mut buf = vec![0u8; self.header.block_size.min(COPY_CHUNK as u64) as usize];
        let mut done = 0;
        while done < self.header.block_size {
            let n = (self.header.block_size - done).min(buf.len() as u64) as usize;
            let part = buf.get_mut(..n).unwrap_or_default();
            crate::engine::io::read_padded(self.dev.as_ref(), from + done, part)?;
            self.dev.write_at(to + done, part)?;
            done += n as u64;
        }
        Ok(())
    }

    /// Every map entry that names a stored block for which `wanted` holds: guest block and stored block.
    pub(super) fn named(&self, wanted: impl Fn(u64, u64) -> bool) -> Result<Vec<(u64, u64)>> {
        let mut map = self.image.table().cursor();
        let mut found = Vec::new();
        for index in 0..self.header.blocks {
            let entry = map.le32(index)?;
            if entry < ZERO && wanted(index, entry.into()) {
                found.push((index, entry.into()));
            }
        }
        Ok(found)
    }

    /// Makes the disk `size` bytes long, which is more than it is.
    pub(super) fn grow(&mut self, size: u64) -> Result<()> {
        let too_large = || Error::usage(format!("a VDI cannot have {size} bytes: at most {MAX_BLOCKS} blocks"));
        let size = round_up(size, SECTOR).ok_or_else(too_large)?;
        let blocks = size.div_ceil(self.header.block_size);
        if blocks > MAX_BLOCKS {
            return Err(too_large());
        }
        let (old, map_at) = (self.header.blocks, self.header.map_at);
        if map_at + blocks * 4 > self.header.data_at {
            self.move_map(blocks, size)?;
        } else {
            let (fixed, entry, next) = (self.header.image_type == ImageType::Static, new_entry(&self.header), self.next);
            if fixed {
                self.next = next + (blocks - old);
                self.header.allocated = self.next;
                self.store_more(next)?;
            }
            write_entries(self.dev.as_ref(), map_at + old * 4, blocks - old, |i| if fixed { (next + i) as u32 } else { entry })?;
            self.dev.flush()?;
            self.header.blocks = blocks;
            self.header.disk_size = size;
            self.switch()?;
        }
        Ok(())
    }

    /// Makes room for the stored blocks from `first` on, reading as zeros.
    fn store_more(&self, first: u64) -> Result<()> {
        let (from, to) = (self.header.block_at(first), self.header.block_at(self.next));
        let len = self.dev.len();
        if from < len {
            self.dev.write_zeroes(from, to.min(len).saturating_sub(from))?;
        }
        if len < to { self.dev.set_len(to) } else { Ok(()) }
    }

    /// Puts a map of `blocks` entries where the first stored blocks are, which move to the end, and switches to it and to `size`.
    fn move_map(&mut self, blocks: u64, size: u64) -> Result<()> {
        let h = self.header.clone();
        let slots = (blocks * 4).div_ceil(h.stride());
        let no_room = || {
            Error::unsupported("its map has no room to grow and every block it can have is stored")
                .op("resize")
                .hint("convert it to a new image of the size you want")
        };
        if h.data_at + slots * h.stride() > u64::from(u32::MAX) {
            return Err(no_room());
        }
        // Free places among those that go away are no places to move to.
        self.free.retain(|f| *f >= slots);
        self.next = self.next.max(slots.min(h.blocks));
        let moves = self.named(|_, stored| stored < slots)?;
        if (self.free.len() as u64).saturating_add(h.blocks - self.next.min(h.blocks)) < moves.len() as u64 {
            return Err(no_room());
        }
        for (index, stored) in moves {
            let place = self.allocate()?;
            let to = (place.at - h.block_extra - h.data_at) / h.stride();
            self.copy_block(stored, to)?;
            self.publish(index, place.at)?;
        }
        self.commit()?;
        // Nothing is in the first places now. The new map's numbers count from the new beginning of the data.
        let fixed = h.image_type == ImageType::Static;
        let (old, entry, next) = (h.blocks, new_entry(&h), self.next.max(slots) - slots);
        let image = self.image.clone();
        let mut map = image.table().cursor();
        let mut failed = None;
        write_entries(self.dev.as_ref(), h.data_at, blocks, |i| match i {
            i if i >= old => {
                if fixed {
                    (next + i - old) as u32
                } else {
                    entry
                }
            }
            i => match map.le32(i) {
                Ok(e) if e < ZERO => e.saturating_sub(slots as u32),
                Ok(e) => e,
                Err(e) => {
                    failed.get_or_insert(e);
                    FREE
                }
            },
        })?;
        if let Some(e) = failed {
            return Err(e);
        }
        self.header.map_at = h.data_at;
        self.header.data_at = h.data_at + slots * h.stride();
        self.next = next;
        if fixed {
            self.next += blocks - old;
            self.store_more(next)?;
        }
        self.dev.flush()?;
        self.header.allocated = self.next;
        self.header.blocks = blocks;
        self.header.disk_size = size;
        self.switch()
    }

    /// Makes the disk `size` bytes long, which is less than it is.
    pub(super) fn shrink(&mut self, size: u64) -> Result<()> {
        let size = round_up(size, SECTOR).unwrap_or(size);
        let blocks = size.div_ceil(self.header.block_size);
        self.header.disk_size = size;
        self.switch()?;
        for (index, stored) in self.named(|index, _| index >= blocks)? {
            self.image.table().set(index * 4, &FREE.to_le_bytes())?;
            self.free.push(stored);
        }
        self.commit()?;
        let end = self.move_down()?;
        self.header.blocks = blocks;
        self.settle(end)
    }

    /// Moves the last stored blocks into the places that are free; where the stored blocks end then.
    pub(super) fn move_down(&mut self) -> Result<u64> {
        // Free places that stay below the new end of the data take the blocks that lie beyond it.
        let end = self.next - self.free.len() as u64;
        self.free.retain(|f| *f < end);
        let moves = self.named(|_, stored| stored >= end)?;
        let mut moved = Vec::with_capacity(moves.len());
        for (index, stored) in moves {
            let Some(to) = self.free.pop() else { return Err(Error::corrupt("its stored blocks do not add up")) };
            self.copy_block(stored, to)?;
            moved.push((index, to));
        }
        self.dev.flush()?;
        for (index, to) in moved {
            self.image.table().set(index * 4, &(to as u32).to_le_bytes())?;
        }
        self.commit()?;
        Ok(end)
    }

    /// Makes the header count `end` blocks, durably, and cuts the file behind them.
    pub(super) fn settle(&mut self, end: u64) -> Result<()> {
        self.next = end;
        self.header.allocated = end;
        self.switch()?;
        self.dev.set_len(self.header.block_at(end) - self.header.block_extra)?;
        self.dev.flush()
    }
}
