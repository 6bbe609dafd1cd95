//! Writing VHDXs in place. The order that makes a crash harmless:
//!
//! 1. a dirty log found when the image is opened is written back first, as reading it in memory promised;
//! 2. before the first change of a session the file-write and data-write GUIDs change, in both headers, durably;
//! 3. data goes to stored blocks, or to new ones at the end of the file that no BAT entry names yet;
//! 4. changed BAT sectors are written to the log, and that and the data become durable;
//! 5. a header that names the log becomes durable: from here on whoever opens the image replays it;
//! 6. the BAT sectors are written to their places and become durable;
//! 7. a header that names no log becomes durable.
//!
//! A crash before 5 leaves the old BAT, one after it the new; at worst there are unnamed blocks at the end.

use std::sync::Arc;

use uuid::Uuid;

use super::header::{self, Found, Header};
use super::log::{SECTOR, entry, replay};
use super::metadata::Metadata;
use super::regions::Regions;
use super::{Vhdx, regions, split, state};
use crate::engine::error::{Error, Result};
use crate::engine::format::Image;
use crate::engine::format::blocks::{BlockWriter, Layout, Place, Slot};
use crate::engine::format::lost::between;
use crate::engine::format::table::Held;
use crate::engine::format::write::{DiskWriter, NewBacking, WriteSource};
use crate::engine::io::{WriteDevice, read_padded, read_vec, with_path};
use crate::engine::units::MIB;

/// BAT entries changed at a time.
const AT_ONCE: u64 = 16 << 10;

/// Entries of a BAT that are looked through for overlaps when an image is opened for writing; larger ones are left to `check`.
const MAX_LOOKED_THROUGH: u64 = 1 << 22;

/// Opens an existing VHDX for writing.
pub fn open(from: WriteSource) -> Result<Arc<dyn DiskWriter>> {
    BlockWriter::<Writer>::open(from.dev, from.below.map(|b| b.0))
}

/// A VHDX open for writing.
pub struct Writer {
    pub(super) dev: WriteDevice,
    pub(super) image: Arc<Vhdx>,
    header: Header,
    /// Which of the two headers is the current one.
    slot: usize,
    /// Byte where the next block can begin.
    pub(super) end: u64,
    begun: bool,
    /// Children see what they saw: the data-write GUID stays.
    keep: bool,
}

/// Writes `header` over the one that is not current, durably, which makes it the current one.
pub(super) fn put_header(dev: &WriteDevice, header: &mut Header, slot: &mut usize) -> Result<()> {
    header.sequence = header.sequence.wrapping_add(1);
    *slot = 1 - (*slot).min(1);
    dev.write_at(header::AT.get(*slot).copied().unwrap_or_default(), &header.encode())?;
    dev.flush()
}

impl Writer {
    /// Changes sectors of the image's structures (each 4096 bytes at a multiple of that) through the log, durably, with everything
    /// written before.
    pub(super) fn change(&mut self, sectors: &[(u64, Vec<u8>)]) -> Result<()> {
        let room = self.header.log_len / SECTOR;
        let at_once = room.saturating_sub(room / 16 + 2) as usize;
        if at_once == 0 {
            return Err(Error::unsupported("its log is too small to write through").op("write VHDX log"));
        }
        for group in sectors.chunks(at_once) {
            let log = Uuid::new_v4();
            self.dev.write_at(self.header.log_at, &entry(log, 1, group, self.dev.len() / MIB * MIB))?;
            self.dev.flush()?;
            self.header.log = log;
            put_header(&self.dev, &mut self.header, &mut self.slot)?;
            for (at, bytes) in group {
                self.dev.write_at(*at, bytes)?;
            }
            self.dev.flush()?;
            self.header.log = Uuid::nil();
            put_header(&self.dev, &mut self.header, &mut self.slot)?;
        }
        Ok(())
    }

    /// The whole sector at `at` of the file with `bytes` over its beginning.
    fn sector(&self, at: u64, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut b = vec![0u8; SECTOR as usize];
        if bytes.len() < b.len() {
            read_padded(self.dev.as_ref(), at, &mut b)?;
        }
        if let Some(dst) = b.get_mut(..bytes.len()) {
            dst.copy_from_slice(bytes);
        }
        Ok(b)
    }

