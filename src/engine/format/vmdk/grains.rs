//! Grain directories and grain tables: the two-level map that every sparse VMDK extent has, whatever its header looks like.
//!
//! Tables are read through a bounded cache, never as a whole. Where the primary directory or table leads nowhere, the redundant
//! copy answers.

use std::sync::{Arc, Mutex, PoisonError};

use super::pages::Pages;
use super::stream;
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::io::bytes::{le32, le64};
use crate::engine::io::{Device, past_end, with_path};
use crate::engine::model::{Kind, Mapping, Place};
use crate::engine::units::SECTOR;

/// Tables looked at in one call of [`Grains::map`] at most, so that a caller gets to act in between.
const MAX_TABLES: usize = 65536;

/// How entries say where things are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entries {
    /// 32-bit sector numbers (hosted sparse and COWD); 1 is a zero grain where the header says so.
    Sectors {
        /// The zeroed-grain flag.
        zero_grain: bool,
    },
    /// 64-bit entries of a seSparse extent: a type in the top four bits, and an index.
    SeSparse {
        /// Byte where the grain tables begin.
        tables: u64,
        /// Byte where the grains begin.
        grains: u64,
    },
}

/// How grains are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// As they are.
    Plain,
    /// zlib streams, each with its marker or not.
    Deflate {
        /// A 12-byte marker stands before each grain.
        markers: bool,
    },
}

/// What a header tells about its tables; all in bytes.
#[derive(Debug, Clone)]
pub(super) struct Geometry {
    /// Guest bytes the extent holds.
    pub(super) capacity: u64,
    /// Bytes of a grain.
    pub(super) grain: u64,
    /// Entries of a grain table.
    pub(super) per_table: u64,
    /// Where the grain directory is.
    pub(super) directory: u64,
    /// Where its redundant copy is.
    pub(super) redundant: Option<u64>,
    /// The sort of entries.
    pub(super) entries: Entries,
    /// The way grains are stored.
    pub(super) packing: Packing,
    /// The writer knows how to change it.
    pub(super) writable: bool,
    /// The directory is out of the file's reach, and the redundant one was taken in its place.
    pub(super) stood_in: bool,
}

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Nothing here: the parent answers.
    None,
    /// Zeros.
    Zero,
    /// Stored from this byte of the file on.
    At(u64),
}

/// One sparse extent, open for reading.
pub(super) struct Grains {
    /// Its tables.
    pub(super) geometry: Geometry,
    /// The file it is in.
    pub(super) dev: Device,
    file: usize,
    pages: Arc<Pages>,
    /// The grain inflated last: small reads come in runs.
    last: Mutex<Option<(u64, Arc<Vec<u8>>)>>,
}

impl Geometry {
    /// Bytes of one entry, in directories and tables alike.
    pub(super) fn width(&self) -> u64 {
        match self.entries {
            Entries::Sectors { .. } => 4,
            Entries::SeSparse { .. } => 8,
        }
    }
    /// Guest bytes one table stands for.
    pub(super) fn table_span(&self) -> u64 {
        self.grain.saturating_mul(self.per_table)
    }
    /// Number of grain tables.
    pub(super) fn tables(&self) -> u64 {
        self.capacity.div_ceil(self.table_span())
    }

