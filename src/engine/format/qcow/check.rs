//! Checking a qcow version 1 image: where its tables and clusters lie. It has no counts that could be wrong.
//!
//! The tables come first, so that it does not depend on the order of the file which of two things in one place is called wrong: a
//! table stays where it is, and the guest's data over it is what moves. A repair starts from the same walk.

use super::header::Header;
use super::image::inflate;
use super::tables::{Entry, Tables};
use crate::engine::error::Result;
use crate::engine::format::Source;
use crate::engine::format::check::{CheckReport, Rule, Spot};
use crate::engine::format::rules::{self, rules};
use crate::engine::format::uses::Uses;
use crate::engine::io::bytes::be64;
use crate::engine::io::read_vec;
use crate::engine::units::SECTOR;

rules! {
    OUTSIDE "outside" Corruption Lossy,
        "tables point beyond the end of the file",
        "The file was cut short, or the tables are damaged: the guest's data there cannot be read.",
        "The entries are set to zeros: the guest ranges named are lost.";
    NO_TABLE "no-table" Corruption Lossy,
        "an entry of the L1 table leads to a structure that is no L2 table",
        "The entry is damaged: the guest's data there cannot be found.",
        "The entry is set to zeros: the guest ranges named are lost.";
    NONSENSE "nonsense" Corruption Lossy,
        "table entries have values that cannot be",
        "The tables were overwritten: the guest's data there cannot be found.",
        "The entries are set to zeros: the guest ranges named are lost.";
    OVERLAP "overlap" Corruption Lossy,
        "guest data lies where something else of the image is",
        "Each write to one of the two damages the other: one is overwritten already, or will be.",
        "The guest gets a copy of its own of what it reads now, so that neither spoils the other further.";
    CROSSED "tables-overlap" Corruption No,
        "two L2 tables lie in the same place of the file",
        "The guest reads the same data in two places, and a write to one changes the other.",
        "Nothing: it cannot be told which of the two is right. Copy the image: convert --salvage.";
    TAIL "tail" Leak Leaks,
        "the end of the file is used by nothing",
        "Nothing is wrong with the guest's data; the space is lost.",
        "The file is cut behind what is used last.";
}

/// What has to happen to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// What it led to is lost.
    Lost,
    /// It gets a copy of what it leads to.
    Shared,
}

/// An entry that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bad {
    /// Byte of the file where the entry is.
    pub place: u64,
    /// Guest byte where what it covers begins.
    pub guest: u64,
    /// Its value.
    pub raw: u64,
    /// It is one of the L1 table.
    pub l1: bool,
    /// What is wrong.
    pub wrong: Wrong,
}

/// Told of every entry that is wrong.
type Each<'a> = &'a mut dyn FnMut(Bad);

/// Checks the image. Only reads.
///
/// Errors: the header cannot be read, or the L1 table is not in the file.
pub fn check(source: &Source) -> Result<CheckReport> {
    Walk::run(source, &|_, _| Ok(()), &mut |_| {}).map(|(_, report)| report)
}

/// A walk through the tables.
pub(super) struct Walk<'a> {
    source: &'a Source,
    h: Header,
    uses: Uses,
    report: CheckReport,
    lost: Vec<(u64, u64)>,
}

