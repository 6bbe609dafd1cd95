//! The VHD footer (big-endian, 512 bytes): at the end of every VHD, with a copy at the start of dynamic and differencing ones. It
//! owns the fields, their checksum, which of two copies counts, and the sizes they stand for.

use uuid::Uuid;

use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::io::bytes::{array, be16, be32, be64, put, put_be16, put_be32, put_be64};
use crate::engine::io::{ReadAt, read_padded, with_path};
use crate::engine::units::SECTOR;

/// First bytes of a footer.
pub const COOKIE: &[u8; 8] = b"conectix";
/// Bytes of a footer.
pub const BYTES: usize = 512;
/// Sectors of the largest geometry there is; disks that have it may be larger.
pub const MAX_CHS_SECTORS: u64 = 65535 * 16 * 255;
/// Seconds from 1970-01-01 to 2000-01-01 UTC, from where VHDs count.
pub const EPOCH: i64 = 946_684_800;

/// What sort of disk it is (field at 60).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskType {
    /// The disk's bytes, then the footer.
    Fixed,
    /// Blocks as they are written.
    Dynamic,
    /// Blocks that differ from a parent.
    Differencing,
}

/// A footer's fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    /// Bit 0 temporary, bit 1 always set.
    pub features: u32,
    /// Version of the format, 1.0 is `0x0001_0000`.
    pub version: u32,
    /// Byte of the dynamic header; all ones for fixed disks.
    pub data_offset: u64,
    /// Seconds since 2000-01-01 UTC when it was made.
    pub timestamp: u32,
    /// Which program made it: `win `, `vpc `, `qemu`, …
    pub creator: [u8; 4],
    /// That program's version.
    pub creator_version: u32,
    /// On which system: `Wi2k`, `Mac `.
    pub creator_os: [u8; 4],
    /// Bytes when it was made.
    pub original_size: u64,
    /// Bytes now.
    pub current_size: u64,
    /// Cylinders, heads, sectors per track.
    pub geometry: (u16, u8, u8),
    /// What sort of disk.
    pub kind: DiskType,
    /// By which children know it.
    pub uuid: Uuid,
    /// A saved virtual machine state belongs to it.
    pub saved_state: bool,
}

/// Ones' complement of the sum of all bytes but the four at `field`.
pub fn checksum(b: &[u8], field: usize) -> u32 {
    let sum = |part: &[u8]| part.iter().fold(0u32, |s, x| s.wrapping_add(u32::from(*x)));
    let own = b.get(field..field.saturating_add(4)).map_or(0, sum);
    !sum(b).wrapping_sub(own)
}

impl Footer {
    /// The footer in `b` (512 bytes, or 511 as Virtual PC before 2004 wrote). `None` without the cookie.
    pub fn decode(b: &[u8]) -> Option<Result<Footer>> {
        if b.get(..8)? != COOKIE {
            return None;
        }
        let want = be32(b, 64)?;
        let have = checksum(b, 64);
        if want != have {
            return Some(Err(Error::corrupt(format!("the footer's checksum is {want:08x}, but its bytes give {have:08x}"))));
        }
        Self::fields(b)
    }

    /// The same, whatever the checksum says.
    pub(super) fn fields(b: &[u8]) -> Option<Result<Footer>> {
        if b.get(..8)? != COOKIE {
            return None;
        }
        let kind = match be32(b, 60)? {
            2 => DiskType::Fixed,
            3 => DiskType::Dynamic,
            4 => DiskType::Differencing,
            other => return Some(Err(Error::corrupt(format!("disk type {other} is none of 2, 3 and 4")))),
        };
        Some(Ok(Footer {
            features: be32(b, 8)?,
            version: be32(b, 12)?,
            data_offset: be64(b, 16)?,
            timestamp: be32(b, 24)?,
            creator: array(b, 28)?,
            creator_version: be32(b, 32)?,
            creator_os: array(b, 36)?,
            original_size: be64(b, 40)?,
            current_size: be64(b, 48)?,
            geometry: (be16(b, 56)?, *b.get(58)?, *b.get(59)?),
            kind,
            uuid: Uuid::from_bytes(array(b, 68)?),
            saved_state: *b.get(84)? != 0,
        }))
    }

    /// The 512 bytes of this footer, with its checksum.
    pub fn encode(&self) -> Vec<u8> {
        let mut b = vec![0u8; BYTES];
        let kind = match self.kind {
            DiskType::Fixed => 2,
            DiskType::Dynamic => 3,
            DiskType::Differencing => 4,
        };
        let ok = put(&mut b, 0, COOKIE)
            && put_be32(&mut b, 8, self.features)
            && put_be32(&mut b, 12, self.version)
            && put_be64(&mut b, 16, self.data_offset)
            && put_be32(&mut b, 24, self.timestamp)
            && put(&mut b, 28, &self.creator)
            && put_be32(&mut b, 32, self.creator_version)
            && put(&mut b, 36, &self.creator_os)
            && put_be64(&mut b, 40, self.original_size)
            && put_be64(&mut b, 48, self.current_size)
            && put_be16(&mut b, 56, self.geometry.0)
            && put(&mut b, 58, &[self.geometry.1, self.geometry.2])
            && put_be32(&mut b, 60, kind)
            && put(&mut b, 68, self.uuid.as_bytes())
            && put(&mut b, 84, &[u8::from(self.saved_state)]);
        let sum = checksum(&b, 64);
        let ok = ok && put_be32(&mut b, 64, sum);
        debug_assert!(ok, "every field lies within 512 bytes");
        b
    }

