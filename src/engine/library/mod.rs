//! The library: images below some roots, how they hang together, who uses them.
//!
//! [`scan`] walks the roots on threads of its own and hands out [`ScanEvent`]s; [`Library::apply`] takes them in, so a
//! tree fills while the scan runs; [`Library::relink`] then joins children to parents. A file that did not change since the last scan is
//! not read: its facts come from the cache, whose file the caller names. The library knows formats only through their traits.

mod allocated;
mod cache;
mod duplicates;
mod entry;
mod finder;
mod graph;
mod link;
mod orphans;
mod read;
mod resolve;
mod scan;
mod users;
mod walk;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::io::locks::LockState;
use super::units::printable;
pub use allocated::allocated;
pub use duplicates::{Duplicates, Sameness, duplicates};
pub use entry::{Backing, Candidate, Entry, EntryId, EntryKind, Facts, Health, Link, Member, Stamp};
pub use finder::{Finder, Guess};
pub use graph::{Forest, Grouping, Node, NodeKind, forest};
pub use orphans::{Orphan, OrphanReason, orphans};
pub use scan::{Found, Located, Progress, ScanEvent, ScanOptions, keep_allocated, scan};
pub use users::{Domain, DomainState, DomainUse, domains};

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
    /// Every folder the last complete scan walked: one that changes may hold an image now.
    pub folders: Vec<PathBuf>,
    /// Those the running scan walked so far.
    walked: Vec<PathBuf>,
    slots: Vec<Option<Entry>>,
    /// As plain strings, which are hashed faster than a path's parts.
    by_path: HashMap<OsString, EntryId>,
    /// Ids of paths whose files went away, should they come back.
    gone: HashMap<OsString, EntryId>,
    located: HashMap<PathBuf, Located>,
    /// Which scan saw each slot last.
    seen: Vec<u32>,
    scans: u32,
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
        self.get(*self.by_path.get(path.as_os_str())?)
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
            ScanEvent::Roots(roots) => {
                self.scanning = true;
                self.walked.clear();
                self.scans = self.scans.wrapping_add(1);
                if self.roots.iter().map(|r| &r.real).ne(roots.iter().map(|r| &r.real)) {
                    // Other roots: what was found belongs to folders that have other numbers now, or is not wanted any more.
                    let ids: Vec<EntryId> = self.iter().map(|e| e.id).collect();
                    ids.into_iter().for_each(|id| self.remove(id));
                }
                self.roots = roots;
            }
            ScanEvent::Progress(p) => self.progress = p,
            ScanEvent::Folder(folder) => self.walked.push(folder),
            ScanEvent::Domains(d) => self.domains = d,
            ScanEvent::Found(found) => found.into_iter().for_each(|f| self.insert(f)),
            ScanEvent::Located(all) => self.located.extend(all),
            ScanEvent::Done { complete, .. } => {
                self.scanning = false;
                if complete {
                    self.folders = std::mem::take(&mut self.walked);
                    let old = |e: &&Entry| self.seen.get(e.id.0 as usize) != Some(&self.scans);
                    let ids: Vec<EntryId> = self.iter().filter(old).map(|e| e.id).collect();
                    ids.into_iter().for_each(|id| self.remove(id));
                    self.located.retain(|child, _| self.by_path.contains_key(child.as_os_str()));
                }
            }
        }
    }

    fn insert(&mut self, f: Found) {
        let known = self.by_path.get(f.path.as_os_str()).copied().or_else(|| self.gone.remove(f.path.as_os_str()));
        let id = known.unwrap_or_else(|| EntryId(u32::try_from(self.slots.len()).unwrap_or(u32::MAX)));
        let at = id.0 as usize;
        if at >= self.slots.len() {
            self.slots.push(None);
            self.seen.push(0);
        }
        let (Some(slot), Some(seen)) = (self.slots.get_mut(at), self.seen.get_mut(at)) else { return };
        *seen = self.scans;
        // What was counted stays true while the file is the same.
        let counted = slot.as_ref().filter(|e| e.stamp == f.stamp).and_then(|e| e.allocated);
        let name = f.path.file_name().map_or_else(|| f.path.to_string_lossy(), |n| n.to_string_lossy());
        *slot = Some(Entry {
            id,
            kind: f.kind,
            root: f.root,
            name: printable(&name),
            facts: f.facts,
            stamp: f.stamp,
            actual_size: f.actual_size,
            allocated: f.allocated.or(counted),
            backing: None,
            children: Vec::new(),
            part_of: None,
            health: Health::Ok,
            lock: f.lock,
            users: Vec::new(),
            path: f.path.clone(),
        });
        self.by_path.insert(f.path.into(), id);
    }

    fn remove(&mut self, id: EntryId) {
        if let Some(e) = self.slots.get_mut(id.0 as usize).and_then(Option::take) {
            self.by_path.remove(e.path.as_os_str());
            self.gone.insert(e.path.into(), id);
        }
    }

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
