//! Whether an image was given its clusters without their content (metadata preallocation): then what its tables call data lies
//! in holes of the host file, and only the host can tell which. Reads the refcount table, and changes nothing.

use crate::engine::error::Result;
use crate::engine::io::bytes::be64;
use crate::engine::io::{Device, read_up_to, read_vec};
use crate::engine::limits::MAX_REFTABLE_BYTES;

use super::header::Header;
use super::tables::OFFSET;

/// Where the refcounts are and how wide.
#[derive(Debug, Clone, Copy)]
pub struct Refcounts {
    table: u64,
    table_len: u64,
    order: u32,
    cluster: u64,
}

impl Refcounts {
    /// Those of `header`'s image.
    pub fn of(header: &Header) -> Self {
        Refcounts {
            table: header.reftable_offset,
            table_len: u64::from(header.reftable_clusters) << header.cluster_bits,
            order: header.refcount_order,
            cluster: 1 << header.cluster_bits,
        }
    }

    /// True when clearly more clusters are counted as used than the host stores: a tenth more, and at least two. It is the
    /// measure QEMU goes by, so that maps agree.
    pub fn exceed_storage(&self, dev: &Device) -> Result<bool> {
        let stored = dev.allocated() / self.cluster;
        let enough = (stored.saturating_mul(10) / 9).max(stored.saturating_add(2));
        let clusters = dev.len().div_ceil(self.cluster);
        if enough > clusters {
            return Ok(false);
        }
        let table = read_vec(dev.as_ref(), self.table, self.table_len, MAX_REFTABLE_BYTES)?;
        let per_block = (self.cluster * 8) >> self.order;
        let (mut used, mut first) = (0, 0);
        for i in 0..table.len() / 8 {
            if first >= clusters || used >= enough {
                break;
            }
            let block = be64(&table, i * 8).unwrap_or(0) & OFFSET;
            if block != 0 {
                let bytes = read_up_to(dev.as_ref(), block, self.cluster as usize)?;
                used += count_used(&bytes, self.order, (clusters - first).min(per_block));
            }
            first += per_block;
        }
        Ok(used >= enough)
    }
}

/// How many of the first `limit` refcounts of a block are not zero. Counts narrower than a byte begin at its low bits.
fn count_used(block: &[u8], order: u32, limit: u64) -> u64 {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if order >= 3 {
        return block.chunks(1 << (order - 3)).take(limit).filter(|c| c.iter().any(|&b| b != 0)).count() as u64;
    }
    let (bits, mask) = (1 << order, (1u8 << (1 << order)) - 1);
    let fields = block.iter().flat_map(|&b| (0..8 / bits).map(move |i| b >> (i * bits) & mask));
    fields.take(limit).filter(|&f| f != 0).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_every_width() {
        assert_eq!(count_used(&[0b1000_0101, 1], 0, 9), 4);
        assert_eq!(count_used(&[0b1000_0101, 1], 0, 3), 2);
        assert_eq!(count_used(&[0b1100_0001, 0], 1, 100), 2);
        assert_eq!(count_used(&[0x10, 0x01], 2, 3), 2);
        assert_eq!(count_used(&[1, 0, 7], 3, 100), 2);
        assert_eq!(count_used(&[0, 1, 0, 0], 4, 2), 1);
        assert_eq!(count_used(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], 6, 2), 1);
    }
}
