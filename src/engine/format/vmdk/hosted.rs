//! Writing one hosted sparse extent in place: grains appended to the file, entries set in both copies of the tables.
//!
//! Data goes to the file at once; entries wait in the page cache until [`super::writer`] has made the data durable. So a cut
//! leaves entries that point to durable data only: the old disk, or the new one, and at worst grains nobody points to.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::grains::{Entries, Grains};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::format::write::Below;
use crate::engine::io::WriteDevice;
use crate::engine::model::Kind;
use crate::engine::units::SECTOR;

/// First byte that no 32-bit sector number reaches.
const REACH: u64 = (u32::MAX as u64 + 1) * SECTOR;

/// A hosted sparse extent open for writing.
pub(super) struct Hosted {
    /// Its tables, shared with the reader.
    pub(super) grains: Arc<Grains>,
    /// The same file, writable.
    pub(super) dev: WriteDevice,
    state: Mutex<State>,
    released: Condvar,
}

struct State {
    /// Byte where the next grain goes.
    next: u64,
    /// Grains being written now, first and last of each call: two calls must not both allocate one grain.
    claims: Vec<(u64, u64)>,
}

/// What lies below an extent: where the rest of a grain comes from that is written in part.
pub(super) struct Under<'a> {
    /// The image has a parent.
    pub(super) parent: bool,
    /// The parent's disk, when it was opened.
    pub(super) disk: Option<&'a Below>,
    /// Guest byte where the extent begins.
    pub(super) start: u64,
}

struct Claim<'a>(&'a Hosted, (u64, u64));

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if let Some(i) = state.claims.iter().position(|c| *c == self.1) {
            state.claims.swap_remove(i);
        }
        self.0.released.notify_all();
    }
}

/// Changed pages of tables after which [`Hosted::let_go`] has them written.
const MAX_WAITING: usize = 256;

impl Hosted {
    /// `next` is the byte from which on nothing is kept in the file.
    pub(super) fn new(grains: Arc<Grains>, dev: WriteDevice, next: u64) -> Self {
        Hosted { grains, dev, state: Mutex::new(State { next, claims: Vec::new() }), released: Condvar::new() }
    }

    /// Where the next grain would go.
    pub(super) fn next(&self) -> u64 {
        self.lock().next
    }

    /// Writes `data` (not empty) at byte `offset` of the extent.
    pub(super) fn write(&self, offset: u64, data: &[u8], below: &Under<'_>) -> Result<()> {
        let _claim = self.claim(offset, data.len() as u64);
        let mut done = 0usize;
        while let Some(rest) = data.get(done..).filter(|r| !r.is_empty()) {
            let at = offset + done as u64;
            let m = self.grains.map(at, rest.len() as u64)?;
            let n = m.len.clamp(1, rest.len() as u64) as usize;
            let part = rest.get(..n).unwrap_or_default();
            match (m.kind, m.place) {
                (Kind::Data, Some(place)) => self.dev.write_at(place.offset, part)?,
                (kind, _) => self.allocate(at, Some(part), n as u64, kind == Kind::Zero, below)?,
            }
            done += n;
        }
        Ok(())
    }

