//! Following the L2 tables: every entry is examined and what it uses is counted, on two threads. Tables that lie one behind the
//! other are read at once, and runs of entries that follow each other are counted at once.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::engine::error::{Error, Result};
use crate::engine::format::check::{CheckReport, Rule, Spot};
use crate::engine::format::qcow2::image::unpack;
use crate::engine::format::qcow2::stored::Last;
use crate::engine::format::qcow2::tables::{COMPRESSED, COPIED, OFFSET, ZERO};
use crate::engine::io::bytes::be64;
use crate::engine::io::read_padded;

use super::{Checker, L2Use, Tick, rules};

/// Threads that follow tables.
const THREADS: usize = 2;
/// Bytes of tables read at once, at most.
const BATCH: u64 = 1 << 20;

impl Checker {
    /// Follows all tables.
    ///
    /// Errors: `tick` said to stop.
    pub(super) fn follow(&self, report: &mut CheckReport, tick: Tick<'_>) -> Result<()> {
        let all: Vec<(u64, L2Use)> = self.tables.iter().map(|(at, t)| (*at, *t)).collect();
        let batches = self.batches(&all);
        let next = AtomicUsize::new(0);
        let stopped: Mutex<Option<Error>> = Mutex::default();
        let work = || {
            let mut found = CheckReport::default();
            let mut last = Last::default();
            let mut bytes = Vec::new();
            while let Some(range) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(e) = tick(range.start as u64, all.len() as u64) {
                    *stopped.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                    next.store(batches.len(), Ordering::Relaxed);
                    break;
                }
                self.batch(all.get(range.clone()).unwrap_or_default(), &mut bytes, &mut last, &mut found);
            }
            found
        };
        let parts: Vec<CheckReport> = std::thread::scope(|s| {
            let threads: Vec<_> = (1..THREADS).map(|_| s.spawn(work)).collect();
            let mine = work();
            threads.into_iter().filter_map(|t| t.join().ok()).chain([mine]).collect()
        });
        let mut joined = CheckReport::default();
        parts.into_iter().for_each(|part| joined.merge(part));
        // Whichever thread was first, the report is the same.
        joined.findings.sort_by_key(|f| f.rule.id);
        joined.findings.iter_mut().for_each(|f| f.spots.sort_by_key(|s| s.offset));
        report.merge(joined);
        stopped.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Tables that lie one behind the other, as ranges of `all`.
    fn batches(&self, all: &[(u64, L2Use)]) -> Vec<Range<usize>> {
        let most = (BATCH >> self.header.cluster_bits).max(1) as usize;
        let mut out: Vec<Range<usize>> = Vec::new();
        for (i, (at, _)) in all.iter().enumerate() {
            let follows = i > 0 && all.get(i - 1).is_some_and(|(before, _)| before + self.geometry.cluster() == *at);
            match out.last_mut() {
                Some(r) if follows && r.len() < most => r.end = i + 1,
                _ => out.push(i..i + 1),
            }
        }
        out
    }

    fn batch(&self, tables: &[(u64, L2Use)], bytes: &mut Vec<u8>, last: &mut Last, found: &mut CheckReport) {
        let cluster = self.geometry.cluster() as usize;
        let Some((first, _)) = tables.first() else { return };
        bytes.resize(cluster * tables.len(), 0);
        let whole = read_padded(self.dev.as_ref(), *first, bytes).is_ok();
        for ((at, table), raw) in tables.iter().zip(bytes.chunks_exact_mut(cluster)) {
            // What fails in one piece may be read in part.
            match if whole { Ok(()) } else { read_padded(self.dev.as_ref(), *at, raw) } {
                Ok(()) => self.table(*at, table, raw, last, found),
                Err(e) => found.note(&rules::UNREADABLE, super::spot(*at, format!("an L2 table: {}", e.why()))),
            }
        }
    }