    /// Checks the numbers of a header, and that a directory lies within a file of `len` bytes; falls back to the redundant one
    /// where only that does. The string is a warning.
    pub(super) fn check(&mut self, len: u64) -> Result<Option<String>> {
        let bad = |why: String| Err(Error::corrupt(why).op("read the sparse header"));
        if self.grain == 0 || self.grain > (1 << 30) {
            return bad(format!("a grain of {} sectors is impossible", self.grain / SECTOR));
        }
        if self.packing != Packing::Plain && self.grain > stream::MAX_GRAIN {
            return bad(format!("compressed grains of {} bytes are larger than any writer makes", self.grain));
        }
        if self.per_table == 0 || self.per_table > 1 << 20 {
            return bad(format!("a grain table of {} entries is impossible", self.per_table));
        }
        if self.capacity > i64::MAX as u64 {
            return bad(format!("a capacity of {} sectors is impossible", self.capacity / SECTOR));
        }
        let bytes = self.tables().saturating_mul(self.width());
        let fits = |at: u64| at >= SECTOR && at.checked_add(bytes).is_some_and(|end| end <= len);
        if fits(self.directory) || self.capacity == 0 {
            return Ok(None);
        }
        match self.redundant.filter(|&r| fits(r)) {
            Some(r) => {
                self.directory = r;
                self.stood_in = true;
                // A writer must not go on as if nothing were wrong.
                self.writable = false;
                Ok(Some("the grain directory lies outside the file; the redundant one is used".to_string()))
            }
            None => Err(Error::new(
                ErrorKind::Truncated,
                format!("the grain directory of {bytes} bytes is not within the file, which has {len}"),
            )
            .op("read the sparse header")
            .at(self.directory)
            .hint("the file was cut short or is still being copied")),
        }
    }

    /// What the raw entry of a grain table says. `None` for one that makes no sense.
    pub(super) fn unit(&self, raw: u64) -> Option<Unit> {
        match self.entries {
            Entries::Sectors { zero_grain } => Some(match raw {
                0 => Unit::None,
                1 if zero_grain => Unit::Zero,
                n => Unit::At(n * SECTOR),
            }),
            Entries::SeSparse { grains, .. } => match raw >> 60 {
                0 => (raw == 0).then_some(Unit::None),
                1 | 2 => Some(Unit::Zero),
                3 => {
                    // The index is kept rotated: its low 12 bits stand above the other 48.
                    let index = ((raw & 0x0fff_0000_0000_0000) >> 48) | ((raw & 0x0000_ffff_ffff_ffff) << 12);
                    index.checked_mul(self.grain)?.checked_add(grains).map(Unit::At)
                }
                _ => None,
            },
        }
    }

    /// Where the table that the raw directory entry names is. `Some(None)`: there is none. `None`: the entry makes no sense.
    pub(super) fn table_place(&self, raw: u64) -> Option<Option<u64>> {
        match self.entries {
            _ if raw == 0 => Some(None),
            Entries::Sectors { .. } => Some(Some(raw * SECTOR)),
            Entries::SeSparse { tables, .. } => {
                if raw >> 32 != 0x1000_0000 {
                    return None;
                }
                (raw & 0xffff_ffff).checked_mul(self.per_table * 8)?.checked_add(tables).map(Some)
            }
        }
    }
}

impl Grains {
    /// An extent in storage file `file` of its image, which is `dev`. `geometry` has been checked.
    pub(super) fn new(geometry: Geometry, file: usize, dev: Device, pages: Arc<Pages>) -> Self {
        Grains { geometry, dev, file, pages, last: Mutex::new(None) }
    }

