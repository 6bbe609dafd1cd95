//! Removing many names from XFS (version 5) that nobody has mounted, each structure written once.
//!
//! ```text
//!  folders   names go out of their blocks; what is left moves together, the index is made anew       (folder.rs, names.rs, index.rs, map.rs)
//!  inodes    one name less, or cleared; a chunk of inodes with none in use is given back             (inode.rs)
//!  groups    trees of free space, owners and inodes are laid anew; their heads and counts follow     (group.rs, tree.rs, records.rs)
//! ```
//!
//! Structures and their rules: "XFS Algorithms & Data Structures". Reading, and the layout of trees, are the crate's. The log is not
//! used: whoever calls gives a draft, and it commits. What is not known here (quotas, shared extents, a realtime section, names with
//! links back) is left to the crate, which removes one by one.

mod folder;
mod group;
mod index;
mod inode;
mod map;
mod names;
mod records;
mod tree;

use std::collections::{BTreeMap, HashMap, HashSet};

use fs_xfs::{Filesystem, Superblock};

use folder::Folder;
use group::{Change, Group};
use inode::{Entry, Run};
use records::Piece;

use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::guest::fs::xfs::mount;
use crate::engine::guest::fs::xfs_check::{COUNTS_INODE_BLOCKS, LAZY_COUNTERS};
use crate::engine::guest::fs::xfs_scrub::stamp_crc;
use crate::engine::guest::fs::{Node, Removal, guarded};
use crate::engine::io::bytes::{be64, put_be64};
use crate::engine::io::{Device, WriteAt, WriteDevice, read_vec};
use crate::engine::units::printable_bytes;

/// Features that change what is stored and are known here: types of names, sparse chunks of inodes, a second UUID, wider times, wider
/// counts of extents.
const KNOWN: u32 = 1 | 2 | 4 | 8 | 32;
/// The first of them, without which names are stored otherwise.
const TYPED: u32 = 1;
/// The same for what others may read but not write: trees of free inodes, of owners, of shared extents; counts of inode trees' blocks.
const KNOWN_RO: u32 = 1 | 2 | 4 | COUNTS_INODE_BLOCKS;
/// Blocks of a filesystem, at most.
const MAX_BLOCKS: u64 = 1 << 36;
/// Where the superblock counts inodes, free ones, and free blocks, and has its checksum.
const COUNTS: usize = 128;
const SB_CRC: usize = 224;

/// The filesystem that is changed.
struct Volume<'a> {
    dev: &'a dyn WriteAt,
    fs: &'a Filesystem,
    sb: &'a Superblock,
}

