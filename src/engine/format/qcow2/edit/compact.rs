//! Making an image file shorter in place: what lies behind the space that is really used moves into free clusters before it, and the
//! tail of the file is cut. Clusters of the disk and of snapshots, however many tables share them; compressed clusters, one by one,
//! as several lie in one host cluster; and the tables themselves.
//!
//! It goes from the end of the file down, in rounds. Each round is one switch, as any change of an [`Editor`] is: copies in free
//! clusters, new tables that lead to them, then the header. A crash leaves the image before a round or after it. The tables of a
//! round may have had to go behind the end, for want of room; the next one brings them down. Before each, tables that became longer
//! than what is in them are cut ([`super::idle`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::engine::error::{Error, Result};
use crate::engine::io::{read_padded, write_sparse};
use crate::engine::units::SECTOR;

use super::super::snapshots::Entry;
use super::super::tables::{COMPRESSED, OFFSET, Packed};
use super::share::Tables;
use super::{Editor, bytes};

/// Clusters, and compressed clusters, moved in a round at most.
const AT_ONCE: usize = 1 << 16;
/// Host clusters that are filled with compressed ones at a time.
const RUN: u64 = 16;
/// Rounds that may leave the file no shorter, in a row.
const PATIENCE: u32 = 3;

/// A compressed cluster: first byte and length.
type Unit = (u64, u64);

/// What is to be moved.
struct Tail {
    /// Clusters from this one on.
    limit: u64,
    /// All L2 tables, and how many L1 entries point to each.
    tables: Tables,
    plain: BTreeSet<u64>,
    /// With the entries that point to each.
    packed: BTreeMap<Unit, u64>,
}

/// Where it went: clusters, and first bytes of compressed ones.
#[derive(Default)]
pub(super) struct Moved {
    plain: HashMap<u64, u64>,
    packed: HashMap<Unit, u64>,
    /// L2 tables, by offset.
    tables: HashMap<u64, u64>,
    count: u64,
}

impl Editor {
    /// Moves and cuts; `tick` is asked between steps whether to go on. How many clusters, compressed clusters and tables were moved.
    ///
    /// Errors: the image is encrypted; counts or tables contradict each other (`Corrupt`); writing failed.
    pub fn compact(&mut self, tick: &dyn Fn() -> Result<()>) -> Result<u64> {
        if self.header.crypt_method != 0 {
            return Err(Error::unsupported("what is encrypted cannot be read at another place").op("move clusters"));
        }
        self.check_tables()?;
        let (mut total, mut best, mut idle) = (0, u64::MAX, 0);
        loop {
            tick()?;
            self.cut_idle()?;
            let len = self.dev.len();
            let end = self.alloc.used_end(len)?.div_ceil(self.geometry.cluster());
            let limit = self.alloc.count_used(end)?;
            idle = if end < best { 0 } else { idle + 1 };
            best = best.min(end);
            if end <= limit || idle >= PATIENCE {
                break;
            }
            let tail = self.tail(limit, tick)?;
            if !self.reaches(&tail)? {
                break;
            }
            total += self.change(|e| e.move_tail(&tail, tick))?;
        }
        let (len, end) = (self.dev.len(), self.alloc.used_end(self.dev.len())?);
        if end < len && self.dev.as_file().is_none_or(|f| !f.is_block_device()) {
            self.dev.set_len(end)?;
            self.dev.flush()?;
        }
        Ok(total)
    }

