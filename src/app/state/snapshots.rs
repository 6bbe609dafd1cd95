//! The snapshots' screen: one tree of everything that has to do with an image's past and its offspring, what is marked in it, and
//! what is known of the cost of each.
//!
//! ```text
//!  base it stands on ── recorded
//!  └─ snapshot ── inferred ── snapshot …
//!     └┄ the live state ── recorded ── overlays of the library
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::scroll::Scroll;
use crate::app::worker::snapshots::Listing;
use crate::engine::error::Error;
use crate::engine::format::qcow2::lineage::{Kin, Lineage};
use crate::engine::format::qcow2::usage::Usage;
use crate::engine::library::{EntryId, Library};
use crate::engine::limits::MAX_CHAIN;
use crate::engine::ops::snapshot::diff::Diff;

/// Steps to the right at most: a deeper tree moves to the right only where it branches.
const DEEP: usize = 8;
/// Overlays shown at most.
const OVERLAYS: usize = 4096;

/// What a line of the tree is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// An image below this one.
    Base(EntryId),
    /// An image below this one that is not there, as it is spelled.
    Lost(String),
    /// An internal snapshot: index into the table.
    Snapshot(usize),
    /// The disk as it is now.
    Live,
    /// An image that stands on this one, or on one that does.
    Overlay(EntryId),
}

/// One step of a line's indent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joint {
    /// Nothing.
    Blank,
    /// A line runs down to a sibling below; true when it is inferred.
    Down(bool),
    /// Joined here, and a sibling follows.
    Branch(bool),
    /// Joined here, the last of its siblings.
    Last(bool),
}

/// A line of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What it is.
    pub what: What,
    /// What stands before it.
    pub joints: Vec<Joint>,
}

/// What changed between two states.
#[derive(Debug, Clone)]
pub struct DiffShown {
    /// Index of the earlier one.
    pub from: usize,
    /// Index of the later one; `None` is the disk as it is now.
    pub to: Option<usize>,
    /// What changed; `None` while it is looked for. Told by the tables alone at first ([`Diff::quick`]).
    pub diff: Option<Result<Arc<Diff>, Error>>,
}

/// State of the screen.
#[derive(Debug, Clone, Default)]
pub struct SnapshotsState {
    /// The image.
    pub path: Option<PathBuf>,
    /// Number of the last request.
    pub generation: u64,
    /// The snapshots; `None` while they are read.
    pub listing: Option<Result<Arc<Listing>, Error>>,
    /// What each holds; `None` while it is counted.
    pub usage: Option<Result<Option<Usage>, Error>>,
    /// Where each came from; `None` while it is looked for.
    pub lineage: Option<Result<Lineage, Error>>,
    /// The tree, line by line.
    pub rows: Vec<Row>,
    /// Cursor and window of the tree.
    pub scroll: Scroll,
    /// Window of what is told of the line under the cursor.
    pub detail: Scroll,
    /// Snapshots marked for deleting: indices into the table.
    pub marked: BTreeSet<usize>,
    /// What they free together; `None` while it is counted.
    pub freed: Option<Result<u64, Error>>,
    /// Number of the last request for that.
    pub freed_generation: u64,
    /// What changed between two states, when that is shown.
    pub diff: Option<DiffShown>,
    /// Number of the last request for that.
    pub diff_generation: u64,
    /// Images whose screen Enter led away from.
    pub trail: Vec<PathBuf>,
}

