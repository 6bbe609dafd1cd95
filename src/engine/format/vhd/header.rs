//! The header of dynamic and differencing VHDs (big-endian, 1024 bytes): the block table's place, and the parent's names. It must
//! not read blocks.

use uuid::Uuid;

use super::footer::checksum;
use crate::engine::error::{Context, Error, Result};
use crate::engine::format::windows::{add_names, local_names, utf16};
use crate::engine::io::bytes::{array, be32, be64, put, put_be32, put_be64};
use crate::engine::io::{ReadAt, read_vec, with_path};
use crate::engine::units::{GIB, SECTOR};

/// First bytes of the header.
pub const COOKIE: &[u8; 8] = b"cxsparse";
/// Bytes of the header.
pub const BYTES: usize = 1024;
/// Parent locators there are.
const LOCATORS: usize = 8;
/// Bytes of a locator's text, at most.
const MAX_LOCATOR: u64 = 4096;

/// Where a parent's name in one platform's spelling is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Locator {
    /// `W2ru`, `W2ku`, `MacX`, …; zeros for none.
    pub code: [u8; 4],
    /// Room for it: sectors, or bytes, depending on who wrote it.
    pub space: u32,
    /// Bytes of the name.
    pub len: u32,
    /// Byte of the file where it begins.
    pub at: u64,
}

/// The header's fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Byte where the block table begins.
    pub table_at: u64,
    /// Version of the header, 1.0 is `0x0001_0000`.
    pub version: u32,
    /// Entries of the block table.
    pub entries: u32,
    /// Bytes of guest data in a block, a power of two.
    pub block_size: u64,
    /// The parent's footer UUID; nil without a parent.
    pub parent: Uuid,
    /// The parent's modification time in seconds since 2000-01-01 UTC; only a hint.
    pub parent_timestamp: u32,
    /// The parent's file name as UTF-16, big-endian.
    pub parent_name: Vec<u8>,
    /// The parent's name as platforms spell it.
    pub locators: [Locator; LOCATORS],
}

impl Header {
    /// Reads and checks the header at byte `at`.
    pub fn read(dev: &dyn ReadAt, at: u64) -> Result<Header> {
        let b = read_vec(dev, at, BYTES as u64, BYTES as u64).op("read VHD dynamic header")?;
        let bad =
            |why: String| with_path(Error::corrupt(why).op("read VHD dynamic header").at(at).hint("run check on the image"), dev);
        if b.get(..8) != Some(COOKIE) {
            return Err(bad("there is no dynamic header where the footer says".to_string()));
        }
        let (want, have) = (be32(&b, 36).unwrap_or_default(), checksum(&b, 36));
        if want != have {
            return Err(bad(format!("its checksum is {want:08x}, but its bytes give {have:08x}")));
        }
        let header = Self::decode(&b).ok_or_else(|| bad("it is too short".to_string()))?;
        header.possible().map_err(|e| with_path(e.op("read VHD dynamic header").at(at), dev))?;
        Ok(header)
    }

    /// The header at byte `at` whatever its checksum says, and whether that is right.
    pub(super) fn read_unproved(dev: &dyn ReadAt, at: u64) -> Result<(Header, bool)> {
        let b = read_vec(dev, at, BYTES as u64, BYTES as u64).op("read VHD dynamic header")?;
        let bad = |why: &str| Error::corrupt(why).op("read VHD dynamic header").at(at);
        if b.get(..8) != Some(COOKIE) {
            return Err(bad("there is no dynamic header where the footer says"));
        }
        let header = Self::decode(&b).ok_or_else(|| bad("it is too short"))?;
        header.possible()?;
        Ok((header, be32(&b, 36) == Some(checksum(&b, 36))))
    }

