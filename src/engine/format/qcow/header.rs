//! The header of a qcow version 1 image: 48 bytes, big-endian, and the backing file's name behind it.

use crate::engine::error::{Context, Error, Result};
use crate::engine::io::bytes::{be32, be64};
use crate::engine::io::{ReadAt, read_vec};
use crate::engine::limits::{MAX_NAME, MAX_TABLE_BYTES};
use crate::engine::units::SECTOR;

/// `QFI\xfb`.
pub const MAGIC: u32 = 0x5146_49fb;
/// The version this module reads.
pub const VERSION: u32 = 1;
/// Bytes of the header.
pub const HEADER_BYTES: u64 = 48;

/// What the header says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Name of the backing file as stored.
    pub backing: Option<Vec<u8>>,
    /// Modification time field: seconds since 1970. QEMU writes 0.
    pub mtime: u32,
    /// Virtual size in bytes, a whole number of sectors.
    pub size: u64,
    /// Cluster size as a power of two, 9 to 16.
    pub cluster_bits: u32,
    /// Entries of an L2 table as a power of two, 6 to 13.
    pub l2_bits: u32,
    /// 0 none, 1 AES.
    pub crypt: u32,
    /// Byte offset of the L1 table.
    pub l1_offset: u64,
    /// Entries of the L1 table: not stored, it follows from the size.
    pub l1_entries: u64,
}

impl Header {
    /// Reads and checks the header of `dev`.
    ///
    /// Errors: fields out of the format's ranges (`Corrupt`), structures beyond the end of the file (`Truncated`).
    pub fn read(dev: &dyn ReadAt) -> Result<Header> {
        let b = read_vec(dev, 0, HEADER_BYTES, HEADER_BYTES).op("read header")?;
        let u32_at = |at| be32(&b, at).unwrap_or_default();
        let u64_at = |at| be64(&b, at).unwrap_or_default();
        if u32_at(0) != MAGIC || u32_at(4) != VERSION {
            return Err(Error::corrupt("it does not begin as a qcow version 1 image does").op("read header").at(0));
        }
        let bad = |why: String, at: u64| Err(Error::corrupt(why).op("read header").at(at));
        let size = u64_at(24);
        if size <= 1 {
            return bad(format!("a virtual size of {size} bytes is too small"), 24);
        }
        let (cluster_bits, l2_bits) = (u32::from(b.get(32).copied().unwrap_or(0)), u32::from(b.get(33).copied().unwrap_or(0)));
        if !(9..=16).contains(&cluster_bits) {
            return bad(format!("clusters of 2^{cluster_bits} bytes; the format has 2^9 to 2^16"), 32);
        }
        if !(6..=13).contains(&l2_bits) {
            return bad(format!("L2 tables of 2^{l2_bits} entries; the format has 2^6 to 2^13"), 33);
        }
        let crypt = u32_at(36);
        if crypt > 1 {
            return Err(Error::unsupported(format!("encryption method {crypt} is unknown")).op("read header").at(36));
        }
        let l1_entries = size.div_ceil(1 << (cluster_bits + l2_bits));
        let l1_offset = u64_at(40);
        let l1_bytes = l1_entries.saturating_mul(8);
        if l1_offset.checked_add(l1_bytes).is_none_or(|end| end > dev.len()) {
            return Err(crate::engine::io::past_end(dev, l1_offset, l1_bytes).op("read L1 table"));
        }
        if l1_bytes > MAX_TABLE_BYTES {
            return bad(format!("an L1 table of {l1_bytes} bytes is larger than the {MAX_TABLE_BYTES} allowed"), 24);
        }
        // QEMU counts in sectors: what is left of the last one does not exist for a guest.
        let size = size / SECTOR * SECTOR;
        let backing = backing_name(dev)?;
        Ok(Header { backing, mtime: u32_at(20), size, cluster_bits, l2_bits, crypt, l1_offset, l1_entries })
    }

    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }
    /// Entries of an L2 table.
    pub fn l2_entries(&self) -> u64 {
        1 << self.l2_bits
    }
}

/// Where the backing file's name is: byte and length. `None` when there is none.
///
/// Errors: a name longer than [`MAX_NAME`].
pub(super) fn name_place(dev: &dyn ReadAt) -> Result<Option<(u64, u64)>> {
    let b = read_vec(dev, 8, 12, 12).op("read header")?;
    let (offset, len) = (be64(&b, 0).unwrap_or_default(), u64::from(be32(&b, 8).unwrap_or_default()));
    if offset == 0 || len == 0 {
        return Ok(None);
    }
    if len > MAX_NAME as u64 {
        return Err(Error::corrupt(format!("a backing file name of {len} bytes; {MAX_NAME} are allowed"))
            .op("read header")
            .at(16));
    }
    Ok(Some((offset, len)))
}

fn backing_name(dev: &dyn ReadAt) -> Result<Option<Vec<u8>>> {
    let Some((offset, len)) = name_place(dev)? else { return Ok(None) };
    read_vec(dev, offset, len, MAX_NAME as u64).op("read the backing file's name").map(Some)
}
