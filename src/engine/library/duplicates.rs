//! Images that are there more than once: the same file under two names, the same UUID, the same file name. Contents are not compared.

use std::collections::BTreeMap;

use super::Library;
use super::entry::{Entry, EntryId};

/// What several images have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sameness {
    /// The very same file (hard links): device and inode.
    File(u64, u64),
    /// A UUID that should be unique: one was copied from another.
    Uuid(String),
    /// The file name, in different folders.
    Name(String),
}

/// A group of images with something in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicates {
    /// What they have in common.
    pub sameness: Sameness,
    /// Two or more, by path.
    pub ids: Vec<EntryId>,
}

/// Every group of duplicates. An image may be in several; the strongest sameness comes first.
pub fn duplicates(library: &Library) -> Vec<Duplicates> {
    let mut entries: Vec<&Entry> = library.iter().filter(|e| e.part_of.is_none() && e.facts.format.is_some()).collect();
    entries.sort_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
    let mut groups: BTreeMap<Sameness, Vec<EntryId>> = BTreeMap::new();
    for e in entries {
        let uuid = e.facts.identity.uuid.clone().map(Sameness::Uuid);
        let all = [Some(Sameness::File(e.stamp.dev, e.stamp.ino)), uuid, Some(Sameness::Name(e.name.to_lowercase()))];
        for sameness in all.into_iter().flatten() {
            groups.entry(sameness).or_default().push(e.id);
        }
    }
    groups.into_iter().filter(|(_, ids)| ids.len() > 1).map(|(sameness, ids)| Duplicates { sameness, ids }).collect()
}
