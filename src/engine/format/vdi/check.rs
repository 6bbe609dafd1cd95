//! Checking a VDI: every entry of the block map, and what the header counts against what the map names.

use super::header::{Header, ImageType};
use super::{FREE, ZERO};
use crate::engine::error::Result;
use crate::engine::format::Source;
use crate::engine::format::check::{CheckReport, Spot};
use crate::engine::format::rules::{self, rules};
use crate::engine::format::table::Table;
use crate::engine::format::uses::Uses;

rules! {
    COUNT "block-count" Corruption All,
        "the header counts other blocks than the map names",
        "The data is still right, but VirtualBox and QEMU put the next new block where the count says: one that is too low \
         overwrites a block.",
        "The count is set to what the map names, and unnamed blocks are given back.";
    BEYOND "beyond-count" Corruption All,
        "blocks are stored where the next new block will be put",
        "The data is still right, but VirtualBox and QEMU would overwrite these blocks.",
        "The last blocks are moved into the places that nothing uses.";
    UNNAMED "unused" Leak Leaks,
        "blocks are stored that the map does not name",
        "Nothing is wrong with the guest's data; the space is lost.",
        "The last blocks are moved into their places, and the file is cut.";
}

/// Checks the image. Only reads.
///
/// Errors: the header cannot be read or contradicts itself.
pub fn check(source: &Source) -> Result<CheckReport> {
    let dev = &source.dev;
    let h = Header::read(dev.as_ref())?;
    let map = Table::new(dev.clone(), h.map_at, h.blocks * 4);
    let mut report = CheckReport { total: h.blocks, ..CheckReport::default() };
    let mut cursor = map.cursor();
    // In numbers of stored blocks.
    let mut uses = Uses::default();
    let mut named = 0;
    for index in 0..h.blocks {
        let place = h.map_at + index * 4;
        let guest = Some((index * h.block_size, h.block_size.min(h.disk_size.saturating_sub(index * h.block_size))));
        let entry = match cursor.le32(index) {
            Ok(FREE | ZERO) => continue,
            Ok(entry) => u64::from(entry),
            Err(e) => {
                report.note(
                    &rules::UNREADABLE,
                    Spot { offset: Some(place), guest: None, detail: format!("the block map: {}", e.why()) },
                );
                break;
            }
        };
        let spot = |detail: String| Spot { offset: Some(place), guest, detail };
        if entry >= h.blocks {
            report.note(&rules::NONSENSE, spot(format!("guest block {index}: stored block {entry} of at most {}", h.blocks)));
            continue;
        }
        // As QEMU counts: a block that is named twice counts twice.
        named += 1;
        if uses.data(entry, 1, &mut report).is_some() {
            report.note(&rules::OVERLAP, spot(format!("guest block {index}: stored block {entry} is another one's too")));
            continue;
        }
        let used = guest.map_or(0, |(_, len)| len);
        if h.block_at(entry).saturating_add(used) > dev.len() {
            report.note(&rules::OUTSIDE, spot(format!("guest block {index}: stored block {entry} at {:#x}", h.block_at(entry))));
        }
    }
    let at_count = |detail: String| Spot { offset: Some(0x184), guest: None, detail };
    let next = uses.end();
    if named != h.allocated {
        report.note(&COUNT, at_count(format!("the header counts {}, the map names {named}", h.allocated)));
    } else if next > h.allocated {
        report.note_many(
            &BEYOND,
            at_count(format!("{named} blocks are counted, the last one is number {}", next - 1)),
            next - named,
        );
    }
    report.image_end = Some(h.data_at.saturating_add(next.saturating_mul(h.stride())));
    // A static image keeps its blocks whether the map names them or not.
    if h.image_type != ImageType::Static {
        let stored = (dev.len().saturating_sub(h.data_at) / h.stride()).min(h.blocks).max(next);
        uses.unused(stored, 1, &UNNAMED, |n| h.data_at + n * h.stride(), &mut report);
    }
    Ok(report)
}
