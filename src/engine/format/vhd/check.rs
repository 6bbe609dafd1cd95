//! Checking a VHD: both footers and the dynamic header with their checksums, the block table, the sector bitmaps.

use super::footer::{self, DiskType, Footer};
use super::header::{self, Header};
use super::{FREE, sector_bit};
use crate::engine::error::{ErrorKind, Result};
use crate::engine::format::Source;
use crate::engine::format::check::{CheckReport, Spot};
use crate::engine::format::rules::{self, rules};
use crate::engine::format::table::{Table, bits_alike};
use crate::engine::format::uses::Uses;
use crate::engine::io::{ReadAt, read_padded, read_vec};
use crate::engine::units::SECTOR;

rules! {
    BACK "footer" Corruption All,
        "the footer at the end of the file is missing or damaged",
        "The guest's data is not concerned. Programs that look only there do not take the file for a VHD; it may have been cut short.",
        "It is written again from its copy at the start.";
    FRONT "footer-copy" Corruption All,
        "the footer's copy at the start of the file is damaged",
        "The guest's data is not concerned; without the copy there is nothing to fall back to when the end of the file is lost.",
        "It is written again from the footer at the end.";
    DIFFER "footers-differ" Corruption All,
        "the footer and its copy at the start do not say the same",
        "Programs that read one or the other may show another size or another identity.",
        "The copy is written again from the footer at the end.";
    CHECKSUM "checksum" Corruption All,
        "a checksum is wrong, and all it covers agrees with the file",
        "The guest's data is not concerned; programs that test the checksum refuse the file.",
        "The checksum is computed anew.";
    HEADER "header" Corruption No,
        "the dynamic header is damaged",
        "Without it no block can be found: the guest's data cannot be read.",
        "Nothing: where the block table is and how large its blocks are is not known.";
    BITMAP "sector-bitmap" Note No,
        "sector bitmaps leave out sectors of stored blocks",
        "By the specification these sectors are zeros; QEMU takes no notice of the bitmaps and shows what is stored there.",
        "Nothing has to be mended.";
    LOCATOR "parent-locator" Note No,
        "names of the parent lie outside the file",
        "The parent may not be found by these names.",
        "Nothing: the names are lost. The parent has to be named anew.";
}

/// Checks the image. Only reads.
///
/// Errors: no footer at either end that could be believed.
pub fn check(source: &Source) -> Result<CheckReport> {
    let dev = source.dev.as_ref();
    let mut report = CheckReport::default();
    let (footer, end) = footers(dev, &mut report)?;
    if footer.kind == DiskType::Fixed {
        if footer.size() > end {
            let detail = format!("the disk has {} bytes, and only {end} lie before the footer", footer.size());
            report.note(&rules::OUTSIDE, Spot { offset: Some(end), guest: Some((end, footer.size() - end)), detail });
        }
        let used = footer.size().max(footer.current_size);
        if end > used {
            report.note(&rules::UNUSED, Spot { offset: Some(used), guest: None, detail: format!("{} bytes", end - used) });
        }
        return Ok(report);
    }
    let header = match Header::read_unproved(dev, footer.data_offset) {
        Ok((header, true)) => header,
        Ok((header, false)) => {
            let detail = "the dynamic header".to_string();
            report.note(&CHECKSUM, Spot { offset: Some(footer.data_offset), guest: None, detail });
            header
        }
        Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Truncated) => {
            report.note(
                &HEADER,
                Spot { offset: Some(footer.data_offset), guest: Some((0, footer.size())), detail: e.why().into() },
            );
            return Ok(report);
        }
        Err(e) => return Err(e),
    };
    let blocks = footer.size().div_ceil(header.block_size);
    report.total = blocks;
    let needed = blocks.saturating_mul(4);
    if blocks > u64::from(header.entries) || header.table_at.checked_add(needed).is_none_or(|t| t > dev.len()) {
        let detail = format!("a table of {} entries at {:#x}, for {blocks} blocks", header.entries, header.table_at);
        report.note(&HEADER, Spot { offset: Some(footer.data_offset), guest: Some((0, footer.size())), detail });
        return Ok(report);
    }
    let mut uses = Uses::default();
    uses.structure("the footer's copy", 0, SECTOR, &mut report);
    uses.structure("the dynamic header", footer.data_offset, header::BYTES as u64, &mut report);
    uses.structure("the block table", header.table_at, needed, &mut report);
    // A table may have more entries than the disk has blocks.
    uses.reserve(header.table_at, u64::from(header.entries) * 4);
    locators(dev, &header, &mut uses, &mut report);
    Blocks { source, footer: &footer, header: &header, end }.check(blocks, &mut uses, &mut report);
    report.image_end = Some(uses.end());
    uses.unused(end, header.bitmap_bytes() + header.block_size, &rules::UNUSED, |at| at, &mut report);
    Ok(report)
}

