//! The master boot record: four primary entries at byte 446, signature 55AA at 510, and the chain of extended boot records.

use std::collections::HashSet;

use super::{Partition, PartitionTable, TableKind, placement_problems};
use crate::engine::error::Result;
use crate::engine::io::bytes::{le16, le32};
use crate::engine::io::{ReadAt, read_padded};
use crate::engine::units::SECTOR;

/// Logical partitions, at most: a chain of extended boot records must end.
const MAX_LOGICAL: usize = 256;

/// An MBR as found, before anybody decides whether it counts.
pub struct Mbr {
    /// Its partitions (without protective entries).
    pub table: PartitionTable,
    /// It has an entry of type EE: a GPT follows.
    pub protective: bool,
}

/// One 16-byte entry.
struct Entry {
    flag: u8,
    code: u8,
    /// Sectors of 512.
    start: u64,
    len: u64,
}

fn entries(sector: &[u8]) -> Vec<Entry> {
    (0..4)
        .filter_map(|i| {
            let e = sector.get(446 + i * 16..462 + i * 16)?;
            Some(Entry { flag: *e.first()?, code: *e.get(4)?, start: u64::from(le32(e, 8)?), len: u64::from(le32(e, 12)?) })
        })
        .collect()
}

pub(super) fn is_extended(code: u8) -> bool {
    matches!(code, 0x05 | 0x0f | 0x85)
}

/// Reads the MBR of `disk`; `None` when there is none, or when the first sector is a filesystem's boot sector.
pub fn read(disk: &dyn ReadAt) -> Result<Option<Mbr>> {
    let mut sector = vec![0u8; 512];
    read_padded(disk, 0, &mut sector)?;
    if disk.len() < SECTOR || le16(&sector, 510) != Some(0xaa55) {
        return Ok(None);
    }
    let primary = entries(&sector);
    // A FAT or NTFS boot sector has the signature too, and code where the entries would be.
    if primary.iter().any(|e| e.flag & 0x7f != 0) || primary.iter().all(|e| e.code == 0) {
        return Ok(None);
    }
    let signature = le32(&sector, 440).unwrap_or(0);
    let mut mbr = Mbr {
        table: PartitionTable {
            kind: TableKind::Mbr,
            id: format!("{signature:08x}"),
            sector: SECTOR,
            partitions: Vec::new(),
            usable: (SECTOR, disk.len().min(u64::from(u32::MAX) * SECTOR)),
            backup_header: None,
            problems: Vec::new(),
        },
        protective: primary.iter().any(|e| e.code == 0xee),
    };
    for (i, e) in primary.iter().enumerate().filter(|(_, e)| e.code != 0 && e.code != 0xee && e.len != 0) {
        mbr.table.partitions.push(partition(signature, i as u32 + 1, e, e.start, false));
    }
    if let Some(container) = primary.iter().find(|e| is_extended(e.code)) {
        logical(disk, signature, container.start, &mut mbr.table)?;
    }
    let problems = placement_problems(&mbr.table.partitions, disk.len());
    mbr.table.problems.extend(problems);
    Ok(Some(mbr))
}

/// Follows the extended boot records: entry 0 is a logical partition relative to its record, entry 1 the next record relative to
/// the first.
fn logical(disk: &dyn ReadAt, signature: u32, first: u64, table: &mut PartitionTable) -> Result<()> {
    let mut seen = HashSet::new();
    let mut at = first;
    let mut number = 5;
    loop {
        if !seen.insert(at) || seen.len() > MAX_LOGICAL {
            table.problems.push("the chain of logical partitions comes back to itself".into());
            return Ok(());
        }
        let Some(byte) = at.checked_mul(SECTOR).filter(|b| *b < disk.len()) else {
            table.problems.push("the chain of logical partitions leaves the disk".into());
            return Ok(());
        };
        let mut sector = vec![0u8; 512];
        read_padded(disk, byte, &mut sector)?;
        if le16(&sector, 510) != Some(0xaa55) {
            table.problems.push(format!("an extended boot record at sector {at} has no signature"));
            return Ok(());
        }
        let pair = entries(&sector);
        if let Some(e) = pair.first().filter(|e| e.code != 0 && e.len != 0) {
            table.partitions.push(partition(signature, number, e, at + e.start, true));
            number += 1;
        }
        match pair.get(1).filter(|e| is_extended(e.code)) {
            Some(next) => at = first + next.start,
            None => return Ok(()),
        }
    }
}

fn partition(signature: u32, number: u32, e: &Entry, start: u64, logical: bool) -> Partition {
    Partition {
        number,
        start: start * SECTOR,
        len: e.len * SECTOR,
        kind: type_name(e.code).map_or_else(|| format!("type {:#04x}", e.code), str::to_string),
        code: format!("{:#04x}", e.code),
        name: String::new(),
        uuid: format!("{signature:08x}-{number:02x}"),
        bootable: e.flag & 0x80 != 0,
        logical,
        extended: is_extended(e.code) && !logical,
    }
}

/// Common type codes in words.
fn type_name(code: u8) -> Option<&'static str> {
    Some(match code {
        0x01 => "FAT12",
        0x04 | 0x06 | 0x0e => "FAT16",
        0x05 | 0x0f | 0x85 => "extended",
        0x07 => "NTFS or exFAT",
        0x0b | 0x0c => "FAT32",
        0x27 => "Windows recovery",
        0x42 => "Windows dynamic disk",
        0x82 => "Linux swap",
        0x83 => "Linux",
        0x8e => "Linux LVM",
        0xa5 => "FreeBSD",
        0xa6 => "OpenBSD",
        0xa9 => "NetBSD",
        0xaf => "Apple HFS",
        0xbe | 0xbf => "Solaris",
        0xef => "EFI system",
        0xfb => "VMware VMFS",
        0xfc => "VMware swap",
        0xfd => "Linux RAID",
        _ => return None,
    })
}