    fn table(&self, at: u64, table: &L2Use, bytes: &[u8], last: &mut Last, report: &mut CheckReport) {
        let size = self.geometry.entry_size();
        // Where the next cluster would be if the file were in the guest's order.
        let mut next = 0;
        let mut i = 0;
        while let Some(raw) = bytes.get(i * size..).filter(|r| !r.is_empty()) {
            let run = self.sound_run(raw);
            if run > 0 {
                self.plain_run(be64(raw, 0).unwrap_or(0), run, (at, i), table, &mut next, last, report);
                i += run as usize;
                continue;
            }
            let (entry, bitmap) = (be64(raw, 0).unwrap_or(0), if size == 16 { be64(raw, 8).unwrap_or(0) } else { 0 });
            if entry | bitmap != 0 {
                let e = Entry { place: at + (i * size) as u64, index: i as u64, entry };
                self.entry(&e, bitmap, table, &mut next, last, report);
            }
            i += 1;
        }
    }

    /// How many entries from the first of `raw` on are sound clusters that lie one behind the other in the file; 0 when that is to
    /// be told one by one. This loop sees every entry of a large image.
    fn sound_run(&self, raw: &[u8]) -> u64 {
        let g = &self.geometry;
        let Some(first) = be64(raw, 0) else { return 0 };
        let zero = if g.zero_flag { ZERO } else { 0 };
        let host = first & OFFSET;
        let plain = first & !(OFFSET | COPIED | zero) == 0 && host != 0 && host & (g.cluster() - 1) == 0;
        let room = self.judge.clusters.saturating_sub(host >> g.cluster_bits);
        if g.extended || g.external || !plain || room == 0 {
            return 0;
        }
        let mut want = first;
        let most = usize::try_from(room).unwrap_or(usize::MAX);
        raw.as_chunks::<8>()
            .0
            .iter()
            .take(most)
            .take_while(|e| {
                let same = u64::from_be_bytes(**e) == want;
                want = want.wrapping_add(g.cluster());
                same
            })
            .count() as u64
    }

    /// Counts `run` clusters that follow each other; the entries begin with number `i` of the table at `at`.
    #[allow(clippy::too_many_arguments)]
    fn plain_run(
        &self,
        first: u64,
        run: u64,
        (at, i): (u64, usize),
        table: &L2Use,
        next: &mut u64,
        last: &mut Last,
        report: &mut CheckReport,
    ) {
        let (host, cluster) = (first & OFFSET, self.cluster(first & OFFSET));
        let entry = |k: u64| {
            let index = i as u64 + k;
            Entry { place: at + index * 8, index, entry: first + k * self.geometry.cluster() }
        };
        self.counts.add_run(cluster, run, table.uses, false, |n, _| {
            self.note(self.over(n, &rules::OVERLAP), &entry(n - cluster), table, report);
        });
        if !table.active {
            return;
        }
        report.allocated += run;
        report.fragmented += u64::from(*next != 0 && *next != host);
        *next = host + (run << self.header.cluster_bits);
        let alone = first & COPIED != 0;
        let mut k = 0;
        while k < run {
            let span = self.stored.span_of(cluster + k, last);
            let len = (run - k).min(self.stored.per_block() - (cluster + k) % self.stored.per_block());
            for j in (0..len).filter(|j| (span.get(*j) == 1) != alone) {
                self.note(&rules::COPIED, &entry(k + j), table, report);
            }
            k += len;
        }
    }

    fn note(&self, rule: &'static Rule, e: &Entry, table: &L2Use, report: &mut CheckReport) {
        let size = self.geometry.cluster();
        let guest = table.active.then(|| (table.start + e.index * size, size));
        let whose = if table.active { "" } else { " of a snapshot" };
        report.note(rule, Spot { offset: Some(e.place), guest, detail: format!("L2 entry {}{whose}: {:#x}", e.index, e.entry) });
    }

