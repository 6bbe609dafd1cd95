//! Tables of fixed-width entries (block maps, BATs), read a page at a time: an image opens without reading its whole table, and a
//! table of any size is walked in bounded memory. It must not know what an entry means.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::io::{Device, ReadAt, bytes, read_vec};
use crate::engine::model::Mapping;

/// Bytes of a page.
const PAGE: u64 = 64 << 10;
/// Pages kept per table.
const KEPT: usize = 16;

/// Bytes of the smallest piece of a table that is written back.
pub const PIECE: u64 = 4096;

type Page = Arc<Vec<u8>>;

/// A table in a file, with the pages used last and those that were changed.
pub struct Table {
    dev: Device,
    start: u64,
    len: u64,
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    /// Number and content of pages as they are in the file, the one used longest ago first.
    clean: Vec<(u64, Page)>,
    /// Changed pages, kept until they have been written.
    dirty: BTreeMap<u64, Page>,
    /// Numbers of the pieces that were changed.
    pieces: BTreeSet<u64>,
}

impl Table {
    /// The table of `len` bytes at byte `start`. Nothing is read yet; the caller has checked that it lies within the device.
    pub fn new(dev: Device, start: u64, len: u64) -> Self {
        Table { dev, start, len, pages: Mutex::default() }
    }

    /// Bytes of the table.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// Byte of the file where it begins.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Begins looking things up.
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor { table: self, number: u64::MAX, page: Page::default() }
    }

    /// Changes the bytes at `at` (within one entry). Readers see it from now on; the file has it after [`Table::write_back`].
    pub fn set(&self, at: u64, entry: &[u8]) -> Result<()> {
        let number = at / PAGE;
        let mut pages = self.lock();
        let mut page = self.page(&mut pages, number)?;
        pages.clean.retain(|(n, _)| *n != number);
        pages.dirty.remove(&number);
        let content: &mut Vec<u8> = Arc::make_mut(&mut page);
        if !bytes::put(content, (at % PAGE) as usize, entry) {
            return Err(outside());
        }
        pages.dirty.insert(number, page);
        pages.pieces.insert(at / PIECE);
        Ok(())
    }

    /// Changed pieces not written yet.
    pub fn changed(&self) -> usize {
        self.lock().pieces.len()
    }

    /// Every changed piece: its byte in the file, its bytes.
    pub fn pieces(&self) -> Vec<(u64, Vec<u8>)> {
        let pages = self.lock();
        let piece = |p: &u64| {
            let at = p * PIECE;
            let (page, from) = (pages.dirty.get(&(at / PAGE))?, (at % PAGE) as usize);
            Some((self.start + at, page.get(from..page.len().min(from + PIECE as usize))?.to_vec()))
        };
        pages.pieces.iter().filter_map(piece).collect()
    }

    /// Hands every changed piece (its byte in the file, its bytes) to `write`, and takes them as written when that succeeds for
    /// all.
    pub fn write_back(&self, write: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let mut pages = self.lock();
        for piece in &pages.pieces {
            let at = piece * PIECE;
            let page = pages.dirty.get(&(at / PAGE)).ok_or_else(outside)?;
            let from = (at % PAGE) as usize;
            let bytes = page.get(from..page.len().min(from + PIECE as usize)).ok_or_else(outside)?;
            write(self.start + at, bytes)?;
        }
        pages.pieces.clear();
        let written = std::mem::take(&mut pages.dirty);
        pages.clean.extend(written);
        let excess = pages.clean.len().saturating_sub(KEPT);
        pages.clean.drain(..excess);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A page. The lock is held while it is read, so that a change in between cannot be missed.
    fn page(&self, pages: &mut Pages, number: u64) -> Result<Page> {
        if let Some(page) = pages.dirty.get(&number) {
            return Ok(page.clone());
        }
        if let Some(i) = pages.clean.iter().position(|(n, _)| *n == number) {
            let hit = pages.clean.remove(i);
            let page = hit.1.clone();
            pages.clean.push(hit);
            return Ok(page);
        }
        let first = number.saturating_mul(PAGE);
        if first >= self.len {
            return Err(outside());
        }
        let page = Arc::new(read_vec(self.dev.as_ref(), self.start.saturating_add(first), PAGE.min(self.len - first), PAGE)?);
        if pages.clean.len() >= KEPT {
            pages.clean.remove(0);
        }
        pages.clean.push((number, page.clone()));
        Ok(page)
    }
}

