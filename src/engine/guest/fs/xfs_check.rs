//! A quick check of XFS, in one pass over the inodes and little memory: one bit for each block, 24 bytes for each inode in use,
//! and with reverse mappings 64 for each extent.
//!
//! It only answers whether everything agrees. Where anything is of a kind it does not know (shared extents, quotas, realtime),
//! [`sound`] cannot tell, and the crate's full check is asked, which takes many times the memory. Where anything does not agree that
//! check is asked too, for its words; when it finds nothing, the disagreement itself is what is told.
//! What must agree is in "XFS Algorithms & Data Structures": allocation groups, their B+trees, inodes, forks, directories.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use fs_xfs::ag_btree::{Shape, walk_blocks};
use fs_xfs::agfl::Agfl;
use fs_xfs::alloc_btree::{FreeExtent, Order, decode_free_extent};
use fs_xfs::inode::{FileType, Format, Inode};
use fs_xfs::inode_btree::{INODES_PER_CHUNK, InodeChunk, Which};
use fs_xfs::rmap::{OFF_ATTR_FORK, OFF_BMBT_BLOCK, OWN_AG, OWN_FS, OWN_INOBT, OWN_INODES, OWN_LOG, OWN_REFC, Rmap};
use fs_xfs::{Filesystem, Superblock};

use super::xfs_links::{self, Seen};
use super::{side_by_side, xfs_inodes};
use crate::engine::io::bytes::{be16, be32, be64};

/// Feature bit: the AGI counts the blocks of its trees.
pub(super) const COUNTS_INODE_BLOCKS: u32 = 8;
/// Feature bit: the superblock's counters are brought up to date when it is unmounted.
pub(super) const LAZY_COUNTERS: u32 = 2;
/// Where the AGI counts the blocks of its two trees.
pub(super) const AGI_BLOCKS: usize = 336;
/// Bytes before the first attribute kept in an inode.
const ATTR_HEAD: usize = 4;
/// Version bits that only the first superblock gets, when they are first needed: attributes and quotas.
const LATE: u16 = 0x0010 | 0x0040;

