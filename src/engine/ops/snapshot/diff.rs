//! What changed between two snapshots, or a snapshot and now: guest ranges, and how much of each partition. The mapping tables say
//! where to look; content is compared only there.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::engine::chain::{Chain, Disk, OpenOptions};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::qcow2::diff::{Pointers, State};
use crate::engine::format::{Format, Source};
use crate::engine::guest::partition;
use crate::engine::io::file::FileDevice;
use crate::engine::io::gate::Gate;
use crate::engine::io::{ReadAt, read_padded};
use crate::engine::limits::COPY_CHUNK;
use crate::engine::model::Kind;
use crate::engine::units::SECTOR;

/// Ranges kept at most; when there are more, close ones become one.
const MAX_RANGES: usize = 1 << 18;

/// What to compare.
#[derive(Debug, Clone)]
pub struct DiffSpec {
    /// The image.
    pub image: PathBuf,
    /// Its format; `None` probes.
    pub format: Option<Format>,
    /// A snapshot, by id or name.
    pub from: String,
    /// Another one; `None` is the disk as it is now.
    pub to: Option<String>,
    /// Read no guest data: tell by the mapping tables alone. What was written again with the same bytes counts as changed then.
    pub quick: bool,
    /// Which files named inside the image may be opened; `None` is the image's own folder tree.
    pub gate: Option<Gate>,
}

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Side {
    /// Id of the snapshot; `None` for the disk as it is now.
    pub id: Option<String>,
    /// Its name. From the image: print it through `units::printable`.
    pub name: Option<String>,
    /// Virtual size in bytes.
    pub size: u64,
}

/// A part of the disk, and how much of it changed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Region {
    /// `p1`, `p2`, … as volumes are called; `outside` for what no partition holds; `disk` where there is no table.
    pub name: String,
    /// Partition number.
    pub partition: Option<u32>,
    /// Type of the partition in words; empty for the others.
    pub kind: String,
    /// First guest byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Bytes that differ.
    pub changed: u64,
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diff {
    /// What was compared.
    pub from: Side,
    /// With what.
    pub to: Side,
    /// Only the mapping tables were looked at.
    pub quick: bool,
    /// Guest bytes that differ; a shorter disk counts as followed by zeros.
    pub changed: u64,
    /// Ranges that differ: first byte and length, ascending. Rounded out to [`Diff::unit`].
    pub ranges: Vec<(u64, u64)>,
    /// Bytes that [`Diff::ranges`] are rounded to: a sector, unless there were too many of them.
    pub unit: u64,
    /// By partition, in the order of the disk; what lies outside of all of them comes last.
    pub regions: Vec<Region>,
}

