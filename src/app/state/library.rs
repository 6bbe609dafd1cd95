//! The library's screen: what is known, how it is grouped, sorted and filtered, and the rows that follow from that.

use std::collections::HashSet;

use super::scroll::Scroll;
use crate::app::filter::Fuzzy;
use crate::app::input::Input;
use crate::app::tree::{Column, Row, Sorted, visible};
use crate::engine::library::{Duplicates, Entry, Forest, Grouping, Library, NodeKind, Orphan, forest};

/// Sums over all images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Images, members not counted.
    pub images: usize,
    /// Bytes guests see, as far as known.
    pub virtual_size: u64,
    /// Bytes on the host.
    pub on_disk: u64,
    /// Images that cannot be read.
    pub broken: usize,
    /// Images with warnings.
    pub warned: usize,
    /// Images in use now.
    pub in_use: usize,
}

/// State of the library's screen.
#[derive(Debug, Clone, Default)]
pub struct LibraryState {
    /// What is known.
    pub data: Library,
    /// How it is grouped.
    pub grouping: Grouping,
    /// By what it is sorted, and whether downwards.
    pub sort: (Column, bool),
    /// The filter.
    pub filter: Input,
    /// Only images with something wrong.
    pub problems: bool,
    /// What is folded.
    pub folded: HashSet<NodeKind>,
    /// The forest of `data`, siblings sorted.
    pub sorted: Sorted,
    /// The rows shown, in order.
    pub rows: Vec<Row>,
    /// Images that match the filter.
    pub matched: usize,
    /// Cursor and window.
    pub scroll: Scroll,
    /// Scroll of the detail strip.
    pub detail: Scroll,
    /// Sums.
    pub totals: Totals,
    /// Overlays that seem to be of no use.
    pub orphans: Vec<Orphan>,
    /// Images that are there more than once.
    pub duplicates: Vec<Duplicates>,
    /// True until the first scan has ended.
    pub loading: bool,
}

impl LibraryState {
    /// Takes a newer library in; `forest` when it was made for the grouping shown.
    pub fn replace(&mut self, data: Library, made: Option<Forest>) {
        self.data = data;
        self.loading = self.data.scanning && self.loading;
        self.count();
        self.regroup(made);
    }

    /// Sums anew, after locks changed.
    pub fn count(&mut self) {
        self.totals = totals(&self.data);
    }

    /// Makes forest and rows anew after data, grouping or sorting changed.
    pub fn regroup(&mut self, made: Option<Forest>) {
        // Before the forest changes: rows count its nodes.
        let kept = self.selected_kind().cloned();
        let made = made.unwrap_or_else(|| forest(&self.data, self.grouping));
        self.sorted = Sorted::new(&self.data, made, self.sort);
        self.rebuild(kept);
    }

    /// Makes the rows anew after filter or folds changed; the cursor stays on what it was on, or goes to what is nearest.
    pub fn refresh(&mut self) {
        self.rebuild(self.selected_kind().cloned());
    }

    fn rebuild(&mut self, kept: Option<NodeKind>) {
        let wanted = self.wanted();
        let rows = visible(&self.sorted, &self.folded, wanted.as_ref());
        self.matched = match &wanted {
            Some(set) => set.len(),
            None => self.totals.images,
        };
        self.rows = rows;
        let at = kept.and_then(|k| self.rows.iter().position(|r| self.kind(r) == Some(&k)));
        // While a filter is typed the cursor goes to the first that matches, not to a folder above it.
        let first = || self.rows.iter().position(|r| r.matched);
        let at = match at {
            Some(i) if wanted.is_none() || self.rows.get(i).is_some_and(|r| r.matched) => Some(i),
            other => {
                if wanted.is_some() {
                    first().or(other)
                } else {
                    other
                }
            }
        };
        self.scroll.go(at.unwrap_or(self.scroll.at), self.rows.len());
    }

    /// The nodes that pass filter and problem view; `None` when everything does.
    fn wanted(&self) -> Option<HashSet<usize>> {
        if self.filter.is_empty() && !self.problems {
            return None;
        }
        let mut fuzzy = (!self.filter.is_empty()).then(|| Fuzzy::new(self.filter.text()));
        let mut text = String::new();
        let mut out = HashSet::new();
        for (index, entry) in self.sorted.entries(&self.data) {
            if self.problems && !has_problem(entry) {
                continue;
            }
            if let Some(fuzzy) = &mut fuzzy {
                self.haystack(entry, &mut text);
                if fuzzy.score(&text).is_none() {
                    continue;
                }
            }
            out.insert(index);
        }
        Some(out)
    }

    /// What the filter looks at: path below the root, and format.
    fn haystack(&self, entry: &Entry, out: &mut String) {
        use std::fmt::Write as _;
        out.clear();
        let below = self.data.roots.get(entry.root).and_then(|r| entry.folder().strip_prefix(&r.real).ok());
        let _ = match below.filter(|b| !b.as_os_str().is_empty()) {
            Some(b) => write!(out, "{}/{}", b.display(), entry.name),
            None => write!(out, "{}", entry.name),
        };
        if let Some(f) = entry.format() {
            let _ = write!(out, " {f}");
        }
    }

    /// What a row stands for.
    pub fn kind(&self, row: &Row) -> Option<&NodeKind> {
        self.sorted.forest.nodes.get(row.node).map(|n| &n.kind)
    }
    /// What the cursor is on.
    pub fn selected_kind(&self) -> Option<&NodeKind> {
        self.kind(self.rows.get(self.scroll.at)?)
    }
    /// The entry of a row.
    pub fn entry(&self, row: &Row) -> Option<&Entry> {
        match self.kind(row)? {
            NodeKind::Entry(id) => self.data.get(*id),
            _ => None,
        }
    }
    /// The image the cursor is on.
    pub fn selected(&self) -> Option<&Entry> {
        self.entry(self.rows.get(self.scroll.at)?)
    }
}

/// Something a person should look at.
pub fn has_problem(entry: &Entry) -> bool {
    !matches!(entry.health, crate::engine::library::Health::Ok)
}

fn totals(data: &Library) -> Totals {
    use crate::engine::library::Health;
    let mut t = Totals::default();
    for e in data.iter().filter(|e| e.part_of.is_none()) {
        t.images += 1;
        t.virtual_size = t.virtual_size.saturating_add(e.virtual_size().unwrap_or(0));
        t.on_disk = t.on_disk.saturating_add(e.actual_size);
        match e.health {
            Health::Broken(_) => t.broken += 1,
            Health::Warning(_) => t.warned += 1,
            Health::Ok => {}
        }
        t.in_use += usize::from(e.lock.in_use());
    }
    t
}
