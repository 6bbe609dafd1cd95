//! The index of an XFS folder against its names: every name is found by its hash, and nothing else is.

use fs_xfs::Filesystem;
use fs_xfs::dir::{parse_leaf, verify_da_block};
use fs_xfs::inode::{Format, Inode};

use super::xfs_check::{DISAGREE, Doubt, Sound, known, require};
use super::xfs_folder::{BOTH, INDEX, Name, each_block, hash, kept_names, names_in};
use crate::engine::io::bytes::{be16, be32};

/// Byte where a folder's list of free space begins, in the folder's own space.
const FREE: u64 = 1 << 36;
/// Version bit: names are compared without regard to case, and so hashed.
const NO_CASE: u16 = 0x4000;
/// Magic number of a block that leads to blocks of the index.
const NODE: u16 = 0x3ebe;

/// Calls `met` with every name of the folder `inode` (its bytes in `raw`), `.` and `..` too.
///
/// Errors: its index has other entries than it has names; what `met` says.
pub(super) fn agrees(fs: &Filesystem, inode: &Inode, raw: &[u8], met: &mut dyn FnMut(&Name<'_>) -> Sound) -> Sound {
    if inode.format == Format::Local {
        let above = kept_names(fs, inode, raw, &mut *met)?;
        return met(&Name { name: b"..", ino: above, kind: None, offset: 0 });
    }
    let sb = fs.superblock();
    known(sb.versionnum & NO_CASE == 0)?;
    // Most names take 24 bytes or more.
    let about = (inode.size / 24).min(4096) as usize;
    let (mut names, mut index) = (Vec::with_capacity(about), Vec::with_capacity(about));
    each_block(fs, inode, raw, |at, place, block| -> Result<bool, Doubt> {
        if at < INDEX {
            names_in(fs, (block, place, inode.ino), |name| {
                names.push((hash(name.name), (at + name.offset) / 8));
                met(name).map(|()| true)
            })?;
            if be32(block, 0) == Some(BOTH) {
                index.extend(index_of_both(block)?);
            }
        } else if at < FREE && be16(block, 8) != Some(NODE) {
            verify_da_block(block, sb, sb.fsblock_offset(place) / 512, inode.ino)?;
            let all = parse_leaf(block, sb)?.entries;
            index.extend(all.iter().filter(|e| !e.is_stale()).map(|e| (e.hashval, u64::from(e.address))));
        }
        Ok(true)
    })?;
    names.sort_unstable();
    index.sort_unstable();
    require(names == index)
}

/// The index at the end of a block that holds all names of its folder: hash and address of each.
fn index_of_both(block: &[u8]) -> Result<Vec<(u32, u64)>, Doubt> {
    let word = |back: usize| block.len().checked_sub(back).and_then(|at| be32(block, at)).ok_or(DISAGREE);
    let (count, stale) = (word(8)? as usize, word(4)? as usize);
    let start = count.checked_mul(8).and_then(|n| block.len().checked_sub(8 + n)).ok_or(DISAGREE)?;
    let (mut all, mut last) = (Vec::new(), 0);
    for e in block.get(start..).unwrap_or_default().chunks_exact(8).take(count) {
        let (hash, address) = (be32(e, 0).unwrap_or(0), be32(e, 4).unwrap_or(0));
        require(hash >= last)?;
        last = hash;
        // Of a name that is gone.
        if address != 0 {
            all.push((hash, u64::from(address)));
        }
    }
    require(all.len() + stale == count)?;
    Ok(all)
}
