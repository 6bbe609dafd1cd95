//! Folders of XFS (version 5): the names in their blocks ("XFS Algorithms & Data Structures": directories).
//!
//! The crate's own listing makes the text of an error for every name, in case it is needed; this one is for whoever reads many folders.
//! Whatever is not as it should be is left to the crate to word.

use fs_xfs::Filesystem;
use fs_xfs::dir::{ftype_from_raw, verify_data_block};
use fs_xfs::inode::{FileType, Format, Inode};

use super::xfs::Xfs;
use super::xfs_check::{DISAGREE, Doubt, Sound, known, require};
use super::{DirEntry, Node, guarded};
use crate::engine::error::Result;
use crate::engine::io::bytes::{be16, be32, be64};

/// Bytes of a folder before its index begins, in the folder's own space (XFS_DIR2_LEAF_OFFSET).
pub(super) const INDEX: u64 = 1 << 35;
/// Magic number of a block with names and their index.
pub(super) const BOTH: u32 = 0x5844_4233;
/// Bytes of a block of names before the first.
pub(super) const HEAD: usize = 64;
/// Bytes of a folder's names from which on its index is asked for one.
const LARGE: u64 = 64 << 10;

/// A name in a folder.
pub(super) struct Name<'a> {
    pub(super) name: &'a [u8],
    pub(super) ino: u64,
    /// What it names, where the folder says it.
    pub(super) kind: Option<FileType>,
    /// Byte in its block.
    pub(super) offset: u64,
}

