//! The GUID partition table (UEFI specification 2.10, chapter 5): header at sector 1, its backup in the last sector, both with
//! CRC-32, and an array of entries for each.

use super::mbr::Mbr;
use super::{Partition, PartitionTable, TableKind, placement_problems};
use crate::engine::error::Result;
use crate::engine::io::bytes::{array, le32, le64};
use crate::engine::io::{ReadAt, read_padded, read_vec};
use crate::engine::units::{MIB, printable};

/// A header that was found, with what checking it told.
pub(super) struct Header {
    /// Byte where it lies.
    pub(super) at: u64,
    pub(super) sector: u64,
    /// Its first 512 bytes.
    pub(super) raw: Vec<u8>,
    pub(super) entries: Option<Vec<u8>>,
    pub(super) problem: Option<String>,
}

impl Header {
    /// The 64-bit field at byte `field`.
    pub(super) fn lba(&self, field: usize) -> u64 {
        le64(&self.raw, field).unwrap_or(0)
    }
    pub(super) fn good(&self) -> bool {
        self.problem.is_none() && self.entries.is_some()
    }
}

/// Reads the GPT of `disk`; `None` when neither the primary nor the backup header is there.
pub(super) fn read(disk: &dyn ReadAt, mbr: Option<&Mbr>) -> Result<Option<PartitionTable>> {
    let mut found = None;
    for sector in [512u64, 4096] {
        let primary = header(disk, sector, sector)?;
        let last = disk.len().checked_sub(sector).map(|at| at / sector * sector);
        // The backup is where the primary says, or in the last sector when the primary is lost or the disk has grown.
        let named = primary.as_ref().filter(|p| p.good()).and_then(|p| p.lba(32).checked_mul(sector));
        let mut backup = None;
        for at in [named, last].into_iter().flatten() {
            if backup.as_ref().is_none_or(|b: &Header| !b.good()) {
                backup = header(disk, at, sector)?.or(backup);
            }
        }
        if primary.is_some() || backup.is_some() {
            found = Some((primary, backup));
            break;
        }
    }
    let Some((primary, backup)) = found else { return Ok(None) };
    let mut problems = Vec::new();
    match &primary {
        None => problems.push("the primary GPT header is missing; the backup is used".to_string()),
        Some(p) => problems.extend(p.problem.iter().map(|w| format!("primary GPT: {w}"))),
    }
    match &backup {
        None => problems.push("the backup GPT header is missing".to_string()),
        Some(b) => problems.extend(b.problem.iter().map(|w| format!("backup GPT: {w}"))),
    }
    let backup_header = backup.as_ref().filter(|b| b.good()).map(|b| b.at);
    let used = match (primary, backup) {
        (Some(p), Some(b)) => {
            if p.good() && b.good() {
                if p.entries != b.entries {
                    problems.push("primary and backup GPT differ; the primary is used".into());
                }
                if b.at + b.sector < disk.len() / b.sector * b.sector {
                    problems.push("the backup GPT is not at the end of the disk (the disk has grown)".into());
                }
            }
            if !p.good() && b.good() { b } else { p }
        }
        (Some(h), None) | (None, Some(h)) => h,
        (None, None) => return Ok(None),
    };
    let mut table = PartitionTable {
        kind: if mbr.is_some_and(|m| !m.table.partitions.is_empty()) { TableKind::Hybrid } else { TableKind::Gpt },
        id: array::<16>(&used.raw, 56).map(|g| guid(&g)).unwrap_or_default(),
        sector: used.sector,
        partitions: Vec::new(),
        usable: (used.lba(40).saturating_mul(used.sector), used.lba(48).saturating_add(1).saturating_mul(used.sector)),
        backup_header,
        problems,
    };
    if mbr.is_none() {
        table.problems.push("there is no protective MBR".into());
    }
    let size = le32(&used.raw, 84).unwrap_or(128) as usize;
    for (i, e) in used.entries.as_deref().unwrap_or_default().chunks_exact(size.max(128)).enumerate() {
        if let Some(p) = entry(i as u32 + 1, e, used.sector) {
            table.partitions.push(p);
        }
    }
    let placed = placement_problems(&table.partitions, disk.len());
    table.problems.extend(placed);
    Ok(Some(table))
}

/// The header at byte `at`, with its entries when they can be believed. `None` when the signature is not there.
pub(super) fn header(disk: &dyn ReadAt, at: u64, sector: u64) -> Result<Option<Header>> {
    if at.checked_add(sector).is_none_or(|end| end > disk.len()) {
        return Ok(None);
    }
    let mut raw = vec![0u8; 512];
    read_padded(disk, at, &mut raw)?;
    if !raw.starts_with(b"EFI PART") {
        return Ok(None);
    }
    let mut h = Header { at, sector, raw, entries: None, problem: None };
    h.problem = match check(&h) {
        Err(why) => Some(why.to_string()),
        Ok(()) => match entries(disk, &h) {
            Ok(e) => {
                h.entries = Some(e);
                None
            }
            Err(why) => Some(why),
        },
    };
    Ok(Some(h))
}

