//! Compressed grains and the markers between them (streamOptimized).

use std::cell::RefCell;

use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{le32, le64};
use crate::engine::io::{ReadAt, past_end, read_vec, with_path};
use crate::engine::units::MIB;

/// Bytes of the marker before a grain: the grain's first sector (64 bits) and the length of its stream (32 bits).
pub(super) const MARKER: u64 = 12;
/// Bytes of the largest grain that is inflated. Writers use 64 KiB; this bounds what a hostile header makes us allocate.
pub(super) const MAX_GRAIN: u64 = 16 * MIB;

/// What stands in a sector between grains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    /// A grain follows: its first sector and the bytes of its stream.
    Grain(u64, u32),
    /// The stream ends.
    End,
    /// A grain table of so many sectors follows.
    Table(u64),
    /// The grain directory of so many sectors follows.
    Directory(u64),
    /// The footer follows.
    Footer,
    /// Something else: its type.
    Other(u32),
}

impl Marker {
    /// The marker at the start of `sector`.
    pub(super) fn parse(sector: &[u8]) -> Option<Marker> {
        let (value, size) = (le64(sector, 0)?, le32(sector, 8)?);
        if size != 0 {
            return Some(Marker::Grain(value, size));
        }
        Some(match le32(sector, 12)? {
            0 => Marker::End,
            1 => Marker::Table(value),
            2 => Marker::Directory(value),
            3 => Marker::Footer,
            other => Marker::Other(other),
        })
    }
}

thread_local! {
    static INFLATE: RefCell<libdeflater::Decompressor> = RefCell::new(libdeflater::Decompressor::new());
}

/// Inflates the grain kept at `place` into `out` (a whole grain), of which the first `need` bytes must be there; the rest of a
/// disk's last grain may be missing and becomes zeros.
///
/// Errors: the marker or the stream makes no sense, or reaches past the file's end.
pub(super) fn read_grain(dev: &dyn ReadAt, place: u64, markers: bool, need: usize, out: &mut [u8]) -> Result<()> {
    let bad = |why: String| with_path(Error::corrupt(why).op("inflate a grain").at(place), dev);
    // Deflate adds a few bytes per 64 KiB to what it cannot shrink; twice the grain is more than any writer needs.
    let bound = (out.len() as u64) * 2 + 4096;
    let packed = if markers {
        let head = read_vec(dev, place, MARKER, MARKER)?;
        let size = u64::from(le32(&head, 8).unwrap_or_default());
        if size == 0 || size > bound {
            return Err(bad(format!("its marker says that {size} bytes follow")));
        }
        read_vec(dev, place + MARKER, size, bound)?
    } else {
        let left = dev.len().saturating_sub(place).min(bound);
        if left == 0 {
            return Err(past_end(dev, place, 1));
        }
        read_vec(dev, place, left, bound)?
    };
    let n = INFLATE
        .with_borrow_mut(|i| i.zlib_decompress(&packed, out))
        .map_err(|e| bad(format!("its compressed data cannot be read: {e}")))?;
    if n < need {
        return Err(bad(format!("it holds {n} bytes where {need} are wanted")));
    }
    if let Some(rest) = out.get_mut(n..) {
        rest.fill(0);
    }
    Ok(())
}
