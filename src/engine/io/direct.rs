//! Direct I/O: large aligned transfers past the page cache, everything else through it. A wrapper around an open file, so that
//! formats and copies need not know.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::file::FileDevice;
use super::{HostRange, ReadAt, WriteAt, sys};
use crate::engine::error::{Context, Result};

/// Alignment of offset, length and memory that every disk takes.
pub const ALIGN: usize = 4096;
/// Transfers shorter than this go through the page cache: tables are read and written again soon.
const LARGE: usize = 64 << 10;

/// A file read and written directly where that pays.
#[derive(Debug)]
pub struct Direct {
    plain: FileDevice,
    /// The same file opened once more with `O_DIRECT`; `None` where the filesystem has none.
    direct: Option<File>,
    /// The filesystem said no after all.
    refused: AtomicBool,
}

impl Direct {
    /// `dev` once more, for reading.
    pub fn for_reading(dev: &FileDevice) -> Option<Direct> {
        let plain = FileDevice::from_file(dev.file().try_clone().ok()?, dev.path()?).ok()?;
        let direct = reopen(dev, false)?;
        Some(Direct { plain, direct: Some(direct), refused: AtomicBool::new(false) })
    }
    /// `dev`, for reading and writing; through the page cache where the filesystem has no direct I/O.
    pub fn for_writing(dev: FileDevice) -> Direct {
        let direct = reopen(&dev, true);
        Direct { plain: dev, direct, refused: AtomicBool::new(false) }
    }

    fn usable(&self, offset: u64, buf: &[u8]) -> Option<&File> {
        let aligned = offset.is_multiple_of(ALIGN as u64)
            && buf.len().is_multiple_of(ALIGN)
            && (buf.as_ptr() as usize).is_multiple_of(ALIGN)
            && buf.len() >= LARGE;
        self.direct.as_ref().filter(|_| aligned && !self.refused.load(Relaxed))
    }
}

/// Opens the file behind `dev` again, not its name, which may be another's by now.
fn reopen(dev: &FileDevice, write: bool) -> Option<File> {
    let path = format!("/proc/self/fd/{}", dev.file().as_raw_fd());
    OpenOptions::new().read(true).write(write).custom_flags(libc::O_CLOEXEC | libc::O_DIRECT).open(path).ok()
}

impl ReadAt for Direct {
    fn len(&self) -> u64 {
        self.plain.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if let Some(file) = self.usable(offset, buf) {
            // What is in memory already is cheaper copied than read again.
            let cached = sys::cached_bytes(self.plain.file(), offset, buf.len() as u64).unwrap_or(0);
            if cached < buf.len() as u64 {
                match file.read_exact_at(buf, offset) {
                    Ok(()) => return Ok(()),
                    Err(e) if e.raw_os_error() == Some(libc::EINVAL) => self.refused.store(true, Relaxed),
                    // The end of the file inside the range, or a bad sector: the plain way says which.
                    Err(_) => {}
                }
            }
        }
        self.plain.read_at(offset, buf)
    }
    fn path(&self) -> Option<&Path> {
        self.plain.path()
    }
    fn host_range(&self, offset: u64, max: u64) -> Result<HostRange> {
        self.plain.host_range(offset, max)
    }
    fn allocated(&self) -> u64 {
        self.plain.allocated()
    }
    fn as_file(&self) -> Option<&FileDevice> {
        Some(&self.plain)
    }
}

impl WriteAt for Direct {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        // An unaligned tail (the end of a disk) goes through the page cache, what is before it directly.
        let body = buf.len() / ALIGN * ALIGN;
        let (head, tail) = buf.split_at(body);
        if let Some(file) = self.usable(offset, head) {
            match file.write_all_at(head, offset) {
                Ok(()) if tail.is_empty() => return Ok(()),
                Ok(()) => return self.plain.write_at(offset + body as u64, tail),
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => self.refused.store(true, Relaxed),
                Err(e) => return Err(e).op("write").path(self.plain.path().unwrap_or(Path::new(""))).at(offset),
            }
        }
        self.plain.write_at(offset, buf)
    }
    fn flush(&self) -> Result<()> {
        self.plain.flush()
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.plain.set_len(len)
    }
    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.plain.write_zeroes(offset, len)
    }
    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.plain.allocate(offset, len)
    }
}

/// Memory aligned for direct I/O.
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// `len` zero bytes.
    pub fn new(len: usize) -> Buffer {
        let memory = vec![0u8; len + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        Buffer { memory, start, len }
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.memory.get(self.start..self.start + self.len).unwrap_or_default()
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.start + self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_was_written_at_any_alignment() {
        // In the build folder: /tmp may be a filesystem without direct I/O, which must work as well, but is not the point.
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_string() + "/target").unwrap();
        let dev = Direct::for_writing(FileDevice::create_new(dir.path().join("a")).unwrap());
        let mut buf = Buffer::new(256 << 10);
        assert!((buf.as_ptr() as usize).is_multiple_of(ALIGN));
        for (i, b) in buf.iter_mut().enumerate() {
            *b = (i / 7) as u8;
        }
        dev.write_at(0, &buf).unwrap();
        dev.write_at(buf.len() as u64, &buf[..200_001]).unwrap();
        dev.write_at(1000, &[9; 70_000]).unwrap();
        let mut expect = [&buf[..], &buf[..200_001]].concat();
        expect[1000..71_000].fill(9);
        let reader = Direct::for_reading(&FileDevice::open(dir.path().join("a")).unwrap()).unwrap();
        let mut out = Buffer::new(128 << 10);
        reader.read_at(4096, &mut out).unwrap();
        assert!(out[..] == expect[4096..4096 + (128 << 10)]);
        let mut odd = vec![0; expect.len() - 1];
        reader.read_at(1, &mut odd).unwrap();
        assert!(odd == expect[1..]);
        assert!(reader.read_at(expect.len() as u64 - 4096, &mut out).is_err());
    }
}
