//! Looking for tables that are not where they are said to be. A snapshot table or an L1 table that nothing leads to any more lies in
//! clusters that are counted and not used. One is believed when it looks like what is missing, and the refcounts say that it is:
//! with it in its place less is damaged, no more of anything is wrong, and no other guess does as well.

use std::collections::BTreeSet;

use crate::engine::error::Result;
use crate::engine::format::check::{CheckReport, Rule, Severity};
use crate::engine::format::qcow2::image::read_l1;
use crate::engine::format::qcow2::snapshots;
use crate::engine::format::qcow2::stored::Last;
use crate::engine::limits::MAX_L1_BYTES;

use super::{Checker, Given, Table, Tick, rules, spot};

/// Guesses that are tried at once, each with a count of the whole image.
const TRIED: usize = 16;
/// Tables that are found at most.
const FOUND: usize = 16;
/// Lost clusters that are looked at.
const LOST: usize = 1 << 16;

/// Puts what is found in its place: what a check says then, with what was found named.
///
/// Errors: `tick` said to stop.
pub(super) fn tables(
    mut checker: Checker,
    mut report: CheckReport,
    bitmaps: bool,
    tick: Tick<'_>,
) -> Result<(Checker, CheckReport)> {
    let mut given = Given::default();
    let mut found = Vec::new();
    // An L1 table that lies on guest data, or on an L2 table, looks sound; what it leads to does not.
    let damage = [&rules::OVERLAP, &rules::RESERVED, &rules::MISALIGNED, &rules::OUTSIDE];
    if report.count(Severity::Leak) > 0 && damage.iter().any(|rule| report.count_of(rule) > 0) {
        checker.suspects.insert(None);
    }
    if checker.table.lost {
        let places = checker.lost_clusters().into_iter().filter(|at| checker.is_table(*at));
        let tries = places.take(TRIED + 1).map(|at| Given { table: Some(at), ..Given::default() }).collect();
        if let Some(right) = best(&checker, &report, tries, bitmaps, tick)? {
            found.push((right.0.table.unwrap_or(0), "the snapshot table".to_string()));
            (given, checker, report) = right;
        }
    }
    while !checker.suspects.is_empty() && found.len() < FOUND {
        let tries = checker.guesses(&given);
        let Some(right) = best(&checker, &report, tries, bitmaps, tick)? else { break };
        let new = right.0.l1.iter().find(|(which, _)| !given.l1.contains_key(*which));
        let (which, at) = new.map_or((None, 0), |(which, (at, _))| (*which, *at));
        let name = which.and_then(|i| right.1.list.get(i)).map(|s| String::from_utf8_lossy(&s.name).into_owned());
        found.push((at, name.map_or("the active L1 table".into(), |name| format!("the L1 table of snapshot '{name}'"))));
        (given, checker, report) = right;
    }
    for (at, what) in found {
        checker.table.anew |= given.table.is_some();
        report.note(&rules::FOUND, spot(at, format!("{what} is here")));
    }
    Ok((checker, report))
}

/// Of `tries` the one after which least is wrong, when it is one, and does what the right one would do.
fn best(
    now: &Checker,
    report: &CheckReport,
    tries: Vec<Given>,
    bitmaps: bool,
    tick: Tick<'_>,
) -> Result<Option<(Given, Checker, CheckReport)>> {
    if tries.len() > TRIED {
        return Ok(None);
    }
    let wrong = |r: &CheckReport| r.count(Severity::Corruption) + r.count(Severity::Unchecked) + r.count(Severity::Leak);
    let mut best: Option<(Given, Checker, CheckReport)> = None;
    let mut tie = false;
    for given in tries {
        let (c, r) = Checker::count(&now.dev, bitmaps, &given, tick)?;
        let no_more = |rule: &'static Rule| r.count_of(rule) <= report.count_of(rule);
        let fits =
            r.count(Severity::Corruption) < report.count(Severity::Corruption) && r.findings.iter().all(|f| no_more(f.rule));
        let least = best.as_ref().map(|(_, _, b)| wrong(b));
        if fits && least.is_none_or(|least| wrong(&r) <= least) {
            tie = least == Some(wrong(&r));
            best = Some((given, c, r));
        }
    }
    Ok(best.filter(|_| !tie))
}

