//! Who owns the space of a qcow2 image: for each internal snapshot what only it holds and all it refers to, and what a set of
//! snapshots would free together. One pass over the L2 tables, each read once however many snapshots share it.
//!
//! A cluster is freed when every reference to it goes. A table that somebody outside the set shares keeps all it points to, so
//! only tables the set owns alone are followed, and only counts larger than one have to be added up.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::engine::error::{Error, Result};
use crate::engine::format::Source;
use crate::engine::io::{Device, read_padded, read_vec};
use crate::engine::limits::{MAX_L1_BYTES, MAX_TABLE_BYTES};

use super::extensions::read_head;
use super::header::Header;
use super::snapshots;
use super::stored::{Last, Stored};
use super::tables::{COMPRESSED, COPIED, Geometry, OFFSET};

/// Threads that follow tables.
const THREADS: usize = 2;

/// What one state of the disk holds, in bytes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    /// Freed if it alone goes: data, its own mapping tables, its L1 table. For the live state: what no snapshot holds.
    pub exclusive: u64,
    /// Data it refers to, shared or not; compressed clusters with the bytes they take.
    pub referred: u64,
}

/// The shares of all states.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// The live state.
    pub live: Share,
    /// Each snapshot, in the order of the table.
    pub snapshots: Vec<Share>,
}

/// An image with its L1 tables read: who points to which L2 table.
struct Owners {
    dev: Device,
    header: Header,
    geometry: Geometry,
    stored: Stored,
    list: Vec<snapshots::Entry>,
    /// L2 table -> (owner, references). Owner 0 is the live state, `n + 1` snapshot `n`.
    tables: BTreeMap<u64, Vec<(u32, u32)>>,
}

impl Owners {
    fn read(source: &Source) -> Result<Owners> {
        let dev = source.dev.clone();
        let (header, _) = read_head(&dev)?;
        let geometry = Geometry::of(&header);
        let stored = Stored::open(dev.clone(), &header);
        let list = snapshots::read(dev.as_ref(), &header)?;
        let mut o = Owners { dev, geometry, stored, list, tables: BTreeMap::new(), header };
        let mut places = vec![(0, o.header.l1_offset, o.header.l1_entries)];
        places.extend(o.list.iter().enumerate().map(|(n, s)| (n as u32 + 1, s.l1_offset, s.l1_entries)));
        // Sound tables do not overlap, so all of them together fit; damaged ones must not make us read without end.
        if places.iter().map(|(.., n)| u64::from(*n) * 8).sum::<u64>() > MAX_TABLE_BYTES.min(o.dev.len()) {
            return Err(Error::corrupt("the L1 tables of the snapshots overlap").hint("run check"));
        }
        for (owner, offset, entries) in places {
            o.l1(owner, offset, entries)?;
        }
        Ok(o)
    }

    fn l1(&mut self, owner: u32, offset: u64, entries: u32) -> Result<()> {
        let bytes =
            read_vec(self.dev.as_ref(), offset, u64::from(entries) * 8, MAX_L1_BYTES).map_err(|e| e.op("read an L1 table"))?;
        for raw in bytes.as_chunks::<8>().0 {
            let at = u64::from_be_bytes(*raw) & OFFSET;
            if at == 0 || at & (self.geometry.cluster() - 1) != 0 || at >= self.dev.len() {
                continue;
            }
            let owners = self.tables.entry(at).or_default();
            match owners.last_mut() {
                Some((o, n)) if *o == owner => *n = n.saturating_add(1),
                _ => owners.push((owner, 1)),
            }
        }
        Ok(())
    }

    /// Bytes of the clusters that `len` bytes take.
    fn rounded(&self, len: u64) -> u64 {
        len.next_multiple_of(self.geometry.cluster())
    }

    /// Bytes that go with the snapshots `gone` whatever they share: their L1 tables, and what the snapshot table shrinks by.
    fn own_tables(&self, gone: impl Fn(usize) -> bool) -> u64 {
        let (mut l1, mut all, mut kept) = (0, 0, 0);
        for (i, s) in self.list.iter().enumerate() {
            let len = s.encode().len() as u64;
            all += len;
            if gone(i) {
                l1 += self.rounded(u64::from(s.l1_entries) * 8);
            } else {
                kept += len;
            }
        }
        l1 + self.rounded(all) - self.rounded(kept)
    }

    /// Calls `visit` on two threads with each table, its owners, and its bytes; returns what each thread gathered.
    fn each<T: Send + Default>(
        &self,
        wanted: impl Fn(&[(u32, u32)], u64) -> bool + Sync,
        visit: impl Fn(&mut T, &[(u32, u32)], u64, &[u8], &mut Last) + Sync,
    ) -> Vec<T> {
        let all: Vec<_> = self.tables.iter().collect();
        let next = AtomicUsize::new(0);
        let work = || {
            let mut out = T::default();
            let mut last = Last::default();
            let mut bytes = vec![0u8; self.geometry.cluster() as usize];
            while let Some((at, owners)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                let count = self.stored.get(**at >> self.header.cluster_bits, &mut last);
                if wanted(owners, count) && read_padded(self.dev.as_ref(), **at, &mut bytes).is_ok() {
                    visit(&mut out, owners, count, &bytes, &mut last);
                }
            }
            out
        };
        std::thread::scope(|s| {
            let threads: Vec<_> = (1..THREADS).map(|_| s.spawn(work)).collect();
            let mine = work();
            threads.into_iter().filter_map(|t| t.join().ok()).chain([mine]).collect()
        })
    }

