//! Copying the content: which ranges need work, reading them, finding the zeros, writing what is left.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::baseline::Baseline;
use super::source::{SALVAGE, Sources};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::format::write::DiskWriter;
use crate::engine::io::bytes::is_zero;
use crate::engine::io::direct::Buffer;
use crate::engine::job::JobContext;
use crate::engine::job::progress::Spent;
use crate::engine::limits::COPY_CHUNK;
use crate::engine::model::Kind;
use crate::engine::ops::pipeline::{Chunk, Turn, Work};
use crate::engine::units::SECTOR;

/// Bytes of a chunk: long enough for the disk, short enough that a pause comes soon.
pub(super) const CHUNK: u64 = COPY_CHUNK as u64;
/// Ranges of tables looked at per step, so that no step takes long.
const STEPS: usize = 4096;
/// Zeros are looked for in pieces of at most this: a format's unit may be 32 MiB, and a hole of a few clusters is worth having.
const MAX_GRAIN: u64 = 64 << 10;

/// The digest of a range of the content, taken while it was copied.
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) digest: [u8; 32],
}

/// How the target takes its content.
pub(super) struct Manner {
    /// It reads as zeros (or, with a baseline, as the baseline) where nothing is written.
    pub(super) blank: bool,
    /// Store units compressed.
    pub(super) compress: bool,
    /// Zeros in a row worth leaving out; 0 writes everything.
    pub(super) sparse: u64,
    /// Leave zeros where a source cannot be read.
    pub(super) salvage: bool,
    /// Take digests.
    pub(super) digests: bool,
}

/// The copy of one conversion.
pub(super) struct Copy<'a> {
    pub(super) sources: &'a Sources,
    pub(super) baseline: Option<&'a Baseline>,
    pub(super) writer: Arc<dyn DiskWriter>,
    pub(super) job: &'a JobContext,
    pub(super) manner: Manner,
    /// The target, for what is said when its disk is full.
    pub(super) target: PathBuf,
    /// Leaves a mark in the journal.
    pub(super) mark: &'a (dyn Fn(u64) + Sync),
    pub(super) pieces: Mutex<Vec<Piece>>,
    /// Bytes that could not be read.
    pub(super) lost: AtomicU64,
}

/// A worker's memory.
pub(super) struct Memory {
    data: Buffer,
    base: Option<Buffer>,
}

/// What to do with a piece of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing: the target reads right already.
    Skip,
    /// Make it zeros.
    Zero,
    Write,
}