impl Checker {
    /// Clusters of the file that are counted and not used: their first bytes.
    fn lost_clusters(&self) -> Vec<u64> {
        let mut out = Vec::new();
        self.stretches(|first, len, span, used| {
            let lost = |i: &u64| used(*i).uses == 0 && span.get(*i) > 0 && first + i < self.counts.clusters();
            let room = LOST.saturating_sub(out.len());
            out.extend((0..len).filter(lost).take(room).map(|i| (first + i) << self.header.cluster_bits));
        });
        out
    }

    /// A snapshot table of as many sound entries as there are to be begins at `at`.
    fn is_table(&self, at: u64) -> bool {
        let mut header = self.header.clone();
        header.snapshots_offset = at;
        let Ok(found) = snapshots::salvage(self.dev.as_ref(), &header) else { return false };
        let ids: BTreeSet<&[u8]> = found.list.iter().map(|s| &s.id[..]).collect();
        found.broken.is_none()
            && found.mended.is_empty()
            && found.list.iter().all(|s| s.reads_well() && self.can_follow(s))
            && ids.len() == found.list.len()
    }

    /// Every lost table in the place of every table that may be elsewhere; and those with the length that they ought to have.
    fn guesses(&self, given: &Given) -> Vec<Given> {
        let mut out = Vec::new();
        let lost = self.lost_clusters();
        let mut guess = |which, place| {
            let mut guess = given.clone();
            guess.l1.insert(which, place);
            // A table of the wrong length is lost where it is.
            if !out.contains(&guess) {
                out.push(guess);
            }
        };
        for which in self.suspects.iter().filter(|which| !given.l1.contains_key(*which)) {
            let Some(entries) = self.l1_entries(*which) else { continue };
            if let Some(s) = which.and_then(|i| self.list.get(i))
                && s.l1_entries != entries
            {
                guess(*which, (s.l1_offset, entries));
            }
            lost.iter().filter(|at| self.is_l1(**at, entries)).take(TRIED + 1).for_each(|at| guess(*which, (*at, entries)));
        }
        out
    }

    /// How long an L1 table is, as its snapshot's entry says or its disk needs.
    fn l1_entries(&self, which: Option<usize>) -> Option<u32> {
        let Some(i) = which else { return Some(self.header.l1_entries).filter(|n| *n > 0) };
        let s = self.list.get(i)?;
        let needed = s.disk_size().unwrap_or(self.header.size).div_ceil(self.geometry.l2_span());
        let most = MAX_L1_BYTES / 8;
        // A table has room for what the disk needs and the VM's state, and little more.
        let state = s.vm_state().div_ceil(self.geometry.l2_span());
        let said = u64::from(s.l1_entries);
        let sane = (needed..=needed.saturating_add(state).saturating_add(self.geometry.cluster() / 8).min(most)).contains(&said);
        u32::try_from(if sane { said } else { needed }).ok().filter(|n| *n > 0 && u64::from(*n) <= most)
    }

    /// An L1 table of `entries` entries may begin at `at`: all of them point to clusters that are counted, one at least
    /// more often than it is used.
    fn is_l1(&self, at: u64, entries: u32) -> bool {
        let Ok(table) = read_l1(&self.dev, at, entries) else { return false };
        let mut last = Last::default();
        let mut any = false;
        for entry in table {
            let mut wrong = false;
            match self.judge.l1(entry, &mut |_| wrong = true) {
                Table::None => {}
                Table::At(at) => {
                    let cluster = self.cluster(at);
                    let stored = self.stored.get(cluster, &mut last);
                    wrong |= stored == 0;
                    any |= stored > u64::from(self.counts.get(cluster).uses);
                }
                Table::Lost => wrong = true,
            }
            if wrong {
                return false;
            }
        }
        any
    }
}
