//! The hosted sparse header (`KDMV`, versions 1 to 3) and the footer that stands in for it at the end of a stream.

use super::grains::{Entries, Geometry, Packing};
use super::stream::Marker;
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::io::bytes::{array, le16, le32, le64};
use crate::engine::io::{ReadAt, read_up_to, read_vec};
use crate::engine::limits::MAX_DESCRIPTOR;
use crate::engine::units::{KIB, SECTOR};

/// First bytes of a hosted sparse extent.
pub(super) const MAGIC: [u8; 4] = *b"KDMV";
/// Flag: the newline bytes are there to be checked.
pub(super) const NEWLINES: u32 = 1;
/// Flag: the redundant grain directory is valid.
pub(super) const REDUNDANT: u32 = 1 << 1;
/// Flag: an entry of 1 is a grain of zeros.
pub(super) const ZERO_GRAIN: u32 = 1 << 2;
/// Flag: grains are compressed.
pub(super) const COMPRESSED: u32 = 1 << 16;
/// Flag: markers stand before grains and tables.
pub(super) const MARKERS: u32 = 1 << 17;
/// `gdOffset` of a header whose directory is only known to the footer.
pub(super) const AT_END: u64 = u64::MAX;
/// Bytes at offset 73, which a transfer in text mode would change.
pub(super) const NEWLINE_BYTES: [u8; 4] = *b"\n \r\n";

/// The header's fields, in sectors as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// 1, 2 (zeroed grains) or 3 (compressed, or change tracking).
    pub(super) version: u32,
    /// Flag bits.
    pub(super) flags: u32,
    /// Guest sectors.
    pub(super) capacity: u64,
    /// Sectors of a grain.
    pub(super) grain: u64,
    /// Where the embedded descriptor begins, and its sectors; 0 when there is none.
    pub(super) descriptor: (u64, u64),
    /// Entries of a grain table.
    pub(super) per_table: u32,
    /// Redundant grain directory.
    pub(super) redundant: u64,
    /// Grain directory.
    pub(super) directory: u64,
    /// Sectors before the first grain.
    pub(super) overhead: u64,
    /// 1 while a writer has it open.
    pub(super) unclean: u8,
    /// The four bytes at 73.
    pub(super) newlines: [u8; 4],
    /// 0 none, 1 deflate.
    pub(super) algorithm: u16,
}

impl Header {
    /// Reads the fields of a sector that begins with [`MAGIC`].
    pub(super) fn parse(sector: &[u8]) -> Option<Header> {
        if !sector.starts_with(&MAGIC) {
            return None;
        }
        Some(Header {
            version: le32(sector, 4)?,
            flags: le32(sector, 8)?,
            capacity: le64(sector, 12)?,
            grain: le64(sector, 20)?,
            descriptor: (le64(sector, 28)?, le64(sector, 36)?),
            per_table: le32(sector, 44)?,
            redundant: le64(sector, 48)?,
            directory: le64(sector, 56)?,
            overhead: le64(sector, 64)?,
            unclean: *sector.get(72)?,
            newlines: array(sector, 73)?,
            algorithm: le16(sector, 77)?,
        })
    }