/// Why a filesystem is not called sound.
#[derive(Debug)]
pub(super) enum Doubt {
    /// It has what is not understood here.
    Unknown,
    /// Something does not agree: what.
    Wrong(&'static str),
}

pub(super) type Sound = Result<(), Doubt>;

pub(super) const DISAGREE: Doubt = Doubt::Wrong("its structures do not agree with each other");

impl From<fs_xfs::Error> for Doubt {
    fn from(_: fs_xfs::Error) -> Self {
        DISAGREE
    }
}

impl From<fs_core::Error> for Doubt {
    fn from(_: fs_core::Error) -> Self {
        DISAGREE
    }
}

pub(super) fn require(true_of_sound: bool) -> Sound {
    if true_of_sound { Ok(()) } else { Err(DISAGREE) }
}

pub(super) fn known(true_of_known: bool) -> Sound {
    if true_of_known { Ok(()) } else { Err(Doubt::Unknown) }
}

/// Says in `what` disagrees.
fn part<T>(what: &'static str, done: Result<T, Doubt>) -> Result<T, Doubt> {
    done.map_err(|d| if matches!(d, Doubt::Unknown) { d } else { Doubt::Wrong(what) })
}

/// Errors: it is not certain that `fs` is sound.
pub(super) fn sound(fs: &Filesystem) -> Sound {
    let sb = fs.superblock();
    known(sb.is_v5() && sb.rblocks == 0 && sb.qflags == 0 && !fs.was_replayed())?;
    known([sb.uquotino, sb.gquotino, sb.pquotino].iter().all(|ino| matches!(*ino, 0 | u64::MAX)))?;
    known(sb.features2 & LAZY_COUNTERS != 0 && sb.dblocks <= 1 << 36)?;
    part(
        "its superblock makes no sense",
        require(sb.dblocks > u64::from(sb.agcount.saturating_sub(1)) * u64::from(sb.agblocks)),
    )?;
    let claimed: Vec<AtomicU64> = (0..sb.dblocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
    let pass = || Pass {
        fs,
        sb,
        claimed: &claimed,
        had: Vec::new(),
        mapped: Vec::new(),
        inodes: Vec::new(),
        free: 0,
        ifree: 0,
        icount: 0,
    };
    part("the copies of its superblock differ", (1..sb.agcount).try_for_each(|ag| pass().copy(ag)))?;
    let groups = side_by_side(sb.agcount as usize, |ag| {
        let mut pass = pass();
        pass.group(ag as u32).map(|()| pass)
    });
    let mut pass = part("a group's heads, trees and inodes do not agree", groups)?.into_iter().fold(pass(), Pass::and);
    let blocks = claimed.iter().map(|w| u64::from(w.load(Relaxed).count_ones())).sum::<u64>();
    part("some blocks are neither free nor in use", require(blocks == sb.dblocks))?;
    let counts = (pass.icount, pass.ifree, pass.free) == (sb.icount, sb.ifree, sb.fdblocks);
    part("its superblock counts other inodes or free blocks", require(counts))?;
    let owners = !sb.has_rmapbt() || runs(&mut pass.had).eq(runs(&mut pass.mapped));
    part("its reverse mappings are others than its files'", require(owners))?;
    part("its folders do not lead to its inodes", xfs_links::agree(fs, &pass.inodes))
}

/// Whose a block is: an inode or one of the negative owners of reverse mappings, and the flags that tell its attributes and its tree.
type Whose = (i64, u64);

/// Blocks that belong together: the first, counted through all groups, how many, and whose.
type Run = (u64, u64, Whose);

/// Free space, which no reverse mapping tells of.
const NOBODY: Whose = (0, 0);

/// `all` in ascending order, neighbours of one owner as one.
fn runs(all: &mut [Run]) -> impl Iterator<Item = Run> {
    all.sort_unstable();
    let mut rest = all.iter().copied().peekable();
    std::iter::from_fn(move || {
        let (start, mut len, whose) = rest.next()?;
        while let Some((_, n, _)) = rest.next_if(|next| next.0 == start + len && next.2 == whose) {
            len += n;
        }
        Some((start, len, whose))
    })
}

/// The blocks of a tree, level by level from left to right: each names those beside it.
#[derive(Default)]
struct Rows {
    /// Of each level: the last block met, and the one that it says is on its right.
    last: BTreeMap<u16, (u64, u64)>,
    torn: bool,
}

impl Rows {
    fn met(&mut self, level: Option<u16>, block: u64, (left, right): (Option<u64>, Option<u64>)) {
        let (Some(level), Some(left), Some(right)) = (level, left, right) else {
            self.torn = true;
            return;
        };
        let before = self.last.insert(level, (block, right)).unwrap_or((u64::MAX, block));
        self.torn |= before != (left, block);
    }
    fn end(self) -> Sound {
        require(!self.torn && self.last.values().all(|(_, right)| *right == u64::MAX))
    }
}

/// What is found in groups.
struct Pass<'a> {
    fs: &'a Filesystem,
    sb: &'a Superblock,
    /// A bit for each block that somebody has, in all groups.
    claimed: &'a [AtomicU64],
    /// Who has which blocks, and what the reverse mappings say; kept where there are any.
    had: Vec<Run>,
    mapped: Vec<Run>,
    /// In ascending order.
    inodes: Vec<Seen>,
    free: u64,
    ifree: u64,
    icount: u64,
}

impl Pass<'_> {
    /// With what is found in the groups that follow.
    fn and(mut self, next: Self) -> Self {
        self.had.extend(next.had);
        self.mapped.extend(next.mapped);
        self.inodes.extend(next.inodes);
        Pass { free: self.free + next.free, ifree: self.ifree + next.ifree, icount: self.icount + next.icount, ..self }
    }
    /// Byte on the volume of block `block` of group `ag`.
    fn place(&self, ag: u32, block: u32) -> u64 {
        (u64::from(ag) * u64::from(self.sb.agblocks) + u64::from(block)) * u64::from(self.sb.blocksize)
    }
    /// Blocks in group `ag`: the last may have fewer.
    fn group_len(&self, ag: u32) -> u64 {
        let before = u64::from(ag) * u64::from(self.sb.agblocks);
        self.sb.dblocks.saturating_sub(before).min(u64::from(self.sb.agblocks))
    }
    fn read(&self, place: u64, len: usize) -> Result<Vec<u8>, Doubt> {
        let mut raw = vec![0; len];
        self.fs.device().read_at(place, &mut raw).map_err(|_| DISAGREE)?;
        Ok(raw)
    }
    /// Nobody else has these blocks.
    fn claim(&mut self, ag: u32, start: u32, len: u64, whose: Whose) -> Sound {
        let end = u64::from(start).checked_add(len).ok_or(DISAGREE)?;
        require(ag < self.sb.agcount && len > 0 && end <= self.group_len(ag))?;
        let first = u64::from(ag) * u64::from(self.sb.agblocks);
        let (mut at, end) = (first + u64::from(start), first + end);
        if self.sb.has_rmapbt() && whose != NOBODY {
            self.had.push((at, len, whose));
        }
        while at < end {
            let n = (64 - at % 64).min(end - at);
            let bits = (u64::MAX >> (64 - n)) << (at % 64);
            let word = self.claimed.get((at / 64) as usize).ok_or(DISAGREE)?;
            require(word.fetch_or(bits, Relaxed) & bits == 0)?;
            at += n;
        }
        Ok(())
    }
    /// A tree of group `ag`: its records and how many blocks it has.
    fn tree<T>(
        &mut self,
        shape: Shape,
        whose: i64,
        ag: u32,
        root: (u32, u32),
        record: fn(&[u8], usize) -> T,
    ) -> Result<(Vec<T>, u32), Doubt> {
        let (fs, size, start) = (self.fs, self.sb.blocksize, self.place(ag, 0));
        let mut rows = Rows::default();
        let read = |block: u32| {
            let mut raw = vec![0; size as usize];
            fs.device().read_at(start + u64::from(block) * u64::from(size), &mut raw)?;
            let beside = |at| be32(&raw, at).map(|b| if b == u32::MAX { u64::MAX } else { u64::from(b) });
            rows.met(be16(&raw, 4), u64::from(block), (beside(8), beside(12)));
            Ok(raw)
        };
        let (records, blocks) = walk_blocks(self.sb, shape, ag, root.0, root.1, read, record)?;
        rows.end()?;
        blocks.iter().try_for_each(|b| self.claim(ag, *b, 1, (whose, 0)))?;
        Ok((records, blocks.len() as u32))
    }

