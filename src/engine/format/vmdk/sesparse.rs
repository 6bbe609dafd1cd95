//! The space-efficient sparse extent of ESXi 6.5 and later (`seSparse`): 64-bit entries, grains of 4 KiB, a journal.

use super::grains::{Entries, Geometry, Packing};
use crate::engine::error::{Context, Error, Result};
use crate::engine::io::bytes::le64;
use crate::engine::io::{ReadAt, read_vec};
use crate::engine::units::SECTOR;

/// The constant header's first eight bytes, as a little-endian number.
pub(super) const MAGIC: u64 = 0xcafe_babe;
/// The volatile header's.
const VOLATILE_MAGIC: u64 = 0xcafe_cafe;
/// Version 2.1.
const VERSION: u64 = 0x2_0000_0001;

/// Reads both headers. Places and lengths are 64-bit sector numbers.
///
/// Errors: another version or grain size (none other was ever seen), a journal that has to be replayed first.
pub(super) fn open(dev: &dyn ReadAt) -> Result<Geometry> {
    let b = read_vec(dev, 0, SECTOR, SECTOR).op("read the seSparse header")?;
    let field = |at: usize| le64(&b, at).unwrap_or_default();
    let version = field(8);
    if version != VERSION {
        return Err(Error::unsupported(format!("version {version:#x} of the seSparse format is not known")));
    }
    let (capacity, grain, table) = (field(16), field(24), field(32));
    if grain != 8 || table != 64 {
        return Err(Error::unsupported(format!("seSparse grains of {grain} sectors in tables of {table} sectors are not known")));
    }
    if field(40) != 0 {
        return Err(Error::unsupported(format!("the seSparse flags {:#x} are not known", field(40))));
    }
    let place = |what: &str, at: usize| {
        let sector = field(at);
        sector.checked_mul(SECTOR).ok_or_else(|| {
            Error::corrupt(format!("{what} at sector {sector} is out of reach")).op("read the seSparse header").at(at as u64)
        })
    };
    let volatile_at = place("the volatile header", 80)?;
    let volatile = read_vec(dev, volatile_at, SECTOR, SECTOR).op("read the volatile seSparse header")?;
    if le64(&volatile, 0) != Some(VOLATILE_MAGIC) {
        return Err(Error::corrupt("it does not begin with its signature")
            .op("read the volatile seSparse header")
            .at(volatile_at));
    }
    if le64(&volatile, 24) != Some(0) {
        return Err(Error::unsupported("its journal was not replayed, so its tables are not to be trusted")
            .op("read the volatile seSparse header")
            .at(volatile_at)
            .hint("open and close the disk once on the ESXi host it came from"));
    }
    let geometry = Geometry {
        capacity: capacity.checked_mul(SECTOR).ok_or_else(|| Error::corrupt("an impossible capacity").at(16))?,
        grain: grain * SECTOR,
        per_table: table * SECTOR / 8,
        directory: place("the grain directory", 128)?,
        redundant: None,
        entries: Entries::SeSparse { tables: place("the grain tables", 144)?, grains: place("the grains", 192)? },
        packing: Packing::Plain,
        writable: false,
        stood_in: false,
    };
    let directory = place("the grain directory's end", 136)?;
    if geometry.capacity <= i64::MAX as u64 && directory / 8 < geometry.tables() {
        return Err(Error::corrupt("its grain directory is too short for its capacity").op("read the seSparse header").at(136));
    }
    Ok(geometry)
}
