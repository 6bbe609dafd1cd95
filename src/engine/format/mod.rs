//! Formats: one folder or file each, all behind the traits below; `FORMATS` is the one table of what each can do.
//!
//! A format knows only the block layer ([`crate::engine::io`]). It reads headers and tables with checked arithmetic, bounded by
//! the length of the file, and never panics on what it finds. It does not resolve its own backing file: that is the chain's work.

pub mod amazon;
pub mod blocks;
pub mod check;
pub mod cow;
pub mod crypto;
pub mod front;
pub mod iso;
pub mod lost;
pub mod named;
pub mod probe;
pub mod qcow;
pub mod qcow2;
pub mod ranges;
pub mod raw;
pub mod rules;
pub mod table;
#[cfg(test)]
pub(crate) mod testing;
pub mod uses;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;
pub mod windows;
pub mod write;

use std::path::PathBuf;
use std::sync::Arc;

use super::error::{Error, Result};
use super::io::gate::Gate;
use super::io::{Device, read_padded};
use super::model::{BackingRef, Description, Kind, Mapping};
use probe::{Match, Probe};
use write::{CreateFn, OpenWriteFn, OptionSpec};

/// A disk image format, or something that is recognised as none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Plain bytes.
    Raw,
    /// QEMU copy-on-write, versions 2 and 3.
    Qcow2,
    /// QEMU copy-on-write, version 1.
    Qcow,
    /// User-mode Linux copy-on-write, version 2.
    Cow,
    /// VMware virtual disk.
    Vmdk,
    /// VirtualBox disk image.
    Vdi,
    /// Virtual PC and Hyper-V generation 1 (`vpc` to QEMU).
    Vhd,
    /// Hyper-V generation 2.
    Vhdx,
    /// Optical disc: ISO 9660 or UDF.
    Iso,
    /// Amazon machine image: a bare filesystem.
    Ami,
    /// Amazon kernel image.
    Aki,
    /// Amazon ramdisk image.
    Ari,
    /// LUKS container (recognised, not read).
    Luks,
    /// QEMU enhanced disk (recognised, not read).
    Qed,
    /// Parallels (recognised, not read).
    Parallels,
    /// Bochs growing disk (recognised, not read).
    Bochs,
    /// Compressed loop (recognised, not read).
    Cloop,
    /// Apple disk image (recognised, not read).
    Dmg,
}

impl Format {
    /// Its row in the table.
    pub fn entry(self) -> &'static FormatEntry {
        // Every format has a row (a test proves it); raw stands in so that this cannot fail.
        FORMATS.iter().find(|e| e.format == self).copied().unwrap_or(&raw::ENTRY)
    }
    /// What people and clouds call it: `raw`, `qcow2`, `vhd`, …
    pub fn name(self) -> &'static str {
        self.entry().name
    }
    /// QEMU's driver name: `vpc` for a VHD, `raw` for iso and the Amazon kinds.
    pub fn driver(self) -> &'static str {
        self.entry().driver
    }
    /// The format called `name`, by either name, any case.
    ///
    /// Errors: no such format; the hint lists those there are.
    pub fn parse(name: &str) -> Result<Format> {
        let n = name.to_ascii_lowercase();
        FORMATS.iter().find(|e| e.name == n).or_else(|| FORMATS.iter().find(|e| e.driver == n)).map(|e| e.format).ok_or_else(
            || {
                let all: Vec<_> = FORMATS.iter().map(|e| e.name).collect();
                Error::usage(format!("there is no format '{name}'")).hint(format!("one of: {}", all.join(", ")))
            },
        )
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What cowshed can do with a format today. Feeds `cowshed formats`, the format guide and the README.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Caps {
    /// Its content can be read.
    pub read: bool,
    /// Guest data can be written in place.
    pub write: bool,
    /// New images can be made (create, and convert to it).
    pub create: bool,
    /// It can hold internal snapshots.
    pub snapshots: bool,
    /// It can stand on a backing file or parent.
    pub backing: bool,
    /// It can store data compressed.
    pub compression: bool,
    /// It can hold encrypted content (which cowshed recognises).
    pub encryption: bool,
    /// It stores only what is used.
    pub sparse: bool,
    /// cowshed can resize it.
    pub resize: bool,
    /// cowshed can check it.
    pub check: bool,
    /// cowshed can repair it.
    pub repair: bool,
}

impl Caps {
    /// Nothing at all; rows name what there is.
    pub const NONE: Caps = Caps {
        read: false,
        write: false,
        create: false,
        snapshots: false,
        backing: false,
        compression: false,
        encryption: false,
        sparse: false,
        resize: false,
        check: false,
        repair: false,
    };
}

/// The words of the format guide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Guide {
    /// What it is.
    pub what: &'static str,
    /// Where it comes from.
    pub origin: &'static str,
    /// Which hypervisors and clouds use it.
    pub used_by: &'static str,
    /// When to choose it, and when not.
    pub choose: &'static str,
}

/// A row of the table of formats.
pub struct FormatEntry {
    /// Which.
    pub format: Format,
    /// What people and clouds call it.
    pub name: &'static str,
    /// QEMU's driver name.
    pub driver: &'static str,
    /// Name in full.
    pub title: &'static str,
    /// Usual extensions, without the dot. Only a hint to warn on a mismatch.
    pub extensions: &'static [&'static str],
    /// What cowshed can do with it.
    pub caps: Caps,
    /// The words of the guide.
    pub guide: Guide,
    /// Looks for it in a file's first and last bytes.
    pub probe: fn(&Probe<'_>) -> Option<Match>,
    /// Opens it for reading.
    pub open: fn(Source) -> Result<Arc<dyn Image>>,
    /// The options of `create -o`, named as `qemu-img create -o help` names them.
    pub options: &'static [OptionSpec],
    /// Makes a new image, where cowshed can.
    pub create: Option<CreateFn>,
    /// Opens an image for writing guest data in place, where cowshed can.
    pub open_write: Option<OpenWriteFn>,
}