    /// Every stored block and sector bitmap: where it begins and its length, in ascending order; with the guest block or `None`.
    pub(super) fn stored(&self) -> Result<Vec<(u64, u64, Option<u64>)>> {
        let (m, mut bat) = (&self.image.metadata, self.image.bat.cursor());
        let ratio = m.chunk_ratio();
        let mut all = Vec::new();
        for entry in 0..m.bat_entries() {
            let (state, at) = split(bat.le64(entry)?);
            if state == state::FULLY_PRESENT || state == state::PARTIALLY_PRESENT {
                let bitmap = entry % (ratio + 1) == ratio;
                let index = entry - entry / (ratio + 1);
                all.push(if bitmap { (at, MIB, None) } else { (at, m.block_size, Some(index)) });
            }
        }
        all.sort_unstable();
        Ok(all)
    }

    /// Byte behind the log and every region.
    pub(super) fn structures_end(&self) -> u64 {
        self.image.taken.iter().map(|r| r.at.saturating_add(r.len)).fold(MIB, u64::max)
    }
}

/// Replays a dirty log for good, and hands back the headers as they are then.
pub(super) fn recover(dev: &WriteDevice) -> Result<Found> {
    let mut found = header::find(dev.as_ref())?;
    if found.header.log.is_nil() {
        return Ok(found);
    }
    if let Some(overlay) = replay(dev.clone(), &found.header)?.overlay {
        overlay.apply_to(dev.as_ref())?;
        dev.flush()?;
    }
    found.header.log = Uuid::nil();
    // Twice, so that neither header names the log.
    put_header(dev, &mut found.header, &mut found.slot)?;
    put_header(dev, &mut found.header, &mut found.slot)?;
    Ok(found)
}

