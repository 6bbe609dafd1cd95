//! Counting how often each cluster of the file is used, by several threads at once and in memory that follows what is used.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Clusters of a page.
const PAGE: u64 = 1 << 14;
/// The bit of a counter that says: some of the uses are metadata.
const METADATA: u32 = 1 << 31;

/// One counter for each cluster of a file. A page of counters exists once a cluster in it is used, so a sparse file of many
/// terabytes costs what it maps and not what it claims.
pub(super) struct Counts {
    pages: Vec<OnceLock<Box<[AtomicU32]>>>,
    clusters: u64,
}

impl Counts {
    /// Counters for `clusters` clusters, all zero.
    pub(super) fn new(clusters: u64) -> Self {
        let pages = clusters.div_ceil(PAGE);
        Counts { pages: (0..pages).map(|_| OnceLock::new()).collect(), clusters }
    }

    /// How many clusters there are counters for.
    pub(super) fn clusters(&self) -> u64 {
        self.clusters
    }

    fn slot(&self, cluster: u64) -> Option<&AtomicU32> {
        let page = self.pages.get(usize::try_from(cluster / PAGE).ok()?)?;
        let page = page.get_or_init(|| (0..PAGE).map(|_| AtomicU32::new(0)).collect());
        page.get((cluster % PAGE) as usize)
    }

    /// Counts `uses` more of `cluster`; the state before: (uses, some were metadata). `None` outside the file.
    pub(super) fn add(&self, cluster: u64, uses: u32, metadata: bool) -> Option<(u32, bool)> {
        if cluster >= self.clusters {
            return None;
        }
        let slot = self.slot(cluster)?;
        let before = slot.fetch_add(uses, Ordering::Relaxed);
        if metadata {
            slot.fetch_or(METADATA, Ordering::Relaxed);
        }
        Some((before & !METADATA, before & METADATA != 0))
    }

    /// How often `cluster` is used.
    pub(super) fn get(&self, cluster: u64) -> u64 {
        let page = usize::try_from(cluster / PAGE).ok().and_then(|p| self.pages.get(p)?.get());
        let count = page.and_then(|p| p.get((cluster % PAGE) as usize)).map_or(0, |c| c.load(Ordering::Relaxed));
        u64::from(count & !METADATA)
    }

    /// The first cluster at or after `cluster` that may be used: pages never touched are passed over.
    pub(super) fn next_touched(&self, cluster: u64) -> Option<u64> {
        let first = usize::try_from(cluster / PAGE).ok()?;
        let skip = self.pages.get(first..)?.iter().position(|p| p.get().is_some())?;
        let page = first as u64 + skip as u64;
        Some((page * PAGE).max(cluster)).filter(|c| *c < self.clusters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_used_takes_memory() {
        let counts = Counts::new(1 << 40);
        assert_eq!(counts.add(5, 2, true), Some((0, false)));
        assert_eq!(counts.add(5, 1, false), Some((2, true)));
        assert_eq!(counts.add((1 << 40) - 1, 1, false), Some((0, false)));
        assert_eq!(counts.add(1 << 40, 1, false), None);
        assert_eq!((counts.get(5), counts.get(6)), (3, 0));
        assert_eq!(counts.next_touched(PAGE), Some((1 << 40) - PAGE));
        assert_eq!(counts.pages.iter().filter(|p| p.get().is_some()).count(), 2);
    }
}
