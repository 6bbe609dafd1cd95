//! VHDX (Hyper-V generation 2): fixed, dynamic and differencing disks with 512 and 4096-byte sectors. A dirty log is replayed in
//! memory before anything is read through it.

pub mod check;
pub mod create;
pub mod header;
pub mod log;
pub mod metadata;
pub mod regions;
pub mod repair;
pub mod resize;
pub mod write;

use std::sync::Arc;

use super::probe::{Match, Probe};
use super::table::{Cursor, Held, Table, bits_alike_at, run};
use super::{Caps, Format, FormatEntry, Guide, Image, Source};
use crate::engine::error::{Error, Result};
use crate::engine::io::{Device, past_end, with_path};
use crate::engine::model::{BackingRef, Description, Fact, Identity, Mapping, ParentIdentity};
use crate::engine::units::{self, MIB};
use metadata::Metadata;
use regions::Region;

/// Its row in the table of formats.
pub static ENTRY: FormatEntry = FormatEntry {
    format: Format::Vhdx,
    name: "vhdx",
    driver: "vhdx",
    title: "virtual hard disk v2 (Hyper-V generation 2)",
    extensions: &["vhdx", "avhdx"],
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
        what: "Blocks of 1 to 256 MiB behind one table, with a log that keeps the metadata whole through a power cut. Fixed, \
               dynamic or differencing; up to 64 TiB; 512 or 4096-byte sectors.",
        origin: "Microsoft, with Windows Server 2012, in place of VHD.",
        used_by: "Hyper-V, Windows itself (mounting, Windows Sandbox, WSL 2); QEMU reads and writes those without a parent.",
        choose: "For Hyper-V. Azure wants a fixed VHD instead; QEMU is better served by qcow2. It has no internal snapshots: \
                 checkpoints are differencing disks (avhdx).",
    },
    probe,
    open,
    options: create::OPTIONS,
    create: Some(create::create),
    open_write: Some(write::open),
};

fn probe(p: &Probe<'_>) -> Option<Match> {
    (p.head.get(..8)? == header::SIGNATURE).then_some(())?;
    Match::certain(Format::Vhdx, "VHDX signature 'vhdxfile' at byte 0")
}

fn open(source: Source) -> Result<Arc<dyn Image>> {
    Ok(Arc::new(Vhdx::open(source.dev)?))
}

/// The low bits of a BAT entry.
pub mod state {
    /// Nothing stored: the parent's, or zeros.
    pub const NOT_PRESENT: u64 = 0;
    /// Content undefined.
    pub const UNDEFINED: u64 = 1;
    /// Zeros.
    pub const ZERO: u64 = 2;
    /// Given up by the guest (3; 5 in version 0.95 of the specification).
    pub const UNMAPPED: u64 = 3;
    /// The same in version 0.95.
    pub const UNMAPPED_OLD: u64 = 5;
    /// Stored; of a sector bitmap block: there.
    pub const FULLY_PRESENT: u64 = 6;
    /// Some sectors stored, as the sector bitmap says.
    pub const PARTIALLY_PRESENT: u64 = 7;
}

/// State and file offset in a BAT entry.
pub fn split(entry: u64) -> (u64, u64) {
    (entry & 7, entry & !(MIB - 1))
}

/// The place of a sector's bit within its byte: the least significant bit comes first.
pub(super) fn sector_bit(n: u64) -> u8 {
    1 << (n % 8)
}

/// An open VHDX.
pub struct Vhdx {
    /// The file, with a dirty log applied.
    dev: Device,
    metadata: Metadata,
    /// Regions that no block may overlap: BAT, metadata, unknown ones, the log.
    taken: Vec<Region>,
    bat: Arc<Table>,
    bat_at: u64,
    bat_len: u64,
    metadata_at: Region,
    /// The two region tables do not say the same.
    regions_differ: bool,
    description: Arc<Description>,
}

