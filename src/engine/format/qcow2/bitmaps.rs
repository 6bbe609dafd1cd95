//! The bitmap directory: which dirty bitmaps the image keeps. Specification: "Bitmaps extension", "Bitmap directory".

use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{be16, be32, be64};
use crate::engine::io::{ReadAt, read_vec};
use crate::engine::model::Bitmap;

use super::extensions::BitmapsExtension;

/// Flag: not saved properly.
pub const IN_USE: u32 = 1;
/// Flag: recorded from the start.
pub const AUTO: u32 = 2;
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
