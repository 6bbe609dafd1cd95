//! Folders of XFS (version 5): the names in their blocks ("XFS Algorithms & Data Structures": directories).
//!
//! The crate's own listing makes the text of an error for every name, in case it is needed; this one is for whoever reads many folders.
//! Whatever is not as it should be is left to the crate to word.

use fs_xfs::Filesystem;
use fs_xfs::dir::{ftype_from_raw, read_short_form, verify_data_block};
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
const HEAD: usize = 64;
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

/// Calls `visit` with each name in `block`, number `place` on the volume, of the folder `owner`. Ends where it says false, and answers
/// that.
pub(super) fn names_in(
    fs: &Filesystem,
    (block, place, owner): (&[u8], u64, u64),
    mut visit: impl FnMut(&Name<'_>) -> std::result::Result<bool, Doubt>,
) -> std::result::Result<bool, Doubt> {
    let sb = fs.superblock();
    verify_data_block(block, sb, sb.fsblock_offset(place) / 512, owner)?;
    let end = match block.get(..4) {
        Some(b"XDD3") => block.len(),
        // The index ends the block: two counts, entries of 8 bytes before them.
        Some(b"XDB3") => {
            let count = be32(block, block.len().saturating_sub(8)).unwrap_or(u32::MAX) as usize;
            block.len().saturating_sub(8).checked_sub(count.saturating_mul(8)).ok_or(DISAGREE)?
        }
        _ => return Err(DISAGREE),
    };
    let mut at = HEAD;
    while at < end {
        let unused = be16(block, at) == Some(0xffff);
        let name = block.get(at + 8).map_or(0, |n| usize::from(*n));
        // Unused space: its mark and its length. A name: inode, length, itself, type. Both end with where they begin.
        let len = if unused { be16(block, at + 2).map_or(0, usize::from) } else { (8 + 1 + name + 1 + 2).next_multiple_of(8) };
        require(len >= 8 && len.is_multiple_of(8) && at + len <= end && be16(block, at + len - 2) == Some(at as u16))?;
        if !unused {
            let kind = ftype_from_raw(*block.get(at + 9 + name).ok_or(DISAGREE)?)?;
            let bytes = block.get(at + 9..at + 9 + name).unwrap_or_default();
            require(!bytes.is_empty() && !bytes.contains(&b'/') && !bytes.contains(&0))?;
            let ino = be64(block, at).ok_or(DISAGREE)?;
            if !visit(&Name { name: bytes, ino, kind, offset: at as u64 })? {
                return Ok(false);
            }
        }
        at += len;
    }
    Ok(true)
}

/// The names of the folder `inode` that it keeps in itself, and the folder above it.
pub(super) fn kept_names(
    fs: &Filesystem,
    inode: &Inode,
    raw: &[u8],
    mut visit: impl FnMut(&Name<'_>) -> Sound,
) -> std::result::Result<u64, Doubt> {
    let (start, end) = inode.data_fork_range(raw.len());
    let found = read_short_form(inode, raw.get(start..end).ok_or(DISAGREE)?, fs.superblock())?;
    for e in &found.entries {
        visit(&Name { name: &e.name, ino: e.ino, kind: e.ftype, offset: u64::from(e.offset) })?;
    }
    Ok(found.parent_ino)
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
