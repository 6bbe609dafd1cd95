//! What the header leads to: each structure is counted where it lies, and every table that leads on is listed.

use crate::engine::error::Result;
use crate::engine::format::check::{CheckReport, Rule, Spot};
use crate::engine::format::qcow2::bitmaps;
use crate::engine::format::qcow2::header::BITMAPS;
use crate::engine::format::qcow2::snapshots::{self, Entry};
use crate::engine::format::qcow2::stored::Last;
use crate::engine::format::qcow2::tables::{COPIED, OFFSET};
use crate::engine::io::read_vec;
use crate::engine::limits::MAX_L1_BYTES;

use super::{Checker, Given, L2Use, Table, rules, spot};

impl Checker {
    /// Counts metadata that takes `len` bytes from `offset` on.
    pub(super) fn use_range(&self, offset: u64, len: u64, what: &str, report: &mut CheckReport) -> bool {
        self.take(offset, len, what, &rules::CROSSED, report)
    }

    /// The same for what breaks `rule` when it lies over another structure, or reaches beyond the end. True when it lies over one
    /// that stays: bitmaps are given up then.
    fn take(&self, offset: u64, len: u64, what: &str, rule: &'static Rule, report: &mut CheckReport) -> bool {
        let Some(last) = len.checked_sub(1).map(|n| self.cluster(offset.saturating_add(n))) else { return false };
        let first = self.cluster(offset);
        let mut crossed = false;
        self.counts.add_run(first, last - first + 1, 1, true, |n, _| {
            let rule = if self.bitmap_places.contains(n) { &rules::BITMAP } else { rule };
            crossed |= !std::ptr::eq(rule, &rules::BITMAP);
            report.note(rule, spot(n << self.header.cluster_bits, what));
        });
        if last >= self.counts.clusters() {
            report.note(rule, spot(offset, what));
        }
        crossed
    }

    /// The refcount table and its blocks count themselves. They come last: what lies under another structure is made anew.
    pub(super) fn refcount_structures(&mut self, report: &mut CheckReport) {
        let h = &self.header;
        if let Some(why) = &self.stored.unreadable {
            report.note(&rules::TABLE, spot(h.reftable_offset, format!("the refcount table: {why}")));
            return;
        }
        let len = u64::from(h.reftable_clusters) << h.cluster_bits;
        self.take(h.reftable_offset, len, "the refcount table", &rules::TABLE, report);
        let mut wrong = Vec::new();
        for (n, entry) in self.stored.table.iter().enumerate().filter(|(_, e)| **e != 0) {
            let place = h.reftable_offset + n as u64 * 8;
            match self.stored.block_offset(n as u64) {
                None => {
                    report.note(&rules::TABLE, spot(place, format!("block {n} at {entry:#x}")));
                    wrong.push(n);
                }
                Some(at) => {
                    let cluster = self.cluster(at);
                    if self.bitmap_places.contains(cluster) {
                        report.note(&rules::BITMAP, spot(place, format!("refcount block {n} at {entry:#x}")));
                    }
                    if self.counts.get(cluster).uses > 0 || self.counts.add(cluster, 1, true).is_none() {
                        report.note(&rules::TABLE, spot(place, format!("block {n} at {entry:#x} lies where something else is")));
                        wrong.push(n);
                    }
                }
            }
        }
        // What a block says that is no block counts for nothing.
        for n in wrong {
            if let Some(entry) = self.stored.table.get_mut(n) {
                *entry = 0;
            }
        }
    }

