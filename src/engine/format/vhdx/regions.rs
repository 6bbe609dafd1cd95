//! The VHDX region table (MS-VHDX 2.3): where the BAT and the metadata are. Two identical copies in the first MiB.

use uuid::{Uuid, uuid};

use super::header::{crc, guid};
use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{le32, le64, put, put_le32, put_le64};
use crate::engine::io::{ReadAt, WriteAt, past_end, read_vec, with_path};
use crate::engine::units::{KIB, MIB};

/// Where the two copies are.
pub const AT: [u64; 2] = [192 * KIB, 256 * KIB];
/// Bytes of a copy.
pub const BYTES: u64 = 64 * KIB;
const MAX_ENTRIES: u32 = 2047;
const BAT: Uuid = uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08");
const METADATA: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");

/// A range of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Byte where it begins.
    pub at: u64,
    /// Bytes.
    pub len: u64,
}

impl Region {
    /// True when `at..at+len` has bytes in common with it.
    pub fn overlaps(&self, at: u64, len: u64) -> bool {
        at < self.at.saturating_add(self.len) && self.at < at.saturating_add(len)
    }
}

/// The regions we know, and all there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Regions {
    /// The block allocation table.
    pub bat: Region,
    /// The metadata.
    pub metadata: Region,
    /// Every region, also unknown ones that need not be understood.
    pub all: Vec<Region>,
}

impl Regions {
    /// Reads the first intact copy; the bool says that the other one is damaged or differs.
    ///
    /// Errors: no intact copy, a region that is outside the first MiB's rules or overlaps another, none for the BAT or the metadata
    /// (`Corrupt`); one that must be understood and is not (`Unsupported`); the file ends before one does (`Truncated`).
    pub fn read(dev: &dyn ReadAt) -> Result<(Regions, bool)> {
        let b = current(dev)?;
        let regions = Self::decode(&b).map_err(|e| with_path(e.op("read VHDX region table").at(AT[0]), dev))?;
        for r in [&regions.bat, &regions.metadata] {
            if r.at.saturating_add(r.len) > dev.len() {
                return Err(past_end(dev, r.at, r.len).op("read VHDX regions"));
            }
        }
        let mut differ = false;
        for at in AT {
            differ |= read_vec(dev, at, BYTES, BYTES)? != b;
        }
        Ok((regions, differ))
    }

    fn decode(b: &[u8]) -> Result<Regions> {
        let short = || Error::corrupt("the region table is too short");
        let count = le32(b, 8).ok_or_else(short)?;
        if count > MAX_ENTRIES {
            return Err(Error::corrupt(format!("{count} regions are more than the {MAX_ENTRIES} there can be")));
        }
        let (mut bat, mut metadata) = (None, None);
        let mut all: Vec<Region> = Vec::new();
        for n in 0..count as usize {
            let o = 16 + n * 32;
            let id = guid(b, o).ok_or_else(short)?;
            let r = Region { at: le64(b, o + 16).ok_or_else(short)?, len: le32(b, o + 24).ok_or_else(short)?.into() };
            let required = le32(b, o + 28).ok_or_else(short)? & 1 != 0;
            if r.at < MIB || !r.at.is_multiple_of(MIB) || r.len == 0 || !r.len.is_multiple_of(MIB) {
                return Err(Error::corrupt(format!("a region of {:#x} bytes at {:#x} is not possible", r.len, r.at)));
            }
            all.push(r);
            let slot = match id {
                BAT => &mut bat,
                METADATA => &mut metadata,
                _ if required => {
                    return Err(Error::unsupported(format!("it needs a region ({id}) that cowshed does not know")));
                }
                _ => continue,
            };
            if slot.replace(r).is_some() {
                return Err(Error::corrupt(format!("there are two regions {id}")));
            }
        }
        let mut sorted = all.clone();
        sorted.sort_by_key(|r| r.at);
        if let Some([a, b]) = sorted.windows(2).find(|w| matches!(w, [a, b] if a.overlaps(b.at, b.len))) {
            return Err(Error::corrupt(format!("the regions at {:#x} and {:#x} overlap", a.at, b.at)));
        }
        match (bat, metadata) {
            (Some(bat), Some(metadata)) => Ok(Regions { bat, metadata, all }),
            (None, _) => Err(Error::corrupt("there is no BAT region")),
            (_, None) => Err(Error::corrupt("there is no metadata region")),
        }
    }

    /// The 64 KiB of a table with these two regions.
    pub fn encode(bat: Region, metadata: Region) -> Vec<u8> {
        let mut b = vec![0u8; BYTES as usize];
        let mut ok = put(&mut b, 0, b"regi") && put_le32(&mut b, 8, 2);
        for (n, (id, r)) in [(BAT, bat), (METADATA, metadata)].into_iter().enumerate() {
            let o = 16 + n * 32;
            ok &= put(&mut b, o, &id.to_bytes_le())
                && put_le64(&mut b, o + 16, r.at)
                && put_le32(&mut b, o + 24, r.len as u32)
                && put_le32(&mut b, o + 28, 1);
        }
        let sum = crc(&b);
        ok &= put_le32(&mut b, 4, sum);
        debug_assert!(ok, "every field lies within 64 KiB");
        b
    }
}

/// Writes the copy that counts over both.
pub fn repair(dev: &dyn WriteAt) -> Result<()> {
    let b = current(dev)?;
    AT.iter().try_for_each(|at| dev.write_at(*at, &b))
}

/// Makes both copies say that the BAT is `region`, one after the other, each durable before the next.
pub fn move_bat(dev: &dyn WriteAt, region: Region) -> Result<()> {
    let mut b = current(dev)?;
    let entries = (16..b.len()).step_by(32).take(MAX_ENTRIES as usize);
    let at = entries.into_iter().find(|o| guid(&b, *o) == Some(BAT)).ok_or_else(|| Error::corrupt("there is no BAT region"))?;
    if !(put_le64(&mut b, at + 16, region.at) && put_le32(&mut b, at + 24, region.len as u32)) {
        return Err(Error::corrupt("the region table is too short"));
    }
    let sum = crc(&b);
    let _ = put_le32(&mut b, 4, sum);
    for at in AT {
        dev.write_at(at, &b)?;
        dev.flush()?;
    }
    Ok(())
}

/// The bytes of the first intact copy.
fn current(dev: &dyn ReadAt) -> Result<Vec<u8>> {
    for at in AT {
        let b = read_vec(dev, at, BYTES, BYTES)?;
        if intact(&b) {
            return Ok(b);
        }
    }
    Err(with_path(Error::corrupt("neither of the two region tables is intact").op("read VHDX region table").at(AT[0]), dev))
}

fn intact(b: &[u8]) -> bool {
    b.get(..4) == Some(b"regi") && le32(b, 4) == Some(crc(b))
}
