//! Counting uses: what a set of L1 tables refers to is counted up or down, each L2 table read once however many share it; and the
//! COPIED flags that follow from the counts.

use std::collections::BTreeMap;

use crate::engine::error::{Error, Result};
use crate::engine::io::{Device, read_vec};
use crate::engine::limits::MAX_TABLE_BYTES;

use super::super::header::Header;
use super::super::image::read_l1;
use super::super::snapshots::Entry;
use super::super::tables::{COMPRESSED, COPIED, Geometry, OFFSET};
use super::Editor;

/// L2 tables by their place, and how many L1 entries point to each: more is counted up, less is counted down.
pub(super) type Tables = BTreeMap<u64, i64>;

/// Clusters a table entry uses: first and last.
pub(super) fn uses(g: &Geometry, entry: u64) -> Result<Option<(u64, u64)>> {
    if entry & COMPRESSED != 0 {
        let unit = g.packed(entry);
        let last = unit.offset.saturating_add(unit.len.saturating_sub(1));
        return Ok(Some((unit.offset >> g.cluster_bits, last >> g.cluster_bits)));
    }
    let host = entry & OFFSET;
    if host & (g.cluster() - 1) != 0 {
        return Err(Error::corrupt(format!("an L2 entry points to {host:#x}, which does not begin a cluster")).hint("run check"));
    }
    Ok((host != 0).then_some((host >> g.cluster_bits, host >> g.cluster_bits)))
}

/// The entries of an L2 table, without their subcluster bitmaps.
fn entries(g: &Geometry, table: &[u8]) -> impl Iterator<Item = u64> {
    table.chunks_exact(g.entry_size()).filter_map(|raw| raw.first_chunk::<8>().map(|e| u64::from_be_bytes(*e)))
}

impl Editor {
    /// Adds the tables of `l1` to `tables`, `by` each.
    pub(super) fn collect(&self, tables: &mut Tables, l1: &[u64], by: i64) -> Result<()> {
        for entry in l1 {
            if let Some(at) = self.geometry.l2_offset(*entry)? {
                let n = tables.entry(at).or_insert(0);
                *n += by;
            }
        }
        Ok(())
    }

    /// The L1 tables of snapshots, which together are not larger than the file.
    pub(super) fn l1_of(&self, entry: &Entry) -> Result<Vec<u64>> {
        let reader: Device = self.dev.clone();
        read_l1(&reader, entry.l1_offset, entry.l1_entries)
    }

    /// Refuses snapshots whose L1 tables cannot all be in the file.
    pub(super) fn check_tables(&self) -> Result<()> {
        let all: u64 = self.list.iter().map(|s| u64::from(s.l1_entries) * 8).sum();
        if all > MAX_TABLE_BYTES.min(self.dev.len()) {
            return Err(Error::corrupt("the L1 tables of the snapshots overlap").hint("run check"));
        }
        Ok(())
    }

    /// Counts the tables, and all they refer to, up or down. First down, so that no count passes its limit on the way.
    ///
    /// Errors: a count would not fit the image's width (`Unsupported`); counts or entries contradict each other (`Corrupt`).
    pub(super) fn recount(&mut self, tables: &Tables) -> Result<()> {
        for down in [true, false] {
            for (&at, &by) in tables.iter().filter(|(_, by)| if down { **by < 0 } else { **by > 0 }) {
                let table = self.l2(at)?;
                self.count(self.cluster(at), by)?;
                let g = self.geometry;
                for entry in entries(&g, &table) {
                    if let Some((first, last)) = uses(&g, entry)? {
                        for n in first..=last {
                            self.count(n, by)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn l2(&self, at: u64) -> Result<Vec<u8>> {
        let len = self.geometry.cluster();
        read_vec(self.dev.as_ref(), at, len, len).map_err(|e| e.op("read an L2 table"))
    }

    fn count(&mut self, cluster: u64, by: i64) -> Result<()> {
        if self.alloc.metadata.contains(cluster) {
            return Err(self.alloc.overlap(cluster).op("count what a snapshot uses"));
        }
        if by < 0 {
            return self.alloc.drop_use(cluster, -by).map(drop);
        }
        if self.alloc.refs.get(cluster)? == 0 {
            return Err(Error::corrupt("a cluster is used and not counted")
                .at(cluster << self.header.cluster_bits)
                .hint("look with cowshed check, repair with check -r all"));
        }
        self.alloc.refs.change(cluster, by).map(drop)
    }

    /// Gives the entries of `l1`, which is to be the active table, and of its L2 tables the COPIED flags that the counts ask for.
    /// An L2 table with other flags is copied; all `holders` L1 tables that are written with these entries point to the copy.
    pub(super) fn set_copied(&mut self, l1: &mut [u64], holders: i64) -> Result<()> {
        for entry in l1 {
            let Some(old) = self.geometry.l2_offset(*entry)? else {
                *entry = 0;
                continue;
            };
            let mut at = old;
            let mut table = self.l2(old)?;
            if self.correct(&mut table)? {
                at = self.place(&table)?;
                // Counted like any table of the image from now on.
                self.alloc.metadata.remove(self.cluster(at));
                self.alloc.refs.change(self.cluster(at), holders - 1)?;
                self.alloc.drop_use(self.cluster(old), holders)?;
            }
            let alone = self.alloc.refs.get(self.cluster(at))? == 1;
            *entry = at | if alone { COPIED } else { 0 };
        }
        Ok(())
    }

    /// Corrects the flags of an L2 table; true when one was wrong.
    fn correct(&mut self, table: &mut [u8]) -> Result<bool> {
        let mut any = false;
        for raw in table.chunks_exact_mut(self.geometry.entry_size()) {
            let Some(word) = raw.first_chunk_mut::<8>() else { continue };
            let entry = u64::from_be_bytes(*word);
            let want = match entry & COMPRESSED == 0 && entry & OFFSET != 0 {
                true if self.alloc.refs.get((entry & OFFSET) >> self.header.cluster_bits)? == 1 => entry | COPIED,
                _ => entry & !COPIED,
            };
            if want != entry {
                *word = want.to_be_bytes();
                any = true;
            }
        }
        Ok(any)
    }

    /// L1 entries a disk of `size` bytes needs.
    pub(super) fn l1_needed(header: &Header, size: u64) -> usize {
        size.div_ceil(header.l2_span()) as usize
    }
}
