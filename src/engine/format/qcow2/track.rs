//! Dirty bitmaps kept up to date while guest data is written.
//!
//! ```text
//!  1  before the first change every bitmap that records is marked "in use"      nobody trusts it until 5
//!  2  guest data; what was written is remembered here                           the same
//!  3  at the end: bits and bitmap tables, in clusters nobody uses; their counts the same, leaked clusters
//!  4  the directory points to them                                              the same
//!  5  the marks come off                                                        the bitmaps say what was written
//!  6  counts of the clusters that held the old bits                             the same, without leaks
//! ```
//!
//! Each is durable before the next. A mark is four bytes that no sector boundary parts. Who cuts the power before 5 has bitmaps that
//! every program calls inconsistent, and takes a full backup instead of a wrong one; the disk itself is as the writer leaves it.

use crate::engine::error::{Context, Result};
use crate::engine::format::ranges::Ranges;
use crate::engine::io::bytes::be64;
use crate::engine::io::{Device, read_vec};
use crate::engine::limits::MAX_TABLE_BYTES;

use super::bitmaps::{self, ALL_SET, AUTO, COMPATIBLE, Entry, IN_USE};
use super::extensions::read_head;
use super::header::{BITMAPS, RAW_EXTERNAL};
use super::tables::OFFSET;
use super::writer::{Shared, State};

/// Ranges remembered before they are taken together.
const MAX_RANGES: usize = 1 << 18;

/// What was written while bitmaps record.
#[derive(Debug, Default)]
pub struct Tracker {
    /// Where each directory entry is in the file, and the entry as it is without the mark.
    list: Vec<(u64, Entry)>,
    /// Guest ranges written, in units of `1 << bits` bytes.
    dirty: Ranges,
    bits: u32,
}

impl Tracker {
    fn new(list: Vec<(u64, Entry)>) -> Tracker {
        let bits = list.iter().map(|(_, e)| u32::from(e.granularity_bits)).min().unwrap_or(16);
        Tracker { list, dirty: Ranges::default(), bits }
    }

    /// Remembers that guest bytes were written.
    pub fn mark(&mut self, offset: u64, len: u64) {
        if let Some(last) = len.checked_sub(1).and_then(|n| offset.checked_add(n)).filter(|_| !self.list.is_empty()) {
            self.dirty.insert(offset >> self.bits..(last >> self.bits) + 1);
        }
        // Too many to remember one by one: more than was written may be called dirty, never less.
        while self.dirty.len() > MAX_RANGES {
            let mut coarse = Ranges::default();
            self.dirty.iter().for_each(|r| coarse.insert(r.start >> 1..((r.end - 1) >> 1) + 1));
            (self.dirty, self.bits) = (coarse, self.bits + 1);
        }
    }
}

impl Shared {
    /// Before the first change: autoclear features that are not kept up are cleared, and bitmaps that record are marked.
    pub(super) fn begin_change(&self, s: &mut State) -> Result<()> {
        let list = match s.header.autoclear & BITMAPS {
            0 => None,
            _ => self.recording(),
        };
        self.clear_autoclear(s, if list.is_some() { RAW_EXTERNAL | BITMAPS } else { RAW_EXTERNAL })?;
        if let Some(list) = list.filter(|l| !l.is_empty()) {
            self.set_flags(s, &list, IN_USE)?;
            s.tracker = Some(Tracker::new(list));
        }
        Ok(())
    }

    /// Takes every autoclear bit but those of `keep` out of the header, durably.
    pub(super) fn clear_autoclear(&self, s: &mut State, keep: u64) -> Result<()> {
        let keep = s.header.autoclear & keep;
        if s.header.autoclear != keep {
            self.dev.write_at(88, &keep.to_be_bytes())?;
            self.barrier(s, &self.dev)?;
            s.header.autoclear = keep;
        }
        Ok(())
    }

    /// The bitmaps that record, and where their directory entries are; `None` when the image's bitmaps are not understood.
    fn recording(&self) -> Option<Vec<(u64, Entry)>> {
        let dev: Device = self.dev.clone();
        let (header, ext) = read_head(&dev).ok()?;
        let directory = ext.bitmaps(&header).ok()??;
        let (mut list, mut at) = (Vec::new(), directory.directory_offset);
        for entry in bitmaps::read(dev.as_ref(), &directory).ok()? {
            let len = entry.encode().len() as u64;
            if entry.flags & (AUTO | IN_USE) == AUTO {
                let bits = self.size().div_ceil(1 << entry.granularity_bits);
                let whole = u64::from(entry.table_entries) >= bits.div_ceil(8).div_ceil(self.geometry.cluster());
                let known = entry.extra.is_empty() || entry.flags & COMPATIBLE != 0;
                if !whole || !known {
                    return None;
                }
                list.push((at, entry));
            }
            at += len;
        }
        Some(list)
    }

    /// Writes the flags of every entry, with `more` besides its own, durably.
    fn set_flags(&self, s: &mut State, list: &[(u64, Entry)], more: u32) -> Result<()> {
        for (at, entry) in list {
            self.dev.write_at(at + 12, &(entry.flags | more).to_be_bytes()).op("mark a bitmap")?;
        }
        self.barrier(s, &self.dev)
    }