    /// What lies at byte `offset` of the extent (below its capacity), at most `max` bytes.
    pub(super) fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let g = &self.geometry;
        let len = self.dev.len();
        let end = offset.saturating_add(max).min(g.capacity);
        let (unit, mut done) = self.piece(offset, end, len)?;
        let within = offset % g.grain;
        match (unit, g.packing) {
            (Unit::At(at), Packing::Deflate { .. }) => {
                Ok(Mapping { kind: Kind::Compressed, len: done, place: Some(Place { file: self.file, offset: at }) })
            }
            (Unit::At(at), Packing::Plain) => {
                self.extend(offset, end, len, &mut done, |done| Unit::At(at + within + done));
                Ok(Mapping::data(self.file, at + within, done))
            }
            (unit, _) => {
                self.extend(offset, end, len, &mut done, |_| unit);
                Ok(if unit == Unit::Zero { Mapping::zero(done) } else { Mapping::unallocated(done) })
            }
        }
    }

    /// Lengthens a run while the next table goes on as `next` says (an error there is for the next call to tell).
    fn extend(&self, offset: u64, end: u64, len: u64, done: &mut u64, next: impl Fn(u64) -> Unit) {
        for _ in 0..MAX_TABLES {
            if offset + *done >= end {
                return;
            }
            match self.piece(offset + *done, end, len) {
                Ok((unit, n)) if unit == next(*done) => *done += n,
                _ => return,
            }
        }
    }

    /// The unit at `at` and the bytes from there on, within one table, for which it holds or goes on without a gap.
    fn piece(&self, at: u64, end: u64, len: u64) -> Result<(Unit, u64)> {
        let g = &self.geometry;
        let number = at / g.grain;
        let (table, index) = (number / g.per_table, number % g.per_table);
        let Some(place) = self.table(table, len)? else {
            let next = (table + 1).saturating_mul(g.table_span());
            return Ok((Unit::None, next.min(end) - at));
        };
        let grains = (end - number * g.grain).div_ceil(g.grain).min(g.per_table - index);
        let slice = self.pages.slice(self.file, self.dev.as_ref(), place + index * g.width(), grains * g.width())?;
        let mut units = slice.chunks_exact(g.width() as usize).map(|raw| raw_entry(raw).and_then(|r| g.unit(r)));
        let first = self.checked(number, units.next().flatten(), place + index * g.width(), len)?;
        let mut count = 1;
        if g.packing == Packing::Plain || !matches!(first, Unit::At(_)) {
            for unit in units {
                let goes_on = match first {
                    Unit::At(start) => {
                        let want = start + count * g.grain;
                        unit == Some(Unit::At(want)) && want + g.grain <= len
                    }
                    other => unit == Some(other),
                };
                if !goes_on {
                    break;
                }
                count += 1;
            }
        }
        Ok((first, ((number + count) * g.grain).min(end) - at))
    }

    /// `unit` of grain `number` if its bytes are within the file of `len` bytes, else what the redundant table says, else an
    /// error. `entry` is where the entry is kept.
    fn checked(&self, number: u64, unit: Option<Unit>, entry: u64, len: u64) -> Result<Unit> {
        let good = |unit: &Unit| match unit {
            Unit::At(at) => at.checked_add(self.stored(number)).is_some_and(|end| end <= len),
            _ => true,
        };
        if let Some(unit) = unit.filter(good) {
            return Ok(unit);
        }
        if let Some(spare) = self.spare_unit(number, len).filter(good) {
            return Ok(spare);
        }
        let error = match unit {
            Some(Unit::At(at)) => past_end(self.dev.as_ref(), at, self.stored(number)),
            _ => with_path(Error::corrupt("an entry of a grain table makes no sense").at(entry), self.dev.as_ref()),
        };
        Err(error.op(format!("read grain {number}")))
    }

    /// Bytes of the part of table `index` that the extent's grains need.
    pub(super) fn used(&self, index: u64) -> u64 {
        let g = &self.geometry;
        g.capacity.div_ceil(g.grain).saturating_sub(index.saturating_mul(g.per_table)).min(g.per_table) * g.width()
    }

    /// Bytes that must be in the file for grain `number`: all of it, the part on the disk for the last, a marker when compressed.
    pub(super) fn stored(&self, number: u64) -> u64 {
        match self.geometry.packing {
            Packing::Plain => self.geometry.grain.min(self.geometry.capacity.saturating_sub(number * self.geometry.grain)),
            Packing::Deflate { .. } => stream::MARKER,
        }
    }

    fn spare_unit(&self, number: u64, len: u64) -> Option<Unit> {
        let g = &self.geometry;
        let place = self.table_in(g.redundant?, number / g.per_table, len).ok()??;
        let raw = self.raw(place + number % g.per_table * g.width()).ok()?;
        g.unit(raw)
    }

    /// Where table `index` is, `None` when there is none.
    fn table(&self, index: u64, len: u64) -> Result<Option<u64>> {
        self.table_in(self.geometry.directory, index, len).or_else(|error| {
            let spare = self.geometry.redundant.filter(|&r| r != self.geometry.directory);
            spare.and_then(|r| self.table_in(r, index, len).ok()).ok_or(error)
        })
    }

    fn table_in(&self, directory: u64, index: u64, len: u64) -> Result<Option<u64>> {
        let g = &self.geometry;
        let entry = directory.saturating_add(index * g.width());
        let place = g.table_place(self.raw(entry)?);
        let used = self.used(index);
        match place {
            Some(None) => Ok(None),
            Some(Some(at)) if at.checked_add(used).is_some_and(|end| end <= len) => Ok(Some(at)),
            _ => Err(with_path(
                Error::corrupt(format!("entry {index} of the grain directory names a table that is not within the file"))
                    .op("read the grain directory")
                    .at(entry),
                self.dev.as_ref(),
            )),
        }
    }

    /// The entry at byte `offset` of the file.
    pub(super) fn raw(&self, offset: u64) -> Result<u64> {
        let width = self.geometry.width();
        let slice = self.pages.slice(self.file, self.dev.as_ref(), offset, width)?;
        raw_entry(&slice).ok_or_else(|| past_end(self.dev.as_ref(), offset, width))
    }

    /// Fills `out` with the bytes of the compressed grain kept at `place`, from byte `offset` of the extent on. `out` ends with
    /// the grain at the latest.
    pub(super) fn inflate(&self, offset: u64, place: u64, out: &mut [u8]) -> Result<()> {
        let g = &self.geometry;
        let start = offset - offset % g.grain;
        let need = g.grain.min(g.capacity.saturating_sub(start)) as usize;
        let markers = g.packing == Packing::Deflate { markers: true };
        if out.len() as u64 == g.grain {
            return stream::read_grain(self.dev.as_ref(), place, markers, need, out);
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if last.as_ref().is_none_or(|(at, _)| *at != place) {
            let mut whole = vec![0u8; g.grain as usize];
            stream::read_grain(self.dev.as_ref(), place, markers, need, &mut whole)?;
            last = Some((place, Arc::new(whole)));
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = last.clone();
        }
        let from = (offset - start) as usize;
        match last.as_ref().and_then(|(_, whole)| whole.get(from..from.checked_add(out.len())?)) {
            Some(part) => {
                out.copy_from_slice(part);
                Ok(())
            }
            None => Err(Error::new(ErrorKind::Internal, "a read past the end of a grain")),
        }
    }
}

