//! VDI (VirtualBox): dynamic, static and differencing images, version 1.1. A parent is known by its UUIDs only: the chain looks
//! for it among the images of the folder or the library.

pub mod check;
pub mod create;
pub mod header;
pub mod repair;
pub mod resize;
pub mod write;

use std::sync::Arc;

use super::probe::{Match, Probe};
use super::table::{Held, Table, run};
use super::{Caps, Format, FormatEntry, Guide, Image, Source};
use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{le16, le32};
use crate::engine::io::{Device, past_end, with_path};
use crate::engine::model::{BackingRef, Description, Fact, Identity, Mapping, ParentIdentity};
use crate::engine::units;
use header::{Header, ImageType, SIGNATURE, SIGNATURE_AT};

/// Map entry of a block that is not stored: the parent answers, or zeros.
pub const FREE: u32 = 0xffff_ffff;
/// Map entry of a block that is zeros, whatever the parent has.
pub const ZERO: u32 = 0xffff_fffe;
/// Entries of the block map looked through when an image is opened; larger maps are left to `check`.
const MAX_LOOKED_THROUGH: u64 = 1 << 20;

/// Its row in the table of formats.
pub static ENTRY: FormatEntry = FormatEntry {
    format: Format::Vdi,
    name: "vdi",
    driver: "vdi",
    title: "VirtualBox disk image",
    extensions: &["vdi"],
    caps: Caps {
        read: true,
        write: true,
        create: true,
        backing: true,
        sparse: true,
        resize: true,
        check: true,
        repair: true,
        ..Caps::NONE
    },
    guide: Guide {
        what: "A disk in blocks of 1 MiB behind one flat map. Static images hold every block; differencing ones only what changed.",
        origin: "VirtualBox, where it is the default. Its snapshots are chains of differencing images that know their parent by \
                 UUID, not by name.",
        used_by: "VirtualBox; QEMU reads and writes those without a parent.",
        choose: "To hand a disk to VirtualBox. It has no internal snapshots, no compression and no journal; for anything else \
                 qcow2 or raw serve better.",
    },
    probe,
    open,
    options: create::OPTIONS,
    create: Some(create::create),
    open_write: Some(write::open),
};

fn probe(p: &Probe<'_>) -> Option<Match> {
    if le32(p.head, SIGNATURE_AT)? != SIGNATURE {
        return None;
    }
    let (minor, major) = (le16(p.head, 0x44)?, le16(p.head, 0x46)?);
    Match::certain(Format::Vdi, format!("VDI signature be da 10 7f at byte 64, version {major}.{minor}"))
}

fn open(source: Source) -> Result<Arc<dyn Image>> {
    Ok(Arc::new(Vdi::open(source.dev)?))
}

/// An open VDI.
pub struct Vdi {
    dev: Device,
    header: Header,
    map: Arc<Table>,
    description: Arc<Description>,
}

impl Vdi {
    /// Opens the image in `dev`.
    pub fn open(dev: Device) -> Result<Self> {
        let header = Header::read(dev.as_ref())?;
        let map = Arc::new(Table::new(dev.clone(), header.map_at, header.blocks * 4));
        let description = Arc::new(describe(&header, &map)?);
        Ok(Vdi { dev, header, map, description })
    }

    /// The header as it was when the image was opened.
    pub fn header(&self) -> &Header {
        &self.header
    }
    /// The block map.
    pub fn table(&self) -> &Arc<Table> {
        &self.map
    }

    fn has_parent(&self) -> bool {
        !self.header.link.is_nil()
    }

    /// Where the block that map entry `entry` (of guest block `index`) names is.
    fn place(&self, index: u64, entry: u32) -> Result<Held> {
        let h = &self.header;
        match entry {
            FREE if self.has_parent() => return Ok(Held::Nothing),
            FREE | ZERO => return Ok(Held::Zero),
            _ => {}
        }
        let bad = |e: Error| with_path(e.op("read block map").hint("run check on the image"), self.dev.as_ref());
        if u64::from(entry) >= h.blocks {
            return Err(bad(Error::corrupt(format!(
                "guest block {index} is said to be stored block {entry}, but there are only {}",
                h.blocks
            ))
            .at(h.map_at + index * 4)));
        }
        let at = h.block_at(entry.into());
        let used = h.block_size.min(h.disk_size.saturating_sub(index.saturating_mul(h.block_size)));
        if at.saturating_add(used) > self.dev.len() {
            return Err(past_end(self.dev.as_ref(), at, used).op("read block"));
        }
        Ok(Held::At(at))
    }
}

