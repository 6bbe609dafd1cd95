//! The books of an allocation group: free space, inodes, owners, and the blocks set aside for the trees of these.
//!
//! Each tree is laid anew once. Those of free space and owners take their blocks from the group's free list and give them back there;
//! those of inodes from free space, like any other.

use std::collections::{HashSet, VecDeque};

use fs_xfs::ag::agf_btree::{BNO, CNT, RMAP};
use fs_xfs::ag::offsets::{agf, agi};
use fs_xfs::ag::{Agf, Agi};
use fs_xfs::agfl::{self, Agfl};
use fs_xfs::alloc_btree::{FreeExtent, Order, decode_free_extent, encode_free_extent};
use fs_xfs::inode_btree::{INODES_PER_CHUNK, InodeChunk, Which};
use fs_xfs::rmap::{OWN_AG, OWN_INOBT, OWN_INODES, Rmap};

use super::Volume;
use super::records::{Piece, freed, remapped, unmapped};
use super::tree::{Tree, Write};
use crate::engine::error::{Error, Result};
use crate::engine::guest::fs::guarded;
use crate::engine::guest::fs::xfs_check::AGI_BLOCKS;
use crate::engine::guest::fs::xfs_inodes::record;
use crate::engine::guest::fs::xfs_scrub::stamp_crc;
use crate::engine::io::bytes::put_be32;
use crate::engine::io::read_vec;

/// Where the headers have their checksums.
const AGF_CRC: usize = 216;
const AGI_CRC: usize = 312;
const LIST_CRC: usize = 32;
/// Where the list of blocks set aside begins in its sector.
const LIST: usize = 36;
/// No block.
const NONE: u32 = u32::MAX;
/// Inodes that one bit of a chunk's mask of holes stands for.
const PER_HOLE: u32 = 4;
/// Blocks that are left set aside where there were as many: the trees may grow by as many before there is need for more.
const SET_ASIDE: usize = 4;

/// What a group gives up.
#[derive(Default)]
pub(super) struct Loss {
    pub(super) blocks: Vec<Piece>,
    /// Inodes, by their numbers in the group.
    pub(super) inodes: Vec<u32>,
}

/// What that changes in the superblock's counts.
#[derive(Default, Clone, Copy)]
pub(super) struct Change {
    pub(super) inodes: i64,
    pub(super) free_inodes: i64,
    pub(super) free_blocks: i64,
}

/// A group while it is changed.
pub(super) struct Group<'a> {
    v: &'a Volume<'a>,
    ag: u32,
    agf: Agf,
    agi: Agi,
    list: Vec<u32>,
    /// Free extents by place.
    free: Vec<(u32, u32)>,
    owners: Vec<Rmap>,
    chunks: Vec<InodeChunk>,
    by_place: Tree,
    by_size: Tree,
    owner_tree: Option<Tree>,
    inodes: Tree,
    free_inodes: Option<Tree>,
}

