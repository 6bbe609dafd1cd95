//! Tables written right to new places: first a survey, which reads and says what will change; then the writing, the switch, and
//! what is given back.

use std::collections::{BTreeSet, HashMap};

use crate::engine::error::Result;
use crate::engine::format::check::{CheckReport, Evidence, Repair, Repaired, Severity};
use crate::engine::io::{Device, WriteAt, WriteDevice, read_padded};
use crate::engine::units::SECTOR;

use super::super::check::{Checker, L2Use, Table, Tick, rules};
use super::super::head;
use super::super::header::{BITMAPS, CORRUPT, Header, RAW_EXTERNAL};
use super::super::image::read_l1;
use super::super::snapshots::Entry;
use super::super::tables::{COMPRESSED, COPIED, OFFSET, ZERO};
use super::goal::Goal;
use super::room::{Built, Room};
use crate::engine::format::ranges::Ranges;

/// A repair on its way.
pub(super) struct Remake {
    room: Room,
    /// L2 tables that change, by their place.
    changed: BTreeSet<u64>,
    /// Where changed L2 tables went.
    moved: HashMap<u64, u64>,
    /// The active L1 table changes.
    l1: bool,
    /// Snapshots whose L1 table changes, by their number.
    l1_of: BTreeSet<usize>,
    /// L1 entries whose table is lost and that are to read as zeros over a backing file.
    zero_uses: u64,
    /// The table they point to.
    zero_table: Option<u64>,
    /// Entries with the zero flag over a backing file that are to do without it, as often as they are used.
    zero_entries: u64,
    /// Clusters of zeros for them, and how many entries have one.
    zero_clusters: (Vec<u64>, u64),
    /// COPIED flags that change.
    flags: u64,
    /// Entries that stay as they are, although what they point to is lost.
    stuck: u64,
    /// New places, for the undo file.
    state: Vec<(u64, u64)>,
}

/// What is done about the entries of an L2 table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// What lies where it cannot stay is not counted there any more.
    Apart,
    /// It is found out what changes.
    Survey,
    /// It is written.
    Write,
}

/// What becomes of one L2 table.
#[derive(Default)]
struct Remade {
    changed: bool,
    flags: u64,
    stuck: u64,
    zero_entries: u64,
    claimed: Vec<u64>,
}

/// Uses of one cluster of zeros, at most: well within what 16 bits count.
const ZERO_USES: u64 = 60_000;

impl Remake {
    pub(super) fn new(dev: WriteDevice, checker: Checker, goal: Goal) -> Self {
        let mut room = Room::new(dev, checker, goal);
        if goal.counts {
            for (offset, len) in old_refcounts(&room.checker) {
                room.adjust(offset, len, -1);
            }
        }
        Remake {
            room,
            changed: BTreeSet::new(),
            moved: HashMap::new(),
            l1: false,
            l1_of: BTreeSet::new(),
            zero_uses: 0,
            zero_table: None,
            zero_entries: 0,
            zero_clusters: (Vec::new(), 0),
            flags: 0,
            stuck: 0,
            state: vec![(0, SECTOR)],
        }
    }

    /// Finds out what changes. Writes nothing.
    pub(super) fn survey(&mut self, tick: Tick<'_>) -> Result<()> {
        let Goal { entries, flags, version2, apart, .. } = self.room.goal;
        if !entries && !flags && !version2 {
            return Ok(());
        }
        if apart {
            self.take_apart(tick)?;
        }
        let tables: Vec<(u64, L2Use)> = self.room.checker.tables.iter().map(|(at, t)| (*at, *t)).collect();
        let total = tables.len() as u64;
        let mut raw = vec![0; self.room.checker.geometry.cluster() as usize];
        for (n, (at, table)) in tables.into_iter().enumerate() {
            tick(n as u64, total)?;
            if read_padded(self.room.checker.dev.as_ref(), at, &mut raw).is_err() {
                continue;
            }
            let seen = self.table(&table, &mut raw, Pass::Survey)?;
            self.flags += seen.flags;
            self.stuck += seen.stuck;
            self.zero_entries += seen.zero_entries;
            for cluster in seen.claimed {
                self.room.claimed.insert(cluster..cluster.saturating_add(1));
            }
            if seen.changed || (apart && self.room.checker.crossed.tables.contains(&at)) {
                self.changed.insert(at);
            }
        }
        let l1 = self.active_l1()?;
        self.l1 = self.l1_changes(&l1, true) || (apart && self.room.checker.crossed.l1);
        for (i, s) in self.room.checker.list.clone().iter().enumerate().filter(|_| entries || version2) {
            if self.room.checker.can_follow(s)
                && let Ok(l1) = self.l1_table(s.l1_offset, s.l1_entries)
                && (self.l1_changes(&l1, false) || (apart && self.room.checker.crossed.l1_of.contains(&i)))
            {
                self.l1_of.insert(i);
            }
        }
        Ok(())
    }

