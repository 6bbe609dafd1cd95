//! Allocation of clusters in the file: finds free runs, makes room for their refcounts, and keeps what was freed until the file no
//! longer points to it. Never hands out a cluster known to hold metadata, whatever the refcounts say.

use std::collections::BTreeSet;

use crate::engine::error::{Error, Result};
use crate::engine::io::{WriteAt, WriteDevice};
use crate::engine::limits::MAX_REFTABLE_BYTES;

use super::header::Header;
use super::refcounts::Refcounts;
use crate::engine::format::ranges::Ranges;

/// How many clusters past the end of the file may be counted as used: a crash leaves some, and looking further would be endless.
const BEYOND: u64 = 1 << 20;
/// Host offsets end here (QEMU: block/qcow2.h).
const MAX_HOST: u64 = 1 << 56;

/// The clusters of the file.
pub struct Allocator {
    /// Their counts.
    pub refs: Refcounts,
    pub(super) cluster_bits: u32,
    /// No cluster before this one is free.
    pub(super) hint: u64,
    /// Clusters of the file, or past the last one handed out.
    end: u64,
    /// Clusters to be counted down once nothing in the file points to them any more, one entry for each reference.
    pub(super) freed: Vec<u64>,
    /// Clusters known to hold metadata.
    pub(super) metadata: Ranges,
    /// Clusters counted down to zero in memory, while the file still uses them: never handed out.
    pub(super) retired: Ranges,
}

impl Allocator {
    /// The allocator of an existing image.
    pub fn open(dev: WriteDevice, header: &Header) -> Result<Self> {
        let dev_end = dev.len().div_ceil(header.cluster_size());
        let refs = Refcounts::open(dev, header)?;
        let mut out = Allocator {
            refs,
            cluster_bits: header.cluster_bits,
            hint: 1,
            end: dev_end,
            freed: Vec::new(),
            metadata: Ranges::default(),
            retired: Ranges::default(),
        };
        out.protect(0, 1);
        out.protect(out.refs.table_offset, out.refs.table_clusters() << out.cluster_bits);
        let blocks: Vec<u64> = out.refs.block_offsets().collect();
        for offset in blocks {
            out.protect(offset, 1);
        }
        Ok(out)
    }

    /// The allocator of a new image: its header, and a refcount table of `table_clusters`.
    pub fn create(dev: WriteDevice, header: &Header, table_clusters: u64) -> Result<Self> {
        let mut refs = Refcounts::empty(dev, header);
        refs.enlarge(table_clusters << (header.cluster_bits - 3))?;
        refs.add_block(0, 1);
        refs.set(0, 1)?;
        refs.set(1, 1)?;
        let mut out = Allocator {
            refs,
            cluster_bits: header.cluster_bits,
            hint: 2,
            end: 2,
            freed: Vec::new(),
            metadata: Ranges::default(),
            retired: Ranges::default(),
        };
        out.metadata.insert(0..2);
        let table = out.metadata_run(table_clusters)?;
        out.refs.move_table(table);
        Ok(out)
    }

    /// Bytes of a cluster.
    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Marks `len` bytes from `offset` on as metadata.
    pub fn protect(&mut self, offset: u64, len: u64) {
        let first = offset >> self.cluster_bits;
        let last = offset.saturating_add(len.saturating_sub(1)) >> self.cluster_bits;
        self.metadata.insert(first..last.saturating_add(1));
    }

    /// Refuses to write guest data over metadata, or past the end of the file in a cluster that was not handed out here: `len`
    /// bytes from host byte `offset` on.
    pub fn guard(&self, offset: u64, len: u64) -> Result<()> {
        let last = offset.saturating_add(len.saturating_sub(1)) >> self.cluster_bits;
        if last >= self.end {
            return Err(Error::corrupt("the image's tables place guest data past the end of the file")
                .op("write guest data")
                .at(offset)
                .hint("the file was cut short: run check, and repair the image before writing to it"));
        }
        match self.metadata.first_in(offset >> self.cluster_bits..last.saturating_add(1)) {
            None => Ok(()),
            Some(c) => Err(self.overlap(c)),
        }
    }