    /// Stores what was written in the bitmaps that record, and takes their marks off: steps 3 to 6.
    pub(super) fn settle_bitmaps(&self, s: &mut State) -> Result<()> {
        let Some(mut tracker) = s.tracker.take() else { return Ok(()) };
        self.flush(s)?;
        let mut old = Vec::new();
        for (_, entry) in &mut tracker.list {
            self.store_dirty(s, entry, &tracker.dirty, tracker.bits, &mut old).op("store a bitmap")?;
        }
        if !old.is_empty() {
            self.flush(s)?;
            for (at, entry) in &tracker.list {
                let mut place = entry.table_offset.to_be_bytes().to_vec();
                place.extend_from_slice(&entry.table_entries.to_be_bytes());
                self.dev.write_at(*at, &place).op("store a bitmap")?;
            }
            self.barrier(s, &self.dev)?;
        }
        self.set_flags(s, &tracker.list, 0)?;
        for (offset, len) in old {
            s.alloc.free(offset, len);
        }
        // The next guest write marks them again.
        s.untouched = true;
        self.flush(s)
    }

    /// Sets the bits of the ranges `dirty` (units of `1 << unit` bytes): new clusters, and a new table that `entry` then points to.
    /// What the old ones took goes to `old`.
    fn store_dirty(&self, s: &mut State, entry: &mut Entry, dirty: &Ranges, unit: u32, old: &mut Vec<(u64, u64)>) -> Result<()> {
        let cluster = self.geometry.cluster();
        let per_cluster = cluster * 8;
        let count = self.size().div_ceil(1 << entry.granularity_bits);
        let table_bytes = u64::from(entry.table_entries) * 8;
        let bytes = read_vec(self.dev.as_ref(), entry.table_offset, table_bytes, MAX_TABLE_BYTES)?;
        let mut table: Vec<u64> = (0..entry.table_entries as usize).filter_map(|i| be64(&bytes, i * 8)).collect();
        let mut bits = dirty.iter().filter_map(|r| {
            let (first, last) = ((r.start << unit) >> entry.granularity_bits, ((r.end << unit) - 1) >> entry.granularity_bits);
            Some((first, last.min(count.checked_sub(1)?)))
        });
        let mut next = bits.next();
        let mut any = false;
        // A bitmap's cluster is loaded once: ranges come in ascending order.
        while let Some((first, _)) = next {
            let index = first / per_cluster;
            let Some(place) = table.get_mut(index as usize) else { break };
            let (start, end) = (index * per_cluster, (index + 1) * per_cluster);
            let now = match *place {
                e if e & OFFSET != 0 => read_vec(self.dev.as_ref(), e & OFFSET, cluster, cluster)?,
                e => vec![if e & ALL_SET != 0 { 0xff } else { 0 }; cluster as usize],
            };
            let mut new = now.clone();
            while let Some((first, last)) = next.filter(|(first, _)| *first < end) {
                set(&mut new, first - start, last.min(end - 1) - start);
                next = if last < end { bits.next() } else { Some((end, last)) };
            }
            if new != now {
                if *place & OFFSET != 0 {
                    old.push((*place & OFFSET, cluster));
                }
                *place = self.store(s, &new)?;
                any = true;
            }
        }
        if any {
            old.push((entry.table_offset, table_bytes));
            entry.table_offset = self.store(s, &table.iter().flat_map(|e| e.to_be_bytes()).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

/// Sets bits `first..=last`; bits start at the low end of each byte.
fn set(bytes: &mut [u8], first: u64, last: u64) {
    let (from, to) = ((first / 8) as usize, (last / 8) as usize);
    let (low, high) = (0xffu8 << (first % 8), 0xffu8 >> (7 - last % 8));
    match bytes.get_mut(from..=to) {
        Some([one]) => *one |= low & high,
        Some([head, middle @ .., tail]) => {
            *head |= low;
            middle.fill(0xff);
            *tail |= high;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_set_from_the_low_end() {
        for (first, last) in [(0, 0), (7, 7), (0, 31), (3, 4), (5, 17), (8, 15), (31, 31)] {
            let mut bytes = [0u8; 4];
            set(&mut bytes, first, last);
            for bit in 0..32u64 {
                assert_eq!(bytes[bit as usize / 8] >> (bit % 8) & 1 == 1, (first..=last).contains(&bit), "{first} {last} {bit}");
            }
        }
    }

    #[test]
    fn too_many_ranges_become_coarser_and_never_fewer() {
        let entry = Entry {
            table_offset: 0,
            table_entries: 1,
            flags: AUTO,
            kind: 1,
            granularity_bits: 9,
            extra: Vec::new(),
            name: Vec::new(),
        };
        let mut tracker = Tracker::new(vec![(0, entry)]);
        for i in 0..(MAX_RANGES as u64 + 10) {
            tracker.mark(i * 2048, 512);
        }
        assert!(tracker.dirty.len() <= MAX_RANGES && tracker.bits > 9);
        for i in 0..(MAX_RANGES as u64 + 10) {
            assert!(tracker.dirty.contains((i * 2048) >> tracker.bits), "{i}");
        }
    }
}