/// Calls `visit` with each block of the folder `inode` (its bytes in `raw`): the byte where it begins in the folder's own space, its
/// number on the volume, its bytes. Ends where `visit` says false.
pub(super) fn each_block(
    fs: &Filesystem,
    inode: &Inode,
    raw: &[u8],
    mut visit: impl FnMut(u64, u64, &[u8]) -> std::result::Result<bool, Doubt>,
) -> Sound {
    let sb = fs.superblock();
    known(sb.is_v5() && sb.dirblklog < 8)?;
    let (block, step) = (u64::from(sb.blocksize), 1u64 << sb.dirblklog);
    let mut bytes = vec![0; (block * step) as usize];
    for e in fs.data_extents(inode, raw)? {
        // A folder block of several blocks may lie in several extents: then it is not looked at here.
        known(e.startoff % step == 0 && e.blockcount % step == 0)?;
        for i in (0..e.blockcount).step_by(step as usize) {
            let at = e.startoff.checked_add(i).and_then(|b| b.checked_mul(block)).ok_or(DISAGREE)?;
            fs.device().read_at(sb.fsblock_offset(e.startblock + i), &mut bytes)?;
            if !visit(at, e.startblock + i, &bytes)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A name as it stands in a block: what it names and of which type, and where it begins.
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    pub(super) ino: u64,
    /// The type as it is stored.
    pub(super) kind: u8,
    pub(super) at: usize,
}

/// Bytes that a name of `len` bytes takes in a block: inode, length, itself, type, where it begins; a multiple of 8.
pub(super) fn entry_len(len: usize) -> usize {
    (8 + 1 + len + 1 + 2).next_multiple_of(8)
}

/// Calls `visit` with each name in a block of a folder, until it says false; answers the last that was said. `None`: they make no sense.
pub(super) fn each_entry(block: &[u8], mut visit: impl FnMut(Entry<'_>) -> bool) -> Option<bool> {
    let end = match block.get(..4)? {
        b"XDD3" => block.len(),
        // The index ends the block: two counts, entries of 8 bytes before them.
        b"XDB3" => {
            let tail = block.len().checked_sub(8)?;
            tail.checked_sub((be32(block, tail)? as usize).checked_mul(8)?).filter(|end| *end >= HEAD)?
        }
        _ => return None,
    };
    let mut at = HEAD;
    while at < end {
        let (next, entry) = entry_at(block, at, end)?;
        if let Some(entry) = entry
            && !visit(entry)
        {
            return Some(false);
        }
        at = next;
    }
    Some(true)
}

/// Where the entry at `at` ends, and the name it is; `None` of unused space.
fn entry_at(block: &[u8], at: usize, end: usize) -> Option<(usize, Option<Entry<'_>>)> {
    let unused = be16(block, at) == Some(0xffff);
    let name = block.get(at + 8).map_or(0, |n| usize::from(*n));
    let len = if unused { usize::from(be16(block, at + 2)?) } else { entry_len(name) };
    let next = at.checked_add(len).filter(|next| *next <= end && len >= 8 && len.is_multiple_of(8))?;
    // Both end with where they begin.
    if be16(block, next - 2).map(usize::from) != Some(at) || (!unused && name == 0) {
        return None;
    }
    let entry =
        || Some(Entry { name: block.get(at + 9..at + 9 + name)?, ino: be64(block, at)?, kind: *block.get(at + 9 + name)?, at });
    if unused { Some((next, None)) } else { Some((next, Some(entry()?))) }
}

/// Calls `visit` with each name in `block`, number `place` on the volume, of the folder `owner`. Ends where it says false, and answers
/// that.
pub(super) fn names_in(
    fs: &Filesystem,
    (block, place, owner): (&[u8], u64, u64),
    mut visit: impl FnMut(&Name<'_>) -> std::result::Result<bool, Doubt>,
) -> std::result::Result<bool, Doubt> {
    let sb = fs.superblock();
    verify_data_block(block, sb, sb.fsblock_offset(place) / 512, owner)?;
    let mut said = Ok(true);
    let sense = each_entry(block, |Entry { name, ino, kind, at }| {
        said = require(!name.contains(&b'/') && !name.contains(&0))
            .and_then(|()| visit(&Name { name, ino, kind: ftype_from_raw(kind)?, offset: at as u64 }));
        matches!(said, Ok(true))
    });
    require(sense.is_some())?;
    said
}

/// Calls `visit` with each name in a list that an inode keeps itself (of which `at` says where it would be in a block); answers the folder
/// above. `None`: they make no sense.
pub(super) fn each_kept(list: &[u8], mut visit: impl FnMut(Entry<'_>)) -> Option<u64> {
    let (count, mut wide) = (*list.first()?, usize::from(*list.get(1)?));
    let width = if wide > 0 { 8 } else { 4 };
    let mut number = |at| {
        let ino = if width == 8 { be64(list, at)? } else { be32(list, at)?.into() };
        // Those that need 8 bytes are counted.
        wide = if ino > u64::from(u32::MAX) { wide.checked_sub(1)? } else { wide };
        Some(ino)
    };
    let (above, mut at) = (number(2)?, 2 + width);
    for _ in 0..count {
        let len = list.get(at).map(|n| usize::from(*n)).filter(|n| *n > 0)?;
        let (place, name, kind) = (be16(list, at + 1)?, list.get(at + 3..at + 3 + len)?, *list.get(at + 3 + len)?);
        at += 3 + len + 1;
        visit(Entry { name, ino: number(at)?, kind, at: place.into() });
        at += width;
    }
    (at == list.len() && wide == 0).then_some(above)
}

/// The names of the folder `inode` that it keeps in itself, and the folder above it.
pub(super) fn kept_names(
    fs: &Filesystem,
    inode: &Inode,
    raw: &[u8],
    mut visit: impl FnMut(&Name<'_>) -> Sound,
) -> std::result::Result<u64, Doubt> {
    known(fs.superblock().has_ftype() && inode.is_dir())?;
    let (start, end) = inode.data_fork_range(raw.len());
    let list = usize::try_from(inode.size).ok().and_then(|n| raw.get(start..end)?.get(..n)).ok_or(DISAGREE)?;
    let mut said = Ok(());
    let above = each_kept(list, |Entry { name, ino, kind, at }| {
        if said.is_ok() {
            said = ftype_from_raw(kind).map_err(Doubt::from).and_then(|kind| visit(&Name { name, ino, kind, offset: at as u64 }));
        }
    });
    said.and_then(|()| above.ok_or(DISAGREE))
}

/// The hash of a name.
pub(super) fn hash(name: &[u8]) -> u32 {
    name.chunks(4).fold(0u32, |hash, part| {
        let bits = 7 * part.len() as u32;
        part.iter().fold(0u32, |sum, b| sum << 7 ^ u32::from(*b)) ^ hash.rotate_left(bits)
    })
}

impl Xfs {
    /// The names of a folder, without `.` and `..`.
    pub(super) fn entries(&self, dir: Node) -> Result<Vec<DirEntry>> {
        let (inode, raw) = self.inode(dir)?;
        let mut out = Vec::new();
        let quick = self.each_name(&inode, &raw, |n| {
            out.push(DirEntry { name: n.name.to_vec(), node: n.ino });
            true
        });
        if quick.is_err() {
            let all = guarded("read folder", || self.fs.read_dir(&inode, &raw))?;
            out = all.into_iter().map(|e| DirEntry { name: e.name, node: e.ino }).collect();
        }
        out.retain(|e| e.name != b"." && e.name != b"..");
        Ok(out)
    }

    /// What `name` leads to.
    pub(super) fn named(&self, dir: Node, name: &[u8]) -> Result<Option<Node>> {
        let (inode, raw) = self.inode(dir)?;
        if inode.size <= LARGE && name != b"." && name != b".." {
            let mut found = None;
            let quick = self.each_name(&inode, &raw, |n| {
                found = (n.name == name).then_some(n.ino);
                found.is_none()
            });
            if quick.is_ok() {
                return Ok(found);
            }
        }
        guarded("look up a name", || match self.fs.lookup(&inode, &raw, name) {
            Ok(i) => Ok(Some(i.ino)),
            Err(fs_xfs::Error::NotFound) => Ok(None),
            Err(e) => Err(e),
        })
    }

    /// Calls `visit` with the names in a folder's blocks, until it says false. Errors: the crate knows more about this one.
    fn each_name(&self, inode: &Inode, raw: &[u8], mut visit: impl FnMut(&Name<'_>) -> bool) -> Sound {
        known(inode.is_dir() && inode.format != Format::Local)?;
        let (fs, ino) = (&self.fs, inode.ino);
        let mut read = || {
            each_block(fs, inode, raw, |at, place, block| {
                Ok(at < INDEX && names_in(fs, (block, place, ino), |name| Ok(visit(name)))?)
            })
        };
        guarded("read folder", || Ok::<_, fs_xfs::Error>(read())).map_err(|_| DISAGREE)?
    }
}
