//! Keeping dirty bitmaps through a resize: their tables get as long as the new size asks for, new bits are clear.
//!
//! While this is done the image says that its bitmaps are not consistent (the autoclear bit was taken away before the first
//! change), so a crash loses the bitmaps and nothing else. The bit comes back at the end.

use crate::engine::error::{Context, Error, Result};
use crate::engine::io::bytes::be64;
use crate::engine::io::{Device, read_vec};
use crate::engine::limits::MAX_TABLE_BYTES;

use super::bitmaps::{self, Entry};
use super::extensions::read_head;
use super::header::BITMAPS;
use super::tables::OFFSET;
use super::writer::{Shared, State};

impl Shared {
    /// Makes every bitmap fit a disk of `size` bytes, and trusts them again.
    pub fn resize_bitmaps(&self, s: &mut State, size: u64) -> Result<()> {
        let dev: Device = self.dev.clone();
        let (header, ext) = read_head(&dev)?;
        let Some(directory) = ext.bitmaps(&header)? else { return Ok(()) };
        let mut at = directory.directory_offset;
        for entry in bitmaps::read(dev.as_ref(), &directory)? {
            self.resize_bitmap(s, at, &entry, size).op("resize a bitmap")?;
            at += entry.encode().len() as u64;
        }
        self.flush(s)?;
        let autoclear = s.header.autoclear | BITMAPS;
        self.dev.write_at(88, &autoclear.to_be_bytes())?;
        self.barrier(s, &self.dev)?;
        s.header.autoclear = autoclear;
        // The next guest write must take the bit away again.
        s.untouched = true;
        Ok(())
    }

    /// One bitmap, whose directory entry is at host byte `at`.
    fn resize_bitmap(&self, s: &mut State, at: u64, entry: &Entry, size: u64) -> Result<()> {
        let cluster = self.geometry.cluster();
        let bits = size.div_ceil(1 << entry.granularity_bits);
        let entries = bits.div_ceil(8).div_ceil(cluster);
        if entries * 8 > MAX_TABLE_BYTES {
            return Err(Error::unsupported("a bitmap this fine cannot cover a disk so large").hint("remove the bitmap first"));
        }
        let old_bytes = u64::from(entry.table_entries) * 8;
        let bytes = read_vec(self.dev.as_ref(), entry.table_offset, old_bytes, MAX_TABLE_BYTES)?;
        let mut table: Vec<u64> = (0..entry.table_entries as usize).filter_map(|i| be64(&bytes, i * 8)).collect();
        for dropped in table.get(entries as usize..).unwrap_or_default() {
            if dropped & OFFSET != 0 {
                s.alloc.free(dropped & OFFSET, cluster);
            }
        }
        table.resize(entries as usize, 0);
        let tail = bits % (cluster * 8);
        if let Some(last) = table.last().map(|e| e & OFFSET).filter(|o| *o != 0 && tail != 0) {
            self.clear_from(last, tail)?;
        }
        let clusters = |bytes: u64| bytes.div_ceil(cluster);
        let (have, need) = (clusters(old_bytes), clusters(entries * 8));
        let mut offset = entry.table_offset;
        if need > have {
            s.alloc.free(offset, old_bytes);
            offset = s.alloc.metadata_run(need)?;
        } else if need < have {
            s.alloc.free(offset + need * cluster, (have - need) * cluster);
        }
        let mut out: Vec<u8> = table.iter().flat_map(|e| e.to_be_bytes()).collect();
        out.resize((need * cluster) as usize, 0);
        self.dev.write_at(offset, &out)?;
        let mut place = offset.to_be_bytes().to_vec();
        place.extend_from_slice(&(entries as u32).to_be_bytes());
        self.dev.write_at(at, &place)
    }

    /// Clears the bits of the bitmap cluster at `host` from `bit` on; bits start at the low end of each byte.
    fn clear_from(&self, host: u64, bit: u64) -> Result<()> {
        let cluster = self.geometry.cluster();
        let mut bytes = read_vec(self.dev.as_ref(), host, cluster, cluster)?;
        let first = (bit / 8) as usize;
        if let Some((edge, rest)) = bytes.get_mut(first..).and_then(<[u8]>::split_first_mut) {
            *edge &= (1u8 << (bit % 8)) - 1;
            rest.fill(0);
        }
        self.dev.write_at(host, &bytes)
    }
}
