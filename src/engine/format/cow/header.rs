//! The header of a COW version 2 file, big-endian: magic, version, the backing file's name in 1024 bytes, its modification time,
//! the size of the disk, the sector size.
//!
//! It was written as an unpacked C structure, so there are two layouts: with the size aligned to 8 bytes (64-bit hosts) and to 4.

use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{be32, be64, le32, put, put_be32, put_be64, until_nul};
use crate::engine::units::SECTOR;

/// `OOOM`, as a big-endian number.
pub const MAGIC: u32 = 0x4f4f_4f4d;
/// Bytes of the field for the backing file's name.
pub const NAME_BYTES: usize = 1024;
/// Where the name, and the modification time behind it, are.
pub const NAME_AT: usize = 8;
const MTIME_AT: usize = NAME_AT + NAME_BYTES;

/// Which of the formats that share the magic it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// User-mode Linux's first one: a name of 256 bytes, numbers in the byte order of the host.
    Version1,
    /// The one that QEMU wrote, and that is read here.
    Version2,
    /// User-mode Linux's third one: a name of 4096 bytes, an alignment.
    Version3,
}

impl Flavour {
    /// What the first bytes say; `None` when they are no COW file at all.
    pub fn of(head: &[u8]) -> Option<Flavour> {
        let (big, little) = (be32(head, 0)? == MAGIC, le32(head, 0)? == MAGIC);
        match (be32(head, 4)?, le32(head, 4)?) {
            (1, _) if big => Some(Flavour::Version1),
            (_, 1) if little => Some(Flavour::Version1),
            (2, _) if big => Some(Flavour::Version2),
            (3, _) if big => Some(Flavour::Version3),
            _ => None,
        }
    }
}

/// The two ways a compiler laid the structure out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// 1056 bytes, the size at 1040.
    Aligned8,
    /// 1048 bytes, the size at 1036.
    Aligned4,
}

impl Layout {
    /// Bytes of the header, where the bitmap begins.
    pub fn header_bytes(self) -> u64 {
        match self {
            Layout::Aligned8 => 1056,
            Layout::Aligned4 => 1048,
        }
    }
    /// Where the size is; the sector size follows it.
    fn size_at(self) -> usize {
        match self {
            Layout::Aligned8 => 1040,
            Layout::Aligned4 => 1036,
        }
    }
}

/// What the header says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// How it is laid out.
    pub layout: Layout,
    /// The backing file's name as stored; empty when there is none.
    pub backing: Vec<u8>,
    /// The backing file's modification time in seconds since 1970 when this file was made.
    pub mtime: i32,
    /// Virtual size in bytes, a whole number of sectors.
    pub size: u64,
}

impl Header {
    /// Bytes to hand to [`Header::parse`].
    pub const MAX_BYTES: usize = 1056;

    /// Parses the header at the start of `b`.
    ///
    /// Errors: version 1 or 3 (`Unsupported`), a size that no layout makes sense of (`Corrupt`).
    pub fn parse(b: &[u8]) -> Result<Header> {
        let hint = "User-mode Linux's uml_moo merges such a file into its backing file";
        match Flavour::of(b) {
            Some(Flavour::Version2) => {}
            Some(Flavour::Version1) => {
                return Err(Error::unsupported("it is a User-mode Linux COW file of version 1; only version 2 is read")
                    .at(4)
                    .hint(hint));
            }
            Some(Flavour::Version3) => {
                return Err(Error::unsupported("it is a User-mode Linux COW file of version 3; only version 2 is read")
                    .at(4)
                    .hint(hint));
            }
            None => return Err(Error::corrupt("it does not begin as a COW file does").at(0)),
        }
        // The sector size proves the layout. Both fit only for one pattern of the first bitmap bytes, or for an absurd size in the
        // narrow reading: the narrow one is asked first and must have a plausible size.
        let size_in = |l: Layout| {
            let size = be64(b, l.size_at())?;
            let sector = be32(b, l.size_at() + 8)?;
            (u64::from(sector) == SECTOR && size > 0 && size < 1 << 62 && size.is_multiple_of(SECTOR)).then_some((l, size))
        };
        let Some((layout, size)) = size_in(Layout::Aligned4).or_else(|| size_in(Layout::Aligned8)) else {
            let (a, b) = (be64(b, Layout::Aligned8.size_at()), be64(b, Layout::Aligned4.size_at()));
            return Err(
                Error::corrupt(format!("neither header layout gives a size in sectors of 512 bytes ({a:?}, {b:?})")).at(1036)
            );
        };
        let name = b.get(NAME_AT..MTIME_AT).unwrap_or_default();
        let mtime = be32(b, MTIME_AT).unwrap_or_default().cast_signed();
        Ok(Header { layout, backing: until_nul(name).to_vec(), mtime, size })
    }

    /// The header's bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut b = vec![0; self.layout.header_bytes() as usize];
        let at = self.layout.size_at();
        let mut fits = put_be32(&mut b, 0, MAGIC) && put_be32(&mut b, 4, 2) && put(&mut b, NAME_AT, &self.backing);
        fits &= put_be32(&mut b, MTIME_AT, self.mtime.cast_unsigned()) && put_be64(&mut b, at, self.size);
        fits &= put_be32(&mut b, at + 8, SECTOR as u32);
        debug_assert!(fits, "the fields lie within the header");
        b
    }

    /// Bytes of the bitmap: a bit per sector.
    pub fn bitmap_bytes(&self) -> u64 {
        (self.size / SECTOR).div_ceil(8)
    }
    /// Byte of the file where sector 0 is (or would be).
    pub fn data_offset(&self) -> u64 {
        (self.layout.header_bytes() + self.bitmap_bytes()).next_multiple_of(SECTOR)
    }
}
