//! Devices whose writes are noted: who looked at a file before it was changed need only look again where it was written.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::file::{FileDevice, FileId};
use super::{HostRange, ReadAt, WriteAt, WriteDevice};
use crate::engine::error::Result;

/// Start and end of each range that was written.
type Ranges = Vec<(u64, u64)>;

/// Which bytes of which host files were written, or were to be when that failed.
#[derive(Debug, Clone, Default)]
pub struct Written(Arc<Mutex<HashMap<FileId, Ranges>>>);

impl Written {
    /// `dev`, with its writes noted here. A device that is no host file stays as it is.
    pub fn noting(&self, dev: WriteDevice) -> Result<WriteDevice> {
        let Some(file) = dev.as_file() else { return Ok(dev) };
        let file = file.id()?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(file).or_default();
        Ok(Arc::new(Watched { inner: dev, file, written: self.clone() }))
    }

    /// The ranges (start, end) of `file` that were written, in no order. `None`: its writes are not noted.
    pub fn of(&self, file: FileId) -> Option<Vec<(u64, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&file).cloned()
    }

    /// Notes a write of `start..end` to a file of `len` bytes: what lies between its end and the write comes into being too.
    fn note(&self, file: FileId, len: u64, start: u64, end: u64) {
        let start = start.min(len);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ranges = all.entry(file).or_default();
        match ranges.last_mut() {
            Some((s, e)) if *s <= start && start <= *e => *e = (*e).max(end),
            _ => ranges.push((start, end)),
        }
    }
}

struct Watched {
    inner: WriteDevice,
    file: FileId,
    written: Written,
}

impl ReadAt for Watched {
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.inner.read_at(offset, buf)
    }
    fn path(&self) -> Option<&Path> {
        self.inner.path()
    }
    fn host_range(&self, offset: u64, max: u64) -> Result<HostRange> {
        self.inner.host_range(offset, max)
    }
    fn allocated(&self) -> u64 {
        self.inner.allocated()
    }
    /// For questions about the file; nobody writes through it.
    fn as_file(&self) -> Option<&FileDevice> {
        self.inner.as_file()
    }
}

impl WriteAt for Watched {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.written.note(self.file, self.len(), offset, offset.saturating_add(buf.len() as u64));
        self.inner.write_at(offset, buf)
    }
    fn flush(&self) -> Result<()> {
        self.inner.flush()
    }
    fn set_len(&self, len: u64) -> Result<()> {
        let now = self.len();
        self.written.note(self.file, now, now.min(len), now.max(len));
        self.inner.set_len(len)
    }
    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.written.note(self.file, self.len(), offset, offset.saturating_add(len));
        self.inner.write_zeroes(offset, len)
    }
    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.written.note(self.file, self.len(), offset, offset.saturating_add(len));
        self.inner.allocate(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_differs_afterwards_was_noted(writes in prop::collection::vec((0u8..4, 0u64..30_000, 0u64..9000), 0..12)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a");
            let before: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
            std::fs::write(&path, &before).unwrap();
            let written = Written::default();
            let dev = written.noting(Arc::new(FileDevice::open_rw(&path).unwrap())).unwrap();
            for (how, at, len) in writes {
                match how {
                    0 => dev.write_at(at, &vec![9; len as usize]).unwrap(),
                    1 => dev.write_zeroes(at, len).unwrap(),
                    2 => dev.set_len(at).unwrap(),
                    _ => drop(dev.allocate(at, len)),
                }
            }
            dev.flush().unwrap();
            let after = std::fs::read(&path).unwrap();
            let noted = written.of(FileDevice::open(&path).unwrap().id().unwrap()).unwrap();
            for i in 0..before.len().max(after.len()) {
                let known = noted.iter().any(|(s, e)| (*s..*e).contains(&(i as u64)));
                prop_assert!(known || before.get(i) == after.get(i), "byte {i}: {noted:?}");
            }
        }
    }
}