    /// The table of snapshots, and which of them can be followed.
    pub(super) fn snapshot_table(&mut self, given: &Given, report: &mut CheckReport) {
        let at = self.header.snapshots_offset;
        let found = match snapshots::salvage(self.dev.as_ref(), &self.header) {
            Ok(found) => found,
            Err(e) => {
                self.table.unreadable = true;
                return report.note(&rules::UNREADABLE, spot(at, format!("the snapshot table: {}", e.why())));
            }
        };
        self.table.len = found.len;
        self.table.lost = found.broken.is_some();
        self.table.anew = self.table.lost || !found.mended.is_empty();
        for (place, what) in found.mended {
            report.note(&rules::ENTRY, spot(place, what));
        }
        if let Some((place, e)) = found.broken {
            report.note(&rules::SNAPSHOT, spot(place, e.why()));
            report.given_up.push(format!("what the snapshot table had behind its first {} snapshots", found.list.len()));
        }
        self.table.anew |= self.use_range(at, found.len, "the snapshot table", report);
        self.list = found.list;
        for (i, (offset, entries)) in &given.l1 {
            if let Some(s) = i.and_then(|i| self.list.get_mut(i)) {
                (s.l1_offset, s.l1_entries) = (*offset, *entries);
                self.table.anew = true;
            }
        }
        for (i, s) in self.list.iter().enumerate() {
            if let Err(e) = snapshots::check(s, self.dev.as_ref(), &self.header) {
                report.note(&rules::SNAPSHOT, spot(at, e.why()));
                report.given_up.push(format!("snapshot '{}'", String::from_utf8_lossy(&s.name)));
                self.suspects.insert(Some(i));
            }
        }
    }

    /// The L1 table of snapshot `s` is where it can be read.
    pub(in crate::engine::format::qcow2) fn can_follow(&self, s: &Entry) -> bool {
        snapshots::check(s, self.dev.as_ref(), &self.header).is_ok()
    }

    /// The clusters of the LUKS header.
    pub(super) fn crypto_header(&self, report: &mut CheckReport) {
        if let Some((at, len)) = self.ext.crypto_header() {
            self.take(at, len, "the LUKS header", &rules::KEYS, report);
        }
    }

    /// The bitmap directory, the bitmaps' tables and their clusters.
    pub(super) fn bitmaps(&mut self, report: &mut CheckReport) {
        // Without the autoclear bit the bitmaps are nobody's any more, and their clusters leaks.
        if self.header.autoclear & BITMAPS == 0 {
            return;
        }
        let list = match self.ext.bitmaps(&self.header) {
            Ok(None) => return,
            Ok(Some(dir)) => {
                self.take_bitmap(dir.directory_offset, dir.directory_size, "the bitmap directory", report);
                bitmaps::read(self.dev.as_ref(), &dir).map_err(|e| (dir.directory_offset, e))
            }
            Err(e) => Err((u64::from(self.header.header_length), e)),
        };
        let list = match list {
            Ok(list) => list,
            Err((at, e)) => {
                report.note(&rules::BITMAP, spot(at, e.why()));
                return;
            }
        };
        for b in list {
            self.bitmap(&b, report);
        }
    }

    /// Counts a part of the bitmaps. What lies over one later makes all of them doubtful.
    fn take_bitmap(&mut self, offset: u64, len: u64, what: &str, report: &mut CheckReport) {
        self.take(offset, len, what, &rules::BITMAP, report);
        let end = offset.saturating_add(len).min(self.dev.len());
        if offset < end {
            self.bitmap_places.insert(self.cluster(offset)..self.cluster(end - 1) + 1);
        }
    }

    fn bitmap(&mut self, b: &bitmaps::Entry, report: &mut CheckReport) {
        let name = String::from_utf8_lossy(&b.name);
        let len = u64::from(b.table_entries) * 8;
        let wrong = |report: &mut CheckReport, at: u64, what: String| {
            report.note(&rules::BITMAP, spot(at, format!("bitmap '{name}'{what}")));
        };
        if b.table_offset & (self.geometry.cluster() - 1) != 0 {
            return wrong(report, b.table_offset, ": its table does not begin a cluster".into());
        }
        let table = match read_vec(self.dev.as_ref(), b.table_offset, len, MAX_L1_BYTES) {
            Ok(t) => t,
            Err(e) => return wrong(report, b.table_offset, format!(": {}", e.why())),
        };
        self.take_bitmap(b.table_offset, len, "a bitmap table", report);
        for (i, entry) in table.as_chunks::<8>().0.iter().map(|e| u64::from_be_bytes(*e)).enumerate() {
            let at = entry & OFFSET;
            // Bit 0 says of a part without a cluster that all of it is set.
            let reserved = entry & !OFFSET & if at == 0 { !1 } else { !0 };
            if at & (self.geometry.cluster() - 1) != 0 || reserved != 0 || at >= self.dev.len() {
                wrong(report, b.table_offset + i as u64 * 8, format!(", entry {i}: {entry:#x}"));
            } else if at != 0 {
                self.take_bitmap(at, self.geometry.cluster(), "a bitmap", report);
            }
        }
    }