    /// The sector that holds these fields.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(SECTOR as usize);
        b.extend(MAGIC);
        b.extend(self.version.to_le_bytes());
        b.extend(self.flags.to_le_bytes());
        for field in [self.capacity, self.grain, self.descriptor.0, self.descriptor.1] {
            b.extend(field.to_le_bytes());
        }
        b.extend(self.per_table.to_le_bytes());
        for field in [self.redundant, self.directory, self.overhead] {
            b.extend(field.to_le_bytes());
        }
        b.push(self.unclean);
        b.extend(self.newlines);
        b.extend(self.algorithm.to_le_bytes());
        b.resize(SECTOR as usize, 0);
        b
    }

    /// Grains are compressed.
    pub(super) fn compressed(&self) -> bool {
        self.algorithm == 1
    }

    /// The tables this header describes.
    ///
    /// Errors: a version or an algorithm nobody has published, numbers past 2^64 bytes.
    pub(super) fn geometry(&self) -> Result<Geometry> {
        if self.version == 0 || self.version > 3 {
            return Err(Error::unsupported(format!("version {} of the sparse format is not known", self.version)));
        }
        if self.algorithm > 1 {
            return Err(Error::unsupported(format!("compression algorithm {} is not known", self.algorithm)));
        }
        let bytes = |what: &str, sectors: u64| {
            sectors.checked_mul(SECTOR).ok_or_else(|| Error::corrupt(format!("{what} of {sectors} sectors is impossible")))
        };
        let redundant =
            if self.flags & REDUNDANT != 0 { bytes("a redundant grain directory at", self.redundant).ok() } else { None };
        Ok(Geometry {
            capacity: bytes("a capacity", self.capacity)?,
            grain: bytes("a grain", self.grain)?,
            per_table: u64::from(self.per_table),
            // A directory out of reach is for `Geometry::check` to replace.
            directory: bytes("", self.directory).unwrap_or(u64::MAX),
            redundant,
            entries: Entries::Sectors { zero_grain: self.flags & ZERO_GRAIN != 0 },
            packing: match self.compressed() {
                true => Packing::Deflate { markers: self.flags & MARKERS != 0 },
                false => Packing::Plain,
            },
            // Version 3 may carry change tracking, which a writer would have to keep.
            writable: self.version < 3,
            stood_in: false,
        })
    }

    /// What a person should know.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.flags & NEWLINES != 0 && self.newlines != NEWLINE_BYTES {
            out.push("the newline bytes of its header changed: it may have been transferred in text mode".to_string());
        }
        if !self.grain.is_power_of_two() {
            out.push(format!("its grains of {} sectors are no power of two", self.grain));
        }
        if (self.flags & COMPRESSED != 0) != self.compressed() {
            out.push(
                "the compression flag and algorithm of its header contradict each other; the algorithm is believed".to_string(),
            );
        }
        out
    }
}

/// A hosted sparse extent's own words: the header (or the footer in its place) and the embedded descriptor's bytes.
pub(super) struct Opened {
    /// The header that counts.
    pub(super) header: Header,
    /// The header says that the footer counts.
    pub(super) has_footer: bool,
    /// The embedded descriptor, empty when there is none.
    pub(super) descriptor: Vec<u8>,
    /// Byte where that begins.
    pub(super) descriptor_at: u64,
}

/// Reads header, footer and embedded descriptor.
pub(super) fn open(dev: &dyn ReadAt) -> Result<Opened> {
    let sector = read_vec(dev, 0, SECTOR, SECTOR).op("read the sparse header")?;
    let front =
        Header::parse(&sector).ok_or_else(|| Error::corrupt("it does not begin with KDMV").op("read the sparse header"))?;
    let has_footer = front.directory == AT_END;
    let header = if has_footer { footer(dev)? } else { front };
    let (start, sectors) = match header.descriptor.0 {
        0 => front.descriptor,
        _ => header.descriptor,
    };
    let (descriptor_at, descriptor) = match (start, sectors) {
        (0, _) | (_, 0) => (0, Vec::new()),
        (start, sectors) => {
            let (at, len) = start
                .checked_mul(SECTOR)
                .zip(sectors.checked_mul(SECTOR))
                .ok_or_else(|| Error::corrupt("the embedded descriptor is out of reach").op("read the sparse header"))?;
            (at, read_vec(dev, at, len, MAX_DESCRIPTOR).op("read the embedded descriptor")?)
        }
    };
    Ok(Opened { header, has_footer, descriptor, descriptor_at })
}

/// The footer: a header in the last sector but one, a footer marker before it and the end-of-stream marker after it. Files that
/// were padded afterwards (tapes, archives) have it a little earlier.
fn footer(dev: &dyn ReadAt) -> Result<Header> {
    let lost = || {
        Error::new(ErrorKind::Truncated, "its header says that the grain directory is named by a footer, and there is no footer")
            .op("read the footer")
            .hint("the stream was cut short or is still being written")
    };
    let len = dev.len();
    let from = len.saturating_sub(64 * KIB) / SECTOR * SECTOR;
    let tail = read_up_to(dev, from, (64 * KIB + SECTOR) as usize)?;
    let sectors: Vec<&[u8]> = tail.chunks_exact(SECTOR as usize).collect();
    let found = sectors.windows(3).rev().find_map(|w| match w {
        [before, here, after] => {
            let framed = Marker::parse(before) == Some(Marker::Footer) && Marker::parse(after) == Some(Marker::End);
            Header::parse(here).filter(|_| framed)
        }
        _ => None,
    });
    let header = found.ok_or_else(lost)?;
    if header.directory == AT_END {
        return Err(Error::corrupt("the footer again says that a footer names the grain directory").op("read the footer"));
    }
    Ok(header)
}
