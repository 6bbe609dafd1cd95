//! A device with changes kept in memory on top of it: a dirty log replayed without touching the file.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Device, HostRange, ReadAt, WriteAt, past_end, read_padded};
use crate::engine::error::Result;

/// Bytes of a changed piece; changes are whole, aligned pieces.
pub const PIECE: u64 = 4096;

/// `inner` with pieces replaced and ranges zeroed, and perhaps longer (the rest reads as zeros).
pub struct Overlay {
    inner: Device,
    len: u64,
    /// Replaced pieces by where they begin.
    pieces: BTreeMap<u64, Box<[u8]>>,
    /// Zeroed ranges, start to end, neither overlapping nor touching. Pieces written later win.
    zeros: BTreeMap<u64, u64>,
}

impl Overlay {
    /// Nothing changed yet.
    pub fn new(inner: Device) -> Self {
        let len = inner.len();
        Overlay { inner, len, pieces: BTreeMap::new(), zeros: BTreeMap::new() }
    }
    /// Replaces the piece at `at` (a multiple of [`PIECE`]).
    pub fn put(&mut self, at: u64, piece: Box<[u8]>) {
        self.grow(at.saturating_add(PIECE));
        self.pieces.insert(at, piece);
    }
    /// Makes `start..end` (multiples of [`PIECE`]) read as zeros.
    pub fn zero(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        self.grow(end);
        let hidden: Vec<u64> = self.pieces.range(start..end).map(|(at, _)| *at).collect();
        for at in hidden {
            self.pieces.remove(&at);
        }
        let (mut from, mut to) = (start, end);
        // Merge with every range this one touches.
        while let Some((s, e)) = self.zeros.range(..=to).next_back().map(|(s, e)| (*s, *e)).filter(|(_, e)| *e >= from) {
            self.zeros.remove(&s);
            from = from.min(s);
            to = to.max(e);
        }
        self.zeros.insert(from, to);
    }
    /// Makes the device at least `len` bytes long.
    pub fn grow(&mut self, len: u64) {
        self.len = self.len.max(len);
    }
    /// Pieces replaced.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }
    /// Where the replaced pieces begin, in ascending order.
    pub fn piece_places(&self) -> impl Iterator<Item = u64> + '_ {
        self.pieces.keys().copied()
    }
    /// The zeroed ranges, start and end, in ascending order. Pieces may lie in them, and win.
    pub fn zero_places(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.zeros.iter().map(|(s, e)| (*s, *e))
    }
    /// Where the replaced pieces in `start..end` begin.
    pub fn pieces_in(&self, start: u64, end: u64) -> impl Iterator<Item = u64> + '_ {
        self.pieces.range(start..end.max(start)).map(|(at, _)| *at)
    }
    /// The piece around byte `at` is replaced.
    fn has_piece(&self, at: u64) -> bool {
        self.pieces.contains_key(&(at - at % PIECE))
    }
    /// What was changed at byte `at`: whether it is zeroed (rather than replaced), and for how many bytes on. `None`: not changed.
    pub fn whole_at(&self, at: u64) -> Option<(bool, u64)> {
        if self.has_piece(at) {
            return Some((false, PIECE - at % PIECE));
        }
        let (_, end) = self.zeros.range(..=at).next_back().filter(|(_, e)| **e > at)?;
        let stop = self.pieces.range(at..*end).next().map_or(*end, |(p, _)| *p);
        Some((true, stop - at))
    }
    /// Bytes from `at` on (which is not changed) up to the next change.
    pub fn unchanged_from(&self, at: u64) -> u64 {
        let piece = self.pieces.range(at..).next().map(|(p, _)| *p);
        let zero = self.zeros.range(at..).next().map(|(z, _)| *z);
        [piece, zero].into_iter().flatten().min().unwrap_or(self.len).min(self.len) - at.min(self.len)
    }
    /// Replaces any bytes within the device. Errors: what is below cannot be read, or `bytes` end past the device.
    pub fn edit(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= self.len);
        let Some(end) = end else { return Err(past_end(self, offset, bytes.len() as u64)) };
        let mut at = offset;
        while at < end {
            let (first, stop) = (at - at % PIECE, end.min(at - at % PIECE + PIECE));
            let new = bytes.get((at - offset) as usize..(stop - offset) as usize).unwrap_or_default();
            let within = (at - first) as usize..(stop - first) as usize;
            if let Some(part) = self.pieces.get_mut(&first).and_then(|p| p.get_mut(within.clone())) {
                part.copy_from_slice(new);
                at = stop;
                continue;
            }
            let mut piece: Box<[u8]> = vec![0; PIECE as usize].into();
            if within.len() < piece.len() {
                let n = PIECE.min(self.len - first) as usize;
                self.read_at(first, piece.get_mut(..n).unwrap_or_default())?;
            }
            if let Some(part) = piece.get_mut(within) {
                part.copy_from_slice(new);
            }
            self.pieces.insert(first, piece);
            at = stop;
        }
        Ok(())
    }
    /// Takes back what was changed in `start..end`, as far as whole pieces lie in it.
    pub fn forget(&mut self, start: u64, end: u64) {
        let (start, end) = (start.next_multiple_of(PIECE), end / PIECE * PIECE);
        if start >= end {
            return;
        }
        let gone: Vec<u64> = self.pieces.range(start..end).map(|(at, _)| *at).collect();
        for at in gone {
            self.pieces.remove(&at);
        }
        let first = self.zeros.range(..=start).next_back().map_or(start, |(s, _)| *s);
        let cut: Vec<(u64, u64)> = self.zeros.range(first..end).map(|(s, e)| (*s, *e)).filter(|(_, e)| *e > start).collect();
        for (s, e) in cut {
            self.zeros.remove(&s);
            if s < start {
                self.zeros.insert(s, start);
            }
            if e > end {
                self.zeros.insert(end, e);
            }
        }
    }
    /// Makes the same changes to `dev`, for good.
    pub fn apply_to(&self, dev: &dyn WriteAt) -> Result<()> {
        if dev.len() < self.len {
            dev.set_len(self.len)?;
        }
        for (start, end) in &self.zeros {
            dev.write_zeroes(*start, end - start)?;
        }
        self.pieces.iter().try_for_each(|(at, piece)| dev.write_at(*at, piece))
    }
}

