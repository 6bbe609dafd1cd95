//! Giving back what an image stores of its filesystems' free space.
//!
//! Only the image's own file gets smaller: what lies in a backing file stays there, hidden where the image had it covered. Whole
//! units are let go of, each by the format's own crash-safe write of zeros, and what is left of others becomes zeros in its place;
//! so all of it reads as zeros afterwards. No structure of a filesystem changes, so a cut leaves some of it given back.

use std::sync::Arc;

use crate::engine::chain::Disk;
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::format::write::DiskWriter;
use crate::engine::format::{Format, Image};
use crate::engine::guest::free::{VolumeFree, free_space};
use crate::engine::io::bytes::is_zero;
use crate::engine::io::{Device, ReadAt};
use crate::engine::job::JobContext;
use crate::engine::model::Kind;
use crate::engine::spans::Set;

/// Bytes looked at together.
const PIECE: u64 = 1 << 20;
/// The smallest hole worth punching.
pub(super) const HOLE: u64 = 4096;

/// What an image stores of the free space of one filesystem.
#[derive(Debug, Clone)]
pub struct StoredFree {
    /// The volume and its kind, in words.
    pub name: String,
    /// Bytes that are free in it.
    pub free: u64,
    /// Where the image stores some of them, in bytes of the disk.
    pub stored: Set,
    /// Where it stores them compressed: only whole units of these can be let go of.
    pub compressed: Set,
}

impl StoredFree {
    /// Bytes that can be given back: those in whole units of `unit` bytes. What is left of others only becomes zeros.
    pub fn whole(&self, unit: u64) -> u64 {
        let unit = unit.max(1);
        let whole = |(start, end): (u64, u64)| (end / unit * unit).saturating_sub(start.next_multiple_of(unit));
        self.stored.iter().chain(self.compressed.iter()).map(whole).sum()
    }
}

/// Bytes of the least piece of `image` that can be given back.
pub fn least(image: &dyn Image) -> u64 {
    // A table entry stands for a whole cluster; in other formats any hole is space.
    if image.format() == Format::Qcow2 { image.describe().cluster_size.unwrap_or(HOLE) } else { HOLE }
}

/// What `top`, the image that `disk` is read through, stores of the free space in each of `all`'s filesystems.
pub fn stored_free(top: &dyn Image, all: &[VolumeFree]) -> Result<Vec<StoredFree>> {
    let files = top.files();
    let mut out = Vec::new();
    for volume in all {
        let Ok(free) = &volume.free else { continue };
        let (mut stored, mut packed) = (Vec::new(), Vec::new());
        for (start, end) in free.iter() {
            let (mut at, end) = (start, end.min(top.size()));
            while at < end {
                let m = top.map(at, end - at)?;
                let mut len = m.len.min(end - at).max(1);
                match (m.kind, m.place) {
                    (Kind::Data, place) => {
                        let host = place
                            .and_then(|p| files.get(p.file).map(|f| f.host_range(p.offset, len)))
                            .transpose()?
                            .filter(|h| h.hole || h.len < len);
                        if let Some(h) = host {
                            len = h.len.min(len).max(1);
                        }
                        // In qcow2 the table holds on to a unit whether the host stores it or not.
                        if host.is_none_or(|h| !h.hole) || top.format() == Format::Qcow2 {
                            stored.push((at, at + len));
                        }
                    }
                    (Kind::Compressed, _) => packed.push((at, at + len)),
                    _ => {}
                }
                at += len;
            }
        }
        let (stored, compressed) = (Set::of(stored), Set::of(packed));
        out.push(StoredFree { name: volume.name.clone(), free: free.bytes(), stored, compressed });
    }
    Ok(out)
}

/// The free space of `disk`'s filesystems and what `top` stores of it, with what is left alone and why.
///
/// Errors: a filesystem was left open or is damaged; a suspended system; none can tell what is free.
pub(super) fn look(disk: &Arc<Disk>, top: &dyn Image, job: &JobContext) -> Result<(Vec<StoredFree>, Vec<String>)> {
    let device: Device = disk.clone();
    let stopped = || job.stop_if_asked().is_err();
    let all = free_space(&device, true, &stopped)?;
    let doubts: Vec<(String, bool)> =
        all.iter().filter_map(|v| v.free.as_ref().err().map(|d| (format!("{}: {}", v.name, d.why), d.unsound))).collect();
    if let Some((why, _)) = doubts.iter().find(|(_, unsound)| *unsound) {
        return Err(Error::unsupported(format!("what is free cannot be told for certain: {why}"))
            .hint("nothing was changed; without --free-space compact does not look into filesystems"));
    }
    let found = stored_free(top, &all)?;
    if found.is_empty() {
        let why = doubts.first().map(|(why, _)| format!(" ({why})")).unwrap_or_default();
        return Err(Error::new(ErrorKind::NotFound, format!("no filesystem whose free space can be told is on this disk{why}"))
            .hint("cowshed inspect shows what is on it"));
    }
    Ok((found, doubts.into_iter().map(|(why, _)| format!("{why}; it is left as it is")).collect()))
}

/// Lets go of what was found through `writer`. The guest bytes let go of or made zeros.
pub(super) fn give_back(writer: &dyn DiskWriter, found: &[StoredFree], job: &JobContext) -> Result<u64> {
    let image = writer.reader();
    let whole = !image.describe().snapshots.is_empty();
    let unit = image.describe().cluster_size.unwrap_or_else(|| writer.unit()).max(1);
    let reading = Disk::new(vec![image.clone()]);
    let mut done = 0;
    // Filesystems beside each other may share a unit.
    let all = Set::of(found.iter().flat_map(|f| f.stored.iter()));
    let packed = Set::of(found.iter().flat_map(|f| f.compressed.iter()));
    for (start, end) in packed.iter().chain(all.iter().filter(|_| whole)) {
        // Making a part of these zero would take space: a compressed unit must be unpacked, one that a snapshot has too copied.
        let (from, to) = (start.next_multiple_of(unit), if end == image.size() { end } else { end / unit * unit });
        job.checkpoint()?;
        if from < to {
            writer.write_zeroes(from, to - from)?;
            done += to - from;
        }
    }
    for (start, end) in all.iter().filter(|_| !whole) {
        let (from, to) = (start.next_multiple_of(unit).min(end), (end / unit * unit).max(start));
        let parts =
            if from < to { vec![(start, from, false), (from, to, true), (to, end, false)] } else { vec![(start, end, false)] };
        for (at, stop, units) in parts {
            let mut at = at;
            while at < stop {
                job.checkpoint()?;
                let n = (stop - at).min(if units { PIECE.max(unit) * 64 } else { PIECE });
                if units || !reads_as_zeros(&reading, at, n)? {
                    writer.write_zeroes(at, n)?;
                }
                done += n;
                job.progress.add_done(n);
                at += n;
            }
        }
    }
    writer.flush()?;
    Ok(done)
}

fn reads_as_zeros(disk: &Disk, at: u64, len: u64) -> Result<bool> {
    let mut bytes = vec![0; len as usize];
    disk.read_at(at, &mut bytes)?;
    Ok(is_zero(&bytes))
}
