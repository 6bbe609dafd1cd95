//! The Amazon kinds, recognised by content as their names say nothing: a bare filesystem (ami), a kernel (aki), an initramfs
//! (ari). All are read as raw bytes.
//!
//! Owns the three rows. What is looked for is in [`filesystem`], [`kernel`] and [`initramfs`]; [`peek`] unpacks the head of a
//! compressed stream. They answer "likely", never "certain": a disk may hold the same bytes.

pub mod filesystem;
pub mod initramfs;
pub mod kernel;
mod lzma;
pub mod members;
pub mod peek;

use std::sync::Arc;

use super::front::Front;
use super::probe::{Match, Probe};
use super::raw::Raw;
use super::{Caps, Format, FormatEntry, Guide, Image, Source};
use crate::engine::error::Result;
use crate::engine::io::{ReadAt, read_up_to};
use crate::engine::limits::PROBE_HEAD;
use crate::engine::model::{Description, Fact};

/// What was recognised: why, and what to tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What was seen, and where.
    pub evidence: String,
    /// Facts for people.
    pub facts: Vec<Fact>,
    /// What does not fit.
    pub warnings: Vec<String>,
}

impl Seen {
    fn because(evidence: impl Into<String>) -> Seen {
        Seen { evidence: evidence.into(), facts: Vec::new(), warnings: Vec::new() }
    }
    fn fact(mut self, label: &'static str, value: impl Into<String>) -> Seen {
        self.facts.push(Fact { label, value: value.into() });
        self
    }
}

fn ami(head: &[u8], dev: &dyn ReadAt) -> Option<Seen> {
    // A disk with partitions is a disk, whatever lies in the gap before them.
    if Front::of(head).any() { None } else { filesystem::recognise(head, dev.len()) }
}

fn probed(format: Format, seen: Option<Seen>) -> Option<Match> {
    Match::likely(format, seen?.evidence)
}

/// Opens as raw bytes, with what is seen as its facts; someone may ask for the kind where nothing is recognised.
fn open(source: Source, format: Format, recognise: fn(&[u8], &dyn ReadAt) -> Option<Seen>) -> Result<Arc<dyn Image>> {
    let head = read_up_to(source.dev.as_ref(), 0, PROBE_HEAD)?;
    let description = match recognise(&head, source.dev.as_ref()) {
        Some(seen) => {
            let mut facts = vec![Fact { label: "recognised by", value: seen.evidence }];
            facts.extend(seen.facts);
            Description { facts, warnings: seen.warnings, ..Description::default() }
        }
        None => Description {
            warnings: vec![format!("nothing in it looks like an {format} image; it is read as raw bytes")],
            ..Description::default()
        },
    };
    Ok(Arc::new(Raw::with(vec![source.dev], format, description)))
}

/// A bare filesystem's row in the table of formats.
pub static AMI: FormatEntry = FormatEntry {
    format: Format::Ami,
    name: "ami",
    driver: "raw",
    title: "Amazon machine image (a bare filesystem)",
    extensions: &["ami"],
    caps: Caps { read: true, sparse: true, ..Caps::NONE },
    guide: Guide {
        what: "A root filesystem as raw bytes, without a partition table: ext4, XFS or Btrfs from the first byte on.",
        origin: "Amazon EC2's first machine images (2006), booted with a separate kernel and ramdisk.",
        used_by: "OpenStack Glance (disk_format ami), Xen guests with an external kernel, container root disks.",
        choose: "When the hypervisor brings the kernel. To boot on its own, an image needs a partition table or a boot sector.",
    },
    probe: |p| probed(Format::Ami, ami(p.head, p.dev)),
    open: |s| open(s, Format::Ami, ami),
    options: &[],
    create: None,
    open_write: None,
};

/// A kernel's row in the table of formats.
pub static AKI: FormatEntry = FormatEntry {
    format: Format::Aki,
    name: "aki",
    driver: "raw",
    title: "Amazon kernel image",
    extensions: &["aki"],
    caps: Caps { read: true, ..Caps::NONE },
    guide: Guide {
        what: "A Linux kernel as a file: bzImage, an arm64 or RISC-V Image, an ELF vmlinux, or one of these gzip'd.",
        origin: "Amazon EC2, for machine images without a boot loader.",
        used_by: "OpenStack Glance (disk_format aki), direct kernel boot in QEMU, Firecracker, Cloud Hypervisor.",
        choose: "To boot a bare filesystem (ami) directly. It is no disk; do not convert it.",
    },
    probe: |p| probed(Format::Aki, kernel::recognise(p.head, p.dev)),
    open: |s| open(s, Format::Aki, kernel::recognise),
    options: &[],
    create: None,
    open_write: None,
};

/// A ramdisk's row in the table of formats.
pub static ARI: FormatEntry = FormatEntry {
    format: Format::Ari,
    name: "ari",
    driver: "raw",
    title: "Amazon ramdisk image (initramfs)",
    extensions: &["ari"],
    caps: Caps { read: true, ..Caps::NONE },
    guide: Guide {
        what: "A cpio archive, plain or compressed, often with CPU microcode in a first archive of its own.",
        origin: "Linux's initramfs; Amazon EC2 gave it a name as an image of its own.",
        used_by: "OpenStack Glance (disk_format ari), every direct kernel boot.",
        choose: "Together with a kernel image (aki). It is no disk; do not convert it.",
    },
    probe: |p: &Probe<'_>| probed(Format::Ari, initramfs::recognise(p.head, p.dev)),
    open: |s| open(s, Format::Ari, initramfs::recognise),
    options: &[],
    create: None,
    open_write: None,
};
