//! Our devices in the clothes of the filesystem crates' device traits.

use std::io;
use std::ops::Range;

use fs_xfs::Superblock;
use fs_xfs::log::LogState;

use crate::engine::io::bytes::put;
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

/// A writable device for `rust-fs-ext4`.
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

/// A writable XFS whose log stays as it is: what is written there goes nowhere, and who reads it sees a short one that is clean. The
/// crate looks for the log's end at every change, over two megabytes of a real one.
pub(super) struct Unlogged {
    dev: WriteDevice,
    /// Where the log is, in bytes.
    log: Range<u64>,
    /// What is read at its beginning; the rest is zeros.
    clean: Vec<u8>,
}

impl Unlogged {
    /// The filesystem `sb` on `dev`. Errors: its log holds what was not done yet, or cannot be read.
    pub(super) fn new(dev: WriteDevice, sb: &Superblock) -> fs_xfs::Result<Self> {
        let read: Device = dev.clone();
        if fs_xfs::log::inspect(&Reader(read), sb)? == LogState::NeedsReplay {
            return Err(fs_xfs::Error::DirtyLog);
        }
        let (start, len) = (sb.fsblock_offset(sb.logstart), u64::from(sb.logblocks).saturating_mul(u64::from(sb.blocksize)));
        Ok(Unlogged { dev, log: start..start.saturating_add(len), clean: clean_log(&sb.uuid) })
    }
}

/// The beginning of a log, zeros behind it, that says: unmounted, and nothing before ("XFS Algorithms & Data Structures", journaling
/// log: one record with one operation, in the first cycle).
fn clean_log(uuid: &[u8; 16]) -> Vec<u8> {
    const SECTOR: usize = 512;
    /// Bytes that a record may have: those of longer ones have headers of several sectors, which the crate does not write.
    const RECORD: u32 = 32 << 10;
    let mut log = vec![0; 2 * SECTOR];
    // Magic number, cycle, version, length, its own place and that of the oldest (cycle before block), no record before, one operation
    // in the byte order of this machine, and how long records are.
    let order = if cfg!(target_endian = "little") { 1 } else { 2 };
    let head = [(0, 0xfeed_babe), (4, 1), (8, 2), (12, SECTOR as u32), (16, 1), (24, 1), (36, u32::MAX), (40, 1), (300, order)];
    for (at, word) in head.into_iter().chain([(320, RECORD), (SECTOR, 1)]) {
        let _ = put(&mut log, at, &word.to_be_bytes());
    }
    let _ = put(&mut log, 304, uuid);
    // The operation's flags: unmounted.
    let _ = put(&mut log, SECTOR + 9, &[0x20]);
    log
}

impl fs_core::BlockRead for Unlogged {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> fs_core::Result<()> {
        let end = offset.saturating_add(buf.len() as u64);
        let (from, to) = (offset.max(self.log.start), end.min(self.log.end));
        if (from, to) != (offset, end) {
            self.dev.read_at(offset, buf).map_err(|e| fs_core::Error::Io(io::Error::other(e.to_string())))?;
        }
        if from >= to {
            return Ok(());
        }
        if let Some(log) = buf.get_mut((from - offset) as usize..(to - offset) as usize) {
            let known = self.clean.get((from - self.log.start).min(self.clean.len() as u64) as usize..).unwrap_or_default();
            let n = known.len().min(log.len());
            let (begin, rest) = log.split_at_mut(n);
            begin.copy_from_slice(known.get(..n).unwrap_or_default());
            rest.fill(0);
        }
        Ok(())
    }
    fn size_bytes(&self) -> u64 {
        self.dev.len()
    }
}

impl fs_core::BlockDevice for Unlogged {
    fn write_at(&self, offset: u64, buf: &[u8]) -> fs_core::Result<()> {
        let end = offset.saturating_add(buf.len() as u64);
        if self.log.start <= offset && end <= self.log.end {
            return Ok(());
        }
        self.dev.write_at(offset, buf).map_err(|e| fs_core::Error::Io(io::Error::other(e.to_string())))
    }
    fn flush(&self) -> fs_core::Result<()> {
        self.dev.flush().map_err(|e| fs_core::Error::Io(io::Error::other(e.to_string())))
    }
    fn is_writable(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fs_core::{BlockDevice, BlockRead};

    use super::*;
    use crate::engine::io::memory::Memory;

    #[test]
    fn a_log_that_is_left_alone_looks_clean_and_takes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("a.xfs");
        std::fs::File::create(&image).unwrap().set_len(300 << 20).unwrap();
        let made = std::process::Command::new("mkfs.xfs").arg("-q").arg(&image).status().expect("mkfs.xfs runs");
        assert!(made.success());
        let before = std::fs::read(&image).unwrap();
        let sb = Superblock::parse(&before).unwrap();
        let dev: WriteDevice = Arc::new(Memory::new(before.clone()));
        let unlogged = Unlogged::new(dev.clone(), &sb).unwrap();
        assert_eq!(fs_xfs::log::inspect(&unlogged, &sb).unwrap(), LogState::CleanlyUnmounted);
        let head = fs_xfs::log::head(&unlogged, &sb).unwrap();
        assert_eq!((head.block, head.cycle, head.prev_block, head.iclog_size), (2, 1, 0, 32 << 10));
        let log = unlogged.log.clone();
        for at in [log.start, log.start + 700, log.end - 4096] {
            unlogged.write_at(at, &[7; 4096]).unwrap();
        }
        unlogged.write_at(log.end, &[7; 512]).unwrap();
        let mut now = vec![0; before.len()];
        dev.read_at(0, &mut now).unwrap();
        let (start, end) = (log.start as usize, log.end as usize);
        assert!(now[..end] == before[..end] && now[end..end + 512] == [7; 512] && now[end + 512..] == before[end + 512..]);
        // Over both edges: what is beside the log is the device's own.
        unlogged.read_at(0, &mut now).unwrap();
        assert!(now[..start] == before[..start] && now[end + 512..] == before[end + 512..]);
        assert!(now[start..start + 1024] == clean_log(&sb.uuid) && now[start + 1024..end].iter().all(|b| *b == 0));
    }
}