    /// What lies behind `limit`, the last of it first where there is too much.
    fn tail(&self, limit: u64, tick: &dyn Fn() -> Result<()>) -> Result<Tail> {
        let mut tail = Tail { limit, tables: Tables::new(), plain: BTreeSet::new(), packed: BTreeMap::new() };
        self.collect(&mut tail.tables, &self.l1, 1)?;
        for entry in &self.list {
            let l1 = self.l1_of(entry)?;
            self.collect(&mut tail.tables, &l1, 1)?;
        }
        if self.header.external_data() {
            return Ok(tail);
        }
        let (mut plain_from, mut packed_from) = (limit, (0, 0));
        for (&at, &uses) in &tail.tables {
            tick()?;
            for raw in self.l2(at)?.chunks_exact(self.geometry.entry_size()) {
                let entry = raw.first_chunk::<8>().map_or(0, |e| u64::from_be_bytes(*e));
                if entry & COMPRESSED == 0 {
                    let host = self.cluster(entry & OFFSET);
                    if host >= plain_from {
                        tail.plain.insert(host);
                    }
                } else {
                    let Packed { offset, len } = self.geometry.packed(entry);
                    if self.cluster(offset + len - 1) >= limit && (offset, len) >= packed_from {
                        *tail.packed.entry((offset, len)).or_insert(0) += uses.unsigned_abs();
                    }
                }
            }
            // Those that fall out are not taken again: their uses would not all be counted.
            while tail.plain.len() > AT_ONCE {
                plain_from = tail.plain.pop_first().map_or(plain_from, |c| c + 1);
            }
            while tail.packed.len() > AT_ONCE {
                packed_from = tail.packed.pop_first().map_or(packed_from, |((offset, len), _)| (offset, len + 1));
            }
        }
        Ok(tail)
    }

    /// Whether anything that can be moved lies in the tail.
    fn reaches(&self, tail: &Tail) -> Result<bool> {
        let behind = |at: u64, len: u64| len > 0 && self.cluster(at + (len - 1)) >= tail.limit;
        let cluster = self.geometry.cluster();
        Ok(!tail.plain.is_empty()
            || !tail.packed.is_empty()
            || tail.tables.keys().any(|at| behind(*at, 1))
            || behind(self.header.l1_offset, self.l1.len() as u64 * 8)
            || self.list.iter().any(|s| behind(s.l1_offset, u64::from(s.l1_entries) * 8))
            || behind(self.header.snapshots_offset, self.list_len())
            || behind(self.alloc.refs.table_offset, self.alloc.refs.table_clusters() * cluster)
            || self.alloc.refs.block_offsets().any(|at| behind(at, cluster))
            || self.bitmaps_reach(tail.limit)?)
    }

    fn move_tail(&mut self, tail: &Tail, tick: &dyn Fn() -> Result<()>) -> Result<u64> {
        let mut moved = Moved::default();
        self.move_plain(tail, &mut moved, tick)?;
        self.move_packed(tail, &mut moved, tick)?;
        self.move_tables(tail, &mut moved, tick)?;
        self.move_list(tail.limit, &mut moved)?;
        let mut l1 = self.l1.clone();
        let changed = redirect(&mut l1, &moved);
        if changed || self.cluster(self.header.l1_offset + (l1.len() as u64 * 8).saturating_sub(1)) >= tail.limit {
            self.place_l1(l1)?;
            moved.count += 1;
        }
        if self.bitmaps_reach(tail.limit)? {
            self.move_bitmaps()?;
            moved.count += 1;
        }
        // Blocks that change are copied anyway.
        self.alloc.refs.touch_behind(tail.limit << self.header.cluster_bits)?;
        Ok(moved.count)
    }

    /// Free again, and not counted: clusters that were taken and are not needed.
    fn put_back(&mut self, at: u64, clusters: u64) -> Result<()> {
        for n in self.cluster(at)..self.cluster(at) + clusters {
            self.alloc.refs.set(n, 0)?;
            self.alloc.metadata.remove(n);
            self.alloc.hint = self.alloc.hint.min(n);
        }
        Ok(())
    }

    fn move_plain(&mut self, tail: &Tail, moved: &mut Moved, tick: &dyn Fn() -> Result<()>) -> Result<()> {
        let mut data = vec![0; self.geometry.cluster() as usize];
        for &old in tail.plain.iter().rev() {
            tick()?;
            let (new, _) = self.alloc.data_run(1)?;
            if self.cluster(new) >= old {
                return self.put_back(new, 1);
            }
            read_padded(self.dev.as_ref(), old << self.header.cluster_bits, &mut data)?;
            write_sparse(self.dev.as_ref(), new, &data)?;
            self.take_over(old, self.cluster(new))?;
            moved.plain.insert(old, self.cluster(new));
            moved.count += 1;
        }
        Ok(())
    }

