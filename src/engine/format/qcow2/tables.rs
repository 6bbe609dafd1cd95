//! L1 and L2 tables: what an entry says of a cluster or subcluster, and runs of equal entries. Works on tables already in
//! memory; knows nothing of where they come from. Specification: "Cluster mapping", "Extended L2 entries".

use std::sync::Arc;

use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::be64;
use crate::engine::model::Kind;
use crate::engine::units::SECTOR;

use super::header::Header;

/// Bit 63 of L1 and L2 entries: the refcount is exactly one.
pub const COPIED: u64 = 1 << 63;
/// Bit 62 of an L2 entry: the rest is a compressed cluster descriptor.
pub const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of a standard L2 entry: reads as zeros.
pub const ZERO: u64 = 1;
/// Bits 9 to 55 of an entry: a host offset.
pub const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Subclusters of a cluster with extended L2 entries.
pub const SUBCLUSTERS: u32 = 32;

/// What of the header decides how entries are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a cluster, as a power of two.
    pub cluster_bits: u32,
    /// Entries of 16 bytes with subclusters.
    pub extended: bool,
    /// Guest data is in another file.
    pub external: bool,
    /// Version 3: the zero flag exists.
    pub zero_flag: bool,
}

/// A compressed cluster's place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// Byte offset.
    pub offset: u64,
    /// Bytes, up to the end of the last sector: the stream may end before.
    pub len: u64,
}

/// A stretch of guest bytes of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// What is there.
    pub kind: Kind,
    /// Where the first byte is kept: data, preallocated zeros, the compressed unit.
    pub host: Option<u64>,
    /// Bytes.
    pub len: u64,
}

impl Run {
    /// Appends `next`, which begins where this one ends, when it goes on the same way.
    fn join(&mut self, next: &Run) -> bool {
        let follows = match (self.host, next.host) {
            (None, None) => true,
            (Some(a), Some(b)) => a.checked_add(self.len) == Some(b),
            _ => false,
        };
        let same = follows && self.kind == next.kind && self.kind != Kind::Compressed;
        if same {
            self.len += next.len;
        }
        same
    }
}

