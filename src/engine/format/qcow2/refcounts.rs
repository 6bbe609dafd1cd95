//! Refcounts: one count for every cluster of the file, in blocks found through the refcount table. Reads and changes counts in
//! memory and writes them in the order the writer asks for; it decides nothing about what is allocated where.
//! Specification: "Host cluster management".

use std::collections::{BTreeSet, HashMap};

use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{be64, is_zero};
use crate::engine::io::{WriteAt, WriteDevice, read_vec};
use crate::engine::limits::MAX_REFTABLE_BYTES;
use crate::engine::units::MIB;

use super::block::Block;
use super::header::Header;
use super::tables::OFFSET;

/// Bytes of unchanged blocks kept.
const KEEP: u64 = 32 * MIB;

/// The refcount at `index` of a block with counts of `1 << order` bits; `None` outside the block.
pub fn count_at(block: &[u8], order: u32, index: u64) -> Option<u64> {
    let index = usize::try_from(index).ok()?;
    match order {
        0..=2 => {
            let per_byte = 8usize >> order;
            let byte = *block.get(index / per_byte)?;
            let shift = (index % per_byte) << order;
            Some(u64::from(byte >> shift) & ((1 << (1 << order)) - 1))
        }
        _ => {
            let size = 1usize << (order - 3);
            let at = index.checked_mul(size)?;
            Some(block.get(at..at.checked_add(size)?)?.iter().fold(0, |v, b| v << 8 | u64::from(*b)))
        }
    }
}

/// The bytes of a block that hold the count at `index`: the first, and how many.
fn field(order: u32, index: u64) -> (usize, usize) {
    match order {
        0..=2 => ((index / (8 >> order)) as usize, 1),
        _ => ((index << (order - 3)) as usize, 1 << (order - 3)),
    }
}

/// Sets the refcount at `index` of a block with counts of `1 << order` bits. False when it is outside the block.
#[must_use]
pub fn put_count(block: &mut [u8], order: u32, index: u64, count: u64) -> bool {
    let (at, len) = field(order, index);
    let Some(bytes) = block.get_mut(at..at.saturating_add(len)) else { return false };
    put_field(bytes, order, index, count);
    true
}

/// Sets the count at `index` in the bytes of its [`field`].
fn put_field(bytes: &mut [u8], order: u32, index: u64, count: u64) {
    if let (0..=2, Some(byte)) = (order, bytes.first_mut()) {
        let shift = (index % (8 >> order)) << order;
        let mask = (max_count(order) as u8) << shift;
        *byte = *byte & !mask | (count as u8) << shift & mask;
    } else {
        let all = count.to_be_bytes();
        bytes.copy_from_slice(all.get(8usize.saturating_sub(bytes.len())..).unwrap_or_default());
    }
}

/// The largest count of `1 << order` bits.
pub fn max_count(order: u32) -> u64 {
    if order >= 6 { u64::MAX } else { (1 << (1u64 << order)) - 1 }
}

/// The refcounts of an open image.
pub struct Refcounts {
    dev: WriteDevice,
    order: u32,
    cluster_bits: u32,
    table: Vec<u64>,
    /// Where the table is, or will be when it was moved.
    pub table_offset: u64,
    blocks: HashMap<u64, Block>,
    /// Table entries newer than the file.
    changed: BTreeSet<u64>,
    /// The whole table goes to a new place.
    moved: bool,
}

impl Refcounts {
    /// The refcounts `header` points to.
    ///
    /// Errors: the table lies outside the file, an entry is misaligned.
    pub fn open(dev: WriteDevice, header: &Header) -> Result<Self> {
        let len = u64::from(header.reftable_clusters) << header.cluster_bits;
        let bytes = read_vec(dev.as_ref(), header.reftable_offset, len, MAX_REFTABLE_BYTES)
            .map_err(|e| e.op("read the refcount table"))?;
        let table: Vec<u64> = (0..bytes.len() / 8).filter_map(|i| be64(&bytes, i * 8)).map(|e| e & OFFSET).collect();
        if let Some(i) = table.iter().position(|e| e & (header.cluster_size() - 1) != 0) {
            return Err(Error::corrupt(format!("refcount table entry {i} does not begin a cluster"))
                .op("read the refcount table")
                .at(header.reftable_offset + i as u64 * 8));
        }
        Ok(Refcounts { table, table_offset: header.reftable_offset, ..Self::empty(dev, header) })
    }