    /// What guest data has of its uses where tables are, it will not have there: the flags of what stays depend on it.
    fn take_apart(&mut self, tick: Tick<'_>) -> Result<()> {
        let tables: Vec<(u64, L2Use)> = self.room.checker.tables.iter().map(|(at, t)| (*at, *t)).collect();
        let total = tables.len() as u64;
        let mut raw = vec![0; self.room.checker.geometry.cluster() as usize];
        for (n, (at, table)) in tables.into_iter().enumerate() {
            tick(n as u64, total)?;
            if read_padded(self.room.checker.dev.as_ref(), at, &mut raw).is_ok() {
                self.table(&table, &mut raw, Pass::Apart)?;
            }
        }
        Ok(())
    }

    fn l1_table(&self, offset: u64, entries: u32) -> Result<Vec<u64>> {
        let reader: Device = self.room.dev.clone();
        read_l1(&reader, offset, entries)
    }
    fn active_l1(&self) -> Result<Vec<u64>> {
        self.l1_table(self.room.checker.header.l1_offset, self.room.checker.header.l1_entries)
    }

    /// Mends the entries of an L2 table in `raw`, as far as `pass` does.
    fn table(&mut self, table: &L2Use, raw: &mut [u8], pass: Pass) -> Result<Remade> {
        let g = self.room.checker.geometry;
        let mut out = Remade::default();
        for slot in raw.chunks_exact_mut(g.entry_size()) {
            let word = |at: usize| slot.get(at..at + 8).and_then(|b| b.first_chunk::<8>()).map_or(0, |b| u64::from_be_bytes(*b));
            let old = (word(0), if g.extended { word(8) } else { 0 });
            if old == (0, 0) {
                continue;
            }
            let new = self.entry(table, old, pass, &mut out)?;
            if new != old {
                out.changed = true;
                for (at, value) in [(0, new.0), (8, new.1)] {
                    if let Some(b) = slot.get_mut(at..at + 8) {
                        b.copy_from_slice(&value.to_be_bytes());
                    }
                }
            }
        }
        Ok(out)
    }