impl Volume<'_> {
    /// Byte on the volume of block `block` of group `ag`.
    fn group_place(&self, ag: u32, block: u32) -> u64 {
        let before = u64::from(ag) * u64::from(self.sb.agblocks);
        before.saturating_add(block.into()).saturating_mul(self.sb.blocksize.into())
    }
    /// A block, by the number extents have for it.
    fn read_block(&self, block: u64) -> std::result::Result<Vec<u8>, fs_xfs::Error> {
        let mut raw = vec![0; self.sb.blocksize as usize];
        self.fs.device().read_at(self.sb.fsblock_offset(block), &mut raw)?;
        Ok(raw)
    }
    /// Bytes of a block of a folder.
    fn folder_len(&self) -> usize {
        (self.sb.blocksize as usize) << self.sb.dirblklog
    }
    /// The block of a folder that begins at byte `at` of it.
    fn folder_block(&self, at: u64) -> u64 {
        at / self.folder_len() as u64
    }
    fn counts_inode_blocks(&self) -> bool {
        self.sb.features_ro_compat & COUNTS_INODE_BLOCKS != 0
    }
    /// Writes what differs from what is there.
    fn write_changed(&self, place: u64, bytes: &[u8]) -> Result<()> {
        let len = bytes.len() as u64;
        if read_vec(self.dev, place, len, len)? == bytes { Ok(()) } else { self.dev.write_at(place, bytes) }
    }
    /// Everything in it is of a kind that is known here.
    fn is_known(&self) -> Result<bool> {
        let sb = self.sb;
        let features =
            sb.features_incompat & !KNOWN == 0 && sb.features_incompat & TYPED != 0 && sb.features_ro_compat & !KNOWN_RO == 0;
        let no_quotas = sb.qflags == 0 && [sb.uquotino, sb.gquotino, sb.pquotino].iter().all(|ino| matches!(*ino, 0 | u64::MAX));
        let plain = sb.rblocks == 0
            && sb.dblocks <= MAX_BLOCKS
            && !sb.has_case_insensitive_dirs()
            && sb.dirblklog < 8
            && self.folder_len() <= 1 << 16;
        if !sb.is_v5() || !features || !no_quotas || !plain || sb.features2 & LAZY_COUNTERS == 0 || self.fs.was_replayed() {
            return Ok(false);
        }
        if sb.has_reflink() {
            for ag in 0..sb.agcount {
                if !guarded("read shared extents", || self.fs.refcount_records(ag))?.is_empty() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// Does what [`super::remove_all`] says; `None` where that is the crate's to do, and nothing was changed.
pub(super) fn remove(dev: &WriteDevice, wanted: &[Removal<'_>]) -> Result<Option<Vec<bool>>> {
    let read: Device = dev.clone();
    let fs = mount(read)?;
    let v = Volume { dev: dev.as_ref(), sb: fs.superblock(), fs: &fs };
    if !v.is_known()? {
        return Ok(None);
    }
    let mut gone = vec![false; wanted.len()];
    // What goes, folder by folder, and how many of its names that are.
    let mut losses: BTreeMap<Node, Vec<&Removal<'_>>> = BTreeMap::new();
    for (w, gone) in wanted.iter().zip(&mut gone).filter(|(w, _)| !w.folder) {
        losses.entry(w.dir).or_default().push(w);
        *gone = true;
    }
    let mut folders: HashMap<Node, usize> = HashMap::new();
    for w in wanted.iter().filter(|w| w.folder) {
        folders.insert(w.node, Folder::read(&v, w.node)?.count());
    }
    let mut emptied = HashSet::new();
    for (w, gone) in wanted.iter().zip(&mut gone).filter(|(w, _)| w.folder) {
        if folders.get(&w.node) != Some(&losses.get(&w.node).map_or(0, Vec::len)) {
            continue;
        }
        if !emptied.insert(w.node) {
            return Err(Error::corrupt(format!("inode {} is a folder with two names", w.node)));
        }
        losses.entry(w.dir).or_default().push(w);
        *gone = true;
    }
    let mut all = Losses { v: &v, groups: BTreeMap::new(), inodes: Vec::new() };
    let mut changed = Vec::new();
    let mut links: BTreeMap<Node, u32> = BTreeMap::new();
    for (dir, lost) in &losses {
        let folder = looked_up(&v, *dir, lost)?;
        let folders = lost.iter().filter(|w| w.folder).count() as u32;
        for w in lost.iter().filter(|w| !w.folder) {
            *links.entry(w.node).or_default() += 1;
        }
        if emptied.contains(dir) {
            if folder.entry.inode.nlink != 2 + folders {
                return Err(Error::corrupt(format!("inode {dir} has other links than folders in it")));
            }
            all.free(&folder.entry)?;
            continue;
        }
        let names: HashSet<&[u8]> = lost.iter().map(|w| w.name).collect();
        let (entry, loss) = folder.lose(&v, &|n| names.contains(n.name.as_slice()), folders)?;
        all.blocks(*dir, &loss.freed)?;
        changed.push((entry, loss));
    }
    for ino in emptied.iter().filter(|ino| !losses.contains_key(ino)) {
        let entry = Entry::read(&v, *ino)?;
        if entry.inode.nlink != 2 {
            return Err(Error::corrupt(format!("inode {ino} has other links than folders in it")));
        }
        all.free(&entry)?;
    }
    let mut kept = Vec::new();
    for (ino, n) in links {
        let mut entry = Entry::read(&v, ino)?;
        if entry.is_folder() {
            return Err(Error::usage(format!("inode {ino} is no file")));
        }
        match entry.inode.nlink.checked_sub(n) {
            Some(0) => all.free(&entry)?,
            Some(left) => {
                entry.set_links(left);
                entry.touch(false);
                kept.push(entry);
            }
            None => return Err(Error::corrupt(format!("inode {ino} has {} links and {n} names", entry.inode.nlink))),
        }
    }
    for (entry, loss) in changed {
        loss.write(&v)?;
        entry.write(&v)?;
    }
    kept.into_iter().try_for_each(|entry| entry.write(&v))?;
    all.close()?;
    Ok(Some(gone))
}

/// The folder `dir`, in which all of `lost` are names of what they say they are.
fn looked_up(v: &Volume<'_>, dir: Node, lost: &[&Removal<'_>]) -> Result<Folder> {
    let folder = Folder::read(v, dir)?;
    let names: HashMap<&[u8], Node> = folder.names.iter().map(|(_, n)| (n.name.as_slice(), n.ino)).collect();
    let mut seen = HashSet::new();
    for w in lost {
        let name = || printable_bytes(w.name).to_string();
        if matches!(w.name, b"" | b"." | b"..") || !seen.insert(w.name) {
            return Err(Error::usage(format!("'{}' cannot be removed", name())));
        }
        match names.get(w.name) {
            Some(node) if *node == w.node => {}
            Some(_) => return Err(Error::corrupt(format!("'{}' stands for another file than was looked up", name()))),
            None => {
                let what = format!("there is no '{}' in the folder of inode {dir}", name());
                return Err(Error::new(ErrorKind::NotFound, what));
            }
        }
    }
    Ok(folder)
}

/// What is given up, group by group.
struct Losses<'a> {
    v: &'a Volume<'a>,
    groups: BTreeMap<u32, group::Loss>,
    /// Inodes that are free now.
    inodes: Vec<Node>,
}

impl Losses<'_> {
    fn blocks(&mut self, ino: Node, runs: &[Run]) -> Result<()> {
        let bad = || Error::corrupt(format!("inode {ino} has blocks that cannot be its own")).hint("let xfs_repair mend it");
        for r in runs {
            let (ag, start) = self.v.sb.split_fsblock(r.start);
            let len = u32::try_from(r.len).ok().filter(|_| ag < self.v.sb.agcount).ok_or_else(bad)?;
            let owner = i64::try_from(ino).map_err(|_| bad())?;
            self.groups.entry(ag).or_default().blocks.push(Piece { start, len, owner });
        }
        Ok(())
    }

    /// Gives up an inode and all that is its own.
    fn free(&mut self, entry: &Entry) -> Result<()> {
        let ino = entry.inode.ino;
        self.blocks(ino, &entry.blocks(self.v)?)?;
        let (ag, block, n) = self.v.sb.split_ino(ino);
        let number = block.checked_shl(self.v.sb.inopblog.into()).map(|first| first | n);
        let number = number.ok_or_else(|| Error::corrupt(format!("inode {ino} is not there")))?;
        self.groups.entry(ag).or_default().inodes.push(number);
        self.inodes.push(ino);
        Ok(())
    }

    /// Does it.
    fn close(self) -> Result<()> {
        let (v, mut sum, mut chunks) = (self.v, Change::default(), HashSet::new());
        for (ag, loss) in self.groups {
            let (change, gone) = Group::read(v, ag)?.give_up(loss)?;
            sum.inodes += change.inodes;
            sum.free_inodes += change.free_inodes;
            sum.free_blocks += change.free_blocks;
            chunks.extend(gone.into_iter().map(|ino| v.sb.join_ino(ag, ino)));
        }
        // What was an inode in a chunk that is gone is free space now.
        for ino in self.inodes.into_iter().filter(|ino| !chunks.contains(ino)) {
            let mut entry = Entry::read(v, ino)?;
            entry.clear();
            entry.write(v)?;
        }
        let len = u64::from(v.sb.sectsize);
        let mut raw = read_vec(v.dev, 0, len, len)?;
        for (i, more) in [sum.inodes, sum.free_inodes, sum.free_blocks].into_iter().enumerate() {
            let count = be64(&raw, COUNTS + i * 8).and_then(|n| n.checked_add_signed(more));
            let count =
                count.ok_or_else(|| Error::corrupt("the superblock counts less than there is").hint("let xfs_repair mend it"))?;
            let _ = put_be64(&mut raw, COUNTS + i * 8, count);
        }
        stamp_crc(&mut raw, SB_CRC);
        v.write_changed(0, &raw)
    }
}
