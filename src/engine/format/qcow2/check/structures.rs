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

use super::{Checker, L2Use, Table, rules, spot};

impl Checker {
    /// Counts metadata that takes `len` bytes from `offset` on.
    pub(super) fn use_range(&self, offset: u64, len: u64, what: &str, report: &mut CheckReport) {
        self.take(offset, len, what, &rules::CROSSED, report);
    }

    fn take(&self, offset: u64, len: u64, what: &str, crossed: &'static Rule, report: &mut CheckReport) {
        let Some(last) = len.checked_sub(1).map(|n| self.cluster(offset.saturating_add(n))) else { return };
        let first = self.cluster(offset);
        self.counts.add_run(first, last - first + 1, 1, true, |n, _| {
            report.note(crossed, spot(n << self.header.cluster_bits, what));
        });
        if last >= self.counts.clusters() {
            let rule = if std::ptr::eq(crossed, &rules::TABLE) { &rules::TABLE } else { &rules::CUT };
            report.note(rule, spot(offset, what));
        }
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
    pub(super) fn snapshot_table(&mut self, report: &mut CheckReport) {
        let h = &self.header;
        match snapshots::read_table(self.dev.as_ref(), h) {
            Err(e) => report.note(&rules::SNAPSHOT, spot(h.snapshots_offset, e.why())),
            Ok(list) => {
                let len = list.iter().map(|s| s.encode().len() as u64).sum();
                self.take(h.snapshots_offset, len, "the snapshot table", &rules::CROSSED, report);
                for s in &list {
                    if let Err(e) = snapshots::check(s, self.dev.as_ref(), h) {
                        report.note(&rules::SNAPSHOT, spot(h.snapshots_offset, e.why()));
                    }
                }
                self.list = list;
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
            self.use_range(at, len, "the LUKS header", report);
        }
    }

    /// The bitmap directory, the bitmaps' tables and their clusters.
    pub(super) fn bitmaps(&self, report: &mut CheckReport) {
        // Without the autoclear bit the bitmaps are nobody's any more, and their clusters leaks.
        if self.header.autoclear & BITMAPS == 0 {
            return;
        }
        let list = match self.ext.bitmaps(&self.header) {
            Ok(None) => return,
            Ok(Some(dir)) => {
                self.use_range(dir.directory_offset, dir.directory_size, "the bitmap directory", report);
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

    fn bitmap(&self, b: &bitmaps::Entry, report: &mut CheckReport) {
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
        self.use_range(b.table_offset, len, "a bitmap table", report);
        for (i, entry) in table.as_chunks::<8>().0.iter().map(|e| u64::from_be_bytes(*e)).enumerate() {
            let at = entry & OFFSET;
            // Bit 0 says of a part without a cluster that all of it is set.
            let reserved = entry & !OFFSET & if at == 0 { !1 } else { !0 };
            if at & (self.geometry.cluster() - 1) != 0 || reserved != 0 || at >= self.dev.len() {
                wrong(report, b.table_offset + i as u64 * 8, format!(", entry {i}: {entry:#x}"));
            } else if at != 0 {
                self.use_range(at, self.geometry.cluster(), "a bitmap", report);
            }
        }
    }

    /// Counts every L1 table and the L2 tables they point to.
    ///
    /// Errors: the active one cannot be read.
    pub(super) fn l1_tables(&mut self, report: &mut CheckReport) -> Result<()> {
        let (offset, entries) = (self.header.l1_offset, self.header.l1_entries);
        self.l1(offset, entries, None, report)?;
        for s in self.list.clone().iter().filter(|s| self.can_follow(s)).collect::<Vec<_>>() {
            let name = String::from_utf8_lossy(&s.name).into_owned();
            if let Err(e) = self.l1(s.l1_offset, s.l1_entries, Some(&name), report) {
                report.note(&rules::SNAPSHOT, spot(s.l1_offset, format!("snapshot '{name}': {}", e.why())));
            }
        }
        for (at, table) in &self.tables {
            if self.counts.add(self.cluster(*at), table.uses, true).is_some_and(|b| b.uses > 0) {
                report.note(&rules::CROSSED, spot(*at, "an L2 table"));
            }
        }
        Ok(())
    }

    fn l1(&mut self, offset: u64, entries: u32, snapshot: Option<&str>, report: &mut CheckReport) -> Result<()> {
        let what = snapshot.map_or("the active L1 table".into(), |name| format!("the L1 table of snapshot '{name}'"));
        let len = u64::from(entries) * 8;
        let bytes = read_vec(self.dev.as_ref(), offset, len, MAX_L1_BYTES).map_err(|e| e.op(format!("read {what}")))?;
        self.use_range(offset, len, &what, report);
        let mut last = Last::default();
        let span = self.geometry.l2_span();
        for (i, entry) in bytes.as_chunks::<8>().0.iter().map(|e| u64::from_be_bytes(*e)).enumerate() {
            let start = i as u64 * span;
            let mut note = |rule: &'static Rule, detail: &str| {
                let guest = snapshot.is_none().then_some((start, span));
                let detail = format!("{what}, entry {i}: {entry:#x}{detail}");
                report.note(rule, Spot { offset: Some(offset + i as u64 * 8), guest, detail });
            };
            let at = match self.judge.l1(entry, &mut |rule| note(rule, "")) {
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
