//! Who owns a byte of the disk: which file or folder, which area of a filesystem's own, or nobody.
//!
//! The index is built once, by going through every file of every filesystem that can say where its files lie, and is bounded in
//! number; asking it is a search in a sorted list.

use std::collections::HashSet;
use std::sync::Arc;

use super::fs::{self, FileExtent, FileType, GuestFs, Node, Stat};
use super::recognise::FsKind;
use super::tree::Guest;
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::io::Device;
use crate::engine::spans::Set;

/// Files and folders of one filesystem, at most.
const MAX_FILES: usize = 1_000_000;
/// Pieces of files of the whole disk, at most.
const MAX_RUNS: usize = 4_000_000;
/// No folder holds it.
const TOP: u32 = u32::MAX;

/// Whose a byte is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// A file's or folder's.
    File {
        /// Its path as the guest sees it; as stored, hostile.
        path: Vec<u8>,
        /// Its inode number, where the filesystem has such.
        inode: Option<Node>,
    },
    /// An area of the filesystem's own.
    Own(&'static str),
}

struct File {
    folder: u32,
    inode: Option<Node>,
    name: Box<[u8]>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    start: u64,
    end: u64,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Own(&'static str),
    File(u32),
}

/// The index.
#[derive(Default)]
pub struct Owners {
    files: Vec<File>,
    runs: Vec<Run>,
    /// Not every file is in it: there are too many, or some could not be read.
    pub partial: bool,
}

impl std::fmt::Debug for Owners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Owners({} files, {} runs)", self.files.len(), self.runs.len())
    }
}

impl Owners {
    /// Goes through the filesystems of `disk`. `stop` is asked now and then.
    ///
    /// Errors: the disk cannot be read; `Cancelled` when `stop` says so. Damage in a filesystem leaves its files out.
    pub fn of(disk: &Device, stop: &dyn Fn() -> bool) -> Result<Owners> {
        let guest = Guest::open(disk)?;
        let mut out = Owners::default();
        for (i, volume) in guest.layout.volumes.iter().enumerate() {
            let mount = guest.mounts.iter().find(|m| m.volume == i && m.root == m.fs.root());
            let at = mount.map(|m| m.at.clone()).unwrap_or_default();
            let open = || volume.dev.clone().and_then(|d| fs::open(d).ok()).map(Arc::from);
            let Some(fs) = mount.map(|m| m.fs.clone()).or_else(open) else { continue };
            let base = out.files.len() as u32;
            let numbered = !matches!(fs.info().kind, FsKind::Fat12 | FsKind::Fat16 | FsKind::Fat32 | FsKind::Iso9660);
            let mut count = 0;
            let place = |runs: &mut Vec<Run>, e: &FileExtent, what: What| {
                volume.on_disk(e.place, e.len, |place, n| runs.push(Run { start: place, end: place + n, what }));
            };
            let own = fs.own_areas(&mut |name, at, len| {
                place(&mut out.runs, &FileExtent { offset: 0, place: at, len }, What::Own(name));
            });
            out.partial |= own.is_err();
            let gone = each(fs.as_ref(), stop, &mut |met: &Found<'_>| {
                if count >= MAX_FILES || out.runs.len() >= MAX_RUNS || out.files.len() >= TOP as usize {
                    out.partial = true;
                    return Ok(false);
                }
                count += 1;
                let inode = Some(met.stat.node).filter(|_| numbered);
                let id = out.files.len() as u32;
                let name = if met.folder == TOP { at.clone().into() } else { met.name.into() };
                out.files.push(File { folder: met.folder.checked_add(base).unwrap_or(TOP), inode, name });
                match &met.places {
                    Ok(all) => all.iter().for_each(|e| place(&mut out.runs, e, What::File(id))),
                    Err(_) => out.partial = true,
                }
                Ok(true)
            });
            match gone {
                Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
                Err(_) => out.partial = true,
                Ok(whole) => out.partial |= !whole,
            }
        }
        out.settle();
        Ok(out)
    }

    /// Puts the runs in order and apart; what several files share is given to the first.
    fn settle(&mut self) {
        self.runs.sort_unstable();
        let mut end = 0;
        self.runs.retain_mut(|r| {
            r.start = r.start.max(end);
            end = end.max(r.end);
            r.start < r.end
        });
        self.runs.shrink_to_fit();
    }

    /// Whose the byte `at` of the disk is; `None`: no file's and no area's that has a name.
    pub fn at(&self, at: u64) -> Option<Owner> {
        let i = self.runs.partition_point(|r| r.end <= at);
        let run = self.runs.get(i).filter(|r| r.start <= at)?;
        Some(match run.what {
            What::Own(name) => Owner::Own(name),
            What::File(id) => Owner::File { path: self.path(id), inode: self.files.get(id as usize)?.inode },
        })
    }

    /// One file at `start..end`.
    #[cfg(test)]
    pub(crate) fn sample(path: &[u8], inode: Node, start: u64, end: u64) -> Owners {
        let file = File { folder: TOP, inode: Some(inode), name: path.into() };
        Owners { files: vec![file], runs: vec![Run { start, end, what: What::File(0) }], partial: false }
    }

    fn path(&self, id: u32) -> Vec<u8> {
        let (mut names, mut id) = (Vec::new(), id);
        // Folders come before what is in them, so this ends.
        while let Some(f) = self.files.get(id as usize) {
            names.push(f.name.as_ref());
            if f.folder >= id {
                break;
            }
            id = f.folder;
        }
        let path: Vec<u8> = names.iter().rev().copied().collect::<Vec<_>>().join(b"/".as_slice());
        if path.is_empty() { b"/".to_vec() } else { path }
    }
}