/// The part of `buf` (which begins at byte `offset`) that lies in `start..end`.
fn part(buf: &mut [u8], offset: u64, start: u64, end: u64) -> Option<&mut [u8]> {
    let from = start.max(offset) - offset;
    let to = end.min(offset + buf.len() as u64).saturating_sub(offset);
    buf.get_mut(from as usize..to as usize)
}

impl ReadAt for Overlay {
    fn len(&self) -> u64 {
        self.len
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let Some(end) = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.len) else {
            return Err(past_end(self, offset, buf.len() as u64));
        };
        // Most reads are of one piece, and most of those of one that was replaced.
        let skip = (offset % PIECE) as usize;
        if skip + buf.len() <= PIECE as usize
            && let Some(src) = self.pieces.get(&(offset - skip as u64)).and_then(|p| p.get(skip..skip + buf.len()))
        {
            buf.copy_from_slice(src);
            return Ok(());
        }
        read_padded(self.inner.as_ref(), offset, buf)?;
        let first = self.zeros.range(..=offset).next_back().map_or(offset, |(s, _)| *s);
        for (s, e) in self.zeros.range(first..end.max(first)) {
            if *e > offset
                && let Some(p) = part(buf, offset, *s, *e)
            {
                p.fill(0);
            }
        }
        let first = offset - offset % PIECE;
        for (at, piece) in self.pieces.range(first..end.max(first)) {
            if let Some(dst) = part(buf, offset, *at, at + PIECE) {
                let skip = offset.saturating_sub(*at) as usize;
                if let Some(src) = piece.get(skip..skip + dst.len()) {
                    dst.copy_from_slice(src);
                }
            }
        }
        Ok(())
    }
    fn path(&self) -> Option<&Path> {
        self.inner.path()
    }
    fn host_range(&self, offset: u64, max: u64) -> Result<HostRange> {
        // What the host keeps of the file below says nothing about what was replaced.
        Ok(HostRange { len: max.min(self.len.saturating_sub(offset)).max(1), hole: false })
    }
    fn allocated(&self) -> u64 {
        self.inner.allocated()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::io::memory::Memory;
    use proptest::prelude::*;
    use std::sync::Arc;

    proptest! {
        #[test]
        fn the_latest_change_is_read(changes in prop::collection::vec((any::<bool>(), 0u64..6, 0u64..6, any::<u8>()), 0..12), at in 0u64..30_000, len in 0u64..30_000) {
            let mut model = vec![7u8; 4 * 4096 + 100];
            let mut o = Overlay::new(Arc::new(Memory::new(model.clone())));
            for (data, a, b, v) in changes {
                let (a, b) = (a.min(b), a.max(b));
                let end = if data { a + 1 } else { b };
                if data || a < b {
                    model.resize(model.len().max((end * 4096) as usize), 0);
                    model[(a * 4096) as usize..(end * 4096) as usize].fill(if data { v } else { 0 });
                }
                if data { o.put(a * 4096, vec![v; 4096].into()) } else { o.zero(a * 4096, b * 4096) }
            }
            prop_assert_eq!(o.len(), model.len() as u64);
            let (at, end) = (at.min(o.len()), (at + len).min(o.len()));
            let mut got = vec![1; (end - at) as usize];
            o.read_at(at, &mut got).unwrap();
            prop_assert!(got == model[at as usize..end as usize]);
        }
    }
}
