//! Streams of extents: what a disk holds from one byte to another, in order, merged, in bounded memory; and the same
//! down-sampled to a number of cells for drawing. It must not know how anything is shown.

use super::chain::Disk;
use super::error::{Error, ErrorKind, Result};
use super::model::{Extent, Kind, Mapping, Place};

/// The extents of a disk from one guest byte to another.
///
/// Every layer's last answer is kept until the stream has passed it, so that a long run in one layer under a fragmented
/// other is asked for once and not once per fragment.
pub struct Extents<'a> {
    disk: &'a Disk,
    at: u64,
    end: u64,
    held: Vec<Option<(u64, Mapping)>>,
    merge: Merge<Extent>,
}

/// Joins neighbouring pieces of a stream into one; ends after the first error.
pub(super) struct Merge<T> {
    /// Read ahead to see whether it joins.
    ahead: Option<T>,
    failed: bool,
}

impl<T> Default for Merge<T> {
    fn default() -> Self {
        Merge { ahead: None, failed: false }
    }
}

impl<T> Merge<T> {
    /// The next whole: pieces come from `piece`; `join` takes the second into the first when it is more of the same.
    pub(super) fn next(
        &mut self,
        mut piece: impl FnMut() -> Result<Option<T>>,
        join: impl Fn(&mut T, &T) -> bool,
    ) -> Option<Result<T>> {
        if self.failed {
            return None;
        }
        let mut whole = || {
            let Some(mut current) = self.ahead.take().map_or_else(&mut piece, |e| Ok(Some(e)))? else { return Ok(None) };
            while let Some(next) = piece()? {
                if !join(&mut current, &next) {
                    self.ahead = Some(next);
                    break;
                }
            }
            Ok(Some(current))
        };
        let item = whole().transpose();
        self.failed = matches!(item, Some(Err(_)));
        item
    }
}

impl<'a> Extents<'a> {
    /// From guest byte `start` up to, not including, `end` (cut at the end of the disk).
    pub fn new(disk: &'a Disk, start: u64, end: u64) -> Self {
        let end = end.min(disk.size());
        Extents { disk, at: start.min(end), end, held: vec![None; disk.layers().len()], merge: Merge::default() }
    }

    /// The next extent as the layers give it, not merged with its neighbours; `None` at the end.
    pub fn piece(&mut self) -> Result<Option<Extent>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let (disk, at, end) = (self.disk, self.at, self.end);
        let held = &mut self.held;
        let extent = disk.resolve(at, end - at, |depth, _| {
            let Some((layer, slot)) = disk.layers().get(depth).zip(held.get_mut(depth)) else {
                return Err(Error::new(ErrorKind::Internal, "a layer that is not there"));
            };
            if let Some((start, mapping)) = slot
                && let Some(rest) = at.checked_sub(*start).and_then(|passed| tail(mapping, passed))
            {
                return Ok(rest);
            }
            // All of the window is asked for, not only what the layers above leave open here: the rest serves later pieces.
            let mapping = layer.map(at, end.min(layer.size()) - at)?;
            *slot = Some((at, mapping));
            Ok(mapping)
        })?;
        self.at += extent.len;
        Ok(Some(extent))
    }
}

/// What is left of `mapping` after its first `passed` bytes.
fn tail(mapping: &Mapping, passed: u64) -> Option<Mapping> {
    let len = mapping.len.checked_sub(passed).filter(|&l| l > 0)?;
    let place = match (mapping.kind, mapping.place) {
        (Kind::Data | Kind::Zero | Kind::Unallocated, Some(p)) => {
            Some(Place { file: p.file, offset: p.offset.checked_add(passed)? })
        }
        (_, place) => place,
    };
    Some(Mapping { kind: mapping.kind, len, place })
}

/// Whether `b` goes on where `a` ends: same kind and layer, and stored right behind it. Compressed units stay apart.
fn continues(a: &Extent, b: &Extent) -> bool {
    a.kind == b.kind
        && a.depth == b.depth
        && a.kind != Kind::Compressed
        && match (a.place, b.place) {
            (None, None) => true,
            (Some(p), Some(q)) => p.file == q.file && p.offset.checked_add(a.len) == Some(q.offset),
            _ => false,
        }
}

/// Merged extents in ascending order; ends after the first error.
impl Iterator for Extents<'_> {
    type Item = Result<Extent>;
    fn next(&mut self) -> Option<Self::Item> {
        let mut merge = std::mem::take(&mut self.merge);
        let item = merge.next(
            || self.piece(),
            |a, b| {
                let joins = continues(a, b);
                a.len += if joins { b.len } else { 0 };
                joins
            },
        );
        self.merge = merge;
        item
    }
}