impl SnapshotsState {
    /// The snapshots, if they were read.
    pub fn list(&self) -> Option<&Listing> {
        self.listing.as_ref()?.as_ref().ok().map(Arc::as_ref)
    }
    /// Something is still being read.
    pub fn loading(&self) -> bool {
        let counting = !self.marked.is_empty() && self.freed.is_none();
        let reading = self.listing.is_none() || (self.list().is_some() && (self.usage.is_none() || self.lineage.is_none()));
        let comparing = self.diff.as_ref().is_some_and(|d| match &d.diff {
            None => true,
            Some(diff) => diff.as_ref().is_ok_and(|d| d.quick),
        });
        self.path.is_some() && (reading || counting || comparing)
    }
    /// What the cursor is on.
    pub fn at_cursor(&self) -> Option<&What> {
        self.rows.get(self.scroll.at).map(|r| &r.what)
    }
    /// The snapshot under the cursor.
    pub fn snapshot_at_cursor(&self) -> Option<usize> {
        match self.at_cursor() {
            Some(What::Snapshot(i)) => Some(*i),
            _ => None,
        }
    }
    /// The other image under the cursor.
    pub fn image_at_cursor(&self) -> Option<EntryId> {
        match self.at_cursor() {
            Some(What::Base(id) | What::Overlay(id)) => Some(*id),
            _ => None,
        }
    }
    /// The two states to compare: those marked, the marked one and the one under the cursor, or that and the disk as it is now.
    pub fn pair(&self) -> Option<(usize, Option<usize>)> {
        let here = self.snapshot_at_cursor();
        let marked: Vec<usize> = self.marked.iter().copied().collect();
        match (marked.as_slice(), here) {
            ([a, b], _) => Some((*a, Some(*b))),
            ([a], Some(b)) if *a != b => Some((*a.min(&b), Some(*a.max(&b)))),
            (_, Some(a)) => Some((a, None)),
            ([a], None) => Some((*a, None)),
            _ => None,
        }
    }
    /// Where a snapshot came from, if that is known.
    pub fn kin(&self, snapshot: usize) -> Option<Kin> {
        self.lineage.as_ref()?.as_ref().ok()?.snapshots.get(snapshot).copied()
    }
    /// What deleting a snapshot alone frees, and what it refers to, if that is known.
    pub fn share(&self, snapshot: usize) -> Option<crate::engine::format::qcow2::usage::Share> {
        self.counted()?.snapshots.get(snapshot).copied()
    }
    /// The most that any state inside the image holds alone, if it was counted.
    pub fn most(&self) -> Option<u64> {
        let usage = self.counted()?;
        usage.snapshots.iter().chain([&usage.live]).map(|s| s.exclusive).max()
    }
    /// What each state holds, if it was counted.
    pub fn counted(&self) -> Option<&Usage> {
        self.usage.as_ref()?.as_ref().ok()?.as_ref()
    }

    /// Takes a newer list: marks stay on what they were on, told by the id.
    pub fn replace(&mut self, listing: Result<Arc<Listing>, Error>) {
        if let (Some(old), Ok(new)) = (self.list(), &listing) {
            let ids = self.marked.iter().filter_map(|i| old.snapshots.get(*i)).map(|s| (&s.id, &s.name));
            let at = |(id, name)| new.snapshots.iter().position(|s| (&s.id, &s.name) == (id, name));
            self.marked = ids.filter_map(at).collect();
        } else {
            self.marked.clear();
        }
        self.listing = Some(listing);
    }

    /// Makes the tree anew. The cursor stays on what it was on; the first time it goes to the live state.
    pub fn rebuild(&mut self, library: &Library) {
        let kept = self.at_cursor().cloned();
        self.rows = match (self.list(), &self.path) {
            (Some(list), Some(path)) => tree(list, self.lineage.as_ref().and_then(|l| l.as_ref().ok()), library, path),
            _ => Vec::new(),
        };
        let at = self.rows.iter().position(|r| Some(&r.what) == kept.as_ref());
        let at = at.or_else(|| self.rows.iter().position(|r| r.what == What::Live)).unwrap_or(0);
        self.scroll.go(at, self.rows.len());
    }
}

/// A tree before it is laid out.
#[derive(Default)]
struct Arena {
    nodes: Vec<(What, bool, Vec<usize>)>,
    tops: Vec<usize>,
}

impl Arena {
    fn add(&mut self, what: What, parent: Option<usize>, inferred: bool) -> usize {
        let i = self.nodes.len();
        self.nodes.push((what, inferred, Vec::new()));
        match parent.and_then(|p| self.nodes.get_mut(p)) {
            Some((.., children)) => children.push(i),
            None => self.tops.push(i),
        }
        i
    }

    /// The lines, in reading order.
    fn rows(&self) -> Vec<Row> {
        let mut depth = vec![0usize; self.nodes.len()];
        for (i, (.., children)) in self.nodes.iter().enumerate() {
            let below = depth.get(i).copied().unwrap_or(0) + 1;
            for c in children {
                if let Some(d) = depth.get_mut(*c) {
                    *d = below;
                }
            }
        }
        let deep = depth.iter().any(|d| *d > DEEP);
        let mut out = Vec::with_capacity(self.nodes.len());
        let mut stack: Vec<(usize, Vec<Joint>)> = self.tops.iter().rev().map(|i| (*i, Vec::new())).collect();
        while let Some((i, joints)) = stack.pop() {
            let Some((what, _, children)) = self.nodes.get(i) else { continue };
            // What stands before the lines below this one: its own joint goes on only where a sibling follows.
            let mut below: Vec<Joint> = joints.clone();
            if let Some(last) = below.last_mut() {
                *last = match *last {
                    Joint::Branch(inferred) => Joint::Down(inferred),
                    Joint::Last(_) => Joint::Blank,
                    other => other,
                };
            }
            for (n, c) in children.iter().enumerate().rev() {
                let mut joints = below.clone();
                let straight = deep && children.len() == 1;
                if !straight && joints.len() < DEEP * 2 {
                    let inferred = self.nodes.get(*c).is_some_and(|(_, inferred, _)| *inferred);
                    joints.push(if n + 1 == children.len() { Joint::Last(inferred) } else { Joint::Branch(inferred) });
                }
                stack.push((*c, joints));
            }
            out.push(Row { what: what.clone(), joints });
        }
        out
    }
}