    /// Counts every L1 table and the L2 tables they point to.
    ///
    /// Errors: the active one cannot be read.
    pub(super) fn l1_tables(&mut self, report: &mut CheckReport) -> Result<()> {
        let (offset, entries) = (self.header.l1_offset, self.header.l1_entries);
        self.l1(offset, entries, None, report)?;
        for (i, s) in self.list.clone().iter().enumerate().filter(|(_, s)| self.can_follow(s)).collect::<Vec<_>>() {
            let name = String::from_utf8_lossy(&s.name).into_owned();
            if let Err(e) = self.l1(s.l1_offset, s.l1_entries, Some((i, &name)), report) {
                report.note(&rules::UNREADABLE, spot(s.l1_offset, format!("snapshot '{name}': {}", e.why())));
            }
        }
        for (at, table) in &self.tables {
            let cluster = self.cluster(*at);
            if self.counts.add(cluster, table.uses, true).is_some_and(|b| b.uses > 0) {
                let bitmap = self.bitmap_places.contains(cluster);
                report.note(if bitmap { &rules::BITMAP } else { &rules::CROSSED }, spot(*at, "an L2 table"));
                if !bitmap {
                    self.crossed.tables.insert(*at);
                }
            }
        }
        for at in self.crossed.tables.clone() {
            self.suspect(at, self.geometry.cluster());
        }
        Ok(())
    }

    /// Every L1 table that lies in the `len` bytes from `offset` on may be one that ought to lie elsewhere.
    fn suspect(&mut self, offset: u64, len: u64) {
        let active = (None, self.header.l1_offset, self.header.l1_entries);
        let snapshots = self.list.iter().enumerate().map(|(i, s)| (Some(i), s.l1_offset, s.l1_entries));
        for (which, at, entries) in std::iter::once(active).chain(snapshots) {
            if at < offset.saturating_add(len) && offset < at.saturating_add(u64::from(entries) * 8) {
                self.suspects.insert(which);
            }
        }
    }

    fn l1(&mut self, offset: u64, entries: u32, snapshot: Option<(usize, &str)>, report: &mut CheckReport) -> Result<()> {
        let what = snapshot.map_or("the active L1 table".into(), |(_, name)| format!("the L1 table of snapshot '{name}'"));
        let len = u64::from(entries) * 8;
        let bytes = read_vec(self.dev.as_ref(), offset, len, MAX_L1_BYTES).map_err(|e| e.op(format!("read {what}")))?;
        let crossed = self.use_range(offset, len, &what, report);
        match snapshot {
            None => self.crossed.l1 = crossed,
            Some((i, _)) if crossed => drop(self.crossed.l1_of.insert(i)),
            Some(_) => {}
        }
        let which = snapshot.map(|(i, _)| i);
        if crossed {
            self.suspect(offset, len);
        }
        let mut last = Last::default();
        let span = self.geometry.l2_span();
        for (i, entry) in bytes.as_chunks::<8>().0.iter().map(|e| u64::from_be_bytes(*e)).enumerate() {
            let start = i as u64 * span;
            let mut note = |rule: &'static Rule, detail: &str| {
                let guest = snapshot.is_none().then_some((start, span));
                let detail = format!("{what}, entry {i}: {entry:#x}{detail}");
                report.note(rule, Spot { offset: Some(offset + i as u64 * 8), guest, detail });
            };
            let suspects = &mut self.suspects;
            let at = match self.judge.l1(entry, &mut |rule| {
                note(rule, "");
                suspects.insert(which);
            }) {
                Table::None => continue,
                Table::Lost => {
                    if snapshot.is_none() && start < self.header.size {
                        report.lose(start, span.min(self.header.size - start));
                    }
                    continue;
                }
                Table::At(at) => at,
            };
            if snapshot.is_none() {
                let count = self.stored.get(self.cluster(at), &mut last);
                if (count == 1) != (entry & COPIED != 0) {
                    note(&rules::COPIED, &format!(", refcount {count}"));
                }
            }
            let table = self.tables.entry(at).or_insert(L2Use { uses: 0, active: false, start });
            table.uses = table.uses.saturating_add(1);
            table.active |= snapshot.is_none();
        }
        Ok(())
    }
}
