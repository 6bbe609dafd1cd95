//! Joining the entries: members to their images, children to parents, domains to disks; and from that the health of each. Pure: what
//! the disk had to say is in the entries and in what the scan located.

use std::collections::HashMap;
use std::path::PathBuf;

use super::entry::{Backing, Candidate, EntryId, EntryKind, Health, Link};
use super::finder::Finder;
use super::resolve::plain_target;
use super::scan::Located;
use super::users::DomainUse;
use super::{Entry, Library};
use crate::engine::chain::check_identity;
use crate::engine::error::{Error, ErrorKind};
use crate::engine::io::gate::missing;
use crate::engine::model::{BackingRef, ParentIdentity};

impl Library {
    /// Joins children to parents, members to images, domains to disks, and says how healthy each is. Reads no image.
    pub fn relink(&mut self) {
        self.join_members();
        self.join_parents();
        self.mark_loops();
        self.list_children();
        self.judge_health();
        self.join_domains();
    }

    fn join_members(&mut self) {
        let mut parts = HashMap::new();
        for e in self.iter() {
            for m in &e.facts.members {
                if let Some(id) = self.by_path.get(m.path.as_os_str()).filter(|id| **id != e.id) {
                    parts.insert(*id, e.id);
                }
            }
        }
        for e in self.slots.iter_mut().flatten() {
            e.part_of = parts.get(&e.id).copied();
        }
    }

    fn join_parents(&mut self) {
        let mut by_uuid: HashMap<&str, Vec<EntryId>> = HashMap::new();
        for e in self.iter() {
            if let Some(uuid) = e.facts.identity.uuid.as_deref() {
                by_uuid.entry(uuid).or_default().push(e.id);
            }
        }
        let mut finder = None;
        let links: Vec<(EntryId, Link)> = self
            .iter()
            .filter_map(|e| Some((e, e.facts.backing.as_ref()?)))
            .map(|(e, reference)| {
                let mut link = self.lead(e, reference, &by_uuid);
                if let Link::Missing(_, candidates) = &mut link {
                    let guesses = finder.get_or_insert_with(|| Finder::new(self)).guesses(&e.path, reference);
                    let known = guesses.into_iter().filter_map(|g| Some((*self.by_path.get(g.path.as_os_str())?, g)));
                    candidates.extend(known.map(|(id, g)| Candidate { id, evidence: g.evidence, proven: g.proven }));
                }
                (e.id, link)
            })
            .collect();
        for e in self.slots.iter_mut().flatten() {
            e.backing = None;
        }
        for (id, link) in links {
            if let Some(e) = self.slot(id)
                && let Some(r) = &e.facts.backing
            {
                e.backing = Some(Backing { spelled: r.names.clone(), format: r.format.clone(), link });
            }
        }
    }

    /// Where `reference` of `child` leads.
    fn lead(&self, child: &Entry, reference: &BackingRef, by_uuid: &HashMap<&str, Vec<EntryId>>) -> Link {
        let path = plain_target(&child.path, reference, |p| self.by_path.contains_key(p.as_os_str()));
        let path: Option<PathBuf> = match (path, self.located.get(&child.path)) {
            (Some(path), _) => Some(path),
            (None, Some(Located::Path(path))) => Some(path.clone()),
            (None, Some(Located::Error(e))) => return broken(e.clone()),
            (None, None) => None,
        };
        let parent = match (&path, &reference.identity) {
            (Some(path), _) => self.by_path.get(path.as_os_str()).copied(),
            // Known by its UUID alone: the one with the right modification first, else any.
            (None, ParentIdentity::VdiUuids { image, .. }) if reference.names.is_empty() => {
                let all = by_uuid.get(image.as_str()).map_or(&[][..], Vec::as_slice);
                let right = |id: &&EntryId| {
                    self.get(**id)
                        .is_some_and(|p| check_identity(&reference.identity, &p.facts.identity, &p.path, &child.path).is_ok())
                };
                all.iter().find(right).or(all.first()).copied()
            }
            _ => None,
        };
        let Some(parent) = parent.and_then(|id| self.get(id)) else {
            return match (path, self.scanning) {
                (None, true) => Link::Pending,
                (None, false) if reference.names.is_empty() => {
                    let why = "no image in the library has the UUID of the one it stands on";
                    let hint = "open the folder that holds its parent as well";
                    Link::Missing(Error::new(ErrorKind::MissingReference, why).path(&child.path).hint(hint), Vec::new())
                }
                (path, _) => Link::Missing(missing(&path.unwrap_or_default(), &child.path), Vec::new()),
            };
        };
        match check_identity(&reference.identity, &parent.facts.identity, &parent.path, &child.path) {
            // A parent that cannot be opened says nothing about itself; its own error is what counts.
            Err(e) if parent.facts.error.is_none() => Link::Changed(parent.id, e),
            _ => Link::Entry(parent.id),
        }
    }

    fn parent(&self, id: EntryId) -> Option<EntryId> {
        self.get(id)?.backing.as_ref()?.link.entry()
    }