    /// Calls `visit` with each host cluster the table's entries refer to, and the bytes of it they take.
    fn clusters(&self, table: &[u8], mut visit: impl FnMut(u64, u64)) {
        let cluster = self.geometry.cluster();
        for raw in table.chunks_exact(self.geometry.entry_size()) {
            let Some(entry) = raw.first_chunk::<8>().map(|e| u64::from_be_bytes(*e)) else { continue };
            if entry & COMPRESSED != 0 {
                let unit = self.geometry.packed(entry);
                let (first, end) = (unit.offset, unit.offset.saturating_add(unit.len));
                let mut at = first;
                while at < end {
                    let stop = ((at | (cluster - 1)) + 1).min(end);
                    visit(at >> self.header.cluster_bits, stop - at);
                    at = stop;
                }
            } else if entry & OFFSET != 0 || (self.geometry.external && entry & COPIED != 0) {
                visit((entry & OFFSET) >> self.header.cluster_bits, cluster);
            }
        }
    }
}

/// References to shared clusters that were seen so far: cluster -> (owner, how many). Entries go as soon as they are settled, so
/// the map holds only clusters that several compressed units or states share.
type Pending = HashMap<u64, (u32, u64)>;

/// Whose space it is.
///
/// Errors: the header or a table without which nothing can be told cannot be read.
pub fn usage(source: &Source) -> Result<Usage> {
    let o = Owners::read(source)?;
    let cluster = o.geometry.cluster();
    let states = o.list.len() + 1;
    let parts: Vec<(Vec<Share>, Pending)> = o.each(
        |_, _| true,
        |(shares, pending): &mut (Vec<Share>, Pending), owners, count, bytes, last| {
            shares.resize(states, Share::default());
            let alone = match owners {
                [(owner, n)] if u64::from(*n) == count => Some(*owner),
                _ => None,
            };
            if let Some(share) = alone.and_then(|a| shares.get_mut(a as usize)) {
                share.exclusive += cluster;
            }
            o.clusters(bytes, |n, taken| {
                for (owner, times) in owners {
                    if let Some(s) = shares.get_mut(*owner as usize) {
                        s.referred += taken * u64::from(*times);
                    }
                }
                let Some(owner) = alone.filter(|_| !o.geometry.external) else { return };
                let stored = o.stored.get(n, last);
                let settled = stored == count || settle(pending, n, owner, count, stored);
                if let (true, Some(s)) = (settled, shares.get_mut(owner as usize)) {
                    s.exclusive += cluster;
                }
            });
        },
    );
    let mut usage = Usage { live: Share::default(), snapshots: vec![Share::default(); o.list.len()] };
    let mut rest = Pending::new();
    let mut last = Last::default();
    for (shares, pending) in parts {
        for (i, share) in shares.into_iter().enumerate() {
            let total = match i.checked_sub(1) {
                None => Some(&mut usage.live),
                Some(n) => usage.snapshots.get_mut(n),
            };
            if let Some(t) = total {
                t.exclusive += share.exclusive;
                t.referred += share.referred;
            }
        }
        // A cluster whose units were seen by both threads is settled here.
        for (n, (owner, seen)) in pending {
            let stored = o.stored.get(n, &mut last);
            if settle(&mut rest, n, owner, seen, stored) {
                let share = match (owner as usize).checked_sub(1) {
                    None => Some(&mut usage.live),
                    Some(i) => usage.snapshots.get_mut(i),
                };
                if let Some(s) = share {
                    s.exclusive += cluster;
                }
            }
        }
    }
    for (i, share) in usage.snapshots.iter_mut().enumerate() {
        share.exclusive += o.own_tables(|n| n == i);
    }
    Ok(usage)
}

/// Counts `more` references of `owner` to cluster `n`; true when they are all there are. Owner `u32::MAX` stands for several.
fn settle(pending: &mut Pending, n: u64, owner: u32, more: u64, stored: u64) -> bool {
    let slot = pending.entry(n).or_insert((owner, 0));
    if slot.0 != owner {
        slot.0 = u32::MAX;
    }
    slot.1 += more;
    let (who, seen) = *slot;
    if seen >= stored {
        pending.remove(&n);
    }
    seen == stored && who == owner
}

/// Bytes that deleting the snapshots `set` (indices into the table) together frees: data, mapping tables, L1 tables, and what the
/// snapshot table shrinks by.
///
/// Errors: as [`usage`]; an index that is not there.
pub fn freed_by(source: &Source, set: &[usize]) -> Result<u64> {
    let o = Owners::read(source)?;
    if let Some(n) = set.iter().find(|n| **n >= o.list.len()) {
        return Err(Error::usage(format!("there is no snapshot number {n}")));
    }
    let inside = |owner: u32| owner > 0 && set.contains(&(owner as usize - 1));
    let uses = |owners: &[(u32, u32)]| owners.iter().filter(|(o, _)| inside(*o)).map(|(_, n)| u64::from(*n)).sum::<u64>();
    let cluster = o.geometry.cluster();
    let parts: Vec<(u64, Pending)> = o.each(
        |owners, count| uses(owners) == count,
        |(freed, pending): &mut (u64, Pending), _, count, bytes, last| {
            *freed += cluster;
            if o.geometry.external {
                return;
            }
            o.clusters(bytes, |n, _| {
                let stored = o.stored.get(n, last);
                if stored == count || settle(pending, n, 0, count, stored) {
                    *freed += cluster;
                }
            });
        },
    );
    let mut total = 0;
    let mut rest = Pending::new();
    let mut last = Last::default();
    for (freed, pending) in parts {
        total += freed;
        for (n, (_, seen)) in pending {
            let stored = o.stored.get(n, &mut last);
            if settle(&mut rest, n, 0, seen, stored) {
                total += cluster;
            }
        }
    }
    total += o.own_tables(|n| set.contains(&n));
    Ok(total)
}
