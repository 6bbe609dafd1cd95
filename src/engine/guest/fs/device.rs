//! Our devices in the clothes of the filesystem crates' device traits. Read only.

use std::io::{self, Read, Seek, SeekFrom, Write};

use crate::engine::io::{Device, read_padded};

/// A device for the `rust-fs-*` crates.
pub(super) struct Reader(pub(super) Device);

impl fs_core::BlockRead for Reader {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> fs_core::Result<()> {
        self.0.read_at(offset, buf).map_err(|e| fs_core::Error::Io(io::Error::other(e.to_string())))
    }
    fn size_bytes(&self) -> u64 {
        self.0.len()
    }
}

impl fs_ext4::block_io::BlockDevice for Reader {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> fs_ext4::error::Result<()> {
        self.0.read_at(offset, buf).map_err(|e| fs_ext4::error::Error::Io(io::Error::other(e.to_string())))
    }
    fn size_bytes(&self) -> u64 {
        self.0.len()
    }
}

/// A device as a stream, for crates that seek. Writing is refused.
pub(super) struct Stream {
    dev: Device,
    at: u64,
}

impl Stream {
    pub(super) fn new(dev: Device) -> Self {
        Stream { dev, at: 0 }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.dev.len().saturating_sub(self.at).min(buf.len() as u64) as usize;
        let part = buf.get_mut(..n).unwrap_or_default();
        read_padded(self.dev.as_ref(), self.at, part).map_err(|e| io::Error::other(e.to_string()))?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Stream {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(n) => Some(n),
            SeekFrom::End(n) => self.dev.len().checked_add_signed(n),
            SeekFrom::Current(n) => self.at.checked_add_signed(n),
        };
        self.at = at.ok_or_else(|| io::Error::other("seek before the beginning"))?;
        Ok(self.at)
    }
}

impl Write for Stream {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem))
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