/// A file met.
struct Found<'a> {
    /// The number of the folder that holds it, counted as they are met; [`TOP`] for the root.
    folder: u32,
    name: &'a [u8],
    stat: &'a Stat,
    places: Result<Vec<FileExtent>>,
}

/// Calls `visit` once for every file and folder of `fs` that takes space, the root first and folders before what is in them; it
/// says whether to go on. False when something could not be read, or `visit` ended it.
fn each(fs: &dyn GuestFs, stop: &dyn Fn() -> bool, visit: &mut dyn FnMut(&Found<'_>) -> Result<bool>) -> Result<bool> {
    let root = fs.root();
    let stat = fs.stat(root)?;
    if !visit(&Found { folder: TOP, name: b"", stat: &stat, places: fs.allocated(root) })? {
        return Ok(false);
    }
    let (mut whole, mut count) = (true, 1u32);
    // Files of several names, and folders, which damage may lead back to.
    let mut seen: HashSet<Node> = HashSet::from([root]);
    let mut todo = vec![(root, 0u32)];
    while let Some((dir, folder)) = todo.pop() {
        let Ok(entries) = fs.list(dir) else {
            whole = false;
            continue;
        };
        for e in entries {
            if stop() {
                return Err(Error::new(ErrorKind::Cancelled, "stopped"));
            }
            let Ok(stat) = fs.stat(e.node) else {
                whole = false;
                continue;
            };
            if !matches!(stat.kind, FileType::File | FileType::Folder) {
                continue;
            }
            if (stat.kind == FileType::Folder || stat.links > 1) && !seen.insert(e.node) {
                continue;
            }
            if !visit(&Found { folder, name: &e.name, stat: &stat, places: fs.allocated(e.node) })? {
                return Ok(false);
            }
            if stat.kind == FileType::Folder {
                todo.push((e.node, count));
            }
            count = count.saturating_add(1);
        }
    }
    Ok(whole)
}

/// The first file of `fs` that has a part in one of `free`'s ranges (bytes of the volume), by its name and number. It is how free
/// space that a damaged filesystem only thinks it has is found out before it is given away.
///
/// Errors: a file cannot be read; `Cancelled`.
pub fn first_in(fs: &Arc<dyn GuestFs>, free: &Set, stop: &dyn Fn() -> bool) -> Result<Option<(Vec<u8>, Node)>> {
    let mut hit = None;
    let whole = each(fs.as_ref(), stop, &mut |met| {
        for e in met.places.as_ref().map_err(Error::clone)? {
            if free.within(e.place, e.place.saturating_add(e.len)).next().is_some() {
                hit = Some((met.name.to_vec(), met.stat.node));
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    match hit {
        None if !whole => Err(Error::corrupt("a file or folder of it cannot be read")),
        hit => Ok(hit),
    }
}