    /// Refuses values that no reader can work with.
    fn possible(&self) -> Result<()> {
        if self.version >> 16 != 1 {
            return Err(Error::unsupported(format!("its dynamic header is of version {:#x}; cowshed reads 1.x", self.version)));
        }
        if !self.block_size.is_power_of_two() || !(SECTOR..=GIB).contains(&self.block_size) {
            return Err(Error::corrupt(format!("a block size of {} bytes is not possible", self.block_size))
                .hint("run check on the image"));
        }
        Ok(())
    }

    fn decode(b: &[u8]) -> Option<Header> {
        let mut locators = [Locator::default(); LOCATORS];
        for (i, l) in locators.iter_mut().enumerate() {
            let o = 576 + i * 24;
            *l = Locator { code: array(b, o)?, space: be32(b, o + 4)?, len: be32(b, o + 8)?, at: be64(b, o + 16)? };
        }
        Some(Header {
            table_at: be64(b, 16)?,
            version: be32(b, 24)?,
            entries: be32(b, 28)?,
            block_size: be32(b, 32)?.into(),
            parent: Uuid::from_bytes(array(b, 40)?),
            parent_timestamp: be32(b, 56)?,
            parent_name: b.get(64..576)?.to_vec(),
            locators,
        })
    }

    /// The 1024 bytes of this header, with its checksum.
    pub fn encode(&self) -> Vec<u8> {
        let mut b = vec![0u8; BYTES];
        let mut ok = put(&mut b, 0, COOKIE)
            && put_be64(&mut b, 8, u64::MAX)
            && put_be64(&mut b, 16, self.table_at)
            && put_be32(&mut b, 24, self.version)
            && put_be32(&mut b, 28, self.entries)
            && put_be32(&mut b, 32, self.block_size as u32)
            && put(&mut b, 40, self.parent.as_bytes())
            && put_be32(&mut b, 56, self.parent_timestamp)
            && put(&mut b, 64, self.parent_name.get(..self.parent_name.len().min(510)).unwrap_or_default());
        for (i, l) in self.locators.iter().enumerate() {
            let o = 576 + i * 24;
            ok &= put(&mut b, o, &l.code)
                && put_be32(&mut b, o + 4, l.space)
                && put_be32(&mut b, o + 8, l.len)
                && put_be64(&mut b, o + 16, l.at);
        }
        let sum = checksum(&b, 36);
        ok &= put_be32(&mut b, 36, sum);
        debug_assert!(ok, "every field lies within 1024 bytes");
        b
    }

    /// Bytes of the sector bitmap before each block: a bit per sector, in whole sectors.
    pub fn bitmap_bytes(&self) -> u64 {
        (self.block_size / SECTOR).div_ceil(8).next_multiple_of(SECTOR)
    }

    /// Every name the parent may be found by here, best first: what the relative locator says, then the absolute ones, then the
    /// bare name in the header. Text that cannot be read is left out: the names are many, and all are guesses.
    pub fn parent_names(&self, dev: &dyn ReadAt) -> Vec<String> {
        let mut names = Vec::new();
        for code in [b"W2ru", b"W2ku", b"MacX", b"Wi2r", b"Wi2k"] {
            for l in self.locators.iter().filter(|l| &l.code == code) {
                let Ok(text) = read_vec(dev, l.at, l.len.into(), MAX_LOCATOR) else { continue };
                let text = match code {
                    b"W2ru" | b"W2ku" => utf16(&text, written_big_endian(&text)),
                    _ => String::from_utf8_lossy(crate::engine::io::bytes::until_nul(&text)).into_owned(),
                };
                add_names(&mut names, local_names(&text));
            }
        }
        add_names(&mut names, local_names(&utf16(&self.parent_name, true)));
        names
    }
}

/// Locators are little-endian, but some writers kept the header's order: the zero half of ASCII tells.
fn written_big_endian(text: &[u8]) -> bool {
    let (pairs, _) = text.as_chunks::<2>();
    let (big, little) =
        pairs.iter().fold((0, 0), |(b, l), [x, y]| (b + usize::from(*x == 0 && *y != 0), l + usize::from(*x != 0 && *y == 0)));
    big > little
}
