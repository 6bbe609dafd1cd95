//! Writing guest data into formats of equal blocks behind one table (VDI, VHD, VHDX). What they share is here: blocks are found or
//! allocated, a block written in part is filled up from below, and nothing becomes reachable before it is whole. What a table
//! entry means, and in which order structures become durable, is each format's own ([`Layout`]).
//!
//! A crash before [`DiskWriter::flush`] leaves the image as it was at the last one: data goes to places that nothing refers to
//! yet (or to blocks that are the guest's own already), and only the flush makes the table refer to them.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::Image;
use super::write::{DiskWriter, NewBacking};
use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::is_zero;
use crate::engine::io::{Device, WriteDevice, read_padded};
use crate::engine::limits::COPY_CHUNK;
use crate::engine::model::Kind;

/// Changed pieces of a table after which a write flushes of itself, to bound memory.
const MAX_CHANGED: usize = 4096;

/// What an image has for a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// All of it, from this byte of the file on.
    Full(u64),
    /// Some of its sectors, in a block from this byte of the file on.
    Partial(u64),
    /// Nothing but zeros.
    Zero,
    /// Nothing: the parent answers.
    Nothing,
}

/// A place for a new block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Byte of the file where its data goes.
    pub at: u64,
    /// It reads as zeros already.
    pub zeroed: bool,
}

/// A format's side of writing blocks. Always called under one lock.
pub trait Layout: Send + Sized + 'static {
    /// Opens the image for writing, replaying what must be replayed. Errors: damage that writing would make worse.
    fn open(dev: WriteDevice) -> Result<Self>;
    /// The image for reading, sharing the table, so that it sees changes at once.
    fn image(&self) -> Arc<dyn Image>;
    /// Bytes of a block.
    fn block_size(&self) -> u64;
    /// Bytes to which writes are best aligned.
    fn unit(&self) -> u64 {
        self.block_size()
    }
    /// True when it stands on a parent.
    fn has_parent(&self) -> bool;
    /// Called before anything is written: what the first change of a session changes (identities), durable on return.
    fn begin(&mut self) -> Result<()>;
    /// What there is for guest block `index`.
    fn find(&mut self, index: u64) -> Result<Slot>;
    /// Makes room for a block. Nothing refers to it yet.
    fn allocate(&mut self) -> Result<Place>;
    /// From now on block `index` is wholly at `at`.
    fn publish(&mut self, index: u64, at: u64) -> Result<()>;
    /// From now on block `index` is zeros without being stored; false when the format has no such thing.
    fn publish_zero(&mut self, index: u64) -> Result<bool>;
    /// Changed pieces of its table.
    fn changed(&self) -> usize;
    /// Makes everything durable, data first.
    fn commit(&mut self) -> Result<()>;
    /// From now on [`Layout::begin`] changes nothing that children recognise their parent by.
    fn keep_identity(&mut self) {}
    /// Places in the file (offset, length) where blocks may have been that nothing refers to. All is committed.
    fn lost(&self) -> Result<Vec<(u64, u64)>>;
    /// Empties the table, durably, and cuts the file behind the structures. The session has begun and all is committed.
    fn clear(&mut self) -> Result<()>;
    /// Records another parent, durably. The session has begun and all is committed; without a parent no block is held in part.
    fn set_backing(&mut self, backing: Option<&NewBacking>) -> Result<()>;
    /// What stands to be done at the end of a session, after a commit.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
    /// Changes the virtual size to `size` bytes, durably; the image was committed before and is opened anew afterwards. The rest
    /// of the last block has been cleared; further blocks must hide the parent's `below` bytes.
    fn resize(&mut self, size: u64, below: u64) -> Result<()>;
}