impl Copy<'_> {
    fn size(&self) -> u64 {
        self.sources.size()
    }

    /// The unit that chunks are aligned to.
    fn unit(&self) -> u64 {
        // A power of two in every format but a stray VDI; alignment only saves work, so a chunk is the most that is needed.
        self.writer.unit().clamp(4096, CHUNK)
    }

    /// True for a range that ends where the target does; a source may end within the last sector.
    fn last(&self, end: u64) -> bool {
        end.next_multiple_of(SECTOR) == self.writer.size().next_multiple_of(SECTOR)
    }

    /// Bytes that are judged together: all zeros or not, equal to the baseline or not.
    fn grain(&self) -> usize {
        if self.manner.compress {
            return self.unit() as usize;
        }
        self.unit().min(MAX_GRAIN).max(self.manner.sparse.min(CHUNK).next_multiple_of(4096)) as usize
    }

    /// How many bytes at `at` the target has right without any work: holes over nothing.
    fn idle(&self, at: u64) -> Result<u64> {
        let e = self.sources.extent(at, u64::MAX)?;
        let hole = matches!(e.kind, Kind::Zero | Kind::Unallocated);
        match self.baseline {
            None if hole => Ok(e.len),
            None => Ok(0),
            Some(base) if base.shares(&e) => Ok(e.len),
            Some(base) if hole => Ok(base.hole(at)?.min(e.len)),
            Some(_) => Ok(0),
        }
    }

    fn read(&self, chunk: Chunk, data: &mut [u8]) -> Result<()> {
        let mut at = chunk.offset;
        let mut rest = data;
        while !rest.is_empty() {
            let e = self.sources.extent(at, rest.len() as u64)?;
            let n = (e.len.min(rest.len() as u64)) as usize;
            let (part, tail) = rest.split_at_mut(n);
            if matches!(e.kind, Kind::Zero | Kind::Unallocated) {
                part.fill(0);
                self.job.progress.add_skipped(n as u64);
            } else {
                let spent = if e.kind == Kind::Compressed { Spent::Cpu } else { Spent::Source };
                match self.job.progress.time(spent, || self.sources.read(&e, part)) {
                    Ok(()) => {}
                    Err(e) if self.manner.salvage => {
                        self.job.log(format!("unreadable, zeros are left there: {e}"));
                        self.salvage(at, part);
                    }
                    // A file that shrank says so better than the read that met its end.
                    Err(e) => return Err(self.sources.unchanged().err().unwrap_or(e)),
                }
                self.job.progress.add_read(n as u64);
                self.job.progress.add_done(n as u64);
            }
            at += n as u64;
            rest = tail;
        }
        Ok(())
    }

    /// Reads what can be read, zeros where nothing can.
    fn salvage(&self, at: u64, data: &mut [u8]) {
        for (i, part) in data.chunks_mut(SALVAGE as usize).enumerate() {
            let offset = at + i as u64 * SALVAGE;
            let read = self.sources.extent(offset, part.len() as u64).and_then(|e| self.sources.read(&e, part));
            if read.is_err() {
                part.fill(0);
                self.lost.fetch_add(part.len() as u64, Relaxed);
            }
        }
    }

    fn fate(&self, data: &[u8], base: Option<&[u8]>) -> Fate {
        if base.is_some_and(|b| b == data) {
            return Fate::Skip;
        }
        if self.manner.sparse == 0 || !is_zero(data) {
            return Fate::Write;
        }
        if self.manner.blank && base.is_none() { Fate::Skip } else { Fate::Zero }
    }

    /// Cuts the chunk into runs of one fate, each aligned to the grain.
    fn runs(&self, data: &[u8], base: Option<&[u8]>) -> Vec<(Range<usize>, Fate)> {
        let grain = self.grain();
        let mut runs: Vec<(Range<usize>, Fate)> = Vec::new();
        let mut at = 0;
        for piece in data.chunks(grain) {
            let end = at + piece.len();
            let fate = self.fate(piece, base.and_then(|b| b.get(at..end)));
            match runs.last_mut() {
                Some((range, last)) if *last == fate => range.end = end,
                _ => runs.push((at..end, fate)),
            }
            at = end;
        }
        runs
    }

    /// Tries `write` until it succeeds, waiting for space when the disk is full.
    pub(super) fn persist(&self, write: impl Fn() -> Result<()>) -> Result<()> {
        loop {
            match self.job.progress.time(Spent::Target, &write) {
                Ok(()) => return Ok(()),
                Err(e) => self.job.recover(e, &self.target)?,
            }
        }
    }

    /// The compressed units of each run that is written and consists of whole units; nothing for the others.
    fn pack(&self, start: u64, data: &[u8], runs: &[(Range<usize>, Fate)]) -> Result<Vec<Vec<Vec<u8>>>> {
        let unit = self.unit();
        let whole = |range: &Range<usize>| {
            let end = start + range.end as u64;
            (start + range.start as u64).is_multiple_of(unit) && (end.is_multiple_of(unit) || self.last(end))
        };
        self.job.progress.time(Spent::Cpu, || {
            runs.iter()
                .map(|(range, fate)| match fate {
                    Fate::Write if whole(range) => {
                        let run = data.get(range.clone()).unwrap_or_default();
                        run.chunks(unit as usize).map(|part| self.writer.pack(part)).collect()
                    }
                    _ => Ok(Vec::new()),
                })
                .collect()
        })
    }

    fn put_packed(&self, offset: u64, len: u64, units: &[Vec<u8>]) -> Result<()> {
        for (i, packed) in units.iter().enumerate() {
            self.job.stop_if_asked()?;
            self.persist(|| self.writer.write_packed(offset + i as u64 * self.unit(), packed))?;
        }
        self.job.progress.add_written(len);
        Ok(())
    }

    fn put(&self, offset: u64, data: &[u8], fate: Fate) -> Result<()> {
        match fate {
            Fate::Skip => Ok(()),
            Fate::Zero => self.persist(|| self.writer.write_zeroes(offset, data.len() as u64)),
            Fate::Write if self.manner.compress => {
                let unit = self.unit() as usize;
                for (i, part) in data.chunks(unit).enumerate() {
                    self.job.stop_if_asked()?;
                    let at = offset + (i * unit) as u64;
                    // The source may end within a unit of a larger target.
                    let whole = part.len() == unit || self.last(at + part.len() as u64);
                    self.persist(|| if whole { self.writer.write_compressed(at, part) } else { self.writer.write(at, part) })?;
                }
                self.job.progress.add_written(data.len() as u64);
                Ok(())
            }
            Fate::Write => {
                self.persist(|| self.writer.write(offset, data))?;
                self.job.progress.add_written(data.len() as u64);
                Ok(())
            }
        }
    }
}

