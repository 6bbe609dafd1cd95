//! Changing the size of a disk in place.
//!
//! Growing a sparse disk: new directories (the old entries and those of new, empty tables) are appended and made durable, with
//! zeros wherever the parent or an earlier, larger disk would show through; then one sector, the header, names the new directories
//! and the new capacity at once. A cut leaves the old disk or the new one. Shrinking changes the header first and gives the space
//! back afterwards. The sizes in the descriptor follow last: readers of one-file disks believe the header. A flat disk's extent is
//! longer than its descriptor says at any time, never shorter.

use std::sync::{Arc, PoisonError};

use super::compose;
use super::extent::Storage;
use super::grains::Grains;
use super::hosted::{Hosted, Under};
use super::image;
use super::sparse::Header;
use super::split;
use super::writer::{Open, Target, Writer, target};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::Source;
use crate::engine::format::write::DiskWriter;
use crate::engine::io::gate::Gate;
use crate::engine::io::{Device, WriteDevice, read_vec};
use crate::engine::limits::{MAX_DESCRIPTOR, MAX_TABLE_BYTES};
use crate::engine::model::Kind;
use crate::engine::units::{SECTOR, round_up};

/// Makes the disk `size` bytes (rounded up to a sector) large.
///
/// Errors: split disks and extents of other sorts; a child whose parent was not opened.
pub(super) fn resize(writer: &Writer, size: u64) -> Result<()> {
    let size = round_up(size, SECTOR).filter(|&s| s <= i64::MAX as u64).ok_or_else(|| Error::usage("the size is too large"))?;
    writer.flush()?;
    let mut open = writer.disk.write().unwrap_or_else(PoisonError::into_inner);
    // What an interrupted change left beyond the end must not show again.
    if split::is_numbered(&open.image) && tidy(writer, &open)? {
        reload(writer, &mut open, None)?;
    }
    let image = open.image.clone();
    if size == image.size {
        return Ok(());
    }
    let ([part], [how]) = (image.parts.as_slice(), open.parts.as_slice()) else {
        return Err(Error::unsupported("a disk of several extents cannot be resized in place")
            .hint("convert it with the new size, or to a one-file sub-format"));
    };
    let next = match (how, &part.storage) {
        (Target::Flat(dev, start), _) => {
            let (dev, start) = (dev.clone(), *start);
            writer.renew_cid()?;
            flat(writer, &open, &dev, start, size)?;
            0
        }
        (Target::Sparse(hosted), Storage::Sparse(grains)) => {
            let (hosted, grains) = (hosted.clone(), grains.clone());
            writer.renew_cid()?;
            let done = match size > part.len {
                true => grow(writer, &open, &hosted, &grains, part.start, size)
                    .and_then(|next| describe(writer, &open, size).map(|()| next).map_err(|e| (e, true))),
                false => shrink(writer, &open, &hosted, &grains, size, || describe(writer, &open, size)),
            };
            match done {
                Ok(next) => next,
                Err((e, false)) => return Err(e),
                Err((e, true)) => {
                    // The file may have the new header or the old one: nothing may be written on either assumption.
                    open.parts = vec![Target::Refused(e.clone())];
                    return Err(e);
                }
            }
        }
        (Target::Refused(e), _) => return Err(e.clone()),
        _ => return Err(Error::new(ErrorKind::Internal, "an extent that is neither flat nor sparse")),
    };
    reload(writer, &mut open, Some(next))
}

/// Reads the disk anew; `next` is where grains go, where that is not the end of the extent.
fn reload(writer: &Writer, open: &mut Open, next: Option<u64>) -> Result<()> {
    let Some(Some(dev)) = writer.files.first() else { return Err(Error::new(ErrorKind::Internal, "an image without a file")) };
    let path = dev.path().map(std::path::Path::to_path_buf).unwrap_or_default();
    let source = Source { dev: dev.clone(), path, gate: Gate::closed() };
    // Opened in the order of their lines, as before.
    let mut extents = writer.files.iter().skip(1);
    let fresh = image::load(&source, &mut |name, _| match extents.next() {
        Some(Some(extent)) => Ok(extent.clone() as Device),
        _ => Err(Error::new(ErrorKind::Internal, format!("the extent '{name}' is not open"))),
    })?;
    let end = |dev: &WriteDevice| next.unwrap_or_else(|| dev.len().next_multiple_of(SECTOR));
    let parts = fresh.parts.iter().map(|p| target(p, &writer.files, &end)).collect();
    *open = Open { image: Arc::new(fresh), parts };
    Ok(())
}

