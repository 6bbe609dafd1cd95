//! Dirty bitmaps after the disk became another: every bit is set, so that the next incremental backup takes all.
//!
//! The image does not trust its bitmaps while this is done (the switch before took the autoclear bit away); the switch at the end
//! gives the bit back. A crash between loses the bitmaps and leaks their clusters, nothing else.

use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::be64;
use crate::engine::io::{Device, read_vec};
use crate::engine::limits::MAX_TABLE_BYTES;

use super::super::bitmaps::{ALL_SET, read};
use super::super::extensions::read_head;
use super::super::header::BITMAPS;
use super::super::tables::OFFSET;
use super::Editor;

impl Editor {
    /// Makes every bitmap fit the disk and say that all of it changed.
    pub(super) fn bitmaps_all_dirty(&mut self) -> Result<()> {
        let dev: Device = self.dev.clone();
        let (header, ext) = read_head(&dev)?;
        let Some(directory) = ext.bitmaps(&header)? else { return Ok(()) };
        let list = read(dev.as_ref(), &directory)?;
        self.change(|e| {
            let cluster = e.geometry.cluster();
            let mut at = directory.directory_offset;
            for entry in &list {
                let old = u64::from(entry.table_entries) * 8;
                let table = read_vec(dev.as_ref(), entry.table_offset, old, MAX_TABLE_BYTES)?;
                for data in (0..table.len() / 8).filter_map(|i| be64(&table, i * 8)).map(|e| e & OFFSET).filter(|o| *o != 0) {
                    e.alloc.drop_use(e.cluster(data), 1)?;
                }
                e.alloc.drop_range(entry.table_offset, old)?;
                let entries = e.header.size.div_ceil(1 << entry.granularity_bits).div_ceil(8).div_ceil(cluster);
                if entries * 8 > MAX_TABLE_BYTES {
                    return Err(Error::unsupported("a bitmap this fine cannot cover a disk so large").hint("remove the bitmap"));
                }
                let mut place = e.place(&super::bytes(&vec![ALL_SET; entries as usize]))?.to_be_bytes().to_vec();
                place.extend_from_slice(&(entries as u32).to_be_bytes());
                e.dev.write_at(at, &place)?;
                at += entry.encode().len() as u64;
            }
            e.header.autoclear |= BITMAPS;
            Ok(())
        })
    }
}
