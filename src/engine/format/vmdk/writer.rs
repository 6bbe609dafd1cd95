//! Writing a VMDK in place: monolithic and split, sparse and flat.
//!
//! Order of a flush, and what a power cut leaves after each step:
//! 1. the new content id is durable before the first content is written (children made on the old content must notice);
//! 2. data: durable, and pointed to by nothing yet: the old disk;
//! 3. entries of both tables, in any order: each points to durable data, so any mixture is some of the new and some of the old
//!    content, and where the two copies differ each of them is sound.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use super::descriptor::{self, Access, NO_PARENT};
use super::extent::{Part, Storage};
use super::grains::{Entries, Packing};
use super::hosted::{Hosted, Under};
use super::image::{self, Vmdk};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::write::{Below, DiskWriter, NewBacking, NewFiles, WriteSource};
use crate::engine::format::{Image, lost};
use crate::engine::io::{Device, WriteDevice, read_vec};
use crate::engine::limits::MAX_DESCRIPTOR;
use crate::engine::units::{KIB, SECTOR};

/// Pages of changed entries that may wait (16 MiB: they stand for 256 GiB of sequential data) before they are written back.
const MAX_CHANGED: usize = 256;

/// A disk open for writing.
pub(super) struct Writer {
    pub(super) disk: RwLock<Open>,
    /// The image file, then every extent file; `None` for one that must not be written.
    pub(super) files: Vec<Option<WriteDevice>>,
    /// The parent's disk.
    below: RwLock<Option<Below>>,
    /// The content id still has to be renewed: where its digits are in the image file.
    stale_cid: Mutex<Option<(u64, usize)>>,
    /// One flush at a time.
    flushing: Mutex<()>,
}

/// What a change of size replaces.
pub(super) struct Open {
    /// The same disk for reading.
    pub(super) image: Arc<Vmdk>,
    /// How to write each extent.
    pub(super) parts: Vec<Target>,
}

/// How an extent is written.
pub(super) enum Target {
    /// At its place in a file.
    Flat(WriteDevice, u64),
    /// As grains.
    Sparse(Arc<Hosted>),
    /// Not at all, and why.
    Refused(Error),
}

/// Opens an image for writing.
pub(super) fn open_write(from: WriteSource) -> Result<Arc<dyn DiskWriter>> {
    let WriteSource { dev, source, below, other } = from;
    let mut files = vec![Some(dev.clone())];
    let image = image::load(&source, &mut |name, writable| {
        if writable {
            // The gate says whether it may be opened at all.
            source.gate.open(&source.path, name)?;
            let file = other(&source.path, name)?;
            files.push(Some(file.clone()));
            Ok(file)
        } else {
            files.push(None);
            Ok(Arc::new(source.gate.open(&source.path, name)?))
        }
    })?;
    image.readable()?;
    refuse_whole(&image)?;
    let stale_cid = match image.text {
        Some((at, len)) => {
            let text = read_vec(dev.as_ref(), at, len.min(dev.len()), MAX_DESCRIPTOR)?;
            descriptor::cid_digits(&text).map(|r| (at + r.start as u64, r.len()))
        }
        None => None,
    };
    let next = |dev: &WriteDevice| dev.len().next_multiple_of(SECTOR);
    Ok(Arc::new(Writer::new(image, files, below, stale_cid, next)))
}

/// Images that are not written in place at all.
fn refuse_whole(image: &Vmdk) -> Result<()> {
    if image.parts.iter().any(Part::compressed) {
        return Err(Error::unsupported(
            "a streamOptimized disk is written once, from front to end; it cannot be changed in place",
        )
        .hint("convert it to monolithicSparse (or to another stream) with the change made on the way"));
    }
    Ok(())
}

impl Writer {
    /// A writer of `image`, whose files are `files`; `next` tells the first free byte of a sparse extent's file.
    pub(super) fn new(
        image: Vmdk,
        files: Vec<Option<WriteDevice>>,
        below: Option<Below>,
        stale_cid: Option<(u64, usize)>,
        next: impl Fn(&WriteDevice) -> u64,
    ) -> Writer {
        let parts = image.parts.iter().map(|p| target(p, &files, &next)).collect();
        Writer {
            disk: RwLock::new(Open { image: Arc::new(image), parts }),
            files,
            below: RwLock::new(below),
            stale_cid: Mutex::new(stale_cid),
            flushing: Mutex::new(()),
        }
    }

