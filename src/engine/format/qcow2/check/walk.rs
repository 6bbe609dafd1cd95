//! Following the L2 tables: every entry is examined and what it uses is counted, on two threads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::engine::format::check::{CheckReport, Spot};
use crate::engine::format::qcow2::tables::{COMPRESSED, COPIED, OFFSET, SUBCLUSTERS, ZERO};
use crate::engine::io::read_padded;

use super::{Checker, L2Use, rules};
use crate::engine::format::qcow2::stored::Last;

/// Threads that follow tables.
const THREADS: usize = 2;
/// Bits of a standard L2 entry that must be zero: 1 to 8 and 56 to 61.
const RESERVED: u64 = 0x3f00_0000_0000_01fe;

impl Checker {
    /// Follows all `tables`.
    pub(super) fn follow(&self, tables: &BTreeMap<u64, L2Use>, report: &mut CheckReport) {
        let all: Vec<(u64, L2Use)> = tables.iter().map(|(at, t)| (*at, *t)).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            let mut found = CheckReport::default();
            let mut last = Last::default();
            let mut bytes = vec![0u8; self.geometry.cluster() as usize];
            while let Some((at, table)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                match read_padded(self.dev.as_ref(), *at, &mut bytes) {
                    Ok(()) => self.table(*at, table, &bytes, &mut last, &mut found),
                    Err(e) => found.note(&rules::UNREADABLE, super::spot(*at, format!("an L2 table: {}", e.why()))),
                }
            }
            found
        };
        let parts: Vec<CheckReport> = std::thread::scope(|s| {
            let threads: Vec<_> = (1..THREADS).map(|_| s.spawn(work)).collect();
            let mine = work();
            threads.into_iter().filter_map(|t| t.join().ok()).chain([mine]).collect()
        });
        for part in parts {
            report.merge(part);
        }
    }

    fn table(&self, at: u64, table: &L2Use, bytes: &[u8], last: &mut Last, report: &mut CheckReport) {
        let size = self.geometry.entry_size();
        // Where the next cluster would be if the file were in the guest's order.
        let mut next = 0;
        for (i, raw) in bytes.chunks_exact(size).enumerate() {
            let (Some(entry), bitmap) = (word(raw, 0), word(raw, 8).unwrap_or(0)) else { continue };
            if entry | bitmap == 0 {
                continue;
            }
            let e = Entry { place: at + (i * size) as u64, index: i as u64, entry, bitmap };
            if entry & COMPRESSED != 0 {
                self.compressed(&e, table, report);
                continue;
            }
            self.plain(&e, table, &mut next, last, report);
        }
    }

    fn note(&self, rule: &'static crate::engine::format::check::Rule, e: &Entry, table: &L2Use, report: &mut CheckReport) {
        let size = self.geometry.cluster();
        let guest = table.active.map(|start| (start + e.index * size, size));
        report.note(rule, Spot { offset: Some(e.place), guest, detail: format!("L2 entry {}: {:#x}", e.index, e.entry) });
    }

    /// A compressed unit uses every cluster it touches.
    fn compressed(&self, e: &Entry, table: &L2Use, report: &mut CheckReport) {
        let unit = self.geometry.packed(e.entry);
        if table.active.is_some() {
            report.allocated += 1;
            report.compressed += 1;
            report.fragmented += 1;
        }
        if e.entry & COPIED != 0 {
            self.note(&rules::COPIED, e, table, report);
        }
        if self.geometry.external || e.bitmap != 0 {
            self.note(&rules::RESERVED, e, table, report);
        }
        let first = self.cluster(unit.offset);
        let last = self.cluster(unit.offset.saturating_add(unit.len.saturating_sub(1)));
        for n in first..=last {
            match self.counts.add(n, table.uses, false) {
                // The last unit of a file may claim sectors behind its end; only its first byte must be inside.
                None if n == first => self.note(&rules::COMPRESSED_RANGE, e, table, report),
                None => {}
                Some((_, true)) => self.note(&rules::OVERLAP, e, table, report),
                Some(_) => {}
            }
        }
    }

    fn plain(&self, e: &Entry, table: &L2Use, next: &mut u64, last: &mut Last, report: &mut CheckReport) {
        let cluster = self.geometry.cluster();
        let reserved = if self.geometry.extended || !self.geometry.zero_flag { RESERVED | ZERO } else { RESERVED };
        if e.entry & reserved != 0 {
            self.note(&rules::RESERVED, e, table, report);
        }
        let host = e.entry & OFFSET;
        let placed = host != 0 || (self.geometry.external && e.entry & COPIED != 0);
        if self.geometry.extended && !sound(e.bitmap, placed) {
            self.note(&rules::SUBCLUSTER, e, table, report);
        }
        if !placed {
            // Nothing is stored; a COPIED flag there means nothing.
            return;
        }
        if host & (cluster - 1) != 0 {
            self.note(&rules::MISALIGNED, e, table, report);
            return;
        }
        if table.active.is_some() {
            report.allocated += 1;
            report.fragmented += u64::from(*next != 0 && *next != host);
            *next = host + cluster;
        }
        if self.geometry.external {
            return;
        }
        match self.counts.add(self.cluster(host), table.uses, false) {
            None => self.note(&rules::OUTSIDE, e, table, report),
            Some((_, true)) => self.note(&rules::OVERLAP, e, table, report),
            Some(_) => {}
        }
        if table.active.is_some() {
            let count = self.stored.get(self.cluster(host), last);
            if (count == 1) != (e.entry & COPIED != 0) {
                self.note(&rules::COPIED, e, table, report);
            }
        }
    }
}

/// An entry on its way through the checks.
struct Entry {
    /// Byte in the file.
    place: u64,
    index: u64,
    entry: u64,
    bitmap: u64,
}

fn word(raw: &[u8], at: usize) -> Option<u64> {
    crate::engine::io::bytes::be64(raw, at)
}

/// No subcluster is both data and zero, and none has data without a place.
fn sound(bitmap: u64, placed: bool) -> bool {
    let (data, zero) = (bitmap & ((1 << SUBCLUSTERS) - 1), bitmap >> SUBCLUSTERS);
    data & zero == 0 && (data == 0 || placed)
}