    /// The copy of the superblock in group `ag` describes the same filesystem.
    fn copy(&self, ag: u32) -> Sound {
        let facts = |s: &Superblock| {
            let sizes = (s.blocksize, s.dblocks, s.agblocks, s.agcount, s.sectsize, s.inodesize);
            let features = (s.versionnum & !LATE, s.features_compat, s.features_ro_compat, s.features_incompat);
            (sizes, features, s.logstart, s.logblocks, s.uuid)
        };
        let copy = Superblock::parse_copy(&self.read(self.place(ag, 0), usize::from(self.sb.sectsize))?)?;
        require(facts(self.sb) == facts(&copy))
    }

    /// A group: its heads, its free space, its inodes.
    fn group(&mut self, ag: u32) -> Sound {
        let (fs, sb) = (self.fs, self.sb);
        let sector = usize::from(sb.sectsize);
        self.claim(ag, 0, (4 * sector as u64).div_ceil(u64::from(sb.blocksize)), (OWN_FS, 0))?;
        if sb.has_internal_log() && sb.split_fsblock(sb.logstart).0 == ag {
            self.claim(ag, sb.split_fsblock(sb.logstart).1, u64::from(sb.logblocks), (OWN_LOG, 0))?;
        }
        let (agf, agi) = (fs.read_agf(ag)?, fs.read_agi(ag)?);
        require(u64::from(agf.length) == self.group_len(ag) && agi.length == agf.length)?;
        // Files that were deleted while they were open.
        require(agi.unlinked.iter().all(|first| *first == u32::MAX))?;
        let list = Agfl::parse(&self.read(self.place(ag, 0) + 3 * sector as u64, sector)?, sb, &agf, ag)?;
        list.entries(sb).into_iter().try_for_each(|b| self.claim(ag, b, 1, (OWN_AG, 0)))?;
        if sb.has_reflink() && agf.refcount_level > 0 {
            let root = (agf.refcount_root, agf.refcount_level);
            let (shared, _) = self.tree(fs_xfs::refcount::shape(), OWN_REFC, ag, root, fs_xfs::refcount::decode)?;
            known(shared.is_empty())?;
        }
        self.free_space(ag, &agf)?;
        self.inodes(ag, &agi)
    }

