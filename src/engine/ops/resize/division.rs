//! What another size means to the guest on the disk: its partitions, volumes and filesystems, each by name; what grows, what stays,
//! what is cut.

use std::cmp::Ordering;

use super::advice;
use super::inside::Growth;
use crate::engine::error::{ErrorKind, Result};
use crate::engine::guest::fs::can_grow;
use crate::engine::guest::partition::{TableKind, grow::move_backup};
use crate::engine::guest::volumes::{Layout, Volume, volumes};
use crate::engine::io::Device;
use crate::engine::ops::plan::Plan;
use crate::engine::units::binary;

/// Adds to `plan` what changes for the guest of `disk` when its `old` bytes become `new`, and `growth` with it.
///
/// Errors: the backup GPT is to be moved, and cannot be.
pub(super) fn describe(
    disk: &Device,
    old: u64,
    new: u64,
    move_gpt: bool,
    growth: Option<&Growth>,
    plan: &mut Plan,
) -> Result<()> {
    let layout = match volumes(disk) {
        Ok(layout) => layout,
        Err(e) if e.kind() == ErrorKind::Cancelled => return Ok(()),
        Err(e) => {
            plan.warnings.push(format!("how the guest divides it cannot be read: {e}"));
            return Ok(());
        }
    };
    for volume in &layout.volumes {
        let fate = growth.filter(|g| g.volume == volume.name).map(|g| g.fate.clone());
        plan.steps.push(line(volume, fate.unwrap_or_else(|| fate_of(volume, old, new))));
    }
    cuts(&layout, new, plan);
    for pv in layout.groups.iter().filter(|g| g.volumes.iter().any(|v| v.problem.is_some())) {
        plan.warnings.push(format!("volume group {} is not wholly on this disk", pv.name));
    }
    match growth {
        Some(g) => {
            grows(g, plan);
            Ok(())
        }
        None => {
            afterwards(disk, &layout, old.cmp(&new), plan);
            gpt(disk, &layout, old.cmp(&new), new, move_gpt, plan)
        }
    }
}

/// What is done so that the guest grows.
fn grows(growth: &Growth, plan: &mut Plan) {
    plan.steps.extend(growth.steps.iter().cloned());
    plan.warnings.extend(growth.warnings.iter().cloned());
    if growth.saved > 0 {
        plan.steps.push(format!(
            "the filesystem changes as a whole or not at all: until it has, a file beside the image keeps {} of old bytes",
            binary(growth.saved)
        ));
    }
    if let Some(undo) = &growth.undo {
        plan.undo = undo.clone();
    }
}

/// Who makes use of the new space when cowshed is not asked to.
fn afterwards(disk: &Device, layout: &Layout, change: Ordering, plan: &mut Plan) {
    if change != Ordering::Less {
        return;
    }
    let last = layout.table.as_ref().and_then(|t| t.last()).map(|p| p.number);
    let volume = layout.volumes.iter().find(|v| v.partition == last && !v.logical_volume);
    let with = volume.and_then(|v| v.info.as_ref()).filter(|i| can_grow(i.kind)).map(|i| format!(" and its {}", i.kind.name()));
    let who = advice::grower(disk, last);
    let what = match (&layout.table, last) {
        (Some(_), Some(n)) => format!("the partitions stay as they are; partition {n} can grow afterwards, in the guest"),
        _ if with.is_some() => "the filesystem stays as it is".to_string(),
        _ => return,
    };
    let also = with.map(|w| format!("; --grow-guest grows it{} now", if last.is_some() { w } else { String::new() }));
    plan.steps.push(format!("{what}: {who}{}", also.unwrap_or_default()));
}

/// One volume: what it is and what becomes of it.
fn line(volume: &Volume, fate: String) -> String {
    let what = volume.info.as_ref().map_or_else(|| "content not recognised".to_string(), |i| i.kind.name().to_string());
    let label = volume.info.as_ref().and_then(|i| i.label.clone()).filter(|l| !l.is_empty());
    let label = label.map(|l| format!(" \"{l}\"")).unwrap_or_default();
    format!("{} ({}, {what}{label}): {fate}", volume.name, binary(volume.len))
}

/// What becomes of a volume that nobody grows.
fn fate_of(volume: &Volume, old: u64, new: u64) -> String {
    let end = volume.start.map(|s| s.saturating_add(volume.len));
    match (volume.start, end) {
        _ if new == old => "stays as it is".to_string(),
        (None, _) => "lies in several pieces; its place is not followed here".to_string(),
        (Some(start), _) if start >= new => "is lost as a whole".to_string(),
        (_, Some(end)) if end > new && volume.partition.is_some() => format!("loses its last {}", binary(end - new)),
        _ if volume.partition.is_none() && new < old => {
            format!("fills the disk: what lies in its last {} is lost", binary(old - new))
        }
        _ if volume.partition.is_none() => "stays as large as it is; it can grow to the new end, in the guest".to_string(),
        _ => "stays as it is".to_string(),
    }
}

/// What would be lost, so that it is shown as a loss.
fn cuts(layout: &Layout, new: u64, plan: &mut Plan) {
    let Some(table) = &layout.table else {
        if let Some(v) = layout.volumes.first().filter(|v| v.len > new) {
            let what = v.info.as_ref().map_or("whatever", |i| i.kind.name());
            plan.warnings.push(format!("it has no partition table: {what} beyond the new end is cut"));
        }
        return;
    };
    for p in table.partitions.iter().filter(|p| !p.extended && p.end() > new) {
        let held = layout.volumes.iter().find(|v| v.partition == Some(p.number)).and_then(|v| v.info.as_ref());
        let what = held.map_or_else(|| p.kind.clone(), |i| format!("{}, {}", p.kind, i.kind.name()));
        if p.start >= new {
            plan.losses.push(format!("partition {} ({what}) as a whole", p.number));
        } else {
            plan.losses.push(format!("the last {} bytes of partition {} ({what})", p.end() - new, p.number));
        }
    }
}

fn gpt(disk: &Device, layout: &Layout, change: Ordering, new: u64, move_gpt: bool, plan: &mut Plan) -> Result<()> {
    let Some(table) = &layout.table else { return Ok(()) };
    if table.kind == TableKind::Mbr {
        return Ok(());
    }
    match (move_gpt, change) {
        (true, _) => {
            let edits = move_backup(disk.as_ref(), new)?;
            plan.steps.extend(edits.unwrap_or_default().steps.into_iter().map(|s| s.what));
        }
        (false, Ordering::Less) => plan.warnings.push(
            "the GPT's backup header stays where the disk ended; --move-gpt moves it to the new end, or the guest's tools do"
                .into(),
        ),
        (false, Ordering::Greater) => plan
            .warnings
            .push("the GPT's backup header lies beyond the new end and is lost; --move-gpt moves it inside first".into()),
        (false, Ordering::Equal) => {}
    }
    Ok(())
}
