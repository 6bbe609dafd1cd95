//! A host file or block device as a device. A regular file keeps its holes; an LVM volume is a raw image like any other.

use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{HostRange, ReadAt, WriteAt, past_end, sys};
use crate::engine::error::{Context, Error, ErrorKind, Result};

/// An open regular file or block device.
#[derive(Debug)]
pub struct FileDevice {
    file: File,
    path: PathBuf,
    block: bool,
    /// Length of a block device; a regular file is asked each time, as it may grow or shrink.
    block_len: u64,
}

/// What identifies a host file whatever it is called: device number and inode (for a block device its own number).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct FileId {
    /// `st_dev`, or `u64::MAX` for a block device.
    pub dev: u64,
    /// `st_ino`, or `st_rdev` of a block device.
    pub ino: u64,
}

impl FileId {
    /// The identity in `meta`.
    pub fn of(meta: &Metadata) -> Self {
        if meta.file_type().is_block_device() {
            FileId { dev: u64::MAX, ino: meta.rdev() }
        } else {
            FileId { dev: meta.dev(), ino: meta.ino() }
        }
    }
}

impl FileDevice {
    /// Opens an existing file or block device for reading. Folders, FIFOs, sockets and character devices are refused without
    /// being waited for.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path.as_ref(), false)
    }

    /// Opens an existing file or block device for reading and writing.
    pub fn open_rw(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path.as_ref(), true)
    }

    fn open_with(path: &Path, write: bool) -> Result<Self> {
        // Look before opening: opening a FIFO or a tape has effects of its own. O_NONBLOCK covers a swap in between.
        let meta = std::fs::metadata(path).op("open").path(path)?;
        refuse_odd(&meta, path)?;
        // On a block device this asks the system whether it is mounted, part of a volume group, …: such a one is never written.
        let alone = if write && meta.file_type().is_block_device() { libc::O_EXCL } else { 0 };
        let file = OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY | alone)
            .open(path)
            .map_err(|e| match e.raw_os_error() {
                Some(libc::EBUSY) => {
                    Error::new(ErrorKind::Locked, "it is in use by the system: mounted, or part of something larger")
                        .hint("unmount it, or take it out of what uses it")
                }
                _ => Error::from(e),
            })
            .op("open")
            .path(path)?;
        Self::from_file(file, path)
    }

    /// Creates a new, empty regular file for reading and writing; it is an error if there is one already.
    pub fn create_new(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(path)
            .op("create")
            .path(path)?;
        Self::from_file(file, path)
    }

    /// Takes an open file; `path` is for messages.
    pub fn from_file(file: File, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let meta = file.metadata().op("open").path(&path)?;
        refuse_odd(&meta, &path)?;
        let block = meta.file_type().is_block_device();
        let block_len = if block { sys::block_device_len(&file).op("ask the length").path(&path)? } else { 0 };
        Ok(FileDevice { file, path, block, block_len })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }
    /// True for a block device.
    pub fn is_block_device(&self) -> bool {
        self.block
    }
    /// Its identity on this host.
    pub fn id(&self) -> Result<FileId> {
        Ok(FileId::of(&self.file.metadata().path(&self.path)?))
    }
    fn place(&self, e: std::io::Error, op: &str, offset: u64) -> Error {
        Error::from(e).op(op).path(&self.path).at(offset)
    }
}

fn refuse_odd(meta: &Metadata, path: &Path) -> Result<()> {
    let t = meta.file_type();
    let what = if t.is_file() || t.is_block_device() {
        return Ok(());
    } else if t.is_dir() {
        "it is a folder"
    } else if t.is_fifo() {
        "it is a FIFO"
    } else if t.is_socket() {
        "it is a socket"
    } else {
        "it is a character device"
    };
    Err(Error::new(ErrorKind::Usage, format!("{what}, not a disk image")).op("open").path(path))
}