    /// Both trees of free space, which hold the same extents.
    fn free_space(&mut self, ag: u32, agf: &fs_xfs::ag::Agf) -> Sound {
        use fs_xfs::ag::agf_btree::{BNO, CNT, RMAP};
        let root = |which: usize| agf.roots.get(which).copied().zip(agf.levels.get(which).copied()).ok_or(DISAGREE);
        let (by_block, n) = self.tree(Order::ByBlock.shape(), OWN_AG, ag, root(BNO)?, decode_free_extent)?;
        let (by_count, m) = self.tree(Order::ByCount.shape(), OWN_AG, ag, root(CNT)?, decode_free_extent)?;
        let mut beyond_roots = n + m - 2;
        if self.sb.has_rmapbt() {
            let (mapped, l) = self.tree(fs_xfs::rmap::shape(), OWN_AG, ag, root(RMAP)?, fs_xfs::rmap::decode)?;
            beyond_roots += l - 1;
            require(mapped.iter().all(|r| r.owner >= 0 || r.offset == 0))?;
            let first = u64::from(ag) * u64::from(self.sb.agblocks);
            let fork = |r: &Rmap| if r.offset & OFF_BMBT_BLOCK != 0 { OFF_BMBT_BLOCK } else { r.offset & OFF_ATTR_FORK };
            let run = |r: &Rmap| (first + u64::from(r.startblock), u64::from(r.blockcount), (r.owner, fork(r)));
            self.mapped.extend(mapped.iter().map(run));
        }
        require(agf.btreeblks == beyond_roots)?;
        let place = |e: &FreeExtent| (e.startblock, e.blockcount);
        let size = |e: &FreeExtent| (e.blockcount, e.startblock);
        require(by_block.is_sorted_by_key(place) && by_count.is_sorted_by_key(size))?;
        let mut again: Vec<_> = by_count.iter().map(place).collect();
        again.sort_unstable();
        require(by_block.iter().map(place).eq(again))?;
        by_block.iter().try_for_each(|e| self.claim(ag, e.startblock, u64::from(e.blockcount), NOBODY))?;
        let free: u64 = by_block.iter().map(|e| u64::from(e.blockcount)).sum();
        require(free == u64::from(agf.freeblks))?;
        require(by_block.iter().map(|e| e.blockcount).max().unwrap_or(0) == agf.longest)?;
        self.free += free + u64::from(agf.flcount) + u64::from(agf.btreeblks);
        Ok(())
    }

