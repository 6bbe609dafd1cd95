//! Free clusters for what a repair writes, the counts as they will be, and the refcount structure that holds them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::io::WriteDevice;
use crate::engine::limits::MAX_REFTABLE_BYTES;

use super::super::check::Checker;
use super::super::refcounts::{max_count, put_count};
use super::super::stored::Last;
use super::goal::Goal;
use crate::engine::format::ranges::Ranges;

/// Host offsets end here (QEMU: block/qcow2.h).
const MAX_HOST: u64 = 1 << 56;

/// The clusters of the file as they will be.
pub(super) struct Room {
    pub dev: WriteDevice,
    pub checker: Checker,
    pub goal: Goal,
    /// Uses more or less than were counted.
    adjust: HashMap<u64, i64>,
    /// Behind the end of the file, and claimed by entries that stay as they are.
    pub claimed: Ranges,
    /// No cluster before this one is free.
    next: u64,
    last: Last,
}

/// A refcount structure that was written.
pub(super) struct Built {
    pub table_offset: u64,
    pub table_clusters: u64,
    /// All its places.
    pub ranges: Vec<(u64, u64)>,
    /// One behind the last cluster in use.
    pub end: u64,
    /// Clusters that were counted, and are not any more.
    pub freed: Ranges,
}

impl Room {
    pub(super) fn new(dev: WriteDevice, checker: Checker, goal: Goal) -> Self {
        let device = dev.as_file().is_some_and(|f| f.is_block_device());
        // What is lost may lie in clusters that nobody refers to: they are left alone.
        let next = if goal.keep_content && !device { checker.counts.clusters() } else { 1 };
        Room { dev, checker, goal, adjust: HashMap::new(), claimed: Ranges::default(), next, last: Last::default() }
    }

    pub(super) fn bits(&self) -> u32 {
        self.checker.header.cluster_bits
    }
    fn order(&self) -> u32 {
        self.goal.order.unwrap_or(self.checker.header.refcount_order)
    }
    fn per_block(&self) -> u64 {
        1 << (self.bits() + 3 - self.order())
    }

    /// How often `cluster` will be used.
    fn used(&self, cluster: u64) -> u64 {
        let counted = i64::from(self.checker.counts.get(cluster).uses);
        (counted + self.adjust.get(&cluster).copied().unwrap_or(0)).max(0) as u64
    }

    /// The count `cluster` will have, which has `stored` now. Where counts are not lowered, uses that could not be followed stay.
    fn wanted(&self, cluster: u64, stored: u64) -> u64 {
        let counted = u64::from(self.checker.counts.get(cluster).uses);
        let adjust = self.adjust.get(&cluster).copied();
        if stored > counted && !self.goal.lower {
            return stored.saturating_add_signed(adjust.unwrap_or(0));
        }
        if stored < counted && !self.goal.raise && adjust.is_none() { stored } else { self.used(cluster) }
    }

    /// The count `cluster` will have.
    pub(super) fn count(&self, cluster: u64) -> u64 {
        self.wanted(cluster, self.checker.stored.get(cluster, &mut Last::default()))
    }

    /// `by` uses more (or less) of every cluster that the `len` bytes from `offset` on touch.
    pub(super) fn adjust(&mut self, offset: u64, len: u64, by: i64) {
        if len > 0 {
            for n in offset >> self.bits()..=offset.saturating_add(len - 1) >> self.bits() {
                *self.adjust.entry(n).or_insert(0) += by;
            }
        }
    }

    /// A compressed unit touches a cluster where a table is.
    pub(super) fn is_crowded(&self, entry: u64) -> bool {
        let (first, end) = self.checker.packed_clusters(entry);
        (first..end).any(|n| self.checker.counts.get(n).metadata)
    }

    fn is_free(&mut self, cluster: u64) -> bool {
        let unused =
            self.checker.counts.get(cluster).uses == 0 && !self.adjust.contains_key(&cluster) && !self.claimed.contains(cluster);
        let lost = self.goal.lower && !self.goal.keep_content;
        unused && (lost || self.checker.stored.get(cluster, &mut self.last) == 0)
    }

    /// A run of `count` free clusters, used `uses` times each from now on: the first byte.
    ///
    /// Errors: `NoSpace` on a block device that is full.
    pub(super) fn take(&mut self, count: u64, uses: u64) -> Result<u64> {
        let mut start = self.next;
        let mut seen = 0;
        while seen < count {
            if self.is_free(start + seen) {
                seen += 1;
            } else {
                start += seen + 1;
                seen = 0;
            }
        }
        if count == 1 {
            self.next = start + 1;
        }
        let (at, len) = (start << self.bits(), count << self.bits());
        let full = self.dev.as_file().is_some_and(|f| f.is_block_device()) && at.saturating_add(len) > self.dev.len();
        if full || at.saturating_add(len) > MAX_HOST {
            return Err(Error::new(ErrorKind::NoSpace, "there is no room for the new tables").hint("make the device larger"));
        }
        self.adjust(at, len, i64::try_from(uses).unwrap_or(i64::MAX));
        Ok(at)
    }

