//! The copy-on-write extent of VMware 3 and ESX (`COWD`; VMFSSPARSE): a 2 KiB header, 32-bit sector numbers, 4096 to a table.

use super::grains::{Entries, Geometry, Packing};
use crate::engine::error::{Context, Error, Result};
use crate::engine::io::bytes::{le32, until_nul};
use crate::engine::io::{ReadAt, read_up_to, read_vec};
use crate::engine::units::{SECTOR, printable_bytes};

/// First bytes.
pub(super) const MAGIC: [u8; 4] = *b"COWD";
/// Entries of a grain table; the header has no field for it.
const PER_TABLE: u64 = 4096;

/// What the header says.
pub(super) struct Header {
    /// Its tables.
    pub(super) geometry: Geometry,
    /// The parent's file name, where the extent is a child (hosted VMware 3 disks); empty otherwise.
    pub(super) parent: String,
    /// The disk's own name; often empty.
    pub(super) name: String,
    /// A writer has it open, or never closed it.
    pub(super) unclean: bool,
}

/// Reads the header. Fields (all 32-bit): version 4, flags 8, sectors 12, grain 16, directory 20, its entries 24, next free
/// sector 28; then for a child the parent's name (1024 bytes at 32), for a root the geometry (12 bytes at 32).
pub(super) fn open(dev: &dyn ReadAt) -> Result<Header> {
    let b = read_vec(dev, 0, SECTOR, SECTOR).op("read the COWD header")?;
    let field = |at: usize| {
        le32(&b, at).map(u64::from).ok_or_else(|| Error::corrupt("the header is too short").op("read the COWD header"))
    };
    let (version, flags) = (field(4)?, field(8)?);
    if version != 1 {
        return Err(Error::unsupported(format!("version {version} of the COWD format is not known")));
    }
    let (sectors, grain, directory, entries) = (field(12)?, field(16)?, field(20)?, field(24)?);
    let geometry = Geometry {
        capacity: sectors * SECTOR,
        grain: grain * SECTOR,
        per_table: PER_TABLE,
        directory: directory * SECTOR,
        redundant: None,
        entries: Entries::Sectors { zero_grain: false },
        packing: Packing::Plain,
        writable: false,
        stood_in: false,
    };
    if grain != 0 && entries < geometry.tables() {
        return Err(Error::corrupt(format!("its grain directory has {entries} entries and {} are needed", geometry.tables()))
            .op("read the COWD header")
            .at(24));
    }
    // What stands behind the first sector is for people only, so its absence is no error.
    let more = read_up_to(dev, 0, 2048)?;
    let text = |at: usize, len: usize| printable_bytes(until_nul(more.get(at..at + len).unwrap_or_default()));
    // Bit 0 of the flags marks a root, which has its geometry where a child has its parent's name.
    let parent = if flags & 1 == 0 { text(32, 1024) } else { String::new() };
    Ok(Header { geometry, parent, name: text(1064, 60), unclean: le32(&more, 1648).is_some_and(|u| u == 1) })
}
