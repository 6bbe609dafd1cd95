//! Opening an image that is there for writing in place: held against others, with what lies below it at hand.

use std::path::Path;
use std::sync::Arc;

use crate::engine::chain::{Chain, Disk, OpenOptions};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::write::{Below, DiskWriter, NewFiles, OpenOther, WriteSource};
use crate::engine::format::{Format, Source};
use crate::engine::io::WriteDevice;
use crate::engine::io::direct::Direct;
use crate::engine::io::file::FileDevice;
use crate::engine::io::gate::Gate;
use crate::engine::io::locks::{self, Guard, LockMode};

/// An image open for writing. Nobody else writes it until this is dropped.
pub struct Editing {
    /// Writes guest data and changes the size.
    pub writer: Arc<dyn DiskWriter>,
    /// The image file.
    pub dev: WriteDevice,
    /// Keeps others off.
    pub guard: Guard,
}

/// Opens the image at `path` for writing guest data. `format` as given by a person; `None` probes.
///
/// Errors: another process holds it (named where the system lets us see); a format that cannot be written; a broken chain.
pub fn open(path: &Path, format: Option<Format>, gate: &Gate) -> Result<Editing> {
    // Held before it is looked at, so that what is read here is still so when it is written.
    let (dev, guard) = hold(path)?;
    // What it stands on is read through while it is written.
    let options = OpenOptions { format, gate: Some(gate.clone()), ..OpenOptions::default() };
    let chain = Chain::open(path, &options)?;
    chain.disk()?;
    let format = chain.layers.first().map_or(Format::Raw, |l| l.format());
    let open = format
        .entry()
        .open_write
        .ok_or_else(|| Error::unsupported(format!("cowshed does not write into {format} images")).path(path))?;
    let layers = chain.layers.get(1..).unwrap_or_default().to_vec();
    let below = (!layers.is_empty()).then(|| Below(Arc::new(Disk::new(layers))));
    let source = Source { dev: dev.clone(), path: path.to_path_buf(), gate: gate.clone() };
    let through = gate.clone();
    let other: OpenOther = Arc::new(move |from, name| Ok(Arc::new(Direct::for_writing(through.open_rw(from, name)?))));
    let writer = open(WriteSource { dev: dev.clone(), source, below, other }).path(path)?;
    Ok(Editing { writer, dev, guard })
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

/// Refuses when another process holds the file at `path`; one that is not there is held by nobody.
pub fn refuse_in_use(path: &Path) -> Result<()> {
    match FileDevice::open(path) {
        Ok(dev) => locks::lock(&dev, LockMode::Resize).map(drop),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
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
