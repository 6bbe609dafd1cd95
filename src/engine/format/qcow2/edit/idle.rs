//! Tables longer than what is in them: refcount blocks that count nothing, and refcount and L1 tables with an empty end. They are what
//! a longer file and a larger disk leave behind.

use crate::engine::error::Result;

use super::Editor;

impl Editor {
    /// Cuts them, in one switch where there are any.
    pub(super) fn cut_idle(&mut self) -> Result<()> {
        let idle = self.alloc.refs.idle_blocks()?;
        let entries = self.alloc.refs.needed(&idle);
        let l1 = self.l1_in_use();
        let l1_clusters = |entries: usize| (entries as u64 * 8).div_ceil(self.geometry.cluster());
        let l1_shorter = l1_clusters(l1) < l1_clusters(self.l1.len());
        if idle.is_empty() && entries == self.alloc.refs.capacity() && !l1_shorter {
            return Ok(());
        }
        self.change(|e| {
            for index in idle {
                if let Some(at) = e.alloc.refs.remove_block(index) {
                    e.alloc.drop_use(e.cluster(at), 1)?;
                }
            }
            if l1_shorter {
                e.place_l1(e.l1.get(..l1).unwrap_or_default().to_vec())?;
            }
            e.shorten_refcount_table(entries)
        })
    }

    /// Entries of the active L1 table up to the last that points somewhere or that the disk needs.
    fn l1_in_use(&self) -> usize {
        let last = self.l1.iter().rposition(|entry| *entry != 0).map_or(0, |i| i + 1);
        last.max(Self::l1_needed(&self.header, self.header.size)).clamp(1, self.l1.len().max(1))
    }

    /// Moves the refcount table to a place of `entries`, behind which it has none.
    fn shorten_refcount_table(&mut self, entries: u64) -> Result<()> {
        let (old, clusters) = (self.alloc.refs.table_offset, self.alloc.refs.table_clusters());
        // Where room was made for more counts meanwhile, it has its place.
        if self.alloc.refs.is_moved() || entries >= self.alloc.refs.capacity() {
            return Ok(());
        }
        let len = (entries * 8).next_multiple_of(self.geometry.cluster());
        let at = self.alloc.metadata_run(len >> self.header.cluster_bits)?;
        if self.alloc.refs.is_moved() || self.alloc.refs.needed(&[]) > entries {
            return self.alloc.drop_range(at, len);
        }
        self.alloc.refs.shorten(entries);
        self.alloc.refs.move_table(at);
        self.alloc.drop_range(old, clusters << self.header.cluster_bits)
    }
}
