//! Lists of extents of a group: free ones, and whose the others are.

use fs_xfs::rmap::{OFF_BMBT_BLOCK, Rmap};

use crate::engine::error::{Error, Result};

/// An extent that is given up: its first block in the group, how many, and whose it was (as reverse mappings say it).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) start: u32,
    pub(super) len: u32,
    pub(super) owner: i64,
}

fn bad(what: &str) -> Error {
    Error::corrupt(what.to_string()).hint("let xfs_repair mend it")
}

/// `free` (start and length, in ascending order) and `pieces` with it, neighbours as one.
///
/// Errors: a piece is free already, or another's too.
pub(super) fn freed(free: &[(u32, u32)], pieces: &[Piece]) -> Result<Vec<(u32, u32)>> {
    let mut all: Vec<(u32, u32)> = free.iter().copied().chain(pieces.iter().map(|p| (p.start, p.len))).collect();
    all.sort_unstable();
    let mut out: Vec<(u32, u32)> = Vec::with_capacity(free.len());
    for (start, len) in all {
        match out.last_mut() {
            Some((s, n)) if *s + *n > start => return Err(bad("blocks of a file are said to be free, or another's")),
            Some((s, n)) if *s + *n == start => *n += len,
            _ => out.push((start, len)),
        }
    }
    Ok(out)
}

/// `records` (in ascending order, no two of which have a block in common) without `pieces`, which are sorted here.
///
/// Errors: a piece is not mapped to its owner.
pub(super) fn unmapped(records: &[Rmap], pieces: &mut [Piece]) -> Result<Vec<Rmap>> {
    let wrong = || bad("the reverse mappings are others than the files'");
    pieces.sort_unstable_by_key(|p| p.start);
    let mut out = Vec::with_capacity(records.len());
    let mut rest = pieces.iter().copied();
    let mut piece = rest.next();
    for record in records {
        let mut record = *record;
        while let Some(p) = piece.as_mut().filter(|p| p.start < record.startblock.saturating_add(record.blockcount)) {
            if p.start < record.startblock || p.owner != record.owner {
                return Err(wrong());
            }
            let before = p.start - record.startblock;
            if before > 0 {
                out.push(Rmap { blockcount: before, ..record });
            }
            let taken = p.len.min(record.blockcount - before);
            record = from(record, before + taken);
            (p.start, p.len) = (p.start + taken, p.len - taken);
            if p.len == 0 {
                piece = rest.next();
            }
            if record.blockcount == 0 {
                break;
            }
        }
        if record.blockcount > 0 {
            out.push(record);
        }
    }
    if piece.is_some() { Err(wrong()) } else { Ok(out) }
}

/// `record` without its first `n` blocks.
fn from(record: Rmap, n: u32) -> Rmap {
    let counts = record.owner >= 0 && record.offset & OFF_BMBT_BLOCK == 0;
    Rmap {
        startblock: record.startblock + n,
        blockcount: record.blockcount - n,
        offset: record.offset.wrapping_add(if counts { u64::from(n) } else { 0 }),
        ..record
    }
}

/// `records` with all that `owner` (none of a file) has being `blocks`.
///
/// Errors: `before` are not what it had.
pub(super) fn remapped(records: Vec<Rmap>, owner: i64, before: u64, blocks: &[u32]) -> Result<Vec<Rmap>> {
    let had: u64 = records.iter().filter(|r| r.owner == owner).map(|r| u64::from(r.blockcount)).sum();
    if had != before {
        return Err(bad("the reverse mappings of a group's trees are others than their blocks"));
    }
    let mut out = records;
    out.retain(|r| r.owner != owner);
    let mut blocks = blocks.to_vec();
    blocks.sort_unstable();
    let mut own: Vec<Rmap> = Vec::new();
    for block in blocks {
        match own.last_mut().filter(|r| r.startblock + r.blockcount == block) {
            Some(r) => r.blockcount += 1,
            None => own.push(Rmap { startblock: block, blockcount: 1, owner, offset: 0 }),
        }
    }
    out.extend(own);
    out.sort_unstable_by_key(|r| r.startblock);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Blocks 0..200: whose they are; 0 is free.
    fn records(owners: &[i64]) -> Vec<Rmap> {
        let mut out: Vec<Rmap> = Vec::new();
        for (i, owner) in owners.iter().enumerate().filter(|(_, o)| **o > 0) {
            let i = i as u32;
            match out.last_mut().filter(|r| r.owner == *owner && r.startblock + r.blockcount == i) {
                Some(r) => r.blockcount += 1,
                None => out.push(Rmap { startblock: i, blockcount: 1, owner: *owner, offset: u64::from(i) }),
            }
        }
        out
    }
    fn free(owners: &[i64]) -> Vec<(u32, u32)> {
        let flipped: Vec<i64> = owners.iter().map(|o| i64::from(*o == 0)).collect();
        records(&flipped).iter().map(|r| (r.startblock, r.blockcount)).collect()
    }

    proptest! {
        #[test]
        fn what_is_given_up_is_free_and_nobodys(owners in prop::collection::vec(0i64..4, 200), picks in prop::collection::vec(any::<bool>(), 200)) {
            let mut after = owners.clone();
            let mut pieces: Vec<Piece> = Vec::new();
            for i in 0..200 {
                if picks[i] && owners[i] > 0 {
                    after[i] = 0;
                    pieces.push(Piece { start: i as u32, len: 1, owner: owners[i] });
                }
            }
            pieces.dedup_by(|b, a| a.owner == b.owner && a.start + a.len == b.start && { a.len += 1; true });
            pieces.reverse();
            prop_assert_eq!(freed(&free(&owners), &pieces).unwrap(), free(&after));
            let mapped = records(&owners);
            let left = unmapped(&mapped, &mut pieces).unwrap();
            prop_assert_eq!(left, records(&after));
            if let Some(p) = pieces.first().copied() {
                // Once more, and another's.
                prop_assert!(freed(&free(&after), &[p]).is_err());
                prop_assert!(unmapped(&records(&after), &mut [p]).is_err());
                let others = Piece { owner: p.owner + 1, ..p };
                prop_assert!(unmapped(&mapped, &mut [others]).is_err());
            }
        }
    }
}