    pub(super) fn overlap(&self, cluster: u64) -> Error {
        Error::corrupt("the image's tables say that guest data lies where its own structures are; nothing was written there")
            .op("write guest data")
            .at(cluster << self.cluster_bits)
            .hint("run check, and repair the image before writing to it")
    }

    /// True when nothing uses `cluster`; a cluster whose refcount block is not there yet is free.
    fn is_free(&mut self, cluster: u64) -> Result<bool> {
        if cluster > self.end.saturating_add(BEYOND) {
            return Err(Error::corrupt("refcounts count clusters far past the end of the file")
                .op("look for free clusters")
                .hint("look with cowshed check, repair with check -r all"));
        }
        Ok(!self.retired.contains(cluster) && (!self.refs.has_block(cluster) || self.refs.get(cluster)? == 0))
    }

    /// A run of free clusters, between 1 and `want` of them, now counted once each: first byte and number of clusters.
    pub fn data_run(&mut self, want: u64) -> Result<(u64, u64)> {
        loop {
            let start = self.next_free()?;
            if !self.refs.has_block(start) {
                // The block takes the first cluster it counts, so that it describes itself.
                self.take_block(start)?;
                continue;
            }
            let mut count = 0;
            while count < want.max(1) && self.refs.has_block(start + count) && self.is_free(start + count)? {
                if self.metadata.contains(start + count) {
                    return Err(self.overlap(start + count));
                }
                self.refs.set(start + count, 1)?;
                count += 1;
            }
            self.hint = start + count;
            self.end = self.end.max(self.hint);
            return Ok((start << self.cluster_bits, count));
        }
    }

    /// The first free cluster from the hint on, with room for its count in the refcount table.
    fn next_free(&mut self) -> Result<u64> {
        while !self.is_free(self.hint)? {
            self.hint += 1;
        }
        let start = self.hint;
        if start >= MAX_HOST >> self.cluster_bits {
            return Err(Error::unsupported("the image file is as large as the format allows"));
        }
        self.room(start)?;
        // Making room may have taken that cluster.
        if self.is_free(start)? { Ok(start) } else { self.next_free() }
    }

    fn take_block(&mut self, cluster: u64) -> Result<()> {
        if self.metadata.contains(cluster) {
            return Err(self.overlap(cluster));
        }
        self.refs.add_block(cluster, cluster);
        self.refs.set(cluster, 1)?;
        self.end = self.end.max(cluster + 1);
        self.metadata.insert(cluster..cluster + 1);
        Ok(())
    }

    /// `count` free clusters in one run for metadata, now counted once each: the first byte.
    /// Refcount blocks that are missing are put behind the run.
    pub fn metadata_run(&mut self, count: u64) -> Result<u64> {
        let mut start = self.next_free()?;
        let mut seen = 0;
        while seen < count {
            self.room(start + count)?;
            if self.is_free(start + seen)? && !self.metadata.contains(start + seen) {
                seen += 1;
            } else {
                start += seen + 1;
                seen = 0;
            }
        }
        // From here on nothing else can take the run, not even a refcount table that has to move.
        self.metadata.insert(start..start + count);
        let mut used: Vec<u64> = (start..start + count).collect();
        let mut next = start + count;
        let mut missing: BTreeSet<u64> =
            used.iter().copied().filter(|c| !self.refs.has_block(*c)).map(|c| c / self.refs.per_block()).collect();
        while let Some(index) = missing.pop_first() {
            while !self.is_free(next)? || self.metadata.contains(next) {
                next += 1;
            }
            self.room(next)?;
            self.refs.add_block(index * self.refs.per_block(), next);
            self.metadata.insert(next..next + 1);
            if !self.refs.has_block(next) {
                missing.insert(next / self.refs.per_block());
            }
            used.push(next);
            next += 1;
        }
        for cluster in used {
            self.end = self.end.max(cluster + 1);
            self.refs.set(cluster, 1)?;
        }
        Ok(start << self.cluster_bits)
    }

