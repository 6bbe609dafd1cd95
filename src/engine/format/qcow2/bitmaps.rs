//! The bitmap directory: which dirty bitmaps the image keeps. Specification: "Bitmaps extension", "Bitmap directory".

use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{be16, be32, be64};
use crate::engine::io::{Device, ReadAt, past_end, read_vec};
use crate::engine::limits::MAX_TABLE_BYTES;
use crate::engine::model::Bitmap;

use super::extensions::BitmapsExtension;
use super::tables::OFFSET;

/// Flag: not saved properly.
pub const IN_USE: u32 = 1;
/// Flag: recorded from the start.
pub const AUTO: u32 = 2;
/// Flag: a program that does not know the extra data may use it all the same.
pub const COMPATIBLE: u32 = 4;
/// Bytes of the fixed part of an entry.
const FIXED: usize = 24;

/// An entry of the bitmap directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Byte offset of the bitmap table.
    pub table_offset: u64,
    /// Entries of the bitmap table.
    pub table_entries: u32,
    /// [`IN_USE`], [`AUTO`].
    pub flags: u32,
    /// 1: dirty tracking.
    pub kind: u8,
    /// Bytes of the disk per bit, as a power of two.
    pub granularity_bits: u8,
    /// Extra data, unknown to us.
    pub extra: Vec<u8>,
    /// Name.
    pub name: Vec<u8>,
}

impl Entry {
    fn parse(b: &[u8]) -> Option<(Entry, usize)> {
        let (name_len, extra_len) = (be16(b, 18)? as usize, be32(b, 20)? as usize);
        let name_at = FIXED.checked_add(extra_len)?;
        let end = name_at.checked_add(name_len)?;
        let entry = Entry {
            table_offset: be64(b, 0)?,
            table_entries: be32(b, 8)?,
            flags: be32(b, 12)?,
            kind: *b.get(16)?,
            granularity_bits: *b.get(17)?,
            extra: b.get(FIXED..name_at)?.to_vec(),
            name: b.get(name_at..end)?.to_vec(),
        };
        Some((entry, end.next_multiple_of(8)))
    }

    /// The entry as bytes, padded to a multiple of 8.
    pub fn encode(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(FIXED + self.extra.len() + self.name.len() + 8);
        b.extend_from_slice(&self.table_offset.to_be_bytes());
        b.extend_from_slice(&self.table_entries.to_be_bytes());
        b.extend_from_slice(&self.flags.to_be_bytes());
        b.extend_from_slice(&[self.kind, self.granularity_bits]);
        b.extend_from_slice(&(self.name.len() as u16).to_be_bytes());
        b.extend_from_slice(&(self.extra.len() as u32).to_be_bytes());
        b.extend_from_slice(&self.extra);
        b.extend_from_slice(&self.name);
        b.resize(b.len().next_multiple_of(8), 0);
        b
    }

    /// The entry as plain data.
    pub fn describe(&self) -> Bitmap {
        Bitmap {
            name: String::from_utf8_lossy(&self.name).into_owned(),
            granularity: 1 << self.granularity_bits,
            in_use: self.flags & IN_USE != 0,
            auto: self.flags & AUTO != 0,
        }
    }
}

/// The bits of a bitmap as a device: bit `n` is bit `n % 8` of byte `n / 8`.
pub struct Bits {
    dev: Device,
    /// A cluster's place, 0 for none of its bits set, [`ALL_SET`] for all of them.
    table: Vec<u64>,
    cluster: u64,
    len: u64,
}

/// A bitmap table entry without a cluster: all bits are set.
pub const ALL_SET: u64 = 1;

impl Bits {
    /// Those of `entry`, which covers a disk of `size` bytes, in clusters of `cluster` bytes.
    ///
    /// Errors: the table lies outside the file, or is too short for the disk.
    pub fn open(dev: Device, entry: &Entry, size: u64, cluster: u64) -> Result<Bits> {
        let len = size.div_ceil(1 << entry.granularity_bits).div_ceil(8);
        let place = |e: Error| e.op("read a bitmap table").at(entry.table_offset);
        let bytes =
            read_vec(dev.as_ref(), entry.table_offset, u64::from(entry.table_entries) * 8, MAX_TABLE_BYTES).map_err(place)?;
        let table: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|e| u64::from_be_bytes(*e) & (OFFSET | ALL_SET)).collect();
        if (table.len() as u64) < len.div_ceil(cluster) {
            return Err(place(Error::corrupt("the table is too short for the disk")));
        }
        Ok(Bits { dev, table, cluster, len })
    }
}

impl ReadAt for Bits {
    fn len(&self) -> u64 {
        self.len
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
            return Err(past_end(self.dev.as_ref(), offset, buf.len() as u64));
        }
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let within = at % self.cluster;
            let (part, tail) = rest.split_at_mut(rest.len().min((self.cluster - within) as usize));
            match self.table.get((at / self.cluster) as usize).copied().unwrap_or(0) {
                entry if entry & OFFSET != 0 => self.dev.read_at((entry & OFFSET) + within, part)?,
                entry => part.fill(if entry & ALL_SET != 0 { 0xff } else { 0 }),
            }
            at += part.len() as u64;
            rest = tail;
        }
        Ok(())
    }
}

/// Reads the directory `ext` points to.
///
/// Errors: it is outside the file, an entry is cut short or of an unknown sort.
pub fn read(dev: &dyn ReadAt, ext: &BitmapsExtension) -> Result<Vec<Entry>> {
    let place = |e: Error| e.op("read the bitmap directory").at(ext.directory_offset);
    let bytes = read_vec(dev, ext.directory_offset, ext.directory_size, ext.directory_size).map_err(place)?;
    let mut out = Vec::new();
    let mut at = 0;
    for n in 0..ext.count {
        let Some((entry, len)) = bytes.get(at..).and_then(Entry::parse) else {
            return Err(place(Error::corrupt(format!("bitmap {n} is cut short"))));
        };
        if entry.kind != 1 || !(9..=31).contains(&entry.granularity_bits) {
            return Err(place(Error::corrupt(format!(
                "bitmap {n} is of kind {} with granularity 2^{}",
                entry.kind, entry.granularity_bits
            ))));
        }
        out.push(entry);
        at += len;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::io::memory::Memory;

    #[test]
    fn a_directory_cut_anywhere_is_an_error() {
        let entry = Entry {
            table_offset: 0x10000,
            table_entries: 1,
            flags: IN_USE | AUTO,
            kind: 1,
            granularity_bits: 16,
            extra: vec![1, 2, 3],
            name: b"backup-1".to_vec(),
        };
        let bytes = [entry.encode(), entry.encode()].concat();
        let ext = |n: usize| BitmapsExtension { count: 2, directory_size: n as u64, directory_offset: 0 };
        assert_eq!(read(&Memory::new(bytes.clone()), &ext(bytes.len())).unwrap(), [entry.clone(), entry]);
        for n in 0..bytes.len() - 5 {
            assert!(read(&Memory::new(bytes[..n].to_vec()), &ext(n)).is_err(), "{n}");
        }
    }
}