    /// Writes `bytes` as whole clusters into free ones, used `uses` times: the first byte.
    pub(super) fn place(&mut self, bytes: &[u8], uses: u64) -> Result<u64> {
        let mut padded = bytes.to_vec();
        padded.resize(padded.len().next_multiple_of(1 << self.bits()), 0);
        let at = self.take((padded.len() as u64 >> self.bits()).max(1), uses)?;
        self.dev.write_at(at, &padded)?;
        Ok(at)
    }

    /// Writes a refcount structure for all that is used now, itself included, to free clusters.
    ///
    /// Errors: a count does not fit; the table would be larger than 8 MiB; writing failed.
    pub(super) fn refcounts(&mut self) -> Result<Built> {
        let per = self.per_block();
        let (mut need, mut freed, mut most) = (BTreeSet::new(), Ranges::default(), (0, 0));
        self.checker.stretches(|first, len, span, _| {
            for n in first..first + len {
                let stored = span.get(n - first);
                let wanted = self.wanted(n, stored);
                if wanted > 0 {
                    most = most.max((wanted, n));
                    if need.last() != Some(&(n / per)) {
                        need.insert(n / per);
                    }
                } else if stored > 0 {
                    freed.insert(n..n + 1);
                }
            }
        });
        if most.0 > max_count(self.order()) {
            return Err(Error::unsupported(format!(
                "cluster {} is used {} times, and its refcounts count to {}",
                most.1,
                most.0,
                max_count(self.order())
            ))
            .hint("convert it to an image with wider refcounts (-o refcount_bits=16)"));
        }
        need.extend(self.adjust.keys().filter(|n| self.used(**n) > 0).map(|n| n / per));
        let mut blocks = BTreeMap::new();
        self.take_blocks(&mut need, &mut blocks)?;
        // The table and its own counts may lie behind all that was counted so far: a little more than is needed.
        let entries = need.last().map_or(1, |n| n + 1);
        let per_table = 1u64 << (self.bits() - 3);
        let table_clusters = (entries + entries / 16 + 4).div_ceil(per_table);
        if table_clusters << self.bits() > MAX_REFTABLE_BYTES {
            return Err(Error::unsupported("the refcount table would be larger than 8 MiB")
                .hint("convert it to an image with larger clusters or narrower refcounts"));
        }
        let table_offset = self.take(table_clusters, 1)?;
        need.extend((0..table_clusters).map(|i| ((table_offset >> self.bits()) + i) / per));
        self.take_blocks(&mut need, &mut blocks)?;
        let mut table = vec![0u64; (table_clusters * per_table) as usize];
        let mut ranges = vec![(table_offset, table_clusters << self.bits())];
        let mut end = 0;
        for (index, cluster) in &blocks {
            let slot = usize::try_from(*index).ok().and_then(|i| table.get_mut(i));
            *slot.ok_or_else(|| Error::new(ErrorKind::Internal, "a refcount table that is too short"))? = cluster << self.bits();
            end = end.max(self.write_block(*index, *cluster)?);
            ranges.push((cluster << self.bits(), 1 << self.bits()));
        }
        let bytes: Vec<u8> = table.iter().flat_map(|e| e.to_be_bytes()).collect();
        self.dev.write_at(table_offset, &bytes)?;
        Ok(Built { table_offset, table_clusters, ranges, end, freed })
    }

    fn take_blocks(&mut self, need: &mut BTreeSet<u64>, blocks: &mut BTreeMap<u64, u64>) -> Result<()> {
        while let Some(index) = need.iter().find(|i| !blocks.contains_key(*i)).copied() {
            let cluster = self.take(1, 1)? >> self.bits();
            blocks.insert(index, cluster);
            need.insert(cluster / self.per_block());
        }
        Ok(())
    }

    /// Writes one block; one behind the last cluster that it counts.
    fn write_block(&mut self, index: u64, at: u64) -> Result<u64> {
        let (per, order) = (self.per_block(), self.order());
        let mut bytes = vec![0u8; 1 << self.bits()];
        let mut end = 0;
        for n in index * per..(index + 1) * per {
            let stored = self.checker.stored.get(n, &mut self.last);
            let count = self.wanted(n, stored);
            if count > 0 && put_count(&mut bytes, order, n % per, count) {
                end = n + 1;
            }
        }
        self.dev.write_at(at << self.bits(), &bytes)?;
        Ok(end)
    }
}
