//! Partition tables: MBR with extended partitions, GPT with its backup, hybrids of both, none at all. Read here; changed by
//! [`grow`], which says what to write and in which order.

pub mod gpt;
pub mod grow;
mod grow_gpt;
mod grow_mbr;
pub mod mbr;

use crate::engine::error::Result;
use crate::engine::io::ReadAt;

/// Which table a disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// Master boot record (`dos` to sfdisk).
    Mbr,
    /// GUID partition table behind a protective MBR.
    Gpt,
    /// GPT with real partitions in the MBR too.
    Hybrid,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Partition {
    /// Its number, as Linux counts (`vda3`: 3).
    pub number: u32,
    /// First byte on the disk.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Type in words where it is known, else the code or GUID.
    pub kind: String,
    /// Type code (`0x83`) or GUID.
    pub code: String,
    /// GPT name, printable; empty for MBR.
    pub name: String,
    /// GPT partition GUID; `SIGNATURE-NN` for MBR, as Linux's PARTUUID.
    pub uuid: String,
    /// MBR active flag, or GPT's "legacy BIOS bootable".
    pub bootable: bool,
    /// It lies inside the extended partition.
    pub logical: bool,
    /// It is the extended partition itself: a container, not a volume.
    pub extended: bool,
}

impl Partition {
    /// The byte after its last.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// A disk's partition table.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PartitionTable {
    /// Which.
    pub kind: TableKind,
    /// Disk GUID (GPT) or signature (MBR, eight hex digits).
    pub id: String,
    /// Bytes of a logical sector, by which the table counts.
    pub sector: u64,
    /// Partitions by their number.
    pub partitions: Vec<Partition>,
    /// First and last byte (exclusive) that partitions may use.
    pub usable: (u64, u64),
    /// GPT: where the backup header is (byte), if it is where the primary says and good.
    pub backup_header: Option<u64>,
    /// What is wrong or odd with it, in words.
    pub problems: Vec<String>,
}

impl PartitionTable {
    /// The partition that reaches furthest: the one that can grow with the disk.
    pub fn last(&self) -> Option<&Partition> {
        self.partitions.iter().filter(|p| !p.extended).max_by_key(|p| p.end())
    }
}

/// Reads the partition table of `disk`; `None` when it has none (a bare filesystem, an empty disk).
pub fn read(disk: &dyn ReadAt) -> Result<Option<PartitionTable>> {
    let mbr = mbr::read(disk)?;
    let protective = mbr.as_ref().is_some_and(|m| m.protective);
    // A GPT counts when the MBR announces it, or when there is no believable MBR at all (wiped by a tool that knew only MBR).
    if (protective || mbr.is_none())
        && let Some(gpt) = gpt::read(disk, mbr.as_ref())?
    {
        return Ok(Some(gpt));
    }
    Ok(mbr.filter(|m| !m.table.partitions.is_empty()).map(|m| m.table))
}

/// Notes on partitions that overlap or leave the disk. `partitions` in any order.
fn placement_problems(partitions: &[Partition], disk_len: u64) -> Vec<String> {
    let mut out = Vec::new();
    let mut order: Vec<&Partition> = partitions.iter().filter(|p| !p.extended).collect();
    order.sort_by_key(|p| p.start);
    for pair in order.windows(2) {
        if let [a, b] = pair
            && a.end() > b.start
        {
            out.push(format!("partitions {} and {} overlap", a.number, b.number));
        }
    }
    for p in partitions.iter().filter(|p| p.end() > disk_len) {
        out.push(format!("partition {} ends beyond the disk", p.number));
    }
    out
}