    /// An L2 entry as it should be; before it is written, any other one where it will change.
    fn entry(&mut self, table: &L2Use, old: (u64, u64), pass: Pass, out: &mut Remade) -> Result<(u64, u64)> {
        let write = pass == Pass::Write;
        let (mut entry, mut bitmap) = old;
        let g = self.room.checker.geometry;
        if self.room.goal.entries {
            let judged = self.room.checker.judge.l2(entry, bitmap, &mut |_| {});
            if judged.lost {
                if (judged.entry, judged.bitmap) == old {
                    out.stuck += 1;
                    out.claimed.push((entry & OFFSET) >> g.cluster_bits);
                }
                return Ok((judged.entry, judged.bitmap));
            }
            (entry, bitmap) = (judged.entry, judged.bitmap);
        }
        let host = entry & OFFSET;
        let plain = entry & COMPRESSED == 0 && host != 0 && !g.external;
        let cluster = host >> g.cluster_bits;
        if self.room.goal.version2 && entry & COMPRESSED == 0 && entry & ZERO != 0 {
            if write && host != 0 {
                self.room.adjust(host, 1, -i64::from(table.uses));
            }
            if !self.room.checker.judge.covered {
                return Ok((0, 0));
            }
            if !write {
                out.zero_entries += u64::from(table.uses);
                return Ok((!entry, 0));
            }
            return Ok((self.zero_cluster(table.uses)?, 0));
        }
        if plain && self.room.goal.apart && self.room.checker.counts.get(cluster).metadata {
            if pass == Pass::Apart {
                self.room.adjust(host, 1, -i64::from(table.uses));
            }
            if !g.extended && entry & ZERO != 0 {
                return Ok((ZERO, 0));
            }
            if !write {
                return Ok((!entry, bitmap));
            }
            let mut bytes = vec![0; g.cluster() as usize];
            read_padded(self.room.checker.dev.as_ref(), host, &mut bytes)?;
            return Ok((self.copy(&bytes, table)?, bitmap));
        }
        if entry & COMPRESSED != 0 && self.room.goal.apart && self.room.is_crowded(entry) {
            return self.unpack(table, entry, pass, out);
        }
        if pass == Pass::Apart {
            return Ok(old);
        }
        if self.room.goal.flags && table.active && plain {
            entry = entry & !COPIED | if self.room.count(cluster) == 1 { COPIED } else { 0 };
        }
        out.flags += u64::from((entry ^ old.0) & COPIED != 0);
        Ok((entry, bitmap))
    }

    /// An entry for `bytes` in a place of their own.
    fn copy(&mut self, bytes: &[u8], table: &L2Use) -> Result<u64> {
        let at = self.room.place(bytes, u64::from(table.uses))?;
        Ok(at | if table.uses == 1 { COPIED } else { 0 })
    }

    /// The entry of a compressed unit that lies where a table is: what can be unpacked gets a cluster of its own.
    fn unpack(&mut self, table: &L2Use, entry: u64, pass: Pass, out: &mut Remade) -> Result<(u64, u64)> {
        let checker = &self.room.checker;
        let (first, end) = checker.packed_clusters(entry);
        let bytes = checker.unpacked(entry)?;
        let empty = checker.judge.empty();
        let bitmap = if checker.geometry.extended { u64::from(u32::MAX) } else { 0 };
        if pass == Pass::Apart && (bytes.is_some() || empty.is_some()) {
            (first..end).for_each(|n| self.room.adjust(n << self.room.bits(), 1, -i64::from(table.uses)));
        }
        match (bytes, empty) {
            (Some(bytes), _) if pass == Pass::Write => Ok((self.copy(&bytes, table)?, bitmap)),
            (Some(_), _) => Ok((!entry, bitmap)),
            (None, Some(empty)) => Ok(empty),
            (None, None) => {
                out.stuck += 1;
                Ok((entry, 0))
            }
        }
    }

    /// An entry that points to a cluster of zeros, which others share.
    fn zero_cluster(&mut self, uses: u32) -> Result<u64> {
        if self.zero_clusters.0.is_empty() {
            let zeros = vec![0; self.room.checker.geometry.cluster() as usize];
            for _ in 0..self.zero_entries.div_ceil(ZERO_USES).max(1) {
                let at = self.room.place(&zeros, 0)?;
                self.zero_clusters.0.push(at);
            }
        }
        let (list, given) = &mut self.zero_clusters;
        let at = list.get((*given % list.len() as u64) as usize).copied().unwrap_or(0);
        *given += 1;
        self.room.adjust(at, 1, i64::from(uses));
        Ok(at | if self.zero_entries == 1 { COPIED } else { 0 })
    }

    /// Whether an L1 table will differ. Counts what is lost and which flags change.
    fn l1_changes(&mut self, l1: &[u64], active: bool) -> bool {
        let mut any = false;
        for &old in l1 {
            let table = self.judged_l1(old);
            let new = match table {
                Table::None => {
                    if self.room.goal.entries {
                        0
                    } else {
                        old
                    }
                }
                Table::At(at) if self.changed.contains(&at) => {
                    any = true;
                    old & COPIED | at
                }
                Table::At(at) => at | old & COPIED,
                Table::Lost if self.zeros().is_some() => {
                    self.zero_uses += 1;
                    any = true;
                    continue;
                }
                Table::Lost if self.room.checker.judge.covered => {
                    self.stuck += 1;
                    self.room.claimed.insert((old & OFFSET) >> self.room.bits()..((old & OFFSET) >> self.room.bits()) + 1);
                    old
                }
                Table::Lost => 0,
            };
            let alone = match table {
                Table::At(at) => self.room.count(at >> self.room.bits()) == 1,
                _ => false,
            };
            if active && self.room.goal.flags && matches!(table, Table::At(_)) && alone != (old & COPIED != 0) {
                self.flags += 1;
                any = true;
            }
            any |= new != old;
        }
        any
    }

