//! Counting how often each cluster of the file is used, by several threads at once and in memory that follows what is used.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::engine::error::{Error, Result};

/// Clusters of a page.
pub(in crate::engine::format::qcow2) const PAGE: u64 = 1 << 14;
/// Pages of a book.
const BOOK: u64 = 1 << 10;
/// Clusters there can be counters for.
const MOST: u64 = 1 << 44;
/// The bit of a counter that says: some of the uses are metadata.
const METADATA: u32 = 1 << 31;
/// Where counters stop. No refcount in use is near.
const FULL: u32 = 1 << 30;

type Page = Box<[AtomicU32]>;

/// One counter for each cluster of a file. A page of counters exists once a cluster in it is used, so a sparse file of many
/// terabytes costs what it maps and not what it claims.
pub(in crate::engine::format::qcow2) struct Counts {
    books: Vec<OnceLock<Box<[OnceLock<Page>]>>>,
    clusters: u64,
}

/// What was seen of a cluster before it was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine::format::qcow2) struct Before {
    /// How often it was used.
    pub uses: u32,
    /// Some of the uses are metadata.
    pub metadata: bool,
}

impl Before {
    pub(super) fn of(raw: u32) -> Self {
        Before { uses: raw & !METADATA, metadata: raw & METADATA != 0 }
    }
}

impl Counts {
    /// Counters for `clusters` clusters, all zero.
    ///
    /// Errors: `Unsupported`, more than 2^44.
    pub(in crate::engine::format::qcow2) fn new(clusters: u64) -> Result<Self> {
        if clusters > MOST {
            return Err(Error::unsupported("the file is too long to be checked: more than 2^44 clusters"));
        }
        let books = clusters.div_ceil(PAGE * BOOK);
        Ok(Counts { books: (0..books).map(|_| OnceLock::new()).collect(), clusters })
    }

    /// How many clusters there are counters for.
    pub(in crate::engine::format::qcow2) fn clusters(&self) -> u64 {
        self.clusters
    }

    fn page_mut(&self, cluster: u64) -> Option<&Page> {
        let book = self.books.get(usize::try_from(cluster / (PAGE * BOOK)).ok()?)?;
        let book = book.get_or_init(|| (0..BOOK).map(|_| OnceLock::new()).collect());
        let page = book.get((cluster / PAGE % BOOK) as usize)?;
        Some(page.get_or_init(|| (0..PAGE).map(|_| AtomicU32::new(0)).collect()))
    }

    /// The counters of the page that holds `cluster`, when any of them was used.
    pub(in crate::engine::format::qcow2) fn page(&self, cluster: u64) -> Option<&[AtomicU32]> {
        let book = self.books.get(usize::try_from(cluster / (PAGE * BOOK)).ok()?)?.get()?;
        book.get((cluster / PAGE % BOOK) as usize)?.get().map(|p| &p[..])
    }

    /// Counts `uses` more of `cluster`; what was seen before. `None` outside the file.
    pub(in crate::engine::format::qcow2) fn add(&self, cluster: u64, uses: u32, metadata: bool) -> Option<Before> {
        let mut before = None;
        self.add_run(cluster, 1, uses, metadata, |_, b| before = Some(b));
        before.or_else(|| (cluster < self.clusters).then_some(Before { uses: 0, metadata: false }))
    }

    /// Counts `uses` more of each of `len` clusters; those past the end of the file are not counted. `seen` is told of every one
    /// that was used before: by anything, when this is metadata, else by metadata.
    pub(in crate::engine::format::qcow2) fn add_run(
        &self,
        first: u64,
        len: u64,
        uses: u32,
        metadata: bool,
        mut seen: impl FnMut(u64, Before),
    ) {
        let uses = uses.min(FULL / 2);
        let end = first.saturating_add(len).min(self.clusters);
        let (flag, mask) = if metadata { (METADATA, u32::MAX) } else { (0, METADATA) };
        let mut at = first;
        while at < end {
            let stop = (at / PAGE + 1).saturating_mul(PAGE).min(end);
            let Some(slots) = self.page_mut(at).and_then(|p| p.get((at % PAGE) as usize..=((stop - 1) % PAGE) as usize)) else {
                return;
            };
            for (slot, cluster) in slots.iter().zip(at..) {
                let before = slot.fetch_add(uses, Ordering::Relaxed);
                if (before & !METADATA).saturating_add(uses) >= FULL {
                    slot.fetch_sub(uses, Ordering::Relaxed);
                }
                if flag != 0 {
                    slot.fetch_or(flag, Ordering::Relaxed);
                }
                if before & mask != 0 || (metadata && before != 0) {
                    seen(cluster, Before::of(before));
                }
            }
            at = stop;
        }
    }

    /// What was seen of `cluster`.
    pub(in crate::engine::format::qcow2) fn get(&self, cluster: u64) -> Before {
        let raw = self.page(cluster).and_then(|p| p.get((cluster % PAGE) as usize)).map_or(0, |c| c.load(Ordering::Relaxed));
        Before::of(raw)
    }

    /// The first cluster at or after `cluster` that may be used: pages never touched are passed over.
    pub(in crate::engine::format::qcow2) fn next_touched(&self, cluster: u64) -> Option<u64> {
        let mut at = cluster;
        while at < self.clusters {
            let book = self.books.get(usize::try_from(at / (PAGE * BOOK)).ok()?)?;
            match book.get() {
                None => at = (at / (PAGE * BOOK) + 1) * PAGE * BOOK,
                Some(book) => match book.get((at / PAGE % BOOK) as usize)?.get() {
                    None => at = (at / PAGE + 1) * PAGE,
                    Some(_) => return Some(at),
                },
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_used_takes_memory() {
        let counts = Counts::new(1 << 40).unwrap();
        let seen = |uses, metadata| Some(Before { uses, metadata });
        assert_eq!(counts.add(5, 2, true), seen(0, false));
        assert_eq!(counts.add(5, 1, false), seen(2, true));
        assert_eq!(counts.add((1 << 40) - 1, 1, false), seen(0, false));
        assert_eq!(counts.add(1 << 40, 1, false), None);
        assert_eq!((counts.get(5).uses, counts.get(6).uses), (3, 0));
        assert_eq!(counts.next_touched(PAGE), Some((1 << 40) - PAGE));
        assert_eq!(counts.books.iter().filter(|b| b.get().is_some()).count(), 2);
        assert!(Counts::new(u64::MAX).is_err());
    }

    #[test]
    fn runs_cross_pages_end_with_the_file_and_counters_stop() {
        let counts = Counts::new(PAGE + 10).unwrap();
        let mut seen = Vec::new();
        counts.add_run(PAGE - 2, 100, 1, false, |c, _| seen.push(c));
        assert!(seen.is_empty());
        counts.add_run(PAGE, 1, 1, true, |c, b| seen.push(c + u64::from(b.uses)));
        counts.add_run(PAGE - 1, 3, 1, false, |c, b| seen.push(c + u64::from(b.uses)));
        assert_eq!(seen, [PAGE + 1, PAGE + 2]);
        for _ in 0..10 {
            counts.add(3, u32::MAX, false);
        }
        assert!(counts.get(3).uses < METADATA && !counts.get(3).metadata);
    }
}
