//! VHD (Virtual PC, Hyper-V generation 1; `vpc` to QEMU): fixed, dynamic and differencing disks, with the sector bitmaps that
//! say which sectors of a block the image itself holds.

pub mod check;
pub mod create;
pub mod footer;
pub mod header;
pub mod repair;
pub mod reparent;
pub mod resize;
pub mod write;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::probe::{Confidence, Match, Probe};
use super::table::{Held, Table, bits_alike_at, run};
use super::{Caps, Format, FormatEntry, Guide, Image, Source};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::io::{Device, past_end, with_path};
use crate::engine::model::{BackingRef, Description, Fact, Identity, Kind, Mapping, ParentIdentity};
use crate::engine::units::{self, SECTOR};
use footer::{DiskType, EPOCH, Footer};
use header::Header;

/// Table entry of a block that is not stored.
pub const FREE: u32 = 0xffff_ffff;

/// Its row in the table of formats.
pub static ENTRY: FormatEntry = FormatEntry {
    format: Format::Vhd,
    name: "vhd",
    driver: "vpc",
    title: "virtual hard disk (Virtual PC, Hyper-V generation 1)",
    extensions: &["vhd", "vpc", "avhd"],
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
        what: "Fixed: the disk's bytes with a 512-byte footer behind them. Dynamic: blocks of 2 MiB, each with a bitmap of its \
               sectors. Differencing: the sectors that differ from a parent. At most 2040 GiB.",
        origin: "Connectix Virtual PC, then Microsoft; published as an open specification in 2005.",
        used_by: "Azure (fixed, whole MiB), Hyper-V generation 1, XenServer, Windows itself; QEMU calls it vpc.",
        choose: "Fixed, with align=1M, for Azure; otherwise prefer VHDX for Hyper-V and qcow2 for QEMU. It keeps no journal.",
    },
    probe,
    open,
    options: create::OPTIONS,
    create: Some(create::create),
    open_write: Some(write::open),
};

fn probe(p: &Probe<'_>) -> Option<Match> {
    for size in [footer::BYTES, footer::BYTES - 1] {
        let Some(tail) = p.tail.len().checked_sub(size).and_then(|at| p.tail.get(at..)) else { continue };
        match Footer::decode(tail) {
            Some(Ok(f)) => {
                let kind = kind_name(f.kind);
                return Match::certain(
                    Format::Vhd,
                    format!("VHD footer 'conectix' ({kind}) in the last {size} bytes, checksum right"),
                );
            }
            // Only a cookie: without a copy at the start anything could have left it there.
            Some(Err(_)) if Footer::decode(p.head).is_none() => {
                return Some(Match {
                    format: Format::Vhd,
                    evidence: format!("'conectix' in the last {size} bytes, but the checksum is wrong"),
                    confidence: Confidence::Likely,
                });
            }
            _ => {}
        }
    }
    let copy = Footer::decode(p.head.get(..footer::BYTES)?)?;
    let state = if copy.is_ok() { "checksum right" } else { "checksum wrong" };
    Match::certain(Format::Vhd, format!("VHD footer copy 'conectix' at byte 0, {state}; no intact footer at the end"))
}

fn open(source: Source) -> Result<Arc<dyn Image>> {
    Ok(Arc::new(Vhd::open(source.dev)?))
}

fn kind_name(kind: DiskType) -> &'static str {
    match kind {
        DiskType::Fixed => "fixed",
        DiskType::Dynamic => "dynamic",
        DiskType::Differencing => "differencing",
    }
}

/// The place of a sector's bit within its byte: the most significant bit comes first.
pub(super) fn sector_bit(n: u64) -> u8 {
    0x80 >> (n % 8)
}

/// An open VHD.
pub struct Vhd {
    dev: Device,
    size: u64,
    kind: DiskType,
    found: footer::Found,
    blocks: Option<Blocks>,
    /// Blocks whose sectors are all their own, although their bitmaps do not say so yet: a writer has filled them up.
    filled: Mutex<BTreeSet<u64>>,
    backing: Option<BackingRef>,
    description: Arc<Description>,
}

/// What dynamic and differencing disks have and fixed ones have not.
struct Blocks {
    header: Header,
    /// Byte of the dynamic header, which no block may overlap.
    header_at: u64,
    table: Arc<Table>,
}

