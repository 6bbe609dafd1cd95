//! The index of an XFS folder against its names: every name is found by its hash, and nothing else is.

use fs_xfs::Filesystem;
use fs_xfs::dir::{parse_block_form, parse_data_block, parse_leaf, verify_da_block};
use fs_xfs::inode::{Format, Inode};

use super::xfs_check::{DISAGREE, Sound, known, require};
use crate::engine::io::bytes::{be16, be32};

/// Bytes of a folder before its index begins, in the folder's own space (XFS_DIR2_LEAF_OFFSET), and before its list of free space.
const INDEX: u64 = 1 << 35;
const FREE: u64 = 1 << 36;
/// Version bit: names are compared without regard to case, and so hashed.
const NO_CASE: u16 = 0x4000;
/// Magic numbers of a block with names and their index, and of a block that leads to blocks of the index.
const BOTH: u32 = 0x5844_4233;
const NODE: u16 = 0x3ebe;

/// Errors: the index of the folder `inode` (its bytes in `raw`) has other entries than the folder has names.
pub(super) fn agrees(fs: &Filesystem, inode: &Inode, raw: &[u8]) -> Sound {
    if inode.format == Format::Local {
        return Ok(());
    }
    let sb = fs.superblock();
    known(sb.versionnum & NO_CASE == 0 && sb.dirblklog < 8)?;
    let (mut names, mut index) = (Vec::new(), Vec::new());
    let (block, step) = (u64::from(sb.blocksize), 1u64 << sb.dirblklog);
    for e in fs.data_extents(inode, raw)? {
        // A folder block of several blocks may lie in several extents: then it is not looked at here.
        known(e.startoff % step == 0 && e.blockcount % step == 0)?;
        for i in (0..e.blockcount).step_by(step as usize) {
            let at = e.startoff.checked_add(i).and_then(|b| b.checked_mul(block)).ok_or(DISAGREE)?;
            if at >= FREE {
                continue;
            }
            let mut bytes = vec![0; (block * step) as usize];
            let place = sb.fsblock_offset(e.startblock + i);
            fs.device().read_at(place, &mut bytes).map_err(|_| DISAGREE)?;
            if at < INDEX {
                let entries = parse_data_block(&bytes, sb)?;
                names.extend(entries.iter().map(|e| (hash(&e.name), (at + u64::from(e.offset)) / 8)));
                if be32(&bytes, 0) == Some(BOTH) {
                    index.extend(parse_block_form(&bytes, sb)?.index);
                }
            } else if be16(&bytes, 8) != Some(NODE) {
                verify_da_block(&bytes, sb, place / 512, inode.ino)?;
                index.extend(parse_leaf(&bytes, sb)?.entries);
            }
        }
    }
    let mut index: Vec<(u32, u64)> = index.iter().filter(|e| !e.is_stale()).map(|e| (e.hashval, u64::from(e.address))).collect();
    names.sort_unstable();
    index.sort_unstable();
    require(names == index)
}

/// The hash of a name.
fn hash(name: &[u8]) -> u32 {
    name.chunks(4).fold(0u32, |hash, part| {
        let bits = 7 * part.len() as u32;
        part.iter().fold(0u32, |sum, b| sum << 7 ^ u32::from(*b)) ^ hash.rotate_left(bits)
    })
}