    /// The inodes of a group, and what each has.
    fn inodes(&mut self, ag: u32, agi: &fs_xfs::ag::Agi) -> Sound {
        let sb = self.sb;
        let decode = xfs_inodes::record(sb);
        let (chunks, all) =
            self.tree(fs_xfs::inode_btree::shape(Which::All, true), OWN_INOBT, ag, (agi.root, agi.level), decode)?;
        let mut blocks = (all, 0);
        if sb.has_finobt() {
            let shape = fs_xfs::inode_btree::shape(Which::WithFreeInodes, true);
            let (some, n) = self.tree(shape, OWN_INOBT, ag, (agi.free_root, agi.free_level), decode)?;
            require(some.iter().eq(chunks.iter().filter(|c| c.freecount > 0)))?;
            blocks.1 = n;
        }
        if sb.features_ro_compat & COUNTS_INODE_BLOCKS != 0 {
            let sector = usize::from(sb.sectsize);
            let raw = self.read(self.place(ag, 0) + 2 * sector as u64, sector)?;
            require((be32(&raw, AGI_BLOCKS), be32(&raw, AGI_BLOCKS + 4)) == (Some(blocks.0), Some(blocks.1)))?;
        }
        let (mut count, mut free) = (0, 0);
        let mut bytes = vec![0; usize::from(sb.inodesize) * usize::from(INODES_PER_CHUNK)];
        for c in &chunks {
            let there = || (0..INODES_PER_CHUNK).filter(|n| c.exists(*n));
            require(there().count() == usize::from(c.count))?;
            require(there().filter(|n| c.is_free(*n)).count() == usize::from(c.freecount))?;
            (count, free) = (count + u32::from(c.count), free + u32::from(c.freecount));
            let size = usize::from(sb.inodesize);
            let place = self.place(ag, 0) + u64::from(c.startino) * size as u64;
            self.chunk_bytes(c, place, &mut bytes)?;
            let mut last = None;
            for (n, raw) in (0..INODES_PER_CHUNK).zip(bytes.chunks_exact(size)).filter(|(n, _)| c.exists(*n)) {
                let number = c.startino.checked_add(u32::from(n)).ok_or(DISAGREE)?;
                let block = number >> sb.inopblog;
                if last.replace(block) != Some(block) {
                    self.claim(ag, block, 1, (OWN_INODES, 0))?;
                }
                self.inode(sb.join_ino(ag, number), raw, c.is_free(n))?;
            }
        }
        self.icount += u64::from(count);
        self.ifree += u64::from(free);
        require((count, free) == (agi.count, agi.freecount))
    }

    /// Reads the inodes of a chunk, which begins at `place`, into `bytes`; those it does not have stay what they are.
    fn chunk_bytes(&self, c: &InodeChunk, place: u64, bytes: &mut [u8]) -> Sound {
        if c.holemask == 0 {
            return Ok(self.fs.device().read_at(place, bytes)?);
        }
        let size = usize::from(self.sb.inodesize);
        for (n, raw) in (0..INODES_PER_CHUNK).zip(bytes.chunks_exact_mut(size)).filter(|(n, _)| c.exists(*n)) {
            self.fs.device().read_at(place + u64::from(n) * size as u64, raw)?;
        }
        Ok(())
    }

