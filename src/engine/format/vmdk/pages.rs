//! A bounded cache of table bytes: pages of an image's files, shared by all its extents, by readers on any thread and by the
//! writer, whose changes stay here until it writes them back in its order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::error::Result;
use crate::engine::io::{ReadAt, past_end, read_up_to};
use crate::engine::units::{KIB, SECTOR};

/// Bytes of a page: 32 hosted grain tables, which cover 1 GiB of guest data. 128 sectors, so that a `u128` marks them.
const PAGE: u64 = 64 * KIB;
/// Pages of one generation; there are two, so at most 8 MiB per image besides what waits to be written.
const GENERATION: usize = 64;

type Key = (usize, u64);
type Page = Arc<Vec<u8>>;

/// The cache. Two generations stand in for an exact order of use: a page that is used while in the old one moves to the young
/// one, and when that is full the old one is dropped whole.
#[derive(Default)]
pub(super) struct Pages(Mutex<State>);

#[derive(Default)]
struct State {
    young: HashMap<Key, Page>,
    old: HashMap<Key, Page>,
    changed: HashMap<Key, Changed>,
    /// Write-backs so far: a page read from the file while one went on may be stale.
    rounds: u64,
}

/// A page with changes the file does not have yet.
struct Changed {
    page: Page,
    /// Sectors changed since the last write-back began.
    fresh: u128,
    /// Sectors that the write-back under way (or one that failed) is about.
    writing: u128,
}

/// Some bytes of a page.
pub(super) struct Slice {
    page: Page,
    start: usize,
    end: usize,
}

impl std::ops::Deref for Slice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.page.get(self.start..self.end).unwrap_or_default()
    }
}

impl Pages {
    /// At most `want` bytes at `offset` of storage file `file`, which is `dev`: what lies in one page, at least one byte.
    ///
    /// Errors: `offset` is not within the file.
    pub(super) fn slice(&self, file: usize, dev: &dyn ReadAt, offset: u64, want: u64) -> Result<Slice> {
        let start = (offset % PAGE) as usize;
        let page = self.load((file, offset / PAGE), dev, start)?;
        let end = start.saturating_add(usize::try_from(want).unwrap_or(usize::MAX)).min(page.len());
        if start >= end {
            return Err(past_end(dev, offset, want));
        }
        Ok(Slice { page, start, end })
    }

    /// Changes bytes at `offset` (which must lie within one page); readers see it at once, the file after the next write-back.
    pub(super) fn change(&self, file: usize, dev: &dyn ReadAt, offset: u64, bytes: &[u8]) -> Result<()> {
        let (key, start) = ((file, offset / PAGE), (offset % PAGE) as usize);
        loop {
            let page = self.load(key, dev, start)?;
            let mut state = self.lock();
            // Between the two locks somebody may have changed the page, or written it back: only what is held now counts.
            let held = state.changed.contains_key(&key) || state.find(key).is_some_and(|p| Arc::ptr_eq(&p, &page));
            if !held {
                continue;
            }
            state.young.remove(&key);
            state.old.remove(&key);
            let entry = state.changed.entry(key).or_insert_with(|| Changed { page, fresh: 0, writing: 0 });
            let whole = Arc::make_mut(&mut entry.page);
            // The last page of a file grows with it.
            whole.resize(PAGE as usize, 0);
            let Some(place) = whole.get_mut(start..start + bytes.len()) else {
                return Err(past_end(dev, offset, bytes.len() as u64));
            };
            place.copy_from_slice(bytes);
            let (first, last) = (start / SECTOR as usize, (start + bytes.len().max(1) - 1) / SECTOR as usize);
            for sector in first..=last {
                entry.fresh |= 1 << sector;
            }
            return Ok(());
        }
    }

    /// Pages with changes.
    pub(super) fn changed(&self) -> usize {
        self.lock().changed.len()
    }

    /// Writes all changes made before the call: first `before` runs (it makes durable what the tables will point to), then
    /// `write` gets file, offset and bytes of each run of changed sectors. After an error everything is still to be written.
    /// True when anything was written. Calls must not overlap.
    pub(super) fn write_back(
        &self,
        before: impl FnOnce() -> Result<()>,
        write: impl Fn(usize, u64, &[u8]) -> Result<()>,
    ) -> Result<bool> {
        let mut batch: Vec<(Key, Page, u128)> = Vec::new();
        for (key, c) in &mut self.lock().changed {
            c.writing |= std::mem::take(&mut c.fresh);
            batch.push((*key, c.page.clone(), c.writing));
        }
        before()?;
        batch.sort_unstable_by_key(|(key, ..)| *key);
        for ((file, number), page, sectors) in &batch {
            for (first, count) in runs(*sectors) {
                let from = first * SECTOR as usize;
                let bytes = page.get(from..from + count * SECTOR as usize).unwrap_or_default();
                write(*file, number * PAGE + from as u64, bytes)?;
            }
        }
        let mut state = self.lock();
        state.rounds += 1;
        for (key, ..) in &batch {
            if let Some(c) = state.changed.get_mut(key) {
                c.writing = 0;
                if c.fresh == 0
                    && let Some(c) = state.changed.remove(key)
                {
                    state.keep(*key, c.page);
                }
            }
        }
        Ok(!batch.is_empty())
    }

