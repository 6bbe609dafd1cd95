//! Our devices in the clothes of the filesystem crates' device traits.

use std::io;

use crate::engine::io::{Device, WriteDevice};

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

/// The same for writing.
pub(super) struct Writer(pub(super) WriteDevice);

impl fs_ext4::block_io::BlockDevice for Writer {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> fs_ext4::error::Result<()> {
        self.0.read_at(offset, buf).map_err(|e| fs_ext4::error::Error::Io(io::Error::other(e.to_string())))
    }
    fn size_bytes(&self) -> u64 {
        self.0.len()
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> fs_ext4::error::Result<()> {
        self.0.write_at(offset, buf).map_err(|e| fs_ext4::error::Error::Io(io::Error::other(e.to_string())))
    }
    fn flush(&self) -> fs_ext4::error::Result<()> {
        self.0.flush().map_err(|e| fs_ext4::error::Error::Io(io::Error::other(e.to_string())))
    }
    fn is_writable(&self) -> bool {
        true
    }
}

impl fs_core::BlockRead for Writer {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> fs_core::Result<()> {
        self.0.read_at(offset, buf).map_err(|e| fs_core::Error::Io(io::Error::other(e.to_string())))
    }
    fn size_bytes(&self) -> u64 {
        self.0.len()
    }
}

impl fs_core::BlockDevice for Writer {
    fn write_at(&self, offset: u64, buf: &[u8]) -> fs_core::Result<()> {
        self.0.write_at(offset, buf).map_err(|e| fs_core::Error::Io(io::Error::other(e.to_string())))
    }
    fn flush(&self) -> fs_core::Result<()> {
        self.0.flush().map_err(|e| fs_core::Error::Io(io::Error::other(e.to_string())))
    }
    fn is_writable(&self) -> bool {
        true
    }
}
