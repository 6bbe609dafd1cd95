//! Writing VHDs in place. Fixed ones are written where they are. The order for blocks that makes a crash harmless:
//!
//! 1. before the first change the footer's copy at the start is made right, durably: it stands in from here to step 3;
//! 2. a new block goes where the footer is, its bitmap saying that every sector is its own, and no table entry naming it yet; a
//!    block that held only some sectors is filled up, in sectors its bitmap does not claim;
//! 3. the footer is written behind the last block, and that and the data become durable;
//! 4. table entries, and bitmaps of blocks that were filled up, become durable.
//!
//! A crash leaves the old table and bitmaps with whole blocks, at worst with unnamed blocks before the footer, or without the
//! footer at the end, whose copy then counts.

use std::collections::HashSet;
use std::sync::Arc;

use super::footer::{BYTES, DiskType, Footer, Found};
use super::header::{self, Header};
use super::{FREE, Vhd};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::format::Image;
use crate::engine::format::blocks::{BlockWriter, Layout, Place, Slot};
use crate::engine::format::lost::between;
use crate::engine::format::write::{DiskWriter, NewBacking, WriteSource};
use crate::engine::io::{WriteDevice, with_path};
use crate::engine::model::Kind;
use crate::engine::units::SECTOR;

/// Opens an existing VHD for writing.
pub fn open(from: WriteSource) -> Result<Arc<dyn DiskWriter>> {
    BlockWriter::<Writer>::open(from.dev, from.below.map(|b| b.0))
}

/// A VHD open for writing.
pub struct Writer {
    pub(super) dev: WriteDevice,
    pub(super) image: Arc<Vhd>,
    pub(super) footer: Footer,
    /// Byte where the footer belongs, and the next block can begin.
    pub(super) end: u64,
    /// The footer is not there (any more).
    pub(super) displaced: bool,
    begun: bool,
    /// Blocks known to hold all their sectors, so that their bitmaps need not be read again.
    whole: HashSet<u64>,
}

impl Writer {
    /// The dynamic header; an error for fixed disks, which have none.
    pub(super) fn header(&self) -> Result<&Header> {
        self.image.blocks.as_ref().map(|b| &b.header).ok_or_else(|| Error::new(ErrorKind::Internal, "a fixed disk has no blocks"))
    }

    /// Writes the footer where it belongs.
    pub(super) fn write_footer(&mut self) -> Result<()> {
        self.dev.write_at(self.end, &self.footer.encode())?;
        self.displaced = false;
        Ok(())
    }

    /// Where stored blocks begin in the file, in ascending order, with their guest block.
    pub(super) fn stored(&self) -> Result<Vec<(u64, u64)>> {
        let Some(blocks) = &self.image.blocks else { return Ok(Vec::new()) };
        let mut table = blocks.table.cursor();
        let mut all = Vec::new();
        for index in 0..blocks.table.bytes() / 4 {
            let entry = table.be32(index)?;
            if entry != FREE {
                all.push((u64::from(entry) * SECTOR, index));
            }
        }
        all.sort_unstable();
        Ok(all)
    }

    /// Byte behind everything that is not a block: header, table, parent names.
    pub(super) fn structures_end(&self) -> u64 {
        let Some(b) = &self.image.blocks else { return 0 };
        let locators = b.header.locators.iter().filter(|l| l.code != [0; 4]).map(|l| l.at.saturating_add(l.len.into()));
        // The table may have more entries than the disk has blocks; one that claims more than the file holds is not believed.
        let all = u64::from(b.header.entries) * 4;
        let fits = b.header.table_at.saturating_add(all) <= self.image.found.end;
        let table = b.header.table_at.saturating_add(if fits { all } else { b.table.bytes() });
        locators.fold(table.max(b.header_at + header::BYTES as u64), u64::max).next_multiple_of(SECTOR)
    }
}

