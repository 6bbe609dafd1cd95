//! The names of an XFS filesystem against its inodes: every name leads to an inode in use of the kind it says, every inode has as many
//! as it counts, and every folder hangs in one place below the root.

use fs_xfs::Filesystem;
use fs_xfs::inode::{FileType, Inode};

use super::xfs_check::{DISAGREE, Doubt, Sound, require};
use super::xfs_index;

/// No folder.
const NONE: u32 = u32::MAX;

/// An inode in use.
pub(super) struct Seen {
    ino: u64,
    /// Links it says it has, and the names found for it: of a folder, the folders in it.
    links: u32,
    names: u32,
    /// The folder that holds it, of a folder: by its number in the list. As it says itself, or as its name says.
    above: u32,
    /// A name was found for it.
    named: bool,
    kind: Option<FileType>,
}

impl Seen {
    pub(super) fn new(inode: &Inode) -> Self {
        Seen { ino: inode.ino, links: inode.nlink, names: 0, above: NONE, named: false, kind: inode.file_type() }
    }

    pub(super) fn ino(&self) -> u64 {
        self.ino
    }

    fn folder(&self) -> bool {
        self.kind == Some(FileType::Directory)
    }

    /// The folder above it is number `dir`: so says its name or itself, and the other must agree.
    fn hangs_below(&mut self, dir: u32) -> Sound {
        require(self.above == NONE || self.above == dir)?;
        self.above = dir;
        Ok(())
    }
}

/// Errors: the folders of `fs` do not lead to `inodes` (ascending) as they should. They are read in the order of the volume.
pub(super) fn agree(fs: &Filesystem, inodes: &mut [Seen]) -> Sound {
    let sb = fs.superblock();
    let number = |inodes: &[Seen], ino: u64| inodes.binary_search_by_key(&ino, |s| s.ino).map_err(|_| DISAGREE);
    let root = number(inodes, sb.rootino)?;
    require(inodes.len() < NONE as usize && inodes.get(root).is_some_and(Seen::folder))?;
    let mut raw = vec![0; usize::from(sb.inodesize)];
    for at in 0..inodes.len() {
        let Some(Seen { ino, .. }) = inodes.get(at).filter(|s| s.folder()) else { continue };
        let ino = *ino;
        fs.device().read_at(fs.inode_offset(ino)?, &mut raw)?;
        let inode = Inode::parse(&raw, sb, ino)?;
        let mut folders = 0;
        xfs_index::agrees(fs, &inode, &raw, &mut |entry| {
            let other = number(inodes, entry.ino)?;
            if entry.name == b"." {
                return require(entry.ino == ino);
            }
            if entry.name == b".." {
                require(inodes.get(other).is_some_and(Seen::folder))?;
                return inodes.get_mut(at).map_or(Ok(()), |s| s.hangs_below(other as u32));
            }
            let target = inodes.get_mut(other).ok_or(DISAGREE)?;
            require(entry.kind.is_none() || entry.kind == target.kind)?;
            if target.folder() {
                require(!target.named && other != root)?;
                target.hangs_below(at as u32)?;
                folders += 1;
            } else {
                target.names += 1;
            }
            target.named = true;
            Ok(())
        })?;
        inodes.get_mut(at).ok_or(DISAGREE)?.names = folders;
    }
    // The root is above itself, and has no name.
    require(inodes.get(root).is_some_and(|s| s.above == root as u32))?;
    inodes.get_mut(root).ok_or(DISAGREE)?.named = true;
    // The files of the realtime section are there without one, and without a name.
    let nameless = [sb.rbmino, sb.rsumino];
    let right = |s: &Seen| s.named && s.links == s.names + if s.folder() { 2 } else { 0 };
    require(inodes.iter().all(|s| nameless.contains(&s.ino) || right(s)))?;
    below_root(inodes, root)
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
            at = inodes.get(at).map_or(usize::MAX, |s| s.above as usize);
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
