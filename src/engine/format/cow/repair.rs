//! Repairing a COW file: where bits name sectors that the file does not reach, it is made as long as they say. They read as zeros
//! before and after, in every reader. One step: the length, after which the bits and their sectors agree.

use super::check::{OUTSIDE, check};
use super::header::Header;
use crate::engine::error::{Context, Error, Result};
use crate::engine::format::check::{Evidence, Repair, Repaired, Repairing, Severity};
use crate::engine::io::read_up_to;

/// Repairs as far as it is asked for, and can be.
///
/// Errors: the header cannot be read; the file cannot be made longer (`NoSpace` on a block device).
pub fn repair(r: &Repairing<'_>) -> Result<Repaired> {
    let report = check(&r.source)?;
    let mut out = Repaired::default();
    let (count, length) = (report.count_of(&OUTSIDE), r.dev.len());
    if report.count(Severity::Unchecked) > 0 {
        out.left.push("the bitmap cannot be read everywhere: what it says there is not known".into());
    }
    let Some(end) = report.image_end.filter(|end| *end > length && count > 0 && r.repair == Repair::All) else { return Ok(out) };
    if r.dev.as_file().is_some_and(|f| f.is_block_device()) {
        return Err(Error::usage("the block device is too short for what the bitmap names").hint("make the device larger"));
    }
    let h = Header::parse(&read_up_to(r.dev.as_ref(), 0, Header::MAX_BYTES)?).op("read header")?;
    (r.tick)(0, 1)?;
    (r.keep)(&Evidence { length, groups: Vec::new() })?;
    r.dev.set_len(end)?;
    r.dev.flush()?;
    out.corruptions = count;
    out.state = vec![(0, h.layout.header_bytes() + h.bitmap_bytes())];
    Ok(out)
}