/// Every format, in the order people think of them. The order is also that of probing.
pub static FORMATS: &[&FormatEntry] = &[
    &raw::ENTRY,
    &qcow2::ENTRY,
    &qcow::ENTRY,
    &cow::ENTRY,
    &vmdk::ENTRY,
    &vdi::ENTRY,
    &vhd::ENTRY,
    &vhdx::ENTRY,
    &iso::ENTRY,
    &amazon::AMI,
    &amazon::AKI,
    &amazon::ARI,
    &crypto::LUKS,
    &named::QED,
    &named::PARALLELS,
    &named::BOCHS,
    &named::CLOOP,
    &named::DMG,
];

/// What a format is opened from.
#[derive(Clone)]
pub struct Source {
    /// The image file.
    pub dev: Device,
    /// Where it is, for names relative to it.
    pub path: PathBuf,
    /// Which files it names may be opened (data files, extents).
    pub gate: Gate,
}

/// An open image file: one layer of a disk, without what lies below it. Shared by readers on any thread.
pub trait Image: Send + Sync {
    /// Its format.
    fn format(&self) -> Format;

    /// Virtual size in bytes: what a guest sees.
    fn size(&self) -> u64;

    /// The host files [`Mapping`] places point into; the image file itself is the first.
    fn files(&self) -> Vec<Device>;

    /// What this layer holds from guest byte `offset` on, at most `max` bytes (`max` > 0, `offset < size`). The answer is as
    /// long as it can cheaply be made, so that large runs cost few calls; never longer than `max`, never 0.
    fn map(&self, offset: u64, max: u64) -> Result<Mapping>;

    /// Fills `buf` with this layer's own bytes from `offset` on; what it does not hold becomes zeros. The range lies within
    /// the disk. Compressed units are decoded here.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        read_mapped(self, offset, buf)
    }

    /// The reference to what it stands on, if any.
    fn backing(&self) -> Option<BackingRef> {
        None
    }

    /// All it says about itself.
    fn describe(&self) -> Arc<Description>;

    /// The internal snapshot called `which` (id or name) as a disk of its own.
    ///
    /// Errors: there is none of that name, or the format has no snapshots.
    fn snapshot(&self, which: &str) -> Result<Arc<dyn Image>> {
        Err(Error::usage(format!("there is no snapshot '{which}': {} images have no internal snapshots", self.format())))
    }

    /// The bits of the dirty bitmap called `name`, as bytes: bit `n` is bit `n % 8` of byte `n / 8`, and stands for its granularity
    /// of guest bytes.
    ///
    /// Errors: there is none of that name, or the format has no bitmaps.
    fn bitmap(&self, name: &str) -> Result<Device> {
        Err(Error::usage(format!("there is no bitmap '{name}': {} images have no bitmaps", self.format())))
    }

    /// True when much of what `map` calls data was never written, so that the host file has holes there (metadata
    /// preallocated, a static image): a map that tells zeros asks the host for its holes too, as QEMU does then.
    fn holes_under_data(&self) -> bool {
        false
    }

    /// For an image that is written once and never changed in place: the `-o` options that make another of its kind.
    fn remade_with(&self) -> Option<Vec<(String, String)>> {
        None
    }

    /// Refuses content that cannot be read (encrypted). Asked once before reading guest data.
    fn readable(&self) -> Result<()> {
        match &self.describe().encrypted {
            Some(how) => Err(Error::unsupported(format!("its content is encrypted ({how}), which cannot be read yet"))),
            None => Ok(()),
        }
    }
}

/// The default of [`Image::read`] for layers without compressed units: follows `map` to plain bytes.
pub fn read_mapped<I: Image + ?Sized>(image: &I, offset: u64, buf: &mut [u8]) -> Result<()> {
    let files = image.files();
    let mut done = 0usize;
    while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
        let m = image.map(offset + done as u64, rest.len() as u64)?;
        let n = (m.len.min(rest.len() as u64)) as usize;
        let Some(part) = rest.get_mut(..n).filter(|p| !p.is_empty()) else {
            return Err(Error::new(super::error::ErrorKind::Internal, "a mapping of no length"));
        };
        match (m.kind, m.place) {
            (Kind::Data, Some(place)) => match files.get(place.file) {
                Some(dev) => read_padded(dev.as_ref(), place.offset, part)?,
                None => return Err(Error::new(super::error::ErrorKind::Internal, "a mapping into no file")),
            },
            (Kind::Zero | Kind::Unallocated, _) => part.fill(0),
            _ => return Err(Error::new(super::error::ErrorKind::Internal, "a compressed unit where none can be")),
        }
        done += n;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_its_row_and_its_names_are_its_own() {
        for e in FORMATS {
            assert_eq!(e.format.entry().format, e.format);
            assert_eq!(Format::parse(e.name).unwrap(), e.format);
        }
        let mut names: Vec<_> = FORMATS.iter().map(|e| e.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FORMATS.len());
        assert_eq!(Format::parse("vpc").unwrap(), Format::Vhd);
        assert_eq!(Format::parse("RAW").unwrap(), Format::Raw);
    }
}
