//! Repairing a qcow2 image. What is wrong in a table is written right to a new place; the refcounts are made anew from what the
//! tables use; then one sector, the header's, leads to all of it.
//!
//! ```text
//!  1  undo file                                                           another file, durable
//!  2  new L2 and L1 tables, copies of overlapped data, snapshot table,
//!     refcount table and blocks                                           in free clusters, then a flush
//!  3  header: L1, refcount table, snapshots, feature bits                 one sector, then a flush
//!  4  what nobody uses any more is given back to the host
//! ```
//!
//! Structures that lie in the same place are taken apart: the header and what it names first stay, what leads nowhere else gets a
//! copy of what it reads now. Snapshots that are nowhere to be found are given up, the others stay.
//!
//! Nothing that the old header leads to is written before 4, so a crash leaves the image as it was or repaired, and the undo file
//! takes it back. Where guest data is lost, what nobody refers to keeps its content: it may be what was lost.

mod goal;
mod remake;
mod room;

use crate::engine::error::Result;
use crate::engine::format::check::{Repaired, Repairing};
use crate::engine::io::{Device, WriteDevice};

use super::check::{Checker, Tick};
use super::header::{BITMAPS, Header};
use goal::Goal;
use remake::Remake;

/// Repairs as far as it is asked for, and can be.
///
/// Errors: the image cannot be read as a whole; a count does not fit the width of the refcounts; writing failed. The image is as it
/// was then, unless the last flush failed.
pub fn repair(r: &Repairing<'_>) -> Result<Repaired> {
    let dev: Device = r.dev.clone();
    let (mut checker, report) = Checker::run(&dev, true, r.tick)?;
    let goal = match Goal::of(&report, r.repair) {
        Ok(goal) => goal,
        Err(left) => return Ok(Repaired { left, ..Repaired::default() }),
    };
    if goal.drop_bitmaps {
        checker = Checker::run(&dev, false, r.tick)?.0;
        checker.header.autoclear &= !BITMAPS;
    }
    let mut remake = Remake::new(r.dev.clone(), checker, goal);
    remake.survey(r.tick)?;
    (r.keep)(&remake.evidence())?;
    let state = remake.write(r.tick)?;
    Ok(remake.result(&report, r.repair, state))
}

/// Gives a sound image refcounts of `1 << order` bits, and with `version2` tables without zero flags. `switch` writes the header
/// that leads to them.
///
/// Errors: as [`repair`]; the image is not sound (`Corrupt`); a count does not fit (`Unsupported`).
pub(super) fn remake(
    dev: &WriteDevice,
    order: u32,
    version2: bool,
    tick: Tick<'_>,
    switch: &mut dyn FnMut(&mut Header) -> Result<()>,
) -> Result<()> {
    let reader: Device = dev.clone();
    let (checker, report) = Checker::run(&reader, true, tick)?;
    let goal = Goal::remake(&report, order, version2)?;
    let mut remake = Remake::new(dev.clone(), checker, goal);
    remake.survey(tick)?;
    remake.write_with(tick, switch).map(drop)
}
