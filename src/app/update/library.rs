//! What happens on the library's screen.

use crate::app::action::Action;
use crate::app::effect::Effect;
use crate::app::input::Input;
use crate::app::layer::Layer;
use crate::app::message::Level;
use crate::app::model::{Model, Screen};
use crate::app::worker::library::{Snapshot, Watch};
use crate::engine::io::locks::LockState;
use crate::engine::library::{EntryId, Grouping, NodeKind};

pub(super) fn run(m: &mut Model, action: Action) -> Vec<Effect> {
    let lib = &mut m.library;
    match action {
        Action::Open => return open(m),
        Action::Filter => {
            // The filter is the library's, wherever one is when asking for it.
            m.screen = Screen::Library;
            m.back.clear();
            filtered(m, Input::default());
            m.layers.push(Layer::Filter);
        }
        Action::NextMatch => next_match(m, true),
        Action::PreviousMatch => next_match(m, false),
        Action::Fold => fold(m, None),
        Action::UnfoldAll => {
            lib.folded.clear();
            lib.refresh();
        }
        Action::FoldAll => {
            let all = lib.sorted.forest.nodes.iter().filter(|n| n.depth > 0 && !n.children.is_empty());
            lib.folded = all.map(|n| n.kind.clone()).collect();
            if lib.folded.is_empty() {
                let tops = lib.sorted.forest.nodes.iter().filter(|n| !n.children.is_empty());
                lib.folded = tops.map(|n| n.kind.clone()).collect();
            }
            lib.refresh();
        }
        Action::Group => {
            let next = match lib.grouping {
                Grouping::Chain => Grouping::Folder,
                Grouping::Folder => Grouping::Format,
                Grouping::Format => Grouping::Chain,
            };
            group(m, next);
        }
        Action::Sort => {
            let column = lib.sort.0.next();
            lib.sort = (column, column.downwards());
            lib.regroup(None);
        }
        Action::Reverse => {
            lib.sort.1 = !lib.sort.1;
            lib.regroup(None);
        }
        Action::Problems => {
            lib.problems = !lib.problems;
            lib.refresh();
            if lib.problems && lib.matched == 0 {
                lib.problems = false;
                lib.refresh();
                m.tell("nothing is wrong with any image", Level::Info);
            }
        }
        Action::Rescan => {
            lib.loading = true;
            return vec![Effect::Rescan];
        }
        _ => {}
    }
    Vec::new()
}

pub(super) fn group(m: &mut Model, grouping: Grouping) {
    m.library.grouping = grouping;
    m.library.regroup(None);
}

/// Enter: an image's page; a folder folds or unfolds.
fn open(m: &mut Model) -> Vec<Effect> {
    match m.library.selected_kind() {
        Some(NodeKind::Entry(_)) => super::run(m, Action::Go(Screen::Image)),
        Some(_) => {
            fold(m, None);
            Vec::new()
        }
        None => Vec::new(),
    }
}

/// Folds or unfolds the row under the cursor; `Some(open)` asks for one of the two.
pub(super) fn fold(m: &mut Model, open: Option<bool>) {
    let lib = &mut m.library;
    let Some((row, kind)) = lib.rows.get(lib.scroll.at).copied().zip(lib.selected_kind().cloned()) else { return };
    if !row.parent || open == Some(row.open) {
        return;
    }
    if row.open {
        lib.folded.insert(kind);
    } else {
        lib.folded.remove(&kind);
    }
    lib.refresh();
}

/// Left folds, then goes to what it lies under; right unfolds, then goes to the first below.
pub(super) fn sideways(m: &mut Model, action: Action) -> Vec<Effect> {
    let lib = &mut m.library;
    let Some(row) = lib.rows.get(lib.scroll.at).copied() else { return Vec::new() };
    let len = lib.rows.len();
    // With a filter everything that is shown is unfolded.
    let fixed = !lib.filter.is_empty() || lib.problems;
    if action == Action::Right {
        if row.parent && !row.open {
            fold(m, Some(true));
        } else if row.open {
            lib.scroll.go(lib.scroll.at + 1, len);
        }
    } else if row.open && !fixed {
        fold(m, Some(false));
    } else if let Some(parent) = lib.sorted.forest.nodes.get(row.node).and_then(|n| n.parent)
        && let Some(at) = lib.rows.iter().position(|r| r.node == parent)
    {
        lib.scroll.go(at, len);
    }
    lib_selected(m);
    Vec::new()
}

fn lib_selected(m: &mut Model) {
    m.library.detail.top = 0;
}

fn next_match(m: &mut Model, forward: bool) {
    let lib = &mut m.library;
    let len = lib.rows.len();
    let at = lib.scroll.at;
    let hit = |i: &usize| lib.rows.get(*i).is_some_and(|r| r.matched);
    let found = if forward { (at + 1..len).chain(0..at).find(hit) } else { (0..at).rev().chain((at + 1..len).rev()).find(hit) };
    if let Some(i) = found {
        lib.scroll.go(i, len);
        lib_selected(m);
    }
}

/// The filter's text changed.
pub(super) fn filtered(m: &mut Model, filter: Input) {
    m.library.filter = filter;
    m.library.refresh();
    lib_selected(m);
}

pub(super) fn loaded(m: &mut Model, snapshot: Snapshot) -> Vec<Effect> {
    let Snapshot { library, forest: (grouping, forest), orphans, duplicates } = snapshot;
    let done = !library.scanning;
    if done {
        m.library.orphans = orphans;
        m.library.duplicates = duplicates;
    }
    m.library.loading = !done;
    m.library.replace(library, (grouping == m.library.grouping).then_some(forest));
    m.changed_behind();
    let effects = super::super::session::arrive(m);
    if done {
        m.pending = None;
    }
    let mut effects = effects;
    effects.extend(super::image::changed(m));
    effects.extend(super::snapshots::changed(m));
    effects
}

pub(super) fn locks(m: &mut Model, news: Vec<(EntryId, LockState)>) -> Vec<Effect> {
    for (id, lock) in news {
        m.library.data.set_lock(id, lock);
    }
    m.library.count();
    m.changed_behind();
    Vec::new()
}

pub(super) fn allocated(m: &mut Model, news: Vec<(EntryId, u64)>) -> Vec<Effect> {
    for (id, bytes) in news {
        m.library.data.set_allocated(id, bytes);
    }
    m.changed_behind();
    Vec::new()
}

/// Tells the library's thread what is on the screen, when that changed.
pub(super) fn watch(m: &mut Model) -> Vec<Effect> {
    let lib = &m.library;
    let mut entries: Vec<EntryId> = Vec::new();
    if m.screen == Screen::Library {
        entries.extend(lib.selected().map(|e| e.id));
        let window = lib.scroll.window(lib.rows.len());
        entries.extend(lib.rows.get(window).unwrap_or_default().iter().filter_map(|r| lib.entry(r)).map(|e| e.id));
    } else if let Some(e) = m.subject_entry() {
        entries.push(e.id);
    }
    let watch = Watch { entries, grouping: lib.grouping };
    if watch == m.watched {
        return Vec::new();
    }
    m.watched = watch.clone();
    vec![Effect::Watch(watch)]
}