/// Cuts off what the last extent of a split disk has beyond its line: what a change of size, or one that was interrupted, left.
/// True when the extent is another now.
fn tidy(writer: &Writer, open: &Open) -> Result<bool> {
    let (Some(part), Some(how)) = (open.image.parts.last(), open.parts.last()) else { return Ok(false) };
    match (how, &part.storage) {
        (Target::Flat(dev, start), _) if dev.len() > start + part.len && part.line.as_ref().is_some_and(|l| l.offset == 0) => {
            dev.set_len(start + part.len)?;
            dev.flush().map(|()| true)
        }
        (Target::Sparse(hosted), Storage::Sparse(grains)) if grains.geometry.capacity > part.len => {
            shrink(writer, open, hosted, grains, part.len, || Ok(())).map(|_| true).map_err(|(e, _)| e)
        }
        _ => Ok(false),
    }
}

fn flat(writer: &Writer, open: &Open, dev: &WriteDevice, start: u64, size: u64) -> Result<()> {
    if size > open.image.size {
        dev.set_len(start + size)?;
        // An extent may have been longer than its line said.
        dev.write_zeroes(start + open.image.size, size - open.image.size)?;
        dev.flush()?;
        return describe(writer, open, size);
    }
    describe(writer, open, size)?;
    dev.set_len(start + size)?;
    dev.flush()
}

/// Writes the new size into the descriptor's extent line, durably. Descriptors are mostly shorter than a sector, so that this is
/// one atomic write; in a longer one a cut may garble the lines after the first sector, which hold the disk database only.
fn describe(writer: &Writer, open: &Open, size: u64) -> Result<()> {
    let (Some(Some(dev)), Some((at, room))) = (writer.files.first(), open.image.text) else { return Ok(()) };
    let old = read_vec(dev.as_ref(), at, room.min(dev.len().saturating_sub(at)), MAX_DESCRIPTOR)?;
    let mut text = compose::with_size(&old, size).op("change the size in the descriptor")?;
    if at > 0 && text.len() as u64 >= room {
        return Err(
            Error::unsupported("the descriptor has no room left for the new size").path(dev.path().unwrap_or("".as_ref()))
        );
    }
    // What was there and is no longer is overwritten: zeros behind an embedded text, blank lines in a file of its own.
    let filler = if at > 0 { 0 } else { b'\n' };
    text.resize(text.len().max(old.len()), filler);
    dev.write_at(at, &text)?;
    dev.flush()
}

/// The byte where grains go from now on; or the error, and whether the header may have been changed.
pub(super) type Done = std::result::Result<u64, (Error, bool)>;

/// Makes `from..to` of an extent that begins at guest byte `start` and holds nothing there read as zeros, whatever a longer parent
/// has there.
pub(super) fn hide(writer: &Writer, open: &Open, extent: &Hosted, start: u64, from: u64, to: u64) -> Result<()> {
    let Some(below) = writer.below().filter(|_| open.image.backing.is_some()) else { return Ok(()) };
    let under = Under { parent: true, disk: Some(&below), start };
    below.shown(start + from..start + to, extent.grains.geometry.grain, |at, len| extent.write_zeroes(at - start, len, &under))
}