impl<'a> Group<'a> {
    pub(super) fn read(v: &'a Volume<'a>, ag: u32) -> Result<Group<'a>> {
        let sb = v.sb;
        let (agf, agi) = guarded("read a group's head", || Ok::<_, fs_xfs::Error>((v.fs.read_agf(ag)?, v.fs.read_agi(ag)?)))?;
        let sector = u64::from(sb.sectsize);
        let raw = read_vec(v.dev, v.group_place(ag, 0) + 3 * sector, sector, sector)?;
        let list = guarded("read a group's free list", || Agfl::parse(&raw, sb, &agf, ag))?.entries(sb);
        let root = |which: usize| (agf.roots.get(which).copied().unwrap_or(NONE), agf.levels.get(which).copied().unwrap_or(0));
        let (by_place, free) = Tree::read(v, ag, Order::ByBlock.shape(), root(BNO), decode_free_extent)?;
        let (by_size, again) = Tree::read(v, ag, Order::ByCount.shape(), root(CNT), decode_free_extent)?;
        let (owner_tree, owners) = match sb.has_rmapbt() {
            true => {
                let (tree, owners) = Tree::read(v, ag, fs_xfs::rmap::shape(), root(RMAP), fs_xfs::rmap::decode)?;
                (Some(tree), owners)
            }
            false => (None, Vec::new()),
        };
        let decode = record(sb);
        let shape = |which| fs_xfs::inode_btree::shape(which, true);
        let (inodes, chunks) = Tree::read(v, ag, shape(Which::All), (agi.root, agi.level), decode)?;
        let (free_inodes, some) = match sb.has_finobt() {
            true => {
                let (tree, some) = Tree::read(v, ag, shape(Which::WithFreeInodes), (agi.free_root, agi.free_level), decode)?;
                (Some(tree), some)
            }
            false => (None, chunks.iter().filter(|c| c.freecount > 0).copied().collect()),
        };
        let out = Group {
            v,
            ag,
            free: free.iter().map(|e| (e.startblock, e.blockcount)).collect(),
            agf,
            agi,
            list,
            owners,
            chunks,
            by_place,
            by_size,
            owner_tree,
            inodes,
            free_inodes,
        };
        let within = |start: u32, len: u32| len > 0 && start.checked_add(len).is_some_and(|end| end <= out.agf.length);
        // In ascending order, no two with a block in common.
        let apart = |all: &[(u32, u32)]| {
            let ends = |e: &(u32, u32)| u64::from(e.0) + u64::from(e.1);
            all.iter().all(|e| within(e.0, e.1)) && all.iter().zip(all.iter().skip(1)).all(|(a, b)| ends(a) <= u64::from(b.0))
        };
        let owned: Vec<(u32, u32)> = out.owners.iter().map(|r| (r.startblock, r.blockcount)).collect();
        let sound = apart(&out.free)
            && apart(&owned)
            && again.len() == out.free.len()
            && out.chunks.is_sorted_by_key(|c| c.startino)
            && out.chunks.iter().all(|c| c.startino <= u32::MAX - u32::from(INODES_PER_CHUNK))
            && out.chunks.iter().filter(|c| c.freecount > 0).eq(&some)
            && out.set_aside().iter().all(|b| within(*b, 1))
            && out.inode_blocks().iter().all(|b| within(*b, 1))
            && out.free_blocks() == i64::from(out.agf.freeblks) + i64::from(out.agf.flcount) + i64::from(out.agf.btreeblks);
        if sound { Ok(out) } else { Err(out.bad("its books make no sense")) }
    }

    fn bad(&self, what: &str) -> Error {
        Error::corrupt(format!("allocation group {}: {what}", self.ag)).hint("let xfs_repair mend it")
    }

    /// Blocks of the trees that the free list feeds, and those on it.
    fn set_aside(&self) -> Vec<u32> {
        let trees = [Some(&self.by_place), Some(&self.by_size), self.owner_tree.as_ref()];
        trees.into_iter().flatten().flat_map(|t| t.blocks.iter()).chain(&self.list).copied().collect()
    }

    fn inode_blocks(&self) -> Vec<u32> {
        self.inodes.blocks.iter().chain(self.free_inodes.iter().flat_map(|t| &t.blocks)).copied().collect()
    }

    /// What the superblock counts as free in the group: free space, and what is set aside but for the roots.
    fn free_blocks(&self) -> i64 {
        let free: i64 = self.free.iter().map(|(_, n)| i64::from(*n)).sum();
        free + self.set_aside().len() as i64 - 2 - i64::from(self.owner_tree.is_some())
    }

    /// Gives up what `loss` says. Returns what that comes to, and the inodes whose chunks are gone with them.
    pub(super) fn give_up(mut self, mut loss: Loss) -> Result<(Change, Vec<u32>)> {
        let (aside, of_inodes) = (self.set_aside().len() as u64, self.inode_blocks().len() as u64);
        let (free_before, list_before) = (self.free_blocks(), self.list.clone());
        let (count, free_count) = (self.agi.count, self.agi.freecount);
        let gone = self.free_chunks(&mut loss)?;
        if loss
            .blocks
            .iter()
            .any(|p| p.len == 0 || p.start == 0 || p.start.checked_add(p.len).is_none_or(|end| end > self.agf.length))
        {
            return Err(self.bad("blocks that cannot be a file's own"));
        }
        self.free = freed(&self.free, &loss.blocks)?;
        if self.owner_tree.is_some() {
            self.owners = unmapped(&self.owners, &mut loss.blocks)?;
        }
        self.size_inode_trees()?;
        if self.owner_tree.is_some() {
            self.owners = remapped(std::mem::take(&mut self.owners), OWN_INOBT, of_inodes, &self.inode_blocks())?;
        }
        self.size_free_trees(aside)?;
        self.write_trees()?;
        self.write_heads(&list_before)?;
        let change = Change {
            inodes: i64::from(self.agi.count) - i64::from(count),
            free_inodes: i64::from(self.agi.freecount) - i64::from(free_count),
            free_blocks: self.free_blocks() - free_before,
        };
        Ok((change, gone))
    }

    /// Marks inodes as free. A chunk that has no others left is given back, as the kernel does it: its blocks join those of `loss`.
    /// Returns the inodes of `loss` in such chunks.
    fn free_chunks(&mut self, loss: &mut Loss) -> Result<Vec<u32>> {
        loss.inodes.sort_unstable();
        for ino in &loss.inodes {
            let at = self.chunks.partition_point(|c| c.startino <= *ino).checked_sub(1);
            let chunk = at.and_then(|at| self.chunks.get_mut(at));
            let n = chunk.as_ref().and_then(|c| u8::try_from(ino - c.startino).ok()).filter(|n| *n < INODES_PER_CHUNK);
            match (chunk, n) {
                (Some(c), Some(n)) if c.exists(n) && !c.is_free(n) => {
                    c.free |= 1 << n;
                    c.freecount = c.freecount.saturating_add(1);
                }
                _ => return Err(self.bad(&format!("inode {ino} of it is in use and said to be free"))),
            }
        }
        let freed = loss.inodes.len() as u32;
        self.agi.freecount = self.agi.freecount.saturating_add(freed);
        let mut gone = Vec::new();
        let per_block = u32::from(self.v.sb.inopblock);
        if per_block == 0 || per_block > u32::from(INODES_PER_CHUNK) {
            return Ok(gone);
        }
        for c in &self.chunks {
            if c.free != u64::MAX || c.freecount != c.count {
                continue;
            }
            for hole in (0..u32::from(INODES_PER_CHUNK) / PER_HOLE).filter(|h| c.exists((h * PER_HOLE) as u8)) {
                let first = c.startino + hole * PER_HOLE;
                let (start, end) = (first / per_block, (first + PER_HOLE).div_ceil(per_block));
                match loss.blocks.last_mut().filter(|p| p.owner == OWN_INODES && p.start + p.len >= start && p.start <= start) {
                    Some(p) => p.len = end - p.start,
                    None => loss.blocks.push(Piece { start, len: end - start, owner: OWN_INODES }),
                }
            }
            let last = c.startino + u32::from(INODES_PER_CHUNK);
            gone.extend(loss.inodes.iter().copied().filter(|ino| (c.startino..last).contains(ino)));
            self.agi.count = self.agi.count.saturating_sub(u32::from(c.count));
            self.agi.freecount = self.agi.freecount.saturating_sub(u32::from(c.count));
        }
        self.chunks.retain(|c| c.free != u64::MAX || c.freecount != c.count);
        Ok(gone)
    }

    fn with_free(&self) -> Vec<InodeChunk> {
        self.chunks.iter().filter(|c| c.freecount > 0).copied().collect()
    }

    /// Gives the trees of inodes as many blocks as they need.
    fn size_inode_trees(&mut self) -> Result<()> {
        let all = self.inodes.wanted(self.v, self.chunks.len())?;
        let mut blocks = std::mem::take(&mut self.inodes.blocks);
        self.resize(&mut blocks, all)?;
        self.inodes.blocks = blocks;
        if let Some(mut tree) = self.free_inodes.take() {
            let some = tree.wanted(self.v, self.with_free().len())?;
            self.resize(&mut tree.blocks, some)?;
            self.free_inodes = Some(tree);
        }
        Ok(())
    }

    fn resize(&mut self, blocks: &mut Vec<u32>, wanted: usize) -> Result<()> {
        if blocks.len() > wanted {
            self.give(&blocks.split_off(wanted))?;
        }
        while blocks.len() < wanted {
            let block = self
                .take()
                .ok_or_else(|| Error::unsupported(format!("allocation group {} is full to the last block", self.ag)))?;
            blocks.insert(0, block);
        }
        Ok(())
    }

    /// Takes a block from free space: from the smallest extent.
    fn take(&mut self) -> Option<u32> {
        let at = self.free.iter().enumerate().min_by_key(|(_, (_, len))| *len).map(|(i, _)| i)?;
        let (start, len) = self.free.get_mut(at)?;
        let block = *start;
        (*start, *len) = (*start + 1, *len - 1);
        if *len == 0 {
            self.free.remove(at);
        }
        Some(block)
    }

    fn give(&mut self, blocks: &[u32]) -> Result<()> {
        let pieces: Vec<Piece> = blocks.iter().map(|b| Piece { start: *b, len: 1, owner: OWN_AG }).collect();
        self.free = freed(&self.free, &pieces)?;
        Ok(())
    }

    /// Gives the trees of free space and owners as many blocks as they need, and keeps as many set aside as there were. What is given to
    /// free space or taken from it changes what the trees have to hold, until it no longer does.
    fn size_free_trees(&mut self, mut had: u64) -> Result<()> {
        let keep = self.list.len();
        let least = keep.min(SET_ASIDE);
        let (mut pool, mut taken) = (self.set_aside(), false);
        loop {
            if self.owner_tree.is_some() {
                self.owners = remapped(std::mem::take(&mut self.owners), OWN_AG, had, &pool)?;
                had = pool.len() as u64;
            }
            let wanted = [
                self.by_place.wanted(self.v, self.free.len())?,
                self.by_size.wanted(self.v, self.free.len())?,
                self.owner_tree.as_ref().map_or(Ok(0), |t| t.wanted(self.v, self.owners.len()))?,
            ];
            let needed: usize = wanted.iter().sum();
            if pool.len() < needed + least
                && let Some(block) = self.take()
            {
                pool.push(block);
                taken = true;
                continue;
            }
            if pool.len() < needed {
                return Err(Error::unsupported(format!("allocation group {} is full to the last block", self.ag)));
            }
            let (trees, mut spare) = self.shares(&pool, &wanted);
            // What was taken is not given back: the trees may want it again for what that changes.
            if spare.len() > keep && !taken {
                let surplus = spare.split_off(keep);
                self.give(&surplus)?;
                let surplus: HashSet<u32> = surplus.into_iter().collect();
                pool.retain(|b| !surplus.contains(b));
                continue;
            }
            if spare.len() > agfl::capacity(self.v.sb) {
                return Err(self.bad("its free list is full"));
            }
            self.list = spare;
            let all = [Some(&mut self.by_place), Some(&mut self.by_size), self.owner_tree.as_mut()];
            all.into_iter().zip(trees).for_each(|(tree, blocks)| {
                if let Some(tree) = tree {
                    tree.blocks = blocks;
                }
            });
            return Ok(());
        }
    }

    /// Shares out `pool`: to each tree as many as it wants, first of all its own, and what is left, those first that were left before.
    fn shares(&self, pool: &[u32], wanted: &[usize; 3]) -> ([Vec<u32>; 3], Vec<u32>) {
        let there: HashSet<u32> = pool.iter().copied().collect();
        let trees = [Some(&self.by_place), Some(&self.by_size), self.owner_tree.as_ref()];
        let mut own = [const { Vec::new() }; 3];
        for ((own, tree), n) in own.iter_mut().zip(trees).zip(wanted) {
            let blocks = tree.iter().flat_map(|t| &t.blocks).copied();
            own.extend(blocks.filter(|b| there.contains(b)).take(*n));
        }
        let used: HashSet<u32> = own.iter().flatten().copied().collect();
        let listed: HashSet<u32> = self.list.iter().copied().collect();
        let more = pool.iter().filter(|b| !listed.contains(b));
        let mut spare: VecDeque<u32> =
            self.list.iter().chain(more).copied().filter(|b| there.contains(b) && !used.contains(b)).collect();
        for (own, n) in own.iter_mut().zip(wanted) {
            while own.len() < *n
                && let Some(block) = spare.pop_front()
            {
                own.insert(0, block);
            }
        }
        (own, spare.into())
    }

    fn write_trees(&mut self) -> Result<()> {
        let (v, ag) = (self.v, self.ag);
        let extent = |e: &(u32, u32)| FreeExtent { startblock: e.0, blockcount: e.1 };
        let mut free: Vec<FreeExtent> = self.free.iter().map(extent).collect();
        let extents: Write<FreeExtent> =
            (encode_free_extent, |buf, at, under| under.iter().take(1).for_each(|e| encode_free_extent(buf, at, e)));
        self.by_place.write(v, ag, &free, extents)?;
        free.sort_unstable_by_key(|e| (e.blockcount, e.startblock));
        self.by_size.write(v, ag, &free, extents)?;
        if let Some(tree) = &mut self.owner_tree {
            tree.write(v, ag, &self.owners, (fs_xfs::rmap::encode, fs_xfs::rmap::write_keys))?;
        }
        let record: fn(&mut [u8], usize, &InodeChunk) = match v.sb.has_sparse_inodes() {
            true => |buf, at, c| fs_xfs::inode_btree::encode(buf, at, c, true),
            false => |buf, at, c| fs_xfs::inode_btree::encode(buf, at, c, false),
        };
        let keys: fn(&mut [u8], usize, &[InodeChunk]) =
            |buf, at, under| under.iter().take(1).for_each(|c| fs_xfs::inode_btree::encode_key(buf, at, c));
        self.inodes.write(v, ag, &self.chunks, (record, keys))?;
        let some = self.with_free();
        if let Some(tree) = &mut self.free_inodes {
            tree.write(v, ag, &some, (record, keys))?;
        }
        Ok(())
    }

    /// Writes the heads of free space, of inodes, and the list of blocks set aside.
    fn write_heads(&self, list_before: &[u32]) -> Result<()> {
        let (v, sector) = (self.v, u64::from(self.v.sb.sectsize));
        let place = |n: u64| v.group_place(self.ag, 0) + n * sector;
        let head = |n: u64| read_vec(v.dev, place(n), sector, sector);
        let count = |n: usize| n as u32;

        let mut agf = head(1)?;
        let owners = self.owner_tree.as_ref();
        let roots = [
            self.by_place.root(),
            self.by_size.root(),
            owners.map_or(self.agf.roots.get(RMAP).copied().unwrap_or(0), Tree::root),
        ];
        let levels = [
            self.by_place.levels,
            self.by_size.levels,
            owners.map_or(self.agf.levels.get(RMAP).copied().unwrap_or(0), |t| t.levels),
        ];
        for (i, value) in roots.into_iter().chain(levels).enumerate() {
            let _ = put_be32(&mut agf, agf::ROOTS + i * 4, value);
        }
        let nodes = self.set_aside().len() - self.list.len() - 2 - usize::from(owners.is_some());
        let (all, longest) = self.free.iter().fold((0, 0), |(sum, most), (_, n)| (sum + *n, *n.max(&most)));
        let _ = put_be32(&mut agf, agf::FREEBLKS, all)
            && put_be32(&mut agf, agf::LONGEST, longest)
            && put_be32(&mut agf, agf::BTREEBLKS, count(nodes))
            && put_be32(&mut agf, agf::RMAP_BLOCKS, count(owners.map_or(0, |t| t.blocks.len())));
        if self.list != list_before {
            let mut raw = head(3)?;
            let room = agfl::capacity(v.sb);
            for i in 0..room {
                let _ = put_be32(&mut raw, LIST + i * 4, self.list.get(i).copied().unwrap_or(NONE));
            }
            stamp_crc(&mut raw, LIST_CRC);
            v.write_changed(place(3), &raw)?;
            // The first comes after the last in an empty one.
            let last = self.list.len().checked_sub(1).unwrap_or(room.saturating_sub(1));
            let _ = put_be32(&mut agf, agf::FLFIRST, 0)
                && put_be32(&mut agf, agf::FLLAST, count(last))
                && put_be32(&mut agf, agf::FLCOUNT, count(self.list.len()));
        }
        stamp_crc(&mut agf, AGF_CRC);
        v.write_changed(place(1), &agf)?;

        let mut agi = head(2)?;
        let _ = put_be32(&mut agi, agi::COUNT, self.agi.count)
            && put_be32(&mut agi, agi::FREECOUNT, self.agi.freecount)
            && put_be32(&mut agi, agi::ROOT, self.inodes.root())
            && put_be32(&mut agi, agi::LEVEL, self.inodes.levels);
        let some = self.free_inodes.as_ref();
        if let Some(tree) = some {
            let _ = put_be32(&mut agi, agi::FREE_ROOT, tree.root()) && put_be32(&mut agi, agi::FREE_LEVEL, tree.levels);
        }
        if v.counts_inode_blocks() {
            let _ = put_be32(&mut agi, AGI_BLOCKS, count(self.inodes.blocks.len()))
                && put_be32(&mut agi, AGI_BLOCKS + 4, count(some.map_or(0, |t| t.blocks.len())));
        }
        stamp_crc(&mut agi, AGI_CRC);
        v.write_changed(place(2), &agi)
    }
}
