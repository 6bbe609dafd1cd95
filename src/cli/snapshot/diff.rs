//! What `snapshot --diff` says: how much of each partition changed, and where.

use std::path::Path;

use serde_json::json;

use super::super::Failure;
use super::super::out::{Format as Output, Out, size};
use super::Args;
use crate::engine::ops::snapshot::diff::{Diff, DiffSpec, Side, diff};
use crate::engine::units::printable;

/// Ranges listed for people.
const SHOWN: usize = 20;

/// Compares and prints.
pub(super) fn run(args: &Args, image: &Path, from: &str, to: Option<String>, out: &mut Out) -> Result<u8, Failure> {
    let held = args.source.open(image)?;
    let open = args.source.options(image)?;
    drop(held.chain);
    let spec = DiffSpec { image: image.into(), format: open.format, from: from.into(), to, quick: args.quick, gate: open.gate };
    let found = diff(&spec, &|_, _| true)?;
    match args.output {
        Output::Json => out.json(&to_json(&found))?,
        Output::Human if !out.quiet => human(out, &found)?,
        Output::Human => {}
    }
    Ok(0)
}

fn to_json(d: &Diff) -> serde_json::Value {
    let side = |s: &Side| json!({ "id": s.id, "name": s.name, "virtual-size": s.size });
    let regions: Vec<_> = d
        .regions
        .iter()
        .map(|r| {
            json!({ "name": r.name, "partition": r.partition, "type": r.kind, "start": r.start, "length": r.len,
                    "changed-bytes": r.changed })
        })
        .collect();
    let ranges: Vec<_> = d.ranges.iter().map(|(start, len)| json!({ "start": start, "length": len })).collect();
    json!({ "from": side(&d.from), "to": side(&d.to), "by-content": !d.quick, "changed-bytes": d.changed,
            "granularity": d.unit, "partitions": regions, "ranges": ranges })
}

fn human(out: &mut Out, d: &Diff) -> std::io::Result<()> {
    let words = |s: &Side| match &s.name {
        Some(name) => format!("snapshot '{}'", printable(name)),
        None => "now".to_string(),
    };
    let (from, to) = (words(&d.from), words(&d.to));
    if d.from.size != d.to.size {
        out.line(format!("The disk has {} bytes at {from}, {} at {to}.", d.from.size, d.to.size))?;
    }
    if d.changed == 0 {
        return out.line(format!("Nothing differs between {from} and {to}."));
    }
    let may = if d.quick { "may differ" } else { "differ" };
    let all = d.from.size.max(d.to.size);
    let (ranges, s) = (d.ranges.len(), if d.ranges.len() == 1 { "" } else { "s" });
    out.line(format!("{} of {} {may} between {from} and {to}, in {ranges} range{s}.", size(d.changed), size(all)))?;
    let rows: Vec<Vec<String>> = d
        .regions
        .iter()
        .map(|r| {
            let placed = r.name != "outside";
            vec![
                r.name.clone(),
                if placed { size(r.start) } else { "-".into() },
                if placed { size(r.len) } else { "-".into() },
                size(r.changed),
                printable(&r.kind),
            ]
        })
        .collect();
    out.table(&["where", "start", "size", "changed", "type"], &rows, &[1, 2, 3])?;
    let rows: Vec<Vec<String>> =
        d.ranges.iter().take(SHOWN).map(|(start, len)| vec![format!("{start:#x}"), size(*len)]).collect();
    out.table(&["guest byte", "bytes"], &rows, &[0, 1])?;
    if d.ranges.len() > SHOWN {
        out.line(format!("and {} more (--output json has all)", d.ranges.len() - SHOWN))?;
    }
    Ok(())
}