    pub(super) fn open(&self) -> RwLockReadGuard<'_, Open> {
        self.disk.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The parent's disk, when it was told.
    pub(super) fn below(&self) -> Option<Below> {
        self.below.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls `each` for every extent that the range touches: how to write it, its guest start, its file, the range within it.
    fn on_parts(&self, offset: u64, len: u64, each: impl Fn(&Target, &Under<'_>, u64, u64, u64) -> Result<()>) -> Result<()> {
        let open = self.open();
        let end = offset.checked_add(len).filter(|&e| e <= open.image.size);
        let end = end.ok_or_else(|| Error::usage("a write past the end of the disk").at(offset))?;
        self.renew_cid()?;
        let disk = self.below();
        let mut at = offset;
        for (part, target) in open.image.parts.iter().zip(&open.parts) {
            let part_end = part.start + part.len;
            if at >= end || part_end <= at {
                continue;
            }
            let n = part_end.min(end) - at;
            let below = Under { parent: open.image.backing.is_some(), disk: disk.as_ref(), start: part.start };
            each(target, &below, at - part.start, at - offset, n)?;
            at += n;
        }
        let waiting = open.image.parts.iter().find_map(|p| match &p.storage {
            Storage::Sparse(g) => Some(g.pages().changed()),
            _ => None,
        });
        if waiting.is_some_and(|n| n > MAX_CHANGED) { self.flush_tables(&open) } else { Ok(()) }
    }

    /// Before the first content of this session changes: another content id, durable. It keeps its number of digits, so that one
    /// sector changes and nothing moves.
    pub(super) fn renew_cid(&self) -> Result<()> {
        let mut stale = hold(&self.stale_cid);
        let (Some((at, digits)), Some(Some(dev))) = (*stale, self.files.first()) else { return Ok(()) };
        dev.write_at(at, new_digits(digits).as_bytes()).op("renew the content id")?;
        dev.flush()?;
        *stale = None;
        Ok(())
    }

    fn flush_files(&self) -> Result<()> {
        self.files.iter().flatten().try_for_each(|dev| dev.flush())
    }

    /// Data, then entries, each durable.
    pub(super) fn flush_tables(&self, open: &Open) -> Result<()> {
        let _one = hold(&self.flushing);
        let pages = open.image.parts.iter().find_map(|p| match &p.storage {
            Storage::Sparse(g) => Some(g.pages()),
            _ => None,
        });
        let Some(pages) = pages else { return self.flush_files() };
        let tables = pages.write_back(
            || self.flush_files(),
            |file, offset, bytes| match self.files.get(file) {
                Some(Some(dev)) => dev.write_at(offset, bytes).op("write grain tables"),
                _ => Err(Error::new(ErrorKind::Internal, "tables changed in a file that is not written")),
            },
        )?;
        if tables { self.flush_files() } else { Ok(()) }
    }
}

fn hold<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The digits of a new content id, as many as the old one has.
pub(super) fn new_digits(digits: usize) -> String {
    let mask = u32::MAX.checked_shr(32u32.saturating_sub(4 * digits as u32)).unwrap_or(0);
    format!("{:0digits$x}", new_cid() & mask)
}

/// A content id that means neither "none" nor what is reserved.
pub(super) fn new_cid() -> u32 {
    loop {
        let cid = uuid::Uuid::new_v4().as_u64_pair().0 as u32;
        if cid != NO_PARENT && cid != NO_PARENT - 1 && cid != 0 {
            return cid;
        }
    }
}

/// How `part` is written.
pub(super) fn target(part: &Part, files: &[Option<WriteDevice>], next: &impl Fn(&WriteDevice) -> u64) -> Target {
    if let Some(line) = part.line.as_ref().filter(|l| l.access != Access::ReadWrite) {
        return Target::Refused(Error::usage(format!("the extent is marked {}", line.access.word())));
    }
    let writable = |file: usize| files.get(file).and_then(Clone::clone);
    match &part.storage {
        Storage::Zero => Target::Refused(Error::usage("the extent is of type ZERO: it cannot hold data")),
        Storage::Unavailable(e) => Target::Refused(e.clone()),
        Storage::Flat { file, offset, .. } => match writable(*file) {
            Some(dev) => Target::Flat(dev, *offset),
            None => Target::Refused(Error::usage("the extent's file is not open for writing")),
        },
        Storage::Sparse(g) => {
            let entries = matches!(g.geometry.entries, Entries::Sectors { .. }) && g.geometry.packing == Packing::Plain;
            match writable(g.file()) {
                _ if !entries || !g.geometry.writable => {
                    Target::Refused(Error::unsupported("extents of this sort are read only").hint("convert the disk first"))
                }
                Some(dev) => {
                    let next = next(&dev);
                    Target::Sparse(Arc::new(Hosted::new(g.clone(), dev, next)))
                }
                None => Target::Refused(Error::usage("the extent's file is not open for writing")),
            }
        }
    }
}

impl DiskWriter for Writer {
    fn size(&self) -> u64 {
        self.open().image.size
    }
    fn unit(&self) -> u64 {
        self.open().image.parts.iter().find_map(Part::grain).unwrap_or(64 * KIB)
    }
    fn set_below(&self, below: Device) {
        *self.below.write().unwrap_or_else(PoisonError::into_inner) = Some(Below(below));
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.on_parts(offset, data.len() as u64, |target, below, at, done, n| {
            let part = usize::try_from(done).ok().zip(usize::try_from(n).ok()).and_then(|(d, n)| data.get(d..d.checked_add(n)?));
            let part = part.unwrap_or_default();
            match target {
                Target::Flat(dev, start) => dev.write_at(start + at, part),
                Target::Sparse(h) => h.write(at, part, below),
                Target::Refused(e) => Err(e.clone().op("write").at(offset + done)),
            }
        })
    }
    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.on_parts(offset, len, |target, below, at, done, n| match target {
            Target::Flat(dev, start) => dev.write_zeroes(start + at, n),
            Target::Sparse(h) => h.write_zeroes(at, n, below),
            Target::Refused(e) => Err(e.clone().op("write zeros").at(offset + done)),
        })
    }
    fn flush(&self) -> Result<()> {
        self.flush_tables(&self.open())
    }
    fn is_split(&self, size: u64) -> bool {
        super::split::is_split(self, size)
    }
    fn resize_split(&self, size: u64, files: &dyn NewFiles) -> Result<Vec<String>> {
        super::split::resize(self, size, files)
    }
    fn resize(&self, size: u64) -> Result<()> {
        super::resize::resize(self, size)
    }
    fn keep_identity(&self) {
        *hold(&self.stale_cid) = None;
    }
    fn clear(&self) -> Result<()> {
        self.renew_cid()?;
        let open = self.open();
        self.flush_tables(&open)?;
        let mut grains = Vec::new();
        for target in &open.parts {
            match target {
                Target::Sparse(h) => grains.push((h, h.let_go(&|| self.flush_tables(&open))?)),
                Target::Flat(..) => return Err(Error::unsupported("flat extents hold every sector and cannot be emptied")),
                Target::Refused(e) => return Err(e.clone().op("empty the disk")),
            }
        }
        self.flush_tables(&open)?;
        // Nobody names them any more.
        for (hosted, runs) in grains {
            runs.into_iter().try_for_each(|(at, len)| hosted.dev.write_zeroes(at, len))?;
        }
        self.flush_files()
    }
    fn wipe_unused(&self) -> Result<u64> {
        let open = self.open();
        self.flush_tables(&open)?;
        let mut wiped = 0;
        for (n, (part, target)) in open.image.parts.iter().zip(&open.parts).enumerate() {
            if let Target::Sparse(h) = target {
                wiped += lost::wipe(h.dev.as_ref(), &super::check::unused(&open.image, part, &h.grains, n)?)?;
            }
        }
        if wiped > 0 {
            self.flush_files()?;
        }
        Ok(wiped)
    }
    fn set_backing(&self, backing: Option<&NewBacking>) -> Result<()> {
        super::reparent::set(self, backing)
    }
    fn reader(&self) -> Arc<dyn Image> {
        self.open().image.clone()
    }
}