    fn judged_l1(&self, entry: u64) -> Table {
        match entry & OFFSET {
            _ if self.room.goal.entries => self.room.checker.judge.l1(entry, &mut |_| {}),
            0 => Table::None,
            at => Table::At(at),
        }
    }

    /// What fills an L2 table that says zeros over a backing file; `None` where an empty L1 entry says the same, or nothing can.
    fn zeros(&self) -> Option<(u64, u64)> {
        self.room.checker.judge.zeros().filter(|_| self.room.checker.judge.covered)
    }

    /// An L1 table as it should be, once its L2 tables are where they belong.
    fn remade_l1(&self, l1: &[u64], active: bool) -> Vec<u64> {
        let entry = |old: &u64| {
            let at = match self.judged_l1(*old) {
                Table::None => return if self.room.goal.entries { 0 } else { *old },
                Table::At(at) => self.moved.get(&at).copied().unwrap_or(at),
                Table::Lost => match self.zero_table {
                    Some(at) => at,
                    None if self.room.checker.judge.covered => return *old,
                    None => return 0,
                },
            };
            let alone = self.room.count(at >> self.room.bits()) == 1;
            let flag = if active && self.room.goal.flags { alone } else { old & COPIED != 0 };
            at | if flag { COPIED } else { 0 }
        };
        l1.iter().map(entry).collect()
    }

    /// What will be changed.
    pub(super) fn evidence(&self) -> Evidence {
        let c = &self.room.checker;
        let mut ranges = if self.room.goal.counts || self.rewrites() { old_refcounts(c) } else { Vec::new() };
        let cluster = c.geometry.cluster();
        ranges.extend(self.changed.iter().map(|at| (*at, cluster)));
        if self.l1 {
            ranges.push((c.header.l1_offset, u64::from(c.header.l1_entries) * 8));
        }
        for s in self.l1_of.iter().filter_map(|i| c.list.get(*i)) {
            ranges.push((s.l1_offset, u64::from(s.l1_entries) * 8));
        }
        if self.relists() {
            ranges.push((c.header.snapshots_offset, c.table.len));
        }
        // What was no part of a table may be so because the table is damaged: whole clusters go back to the host.
        ranges.iter_mut().for_each(|(_, len)| *len = len.next_multiple_of(cluster));
        let length = self.room.dev.len();
        Evidence { length, groups: vec![merged(ranges, length), vec![(0, SECTOR.min(length))]] }
    }

    /// Any table goes to a new place.
    fn rewrites(&self) -> bool {
        self.l1 || !self.changed.is_empty() || self.relists()
    }

    /// The snapshot table does.
    fn relists(&self) -> bool {
        let Checker { list, table, .. } = &self.room.checker;
        let damaged = || table.anew || list.iter().any(|s| !self.room.checker.can_follow(s));
        !table.unreadable && (!self.l1_of.is_empty() || (self.room.goal.entries && damaged()))
    }

    /// Writes all of it; the places that tell later whether anything was changed since.
    pub(super) fn write(&mut self, tick: Tick<'_>) -> Result<Vec<(u64, u64)>> {
        let dev = self.room.dev.clone();
        self.write_with(tick, &mut |header| head::write_fields(dev.as_ref(), header))
    }

