//! A device whose changes stay in memory until somebody commits them: plans are made on it, and the file below is never written.

use std::path::Path;
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::bytes::is_zero;
use super::overlay::{Overlay, PIECE};
use super::{Device, HostRange, ReadAt, WriteAt, past_end};
use crate::engine::error::{Error, Result};

/// A change of a draft, in bytes of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// New content; [`Draft::read_at`] has it.
    Data,
    /// Reads as zeros now.
    Zero,
    /// Sectors of a log that keep their cycle number and lose the rest (see [`Draft::stamp`]). Changed data may lie in it.
    Stamped,
}

/// `inner`, to be written at will. Its length does not change.
pub struct Draft {
    over: RwLock<Overlay>,
    inner: Device,
    stamps: RwLock<Vec<(u64, u64)>>,
}

/// What marks the first sector of an XFS log record; its cycle number comes second there, and first in every other sector.
const RECORD: [u8; 4] = 0xfeed_babe_u32.to_be_bytes();
const SECTOR: u64 = 512;

impl Draft {
    /// Nothing changed yet.
    pub fn new(inner: Device) -> Self {
        Draft { over: RwLock::new(Overlay::new(inner.clone())), inner, stamps: RwLock::default() }
    }
    /// The device below, as it was.
    pub fn before(&self) -> &Device {
        &self.inner
    }
    /// What changed, in ascending order: offset, length, how. Neighbours of one kind are one.
    pub fn changes(&self) -> Vec<(u64, u64, Changed)> {
        let over = self.read();
        let len = over.len();
        let mut all: Vec<(u64, u64, Changed)> = over.piece_places().map(|at| (at, PIECE.min(len - at), Changed::Data)).collect();
        // A piece written into a zeroed range wins there.
        for (start, end) in over.zero_places() {
            let mut at = start;
            for piece in over.pieces_in(start, end) {
                all.push((at, piece - at, Changed::Zero));
                at = piece + PIECE;
            }
            all.push((at, end.saturating_sub(at), Changed::Zero));
        }
        all.extend(self.stamps().iter().map(|(s, e)| (*s, e - s, Changed::Stamped)));
        all.retain(|(_, n, _)| *n > 0);
        all.sort_unstable_by_key(|c| c.0);
        let mut out: Vec<(u64, u64, Changed)> = Vec::new();
        for (at, n, kind) in all {
            match out.last_mut() {
                Some((s, l, k)) if *s + *l == at && *k == kind && kind != Changed::Stamped => *l += n,
                _ => out.push((at, n, kind)),
            }
        }
        out
    }
    /// Forgets what was changed in `start..end`, as far as whole pieces lie in it: the old content is there again.
    pub fn forget(&self, start: u64, end: u64) {
        self.write().forget(start, end);
    }
    /// Bytes the changes take in memory, about.
    pub fn memory(&self) -> u64 {
        self.read().pieces() as u64 * PIECE
    }
    /// Wipes the sectors of an XFS log in `start..end` (multiples of 512): of each only its cycle number is left, by which the log's
    /// end is found. A log is too large to keep in memory, so this is done while reading, to what was
    /// written there too.
    pub fn stamp(&self, start: u64, end: u64) {
        let mut all = self.stamps.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        match all.last_mut().filter(|(_, stop)| *stop == start) {
            Some((_, stop)) => *stop = end.max(*stop),
            None if start < end => all.push((start, end)),
            None => {}
        }
    }
    fn stamps(&self) -> RwLockReadGuard<'_, Vec<(u64, u64)>> {
        self.stamps.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    /// Applies the stamps to `buf`, which is what lies at `offset`.
    fn stamped(&self, over: &Overlay, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset + buf.len() as u64;
        for (start, stop) in self.stamps().iter().copied() {
            let mut at = offset.max(start) / SECTOR * SECTOR;
            while at < end.min(stop) {
                let mut head = [0u8; 8];
                match at.checked_sub(offset).and_then(|i| buf.get(i as usize..i as usize + 8)) {
                    Some(here) => head.copy_from_slice(here),
                    None => over.read_at(at, &mut head)?,
                }
                let cycle = if head.starts_with(&RECORD) { head.get(4..8) } else { head.get(..4) }.unwrap_or_default();
                let mut sector = [0u8; SECTOR as usize];
                sector[..4].copy_from_slice(cycle);
                let (from, to) = (at.max(offset), (at + SECTOR).min(end));
                let new = sector.get((from - at) as usize..(to - at) as usize).unwrap_or_default();
                if let Some(part) = buf.get_mut((from - offset) as usize..(to - offset) as usize) {
                    part.copy_from_slice(new);
                }
                at += SECTOR;
            }
        }
        Ok(())
    }
    fn read(&self) -> RwLockReadGuard<'_, Overlay> {
        self.over.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, Overlay> {
        self.over.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    fn check(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.inner.len() => Ok(()),
            _ => Err(past_end(self, offset, len)),
        }
    }
}

