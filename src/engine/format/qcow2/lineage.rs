//! Which snapshot each state of the disk came from. The file does not say: it is inferred from what states share, as a cluster that
//! was replaced never comes back, so a state shares with its parent all that it shares with anybody older.
//!
//! Only earlier snapshots can be parents (the table keeps them in the order they were taken). Among them the parent is the one that
//! shares the most; then the one with the least that the state has not; then the latest.

use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::format::Source;
use crate::engine::io::{Device, read_padded, read_vec};
use crate::engine::limits::{MAX_L1_BYTES, MAX_TABLE_BYTES};

use super::extensions::read_head;
use super::snapshots;
use super::tables::{COMPRESSED, COPIED, Geometry, OFFSET};

/// States compared with each other, at most; of more, dates alone tell.
const STATES: usize = 512;
/// Pairs of entries compared, at most: with more, tables are left out at equal distances.
const WORK: u64 = 400_000_000;
/// Bytes of a table compared at a time.
const SLICE: u64 = 64 << 10;

/// Where a state of the disk seems to come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kin {
    /// Index of the snapshot in the table; `None` for one that began by itself.
    pub parent: Option<usize>,
    /// Clusters it shares with its parent, among those compared.
    pub shared: u64,
    /// Clusters it has itself, among those compared.
    pub own: u64,
}

/// Where each state seems to come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lineage {
    /// Each snapshot, in the order of the table.
    pub snapshots: Vec<Kin>,
    /// The live state.
    pub live: Kin,
    /// Only a part of the tables was compared, or none of them.
    pub sampled: bool,
}

/// Infers where each snapshot and the live state come from; `stop` is asked now and then.
///
/// Errors: the header, the snapshot table or an L1 table cannot be read; `Cancelled`.
pub fn lineage(source: &Source, stop: &dyn Fn() -> bool) -> Result<Lineage> {
    let dev = source.dev.clone();
    let (header, _) = read_head(&dev)?;
    let geometry = Geometry::of(&header);
    let list = snapshots::read(dev.as_ref(), &header)?;
    let mut places: Vec<(u64, u32)> = list.iter().map(|s| (s.l1_offset, s.l1_entries)).collect();
    places.push((header.l1_offset, header.l1_entries));
    if places.len() > STATES {
        return Ok(by_date(list.len()));
    }
    if places.iter().map(|(_, n)| u64::from(*n) * 8).sum::<u64>() > MAX_TABLE_BYTES.min(dev.len()) {
        return Err(Error::corrupt("the L1 tables of the snapshots overlap").hint("run check"));
    }
    let mut l1 = Vec::with_capacity(places.len());
    for (offset, entries) in places {
        l1.push(read_l1(&dev, &geometry, offset, entries)?);
    }
    let mut shared = Shared::new(l1.len());
    let sampled = compare(&dev, &geometry, &l1, &mut shared, stop)?;
    let mut kin: Vec<Kin> = (0..l1.len()).map(|s| shared.kin(s)).collect();
    let live = kin.pop().unwrap_or_default();
    Ok(Lineage { snapshots: kin, live, sampled })
}

/// Each after the one before it.
fn by_date(n: usize) -> Lineage {
    let after = |i: usize| Kin { parent: i.checked_sub(1), ..Kin::default() };
    Lineage { snapshots: (0..n).map(after).collect(), live: after(n), sampled: true }
}

/// The L2 tables of an L1 table; 0 where there is none that can be read.
fn read_l1(dev: &Device, geometry: &Geometry, offset: u64, entries: u32) -> Result<Vec<u64>> {
    let bytes = read_vec(dev.as_ref(), offset, u64::from(entries) * 8, MAX_L1_BYTES).map_err(|e| e.op("read an L1 table"))?;
    let table = |raw: &[u8; 8]| {
        let at = u64::from_be_bytes(*raw) & OFFSET;
        if at & (geometry.cluster() - 1) != 0 || at >= dev.len() { 0 } else { at }
    };
    Ok(bytes.as_chunks::<8>().0.iter().map(table).collect())
}

/// Clusters that each pair of states has in common.
struct Shared {
    states: usize,
    pairs: Vec<u64>,
}

