//! The names of folders that are looked into again and again, so that a file found by its path does not mean reading its folder through
//! each time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use super::fs::{DirEntry, Node};
use super::tree::Spot;
use crate::engine::error::Result;

/// Folders kept in mind, at most.
const FOLDERS: usize = 8;
/// A folder's names are read after it was looked into that often.
const LOOKS: u32 = 8;
/// Names of one folder kept, at most.
const NAMES: usize = 200_000;

/// Folders lately looked into, the last one first. For filesystems that nobody changes meanwhile.
#[derive(Default)]
pub(super) struct Names(Mutex<VecDeque<Folder>>);

struct Folder {
    spot: Spot,
    looks: u32,
    names: HashMap<Vec<u8>, Node>,
}

impl Names {
    /// What `name` stands for in `dir`; `None` when that is not kept: it is for the filesystem to say. `list` reads the folder.
    pub(super) fn find(&self, dir: Spot, name: &[u8], list: impl FnOnce() -> Result<Vec<DirEntry>>) -> Option<Node> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut folder = match all.iter().position(|f| f.spot == dir).and_then(|i| all.remove(i)) {
            Some(known) => known,
            None => Folder { spot: dir, looks: 0, names: HashMap::new() },
        };
        folder.looks = folder.looks.saturating_add(1);
        if folder.looks == LOOKS {
            // Where it cannot be read, the filesystem will say so.
            for e in list().unwrap_or_default().into_iter().take(NAMES) {
                folder.names.entry(e.name).or_insert(e.node);
            }
        }
        let found = folder.names.get(name).copied();
        all.push_front(folder);
        all.truncate(FOLDERS);
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
            assert_eq!(found, (i >= LOOKS).then_some(5), "look {i}: the first of two");
        }
        assert_eq!((reads, names.find(spot(1), b"b", || Ok(entries()))), (1, None));
        // Others push it out, and then it is as new.
        for other in 2..=FOLDERS as u64 + 1 {
            assert_eq!(names.find(spot(other), b"a", || Ok(entries())), None);
        }
        assert_eq!(names.find(spot(1), b"a", || Ok(entries())), None);
        assert_eq!(names.0.lock().unwrap().len(), FOLDERS);
    }
}
