//! User-mode Linux copy-on-write, version 2: a bitmap of sectors over a backing file. Nothing else reads it any more.
//!
//! Owns the format's row and its probe. [`header`] and [`bitmap`] have the structures, [`image`] reads,
//! `write` writes.

pub mod bitmap;
pub mod check;
pub mod header;
pub mod image;
pub mod repair;
mod write;

use super::probe::{Match, Probe};
use super::{Caps, Format, FormatEntry, Guide};
use header::Flavour;

/// Its row in the table of formats.
pub static ENTRY: FormatEntry = FormatEntry {
    format: Format::Cow,
    name: "cow",
    driver: "cow",
    title: "User-mode Linux copy-on-write, version 2",
    extensions: &["cow"],
    caps: Caps { read: true, write: true, create: true, backing: true, sparse: true, check: true, repair: true, ..Caps::NONE },
    guide: Guide {
        what: "Changes against a read-only disk: one bit per sector says whether the sector is in this file.",
        origin: "User-mode Linux (2001); QEMU wrote version 2 until it dropped the format in 2014.",
        used_by: "User-mode Linux, and archives of QEMU images from before qcow2.",
        choose: "Only to rescue old images. Convert them to qcow2.",
    },
    probe,
    open: image::open,
    options: &[],
    create: Some(write::create),
    open_write: Some(write::open_write),
};

fn probe(p: &Probe<'_>) -> Option<Match> {
    let seen = match Flavour::of(p.head)? {
        Flavour::Version2 => "'OOOM' and version 2 at byte 0",
        Flavour::Version1 => "the copy-on-write magic and version 1 at byte 0",
        Flavour::Version3 => "'OOOM' and version 3 at byte 0",
    };
    Match::certain(Format::Cow, seen)
}
