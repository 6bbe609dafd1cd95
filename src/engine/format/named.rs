//! Formats recognised by name: their headers are read and described, their content is refused, with the way out.

use std::sync::Arc;

use super::probe::{Match, Probe};
use super::{Caps, Format, FormatEntry, Guide, Image, Source};
use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{be32, be64, le32, le64};
use crate::engine::io::{Device, read_up_to};
use crate::engine::limits::MAX_NAME;
use crate::engine::model::{BackingRef, Description, Fact, Mapping};
use crate::engine::units::SECTOR;

/// What a header says.
#[derive(Default)]
struct Known {
    /// Virtual size in bytes.
    size: u64,
    /// Bytes of a cluster or block, where it has any.
    cluster: Option<u64>,
    /// What it stands on.
    backing: Option<BackingRef>,
    /// It was not closed properly.
    dirty: bool,
    facts: Vec<Fact>,
}

/// An image that is described and not read.
struct Named {
    format: Format,
    what: &'static str,
    dev: Device,
    size: u64,
    backing: Option<BackingRef>,
    description: Arc<Description>,
}

impl Named {
    fn open(
        format: Format,
        what: &'static str,
        read: fn(&[u8], &Device) -> Option<Known>,
        source: Source,
    ) -> Result<Arc<dyn Image>> {
        let head = read_up_to(source.dev.as_ref(), 0, HEAD)?;
        let known = read(&head, &source.dev).ok_or_else(|| {
            Error::corrupt(format!("the header of {what} is cut short or makes no sense")).op("open").path(&source.path)
        })?;
        let mut facts = known.facts;
        facts.push(Fact { label: "content", value: "recognised, not read".into() });
        let description = Description { cluster_size: known.cluster, dirty: known.dirty, facts, ..Description::default() };
        let Known { size, backing, .. } = known;
        Ok(Arc::new(Named { format, what, dev: source.dev, size, backing, description: Arc::new(description) }))
    }

    /// What the refusals share: the way out is the reference tool.
    fn refusal(&self) -> Error {
        Error::unsupported(format!("it is {}, which cowshed recognises and does not read", self.what))
            .op("open")
            .hint(format!("convert it first: qemu-img convert -f {} -O qcow2 IN OUT", self.format.driver()))
    }
}

impl Image for Named {
    fn format(&self) -> Format {
        self.format
    }
    fn size(&self) -> u64 {
        self.size
    }
    fn files(&self) -> Vec<Device> {
        vec![self.dev.clone()]
    }
    fn map(&self, _: u64, _: u64) -> Result<Mapping> {
        Err(self.refusal())
    }
    fn backing(&self) -> Option<BackingRef> {
        self.backing.clone()
    }
    fn describe(&self) -> Arc<Description> {
        self.description.clone()
    }
    fn readable(&self) -> Result<()> {
        Err(self.refusal())
    }
}

/// Bytes of a header that are looked at: that of QED with the name of its backing file in the first cluster, mostly.
const HEAD: usize = 64 << 10;

/// QED, little-endian (QEMU: docs/interop/qed_spec.txt).
fn qed(b: &[u8], dev: &Device) -> Option<Known> {
    let (cluster, features, size) = (u64::from(le32(b, 4)?), le64(b, 16)?, le64(b, 48)?);
    if !cluster.is_power_of_two() || !(4096..=64 << 20).contains(&cluster) {
        return None;
    }
    let mut known = Known { size, cluster: Some(cluster), dirty: features & 2 != 0, ..Known::default() };
    if features & 1 != 0 {
        let (at, len) = (u64::from(le32(b, 56)?), le32(b, 60)? as usize);
        let name = read_up_to(dev.as_ref(), at, len.min(MAX_NAME)).ok()?;
        let format = (features & 4 != 0).then(|| "raw".to_string());
        let names = vec![String::from_utf8_lossy(&name).into_owned()];
        known.backing = Some(BackingRef { names, format, identity: Default::default() });
    }
    Some(known)
}

/// Parallels, little-endian (QEMU: docs/interop/parallels.txt).
fn parallels(b: &[u8], _: &Device) -> Option<Known> {
    let sectors = le64(b, 36)?;
    // The older kind has 32 bits for the size and something else behind them.
    let sectors = if b.starts_with(b"WithoutFreeSpace") { sectors & 0xffff_ffff } else { sectors };
    let block = u64::from(le32(b, 28)?).checked_mul(SECTOR)?;
    let facts = vec![
        Fact { label: "version", value: le32(b, 16)?.to_string() },
        Fact { label: "block size", value: format!("{block} bytes") },
    ];
    // "In use" is written on opening and taken back on closing.
    Some(Known { size: sectors.checked_mul(SECTOR)?, dirty: le32(b, 44)? == 0x746f_6e59, facts, ..Known::default() })
}

/// Bochs' redolog, little-endian (QEMU: block/bochs.c).
fn bochs(b: &[u8], _: &Device) -> Option<Known> {
    let text = |at: usize| {
        crate::engine::units::printable_bytes(crate::engine::io::bytes::until_nul(b.get(at..at + 16).unwrap_or_default()))
    };
    let size = match le32(b, 64)? {
        0x0001_0000 => le64(b, 84)?,
        0x0002_0000 => le64(b, 88)?,
        _ => return None,
    };
    let facts = vec![
        Fact { label: "type", value: format!("{} {}", text(32), text(48)) },
        Fact { label: "extent size", value: format!("{} bytes", le32(b, 80)?) },
    ];
    Some(Known { size, facts, ..Known::default() })
}

