//! Repairing a VHDX: a log that waits is replayed for good, a damaged header or region table is written again from the other copy.
//!
//! ```text
//!  1  undo file: headers, region tables, what the log changes       another file, durable
//!  2  what the log changes, in place, then a flush
//!  3  two headers that name no log, each durable before the next
//!  4  the region tables, then a flush
//! ```
//!
//! Until 3 a header names the log, so a crash before it leaves it to be replayed again. The undo puts the headers back first: the
//! log is still there, and shows through it what 2 wrote.

use super::check::{HEADER, LOG, LOG_DAMAGE, REGIONS, TABLE_COPY, check};
use super::write::{put_header, recover};
use super::{header, log, regions};
use crate::engine::error::Result;
use crate::engine::format::check::{Evidence, Repair, Repaired, Repairing};
use crate::engine::io::overlay::PIECE;

/// Repairs as far as it is asked for, and can be.
///
/// Errors: neither header can be believed; what is to change cannot be saved or written.
pub fn repair(r: &Repairing<'_>) -> Result<Repaired> {
    let report = check(&r.source)?;
    let mut out = Repaired::default();
    let [headers, tables, waits] = [&HEADER, &TABLE_COPY, &LOG].map(|rule| report.count_of(rule));
    if headers + tables + waits == 0 || r.repair == Repair::Leaks {
        return Ok(out);
    }
    if report.count_of(&LOG_DAMAGE) + report.count_of(&REGIONS) > 0 {
        out.left.push("the log or the regions are damaged: what the copies ought to say is not known".into());
        return Ok(out);
    }
    let length = r.dev.len();
    let found = header::find(r.dev.as_ref())?;
    let overlay = log::replay(r.source.dev.clone(), &found.header)?.overlay;
    let copies: Vec<(u64, u64)> = header::AT.iter().map(|at| (*at, header::BYTES)).collect();
    let mut changed: Vec<(u64, u64)> = Vec::new();
    if let Some(overlay) = &overlay {
        changed.extend(overlay.zero_places().map(|(start, end)| (start, end - start)));
        changed.extend(overlay.piece_places().map(|at| (at, PIECE)));
    }
    if tables > 0 {
        changed.extend(regions::AT.iter().map(|at| (*at, regions::BYTES)));
    }
    let within = |(at, len): &(u64, u64)| (*at, (*len).min(length.saturating_sub(*at)));
    let changed: Vec<(u64, u64)> = changed.iter().map(within).filter(|(_, len)| *len > 0).collect();
    (r.keep)(&Evidence { length, groups: vec![copies, changed] })?;
    if waits > 0 {
        recover(&r.dev)?;
    } else if headers > 0 {
        // Over the one that is not current, which is the damaged one.
        let header::Found { mut header, mut slot, .. } = found;
        put_header(&r.dev, &mut header, &mut slot)?;
    }
    if tables > 0 {
        regions::repair(r.dev.as_ref())?;
        r.dev.flush()?;
    }
    out.corruptions = headers + tables + waits;
    out.state =
        header::AT.iter().map(|at| (*at, header::BYTES)).chain(regions::AT.iter().map(|at| (*at, regions::BYTES))).collect();
    if let Ok((found, _)) = regions::Regions::read(r.dev.as_ref()) {
        out.state.push((found.bat.at, found.bat.len));
    }
    Ok(out)
}
