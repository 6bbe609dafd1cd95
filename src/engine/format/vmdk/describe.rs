//! What a VMDK says about itself: qemu-img's `format-specific` and the facts for people.

use serde_json::{Value, json};

use super::descriptor::{Access, Descriptor};
use super::extent::{Part, Sparse};
use crate::engine::model::{Description, Fact, Identity};
use crate::engine::units::{SECTOR, printable};

/// The description of a disk with these extents; `own` is the header of the image file itself where it has one.
pub(super) fn describe(
    descriptor: &Descriptor,
    parts: &[Part],
    own: Option<&Sparse>,
    mut warnings: Vec<String>,
    unclean: bool,
) -> Description {
    let grain = parts.first().and_then(Part::grain).filter(|g| parts.iter().all(|p| p.grain() == Some(*g)));
    let create_type = create_type(descriptor, parts, own);
    if !descriptor.odd_lines.is_empty() {
        warnings.push(format!("{} lines of its descriptor are not understood", descriptor.odd_lines.len()));
    }
    if descriptor.parent_cid().is_none() && descriptor.get("parentFileNameHint").is_some_and(|h| !h.is_empty()) {
        warnings.push("it names a parent file, but its parent CID says that it has none".to_string());
    }
    if unclean {
        warnings.push("it was not closed properly, or is open in a VM now".to_string());
    }
    let encrypted = descriptor.entries.iter().any(|(k, _)| k.to_ascii_lowercase().starts_with("encrypt"));
    Description {
        cluster_size: grain,
        facts: facts(descriptor, parts, own, &create_type),
        specific: json!({ "type": "vmdk", "data": {
            "cid": descriptor.cid().unwrap_or(0),
            "parent-cid": descriptor.parent_cid().unwrap_or(super::descriptor::NO_PARENT),
            "create-type": create_type,
            "extents": parts.iter().map(extent_json).collect::<Vec<_>>(),
        }}),
        dirty: unclean,
        encrypted: encrypted.then(|| "VMware".to_string()),
        compressed: parts.iter().any(Part::compressed),
        warnings,
        identity: Identity {
            cid: descriptor.cid(),
            uuid: descriptor.get("ddb.uuid.image").map(str::to_lowercase),
            modification: None,
        },
        ..Description::default()
    }
}

/// The sub-format: what the header shows for compressed streams (as QEMU has it), else what the descriptor says, else what an
/// extent without one must be.
fn create_type(descriptor: &Descriptor, parts: &[Part], own: Option<&Sparse>) -> String {
    if own.is_some() && parts.iter().any(Part::compressed) {
        return "streamOptimized".to_string();
    }
    let known = descriptor.get("createType").filter(|t| !t.is_empty());
    known
        .unwrap_or(match own {
            Some(Sparse::Hosted(_)) => "monolithicSparse",
            Some(Sparse::Cowd(_)) => "vmfsSparse",
            Some(Sparse::Efficient(_)) => "seSparse",
            None => "custom",
        })
        .to_string()
}

fn extent_json(part: &Part) -> Value {
    let mut out = serde_json::Map::new();
    if part.compressed() {
        out.insert("compressed".into(), true.into());
    }
    out.insert("virtual-size".into(), part.len.into());
    out.insert("filename".into(), part.path.to_string_lossy().into());
    if let Some(grain) = part.grain() {
        out.insert("cluster-size".into(), grain.into());
    }
    out.insert("format".into(), part.kind().into());
    Value::Object(out)
}

fn facts(descriptor: &Descriptor, parts: &[Part], own: Option<&Sparse>, create_type: &str) -> Vec<Fact> {
    let mut out = Vec::new();
    let mut add = |label, value: String| out.push(Fact { label, value: printable(&value) });
    add("create type", create_type.to_string());
    match own {
        Some(Sparse::Hosted(o)) => {
            let h = &o.header;
            let ends = if o.has_footer { ", directory named by the footer" } else { "" };
            add("sparse version", format!("{}{ends}", h.version));
            add("grain table", format!("{} entries", h.per_table));
            if h.flags & super::sparse::REDUNDANT != 0 {
                add("redundant grain directory", "yes".to_string());
            }
            if h.flags & super::sparse::ZERO_GRAIN != 0 {
                add("zeroed grains", "yes".to_string());
            }
        }
        Some(Sparse::Cowd(h)) => {
            for (label, value) in [("name", &h.name), ("parent in the COWD header", &h.parent)] {
                if !value.is_empty() {
                    add(label, value.clone());
                }
            }
        }
        _ => {}
    }
    if let Some(cid) = descriptor.cid() {
        add("CID", format!("{cid:08x}"));
    }
    if let Some(cid) = descriptor.parent_cid() {
        add("parent CID", format!("{cid:08x}"));
    }
    if let Some(grain) = parts.iter().find_map(Part::grain) {
        add("grain size", format!("{} KiB", grain as f64 / 1024.0));
    }
    const NAMED: [(&str, &str); 8] = [
        ("ddb.adapterType", "adapter type"),
        ("ddb.virtualHWVersion", "hardware version"),
        ("ddb.toolsVersion", "tools version"),
        ("ddb.uuid.image", "image UUID"),
        ("ddb.uuid", "UUID"),
        ("ddb.longContentID", "long content ID"),
        ("encoding", "encoding"),
        ("changeTrackPath", "change tracking file"),
    ];
    for (key, label) in NAMED {
        if let Some(value) = descriptor.get(key).filter(|v| !v.is_empty()) {
            add(label, value.to_string());
        }
    }
    let side = |name: &str| descriptor.get(&format!("ddb.geometry.{name}"));
    if let (Some(c), Some(h), Some(s)) = (side("cylinders"), side("heads"), side("sectors")) {
        add("geometry", format!("{c} cylinders, {h} heads, {s} sectors"));
    }
    for (key, value) in descriptor.entries.iter().filter(|(k, _)| k.starts_with("ddb.") && !k.starts_with("ddb.geometry.")) {
        if !NAMED.iter().any(|(k, _)| k.eq_ignore_ascii_case(key)) {
            add("disk database", format!("{key} = {value}"));
        }
    }
    for part in parts.iter().filter(|p| p.line.is_some()) {
        if let Some(l) = &part.line {
            let access = if l.access == Access::Barred { "NOACCESS (not opened, reads as zeros)" } else { l.access.word() };
            let file = l.file.as_ref().map(|f| format!(" '{f}'")).unwrap_or_default();
            let offset = if l.offset > 0 { format!(" from byte {}", l.offset.saturating_mul(SECTOR)) } else { String::new() };
            add("extent", format!("{access} {} bytes {}{file}{offset}", part.len, l.kind));
        }
    }
    out
}
