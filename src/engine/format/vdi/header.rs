//! The VDI header, version 1.1 (little-endian). It owns where fields are and which values are possible; it must not read blocks.

use uuid::Uuid;

use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::io::bytes::{array, le16, le32, le64, put, put_le32, put_le64, until_nul};
use crate::engine::io::{ReadAt, past_end, read_up_to, with_path};
use crate::engine::units::{GIB, SECTOR, round_up};

/// Signature at byte [`SIGNATURE_AT`].
pub const SIGNATURE: u32 = 0xbeda_107f;
/// Where the signature is, after 64 bytes of text for people.
pub const SIGNATURE_AT: usize = 0x40;
/// Bytes from the start of the file to the end of the last field we use.
const BYTES: usize = 0x1c8;
/// Bytes that are read and written as the header: one sector, so that a change of it is never torn.
pub const HEADER_BYTES: usize = 512;
/// Blocks of an image at most (QEMU has the same cap).
pub const MAX_BLOCKS: u64 = 0x3fff_ffff;

/// What sort of image it is (field at 0x4c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageType {
    /// Grows as it is written.
    Dynamic,
    /// Every block has its place from the start.
    Static,
    /// Changes to a parent (also the never-used "undo" type 3, when it names one).
    Differencing,
}

/// The fields of a header, checked against each other and against the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What sort of image.
    pub image_type: ImageType,
    /// Flags, meaning nothing to readers.
    pub flags: u32,
    /// Comment, up to its NUL.
    pub comment: Vec<u8>,
    /// Byte where the block map begins.
    pub map_at: u64,
    /// Byte where the first block's extra data begins.
    pub data_at: u64,
    /// Virtual size in bytes, rounded up to sectors.
    pub disk_size: u64,
    /// Bytes of guest data in a block, a power of two.
    pub block_size: u64,
    /// Bytes before each block's guest data.
    pub block_extra: u64,
    /// Entries of the block map.
    pub blocks: u64,
    /// Blocks the header says are stored.
    pub allocated: u64,
    /// Cylinders, heads, sectors per track, as recorded for old BIOSes.
    pub geometry: (u32, u32, u32),
    /// This image.
    pub uuid: Uuid,
    /// Changes with every session that writes content.
    pub modification: Uuid,
    /// The parent's image UUID; nil without a parent.
    pub link: Uuid,
    /// The parent's modification UUID when this image was made.
    pub parent_modification: Uuid,
}

/// A UUID as VDI keeps it: Microsoft's layout, the first three fields little-endian.
fn uuid(b: &[u8], at: usize) -> Option<Uuid> {
    array::<16>(b, at).map(Uuid::from_bytes_le)
}

impl Header {
    /// Reads and checks the header of `dev`.
    ///
    /// Errors: not a VDI (`Format`), an older version (`Unsupported`), fields that contradict each other (`Corrupt`), a file that
    /// ends before the block map does (`Truncated`).
    pub fn read(dev: &dyn ReadAt) -> Result<Header> {
        let b = read_up_to(dev, 0, 512)?;
        if le32(&b, SIGNATURE_AT) != Some(SIGNATURE) {
            return Err(with_path(Error::new(ErrorKind::Format, "there is no VDI signature").at(SIGNATURE_AT as u64), dev));
        }
        let (Some(minor), Some(major)) = (le16(&b, 0x44), le16(&b, 0x46)) else { return Err(past_end(dev, 0, BYTES as u64)) };
        if (major, minor) != (1, 1) {
            return Err(with_path(
                Error::unsupported(format!("it is a VDI of version {major}.{minor}; cowshed reads 1.1"))
                    .at(0x44)
                    .hint("VBoxManage clonemedium rewrites an old VDI as version 1.1"),
                dev,
            ));
        }
        let header = Self::decode(&b).ok_or_else(|| past_end(dev, 0, BYTES as u64))?.map_err(|e| with_path(e, dev))?;
        let end = header.map_at + header.blocks * 4;
        if end > dev.len() {
            return Err(past_end(dev, header.map_at, header.blocks * 4).op("read block map"));
        }
        Ok(header)
    }