impl ReadAt for FileDevice {
    fn len(&self) -> u64 {
        if self.block { self.block_len } else { self.file.metadata().map(|m| m.len()).unwrap_or(0) }
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match self.file.read_exact_at(buf, offset) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Err(past_end(self, offset, buf.len() as u64)),
            Err(e) => Err(self.place(e, "read", offset)),
        }
    }
    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }
    fn host_range(&self, offset: u64, max: u64) -> Result<HostRange> {
        let left = self.len().saturating_sub(offset).min(max).max(1);
        if self.block {
            return Ok(HostRange { len: left, hole: false });
        }
        // A filesystem that does not know holes says EINVAL or calls everything data: both mean "stored".
        let data = match sys::seek_data_or_hole(&self.file, offset, true) {
            Ok(Some(p)) => p,
            Ok(None) => return Ok(HostRange { len: left, hole: true }),
            Err(_) => return Ok(HostRange { len: left, hole: false }),
        };
        if data > offset {
            return Ok(HostRange { len: (data - offset).min(left), hole: true });
        }
        let hole = sys::seek_data_or_hole(&self.file, offset, false).ok().flatten().unwrap_or(u64::MAX);
        Ok(HostRange { len: hole.saturating_sub(offset).clamp(1, left), hole: false })
    }
    fn allocated(&self) -> u64 {
        if self.block { self.block_len } else { self.file.metadata().map(|m| m.blocks() * 512).unwrap_or(0) }
    }
    fn as_file(&self) -> Option<&FileDevice> {
        Some(self)
    }
}

impl WriteAt for FileDevice {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.file.write_all_at(buf, offset).map_err(|e| self.place(e, "write", offset))
    }
    fn flush(&self) -> Result<()> {
        self.file.sync_data().op("flush").path(&self.path)
    }
    fn set_len(&self, len: u64) -> Result<()> {
        if self.block {
            return if len <= self.block_len {
                Ok(())
            } else {
                Err(Error::usage(format!("the device has {} bytes and {len} are needed", self.block_len))
                    .op("resize")
                    .path(&self.path))
            };
        }
        self.file.set_len(len).op("set the length").path(&self.path)
    }
    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        if self.block {
            if sys::block_zero_out(&self.file, offset, len).is_ok() {
                return Ok(());
            }
        } else {
            let end = offset.checked_add(len).ok_or_else(|| Error::usage("range past 2^64"))?;
            let now = self.len();
            let punched = offset >= now || sys::punch_hole(&self.file, offset, len.min(now - offset)).is_ok();
            if punched {
                return if end > now { self.set_len(end) } else { Ok(()) };
            }
        }
        write_zero_bytes(self, offset, len)
    }
    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        if self.block || len == 0 {
            return Ok(());
        }
        sys::reserve(&self.file, offset, len).map_err(|e| self.place(e, "reserve space", offset))
    }
}

/// Plain zeros, where the host has no holes.
fn write_zero_bytes(dev: &FileDevice, offset: u64, len: u64) -> Result<()> {
    let zeros = vec![0u8; len.min(1 << 20) as usize];
    let mut done = 0;
    while done < len {
        let n = (len - done).min(zeros.len() as u64);
        dev.write_at(offset + done, zeros.get(..n as usize).unwrap_or_default())?;
        done += n;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_told_from_data() {
        let dir = tempfile::tempdir().unwrap();
        let dev = FileDevice::create_new(dir.path().join("a")).unwrap();
        dev.set_len(1 << 20).unwrap();
        dev.write_at(256 << 10, &[1; 4096]).unwrap();
        let r = dev.host_range(0, u64::MAX).unwrap();
        assert_eq!(r, HostRange { len: 256 << 10, hole: true });
        assert!(!dev.host_range(256 << 10, u64::MAX).unwrap().hole);
        dev.write_zeroes(256 << 10, 2 << 20).unwrap();
        assert_eq!(dev.len(), (2 << 20) + (256 << 10));
        assert!(dev.host_range(256 << 10, u64::MAX).unwrap().hole);
    }

    #[test]
    fn odd_files_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let e = FileDevice::open(dir.path()).unwrap_err();
        assert_eq!(e.why(), "it is a folder, not a disk image");
        assert_eq!(FileDevice::open("/dev/null").unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(FileDevice::open(dir.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn reading_past_the_end_is_truncated_not_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let dev = FileDevice::create_new(dir.path().join("a")).unwrap();
        dev.write_at(0, &[7; 10]).unwrap();
        assert_eq!(dev.read_at(5, &mut [0; 10]).unwrap_err().kind(), ErrorKind::Truncated);
    }
}