impl Vhdx {
    /// Opens the image in `dev`.
    pub fn open(dev: Device) -> Result<Self> {
        let found = header::find(dev.as_ref())?;
        let replayed = log::replay(dev, &found.header)?;
        let dev = replayed.device;
        let (regions, differ) = regions::Regions::read(dev.as_ref())?;
        let metadata = Metadata::read(dev.as_ref(), regions.metadata)?;
        let bat_bytes = metadata.bat_entries() * 8;
        if bat_bytes > regions.bat.len {
            return Err(with_path(
                Error::corrupt(format!("the BAT needs {bat_bytes} bytes, but its region has {}", regions.bat.len))
                    .op("read VHDX regions")
                    .at(regions.bat.at),
                dev.as_ref(),
            ));
        }
        let mut warnings = found.warnings.clone();
        warnings.extend(replayed.warnings);
        if differ {
            warnings.push("the two region tables differ; the first intact one was believed".to_string());
        }
        let mut taken = regions.all.clone();
        taken.push(Region { at: found.header.log_at, len: found.header.log_len });
        let mut description = describe(&found, &metadata, warnings);
        description.dirty = replayed.dirty;
        Ok(Vhdx {
            bat: Arc::new(Table::new(dev.clone(), regions.bat.at, bat_bytes)),
            bat_at: regions.bat.at,
            bat_len: regions.bat.len,
            metadata_at: regions.metadata,
            regions_differ: differ,
            dev,
            metadata,
            taken,
            description: Arc::new(description),
        })
    }

    /// Index into the BAT of guest block `index`: after every chunk's blocks comes the entry of its sector bitmap.
    fn entry_of(&self, index: u64) -> u64 {
        index + index / self.metadata.chunk_ratio()
    }

    fn corrupt(&self, entry: u64, what: String) -> Error {
        let at = self.bat_at.saturating_add(entry.saturating_mul(8));
        with_path(
            Error::corrupt(what).op("read VHDX BAT").at(at).hint("copy what can be read: cowshed convert --salvage"),
            self.dev.as_ref(),
        )
    }

    /// Checks that a block of `len` bytes (of which `used` are needed) can be at `at`.
    fn check_place(&self, entry: u64, at: u64, len: u64, used: u64) -> Result<()> {
        if at < MIB || self.taken.iter().any(|r| r.overlaps(at, len)) {
            return Err(self.corrupt(entry, format!("a block is said to be at {at:#x}, over the image's own structures")));
        }
        if at.saturating_add(used) > self.dev.len() {
            return Err(past_end(self.dev.as_ref(), at, used).op("read block"));
        }
        Ok(())
    }

    /// What is held of guest block `index`; `None` when that differs from sector to sector.
    fn held(&self, index: u64, bat: &mut Cursor<'_>) -> Result<Option<Held>> {
        let entry = self.entry_of(index);
        let (state, at) = split(bat.le64(entry)?);
        let m = &self.metadata;
        let used = m.block_size.min(m.size.saturating_sub(index.saturating_mul(m.block_size)));
        match state {
            state::NOT_PRESENT if m.has_parent => Ok(Some(Held::Nothing)),
            state::NOT_PRESENT | state::UNDEFINED | state::ZERO | state::UNMAPPED | state::UNMAPPED_OLD => Ok(Some(Held::Zero)),
            state::FULLY_PRESENT => {
                self.check_place(entry, at, m.block_size, used)?;
                Ok(Some(Held::At(at)))
            }
            state::PARTIALLY_PRESENT if m.has_parent => {
                self.check_place(entry, at, m.block_size, used)?;
                Ok(None)
            }
            other => Err(self.corrupt(entry, format!("guest block {index} has the impossible state {other}"))),
        }
    }

