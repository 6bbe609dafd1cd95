//! Writing guest bytes: in place where the cluster is ours alone, into new clusters otherwise, filled up from below.
//!
//! Whole clusters are written without holding the tables, so that threads write side by side; a part of a cluster that is not
//! ours yet is composed and written while holding them, so that two writers of one cluster do not lose each other's bytes.

use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::io::read_padded;
use crate::engine::units::{SECTOR, round_up};

use super::compression;
use super::tables::{COMPRESSED, COPIED, OFFSET, Packed, ZERO};
use super::writer::{Shared, State};

/// Subcluster bits: all data.
const ALL_DATA: u64 = 0xffff_ffff;

/// What to do for the next stretch of a write.
enum Step {
    /// These bytes have their place.
    InPlace { host: u64, len: usize },
    /// Whole clusters go to a run that nothing points to.
    Whole { host: u64, clusters: u64 },
    /// A part of a cluster was written.
    Done { len: usize },
}

impl Shared {
    /// Refuses a range that is not within the disk.
    pub fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size() => Ok(()),
            _ => Err(Error::usage(format!("{len} bytes at {offset} do not lie within the disk of {} bytes", self.size()))),
        }
    }

    /// Writes guest bytes.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.check_range(offset, data.len() as u64)?;
        let bits = self.geometry.cluster_bits;
        let mut done = 0usize;
        while let Some(rest) = data.get(done..).filter(|r| !r.is_empty()) {
            let at = offset + done as u64;
            let step = self.step(at, rest)?;
            done += match step {
                Step::InPlace { host, len } => {
                    self.data().write_at(host, rest.get(..len).unwrap_or_default())?;
                    len
                }
                Step::Whole { host, clusters } => {
                    let len = (clusters << bits) as usize;
                    let written = self.data().write_at(host, rest.get(..len).unwrap_or_default());
                    let mut s = self.lock();
                    if let Err(e) = written {
                        self.give_back(&mut s, at, host, clusters);
                        return Err(e);
                    }
                    for i in 0..clusters {
                        self.link(&mut s, at + (i << bits), host + (i << bits), ALL_DATA)?;
                    }
                    self.relieve(&mut s)?;
                    len
                }
                Step::Done { len } => len,
            };
        }
        Ok(())
    }

    /// The entry and bitmap of the cluster that holds guest byte `at`.
    pub fn entry(&self, s: &mut State, at: u64) -> Result<(u64, u64)> {
        let span = self.geometry.l2_span();
        match self.table(s, at / span)? {
            Some(table) => self.geometry.entry(&table, at % span),
            None => Ok((0, 0)),
        }
    }

    /// Where the cluster with this entry may be written in place: it has a place, and nobody else uses it.
    fn owned(&self, entry: u64) -> Option<u64> {
        let host = entry & OFFSET;
        let ours = entry & COMPRESSED == 0 && entry & COPIED != 0 && (host != 0 || self.data.is_some());
        ours.then_some(host)
    }

    /// The same when bytes `from..to` of the cluster are stored as data already, so that no table has to change.
    fn stored(&self, (entry, bitmap): (u64, u64), from: u64, to: u64) -> Option<u64> {
        let host = self.owned(entry)?;
        if self.geometry.extended {
            let wanted = self.sub_mask(from, to);
            (bitmap & wanted == wanted).then_some(host)
        } else {
            (entry & ZERO == 0).then_some(host)
        }
    }

    /// The data bits of the subclusters that bytes `from..to` of a cluster touch.
    pub fn sub_mask(&self, from: u64, to: u64) -> u64 {
        let sub = self.geometry.subcluster();
        let (first, last) = (from / sub, to.div_ceil(sub));
        ((1u64 << last) - 1) & !((1u64 << first) - 1)
    }

    /// Decides how `data` at guest byte `at` begins to be written; small parts are written right here.
    fn step(&self, at: u64, data: &[u8]) -> Result<Step> {
        let mut s = self.change_guest(at, data.len() as u64)?;
        let g = &self.geometry;
        let (size, bits) = (g.cluster(), g.cluster_bits);
        let within = at & (size - 1);
        let len = data.len() as u64;
        let first = len.min(size - within);
        let entry = self.entry(&mut s, at)?;
        if let Some(host) = self.stored(entry, within, within + first) {
            let mut total = first;
            while total < len {
                let next = (len - total).min(size);
                let entry = self.entry(&mut s, at + total)?;
                if self.stored(entry, 0, next) != Some(host + within + total) {
                    break;
                }
                total += next;
            }
            if self.data.is_none() {
                s.alloc.guard(host + within, total)?;
            }
            return Ok(Step::InPlace { host: host + within, len: total as usize });
        }
        if within != 0 || len < size {
            let part = data.get(..first as usize).unwrap_or_default();
            self.write_part(&mut s, at, part)?;
            self.relieve(&mut s)?;
            return Ok(Step::Done { len: first as usize });
        }
        // Whole clusters up to the end of the L2 table that have no place yet go to one run.
        let limit = (len >> bits).min((g.l2_span() - at % g.l2_span()) >> bits);
        if self.data.is_some() {
            return Ok(Step::Whole { host: at, clusters: limit });
        }
        if let Some(host) = self.owned(entry.0) {
            s.alloc.guard(host, size)?;
            return Ok(Step::Whole { host, clusters: 1 });
        }
        let mut wanted = 1;
        while wanted < limit && self.owned(self.entry(&mut s, at + (wanted << bits))?.0).is_none() {
            wanted += 1;
        }
        // The table goes before its data, so that data stays in one run and the file can be cut after it.
        self.table_mut(&mut s, at / g.l2_span())?;
        let (host, clusters) = s.alloc.data_run(wanted)?;
        Ok(Step::Whole { host, clusters })
    }

    /// Frees clusters that were to hold data and could not be written. Those that had been the guest's before stay.
    fn give_back(&self, s: &mut State, at: u64, host: u64, clusters: u64) {
        let bits = self.geometry.cluster_bits;
        let before = self.entry(s, at).ok().and_then(|(e, _)| self.owned(e));
        if self.data.is_none() && before != Some(host) {
            s.alloc.free(host, clusters << bits);
        }
    }

    /// Frees what an entry pointed to.
    pub fn free_entry(&self, s: &mut State, entry: u64) {
        let g = &self.geometry;
        if entry & COMPRESSED != 0 {
            let Packed { offset, len } = g.packed(entry);
            s.alloc.free(offset, len);
        } else if entry & OFFSET != 0 && self.data.is_none() {
            s.alloc.free(entry & OFFSET, g.cluster());
        }
    }

    /// Points the cluster at guest byte `at` to `host`, its subclusters as `bitmap` says, and frees what it had.
    pub fn link(&self, s: &mut State, at: u64, host: u64, bitmap: u64) -> Result<()> {
        self.set_entry(s, at, host | COPIED, bitmap)
    }

    /// Sets the entry of the cluster at guest byte `at`, and frees what the old one pointed to and the new one does not.
    pub fn set_entry(&self, s: &mut State, at: u64, entry: u64, bitmap: u64) -> Result<()> {
        let g = self.geometry;
        let (old, _) = self.entry(s, at)?;
        let i = ((at % g.l2_span()) >> g.cluster_bits) as usize * g.entry_size();
        let table = self.table_mut(s, at / g.l2_span())?;
        table.put(i, &entry.to_be_bytes());
        if g.extended {
            table.put(i + 8, &bitmap.to_be_bytes());
        }
        if old & (COMPRESSED | OFFSET) != entry & (COMPRESSED | OFFSET) {
            self.free_entry(s, old);
        }
        Ok(())
    }

    /// Writes a part of one cluster, or all of it: fills up the subclusters it touches with what a guest sees there now.
    pub fn write_part(&self, s: &mut State, at: u64, data: &[u8]) -> Result<()> {
        let g = self.geometry;
        let size = g.cluster();
        let start = at & !(size - 1);
        let (old, bitmap) = self.entry(s, at)?;
        let packed = old & COMPRESSED != 0;
        let sub = if packed { size } else { g.subcluster() };
        let (mut from, mut to) = (at - start, at - start + data.len() as u64);
        (from, to) = (from / sub * sub, to.next_multiple_of(sub));
        let owned = if self.data.is_some() { Some(start) } else { self.owned(old) };
        let shared = (owned.is_none() && !packed).then_some(old & OFFSET).filter(|o| *o != 0);
        let mut buf = vec![0; (to - from) as usize];
        self.guest_read(s, start + from, &mut buf)?;
        let within = (at - start - from) as usize;
        match buf.get_mut(within..within + data.len()) {
            Some(part) => part.copy_from_slice(data),
            None => return Err(Error::new(ErrorKind::Internal, "a part larger than its cluster")),
        }
        let kept = if packed { 0 } else { bitmap };
        let host = match owned {
            Some(host) => host,
            None => s.alloc.data_run(1)?.0,
        };
        if self.data.is_none() && owned.is_some() {
            s.alloc.guard(host, size)?;
        }
        // A cluster shared with a snapshot is copied whole: its other subclusters come along as they are.
        if let Some(shared) = shared.filter(|_| to - from < size) {
            let mut all = vec![0; size as usize];
            read_padded(self.dev.as_ref(), shared, &mut all)?;
            if let Some(part) = all.get_mut(from as usize..to as usize) {
                part.copy_from_slice(&buf);
            }
            (buf, from) = (all, 0);
        }
        if self.data.is_some() {
            // A data file ends where the disk ends.
            buf.truncate(self.size().saturating_sub(start + from).min(buf.len() as u64) as usize);
        }
        let written = self.data().write_at(host + from, &buf);
        if let Err(e) = written {
            self.give_back(s, at, host, 1);
            return Err(e);
        }
        let touched = self.sub_mask(at - start, at - start + data.len() as u64);
        let touched = if packed { ALL_DATA } else { touched };
        self.link(s, start, host, (kept | touched) & !(touched << 32))
    }

    /// Compresses a cluster (the last one of the disk filled up with zeros) and stores it, or stores it plainly where that does
    /// not save anything.
    pub fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<()> {
        let size = self.geometry.cluster();
        let len = data.len() as u64;
        // The last one may be short, and a source may end within its last sector.
        let whole = len == size || (len < size && round_up(offset.saturating_add(len), SECTOR) == Some(self.size()));
        if self.data.is_some() {
            return Err(Error::unsupported("an image with an external data file does not store compressed data"));
        }
        if offset & (size - 1) != 0 || !whole {
            return Err(Error::usage(format!("compressed data comes in whole clusters of {size} bytes")));
        }
        self.check_range(offset, data.len() as u64)?;
        let mut filled;
        let mut cluster = data;
        if (data.len() as u64) < size {
            filled = data.to_vec();
            filled.resize(size as usize, 0);
            cluster = &filled;
        }
        match compression::compress(self.compression, cluster)? {
            Some(packed) if self.store_compressed(offset, &packed)? => Ok(()),
            _ => self.write(offset, data),
        }
    }

    /// Stores an encoded cluster behind the last one; false when there is no descriptor for its place.
    pub fn store_compressed(&self, offset: u64, packed: &[u8]) -> Result<bool> {
        let len = packed.len() as u64;
        let mut s = self.change_guest(offset, self.geometry.cluster())?;
        let at = self.pack_room(&mut s, len)?;
        let Some(entry) = self.geometry.pack(Packed { offset: at, len }) else {
            s.alloc.free(at, len);
            return Ok(false);
        };
        s.pack = Some(at + len);
        drop(s);
        let written = self.dev.write_at(at, packed);
        let mut s = self.lock();
        if let Err(e) = written {
            s.alloc.free(at, len);
            return Err(e);
        }
        self.set_entry(&mut s, offset, entry, 0)?;
        self.relieve(&mut s)?;
        Ok(true)
    }

    /// Room for `len` bytes of compressed data, every host cluster touched counted once more: behind the last data where its
    /// cluster has room or goes on, in a new cluster otherwise.
    fn pack_room(&self, s: &mut State, len: u64) -> Result<u64> {
        let size = self.geometry.cluster();
        if let Some(at) = s.pack.take().filter(|p| p & (size - 1) != 0) {
            let room = size - (at & (size - 1));
            if len <= room {
                if s.alloc.share(at)? {
                    return Ok(at);
                }
            } else {
                let (next, _) = s.alloc.data_run(1)?;
                if next == at + room && s.alloc.share(at)? {
                    return Ok(at);
                }
                return Ok(next);
            }
        }
        Ok(s.alloc.data_run(1)?.0)
    }
}
