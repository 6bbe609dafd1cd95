//! Opening an image that is there for writing in place: every file held against others, with what lies below it at hand.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::plan::{Estimate, Space};
use crate::engine::chain::{Chain, Disk, OpenOptions};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::probe::{best, probe};
use crate::engine::format::write::{Below, DiskWriter, NewFiles, OpenOther, WriteSource};
use crate::engine::format::{Format, Image, Source};
use crate::engine::io::direct::Direct;
use crate::engine::io::file::FileDevice;
use crate::engine::io::gate::Gate;
use crate::engine::io::locks::{self, Guard, LockMode};
use crate::engine::io::watched::Written;
use crate::engine::io::{ReadAt, WriteAt, WriteDevice};

/// An image open for writing. Nobody else writes any of its files, or what it stands on, until this is dropped.
pub struct Editing {
    /// Writes guest data and changes the size.
    pub writer: Arc<dyn DiskWriter>,
    /// The image file.
    pub dev: WriteDevice,
    /// Keep others off: the image file, its extents and data file, and the files below.
    pub guards: Vec<Guard>,
    /// The layers it stands on, from the top down.
    below: Vec<Arc<dyn Image>>,
}

impl Editing {
    /// The guest's disk as it is now. Ask again after a change of size.
    pub fn guest(&self) -> GuestDisk {
        let layers = std::iter::once(self.writer.reader()).chain(self.below.iter().cloned()).collect();
        GuestDisk { writer: self.writer.clone(), disk: Disk::new(layers) }
    }
}

/// The guest's disk of an image that is open for writing, as a device: read through all layers, written into the top one.
pub struct GuestDisk {
    writer: Arc<dyn DiskWriter>,
    disk: Disk,
}

impl ReadAt for GuestDisk {
    fn len(&self) -> u64 {
        self.disk.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.disk.read_at(offset, buf)
    }
    fn path(&self) -> Option<&Path> {
        self.disk.path()
    }
}

impl WriteAt for GuestDisk {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.writer.write(offset, buf)
    }
    fn flush(&self) -> Result<()> {
        self.writer.flush()
    }
    fn set_len(&self, _: u64) -> Result<()> {
        Err(Error::usage("the size of a guest's disk is not changed by writing to it").hint("resize the image"))
    }
    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.writer.write_zeroes(offset, len)
    }
}

/// The format an image is written as: what a person said or what is probed (`None`), but a bare filesystem (ami) is a raw disk like
/// any other.
pub fn bare_is_raw(path: &Path, format: Option<Format>) -> Result<Option<Format>> {
    if format.is_some_and(|f| f != Format::Ami) {
        return Ok(format);
    }
    let ami = best(&probe(&FileDevice::open(path)?)?) == Format::Ami;
    Ok(if ami { Some(Format::Raw) } else { format })
}

/// Opens the image at `path` for writing guest data. `format` as given by a person; `None` probes.
///
/// Errors: another process holds one of its files (named where the system lets us see); a format that cannot be written; a broken
/// chain.
pub fn open(path: &Path, format: Option<Format>, gate: &Gate) -> Result<Editing> {
    refuse_half_done(path)?;
    open_as_it_is(path, format, gate)
}

/// Refuses an image in which an earlier change was interrupted: that is finished or taken back first.
pub(super) fn refuse_half_done(path: &Path) -> Result<()> {
    if super::sanitize::interrupted(path) {
        return Err(Error::new(ErrorKind::Unsupported, "a sanitise of it was interrupted, and what is in it is half done")
            .op("open for writing")
            .path(path)
            .hint("`cowshed sanitize --undo` brings back what was there before"));
    }
    if super::resize::interrupted(path) {
        return Err(Error::new(ErrorKind::Unsupported, "growing its filesystem was interrupted, and is half done")
            .op("open for writing")
            .path(path)
            .hint("`cowshed resize --grow-guest` on it takes that back, and begins anew"));
    }
    Ok(())
}

/// The same for an image that may be half done: for whoever is about to mend that.
pub(super) fn open_as_it_is(path: &Path, format: Option<Format>, gate: &Gate) -> Result<Editing> {
    // Held before it is looked at, so that what is read here is still so when it is written.
    open_held(path, format, gate, hold(path)?, None)
}

/// The same for a file that is `held` already: the one at `path`, or a copy of it that is to take its name. What is written is noted in
/// `written`.
pub(super) fn open_held(
    path: &Path,
    format: Option<Format>,
    gate: &Gate,
    (dev, guard): (WriteDevice, Guard),
    written: Option<&Written>,
) -> Result<Editing> {
    // What it stands on is read through while it is written.
    let options = OpenOptions { format, gate: Some(gate.clone()), ..OpenOptions::default() };
    let chain = Chain::open(path, &options)?;
    chain.disk()?;
    let format = chain.layers.first().map_or(Format::Raw, |l| l.format());
    let layers = chain.layers.get(1..).unwrap_or_default().to_vec();
    let mut guards = Vec::new();
    let below = match layers.is_empty() {
        true => None,
        false => {
            let disk = Disk::new(layers.clone());
            guards.extend(hold_layers(&disk, false)?);
            Some(Below(Arc::new(disk)))
        }
    };
    let held = (noting(written, dev)?, guard);
    let mut editing = write_noting(path, format, gate, held, below, written.cloned())?;
    editing.guards.append(&mut guards);
    editing.below = layers;
    Ok(editing)
}