/// Compares. `going_on` is told how far it has come (guest bytes of how many), and ends it by saying no.
///
/// Errors: `NotFound` for a snapshot that is not there; `Unsupported` for formats without; `Cancelled`; what cannot be read.
pub fn diff(spec: &DiffSpec, going_on: &dyn Fn(u64, u64) -> bool) -> Result<Diff> {
    let gate = spec.gate.clone().unwrap_or_else(|| Gate::around(&spec.image));
    let chain = Chain::open(&spec.image, &OpenOptions { format: spec.format, gate: Some(gate.clone()), finder: None })?;
    let format = chain.layers.first().map_or(Format::Raw, |l| l.format());
    if format != Format::Qcow2 {
        return Err(super::none_inside(format, &spec.image));
    }
    let source = Source { dev: Arc::new(FileDevice::open(&spec.image)?), path: spec.image.clone(), gate };
    let pointers = Pointers::open(&source, Some(&spec.from), spec.to.as_deref()).op("compare snapshots").path(&spec.image)?;
    let disk = |s: &State| match &s.snapshot {
        Some((id, _)) => chain.snapshot_disk(id),
        None => chain.disk(),
    };
    let disks = match spec.quick {
        // Where content cannot be read the tables still tell.
        true => disk(&pointers.from).and_then(|a| Ok((a, disk(&pointers.to)?))).ok(),
        false => {
            let hint = |e: Error| e.hint("--quick tells by the tables alone what may differ");
            Some((disk(&pointers.from).map_err(hint)?, disk(&pointers.to).map_err(hint)?))
        }
    };
    let total = pointers.from.size.max(pointers.to.size);
    let table = disks.as_ref().and_then(|(_, to)| partition::read(to).ok().flatten());
    let mut found = Found::new(regions(table.as_ref(), total));
    let tell = |at: u64| match going_on(at, total) {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Cancelled, "cancelled")),
    };
    match &disks {
        Some((a, b)) if !spec.quick => {
            let mut compare = Compare { a, b, left: vec![0; COPY_CHUNK], right: vec![0; COPY_CHUNK], found: &mut found };
            let common = pointers.from.size.min(pointers.to.size);
            pointers.each(common, &mut |run| compare.range(run, &tell))?;
            // Past the end of the shorter one the other may show what the backing file has.
            compare.range(common..total, &tell)?;
        }
        _ => pointers.each(total, &mut |run| {
            tell(run.start)?;
            found.add(run);
            Ok(())
        })?,
    }
    tell(total)?;
    Ok(found.done(&pointers, spec.quick))
}

/// The regions of a disk of `size` bytes.
fn regions(table: Option<&partition::PartitionTable>, size: u64) -> Vec<Region> {
    let region = |name: String, partition, kind: String, start, len| Region { name, partition, kind, start, len, changed: 0 };
    let Some(table) = table else { return vec![region("disk".into(), None, String::new(), 0, size)] };
    let mut all: Vec<Region> = table
        .partitions
        .iter()
        .filter(|p| !p.extended)
        .map(|p| region(format!("p{}", p.number), Some(p.number), p.kind.clone(), p.start, p.len))
        .collect();
    all.sort_by_key(|r| r.start);
    all.push(region("outside".into(), None, String::new(), 0, size));
    all
}

/// Two disks, compared where the tables say so.
struct Compare<'a> {
    a: &'a Disk,
    b: &'a Disk,
    left: Vec<u8>,
    right: Vec<u8>,
    found: &'a mut Found,
}

impl Compare<'_> {
    fn range(&mut self, run: Range<u64>, tell: &dyn Fn(u64) -> Result<()>) -> Result<()> {
        let mut at = run.start;
        while at < run.end {
            tell(at)?;
            let (x, y) = (piece(self.a, at, run.end)?, piece(self.b, at, run.end)?);
            let mut stop = x.1.min(y.1);
            if !(x.0 && y.0) {
                stop = stop.min(at + COPY_CHUNK as u64);
                self.read(at, (stop - at) as usize, x.0, y.0)?;
            }
            at = stop;
        }
        Ok(())
    }

    /// Compares `len` bytes at `at`; `zero_a` and `zero_b` say which side needs no reading.
    fn read(&mut self, at: u64, len: usize, zero_a: bool, zero_b: bool) -> Result<()> {
        let (left, right) = (self.left.get_mut(..len).unwrap_or_default(), self.right.get_mut(..len).unwrap_or_default());
        for (disk, zero, buf) in [(self.a, zero_a, &mut *left), (self.b, zero_b, &mut *right)] {
            if zero { buf.fill(0) } else { read_padded(disk, at, buf)? }
        }
        if left == right {
            return Ok(());
        }
        let sectors = left.chunks(SECTOR as usize).zip(right.chunks(SECTOR as usize)).enumerate();
        for (n, (x, y)) in sectors.filter(|(_, (x, y))| x != y) {
            let start = at + n as u64 * SECTOR;
            self.found.add(start..start + x.len().max(y.len()) as u64);
        }
        Ok(())
    }
}

