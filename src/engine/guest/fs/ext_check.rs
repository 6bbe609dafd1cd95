//! The check of an ext filesystem: whose every block is, which names lead to which inode, and whether the counts say so.
//!
//! Inodes and folders are read once, in the order of the disk, and every node of a tree once, so that trees that meet or turn in circles
//! end. The crate has an audit too, which looks at names and counts only, and takes ten times as long.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::Ext;
use super::ext::{free_blocks, metadata};
use super::ext_folder::names_in;
use super::ext_inodes::{EXTENTS, INLINE, LEVELS, ROOT, VALUE, is_whole, leaf};
use crate::engine::error::Result;
use crate::engine::io::bytes::{le16, le32};
use crate::engine::units::printable_bytes;

/// Findings told, at most.
const TOLD: usize = 20;
/// The journal's inode.
const JOURNAL: u64 = 8;
/// Flag of inodes: a folder indexed by hashes.
const INDEXED: u32 = 0x1000;
const FOLDER: u16 = 0x4000;
const FILE: u16 = 0x8000;
const LINK: u16 = 0xa000;

/// What is wrong, in words; empty when nothing is.
pub(super) fn check(ext: &Ext) -> Result<Vec<String>> {
    let sb = &ext.fs.sb;
    let mut owners = Owners {
        ext,
        claims: Vec::new(),
        nodes: HashSet::new(),
        shared: HashSet::new(),
        inodes: Vec::new(),
        folders: Vec::new(),
        runs: Vec::new(),
        last: 0,
        found: Vec::new(),
    };
    if sb.last_orphan != 0 {
        owners.found.push("files that were deleted while they were open still wait for being removed".into());
    }
    // With meta_bg the descriptors lie elsewhere, and the ranges are too wide.
    if sb.feature_incompat & 0x10 == 0 {
        owners.claims.extend(metadata(&ext.fs).into_iter().map(|(start, end)| (start, end - start, 0)));
    }
    let first = ext.first_file();
    ext.each_inode(|ino, raw| if ino < first && ino != ROOT && ino != JOURNAL { Ok(()) } else { owners.inode(ino, raw) })?;
    owners.names()?;
    owners.counts()?;
    owners.blocks()
}

/// An inode in use.
struct Seen {
    ino: u64,
    mode: u16,
    links: u16,
    /// Names that lead to it.
    refs: u32,
}

/// A folder to be gone through.
struct Folder {
    ino: u64,
    generation: u32,
    indexed: bool,
    /// Its blocks in order: which of all folders' runs; `None` when its names are in the inode.
    runs: Option<Range<usize>>,
}

struct Owners<'a> {
    ext: &'a Ext,
    /// First block, how many, and whose: an inode, or 0 for the filesystem itself.
    claims: Vec<(u64, u64, u64)>,
    /// Nodes of trees that were read.
    nodes: HashSet<u64>,
    /// Blocks of attributes, which several files may share.
    shared: HashSet<u64>,
    /// In ascending order.
    inodes: Vec<Seen>,
    folders: Vec<Folder>,
    /// Blocks of all folders: the first, and how many.
    runs: Vec<(u64, u64)>,
    /// Where the last inode that was looked for is in the list: names that stand together mostly lead to inodes that do.
    last: usize,
    found: Vec<String>,
}

