//! What happens on the snapshots' screen.

use std::path::PathBuf;

use super::image::reach;
use crate::app::action::Action;
use crate::app::effect::Effect;
use crate::app::model::{Model, Screen};
use crate::app::state::snapshots::SnapshotsState;
use crate::app::worker::snapshots::{FreedLoaded, FreedRequest, News, SnapshotsLoaded, SnapshotsRequest};

/// Opens the snapshots of `path`; the same image is shown as it was left, and read again behind that.
pub(super) fn open(m: &mut Model, path: Option<PathBuf>) -> Vec<Effect> {
    m.snaps.trail.clear();
    if path.is_some() && path == m.snaps.path && m.snaps.listing.is_some() {
        return load(m).into_iter().collect();
    }
    show(m, path)
}

/// Shows the snapshots of `path` from the start.
pub(super) fn show(m: &mut Model, path: Option<PathBuf>) -> Vec<Effect> {
    let Some(path) = path else { return Vec::new() };
    let s = &mut m.snaps;
    let (trail, generation, freed_generation) = (std::mem::take(&mut s.trail), s.generation, s.freed_generation);
    m.snaps = SnapshotsState { path: Some(path), generation, freed_generation, trail, ..SnapshotsState::default() };
    load(m).into_iter().collect()
}

pub(super) fn load(m: &mut Model) -> Option<Effect> {
    let path = m.snaps.path.clone()?;
    m.snaps.generation += 1;
    let reach = reach(m, &path);
    Some(Effect::LoadSnapshots(SnapshotsRequest { generation: m.snaps.generation, path, reach }))
}

/// The library is newer: overlays may have come and gone, and the image itself may have changed.
pub(super) fn changed(m: &mut Model) -> Option<Effect> {
    m.snaps.rebuild(&m.library.data);
    let (list, entry) = (m.snaps.list()?, m.library.data.at(m.snaps.path.as_ref()?)?);
    let same = entry.modified() == list.modified && entry.file_len() == list.len;
    if same || m.screen != Screen::Snapshots { None } else { load(m) }
}

pub(super) fn loaded(m: &mut Model, loaded: SnapshotsLoaded) -> Vec<Effect> {
    if loaded.generation != m.snaps.generation {
        return Vec::new();
    }
    m.dirty = true;
    match loaded.news {
        News::Listing(listing) => {
            let before = m.snaps.list().map(|l| l.snapshots.clone());
            m.snaps.replace(listing);
            if before != m.snaps.list().map(|l| l.snapshots.clone()) {
                // What was counted belongs to another table.
                m.snaps.usage = None;
                m.snaps.lineage = None;
            }
            m.snaps.rebuild(&m.library.data);
            return count(m).into_iter().collect();
        }
        News::Usage(usage) => m.snaps.usage = Some(usage),
        News::Lineage(lineage) => {
            m.snaps.lineage = Some(lineage);
            m.snaps.rebuild(&m.library.data);
        }
    }
    Vec::new()
}

/// Asks what the marked ones free together.
fn count(m: &mut Model) -> Option<Effect> {
    m.snaps.freed = None;
    m.snaps.freed_generation += 1;
    let path = m.snaps.path.clone().filter(|_| !m.snaps.marked.is_empty())?;
    let set = m.snaps.marked.iter().copied().collect();
    Some(Effect::CountFreed(FreedRequest { generation: m.snaps.freed_generation, path, set }))
}

pub(super) fn freed(m: &mut Model, loaded: FreedLoaded) -> Vec<Effect> {
    if loaded.generation == m.snaps.freed_generation {
        m.snaps.freed = Some(loaded.freed);
        m.dirty = true;
    }
    Vec::new()
}

pub(super) fn run(m: &mut Model, action: Action) -> Vec<Effect> {
    match action {
        Action::Reload => load(m).into_iter().collect(),
        Action::OpenImage => {
            let path = m.subject();
            m.snaps.trail.extend(m.snaps.path.clone());
            show(m, path)
        }
        Action::Mark => {
            let Some(i) = m.snaps.snapshot_at_cursor() else { return Vec::new() };
            if !m.snaps.marked.remove(&i) {
                m.snaps.marked.insert(i);
            }
            let len = m.snaps.rows.len();
            m.snaps.scroll.step(Action::Down, len);
            count(m).into_iter().collect()
        }
        Action::ClearMarks => {
            m.snaps.marked.clear();
            count(m).into_iter().collect()
        }
        _ => Vec::new(),
    }
}