fn outside() -> Error {
    Error::new(ErrorKind::Internal, "an entry past the end of its table")
}

/// Looks entries up, keeping hold of the page of the last one.
pub struct Cursor<'a> {
    table: &'a Table,
    number: u64,
    page: Page,
}

impl Cursor<'_> {
    /// The little-endian `u32` with this index.
    pub fn le32(&mut self, index: u64) -> Result<u32> {
        self.entry(index.saturating_mul(4)).map(u32::from_le_bytes)
    }
    /// The big-endian `u32` with this index.
    pub fn be32(&mut self, index: u64) -> Result<u32> {
        self.entry(index.saturating_mul(4)).map(u32::from_be_bytes)
    }
    /// The little-endian `u64` with this index.
    pub fn le64(&mut self, index: u64) -> Result<u64> {
        self.entry(index.saturating_mul(8)).map(u64::from_le_bytes)
    }

    fn entry<const N: usize>(&mut self, at: u64) -> Result<[u8; N]> {
        let number = at / PAGE;
        if number != self.number {
            self.page = self.table.page(&mut self.table.lock(), number)?;
            self.number = number;
        }
        bytes::array(&self.page, (at % PAGE) as usize).ok_or_else(outside)
    }
}

/// What a layer holds of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Its bytes, from this byte of the image file on.
    At(u64),
    /// Zeros, whatever lies below.
    Zero,
    /// Nothing: the layer below answers.
    Nothing,
}

/// What is held from guest byte `offset` on, at most `max` bytes, of equal blocks of `block` bytes; `held` looks one up.
/// Blocks of one sort (and contiguous in the file) become one range. A block that cannot be told ends the range before it; only
/// the first one's error counts.
pub fn run(offset: u64, max: u64, block: u64, mut held: impl FnMut(u64) -> Result<Held>) -> Result<Mapping> {
    let block = block.max(1);
    let max = max.max(1);
    let (mut index, within) = (offset / block, offset % block);
    let first = held(index)?;
    let mut len = block - within;
    let mut last = first;
    while len < max {
        index += 1;
        let Ok(next) = held(index) else { break };
        let goes_on = match (last, next) {
            (Held::At(a), Held::At(b)) => a.checked_add(block) == Some(b),
            (a, b) => a == b,
        };
        if !goes_on {
            break;
        }
        len = len.saturating_add(block);
        last = next;
    }
    let len = len.min(max);
    Ok(match first {
        Held::At(at) => Mapping::data(0, at.saturating_add(within), len),
        Held::Zero => Mapping::zero(len),
        Held::Nothing => Mapping::unallocated(len),
    })
}

/// How many bits from number `from` on, at most `max`, are alike in `bits`, and whether they are set. `bit` turns a bit's number
/// into its place within the byte (the two VHD formats disagree about it). Bits past the end are clear.
pub fn bits_alike(bits: &[u8], from: u64, max: u64, bit: fn(u64) -> u8) -> (bool, u64) {
    let get = |n: u64| bits.get((n / 8) as usize).is_some_and(|b| b & bit(n) != 0);
    let set = get(from);
    let whole = if set { 0xff } else { 0 };
    let mut n = from + 1;
    let end = from.saturating_add(max.max(1));
    while n < end {
        if n.is_multiple_of(8) && n + 8 <= end && bits.get((n / 8) as usize).copied().unwrap_or(0) == whole {
            n += 8;
        } else if get(n) == set {
            n += 1;
        } else {
            break;
        }
    }
    (set, n - from)
}

