//! What was open, folded, sorted and selected, kept from one run to the next: one place per set of roots.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::effect::Effect;
use super::model::{Model, Screen};
use super::tree::Column;
use super::update::run;
use crate::app::Action;
use crate::engine::library::{Grouping, Library, NodeKind};

/// Libraries remembered, at most.
const KEPT: usize = 50;

/// The session's file.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Session {
    /// The newest first.
    #[serde(default)]
    pub places: Vec<Place>,
}

/// Where one was in a library.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Place {
    /// The roots it was opened on, without links.
    pub roots: Vec<PathBuf>,
    /// `chain`, `folder` or `format`.
    pub grouping: String,
    /// Sorted by.
    pub sort: Column,
    /// Downwards.
    pub down: bool,
    /// What was folded.
    pub folded: HashSet<String>,
    /// What was selected.
    pub selected: Option<String>,
    /// The screen.
    pub screen: Screen,
}

impl Session {
    /// The place of `roots`.
    pub fn place(&self, roots: &[PathBuf]) -> Option<&Place> {
        self.places.iter().find(|p| p.roots == roots)
    }
    /// Remembers a place, forgetting the oldest.
    pub fn remember(&mut self, place: Place) {
        self.places.retain(|p| p.roots != place.roots);
        self.places.insert(0, place);
        self.places.truncate(KEPT);
    }
}

/// Where the model is.
pub fn leave(m: &Model) -> Place {
    let lib = &m.library;
    let name = |kind: &NodeKind| node_name(&lib.data, kind);
    let grouping = match lib.grouping {
        Grouping::Chain => "chain",
        Grouping::Folder => "folder",
        Grouping::Format => "format",
    };
    Place {
        roots: m.roots.clone(),
        grouping: grouping.into(),
        sort: lib.sort.0,
        down: lib.sort.1,
        folded: lib.folded.iter().filter_map(name).collect(),
        selected: lib.selected_kind().and_then(name),
        screen: m.screen,
    }
}

/// Takes up a place: what does not need the library at once, the rest when it has come.
pub fn take_up(m: &mut Model, place: Place) {
    m.library.grouping = match place.grouping.as_str() {
        "folder" => Grouping::Folder,
        "format" => Grouping::Format,
        _ => Grouping::Chain,
    };
    m.library.sort = (place.sort, place.down);
    m.pending = Some(place);
}

/// The library came, or more of it: folds and selects what was folded and selected, unless a person has moved since.
pub(super) fn arrive(m: &mut Model) -> Vec<Effect> {
    let Some(mut place) = m.pending.take() else { return Vec::new() };
    let lib = &mut m.library;
    let names: Vec<(NodeKind, String)> =
        lib.sorted.forest.nodes.iter().filter_map(|n| Some((n.kind.clone(), node_name(&lib.data, &n.kind)?))).collect();
    let before = place.folded.len();
    for (kind, name) in &names {
        if place.folded.remove(name) {
            lib.folded.insert(kind.clone());
        }
    }
    if place.folded.len() != before {
        lib.refresh();
    }
    let mut effects = Vec::new();
    if let Some(wanted) = &place.selected
        && let Some((kind, _)) = names.iter().find(|(_, n)| n == wanted)
        && let Some(at) = lib.rows.iter().position(|r| lib.kind(r) == Some(kind))
    {
        lib.scroll.go(at, lib.rows.len());
        place.selected = None;
        if m.screen == Screen::Library && place.screen != Screen::Library && lib.selected().is_some() {
            // Nobody asked for the screen: what was told at the start is still to be read.
            let notice = m.notice.take();
            effects = run(m, Action::Go(place.screen));
            m.notice = m.notice.take().or(notice);
        }
    }
    m.pending = Some(place);
    effects
}

/// A name for a node that holds from one run to the next.
fn node_name(library: &Library, kind: &NodeKind) -> Option<String> {
    let path = |p: &Path| p.to_string_lossy().into_owned();
    Some(match kind {
        NodeKind::Root(i) => format!("root:{}", path(&library.roots.get(*i)?.real)),
        NodeKind::Folder(p) => format!("folder:{}", path(p)),
        NodeKind::Format(f) => format!("format:{}", f.map_or("unknown", |f| f.name())),
        NodeKind::Entry(id) => format!("image:{}", path(&library.get(*id)?.path)),
    })
}