impl Owners<'_> {
    fn tell(&mut self, ino: u64, what: &str) {
        if self.found.len() < TOLD {
            self.found.push(format!("inode {ino}: {what}"));
        }
    }

    fn read(&self, block: u64) -> Result<Vec<u8>> {
        self.ext.block(block)
    }

    fn inode(&mut self, ino: u64, raw: &[u8]) -> Result<()> {
        let (mode, links, flags) = (le16(raw, 0).unwrap_or(0) & 0xf000, le16(raw, 26).unwrap_or(0), le32(raw, 32).unwrap_or(0));
        let word = |at| u64::from(le32(raw, at).unwrap_or(0));
        if links == 0 && ino != JOURNAL {
            return Ok(());
        }
        let generation = le32(raw, 100).unwrap_or(0);
        if !is_whole(&self.ext.fs.csum, ino as u32, raw) {
            self.tell(ino, "its checksum is wrong");
        }
        // Values of attributes and the list of orphans have no name.
        let nameless = flags & VALUE != 0 || ino == JOURNAL || ino == u64::from(le32(&self.ext.fs.sb.raw, 0x280).unwrap_or(0));
        if !nameless {
            self.inodes.push(Seen { ino, mode, links, refs: 0 });
        }
        let attributes = word(104) | u64::from(le16(raw, 118).unwrap_or(0)) << 32;
        if attributes != 0 && self.shared.insert(attributes) {
            self.claims.push((attributes, 1, ino));
        }
        let size = word(4) | if mode == FOLDER || mode == FILE { word(108) << 32 } else { 0 };
        // Regular files, folders, and links too long to be kept in the inode; nothing else has blocks.
        let mapped = matches!(mode, FOLDER | FILE) || (mode == LINK && size >= 60);
        let (inline, indexed) = (flags & INLINE != 0, flags & INDEXED != 0);
        if !mapped || inline {
            if mode == FOLDER {
                self.folders.push(Folder { ino, generation, indexed, runs: None });
            }
            return Ok(());
        }
        let map = raw.get(40..100).unwrap_or_default();
        let from = self.claims.len();
        let end = if flags & EXTENTS != 0 { self.extents(ino, map)? } else { self.list(ino, map)? };
        let block = u64::from(self.ext.fs.sb.block_size());
        if mode == FOLDER {
            if size > end.saturating_mul(block) {
                self.tell(ino, "a folder that is longer than its blocks");
            }
            // Nodes of its tree are no names.
            let (first, nodes) = (self.runs.len(), &self.nodes);
            self.runs.extend(self.claims.iter().skip(from).filter(|(b, _, _)| !nodes.contains(b)).map(|(b, n, _)| (*b, *n)));
            self.folders.push(Folder { ino, generation, indexed, runs: Some(first..self.runs.len()) });
        } else if size.div_ceil(block) > 1 << 32 {
            self.tell(ino, "a file longer than any can be");
        }
        Ok(())
    }

    /// Goes through the names of every folder: each leads to an inode in use, every inode has as many as it says, and every folder
    /// hangs in one place below the root.
    fn names(&mut self) -> Result<()> {
        let (mut parents, mut below): (HashMap<u64, u64>, HashMap<u64, Vec<u64>>) = (HashMap::new(), HashMap::new());
        let total = self.ext.fs.sb.blocks_count;
        let mut bytes = Vec::new();
        let runs = std::mem::take(&mut self.runs);
        for folder in std::mem::take(&mut self.folders) {
            let ino = folder.ino;
            let Some(runs) = folder.runs.and_then(|r| runs.get(r)) else {
                for e in self.ext.entries(ino)? {
                    self.name(ino, &e.name, e.node, &mut parents, &mut below);
                }
                continue;
            };
            let blocks = runs.iter().filter(|(b, n)| b.checked_add(*n).is_some_and(|e| e <= total)).flat_map(|(b, n)| *b..b + n);
            for (logical, place) in blocks.enumerate() {
                self.ext.blocks_into(place, 1, &mut bytes)?;
                let right = match folder.indexed.then(|| index_counts(&bytes, logical == 0)).flatten() {
                    Some(at) => self.ext.fs.csum.verify_dx_tail(ino as u32, folder.generation, &bytes, at) != Some(false),
                    None => self.ext.fs.csum.verify_dir_entry_tail(ino as u32, folder.generation, &bytes),
                };
                if !right {
                    self.tell(ino, "the checksum of one of its blocks is wrong");
                }
                self.block_of_names(ino, &bytes, &mut parents, &mut below);
            }
        }
        // From the root down every folder is reached, and each from where it says.
        let (mut todo, mut reached) = (vec![ROOT], HashSet::from([ROOT]));
        while let Some(dir) = todo.pop() {
            todo.extend(below.remove(&dir).into_iter().flatten().filter(|child| reached.insert(*child)));
        }
        let mut wrong: Vec<(u64, String)> = Vec::new();
        for seen in &self.inodes {
            let ino = &seen.ino;
            // A folder of very many counts as one (dir_nlink).
            let uncounted = seen.mode == FOLDER && seen.links == 1;
            if seen.refs == 0 {
                wrong.push((*ino, "it has no name".into()));
            } else if seen.refs != u32::from(seen.links) && !uncounted {
                wrong.push((*ino, format!("it has {} names and says {}", seen.refs, seen.links)));
            } else if seen.mode == FOLDER && !reached.contains(ino) {
                wrong.push((*ino, "a folder that hangs below no other".into()));
            }
        }
        wrong.iter().for_each(|(ino, what)| self.tell(*ino, what));
        Ok(())
    }

    fn block_of_names(&mut self, ino: u64, b: &[u8], parents: &mut HashMap<u64, u64>, below: &mut HashMap<u64, Vec<u64>>) {
        for entry in names_in(b, self.ext.typed) {
            match entry {
                Ok((name, node)) => self.name(ino, name, node, parents, below),
                Err(e) => self.tell(ino, e.why()),
            }
        }
    }

    fn name(&mut self, dir: u64, name: &[u8], node: u64, parents: &mut HashMap<u64, u64>, below: &mut HashMap<u64, Vec<u64>>) {
        let next = Some(self.last + 1).filter(|at| self.inodes.get(*at).is_some_and(|s| s.ino == node));
        let at = next.or_else(|| self.inodes.binary_search_by_key(&node, |s| s.ino).ok());
        self.last = at.unwrap_or(self.last);
        let Some(seen) = at.and_then(|at| self.inodes.get_mut(at)) else {
            self.tell(dir, &format!("'{}' leads to inode {node}, which is not in use", printable_bytes(name)));
            return;
        };
        seen.refs += 1;
        let folder = seen.mode == FOLDER;
        match name {
            b"." if node == dir => {}
            b".." if parents.insert(dir, node).is_none_or(|known| known == node) => {}
            b"." | b".." => self.tell(dir, "'.' or '..' leads elsewhere"),
            _ if name.is_empty() || name.contains(&b'/') || name.contains(&0) => {
                self.tell(dir, &format!("'{}' is no name", printable_bytes(name)));
            }
            _ if folder => {
                // Told by its parent first or by itself first.
                if parents.insert(node, dir).is_some_and(|known| known != dir) {
                    self.tell(node, "a folder that hangs in two places, or not where it says");
                }
                below.entry(dir).or_default().push(node);
            }
            _ => {}
        }
    }

    /// The groups and the superblock count what is free as the bitmaps do.
    fn counts(&mut self) -> Result<()> {
        let sb = &self.ext.fs.sb;
        let per_group = u64::from(sb.inodes_per_group);
        let counted = sb.feature_ro_compat & 0x0410 != 0;
        let block = u64::from(sb.block_size());
        let (mut blocks, mut inodes) = (0u64, 0u64);
        free_blocks(self.ext, &mut |_, len| blocks += len / block)?;
        let mut wrong = Vec::new();
        for (n, group) in self.ext.fs.groups.iter().enumerate() {
            let free = if counted && group.flags & 1 != 0 {
                per_group
            } else {
                let bitmap = self.read(group.inode_bitmap)?;
                let used: u64 = bitmap.iter().take((per_group / 8) as usize).map(|b| u64::from(b.count_ones())).sum();
                per_group.saturating_sub(used)
            };
            inodes += free;
            if free != u64::from(group.free_inodes_count) {
                wrong.push(format!(
                    "group {n}: {free} inodes are free in the bitmap and {} by its descriptor",
                    group.free_inodes_count
                ));
            }
            // An uninitialised bitmap is made from the group's own structures, and counted with all of them.
            if group.flags & 2 == 0 {
                let first = u64::from(sb.first_data_block) + n as u64 * u64::from(sb.blocks_per_group);
                let len = u64::from(sb.blocks_per_group).min(sb.blocks_count.saturating_sub(first));
                let bitmap = self.read(group.block_bitmap)?;
                let free =
                    (0..len).filter(|i| bitmap.get((i / 8) as usize).is_some_and(|b| b & (1 << (i % 8)) == 0)).count() as u64;
                if free != u64::from(group.free_blocks_count) {
                    let told = group.free_blocks_count;
                    wrong.push(format!("group {n}: {free} blocks are free in the bitmap and {told} by its descriptor"));
                }
            }
        }
        if blocks != sb.free_blocks_count || inodes != u64::from(sb.free_inodes_count) {
            wrong.push(format!(
                "{blocks} blocks and {inodes} inodes are free in the bitmaps, {} and {} by the superblock",
                sb.free_blocks_count, sb.free_inodes_count
            ));
        }
        let room = TOLD.saturating_sub(self.found.len());
        self.found.extend(wrong.into_iter().take(room));
        Ok(())
    }

    /// An extent tree, from its root in the inode. Returns where its last extent ends, in blocks of the file.
    fn extents(&mut self, ino: u64, root: &[u8]) -> Result<u64> {
        let mut end = 0;
        self.extent_node(ino, root, None, &mut end)?;
        Ok(end)
    }

    /// A node of an extent tree, which is on `level` (the root says it itself), and all below it, in the order of the file. `end` is
    /// where the file's last extent ended so far. False when it makes no sense.
    fn extent_node(&mut self, ino: u64, node: &[u8], level: Option<u16>, end: &mut u64) -> Result<bool> {
        let (entries, depth) = (le16(node, 2).unwrap_or(0), le16(node, 6).unwrap_or(u16::MAX));
        let fits = usize::from(entries) * 12 + 12 <= node.len();
        if le16(node, 0) != Some(0xf30a) || depth > LEVELS || !fits || level.is_some_and(|l| l != depth) {
            self.tell(ino, "its extent tree makes no sense");
            return Ok(false);
        }
        for e in node.get(12..).unwrap_or_default().chunks_exact(12).take(usize::from(entries)) {
            if depth > 0 {
                let child = u64::from(le32(e, 4).unwrap_or(0)) | u64::from(le16(e, 8).unwrap_or(0)) << 32;
                if let Some(bytes) = self.node(ino, child)?
                    && !self.extent_node(ino, &bytes, Some(depth - 1), end)?
                {
                    return Ok(false);
                }
                continue;
            }
            let Some((logical, place, len, _)) = leaf(e) else { continue };
            if logical < *end {
                self.tell(ino, "its extents overlap");
            }
            *end = logical + len;
            self.claims.push((place, len, ino));
        }
        Ok(true)
    }

    /// A block list of ext2 and ext3: twelve blocks, then three trees of lists. Returns where the last block ends in the file.
    fn list(&mut self, ino: u64, map: &[u8]) -> Result<u64> {
        let words = |bytes: &[u8]| -> Vec<u64> { bytes.chunks_exact(4).filter_map(|w| Some(u64::from(le32(w, 0)?))).collect() };
        let per_block = u64::from(self.ext.fs.sb.block_size()) / 4;
        let (mut at, mut end) = (0u64, 0u64);
        for (i, block) in words(map).into_iter().enumerate() {
            let level = (i as u32).saturating_sub(11);
            let span = per_block.pow(level);
            if block != 0 {
                let mut todo = vec![(block, level, at)];
                while let Some((block, level, at)) = todo.pop() {
                    if level == 0 {
                        end = end.max(at + 1);
                        match self.claims.last_mut() {
                            Some((s, l, of)) if *of == ino && *s + *l == block && !self.nodes.contains(s) => *l += 1,
                            _ => self.claims.push((block, 1, ino)),
                        }
                    } else if let Some(bytes) = self.node(ino, block)? {
                        let span = per_block.pow(level - 1);
                        let below = words(&bytes).into_iter().enumerate().filter(|(_, b)| *b != 0);
                        let below: Vec<_> = below.map(|(i, b)| (b, level - 1, at + i as u64 * span)).collect();
                        todo.extend(below.into_iter().rev());
                    }
                }
            }
            at += span;
        }
        Ok(end)
    }

    /// The node at `block`; `None` when it was met before, or lies nowhere.
    fn node(&mut self, ino: u64, block: u64) -> Result<Option<Vec<u8>>> {
        if block >= self.ext.fs.sb.blocks_count {
            self.tell(ino, "a block past the end of the filesystem");
            return Ok(None);
        }
        self.claims.push((block, 1, ino));
        if !self.nodes.insert(block) {
            return Ok(None);
        }
        self.read(block).map(Some)
    }

    /// No block belongs to two, none lies outside, and none of them is free.
    fn blocks(mut self) -> Result<Vec<String>> {
        let total = self.ext.fs.sb.blocks_count;
        let mut claims = std::mem::take(&mut self.claims);
        claims.sort_unstable();
        let mut free = Vec::new();
        let block = u64::from(self.ext.fs.sb.block_size());
        free_blocks(self.ext, &mut |at, len| free.push((at / block, (at + len) / block)))?;
        let mut until = (0u64, 0u64);
        for (start, len, ino) in claims {
            let end = start.saturating_add(len);
            if start < until.0 {
                let both = if until.1 == 0 { "the filesystem's own structures".into() } else { format!("inode {}", until.1) };
                self.tell(ino, &format!("block {start} belongs to {both} too"));
            }
            if end > total {
                self.tell(ino, "a block past the end of the filesystem");
            }
            let next = free.partition_point(|(_, e)| *e <= start);
            if ino != 0 && free.get(next).is_some_and(|(s, _)| *s < end) {
                self.tell(
                    ino,
                    &format!("block {} is in use and said to be free", free.get(next).map_or(start, |f| f.0.max(start))),
                );
            }
            if end > until.0 {
                until = (end, ino);
            }
        }
        Ok(self.found)
    }
}

/// Where an index block of a folder counts its entries; `None` for a block of names. The root has a head of 32 bytes, whose second part
/// says how long it is, and a node one of 8: an entry of no inode as long as the block.
fn index_counts(block: &[u8], root: bool) -> Option<usize> {
    if root {
        return Some(24 + block.get(29).map_or(8, |n| usize::from(*n)));
    }
    let whole = le16(block, 4).map(usize::from) == Some(block.len()) || block.len() == 1 << 16;
    (le32(block, 0) == Some(0) && whole && le16(block, 6) == Some(0)).then_some(8)
}