    /// The same; `switch` writes the header, durably.
    pub(super) fn write_with(
        &mut self,
        tick: Tick<'_>,
        switch: &mut dyn FnMut(&mut Header) -> Result<()>,
    ) -> Result<Vec<(u64, u64)>> {
        let dev = self.room.dev.clone();
        let length = dev.len();
        let counted = self.room.goal.counts;
        if !counted && self.rewrites() {
            self.room.goal.counts = true;
            for (offset, len) in old_refcounts(&self.room.checker) {
                self.room.adjust(offset, len, -1);
            }
        }
        let old = self.evidence();
        let mut header = self.room.checker.header.clone();
        let built = match self.prepare(&mut header, tick) {
            Ok(built) => built,
            Err(e) => {
                // What was appended is nobody's.
                if dev.len() > length && dev.as_file().is_none_or(|f| !f.is_block_device()) {
                    let _ = dev.set_len(length);
                }
                return Err(e);
            }
        };
        let clear = if self.stuck > 0 { self.room.goal.clear & !CORRUPT } else { self.room.goal.clear };
        header.incompatible &= !clear;
        // Bits not known here promise something nobody keeps.
        header.autoclear &= BITMAPS | RAW_EXTERNAL;
        switch(&mut header)?;
        if let Some(built) = built {
            self.reclaim(dev.as_ref(), &built, old);
            self.state.extend(built.ranges);
        }
        Ok(merged(std::mem::take(&mut self.state), dev.len()))
    }

    /// Everything up to the switch: nothing points to what is written here.
    fn prepare(&mut self, header: &mut Header, tick: Tick<'_>) -> Result<Option<Built>> {
        if !self.room.goal.counts {
            return Ok(None);
        }
        self.tables(tick)?;
        if self.relists() {
            self.snapshots(header)?;
        }
        if self.l1 {
            header.l1_offset = self.replace_l1(header.l1_offset, header.l1_entries, true)?;
        }
        let built = self.room.refcounts()?;
        header.reftable_offset = built.table_offset;
        header.reftable_clusters = built.table_clusters as u32;
        header.refcount_order = self.room.goal.order.unwrap_or(header.refcount_order);
        let end = built.end << self.room.bits();
        let dev = &self.room.dev;
        if dev.len() < end && dev.as_file().is_none_or(|f| !f.is_block_device()) {
            dev.set_len(end)?;
        }
        self.room.dev.flush()?;
        Ok(Some(built))
    }

    /// The snapshot table, with those snapshots that can be followed.
    fn snapshots(&mut self, header: &mut Header) -> Result<()> {
        let mut list = Vec::new();
        for (i, mut s) in self.room.checker.list.clone().into_iter().enumerate() {
            if self.room.goal.entries && !self.room.checker.can_follow(&s) {
                continue;
            }
            if self.l1_of.contains(&i) {
                s.l1_offset = self.replace_l1(s.l1_offset, s.l1_entries, false)?;
            }
            list.push(s);
        }
        self.room.adjust(header.snapshots_offset, self.room.checker.table.len, -1);
        header.snapshots = list.len() as u32;
        header.snapshots_offset = 0;
        if !list.is_empty() {
            let bytes = table_of(&list);
            header.snapshots_offset = self.room.place(&bytes, 1)?;
            self.state.push((header.snapshots_offset, bytes.len() as u64));
        }
        Ok(())
    }

    /// The L2 tables that change, and the one that says zeros.
    fn tables(&mut self, tick: Tick<'_>) -> Result<()> {
        let cluster = self.room.checker.geometry.cluster();
        let mut raw = vec![0; cluster as usize];
        let total = self.changed.len() as u64;
        for (n, at) in self.changed.clone().into_iter().enumerate() {
            tick(n as u64, total)?;
            let Some(table) = self.room.checker.tables.get(&at).copied() else { continue };
            read_padded(self.room.checker.dev.as_ref(), at, &mut raw)?;
            self.table(&table, &mut raw, Pass::Write)?;
            let new = self.room.place(&raw, u64::from(table.uses))?;
            self.room.adjust(at, 1, -i64::from(table.uses));
            self.moved.insert(at, new);
            self.state.push((new, cluster));
        }
        if let (Some((entry, bitmap)), 1..) = (self.zeros(), self.zero_uses) {
            let one = [entry.to_be_bytes(), bitmap.to_be_bytes()].concat();
            let size = self.room.checker.geometry.entry_size();
            let one = one.get(..size).unwrap_or_default();
            self.zero_table = Some(self.room.place(&one.repeat(cluster as usize / size), self.zero_uses)?);
        }
        Ok(())
    }

