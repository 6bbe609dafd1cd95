//! The library: images below some roots, how they hang together, who uses them.
//!
//! [`scan`](scan::scan) walks the roots on threads of its own and hands out [`ScanEvent`]s; [`Library::apply`] takes them in, so a
//! tree fills while the scan runs; [`Library::relink`] then joins children to parents. A file that did not change since the last scan is
//! not read: its facts come from the cache, whose file the caller names. The library knows formats only through their traits.

pub mod entry;
pub mod graph;
pub mod scan;
pub mod users;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::io::locks::LockState;
pub use entry::{Backing, Candidate, Entry, EntryId, EntryKind, Facts, Health, Link, Member, Stamp};
pub use graph::{Forest, Grouping, Node, NodeKind, forest};
pub use scan::{Progress, ScanEvent, ScanOptions, scan};
pub use users::{Domain, DomainState, DomainUse};

/// A folder or image the library was opened on.
#[derive(Debug, Clone)]
pub struct Root {
    /// As it was given.
    pub path: PathBuf,
    /// Without symbolic links; as given when it cannot be resolved.
    pub real: PathBuf,
    /// Why it cannot be read.
    pub error: Option<Error>,
    /// Bytes free on its filesystem; `None` when not known.
    pub free: Option<u64>,
}

/// Images below some roots, as far as they were scanned.
#[derive(Debug, Clone, Default)]
pub struct Library {
    /// What it was opened on.
    pub roots: Vec<Root>,
    /// Counts of the last scan, or of the one that runs.
    pub progress: Progress,
    /// True from the first event of a scan to its last.
    pub scanning: bool,
    /// Domains that were found.
    pub domains: Vec<Domain>,
    slots: Vec<Option<Entry>>,
    by_path: HashMap<PathBuf, EntryId>,
}

impl Library {
    /// An empty library.
    pub fn new() -> Self {
        Library::default()
    }
    /// The entry called `id`, if it is still there.
    pub fn get(&self, id: EntryId) -> Option<&Entry> {
        self.slots.get(id.0 as usize)?.as_ref()
    }
    /// The entry at `path` (a real path).
    pub fn at(&self, path: &Path) -> Option<&Entry> {
        self.get(*self.by_path.get(path)?)
    }
    /// Every entry, members of other images too (see [`Entry::part_of`]), in the order they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter().flatten()
    }
    /// Number of entries, members not counted.
    pub fn len(&self) -> usize {
        self.iter().filter(|e| e.part_of.is_none()).count()
    }
    /// True when nothing was found.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
    /// Takes a scan's event in. Links, children and health are up to date only after [`Library::relink`] (cheap enough to
    /// call once per drawn frame while a scan runs).
    pub fn apply(&mut self, event: ScanEvent) {
        match event {
            ScanEvent::Roots(roots) => self.roots = roots,
            ScanEvent::Progress(p) => self.progress = p,
            ScanEvent::Domains(d) => self.domains = d,
            _ => {}
        }
    }
    /// Joins children to parents, members to images, domains to disks, and says how healthy each is. Reads no image.
    pub fn relink(&mut self) {}
    /// Notes who holds `id` now (asked with [`crate::engine::io::locks`]).
    pub fn set_lock(&mut self, id: EntryId, lock: LockState) {
        if let Some(entry) = self.slots.get_mut(id.0 as usize).and_then(Option::as_mut) {
            entry.lock = lock;
        }
    }
    /// Notes how many bytes of guest data `id` stores itself.
    pub fn set_allocated(&mut self, id: EntryId, bytes: u64) {
        if let Some(entry) = self.slots.get_mut(id.0 as usize).and_then(Option::as_mut) {
            entry.allocated = Some(bytes);
        }
    }
}
