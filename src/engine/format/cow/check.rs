//! Checking a COW file: every sector has its place, so all that can be wrong is a bit without its sector.

use super::bitmap::Bitmap;
use super::header::Header;
use crate::engine::error::{Context, Result};
use crate::engine::format::Source;
use crate::engine::format::check::{CheckReport, Spot};
use crate::engine::format::rules::{self, rules};
use crate::engine::io::read_up_to;
use crate::engine::units::SECTOR;

rules! {
    OUTSIDE "outside" Corruption Lossy,
        "sectors are marked as stored here, and the file ends before them",
        "The file was cut short: the guest reads zeros there.",
        "The file is made as long as the bitmap says: what was cut off is lost, and reads as zeros.";
    SHORT "bitmap-short" Note No,
        "the file ends within the bitmap",
        "Sectors whose bits are not there count as not stored.",
        "Nothing has to be mended: the file grows when it is written.";
}

/// Checks the image. Only reads.
///
/// Errors: the header cannot be read.
pub fn check(source: &Source) -> Result<CheckReport> {
    let dev = source.dev.as_ref();
    let head = read_up_to(dev, 0, Header::MAX_BYTES).op("read header")?;
    let h = Header::parse(&head).op("read header")?;
    let bitmap = Bitmap::new(source.dev.clone(), h.layout.header_bytes());
    let total = h.size / SECTOR;
    let mut report = CheckReport { total, ..CheckReport::default() };
    let bitmap_end = h.layout.header_bytes() + h.bitmap_bytes();
    if dev.len() < bitmap_end {
        let detail = format!("{} of {bitmap_end} bytes", dev.len());
        report.note(&SHORT, Spot { offset: Some(dev.len()), guest: None, detail });
    }
    let mut last = None;
    let mut sector = 0;
    while sector < total {
        let (stored, count) = match bitmap.run(sector, total - sector) {
            Ok(run) => run,
            Err(e) => {
                let offset = Some(h.layout.header_bytes() + sector / 8);
                report.note(&rules::UNREADABLE, Spot { offset, guest: None, detail: format!("the bitmap: {}", e.why()) });
                break;
            }
        };
        let count = count.max(1);
        if stored {
            report.allocated += count;
            report.fragmented += u64::from(last.is_some_and(|end| end != sector));
            last = Some(sector + count);
            let end = h.data_offset() + (sector + count) * SECTOR;
            report.image_end = report.image_end.max(Some(end));
            let missing = end.saturating_sub(dev.len().max(h.data_offset() + sector * SECTOR)).div_ceil(SECTOR);
            if missing > 0 {
                let first = sector + count - missing;
                let spot = Spot {
                    offset: Some(h.data_offset() + first * SECTOR),
                    guest: Some((first * SECTOR, missing * SECTOR)),
                    detail: format!("sectors {first} to {} are marked as stored here", sector + count - 1),
                };
                report.note_many(&OUTSIDE, spot, missing);
                report.lose(first * SECTOR, missing * SECTOR);
            }
        }
        sector += count;
    }
    Ok(report)
}
