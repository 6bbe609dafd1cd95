//! Making an image file shorter in place: what lies behind the space that is really used moves into free clusters before it, and the
//! tail of the file is cut.
//!
//! A cluster moves as a guest's write does: a copy in a free cluster, then the table entry, then the count of the old one, each durable
//! before the next. A crash leaves each cluster in its old place or in its new one, and leaks at worst. Clusters that snapshots share
//! stay where they are, as several tables point to them; so do compressed ones, which share clusters among themselves, and the tables of
//! the image as a whole.

use crate::engine::error::{Context, Result};
use crate::engine::io::read_padded;

use super::block::Block;
use super::tables::{COMPRESSED, COPIED, OFFSET};
use super::writer::{Shared, State};

/// Clusters moved between two flushes.
const AT_ONCE: usize = 1024;
/// Times that all tables are gone through, at most.
const PASSES: usize = 4;

/// Where the move stands.
struct Course {
    /// Clusters from this one on are moved.
    limit: u64,
    moved: u64,
    since: usize,
}

impl Shared {
    /// Moves and cuts; `tick` is asked between the steps whether to go on. The clusters that were moved.
    pub fn compact(&self, tick: &dyn Fn() -> Result<()>) -> Result<u64> {
        let mut s = self.change()?;
        self.flush(&mut s)?;
        let mut course = Course { limit: 0, moved: 0, since: 0 };
        // What found no place before it moves to places that the pass before made free.
        for _ in 0..PASSES {
            let before = course.moved;
            course.limit = s.alloc.count_used(self.dev.len().div_ceil(self.geometry.cluster()))?;
            for index in 0..s.l1.len() {
                self.move_table(&mut s, index, &mut course)?;
                self.move_clusters(&mut s, index as u64, &mut course, tick)?;
                self.relieve(&mut s)?;
            }
            s.pack = None;
            self.flush(&mut s)?;
            if course.moved == before {
                break;
            }
        }
        self.cut_tail(&mut s)?;
        Ok(course.moved)
    }

    /// Cuts the file behind the last cluster in use.
    pub(super) fn cut_tail(&self, s: &mut State) -> Result<()> {
        self.dev.flush()?;
        let len = self.dev.len();
        let end = s.alloc.used_end(len)?;
        if end < len && self.dev.as_file().is_none_or(|f| !f.is_block_device()) {
            self.dev.set_len(end)?;
            self.dev.flush()?;
        }
        Ok(())
    }

    /// Moves the L2 table of L1 entry `index`, where it lies behind the limit and nobody shares it.
    fn move_table(&self, s: &mut State, index: usize, course: &mut Course) -> Result<()> {
        let g = self.geometry;
        let entry = s.l1.get(index).copied().unwrap_or(0);
        let Some(old) = g.l2_offset(entry)?.filter(|o| entry & COPIED != 0 && o >> g.cluster_bits >= course.limit) else {
            return Ok(());
        };
        let Some(bytes) = self.table(s, index as u64)? else { return Ok(()) };
        let new = s.alloc.metadata_run(1)?;
        if new >= old {
            s.alloc.free(new, 1);
            return Ok(());
        }
        s.tables.insert(index as u64, Block::fresh(new, bytes.to_vec()));
        if let Some(entry) = s.l1.get_mut(index) {
            *entry = new | COPIED;
        }
        s.l1_changed.insert(index);
        s.alloc.free(old, 1);
        course.moved += 1;
        Ok(())
    }

    fn move_clusters(&self, s: &mut State, index: u64, course: &mut Course, tick: &dyn Fn() -> Result<()>) -> Result<()> {
        let g = self.geometry;
        let Some(table) = self.table(s, index)? else { return Ok(()) };
        for within in (0..g.l2_span()).step_by(g.cluster() as usize) {
            let (entry, bitmap) = g.entry(&table, within)?;
            let at = index * g.l2_span() + within;
            if self.move_cluster(s, at, entry, bitmap, course.limit)? {
                course.moved += 1;
                course.since += 1;
            }
            if course.since >= AT_ONCE {
                course.since = 0;
                self.flush(s)?;
                tick()?;
            }
        }
        tick()
    }

    /// Moves a cluster stored plainly, where it lies behind the limit and is this disk's alone.
    fn move_cluster(&self, s: &mut State, at: u64, entry: u64, bitmap: u64, limit: u64) -> Result<bool> {
        let g = self.geometry;
        let old = entry & OFFSET;
        if self.data.is_some() || entry & COMPRESSED != 0 || old == 0 || entry & COPIED == 0 || old >> g.cluster_bits < limit {
            return Ok(false);
        }
        let (new, _) = s.alloc.data_run(1)?;
        if new >= old {
            s.alloc.free(new, 1);
            return Ok(false);
        }
        let mut bytes = vec![0u8; g.cluster() as usize];
        read_padded(self.dev.as_ref(), old, &mut bytes)?;
        let written = self.dev.write_at(new, &bytes).op("move a cluster");
        if let Err(e) = written {
            s.alloc.free(new, 1);
            return Err(e);
        }
        self.set_entry(s, at, entry & !OFFSET | new, bitmap)?;
        Ok(true)
    }
}
