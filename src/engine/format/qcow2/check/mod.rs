//! Checking a qcow2 image: every use of every cluster is counted, and compared with the refcounts the file has.
//!
//! ```text
//!  header ┐
//!  tables ├─▶ uses per cluster ─┐
//!  data   ┘                     ├─▶ equal? lower (damage waiting to happen), higher (a leak)
//!  refcount blocks ─▶ counts ───┘
//! ```
//!
//! Each L2 table is read once, however many snapshots share it: its entries count as often as L1 entries point to it.
//! Specification: "Host cluster management", "Cluster mapping", "Snapshots", "Bitmaps".

mod counts;
mod rules;

mod walk;

use std::collections::BTreeMap;

use crate::engine::error::Result;
use crate::engine::format::Source;
use crate::engine::format::check::{CheckReport, Spot};
use crate::engine::io::bytes::be64;
use crate::engine::io::{Device, read_vec};
use crate::engine::limits::MAX_L1_BYTES;
use crate::engine::units::SECTOR;

use super::extensions::{CRYPTO, Extensions, read_head};
use super::header::{BITMAPS, DIRTY, Header};
use super::stored::{Last, Stored};
use super::tables::{Geometry, OFFSET};
use super::{bitmaps, snapshots};
use counts::Counts;

/// Bits of an L1 entry that must be zero.
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;

/// What the parts of a check share.
pub(super) struct Checker {
    dev: Device,
    header: Header,
    geometry: Geometry,
    counts: Counts,
    stored: Stored,
}

/// A table of entries to follow, and how often.
#[derive(Debug, Clone, Copy)]
struct L2Use {
    /// L1 entries that point to it.
    uses: u32,
    /// Guest byte where its span begins, in the active table, which alone has COPIED flags.
    active: Option<u64>,
}

/// Checks the image. Only reads.
///
/// Errors: the header, or a table without which nothing can be followed, cannot be read.
pub fn check(source: &Source) -> Result<CheckReport> {
    let dev = source.dev.clone();
    let (header, ext) = read_head(&dev)?;
    let geometry = Geometry::of(&header);
    let stored = Stored::open(dev.clone(), &header)?;
    let counts = Counts::new(dev.len().div_ceil(geometry.cluster()));
    let c = Checker { dev, geometry, counts, stored, header };
    let mut report = CheckReport { total: c.header.size.div_ceil(geometry.cluster()), ..CheckReport::default() };
    if c.header.incompatible & DIRTY != 0 {
        report.note(&rules::DIRTY, Spot { offset: Some(72), guest: None, detail: "the dirty bit is set".into() });
    }
    c.refcount_structures(&mut report);
    c.use_range(0, geometry.cluster(), "the header", &mut report);
    c.directory_structures(&ext, &mut report)?;
    let tables = c.l1_tables(&mut report)?;
    c.follow(&tables, &mut report);
    c.compare(&mut report);
    Ok(report)
}

fn spot(offset: u64, detail: impl Into<String>) -> Spot {
    Spot { offset: Some(offset), guest: None, detail: detail.into() }
}

impl Checker {
    fn cluster(&self, offset: u64) -> u64 {
        offset >> self.header.cluster_bits
    }

    /// Counts metadata that takes `len` bytes from `offset` on.
    fn use_range(&self, offset: u64, len: u64, what: &str, report: &mut CheckReport) {
        if len == 0 {
            return;
        }
        for n in self.cluster(offset)..=self.cluster(offset.saturating_add(len - 1)) {
            match self.counts.add(n, 1, true) {
                None => {
                    report.note(&rules::OUTSIDE, spot(offset, what));
                    return;
                }
                Some((0, _)) => {}
                Some(_) => report.note(&rules::OVERLAP, spot(n << self.header.cluster_bits, what)),
            }
        }
    }

    /// The refcount table and its blocks count themselves.
    fn refcount_structures(&self, report: &mut CheckReport) {
        let h = &self.header;
        self.use_range(h.reftable_offset, u64::from(h.reftable_clusters) << h.cluster_bits, "the refcount table", report);
        for (n, entry) in self.stored.table.iter().enumerate().filter(|(_, e)| **e != 0) {
            match self.stored.block_offset(n as u64) {
                Some(at) => self.use_range(at, self.geometry.cluster(), "a refcount block", report),
                None => report.note(&rules::TABLE, spot(h.reftable_offset + n as u64 * 8, format!("block {n} at {entry:#x}"))),
            }
        }
    }

