//! FAT12, FAT16, FAT32 and exFAT.

use super::{FsInfo, FsKind, Volume, clear_bits, label, wide_label};
use crate::engine::io::bytes::{be32, le16, le32, le64};

/// FAT12/16/32 and exFAT by the BIOS parameter block (Microsoft FAT specification, section 3).
pub(super) fn fat(v: &Volume<'_>) -> Option<FsInfo> {
    let b = v.head.as_slice();
    if le16(b, 510)? != 0xaa55 {
        return None;
    }
    if b.get(3..11)? == b"EXFAT   " {
        return exfat(v);
    }
    let sector = u64::from(le16(b, 11)?);
    let per_cluster = u64::from(*b.get(13)?);
    let (reserved, fats, root) = (u64::from(le16(b, 14)?), u64::from(*b.get(16)?), u64::from(le16(b, 17)?));
    let media = *b.get(21)?;
    let jump = b.first().is_some_and(|j| *j == 0xeb || *j == 0xe9);
    let plausible =
        sector.is_power_of_two() && (512..=4096).contains(&sector) && per_cluster.is_power_of_two() && (1..=2).contains(&fats);
    if !jump || !plausible || reserved == 0 || media < 0xf0 {
        return None;
    }
    let total = match le16(b, 19)? {
        0 => u64::from(le32(b, 32)?),
        n => u64::from(n),
    };
    let fat_sectors = match le16(b, 22)? {
        0 => u64::from(le32(b, 36)?),
        n => u64::from(n),
    };
    let data = total.checked_sub(reserved + fats * fat_sectors + (root * 32).div_ceil(sector))?;
    let clusters = data / per_cluster;
    let (kind, at) = match clusters {
        _ if le16(b, 22)? == 0 => (FsKind::Fat32, 67),
        0..4085 => (FsKind::Fat12, 39),
        _ => (FsKind::Fat16, 39),
    };
    let mut f = FsInfo::new(kind);
    f.uuid = le32(b, at).map(|n| format!("{:04X}-{:04X}", n >> 16, n & 0xffff));
    f.label = label(b.get(at + 4..at + 15)).filter(|l| l != "NO NAME");
    f.size = Some(total * sector);
    f.block_size = Some(per_cluster * sector);
    let told = (kind == FsKind::Fat32)
        .then(|| v.block(u64::from(le16(b, 48)?) * sector, 512))
        .flatten()
        .filter(|info| be32(info, 0) == Some(0x5252_6141))
        .and_then(|info| le32(&info, 488).map(u64::from))
        .filter(|n| *n <= clusters);
    let free = told.or_else(|| free_entries(&v.table(reserved * sector, fat_sectors * sector)?, kind, clusters));
    f.free = free.map(|n| n * per_cluster * sector);
    Some(f)
}

/// Entries of the table that are 0, those of clusters 2 on.
fn free_entries(table: &[u8], kind: FsKind, clusters: u64) -> Option<u64> {
    let entry = |n: usize| match kind {
        FsKind::Fat12 => le16(table, n + n / 2).map(|pair| u32::from(if n.is_multiple_of(2) { pair & 0xfff } else { pair >> 4 })),
        FsKind::Fat16 => le16(table, n * 2).map(u32::from),
        _ => le32(table, n * 4).map(|v| v & 0x0fff_ffff),
    };
    let clusters = usize::try_from(clusters).ok()?;
    (2..clusters + 2).map(|n| entry(n).map(|v| u64::from(v == 0))).sum()
}

/// exFAT: its label and its free map are named in the root folder (Microsoft exFAT specification, sections 3 and 7).
fn exfat(v: &Volume<'_>) -> Option<FsInfo> {
    let b = v.head.as_slice();
    let mut f = FsInfo::new(FsKind::ExFat);
    let sector = 1u64.checked_shl(u32::from(*b.get(108)?)).filter(|s| (512..=4096).contains(s))?;
    let cluster = sector.checked_shl(u32::from(*b.get(109)?)).filter(|c| (512..=32 << 20).contains(c))?;
    f.size = le64(b, 72)?.checked_mul(sector);
    f.uuid = le32(b, 100).map(|n| format!("{:04X}-{:04X}", n >> 16, n & 0xffff));
    f.block_size = Some(cluster);
    let (heap, count) = (u64::from(le32(b, 88)?) * sector, u64::from(le32(b, 92)?));
    let place = |n: u32| u64::from(n).checked_sub(2)?.checked_mul(cluster)?.checked_add(heap);
    let root = v.block(place(le32(b, 96)?)?, cluster.min(64 << 10) as usize).unwrap_or_default();
    for e in root.chunks_exact(32) {
        match e.first() {
            Some(0x83) => f.label = e.get(2..2 + 2 * usize::from(*e.get(1)?).min(11)).and_then(wide_label),
            Some(0x81) if count.div_ceil(8) <= le64(e, 24)? => {
                f.free = v.table(place(le32(e, 20)?)?, count.div_ceil(8)).map(|map| clear_bits(&map, count) * cluster);
            }
            Some(0) => break,
            _ => {}
        }
    }
    Some(f)
}
