//! A bounded cache of table bytes: pages of an image's files, shared by all its extents and by readers on any thread.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::error::Result;
use crate::engine::io::{ReadAt, past_end, read_up_to};
use crate::engine::units::KIB;

/// Bytes of a page: 32 hosted grain tables, which cover 1 GiB of guest data.
const PAGE: u64 = 64 * KIB;
/// Pages of one generation; there are two, so at most 8 MiB per image.
const GENERATION: usize = 64;

type Key = (usize, u64);

/// The cache. Two generations stand in for an exact order of use: a page that is used while in the old one moves to the young
/// one, and when that is full the old one is dropped whole.
#[derive(Default)]
pub(super) struct Pages(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<Key, Arc<Vec<u8>>>,
    old: HashMap<Key, Arc<Vec<u8>>>,
}

/// Some bytes of a page.
pub(super) struct Slice {
    page: Arc<Vec<u8>>,
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
        let number = offset / PAGE;
        let start = (offset % PAGE) as usize;
        let held = self.lock().find((file, number));
        let page = match held {
            Some(p) if p.len() > start => p,
            _ => {
                let page = Arc::new(read_up_to(dev, number * PAGE, PAGE as usize)?);
                self.lock().keep((file, number), page.clone());
                page
            }
        };
        let end = start.saturating_add(usize::try_from(want).unwrap_or(usize::MAX)).min(page.len());
        if start >= end {
            return Err(past_end(dev, offset, want));
        }
        Ok(Slice { page, start, end })
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn find(&mut self, key: Key) -> Option<Arc<Vec<u8>>> {
        if let Some(p) = self.young.get(&key) {
            return Some(p.clone());
        }
        let p = self.old.remove(&key)?;
        self.keep(key, p.clone());
        Some(p)
    }
    fn keep(&mut self, key: Key, page: Arc<Vec<u8>>) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let g = pages.lock();
        assert!(g.young.len() <= GENERATION && g.old.len() <= GENERATION);
        drop(g);
        assert_eq!(pages.slice(0, &dev, 200 * PAGE, 100).unwrap().len(), 5);
        assert!(pages.slice(0, &dev, 200 * PAGE + 5, 1).is_err());
    }
}
