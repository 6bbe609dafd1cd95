//! Writing VDIs in place. The order that makes a crash harmless:
//!
//! 1. before the first change of a session the modification UUID changes, durably: children see that their parent was written to;
//! 2. data goes to stored blocks, or to new ones that no map entry names yet;
//! 3. the header counts the new blocks, and that and the data become durable. The count goes before the map because VirtualBox and
//!    QEMU put their next block where the count says: one that is too high wastes a block, one too low overwrites one;
//! 4. the map entries become durable.
//!
//! A crash leaves the old map with whole blocks, at worst with uncounted or unnamed blocks at the end.

use std::sync::Arc;

use uuid::Uuid;

use super::header::{HEADER_BYTES, Header, ImageType};
use super::{FREE, Vdi, ZERO};
use crate::engine::error::{Error, Result};
use crate::engine::format::Image;
use crate::engine::format::blocks::{BlockWriter, Layout, Place, Slot};
use crate::engine::format::table::Held;
use crate::engine::format::write::{DiskWriter, NewBacking, WriteSource};
use crate::engine::io::{WriteDevice, read_vec, with_path};

/// Opens an existing VDI for writing.
pub fn open(from: WriteSource) -> Result<Arc<dyn DiskWriter>> {
    BlockWriter::<Writer>::open(from.dev, from.below.map(|b| b.0))
}

/// A VDI open for writing.
pub struct Writer {
    pub(super) dev: WriteDevice,
    pub(super) image: Arc<Vdi>,
    /// As it is on disk.
    pub(super) header: Header,
    /// Stored blocks, whether named by the map or not, are all below this one.
    pub(super) next: u64,
    /// Unnamed blocks below `next`, to be used first.
    pub(super) free: Vec<u64>,
    begun: bool,
    /// Children see what they saw: the modification UUID stays.
    keep: bool,
}

/// Table entries looked through at a time.
const AT_ONCE: u64 = 16 << 10;

impl Writer {
    /// Writes the header's one sector.
    pub(super) fn write_header(&self) -> Result<()> {
        let mut b = read_vec(self.dev.as_ref(), 0, HEADER_BYTES as u64, HEADER_BYTES as u64)?;
        self.header.patch(&mut b);
        self.dev.write_at(0, &b)
    }
}