    /// Makes `len` bytes from `offset` on read as zeros. What is stored stays where it is and becomes a hole; what the parent
    /// would show is hidden by zero grains, or by stored ones where the header does not allow those.
    pub(super) fn write_zeroes(&self, offset: u64, len: u64, below: &Under<'_>) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let _claim = self.claim(offset, len);
        let g = &self.grains.geometry;
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let m = self.grains.map(at, end - at)?;
            let mut n = m.len.clamp(1, end - at);
            match (m.kind, m.place) {
                (Kind::Data, Some(place)) => self.dev.write_zeroes(place.offset, n)?,
                (Kind::Unallocated, _) if below.parent => {
                    let whole_end = if at + n == g.capacity { at + n } else { (at + n) / g.grain * g.grain };
                    if !at.is_multiple_of(g.grain) || whole_end <= at {
                        // Part of a grain: it is stored, with its other bytes from below.
                        n = n.min(g.grain - at % g.grain);
                        self.allocate(at, None, n, false, below)?;
                    } else {
                        n = whole_end - at;
                        if g.entries == (Entries::Sectors { zero_grain: true }) {
                            self.set(at / g.grain, n.div_ceil(g.grain), |_| 1)?;
                        } else {
                            self.allocate(at, None, n, false, below)?;
                        }
                    }
                }
                _ => {}
            }
            at += n;
        }
        Ok(())
    }

    /// Empties the tables, so that every grain is looked for below; `flush` makes changed tables durable when many wait. Where the
    /// grains are that were held, to be given back once the tables are durable.
    pub(super) fn let_go(&self, flush: &dyn Fn() -> Result<()>) -> Result<Vec<(u64, u64)>> {
        let g = &self.grains.geometry;
        let mut held: Vec<(u64, u64)> = Vec::new();
        let span = g.grain * g.per_table;
        for index in 0..g.tables() {
            let (mut at, end) = (index * span, ((index + 1) * span).min(g.capacity));
            while at < end {
                let m = self.grains.map(at, end - at)?;
                if let (Kind::Data, Some(place)) = (m.kind, m.place) {
                    match held.last_mut() {
                        Some((start, len)) if *start + *len == place.offset => *len += m.len,
                        _ => held.push((place.offset, m.len)),
                    }
                }
                at += m.len;
            }
            for directory in self.grains.directories() {
                if let Some(table) = self.grains.table_of(directory, index)? {
                    self.grains.set_entries(table, &vec![0; g.per_table as usize])?;
                }
            }
            if self.grains.pages().changed() > MAX_WAITING {
                flush()?;
            }
        }
        Ok(held)
    }

    /// Clears the entries of all grains from byte `from` of the extent to the end of the table that byte is in: nothing of an
    /// earlier, larger disk may come back.
    pub(super) fn clear_table_from(&self, from: u64) -> Result<()> {
        let g = &self.grains.geometry;
        let first = from.div_ceil(g.grain);
        let last = first.next_multiple_of(g.per_table).min(g.capacity.div_ceil(g.grain));
        if first < last && !first.is_multiple_of(g.per_table) { self.set(first, last - first, |_| 0) } else { Ok(()) }
    }

    /// Stores the grains around `len` bytes at `at`, none of which is stored yet: `data` (zeros when `None`), and around it what
    /// the guest sees there now. `zero` says that this is zeros.
    fn allocate(&self, at: u64, data: Option<&[u8]>, len: u64, zero: bool, below: &Under<'_>) -> Result<()> {
        let g = &self.grains.geometry;
        let (first, end) = (at / g.grain, at + len);
        let count = end.div_ceil(g.grain) - first;
        let start = first * g.grain;
        // What must be read is read before anything is written.
        let head = self.seen(start, at - start, zero, below)?;
        let tail = self.seen(end, start + count * g.grain - end, zero, below)?;
        let place = self.reserve(count * g.grain)?;
        let put = |offset: u64, bytes: Option<&[u8]>, len: u64| match bytes {
            Some(bytes) => self.dev.write_at(offset, bytes),
            None => self.dev.write_zeroes(offset, len),
        };
        put(place, head.as_deref(), at - start)?;
        put(place + (at - start), data, len)?;
        put(place + (end - start), tail.as_deref(), start + count * g.grain - end)?;
        // `reserve` has made sure that sector numbers fit.
        self.set(first, count, |i| ((place + i * g.grain) / SECTOR) as u32)
    }

    /// The guest's bytes of a range that is not stored here; `None` when they are zeros.
    fn seen(&self, at: u64, len: u64, zero: bool, below: &Under<'_>) -> Result<Option<Vec<u8>>> {
        let len_on_disk = len.min(self.grains.geometry.capacity.saturating_sub(at));
        if len_on_disk == 0 || zero || !below.parent {
            return Ok(None);
        }
        let Some(disk) = below.disk else {
            return Err(Error::usage("a grain is written in part and its other bytes are in the parent, which was not opened"));
        };
        let mut bytes = vec![0u8; len as usize];
        if let Some(part) = bytes.get_mut(..len_on_disk as usize) {
            disk.read(below.start + at, part)?;
        }
        Ok(Some(bytes))
    }

    /// Takes `len` bytes at the end of the file, which is made that long at once: two writers must not both move its end.
    fn reserve(&self, len: u64) -> Result<u64> {
        let mut state = self.lock();
        let place = state.next;
        let end = place.checked_add(len).filter(|&e| e <= REACH).ok_or_else(|| {
            Error::new(ErrorKind::NoSpace, "a sparse extent file cannot grow beyond 2 TiB")
                .hint("convert to a sub-format that splits the disk, or to another format")
        })?;
        if self.dev.len() < end {
            self.dev.set_len(end)?;
        }
        state.next = end;
        Ok(place)
    }

    /// Sets the entries of `count` grains from `first` on in every copy of the tables; `raw` gets the index within the run.
    fn set(&self, first: u64, count: u64, raw: impl Fn(u64) -> u32) -> Result<()> {
        let g = &self.grains.geometry;
        let mut done = 0;
        while done < count {
            let (table, index) = ((first + done) / g.per_table, (first + done) % g.per_table);
            let n = (g.per_table - index).min(count - done);
            let entries: Vec<u32> = (done..done + n).map(&raw).collect();
            for directory in self.grains.directories() {
                let place = match self.grains.table_of(directory, table)? {
                    Some(place) => place,
                    None => self.new_table(directory, table)?,
                };
                self.grains.set_entries(place + index * 4, &entries)?;
            }
            done += n;
        }
        Ok(())
    }

    /// Makes a table where a directory has none (other writers leave them out). Its zeros are durable before the directory names
    /// it.
    fn new_table(&self, directory: u64, index: u64) -> Result<u64> {
        let bytes = (self.grains.geometry.per_table * 4).next_multiple_of(SECTOR);
        let place = self.reserve(bytes)?;
        self.dev.write_zeroes(place, bytes)?;
        self.dev.flush()?;
        self.grains.set_entries(place, &vec![0; (bytes / 4) as usize])?;
        self.grains.set_entries(directory + index * 4, &[(place / SECTOR) as u32])?;
        Ok(place)
    }

    /// Waits until nobody writes any grain of the range, and keeps others off it.
    fn claim(&self, offset: u64, len: u64) -> Claim<'_> {
        let grain = self.grains.geometry.grain;
        let want = (offset / grain, (offset + len.max(1) - 1) / grain);
        let mut state = self.lock();
        while state.claims.iter().any(|c| c.0 <= want.1 && want.0 <= c.1) {
            state = self.released.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.claims.push(want);
        Claim(self, want)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