fn check(h: &Header) -> std::result::Result<(), &'static str> {
    let size = le32(&h.raw, 12).unwrap_or(0) as usize;
    let Some(head) = h.raw.get(..size).filter(|s| s.len() >= 92) else { return Err("its header has an impossible size") };
    let mut head = head.to_vec();
    let crc = le32(&head, 16);
    if let Some(field) = head.get_mut(16..20) {
        field.fill(0);
    }
    if crc != Some(crc32fast::hash(&head)) {
        return Err("its header's checksum is wrong");
    }
    if h.lba(24).checked_mul(h.sector) != Some(h.at) {
        return Err("its header says it lies elsewhere");
    }
    Ok(())
}

fn entries(disk: &dyn ReadAt, h: &Header) -> std::result::Result<Vec<u8>, String> {
    let (count, size) = (le32(&h.raw, 80).unwrap_or(0), le32(&h.raw, 84).unwrap_or(0));
    if size < 128 || !size.is_power_of_two() {
        return Err(format!("its entries are {size} bytes long"));
    }
    let len = u64::from(count) * u64::from(size);
    let at = h.lba(72).checked_mul(h.sector).ok_or("its entries lie past 2^64 bytes")?;
    let bytes = read_vec(disk, at, len, MIB).map_err(|e| format!("its entries cannot be read: {}", e.why()))?;
    if le32(&h.raw, 88) != Some(crc32fast::hash(&bytes)) {
        return Err("its entries' checksum is wrong".into());
    }
    Ok(bytes)
}

fn entry(number: u32, e: &[u8], sector: u64) -> Option<Partition> {
    let code = array::<16>(e, 0).filter(|t| t.iter().any(|b| *b != 0))?;
    let (first, last) = (le64(e, 32)?, le64(e, 40)?);
    let start = first.checked_mul(sector)?;
    let len = last.checked_add(1)?.checked_sub(first)?.checked_mul(sector)?;
    let wide: Vec<u16> =
        e.get(56..128)?.as_chunks::<2>().0.iter().map(|c| u16::from_le_bytes(*c)).take_while(|c| *c != 0).collect();
    let code = guid(&code);
    Some(Partition {
        number,
        start,
        len,
        kind: type_name(&code).map_or_else(|| code.clone(), str::to_string),
        code,
        name: printable(&String::from_utf16_lossy(&wide)),
        uuid: array::<16>(e, 16).map(|g| guid(&g)).unwrap_or_default(),
        bootable: le64(e, 48)? & 4 != 0,
        logical: false,
        extended: false,
    })
}

/// A GUID in Microsoft's mixed byte order as lower-case text.
fn guid(bytes: &[u8; 16]) -> String {
    uuid::Uuid::from_bytes_le(*bytes).to_string()
}

/// Common type GUIDs in words.
fn type_name(guid: &str) -> Option<&'static str> {
    const NAMES: &[(&str, &str)] = &[
        ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "EFI system"),
        ("21686148-6449-6e6f-744e-656564454649", "BIOS boot"),
        ("0fc63daf-8483-4772-8e79-3d69d8477de4", "Linux"),
        ("4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "Linux root (x86-64)"),
        ("b921b045-1df0-41c3-af44-4c6f280d3fae", "Linux root (arm64)"),
        ("bc13c2ff-59e6-4262-a352-b275fd6f7172", "Linux extended boot"),
        ("933ac7e1-2eb4-4f13-b844-0e14e2aef915", "Linux home"),
        ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "Linux swap"),
        ("e6d6d379-f507-44c2-a23c-238f2a3df928", "Linux LVM"),
        ("a19d880f-05fc-4d3b-a006-743f0f84911e", "Linux RAID"),
        ("ca7d7ccb-63ed-4c53-861c-1742536059cc", "LUKS"),
        ("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", "Microsoft basic data"),
        ("e3c9e316-0b5c-4db8-817d-f92df00215ae", "Microsoft reserved"),
        ("de94bba4-06d1-4d40-a16a-bfd50179d6ac", "Windows recovery"),
        ("5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", "Windows LDM metadata"),
        ("af9b60a0-1431-4f62-bc68-3311714a69ad", "Windows LDM data"),
        ("9e1a2d38-c612-4316-aa26-8b49521e5a8b", "PowerPC PReP boot"),
        ("516e7cb4-6ecf-11d6-8ff8-00022d09712b", "FreeBSD"),
        ("516e7cb6-6ecf-11d6-8ff8-00022d09712b", "FreeBSD UFS"),
        ("516e7cba-6ecf-11d6-8ff8-00022d09712b", "FreeBSD ZFS"),
        ("83bd6b9d-7f41-11dc-be0b-001560b84f0f", "FreeBSD boot"),
        ("6a898cc3-1dd2-11b2-99a6-080020736631", "ZFS"),
        ("48465300-0000-11aa-aa11-00306543ecac", "Apple HFS+"),
        ("7c3457ef-0000-11aa-aa11-00306543ecac", "Apple APFS"),
        ("aa31e02a-400f-11db-9590-000c2911d1b8", "VMware VMFS"),
    ];
    NAMES.iter().find(|(g, _)| *g == guid).map(|(_, n)| *n)
}
