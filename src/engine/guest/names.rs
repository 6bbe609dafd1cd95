//! The names of folders that are looked into again and again, so that a file found by its path does not mean reading its folder through
//! each time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use super::fs::{DirEntry, Node};
use super::tree::Spot;
use crate::engine::error::Result;

/// Folders kept in mind, at most.
const FOLDERS: usize = 32;
/// A folder's names are read when it is looked into that often.
const LOOKS: u32 = 3;
/// Names kept, at most, of all folders.
const NAMES: usize = 1_000_000;

/// Folders lately looked into, the last one first. For filesystems that nobody changes meanwhile.
#[derive(Default)]
pub(super) struct Names(Mutex<VecDeque<Folder>>);

struct Folder {
    spot: Spot,
    looks: u32,
    /// All its names, once they were read.
    names: Option<HashMap<Vec<u8>, Node>>,
}

impl Names {
    /// What `name` stands for in `dir`, `Some(None)` where there is no such name; `None` when that is not kept: it is for the
    /// filesystem to say. `list` reads the folder.
    pub(super) fn find(&self, dir: Spot, name: &[u8], list: impl FnOnce() -> Result<Vec<DirEntry>>) -> Option<Option<Node>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut folder = match all.iter().position(|f| f.spot == dir).and_then(|i| all.remove(i)) {
            Some(known) => known,
            None => Folder { spot: dir, looks: 0, names: None },
        };
        folder.looks = folder.looks.saturating_add(1);
        if folder.looks == LOOKS {
            // Where it cannot be read, the filesystem will say so.
            folder.names = list().ok().filter(|all| all.len() <= NAMES).map(|all| {
                let mut names = HashMap::with_capacity(all.len());
                all.into_iter().for_each(|e| {
                    names.entry(e.name).or_insert(e.node);
                });
                names
            });
        }
        let found = folder.names.as_ref().map(|names| names.get(name).copied());
        all.push_front(folder);
        let (mut folders, mut names) = (0, 0);
        all.retain(|f| {
            folders += 1;
            names += f.names.as_ref().map_or(0, HashMap::len);
            folders <= FOLDERS && names <= NAMES
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(node: Node) -> Spot {
        Spot { mount: 0, node }
    }

    #[test]
    fn a_folder_is_read_once_and_not_for_a_few_looks() {
        let names = Names::default();
        let mut reads = 0;
        let entries = || vec![DirEntry { name: b"a".to_vec(), node: 5 }, DirEntry { name: b"a".to_vec(), node: 6 }];
        for i in 1..=20 {
            let found = names.find(spot(1), b"a", || {
                reads += 1;
                Ok(entries())
            });
            assert_eq!(found, (i >= LOOKS).then_some(Some(5)), "look {i}: the first of two");
        }
        assert_eq!((reads, names.find(spot(1), b"b", || Ok(entries()))), (1, Some(None)));
        // Others push it out, and then it is as new.
        for other in 2..=FOLDERS as u64 + 1 {
            assert_eq!(names.find(spot(other), b"a", || Ok(entries())), None);
        }
        assert_eq!(names.find(spot(1), b"a", || Ok(entries())), None);
        assert_eq!(names.0.lock().unwrap().len(), FOLDERS);
    }

    #[test]
    fn no_more_names_are_kept_than_there_is_room_for() {
        let names = Names::default();
        let many = |n: usize| move || Ok((0..n).map(|i| DirEntry { name: i.to_string().into_bytes(), node: i as u64 }).collect());
        let look = |dir, n| (0..LOOKS).map(|_| names.find(spot(dir), b"7", many(n))).last().unwrap();
        assert_eq!(look(1, NAMES + 1), None, "more than all that are kept");
        assert_eq!((look(2, NAMES / 2), look(3, NAMES / 2)), (Some(Some(7)), Some(Some(7))));
        assert_eq!(names.find(spot(2), b"x", many(0)), Some(None));
        assert_eq!(look(4, 10), Some(Some(7)));
        assert_eq!(names.find(spot(2), b"7", many(0)), Some(Some(7)), "lately looked into");
        assert_eq!(names.find(spot(3), b"7", many(0)), None, "pushed out");
    }

    #[test]
    fn a_folder_that_cannot_be_read_is_for_the_filesystem_to_tell() {
        let names = Names::default();
        for _ in 0..2 * LOOKS {
            assert_eq!(names.find(spot(1), b"a", || Err(crate::engine::error::Error::corrupt("no names"))), None);
        }
    }
}
