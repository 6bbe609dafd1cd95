//! Windows' own: NTFS with its label and free space, ReFS and BitLocker by name.

use super::{FsInfo, FsKind, Volume, clear_bits, wide_label};
use crate::engine::io::bytes::{le16, le32, le64};

/// Numbers of the records of the master file table that are looked at.
const VOLUME: u64 = 3;
const BITMAP: u64 = 6;
/// Types of attributes.
const NAME: u32 = 0x60;
const INFORMATION: u32 = 0x70;
const DATA: u32 = 0x80;
const END: u32 = 0xffff_ffff;
/// Runs of one attribute followed, at most.
const MAX_RUNS: usize = 4096;

/// BitLocker, NTFS and ReFS by the boot sector.
pub(super) fn windows(v: &Volume<'_>) -> Option<FsInfo> {
    let b = v.head.as_slice();
    match b.get(3..11)? {
        b"-FVE-FS-" => Some(FsInfo::new(FsKind::BitLocker)),
        b"NTFS    " => {
            let mut f = FsInfo::new(FsKind::Ntfs);
            let sector = u64::from(le16(b, 11)?);
            f.size = le64(b, 40)?.checked_mul(sector);
            // From 0x80 on it is a power of two, negative.
            let per_cluster = match *b.get(13)? {
                n @ 0x80.. => 1u64.checked_shl(u32::from(n.wrapping_neg()))?,
                n => u64::from(n),
            };
            f.block_size = sector.checked_mul(per_cluster);
            f.uuid = le64(b, 72).map(|n| format!("{n:016X}"));
            let _ = table(v, &mut f);
            Some(f)
        }
        n if n.starts_with(b"ReFS\0") => Some(FsInfo::new(FsKind::ReFs)),
        _ => None,
    }
}

/// What the master file table says of the volume. `None`: it cannot be read.
fn table(v: &Volume<'_>, f: &mut FsInfo) -> Option<()> {
    let b = v.head.as_slice();
    let cluster = f.block_size.filter(|c| (512..=2 << 20).contains(c))?;
    let start = le64(b, 48)?.checked_mul(cluster)?;
    let record = match *b.get(64)? as i8 {
        n @ 1.. => u64::from(n.unsigned_abs()).checked_mul(cluster)?,
        n => 1u64.checked_shl(u32::from(n.unsigned_abs()))?,
    };
    let record = usize::try_from(record).ok().filter(|n| (512..=65536).contains(n))?;
    let read = |n: u64| mended(v.block(start.checked_add(n * record as u64)?, record)?);
    if let Some(volume) = read(VOLUME) {
        f.label = attribute(&volume, NAME).and_then(resident).and_then(wide_label);
        if attribute(&volume, INFORMATION).and_then(resident).and_then(|i| le16(i, 10)).is_some_and(|flags| flags & 1 != 0) {
            f.notes.push("it is marked as in use: Windows did not close it".into());
        }
    }
    let clusters = f.size? / cluster;
    let bitmap = read(BITMAP)?;
    let data = attribute(&bitmap, DATA)?;
    let map = match resident(data) {
        Some(map) => map.to_vec(),
        None => runs(v, data, cluster, clusters.div_ceil(8))?,
    };
    f.free = (map.len() as u64 >= clusters.div_ceil(8)).then(|| clear_bits(&map, clusters) * cluster);
    Some(())
}

/// A record with the last word of each sector put back, which is kept apart to tell a torn write.
fn mended(mut record: Vec<u8>) -> Option<Vec<u8>> {
    if !record.starts_with(b"FILE") {
        return None;
    }
    let (at, count) = (usize::from(le16(&record, 4)?), usize::from(le16(&record, 6)?));
    let sign = le16(&record, at)?;
    for i in 1..count {
        let word = le16(&record, at + i * 2)?;
        let end = i * 512 - 2;
        if le16(&record, end)? != sign {
            return None;
        }
        record.get_mut(end..end + 2)?.copy_from_slice(&word.to_le_bytes());
    }
    Some(record)
}

/// The first attribute of a type that has no name.
fn attribute(record: &[u8], kind: u32) -> Option<&[u8]> {
    let mut at = usize::from(le16(record, 20)?);
    loop {
        let (found, len) = (le32(record, at)?, le32(record, at + 4)? as usize);
        if found == END || len < 16 {
            return None;
        }
        let whole = record.get(at..at.checked_add(len)?)?;
        if found == kind && whole.get(9) == Some(&0) {
            return Some(whole);
        }
        at += len;
    }
}

/// The content of an attribute that is kept in the record.
fn resident(attribute: &[u8]) -> Option<&[u8]> {
    let (len, at) = (le32(attribute, 16)? as usize, usize::from(le16(attribute, 20)?));
    if *attribute.get(8)? == 0 { attribute.get(at..at.checked_add(len)?) } else { None }
}

/// The first `len` bytes of an attribute that is kept in clusters: each run is a byte with two lengths, then how many clusters,
/// then how far from the run before.
fn runs(v: &Volume<'_>, attribute: &[u8], cluster: u64, len: u64) -> Option<Vec<u8>> {
    let mut at = usize::from(le16(attribute, 32)?);
    let (mut out, mut place) = (Vec::new(), 0i64);
    for _ in 0..MAX_RUNS {
        let head = *attribute.get(at)?;
        let (n, m) = (usize::from(head & 15), usize::from(head >> 4));
        if head == 0 || n > 8 || m > 8 || out.len() as u64 >= len {
            break;
        }
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |v, b| v << 8 | u64::from(*b));
        let count = number(attribute.get(at + 1..at + 1 + n)?);
        let far = attribute.get(at + 1 + n..at + 1 + n + m)?;
        let shift = 64 - 8 * m as u32;
        place = place.checked_add(if m == 0 { 0 } else { (number(far) << shift) as i64 >> shift })?;
        at += 1 + n + m;
        let bytes = count.checked_mul(cluster)?.min(len - out.len() as u64);
        out.extend(v.table(u64::try_from(place).ok()?.checked_mul(cluster)?, bytes)?);
    }
    Some(out)
}
