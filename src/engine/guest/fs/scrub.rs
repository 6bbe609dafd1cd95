//! Wiping what edits leave behind inside a filesystem's own structures. Free space is wiped by whoever knows the disk.

use super::{Node, ext_scrub, fat, xfs_scrub};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::guest::recognise::{FsKind, recognise};
use crate::engine::io::bytes::is_zero;
use crate::engine::io::{Device, WriteAt, WriteDevice};

/// Bytes that are wiped together when any of them is not zero.
const PIECE: u64 = 1 << 20;
/// Bytes first looked at: what was used is seldom zero where it begins.
const TASTE: u64 = 4096;

/// Where edits may have left something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traces {
    /// Folders that lost names, and are still there.
    pub folders: Vec<Node>,
    /// Files, links and folders that are gone.
    pub gone: Vec<Node>,
}

/// What was wiped, and what that means for whoever writes it to an image. Offsets and lengths in bytes of the volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Their old content is nobody's: an undo leaves them as they are.
    pub unsaved: Vec<(u64, u64)>,
    /// Must be saved for an undo whether they change or not.
    pub saved: Vec<(u64, u64)>,
    /// Parts of an XFS log to be stamped (see [`crate::engine::io::draft::Draft::stamp`]).
    pub stamps: Vec<(u64, u64)>,
}

/// Wipes what is left on `dev`, whose filesystem was closed by [`super::GuestWrite::finish`]; `before` is the volume as it was.
pub fn scrub(before: &Device, dev: &WriteDevice, traces: &Traces) -> Result<Scrubbed> {
    let read: Device = dev.clone();
    let info = recognise(read.as_ref())?.ok_or_else(|| Error::new(ErrorKind::Format, "no filesystem is recognised there"))?;
    match info.kind {
        FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4 => ext_scrub::scrub(dev, info, traces),
        FsKind::Xfs => xfs_scrub::scrub(before, dev, info, traces),
        FsKind::Fat12 | FsKind::Fat16 | FsKind::Fat32 => fat::scrub(dev, info, traces),
        other => Err(Error::unsupported(format!("{} is not wiped", other.name()))),
    }
}

/// Zeroes what `dev` stores in `start..start + len`. Holes are passed over, and so is what is zero already, so that nothing is left
/// to do the second time, on formats too that store zeros.
pub fn wipe(dev: &dyn WriteAt, start: u64, len: u64) -> Result<()> {
    let end = start.saturating_add(len).min(dev.len());
    let mut at = start;
    while at < end {
        let range = dev.host_range(at, end - at)?;
        let stop = at + range.len.clamp(1, end - at);
        while !range.hole && at < stop {
            let piece = PIECE.min(stop - at);
            if !zero(dev, at, piece)? {
                dev.write_zeroes(at, piece)?;
            }
            at += piece;
        }
        at = stop;
    }
    Ok(())
}

/// True when `len` bytes at `at` are all zero. Most often the first few tell.
fn zero(dev: &dyn WriteAt, at: u64, len: u64) -> Result<bool> {
    let mut buf = Vec::new();
    let mut done = 0;
    while done < len {
        let n = (if done == 0 { TASTE } else { 64 << 10 }).min(len - done);
        buf.resize(n as usize, 0);
        dev.read_at(at + done, &mut buf)?;
        if !is_zero(&buf) {
            return Ok(false);
        }
        done += n;
    }
    Ok(true)
}
