//! Another size of a disk that is split at 2 GiB: extents made, or let go of, and a new descriptor in the place of the old one.
//!
//! ```text
//!  1  the last extent gets longer, new extents are made                the old descriptor: the old disk
//!  2  a new descriptor takes the old one's name                        the new disk, or the old one
//!  3  the last extent is cut, extents nobody names are removed         the new disk
//! ```
//!
//! An extent may hold more than its line says at any time, never less: what a cut between 2 and 3 leaves is tidied up by the next
//! change of size. The new descriptor comes with a new content id. What a longer parent has beyond the old end is hidden by zeros in step 1.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};

use super::create::{MAX_SPLIT, SPLIT, sparse_file};
use super::extent::Storage;
use super::grains::{Entries, Grains};
use super::hosted::Hosted;
use super::image::Vmdk;
use super::pages::Pages;
use super::writer::{Open, Target, Writer, new_digits};
use super::{compose, descriptor, resize, sparse};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::format::write::{DiskWriter, NewFiles};
use crate::engine::io::{Device, read_vec};
use crate::engine::limits::MAX_DESCRIPTOR;
use crate::engine::units::{SECTOR, round_up};

/// True when the disk consists of numbered extents and `size` bytes are not just another length of its only one.
pub(super) fn is_split(writer: &Writer, size: u64) -> bool {
    let open = writer.open();
    open.image.parts.len() > 1 || is_numbered(&open.image) && size > SPLIT
}

/// True when the extents of `image` have names with numbers, so that more may follow.
pub(super) fn is_numbered(image: &Vmdk) -> bool {
    image.parts.last().and_then(|p| p.line.as_ref()?.file.as_deref()).and_then(next_name).is_some()
}

/// The name behind `name`: `disk-s001.vmdk`, `disk-s002.vmdk`, … `None` when it has no number.
fn next_name(name: &str) -> Option<String> {
    let dot = name.rfind('.').unwrap_or(name.len());
    let (stem, extension) = name.split_at(dot);
    let digits = stem.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (head, number) = stem.split_at(stem.len() - digits);
    if !head.ends_with("-s") && !head.ends_with("-f") {
        return None;
    }
    Some(format!("{head}{:0digits$}{extension}", number.parse::<u64>().ok()?.checked_add(1)?))
}

/// Prepares a size of `size` bytes; the names of extents that are no longer wanted.
pub(super) fn resize(writer: &Writer, size: u64, files: &dyn NewFiles) -> Result<Vec<String>> {
    let size = round_up(size, SECTOR).filter(|&s| s <= i64::MAX as u64 && s > 0);
    let size = size.ok_or_else(|| Error::usage("that is no size for a disk"))?;
    writer.flush()?;
    let open = writer.disk.write().unwrap_or_else(PoisonError::into_inner);
    let image = open.image.clone();
    let (kind, names) = check(&image, &open)?;
    let mut lens: Vec<u64> = image.parts.iter().map(|p| p.len).collect();
    let (mut added, mut gone) = (Vec::new(), Vec::new());
    if size >= image.size {
        let mut rest = size - image.size;
        if let Some(len) = lens.last_mut() {
            let more = rest.min(SPLIT.saturating_sub(*len));
            if more > 0 {
                lengthen(writer, &open, image.size - *len, *len, *len + more)?;
            }
            *len += more;
            rest -= more;
        }
        let mut name = names.last().cloned().unwrap_or_default();
        while rest > 0 {
            name = next_name(&name).ok_or_else(|| Error::unsupported(format!("no name follows on '{name}'")))?;
            if (lens.len() + added.len()) as u64 >= MAX_SPLIT {
                return Err(Error::usage(format!("the disk would consist of more than {MAX_SPLIT} files")));
            }
            let len = rest.min(SPLIT);
            make(writer, files, &open, &name, size - rest, len)?;
            added.push((len, kind, name.clone()));
            rest -= len;
        }
    } else {
        let mut left = size;
        for (len, name) in lens.iter_mut().zip(&names) {
            if left == 0 {
                gone.push(name.clone());
            }
            *len = (*len).min(left);
            left -= *len;
        }
        lens.truncate(names.len() - gone.len());
    }
    write_descriptor(writer, names.len(), &lens, &added, files)?;
    Ok(gone)
}

