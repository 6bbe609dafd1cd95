//! Giving a VMDK another parent, or none: two lines of its descriptor. What a crash leaves after each step, for a descriptor inside a
//! sparse file that changes in more than one sector:
//!
//! 1. the new text behind the end of the file, the header naming the old: the old image;
//! 2. the header, one sector, names the new text: the new image;
//! 3. the new text where the old one was, and the header naming that place again, as some readers look nowhere else: the same.
//!
//! A change within one sector is one write. A descriptor in a file of its own is written at once, as it mostly fits in a sector; a
//! cut in the middle of a longer one may garble lines after its first sector.

use super::compose::with_parent;
use super::descriptor::NO_PARENT;
use super::resize::switch;
use super::writer::Writer;
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::Format;
use crate::engine::format::write::NewBacking;
use crate::engine::io::read_vec;
use crate::engine::limits::MAX_DESCRIPTOR;
use crate::engine::units::SECTOR;

/// Records `backing`, or none, durably.
///
/// Errors: the parent is no VMDK; the image has no descriptor, or none with room for the name.
pub(super) fn set(writer: &Writer, backing: Option<&NewBacking>) -> Result<()> {
    let open = writer.open();
    writer.flush_tables(&open)?;
    let Some(Some(dev)) = writer.files.first() else { return Err(Error::new(ErrorKind::Internal, "an image without a file")) };
    let (at, room) = open
        .image
        .text
        .ok_or_else(|| Error::unsupported("it has no descriptor, which is where a parent is named").op("change the parent"))?;
    let parent = match backing {
        None => None,
        Some(p) => match p.identity.cid.filter(|_| p.format == Format::Vmdk) {
            Some(cid) => Some((cid, p.name.as_str())),
            None => {
                return Err(Error::usage(format!("the parent of a VMDK is another VMDK, but this one is {}", p.format))
                    .path(&p.path)
                    .hint("convert the parent to vmdk, or make the child a qcow2"));
            }
        },
    };
    let old = read_vec(dev.as_ref(), at, room.min(dev.len().saturating_sub(at)), MAX_DESCRIPTOR)?;
    let mut text = with_parent(&old, parent.map_or(NO_PARENT, |(cid, _)| cid), parent.map(|(_, name)| name))?;
    if at == 0 {
        text.resize(text.len().max(old.len()), b'\n');
        dev.write_at(0, &text).op("write the descriptor")?;
        return dev.flush();
    }
    if text.len() as u64 >= room {
        return Err(Error::unsupported("the descriptor has no room left for the parent's name")
            .op("change the parent")
            .hint("use a shorter name, or convert the disk"));
    }
    text.resize(old.len(), 0);
    let sectors = || old.chunks(SECTOR as usize).zip(text.chunks(SECTOR as usize)).enumerate().filter(|(_, (a, b))| a != b);
    if sectors().count() > 1 {
        let end = dev.len().next_multiple_of(SECTOR);
        let name = |place: u64| switch(dev, |h| h.descriptor.0 = place / SECTOR);
        dev.write_at(end, &text).op("write the descriptor")?;
        name(end)?;
        dev.write_at(at, &text).op("write the descriptor")?;
        name(at)?;
        dev.set_len(end)?;
    } else {
        for (i, (_, new)) in sectors() {
            dev.write_at(at + i as u64 * SECTOR, new).op("write the descriptor")?;
        }
    }
    dev.flush()
}
