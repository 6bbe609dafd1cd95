//! The text of `info`: the lines people know from qemu-img, and what they would look for next.

use std::io;
use std::path::PathBuf;

use super::super::out::{Out, Tone, size};
use crate::engine::{Health, Inspection};
use crate::engine::format::probe::Confidence;
use crate::engine::io::locks::LockState;
use crate::engine::format::qcow2::usage::Share;
use crate::engine::ops::snapshot::usage;
use crate::engine::model::Snapshot;
use crate::engine::units::printable;

/// The lines of the layer at `depth`.
pub(super) fn node(out: &mut Out, found: &Inspection, depth: usize, names: &[PathBuf]) -> io::Result<()> {
    let (Some(node), Some(image)) = (found.chain.nodes.get(depth), found.chain.layers.get(depth)) else { return Ok(()) };
    let name = names.get(depth).unwrap_or(&node.path);
    let format = image.format();
    let mut line = |label: &str, value: &str| {
        let label = out.paint(Tone::Label, format!("{label}:"));
        out.line(format!("{label} {}", printable(value)))
    };
    line("image", &name.to_string_lossy())?;
    let driver = if format.driver() == format.name() { String::new() } else { format!(" ({} to qemu)", format.driver()) };
    line("file format", &format!("{format}{driver}"))?;
    line("virtual size", &format!("{} ({} bytes)", size(image.size()), image.size()))?;
    if let Some(actual) = node.actual_size {
        line("disk size", &size(actual))?;
    }
    let description = &node.description;
    if let Some(how) = &description.encrypted {
        line("encrypted", &format!("yes ({how})"))?;
    }
    if let Some(bytes) = description.cluster_size {
        line("cluster_size", &bytes.to_string())?;
    }
    if let Some(backing) = image.backing() {
        let spelled = backing.names.first().map_or("(known by its UUID only)", String::as_str);
        let below = found.chain.nodes.get(depth + 1);
        let state = match below.and_then(|n| n.error.as_ref()) {
            Some(e) => format!(" ({})", e.why()),
            None => match names.get(depth + 1) {
                Some(full) if full.as_os_str() != spelled => format!(" (actual path: {})", full.display()),
                _ => String::new(),
            },
        };
        line("backing file", &format!("{spelled}{state}"))?;
        if let Some(format) = &backing.format {
            line("backing file format", format)?;
        }
    }
    // The cluster size stands above, as qemu-img writes it; snapshots and bitmaps have lines of their own below.
    let shown = ["cluster size", "internal snapshots", "dirty bitmaps"];
    for fact in description.facts.iter().filter(|f| !shown.contains(&f.label)) {
        line(fact.label, &fact.value)?;
    }
    if !description.bitmaps.is_empty() {
        for b in &description.bitmaps {
            let flags = [(b.in_use, ", in use"), (b.auto, ", auto")];
            let flags: String = flags.iter().filter(|f| f.0).map(|f| f.1).collect();
            line("bitmap", &format!("{} (granularity {}{flags})", b.name, size(b.granularity)))?;
        }
    }
    if !description.snapshots.is_empty() {
        let shares = usage(&node.path, image.format()).ok().flatten().map(|u| u.snapshots).unwrap_or_default();
        snapshots(out, &description.snapshots, &shares)?;
    }
    if depth > 0 {
        return Ok(());
    }
    if found.lock.in_use() {
        let stale = if matches!(found.lock, LockState::Writer(_)) { "; what is shown may be stale" } else { "" };
        out.line(format!("{} {}{stale}", out.paint(Tone::Warning, "in use:"), found.lock))?;
    }
    let others: Vec<_> = found.matches.iter().filter(|m| m.format != format && m.confidence > Confidence::Possible).collect();
    for m in others {
        let text = format!("also looks like {}: {}", m.format, m.evidence);
        out.line(format!("{} {}", out.paint(Tone::Warning, "warning:"), printable(&text)))?;
    }
    let tone = if found.health == Health::Warning { Tone::Warning } else { Tone::Bad };
    for problem in &found.problems {
        out.line(format!("{} {}", out.paint(tone, "warning:"), printable(problem)))?;
    }
    Ok(())
}

/// The table of internal snapshots, with what each costs where `shares` tells.
pub(in crate::cli) fn snapshots(out: &mut Out, all: &[Snapshot], shares: &[Share]) -> io::Result<()> {
    out.line(out.paint(Tone::Label, "Snapshot list:"))?;
    let rows: Vec<_> = all
        .iter()
        .enumerate()
        .map(|(i, s)| {
            let cost = |f: fn(&Share) -> u64| shares.get(i).map_or_else(|| "-".into(), |s| size(f(s)));
            let ms = s.vm_clock_nsec / 1_000_000;
            let clock = format!("{:04}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
            let icount = s.icount.map(|n| n.to_string()).unwrap_or_default();
            vec![printable(&s.id), printable(&s.name), size(s.vm_state_size), cost(|s| s.exclusive), cost(|s| s.referred), date(s.date_sec), clock, icount]
        })
        .collect();
    out.table(&["ID", "TAG", "VM_SIZE", "EXCLUSIVE", "REFERS", "DATE", "VM_CLOCK", "ICOUNT"], &rows, &[2, 3, 4, 7])
}

/// Seconds since 1970 as local time.
fn date(seconds: u32) -> String {
    match jiff::Timestamp::from_second(i64::from(seconds)) {
        Ok(t) => t.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => seconds.to_string(),
    }
}
