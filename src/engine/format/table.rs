//! Tables of fixed-width entries (block maps, BATs), read a page at a time: an image opens without reading its whole table, and a
//! table of any size is walked in bounded memory. It must not know what an entry means.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::io::{Device, ReadAt, bytes, read_vec};
use crate::engine::model::Mapping;

/// Bytes of a page.
const PAGE: u64 = 64 << 10;
/// Pages kept per table.
const KEPT: usize = 16;

type Page = Arc<Vec<u8>>;

/// A table in a file, with the pages used last.
pub struct Table {
    dev: Device,
    start: u64,
    len: u64,
    /// Number and content of pages, the one used longest ago first.
    pages: Mutex<Vec<(u64, Page)>>,
}

impl Table {
    /// The table of `len` bytes at byte `start`. Nothing is read yet; the caller has checked that it lies within the device.
    pub fn new(dev: Device, start: u64, len: u64) -> Self {
        Table { dev, start, len, pages: Mutex::new(Vec::new()) }
    }

    /// Bytes of the table.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// Begins looking things up.
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor { table: self, number: u64::MAX, page: Page::default() }
    }

    /// Says that `new` was written at byte `at` of the table, so that readers see it from now on.
    pub fn written(&self, at: u64, new: &[u8]) {
        for (number, page) in self.lock().iter_mut() {
            let first = *number * PAGE;
            // The part of `new` that falls into this page.
            let from = at.max(first);
            let to = (at + new.len() as u64).min(first + page.len() as u64);
            if from < to
                && let Some(src) = new.get((from - at) as usize..(to - at) as usize)
            {
                let page: &mut Vec<u8> = Arc::make_mut(page);
                let _ = bytes::put(page, (from - first) as usize, src);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(u64, Page)>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A page. The lock is held while it is read, so that a write in between cannot be missed.
    fn page(&self, number: u64) -> Result<Page> {
        let mut pages = self.lock();
        if let Some(i) = pages.iter().position(|(n, _)| *n == number) {
            let hit = pages.remove(i);
            let page = hit.1.clone();
            pages.push(hit);
            return Ok(page);
        }
        let first = number.saturating_mul(PAGE);
        if first >= self.len {
            return Err(Error::new(ErrorKind::Internal, "an entry past the end of its table"));
        }
        let page = Arc::new(read_vec(self.dev.as_ref(), self.start.saturating_add(first), PAGE.min(self.len - first), PAGE)?);
        if pages.len() >= KEPT {
            pages.remove(0);
        }
        pages.push((number, page.clone()));
        Ok(page)
    }
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
            self.page = self.table.page(number)?;
            self.number = number;
        }
        bytes::array(&self.page, (at % PAGE) as usize)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "an entry past the end of its table"))
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
        // Across the border of two pages.
        table.written(16_383 * 4, &[1, 0, 0, 0, 2, 0, 0, 0]);
        let mut c = table.cursor();
        assert_eq!((c.le32(16_383).unwrap(), c.le32(16_384).unwrap(), c.le32(16_385).unwrap()), (1, 2, 16_385));
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
