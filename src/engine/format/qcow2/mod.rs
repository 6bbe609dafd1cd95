//! qcow2, versions 2 and 3: QEMU's own format. Each structure has a file here; `image` reads guest data through them,
//! `writer` keeps them in memory for writing and says in which order changes reach the file.
//!
//! ```text
//!  header ─▶ L1 table ─▶ L2 tables ─▶ data clusters (here, packed, or in an external data file)
//!     ├────▶ refcount table ─▶ refcount blocks      one count for every cluster of the file
//!     ├────▶ snapshot table ─▶ L1 tables of their own
//!     └────▶ extensions ─▶ bitmap directory, LUKS header, data file, backing format, feature names
//! ```

pub mod add_bitmaps;
pub mod allocation;
pub mod amend;
pub mod bitmaps;
pub mod block;
pub mod cache;
pub mod check;
pub mod clear;
pub mod compression;
pub mod create;
pub mod describe;
pub mod diff;
pub mod edit;
pub mod encryption;
pub mod extensions;
pub mod head;
pub mod header;
pub mod holes;
pub mod image;
pub mod lineage;
pub mod live;
pub mod refcounts;
pub mod repair;
pub mod reparent;
pub mod resize;
pub mod resize_bitmaps;
pub mod snapshots;
pub mod stored;
pub mod tables;
pub mod track;
pub mod unused;
pub mod usage;
pub mod write;
pub mod writer;
pub mod zero;

use std::sync::Arc;

use super::probe::{Match, Probe};
use super::write::{DiskWriter, WriteSource};
use super::{Caps, Format, FormatEntry, Guide, Image, Source};
use crate::engine::error::Result;
use crate::engine::io::bytes::be32;

/// Its row in the table of formats.
pub static ENTRY: FormatEntry = FormatEntry {
    format: Format::Qcow2,
    name: "qcow2",
    driver: "qcow2",
    title: "QEMU copy-on-write, versions 2 and 3",
    extensions: &["qcow2", "qcow", "q2", "snapshot"],
    caps: Caps {
        read: true,
        write: true,
        create: true,
        snapshots: true,
        backing: true,
        compression: true,
        encryption: true,
        sparse: true,
        resize: true,
        check: true,
        repair: true,
    },
    guide: Guide {
        what: "A disk kept in clusters: only what the guest wrote takes space. It can stand on a backing file and store only \
               the differences, keep snapshots inside itself, compress clusters and remember which parts changed (bitmaps).",
        origin: "Made for QEMU in 2008; version 3 (called compat 1.1) came in 2012 and is what tools make today.",
        used_by: "QEMU/KVM, libvirt, Proxmox VE, OpenStack, oVirt, KubeVirt, Xen, UTM; most cloud images are downloads in it.",
        choose: "The default for KVM: snapshots, overlays on a common base, small files. Choose raw where a host volume or \
                 top speed is wanted, and VMDK or VHDX where VMware or Hyper-V must read it.",
    },
    probe,
    open,
    options: create::OPTIONS,
    create: Some(create::create),
    open_write: Some(open_write),
};

fn probe(p: &Probe<'_>) -> Option<Match> {
    if p.head.get(..4)? != header::MAGIC {
        return None;
    }
    // Version 1 is another format. Versions that nobody has made yet are still qcow2, and refused by name on opening.
    match be32(p.head, 4)? {
        version @ 2.. => Match::certain(Format::Qcow2, format!("QFI\\xfb with version {version} at byte 0")),
        _ => None,
    }
}

fn open(source: Source) -> Result<Arc<dyn Image>> {
    Ok(Arc::new(image::Qcow2::open(source)?))
}

fn open_write(from: WriteSource) -> Result<Arc<dyn DiskWriter>> {
    Ok(Arc::new(writer::Writer::open(from)?))
}
