//! The GPT's side of [`super::grow`]: both headers and both arrays of entries anew. UEFI specification 2.10, section 5.3.

use super::gpt::{Header, header};
use super::grow::Edits;
use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{is_zero, le32, le64, put_le32, put_le64};
use crate::engine::io::{ReadAt, read_padded};
use crate::engine::units::SECTOR;

/// Bytes of a disk before the entries of its backup, or why it is too small. `primary` is good.
fn places(primary: &Header, size: u64) -> Result<(u64, u64)> {
    let entries = primary.entries.as_deref().unwrap_or_default().len() as u64;
    let last = (size / primary.sector).checked_sub(1);
    last.and_then(|last| Some((last, last.checked_sub(entries.div_ceil(primary.sector))?)))
        .filter(|(_, array)| *array > primary.lba(40))
        .ok_or_else(|| Error::usage("the disk would be too small for its partition table"))
}

fn primary(disk: &dyn ReadAt, sector: u64) -> Result<Header> {
    header(disk, sector, sector)?.filter(Header::good).ok_or_else(|| {
        Error::corrupt("the primary GPT is damaged, and what is damaged is not moved")
            .at(sector)
            .hint("repair it first (gdisk: r, d, w), from the guest or on a copy")
    })
}

/// The byte up to which partitions may reach on a disk of `size` bytes.
pub(super) fn usable_end(disk: &dyn ReadAt, sector: u64, size: u64) -> Result<u64> {
    let primary = primary(disk, sector)?;
    Ok(places(&primary, size)?.1 * sector)
}

/// What places the backup at the end of `size` bytes; `longer` is the number of a partition and its new last sector.
pub(super) fn edits(disk: &dyn ReadAt, sector: u64, size: u64, longer: Option<(u32, u64)>) -> Result<Edits> {
    let primary = primary(disk, sector)?;
    let (last, array) = places(&primary, size)?;
    let mut entries = primary.entries.clone().unwrap_or_default();
    let width = le32(&primary.raw, 84).unwrap_or(128).max(128) as usize;
    let mut ok = true;
    if let Some((number, end)) = longer {
        let at = (number as usize).saturating_sub(1).saturating_mul(width);
        ok &= entries.get_mut(at..).is_some_and(|e| put_le64(e, 40, end));
    }
    let used = |entry: &[u8]| !is_zero(entry.get(..16).unwrap_or_default());
    let end_of = |entry: &[u8]| le64(entry, 40).unwrap_or(u64::MAX);
    for (i, entry) in entries.chunks_exact(width).enumerate().filter(|(_, e)| used(e)) {
        if end_of(entry) >= array {
            return Err(Error::usage(format!("partition {} does not fit on the disk with its partition table behind it", i + 1))
                .hint("shrink the partition first, or choose a larger size"));
        }
    }
    let crc = crc32fast::hash(&entries);
    let mut sealed = |own: u64, other: u64, table: u64| {
        let mut raw = primary.raw.clone();
        for (field, value) in [(24, own), (32, other), (48, array - 1), (72, table)] {
            ok &= put_le64(&mut raw, field, value);
        }
        ok &= put_le32(&mut raw, 88, crc) && put_le32(&mut raw, 16, 0);
        let len = le32(&raw, 12).unwrap_or(92) as usize;
        let sum = crc32fast::hash(raw.get(..len).unwrap_or_default());
        ok &= put_le32(&mut raw, 16, sum);
        raw
    };
    let first = sealed(1, last, primary.lba(72));
    let second = sealed(last, 1, array);
    if !ok {
        return Err(Error::corrupt("the GPT has fields outside its header").at(sector));
    }
    let mut out = Edits::default();
    if first == primary.raw && same(disk, last * sector, &second)? && same(disk, array * sector, &entries)? {
        return Ok(out);
    }
    out.step(
        format!("backup GPT at the end of the disk (sector {last})"),
        vec![(array * sector, entries.clone()), (last * sector, padded(second, sector))],
    );
    let mut main = Vec::new();
    if longer.is_some() {
        main.push((primary.lba(72).saturating_mul(sector), entries));
    }
    main.push((primary.at, first));
    out.step("primary GPT header, which points to it", main);
    out.step("size in the protective MBR", protective(disk, size / sector)?.into_iter().collect());
    let old = primary.lba(32);
    let before = primary.entries.as_deref().unwrap_or_default();
    let taken = before.chunks_exact(width).filter(|e| used(e)).any(|e| end_of(e) >= old);
    let inside = old < array && !taken && old.saturating_add(1).saturating_mul(sector) <= disk.len().min(size);
    // A stale header would be found again, should the disk ever end there.
    let stale = inside && header(disk, old * sector, sector)?.is_some();
    out.step("the old backup header is wiped", stale.then(|| (old * sector, vec![0; SECTOR as usize])).into_iter().collect());
    Ok(out)
}

fn same(disk: &dyn ReadAt, at: u64, want: &[u8]) -> Result<bool> {
    let mut now = vec![0; want.len()];
    read_padded(disk, at, &mut now)?;
    Ok(now == want)
}

/// A header fills its sector with zeros.
fn padded(mut raw: Vec<u8>, sector: u64) -> Vec<u8> {
    raw.resize((sector as usize).max(raw.len()), 0);
    raw
}

/// The MBR with its protective entry as long as a disk of `sectors`; `None` when it says so already, or is no plain protective one.
fn protective(disk: &dyn ReadAt, sectors: u64) -> Result<Option<(u64, Vec<u8>)>> {
    let mut mbr = vec![0u8; SECTOR as usize];
    read_padded(disk, 0, &mut mbr)?;
    let codes: Vec<(usize, u8)> =
        (0..4).map(|i| 446 + i * 16).filter_map(|at| Some((at, *mbr.get(at + 4)?))).filter(|(_, c)| *c != 0).collect();
    let [(at, 0xee)] = codes.as_slice() else { return Ok(None) };
    let len = u32::try_from(sectors.saturating_sub(1)).unwrap_or(u32::MAX);
    if le32(&mbr, at + 8) != Some(1) || matches!(le32(&mbr, at + 12), Some(now) if now == len || now == u32::MAX) {
        return Ok(None);
    }
    Ok(put_le32(&mut mbr, at + 12, len).then_some((0, mbr)))
}
