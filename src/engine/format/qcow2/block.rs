//! A metadata cluster held in memory for writing: an L2 table or a refcount block, with what of it still has to reach the file.

use std::ops::Range;
use std::sync::Arc;

use crate::engine::error::Result;
use crate::engine::io::bytes::put;
use crate::engine::io::{ReadAt, WriteAt, read_vec, write_sparse};
use crate::engine::units::SECTOR;

/// A cluster of metadata. Readers may hold its bytes while it is changed: they keep what they saw.
#[derive(Debug, Clone)]
pub struct Block {
    /// Byte offset in the file.
    pub offset: u64,
    bytes: Arc<Vec<u8>>,
    dirty: Option<Range<usize>>,
    /// Nothing in the file points to it yet, so it may be written before everything else.
    pub fresh: bool,
}

impl Block {
    /// A new cluster at `offset`, holding `bytes`; all of it is to be written.
    pub fn fresh(offset: u64, bytes: Vec<u8>) -> Self {
        let dirty = Some(0..bytes.len());
        Block { offset, bytes: Arc::new(bytes), dirty, fresh: true }
    }
    /// The cluster of `len` bytes that the file has at `offset`.
    pub fn read(dev: &dyn ReadAt, offset: u64, len: u64) -> Result<Self> {
        let bytes = read_vec(dev, offset, len, len)?;
        Ok(Block { offset, bytes: Arc::new(bytes), dirty: None, fresh: false })
    }
    /// Its bytes now.
    pub fn bytes(&self) -> &Arc<Vec<u8>> {
        &self.bytes
    }
    /// Something in it is newer than the file.
    pub fn is_dirty(&self) -> bool {
        self.dirty.is_some()
    }
    /// Replaces the bytes at `at`.
    pub fn put(&mut self, at: usize, src: &[u8]) {
        if put(Arc::make_mut(&mut self.bytes).as_mut_slice(), at, src) {
            let end = at + src.len();
            self.dirty = Some(self.dirty.take().map_or(at..end, |d| d.start.min(at)..d.end.max(end)));
        }
    }
    /// Writes what is newer than the file, in whole sectors. On an error it stays to be written.
    pub fn write(&mut self, dev: &dyn WriteAt) -> Result<()> {
        let Some(d) = self.dirty.clone() else { return Ok(()) };
        let sector = SECTOR as usize;
        let span = d.start / sector * sector..d.end.next_multiple_of(sector).min(self.bytes.len());
        write_sparse(dev, self.offset + span.start as u64, self.bytes.get(span).unwrap_or_default())?;
        self.dirty = None;
        Ok(())
    }
}
