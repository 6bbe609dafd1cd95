//! QEMU copy-on-write, version 1: two levels of tables, compressed clusters, a backing file, no reference counts.
//!
//! Owns the format's row and its probe. The structures are in [`header`] and [`tables`], reading is in [`image`], writing in `write`.

pub mod check;
pub mod header;
pub mod image;
pub mod repair;
pub mod tables;
mod write;

use super::probe::{Match, Probe};
use super::{Caps, Format, FormatEntry, Guide};
use crate::engine::io::bytes::be32;
use header::{MAGIC, VERSION};

/// Its row in the table of formats.
pub static ENTRY: FormatEntry = FormatEntry {
    format: Format::Qcow,
    name: "qcow",
    driver: "qcow",
    title: "QEMU copy-on-write, version 1",
    extensions: &["qcow"],
    caps: Caps {
        read: true,
        write: true,
        create: true,
        backing: true,
        compression: true,
        encryption: true,
        sparse: true,
        check: true,
        repair: true,
        ..Caps::NONE
    },
    guide: Guide {
        what: "QEMU's first growing disk: clusters are added to the end of the file as the guest writes them.",
        origin: "QEMU 0.6 (2004); qcow2 took its place in 2006.",
        used_by: "Old QEMU and Xen installations; today's QEMU still reads and writes it.",
        choose: "Only to open old images. Convert them to qcow2, which can do all of it and more.",
    },
    probe,
    open: image::open,
    options: &[],
    create: Some(write::create),
    open_write: Some(write::open_write),
};

fn probe(p: &Probe<'_>) -> Option<Match> {
    if be32(p.head, 0)? == MAGIC && be32(p.head, 4)? == VERSION {
        return Match::certain(Format::Qcow, "'QFI\\xfb' and version 1 at byte 0");
    }
    None
}