    /// No counts at all, for a new image.
    pub fn empty(dev: WriteDevice, header: &Header) -> Self {
        Refcounts {
            dev,
            order: header.refcount_order,
            cluster_bits: header.cluster_bits,
            table: Vec::new(),
            table_offset: 0,
            blocks: HashMap::new(),
            changed: BTreeSet::new(),
            moved: false,
        }
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }
    /// Clusters one block counts.
    pub fn per_block(&self) -> u64 {
        1 << (self.cluster_bits + 3 - self.order)
    }
    /// Largest count that can be stored.
    pub fn max(&self) -> u64 {
        max_count(self.order)
    }
    /// Entries of the table.
    pub fn capacity(&self) -> u64 {
        self.table.len() as u64
    }
    /// Clusters of the table.
    pub fn table_clusters(&self) -> u64 {
        (self.capacity() * 8).div_ceil(self.cluster())
    }
    /// Offsets of all blocks.
    pub fn block_offsets(&self) -> impl Iterator<Item = u64> {
        self.table.iter().copied().filter(|o| *o != 0)
    }
    /// There is a block for the count of `cluster`.
    pub fn has_block(&self, cluster: u64) -> bool {
        usize::try_from(cluster / self.per_block()).ok().and_then(|i| self.table.get(i)).is_some_and(|o| *o != 0)
    }

    /// Makes a new block at host cluster `at` for the count of `cluster`. Its own count is the caller's work.
    pub fn add_block(&mut self, cluster: u64, at: u64) {
        let index = cluster / self.per_block();
        let offset = at << self.cluster_bits;
        if let Some(entry) = usize::try_from(index).ok().and_then(|i| self.table.get_mut(i)) {
            *entry = offset;
            self.changed.insert(index);
            self.blocks.insert(index, Block::fresh(offset, vec![0; self.cluster() as usize]));
        }
    }

    /// Enlarges the table to `entries`; its new place is set by [`Refcounts::move_table`].
    ///
    /// Errors: more than 8 MiB.
    pub fn enlarge(&mut self, entries: u64) -> Result<()> {
        if entries * 8 > MAX_REFTABLE_BYTES {
            return Err(Error::unsupported("the image has no room for more refcounts")
                .hint("convert it to an image with larger clusters or narrower refcounts"));
        }
        self.table.resize(entries as usize, 0);
        Ok(())
    }

    /// Puts the whole table at `offset`, free until now.
    pub fn move_table(&mut self, offset: u64) {
        self.table_offset = offset;
        self.moved = true;
    }

    fn block(&mut self, index: u64) -> Result<Option<&mut Block>> {
        let Some(offset) = usize::try_from(index).ok().and_then(|i| self.table.get(i)).copied().filter(|o| *o != 0) else {
            return Ok(None);
        };
        if !self.blocks.contains_key(&index) {
            self.trim();
        }
        let block = match self.blocks.entry(index) {
            std::collections::hash_map::Entry::Occupied(e) => e.into_mut(),
            std::collections::hash_map::Entry::Vacant(e) => e.insert(
                Block::read(self.dev.as_ref(), offset, 1 << self.cluster_bits).map_err(|e| e.op("read a refcount block"))?,
            ),
        };
        Ok(Some(block))
    }