/// The tree: bases from the bottom up, snapshots under what they seem to come from, the live state, and the overlays on it.
fn tree(list: &Listing, lineage: Option<&Lineage>, library: &Library, path: &Path) -> Vec<Row> {
    let mut arena = Arena::default();
    let below = bases(library, path);
    let mut base = None;
    for what in below {
        base = Some(arena.add(what, base, false));
    }
    let mut at: Vec<usize> = Vec::new();
    for i in 0..list.snapshots.len() {
        // Until it is known they stand in the order of the table, none below another.
        let parent = lineage.and_then(|l| l.snapshots.get(i)?.parent).and_then(|p| at.get(p).copied());
        let node = arena.add(What::Snapshot(i), parent.or(base), parent.is_some());
        at.push(node);
    }
    let parent = lineage.and_then(|l| l.live.parent).and_then(|p| at.get(p).copied());
    let live = arena.add(What::Live, parent.or(base), parent.is_some());
    let mut seen = BTreeSet::new();
    let mut todo: Vec<(EntryId, usize)> = Vec::new();
    if let Some(e) = library.at(path) {
        seen.insert(e.id);
        todo.extend(e.children.iter().rev().map(|c| (*c, live)));
    }
    while let Some((id, parent)) = todo.pop() {
        let Some(e) = library.get(id).filter(|_| seen.len() < OVERLAYS && seen.insert(id)) else { continue };
        let node = arena.add(What::Overlay(id), Some(parent), false);
        todo.extend(e.children.iter().rev().map(|c| (*c, node)));
    }
    arena.rows()
}

/// What the image at `path` stands on, the lowest first.
fn bases(library: &Library, path: &Path) -> Vec<What> {
    let mut out = Vec::new();
    let mut seen = Vec::new();
    let mut at = library.at(path);
    while let Some(e) = at.filter(|e| seen.len() < MAX_CHAIN && !seen.contains(&e.id)) {
        seen.push(e.id);
        let Some(backing) = &e.backing else { break };
        at = backing.link.entry().and_then(|id| library.get(id)).filter(|e| !seen.contains(&e.id));
        out.push(match at {
            Some(parent) => What::Base(parent.id),
            None => What::Lost(backing.spelled.first().cloned().unwrap_or_else(|| "a parent known by its UUID".into())),
        });
    }
    out.reverse();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena(n: usize, parents: &[Option<usize>]) -> Vec<(usize, Vec<Joint>)> {
        let mut a = Arena::default();
        for (i, parent) in parents.iter().enumerate().take(n) {
            a.add(What::Snapshot(i), *parent, true);
        }
        let index = |r: Row| match r.what {
            What::Snapshot(i) => (i, r.joints),
            _ => unreachable!(),
        };
        a.rows().into_iter().map(index).collect()
    }

    #[test]
    fn siblings_are_joined_and_what_is_below_follows_at_once() {
        use Joint::{Blank, Branch, Down, Last};
        let rows = arena(5, &[None, Some(0), Some(1), Some(0), Some(3)]);
        assert_eq!(
            rows,
            [
                (0, vec![]),
                (1, vec![Branch(true)]),
                (2, vec![Down(true), Last(true)]),
                (3, vec![Last(true)]),
                (4, vec![Blank, Last(true)])
            ]
        );
    }

    #[test]
    fn two_hundred_in_a_row_stay_on_the_screen() {
        let parents: Vec<_> = (0..200).map(|i: usize| i.checked_sub(1)).collect();
        let rows = arena(200, &parents);
        assert!(rows.iter().enumerate().all(|(i, (n, joints))| *n == i && joints.is_empty()));
        // Where it branches it is joined all the same.
        let mut forked = parents;
        forked[150] = Some(100);
        let rows = arena(200, &forked);
        let at = |n: usize| rows.iter().find(|r| r.0 == n).unwrap().1.clone();
        assert_eq!((at(101), at(150), at(199)), (vec![Joint::Branch(true)], vec![Joint::Last(true)], vec![Joint::Blank]));
    }
}