/// What a walk over the block map finds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Walk {
    stored: u64,
    zero: u64,
    twice: u64,
    outside: u64,
}

fn walk(header: &Header, map: &Table) -> Result<Walk> {
    let mut seen = vec![0u64; (header.blocks / 64 + 1) as usize];
    let mut found = Walk::default();
    let mut cursor = map.cursor();
    for index in 0..header.blocks {
        match cursor.le32(index)? {
            FREE => {}
            ZERO => found.zero += 1,
            entry if u64::from(entry) >= header.blocks => found.outside += 1,
            entry => {
                found.stored += 1;
                let bit = 1u64 << (entry % 64);
                if let Some(word) = seen.get_mut((entry / 64) as usize) {
                    found.twice += u64::from(*word & bit != 0);
                    *word |= bit;
                }
            }
        }
    }
    Ok(found)
}

fn describe(h: &Header, map: &Table) -> Result<Description> {
    let mut facts = vec![
        Fact {
            label: "image type",
            value: match h.image_type {
                ImageType::Dynamic => "dynamic",
                ImageType::Static => "static",
                ImageType::Differencing => "differencing",
            }
            .to_string(),
        },
        Fact { label: "version", value: "1.1".to_string() },
        Fact { label: "block size", value: units::binary(h.block_size) },
        Fact { label: "blocks", value: format!("{} stored of {}", h.allocated, h.blocks) },
        Fact { label: "image UUID", value: h.uuid.to_string() },
        Fact { label: "modification UUID", value: h.modification.to_string() },
    ];
    if !h.link.is_nil() {
        facts.push(Fact { label: "parent UUID", value: h.link.to_string() });
        facts.push(Fact { label: "parent modification UUID", value: h.parent_modification.to_string() });
    }
    if h.geometry != (0, 0, 0) {
        let (c, heads, s) = h.geometry;
        facts.push(Fact { label: "geometry", value: format!("{c} cylinders, {heads} heads, {s} sectors") });
    }
    if !h.comment.is_empty() {
        facts.push(Fact { label: "comment", value: units::printable_bytes(&h.comment) });
    }
    let mut warnings = Vec::new();
    let mut corrupt = false;
    if h.blocks <= MAX_LOOKED_THROUGH {
        let found = walk(h, map)?;
        if found.twice > 0 {
            warnings.push(format!("{} blocks are stored where another block is stored too: the map is corrupt", found.twice));
        }
        if found.outside > 0 {
            warnings.push(format!("{} map entries point outside the image: the map is corrupt", found.outside));
        }
        corrupt = !warnings.is_empty();
        if found.stored != h.allocated && !corrupt {
            warnings.push(format!("the header counts {} stored blocks, the map {}", h.allocated, found.stored));
        }
    }
    Ok(Description {
        cluster_size: Some(h.block_size),
        facts,
        corrupt,
        warnings,
        identity: Identity {
            uuid: Some(h.uuid.to_string()),
            modification: Some(h.modification.to_string()),
            ..Identity::default()
        },
        ..Description::default()
    })
}

impl Image for Vdi {
    fn format(&self) -> Format {
        Format::Vdi
    }
    fn size(&self) -> u64 {
        self.header.disk_size
    }
    fn files(&self) -> Vec<Device> {
        vec![self.dev.clone()]
    }
    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let max = max.min(self.header.disk_size.saturating_sub(offset));
        let mut cursor = self.map.cursor();
        run(offset, max, self.header.block_size, |index| self.place(index, cursor.le32(index)?))
    }
    fn backing(&self) -> Option<BackingRef> {
        self.has_parent().then(|| BackingRef {
            names: Vec::new(),
            format: Some("vdi".to_string()),
            identity: ParentIdentity::VdiUuids {
                image: self.header.link.to_string(),
                modification: self.header.parent_modification.to_string(),
            },
        })
    }
    fn holes_under_data(&self) -> bool {
        self.header.image_type == ImageType::Static
    }
    fn describe(&self) -> Arc<Description> {
        self.description.clone()
    }
}

#[cfg(test)]
mod tests;
