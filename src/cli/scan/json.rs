//! The library for programs: images in the order of the tree, each with its depth, so that a deep chain needs no deep nesting.

use serde_json::{Map, Value, json};

use super::{health, link, problems};
use crate::cli::info::json::in_use_by;
use crate::engine::error::Error;
use crate::engine::io::locks::LockState;
use crate::engine::library::{Entry, EntryId, EntryKind, Grouping, Health, Library, Link, NodeKind, duplicates, forest, orphans};

/// Everything.
pub(super) fn library(library: &Library) -> Value {
    let path = |id: &EntryId| library.get(*id).map(|e| e.path.to_string_lossy());
    let tree = forest(library, Grouping::Chain);
    let nodes = tree.walk().filter_map(|n| match n.kind {
        NodeKind::Entry(id) => Some((library.get(id)?, n.depth)),
        _ => None,
    });
    let (mut images, mut folders) = (Vec::new(), Vec::new());
    for (e, depth) in nodes {
        match e.kind {
            EntryKind::Image => images.push(image(library, e, depth.saturating_sub(1))),
            EntryKind::Folder => folders.push(json!({ "path": e.path.to_string_lossy(), "error": problems(e).first() })),
        }
    }
    let roots = library.roots.iter().map(|r| {
        let mut out = json!({ "path": r.path.to_string_lossy(), "real-path": r.real.to_string_lossy(), "free-size": r.free });
        if let Some(e) = &r.error {
            out["error"] = error(e);
        }
        out
    });
    let domains = library.domains.iter().map(|d| {
        let disks = d.disks.iter().map(|(path, target)| json!({ "path": path.to_string_lossy(), "target": target }));
        json!({ "name": d.name, "state": d.state, "disks": disks.collect::<Vec<_>>() })
    });
    let orphans = orphans(library);
    let orphans = orphans.iter().map(|o| json!({ "path": path(&o.id), "reason": o.reason, "evidence": o.evidence }));
    let duplicates = duplicates(library);
    let duplicates = duplicates.iter().map(|d| json!({ "same": d.sameness, "paths": d.ids.iter().map(path).collect::<Vec<_>>() }));
    let total = |f: &dyn Fn(&Entry) -> u64| library.iter().filter(|e| e.part_of.is_none()).map(f).fold(0u64, u64::saturating_add);
    json!({
        "roots": roots.collect::<Vec<_>>(),
        "images": images,
        "unreadable-folders": folders,
        "orphans": orphans.collect::<Vec<_>>(),
        "duplicates": duplicates.collect::<Vec<_>>(),
        "domains": domains.collect::<Vec<_>>(),
        "totals": {
            "images": library.iter().filter(|e| e.part_of.is_none() && e.kind == EntryKind::Image).count(),
            "broken": library.iter().filter(|e| e.part_of.is_none() && matches!(e.health, Health::Broken(_))).count(),
            "actual-size": total(&|e| e.actual_size),
            "virtual-size": total(&|e| e.virtual_size().unwrap_or(0)),
        },
    })
}

fn image(library: &Library, e: &Entry, depth: usize) -> Value {
    let path = |id: EntryId| library.get(id).map(|e| e.path.to_string_lossy().into_owned());
    let f = &e.facts;
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| drop(out.insert(key.to_string(), value));
    put("filename", json!(e.path.to_string_lossy()));
    put("depth", json!(depth));
    put("format", json!(f.format.map(|f| f.driver())));
    put("disk-format", json!(f.format.map(|f| f.name())));
    put("virtual-size", json!(f.virtual_size));
    put("actual-size", json!(e.actual_size));
    put("file-size", json!(e.file_len()));
    put("allocated-size", json!(e.allocated));
    put("modified", json!(e.modified()));
    if let Some(size) = f.cluster_size {
        put("cluster-size", json!(size));
    }
    if let Some(count) = f.snapshots {
        put("snapshot-count", json!(count));
    }
    put("dirty-flag", json!(f.dirty));
    if let Some(how) = &f.encrypted {
        put("encrypted", json!(true));
        put("encryption", json!(how));
    }
    if let Some(b) = &e.backing {
        put("backing-filename", json!(b.spelled.first()));
        put("full-backing-filename", json!(b.link.entry().and_then(path)));
        if let Some(format) = &b.format {
            put("backing-filename-format", json!(format));
        }
        put("backing-state", json!(link(&b.link)));
        if let Link::Missing(_, candidates) = &b.link {
            let all = candidates.iter().map(|c| json!({ "path": path(c.id), "evidence": c.evidence, "proven": c.proven }));
            put("candidates", all.collect());
        }
    }
    put("overlays", e.children.iter().map(|id| path(*id)).collect());
    if !f.members.is_empty() {
        put("members", f.members.iter().map(|m| m.path.to_string_lossy()).collect());
    }
    put("matches", json!(*f.matches));
    put("health", json!(health(e)));
    let problems = problems(e);
    if !problems.is_empty() {
        put("problems", json!(problems));
    }
    if let Health::Broken(e) = &e.health {
        put("error", error(e));
    }
    put("lock", json!(lock(&e.lock)));
    put("in-use-by", in_use_by(&e.lock));
    put("domains", json!(e.users));
    Value::Object(out)
}

fn lock(state: &LockState) -> &'static str {
    match state {
        LockState::Unchecked => "unchecked",
        LockState::Free => "free",
        LockState::Readers(_) => "read",
        LockState::Writer(_) => "written",
        LockState::Other(..) => "other",
        LockState::Unknown(_) => "unknown",
    }
}

fn error(e: &Error) -> Value {
    json!({
        "why": e.why(),
        "operation": e.operation(),
        "path": e.file().map(|p| p.to_string_lossy()),
        "offset": e.offset(),
        "hint": e.advice(),
    })
}
