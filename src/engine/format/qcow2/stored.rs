//! The refcounts as the file has them, read block by block and kept within bounds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::header::Header;
use super::refcounts::count_at;
use super::tables::OFFSET;
use crate::engine::io::bytes::be64;
use crate::engine::io::{Device, read_padded, read_vec};
use crate::engine::limits::MAX_REFTABLE_BYTES;

/// Bytes of refcount blocks kept, at most.
const KEEP: u64 = 32 << 20;

/// The refcount table, and blocks as they are asked for.
pub struct Stored {
    dev: Device,
    order: u32,
    cluster_bits: u32,
    /// Raw table entries; none when the table cannot be read.
    pub table: Vec<u64>,
    /// Why the table cannot be read.
    pub unreadable: Option<String>,
    cache: Mutex<HashMap<u64, Arc<Vec<u8>>>>,
}

/// The block a thread looked at last: counts are asked for in runs.
#[derive(Default)]
pub struct Last(Option<(u64, Option<Arc<Vec<u8>>>)>);

/// The stored counts from a cluster to the end of its block.
pub struct Span {
    block: Option<Arc<Vec<u8>>>,
    order: u32,
    index: u64,
}

impl Span {
    /// There is no block: all counts are zero.
    pub fn is_none(&self) -> bool {
        self.block.is_none()
    }
    /// The count of the cluster `i` behind the first; 0 where there is no block.
    pub fn get(&self, i: u64) -> u64 {
        match &self.block {
            None => 0,
            // The usual width, without the general way's detours.
            Some(b) if self.order == 4 => {
                let at = (self.index + i) as usize * 2;
                b.get(at..at + 2).map_or(0, |c| c.iter().fold(0, |v, x| v << 8 | u64::from(*x)))
            }
            Some(b) => count_at(b, self.order, self.index + i).unwrap_or(0),
        }
    }
}

impl Stored {
    /// Reads the refcount table. One that cannot be read has no counts.
    pub fn open(dev: Device, header: &Header) -> Self {
        let len = u64::from(header.reftable_clusters) << header.cluster_bits;
        let (table, unreadable) = match read_vec(dev.as_ref(), header.reftable_offset, len, MAX_REFTABLE_BYTES) {
            Ok(bytes) => ((0..bytes.len() / 8).filter_map(|i| be64(&bytes, i * 8)).collect(), None),
            Err(e) => (Vec::new(), Some(e.why().to_string())),
        };
        let (order, cluster_bits) = (header.refcount_order, header.cluster_bits);
        Stored { dev, order, cluster_bits, table, unreadable, cache: Mutex::default() }
    }

    /// Counts in a block.
    pub fn per_block(&self) -> u64 {
        1 << (self.cluster_bits + 3 - self.order)
    }

    /// Where block `n` is, when the table has a believable place for it.
    pub fn block_offset(&self, n: u64) -> Option<u64> {
        let entry = *self.table.get(usize::try_from(n).ok()?)?;
        let offset = entry & OFFSET;
        let good = offset != 0 && entry == offset && offset.trailing_zeros() >= self.cluster_bits && offset < self.dev.len();
        good.then_some(offset)
    }

    /// The first block at or after number `n`.
    pub fn next_block(&self, n: u64) -> Option<u64> {
        (n..self.table.len() as u64).find(|b| self.block_offset(*b).is_some())
    }

    fn block(&self, n: u64) -> Option<Arc<Vec<u8>>> {
        let offset = self.block_offset(n)?;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(b) = cache.get(&n) {
            return Some(b.clone());
        }
        let mut bytes = vec![0u8; 1 << self.cluster_bits];
        read_padded(self.dev.as_ref(), offset, &mut bytes).ok()?;
        let block = Arc::new(bytes);
        if (cache.len() as u64) << self.cluster_bits >= KEEP {
            cache.clear();
        }
        cache.insert(n, block.clone());
        Some(block)
    }

    /// The counts from `cluster` to the end of its block, which are the last looked at from now on.
    pub fn span_of(&self, cluster: u64, last: &mut Last) -> Span {
        let (n, index) = (cluster / self.per_block(), cluster % self.per_block());
        if last.0.as_ref().is_none_or(|(at, _)| *at != n) {
            last.0 = Some((n, self.block(n)));
        }
        Span { block: last.0.as_ref().and_then(|(_, b)| b.clone()), order: self.order, index }
    }

    /// The same without a memory.
    pub fn span(&self, cluster: u64) -> Span {
        self.span_of(cluster, &mut Last::default())
    }

    /// The stored count of `cluster`; 0 where there is no block.
    pub fn get(&self, cluster: u64, last: &mut Last) -> u64 {
        let (n, index) = (cluster / self.per_block(), cluster % self.per_block());
        if last.0.as_ref().is_none_or(|(at, _)| *at != n) {
            last.0 = Some((n, self.block(n)));
        }
        let block = last.0.as_ref().and_then(|(_, b)| b.as_ref());
        block.and_then(|b| count_at(b, self.order, index)).unwrap_or(0)
    }
}