    fn inode(&mut self, ino: u64, raw: &[u8], free: bool) -> Sound {
        let inode = match (Inode::parse(raw, self.sb, ino), free) {
            // One that was never used may never have been written.
            (Err(_), true) => return Ok(()),
            (Ok(inode), true) => return require(inode.mode == 0),
            (read, false) => read?,
        };
        require(inode.mode != 0 && !inode.is_realtime())?;
        require(self.inodes.last().is_none_or(|last| last.ino() < ino))?;
        let size = usize::from(self.sb.inodesize);
        let (start, end) = inode.data_fork_range(size);
        let mut blocks = self.fork((ino, 0), inode.format, raw.get(start..end).ok_or(DISAGREE)?, inode.nextents)?;
        if let Some((start, end)) = inode.attr_fork_range(size) {
            let fork = raw.get(start..end).ok_or(DISAGREE)?;
            // Attributes in the inode begin with their length, itself counted.
            let short = be16(fork, 0).map_or(0, usize::from);
            require(inode.aformat != Format::Local || (ATTR_HEAD..=fork.len()).contains(&short))?;
            blocks += self.fork((ino, OFF_ATTR_FORK), inode.aformat, fork, u64::from(inode.anextents))?;
        }
        require(blocks == inode.nblocks)?;
        require(inode.size > 0 || inode.file_type() != Some(FileType::Symlink))?;
        self.inodes.push(Seen::new(&inode));
        Ok(())
    }