    /// Makes the refcount table long enough to count `cluster`, moving it when it is not. The old table is freed.
    fn room(&mut self, cluster: u64) -> Result<()> {
        let needed = cluster / self.refs.per_block() + 1;
        let now = self.refs.capacity();
        if needed <= now {
            return Ok(());
        }
        let per_cluster = self.cluster() / 8;
        let (old, old_clusters) = (self.refs.table_offset, self.refs.table_clusters());
        // Half as much again, so that moves become rare; and some for what the table itself needs.
        let entries = (needed + now / 2 + 8).next_multiple_of(per_cluster).min((MAX_REFTABLE_BYTES / 8).max(needed));
        self.refs.enlarge(entries)?;
        let at = self.metadata_run(entries.div_ceil(per_cluster))?;
        if old != 0 {
            self.free(old, old_clusters << self.cluster_bits);
        }
        self.refs.move_table(at);
        Ok(())
    }

    /// One more use of the cluster at host byte `offset`; false when it cannot be counted higher.
    pub fn share(&mut self, offset: u64) -> Result<bool> {
        let cluster = offset >> self.cluster_bits;
        let now = self.refs.get(cluster)?;
        if now == 0 || now >= self.refs.max() {
            return Ok(false);
        }
        self.refs.set(cluster, now + 1)?;
        Ok(true)
    }

    /// One use less of every cluster that the `len` bytes from `offset` on touch, when the file no longer points to them.
    pub fn free(&mut self, offset: u64, len: u64) {
        let last = offset.saturating_add(len.saturating_sub(1)) >> self.cluster_bits;
        self.freed.extend(offset >> self.cluster_bits..=last);
    }

    /// Counts down what was freed: the file no longer points to it. What nobody uses any more is handed out again, and its space
    /// goes back to the host.
    ///
    /// Errors: a count that is too low already (`Corrupt`); the rest is counted down all the same.
    pub fn settle(&mut self, dev: &dyn WriteAt, mut gone: impl FnMut(u64)) -> Result<()> {
        let mut freed = std::mem::take(&mut self.freed);
        freed.sort_unstable();
        let mut failed = None;
        let mut holes: Vec<(u64, u64)> = Vec::new();
        for cluster in freed {
            match self.refs.change(cluster, -1) {
                Ok(0) => {
                    self.metadata.remove(cluster);
                    self.hint = self.hint.min(cluster);
                    gone(cluster << self.cluster_bits);
                    match holes.last_mut() {
                        Some((start, count)) if *start + *count == cluster => *count += 1,
                        _ => holes.push((cluster, 1)),
                    }
                }
                Ok(_) => {}
                Err(e) => failed = Some(e),
            }
        }
        let end = dev.len();
        for (start, count) in holes {
            let offset = start << self.cluster_bits;
            let len = (count << self.cluster_bits).min(end.saturating_sub(offset));
            // Space that cannot be given back is only space.
            if len > 0 && dev.as_file().is_none_or(|f| !f.is_block_device()) {
                let _ = dev.write_zeroes(offset, len);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// How many of the first `clusters` clusters something uses.
    pub fn count_used(&mut self, clusters: u64) -> Result<u64> {
        let (mut used, mut at) = (0, 0);
        while at < clusters {
            if !self.refs.has_block(at) {
                at = (at / self.refs.per_block() + 1) * self.refs.per_block();
                continue;
            }
            used += u64::from(self.refs.get(at)? > 0);
            at += 1;
        }
        Ok(used)
    }

    /// Where the last used cluster of a file of `len` bytes ends.
    pub fn used_end(&mut self, len: u64) -> Result<u64> {
        let mut clusters = len.div_ceil(self.cluster());
        while clusters > 0 && self.is_free(clusters - 1)? && !self.metadata.contains(clusters - 1) {
            clusters -= 1;
        }
        Ok((clusters << self.cluster_bits).min(len))
    }

    /// Something waits for [`Allocator::settle`].
    pub fn has_freed(&self) -> bool {
        !self.freed.is_empty()
    }
}