/// Makes the sparse extent that begins at guest byte `start` larger; its descriptor is the caller's.
pub(super) fn grow(writer: &Writer, open: &Open, hosted: &Hosted, old: &Grains, start: u64, size: u64) -> Done {
    let before = |e: Error| (e, false);
    let parent = open.image.backing.is_some();
    if parent && writer.below().is_none() {
        return Err(before(Error::usage("growing a child needs its parent, which was not opened")));
    }
    let dev = &hosted.dev;
    let mut geometry = old.geometry.clone();
    let old_size = geometry.capacity;
    geometry.capacity = size;
    let table_bytes = (geometry.per_table * 4).next_multiple_of(SECTOR);
    let (had, wanted) = (old.geometry.tables(), geometry.tables());
    if wanted * 4 > MAX_TABLE_BYTES {
        return Err(before(Error::usage("the disk would be too large for a grain directory")));
    }
    let directory_bytes = (wanted * 4).next_multiple_of(SECTOR);
    // Redundant first, as everybody lays them out.
    let mut directories: Vec<u64> = old.directories().collect();
    directories.reverse();
    let mut next = hosted.next();
    let mut placed = Vec::new();
    for from in directories {
        let place = next;
        let tables = place + directory_bytes;
        next = tables + (wanted - had) * table_bytes;
        if next / SECTOR > u64::from(u32::MAX) {
            return Err(before(Error::usage("the tables of so large a disk do not fit below 2 TiB")));
        }
        let mut entries = read_vec(dev.as_ref(), from, had * 4, MAX_TABLE_BYTES).map_err(before)?;
        entries.extend((0..wanted - had).flat_map(|i| (((tables + i * table_bytes) / SECTOR) as u32).to_le_bytes()));
        placed.push((place, entries));
    }
    if let (Some((first, _)), true) = (placed.first(), dev.len() < next || next > hosted.next()) {
        dev.set_len(next.max(dev.len())).map_err(before)?;
        dev.write_zeroes(*first, next - first).map_err(before)?;
    }
    for (place, entries) in &placed {
        dev.write_at(*place, entries).map_err(before)?;
    }
    if let Some((place, _)) = placed.last() {
        geometry.directory = *place;
    }
    geometry.redundant = match placed.as_slice() {
        [(place, _), _] => Some(*place),
        _ => None,
    };
    // The new tables as they will be seen, filled before anybody sees them.
    let pages = old.pages();
    pages.forget();
    let (directory, redundant, grain) = (geometry.directory, geometry.redundant, geometry.grain);
    let device: Device = dev.clone();
    let grown = Hosted::new(Arc::new(Grains::new(geometry, old.file(), device, pages.clone())), dev.clone(), next);
    grown.clear_table_from(old_size).map_err(before)?;
    // The rest of the grain in which it ended holds what was there before, or shows the parent.
    let edge = size.min(old_size.next_multiple_of(grain));
    let below = writer.below();
    let shown = Under { parent, disk: below.as_ref(), start };
    grown
        .write_zeroes(old_size, edge - old_size, &shown)
        .and_then(|()| hide(writer, open, &grown, start, edge, size))
        .map_err(before)?;
    writer.flush_tables(open).map_err(before)?;
    switch(dev, |h| {
        h.capacity = size / SECTOR;
        h.directory = directory / SECTOR;
        if let Some(r) = redundant {
            h.redundant = r / SECTOR;
        }
    })
    .map_err(|e| (e, true))?;
    Ok(grown.next())
}

fn shrink(writer: &Writer, open: &Open, hosted: &Hosted, old: &Grains, size: u64, describe: impl FnOnce() -> Result<()>) -> Done {
    let after = |e: Error| (e, true);
    switch(&hosted.dev, |h| h.capacity = size / SECTOR).map_err(after)?;
    describe().map_err(after)?;
    // From here on nothing refers to what was cut off: its entries go, its space goes back to the host.
    let end = old.geometry.capacity;
    let mut at = size.next_multiple_of(old.geometry.grain);
    while at < end {
        let m = match old.map(at, end - at) {
            Ok(m) => m,
            // Damaged there, and no longer of interest.
            Err(_) => break,
        };
        if let (Kind::Data, Some(place)) = (m.kind, m.place) {
            hosted.dev.write_zeroes(place.offset, m.len).map_err(after)?;
        }
        at += m.len;
    }
    hosted.clear_table_from(size).map_err(after)?;
    writer.flush_tables(open).map_err(after)?;
    Ok(hosted.next())
}

/// Changes fields of the header: one sector, durable when this returns.
pub(super) fn switch(dev: &WriteDevice, change: impl FnOnce(&mut Header)) -> Result<()> {
    let sector = read_vec(dev.as_ref(), 0, SECTOR, SECTOR)?;
    let mut header = Header::parse(&sector).ok_or_else(|| Error::corrupt("the header is gone").op("change the header").at(0))?;
    change(&mut header);
    dev.flush()?;
    dev.write_at(0, &header.encode()).op("change the header")?;
    dev.flush()
}