/// Bytes by what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Stored as they are.
    pub data: u64,
    /// Stored compressed (guest bytes, not bytes on the host).
    pub compressed: u64,
    /// Explicitly zero.
    pub zero: u64,
    /// Held by no layer.
    pub unallocated: u64,
}

impl Totals {
    /// Counts `len` bytes of `kind`.
    pub fn add(&mut self, kind: Kind, len: u64) {
        let field = match kind {
            Kind::Data => &mut self.data,
            Kind::Compressed => &mut self.compressed,
            Kind::Zero => &mut self.zero,
            Kind::Unallocated => &mut self.unallocated,
        };
        *field = field.saturating_add(len);
    }
    /// All bytes counted.
    pub fn all(&self) -> u64 {
        self.data.saturating_add(self.compressed).saturating_add(self.zero).saturating_add(self.unallocated)
    }
    /// Bytes some layer stores, plain or compressed.
    pub fn stored(&self) -> u64 {
        self.data.saturating_add(self.compressed)
    }
}

/// One cell of a down-sampled map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cell {
    /// Guest bytes in it by kind.
    pub totals: Totals,
    /// Guest bytes each layer stores of what is seen (plain or compressed), top first. Empty while the cell has none.
    pub by_depth: Vec<u64>,
}

impl Cell {
    fn add(&mut self, extent: &Extent, len: u64) {
        self.totals.add(extent.kind, len);
        if !matches!(extent.kind, Kind::Data | Kind::Compressed) {
            return;
        }
        if self.by_depth.len() <= extent.depth {
            self.by_depth.resize(extent.depth + 1, 0);
        }
        if let Some(n) = self.by_depth.get_mut(extent.depth) {
            *n = n.saturating_add(len);
        }
    }
    /// Adds what lies in `other`.
    pub fn merge(&mut self, other: &Cell) {
        for (kind, bytes) in [
            (Kind::Data, other.totals.data),
            (Kind::Compressed, other.totals.compressed),
            (Kind::Zero, other.totals.zero),
            (Kind::Unallocated, other.totals.unallocated),
        ] {
            self.totals.add(kind, bytes);
        }
        if self.by_depth.len() < other.by_depth.len() {
            self.by_depth.resize(other.by_depth.len(), 0);
        }
        for (mine, theirs) in self.by_depth.iter_mut().zip(&other.by_depth) {
            *mine = mine.saturating_add(*theirs);
        }
    }
    /// The layer that stores most of the cell, if any does.
    pub fn main_depth(&self) -> Option<usize> {
        self.by_depth.iter().enumerate().max_by_key(|(i, n)| (**n, usize::MAX - i)).filter(|(_, n)| **n > 0).map(|(i, _)| i)
    }
}

/// A window of a disk in equal cells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cells {
    /// Guest byte where the first begins.
    pub start: u64,
    /// Guest byte where the last ends.
    pub end: u64,
    /// The cells; cell `i` covers [`Cells::range`] of `i`.
    pub cells: Vec<Cell>,
    /// All of them together.
    pub total: Cell,
}

impl Cells {
    /// First guest byte of cell `i` and of the one after it.
    pub fn range(&self, i: usize) -> (u64, u64) {
        let n = self.cells.len().max(1) as u128;
        let edge = |i: usize| self.start + (u128::from(self.end - self.start) * (i as u128).min(n) / n) as u64;
        (edge(i), edge(i + 1))
    }
}