    /// Examines one entry.
    fn entry(&self, e: &Entry, bitmap: u64, table: &L2Use, next: &mut u64, last: &mut Last, report: &mut CheckReport) {
        let judged = self.judge.l2(e.entry, bitmap, &mut |rule| self.note(rule, e, table, report));
        if table.active && e.entry & COMPRESSED != 0 {
            report.allocated += 1;
            report.compressed += 1;
            report.fragmented += 1;
        }
        if judged.lost {
            let start = table.start + e.index * self.geometry.cluster();
            if table.active && start < self.header.size {
                report.lose(start, self.geometry.cluster().min(self.header.size - start));
            }
            return;
        }
        if judged.entry & COMPRESSED != 0 {
            // Every cluster it touches; the last unit of a file may claim sectors behind its end.
            let (first, end) = self.packed_clusters(judged.entry);
            let mut over = None;
            self.counts.add_run(first, end - first, table.uses, false, |n, _| over = Some(self.over(n, &rules::CROWDED)));
            if let Some(rule) = over {
                self.crowded(rule, e, table, report);
            }
            return;
        }
        let host = judged.entry & OFFSET;
        if host == 0 && !(self.geometry.external && judged.entry & COPIED != 0) {
            // Nothing is stored; a COPIED flag there means nothing.
            return;
        }
        if table.active {
            report.allocated += 1;
            report.fragmented += u64::from(*next != 0 && *next != host);
            *next = host + self.geometry.cluster();
        }
        if self.geometry.external {
            return;
        }
        if self.counts.add(self.cluster(host), table.uses, false).is_some_and(|b| b.metadata) {
            self.note(self.over(self.cluster(host), &rules::OVERLAP), e, table, report);
        }
        if table.active && (self.stored.get(self.cluster(host), last) == 1) != (e.entry & COPIED != 0) {
            self.note(&rules::COPIED, e, table, report);
        }
    }

    /// The rule that data in `cluster` breaks, where a table is: `rule`, but bitmaps are no longer believed.
    fn over(&self, cluster: u64, rule: &'static Rule) -> &'static Rule {
        if self.bitmap_places.contains(cluster) { &rules::BITMAP } else { rule }
    }

    /// A compressed unit lies where a table is.
    fn crowded(&self, rule: &'static Rule, e: &Entry, table: &L2Use, report: &mut CheckReport) {
        self.note(rule, e, table, report);
        match self.unpacked(e.entry) {
            Err(why) => self.note_unreadable(e, &why, report),
            Ok(Some(_)) => {}
            Ok(None) => {
                let start = table.start + e.index * self.geometry.cluster();
                if table.active && start < self.header.size {
                    report.lose(start, self.geometry.cluster().min(self.header.size - start));
                }
            }
        }
    }

    fn note_unreadable(&self, e: &Entry, why: &Error, report: &mut CheckReport) {
        report.note(&rules::UNREADABLE, super::spot(e.place, format!("a compressed cluster: {}", why.why())));
    }

    /// What a compressed unit holds; `None` when it is no such thing.
    ///
    /// Errors: the file cannot be read there.
    pub(in crate::engine::format::qcow2) fn unpacked(&self, entry: u64) -> Result<Option<Vec<u8>>> {
        let mut out = vec![0; self.geometry.cluster() as usize];
        match unpack(&self.dev, self.header.compression, self.geometry.packed(entry), &mut out) {
            Ok(()) => Ok(Some(out)),
            Err(e) if e.errno().is_some() => Err(e),
            Err(_) => Ok(None),
        }
    }

    /// The clusters a compressed unit touches: the first, and the one behind the last.
    pub(in crate::engine::format::qcow2) fn packed_clusters(&self, entry: u64) -> (u64, u64) {
        let unit = self.geometry.packed(entry);
        let last = self.cluster(unit.offset.saturating_add(unit.len.saturating_sub(1)));
        (self.cluster(unit.offset), last.saturating_add(1))
    }
}

/// An entry on its way through the checks.
struct Entry {
    /// Byte in the file.
    place: u64,
    index: u64,
    entry: u64,
}