impl Layout for Writer {
    fn open(dev: WriteDevice) -> Result<Self> {
        let image = Arc::new(Vhd::open(dev.clone())?);
        let Found { footer, end, back, front, .. } = image.found.clone();
        let mut writer = Writer { dev, image, footer, end, displaced: !back, begun: front, whole: HashSet::new() };
        if writer.footer.kind != DiskType::Fixed {
            let h = writer.header()?;
            let stride = h.bitmap_bytes() + h.block_size;
            let stored = writer.stored()?;
            if stored.windows(2).any(|w| matches!(w, [(a, _), (b, _)] if b - a < stride)) {
                return Err(with_path(
                    Error::corrupt("its table has blocks that overlap: writing would make it worse")
                        .op("open for writing")
                        .at(h.table_at)
                        .hint("run check on the image"),
                    writer.dev.as_ref(),
                ));
            }
            let last = stored.last().map_or(0, |(at, _)| at + stride);
            writer.end = end.next_multiple_of(SECTOR).max(last).max(writer.structures_end());
            writer.displaced |= writer.end != end;
        }
        Ok(writer)
    }
    fn image(&self) -> Arc<dyn Image> {
        self.image.clone()
    }
    fn block_size(&self) -> u64 {
        self.image.blocks.as_ref().map_or(self.image.size.max(1), |b| b.header.block_size)
    }
    fn unit(&self) -> u64 {
        self.image.blocks.as_ref().map_or(4096, |b| b.header.block_size)
    }
    fn has_parent(&self) -> bool {
        self.footer.kind == DiskType::Differencing
    }
    fn begin(&mut self) -> Result<()> {
        if !self.begun && self.footer.kind != DiskType::Fixed {
            self.dev.write_at(0, &self.footer.encode())?;
            self.dev.flush()?;
        }
        self.begun = true;
        Ok(())
    }
    fn find(&mut self, index: u64) -> Result<Slot> {
        if self.image.blocks.is_none() {
            return Ok(Slot::Full(0));
        }
        let Some(at) = self.image.block_at(index)? else {
            return Ok(if self.has_parent() { Slot::Nothing } else { Slot::Zero });
        };
        if !self.whole.contains(&index) {
            let start = index * self.block_size();
            let used = self.block_size().min(self.image.size.saturating_sub(start));
            let m = self.image.map(start, used)?;
            if m.kind != Kind::Data || m.len < used {
                return Ok(Slot::Partial(at));
            }
            self.whole.insert(index);
        }
        Ok(Slot::Full(at))
    }
    fn allocate(&mut self) -> Result<Place> {
        let h = self.header()?;
        let (bitmap, block) = (h.bitmap_bytes(), h.block_size);
        // Data on whole pages; the few bytes in between are nobody's.
        let at = (self.end + bitmap).next_multiple_of(4096);
        if (at - bitmap) / SECTOR >= u64::from(FREE) {
            return Err(Error::unsupported("a VHD's blocks cannot lie beyond 2 TiB of the file").op("allocate a block"));
        }
        let len = self.dev.len();
        let end = at + block;
        self.displaced = true;
        self.end = end;
        if len < end + BYTES as u64 {
            self.dev.set_len(end + BYTES as u64)?;
        }
        self.dev.write_at(at - bitmap, &vec![0xff; bitmap as usize])?;
        Ok(Place { at, zeroed: at >= len })
    }
    fn publish(&mut self, index: u64, at: u64) -> Result<()> {
        let Some(blocks) = &self.image.blocks else { return Ok(()) };
        if self.image.block_at(index)? == Some(at) {
            self.image.lock_filled().insert(index);
        } else {
            let entry = (at - blocks.header.bitmap_bytes()) / SECTOR;
            blocks.table.set(index * 4, &(entry as u32).to_be_bytes())?;
        }
        self.whole.insert(index);
        Ok(())
    }
    fn publish_zero(&mut self, _index: u64) -> Result<bool> {
        Ok(false)
    }
    fn changed(&self) -> usize {
        self.image.blocks.as_ref().map_or(0, |b| b.table.changed() + self.image.lock_filled().len() / 8)
    }
    fn commit(&mut self) -> Result<()> {
        if self.displaced {
            self.write_footer()?;
        }
        self.dev.flush()?;
        let Some(blocks) = &self.image.blocks else { return Ok(()) };
        let filled: Vec<u64> = self.image.lock_filled().iter().copied().collect();
        if blocks.table.changed() == 0 && filled.is_empty() {
            return Ok(());
        }
        blocks.table.write_back(&mut |at, bytes| self.dev.write_at(at, bytes))?;
        let bitmap = blocks.header.bitmap_bytes();
        for index in filled {
            if let Some(at) = self.image.block_at(index)? {
                self.dev.write_at(at - bitmap, &vec![0xff; bitmap as usize])?;
            }
        }
        self.dev.flush()?;
        self.image.lock_filled().clear();
        Ok(())
    }
    fn lost(&self) -> Result<Vec<(u64, u64)>> {
        let Some(blocks) = &self.image.blocks else { return Ok(Vec::new()) };
        let stride = blocks.header.bitmap_bytes() + blocks.header.block_size;
        let stored = self.stored()?.into_iter().map(|(at, _)| (at, stride));
        Ok(between(stored, self.structures_end(), self.end))
    }
    fn clear(&mut self) -> Result<()> {
        let stored = self.stored()?;
        if let Some(blocks) = &self.image.blocks {
            stored.iter().try_for_each(|(_, index)| blocks.table.set(index * 4, &FREE.to_be_bytes()))?;
        }
        self.image.lock_filled().clear();
        self.whole.clear();
        self.commit()?;
        // The copy at the start stands in while the footer moves over what nobody names any more.
        self.end = self.structures_end();
        self.write_footer()?;
        self.dev.flush()?;
        if self.dev.len() > self.end + BYTES as u64 && self.dev.as_file().is_none_or(|f| !f.is_block_device()) {
            self.dev.set_len(self.end + BYTES as u64)?;
        }
        self.dev.flush()
    }
    fn set_backing(&mut self, backing: Option<&NewBacking>) -> Result<()> {
        if self.footer.kind == DiskType::Fixed {
            return Err(Error::unsupported("a fixed disk cannot stand on a parent"));
        }
        self.reparent(backing)
    }
    fn resize(&mut self, size: u64, below: u64) -> Result<()> {
        let size = size.checked_next_multiple_of(SECTOR).unwrap_or(size);
        super::create::check_size(size)?;
        match (self.footer.kind, size > self.image.size) {
            (DiskType::Fixed, _) => self.resize_fixed(size),
            (_, true) => self.grow(size, below),
            (_, false) => self.shrink(size),
        }
    }
}
