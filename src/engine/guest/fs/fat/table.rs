//! The file allocation table: which cluster follows which. Kept in memory whole; its copies on the volume are written from here.

use crate::engine::error::{Error, Result};
use crate::engine::guest::recognise::FsKind;
use crate::engine::io::bytes::{le16, le32, put_le16, put_le32};
use crate::engine::io::{WriteAt, read_vec};

/// Bytes that are written together where any of them changed.
const PIECE: usize = 512;

/// What an entry says of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// It is nobody's.
    Free,
    /// The file goes on there.
    Next(u64),
    /// It is its file's last one.
    End,
    /// It must not be used.
    Bad,
    /// A value that stands for nothing.
    Wrong(u32),
}

/// The table.
pub(super) struct Table {
    bytes: Vec<u8>,
    kind: FsKind,
    clusters: u64,
}

impl Table {
    /// A table for clusters 2 to `clusters + 1`. `bytes` may be too short; what is missing has no links.
    pub(super) fn new(bytes: Vec<u8>, kind: FsKind, clusters: u64) -> Self {
        Table { bytes, kind, clusters }
    }
    /// Bytes it needs for all clusters.
    pub(super) fn needed(kind: FsKind, clusters: u64) -> u64 {
        let bits = match kind {
            FsKind::Fat12 => 12,
            FsKind::Fat16 => 16,
            _ => 32,
        };
        clusters.saturating_add(2).saturating_mul(bits).div_ceil(8)
    }
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
    /// True when it has an entry for each cluster.
    pub(super) fn is_whole(&self) -> bool {
        self.bytes.len() as u64 >= Table::needed(self.kind, self.clusters)
    }
    /// True when cluster `n` is there.
    pub(super) fn has(&self, n: u64) -> bool {
        (2..self.clusters + 2).contains(&n)
    }
    /// The value of entry `n`, the reserved bits of FAT32 masked.
    fn value(&self, n: u64) -> Option<u32> {
        match self.kind {
            FsKind::Fat12 => {
                let pair = le16(&self.bytes, usize::try_from(n + n / 2).ok()?)?;
                Some(u32::from(if n.is_multiple_of(2) { pair & 0xfff } else { pair >> 4 }))
            }
            FsKind::Fat16 => le16(&self.bytes, usize::try_from(n * 2).ok()?).map(u32::from),
            _ => le32(&self.bytes, usize::try_from(n * 4).ok()?).map(|v| v & 0x0fff_ffff),
        }
    }
    /// The largest value an entry can have.
    fn last(&self) -> u32 {
        match self.kind {
            FsKind::Fat12 => 0xfff,
            FsKind::Fat16 => 0xffff,
            _ => 0x0fff_ffff,
        }
    }
    /// What it says of cluster `n`; `None` when the table has no such entry.
    pub(super) fn link(&self, n: u64) -> Option<Link> {
        let (value, last) = (self.value(n)?, self.last());
        Some(match value {
            0 => Link::Free,
            v if v >= last - 7 => Link::End,
            v if v == last - 8 => Link::Bad,
            v if self.has(u64::from(v)) => Link::Next(u64::from(v)),
            v => Link::Wrong(v),
        })
    }
    /// Makes cluster `n` free, or a file's last one.
    ///
    /// Errors: there is no such entry.
    pub(super) fn set(&mut self, n: u64, end: bool) -> Result<()> {
        let new = if end { self.last() } else { 0 };
        let place = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let done = match self.kind {
            FsKind::Fat12 => {
                let at = place(n + n / 2);
                let pair = le16(&self.bytes, at).unwrap_or(0);
                let new = new as u16;
                let pair = if n.is_multiple_of(2) { pair & 0xf000 | new } else { pair & 0xf | new << 4 };
                put_le16(&mut self.bytes, at, pair)
            }
            FsKind::Fat16 => put_le16(&mut self.bytes, place(n * 2), new as u16),
            _ => {
                let at = place(n * 4);
                let reserved = le32(&self.bytes, at).unwrap_or(0) & 0xf000_0000;
                put_le32(&mut self.bytes, at, reserved | new)
            }
        };
        if self.has(n) && done { Ok(()) } else { Err(Error::corrupt(format!("there is no cluster {n}"))) }
    }
    /// Clusters that are free.
    pub(super) fn free(&self) -> u64 {
        (2..self.clusters + 2).filter(|n| self.link(*n) == Some(Link::Free)).count() as u64
    }
    /// Writes what changed into each copy: the first begins at byte `at`, each is `len` bytes long.
    pub(super) fn store(&self, dev: &dyn WriteAt, at: u64, len: u64, copies: u64) -> Result<()> {
        for copy in 0..copies {
            let start = at + copy * len;
            let old = read_vec(dev, start, self.bytes.len() as u64, dev.len())?;
            for (i, (new, old)) in self.bytes.chunks(PIECE).zip(old.chunks(PIECE)).enumerate() {
                if new != old {
                    dev.write_at(start + (i * PIECE) as u64, new)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_set_and_its_neighbours_stay() {
        for kind in [FsKind::Fat12, FsKind::Fat16, FsKind::Fat32] {
            let size = Table::needed(kind, 9) as usize;
            let bytes: Vec<u8> = (0..size).map(|i| (i * 37 + 11) as u8).collect();
            for n in 2..11 {
                for end in [false, true] {
                    let mut t = Table::new(bytes.clone(), kind, 9);
                    t.set(n, end).unwrap();
                    assert_eq!(t.link(n), Some(if end { Link::End } else { Link::Free }), "{kind:?} {n}");
                    let old = Table::new(bytes.clone(), kind, 9);
                    assert!((0..11).filter(|i| *i != n).all(|i| t.value(i) == old.value(i)), "{kind:?} {n}");
                    if kind == FsKind::Fat32 {
                        assert_eq!(t.bytes[n as usize * 4 + 3] >> 4, bytes[n as usize * 4 + 3] >> 4, "reserved bits");
                    }
                }
            }
            assert!(Table::new(bytes.clone(), kind, 9).set(11, true).is_err());
        }
    }
}
