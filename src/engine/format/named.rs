//! Formats recognised by name and refused: what they are, and what to do with them instead.

use std::sync::Arc;

use super::probe::{Match, Probe};
use super::{Caps, Format, FormatEntry, Guide, Image, Source};
use crate::engine::error::{Error, Result};

/// What the refusals share: nothing is read, and the way out is the reference tool.
fn refuse(source: &Source, what: &str, driver: &str) -> Error {
    Error::unsupported(format!("it is {what}, which cowshed recognises and does not read"))
        .op("open")
        .path(&source.path)
        .hint(format!("convert it first: qemu-img convert -f {driver} -O qcow2 IN OUT"))
}

/// A row for a format that is only recognised.
macro_rules! named {
    ($(#[$doc:meta])* $row:ident, $format:ident, $driver:literal, $title:literal, $what:literal, $extensions:expr, $guide:expr, $probe:expr) => {
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
            open: |source: Source| -> Result<Arc<dyn Image>> { Err(refuse(&source, $what, $driver)) },
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
    |p: &Probe<'_>| {
        let trailer = p.tail.get(p.tail.len().checked_sub(512)?..)?;
        if trailer.starts_with(b"koly") { Match::certain(Format::Dmg, "'koly' in the last sector") } else { None }
    }
);