    /// Snapshot table, bitmaps and the LUKS header.
    fn directory_structures(&self, ext: &Extensions, report: &mut CheckReport) -> Result<()> {
        let h = &self.header;
        let list = snapshots::read(self.dev.as_ref(), h)?;
        let len = list.iter().map(|s| s.encode().len() as u64).sum();
        self.use_range(h.snapshots_offset, len, "the snapshot table", report);
        if let Some(data) = ext.list.iter().find(|e| e.id == CRYPTO).map(|e| &e.data)
            && let (Some(at), Some(len)) = (be64(data, 0), be64(data, 8))
        {
            self.use_range(at, len, "the LUKS header", report);
        }
        // Without the autoclear bit the bitmaps are nobody's any more, and their clusters leaks.
        let Some(dir) = ext.bitmaps(h)?.filter(|_| h.autoclear & BITMAPS != 0) else { return Ok(()) };
        self.use_range(dir.directory_offset, dir.directory_size, "the bitmap directory", report);
        for b in bitmaps::read(self.dev.as_ref(), &dir)? {
            let name = String::from_utf8_lossy(&b.name).into_owned();
            let len = u64::from(b.table_entries) * 8;
            self.use_range(b.table_offset, len, "a bitmap table", report);
            let table = match read_vec(self.dev.as_ref(), b.table_offset, len, MAX_L1_BYTES) {
                Ok(t) => t,
                Err(e) => {
                    report.note(&rules::BITMAP, spot(b.table_offset, format!("bitmap '{name}': {}", e.why())));
                    continue;
                }
            };
            for (i, entry) in table.as_chunks::<8>().0.iter().map(|e| u64::from_be_bytes(*e)).enumerate() {
                let at = entry & OFFSET;
                let place = b.table_offset + i as u64 * 8;
                if at == 0 {
                    continue;
                }
                if at & (self.geometry.cluster() - 1) != 0 || entry & !OFFSET != 0 || at >= self.dev.len() {
                    report.note(&rules::BITMAP, spot(place, format!("bitmap '{name}', entry {i}: {entry:#x}")));
                } else {
                    self.use_range(at, self.geometry.cluster(), "a bitmap", report);
                }
            }
        }
        Ok(())
    }

    /// Counts every L1 table and the L2 tables they point to. The L2 tables by their place.
    fn l1_tables(&self, report: &mut CheckReport) -> Result<BTreeMap<u64, L2Use>> {
        let mut tables = BTreeMap::new();
        let h = &self.header;
        self.l1(h.l1_offset, h.l1_entries, true, "the active L1 table", &mut tables, report)?;
        for s in snapshots::read(self.dev.as_ref(), h)? {
            let what = format!("the L1 table of snapshot '{}'", String::from_utf8_lossy(&s.name));
            self.l1(s.l1_offset, s.l1_entries, false, &what, &mut tables, report)?;
        }
        for (at, table) in &tables {
            match self.counts.add(self.cluster(*at), table.uses, true) {
                Some((0, _)) | None => {}
                Some(_) => report.note(&rules::OVERLAP, spot(*at, "an L2 table")),
            }
        }
        Ok(tables)
    }

    fn l1(
        &self,
        offset: u64,
        entries: u32,
        active: bool,
        what: &str,
        tables: &mut BTreeMap<u64, L2Use>,
        report: &mut CheckReport,
    ) -> Result<()> {
        let len = u64::from(entries) * 8;
        self.use_range(offset, len, what, report);
        let bytes = read_vec(self.dev.as_ref(), offset, len, MAX_L1_BYTES).map_err(|e| e.op(format!("read {what}")))?;
        let mut last = Last::default();
        for (i, entry) in bytes.as_chunks::<8>().0.iter().map(|e| u64::from_be_bytes(*e)).enumerate() {
            let place = offset + i as u64 * 8;
            let guest = Some((i as u64 * self.geometry.l2_span(), self.geometry.l2_span()));
            let note = |report: &mut CheckReport, rule, detail: String| {
                report.note(rule, Spot { offset: Some(place), guest, detail });
            };
            if entry & L1_RESERVED != 0 {
                note(report, &rules::RESERVED, format!("L1 entry {i}: {entry:#x}"));
            }
            let at = entry & OFFSET;
            if at == 0 {
                continue;
            }
            if at & (self.geometry.cluster() - 1) != 0 {
                note(report, &rules::MISALIGNED, format!("L1 entry {i}: {entry:#x}"));
                continue;
            }
            if at.saturating_add(self.geometry.cluster()) > self.dev.len().next_multiple_of(SECTOR) {
                note(report, &rules::OUTSIDE, format!("L1 entry {i}: {entry:#x}"));
                continue;
            }
            let table = tables.entry(at).or_insert(L2Use { uses: 0, active: None });
            table.uses = table.uses.saturating_add(1);
            if active {
                table.active = Some(i as u64 * self.geometry.l2_span());
                let count = self.stored.get(self.cluster(at), &mut last);
                if (count == 1) != (entry & super::tables::COPIED != 0) {
                    note(report, &rules::COPIED, format!("L1 entry {i}: refcount {count}"));
                }
            }
        }
        Ok(())
    }

    /// Compares what was counted with what is stored.
    fn compare(&self, report: &mut CheckReport) {
        let per_block = self.stored.per_block();
        let mut last = Last::default();
        let mut end = 0;
        let mut n = 0;
        // Counts may be stored for clusters behind the end of the file; they are leaks there.
        let stored_end = (self.stored.table.len() as u64).saturating_mul(per_block);
        let limit = self.counts.clusters().max(stored_end);
        while n < limit {
            // Where neither uses nor a block are, there is nothing to compare: go to what comes first.
            if self.stored.block_offset(n / per_block).is_none() {
                let next_block = (n / per_block + 1).saturating_mul(per_block);
                n = match self.counts.next_touched(n) {
                    Some(used) if used < next_block => used,
                    _ if next_block >= stored_end => match self.counts.next_touched(next_block) {
                        Some(used) => used,
                        None => break,
                    },
                    _ => {
                        n = next_block;
                        continue;
                    }
                };
            }
            let (used, stored) = (self.counts.get(n), self.stored.get(n, &mut last));
            if used > 0 || stored > 0 {
                end = n + 1;
            }
            if used != stored {
                let rule = if stored < used { &rules::LOW } else { &rules::LEAK };
                let at = n << self.header.cluster_bits;
                report.note(rule, spot(at, format!("counted {stored}, used {used}")));
            }
            n += 1;
        }
        report.image_end = Some(end << self.header.cluster_bits);
    }
}