    /// Virtual size in bytes. Virtual PC and old QEMU show a guest what the geometry says, everyone else the current size; a
    /// child's size and that of disks past the largest geometry is always the current size.
    pub fn size(&self) -> u64 {
        let (c, h, s) = self.geometry;
        let chs = u64::from(c) * u64::from(h) * u64::from(s);
        let by_geometry = matches!(&self.creator, b"vpc " | b"qemu");
        if by_geometry && self.kind != DiskType::Differencing && chs != 0 && chs != MAX_CHS_SECTORS {
            chs * SECTOR
        } else {
            self.current_size
        }
    }
}

/// The geometry of a disk of `sectors` sectors, as the specification's appendix computes it.
pub fn geometry(sectors: u64) -> (u16, u8, u8) {
    let total = sectors.min(MAX_CHS_SECTORS);
    let (heads, spt) = if total >= 65535 * 16 * 63 {
        (16, 255)
    } else {
        let heads = (total / 17).div_ceil(1024).max(4);
        if heads <= 16 && total / 17 < heads * 1024 {
            (heads, 17)
        } else if total / 31 < 16 * 1024 {
            (16, 31)
        } else {
            (16, 63)
        }
    };
    // Within the caps above these fit: at most 65535, 16 and 255.
    ((total / spt / heads) as u16, heads as u8, spt as u8)
}

/// The footer that counts, with where the guest's bytes must end and what was odd.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its fields.
    pub footer: Footer,
    /// Byte where the footer at the end of the file begins; the length of the file when there is none.
    pub end: u64,
    /// The one at the end is intact.
    pub back: bool,
    /// The copy at the start is intact and says the same.
    pub front: bool,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Looks at both ends of the file. The footer at the end counts; the copy at the start stands in when it is damaged or missing.
///
/// Errors: no footer (`Format`), none that is intact (`Corrupt`), a file cut short (`Truncated`).
pub fn find(dev: &dyn ReadAt) -> Result<Found> {
    let len = dev.len();
    let mut front = [0u8; BYTES];
    read_padded(dev, 0, &mut front)?;
    let front = Footer::decode(&front).filter(|_| len >= BYTES as u64);
    let (back, end) = at_end(dev)?;
    let place = |e: Error, at: u64| with_path(e.op("read VHD footer").at(at), dev);
    let mut warnings = Vec::new();
    match (back, front) {
        (Some(Ok(footer)), front) => {
            // The first bytes of a fixed disk are the guest's, whatever they look like.
            let same = matches!(&front, Some(Ok(copy)) if *copy == footer);
            if footer.kind != DiskType::Fixed && !same {
                match front {
                    Some(Ok(_)) => {
                        warnings.push("the footer and its copy at the start differ; the one at the end was believed".to_string());
                    }
                    _ => warnings.push("the footer's copy at the start is damaged; the one at the end was believed".to_string()),
                }
            }
            Ok(Found { footer, end, back: true, front: same, warnings })
        }
        (back, Some(Ok(footer))) if footer.kind != DiskType::Fixed => {
            let what = if back.is_some() { "damaged" } else { "missing" };
            warnings
                .push(format!("the footer at the end is {what}: the file may be cut short; the copy at the start was believed"));
            Ok(Found { footer, end, back: false, front: true, warnings })
        }
        (Some(Err(e)), _) => Err(place(e, end).hint("run check on the image")),
        (None, Some(Err(e))) => Err(place(e, 0).hint("run check on the image")),
        (None, Some(Ok(_))) => Err(place(
            Error::new(ErrorKind::Truncated, "it says it is a fixed disk, whose footer is at the end, and there is none"),
            len,
        )),
        (None, None) => Err(place(Error::new(ErrorKind::Format, "there is no VHD footer at either end"), 0)
            .hint("a fixed VHD that was cut short has lost its only footer; what is left is a raw disk")),
    }
}

/// The footer at the end of `dev`, of 512 or 511 bytes, and where it begins.
fn at_end(dev: &dyn ReadAt) -> Result<(Option<Result<Footer>>, u64)> {
    let (bytes, at) = bytes_at_end(dev)?;
    Ok((bytes.and_then(|b| Footer::decode(&b)), at))
}

/// The bytes with a footer's cookie at the end of `dev`, 512 or 511 of them, and where they begin.
pub(super) fn bytes_at_end(dev: &dyn ReadAt) -> Result<(Option<Vec<u8>>, u64)> {
    let len = dev.len();
    for size in [BYTES, BYTES - 1] {
        let Some(at) = len.checked_sub(size as u64) else { continue };
        let mut b = vec![0u8; size];
        dev.read_at(at, &mut b)?;
        if b.starts_with(COOKIE) {
            return Ok((Some(b), at));
        }
    }
    Ok((None, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometries_are_those_of_the_specification() {
        // Values worked out by hand from the appendix of the specification.
        for (sectors, want) in [
            (0, (0, 4, 17)),
            (4 * 17 * 10, (10, 4, 17)),
            (40960, (602, 4, 17)),
            (204_800, (1003, 12, 17)),
            (16 * 17 * 1024 - 1, (1023, 16, 17)),
            (16 * 17 * 1024, (561, 16, 31)),
            (16 * 31 * 1024, (503, 16, 63)),
            (65535 * 16 * 63, (16191, 16, 255)),
            (u64::MAX, (65535, 16, 255)),
        ] {
            assert_eq!(geometry(sectors), want, "{sectors}");
        }
    }
}
