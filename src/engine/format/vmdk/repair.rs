//! Repairing a VMDK's sparse extent: the redundant tables are written again from the first ones, a directory that leads nowhere from
//! the redundant one. Only where one of the two is proved by the file; the extents of a split disk are repaired one by one.
//!
//! ```text
//!  1  undo file: what changes                                           another file, durable
//!  2  redundant tables and directory entries, which nobody reads while the first ones are whole, then a flush
//!  3  entries of the first directory, or the header: what readers find through the redundant copy today, then a flush
//! ```
//!
//! A crash leaves the image with fewer faults than it had.

use std::sync::Arc;

use super::check::{DIRECTORY, REDUNDANT, check};
use super::extent::{Sparse, Storage};
use super::grains::Grains;
use super::image::load;
use super::sparse;
use crate::engine::error::Result;
use crate::engine::format::check::{Evidence, Repair, Repaired, Repairing, Severity};
use crate::engine::io::bytes::{is_zero, put_le32, put_le64};
use crate::engine::io::{Device, read_vec};
use crate::engine::units::SECTOR;

/// Bytes of the redundant tables written again at once, at most.
const PIECE: u64 = 64 << 10;

/// Repairs as far as it is asked for, and can be.
///
/// Errors: as the check; what is to change cannot be saved or written.
pub(super) fn repair(r: &Repairing<'_>) -> Result<Repaired> {
    let report = check(&r.source)?;
    let mut out = Repaired::default();
    let count = report.count_of(&DIRECTORY) + report.count_of(&REDUNDANT);
    if count == 0 || r.repair == Repair::Leaks {
        return Ok(out);
    }
    if report.count(Severity::Corruption) > count {
        out.left.push("the tables are damaged in other ways too: which of the two is right cannot be told".into());
        return Ok(out);
    }
    let mut open = |name: &str, _| Ok(Arc::new(r.source.gate.open(&r.source.path, name)?) as Device);
    let image = load(&r.source, &mut open)?;
    let own = image.parts.iter().find_map(|p| match &p.storage {
        Storage::Sparse(grains) if grains.file() == 0 => Some(grains.clone()),
        _ => None,
    });
    let hosted = own.zip(match Sparse::open(&r.source.dev)? {
        Some(Sparse::Hosted(o)) => Some(o),
        _ => None,
    });
    let Some((grains, header)) = hosted else {
        out.left.push("it is in an extent's file of its own: run check -r all on that file".into());
        return Ok(out);
    };
    let mut plan = Changes { grains: &grains, first: Vec::new(), then: Vec::new(), left: &mut out.left };
    plan.collect(header.has_footer)?;
    let Changes { first, then, .. } = plan;
    if first.is_empty() && then.is_empty() {
        return Ok(out);
    }
    let ranges = first.iter().chain(&then).map(|(at, b)| (*at, b.len() as u64)).collect();
    (r.keep)(&Evidence { length: r.dev.len(), groups: vec![ranges] })?;
    for group in [first, then] {
        for (at, bytes) in group {
            r.dev.write_at(at, &bytes)?;
        }
        r.dev.flush()?;
    }
    let after = check(&r.source)?;
    out.corruptions = count.saturating_sub(after.count_of(&DIRECTORY) + after.count_of(&REDUNDANT));
    let tables = header.header.overhead.saturating_mul(SECTOR).clamp(SECTOR, 64 << 20);
    out.state = vec![(0, tables.min(r.dev.len()))];
    Ok(out)
}

/// What is to be written, in two groups.
struct Changes<'a> {
    grains: &'a Grains,
    first: Vec<(u64, Vec<u8>)>,
    then: Vec<(u64, Vec<u8>)>,
    left: &'a mut Vec<String>,
}

impl Changes<'_> {
    fn collect(&mut self, has_footer: bool) -> Result<()> {
        let g = &self.grains.geometry;
        if g.stood_in {
            if has_footer {
                self.left.push("the footer of a stream names a directory that is not there".into());
                return Ok(());
            }
            // There is one directory left: the header is to name that one, and no other.
            let mut sector = read_vec(self.grains.dev.as_ref(), 0, SECTOR, SECTOR)?;
            let flags = crate::engine::io::bytes::le32(&sector, 8).unwrap_or_default() & !sparse::REDUNDANT;
            let _ = put_le32(&mut sector, 8, flags)
                && put_le64(&mut sector, 48, 0)
                && put_le64(&mut sector, 56, g.directory / SECTOR);
            self.then.push((0, sector));
            return Ok(());
        }
        let [directory, spare] = self.grains.directories().collect::<Vec<_>>()[..] else { return Ok(()) };
        for index in 0..g.tables() {
            let (a, b) = (directory + index * g.width(), spare + index * g.width());
            let (raw_a, raw_b) = (self.grains.raw(a)?, self.grains.raw(b)?);
            if raw_a == raw_b {
                continue;
            }
            let (at_a, at_b) = (self.grains.table_of(directory, index), self.grains.table_of(spare, index));
            match (at_a, at_b) {
                (Ok(Some(at)), Ok(Some(other))) => self.table(index, at, other)?,
                // One table for both is what a writer can keep up.
                (Ok(Some(_)), _) => self.first.push((b, (raw_a as u32).to_le_bytes().to_vec())),
                (Err(_), Ok(Some(_))) => self.then.push((a, (raw_b as u32).to_le_bytes().to_vec())),
                (Ok(None), Ok(Some(other))) if self.is_empty(index, other)? => self.first.push((b, vec![0; 4])),
                (Ok(None), Err(_)) => self.first.push((b, vec![0; 4])),
                _ => self.left.push(format!("grain table {index}: the redundant directory alone has one, with grains in it")),
            }
        }
        Ok(())
    }

    /// Writes the redundant table at `other` again where it differs from the one at `at`.
    fn table(&mut self, index: u64, at: u64, other: u64) -> Result<()> {
        let (used, dev) = (self.grains.used(index), self.grains.dev.as_ref());
        let mut done = 0;
        while done < used {
            let n = (used - done).min(PIECE);
            let (x, y) = (read_vec(dev, at + done, n, PIECE)?, read_vec(dev, other + done, n, PIECE)?);
            if x != y {
                self.first.push((other + done, x));
            }
            done += n;
        }
        Ok(())
    }

    fn is_empty(&self, index: u64, at: u64) -> Result<bool> {
        let used = self.grains.used(index);
        let mut done = 0;
        while done < used {
            let n = (used - done).min(PIECE);
            if !is_zero(&read_vec(self.grains.dev.as_ref(), at + done, n, PIECE)?) {
                return Ok(false);
            }
            done += n;
        }
        Ok(true)
    }
}