    /// The sectors of the partly present block at `offset`, by its chunk's sector bitmap.
    fn map_partial(&self, offset: u64, max: u64, bat: &mut Cursor<'_>) -> Result<Mapping> {
        let m = &self.metadata;
        let (index, within) = (offset / m.block_size, offset % m.block_size);
        let (_, block_at) = split(bat.le64(self.entry_of(index))?);
        let ratio = m.chunk_ratio();
        let bitmap_entry = index / ratio * (ratio + 1) + ratio;
        let (state, bitmap_at) = split(bat.le64(bitmap_entry)?);
        if state != state::FULLY_PRESENT {
            return Err(self.corrupt(bitmap_entry, format!("guest block {index} needs a sector bitmap that is not there")));
        }
        self.check_place(bitmap_entry, bitmap_at, MIB, MIB)?;
        let first = index % ratio * (m.block_size / m.sector) + within / m.sector;
        let skip = within % m.sector;
        let left = max.min(m.block_size - within);
        let (set, sectors) = bits_alike_at(self.dev.as_ref(), bitmap_at, first, (skip + left).div_ceil(m.sector), sector_bit)?;
        let len = (sectors * m.sector - skip).min(left);
        Ok(if set { Mapping::data(0, block_at + within, len) } else { Mapping::unallocated(len) })
    }
}

impl Image for Vhdx {
    fn format(&self) -> Format {
        Format::Vhdx
    }
    fn size(&self) -> u64 {
        self.metadata.size
    }
    fn files(&self) -> Vec<Device> {
        vec![self.dev.clone()]
    }
    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let max = max.min(self.metadata.size.saturating_sub(offset)).max(1);
        let mut bat = self.bat.cursor();
        let block = self.metadata.block_size;
        if self.held(offset / block, &mut bat)?.is_none() {
            return self.map_partial(offset, max, &mut bat);
        }
        run(offset, max, block, |index| match self.held(index, &mut bat)? {
            Some(held) => Ok(held),
            // A partly present block ends the range before it.
            None => Err(self.corrupt(self.entry_of(index), "a partly present block".to_string())),
        })
    }
    fn backing(&self) -> Option<BackingRef> {
        let m = &self.metadata;
        m.has_parent.then(|| {
            let ids: Vec<String> = m.parent_ids().iter().map(ToString::to_string).collect();
            let identity = match ids.as_slice() {
                [] => ParentIdentity::Name,
                [one] => ParentIdentity::Uuid(one.clone()),
                _ => ParentIdentity::AnyUuid(ids),
            };
            BackingRef { names: m.parent_names(), format: Some("vhdx".to_string()), identity }
        })
    }
    fn holes_under_data(&self) -> bool {
        self.metadata.leave_allocated
    }
    fn describe(&self) -> Arc<Description> {
        self.description.clone()
    }
}

fn describe(found: &header::Found, m: &Metadata, mut warnings: Vec<String>) -> Description {
    let h = &found.header;
    let kind = match (m.has_parent, m.leave_allocated) {
        (true, _) => "differencing",
        (false, true) => "fixed",
        (false, false) => "dynamic",
    };
    let mut facts = vec![
        Fact { label: "disk type", value: kind.to_string() },
        Fact { label: "creator", value: units::printable(found.creator.trim_end()) },
        Fact { label: "block size", value: units::binary(m.block_size) },
        Fact { label: "sector size", value: format!("{} logical, {} physical", m.sector, m.physical_sector) },
        Fact { label: "data-write GUID", value: h.data_write.to_string() },
        Fact { label: "file-write GUID", value: h.file_write.to_string() },
        Fact { label: "header sequence", value: h.sequence.to_string() },
        Fact {
            label: "log",
            value: format!("{}, {}", units::binary(h.log_len), if h.log.is_nil() { "empty" } else { "in use" }),
        },
    ];
    if let Some(id) = m.disk_id {
        facts.push(Fact { label: "disk id", value: id.to_string() });
    }
    facts.extend(m.parent_ids().iter().map(|id| Fact { label: "parent data-write GUID", value: id.to_string() }));
    facts.extend(m.parent_names().into_iter().map(|n| Fact { label: "parent name", value: n }));
    if m.has_parent && m.parent_names().is_empty() {
        warnings.push("it names no parent that could be looked for".to_string());
    }
    Description {
        cluster_size: Some(m.block_size),
        facts,
        warnings,
        identity: Identity { uuid: Some(h.data_write.to_string()), ..Identity::default() },
        ..Description::default()
    }
}

#[cfg(test)]
mod tests;
