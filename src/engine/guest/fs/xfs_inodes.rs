//! The inodes of an XFS filesystem that are in use, chunk by chunk as they lie on the volume: for whoever asks about all of them.

use fs_xfs::Superblock;
use fs_xfs::extent::{EXTENT_RECORD_SIZE, Extent};
use fs_xfs::inode_btree::{INODES_PER_CHUNK, InodeChunk, Trees};

use super::xfs::Xfs;
use super::{FileExtent, FileType, Stored, guarded};
use crate::engine::error::Result;
use crate::engine::io::bytes::{be16, be32, be64};

impl Xfs {
    /// Calls `visit` with every file, folder, link and so on: what it is, and where it lies.
    pub(super) fn each_stored(&self, visit: &mut dyn FnMut(&Stored<'_>)) -> Result<()> {
        let (fs, sb) = (&self.fs, self.fs.superblock());
        let mut bytes = vec![0; usize::from(sb.inodesize) * usize::from(INODES_PER_CHUNK)];
        for ag in 0..sb.agcount {
            guarded("read inodes", || -> fs_xfs::Result<()> {
                let start = u64::from(ag) * u64::from(sb.agblocks);
                for chunk in Trees::open(sb, fs.device(), ag)?.chunks() {
                    let block = start + u64::from(chunk.startino >> sb.inopblog);
                    fs.device().read_at(block.saturating_mul(u64::from(sb.blocksize)), &mut bytes)?;
                    self.chunk(ag, chunk, &bytes, visit);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The inodes of a chunk in group `ag`, whose bytes these are.
    fn chunk(&self, ag: u32, chunk: &InodeChunk, bytes: &[u8], visit: &mut dyn FnMut(&Stored<'_>)) {
        let sb = self.fs.superblock();
        let block = u64::from(sb.blocksize);
        let mut places = Vec::new();
        let inodes = (0..INODES_PER_CHUNK).zip(bytes.chunks_exact(usize::from(sb.inodesize)));
        for (n, raw) in inodes.filter(|(n, _)| chunk.exists(*n) && !chunk.is_free(*n)) {
            let node = sb.join_ino(ag, chunk.startino.saturating_add(u32::from(n)));
            let Some(inode) = Core::of(raw) else { continue };
            let kind = FileType::of_mode(u32::from(inode.mode));
            places.clear();
            match inode.format {
                EXTENTS if kind == FileType::File => {
                    let place = |e: Extent| FileExtent {
                        offset: e.startoff.saturating_mul(block),
                        place: sb.fsblock_offset(e.startblock),
                        len: e.blockcount.saturating_mul(block),
                    };
                    let all = inode.fork.chunks_exact(EXTENT_RECORD_SIZE).take(inode.extents as usize);
                    places.extend(all.filter_map(|e| Extent::parse(e).ok()).filter(|e| !e.unwritten).map(place));
                }
                BTREE if kind == FileType::File => places.extend(self.places(node, false).unwrap_or_default()),
                _ => {}
            }
            visit(&Stored { node, kind, size: inode.size, places: &places });
        }
    }
}

/// Formats of a fork: a list of extents, a tree of them.
const EXTENTS: u8 = 2;
const BTREE: u8 = 3;
/// Flag of a version 3 inode: extents are counted elsewhere, in 64 bits.
const LARGE_COUNTS: u64 = 1 << 4;

/// What tells where an inode's content lies. Its checksum is not looked at, which takes longer than all the rest.
struct Core<'a> {
    mode: u16,
    format: u8,
    size: u64,
    extents: u64,
    /// The fork of its content.
    fork: &'a [u8],
}

impl<'a> Core<'a> {
    /// Of an inode's bytes; `None`: it is none.
    fn of(raw: &'a [u8]) -> Option<Self> {
        let version = *raw.get(4)?;
        let start = if version >= 3 { 176 } else { 100 };
        let end = match raw.get(82)? {
            0 => raw.len(),
            n => raw.len().min(start + usize::from(*n) * 8),
        };
        let large = version >= 3 && be64(raw, 120)? & LARGE_COUNTS != 0;
        let extents = if large { be64(raw, 24)? } else { u64::from(be32(raw, 76)?) };
        (raw.get(..2)? == b"IN").then_some(())?;
        Some(Core { mode: be16(raw, 2)?, format: *raw.get(5)?, size: be64(raw, 56)?, extents, fork: raw.get(start..end)? })
    }
}

/// What reads the chunk records of `sb`'s trees of inodes.
pub(super) fn record(sb: &Superblock) -> fn(&[u8], usize) -> InodeChunk {
    if sb.has_sparse_inodes() { sparse_chunk } else { chunk }
}

/// A chunk record: first inode, how many are free, which.
fn chunk(buf: &[u8], at: usize) -> InodeChunk {
    let freecount = u8::try_from(be32(buf, at + 4).unwrap_or(u32::MAX)).unwrap_or(u8::MAX);
    InodeChunk { holemask: 0, count: INODES_PER_CHUNK, freecount, ..sparse_chunk(buf, at) }
}

/// The same where a part of a chunk may have no blocks.
fn sparse_chunk(buf: &[u8], at: usize) -> InodeChunk {
    InodeChunk {
        startino: be32(buf, at).unwrap_or(u32::MAX),
        holemask: be16(buf, at + 4).unwrap_or(0),
        count: buf.get(at + 6).copied().unwrap_or(u8::MAX),
        freecount: buf.get(at + 7).copied().unwrap_or(u8::MAX),
        free: be64(buf, at + 8).unwrap_or(0),
    }
}