impl Work for Copy<'_> {
    type Memory = Memory;

    fn memory(&self) -> Memory {
        Memory { data: Buffer::new(COPY_CHUNK), base: self.baseline.map(|_| Buffer::new(COPY_CHUNK)) }
    }

    fn next(&self, at: u64) -> Result<Option<Chunk>> {
        let (size, unit) = (self.size(), self.unit());
        let mut end = at;
        // Everything is written: nothing is idle.
        if self.manner.sparse > 0 {
            for _ in 0..STEPS {
                if end >= size {
                    break;
                }
                let idle = self.idle(end)?;
                end += idle;
                if idle == 0 {
                    break;
                }
            }
        }
        let end = if end >= size { size } else { end / unit * unit };
        if end > at {
            if !self.manner.blank {
                return Ok(Some(Chunk { offset: at, len: end - at, zero: true }));
            }
            self.job.progress.add_skipped(end - at);
        }
        let at = at.max(end);
        if at >= size {
            return Ok(None);
        }
        let stop = (at / CHUNK + 1).saturating_mul(CHUNK).min(size);
        Ok(Some(Chunk { offset: at, len: stop - at, zero: false }))
    }

    fn copy(&self, chunk: Chunk, memory: &mut Memory, turn: &Turn<'_>) -> Result<()> {
        if chunk.zero {
            if self.writer.sequential() {
                turn.wait()?;
            }
            self.job.progress.add_skipped(chunk.len);
            return self.persist(|| self.writer.write_zeroes(chunk.offset, chunk.len));
        }
        self.job.throttle(chunk.len)?;
        let len = chunk.len as usize;
        let Some(data) = memory.data.get_mut(..len) else { return Err(Error::new(ErrorKind::Internal, "a chunk too long")) };
        self.read(chunk, data)?;
        let base = match (self.baseline, memory.base.as_mut().and_then(|b| b.get_mut(..len))) {
            (Some(baseline), Some(buf)) => {
                self.job.progress.time(Spent::Source, || baseline.read(chunk.offset, buf))?;
                Some(&*buf)
            }
            _ => None,
        };
        let data = &*data;
        let runs = self.job.progress.time(Spent::Cpu, || self.runs(data, base));
        if self.manner.digests {
            let digest = self.job.progress.time(Spent::Cpu, || Sha256::digest(data).into());
            let piece = Piece { offset: chunk.offset, len: chunk.len, digest };
            self.pieces.lock().unwrap_or_else(PoisonError::into_inner).push(piece);
        }
        // A stream is handed over in order; the work of compressing it is done before the turn comes, by all threads at once.
        let mut packed = Vec::new();
        if self.writer.sequential() {
            packed = self.pack(chunk.offset, data, &runs)?;
            turn.wait()?;
        }
        for (i, (range, fate)) in runs.into_iter().enumerate() {
            let offset = chunk.offset + range.start as u64;
            match packed.get_mut(i).map(std::mem::take).filter(|units| !units.is_empty()) {
                Some(units) => self.put_packed(offset, range.len() as u64, &units)?,
                None => self.put(offset, data.get(range).unwrap_or_default(), fate)?,
            }
        }
        Ok(())
    }

    fn settle(&self, done: u64) -> Result<()> {
        self.sources.unchanged()?;
        self.persist(|| self.writer.flush())?;
        (self.mark)(done);
        Ok(())
    }
}