impl Vhd {
    /// Opens the image in `dev`.
    pub fn open(dev: Device) -> Result<Self> {
        let found = footer::find(dev.as_ref())?;
        let (footer, mut warnings) = (found.footer.clone(), found.warnings.clone());
        let size = footer.size();
        if footer.kind == DiskType::Fixed {
            if size > found.end {
                return Err(with_path(
                    Error::new(
                        ErrorKind::Truncated,
                        format!("the footer says {size} bytes of disk, but only {} lie before it", found.end),
                    )
                    .op("read VHD footer")
                    .at(found.end),
                    dev.as_ref(),
                ));
            }
            let description = Arc::new(describe(&footer, None, &[], warnings));
            return Ok(Vhd {
                dev,
                size,
                kind: footer.kind,
                found,
                blocks: None,
                filled: Mutex::default(),
                backing: None,
                description,
            });
        }
        let header = Header::read(dev.as_ref(), footer.data_offset)?;
        let needed = size.div_ceil(header.block_size);
        let bad = |e: Error| with_path(e.op("read VHD block table").at(header.table_at), dev.as_ref());
        if needed > u64::from(header.entries) {
            return Err(bad(Error::corrupt(format!(
                "a disk of {size} bytes has {needed} blocks, but the table only {} entries",
                header.entries
            ))));
        }
        if header.table_at.checked_add(needed * 4).is_none_or(|end| end > dev.len()) {
            return Err(past_end(dev.as_ref(), header.table_at, needed * 4).op("read VHD block table"));
        }
        let mut backing = None;
        let mut names = Vec::new();
        if footer.kind == DiskType::Differencing {
            names = header.parent_names(dev.as_ref());
            let identity =
                if header.parent.is_nil() { ParentIdentity::Name } else { ParentIdentity::Uuid(header.parent.to_string()) };
            backing = Some(BackingRef { names: names.clone(), format: Some("vpc".to_string()), identity });
            if names.is_empty() {
                warnings.push("it names no parent that could be looked for".to_string());
            }
        }
        let description = Arc::new(describe(&footer, Some(&header), &names, warnings));
        let table = Arc::new(Table::new(dev.clone(), header.table_at, needed * 4));
        let blocks = Some(Blocks { header, header_at: footer.data_offset, table });
        Ok(Vhd { dev, size, kind: footer.kind, found, blocks, filled: Mutex::default(), backing, description })
    }