impl Geometry {
    /// The geometry `header` describes.
    pub fn of(header: &Header) -> Self {
        Geometry {
            cluster_bits: header.cluster_bits,
            extended: header.extended_l2(),
            external: header.external_data(),
            zero_flag: header.version >= 3,
        }
    }
    /// Bytes of a cluster.
    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }
    /// Bytes of a subcluster; of a cluster where there are none.
    pub fn subcluster(&self) -> u64 {
        if self.extended { self.cluster() / u64::from(SUBCLUSTERS) } else { self.cluster() }
    }
    /// Bytes of an L2 entry.
    pub fn entry_size(&self) -> usize {
        if self.extended { 16 } else { 8 }
    }
    /// Entries of an L2 table.
    pub fn l2_entries(&self) -> u64 {
        self.cluster() / self.entry_size() as u64
    }
    /// Guest bytes one L2 table covers.
    pub fn l2_span(&self) -> u64 {
        self.l2_entries() << self.cluster_bits
    }
    /// The L2 table an L1 entry points to; `None` where there is none.
    pub fn l2_offset(&self, l1_entry: u64) -> Result<Option<u64>> {
        let offset = l1_entry & OFFSET;
        if offset & (self.cluster() - 1) != 0 {
            return Err(Error::corrupt(format!("an L1 entry points to {offset:#x}, which does not begin a cluster")));
        }
        Ok((offset != 0).then_some(offset))
    }
    /// Decodes a compressed cluster descriptor.
    pub fn packed(&self, entry: u64) -> Packed {
        let x = 62 - (self.cluster_bits - 8);
        let offset = entry & ((1 << x) - 1);
        let sectors = (entry & (COMPRESSED - 1)) >> x;
        Packed { offset, len: (sectors + 1) * SECTOR - offset % SECTOR }
    }
    /// Encodes a compressed cluster descriptor; `None` when the place is out of its reach.
    pub fn pack(&self, place: Packed) -> Option<u64> {
        let x = 62 - (self.cluster_bits - 8);
        let sectors = (place.offset % SECTOR + place.len).div_ceil(SECTOR).checked_sub(1)?;
        let fits = place.offset < (1 << x) && sectors < (1 << (self.cluster_bits - 8));
        fits.then_some(COMPRESSED | sectors << x | place.offset)
    }

    /// The entry of the cluster that holds byte `at` of the table's span, with its subcluster bitmap (0 without).
    pub fn entry(&self, table: &[u8], at: u64) -> Result<(u64, u64)> {
        let i = (at >> self.cluster_bits) as usize * self.entry_size();
        let outside = || Error::corrupt("an L2 table is shorter than a cluster");
        let entry = be64(table, i).ok_or_else(outside)?;
        let bitmap = if self.extended { be64(table, i + 8).ok_or_else(outside)? } else { 0 };
        Ok((entry, bitmap))
    }

    /// What lies at byte `at` of the table's span, to the end of its cluster or of equal subclusters.
    pub fn piece(&self, table: &[u8], at: u64) -> Result<Run> {
        let (entry, bitmap) = self.entry(table, at)?;
        let within = at & (self.cluster() - 1);
        let left = self.cluster() - within;
        if entry & COMPRESSED != 0 {
            if self.external {
                return Err(Error::corrupt("a compressed cluster in an image with an external data file"));
            }
            return Ok(Run { kind: Kind::Compressed, host: Some(self.packed(entry).offset), len: left });
        }
        let host = entry & OFFSET;
        if host & (self.cluster() - 1) != 0 {
            return Err(Error::corrupt(format!("an L2 entry points to {host:#x}, which does not begin a cluster")));
        }
        // In an external data file guest offset 0 is host offset 0, told from "none" by the COPIED bit.
        let allocated = host != 0 || (self.external && entry & COPIED != 0);
        let place = allocated.then_some(host + within);
        if self.extended {
            return self.subclusters(bitmap, allocated, place, within);
        }
        if entry & ZERO != 0 {
            if !self.zero_flag {
                return Err(Error::corrupt("a zero cluster in a version 2 image"));
            }
            return Ok(Run { kind: Kind::Zero, host: place.filter(|_| host != 0), len: left });
        }
        Ok(match place {
            Some(_) => Run { kind: Kind::Data, host: place, len: left },
            None => Run { kind: Kind::Unallocated, host: None, len: left },
        })
    }

    /// The same within a cluster with subclusters.
    fn subclusters(&self, bitmap: u64, allocated: bool, place: Option<u64>, within: u64) -> Result<Run> {
        let (data, zero) = (bitmap as u32, (bitmap >> 32) as u32);
        if data & zero != 0 {
            return Err(Error::corrupt("a subcluster is both data and zero"));
        }
        if data != 0 && !allocated {
            return Err(Error::corrupt("subclusters with data in a cluster without a place"));
        }
        let size = self.subcluster();
        let first = (within / size) as u32;
        // How many bits from `first` on are as the first one is, in both maps.
        let like = |map: u32| {
            let rest = map >> first;
            if rest & 1 == 1 { rest.trailing_ones() } else { rest.trailing_zeros() }
        };
        let count = like(data).min(like(zero)).min(SUBCLUSTERS - first);
        let len = u64::from(count) * size - within % size;
        Ok(if data >> first & 1 == 1 {
            Run { kind: Kind::Data, host: place, len }
        } else if zero >> first & 1 == 1 {
            Run { kind: Kind::Zero, host: place, len }
        } else {
            // The cluster has a place, and this part of it was not written yet.
            Run { kind: Kind::Unallocated, host: place, len }
        })
    }

    /// The run that begins at byte `at` of the table's span, as far as it goes on within the table and before `until`.
    pub fn run(&self, table: &[u8], at: u64, until: u64) -> Result<Run> {
        let mut run = self.piece(table, at)?;
        while at + run.len < until {
            let next = at + run.len;
            let clusters = self.same_clusters(table, next, &run);
            if clusters > 0 {
                run.len += clusters << self.cluster_bits;
                continue;
            }
            // A damaged entry ends the run; it is reported when it is asked for itself.
            match self.piece(table, next) {
                Ok(piece) if run.join(&piece) => {}
                _ => break,
            }
        }
        run.len = run.len.min(until - at);
        Ok(run)
    }

    /// How many whole clusters from `at` on continue `run`, by comparing entries without decoding them: this loop sees every
    /// entry of a large image.
    fn same_clusters(&self, table: &[u8], at: u64, run: &Run) -> u64 {
        if self.extended || at & (self.cluster() - 1) != 0 {
            return 0;
        }
        let next = run.host.and_then(|h| h.checked_add(run.len));
        let (mut want, step) = match (run.kind, next) {
            (Kind::Data, Some(host)) => (host, self.cluster()),
            (Kind::Zero, Some(host)) => (host | ZERO, self.cluster()),
            (Kind::Zero, None) => (ZERO, 0),
            (Kind::Unallocated, _) => (0, 0),
            _ => return 0,
        };
        let mut mask = COMPRESSED | OFFSET | ZERO;
        if self.external && run.kind == Kind::Unallocated {
            mask |= COPIED;
        }
        let mut count = 0;
        let rest = table.get((at >> self.cluster_bits) as usize * 8..).unwrap_or_default();
        for entry in rest.as_chunks::<8>().0 {
            if u64::from_be_bytes(*entry) & mask != want {
                break;
            }
            want = want.wrapping_add(step);
            count += 1;
        }
        // A zero flag in version 2 is damage, for `piece` to say.
        if run.kind == Kind::Zero && !self.zero_flag { 0 } else { count }
    }

    /// The run at guest byte `offset`, at most `max` bytes, over as many L2 tables as go on the same way. `l2` hands out the
    /// table of an L1 index, `None` where there is none; at most [`TABLES_PER_CALL`] tables are asked for.
    pub fn map(&self, offset: u64, max: u64, mut l2: impl FnMut(u64) -> Result<Option<Arc<Vec<u8>>>>) -> Result<Run> {
        let span = self.l2_span();
        let end = offset.saturating_add(max);
        let mut total: Option<Run> = None;
        let mut loaded = 0;
        let mut at = offset;
        while at < end && loaded < TABLES_PER_CALL {
            let (index, within) = (at / span, at % span);
            let until = span.min(within.saturating_add(end - at));
            let part = l2(index).and_then(|table| match table {
                None => Ok(Run { kind: Kind::Unallocated, host: None, len: until - within }),
                Some(table) => {
                    loaded += 1;
                    self.run(&table, within, until)
                }
            });
            let joined = match (&mut total, part) {
                (Some(run), Ok(part)) => run.join(&part),
                // What is damaged further on is reported when it is asked for itself.
                (Some(_), Err(_)) => false,
                (None, part) => {
                    total = Some(part?);
                    true
                }
            };
            if !joined {
                break;
            }
            let len = total.as_ref().map_or(0, |r| r.len);
            at = offset + len;
            if !at.is_multiple_of(span) {
                break;
            }
        }
        total.ok_or_else(|| Error::usage("an empty range was asked for"))
    }
}