    /// All uses of cluster `old` are uses of `new`.
    fn take_over(&mut self, old: u64, new: u64) -> Result<()> {
        let count = self.alloc.refs.get(old)?;
        self.alloc.refs.set(new, count)?;
        self.alloc.drop_use(old, i64::try_from(count).unwrap_or(i64::MAX)).map(drop)
    }

    fn move_packed(&mut self, tail: &Tail, moved: &mut Moved, tick: &dyn Fn() -> Result<()>) -> Result<()> {
        let mut units: Vec<(Unit, u64)> = tail.packed.iter().map(|(unit, uses)| (*unit, *uses)).collect();
        while let Some(&((offset, _), _)) = units.last() {
            tick()?;
            let (start, clusters) = self.alloc.data_run(RUN)?;
            if self.cluster(start) + clusters > self.cluster(offset) {
                return self.put_back(start, clusters);
            }
            let (counts, done) = self.fill(start, clusters, &mut units, moved)?;
            for (n, count) in (self.cluster(start)..).zip(counts) {
                if count == 0 {
                    self.put_back(n << self.header.cluster_bits, 1)?;
                } else {
                    self.alloc.refs.set(n, count)?;
                }
            }
            // One that is longer than the run stays where it is.
            if done == 0 {
                units.pop();
            }
        }
        Ok(())
    }

    /// Fills the run from its end down with the last of `units`; the uses of its clusters, and how many units went there. What shares
    /// a sector with its neighbour, or follows it closely, keeps its distance to it; all keep their place in the sector.
    fn fill(&mut self, start: u64, clusters: u64, units: &mut Vec<(Unit, u64)>, moved: &mut Moved) -> Result<(Vec<u64>, u64)> {
        let bits = self.header.cluster_bits;
        let mut data = vec![0; (clusters << bits) as usize];
        let mut counts = vec![0u64; clusters as usize];
        let (mut at, mut done) = (start + (clusters << bits), 0);
        // The source of what lies from `at` on.
        let mut piece = (u64::MAX, 0);
        while let Some(&((offset, len), uses)) = units.last() {
            let (first, stop) = (offset - offset % SECTOR, offset + len);
            let joins = (first..=stop).contains(&piece.0) && stop <= piece.1;
            let need = if joins { piece.0 - first } else { stop - first };
            let Some(to) = at.checked_sub(need).filter(|to| *to >= start) else { break };
            let new = to + offset % SECTOR;
            let touched = ((new - start) >> bits) as usize..=((new + len - 1 - start) >> bits) as usize;
            let Some(counted) = counts.get_mut(touched) else { break };
            if counted.iter().any(|n| n.saturating_add(uses) > self.alloc.refs.max()) {
                break;
            }
            counted.iter_mut().for_each(|n| *n += uses);
            if let Some(part) = data.get_mut((to - start) as usize..(to - start + need) as usize) {
                read_padded(self.dev.as_ref(), first, part)?;
            }
            for n in self.cluster(offset)..=self.cluster(stop - 1) {
                self.alloc.drop_use(n, i64::try_from(uses).unwrap_or(i64::MAX))?;
            }
            moved.packed.insert((offset, len), new);
            (at, piece) = (to, (first, if joins { piece.1 } else { stop }));
            done += 1;
            units.pop();
        }
        if done > 0 {
            let from = at - start;
            self.dev.write_at(at, data.get(from as usize..).unwrap_or_default())?;
        }
        moved.count += done;
        Ok((counts, done))
    }

