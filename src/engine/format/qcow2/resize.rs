//! Changing the virtual size in place.
//!
//! Growing: the header is pointed to a larger L1 table where one is needed; then the new range is made zero, over what lies
//! below it and over stale clusters, and durably so; then the size changes. Shrinking: the size changes first; then what lies beyond
//! it is given back, and the file cut. A crash leaves the old disk or the new one, with leaked clusters at worst.

use std::sync::atomic::Ordering;

use crate::engine::error::{Error, Result};
use crate::engine::limits::MAX_L1_BYTES;
use crate::engine::units::SECTOR;

use super::header::{BITMAPS, RAW_EXTERNAL};
use super::writer::{Shared, State};

impl Shared {
    /// Sets the virtual size, in bytes.
    ///
    /// Errors: not a multiple of 512; more than the L1 table can be; a version 2 image with snapshots (they do not store their
    /// size); an external raw data file that cannot grow.
    pub fn resize(&self, size: u64) -> Result<()> {
        if !size.is_multiple_of(SECTOR) {
            return Err(Error::usage(format!("a qcow2 disk has a multiple of {SECTOR} bytes, and {size} is none")));
        }
        let mut s = self.sound()?;
        if s.header.snapshots > 0 && s.header.version < 3 {
            return Err(Error::unsupported("a version 2 image with snapshots cannot be resized: they do not store their size")
                .hint("upgrade it first: amend -o compat=1.1, or delete the snapshots"));
        }
        self.settle_bitmaps(&mut s)?;
        let bitmaps = s.header.autoclear & BITMAPS != 0;
        self.clear_autoclear(&mut s, RAW_EXTERNAL)?;
        let old = self.size();
        match size.cmp(&old) {
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Greater => self.grow(&mut s, old, size)?,
            std::cmp::Ordering::Less => self.shrink(&mut s, old, size)?,
        }
        if bitmaps { self.resize_bitmaps(&mut s, size) } else { Ok(()) }
    }

    fn grow(&self, s: &mut State, old: u64, new: u64) -> Result<()> {
        let entries = new.div_ceil(self.geometry.l2_span());
        if entries * 8 > MAX_L1_BYTES {
            return Err(Error::usage("the disk would be larger than clusters of this size allow")
                .hint("convert it to an image with larger clusters"));
        }
        self.grow_l1(s, entries)?;
        // A guest is not to see the new range until it is zero, and what is below it must not show through later.
        self.size.store(new, Ordering::Release);
        let done = self.clear_new(s, old, new);
        if let Err(e) = done {
            self.size.store(old, Ordering::Release);
            return Err(e);
        }
        s.header.size = new;
        self.write_fields(s)
    }

    /// Makes `old..new` zero, durably. A raw data file grows along.
    fn clear_new(&self, s: &mut State, old: u64, new: u64) -> Result<()> {
        self.zero(s, old, new, new)?;
        if s.header.raw_external()
            && let Some(data) = &self.data
        {
            data.set_len(new)?;
            let cluster = self.geometry.cluster();
            for start in (old.next_multiple_of(cluster)..new).step_by(cluster as usize) {
                self.link(s, start, start, 0xffff_ffff)?;
                self.relieve(s)?;
            }
        }
        self.flush(s)
    }

    /// Moves the L1 table to where it can have `entries`, when it is shorter.
    fn grow_l1(&self, s: &mut State, entries: u64) -> Result<()> {
        if entries <= s.l1.len() as u64 {
            return Ok(());
        }
        let (old, old_len) = (s.header.l1_offset, s.l1.len() as u64 * 8);
        let offset = s.alloc.metadata_run((entries * 8).div_ceil(self.geometry.cluster()))?;
        // The counts of the new table, and every change of the old one, are durable before the header points to it.
        self.flush(s)?;
        let mut l1 = s.l1.clone();
        l1.resize(entries as usize, 0);
        let bytes: Vec<u8> = l1.iter().flat_map(|e| e.to_be_bytes()).collect();
        self.dev.write_at(offset, &bytes)?;
        self.barrier(s, &self.dev)?;
        s.l1 = l1;
        s.header.l1_offset = offset;
        s.header.l1_entries = entries as u32;
        self.write_fields(s)?;
        if old_len > 0 {
            s.alloc.free(old, old_len);
        }
        Ok(())
    }

    fn shrink(&self, s: &mut State, old: u64, new: u64) -> Result<()> {
        self.flush(s)?;
        s.header.size = new;
        self.write_fields(s)?;
        self.size.store(new, Ordering::Release);
        let g = self.geometry;
        let mut at = new.next_multiple_of(g.cluster());
        while at < old {
            let next_table = (at / g.l2_span() + 1).saturating_mul(g.l2_span());
            if self.table(s, at / g.l2_span())?.is_none() {
                at = next_table;
                continue;
            }
            if self.entry(s, at)? != (0, 0) {
                self.set_entry(s, at, 0, 0)?;
            }
            at += g.cluster();
        }
        self.drop_tables(s, new, old)?;
        if let Some(data) = &self.data {
            data.set_len(data.len().min(new))?;
        }
        self.flush(s)?;
        self.trim(s)
    }

    /// Cuts free clusters off the end of the file.
    pub fn trim(&self, s: &mut State) -> Result<()> {
        // The counts that call them free are durable first.
        self.barrier(s, &self.dev)?;
        let len = self.dev.len();
        let end = s.alloc.used_end(len)?;
        if end < len && self.dev.as_file().is_none_or(|f| !f.is_block_device()) {
            self.dev.set_len(end)?;
        }
        Ok(())
    }

    /// Lets go of L2 tables that lie wholly in `new..old`: every one of their entries is empty. What is past the old end (a
    /// VM state) stays.
    fn drop_tables(&self, s: &mut State, new: u64, old: u64) -> Result<()> {
        let span = self.geometry.l2_span();
        for i in new.div_ceil(span) as usize..old.div_ceil(span) as usize {
            let Some(entry) = s.l1.get_mut(i) else { break };
            let entry = std::mem::take(entry);
            if let Some(offset) = self.geometry.l2_offset(entry)? {
                s.tables.remove(&(i as u64));
                s.l1_changed.insert(i);
                s.alloc.free(offset, 1);
            }
        }
        Ok(())
    }

    /// Writes size, L1 length and L1 place in one go: bytes 24 to 48 of the header lie in one sector.
    fn write_fields(&self, s: &mut State) -> Result<()> {
        let header = s.header.encode();
        self.dev.write_at(24, header.get(24..48).unwrap_or_default())?;
        self.barrier(s, &self.dev)
    }
}