/// L2 tables one look-up may go through, so that each call stays short and a job can be stopped.
pub const TABLES_PER_CALL: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const STANDARD: Geometry = Geometry { cluster_bits: 16, extended: false, external: false, zero_flag: true };

    fn table(entries: &[u64]) -> Vec<u8> {
        let mut t = vec![0u8; 65536];
        for (i, e) in entries.iter().enumerate() {
            t[i * 8..i * 8 + 8].copy_from_slice(&e.to_be_bytes());
        }
        t
    }

    #[test]
    fn runs_follow_offsets_and_kinds() {
        let t = table(&[0x50000 | COPIED, 0x60000, 0x80000, ZERO, ZERO, 0x90000 | ZERO, 0xa0000 | ZERO, 0]);
        let end = STANDARD.l2_span();
        let mut at = 100;
        let mut seen = Vec::new();
        while at < end {
            let r = STANDARD.run(&t, at, end).unwrap();
            seen.push((r.kind, r.host, r.len));
            at += r.len;
        }
        assert_eq!(
            seen,
            [
                (Kind::Data, Some(0x50064), 0x20000 - 100),
                (Kind::Data, Some(0x80000), 0x10000),
                (Kind::Zero, None, 0x20000),
                (Kind::Zero, Some(0x90000), 0x20000),
                (Kind::Unallocated, None, end - 0x70000),
            ]
        );
    }

    #[test]
    fn damage_is_reported_where_it_is_and_not_before() {
        let t = table(&[0x50000, 0x60200, 0x70000]);
        assert_eq!(STANDARD.run(&t, 0, 0x30000).unwrap().len, 0x10000);
        assert!(STANDARD.run(&t, 0x10000, 0x30000).is_err());
        let v2 = Geometry { zero_flag: false, ..STANDARD };
        assert!(v2.run(&table(&[ZERO]), 0, 1).is_err());
        let external = Geometry { external: true, ..STANDARD };
        assert!(external.run(&table(&[COMPRESSED]), 0, 1).is_err());
    }

    #[test]
    fn offset_zero_of_an_external_file_is_told_by_the_copied_bit() {
        let g = Geometry { external: true, ..STANDARD };
        let t = table(&[COPIED, 0x10000 | COPIED, 0, COPIED]);
        assert_eq!(g.run(&t, 0, 0x40000).unwrap(), Run { kind: Kind::Data, host: Some(0), len: 0x20000 });
        assert_eq!(g.run(&t, 0x20000, 0x40000).unwrap(), Run { kind: Kind::Unallocated, host: None, len: 0x10000 });
    }

    #[test]
    fn compressed_descriptors_go_both_ways() {
        for bits in 9..=21 {
            let g = Geometry { cluster_bits: bits, ..STANDARD };
            for (offset, len) in [(0x50000, 1), (0x503ff, 513), (0x50201, g.cluster() - 1)] {
                let entry = g.pack(Packed { offset, len }).unwrap();
                let back = g.packed(entry);
                assert_eq!(back.offset, offset);
                assert!(back.len >= len && back.len < len + 512 && (back.offset + back.len).is_multiple_of(512));
            }
            assert_eq!(g.pack(Packed { offset: 1 << (70 - bits), len: 1 }), None);
        }
    }

    #[test]
    fn subclusters_are_told_apart() {
        let g = Geometry { extended: true, ..STANDARD };
        let mut t = vec![0u8; 65536];
        t[..8].copy_from_slice(&(0x50000 | COPIED).to_be_bytes());
        // Subclusters 0-1 data, 2 zero, 3-31 neither.
        t[8..16].copy_from_slice(&(1u64 << 34 | 3).to_be_bytes());
        t[16..24].copy_from_slice(&0u64.to_be_bytes());
        t[24..32].copy_from_slice(&((u64::from(u32::MAX)) << 32).to_be_bytes());
        assert_eq!(g.run(&t, 5, 65536).unwrap(), Run { kind: Kind::Data, host: Some(0x50005), len: 4091 });
        assert_eq!(g.run(&t, 4096, 65536).unwrap(), Run { kind: Kind::Zero, host: Some(0x51000), len: 2048 });
        assert_eq!(g.run(&t, 6144, 65536).unwrap(), Run { kind: Kind::Unallocated, host: Some(0x51800), len: 65536 - 6144 });
        assert_eq!(g.run(&t, 65536, 1 << 20).unwrap(), Run { kind: Kind::Zero, host: None, len: 65536 });
        t[8..16].copy_from_slice(&(1u64 << 32 | 1).to_be_bytes());
        assert!(g.run(&t, 0, 1).is_err());
    }
}
