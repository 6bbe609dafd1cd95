//! A new allocation group: its headers, and the roots of its trees, each in a block of its own. XFS Algorithms & Data Structures,
//! "Allocation Groups".
//!
//! ```text
//!  sector 0 superblock   1 free space (AGF)   2 inodes (AGI)   3 free list (AGFL, empty)
//!  the next blocks       free space by place, by size; inodes, free inodes; owners; shared blocks
//! ```

use super::super::xfs_scrub::stamp_crc;
use super::superblock::Super;
use crate::engine::error::Result;
use crate::engine::io::WriteAt;
use crate::engine::io::bytes::{put, put_be16, put_be32, put_be64};

/// Bytes of the header of a tree's block, with short pointers and a checksum.
pub(super) const TREE_HEADER: usize = 56;
/// Where its checksum is.
pub(super) const TREE_CRC: usize = 52;
/// Where the checksum of the header of free space is.
pub(super) const AGF_CRC: usize = 216;
/// Where the checksum of the header of inodes is.
pub(super) const AGI_CRC: usize = 312;
/// "None", for blocks and inodes within a group.
pub(super) const NULL: u32 = u32::MAX;

/// Owners of blocks that are no inodes.
const OWN_FS: u64 = -3i64 as u64;
const OWN_AG: u64 = -5i64 as u64;
const OWN_INOBT: u64 = -6i64 as u64;
const OWN_REFC: u64 = -8i64 as u64;

/// Where the roots of a group's trees are when it is new: blocks from its beginning.
struct Places {
    bno: u32,
    cnt: u32,
    ino: u32,
    fino: Option<u32>,
    rmap: Option<u32>,
    refc: Option<u32>,
    /// The first block that is free.
    free: u32,
}

impl Places {
    fn new(sb: &Super) -> Places {
        let mut next = (3 * sb.sector() / sb.block_size()) as u32 + 1;
        let mut take = |wanted: bool| {
            let own = next;
            next += u32::from(wanted);
            wanted.then_some(own)
        };
        let (bno, cnt, ino) = (take(true).unwrap_or(0), take(true).unwrap_or(0), take(true).unwrap_or(0));
        let (fino, rmap, refc) = (take(sb.has_finobt()), take(sb.has_rmapbt()), take(sb.has_reflink()));
        Places { bno, cnt, ino, fino, rmap, refc, free: next }
    }
}

/// Fields put one after the other into a structure of fixed size.
struct Fields {
    raw: Vec<u8>,
    at: usize,
}

impl Fields {
    fn new(len: u64, magic: &[u8; 4]) -> Fields {
        Fields { raw: vec![0; len as usize], at: 0 }.bytes(magic)
    }
    fn bytes(mut self, bytes: &[u8]) -> Self {
        // The smallest sector has room for every header.
        let _ = put(&mut self.raw, self.at, bytes);
        self.at += bytes.len();
        self
    }
    fn longs(self, values: &[u32]) -> Self {
        values.iter().fold(self, |f, v| f.bytes(&v.to_be_bytes()))
    }
    fn at(mut self, at: usize) -> Self {
        self.at = at;
        self
    }
    fn sealed(mut self, crc: usize) -> Vec<u8> {
        stamp_crc(&mut self.raw, crc);
        self.raw
    }
}

/// Writes group `ag` but for its superblock; returns how many of its blocks are free.
pub(super) fn write(dev: &dyn WriteAt, sb: &Super, ag: u64) -> Result<u64> {
    let places = Places::new(sb);
    let (start, sector, block) = (sb.start_of(ag), sb.sector(), sb.block_size());
    let (len, number) = (sb.len_of(ag) as u32, ag as u32);
    let free = len.saturating_sub(places.free);
    // What lay there before is no longer of use to anybody.
    dev.write_zeroes(start, u64::from(places.free) * block)?;

    let has = |place: Option<u32>| u32::from(place.is_some());
    let agf = Fields::new(sector, b"XAGF")
        .longs(&[1, number, len, places.bno, places.cnt, places.rmap.unwrap_or(0), 1, 1, has(places.rmap)])
        // The free list: its first place, its last, how many.
        .longs(&[1, 0, 0])
        .longs(&[free, free, 0])
        .bytes(&sb.uuid())
        .longs(&[has(places.rmap), has(places.refc), places.refc.unwrap_or(0), has(places.refc)])
        .sealed(AGF_CRC);
    let counted = u32::from(sb.has_inobtcount());
    let agi = Fields::new(sector, b"XAGI")
        .longs(&[1, number, len, 0, places.ino, 1, 0, NULL, NULL])
        .longs(&[NULL; 64])
        .bytes(&sb.uuid())
        .at(328)
        .longs(&[places.fino.unwrap_or(0), has(places.fino), counted, counted * has(places.fino)])
        .sealed(AGI_CRC);
    let entries = vec![NULL; (sector as usize - 36) / 4];
    let agfl = Fields::new(sector, b"XAFL").longs(&[number]).bytes(&sb.uuid()).at(36).longs(&entries).sealed(32);
    for (i, header) in [agf, agi, agfl].iter().enumerate() {
        dev.write_at(start + (i as u64 + 1) * sector, header)?;
    }

    let all_free = [places.free.to_be_bytes(), free.to_be_bytes()].concat();
    let mut owners = vec![(0, places.bno, OWN_FS), (places.bno, 2, OWN_AG), (places.ino, 1 + has(places.fino), OWN_INOBT)];
    owners.extend(places.rmap.map(|at| (at, 1, OWN_AG)));
    owners.extend(places.refc.map(|at| (at, 1, OWN_REFC)));
    let owners: Vec<u8> = owners.iter().flat_map(|(at, n, owner)| owner_record(*at, *n, *owner)).collect();
    let put_root = |place: Option<u32>, magic: &[u8; 4], records: &[u8], width: usize| {
        let Some(place) = place else { return Ok(()) };
        let at = start + u64::from(place) * block;
        dev.write_at(at, &root(sb, number, at, magic, records, width))
    };
    put_root(Some(places.bno), b"AB3B", &all_free, 8)?;
    put_root(Some(places.cnt), b"AB3C", &all_free, 8)?;
    put_root(Some(places.ino), b"IAB3", &[], 16)?;
    put_root(places.fino, b"FIB3", &[], 16)?;
    put_root(places.rmap, b"RMB3", &owners, 24)?;
    put_root(places.refc, b"R3FC", &[], 12)?;
    Ok(u64::from(free))
}

/// A block of a tree that is root and leaf at once.
fn root(sb: &Super, ag: u32, at: u64, magic: &[u8; 4], records: &[u8], width: usize) -> Vec<u8> {
    let mut out = vec![0; sb.block_size() as usize];
    let ok = put(&mut out, 0, magic)
        && put_be16(&mut out, 6, (records.len() / width) as u16)
        && put_be32(&mut out, 8, NULL)
        && put_be32(&mut out, 12, NULL)
        && put_be64(&mut out, 16, at / 512)
        && put(&mut out, 32, &sb.uuid())
        && put_be32(&mut out, 48, ag)
        && put(&mut out, TREE_HEADER, records);
    debug_assert!(ok, "the smallest block has room for that");
    stamp_crc(&mut out, TREE_CRC);
    out
}

fn owner_record(at: u32, len: u32, owner: u64) -> Vec<u8> {
    [&at.to_be_bytes()[..], &len.to_be_bytes(), &owner.to_be_bytes(), &[0; 8]].concat()
}
