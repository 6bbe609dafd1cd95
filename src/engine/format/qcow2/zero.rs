//! Making guest ranges zero: with the zero flag where the version has it, by letting go of clusters where nothing lies below,
//! and with real zeros only where there is no other way.

use crate::engine::error::Result;
use crate::engine::io::bytes::is_zero;

use super::tables::{COMPRESSED, COPIED, ZERO};
use super::writer::{Shared, State};

/// Subcluster bits: all zero.
pub const ALL_ZERO: u64 = 0xffff_ffff << 32;

impl Shared {
    /// Makes a guest range read as zeros, whatever lies below. Clusters wholly in it are given back.
    pub fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.check_range(offset, len)?;
        let mut s = self.change_guest(offset, len)?;
        self.zero(&mut s, offset, offset + len, self.size())
    }

    /// The same for `offset..end` of a disk that ends at `size`.
    pub fn zero(&self, s: &mut State, offset: u64, end: u64, size: u64) -> Result<()> {
        let g = self.geometry;
        let (cluster, span) = (g.cluster(), g.l2_span());
        if let Some(data) = &self.data {
            // The bytes in the data file count too: it may have to be a raw disk by itself, and it is space to give back.
            data.write_zeroes(offset, end - offset)?;
        }
        let mut at = offset;
        while at < end {
            let index = at / span;
            let empty = s.l1.get(index as usize).is_none_or(|e| *e == 0);
            if empty && !self.covered(at) {
                at = (index + 1).saturating_mul(span).min(end);
                continue;
            }
            let start = at & !(cluster - 1);
            let stop = end.min(start + cluster);
            if at == start && (stop == start + cluster || stop == size) {
                self.zero_cluster(s, start)?;
            } else {
                self.zero_part(s, at, stop)?;
            }
            at = stop;
            self.relieve(s)?;
        }
        Ok(())
    }

    /// Something may lie below guest byte `at`.
    fn covered(&self, at: u64) -> bool {
        self.stands_on_something() && self.below.as_ref().is_none_or(|b| at < b.0.len())
    }

    fn zero_cluster(&self, s: &mut State, start: u64) -> Result<()> {
        let (entry, bitmap) = self.entry(s, start)?;
        let covered = self.covered(start);
        if self.geometry.extended {
            let raw = self.data.is_some() && s.header.raw_external();
            return match (entry, bitmap) {
                _ if raw && entry & COPIED != 0 => Ok(()),
                (0, ALL_ZERO) => Ok(()),
                (0, 0) if !covered => Ok(()),
                _ => self.set_entry(s, start, 0, ALL_ZERO),
            };
        }
        if entry == 0 && !covered || entry == ZERO {
            return Ok(());
        }
        if self.data.is_some() && s.header.raw_external() && entry & COPIED != 0 {
            return Ok(());
        }
        if self.geometry.zero_flag {
            return self.set_entry(s, start, ZERO, 0);
        }
        if !covered {
            return self.set_entry(s, start, 0, 0);
        }
        let zeros = vec![0; self.geometry.cluster().min(self.size().saturating_sub(start)) as usize];
        self.write_part(s, start, &zeros)
    }

    /// Makes `at..end`, part of one cluster, zero.
    fn zero_part(&self, s: &mut State, at: u64, end: u64) -> Result<()> {
        let mut now = vec![0; (end - at) as usize];
        self.guest_read(s, at, &mut now)?;
        if is_zero(&now) {
            return Ok(());
        }
        now.fill(0);
        let sub = self.geometry.subcluster();
        let (from, to) = (at.next_multiple_of(sub), end / sub * sub);
        let (entry, _) = self.entry(s, at)?;
        if !self.geometry.extended || from >= to || entry & COMPRESSED != 0 || self.data.is_some() {
            return self.write_part(s, at, &now);
        }
        if at < from {
            self.write_part(s, at, now.get(..(from - at) as usize).unwrap_or_default())?;
        }
        if to < end {
            self.write_part(s, to, now.get(..(end - to) as usize).unwrap_or_default())?;
        }
        let start = at & !(self.geometry.cluster() - 1);
        let (entry, bitmap) = self.entry(s, at)?;
        let mask = self.sub_mask(from - start, to - start);
        self.set_entry(s, start, entry, bitmap & !mask | mask << 32)
    }
}