/// For the writer: the tables of hosted sparse extents, changed through the shared cache.
impl Grains {
    /// Which of the image's files it is in.
    pub(super) fn file(&self) -> usize {
        self.file
    }
    /// The cache of its tables.
    pub(super) fn pages(&self) -> &Arc<Pages> {
        &self.pages
    }
    /// The directories there are: the primary one, and the redundant one.
    pub(super) fn directories(&self) -> impl Iterator<Item = u64> {
        let g = &self.geometry;
        std::iter::once(g.directory).chain(g.redundant.filter(|&r| r != g.directory))
    }
    /// Where table `index` of `directory` is; `None` when there is none yet. No fallback: a writer must not build on a guess.
    pub(super) fn table_of(&self, directory: u64, index: u64) -> Result<Option<u64>> {
        self.table_in(directory, index, self.dev.len())
    }
    /// Sets 32-bit entries from byte `offset` of the file on; `entries` are their values.
    pub(super) fn set_entries(&self, offset: u64, entries: &[u32]) -> Result<()> {
        // A run may cross a page of the cache; sectors never do.
        let mut at = offset;
        let mut rest = entries;
        while !rest.is_empty() {
            let room = (SECTOR - at % SECTOR) / 4;
            let (now, later) = rest.split_at(rest.len().min(room as usize));
            let bytes: Vec<u8> = now.iter().flat_map(|e| e.to_le_bytes()).collect();
            self.pages.change(self.file, self.dev.as_ref(), at, &bytes)?;
            at += bytes.len() as u64;
            rest = later;
        }
        Ok(())
    }
}

/// An entry of 4 or 8 bytes.
pub(super) fn raw_entry(bytes: &[u8]) -> Option<u64> {
    match bytes.len() {
        4 => le32(bytes, 0).map(u64::from),
        8 => le64(bytes, 0),
        _ => None,
    }
}