/// The footer that counts, and the byte at which the one at the end begins (or would begin).
pub(super) fn footers(dev: &dyn ReadAt, report: &mut CheckReport) -> Result<(Footer, u64)> {
    let spot = |at: u64, detail: String| Spot { offset: Some(at), guest: None, detail };
    let found = match footer::find(dev) {
        Ok(found) => found,
        Err(e) => {
            // Neither is proved by its checksum: the one at the end may still be right in all that can be compared.
            let (bytes, at) = footer::bytes_at_end(dev)?;
            let unproved = bytes.and_then(|b| Footer::fields(&b)).and_then(Result::ok).filter(|f| agrees(dev, f, at));
            let Some(footer) = unproved else { return Err(e) };
            report.note(&CHECKSUM, spot(at, "the footer".into()));
            if footer.kind != DiskType::Fixed {
                report.note(&FRONT, spot(0, "it is not intact either".into()));
            }
            return Ok((footer, at));
        }
    };
    let f = found.footer;
    if !found.back {
        report.note(&BACK, spot(found.end, "the copy at the start says what it should be".into()));
    } else if f.kind != DiskType::Fixed && !found.front {
        let mut front = [0u8; footer::BYTES];
        read_padded(dev, 0, &mut front)?;
        match Footer::decode(&front) {
            Some(Ok(copy)) => {
                let detail = format!("{} bytes and {}; at the end {} bytes and {}", copy.size(), copy.uuid, f.size(), f.uuid);
                report.note(&DIFFER, spot(0, detail));
            }
            Some(Err(e)) => report.note(&FRONT, spot(0, e.why().into())),
            None => report.note(&FRONT, spot(0, "it does not begin as a footer does".into())),
        }
    }
    Ok((f, found.end))
}

/// Whether all that `footer`, at byte `at`, says is borne out by the file.
fn agrees(dev: &dyn ReadAt, footer: &Footer, at: u64) -> bool {
    match footer.kind {
        DiskType::Fixed => footer.current_size == at && footer.size() <= at && footer.data_offset == u64::MAX,
        _ => Header::read_unproved(dev, footer.data_offset)
            .is_ok_and(|(h, proved)| proved && footer.size().div_ceil(h.block_size) <= u64::from(h.entries)),
    }
}

/// Where the parent's names lie.
fn locators(dev: &dyn ReadAt, header: &Header, uses: &mut Uses, report: &mut CheckReport) {
    for l in header.locators.iter().filter(|l| l.code != [0; 4]) {
        if l.at.checked_add(l.len.into()).is_none_or(|end| end > dev.len()) {
            let detail = format!("'{}': {} bytes at {:#x}", String::from_utf8_lossy(&l.code), l.len, l.at);
            report.note(&LOCATOR, Spot { offset: Some(l.at), guest: None, detail });
        } else {
            uses.structure("a name of the parent", l.at, l.len.into(), report);
            // Room for it is counted in sectors by some writers, in bytes by others.
            let space = u64::from(l.space);
            uses.reserve(l.at, if space < SECTOR { space * SECTOR } else { space });
        }
    }
}

/// The blocks of a dynamic or differencing disk.
struct Blocks<'a> {
    source: &'a Source,
    footer: &'a Footer,
    header: &'a Header,
    /// Byte where the footer at the end begins.
    end: u64,
}

impl Blocks<'_> {
    fn check(&self, blocks: u64, uses: &mut Uses, report: &mut CheckReport) {
        let (h, size) = (self.header, self.footer.size());
        let table = Table::new(self.source.dev.clone(), h.table_at, blocks * 4);
        let mut cursor = table.cursor();
        for index in 0..blocks {
            let place = h.table_at + index * 4;
            let start = index * h.block_size;
            let used = h.block_size.min(size - start);
            let spot = |detail: String| Spot { offset: Some(place), guest: Some((start, used)), detail };
            let at = match cursor.be32(index) {
                Ok(FREE) => continue,
                Ok(entry) => u64::from(entry) * SECTOR,
                Err(e) => {
                    report.note(&rules::UNREADABLE, spot(format!("the block table: {}", e.why())));
                    break;
                }
            };
            let data = at + h.bitmap_bytes();
            if data + used > self.end {
                report.note(&rules::OUTSIDE, spot(format!("block {index} at {at:#x}")));
                continue;
            }
            // The last block of a file may end with the disk.
            let len = h.bitmap_bytes() + h.block_size.min(self.end - data);
            if let Some(other) = uses.data(at, len, report) {
                report.note(&rules::OVERLAP, spot(format!("block {index} at {at:#x}, over {other}")));
                continue;
            }
            self.bitmap(at, used, &spot, report);
        }
    }

    /// Looks at the sector bitmap at byte `at`, of a block of which the disk has `used` bytes.
    fn bitmap(&self, at: u64, used: u64, spot: &dyn Fn(String) -> Spot, report: &mut CheckReport) {
        let len = self.header.bitmap_bytes();
        match read_vec(self.source.dev.as_ref(), at, len, len) {
            Ok(bits) if self.footer.kind == DiskType::Dynamic => {
                let sectors = used.div_ceil(SECTOR);
                let (set, alike) = bits_alike(&bits, 0, sectors, sector_bit);
                if !set || alike < sectors {
                    report.note(&BITMAP, spot(format!("the bitmap at {at:#x}")));
                }
            }
            Ok(_) => {}
            Err(e) => report.note(&rules::UNREADABLE, spot(format!("a sector bitmap: {}", e.why()))),
        }
    }
}