    /// Forgets everything that has no changes: the file was changed behind the cache.
    pub(super) fn forget(&self) {
        let mut state = self.lock();
        state.rounds += 1;
        state.young.clear();
        state.old.clear();
    }

    /// The page, long enough to have a byte at `start` unless the file ends before.
    fn load(&self, key: Key, dev: &dyn ReadAt, start: usize) -> Result<Page> {
        loop {
            let round = {
                let mut state = self.lock();
                if let Some(p) = state.find(key).filter(|p| p.len() > start) {
                    return Ok(p);
                }
                state.rounds
            };
            let page = Arc::new(read_up_to(dev, key.1 * PAGE, PAGE as usize)?);
            let mut state = self.lock();
            if state.rounds == round && !state.changed.contains_key(&key) {
                state.keep(key, page.clone());
                return Ok(page);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&mut self, key: Key) -> Option<Page> {
        if let Some(c) = self.changed.get(&key) {
            return Some(c.page.clone());
        }
        if let Some(p) = self.young.get(&key) {
            return Some(p.clone());
        }
        let p = self.old.remove(&key)?;
        self.keep(key, p.clone());
        Some(p)
    }
    fn keep(&mut self, key: Key, page: Page) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, page);
    }
}

/// Runs of set bits: first and count.
fn runs(mut bits: u128) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if bits == 0 {
            return None;
        }
        let skip = bits.trailing_zeros() as usize;
        let count = (bits >> skip).trailing_ones() as usize;
        let first = at + skip;
        at = first + count;
        bits = bits.checked_shr((skip + count) as u32).unwrap_or(0);
        Some((first, count))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::error::Error;
    use crate::engine::io::WriteAt;
    use crate::engine::io::memory::Memory;

    #[test]
    fn holds_a_bounded_number_of_pages_and_always_the_right_bytes() {
        let dev = Memory::new((0..PAGE * 200 + 5).map(|i| (i / PAGE) as u8).collect());
        let pages = Pages::default();
        for round in 0..3u64 {
            for n in 0..=200 {
                let s = pages.slice(0, &dev, n * PAGE + round, 2).unwrap();
                assert_eq!(&*s, [n as u8; 2]);
            }
        }
        let state = pages.lock();
        assert!(state.young.len() <= GENERATION && state.old.len() <= GENERATION);
        drop(state);
        assert_eq!(pages.slice(0, &dev, 200 * PAGE, 100).unwrap().len(), 5);
        assert!(pages.slice(0, &dev, 200 * PAGE + 5, 1).is_err());
    }

    #[test]
    fn runs_of_bits() {
        assert_eq!(runs(0).count(), 0);
        assert_eq!(runs(u128::MAX).collect::<Vec<_>>(), [(0, 128)]);
        assert_eq!(runs(0b1101 | 1 << 127).collect::<Vec<_>>(), [(0, 1), (2, 2), (127, 1)]);
    }

    #[test]
    fn changes_are_seen_at_once_and_written_by_sectors() {
        let dev = Memory::new(vec![0; 3000]);
        let pages = Pages::default();
        pages.change(0, &dev, 1022, &[1, 2, 3, 4]).unwrap();
        pages.change(0, &dev, 2600, &[5]).unwrap();
        assert_eq!(&*pages.slice(0, &dev, 1022, 4).unwrap(), [1, 2, 3, 4]);
        assert_eq!(dev.to_vec(), vec![0; 3000]);
        assert!(pages.write_back(|| Err(Error::usage("no")), |_, _, _| Ok(())).is_err());
        assert!(pages.write_back(|| Ok(()), |_, _, _| Err(Error::usage("no"))).is_err());
        let seen = Mutex::new(Vec::new());
        let write = |_: usize, at: u64, b: &[u8]| {
            seen.lock().unwrap().push((at, b.len()));
            dev.write_at(at, b)
        };
        assert!(pages.write_back(|| Ok(()), write).unwrap());
        assert_eq!((&dev.to_vec()[1022..1026], dev.to_vec()[2600], pages.changed()), (&[1, 2, 3, 4][..], 5, 0));
        assert!(!pages.write_back(|| Ok(()), write).unwrap());
        assert_eq!(*seen.lock().unwrap(), [(512, 1024), (2560, 512)]);
    }
}
