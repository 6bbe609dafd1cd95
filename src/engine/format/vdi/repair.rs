//! Repairing a VDI: the count of its blocks is set to what the map names, and the last blocks move into places that nothing uses.
//!
//! ```text
//!  1  undo file: header, map, the blocks that will move            another file, durable
//!  2  the blocks that move, into unused places, then a flush
//!  3  the map's entries, then a flush
//!  4  the header's count, then a flush; the file is cut
//! ```
//!
//! A crash before 3 leaves the image as it was; one after it one whose count is too high: that wastes a place and harms nothing.

use super::check::{BEYOND, COUNT, UNNAMED, check};
use super::header::{HEADER_BYTES, ImageType};
use super::write::Writer;
use crate::engine::error::Result;
use crate::engine::format::blocks::Layout;
use crate::engine::format::check::{Evidence, Repair, Repaired, Repairing, Severity};

/// Repairs as far as it is asked for, and can be.
///
/// Errors: the header cannot be read; what is to change cannot be saved or written.
pub fn repair(r: &Repairing<'_>) -> Result<Repaired> {
    let report = check(&r.source)?;
    let (leaks, wrong) = (report.count_of(&UNNAMED), report.count_of(&COUNT) + report.count_of(&BEYOND));
    let mut out = Repaired::default();
    if leaks + wrong == 0 {
        return Ok(out);
    }
    if report.count(Severity::Corruption) > wrong || report.count(Severity::Unchecked) > 0 {
        out.left.push("the block map is damaged: which blocks are unused cannot be told before that is mended".into());
        return Ok(out);
    }
    if wrong > 0 && r.repair == Repair::Leaks {
        out.left.push("the block count is wrong: -r all sets it right, and gives the lost space back".into());
        return Ok(out);
    }
    let mut writer = Writer::open(r.dev.clone())?;
    let h = writer.header.clone();
    if h.image_type == ImageType::Static && !writer.free.is_empty() {
        out.left.push("it is a static image, whose blocks keep their places".into());
        return Ok(out);
    }
    let (length, end) = (r.dev.len(), writer.next - writer.free.len() as u64);
    let within = |at: u64, len: u64| (at.min(length), len.min(length.saturating_sub(at)));
    let moved = writer.named(|_, stored| stored >= end)?;
    let places = moved.iter().map(|(_, stored)| within(h.block_at(*stored) - h.block_extra, h.stride()));
    let tables = vec![(h.map_at, h.blocks * 4), (0, HEADER_BYTES as u64)];
    (r.tick)(0, 1)?;
    (r.keep)(&Evidence { length, groups: vec![places.collect(), tables.clone()] })?;
    let end = writer.move_down()?;
    writer.settle(end)?;
    Ok(Repaired { corruptions: wrong, leaks, state: tables, ..out })
}
