//! The JSON of `info`: qemu-img's keys and types, with cowshed's own beside them.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::super::names::{beside, joined};
use crate::engine::Inspection;
use crate::engine::format::qcow2::usage::Share;
use crate::engine::format::{Format, Image};
use crate::engine::io::file::FileDevice;
use crate::engine::io::{Device, ReadAt};
use crate::engine::io::locks::LockState;
use crate::engine::model::Snapshot;
use crate::engine::ops::snapshot::usage;
use crate::engine::units::SECTOR;

/// The object of the layer at `depth`.
pub(super) fn node(found: &Inspection, depth: usize, names: &[PathBuf]) -> Value {
    let (Some(node), Some(image)) = (found.chain.nodes.get(depth), found.chain.layers.get(depth)) else { return Value::Null };
    let name = names.get(depth).unwrap_or(&node.path);
    let description = &node.description;
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| drop(out.insert(key.to_string(), value));
    put("filename", json!(name.to_string_lossy()));
    put("format", json!(image.format().driver()));
    put("disk-format", json!(image.format().name()));
    put("virtual-size", json!(image.size()));
    let actual = match (image.format(), image.files().first()) {
        // qemu-img counts the image file alone: it does not open what a qcow2 image names.
        (Format::Qcow2, Some(dev)) => Some(dev.allocated()),
        _ => node.actual_size,
    };
    put("actual-size", json!(actual));
    put("dirty-flag", json!(description.dirty && image.format() == Format::Qcow2));
    if let Some(size) = description.cluster_size {
        put("cluster-size", json!(size));
    }
    if description.encrypted.is_some() {
        put("encrypted", json!(true));
    }
    if let Some(backing) = image.backing() {
        if let Some(spelled) = backing.names.first() {
            put("backing-filename", json!(spelled));
            put("full-backing-filename", json!(joined(name, spelled).to_string_lossy()));
        }
        if let Some(format) = &backing.format {
            put("backing-filename-format", json!(format));
        }
    }
    if !description.snapshots.is_empty() {
        let shares = usage(&node.path, image.format()).ok().flatten().map(|u| u.snapshots).unwrap_or_default();
        put("snapshots", description.snapshots.iter().enumerate().map(|(i, s)| snapshot(s, shares.get(i))).collect());
    }
    if !description.specific.is_null() {
        let mut specific = description.specific.clone();
        for extent in specific.pointer_mut("/data/extents").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(full) = extent.get("filename").and_then(Value::as_str) {
                extent["filename"] = json!(beside(Path::new(full), &node.path, name).to_string_lossy());
            }
        }
        put("format-specific", specific);
    }
    put("children", children(image.as_ref(), &node.path, name));
    if depth == 0 {
        put("matches", json!(found.matches));
        put("in-use-by", in_use_by(&found.lock));
        put("health", json!(found.health));
        if !found.problems.is_empty() {
            put("problems", json!(found.problems));
        }
    }
    Value::Object(out)
}

/// An internal snapshot, as qemu-img prints it, with what it costs.
pub(in crate::cli) fn snapshot(s: &Snapshot, share: Option<&Share>) -> Value {
    let mut out = json!({
        "id": s.id,
        "name": s.name,
        "vm-state-size": s.vm_state_size,
        "date-sec": s.date_sec,
        "date-nsec": s.date_nsec,
        "vm-clock-sec": s.vm_clock_nsec / 1_000_000_000,
        "vm-clock-nsec": s.vm_clock_nsec % 1_000_000_000,
    });
    if let Some(icount) = s.icount {
        out["icount"] = json!(icount);
    }
    if let Some(share) = share {
        out["exclusive-size"] = json!(share.exclusive);
        out["referred-size"] = json!(share.referred);
    }
    out
}

/// Who holds the image file: process id and name where they can be seen, and whether it is read or written. Null when locks
/// cannot be told here.
pub(in crate::cli) fn in_use_by(lock: &LockState) -> Value {
    let access = match lock {
        LockState::Free => return json!([]),
        LockState::Unchecked | LockState::Unknown(_) => return Value::Null,
        LockState::Readers(_) => "read",
        LockState::Writer(_) => "write",
        LockState::Other(how, holders) if holders.is_empty() => return json!([{ "pid": null, "name": null, "access": how }]),
        LockState::Other(how, _) => how,
    };
    lock.holders().iter().map(|h| json!({ "pid": h.pid, "name": h.name, "access": access })).collect()
}

/// The host files the image consists of.
fn children(image: &dyn Image, path: &Path, name: &Path) -> Value {
    let child = |role: String, dev: &Device, name: &Path| {
        // A container shows the part with the content; the file is what is asked for here.
        let whole = dev.path().filter(|_| dev.as_file().is_none()).and_then(|p| FileDevice::open(p).ok());
        let dev: &dyn ReadAt = whole.as_ref().map_or(dev.as_ref(), |f| f);
        json!({
            "name": role,
            "info": {
                "children": [],
                // QEMU counts files in sectors.
                "virtual-size": dev.len().next_multiple_of(SECTOR),
                "filename": name.to_string_lossy(),
                "format": if dev.as_file().is_some_and(|f| f.is_block_device()) { "host_device" } else { "file" },
                "actual-size": dev.allocated(),
                "format-specific": { "type": "file", "data": {} },
                "dirty-flag": false,
            }
        })
    };
    let files = image.files();
    // The last opened comes first. A data file of qcow2 is not opened by qemu-img for this; its name is in format-specific.
    let shown = if image.format() == Format::Qcow2 { 1 } else { files.len() };
    files
        .iter()
        .take(shown)
        .enumerate()
        .map(|(i, dev)| match (i, dev.path()) {
            (0, _) | (_, None) => child("file".into(), dev, name),
            (i, Some(full)) => child(format!("extents.{}", i - 1), dev, &beside(full, path, name)),
        })
        .rev()
        .collect()
}