/// An image of blocks open for writing.
pub struct BlockWriter<L: Layout> {
    dev: WriteDevice,
    layout: Mutex<L>,
    reader: RwLock<Arc<dyn Image>>,
    below: RwLock<Option<Device>>,
    /// Writes hold it shared, flushes alone: a table never refers to a block that is still being filled.
    gate: RwLock<()>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<L: Layout> BlockWriter<L> {
    /// Opens the image in `dev`, which stands on `below`.
    pub fn open(dev: WriteDevice, below: Option<Device>) -> Result<Arc<dyn DiskWriter>> {
        let layout = L::open(dev.clone())?;
        Ok(Arc::new(BlockWriter {
            dev,
            reader: RwLock::new(layout.image()),
            layout: Mutex::new(layout),
            below: RwLock::new(below),
            gate: RwLock::new(()),
        }))
    }

    fn image(&self) -> Arc<dyn Image> {
        self.reader.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn below(&self) -> Option<Device> {
        self.below.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Refuses ranges past the end of the disk, and flushes when much has piled up.
    fn prepare(&self, offset: u64, len: u64) -> Result<()> {
        let size = self.size();
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::usage(format!("{len} bytes at {offset} do not lie within the disk of {size} bytes")));
        }
        if lock(&self.layout).changed() > MAX_CHANGED { self.flush() } else { Ok(()) }
    }

    /// Copies guest bytes `range` from below to byte `to` of the file; zeros are skipped where the place is `zeroed`.
    fn copy_up(&self, range: Range<u64>, to: u64, zeroed: bool) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let below = self.below().ok_or_else(|| {
            Error::usage("the rest of a block that is written in part comes from the parent, which is not open")
                .hint("open the image with its chain, or write whole blocks")
        })?;
        let mut buf = vec![0u8; (range.end - range.start).min(COPY_CHUNK as u64) as usize];
        let mut at = range.start;
        while at < range.end {
            let n = (range.end - at).min(buf.len() as u64) as usize;
            let part = buf.get_mut(..n).unwrap_or_default();
            read_padded(below.as_ref(), at, part)?;
            if !(zeroed && is_zero(part)) {
                self.dev.write_at(to + (at - range.start), part)?;
            }
            at += n as u64;
        }
        Ok(())
    }

    fn clear(&self, at: u64, len: u64) -> Result<()> {
        if len == 0 { Ok(()) } else { self.dev.write_zeroes(at, len) }
    }

    /// Makes block `index` whole but for `covered` (bytes within it that the caller is about to write), and says where it is.
    fn make_full(&self, layout: &mut L, index: u64, slot: Slot, covered: Range<u64>) -> Result<u64> {
        let block = layout.block_size();
        let start = index * block;
        let used = block.min(self.size().saturating_sub(start));
        let at = match slot {
            Slot::Full(at) => return Ok(at),
            Slot::Zero | Slot::Nothing => {
                let place = layout.allocate()?;
                if slot == Slot::Nothing {
                    self.copy_up(start..start + covered.start, place.at, place.zeroed)?;
                    self.copy_up(start + covered.end..start + used, place.at + covered.end, place.zeroed)?;
                } else if !place.zeroed {
                    self.clear(place.at, covered.start)?;
                    self.clear(place.at + covered.end, used.saturating_sub(covered.end))?;
                }
                if !place.zeroed {
                    self.clear(place.at + used, block - used)?;
                }
                place.at
            }
            Slot::Partial(at) => {
                // Only sectors that are not its own yet are filled: nothing that is readable now changes.
                let image = self.image();
                let mut within = 0;
                while within < used {
                    let m = image.map(start + within, used - within)?;
                    for part in [within..(within + m.len).min(covered.start), within.max(covered.end)..within + m.len] {
                        match m.kind {
                            _ if part.is_empty() => {}
                            Kind::Unallocated => self.copy_up(start + part.start..start + part.end, at + part.start, false)?,
                            Kind::Zero => self.clear(at + part.start, part.end - part.start)?,
                            _ => {}
                        }
                    }
                    within += m.len.max(1);
                }
                at
            }
        };
        layout.publish(index, at)?;
        Ok(at)
    }