impl Layout for Writer {
    fn open(dev: WriteDevice) -> Result<Self> {
        let found = recover(&dev)?;
        let image = Arc::new(Vhdx::open(dev.clone())?);
        let mut writer = Writer { dev, image, header: found.header, slot: found.slot, end: 0, begun: false, keep: false };
        if writer.image.metadata.bat_entries() > MAX_LOOKED_THROUGH {
            writer.end = writer.dev.len().next_multiple_of(MIB);
            return Ok(writer);
        }
        let stored = writer.stored()?;
        let overlap = stored.windows(2).any(|w| matches!(w, [(a, len, _), (b, _, _)] if b - a < *len));
        if overlap {
            return Err(with_path(
                Error::corrupt("its BAT has blocks that overlap: writing would make it worse")
                    .op("open for writing")
                    .at(writer.image.bat_at)
                    .hint("copy what can be read: cowshed convert --salvage"),
                writer.dev.as_ref(),
            ));
        }
        let last = stored.last().map_or(0, |(at, len, _)| at.saturating_add(*len));
        writer.end = last.max(writer.structures_end()).next_multiple_of(MIB);
        Ok(writer)
    }
    fn image(&self) -> Arc<dyn Image> {
        self.image.clone()
    }
    fn block_size(&self) -> u64 {
        self.image.metadata.block_size
    }
    fn has_parent(&self) -> bool {
        self.image.metadata.has_parent
    }
    fn begin(&mut self) -> Result<()> {
        if self.begun {
            return Ok(());
        }
        if self.image.regions_differ {
            // A change of the region table was cut off half way: the intact copy that counts is the first.
            regions::repair(self.dev.as_ref())?;
            self.dev.flush()?;
        }
        self.header.file_write = Uuid::new_v4();
        if !self.keep {
            self.header.data_write = Uuid::new_v4();
        }
        put_header(&self.dev, &mut self.header, &mut self.slot)?;
        put_header(&self.dev, &mut self.header, &mut self.slot)?;
        self.begun = true;
        Ok(())
    }
    fn find(&mut self, index: u64) -> Result<Slot> {
        let mut bat = self.image.bat.cursor();
        Ok(match self.image.held(index, &mut bat)? {
            Some(Held::At(at)) => Slot::Full(at),
            Some(Held::Zero) => Slot::Zero,
            Some(Held::Nothing) => Slot::Nothing,
            None => Slot::Partial(split(bat.le64(self.image.entry_of(index))?).1),
        })
    }
    fn allocate(&mut self) -> Result<Place> {
        let (at, len) = (self.end, self.dev.len());
        self.end += self.block_size();
        if len < self.end {
            self.dev.set_len(self.end)?;
        }
        Ok(Place { at, zeroed: at >= len })
    }
    fn publish(&mut self, index: u64, at: u64) -> Result<()> {
        self.image.bat.set(self.image.entry_of(index) * 8, &(at | state::FULLY_PRESENT).to_le_bytes())
    }
    fn publish_zero(&mut self, index: u64) -> Result<bool> {
        self.image.bat.set(self.image.entry_of(index) * 8, &state::ZERO.to_le_bytes())?;
        Ok(true)
    }
    fn changed(&self) -> usize {
        self.image.bat.changed()
    }
    fn commit(&mut self) -> Result<()> {
        let mut sectors = Vec::new();
        for (at, bytes) in self.image.bat.pieces() {
            sectors.push((at, self.sector(at, &bytes)?));
        }
        if sectors.is_empty() {
            return self.dev.flush();
        }
        self.change(&sectors)?;
        self.image.bat.write_back(&mut |_, _| Ok(()))
    }
    fn finish(&mut self) -> Result<()> {
        // The older header may still name the log; after this neither does.
        if self.begun { put_header(&self.dev, &mut self.header, &mut self.slot) } else { Ok(()) }
    }
    fn keep_identity(&mut self) {
        self.keep = true;
    }
    fn lost(&self) -> Result<Vec<(u64, u64)>> {
        if self.image.metadata.bat_entries() > MAX_LOOKED_THROUGH {
            return Ok(Vec::new());
        }
        let stored = self.stored()?.into_iter().map(|(at, len, _)| (at, len));
        Ok(between(stored, self.structures_end(), self.dev.len()))
    }
    fn clear(&mut self) -> Result<()> {
        let entries = self.image.metadata.bat_entries();
        for start in (0..entries).step_by(AT_ONCE as usize) {
            let mut bat = self.image.bat.cursor();
            let mut held = Vec::new();
            for entry in start..(start + AT_ONCE).min(entries) {
                if bat.le64(entry)? != state::NOT_PRESENT {
                    held.push(entry);
                }
            }
            drop(bat);
            held.into_iter().try_for_each(|e| self.image.bat.set(e * 8, &state::NOT_PRESENT.to_le_bytes()))?;
            self.commit()?;
        }
        self.finish()?;
        self.end = self.structures_end();
        if self.dev.len() > self.end && self.dev.as_file().is_none_or(|f| !f.is_block_device()) {
            self.dev.set_len(self.end)?;
        }
        self.dev.flush()
    }
    fn set_backing(&mut self, backing: Option<&NewBacking>) -> Result<()> {
        let metadata = Metadata {
            has_parent: backing.is_some(),
            parent: backing.map_or(Ok(Vec::new()), super::create::locator)?,
            ..self.image.metadata.clone()
        };
        let mut sectors = Vec::new();
        if backing.is_none() {
            // Sector bitmaps belong to disks with a parent; no block is held in part any more.
            let (entries, ratio) = (self.image.metadata.bat_entries(), self.image.metadata.chunk_ratio());
            for entry in (ratio..entries).step_by(ratio as usize + 1) {
                self.image.bat.set(entry * 8, &state::NOT_PRESENT.to_le_bytes())?;
            }
            self.commit()?;
        }
        let region = Regions::read(self.dev.as_ref())?.0.metadata;
        for (n, new) in metadata.encode().chunks(SECTOR as usize).enumerate() {
            let at = region.at + n as u64 * SECTOR;
            if self.read(at, new.len() as u64)? != new {
                sectors.push((at, new.to_vec()));
            }
        }
        // All of them in one entry of the log, which is replayed as a whole or not at all.
        self.change(&sectors)
    }
    fn resize(&mut self, size: u64, _below: u64) -> Result<()> {
        let sector = self.image.metadata.sector;
        let size = size.checked_next_multiple_of(sector).unwrap_or(u64::MAX);
        super::create::check_size(size)?;
        if size > self.image.metadata.size { self.grow(size) } else { self.shrink(size) }
    }
}

impl Writer {
    /// Reads `len` bytes of the file at `at`.
    pub(super) fn read(&self, at: u64, len: u64) -> Result<Vec<u8>> {
        read_vec(self.dev.as_ref(), at, len, len)
    }
}
