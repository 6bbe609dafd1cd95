//! Checking a qcow version 1 image: where its tables and clusters lie. It has no counts that could be wrong.

use super::header::Header;
use super::tables::{Entry, Tables};
use crate::engine::error::Result;
use crate::engine::format::Source;
use crate::engine::format::check::{CheckReport, Spot};
use crate::engine::format::rules;
use crate::engine::format::uses::Uses;
use crate::engine::io::bytes::be64;
use crate::engine::io::read_vec;
use crate::engine::units::SECTOR;

/// Checks the image. Only reads.
///
/// Errors: the header cannot be read, or the L1 table is not in the file.
pub fn check(source: &Source) -> Result<CheckReport> {
    let dev = source.dev.as_ref();
    let h = Header::read(dev)?;
    let tables = Tables::new(source.dev.clone(), h.clone());
    let cluster = h.cluster_size();
    let span = cluster * h.l2_entries();
    let mut report = CheckReport { total: h.size.div_ceil(cluster), ..CheckReport::default() };
    let mut uses = Uses::default();
    uses.structure("the header", 0, super::header::HEADER_BYTES, &mut report);
    // The backing file's name stands between the two, and the L1 table is written as whole sectors.
    uses.reserve(0, h.l1_offset.min(64 << 10));
    uses.reserve(h.l1_offset, (h.l1_entries * 8).next_multiple_of(SECTOR));
    uses.structure("the L1 table", h.l1_offset, h.l1_entries * 8, &mut report);
    for index in 0..h.l1_entries {
        let place = h.l1_offset + index * 8;
        let spot = |detail: String| Spot {
            offset: Some(place),
            guest: Some((index * span, span.min(h.size.saturating_sub(index * span)))),
            detail,
        };
        let at = match tables.l1(index) {
            Ok(0) => continue,
            Ok(at) => at,
            Err(e) => {
                report.note(&rules::UNREADABLE, spot(format!("the L1 table: {}", e.why())));
                break;
            }
        };
        let len = h.l2_entries() * 8;
        if at.checked_add(len).is_none_or(|end| end > dev.len()) {
            report.note(&rules::OUTSIDE, spot(format!("L1 entry {index}: an L2 table at {at:#x}")));
            continue;
        }
        if let Some(other) = uses.unit(at, len) {
            // Followed once only: a table that many entries name must not cost as much as many tables.
            report.note(&rules::OVERLAP, spot(format!("L1 entry {index}: an L2 table at {at:#x}, over {other}")));
            continue;
        }
        match read_vec(dev, at, len, len) {
            Ok(table) => l2(&h, dev.len(), index * h.l2_entries(), at, &table, &mut uses, &mut report),
            Err(e) => report.note(&rules::UNREADABLE, spot(format!("an L2 table: {}", e.why()))),
        }
    }
    report.image_end = Some(uses.end());
    uses.unused(dev.len(), cluster, &rules::UNUSED, |at| at, &mut report);
    Ok(report)
}

/// Checks the entries of the L2 table at `at`, whose first one is of guest cluster `first`; the file has `len` bytes.
fn l2(h: &Header, len: u64, first: u64, at: u64, table: &[u8], uses: &mut Uses, report: &mut CheckReport) {
    for n in 0..h.l2_entries() {
        let start = (first + n) << h.cluster_bits;
        if start >= h.size {
            break;
        }
        let raw = be64(table, n as usize * 8).unwrap_or_default();
        let used = h.cluster_size().min(h.size - start);
        let spot = |detail: String| Spot { offset: Some(at + n * 8), guest: Some((start, used)), detail };
        let (place, bytes, needed) = match Entry::decode(raw, h.cluster_bits) {
            Entry::Unallocated => continue,
            Entry::Data(place) => (place, h.cluster_size(), used),
            Entry::Compressed { offset, len } => {
                report.compressed += 1;
                (offset, len, len)
            }
        };
        if needed == 0 {
            report.note(&rules::NONSENSE, spot(format!("L2 entry {n}: {raw:#x}, a compressed cluster of no bytes")));
        } else if place.checked_add(needed).is_none_or(|end| end > len) {
            report.note(&rules::OUTSIDE, spot(format!("L2 entry {n}: a cluster at {place:#x}")));
        } else if let Some(other) = uses.data(place, bytes, report) {
            report.note(&rules::OVERLAP, spot(format!("L2 entry {n}: a cluster at {place:#x}, over {other}")));
        }
    }
}
