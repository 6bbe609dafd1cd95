//! The names of an XFS filesystem against its inodes: every name leads to an inode in use of the kind it says, every inode has as many
//! as it counts, and every folder hangs in one place below the root.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use fs_xfs::Filesystem;
use fs_xfs::inode::{FileType, Inode};

use super::xfs_check::{DISAGREE, Doubt, Sound, require};
use super::{side_by_side, xfs_index};

/// No folder.
const NONE: u32 = u32::MAX;

/// An inode in use.
pub(super) struct Seen {
    ino: u64,
    /// Links it says it has, and the names found for it: of a folder, the folders in it.
    links: u32,
    names: AtomicU32,
    /// The folder that holds it, of a folder: by its number in the list. As it says itself, or as its name says.
    above: AtomicU32,
    /// A name was found for it.
    named: AtomicBool,
    kind: Option<FileType>,
}

impl Seen {
    pub(super) fn new(inode: &Inode) -> Self {
        let (ino, links, kind) = (inode.ino, inode.nlink, inode.file_type());
        Seen { ino, links, names: AtomicU32::new(0), above: AtomicU32::new(NONE), named: AtomicBool::new(false), kind }
    }

    pub(super) fn ino(&self) -> u64 {
        self.ino
    }

    fn folder(&self) -> bool {
        self.kind == Some(FileType::Directory)
    }

    /// The folder above it is number `dir`: so says its name or itself, and the other must agree.
    fn hangs_below(&self, dir: u32) -> Sound {
        self.above.compare_exchange(NONE, dir, Relaxed, Relaxed).map_or_else(|known| require(known == dir), |_| Ok(()))
    }
}

/// The number in `inodes` of the inode `ino`.
fn number(inodes: &[Seen], ino: u64) -> Result<usize, Doubt> {
    inodes.binary_search_by_key(&ino, |s| s.ino).map_err(|_| DISAGREE)
}

/// Errors: the folders of `fs` do not lead to `inodes` (ascending) as they should. They are read in the order of the volume.
pub(super) fn agree(fs: &Filesystem, inodes: &[Seen]) -> Sound {
    const AT_ONCE: usize = 128;
    let sb = fs.superblock();
    let root = number(inodes, sb.rootino)?;
    require(inodes.len() < NONE as usize && inodes.get(root).is_some_and(Seen::folder))?;
    side_by_side(inodes.len().div_ceil(AT_ONCE), |part| {
        let here = part * AT_ONCE..inodes.len().min((part + 1) * AT_ONCE);
        here.into_iter().try_for_each(|at| folder(fs, inodes, root, at))
    })?;
    // The root is above itself, and has no name.
    let top = inodes.get(root).ok_or(DISAGREE)?;
    require(top.above.load(Relaxed) == root as u32)?;
    top.named.store(true, Relaxed);
    // The files of the realtime section are there without one, and without a name.
    let nameless = [sb.rbmino, sb.rsumino];
    let right = |s: &Seen| s.named.load(Relaxed) && s.links == s.names.load(Relaxed) + if s.folder() { 2 } else { 0 };
    require(inodes.iter().all(|s| nameless.contains(&s.ino) || right(s)))?;
    below_root(inodes, root)
}

/// The names in inode number `at`, where it is a folder; number `root` is the root.
fn folder(fs: &Filesystem, inodes: &[Seen], root: usize, at: usize) -> Sound {
    let Some(this) = inodes.get(at).filter(|s| s.folder()) else { return Ok(()) };
    let mut raw = vec![0; usize::from(fs.superblock().inodesize)];
    fs.device().read_at(fs.inode_offset(this.ino)?, &mut raw)?;
    let inode = Inode::parse(&raw, fs.superblock(), this.ino)?;
    // Names that stand together mostly lead to inodes that do.
    let mut next = at;
    xfs_index::agrees(fs, &inode, &raw, &mut |entry| {
        let other = match inodes.get(next) {
            Some(s) if s.ino == entry.ino => next,
            _ => number(inodes, entry.ino)?,
        };
        next = other + 1;
        let target = inodes.get(other).ok_or(DISAGREE)?;
        if entry.name == b"." {
            return require(entry.ino == this.ino);
        }
        if entry.name == b".." {
            require(target.folder())?;
            return this.hangs_below(other as u32);
        }
        require(entry.kind.is_none() || entry.kind == target.kind)?;
        let named = target.named.swap(true, Relaxed);
        if target.folder() {
            require(!named && other != root)?;
            target.hangs_below(at as u32)?;
        }
        let counts = if target.folder() { this } else { target };
        counts.names.fetch_add(1, Relaxed);
        Ok(())
    })
}

/// From every folder the way up leads to the root.
fn below_root(inodes: &[Seen], root: usize) -> Result<(), Doubt> {
    let mut known = vec![false; inodes.len()];
    if let Some(k) = known.get_mut(root) {
        *k = true;
    }
    for (from, _) in inodes.iter().enumerate().filter(|(_, s)| s.folder()) {
        let (mut at, mut way) = (from, Vec::new());
        while known.get(at) == Some(&false) {
            // In a circle, the way becomes longer than there are folders.
            require(way.len() <= inodes.len())?;
            way.push(at);
            at = inodes.get(at).map_or(usize::MAX, |s| s.above.load(Relaxed) as usize);
        }
        require(at < inodes.len())?;
        for step in way {
            if let Some(k) = known.get_mut(step) {
                *k = true;
            }
        }
    }
    Ok(())
}
