//! A range of another device seen as a device: a partition, an extent of a flat disk, the guest data of a fixed VHD.

use std::path::Path;

use super::{Device, HostRange, ReadAt, past_end};
use crate::engine::error::Result;

/// `len` bytes of `inner` from `start` on.
pub struct Window {
    inner: Device,
    start: u64,
    len: u64,
}

impl Window {
    /// A window of `len` bytes; it may reach past the end of `inner`, where reads then fail as truncated.
    pub fn new(inner: Device, start: u64, len: u64) -> Self {
        Window { inner, start, len: len.min(u64::MAX - start) }
    }
}

impl ReadAt for Window {
    fn len(&self) -> u64 {
        self.len
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
            return Err(past_end(self, offset, buf.len() as u64));
        }
        self.inner.read_at(self.start + offset, buf)
    }
    fn path(&self) -> Option<&Path> {
        self.inner.path()
    }
    fn host_range(&self, offset: u64, max: u64) -> Result<HostRange> {
        self.inner.host_range(self.start.saturating_add(offset), max.min(self.len.saturating_sub(offset)).max(1))
    }
}