    /// The count of `cluster`; 0 where there is no block.
    pub fn get(&mut self, cluster: u64) -> Result<u64> {
        let (per, order) = (self.per_block(), self.order);
        let block = self.block(cluster / per)?;
        Ok(block.and_then(|b| count_at(b.bytes(), order, cluster % per)).unwrap_or(0))
    }

    /// Sets the count of `cluster`, whose block is there.
    ///
    /// Errors: `Unsupported` when the count is too large for the image.
    pub fn set(&mut self, cluster: u64, count: u64) -> Result<()> {
        if count > self.max() {
            return Err(Error::unsupported(format!(
                "a cluster would be used {count} times, and this image counts to {}",
                self.max()
            ))
            .hint("convert it to an image with wider refcounts (-o refcount_bits=16)"));
        }
        let (per, order) = (self.per_block(), self.order);
        let index = cluster % per;
        let Some(block) = self.block(cluster / per)? else {
            return Err(Error::corrupt(format!("cluster {cluster} has no refcount"))
                .hint("look with cowshed check, repair with check -r all"));
        };
        let (at, len) = field(order, index);
        let mut bytes = block.bytes().get(at..at + len).unwrap_or_default().to_vec();
        put_field(&mut bytes, order, index, count);
        block.put(at, &bytes);
        Ok(())
    }

    /// Adds `by` to the count of `cluster`.
    ///
    /// Errors: as [`Refcounts::set`]; `Corrupt` when it would go below zero.
    pub fn change(&mut self, cluster: u64, by: i64) -> Result<u64> {
        let now = self.get(cluster)?.checked_add_signed(by).ok_or_else(|| {
            Error::corrupt(format!("cluster {cluster} is used more often than its refcount says"))
                .hint("look with cowshed check, repair with check -r all")
        })?;
        self.set(cluster, now)?;
        Ok(now)
    }

    /// Indices of changed blocks that the file points to.
    pub fn changed_blocks(&self) -> Vec<u64> {
        let mut list: Vec<u64> = self.blocks.iter().filter(|(_, b)| b.is_dirty() && !b.fresh).map(|(i, _)| *i).collect();
        list.sort_unstable();
        list
    }

    /// Puts block `index`, which is in memory, at host cluster `at`, free until now; where it was, in bytes.
    pub fn move_block(&mut self, index: u64, at: u64) -> Option<u64> {
        let offset = at << self.cluster_bits;
        let entry = self.table.get_mut(usize::try_from(index).ok()?)?;
        let block = self.blocks.get_mut(&index)?;
        *block = Block::fresh(offset, block.bytes().to_vec());
        self.changed.insert(index);
        Some(std::mem::replace(entry, offset))
    }

    /// The blocks that count nothing.
    pub fn idle_blocks(&mut self) -> Result<Vec<u64>> {
        let mut idle = Vec::new();
        for index in 0..self.capacity() {
            if self.block(index)?.is_some_and(|b| is_zero(b.bytes())) {
                idle.push(index);
            }
        }
        Ok(idle)
    }

    /// Lets go of block `index`; where it was, in bytes.
    pub fn remove_block(&mut self, index: u64) -> Option<u64> {
        let entry = self.table.get_mut(usize::try_from(index).ok()?)?;
        self.changed.insert(index);
        self.blocks.remove(&index);
        Some(std::mem::take(entry)).filter(|at| *at != 0)
    }

    /// Entries of a table, in whole clusters, that has all blocks but those of `without`, which ascend.
    pub fn needed(&self, without: &[u64]) -> u64 {
        let last = (0u64..).zip(&self.table).filter(|(i, at)| **at != 0 && without.binary_search(i).is_err()).last();
        let entries = last.map_or(1, |(i, _)| i + 1);
        entries.next_multiple_of(self.cluster() / 8).min(self.capacity())
    }

    /// Cuts the table to `entries`; its new place is set by [`Refcounts::move_table`].
    pub fn shorten(&mut self, entries: u64) {
        self.table.truncate(entries as usize);
        self.changed.retain(|index| *index < entries);
    }