impl ReadAt for Draft {
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let over = self.read();
        over.read_at(offset, buf)?;
        self.stamped(&over, offset, buf)
    }
    fn path(&self) -> Option<&Path> {
        self.inner.path()
    }
    fn host_range(&self, offset: u64, max: u64) -> Result<HostRange> {
        let over = self.read();
        match over.whole_at(offset) {
            Some((hole, left)) => Ok(HostRange { len: left.min(max).max(1), hole }),
            None => {
                // Unchanged up to the next change.
                let left = over.unchanged_from(offset).min(max).max(1);
                self.inner.host_range(offset, left)
            }
        }
    }
    fn allocated(&self) -> u64 {
        self.inner.allocated()
    }
}

impl WriteAt for Draft {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.check(offset, buf.len() as u64)?;
        self.write().edit(offset, buf)
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn set_len(&self, len: u64) -> Result<()> {
        if len == self.inner.len() { Ok(()) } else { Err(Error::unsupported("a plan does not change a disk's length")) }
    }
    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.check(offset, len)?;
        let (first, last) = (offset.next_multiple_of(PIECE), (offset + len) / PIECE * PIECE);
        let mut over = self.write();
        // What is zero already is no change.
        let mut edge = |at: u64, n: u64| -> Result<()> {
            let mut now = vec![0; n as usize];
            over.read_at(at, &mut now)?;
            if is_zero(&now) {
                return Ok(());
            }
            now.fill(0);
            over.edit(at, &now)
        };
        if first >= last {
            return edge(offset, len);
        }
        edge(offset, first - offset)?;
        edge(last, offset + len - last)?;
        over.zero(first, last);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::io::memory::Memory;
    use proptest::prelude::*;
    use std::sync::Arc;

    #[test]
    fn stamped_sectors_keep_their_cycle_and_nothing_else() {
        let mut log: Vec<u8> = vec![7; 16384];
        log[512..520].copy_from_slice(&[0xfe, 0xed, 0xba, 0xbe, 0, 0, 0, 9]);
        let draft = Draft::new(Arc::new(Memory::new(log)));
        draft.write_at(8192, &[5; 10]).unwrap();
        draft.stamp(512, 12288);
        let mut now = vec![0; 16384];
        draft.read_at(0, &mut now).unwrap();
        assert!(now[..512].iter().all(|b| *b == 7), "before the range");
        assert_eq!((&now[512..517], &now[1024..1030]), (&[0, 0, 0, 9, 0][..], &[7, 7, 7, 7, 0, 0][..]));
        assert_eq!(
            (&now[8192..8203], now[12287], now[12288]),
            (&[5, 5, 5, 5, 0, 0, 0, 0, 0, 0, 0][..], 0, 7),
            "what was written too"
        );
        let mut part = vec![0; 700];
        draft.read_at(1100, &mut part).unwrap();
        assert_eq!(part, now[1100..1800]);
    }

    proptest! {
        #[test]
        fn reads_what_was_written_and_lists_it(changes in prop::collection::vec((any::<bool>(), 0usize..30_000, 0usize..9000, any::<u8>()), 0..14)) {
            let before: Vec<u8> = (0..25_000u32).map(|i| (i % 251) as u8).collect();
            let mut model = before.clone();
            let draft = Draft::new(Arc::new(Memory::new(before.clone())));
            for (data, at, len, v) in changes {
                let fits = at + len <= model.len();
                let done = if data { draft.write_at(at as u64, &vec![v; len]) } else { draft.write_zeroes(at as u64, len as u64) };
                prop_assert_eq!(done.is_ok(), fits);
                if fits { model[at..at + len].fill(if data { v } else { 0 }); }
            }
            let mut now = vec![0; model.len()];
            draft.read_at(0, &mut now).unwrap();
            prop_assert!(now == model);
            // The list of changes, made to what was there before, gives the same; and it is in order, without overlap.
            let mut made = before;
            let mut last = 0;
            for (at, len, kind) in draft.changes() {
                prop_assert!(at >= last && len > 0);
                last = at + len;
                let range = at as usize..last as usize;
                prop_assert!(kind != Changed::Stamped);
                if kind == Changed::Zero { made[range].fill(0); } else { let src = &now[range.clone()]; made[range].copy_from_slice(src); }
            }
            prop_assert!(made == model);
        }
    }
}