impl Layout for Writer {
    fn open(dev: WriteDevice) -> Result<Self> {
        let image = Arc::new(Vdi::open(dev.clone())?);
        let header = image.header().clone();
        let mut seen = vec![0u64; (header.blocks / 64 + 1) as usize];
        let (mut next, mut named, mut bad) = (0u64, 0u64, false);
        let mut map = image.table().cursor();
        for index in 0..header.blocks {
            let entry = map.le32(index)?;
            if entry >= ZERO {
                continue;
            }
            let entry = u64::from(entry);
            let bit = 1u64 << (entry % 64);
            match seen.get_mut((entry / 64) as usize).filter(|_| entry < header.blocks) {
                Some(word) if *word & bit == 0 => *word |= bit,
                _ => bad = true,
            }
            named += 1;
            next = next.max(entry + 1);
        }
        if bad {
            return Err(with_path(
                Error::corrupt("its block map names a block twice or one that is not there: writing would make it worse")
                    .op("open for writing")
                    .at(header.map_at)
                    .hint("run check on the image"),
                dev.as_ref(),
            ));
        }
        let unnamed = |i: &u64| seen.get((i / 64) as usize).is_none_or(|w| w & 1 << (i % 64) == 0);
        let free = if named == next { Vec::new() } else { (0..next).rev().filter(unnamed).collect() };
        Ok(Writer { dev, image, header, next, free, begun: false, keep: false })
    }
    fn image(&self) -> Arc<dyn Image> {
        self.image.clone()
    }
    fn block_size(&self) -> u64 {
        self.header.block_size
    }
    fn has_parent(&self) -> bool {
        !self.header.link.is_nil()
    }
    fn begin(&mut self) -> Result<()> {
        if !self.begun && !self.keep {
            self.header.modification = Uuid::new_v4();
            self.write_header()?;
            self.dev.flush()?;
            self.begun = true;
        }
        Ok(())
    }
    fn find(&mut self, index: u64) -> Result<Slot> {
        let entry = self.image.table().cursor().le32(index)?;
        Ok(match self.image.place(index, entry)? {
            Held::At(at) => Slot::Full(at),
            Held::Zero => Slot::Zero,
            Held::Nothing => Slot::Nothing,
        })
    }
    fn allocate(&mut self) -> Result<Place> {
        let index = self.free.pop().unwrap_or(self.next);
        if index >= self.header.blocks {
            return Err(Error::corrupt("every block it can have is stored already").op("allocate a block"));
        }
        self.next = self.next.max(index + 1);
        let at = self.header.block_at(index);
        let len = self.dev.len();
        if at + self.header.block_size > len {
            self.dev.set_len(at + self.header.block_size)?;
        }
        Ok(Place { at, zeroed: at >= len })
    }
    fn publish(&mut self, index: u64, at: u64) -> Result<()> {
        let entry = (at - self.header.block_extra - self.header.data_at) / self.header.stride();
        self.image.table().set(index * 4, &(entry as u32).to_le_bytes())
    }
    fn publish_zero(&mut self, index: u64) -> Result<bool> {
        let entry = if self.has_parent() { ZERO } else { FREE };
        self.image.table().set(index * 4, &entry.to_le_bytes())?;
        Ok(true)
    }
    fn changed(&self) -> usize {
        self.image.table().changed()
    }
    fn commit(&mut self) -> Result<()> {
        if self.header.allocated != self.next && self.image.table().changed() > 0 {
            self.header.allocated = self.next;
            self.write_header()?;
        }
        self.dev.flush()?;
        if self.image.table().changed() > 0 {
            self.image.table().write_back(&mut |at, bytes| self.dev.write_at(at, bytes))?;
            self.dev.flush()?;
        }
        Ok(())
    }
    fn keep_identity(&mut self) {
        self.keep = true;
    }
    fn lost(&self) -> Result<Vec<(u64, u64)>> {
        let stride = self.header.stride();
        let at = |n: u64| self.header.data_at.saturating_add(n.saturating_mul(stride));
        let behind = self.dev.len().saturating_sub(at(self.next));
        Ok(self.free.iter().map(|n| (at(*n), stride)).chain([(at(self.next), behind)]).collect())
    }
    fn clear(&mut self) -> Result<()> {
        for start in (0..self.header.blocks).step_by(AT_ONCE as usize) {
            let mut map = self.image.table().cursor();
            let mut held = Vec::new();
            for index in start..(start + AT_ONCE).min(self.header.blocks) {
                if map.le32(index)? != FREE {
                    held.push(index);
                }
            }
            drop(map);
            held.into_iter().try_for_each(|index| self.image.table().set(index * 4, &FREE.to_le_bytes()))?;
            // The count stays: one that is too high for a while wastes nothing.
            self.commit()?;
        }
        (self.next, self.free, self.header.allocated) = (0, Vec::new(), 0);
        self.write_header()?;
        self.dev.flush()?;
        if self.dev.len() > self.header.data_at && self.dev.as_file().is_none_or(|f| !f.is_block_device()) {
            self.dev.set_len(self.header.data_at)?;
        }
        self.dev.flush()
    }
    /// The fields lie within one sector, which is one write.
    fn set_backing(&mut self, backing: Option<&NewBacking>) -> Result<()> {
        (self.header.link, self.header.parent_modification) = match backing {
            Some(parent) => super::create::link(parent)?,
            None => (Uuid::nil(), Uuid::nil()),
        };
        self.header.image_type = if backing.is_some() { ImageType::Differencing } else { ImageType::Dynamic };
        self.write_header()?;
        self.dev.flush()
    }
    fn resize(&mut self, size: u64, _below: u64) -> Result<()> {
        if size > self.header.disk_size { self.grow(size) } else { self.shrink(size) }
    }
}