    /// Takes the blocks that lie at `offset` or behind it for changed.
    pub fn touch_behind(&mut self, offset: u64) -> Result<()> {
        let behind: Vec<u64> = (0..).zip(&self.table).filter(|(_, at)| **at >= offset).map(|(index, _)| index).collect();
        for index in behind {
            if let Some(block) = self.block(index)? {
                let first = block.bytes().first().copied().unwrap_or(0);
                block.put(0, &[first]);
            }
        }
        Ok(())
    }

    /// The table is on its way to a new place.
    pub fn is_moved(&self) -> bool {
        self.moved
    }

    /// Writes what nothing in the file points to yet: new blocks, and the table in a new place.
    pub fn write_unreachable(&mut self, dev: &dyn WriteAt) -> Result<()> {
        for block in self.blocks.values_mut().filter(|b| b.fresh) {
            block.write(dev)?;
        }
        if self.moved {
            let mut bytes: Vec<u8> = self.table.iter().flat_map(|e| e.to_be_bytes()).collect();
            bytes.resize((self.table_clusters() << self.cluster_bits) as usize, 0);
            dev.write_at(self.table_offset, &bytes)?;
        }
        Ok(())
    }

    /// Writes changed blocks that the file points to already; true when there were any.
    pub fn write_blocks(&mut self, dev: &dyn WriteAt) -> Result<bool> {
        let mut any = false;
        let mut changed: Vec<_> = self.blocks.values_mut().filter(|b| b.is_dirty() && !b.fresh).collect();
        changed.sort_unstable_by_key(|b| b.offset);
        for block in changed {
            block.write(dev)?;
            any = true;
        }
        Ok(any)
    }

    /// Links new blocks: in place, or by the header's pointer when the table was moved. True when anything was written.
    pub fn write_links(&mut self, dev: &dyn WriteAt) -> Result<bool> {
        if self.moved {
            let mut pointer = self.table_offset.to_be_bytes().to_vec();
            pointer.extend_from_slice(&(self.table_clusters() as u32).to_be_bytes());
            dev.write_at(48, &pointer)?;
        } else {
            for &index in &self.changed {
                let entry = self.table.get(index as usize).copied().unwrap_or(0);
                dev.write_at(self.table_offset + index * 8, &entry.to_be_bytes())?;
            }
        }
        let any = self.moved || !self.changed.is_empty();
        self.linked();
        Ok(any)
    }

    /// Everything is reachable now.
    pub fn linked(&mut self) {
        self.moved = false;
        self.changed.clear();
        for block in self.blocks.values_mut() {
            block.fresh = false;
        }
    }

    /// Forgets unchanged blocks when there are too many.
    pub fn trim(&mut self) {
        if (self.blocks.len() as u64) << self.cluster_bits > KEEP {
            self.blocks.retain(|_, b| b.is_dirty() || b.fresh);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::io::memory::Memory;

    #[test]
    fn counts_of_every_width_keep_their_neighbours() {
        for order in 0..=6 {
            let mut header = crate::engine::format::qcow2::header::tests::sample();
            header.refcount_order = order;
            let mut r = Refcounts::empty(Arc::new(Memory::new(Vec::new())), &header);
            r.enlarge(8192).unwrap();
            r.add_block(0, 1);
            for cluster in 0..100 {
                r.set(cluster, (cluster * 7) & r.max()).unwrap();
            }
            for cluster in 0..100 {
                assert_eq!(r.get(cluster).unwrap(), (cluster * 7) & r.max(), "{order} {cluster}");
            }
            if order < 6 {
                assert!(r.set(3, r.max() + 1).is_err());
            }
        }
        // The specification: sub-byte counts start at the low bits.
        assert_eq!(
            (count_at(&[0b0000_0010], 0, 1), count_at(&[0x21], 2, 1), count_at(&[1, 2], 4, 0)),
            (Some(1), Some(2), Some(0x102))
        );
    }
}