/// The window from `start` to `end` of `disk` as `count` cells (fewer when it has fewer bytes). Memory is bounded by `count`
/// and the depth of the chain. `stop` is asked now and then; when it says true the answer is an error of kind `Cancelled`.
pub fn downsample(disk: &Disk, start: u64, end: u64, count: usize, stop: &dyn Fn() -> bool) -> Result<Cells> {
    let end = end.min(disk.size());
    let start = start.min(end);
    let count = count.min(usize::try_from(end - start).unwrap_or(usize::MAX));
    let mut out = Cells { start, end, cells: vec![Cell::default(); count], total: Cell::default() };
    let mut extents = Extents::new(disk, start, end);
    let (mut i, mut asked) = (0, 0u32);
    while let Some(extent) = extents.piece()? {
        asked = asked.wrapping_add(1);
        if asked.is_multiple_of(64) && stop() {
            return Err(Error::new(ErrorKind::Cancelled, "stopped"));
        }
        out.total.add(&extent, extent.len);
        let (mut at, stop_at) = (extent.offset, extent.offset + extent.len);
        while at < stop_at {
            let (_, edge) = out.range(i);
            let n = edge.min(stop_at) - at;
            if let Some(cell) = out.cells.get_mut(i) {
                cell.add(&extent, n);
            }
            at += n;
            if at == edge {
                i += 1;
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::format::{Format, Image};
    use crate::engine::io::Device;
    use crate::engine::model::Description;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A layer given as runs, that counts how often it is asked.
    struct Runs(Vec<(u64, Kind)>, Arc<AtomicUsize>);

    impl Image for Runs {
        fn format(&self) -> Format {
            Format::Raw
        }
        fn size(&self) -> u64 {
            self.0.iter().map(|r| r.0).sum()
        }
        fn files(&self) -> Vec<Device> {
            Vec::new()
        }
        fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
            self.1.fetch_add(1, Ordering::Relaxed);
            let mut start = 0;
            for &(len, kind) in &self.0 {
                if offset < start + len {
                    let place = (kind == Kind::Data).then_some(Place { file: 0, offset });
                    return Ok(Mapping { kind, len: (start + len - offset).min(max), place });
                }
                start += len;
            }
            panic!("asked past the end");
        }
        fn describe(&self) -> Arc<Description> {
            Arc::default()
        }
    }

    fn disk(layers: Vec<Vec<(u64, Kind)>>) -> (Disk, Vec<Arc<AtomicUsize>>) {
        let counts: Vec<_> = layers.iter().map(|_| Arc::new(AtomicUsize::new(0))).collect();
        let layers = layers.into_iter().zip(&counts).map(|(r, c)| Arc::new(Runs(r, c.clone())) as Arc<dyn Image>).collect();
        (Disk::new(layers), counts)
    }

    use Kind::{Data as D, Unallocated as U, Zero as Z};

    #[test]
    fn neighbours_merge_and_layers_shine_through() {
        let (disk, _) = disk(vec![vec![(10, U), (10, D), (10, D), (10, Z), (20, U)], vec![(35, D), (5, U)]]);
        let all: Vec<_> =
            Extents::new(&disk, 0, u64::MAX).map(|e| e.unwrap()).map(|e| (e.offset, e.len, e.kind, e.depth)).collect();
        // The base ends at 40: from there on nobody holds anything, and the top was the last that could.
        assert_eq!(all, [(0, 10, D, 1), (10, 20, D, 0), (30, 10, Z, 0), (40, 20, U, 0)]);
    }

    #[test]
    fn a_long_run_is_asked_for_once() {
        let fragments: Vec<_> = (0..1000).map(|i| (1, if i % 2 == 0 { U } else { D })).collect();
        for layers in [vec![fragments.clone(), vec![(1000, D)]], vec![vec![(1000, U)], fragments]] {
            let long = if layers[0].len() == 1 { 0 } else { 1 };
            let (disk, counts) = disk(layers);
            assert!(Extents::new(&disk, 0, 1000).count() >= 500);
            assert_eq!(counts[long].load(Ordering::Relaxed), 1);
        }
    }

    #[test]
    fn cells_hold_every_byte_once() {
        let (disk, _) = disk(vec![vec![(7, D), (5, U), (11, Z), (2, D)], vec![(25, D)]]);
        for (start, end) in [(0, 25), (3, 19), (24, 25), (9, 9)] {
            for count in [1, 2, 3, 7, 25, 100] {
                let map = downsample(&disk, start, end, count, &|| false).unwrap();
                assert_eq!(map.total.totals.all(), end - start);
                let mut at = start;
                for (i, cell) in map.cells.iter().enumerate() {
                    let (from, to) = map.range(i);
                    assert_eq!((from, cell.totals.all()), (at, to - from), "cell {i} of {count} in {start}..{end}");
                    // Each byte on its own says the same.
                    let mut want = Totals::default();
                    (from..to).for_each(|b| want.add(disk.extent(b, 1).unwrap().kind, 1));
                    assert_eq!(cell.totals, want);
                    at = to;
                }
                assert_eq!(at, end);
            }
        }
    }

    #[test]
    fn stops_when_told() {
        let (disk, _) = disk(vec![(0..200).map(|i| (1, if i % 2 == 0 { U } else { D })).collect()]);
        assert_eq!(downsample(&disk, 0, 200, 4, &|| true).unwrap_err().kind(), ErrorKind::Cancelled);
    }
}
