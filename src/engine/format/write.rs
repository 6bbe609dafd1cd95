//! The write side of a format: making new images and writing guest data in place.
//!
//! Nothing here knows where files come from: [`NewFiles`] hands out the files a new image consists of (under partial names, made
//! durable and renamed by the caller), so no writer can leave half an image under a good name.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Format, Image, Source};
use crate::engine::error::{Error, Result};
use crate::engine::io::{Device, WriteDevice};
use crate::engine::model::{Bitmap, Identity};

/// What is reserved of a disk, or of the part it grew by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// The format's tables.
    Metadata,
    /// Space.
    Falloc,
    /// Space filled with zeros.
    Full,
}

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionKind {
    /// `on` or `off`.
    Switch,
    /// A size in bytes, written as people do (`64k`).
    Size,
    /// A plain number.
    Number,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any text.
    Text,
}

/// One `-o` option of a format. The create form, its validation and `-o help` are made from these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionSpec {
    /// Name as `qemu-img create -o help` prints it.
    pub name: &'static str,
    /// What it does, in a line.
    pub doc: &'static str,
    /// What it takes.
    pub kind: OptionKind,
    /// The value when it is not given; empty when there is none.
    pub default: &'static str,
}

/// The parent of a new image, already looked at by the caller.
#[derive(Debug, Clone)]
pub struct NewBacking {
    /// The name to record, exactly.
    pub name: String,
    /// Where it is now.
    pub path: PathBuf,
    /// Its format, recorded where the child can.
    pub format: Format,
    /// Its virtual size in bytes.
    pub size: u64,
    /// What the child records to recognise it.
    pub identity: Identity,
    /// The disk it shows, for writes that cover a unit in part. `None` when the content is not to be written (plain `create`).
    pub disk: Option<Below>,
}

/// The disk below an overlay: what a guest sees of the chain from the backing file down.
#[derive(Clone)]
pub struct Below(pub Device);

impl std::fmt::Debug for Below {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Below({} bytes)", self.0.len())
    }
}

impl Below {
    /// Fills `buf` from `offset` on; past the end of the disk below there are zeros.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        crate::engine::io::read_padded(self.0.as_ref(), offset, buf)
    }

    /// Calls `each` (first byte, length) for the stretches of `range` that show anything but zeros, widened to units of `unit` bytes.
    pub fn shown(&self, range: Range<u64>, unit: u64, mut each: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let mut at = range.start;
        let end = range.end.min(self.0.len());
        while at < end {
            let here = self.0.host_range(at, end - at)?;
            let mut stop = at + here.len.clamp(1, end - at);
            if !here.hole {
                at = (at / unit * unit).max(range.start);
                stop = stop.next_multiple_of(unit).min(range.end);
                each(at, stop - at)?;
            }
            at = stop;
        }
        Ok(())
    }
}

/// Opens a further file of the image at the path given, by the name the image has for it: for writing, and locked.
pub type OpenOther = Arc<dyn Fn(&Path, &str) -> Result<WriteDevice> + Send + Sync>;

/// What an image is opened for writing with.
#[derive(Clone)]
pub struct WriteSource {
    /// The image file, locked and writable.
    pub dev: WriteDevice,
    /// The same file for reading, with its path and gate.
    pub source: Source,
    /// What the image stands on, opened by the caller; `None` when it stands on nothing.
    pub below: Option<Below>,
    /// Opens data files and extents for writing.
    pub other: OpenOther,
}

impl WriteSource {
    /// An image in one file that stands on nothing; further files are refused.
    pub fn alone(dev: WriteDevice, source: Source) -> Self {
        let other: OpenOther =
            Arc::new(|path, name| Err(Error::unsupported(format!("'{name}' is needed for writing too")).path(path)));
        WriteSource { dev, source, below: None, other }
    }
}

/// What to make.
#[derive(Debug, Clone, Default)]
pub struct CreateSpec {
    /// Virtual size in bytes.
    pub size: u64,
    /// `-o` options, name and value, checked against the format's [`OptionSpec`]s by [`CreateSpec::check`].
    pub options: Vec<(String, String)>,
    /// What it stands on.
    pub backing: Option<NewBacking>,
    /// File name (without folder) the image will have in the end: VMDK descriptors and extents are named after it.
    pub file_name: String,
}

