//! Repairing a qcow version 1 image: guest data that lies over something else gets a place of its own, entries that lead nowhere
//! become zeros, and a file whose end nobody uses is cut.
//!
//! ```text
//!  1  undo file: the entries that change                            another file, durable
//!  2  copies, zeros over a backing file, at the end of the file, then a flush
//!  3  the entries, in place, then a flush
//!  4  the file is cut, where no guest data is lost
//! ```
//!
//! A crash before 3 leaves bytes that nothing points to; within it each entry is the old or the new one, and one that was wrong
//! before is wrong still or mended.

use super::check::{Bad, CROSSED, TAIL, Walk, Wrong};
use super::header::Header;
use super::image::inflate;
use super::tables::Entry;
use crate::engine::error::Result;
use crate::engine::format::check::{CheckReport, Evidence, Repair, Repaired, Repairing, Severity};
use crate::engine::format::ranges::Ranges;
use crate::engine::format::rules::{SCATTERED, UNREADABLE};
use crate::engine::io::{ReadAt, read_padded};
use crate::engine::units::SECTOR;

/// Entries mended in one repair, at most.
const MOST: usize = 1 << 22;
/// Bytes of zeros, at most, that hide a backing file where guest data is lost: holes of the file, but of its length all the same.
const MOST_ZEROS: u64 = 64 << 30;

/// Repairs as far as it is asked for, and can be.
///
/// Errors: the header cannot be read; what is to change cannot be saved or written.
pub fn repair(r: &Repairing<'_>) -> Result<Repaired> {
    let (mut bad, mut more) = (Vec::new(), 0u64);
    let (header, report) = Walk::run(&r.source, r.tick, &mut |b| if bad.len() < MOST { bad.push(b) } else { more += 1 })?;
    let mut out = Repaired::default();
    let damage = report.count(Severity::Corruption);
    let unknown = report.count(Severity::Unchecked) > 0;
    if r.repair == Repair::Leaks {
        bad.clear();
        if damage > 0 && report.count_of(&TAIL) > 0 {
            out.left.push("space is not given back while damaged tables may still refer to it: -r all mends them".into());
        }
    }
    if report.count_of(&CROSSED) > 0 {
        out.left.push(CROSSED.title.into());
    }
    for rule in [&UNREADABLE, &SCATTERED].into_iter().filter(|rule| report.count_of(rule) > 0) {
        out.left.push(rule.title.into());
    }
    if more > 0 {
        out.left.push(format!("{more} further entries: repair it again"));
    }
    let mut mend = Mend { r, header: &header, end: r.dev.len(), stuck: 0, zeros: 0 };
    bad.retain(|b| mend.can(b));
    if mend.stuck > 0 {
        out.left.push(format!(
            "{} entries lead to what is lost, and zeros over the backing file cannot be stored in so many places",
            mend.stuck
        ));
    }
    // What is lost may lie in what nobody refers to.
    let cut = report.count_of(&TAIL) > 0 && damage == 0 && !unknown;
    if bad.is_empty() && !cut {
        return Ok(out);
    }
    mend.run(&bad, cut.then(|| tail(&report)).flatten())?;
    out.corruptions = bad.len() as u64;
    out.leaks = if cut { report.count_of(&TAIL) } else { 0 };
    out.state = vec![(0, header.l1_offset.saturating_add(header.l1_entries * 8))];
    out.state.extend(sectors(&bad, r.dev.len()));
    Ok(out)
}

/// Where the part of the file begins that nobody uses.
fn tail(report: &CheckReport) -> Option<u64> {
    report.findings.iter().find(|f| f.rule.id == TAIL.id)?.spots.first()?.offset
}

/// The sectors of the entries, within `length`.
fn sectors(bad: &[Bad], length: u64) -> Vec<(u64, u64)> {
    let mut all = Ranges::default();
    for b in bad {
        all.insert(b.place / SECTOR * SECTOR..(b.place + 8).next_multiple_of(SECTOR).min(length));
    }
    all.iter().map(|r| (r.start, r.end - r.start)).collect()
}

struct Mend<'a> {
    r: &'a Repairing<'a>,
    header: &'a Header,
    /// Byte of the file behind everything.
    end: u64,
    /// Entries that stay as they are.
    stuck: u64,
    /// Bytes of zeros to be stored.
    zeros: u64,
}

