//! LUKS containers: recognised and described; their content is refused until cowshed can unlock it.
//!
//! Owns the row of `luks`. The headers are parsed by [`luks`] (version 1, which qcow2 embeds as well) and [`luks2`].

pub mod luks;
pub mod luks2;

use std::sync::Arc;

use super::probe::{Match, Probe};
use super::raw::Raw;
use super::{Caps, Format, FormatEntry, Guide, Image, Source};
use crate::engine::error::{Context, Error, Result};
use crate::engine::io::bytes::be16;
use crate::engine::io::window::Window;
use crate::engine::io::{Device, read_up_to};

/// First bytes of both versions' primary headers.
pub const MAGIC: &[u8] = b"LUKS\xba\xbe";

/// Its row in the table of formats.
pub static LUKS: FormatEntry = FormatEntry {
    format: Format::Luks,
    name: "luks",
    driver: "luks",
    title: "LUKS encrypted disk",
    extensions: &["luks"],
    caps: Caps { encryption: true, ..Caps::NONE },
    guide: Guide {
        what: "A whole disk encrypted with a passphrase: a header with key slots, then the ciphertext.",
        origin: "Linux's cryptsetup (2004; version 2 in 2018); QEMU reads and writes version 1.",
        used_by: "Linux disks, Ceph RBD and OpenStack volumes; qcow2 holds the same inside (encrypt.format=luks).",
        choose: "When a disk must not be readable without its passphrase. cowshed describes it and cannot open it yet.",
    },
    probe,
    open,
    options: &[],
    create: None,
    open_write: None,
};

fn probe(p: &Probe<'_>) -> Option<Match> {
    let version = p.head.starts_with(MAGIC).then(|| be16(p.head, 6)).flatten()?;
    matches!(version, 1 | 2).then_some(())?;
    Match::certain(Format::Luks, format!("'LUKS\\xba\\xbe' and version {version} at byte 0"))
}

fn open(source: Source) -> Result<Arc<dyn Image>> {
    let head = read_up_to(source.dev.as_ref(), 0, luks::HEADER_BYTES).op("read header")?;
    let (payload, description) = match be16(&head, 6) {
        Some(1) => {
            let header = luks::Header::parse(&head).op("read header")?;
            (header.payload_offset(), header.describe())
        }
        Some(2) => {
            let header = luks2::Header::read(source.dev.as_ref()).op("read header")?;
            (header.payload_offset, header.describe())
        }
        other => {
            let version = other.map_or("none".into(), |v| v.to_string());
            return Err(Error::unsupported(format!("LUKS version {version} is unknown; there are 1 and 2"))
                .op("read header")
                .at(6));
        }
    };
    let len = source.dev.len().saturating_sub(payload);
    let mut description = description;
    if payload > source.dev.len() {
        description.warnings.push(format!("the encrypted data would begin at byte {payload}, past the end of the file"));
    }
    let content: Device = Arc::new(Window::new(source.dev.clone(), payload, len));
    Ok(Arc::new(Raw::with(vec![content], Format::Luks, description)))
}
