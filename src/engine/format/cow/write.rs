//! Writing COW version 2 files: for the record, and for tests that need one.
//!
//! Every sector has its place, so only the bitmap is structure. Its bits wait in memory; `flush` makes the data durable, then
//! writes the bits and makes those durable. A crash leaves sectors written that no bit announces, or whole ones: never a bit
//! without its sector.

use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::header::{Header, Layout, NAME_AT, NAME_BYTES};
use super::image::Cow;
use crate::engine::error::{Error, Result};
use crate::engine::format::write::{CreateSpec, DiskWriter, NewBacking, NewFiles, WriteSource};
use crate::engine::format::{Format, Image};
use crate::engine::io::bytes::put;
use crate::engine::io::{Device, WriteDevice, read_padded};
use crate::engine::units::{SECTOR, round_up};

/// Chunks of the bitmap that may wait (4 MiB of bits, 16 GiB of disk).
const MAX_WAITING: usize = 1024;

/// Makes a new file, laid out as QEMU did on 64-bit hosts.
pub(super) fn create(spec: &CreateSpec, files: &dyn NewFiles) -> Result<Arc<dyn DiskWriter>> {
    spec.check(Format::Cow, &[])?;
    let size = round_up(spec.size, SECTOR).filter(|s| *s > 0 && *s < 1 << 62);
    let size = size.ok_or_else(|| Error::usage(format!("a cow image cannot have {} bytes", spec.size)))?;
    let (backing, mtime) = reference(spec.backing.as_ref())?;
    let header = Header { layout: Layout::Aligned8, backing, mtime, size };
    let dev = files.image();
    let bitmap = header.layout.header_bytes();
    dev.write_zeroes(bitmap, header.bitmap_bytes())?;
    dev.flush()?;
    dev.write_at(0, &header.to_bytes())?;
    Ok(Arc::new(Writer::new(dev, spec.backing.as_ref().and_then(|b| b.disk.clone()).map(|b| b.0))?))
}

/// Opens a file for writing guest data in place.
pub(super) fn open_write(source: WriteSource) -> Result<Arc<dyn DiskWriter>> {
    Ok(Arc::new(Writer::new(source.dev, source.below.map(|b| b.0))?))
}

/// The name of `backing` as the header holds it, and its time of change.
fn reference(backing: Option<&NewBacking>) -> Result<(Vec<u8>, i32)> {
    let name = backing.map(|b| b.name.clone().into_bytes()).unwrap_or_default();
    // The name's field ends in a NUL.
    if name.len() >= NAME_BYTES || name.contains(&0) {
        return Err(Error::usage(format!("the backing file's name must have less than {NAME_BYTES} bytes and no NUL")));
    }
    // The format keeps the backing file's modification time in 32 bits.
    let mtime = backing.and_then(|b| std::fs::metadata(&b.path).ok()).map_or(0, |m| m.mtime());
    Ok((name, i32::try_from(mtime).unwrap_or(0)))
}

struct Writer {
    dev: WriteDevice,
    image: Arc<Cow>,
    /// What lies below. Sectors are added by one thread at a time.
    below: Mutex<Option<Device>>,
}

impl Writer {
    fn new(dev: WriteDevice, below: Option<Device>) -> Result<Writer> {
        let image = Arc::new(Cow::open(dev.clone())?);
        Ok(Writer { dev, image, below: Mutex::new(below) })
    }
    fn lock(&self) -> MutexGuard<'_, Option<Device>> {
        self.below.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn within(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size() => Ok(()),
            _ => Err(Error::usage(format!("{len} bytes at {offset} do not lie within the disk of {} bytes", self.size()))),
        }
    }

    /// Sector `sector` as a guest reads it now.
    fn sector(&self, below: &Option<Device>, sector: u64) -> Result<[u8; SECTOR as usize]> {
        let mut buf = [0; SECTOR as usize];
        if self.image.bitmap().run(sector, 1)?.0 {
            self.image.read(sector * SECTOR, &mut buf)?;
        } else if let Some(below) = below {
            read_padded(below.as_ref(), sector * SECTOR, &mut buf)?;
        } else if !self.image.header().backing.is_empty() {
            return Err(Error::usage(
                "part of a sector is to be written, and the rest of it lies in the backing file, which is not open",
            ));
        }
        Ok(buf)
    }

    /// The data, then the bits. The state is locked.
    fn write_bitmap(&self) -> Result<()> {
        self.dev.flush()?;
        if self.image.bitmap().changed() == 0 {
            return Ok(());
        }
        self.image.bitmap().write(self.dev.as_ref(), self.image.header().bitmap_bytes())?;
        self.dev.flush()
    }
}