/// The same without what it stands on, which may not be there: for changing the reference to it, and for emptying it.
pub fn open_alone(path: &Path, format: Option<Format>, gate: &Gate) -> Result<Editing> {
    let held = hold(path)?;
    let format = match format {
        Some(format) => format,
        None => best(&probe(held.0.as_ref())?),
    };
    writing(path, format, gate, held, None)
}

/// The image that is `held`, is of `format` and stands on `below`, which is for the caller to hold.
pub(super) fn writing(
    path: &Path,
    format: Format,
    gate: &Gate,
    held: (WriteDevice, Guard),
    below: Option<Below>,
) -> Result<Editing> {
    write_noting(path, format, gate, held, below, None)
}

fn noting(written: Option<&Written>, dev: WriteDevice) -> Result<WriteDevice> {
    written.map_or_else(|| Ok(dev.clone()), |w| w.noting(dev.clone()))
}

fn write_noting(
    path: &Path,
    format: Format,
    gate: &Gate,
    held: (WriteDevice, Guard),
    below: Option<Below>,
    written: Option<Written>,
) -> Result<Editing> {
    let open = format
        .entry()
        .open_write
        .ok_or_else(|| Error::unsupported(format!("cowshed does not write into {format} images")).path(path))?;
    let (dev, guard) = held;
    let mut guards = vec![guard];
    let source = Source { dev: dev.clone(), path: path.to_path_buf(), gate: gate.clone() };
    let (through, others) = (gate.clone(), Arc::new(Mutex::new(Vec::new())));
    let taken = others.clone();
    let other: OpenOther = Arc::new(move |from, name| {
        let file = through.open_rw(from, name)?;
        let guard = locks::lock(&file, LockMode::Resize)?;
        taken.lock().unwrap_or_else(PoisonError::into_inner).push(guard);
        noting(written.as_ref(), Arc::new(Direct::for_writing(file)))
    });
    let writer = open(WriteSource { dev: dev.clone(), source, below, other }).path(path)?;
    guards.append(&mut others.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Editing { writer, dev, guards, below: Vec::new() })
}

/// The existing file or device at `path`, held for writing.
pub fn hold(path: &Path) -> Result<(WriteDevice, Guard)> {
    let dev = FileDevice::open_rw(path)?;
    let guard = locks::lock(&dev, LockMode::Resize)?;
    Ok((Arc::new(Direct::for_writing(dev)), guard))
}

/// Holds every file of `disk` while it is read, so that no other process writes it (`shared`: just says that we read).
pub fn hold_layers(disk: &Disk, shared: bool) -> Result<Vec<Guard>> {
    let mode = if shared { LockMode::Shared } else { LockMode::Read };
    let files = (0..disk.layers().len()).flat_map(|layer| disk.files(layer)).filter_map(|dev| dev.as_file());
    files.map(|file| locks::lock(file, mode)).collect()
}

/// The file at `path` is a block device.
pub(super) fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device())
}

/// The room on the block device at `path` for an image of `format` with a disk of `size` bytes, which will take `needed`.
///
/// Errors: a raw disk that is larger than the device.
pub(super) fn device_space(path: &Path, format: Format, size: u64, needed: Estimate) -> Result<Space> {
    let free = FileDevice::open(path)?.len();
    if format == Format::Raw && size > free {
        return Err(Error::new(ErrorKind::NoSpace, format!("the device has {free} bytes and {size} are needed")).path(path));
    }
    Ok(Space { on: path.to_path_buf(), needed, free })
}

/// Refuses when another process holds the file at `path`; one that is not there is held by nobody.
pub fn refuse_in_use(path: &Path) -> Result<()> {
    match FileDevice::open(path) {
        Ok(dev) => locks::lock(&dev, LockMode::Resize).map(drop),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Refuses when another process holds any file of an image that is to be written, or writes one that it stands on.
pub fn refuse_chain_in_use(chain: &Chain) -> Result<()> {
    for (depth, layer) in chain.layers.iter().enumerate() {
        let mode = if depth == 0 { LockMode::Resize } else { LockMode::Read };
        for dev in layer.files() {
            if let Some(file) = dev.as_file() {
                locks::lock(file, mode).map(drop)?;
            }
        }
    }
    Ok(())
}

/// A block device, or a file that stays in its place: there are no further files.
pub struct InPlace(pub WriteDevice);

impl NewFiles for InPlace {
    fn image(&self) -> WriteDevice {
        self.0.clone()
    }
    fn extra(&self, name: &str) -> Result<WriteDevice> {
        Err(Error::usage(format!("this kind of image needs a further file ({name}), which cannot stand beside a block device")))
    }
}