/// Whether `disk` has only zeros from `at` on, and up to where (at most `end`) that is so.
fn piece(disk: &Disk, at: u64, end: u64) -> Result<(bool, u64)> {
    if at >= disk.len() {
        return Ok((true, end));
    }
    let e = disk.extent(at, end - at)?;
    Ok((matches!(e.kind, Kind::Zero | Kind::Unallocated), at.saturating_add(e.len).min(end)))
}

/// What was found so far: ranges that touch are one.
struct Found {
    ranges: Vec<(u64, u64)>,
    unit: u64,
    changed: u64,
    regions: Vec<Region>,
    partitions: bool,
}

impl Found {
    fn new(regions: Vec<Region>) -> Found {
        let partitions = regions.len() > 1;
        Found { ranges: Vec::new(), unit: SECTOR, changed: 0, regions, partitions }
    }

    /// Adds a range that lies behind all before.
    fn add(&mut self, run: Range<u64>) {
        let len = run.end - run.start;
        self.changed += len;
        let mut inside = 0u64;
        let partitions = self.regions.len() - usize::from(self.partitions);
        for r in self.regions.iter_mut().take(partitions) {
            let both = run.end.min(r.start.saturating_add(r.len)).saturating_sub(run.start.max(r.start));
            r.changed += both;
            inside = inside.saturating_add(both);
        }
        if let Some(outside) = self.regions.last_mut().filter(|_| self.partitions) {
            outside.changed += len.saturating_sub(inside);
        }
        self.push(run.start / self.unit * self.unit, run.end.next_multiple_of(self.unit));
        while self.ranges.len() > MAX_RANGES {
            self.unit *= 2;
            for (start, len) in std::mem::take(&mut self.ranges) {
                self.push(start / self.unit * self.unit, (start + len).next_multiple_of(self.unit));
            }
        }
    }

    fn push(&mut self, start: u64, end: u64) {
        match self.ranges.last_mut() {
            Some((first, len)) if *first + *len >= start => *len = end.max(*first + *len) - *first,
            _ => self.ranges.push((start, end - start)),
        }
    }

    fn done(mut self, pointers: &Pointers, quick: bool) -> Diff {
        let total = pointers.from.size.max(pointers.to.size);
        // Rounding must not lead past the end.
        if let Some((start, len)) = self.ranges.last_mut() {
            *len = (*len).min(total.saturating_sub(*start));
        }
        let side = |s: &State| {
            let (id, name) = s.snapshot.clone().unzip();
            Side { id, name, size: s.size }
        };
        Diff {
            from: side(&pointers.from),
            to: side(&pointers.to),
            quick,
            changed: self.changed,
            ranges: self.ranges,
            unit: self.unit,
            regions: self.regions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_ranges_become_fewer_that_hold_them_all() {
        let mut found = Found::new(regions(None, u64::MAX));
        for n in 0..(2 * MAX_RANGES as u64 + 10) {
            found.add(n * 1024..n * 1024 + 512);
        }
        assert!(found.ranges.len() <= MAX_RANGES && found.unit > SECTOR, "{} {}", found.ranges.len(), found.unit);
        assert_eq!(found.changed, 512 * (2 * MAX_RANGES as u64 + 10));
        let last = found.ranges.last().unwrap();
        assert!(found.ranges[0].0 == 0 && last.0 + last.1 >= (2 * MAX_RANGES as u64 + 9) * 1024 + 512);
    }

    #[test]
    fn what_no_partition_holds_is_outside() {
        let region =
            |name: &str, start, len| Region { name: name.into(), partition: None, kind: String::new(), start, len, changed: 0 };
        let mut found = Found::new(vec![region("p1", 1000, 1000), region("p2", 3000, 1000), region("outside", 0, 9000)]);
        found.add(500..3500);
        let changed: Vec<u64> = found.regions.iter().map(|r| r.changed).collect();
        assert_eq!(changed, [1000, 500, 1500]);
    }
}
