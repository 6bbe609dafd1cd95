//! Which parts of a file are in use, for the checks of formats that keep no counts: what is used twice, and what by nothing. In
//! memory that follows how scattered the image is, up to a limit.

use std::ops::Range;

use super::check::{CheckReport, Rule, Spot};
use super::ranges::Ranges;
use super::rules;

/// Ranges kept at most (some 200 MiB); an image would have to be very large and written quite at random to have more.
const MAX_RANGES: usize = 8 << 20;

/// What is said of an overlap with something that is no named structure.
const UNNAMED: &str = "something stored before";

/// The uses found so far. The unit is the caller's: bytes, or numbers of blocks.
#[derive(Default)]
pub struct Uses {
    taken: Ranges,
    /// Kept free on purpose: no use, and not lost.
    reserved: Ranges,
    /// Structures by name; only a handful.
    named: Vec<(Range<u64>, &'static str)>,
    /// End of the unit seen last.
    last: Option<u64>,
    full: bool,
}

impl Uses {
    /// A structure of the format, by name: told when it overlaps one before.
    pub fn structure(&mut self, what: &'static str, start: u64, len: u64, report: &mut CheckReport) {
        let range = start..start.saturating_add(len);
        if let Some(other) = self.take(range.clone()) {
            report.note(&rules::OVERLAP, Spot { offset: Some(start), guest: None, detail: format!("{what}, over {other}") });
        }
        self.named.push((range, what));
    }

    /// Whether `other`, which a use was found to overlap, is a named structure.
    pub fn is_name(other: &str) -> bool {
        other != UNNAMED
    }

    /// Uses `start..start + len`; what it overlaps, if anything.
    pub fn unit(&mut self, start: u64, len: u64) -> Option<&'static str> {
        self.take(start..start.saturating_add(len))
    }

    /// As [`Uses::unit`], for guest data in the guest's order: counts what is stored and what does not follow its neighbour.
    pub fn data(&mut self, start: u64, len: u64, report: &mut CheckReport) -> Option<&'static str> {
        report.allocated += 1;
        report.fragmented += u64::from(self.last.is_some_and(|end| end != start));
        self.last = Some(start.saturating_add(len));
        self.unit(start, len)
    }

    /// Keeps `len` from `start` on from being called unused.
    pub fn reserve(&mut self, start: u64, len: u64) {
        if self.reserved.len() < MAX_RANGES {
            self.reserved.insert(start..start.saturating_add(len));
        }
    }

    /// What `start..start + len` overlaps, if anything, without using it.
    pub fn over(&self, start: u64, len: u64) -> Option<&'static str> {
        let range = start..start.saturating_add(len);
        self.taken.first_in(range.clone()).map(|at| {
            let named = self.named.iter().find(|(r, _)| r.start < range.end && at < r.end && range.start < r.end);
            named.map_or(UNNAMED, |(_, what)| what)
        })
    }

    fn take(&mut self, range: Range<u64>) -> Option<&'static str> {
        let overlap = self.over(range.start, range.end - range.start);
        if self.taken.len() < MAX_RANGES {
            self.taken.insert(range);
        } else {
            self.full = true;
        }
        overlap
    }

    /// End of what is used last.
    pub fn end(&self) -> u64 {
        self.taken.iter().next_back().map_or(0, |r| r.end)
    }

    /// Tells of what lies before `end`, is at least `least` long and is used by nothing, once for each whole `least`, by `rule`;
    /// `place` says where in the file the range is.
    pub fn unused(mut self, end: u64, least: u64, rule: &'static Rule, place: impl Fn(u64) -> u64, report: &mut CheckReport) {
        if self.full {
            report.note(&rules::SCATTERED, Spot { offset: None, guest: None, detail: format!("more than {MAX_RANGES} pieces") });
            return;
        }
        for range in self.reserved.iter() {
            self.taken.insert(range);
        }
        let mut at = 0;
        for range in self.taken.iter().map(|r| r.start..r.end).chain(std::iter::once(end..end)) {
            let gap = range.start.min(end).saturating_sub(at);
            if gap >= least.max(1) {
                let bytes = place(at + gap).saturating_sub(place(at));
                let spot = Spot { offset: Some(place(at)), guest: None, detail: format!("{bytes} bytes") };
                report.note_many(rule, spot, gap / least.max(1));
                report.unused.push((place(at), bytes));
            }
            at = at.max(range.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_have_a_name_and_gaps_are_counted_in_units() {
        let (mut uses, mut report) = (Uses::default(), CheckReport::default());
        uses.structure("the header", 0, 512, &mut report);
        uses.structure("the table", 500, 100, &mut report);
        assert_eq!(uses.data(1000, 1000, &mut report), None);
        assert_eq!(uses.data(2000, 1000, &mut report), None);
        assert_eq!(uses.data(590, 10, &mut report), Some("the table"));
        assert_eq!(uses.data(2500, 10, &mut report), Some("something stored before"));
        uses.reserve(4000, 1000);
        assert_eq!((uses.end(), report.allocated, report.fragmented), (3000, 4, 2));
        uses.unused(6500, 500, &rules::UNUSED, |at| at, &mut report);
        let counts: Vec<_> = report.findings.iter().map(|f| (f.rule.id, f.count)).collect();
        // 600 to 1000 is too short; 3000 to 4000 and 5000 to 6500 are two and three units.
        assert_eq!(counts, [("overlap", 1), ("unused", 5)]);
    }
}
