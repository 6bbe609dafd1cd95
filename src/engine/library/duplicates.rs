//! Images that are there more than once: the same file under two names, the same UUID, the same file name. Contents are not compared.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::Hash;

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
    let shown = || library.iter().filter(|e| e.part_of.is_none() && e.facts.format.is_some());
    let mut groups = groups(shown(), |e| Some((e.stamp.dev, e.stamp.ino)), |(dev, ino)| Sameness::File(dev, ino));
    groups.extend(self::groups(shown(), |e| e.facts.identity.uuid.as_deref(), |uuid| Sameness::Uuid(uuid.to_string())));
    groups.extend(self::groups(shown(), |e| Some(lowercase(&e.name)), |name| Sameness::Name(name.into_owned())));
    for g in &mut groups {
        g.ids.sort_by_key(|id| library.get(*id).map(|e| e.path.as_os_str()));
    }
    groups.sort_by(|a, b| a.sameness.cmp(&b.sameness));
    groups
}

/// Two or more entries with the same key.
fn groups<'a, K: Eq + Hash>(
    entries: impl Iterator<Item = &'a Entry>,
    key: impl Fn(&'a Entry) -> Option<K>,
    name: impl Fn(K) -> Sameness,
) -> Vec<Duplicates> {
    let mut all: HashMap<K, Vec<EntryId>> = HashMap::new();
    for e in entries {
        if let Some(key) = key(e) {
            all.entry(key).or_default().push(e.id);
        }
    }
    let several = all.into_iter().filter(|(_, ids)| ids.len() > 1);
    several.map(|(key, ids)| Duplicates { sameness: name(key), ids }).collect()
}

/// Names that differ in case alone are one name.
fn lowercase(name: &str) -> Cow<'_, str> {
    let plain = name.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase());
    if plain { Cow::Borrowed(name) } else { Cow::Owned(name.to_lowercase()) }
}