    /// L2 tables that lie in the tail, or that point to what was moved.
    fn move_tables(&mut self, tail: &Tail, moved: &mut Moved, tick: &dyn Fn() -> Result<()>) -> Result<()> {
        for &old in tail.tables.keys().rev() {
            tick()?;
            let mut table = self.l2(old)?;
            let changed = self.redirect_entries(&mut table, moved)?;
            if !changed && self.cluster(old) < tail.limit {
                continue;
            }
            let new = self.alloc.metadata_run(1)?;
            if !changed && new >= old {
                self.put_back(new, 1)?;
                continue;
            }
            self.replace_table(old, new, &table, moved)?;
        }
        Ok(())
    }

    /// The L2 table at `old` is `table` from now on, at `new`, which is counted once.
    pub(super) fn replace_table(&mut self, old: u64, new: u64, table: &[u8], moved: &mut Moved) -> Result<()> {
        write_sparse(self.dev.as_ref(), new, table)?;
        // Counted like any table of the image from now on.
        self.alloc.metadata.remove(self.cluster(new));
        self.take_over(self.cluster(old), self.cluster(new))?;
        moved.tables.insert(old, new);
        moved.count += 1;
        Ok(())
    }

    /// The list of snapshots and their L1 tables: what lies at cluster `limit` or behind it, or points to what was moved.
    pub(super) fn move_list(&mut self, limit: u64, moved: &mut Moved) -> Result<()> {
        let old = self.list_len();
        let mut listed = old > 0 && self.cluster(self.header.snapshots_offset + (old - 1)) >= limit;
        for i in 0..self.list.len() {
            let Some(entry) = self.list.get(i).cloned() else { continue };
            listed |= self.move_l1_of(i, &entry, limit, moved)?;
        }
        if listed {
            self.place_list_after(old)?;
            moved.count += 1;
        }
        Ok(())
    }

    /// Lets the entries of an L2 table point to where things went; true when one did not.
    fn redirect_entries(&self, table: &mut [u8], moved: &Moved) -> Result<bool> {
        let mut any = false;
        if self.header.external_data() {
            return Ok(any);
        }
        for raw in table.chunks_exact_mut(self.geometry.entry_size()) {
            let Some(word) = raw.first_chunk_mut::<8>() else { continue };
            let entry = u64::from_be_bytes(*word);
            let new = if entry & COMPRESSED != 0 {
                let Packed { offset, len } = self.geometry.packed(entry);
                let Some(&offset) = moved.packed.get(&(offset, len)) else { continue };
                let new = self.geometry.pack(Packed { offset, len });
                new.ok_or_else(|| Error::unsupported("a compressed cluster cannot be told at its new place"))?
            } else {
                let Some(&new) = moved.plain.get(&self.cluster(entry & OFFSET)) else { continue };
                entry & !OFFSET | new << self.header.cluster_bits
            };
            *word = new.to_be_bytes();
            any = true;
        }
        Ok(any)
    }

    /// The L1 table of snapshot `index`; true when it was moved.
    fn move_l1_of(&mut self, index: usize, entry: &Entry, limit: u64, moved: &mut Moved) -> Result<bool> {
        let mut l1 = self.l1_of(entry)?;
        let len = l1.len() as u64 * 8;
        let changed = redirect(&mut l1, moved);
        if len == 0 || !changed && self.cluster(entry.l1_offset + (len - 1)) < limit {
            return Ok(false);
        }
        self.alloc.drop_range(entry.l1_offset, len)?;
        let at = self.place(&bytes(&l1))?;
        if let Some(entry) = self.list.get_mut(index) {
            entry.l1_offset = at;
        }
        moved.count += 1;
        Ok(true)
    }
}

/// Lets the entries of an L1 table point to where L2 tables went; true when one did not.
pub(super) fn redirect(l1: &mut [u64], moved: &Moved) -> bool {
    let mut any = false;
    for entry in l1 {
        if let Some(new) = moved.tables.get(&(*entry & OFFSET)) {
            *entry = *entry & !OFFSET | new;
            any = true;
        }
    }
    any
}