impl Mend<'_> {
    /// Guest bytes that `b` covers, whole clusters.
    fn covers(&self, b: &Bad) -> u64 {
        let cluster = self.header.cluster_size();
        let all = if b.l1 { cluster * self.header.l2_entries() } else { cluster };
        all.min(self.header.size.saturating_sub(b.guest).next_multiple_of(cluster))
    }

    /// Whether there is a way to mend `b`. An encrypted cluster has no way to say zeros, and compressed ones are never encrypted.
    fn can(&mut self, b: &Bad) -> bool {
        let encrypted = self.header.crypt != 0;
        let packed = !b.l1 && matches!(Entry::decode(b.raw, self.header.cluster_bits), Entry::Compressed { .. });
        let can = match b.wrong {
            Wrong::Shared => !(encrypted && packed),
            Wrong::Lost if self.header.backing.is_none() => true,
            Wrong::Lost => {
                self.zeros += self.covers(b);
                !encrypted && self.zeros <= MOST_ZEROS
            }
        };
        self.stuck += u64::from(!can);
        can
    }

    fn run(&mut self, bad: &[Bad], cut: Option<u64>) -> Result<()> {
        let (dev, length) = (self.r.dev.as_ref(), self.r.dev.len());
        let groups = vec![sectors(bad, length)];
        (self.r.keep)(&Evidence { length, groups })?;
        match self.entries(bad) {
            Ok(entries) => {
                dev.flush()?;
                for (place, raw) in entries {
                    dev.write_at(place, &raw.to_be_bytes())?;
                }
                dev.flush()?;
            }
            Err(e) => {
                // What was appended is nobody's.
                let _ = dev.set_len(length);
                return Err(e);
            }
        }
        if let Some(end) = cut.filter(|_| dev.as_file().is_none_or(|f| !f.is_block_device())) {
            dev.set_len(end)?;
            dev.flush()?;
        }
        Ok(())
    }

    /// What the entries become, once all that they will lead to is written.
    fn entries(&mut self, bad: &[Bad]) -> Result<Vec<(u64, u64)>> {
        let dev = self.r.dev.as_ref();
        let mut out = Vec::with_capacity(bad.len());
        for b in bad {
            let raw = match b.wrong {
                Wrong::Lost if self.header.backing.is_none() => 0,
                Wrong::Lost if b.l1 => self.zero_table(b)?,
                Wrong::Lost => self.zero_run(1)?,
                Wrong::Shared => {
                    let bytes = self.content(b)?;
                    let at = self.room(bytes.len() as u64);
                    dev.write_at(at, &bytes)?;
                    at
                }
            };
            out.push((b.place, raw));
        }
        // Holes at the end of the file are part of it.
        if self.end > dev.len() {
            dev.set_len(self.end)?;
        }
        Ok(out)
    }

    /// The cluster that `b` leads to, as the guest reads it (encrypted ones as they are).
    fn content(&self, b: &Bad) -> Result<Vec<u8>> {
        let dev: &dyn ReadAt = self.r.source.dev.as_ref();
        match Entry::decode(b.raw, self.header.cluster_bits) {
            Entry::Compressed { offset, len } => inflate(dev, self.header, offset, len),
            Entry::Data(at) => {
                let mut bytes = vec![0; self.header.cluster_size() as usize];
                // The last cluster of a disk may be there in part.
                read_padded(dev, at, &mut bytes)?;
                Ok(bytes)
            }
            Entry::Unallocated => Ok(vec![0; self.header.cluster_size() as usize]),
        }
    }

    /// `len` bytes at the end of the file.
    fn room(&mut self, len: u64) -> u64 {
        let at = self.end.next_multiple_of(self.header.cluster_size());
        self.end = at.saturating_add(len);
        at
    }

    /// `clusters` clusters of zeros: a hole at the end of the file.
    fn zero_run(&mut self, clusters: u64) -> Result<u64> {
        let at = self.room(clusters << self.header.cluster_bits);
        if self.end > self.r.dev.len() {
            self.r.dev.set_len(self.end)?;
        }
        Ok(at)
    }

    /// A table that leads to zeros wherever `b` did.
    fn zero_table(&mut self, b: &Bad) -> Result<u64> {
        let clusters = self.covers(b) >> self.header.cluster_bits;
        let first = self.zero_run(clusters)?;
        let entry = |n: u64| if n < clusters { first + (n << self.header.cluster_bits) } else { 0 };
        let bytes: Vec<u8> = (0..self.header.l2_entries()).flat_map(|n| entry(n).to_be_bytes()).collect();
        let at = self.room(bytes.len() as u64);
        self.r.dev.write_at(at, &bytes)?;
        Ok(at)
    }
}