    /// The blocks that one fork of an inode maps, and those of its tree: how many.
    fn fork(&mut self, (ino, flag): (u64, u64), format: Format, fork: &[u8], extents: u64) -> Result<u64, Doubt> {
        let (fs, sb) = (self.fs, self.sb);
        let mut rows = Rows::default();
        let block = |b: u64| {
            let mut raw = vec![0; sb.blocksize as usize];
            fs.device().read_at(sb.fsblock_offset(b), &mut raw)?;
            rows.met(be16(&raw, 4), b, (be64(&raw, 8), be64(&raw, 16)));
            Ok(raw)
        };
        let (extents, tree) = match format {
            Format::Extents => (fs_xfs::extent::parse_list(fork, extents)?, Vec::new()),
            Format::Btree => fs_xfs::bmbt::walk_with_blocks(fork, extents, sb, ino, block)?,
            _ => return Ok(0),
        };
        rows.end()?;
        let owner = i64::try_from(ino).map_err(|_| DISAGREE)?;
        let all = extents.iter().map(|e| (e.startblock, e.blockcount, flag));
        let mut blocks = 0u64;
        for (start, len, flag) in all.chain(tree.into_iter().map(|b| (b, 1, OFF_BMBT_BLOCK))) {
            let (ag, block) = sb.split_fsblock(start);
            self.claim(ag, block, len, (owner, flag))?;
            blocks = blocks.saturating_add(len);
        }
        Ok(blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::Reader;
    use super::*;
    use crate::engine::io::file::FileDevice;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::Arc;

    /// A filesystem with a folder of 300 files, a large file and a link.
    fn made(dir: &Path, options: &[&str]) -> PathBuf {
        let (image, proto, content) = (dir.join("a.xfs"), dir.join("proto"), dir.join("content"));
        std::fs::write(&content, vec![7; 300_000]).unwrap();
        let mut list = String::from("/dev/null\n0 0\nd--755 0 0\nmany d--755 0 0\n");
        (0..300).for_each(|i| list += &format!("a-file-with-a-name-{i} ---644 0 0 {}\n", proto.display()));
        // Names of all lengths, which leave gaps of all lengths behind them.
        let odd = (0..700).map(|i| format!("{i}{} ---644 0 0 {}\n", "x".repeat(i * 7 % 60), proto.display()));
        list += &format!("$\nodd d--755 0 0\n{}", odd.collect::<String>());
        list += &format!("$\nlarge ---644 0 0 {}\nlink l--777 0 0 many/a-file-with-a-name-1\n$\n$\n", content.display());
        std::fs::write(&proto, list).unwrap();
        std::fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
        let done =
            Command::new("mkfs.xfs").arg("-q").args(options).arg("-p").args([&proto, &image]).output().expect("mkfs.xfs runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        image
    }

    fn opened(image: &Path) -> Filesystem {
        Filesystem::mount(Arc::new(Reader(Arc::new(FileDevice::open(image).unwrap())))).unwrap()
    }

    #[test]
    fn what_mkfs_makes_is_sound_and_known() {
        let dir = tempfile::tempdir().unwrap();
        let sets: [&[&str]; 7] = [
            &[],
            &["-m", "rmapbt=1"],
            &["-m", "reflink=0,finobt=0"],
            &["-i", "sparse=0", "-m", "inobtcount=0"],
            &["-i", "size=1024", "-n", "size=8192"],
            &["-b", "size=1024"],
            &["-d", "agcount=2"],
        ];
        for options in sets {
            assert!(sound(&opened(&made(dir.path(), options))).is_ok(), "{options:?}");
        }
    }

    /// Each damage has right checksums; `xfs_repair -n` names it too.
    #[test]
    fn whatever_does_not_agree_is_doubted() {
        let dir = tempfile::tempdir().unwrap();
        let good = made(dir.path(), &["-m", "rmapbt=1"]);
        let whole = Command::new("xfs_repair").arg("-n").arg(&good).output().expect("xfs_repair runs");
        assert!(whole.status.success());
        let damages: &[&[&str]] = &[
            &["sb 0", "write -d icount 5"],
            &["sb 0", "write -d ifree 5"],
            &["sb 0", "write -d fdblocks 5"],
            &["sb 1", "write -d dblocks 5"],
            &["agf 0", "write -d freeblks 7"],
            &["agf 1", "write -d longest 7"],
            &["agf 0", "write -d btreeblks 3"],
            &["agi 0", "write -d count 64000"],
            &["agi 0", "write -d freecount 1"],
            &["agf 0", "addr bnoroot", "write -d recs[1].blockcount 9"],
            &["agf 0", "addr cntroot", "write -d recs[1].startblock 11"],
            &["agf 0", "addr rmaproot", "write -d recs[3].blockcount 7"],
            &["agf 0", "addr rmaproot", "write -d recs[5].owner 77"],
            &["agi 0", "addr root", "write -d recs[1].freecount 1"],
            &["agi 0", "addr free_root", "write -d recs[1].free 0"],
            &["path /large", "write -d core.nlinkv2 3"],
            &["path /large", "write -d core.mode 0"],
            &["path /large", "write -d u3.bmx[0].startblock 5"],
            &["path /large", "write -d u3.bmx[0].blockcount 20"],
            &["path /", "write -d u3.sfdir3.list[0].inumber.i4 999999"],
            &["path /many", "dblock 0", "write -d du[3].inumber 133"],
            &["path /many", "dblock 0", "write -d du[1].inumber 131"],
            &["path /many", "dblock 8388608", "write -d lhdr.count 100"],
            &["path /many", "dblock 8388608", "write -d lents[7].hashval 1"],
            &["path /many", "dblock 8388608", "write -d lents[7].address 0x7fffffff"],
            &["agf 0", "addr bnoroot", "write -d rightsib 1"],
            &["path /large", "write -d core.nblocks 99"],
            &["path /link", "write -d core.size 0"],
            &["path /large", "write -d core.forkoff 30", "write -d core.aformat 1"],
        ];
        for damage in damages {
            let image = dir.path().join("bad.xfs");
            let copied = Command::new("cp").arg("--sparse=always").args([&good, &image]).status().expect("cp runs");
            assert!(copied.success());
            let words: Vec<&str> = damage.iter().flat_map(|c| ["-c", c]).collect();
            let out = Command::new("xfs_db").arg("-x").args(words).arg(&image).output().expect("xfs_db runs");
            assert!(out.status.success(), "{damage:?}: {out:?}");
            let repair = Command::new("xfs_repair").arg("-n").arg(&image).output().expect("xfs_repair runs");
            assert!(!repair.status.success(), "{damage:?}: changed nothing, or the oracle finds nothing");
            let fs = Filesystem::mount(Arc::new(Reader(Arc::new(FileDevice::open(&image).unwrap()))));
            assert!(fs.is_err() || fs.is_ok_and(|fs| sound(&fs).is_err()), "{damage:?} is called sound");
        }
    }
}