impl Shared {
    fn new(states: usize) -> Self {
        Shared { states, pairs: vec![0; states * states] }
    }
    fn add(&mut self, a: usize, b: usize, n: u64) {
        if let Some(p) = self.pairs.get_mut(a.max(b) * self.states + a.min(b)) {
            *p += n;
        }
    }
    fn get(&self, a: usize, b: usize) -> u64 {
        self.pairs.get(a.max(b) * self.states + a.min(b)).copied().unwrap_or(0)
    }
    fn kin(&self, state: usize) -> Kin {
        let own = self.get(state, state);
        let rank = |p: &usize| (self.get(state, *p), u64::MAX - (self.get(*p, *p) - self.get(state, *p)), *p);
        let best = (0..state).max_by_key(rank);
        match best {
            // It shares nothing with anybody: then the one before it is as good a guess as any.
            Some(p) if self.get(state, p) == 0 => Kin { parent: state.checked_sub(1), shared: 0, own },
            Some(p) => Kin { parent: Some(p), shared: self.get(state, p), own },
            None => Kin { parent: None, shared: 0, own },
        }
    }
}

/// Compares the tables of all states; true when some were left out.
fn compare(dev: &Device, geometry: &Geometry, l1: &[Vec<u64>], shared: &mut Shared, stop: &dyn Fn() -> bool) -> Result<bool> {
    let longest = l1.iter().map(Vec::len).max().unwrap_or(0);
    let entries = geometry.cluster() / geometry.entry_size() as u64;
    // At each index of the L1 tables: the tables that states have there, and which states have each.
    let groups = |i: usize| {
        let mut tables: Vec<(u64, Vec<usize>)> = Vec::new();
        for (s, l1) in l1.iter().enumerate() {
            let Some(at) = l1.get(i).copied().filter(|at| *at != 0) else { continue };
            match tables.iter_mut().find(|(t, _)| *t == at) {
                Some((_, who)) => who.push(s),
                None => tables.push((at, vec![s])),
            }
        }
        tables
    };
    let mut work = 0u64;
    for i in 0..longest {
        let n = groups(i).len() as u64;
        work = work.saturating_add(n * n.div_ceil(2) * entries);
    }
    let step = usize::try_from(work.div_ceil(WORK)).unwrap_or(usize::MAX).max(1);
    for i in (0..longest).step_by(step) {
        if stop() {
            return Err(Error::new(ErrorKind::Cancelled, "stopped"));
        }
        compare_tables(dev, geometry, &groups(i), shared);
    }
    Ok(step > 1)
}

/// Counts what the tables of one place of the disk have in common, a slice at a time: there may be many, of 2 MiB each.
fn compare_tables(dev: &Device, geometry: &Geometry, tables: &[(u64, Vec<usize>)], shared: &mut Shared) {
    let len = SLICE.min(geometry.cluster());
    for part in 0..geometry.cluster() / len {
        let slices: Vec<Vec<u64>> = tables
            .iter()
            .map(|(at, _)| {
                let mut bytes = vec![0; len as usize];
                // What cannot be read is shared with nobody.
                let _ = read_padded(dev.as_ref(), at + part * len, &mut bytes);
                bytes.chunks_exact(geometry.entry_size()).filter_map(|e| e.first_chunk::<8>()).map(stored).collect()
            })
            .collect();
        for (n, (a, (_, who))) in slices.iter().zip(tables).enumerate() {
            let all = a.iter().filter(|e| **e != 0).count() as u64;
            for (k, s) in who.iter().enumerate() {
                who.iter().skip(k).for_each(|t| shared.add(*s, *t, all));
            }
            for (b, (_, others)) in slices.iter().zip(tables).skip(n + 1) {
                let same = a.iter().zip(b).filter(|(x, y)| x == y && **x != 0).count() as u64;
                if same > 0 {
                    who.iter().for_each(|s| others.iter().for_each(|t| shared.add(*s, *t, same)));
                }
            }
        }
    }
}

/// What an entry refers to; 0 when it stores nothing.
fn stored(entry: &[u8; 8]) -> u64 {
    let e = u64::from_be_bytes(*entry);
    if e & COMPRESSED != 0 { e & !COPIED } else { e & OFFSET }
}
