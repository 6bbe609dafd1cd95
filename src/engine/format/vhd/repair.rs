//! Repairing a VHD: a footer that is lost or damaged is written again from the other one, and checksums are computed anew where all
//! they cover agrees with the file. Each is one sector, durable before the next; none depends on another, so a crash leaves the image
//! with fewer faults than it had.

use super::check::{BACK, CHECKSUM, DIFFER, FRONT, check, footers};
use super::footer::{self, BYTES, DiskType, checksum};
use super::header;
use crate::engine::error::Result;
use crate::engine::format::check::{Evidence, Repair, Repaired, Repairing};
use crate::engine::format::rules::{OUTSIDE, OVERLAP};
use crate::engine::io::bytes::put_be32;
use crate::engine::io::{read_padded, read_vec};
use crate::engine::units::SECTOR;

/// Repairs as far as it is asked for, and can be.
///
/// Errors: no footer can be believed; what is to change cannot be saved or written.
pub fn repair(r: &Repairing<'_>) -> Result<Repaired> {
    let report = check(&r.source)?;
    let mut out = Repaired::default();
    let count: u64 = [&BACK, &FRONT, &DIFFER, &CHECKSUM].iter().map(|rule| report.count_of(rule)).sum();
    if count == 0 || r.repair == Repair::Leaks {
        return Ok(out);
    }
    let dev = r.dev.as_ref();
    let length = dev.len();
    let (f, end) = footers(dev, &mut Default::default())?;
    let mut writes: Vec<(u64, Vec<u8>)> = Vec::new();
    // The bytes as they are: fields that are not known here stay.
    let mut bytes = vec![0u8; BYTES];
    let from = if report.count_of(&BACK) > 0 { 0 } else { end };
    read_padded(dev, from, &mut bytes)?;
    let sum = checksum(&bytes, 64);
    let _ = put_be32(&mut bytes, 64, sum);
    if report.count_of(&BACK) > 0 {
        if report.count_of(&OUTSIDE) + report.count_of(&OVERLAP) > 0 {
            out.left
                .push("blocks lie behind the end of the file or over each other: where the footer belongs is not known".into());
        } else {
            // Right behind the last block where that is what the damaged one left, else at the end of the file.
            let used = report.image_end.unwrap_or(0).next_multiple_of(SECTOR);
            let place = if end + BYTES as u64 == length || used + BYTES as u64 == length {
                length - BYTES as u64
            } else {
                length.max(used).next_multiple_of(SECTOR)
            };
            writes.push((place, bytes.clone()));
        }
    }
    if f.kind != DiskType::Fixed && report.count_of(&FRONT) + report.count_of(&DIFFER) > 0 {
        writes.push((0, bytes.clone()));
    }
    let footer_sum = footer::find(dev).is_err();
    if footer_sum {
        writes.push((end, bytes.get(..(length - end).min(BYTES as u64) as usize).unwrap_or_default().to_vec()));
    }
    if f.kind != DiskType::Fixed && report.count_of(&CHECKSUM) > u64::from(footer_sum) {
        let mut b = read_vec(dev, f.data_offset, header::BYTES as u64, header::BYTES as u64)?;
        let sum = checksum(&b, 36);
        let _ = put_be32(&mut b, 36, sum);
        writes.push((f.data_offset, b));
    }
    if writes.is_empty() {
        return Ok(out);
    }
    let kept = writes.iter().map(|(at, b)| (*at, (b.len() as u64).min(length.saturating_sub(*at)))).filter(|(_, n)| *n > 0);
    (r.keep)(&Evidence { length, groups: vec![kept.collect()] })?;
    for (at, bytes) in &writes {
        dev.write_at(*at, bytes)?;
        dev.flush()?;
    }
    out.corruptions = count - out.left.len() as u64;
    let tail = dev.len() - (BYTES as u64).min(dev.len());
    out.state = vec![(tail, dev.len() - tail)];
    if f.kind != DiskType::Fixed {
        out.state.push((0, f.data_offset.saturating_add(header::BYTES as u64).min(dev.len())));
        if let Ok((h, _)) = header::Header::read_unproved(dev, f.data_offset) {
            out.state.push((h.table_at, (u64::from(h.entries) * 4).min(dev.len().saturating_sub(h.table_at))));
        }
    }
    Ok(out)
}
