//! A folder that loses names.
//!
//! ```text
//!  few are left     they go into the inode, or into one block with their index
//!  more             gaps are left in their blocks; an empty block's place is taken by the last one's names; the index is made anew
//! ```
//!
//! Blocks that are no longer needed are those at the end of each part of the folder (names, index, room), so its extents only get fewer.

use std::collections::{BTreeMap, BTreeSet};

use fs_xfs::extent::Extent;
use fs_xfs::inode::Format;

use super::Volume;
use super::index::{Identity, NO_BLOCK};
use super::inode::{Entry, Run};
use super::map;
use super::names::{self, Name};
use crate::engine::error::{Error, Result};
use crate::engine::guest::fs::xfs_folder::{INDEX, hash};
use crate::engine::guest::fs::xfs_scrub::stamp_crc;
use crate::engine::guest::fs::{Node, guarded};
use crate::engine::io::bytes::put_be64;

/// Bytes of a folder before its list of room, in the folder's own space.
const ROOM: u64 = 1 << 36;
/// Blocks of one folder, at most.
const MAX_BLOCKS: u64 = 1 << 20;

/// A folder and its names.
pub(super) struct Folder {
    pub(super) entry: Entry,
    /// Its extents; none when its names are in its inode.
    extents: Vec<Extent>,
    /// Blocks of the tree its extents are in.
    tree: Vec<u64>,
    above: Node,
    /// Its blocks by number: where their parts are.
    places: BTreeMap<u64, Vec<u64>>,
    /// Blocks of names, by number.
    blocks: BTreeMap<u64, Vec<u8>>,
    /// Names and the number of the block they are in, in the order of the blocks. Without `.` and `..` when they are in the inode.
    pub(super) names: Vec<(u64, Name)>,
}

/// What a folder's loss comes to.
#[derive(Default)]
pub(super) struct Loss {
    /// Blocks that are no longer its own.
    pub(super) freed: Vec<Run>,
    /// What is to be written: where, and what.
    writes: Vec<(u64, Vec<u8>)>,
}

impl Folder {
    /// Reads it. Errors: it is no folder, or damaged.
    pub(super) fn read(v: &Volume<'_>, ino: Node) -> Result<Folder> {
        let entry = Entry::read(v, ino)?;
        if !entry.is_folder() {
            return Err(Error::usage(format!("inode {ino} is no folder")));
        }
        let mut out = Folder {
            entry,
            extents: Vec::new(),
            tree: Vec::new(),
            above: 0,
            places: BTreeMap::new(),
            blocks: BTreeMap::new(),
            names: Vec::new(),
        };
        let inode = &out.entry.inode;
        if inode.format == Format::Local {
            let content = usize::try_from(inode.size).ok().and_then(|n| out.entry.fork().get(..n)).ok_or_else(|| out.bad())?;
            let (above, names) = names::read_list(content)?;
            out.above = above;
            out.names = names.into_iter().map(|n| (0, n)).collect();
            return Ok(out);
        }
        (out.extents, out.tree) = match inode.format {
            Format::Btree => guarded("read a folder's extents", || {
                fs_xfs::bmbt::walk_with_blocks(out.entry.fork(), inode.nextents, v.sb, ino, |block| v.read_block(block))
            })?,
            _ => (guarded("read a folder's extents", || v.fs.data_extents(inode, &out.entry.raw))?, Vec::new()),
        };
        let sum = out.extents.iter().fold(0u64, |sum, e| sum.saturating_add(e.blockcount));
        if sum > MAX_BLOCKS {
            return Err(Error::unsupported(format!("inode {ino} is a folder of more than {MAX_BLOCKS} blocks")));
        }
        for e in &out.extents {
            for i in 0..e.blockcount {
                let at = e.startoff.checked_add(i).filter(|at| *at < 1 << 40).ok_or_else(|| out.bad())?;
                let parts = out.places.entry(at >> v.sb.dirblklog).or_default();
                if at & ((1 << v.sb.dirblklog) - 1) != parts.len() as u64 {
                    return Err(out.bad());
                }
                parts.push(e.startblock + i);
            }
        }
        if out.places.range(..v.folder_block(INDEX)).any(|(n, _)| *n >= MAX_BLOCKS) {
            return Err(out.bad());
        }
        if out.places.values().any(|parts| parts.len() != 1 << v.sb.dirblklog) {
            return Err(out.bad());
        }
        let all: Vec<u64> = out.places.range(..v.folder_block(INDEX)).map(|(n, _)| *n).collect();
        for number in all {
            let block = out.block(v, number)?;
            guarded("read a folder", || fs_xfs::dir::verify_data_block(&block, v.sb, out.place(v, number) / 512, ino))?;
            out.names.extend(names::read(&block)?.into_iter().map(|n| (number, n)));
            out.blocks.insert(number, block);
        }
        let mut own = out.names.iter().filter(|(_, n)| n.is_own());
        let (Some((0, dot)), Some((0, above)), None) = (own.next(), own.next(), own.next()) else { return Err(out.bad()) };
        if (dot.name.as_slice(), dot.ino, above.name.as_slice()) != (b".", ino, b"..") {
            return Err(out.bad());
        }
        out.above = above.ino;
        Ok(out)
    }

