//! The block layer: small capability traits over files, block devices, memory and windows of them.
//!
//! Formats know only this. Reads and writes are positioned, so any thread may use a device at any time. It must not know any
//! format, the terminal, the environment or where images live.

pub mod bytes;
pub mod cached;
pub mod direct;
pub mod draft;
pub mod fault;
pub mod file;
pub mod gate;
pub mod locks;
pub mod memory;
pub mod overlay;
pub mod sys;
pub mod watched;
pub mod window;

use std::path::Path;
use std::sync::Arc;

use super::error::{Error, ErrorKind, Result};
use bytes::is_zero;

/// End of the name of a file that becomes an image when it is complete and durable.
pub const PARTIAL: &str = ".cowshed-partial";

/// What the host keeps in a range of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostRange {
    /// Bytes, from the offset asked for on, that are all of one sort. Never 0 within the file.
    pub len: u64,
    /// True: a hole, which reads as zeros and takes no space. False: stored (or not known).
    pub hole: bool,
}

/// Bytes that can be read from any place by any thread.
pub trait ReadAt: Send + Sync {
    /// Length in bytes now.
    fn len(&self) -> u64;

    /// True when there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills all of `buf` from `offset` on. Bytes past the end are an error of kind `Truncated`, never zeros.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// The file behind it, for messages; `None` for memory.
    fn path(&self) -> Option<&Path> {
        None
    }

    /// Whether the host stores the bytes from `offset` on or has a hole there. `len` in the answer is at least 1 and may be
    /// cut at `max`. A device that cannot tell says "stored".
    fn host_range(&self, offset: u64, max: u64) -> Result<HostRange> {
        Ok(HostRange { len: max.min(self.len().saturating_sub(offset)).max(1), hole: false })
    }

    /// Bytes it takes on the host (blocks × 512), or its length where that cannot be told.
    fn allocated(&self) -> u64 {
        self.len()
    }

    /// The host file, for copies inside the kernel and direct I/O; `None` where there is none (memory, windows, faults).
    fn as_file(&self) -> Option<&file::FileDevice> {
        None
    }
}

/// Bytes that can be written too. A write may be lost by a power cut until `flush` has returned.
pub trait WriteAt: ReadAt {
    /// Writes all of `buf` at `offset`, growing a regular file when it ends beyond the end.
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()>;

    /// Makes everything written before durable (fdatasync, with the length).
    fn flush(&self) -> Result<()>;

    /// Sets the length of a regular file; new bytes read as zeros. Block devices refuse unless the length is theirs.
    fn set_len(&self, len: u64) -> Result<()>;

    /// Makes the range read as zeros, giving the space back where the host can (punched hole), writing zeros where it cannot.
    /// May grow the file.
    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        let zeros = vec![0u8; len.min(1 << 20) as usize];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(zeros.len() as u64);
            self.write_at(offset + done, zeros.get(..n as usize).unwrap_or_default())?;
            done += n;
        }
        Ok(())
    }

    /// Reserves host space for the range, so that later writes cannot fail for lack of it. Content stays. A device that cannot
    /// reserve says `Unsupported`.
    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        let _ = (offset, len);
        Err(Error::unsupported("space cannot be reserved here"))
    }
}

/// A device shared between layers, readers and jobs.
pub type Device = Arc<dyn ReadAt>;
/// A writable device shared between a format's writer and its caches.
pub type WriteDevice = Arc<dyn WriteAt>;

/// Reads `len` bytes at `offset` into a new buffer. `len` must be within the device: a length found in an image is checked
/// against the device before memory is taken, and again when a sparse device claims more than `cap` bytes.
pub fn read_vec(dev: &dyn ReadAt, offset: u64, len: u64, cap: u64) -> Result<Vec<u8>> {
    let end = offset.checked_add(len).ok_or_else(|| Error::corrupt("a structure reaches past 2^64 bytes").at(offset))?;
    if end > dev.len() {
        return Err(past_end(dev, offset, len));
    }
    if len > cap {
        return Err(with_path(
            Error::corrupt(format!("a structure of {len} bytes is larger than the {cap} allowed")).at(offset),
            dev,
        ));
    }
    let mut buf = vec![0u8; usize::try_from(len).map_err(|_| Error::corrupt("a structure is too large").at(offset))?];
    dev.read_at(offset, &mut buf)?;
    Ok(buf)
}

/// Reads up to `max` bytes at `offset`, fewer at the end of the device.
pub fn read_up_to(dev: &dyn ReadAt, offset: u64, max: usize) -> Result<Vec<u8>> {
    let n = dev.len().saturating_sub(offset).min(max as u64) as usize;
    let mut buf = vec![0u8; n];
    if n == 0 {
        return Ok(buf);
    }
    dev.read_at(offset, &mut buf)?;
    Ok(buf)
}

/// Bytes of a piece that [`write_sparse`] looks at.
const SPARSE: usize = 16 << 10;

/// Writes `bytes` at `offset`; long stretches of zeros become holes, where the host has them.
pub fn write_sparse(dev: &dyn WriteAt, offset: u64, bytes: &[u8]) -> Result<()> {
    if bytes.len() <= SPARSE {
        return dev.write_at(offset, bytes);
    }
    let mut at = offset;
    let mut pieces = bytes.chunks(SPARSE).peekable();
    while let Some(first) = pieces.next() {
        let zero = is_zero(first);
        let mut len = first.len();
        while let Some(next) = pieces.next_if(|p| is_zero(p) == zero) {
            len += next.len();
        }
        let from = (at - offset) as usize;
        match zero {
            true => dev.write_zeroes(at, len as u64)?,
            false => dev.write_at(at, bytes.get(from..from + len).unwrap_or_default())?,
        }
        at += len as u64;
    }
    Ok(())
}

/// Fills `buf` from `offset` on; bytes past the end of the device become zeros. For formats whose files may end early.
pub fn read_padded(dev: &dyn ReadAt, offset: u64, buf: &mut [u8]) -> Result<()> {
    let have = dev.len().saturating_sub(offset).min(buf.len() as u64) as usize;
    let (head, tail) = buf.split_at_mut(have);
    tail.fill(0);
    if head.is_empty() { Ok(()) } else { dev.read_at(offset, head) }
}

/// The error for a range that does not lie within the device.
pub fn past_end(dev: &dyn ReadAt, offset: u64, len: u64) -> Error {
    with_path(
        Error::new(ErrorKind::Truncated, format!("{len} bytes are wanted there, but the file ends at {:#x}", dev.len()))
            .at(offset)
            .hint("the file was cut short or is still being copied"),
        dev,
    )
}

/// `error` with the device's file as its place.
pub fn with_path(error: Error, dev: &dyn ReadAt) -> Error {
    match dev.path() {
        Some(p) => error.path(p),
        None => error,
    }
}
