//! The L1 and L2 tables of a qcow version 1 image, read a page at a time and kept for a while.
//!
//! Nothing is believed of their size: a table that the file does not hold is an error when it is asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::header::Header;
use crate::engine::error::{Context, Error, Result};
use crate::engine::io::bytes::be64;
use crate::engine::io::{Device, read_vec};

/// Entries read at once.
const PAGE: u64 = 512;
/// Pages kept at most (4 MiB); when there are more, all are dropped: simple, and good enough for what moves forward.
const PAGES_KEPT: usize = 1024;
/// Set in an L2 entry whose cluster is compressed.
const COMPRESSED: u64 = 1 << 63;

/// What an L2 entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Not in this file.
    Unallocated,
    /// Stored as it is, from this byte of the file on.
    Data(u64),
    /// Stored compressed.
    Compressed {
        /// Byte of the file where the stream begins.
        offset: u64,
        /// Bytes of the stream.
        len: u64,
    },
}

impl Entry {
    /// Decodes `raw`. A compressed cluster has its length above bit `63 - cluster_bits` and its offset below.
    pub fn decode(raw: u64, cluster_bits: u32) -> Entry {
        if raw == 0 {
            return Entry::Unallocated;
        }
        if raw & COMPRESSED == 0 {
            return Entry::Data(raw);
        }
        let split = 63 - cluster_bits;
        Entry::Compressed { offset: raw & ((1 << split) - 1), len: (raw >> split) & ((1 << cluster_bits) - 1) }
    }
}

/// The tables of one image.
pub struct Tables {
    dev: Device,
    header: Header,
    /// By the byte offset of the page.
    pages: Mutex<HashMap<u64, Arc<[u64]>>>,
}

impl Tables {
    /// The tables that `header` describes in `dev`.
    pub fn new(dev: Device, header: Header) -> Self {
        Tables { dev, header, pages: Mutex::default() }
    }

    /// The entry of guest cluster `cluster`, and of how many clusters from it on nothing is stored when it is the L1 table that
    /// says so (1 otherwise).
    pub fn lookup(&self, cluster: u64) -> Result<(Entry, u64)> {
        let h = &self.header;
        let index = cluster & (h.l2_entries() - 1);
        let table = self.l1(cluster >> h.l2_bits)?;
        if table == 0 {
            return Ok((Entry::Unallocated, h.l2_entries() - index));
        }
        let raw = self.entry(table, index, h.l2_entries()).op("read L2 table")?;
        Ok((Entry::decode(raw, h.cluster_bits), 1))
    }

    /// The L1 entry at `index`: where the L2 table is, 0 for none.
    pub fn l1(&self, index: u64) -> Result<u64> {
        self.entry(self.header.l1_offset, index, self.header.l1_entries).op("read L1 table")
    }

    /// Forgets what was read, after the tables were written to.
    pub fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<[u64]>>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entry `index` of the table of `entries` entries at byte `table`.
    fn entry(&self, table: u64, index: u64, entries: u64) -> Result<u64> {
        let out_of_range = || Error::corrupt("a table reaches past the end of the disk").at(table);
        let first = index / PAGE * PAGE;
        let count = PAGE.min(entries.checked_sub(first).ok_or_else(out_of_range)?);
        let at = table.checked_add(first * 8).ok_or_else(out_of_range)?;
        let known = self.lock().get(&at).filter(|p| p.len() as u64 == count).cloned();
        let page = match known {
            Some(page) => page,
            None => {
                let bytes = read_vec(self.dev.as_ref(), at, count * 8, PAGE * 8)?;
                let page: Arc<[u64]> = (0..count as usize).map(|i| be64(&bytes, i * 8).unwrap_or_default()).collect();
                let mut pages = self.lock();
                if pages.len() >= PAGES_KEPT {
                    pages.clear();
                }
                pages.insert(at, page.clone());
                page
            }
        };
        page.get((index - first) as usize).copied().ok_or_else(out_of_range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_entries_split_at_the_cluster_size() {
        // 4 KiB clusters: 12 bits of length above 51 bits of offset.
        assert_eq!(Entry::decode(COMPRESSED | (0x123 << 51) | 0x4567, 12), Entry::Compressed { offset: 0x4567, len: 0x123 });
        assert_eq!(Entry::decode(COMPRESSED | (0xffff << 47) | 1, 16), Entry::Compressed { offset: 1, len: 0xffff });
        assert_eq!(Entry::decode(0x8000, 12), Entry::Data(0x8000));
        assert_eq!(Entry::decode(0, 12), Entry::Unallocated);
    }
}