    fn replace_l1(&mut self, offset: u64, entries: u32, active: bool) -> Result<u64> {
        let new = self.remade_l1(&self.l1_table(offset, entries)?, active);
        let bytes: Vec<u8> = new.iter().flat_map(|e| e.to_be_bytes()).collect();
        self.room.adjust(offset, bytes.len() as u64, -1);
        let at = self.room.place(&bytes, 1)?;
        self.state.push((at, bytes.len() as u64));
        Ok(at)
    }

    /// The image is switched: what it let go of goes back to the host. Space that cannot be given back is only space.
    fn reclaim(&self, dev: &dyn WriteAt, built: &Built, old: Evidence) {
        if dev.as_file().is_some_and(|f| f.is_block_device()) {
            return;
        }
        let bits = self.room.bits();
        let mut free = Ranges::default();
        let old = old.groups.into_iter().next().unwrap_or_default();
        let old = old.into_iter().map(|(offset, len)| offset >> bits..(offset + len).div_ceil(1 << bits));
        let keep = self.room.goal.keep_content;
        // Some of what was free was taken again.
        for n in old.chain(built.freed.iter().filter(|_| !keep)).flatten() {
            if self.room.count(n) == 0 {
                free.insert(n..n + 1);
            }
        }
        let end = if keep { dev.len() } else { dev.len().min(built.end << bits) };
        for range in free.iter() {
            let (start, stop) = (range.start << bits, (range.end << bits).min(end));
            if start < stop {
                let _ = dev.write_zeroes(start, stop - start);
            }
        }
        if end < dev.len() {
            let _ = dev.set_len(end);
        }
        let _ = dev.flush();
    }

    /// What was done about `report`.
    pub(super) fn result(&self, report: &CheckReport, repair: Repair, state: Vec<(u64, u64)>) -> Repaired {
        let (mended, rest) = report.split(repair);
        let damage = mended.iter().filter(|f| f.rule.severity == Severity::Corruption && f.rule.id != rules::COPIED.id);
        let fixed: u64 = damage.map(|f| f.count).sum();
        let mut left: Vec<String> = rest.iter().map(|f| f.rule.title.to_string()).collect();
        if self.stuck > 0 {
            left.push(format!(
                "{} entries point to what is lost, and this version of qcow2 has no way to say zeros over a backing file",
                self.stuck
            ));
        }
        if !self.room.goal.lower && report.count(Severity::Leak) > 0 {
            left.push("lost space is not given back: parts of the image cannot be followed, and it may be theirs".into());
        }
        Repaired {
            corruptions: fixed.saturating_sub(self.stuck) + self.flags,
            leaks: if self.room.goal.lower { report.count(Severity::Leak) } else { 0 },
            state,
            left,
        }
    }
}

/// The places of the refcount table and its blocks.
fn old_refcounts(c: &Checker) -> Vec<(u64, u64)> {
    if c.stored.unreadable.is_some() {
        return Vec::new();
    }
    let table = (c.header.reftable_offset, u64::from(c.header.reftable_clusters) << c.header.cluster_bits);
    let blocks = (0..c.stored.table.len() as u64).filter_map(|n| c.stored.block_offset(n));
    std::iter::once(table).chain(blocks.map(|at| (at, c.geometry.cluster()))).collect()
}

fn table_of(list: &[Entry]) -> Vec<u8> {
    list.iter().flat_map(Entry::encode).collect()
}

/// Ranges within the file, ascending, neighbours and overlaps merged.
fn merged(mut ranges: Vec<(u64, u64)>, length: u64) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (at, len) in ranges {
        let end = at.saturating_add(len).min(length);
        match out.last_mut() {
            Some((start, have)) if *start + *have >= at => *have = (*have).max(end.saturating_sub(*start)),
            _ if at < end => out.push((at, end - at)),
            _ => {}
        }
    }
    out
}