impl DiskWriter for Writer {
    fn size(&self) -> u64 {
        self.image.header().size
    }
    fn unit(&self) -> u64 {
        SECTOR
    }
    fn set_below(&self, below: Device) {
        *self.lock() = Some(below);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.within(offset, data.len() as u64)?;
        if data.is_empty() {
            return Ok(());
        }
        let below = self.lock();
        let end = offset + data.len() as u64;
        let (first, last) = (offset / SECTOR, (end - 1) / SECTOR);
        let head = (offset % SECTOR) as usize;
        let mut whole = vec![0; ((last - first + 1) * SECTOR) as usize];
        let mut fits = true;
        if head > 0 {
            fits &= put(&mut whole, 0, &self.sector(&below, first)?);
        }
        if !end.is_multiple_of(SECTOR) {
            fits &= put(&mut whole, ((last - first) * SECTOR) as usize, &self.sector(&below, last)?);
        }
        fits &= put(&mut whole, head, data);
        debug_assert!(fits);
        self.dev.write_at(self.image.header().data_offset() + first * SECTOR, &whole)?;
        self.image.bitmap().set(first, last - first + 1)?;
        if self.image.bitmap().changed() < MAX_WAITING { Ok(()) } else { self.write_bitmap() }
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.within(offset, len)?;
        let alone = self.image.header().backing.is_empty();
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let (first, within) = (at / SECTOR, at % SECTOR);
            let (here, sectors) = self.image.bitmap().run(first, (within + end - at).div_ceil(SECTOR))?;
            let n = (sectors * SECTOR - within).min(end - at);
            if here {
                self.dev.write_zeroes(self.image.header().data_offset() + at, n)?;
                at += n;
            } else if alone {
                at += n;
            } else {
                // There is no bit for "zero": what hides the backing file is stored.
                let n = n.min(1 << 20);
                self.write(at, &vec![0; n as usize])?;
                at += n;
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        let _locked = self.lock();
        self.write_bitmap()
    }

    fn clear(&self) -> Result<()> {
        let _locked = self.lock();
        self.write_bitmap()?;
        let h = self.image.header();
        self.dev.write_zeroes(h.layout.header_bytes(), h.bitmap_bytes())?;
        self.dev.flush()?;
        let (data, len) = (h.data_offset(), self.dev.len());
        if len > data {
            self.dev.write_zeroes(data, len - data)?;
        }
        self.dev.flush()
    }

    /// The name's first 504 bytes lie in the first sector, and a name that ends there is changed by writing that sector. The time of
    /// change comes after it: a wrong one is no more than a warning. Nearly every name is that short; a longer one is written at
    /// once.
    fn set_backing(&self, backing: Option<&NewBacking>) -> Result<()> {
        let _locked = self.lock();
        self.write_bitmap()?;
        let (backing, mtime) = reference(backing)?;
        let first = SECTOR as usize - NAME_AT;
        let mut field = backing.clone();
        field.resize(if backing.len() < first { first } else { NAME_BYTES }, 0);
        self.dev.write_at(NAME_AT as u64, &field)?;
        self.dev.flush()?;
        self.dev.write_at((NAME_AT + NAME_BYTES) as u64, &mtime.to_be_bytes())?;
        self.dev.flush()
    }

    fn reader(&self) -> Arc<dyn Image> {
        self.image.clone()
    }
}