    /// The outer `None`: too few bytes.
    fn decode(b: &[u8]) -> Option<Result<Header>> {
        let link = uuid(b, 0x1a8)?;
        let kind = le32(b, 0x4c)?;
        let image_type = match kind {
            1 => ImageType::Dynamic,
            2 => ImageType::Static,
            3 if link.is_nil() => ImageType::Dynamic,
            3 | 4 => ImageType::Differencing,
            _ => return Some(Err(Error::corrupt(format!("image type {kind} is none of 1 to 4")).at(0x4c))),
        };
        let header = Header {
            image_type,
            flags: le32(b, 0x50)?,
            comment: until_nul(b.get(0x54..0x154)?).to_vec(),
            map_at: le32(b, 0x154)?.into(),
            data_at: le32(b, 0x158)?.into(),
            disk_size: le64(b, 0x170)?,
            block_size: le32(b, 0x178)?.into(),
            block_extra: le32(b, 0x17c)?.into(),
            blocks: le32(b, 0x180)?.into(),
            allocated: le32(b, 0x184)?.into(),
            geometry: (le32(b, 0x15c)?, le32(b, 0x160)?, le32(b, 0x164)?),
            uuid: uuid(b, 0x188)?,
            modification: uuid(b, 0x198)?,
            link,
            parent_modification: uuid(b, 0x1b8)?,
        };
        Some(header.checked(le32(b, 0x168)?))
    }

    /// The header with its size in whole sectors, if its fields agree with each other.
    fn checked(mut self, sector: u32) -> Result<Header> {
        let bad = |what: String, at: u64| Err(Error::corrupt(what).op("read VDI header").at(at));
        if u64::from(sector) != SECTOR {
            return bad(format!("a sector size of {sector} is not possible; it is 512"), 0x168);
        }
        if !self.block_size.is_power_of_two() || !(SECTOR..=GIB).contains(&self.block_size) {
            return bad(format!("a block size of {} bytes is not possible", self.block_size), 0x178);
        }
        if self.block_extra > self.block_size {
            return bad(format!("{} bytes of extra data per block are not possible", self.block_extra), 0x17c);
        }
        if self.blocks > MAX_BLOCKS {
            return bad(format!("{} blocks are more than the {MAX_BLOCKS} a VDI can have", self.blocks), 0x180);
        }
        if self.map_at < 0x1c8 || self.data_at < self.map_at + self.blocks * 4 {
            return bad(format!("the block map at {:#x} overlaps the header or the data", self.map_at), 0x154);
        }
        // Sizes that are no whole sectors came out of `VBoxManage convertfromraw`; the guest sees the last sector whole.
        match round_up(self.disk_size, SECTOR) {
            Some(size) if size <= self.blocks * self.block_size => self.disk_size = size,
            _ => return bad(format!("a size of {} bytes does not fit into {} blocks", self.disk_size, self.blocks), 0x170),
        }
        if self.image_type == ImageType::Differencing && self.link.is_nil() {
            return bad("it is a differencing image but names no parent".to_string(), 0x1a8);
        }
        Ok(self)
    }

    /// The 512 bytes of a new header.
    pub fn encode(&self) -> Vec<u8> {
        let mut b = vec![0u8; HEADER_BYTES];
        let ok = put(&mut b, 0, b"<<< cowshed VirtualBox Disk Image >>>\n")
            && put_le32(&mut b, SIGNATURE_AT, SIGNATURE)
            && put_le32(&mut b, 0x44, 0x0001_0001)
            && put_le32(&mut b, 0x48, 0x190)
            && put(&mut b, 0x54, self.comment.get(..self.comment.len().min(255)).unwrap_or_default());
        debug_assert!(ok, "every field lies within 512 bytes");
        self.patch(&mut b);
        b
    }

    /// Writes the fields into `b`, the 512 bytes of a header, leaving what we do not know as it is.
    pub fn patch(&self, b: &mut [u8]) {
        let kind = match self.image_type {
            ImageType::Dynamic => 1,
            ImageType::Static => 2,
            ImageType::Differencing => 4,
        };
        let mut ok = put_le64(b, 0x170, self.disk_size);
        for (at, v) in [
            (0x4c, kind),
            (0x50, self.flags),
            (0x154, self.map_at as u32),
            (0x158, self.data_at as u32),
            (0x15c, self.geometry.0),
            (0x160, self.geometry.1),
            (0x164, self.geometry.2),
            (0x168, SECTOR as u32),
            (0x178, self.block_size as u32),
            (0x17c, self.block_extra as u32),
            (0x180, self.blocks as u32),
            (0x184, self.allocated as u32),
        ] {
            ok &= put_le32(b, at, v);
        }
        for (at, id) in
            [(0x188, &self.uuid), (0x198, &self.modification), (0x1a8, &self.link), (0x1b8, &self.parent_modification)]
        {
            ok &= put(b, at, &id.to_bytes_le());
        }
        debug_assert!(ok, "every field lies within 512 bytes");
    }

    /// Bytes from one stored block to the next.
    pub fn stride(&self) -> u64 {
        self.block_size + self.block_extra
    }

    /// Byte of the file where the guest data of stored block `index` begins.
    pub fn block_at(&self, index: u64) -> u64 {
        self.data_at.saturating_add(index.saturating_mul(self.stride())).saturating_add(self.block_extra)
    }
}