    /// The parts of `offset..offset+len` by block: index, and range within it.
    fn parts(&self, offset: u64, len: u64) -> impl Iterator<Item = (u64, Range<u64>)> {
        let block = lock(&self.layout).block_size().max(1);
        let end = offset + len;
        let mut at = offset;
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let (index, within) = (at / block, at % block);
                let n = (block - within).min(end - at);
                at += n;
                (index, within..within + n)
            })
        })
    }

    /// Makes the guest range zeros; the gate is held and the range checked.
    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        for (index, part) in self.parts(offset, len) {
            let mut layout = lock(&self.layout);
            let slot = layout.find(index)?;
            if slot == Slot::Zero {
                continue;
            }
            layout.begin()?;
            let whole =
                part.start == 0 && index * layout.block_size() + part.end >= self.size().min((index + 1) * layout.block_size());
            if slot == Slot::Nothing && whole && layout.publish_zero(index)? {
                continue;
            }
            let at = self.make_full(&mut layout, index, slot, part.clone())?;
            self.dev.write_zeroes(at + part.start, part.end - part.start)?;
        }
        Ok(())
    }

    /// Makes every block that holds some sectors only hold all of them: without a parent there is nobody to ask for the others.
    fn fill_partial(&self) -> Result<()> {
        let size = self.size();
        let mut layout = lock(&self.layout);
        for index in 0..size.div_ceil(layout.block_size().max(1)) {
            let slot = layout.find(index)?;
            if matches!(slot, Slot::Partial(_)) {
                layout.begin()?;
                self.make_full(&mut layout, index, slot, 0..0)?;
                if layout.changed() > MAX_CHANGED {
                    layout.commit()?;
                }
            }
        }
        Ok(())
    }

    /// Makes what lies between the old end and the next `size` bytes read as zeros once the disk is longer: the rest of the last
    /// block may hold anything, and a parent may be longer than its child.
    fn clear_beyond(&self, old: u64, size: u64) -> Result<()> {
        let mut layout = lock(&self.layout);
        let block = layout.block_size().max(1);
        let end = size.min(old.next_multiple_of(block));
        if end > old {
            let index = old / block;
            match layout.find(index)? {
                Slot::Zero => {}
                // What the parent has there would show: the block becomes the child's own.
                slot @ (Slot::Nothing | Slot::Partial(_)) if layout.has_parent() => {
                    layout.begin()?;
                    let at = self.make_full(&mut layout, index, slot, old % block..block)?;
                    self.clear(at + old % block, block - old % block)?;
                }
                Slot::Full(at) | Slot::Partial(at) => self.clear(at + old % block, block - old % block)?,
                Slot::Nothing => {}
            }
        }
        layout.commit()
    }
}

impl<L: Layout> DiskWriter for BlockWriter<L> {
    fn size(&self) -> u64 {
        self.image().size()
    }
    fn unit(&self) -> u64 {
        lock(&self.layout).unit()
    }
    fn set_below(&self, below: Device) {
        *self.below.write().unwrap_or_else(PoisonError::into_inner) = Some(below);
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.prepare(offset, data.len() as u64)?;
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0usize;
        for (index, part) in self.parts(offset, data.len() as u64) {
            let n = (part.end - part.start) as usize;
            let at = {
                let mut layout = lock(&self.layout);
                layout.begin()?;
                let slot = layout.find(index)?;
                self.make_full(&mut layout, index, slot, part.clone())?
            };
            self.dev.write_at(at + part.start, data.get(done..done + n).unwrap_or_default())?;
            done += n;
        }
        Ok(())
    }
    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.prepare(offset, len)?;
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.zero(offset, len)
    }
    fn flush(&self) -> Result<()> {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        lock(&self.layout).commit()
    }
    fn finish(&self) -> Result<()> {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut layout = lock(&self.layout);
        layout.commit()?;
        layout.finish()
    }
    fn resize(&self, size: u64) -> Result<()> {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let old = self.size();
        if size == old {
            return Ok(());
        }
        if lock(&self.layout).has_parent() && size > old && self.below().is_none() {
            return Err(Error::usage("the parent must be open to make its child longer: what it has there must stay hidden")
                .hint("open the image with its chain"));
        }
        if size > old {
            self.clear_beyond(old, size)?;
        }
        {
            let mut layout = lock(&self.layout);
            layout.commit()?;
            layout.begin()?;
            layout.resize(size, self.below().map_or(0, |b| b.len()))?;
            *layout = L::open(self.dev.clone())?;
            *self.reader.write().unwrap_or_else(PoisonError::into_inner) = layout.image();
        }
        Ok(())
    }
    fn keep_identity(&self) {
        lock(&self.layout).keep_identity();
    }
    fn clear(&self) -> Result<()> {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut layout = lock(&self.layout);
        layout.commit()?;
        layout.begin()?;
        layout.clear()
    }
    fn wipe_unused(&self) -> Result<u64> {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut layout = lock(&self.layout);
        layout.commit()?;
        let wiped = super::lost::wipe(self.dev.as_ref(), &layout.lost()?)?;
        if wiped > 0 {
            self.dev.flush()?;
        }
        Ok(wiped)
    }
    fn set_backing(&self, backing: Option<&NewBacking>) -> Result<()> {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        if backing.is_none() {
            self.fill_partial()?;
        }
        let mut layout = lock(&self.layout);
        layout.commit()?;
        layout.begin()?;
        layout.set_backing(backing)?;
        layout.finish()
    }
    fn reader(&self) -> Arc<dyn Image> {
        self.image()
    }
}