/// Refuses a disk that is not as we split them; the type of its extents, and their names.
fn check(image: &Vmdk, open: &Open) -> Result<(&'static str, Vec<String>)> {
    let no = || {
        Error::unsupported("a disk of such extents cannot be resized in place")
            .hint("convert it with the new size, or to a one-file sub-format")
    };
    let mut names = Vec::new();
    for (part, how) in image.parts.iter().zip(&open.parts) {
        let line = part.line.as_ref().ok_or_else(no)?;
        let plain = matches!((how, line.kind.as_str()), (Target::Flat(_, 0), "FLAT") | (Target::Sparse(_), "SPARSE"));
        names.push(line.file.clone().filter(|_| plain && line.offset == 0).ok_or_else(no)?);
    }
    let kinds: HashSet<&str> = image.parts.iter().map(|p| p.kind()).collect();
    let distinct = names.iter().collect::<HashSet<_>>().len() == names.len();
    match (kinds.contains("FLAT"), kinds.len(), image.text, distinct) {
        (true, 1, Some((0, _)), true) => Ok(("FLAT", names)),
        (false, 1, Some((0, _)), true) => Ok(("SPARSE", names)),
        _ => Err(no()),
    }
}

/// Makes the last extent, of `old` bytes from guest byte `start` on, `len` bytes long; the new part is zero.
fn lengthen(writer: &Writer, open: &Open, start: u64, old: u64, len: u64) -> Result<()> {
    let storage = open.image.parts.last().map(|p| &p.storage);
    match (open.parts.last(), storage) {
        (Some(Target::Flat(dev, _)), _) => {
            dev.set_len(len.max(dev.len()))?;
            dev.write_zeroes(old, len - old)?;
            dev.flush()
        }
        (Some(Target::Sparse(hosted)), Some(Storage::Sparse(grains))) => {
            resize::grow(writer, open, hosted, grains, start, len).map(drop).map_err(|(e, _)| e)
        }
        _ => Err(Error::new(ErrorKind::Internal, "an extent that is neither flat nor sparse")),
    }
}

/// A new extent of `len` zeros from guest byte `start` on, of the sort of the others.
fn make(writer: &Writer, files: &dyn NewFiles, open: &Open, name: &str, start: u64, len: u64) -> Result<()> {
    let image = writer.files.first().and_then(Option::as_ref);
    if let Some(path) = image.and_then(|d| d.path()).map(|p| p.with_file_name(name)).filter(|p| p.exists()) {
        return Err(Error::usage("the next extent would have its name, and it is there already").path(path));
    }
    let dev = files.extra(name)?;
    let Some(Storage::Sparse(sibling)) = open.image.parts.last().map(|p| &p.storage) else { return dev.set_len(len) };
    let zero_grain = sibling.geometry.entries == (Entries::Sectors { zero_grain: true });
    let end = sparse_file(&dev, len, None, zero_grain)?;
    // What a longer parent has there must not show.
    let pages = Arc::new(Pages::default());
    let device: Device = dev.clone();
    let geometry = sparse::open(dev.as_ref())?.header.geometry()?;
    let extent = Hosted::new(Arc::new(Grains::new(geometry, 0, device, pages.clone())), dev.clone(), end);
    resize::hide(writer, open, &extent, start, 0, len)?;
    pages.write_back(|| dev.flush(), |_, offset, bytes| dev.write_at(offset, bytes)).map(drop)
}

/// The new descriptor, with a new content id.
fn write_descriptor(
    writer: &Writer,
    had: usize,
    lens: &[u64],
    added: &[(u64, &str, String)],
    files: &dyn NewFiles,
) -> Result<()> {
    let Some(Some(dev)) = writer.files.first() else { return Err(Error::new(ErrorKind::Internal, "an image without a file")) };
    let old = read_vec(dev.as_ref(), 0, dev.len(), MAX_DESCRIPTOR)?;
    let mut text = compose::with_extents(&old, had, lens, added)?;
    if let Some(place) = descriptor::cid_digits(&text) {
        let digits = new_digits(place.len());
        if let Some(field) = text.get_mut(place) {
            field.copy_from_slice(digits.as_bytes());
        }
    }
    let fresh = files.image();
    fresh.write_at(0, &text)?;
    fresh.set_len(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_on_where_they_end() {
        for (name, want) in [
            ("disk-s001.vmdk", Some("disk-s002.vmdk")),
            ("a.b-f099.vmdk", Some("a.b-f100.vmdk")),
            ("x-s999", Some("x-s1000")),
            ("disk-flat.vmdk", None),
            ("disk1.vmdk", None),
            ("-s.vmdk", None),
        ] {
            assert_eq!(next_name(name).as_deref(), want, "{name}");
        }
    }
}
