//! The L1 and L2 tables of a qcow version 1 image, read a page at a time and kept for a while; changed entries wait here until
//! they are written.
//!
//! Nothing is believed of their size: a table that the file does not hold is an error when it is asked for.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::header::Header;
use crate::engine::error::{Context, Error, Result};
use crate::engine::io::bytes::be64;
use crate::engine::io::{Device, WriteAt, read_vec};

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

    /// The entry's 64 bits; `None` when its offset or length does not fit.
    pub fn encode(self, cluster_bits: u32) -> Option<u64> {
        match self {
            Entry::Unallocated => Some(0),
            Entry::Data(offset) => (offset & COMPRESSED == 0).then_some(offset),
            Entry::Compressed { offset, len } => {
                let split = 63 - cluster_bits;
                (offset >> split == 0 && len >> cluster_bits == 0).then_some(COMPRESSED | len << split | offset)
            }
        }
    }
}

/// Which table a changed page belongs to: L2 tables are written before the L1 entries that lead to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The one table of the image.
    L1,
    /// A table of clusters.
    L2,
}

type Page = Arc<[u64]>;

/// Pages by their byte offset.
#[derive(Default)]
struct Pages {
    /// As the file has them.
    kept: HashMap<u64, Page>,
    /// Changed and not written yet.
    changed: BTreeMap<u64, (Level, Page)>,
}

/// The tables of one image.
pub struct Tables {
    dev: Device,
    header: Header,
    pages: Mutex<Pages>,
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

    /// Links an empty L2 table, to be written at byte `at`, into the L1 entry at `index`.
    pub(super) fn link(&self, index: u64, at: u64) -> Result<()> {
        let mut first = 0;
        while first < self.header.l2_entries() {
            let count = PAGE.min(self.header.l2_entries() - first);
            self.lock().changed.insert(at + first * 8, (Level::L2, vec![0; count as usize].into()));
            first += count;
        }
        self.set(Level::L1, self.header.l1_offset, index, self.header.l1_entries, at)
    }

    /// Changes the entry of guest cluster `cluster`, whose L2 table is there.
    pub(super) fn set_cluster(&self, cluster: u64, entry: Entry) -> Result<()> {
        let h = &self.header;
        let raw =
            entry.encode(h.cluster_bits).ok_or_else(|| Error::usage("the file has grown beyond what the format can address"))?;
        let table = self.l1(cluster >> h.l2_bits)?;
        self.set(Level::L2, table, cluster & (h.l2_entries() - 1), h.l2_entries(), raw)
    }

    /// Takes the L2 table of L1 entry `index` away.
    pub(super) fn unlink(&self, index: u64) -> Result<()> {
        self.set(Level::L1, self.header.l1_offset, index, self.header.l1_entries, 0)
    }

    /// Pages waiting to be written.
    pub(super) fn changed(&self) -> usize {
        self.lock().changed.len()
    }

    /// Writes the changed pages of `level` to `dev`. A page stays changed until it was written.
    pub(super) fn write(&self, level: Level, dev: &dyn WriteAt) -> Result<()> {
        let waiting: Vec<(u64, Page)> =
            self.lock().changed.iter().filter(|(_, (l, _))| *l == level).map(|(at, (_, p))| (*at, p.clone())).collect();
        for (at, page) in waiting {
            let bytes: Vec<u8> = page.iter().flat_map(|e| e.to_be_bytes()).collect();
            dev.write_at(at, &bytes).op("write tables")?;
            let mut pages = self.lock();
            pages.changed.remove(&at);
            pages.keep(at, page);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The page that holds entry `index` of the table of `entries` entries at byte `table`: its byte offset, the page, and the
    /// index in it.
    fn page(&self, table: u64, index: u64, entries: u64) -> Result<(u64, Page, usize)> {
        let out_of_range = || Error::corrupt("a table reaches past the end of the disk").at(table);
        let first = index / PAGE * PAGE;
        let count = PAGE.min(entries.checked_sub(first).ok_or_else(out_of_range)?);
        let at = table.checked_add(first * 8).ok_or_else(out_of_range)?;
        let known = self.lock().get(at).filter(|p| p.len() as u64 == count);
        let page = match known {
            Some(page) => page,
            None => {
                let bytes = read_vec(self.dev.as_ref(), at, count * 8, PAGE * 8)?;
                let page: Page = (0..count as usize).map(|i| be64(&bytes, i * 8).unwrap_or_default()).collect();
                self.lock().keep(at, page.clone());
                page
            }
        };
        Ok((at, page, (index - first) as usize))
    }

    fn entry(&self, table: u64, index: u64, entries: u64) -> Result<u64> {
        let (at, page, i) = self.page(table, index, entries)?;
        page.get(i).copied().ok_or_else(|| Error::corrupt("a table reaches past the end of the disk").at(at))
    }

    fn set(&self, level: Level, table: u64, index: u64, entries: u64, raw: u64) -> Result<()> {
        let (at, page, i) = self.page(table, index, entries)?;
        let mut page = page.to_vec();
        if let Some(entry) = page.get_mut(i) {
            *entry = raw;
        }
        self.lock().changed.insert(at, (level, page.into()));
        Ok(())
    }
}

impl Pages {
    fn get(&self, at: u64) -> Option<Page> {
        self.changed.get(&at).map(|(_, p)| p).or_else(|| self.kept.get(&at)).cloned()
    }
    fn keep(&mut self, at: u64, page: Page) {
        if self.kept.len() >= PAGES_KEPT {
            self.kept.clear();
        }
        self.kept.insert(at, page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_entries_split_at_the_cluster_size() {
        // 4 KiB clusters: 12 bits of length above 51 bits of offset.
        for (raw, bits, entry) in [
            (COMPRESSED | (0x123 << 51) | 0x4567, 12, Entry::Compressed { offset: 0x4567, len: 0x123 }),
            (COMPRESSED | (0xffff << 47) | 1, 16, Entry::Compressed { offset: 1, len: 0xffff }),
            (0x8000, 12, Entry::Data(0x8000)),
            (0, 12, Entry::Unallocated),
        ] {
            assert_eq!(Entry::decode(raw, bits), entry);
            assert_eq!(entry.encode(bits), Some(raw));
        }
        assert_eq!(Entry::Compressed { offset: 1 << 51, len: 1 }.encode(12), None);
        assert_eq!(Entry::Compressed { offset: 1, len: 4096 }.encode(12), None);
    }
}
