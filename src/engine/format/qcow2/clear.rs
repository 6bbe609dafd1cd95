//! Letting go of everything the active disk holds: what the image stands on shows through. Snapshots keep what is theirs.
//!
//! The tables are let go of one after the other, and each flush takes them out of the file in the writer's order: at any cut a range
//! is still held or let go of, and clusters are leaked at worst. At the end the tail of the file is cut.

use crate::engine::error::Result;

use super::writer::{Shared, State};

/// Clusters let go of between two flushes, at most about: eight bytes of memory each.
const AT_ONCE: usize = 1 << 20;

impl Shared {
    /// See the module.
    pub fn clear(&self) -> Result<()> {
        let g = self.geometry;
        let mut s = self.change()?;
        for index in 0..s.l1.len() {
            let entry = s.l1.get(index).copied().unwrap_or(0);
            let Some(offset) = g.l2_offset(entry)? else { continue };
            if let Some(table) = self.table(&mut s, index as u64)? {
                for at in (0..g.l2_span()).step_by(g.cluster() as usize) {
                    let (entry, _) = g.entry(&table, at)?;
                    self.free_entry(&mut s, entry);
                }
            }
            s.alloc.free(offset, 1);
            s.tables.remove(&(index as u64));
            if let Some(entry) = s.l1.get_mut(index) {
                *entry = 0;
            }
            s.l1_changed.insert(index);
            if s.alloc.freed.len() > AT_ONCE {
                self.flush(&mut s)?;
            }
        }
        self.flush(&mut s)?;
        if let Some(data) = &self.data {
            data.write_zeroes(0, data.len())?;
            data.flush()?;
        }
        self.cut_tail(&mut s)
    }

    /// Cuts the file behind the last cluster in use.
    fn cut_tail(&self, s: &mut State) -> Result<()> {
        self.dev.flush()?;
        let len = self.dev.len();
        let end = s.alloc.used_end(len)?;
        if end < len && self.dev.as_file().is_none_or(|f| !f.is_block_device()) {
            self.dev.set_len(end)?;
            self.dev.flush()?;
        }
        Ok(())
    }
}
