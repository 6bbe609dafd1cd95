//! What an entry of a mapping table ought to be: says what is wrong with one as it stands, and what a repair makes of it. Looks at
//! the entry alone: it counts nothing.

use crate::engine::format::check::Rule;
use crate::engine::format::qcow2::tables::{COMPRESSED, COPIED, Geometry, OFFSET, SUBCLUSTERS, ZERO};

use super::rules;

/// Bits of an L1 entry that must be zero.
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
/// Bits of a standard L2 entry that must be zero: 1 to 8 and 56 to 61.
const RESERVED: u64 = 0x3f00_0000_0000_01fe;
/// Subcluster bits: all zero.
const ALL_ZERO: u64 = 0xffff_ffff << 32;

/// Judges entries of one image.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine::format::qcow2) struct Judge {
    /// How entries are read.
    pub geometry: Geometry,
    /// Clusters of the file.
    pub clusters: u64,
    /// There is a backing file, which would show through an empty entry.
    pub covered: bool,
}

/// An L2 entry as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine::format::qcow2) struct Judged {
    /// The entry.
    pub entry: u64,
    /// Its subcluster bitmap.
    pub bitmap: u64,
    /// What the guest had there cannot be read.
    pub lost: bool,
}

/// An L1 entry as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine::format::qcow2) enum Table {
    /// No table.
    None,
    /// The table at this byte.
    At(u64),
    /// There was one, and it is lost.
    Lost,
}

impl Judge {
    /// What stands for guest data that is lost: zeros, never what the backing file has there. `None` where the version has no way
    /// to say so.
    pub(in crate::engine::format::qcow2) fn empty(&self) -> Option<(u64, u64)> {
        match (self.geometry.extended, self.geometry.zero_flag) {
            (true, _) => Some((0, ALL_ZERO)),
            (_, true) => Some((ZERO, 0)),
            _ => (!self.covered).then_some((0, 0)),
        }
    }

    /// An entry that says: zeros, whatever lies below. `None` where the version has none.
    pub(in crate::engine::format::qcow2) fn zeros(&self) -> Option<(u64, u64)> {
        self.empty().filter(|e| *e != (0, 0))
    }

    fn lost(&self, entry: u64, bitmap: u64) -> Judged {
        let (entry, bitmap) = self.empty().unwrap_or((entry, bitmap));
        Judged { entry, bitmap, lost: true }
    }

    /// Judges an L2 entry and its bitmap; `wrong` is told every rule it breaks.
    pub(in crate::engine::format::qcow2) fn l2(&self, entry: u64, bitmap: u64, wrong: &mut dyn FnMut(&'static Rule)) -> Judged {
        let g = &self.geometry;
        if entry & COMPRESSED != 0 {
            return self.compressed(entry, bitmap, wrong);
        }
        let reserved = if g.extended || !g.zero_flag { RESERVED | ZERO } else { RESERVED };
        if entry & reserved != 0 {
            wrong(&rules::RESERVED);
        }
        let mut out = Judged { entry: entry & !reserved, bitmap, lost: false };
        let host = entry & OFFSET;
        let placed = host != 0 || (g.external && entry & COPIED != 0);
        if placed && host & (g.cluster() - 1) != 0 {
            wrong(&rules::MISALIGNED);
            return self.lost(entry, bitmap);
        }
        if placed && !g.external && host >> g.cluster_bits >= self.clusters {
            wrong(&rules::OUTSIDE);
            return self.lost(entry, bitmap);
        }
        if g.extended {
            let (data, zero) = (bitmap as u32, (bitmap >> SUBCLUSTERS) as u32);
            if data != 0 && !placed {
                wrong(&rules::SUBCLUSTER);
                out.bitmap = u64::from(zero | data) << SUBCLUSTERS;
                out.lost = true;
            } else if data & zero != 0 {
                wrong(&rules::SUBCLUSTER);
                out.bitmap = u64::from(zero & !data) << SUBCLUSTERS | u64::from(data);
            }
        }
        out
    }

    fn compressed(&self, entry: u64, bitmap: u64, wrong: &mut dyn FnMut(&'static Rule)) -> Judged {
        let g = &self.geometry;
        if g.external {
            wrong(&rules::COMPRESSED_RANGE);
            return self.lost(entry, bitmap);
        }
        if g.packed(entry).offset >> g.cluster_bits >= self.clusters {
            wrong(&rules::COMPRESSED_RANGE);
            return self.lost(entry, bitmap);
        }
        if entry & COPIED != 0 {
            wrong(&rules::COPIED);
        }
        if bitmap != 0 {
            wrong(&rules::SUBCLUSTER);
        }
        Judged { entry: entry & !COPIED, bitmap: 0, lost: false }
    }

    /// Judges an L1 entry.
    pub(in crate::engine::format::qcow2) fn l1(&self, entry: u64, wrong: &mut dyn FnMut(&'static Rule)) -> Table {
        if entry & L1_RESERVED != 0 {
            wrong(&rules::RESERVED);
        }
        let at = entry & OFFSET;
        if at == 0 {
            return Table::None;
        }
        if at & (self.geometry.cluster() - 1) != 0 {
            wrong(&rules::MISALIGNED);
            return Table::Lost;
        }
        if at >> self.geometry.cluster_bits >= self.clusters {
            wrong(&rules::OUTSIDE);
            return Table::Lost;
        }
        Table::At(at)
    }
}