    /// Every entry has one parent at most, so a walk that meets its own steps has found a loop.
    fn mark_loops(&mut self) {
        let ids: Vec<EntryId> = self.iter().map(|e| e.id).collect();
        // The walk (by its first entry) that visited each entry.
        let mut visited: Vec<Option<EntryId>> = vec![None; self.slots.len()];
        let walk = |visited: &[Option<EntryId>], id: EntryId| visited.get(id.0 as usize).copied().flatten();
        let mut looping = Vec::new();
        for &start in &ids {
            let mut at = Some(start);
            while let Some(id) = at.filter(|id| walk(&visited, *id).is_none()) {
                let Some(slot) = visited.get_mut(id.0 as usize) else { break };
                *slot = Some(start);
                at = self.parent(id);
            }
            if let Some(entry) = at.filter(|id| walk(&visited, *id) == Some(start)) {
                let mut id = entry;
                loop {
                    looping.push(id);
                    match self.parent(id).filter(|p| *p != entry) {
                        Some(next) => id = next,
                        None => break,
                    }
                }
            }
        }
        for id in looping {
            if let Some(e) = self.slot(id)
                && let Some(backing) = &mut e.backing
                && let Some(parent) = backing.link.entry()
            {
                let error = Error::new(ErrorKind::Loop, "the chain comes back to an image that is in it already")
                    .path(&e.path)
                    .hint("one of the images in it names the wrong backing file: relink it");
                backing.link = Link::Loop(parent, error);
            }
        }
    }

    fn list_children(&mut self) {
        let mut pairs: Vec<(EntryId, EntryId)> = self.iter().filter_map(|e| Some((self.parent(e.id)?, e.id))).collect();
        let path = |id: EntryId| self.get(id).map(|e| e.path.clone());
        pairs.sort_by_cached_key(|(_, child)| path(*child));
        for e in self.slots.iter_mut().flatten() {
            e.children.clear();
        }
        for (parent, child) in pairs {
            if let Some(e) = self.slot(parent) {
                e.children.push(child);
            }
        }
    }

    /// An image is broken when it or anything below it is.
    fn judge_health(&mut self) {
        let ids: Vec<EntryId> = self.iter().map(|e| e.id).collect();
        // By slot; `None` is not known yet.
        let mut broken: Vec<Option<Option<Error>>> = vec![None; self.slots.len()];
        for &start in &ids {
            // Down to where the answer is known, then back up.
            let mut steps = Vec::new();
            let mut at = Some(start);
            let mut error = None;
            while let Some(id) = at {
                if let Some(Some(known)) = broken.get(id.0 as usize) {
                    error = known.clone();
                    break;
                }
                steps.push(id);
                at = self.get(id).filter(|e| own_error(e).is_none()).and_then(|_| self.parent(id));
            }
            for id in steps.into_iter().rev() {
                error = self.get(id).and_then(own_error).or(error);
                if let Some(slot) = broken.get_mut(id.0 as usize) {
                    *slot = Some(error.clone());
                }
            }
        }
        for (e, broken) in self.slots.iter_mut().zip(broken).filter_map(|(e, b)| Some((e.as_mut()?, b))) {
            e.health = match broken.flatten() {
                // Nothing is wrong with what we merely cannot read; what stands on it is out of reach all the same.
                Some(error) if !only_unread(e) => Health::Broken(error),
                _ => match warnings(e) {
                    w if w.is_empty() => Health::Ok,
                    w => Health::Warning(w),
                },
            };
        }
    }

    fn join_domains(&mut self) {
        let mut uses: HashMap<EntryId, Vec<DomainUse>> = HashMap::new();
        for d in &self.domains {
            for (path, target) in &d.disks {
                let mut at = self.by_path.get(path.as_os_str()).copied();
                let mut target = Some(target.clone());
                for _ in 0..crate::engine::limits::MAX_CHAIN {
                    let Some(id) = at else { break };
                    let list = uses.entry(id).or_default();
                    if target.is_some() || !list.iter().any(|u| u.domain == d.name) {
                        list.push(DomainUse { domain: d.name.clone(), state: d.state, target: target.take() });
                    }
                    at = self.parent(id);
                }
            }
        }
        for e in self.slots.iter_mut().flatten() {
            e.users = uses.remove(&e.id).unwrap_or_default();
        }
    }

    fn slot(&mut self, id: EntryId) -> Option<&mut Entry> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }
}

fn broken(e: Error) -> Link {
    match e.kind() {
        ErrorKind::MissingReference | ErrorKind::NotFound => Link::Missing(e, Vec::new()),
        ErrorKind::Gated => Link::Gated(e),
        _ => Link::Failed(e),
    }
}

/// What is wrong with the entry itself or with its own link.
fn own_error(e: &Entry) -> Option<Error> {
    e.facts.error.as_ref().or_else(|| e.backing.as_ref()?.link.error()).cloned()
}

/// Its only fault is that cowshed does not read its kind.
fn only_unread(e: &Entry) -> bool {
    e.facts.error.as_ref().is_some_and(|error| error.kind() == ErrorKind::Unsupported)
}

fn warnings(e: &Entry) -> Vec<String> {
    let mut out = e.facts.warnings.clone();
    if e.kind == EntryKind::Image && e.facts.corrupt {
        out.push("it says itself that it is damaged: check it".into());
    }
    if e.facts.dirty && e.facts.warnings.is_empty() {
        out.push("it was not closed properly".into());
    }
    out.extend(e.facts.error.as_ref().map(|error| error.why().to_string()));
    let recorded = e.backing.as_ref().is_none_or(|b| b.format.is_some());
    if !recorded && e.facts.format.is_some_and(|f| f.entry().caps.snapshots) {
        out.push("the format of its backing file is not recorded".into());
    }
    out
}