    fn lock_filled(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.filled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Byte of the file where block `index` has its data, if it is stored.
    fn block_at(&self, index: u64) -> Result<Option<u64>> {
        let Some(blocks) = &self.blocks else { return Ok(None) };
        Ok(match self.place(blocks, index, blocks.table.cursor().be32(index)?)? {
            Held::At(at) => Some(at),
            _ => None,
        })
    }

    /// Sectors that are not stored: the parent's, or zeros.
    fn absent(&self) -> Held {
        if self.kind == DiskType::Differencing { Held::Nothing } else { Held::Zero }
    }

    /// Where the block in table entry `entry` (of guest block `index`) has its data.
    fn place(&self, blocks: &Blocks, index: u64, entry: u32) -> Result<Held> {
        if entry == FREE {
            return Ok(self.absent());
        }
        let h = &blocks.header;
        let at = u64::from(entry) * SECTOR;
        let data = at + h.bitmap_bytes();
        let overlaps = |from: u64, len: u64| at < from.saturating_add(len) && from < data + h.block_size;
        if overlaps(0, SECTOR) || overlaps(blocks.header_at, header::BYTES as u64) || overlaps(h.table_at, blocks.table.bytes()) {
            return Err(with_path(
                Error::corrupt(format!("guest block {index} is said to be at {at:#x}, over the image's own structures"))
                    .op("read VHD block table")
                    .at(h.table_at + index * 4)
                    .hint("run check on the image"),
                self.dev.as_ref(),
            ));
        }
        let used = h.block_size.min(self.size.saturating_sub(index.saturating_mul(h.block_size)));
        if data + used > self.dev.len() {
            return Err(past_end(self.dev.as_ref(), data, used).op("read block"));
        }
        Ok(Held::At(data))
    }
}

impl Image for Vhd {
    fn format(&self) -> Format {
        Format::Vhd
    }
    fn size(&self) -> u64 {
        self.size
    }
    fn files(&self) -> Vec<Device> {
        vec![self.dev.clone()]
    }
    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let max = max.min(self.size.saturating_sub(offset)).max(1);
        let Some(blocks) = &self.blocks else {
            if offset.saturating_add(max) > self.dev.len() {
                return Err(past_end(self.dev.as_ref(), offset, max));
            }
            return Ok(Mapping::data(0, offset, max));
        };
        let block_size = blocks.header.block_size;
        let mut cursor = blocks.table.cursor();
        let m = run(offset, max, block_size, |index| self.place(blocks, index, cursor.be32(index)?))?;
        let (Kind::Data, Some(place)) = (m.kind, m.place) else { return Ok(m) };
        // Which of the block's sectors are its own.
        let within = offset % block_size;
        if self.lock_filled().contains(&(offset / block_size)) {
            return Ok(m);
        }
        let (sector, skip) = (within / SECTOR, within % SECTOR);
        let bitmap_at = place.offset - within - blocks.header.bitmap_bytes();
        let left = m.len.min(block_size - within);
        let (set, sectors) = bits_alike_at(self.dev.as_ref(), bitmap_at, sector, (skip + left).div_ceil(SECTOR), sector_bit)?;
        let len = (sectors * SECTOR - skip).min(left);
        Ok(match (set, self.absent()) {
            (true, _) => Mapping::data(0, place.offset, len),
            (false, Held::Nothing) => Mapping::unallocated(len),
            (false, _) => Mapping::zero(len),
        })
    }
    fn backing(&self) -> Option<BackingRef> {
        self.backing.clone()
    }
    fn holes_under_data(&self) -> bool {
        // A fixed disk.
        self.blocks.is_none()
    }
    fn describe(&self) -> Arc<Description> {
        self.description.clone()
    }
}

/// `seconds` since 2000-01-01 as a date.
fn date(seconds: u32) -> String {
    jiff::Timestamp::from_second(EPOCH + i64::from(seconds)).map(|t| t.to_string()).unwrap_or_default()
}

fn describe(f: &Footer, h: Option<&Header>, names: &[String], warnings: Vec<String>) -> Description {
    let (c, heads, s) = f.geometry;
    let creator = format!(
        "{} {}.{} on {}",
        units::printable_bytes(f.creator.trim_ascii_end()),
        f.creator_version >> 16,
        f.creator_version & 0xffff,
        match &f.creator_os {
            b"Wi2k" => "Windows".to_string(),
            b"Mac " => "Macintosh".to_string(),
            other => units::printable_bytes(other.trim_ascii_end()),
        }
    );
    let mut facts = vec![
        Fact { label: "disk type", value: kind_name(f.kind).to_string() },
        Fact { label: "creator", value: creator },
        Fact { label: "created", value: date(f.timestamp) },
        Fact { label: "UUID", value: f.uuid.to_string() },
        Fact { label: "geometry", value: format!("{c} cylinders, {heads} heads, {s} sectors") },
    ];
    if f.current_size != f.size() {
        facts.push(Fact { label: "size in footer", value: format!("{} bytes (its creator counts by geometry)", f.current_size) });
    }
    if f.original_size != f.current_size {
        facts.push(Fact { label: "original size", value: format!("{} bytes", f.original_size) });
    }
    if f.saved_state {
        facts.push(Fact { label: "saved state", value: "yes".to_string() });
    }
    if let Some(h) = h {
        facts.push(Fact { label: "block size", value: units::binary(h.block_size) });
        facts.push(Fact { label: "block table", value: format!("{} entries", h.entries) });
        if f.kind == DiskType::Differencing {
            facts.push(Fact { label: "parent UUID", value: h.parent.to_string() });
            facts.push(Fact { label: "parent changed", value: date(h.parent_timestamp) });
            facts.extend(names.iter().map(|n| Fact { label: "parent name", value: n.clone() }));
        }
    }
    Description {
        cluster_size: h.map(|h| h.block_size),
        facts,
        warnings,
        identity: Identity { uuid: Some(f.uuid.to_string()), ..Identity::default() },
        ..Description::default()
    }
}

#[cfg(test)]
mod tests;
