//! VMware virtual disks: a text descriptor (a file of its own, or inside the sparse file) and the extents it names.
//!
//! Read are monolithic and split disks, flat and sparse, stream-optimised ones with the directory in front or named by the
//! footer, ESX's vmfs, vmfsSparse (COWD) and seSparse, versions 1 to 3, and extents opened alone. An extent marked NOACCESS keeps
//! its place on the disk, is not opened, and reads as zeros. Extent files are opened through the gate only.
//!
//! ```text
//!  descriptor ──▶ extent lines ──▶ FLAT, VMFS ─▶ file at offset
//!      │               │           ZERO ───────▶ zeros
//!      ▼               └─────────▶ SPARSE, … ──▶ grain directory ─▶ grain table ─▶ grain
//!  CID, parent                                   (cached pages; redundant copy)
//! ```

mod check;
mod compose;
mod cowd;
mod create;
mod describe;
mod descriptor;
mod extent;
mod grains;
mod hosted;
mod image;
mod options;
mod pages;
mod repair;
mod reparent;
mod resize;
mod sesparse;
mod sparse;
mod split;
mod stream;
mod streamout;
mod writer;

use super::check::CheckReport;
use super::probe::{Match, Probe};
use super::{Caps, Format, FormatEntry, Guide, Source};
use crate::engine::io::bytes::{array, le32, le64};

/// Its row in the table of formats.
pub static ENTRY: FormatEntry = FormatEntry {
    format: Format::Vmdk,
    name: "vmdk",
    driver: "vmdk",
    title: "VMware virtual disk",
    extensions: &["vmdk"],
    caps: Caps {
        read: true,
        write: true,
        create: true,
        backing: true,
        compression: true,
        encryption: true,
        sparse: true,
        resize: true,
        check: true,
        repair: true,
        ..Caps::NONE
    },
    guide: Guide {
        what: "A text descriptor and one or more extents, flat or sparse; in the commonest kinds all in one file. Snapshots of a VM \
            are child disks that know their parent by its content id.",
        origin: "VMware Workstation and GSX, 1999; ESX added its own kinds; streamOptimized came with OVF.",
        used_by: "VMware Workstation, Fusion, ESXi; VirtualBox; QEMU; OVA packages and most clouds' import (streamOptimized).",
        choose: "To hand a disk to VMware, VirtualBox or an importer of OVA. For daily work on QEMU, qcow2 does more; \
            streamOptimized is for transport and cannot be written in place.",
    },
    probe,
    open: image::open,
    options: options::OPTIONS,
    create: Some(create::create),
    open_write: Some(writer::open_write),
};

/// Checks the image. Only reads.
///
/// Errors: the descriptor or the header of the image file cannot be read.
pub fn check(source: &Source) -> crate::engine::error::Result<CheckReport> {
    check::check(source)
}

/// Mends the grain directories and the redundant tables, as far as that is certain.
///
/// Errors: as [`check`]; what is to change cannot be saved or written.
pub fn repair(r: &super::check::Repairing<'_>) -> crate::engine::error::Result<super::check::Repaired> {
    repair::repair(r)
}

fn probe(p: &Probe<'_>) -> Option<Match> {
    let evidence = match array::<4>(p.head, 0) {
        Some(sparse::MAGIC) => {
            let version = le32(p.head, 4)?;
            format!("bytes 0-3 are 'KDMV' (hosted sparse extent, version {version})")
        }
        Some(cowd::MAGIC) => format!("bytes 0-3 are 'COWD' (ESX copy-on-write extent, version {})", le32(p.head, 4)?),
        _ if le64(p.head, 0) == Some(sesparse::MAGIC) => "bytes 0-7 are cafebabe, little-endian (seSparse extent)".to_string(),
        _ => format!("text descriptor: {}", descriptor::looks_like_one(p.head)?),
    };
    Match::certain(Format::Vmdk, evidence)
}