impl Walk<'_> {
    /// Follows all tables, asking `tick` whether to go on; what was found, and the header.
    pub(super) fn run(source: &Source, tick: &dyn Fn(u64, u64) -> Result<()>, each: Each<'_>) -> Result<(Header, CheckReport)> {
        let h = Header::read(source.dev.as_ref())?;
        let report = CheckReport { total: h.size.div_ceil(h.cluster_size()), ..CheckReport::default() };
        let mut w = Walk { source, h, uses: Uses::default(), report, lost: Vec::new() };
        w.structures()?;
        let tables = w.l1(each);
        for (n, (index, at)) in tables.iter().enumerate() {
            tick(n as u64, tables.len() as u64)?;
            let len = w.h.l2_entries() * 8;
            match read_vec(source.dev.as_ref(), *at, len, len) {
                Ok(table) => w.l2(index * w.h.l2_entries(), *at, &table, each),
                Err(e) => {
                    let detail = format!("an L2 table: {}", e.why());
                    w.report.note(&rules::UNREADABLE, Spot { offset: Some(*at), guest: None, detail });
                }
            }
        }
        Ok(w.finish())
    }

    /// What the header leads to.
    fn structures(&mut self) -> Result<()> {
        let (h, report) = (&self.h, &mut self.report);
        self.uses.structure("the header", 0, super::header::HEADER_BYTES, report);
        // Between the two the backing file's name usually stands, and the L1 table is written as whole sectors.
        self.uses.reserve(0, h.l1_offset.min(64 << 10));
        self.uses.reserve(h.l1_offset, (h.l1_entries * 8).next_multiple_of(SECTOR));
        self.uses.structure("the L1 table", h.l1_offset, h.l1_entries * 8, report);
        if let Some((at, len)) = super::header::name_place(self.source.dev.as_ref())? {
            self.uses.structure("the backing file's name", at, len, report);
        }
        Ok(())
    }

    fn note(&mut self, rule: &'static Rule, bad: Bad, len: u64, detail: String, each: Each<'_>) {
        self.report.note(rule, Spot { offset: Some(bad.place), guest: Some((bad.guest, len)), detail });
        if bad.wrong == Wrong::Lost {
            self.lost.push((bad.guest, len));
        }
        each(bad);
    }

    /// The L2 tables: number of the L1 entry, and place.
    fn l1(&mut self, each: Each<'_>) -> Vec<(u64, u64)> {
        let h = self.h.clone();
        let tables = Tables::new(self.source.dev.clone(), h.clone());
        let (span, len) = (h.cluster_size() * h.l2_entries(), h.l2_entries() * 8);
        let mut out = Vec::new();
        for index in 0..h.l1_entries {
            let (place, guest) = (h.l1_offset + index * 8, index * span);
            let covered = span.min(h.size.saturating_sub(guest));
            let raw = match tables.l1(index) {
                Ok(0) => continue,
                Ok(raw) => raw,
                Err(e) => {
                    let detail = format!("the L1 table: {}", e.why());
                    self.report.note(&rules::UNREADABLE, Spot { offset: Some(place), guest: Some((guest, covered)), detail });
                    break;
                }
            };
            let bad = Bad { place, guest, raw, l1: true, wrong: Wrong::Lost };
            let what = format!("L1 entry {index}: an L2 table at {raw:#x}");
            if raw.checked_add(len).is_none_or(|end| end > self.source.dev.len()) {
                self.note(&OUTSIDE, bad, covered, what, each);
            } else {
                // Followed once only: a table that many entries name must not cost as much as many tables.
                match self.uses.over(raw, len) {
                    None => {
                        self.uses.unit(raw, len);
                        out.push((index, raw));
                    }
                    Some(other) if Uses::is_name(other) => {
                        self.note(&NO_TABLE, bad, covered, format!("{what}, over {other}"), each);
                    }
                    Some(other) => {
                        let spot =
                            Spot { offset: Some(place), guest: Some((guest, covered)), detail: format!("{what}, over {other}") };
                        self.report.note(&CROSSED, spot);
                    }
                }
            }
        }
        out
    }

    /// The entries of the L2 table at `at`, whose first one is of guest cluster `first`.
    fn l2(&mut self, first: u64, at: u64, table: &[u8], each: Each<'_>) {
        let (bits, size, len) = (self.h.cluster_bits, self.h.cluster_size(), self.source.dev.len());
        for n in 0..self.h.l2_entries() {
            let guest = (first + n) << bits;
            if guest >= self.h.size {
                break;
            }
            let raw = be64(table, n as usize * 8).unwrap_or_default();
            let used = size.min(self.h.size - guest);
            let mut bad = Bad { place: at + n * 8, guest, raw, l1: false, wrong: Wrong::Lost };
            let entry = Entry::decode(raw, bits);
            let (place, bytes, needed) = match entry {
                Entry::Unallocated => continue,
                Entry::Data(place) => (place, size, used),
                Entry::Compressed { offset, len } => {
                    self.report.compressed += 1;
                    (offset, len, len)
                }
            };
            if needed == 0 {
                let detail = format!("L2 entry {n}: {raw:#x}, a compressed cluster of no bytes");
                self.note(&NONSENSE, bad, used, detail, each);
            } else if place.checked_add(needed).is_none_or(|end| end > len) {
                self.note(&OUTSIDE, bad, used, format!("L2 entry {n}: a cluster at {place:#x}"), each);
            } else if let Some(other) = self.uses.data(place, bytes, &mut self.report) {
                let packed = matches!(entry, Entry::Compressed { .. });
                if !packed || inflate(self.source.dev.as_ref(), &self.h, place, bytes).is_ok() {
                    bad.wrong = Wrong::Shared;
                }
                self.note(&OVERLAP, bad, used, format!("L2 entry {n}: a cluster at {place:#x}, over {other}"), each);
            }
        }
    }

    fn finish(mut self) -> (Header, CheckReport) {
        self.lost.sort_unstable();
        for (start, len) in self.lost {
            self.report.lose(start, len);
        }
        let (h, end, len) = (self.h, self.uses.end(), self.source.dev.len());
        let last = end.max(h.l1_offset + (h.l1_entries * 8).next_multiple_of(SECTOR)).min(len);
        self.report.image_end = Some(end);
        if len - last >= h.cluster_size() {
            let spot = Spot { offset: Some(last), guest: None, detail: format!("{} bytes", len - last) };
            self.report.note_many(&TAIL, spot, (len - last) / h.cluster_size());
        }
        self.uses.unused(last, h.cluster_size(), &rules::UNUSED, |at| at, &mut self.report);
        (h, self.report)
    }
}
