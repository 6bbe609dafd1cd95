//! A device in memory: for tests, for replayed logs and for structures decoded whole.

use std::sync::RwLock;

use super::{HostRange, ReadAt, WriteAt, past_end};
use crate::engine::error::{Error, Result};

/// Bytes in memory, growing as they are written.
#[derive(Debug, Default)]
pub struct Memory(RwLock<Vec<u8>>);

impl Memory {
    /// A device holding `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Memory(RwLock::new(bytes))
    }
    /// A copy of all bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        self.get().clone()
    }
    fn get(&self) -> std::sync::RwLockReadGuard<'_, Vec<u8>> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    fn get_mut(&self) -> std::sync::RwLockWriteGuard<'_, Vec<u8>> {
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl ReadAt for Memory {
    fn len(&self) -> u64 {
        self.get().len() as u64
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let data = self.get();
        let range = usize::try_from(offset).ok().and_then(|o| Some(o..o.checked_add(buf.len())?));
        match range.and_then(|r| data.get(r)) {
            Some(src) => {
                buf.copy_from_slice(src);
                Ok(())
            }
            None => {
                drop(data);
                Err(past_end(self, offset, buf.len() as u64))
            }
        }
    }
    fn host_range(&self, offset: u64, max: u64) -> Result<HostRange> {
        Ok(HostRange { len: max.min(self.len().saturating_sub(offset)).max(1), hole: false })
    }
}

impl WriteAt for Memory {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let start = usize::try_from(offset).map_err(|_| Error::usage("offset too large for memory"))?;
        let end = start.checked_add(buf.len()).ok_or_else(|| Error::usage("offset too large for memory"))?;
        let mut data = self.get_mut();
        if data.len() < end {
            data.resize(end, 0);
        }
        if let Some(dst) = data.get_mut(start..end) {
            dst.copy_from_slice(buf);
        }
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.get_mut().resize(usize::try_from(len).map_err(|_| Error::usage("too large for memory"))?, 0);
        Ok(())
    }
}
