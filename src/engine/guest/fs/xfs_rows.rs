//! The blocks of each level of a group's trees name those beside them, as the kernel goes from one to the next by these names.
//!
//! The crate lays a tree out again when it changes, and leaves the names empty. `xfs_repair` does not mind; the kernel takes the first
//! block for the last.

use std::collections::BTreeMap;

use fs_xfs::Filesystem;
use fs_xfs::ag_btree::{Shape, walk_blocks};

use super::guarded;
use super::xfs::mount;
use super::xfs_scrub::stamp_crc;
use crate::engine::error::Result;
use crate::engine::io::bytes::{be16, be32, put_be32};
use crate::engine::io::{Device, WriteAt, WriteDevice};

/// Where a block of a group's tree names its neighbours, and where it has its checksum.
const LEFT: usize = 8;
const RIGHT: usize = 12;
const CRC: usize = 52;
/// No neighbour.
const NONE: u32 = u32::MAX;

/// The blocks of a level, from left to right: number in the group, and the neighbours they name.
type Row = Vec<(u32, u32, u32)>;

/// Names the neighbours of every block in the trees of the filesystem on `dev`, which was closed.
pub(super) fn join(dev: &WriteDevice) -> Result<()> {
    let read: Device = dev.clone();
    let fs = mount(read)?;
    let sb = fs.superblock();
    let size = u64::from(sb.blocksize);
    for ag in 0..sb.agcount {
        let start = u64::from(ag) * u64::from(sb.agblocks) * size;
        for (shape, root, levels) in guarded("read group heads", || trees(&fs, ag))? {
            let rows = guarded("read a tree", || rows(&fs, ag, start, (shape, root, levels)))?;
            for row in rows.values() {
                join_row(dev.as_ref(), start, size, row)?;
            }
        }
    }
    Ok(())
}

/// The trees of group `ag`: shape, root, levels.
fn trees(fs: &Filesystem, ag: u32) -> std::result::Result<Vec<(Shape, u32, u32)>, fs_xfs::Error> {
    use fs_xfs::ag::agf_btree::{BNO, CNT, RMAP};
    use fs_xfs::alloc_btree::Order;
    use fs_xfs::inode_btree::{Which, shape};
    let (sb, agf, agi) = (fs.superblock(), fs.read_agf(ag)?, fs.read_agi(ag)?);
    let of = |which: usize| Some((*agf.roots.get(which)?, *agf.levels.get(which)?));
    let mut all = vec![(shape(Which::All, sb.is_v5()), agi.root, agi.level)];
    if sb.has_finobt() {
        all.push((shape(Which::WithFreeInodes, sb.is_v5()), agi.free_root, agi.free_level));
    }
    if sb.has_reflink() && agf.refcount_level > 0 {
        all.push((fs_xfs::refcount::shape(), agf.refcount_root, agf.refcount_level));
    }
    let rmap = sb.has_rmapbt().then_some((fs_xfs::rmap::shape(), RMAP));
    let free = [(Order::ByBlock.shape(), BNO), (Order::ByCount.shape(), CNT)];
    all.extend(free.into_iter().chain(rmap).filter_map(|(shape, which)| of(which).map(|(root, n)| (shape, root, n))));
    // Of one block there is nothing to join.
    all.retain(|(_, _, levels)| *levels > 1);
    Ok(all)
}

fn rows(
    fs: &Filesystem,
    ag: u32,
    start: u64,
    (shape, root, levels): (Shape, u32, u32),
) -> std::result::Result<BTreeMap<u16, Row>, fs_xfs::Error> {
    let sb = fs.superblock();
    let mut rows: BTreeMap<u16, Row> = BTreeMap::new();
    let read = |block: u32| {
        let mut raw = vec![0; sb.blocksize as usize];
        fs.device().read_at(start + u64::from(block) * u64::from(sb.blocksize), &mut raw)?;
        let word = |at| be32(&raw, at).unwrap_or(NONE);
        rows.entry(be16(&raw, 4).unwrap_or(0)).or_default().push((block, word(LEFT), word(RIGHT)));
        Ok(raw)
    };
    // From left to right within each level.
    walk_blocks(sb, shape, ag, root, levels, read, |_, _| ())?;
    Ok(rows)
}

fn join_row(dev: &dyn WriteAt, start: u64, size: u64, row: &Row) -> Result<()> {
    let name = |at: Option<usize>| at.and_then(|i| row.get(i)).map_or(NONE, |(block, ..)| *block);
    for (i, (block, left, right)) in row.iter().enumerate() {
        let want = (name(i.checked_sub(1)), name(i.checked_add(1)));
        if (*left, *right) == want {
            continue;
        }
        let place = start + u64::from(*block) * size;
        let mut raw = vec![0; size as usize];
        dev.read_at(place, &mut raw)?;
        let put = put_be32(&mut raw, LEFT, want.0) && put_be32(&mut raw, RIGHT, want.1);
        debug_assert!(put, "a block has room for its head");
        stamp_crc(&mut raw, CRC);
        dev.write_at(place, &raw)?;
    }
    Ok(())
}
