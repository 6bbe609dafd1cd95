//! The allocation map as `qemu-img map` reports it: a stream of merged entries, with the host's own holes told apart where much of
//! an image was never written.

use std::path::PathBuf;

use crate::engine::chain::{Chain, Disk};
use crate::engine::error::Result;
use crate::engine::extents::{Extents, Merge};
use crate::engine::model::{Extent, Kind};

/// One line of the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Guest byte where it begins.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Which layer answers, 0 is the top.
    pub depth: usize,
    /// Some layer of the chain holds it.
    pub present: bool,
    /// It reads as zeros.
    pub zero: bool,
    /// It is stored.
    pub data: bool,
    /// It is stored compressed.
    pub compressed: bool,
    /// Byte in the host file where it begins, where it has one.
    pub offset: Option<u64>,
    /// Which of the layer's files holds it.
    pub file: usize,
}

impl Entry {
    fn new(extent: &Extent) -> Self {
        Entry {
            start: extent.offset,
            len: extent.len,
            depth: extent.depth,
            present: extent.kind != Kind::Unallocated,
            zero: matches!(extent.kind, Kind::Zero | Kind::Unallocated),
            data: matches!(extent.kind, Kind::Data | Kind::Compressed),
            compressed: extent.kind == Kind::Compressed,
            // Where a compressed unit begins says nothing about where its bytes are, so nobody is told.
            offset: extent.place.filter(|_| extent.kind != Kind::Compressed).map(|p| p.offset),
            file: extent.place.map_or(0, |p| p.file),
        }
    }

    /// An entry of no bytes at guest byte `start`.
    pub fn nothing(start: u64) -> Entry {
        Entry { start, len: 0, depth: 0, present: false, zero: false, data: false, compressed: false, offset: None, file: 0 }
    }

    /// Takes `next`, which begins where this ends, in when it is more of the same.
    fn take(&mut self, next: &Entry) -> bool {
        let kind = |e: &Entry| (e.depth, e.present, e.zero, e.data, e.compressed);
        let same = kind(self) == kind(next)
            && match (self.offset, next.offset) {
                (None, None) => true,
                (Some(a), Some(b)) => self.file == next.file && a.checked_add(self.len) == Some(b),
                _ => false,
            };
        self.len += if same { next.len } else { 0 };
        same
    }
}

/// The map's entries in ascending order.
pub struct Map<'a> {
    disk: &'a Disk,
    extents: Extents<'a>,
    /// What is left of an extent whose host file is being asked for holes.
    rest: Option<Extent>,
    merge: Merge<Entry>,
}

impl<'a> Map<'a> {
    /// The map of `len` bytes of `disk` from `start` on (both cut at its end).
    pub fn new(disk: &'a Disk, start: u64, len: u64) -> Self {
        Map { disk, extents: Extents::new(disk, start, start.saturating_add(len)), rest: None, merge: Merge::default() }
    }

    fn piece(&mut self) -> Result<Option<Entry>> {
        let Some(extent) = self.rest.take().map_or_else(|| self.extents.piece(), |e| Ok(Some(e)))? else { return Ok(None) };
        let mut entry = Entry::new(&extent);
        if extent.kind == Kind::Data
            && let Some(place) = extent.place
            && self.disk.layers().get(extent.depth).is_some_and(|l| l.holes_under_data())
            && let Some(file) = self.disk.files(extent.depth).get(place.file)
        {
            // Past the end of the host file nothing was ever written either.
            let left = file.len().saturating_sub(place.offset);
            if left == 0 {
                entry.zero = true;
                return Ok(Some(entry));
            }
            let host = file.host_range(place.offset, extent.len.min(left))?;
            entry.zero = host.hole;
            entry.len = host.len.clamp(1, extent.len);
            self.rest = (entry.len < extent.len).then(|| {
                let mut rest = extent;
                rest.offset += entry.len;
                rest.len -= entry.len;
                rest.place = Some(crate::engine::model::Place { file: place.file, offset: place.offset + entry.len });
                rest
            });
        }
        Ok(Some(entry))
    }
}

/// Ends after the first error.
impl Iterator for Map<'_> {
    type Item = Result<Entry>;
    fn next(&mut self) -> Option<Self::Item> {
        let mut merge = std::mem::take(&mut self.merge);
        let item = merge.next(|| self.piece(), Entry::take);
        self.merge = merge;
        item
    }
}

/// The path of file `file` of the layer at `depth`, for people.
pub fn file_of(chain: &Chain, depth: usize, file: usize) -> PathBuf {
    let device = chain.layers.get(depth).and_then(|l| l.files().get(file).cloned());
    let named = device.as_ref().and_then(|d| d.path()).map(std::path::Path::to_path_buf);
    named.or_else(|| chain.nodes.get(depth).map(|n| n.path.clone())).unwrap_or_default()
}