/// The same for a bitmap kept at byte `start` of `dev`, read in small pieces: the answer may end early, at the end of a piece.
pub fn bits_alike_at(dev: &dyn ReadAt, start: u64, from: u64, max: u64, bit: fn(u64) -> u8) -> Result<(bool, u64)> {
    const PIECE: u64 = 4096;
    let first = from / 8;
    let needed = (from % 8).saturating_add(max).div_ceil(8).clamp(1, PIECE);
    let bits = read_vec(dev, start.saturating_add(first), needed, PIECE)?;
    Ok(bits_alike(&bits, from % 8, max.min(needed * 8 - from % 8), bit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::io::memory::Memory;
    use crate::engine::model::Kind;

    #[test]
    fn entries_come_from_pages_and_writes_are_seen() {
        let all: Vec<u8> = (0..100_000u32).flat_map(|n| n.to_le_bytes()).collect();
        let dev = Arc::new(Memory::new([vec![0; 100], all].concat()));
        let table = Table::new(dev, 100, 400_000);
        let mut c = table.cursor();
        for n in [0, 1, 16_383, 16_384, 99_999, 5] {
            assert_eq!(c.le32(n).unwrap(), n as u32);
        }
        assert!(c.le32(100_000).is_err() && table.cursor().le32(u64::MAX).is_err());
        // A change is seen at once, and stays until it is written, however many pages are used in between.
        table.set(16_383 * 4, &1u32.to_le_bytes()).unwrap();
        table.set(16_384 * 4, &2u32.to_le_bytes()).unwrap();
        for n in 0..100_000 {
            c.le32(n).unwrap();
        }
        let mut c = table.cursor();
        assert_eq!((c.le32(16_383).unwrap(), c.le32(16_384).unwrap(), c.le32(16_385).unwrap()), (1, 2, 16_385));
        assert!(table.write_back(&mut |_, _| Err(Error::usage("full"))).is_err());
        let mut written = Vec::new();
        let mut keep = |at, b: &[u8]| {
            written.push((at, b.len()));
            Ok(())
        };
        table.write_back(&mut keep).unwrap();
        assert_eq!((written, table.changed()), (vec![(100 + 61_440, 4096), (100 + 65_536, 4096)], 0));
    }

    #[test]
    fn runs_end_where_the_sort_or_the_place_changes() {
        let blocks = [Held::Zero, Held::Zero, Held::At(100), Held::At(110), Held::At(130), Held::Nothing];
        let held = |i: u64| blocks.get(i as usize).copied().ok_or_else(|| Error::corrupt("x"));
        assert_eq!(run(5, 1000, 10, held).unwrap(), Mapping::zero(15));
        assert_eq!(run(5, 7, 10, held).unwrap(), Mapping::zero(7));
        assert_eq!(run(23, 1000, 10, held).unwrap(), Mapping::data(0, 103, 17));
        assert_eq!(run(40, 1000, 10, held).unwrap(), Mapping::data(0, 130, 10));
        assert_eq!(run(50, u64::MAX, 10, held).unwrap().kind, Kind::Unallocated);
        assert!(run(60, 1, 10, held).is_err());
    }

    #[test]
    fn bits_are_counted_in_either_order() {
        let msb: fn(u64) -> u8 = |n| 0x80 >> (n % 8);
        let lsb: fn(u64) -> u8 = |n| 1 << (n % 8);
        let b = [0b1110_0000, 0xff, 0xff, 0b1000_0000];
        assert_eq!(bits_alike(&b, 0, 100, msb), (true, 3));
        assert_eq!(bits_alike(&b, 3, 100, msb), (false, 5));
        assert_eq!(bits_alike(&b, 8, 100, msb), (true, 17));
        assert_eq!(bits_alike(&b, 8, 9, msb), (true, 9));
        assert_eq!(bits_alike(&b, 0, 100, lsb), (false, 5));
        assert_eq!(bits_alike(&b, 5, 100, lsb), (true, 19));
        assert_eq!(bits_alike(&b, 25, 100, msb), (false, 100));
    }
}