impl CreateSpec {
    /// The value of option `name`, if it was given (the last one counts).
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
    /// A switch: `on`/`off` (also yes/no, true/false, 1/0); `default` when not given.
    pub fn switch(&self, name: &str, default: bool) -> Result<bool> {
        match self.option(name) {
            None => Ok(default),
            Some("on" | "yes" | "true" | "1") => Ok(true),
            Some("off" | "no" | "false" | "0") => Ok(false),
            Some(v) => Err(Error::usage(format!("option {name}={v}: it takes on or off"))),
        }
    }
    /// A size in bytes; `default` when not given.
    pub fn bytes(&self, name: &str, default: u64) -> Result<u64> {
        self.option(name).map_or(Ok(default), crate::engine::units::parse_size)
    }
    /// Checks names and values against `specs`.
    ///
    /// Errors: an option that is not there (the hint lists those that are), a value it does not take.
    pub fn check(&self, format: Format, specs: &[OptionSpec]) -> Result<()> {
        for (name, value) in &self.options {
            let Some(spec) = specs.iter().find(|s| s.name == name) else {
                let all: Vec<_> = specs.iter().map(|s| s.name).collect();
                let there =
                    if all.is_empty() { "it has none of its own".to_string() } else { format!("it has: {}", all.join(", ")) };
                return Err(Error::usage(format!("{format} has no option '{name}'")).hint(there));
            };
            match spec.kind {
                OptionKind::Switch => self.switch(name, false).map(drop)?,
                OptionKind::Size => crate::engine::units::parse_size(value).map(drop)?,
                OptionKind::Number if value.parse::<u64>().is_err() => {
                    return Err(Error::usage(format!("option {name}={value}: it takes a number")));
                }
                OptionKind::Choice(words) if !words.contains(&value.as_str()) => {
                    return Err(Error::usage(format!("option {name}={value}: it takes one of {}", words.join(", "))));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Hands out the files of a new image.
pub trait NewFiles {
    /// The image file itself: empty, or (for `-n` and block devices) what is there.
    fn image(&self) -> WriteDevice;
    /// A further file, called `name` in the end: an extent (beside the image, no folders) or a data file (as the option
    /// spells it).
    fn extra(&self, name: &str) -> Result<WriteDevice>;
}

/// Makes a new image and hands it back open for writing its content.
pub type CreateFn = fn(&CreateSpec, &dyn NewFiles) -> Result<Arc<dyn DiskWriter>>;
/// Opens an image for writing guest data in place.
pub type OpenWriteFn = fn(WriteSource) -> Result<Arc<dyn DiskWriter>>;

/// An image open for writing: guest bytes in, the format's structures kept in a crash-safe order.
pub trait DiskWriter: Send + Sync {
    /// Virtual size in bytes.
    fn size(&self) -> u64;

    /// The unit in which it allocates (cluster, grain, block), in bytes; writes aligned to it are cheapest.
    fn unit(&self) -> u64;

    /// Tells what lies below this layer (its backing chain as a disk), where it was not known on opening: a unit that is written in
    /// part takes the rest from there when the layer does not hold it. An image with a backing file refuses such a write until it
    /// is told; one without takes zeros.
    fn set_below(&self, below: Device) {
        let _ = below;
    }

    /// Writes guest bytes. Several threads may write different ranges at once.
    fn write(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Makes a guest range read as zeros, storing as little as the format can (falling through to nothing below).
    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()>;

    /// Stores the unit at `offset` (one whole unit, or the last of the disk) compressed; `data` is the plain content. Formats
    /// without compression say `Unsupported`.
    fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<()> {
        let _ = (offset, data);
        Err(Error::unsupported("this format does not store compressed data"))
    }

    /// Compresses one unit without storing it, so that several threads may prepare what one thread then hands to
    /// [`DiskWriter::write_packed`] in order. Only for [`DiskWriter::sequential`] writers; others compress in `write_compressed`.
    fn pack(&self, data: &[u8]) -> Result<Vec<u8>> {
        let _ = data;
        Err(Error::unsupported("this format does not store compressed data"))
    }

    /// Stores what [`DiskWriter::pack`] made of the unit at `offset`.
    fn write_packed(&self, offset: u64, packed: &[u8]) -> Result<()> {
        let _ = (offset, packed);
        Err(Error::unsupported("this format does not store compressed data"))
    }

    /// True when units must come in ascending order, each once (streamOptimized VMDK).
    fn sequential(&self) -> bool {
        false
    }

    /// Makes everything written so far durable and the image consistent, so that a copy can go on from here after a crash.
    fn flush(&self) -> Result<()>;

    /// Writes what stands at the end (footers, markers, counts) and flushes. Nothing may be written after it.
    fn finish(&self) -> Result<()> {
        self.flush()
    }

    /// Keeps these dirty bitmaps in the image, bits as [`Image::bitmap`] hands them out, for a disk of the same size. Asked once,
    /// after all content is written: what is written later makes them worthless.
    ///
    /// Errors: `Unsupported` where the format has no bitmaps.
    fn add_bitmaps(&self, bitmaps: &[(Bitmap, Device)]) -> Result<()> {
        let _ = bitmaps;
        Err(Error::unsupported("this format has no dirty bitmaps"))
    }

    /// Changes the virtual size in place. Formats that cannot say `Unsupported`.
    fn resize(&self, size: u64) -> Result<()> {
        let _ = size;
        Err(Error::unsupported("this format cannot be resized in place"))
    }

    /// True when a disk of `size` bytes needs other files than it has, or fewer: [`DiskWriter::resize_split`] makes the change then.
    fn is_split(&self, size: u64) -> bool {
        let _ = size;
        false
    }

    /// Prepares another size of a disk that is split over several files: `files` are new ones beside the old, the image file itself
    /// among them, and nothing refers to them yet. The caller gives them their names, opens the image again, calls
    /// [`DiskWriter::resize`] with the size it then has, which tidies up, and removes the files named in the answer.
    fn resize_split(&self, size: u64, files: &dyn NewFiles) -> Result<Vec<String>> {
        let _ = (size, files);
        Err(Error::unsupported("this disk is not split over several files"))
    }

    /// Reserves host space, as `how` says, for the guest bytes from `from` to the end of the disk, which read as zeros. Asked after
    /// [`DiskWriter::resize`], so that what fails or is cut short leaves a disk of the new size with less reserved; asked with the
    /// end of the disk it reserves nothing and only says whether it could.
    ///
    /// Errors: `Unsupported` where the format cannot reserve in that way.
    fn preallocate(&self, from: u64, how: Preallocation) -> Result<()> {
        let _ = from;
        match how {
            Preallocation::Off => Ok(()),
            _ => Err(Error::unsupported("nothing can be reserved in this format").hint("leave out --preallocation")),
        }
    }

    /// From here on nothing by which children recognise their parent changes (VMDK content id, VDI modification UUID, VHDX
    /// data-write GUID): the caller sees to it that whoever stands on the image goes on seeing what it saw.
    fn keep_identity(&self) {}

    /// Lets go of all guest data of this layer, durably, so that what lies below shows through; the space goes back to the host
    /// where that is easy. At any cut each unit is still held or let go of.
    fn clear(&self) -> Result<()> {
        Err(Error::unsupported("images of this format cannot be emptied in place"))
    }

    /// Makes what the image file stores outside anything it refers to read as zeros, durably: space lost when a writer was cut off,
    /// or let go of without being wiped. How many bytes that were. Formats that do not lose space have nothing to do.
    fn wipe_unused(&self) -> Result<u64> {
        Ok(0)
    }

    /// Records that the image stands on `backing`, or on nothing, durably; at any cut it names the old parent or the new one.
    /// Content is not looked at. The last thing that is done with a writer.
    fn set_backing(&self, backing: Option<&NewBacking>) -> Result<()> {
        let _ = backing;
        Err(Error::unsupported("images of this format stand on nothing"))
    }

    /// The same image for reading, seeing what was written (for tests, verification and commits).
    fn reader(&self) -> Arc<dyn Image>;
}