/// cloop, big-endian: behind the script the size of a block and their number (QEMU: block/cloop.c).
fn cloop(b: &[u8], _: &Device) -> Option<Known> {
    let (block, blocks) = (u64::from(be32(b, 128)?), u64::from(be32(b, 132)?));
    let facts = vec![Fact { label: "block size", value: format!("{block} bytes, compressed") }];
    Some(Known { size: block.checked_mul(blocks)?, facts, ..Known::default() })
}

/// UDIF's trailer, big-endian: the sectors of the disk at byte 492 of its 512.
fn dmg(_: &[u8], dev: &Device) -> Option<Known> {
    let trailer = read_up_to(dev.as_ref(), dev.len().checked_sub(512)?, 512).ok()?;
    let facts = vec![Fact { label: "version", value: be32(&trailer, 4)?.to_string() }];
    Some(Known { size: be64(&trailer, 492)?.checked_mul(SECTOR).filter(|n| *n <= i64::MAX as u64)?, facts, ..Known::default() })
}

/// A row for a format that is only recognised.
macro_rules! named {
    ($(#[$doc:meta])* $row:ident, $format:ident, $driver:literal, $title:literal, $what:literal, $extensions:expr, $guide:expr, $read:ident, $probe:expr) => {
        $(#[$doc])*
        pub static $row: FormatEntry = FormatEntry {
            format: Format::$format,
            name: $driver,
            driver: $driver,
            title: $title,
            extensions: $extensions,
            caps: Caps::NONE,
            guide: $guide,
            probe: $probe,
            open: |source: Source| -> Result<Arc<dyn Image>> { Named::open(Format::$format, $what, $read, source) },
            options: &[],
            create: None,
            open_write: None,
        };
    };
}

named!(
    /// QEMU enhanced disk.
    QED, Qed, "qed", "QEMU enhanced disk", "a QED image", &["qed"],
    Guide {
        what: "A growing disk with two levels of tables and a backing file, simpler than qcow2.",
        origin: "QEMU 0.14 (2010), given up soon after when qcow2 version 3 became as fast.",
        used_by: "Some images from 2011 and 2012; OpenStack refuses it.",
        choose: "Never for new images; convert old ones with qemu-img.",
    },
    qed,
    |p: &Probe<'_>| if p.head.starts_with(b"QED\0") { Match::certain(Format::Qed, "'QED\\0' at byte 0") } else { None }
);

named!(
    /// Parallels disk image.
    PARALLELS, Parallels, "parallels", "Parallels disk image", "a Parallels image", &["hds", "hdd", "parallels"],
    Guide {
        what: "A growing disk in a bundle with a descriptor file, in blocks of a power of two.",
        origin: "Parallels Desktop and Virtuozzo.",
        used_by: "Parallels on the Mac, Virtuozzo and OpenVZ servers.",
        choose: "Only where Parallels runs; convert with qemu-img to move away.",
    },
    parallels,
    |p: &Probe<'_>| {
        let magic = [&b"WithoutFreeSpace"[..], b"WithouFreSpacExt"].into_iter().find(|m| p.head.starts_with(m))?;
        Match::certain(Format::Parallels, format!("'{}' at byte 0", String::from_utf8_lossy(magic)))
    }
);

named!(
    /// Bochs growing disk.
    BOCHS, Bochs, "bochs", "Bochs growing disk", "a Bochs image", &["bochs"],
    Guide {
        what: "A growing disk: a catalogue of extents, each with a bitmap.",
        origin: "The Bochs PC emulator (redolog, type Growing).",
        used_by: "Bochs.",
        choose: "Only for Bochs; convert with qemu-img or Bochs' own bximage.",
    },
    bochs,
    |p: &Probe<'_>| {
        if p.head.starts_with(b"Bochs Virtual HD Image\0") {
            Match::certain(Format::Bochs, "'Bochs Virtual HD Image' at byte 0")
        } else {
            None
        }
    }
);

/// How every cloop file begins: it is a shell script that mounts itself.
const CLOOP_MAGIC: &[u8] = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";

named!(
    /// Compressed loop image.
    CLOOP, Cloop, "cloop", "compressed loop image", "a cloop image", &["cloop"],
    Guide {
        what: "A read-only disk in compressed blocks.",
        origin: "Knoppix live CDs, from 2000 on.",
        used_by: "Old live systems; squashfs took its place.",
        choose: "Never for new images; convert old ones with qemu-img.",
    },
    cloop,
    |p: &Probe<'_>| if p.head.starts_with(CLOOP_MAGIC) { Match::certain(Format::Cloop, "the script of cloop V2.0 at byte 0") } else { None }
);

named!(
    /// Apple disk image.
    DMG, Dmg, "dmg", "Apple disk image", "an Apple disk image", &["dmg"],
    Guide {
        what: "A read-only disk in compressed blocks, with a trailer of 512 bytes at the end.",
        origin: "Mac OS X (UDIF).",
        used_by: "macOS installers and downloads.",
        choose: "Only on a Mac; elsewhere convert with qemu-img (or dmg2img).",
    },
    dmg,
    |p: &Probe<'_>| {
        let trailer = p.tail.get(p.tail.len().checked_sub(512)?..)?;
        if trailer.starts_with(b"koly") { Match::certain(Format::Dmg, "'koly' in the last sector") } else { None }
    }
);
