//! What happens on the snapshots' screen.

use std::path::PathBuf;
use std::sync::Arc;

use super::image::{reach, roots};
use crate::app::action::Action;
use crate::app::effect::Effect;
use crate::app::form::{BranchForm, ConvertForm, CreateForm, Deed, DeleteForm, Recipe, SnapshotForm};
use crate::app::model::{Model, Screen};
use crate::app::state::snapshots::{DiffShown, SnapshotsState};
use crate::app::worker::snapshots::{
    DiffLoaded, DiffRequest, FreedLoaded, FreedRequest, News, SnapshotsLoaded, SnapshotsRequest,
};

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
    m.snaps = SnapshotsState {
        path: Some(path),
        generation: s.generation,
        freed_generation: s.freed_generation,
        // What is still compared was another image.
        diff_generation: s.diff_generation + 1,
        trail: std::mem::take(&mut s.trail),
        ..SnapshotsState::default()
    };
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
                m.snaps.diff = None;
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
        Action::Diff => diff(m).into_iter().collect(),
        _ => form(m, action).map(|recipe| super::form::open(m, recipe)).unwrap_or_default(),
    }
}

/// The form of a command.
fn form(m: &Model, action: Action) -> Option<Arc<dyn Recipe>> {
    let (list, image) = (m.snaps.list()?, m.snaps.path.as_ref()?);
    let at = m.snaps.snapshot_at_cursor();
    let deed = match action {
        Action::TakeSnapshot => Deed::Take,
        Action::Revert => Deed::Revert(at?),
        Action::RenameSnapshot => Deed::Rename(at?),
        Action::DeleteSnapshots if m.snaps.marked.is_empty() && m.snaps.image_at_cursor().is_some() => {
            return Some(Arc::new(DeleteForm::new(m, &m.subject()?, roots(m))));
        }
        Action::DeleteSnapshots if m.snaps.marked.is_empty() => Deed::Delete(vec![at?]),
        Action::DeleteSnapshots => Deed::Delete(m.snaps.marked.iter().copied().collect()),
        Action::Export => {
            return Some(match at {
                Some(i) => Arc::new(ConvertForm::at_snapshot(m, image, &list.snapshots, i, roots(m))),
                None => Arc::new(ConvertForm::new(m, image, roots(m))),
            });
        }
        Action::Branch => {
            return Some(match at {
                Some(i) => {
                    let (snapshot, templates) = (list.snapshots.get(i)?, list.branch.clone().ok()?);
                    Arc::new(BranchForm::new(m, image, snapshot, templates, roots(m)))
                }
                None => Arc::new(CreateForm::overlay(m, &m.subject()?, roots(m))),
            });
        }
        _ => return None,
    };
    Some(Arc::new(SnapshotForm::new(image, list.format, &list.snapshots, deed)))
}

/// Shows what changed between the two states that are meant; when that is shown already, no longer.
fn diff(m: &mut Model) -> Option<Effect> {
    let (from, to) = m.snaps.pair()?;
    m.snaps.diff_generation += 1;
    if m.snaps.diff.as_ref().is_some_and(|d| (d.from, d.to) == (from, to)) {
        m.snaps.diff = None;
        return None;
    }
    let path = m.snaps.path.clone()?;
    let list = m.snaps.list()?;
    let id = |i: usize| list.snapshots.get(i).map(|s| s.id.clone());
    let request =
        DiffRequest { generation: m.snaps.diff_generation, reach: reach(m, &path), path, from: id(from)?, to: to.and_then(id) };
    m.snaps.diff = Some(DiffShown { from, to, diff: None });
    Some(Effect::LoadDiff(request))
}

pub(super) fn compared(m: &mut Model, loaded: DiffLoaded) -> Vec<Effect> {
    if loaded.generation == m.snaps.diff_generation
        && let Some(shown) = &mut m.snaps.diff
    {
        shown.diff = Some(loaded.diff);
        m.dirty = true;
    }
    Vec::new()
}
