//! Overlays that lead a life without purpose: their base is gone, or nothing uses them. With the evidence, as deleting is for people.

use super::entry::{Entry, EntryId, Health, Link};
use super::{Library, Stamp};
use crate::engine::units::printable;

/// Why an overlay is taken for an orphan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrphanReason {
    /// What it stands on is not there, or is not what it was made on: it cannot be read.
    BaseGone,
    /// Domains are known, and none uses it nor anything that stands on it.
    Unused,
}

/// An overlay that seems to be of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Which.
    pub id: EntryId,
    /// In which way.
    pub reason: OrphanReason,
    /// What speaks for it, in sentences.
    pub evidence: Vec<String>,
}

/// The orphaned overlays of `library`, in the order of its entries. An image that is held by a program is none.
pub fn orphans(library: &Library) -> Vec<Orphan> {
    library.iter().filter(|e| e.part_of.is_none() && !e.lock.in_use()).filter_map(|e| judge(library, e)).collect()
}

fn judge(library: &Library, e: &Entry) -> Option<Orphan> {
    let backing = e.backing.as_ref()?;
    let mut evidence = Vec::new();
    let reason = match &backing.link {
        Link::Missing(error, candidates) => {
            evidence.push(error.to_string());
            match candidates.len() {
                0 => evidence.push("nothing in the library looks like it".into()),
                1 => evidence.push("one image in the library may be it".into()),
                n => evidence.push(format!("{n} images in the library may be it")),
            }
            OrphanReason::BaseGone
        }
        Link::Changed(_, error) => {
            evidence.push(error.to_string());
            OrphanReason::BaseGone
        }
        Link::Entry(parent) => {
            let unused = !library.domains.is_empty() && e.users.is_empty() && e.children.is_empty();
            if !unused || matches!(e.health, Health::Broken(_)) {
                return None;
            }
            evidence.push(format!("none of the {} known domains uses it, and nothing stands on it", library.domains.len()));
            evidence.extend(newer_sibling(library, e, *parent));
            OrphanReason::Unused
        }
        Link::Pending | Link::Loop(..) | Link::Gated(_) | Link::Failed(_) => return None,
    };
    if reason == OrphanReason::BaseGone && !library.domains.is_empty() && e.users.is_empty() {
        evidence.push(format!("none of the {} known domains uses it", library.domains.len()));
    }
    Some(Orphan { id: e.id, reason, evidence })
}

/// Another overlay of the same base that is in use and was written later: this one was probably left behind.
fn newer_sibling(library: &Library, e: &Entry, parent: EntryId) -> Option<String> {
    let later = |s: &Stamp| s.mtime_ns > e.stamp.mtime_ns;
    let siblings = library.get(parent)?.children.iter().filter_map(|id| library.get(*id));
    let used = siblings.filter(|s| s.id != e.id && !s.users.is_empty() && later(&s.stamp)).max_by_key(|s| s.stamp.mtime_ns)?;
    let domain = used.users.first().map(|u| u.domain.as_str()).unwrap_or_default();
    Some(format!("{} stands on the same base, is used by {} and was written later", printable(&used.name), printable(domain)))
}