    fn bad(&self) -> Error {
        Error::corrupt(format!("the folder of inode {} makes no sense", self.entry.inode.ino)).hint("let xfs_repair mend it")
    }

    /// Names in it beside `.` and `..`.
    pub(super) fn count(&self) -> usize {
        self.names.iter().filter(|(_, n)| !n.is_own()).count()
    }

    /// Where block `number` begins, in bytes on the volume.
    fn place(&self, v: &Volume<'_>, number: u64) -> u64 {
        self.places.get(&number).and_then(|parts| parts.first()).map_or(u64::MAX, |first| v.sb.fsblock_offset(*first))
    }

    fn block(&self, v: &Volume<'_>, number: u64) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for part in self.places.get(&number).ok_or_else(|| self.bad())? {
            out.extend(guarded("read a folder", || v.read_block(*part))?);
        }
        Ok(out)
    }

    /// Takes out the names for which `lost` says so, `folders` of which stand for folders.
    pub(super) fn lose(mut self, v: &Volume<'_>, lost: &dyn Fn(&Name) -> bool, folders: u32) -> Result<(Entry, Loss)> {
        let touched: BTreeSet<u64> = self.names.iter().filter(|(_, n)| lost(n)).map(|(block, _)| *block).collect();
        self.names.retain(|(_, n)| !lost(n));
        let mut loss = Loss::default();
        let room = self.entry.fork().len();
        let left: Vec<Name> = self.names.iter().filter(|(_, n)| !n.is_own()).map(|(_, n)| n.clone()).collect();
        if folders > 0 {
            let links = self.entry.inode.nlink.checked_sub(folders).filter(|n| *n >= 2).ok_or_else(|| self.bad())?;
            self.entry.set_links(links);
        }
        let local = self.entry.inode.format == Format::Local;
        let mut list = left.clone();
        if !local {
            names::place(&mut list);
        }
        let content = names::list(self.above, &list);
        let kept = if content.len() <= room && list.len() <= usize::from(u8::MAX) {
            self.entry.set_local(&content);
            self.entry.set_size(content.len() as u64);
            BTreeSet::new()
        } else if local {
            return Err(self.bad());
        } else {
            let kept = match self.only_block(v, &mut loss) {
                true => BTreeSet::from([0]),
                false => self.blocks(v, &touched, &mut loss)?,
            };
            let names = kept.range(..v.folder_block(INDEX)).next_back().map_or(0, |last| last + 1);
            self.entry.set_size(names * v.folder_len() as u64);
            kept
        };
        if !local {
            self.keep_extents(v, &kept, &mut loss)?;
        }
        self.entry.touch(true);
        Ok((self.entry, loss))
    }

    /// Puts everything into the first block, if it fits.
    fn only_block(&mut self, v: &Volume<'_>, loss: &mut Loss) -> bool {
        let names: Vec<Name> = self.names.iter().map(|(_, n)| n.clone()).collect();
        if names::block_len(&names) > v.folder_len() {
            return false;
        }
        let Some(mut block) = self.blocks.remove(&0) else { return false };
        names::only_block(&mut block, &names);
        self.write(v, 0, block, loss);
        true
    }

    /// Notes that block `number` is to hold `bytes`.
    fn write(&self, v: &Volume<'_>, number: u64, mut bytes: Vec<u8>, loss: &mut Loss) {
        for part in self.places.get(&number).into_iter().flatten() {
            let rest = bytes.split_off(bytes.len().min(v.sb.blocksize as usize));
            loss.writes.push((v.sb.fsblock_offset(*part), std::mem::replace(&mut bytes, rest)));
        }
    }

    /// Leaves gaps where names were, and makes index and room anew. Returns the blocks that are still needed.
    fn blocks(&mut self, v: &Volume<'_>, touched: &BTreeSet<u64>, loss: &mut Loss) -> Result<BTreeSet<u64>> {
        let mut by_block: BTreeMap<u64, Vec<Name>> = BTreeMap::new();
        for (number, name) in std::mem::take(&mut self.names) {
            by_block.entry(number).or_default().push(name);
        }
        // Blocks that are empty now get the names of the last ones.
        let all: Vec<u64> = self.blocks.keys().copied().collect();
        let kept = all.get(..by_block.len()).unwrap_or_default();
        let mut surplus = by_block.keys().rev().filter(|n| kept.binary_search(n).is_err());
        let sources: Vec<(u64, u64)> = kept
            .iter()
            .map(|n| if by_block.contains_key(n) { (*n, *n) } else { (*n, surplus.next().copied().unwrap_or(*n)) })
            .collect();
        let last = kept.last().copied().ok_or_else(|| self.bad())?;
        let (mut gaps, mut entries) = (vec![NO_BLOCK; usize::try_from(last + 1).map_err(|_| self.bad())?], Vec::new());
        for (number, from) in sources {
            let (Some(mut block), Some(names)) = (self.blocks.remove(&from), by_block.remove(&from)) else {
                return Err(self.bad());
            };
            // A block that had its index in it is never here: what is left of it fits it.
            if !block.starts_with(names::NAMES) {
                return Err(self.bad());
            }
            let mut gap = names::largest_gap(&block);
            if touched.contains(&from) || number != from {
                gap = names::keep(&mut block, &names);
                let _ = put_be64(&mut block, names::PLACE, self.place(v, number) / 512);
                stamp_crc(&mut block, names::CRC);
                self.write(v, number, block, loss);
            }
            if let Some(slot) = gaps.get_mut(number as usize) {
                *slot = gap;
            }
            let address = |at: usize| u32::try_from((number * v.folder_len() as u64 + at as u64) / 8).map_err(|_| self.bad());
            for n in &names {
                entries.push((hash(&n.name), address(n.at)?));
            }
        }
        entries.sort_unstable();
        let mut out: BTreeSet<u64> = kept.iter().copied().collect();
        self.index(v, &entries, &gaps, &mut out, loss)?;
        Ok(out)
    }

    fn index(
        &self,
        v: &Volume<'_>,
        entries: &[(u32, u32)],
        gaps: &[u16],
        kept: &mut BTreeSet<u64>,
        loss: &mut Loss,
    ) -> Result<()> {
        let identity = Identity { uuid: v.sb.meta_uuid, owner: self.entry.inode.ino, len: v.folder_len() };
        let (index, room) = (v.folder_block(INDEX), v.folder_block(ROOM));
        let mut there = self.places.range(index..room).map(|(n, _)| *n);
        if identity.one_will_do(entries.len(), gaps.len()) {
            let number = there.next().filter(|n| *n == index).ok_or_else(|| self.bad())?;
            kept.insert(number);
            self.write(v, number, identity.only(self.place(v, number), entries, gaps), loss);
            return Ok(());
        }
        let wanted = identity.levels(entries.len()).iter().sum();
        let there: Vec<u64> = there.take(wanted).collect();
        if there.len() < wanted || there.first() != Some(&index) {
            return Err(self.bad());
        }
        // Blocks of the index lead to each other by where they are in the folder, in blocks of the filesystem.
        let spot = |n: u64| u32::try_from(n << v.sb.dirblklog).map(|at| (at, self.place(v, n))).map_err(|_| self.bad());
        let spots = there.iter().map(|n| spot(*n)).collect::<Result<Vec<_>>>()?;
        for (number, block) in there.iter().zip(identity.many(entries, &spots)) {
            self.write(v, *number, block, loss);
        }
        kept.extend(there);
        let each = identity.gaps_per_block();
        for (i, part) in gaps.chunks(each).enumerate().filter(|(_, part)| part.iter().any(|g| *g != NO_BLOCK)) {
            let number = room + i as u64;
            if !self.places.contains_key(&number) {
                return Err(self.bad());
            }
            kept.insert(number);
            self.write(v, number, identity.room(self.place(v, number), i * each, part), loss);
        }
        Ok(())
    }

    /// Gives up all blocks that are not among `kept`.
    fn keep_extents(&mut self, v: &Volume<'_>, kept: &BTreeSet<u64>, loss: &mut Loss) -> Result<()> {
        let mut stay: Vec<Extent> = Vec::new();
        let mut gone: Vec<Extent> = Vec::new();
        for e in &self.extents {
            for i in 0..e.blockcount {
                let one =
                    Extent { startoff: e.startoff + i, startblock: e.startblock + i, blockcount: 1, unwritten: e.unwritten };
                let to = if kept.contains(&(one.startoff >> v.sb.dirblklog)) { &mut stay } else { &mut gone };
                match to.last_mut().filter(|l| i > 0 && l.end_offset() == one.startoff) {
                    Some(last) => last.blockcount += 1,
                    None => to.push(one),
                }
            }
        }
        let records = stay.iter().map(|e| guarded("write extents", || e.to_bytes())).collect::<Result<Vec<_>>>()?;
        let room = self.entry.fork().len();
        let mut nodes = self.tree.as_slice();
        if kept.is_empty() {
            // Its names are in it.
        } else if records.len() * size_of::<map::Record>() <= room {
            self.entry.set_extents(&records.concat());
        } else {
            let count = records.len() as u64;
            let map = map::laid(v, self.entry.inode.ino, records, room, nodes).ok_or_else(|| self.bad())?;
            nodes = nodes.get(map.nodes.len()..).unwrap_or_default();
            loss.writes.extend(map.nodes.into_iter().map(|(block, bytes)| (v.sb.fsblock_offset(block), bytes)));
            self.entry.set_tree(&map.root, count);
        }
        let freed = gone.iter().map(|e| Run { start: e.startblock, len: e.blockcount });
        loss.freed.extend(freed.chain(nodes.iter().map(|b| Run { start: *b, len: 1 })));
        let freed: u64 = loss.freed.iter().map(|r| r.len).sum();
        self.entry.set_blocks(self.entry.inode.nblocks.checked_sub(freed).ok_or_else(|| self.bad())?);
        Ok(())
    }
}

impl Loss {
    /// Writes what changed.
    pub(super) fn write(&self, v: &Volume<'_>) -> Result<()> {
        for (place, bytes) in &self.writes {
            v.write_changed(*place, bytes)?;
        }
        Ok(())
    }
}
