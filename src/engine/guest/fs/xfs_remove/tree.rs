//! A tree of a group: read whole, and laid anew over given blocks.

use std::collections::HashMap;

use fs_xfs::ag_btree::{Shape, build, plan, walk_blocks};

use super::Volume;
use crate::engine::error::Result;
use crate::engine::guest::fs::guarded;
use crate::engine::guest::fs::xfs_scrub::stamp_crc;
use crate::engine::io::bytes::put_be32;

/// Where a block names its neighbours, and where it has its checksum.
const LEFT: usize = 8;
const RIGHT: usize = 12;
const CRC: usize = 52;
/// No neighbour.
const NONE: u32 = u32::MAX;

/// The blocks of a tree: leaves first, the root last, each level from left to right.
pub(super) struct Tree {
    shape: Shape,
    pub(super) blocks: Vec<u32>,
    pub(super) levels: u32,
}

/// How the records of a tree are written, and the keys that stand for some of them.
pub(super) type Write<T> = (fn(&mut [u8], usize, &T), fn(&mut [u8], usize, &[T]));

impl Tree {
    /// Reads the tree of group `ag` with its root at `root`: what it has, and its blocks.
    pub(super) fn read<T>(
        v: &Volume<'_>,
        ag: u32,
        shape: Shape,
        (root, levels): (u32, u32),
        record: fn(&[u8], usize) -> T,
    ) -> Result<(Tree, Vec<T>)> {
        let read = |block: u32| {
            let mut raw = vec![0; v.sb.blocksize as usize];
            v.fs.device().read_at(v.group_place(ag, block), &mut raw)?;
            Ok(raw)
        };
        let (records, blocks) = guarded("read a group's tree", || walk_blocks(v.sb, shape, ag, root, levels, read, record))?;
        Ok((Tree { shape, blocks, levels }, records))
    }

    /// How many blocks it needs for `records` of them.
    pub(super) fn wanted(&self, v: &Volume<'_>, records: usize) -> Result<usize> {
        guarded("lay out a tree", || plan(self.shape, v.sb.blocksize, true, records)).map(|levels| levels.iter().sum())
    }

    pub(super) fn root(&self) -> u32 {
        self.blocks.last().copied().unwrap_or(NONE)
    }

    /// Writes `records` over its blocks, which are as many as wanted.
    pub(super) fn write<T>(&mut self, v: &Volume<'_>, ag: u32, records: &[T], write: Write<T>) -> Result<()> {
        let (levels, built) = guarded("lay out a tree", || {
            let levels = plan(self.shape, v.sb.blocksize, true, records.len())?;
            let built = build(v.sb, self.shape, ag, records, &self.blocks, write.0, write.1)?;
            Ok::<_, fs_xfs::Error>((levels, built))
        })?;
        self.levels = levels.len() as u32;
        // Each level's blocks name those beside them; the crate leaves that empty.
        let mut ends = HashMap::new();
        let mut rest = self.blocks.as_slice();
        for n in levels {
            let (row, more) = rest.split_at_checked(n).unwrap_or_default();
            rest = more;
            let beside = |i: Option<usize>| i.and_then(|i| row.get(i)).copied().unwrap_or(NONE);
            ends.extend(row.iter().enumerate().map(|(i, block)| (*block, (beside(i.checked_sub(1)), beside(Some(i + 1))))));
        }
        for mut block in built {
            let (left, right) = ends.get(&block.agblock).copied().unwrap_or((NONE, NONE));
            if (left, right) != (NONE, NONE) {
                let _ = put_be32(&mut block.bytes, LEFT, left) && put_be32(&mut block.bytes, RIGHT, right);
                stamp_crc(&mut block.bytes, CRC);
            }
            v.write_changed(v.group_place(ag, block.agblock), &block.bytes)?;
        }
        Ok(())
    }
}
