//! What a volume holds, from its superblock: name, label, UUID, size and, where the superblock says so, free space.
//!
//! Only signatures and fixed fields are looked at; nothing is mounted or walked. Reads are few, small and bounded.

mod arrays;
mod fat;
mod ntfs;
mod optical;
mod others;

use super::uuid_text;
use crate::engine::error::Result;
use crate::engine::io::bytes::{array, be16, be32, be64, le16, le32, le64, until_nul};
use crate::engine::io::{ReadAt, read_padded};
use crate::engine::units::printable_bytes;

/// What fills a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names are the things themselves
pub enum FsKind {
    Ext2,
    Ext3,
    Ext4,
    Xfs,
    Btrfs,
    Fat12,
    Fat16,
    Fat32,
    ExFat,
    Ntfs,
    ReFs,
    Iso9660,
    Udf,
    Swap,
    /// A swap volume that holds a suspended system.
    Hibernated,
    Luks,
    BitLocker,
    Lvm2,
    Md,
    Zfs,
    Bcachefs,
    F2fs,
    Reiserfs,
    Jfs,
    HfsPlus,
    Apfs,
    Squashfs,
    Erofs,
    /// The journal of an ext filesystem kept apart.
    ExtJournal,
}

impl FsKind {
    /// The name people use, e.g. `ext4`, `LVM2 PV`.
    pub fn name(self) -> &'static str {
        use FsKind::*;
        match self {
            Ext2 => "ext2",
            Ext3 => "ext3",
            Ext4 => "ext4",
            Xfs => "xfs",
            Btrfs => "btrfs",
            Fat12 => "fat12",
            Fat16 => "fat16",
            Fat32 => "fat32",
            ExFat => "exfat",
            Ntfs => "ntfs",
            ReFs => "refs",
            Iso9660 => "iso9660",
            Udf => "udf",
            Swap => "swap",
            Hibernated => "swap (hibernated)",
            Luks => "LUKS",
            BitLocker => "BitLocker",
            Lvm2 => "LVM2 PV",
            Md => "MD RAID",
            Zfs => "zfs",
            Bcachefs => "bcachefs",
            F2fs => "f2fs",
            Reiserfs => "reiserfs",
            Jfs => "jfs",
            HfsPlus => "hfs+",
            Apfs => "apfs",
            Squashfs => "squashfs",
            Erofs => "erofs",
            ExtJournal => "ext journal",
        }
    }
}

/// A recognised volume.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FsInfo {
    /// What it is.
    pub kind: FsKind,
    /// Its label, printable; `None` when it has none.
    pub label: Option<String>,
    /// Its UUID or serial number as its own tools print it.
    pub uuid: Option<String>,
    /// Bytes the filesystem says it spans.
    pub size: Option<u64>,
    /// Bytes it says are free.
    pub free: Option<u64>,
    /// Allocation unit in bytes.
    pub block_size: Option<u64>,
    /// What a person should know: needs recovery, marked with errors, larger than its volume, …
    pub notes: Vec<String>,
}

impl FsInfo {
    fn new(kind: FsKind) -> Self {
        FsInfo { kind, label: None, uuid: None, size: None, free: None, block_size: None, notes: Vec::new() }
    }
}

/// Bytes of a free map read to count what is free, at most (a bit each for 512 GiB in units of 4 KiB).
const MAX_TABLE: u64 = 16 << 20;

/// The first bytes of a volume with checked access.
struct Volume<'a> {
    dev: &'a dyn ReadAt,
    /// The first 4 KiB, zero-padded.
    head: Vec<u8>,
}

impl Volume<'_> {
    /// A bitmap or table of `len` bytes at `offset`; `None` when it is larger than is read for a count.
    fn table(&self, offset: u64, len: u64) -> Option<Vec<u8>> {
        (len <= MAX_TABLE && offset.checked_add(len)? <= self.dev.len()).then(|| self.block(offset, len as usize))?
    }

    fn block(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        if offset >= self.dev.len() {
            return None;
        }
        let mut buf = vec![0u8; len];
        read_padded(self.dev, offset, &mut buf).ok()?;
        Some(buf)
    }
}

/// What `dev` holds as a whole; `None` when nothing known is there. A partition table is not looked for here.
pub fn recognise(dev: &dyn ReadAt) -> Result<Option<FsInfo>> {
    let mut head = vec![0u8; 4096];
    read_padded(dev, 0, &mut head)?;
    let v = Volume { dev, head };
    // Containers first: what lies inside them may look like a filesystem by chance.
    let tries: &[fn(&Volume<'_>) -> Option<FsInfo>] = &[
        luks,
        lvm,
        ntfs::windows,
        arrays::md,
        xfs,
        ext,
        swap,
        fat::fat,
        btrfs,
        arrays::bcachefs,
        others::others,
        optical::optical,
        arrays::zfs,
    ];
    let mut found = tries.iter().find_map(|t| t(&v));
    if let Some(f) = &mut found {
        f.free = f.free.filter(|free| f.size.is_none_or(|size| *free <= size));
    }
    if let Some(f) = &mut found
        && let Some(size) = f.size.filter(|s| *s > dev.len())
    {
        f.notes.push(format!("it says it spans {size} bytes, but its volume has {}", dev.len()));
    }
    Ok(found)
}

fn label(bytes: Option<&[u8]>) -> Option<String> {
    let text = printable_bytes(until_nul(bytes?));
    let text = text.trim_end();
    (!text.is_empty()).then(|| text.to_string())
}

/// A label in UTF-16, little-endian, up to its first NUL.
fn wide_label(bytes: &[u8]) -> Option<String> {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).take_while(|c| *c != 0).collect();
    label(Some(String::from_utf16_lossy(&units).as_bytes()))
}

/// How many of the first `count` bits of `map` are not set.
fn clear_bits(map: &[u8], count: u64) -> u64 {
    let whole = (count / 8) as usize;
    let rest = map.get(whole).map_or(0, |b| u64::from((!b & ((1u16 << (count % 8)) - 1) as u8).count_ones()));
    map.get(..whole).unwrap_or_default().iter().map(|b| u64::from(b.count_zeros())).sum::<u64>() + rest
}

fn uuid(b: &[u8], at: usize) -> Option<String> {
    array::<16>(b, at).filter(|u| u.iter().any(|x| *x != 0)).map(|u| uuid_text(&u))
}

/// ext2/3/4: superblock at 1024, magic EF53 at 0x38 (Documentation/filesystems/ext4/super.rst).
fn ext(v: &Volume<'_>) -> Option<FsInfo> {
    let s = v.head.get(1024..2048)?;
    if le16(s, 0x38)? != 0xEF53 {
        return None;
    }
    let (compat, incompat, ro) = (le32(s, 0x5c)?, le32(s, 0x60)?, le32(s, 0x64)?);
    let kind = if incompat & 0x8 != 0 {
        FsKind::ExtJournal
    } else if incompat & 0x2c0 != 0 || ro & 0x478 != 0 {
        FsKind::Ext4
    } else if compat & 4 != 0 {
        FsKind::Ext3
    } else {
        FsKind::Ext2
    };
    let block = 1024u64.checked_shl(le32(s, 0x18)?).filter(|b| *b <= 65536)?;
    let wide = incompat & 0x80 != 0;
    let count = |low, high| Some(u64::from(le32(s, low)?) | if wide { u64::from(le32(s, high)?) << 32 } else { 0 });
    let mut f = FsInfo::new(kind);
    f.label = label(s.get(0x78..0x88));
    f.uuid = uuid(s, 0x68);
    f.block_size = Some(block);
    f.size = count(0x4, 0x150)?.checked_mul(block);
    f.free = count(0xc, 0x158)?.checked_mul(block).filter(|free| f.size.is_some_and(|s| *free <= s));
    let state = le16(s, 0x3a)?;
    if incompat & 4 != 0 {
        f.notes.push("its journal has to be replayed (it was not unmounted cleanly)".into());
    }
    if state & 2 != 0 {
        f.notes.push("it is marked as having errors".into());
    }
    for (bit, what) in [(0x10000, "encrypted folders (fscrypt)"), (0x20000, "case-insensitive folders")] {
        if incompat & bit != 0 {
            f.notes.push(format!("it has {what}"));
        }
    }
    for (bit, what) in [(0x200, "bigalloc clusters"), (0x8000, "fs-verity files")] {
        if ro & bit != 0 {
            f.notes.push(format!("it has {what}"));
        }
    }
    Some(f)
}

/// XFS: `XFSB` at 0, big-endian (XFS Algorithms & Data Structures, Superblocks).
fn xfs(v: &Volume<'_>) -> Option<FsInfo> {
    let s = v.head.as_slice();
    if !s.starts_with(b"XFSB") {
        return None;
    }
    let block = u64::from(be32(s, 4)?);
    if !block.is_power_of_two() || !(512..=65536).contains(&block) {
        return None;
    }
    let mut f = FsInfo::new(FsKind::Xfs);
    f.label = label(s.get(108..120));
    f.uuid = uuid(s, 32);
    f.block_size = Some(block);
    f.size = be64(s, 8)?.checked_mul(block);
    f.free = be64(s, 144)?.checked_mul(block).filter(|free| f.size.is_some_and(|s| *free <= s));
    match be16(s, 100)? & 0xf {
        5 => {
            if be32(s, 216)? & 0x10 != 0 {
                f.notes.push("it is marked as needing repair".into());
            }
        }
        n => f.notes.push(format!("version {n}, without checksums")),
    }
    if s.get(126) == Some(&1) {
        f.notes.push("mkfs or growfs was interrupted".into());
    }
    Some(f)
}

/// btrfs: superblock at 64 KiB, magic at 0x40 of it (btrfs on-disk format).
fn btrfs(v: &Volume<'_>) -> Option<FsInfo> {
    let s = v.block(0x10000, 0x300)?;
    if s.get(0x40..0x48)? != b"_BHRfS_M" {
        return None;
    }
    let mut f = FsInfo::new(FsKind::Btrfs);
    f.label = label(s.get(0x12b..0x22b));
    f.uuid = uuid(&s, 0x20);
    f.size = le64(&s, 0x70);
    f.free = f.size.and_then(|t| t.checked_sub(le64(&s, 0x78)?));
    f.block_size = le32(&s, 0x90).map(u64::from);
    match le64(&s, 0x88)? {
        1 => {}
        n => f.notes.push(format!("it spans {n} devices")),
    }
    Some(f)
}

/// Linux swap: the signature ends the first page (4 to 64 KiB); label and UUID at 1024 (mkswap).
fn swap(v: &Volume<'_>) -> Option<FsInfo> {
    for page in [4096u64, 8192, 16384, 65536] {
        let sign = v.block(page - 10, 10)?;
        let kind = match sign.as_slice() {
            b"SWAPSPACE2" => FsKind::Swap,
            s if s.starts_with(b"S1SUSPEND")
                || s.starts_with(b"S2SUSPEND")
                || s.starts_with(b"ULSUSPEND")
                || s.starts_with(b"LINHIB0001") =>
            {
                FsKind::Hibernated
            }
            _ => continue,
        };
        let mut f = FsInfo::new(kind);
        f.uuid = uuid(&v.head, 1036);
        f.label = label(v.head.get(1052..1068));
        f.size = le32(&v.head, 1028).map(|last| (u64::from(last) + 1) * page);
        f.block_size = Some(page);
        return Some(f);
    }
    None
}

/// LUKS1/2 (LUKS On-Disk Format Specification).
fn luks(v: &Volume<'_>) -> Option<FsInfo> {
    let b = v.head.as_slice();
    if !b.starts_with(b"LUKS\xba\xbe") {
        return None;
    }
    let mut f = FsInfo::new(FsKind::Luks);
    f.uuid = label(b.get(168..208));
    let version = be16(b, 6)?;
    if version == 2 {
        f.label = label(b.get(24..72));
    }
    f.notes.push(format!("version {version}; its content is encrypted"));
    Some(f)
}

/// LVM2 physical volume: `LABELONE` in one of the first four sectors.
fn lvm(v: &Volume<'_>) -> Option<FsInfo> {
    let sector = v.head.chunks(512).take(4).find(|s| s.starts_with(b"LABELONE"))?;
    if sector.get(24..32)? != b"LVM2 001" {
        return None;
    }
    let mut f = FsInfo::new(FsKind::Lvm2);
    let id = sector.get(usize::try_from(le32(sector, 20)?).ok()?..)?.get(..32)?;
    let id = printable_bytes(id);
    // Printed by LVM in groups of 6-4-4-4-4-4-6.
    let mut groups = Vec::new();
    let mut rest = id.as_str();
    for n in [6, 4, 4, 4, 4, 4, 6] {
        let (a, b) = rest.split_at_checked(n)?;
        groups.push(a);
        rest = b;
    }
    f.uuid = Some(groups.join("-"));
    f.size = le64(sector, usize::try_from(le32(sector, 20)?).ok()?.checked_add(32)?);
    Some(f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::io::memory::Memory;

    #[test]
    fn nothing_is_recognised_in_noise_or_zeros() {
        for fill in [0u8, 0xff, 0x55] {
            assert_eq!(recognise(&Memory::new(vec![fill; 300_000])).unwrap(), None);
        }
        assert_eq!(recognise(&Memory::new(Vec::new())).unwrap(), None);
    }

    #[test]
    fn a_superblock_that_claims_too_much_is_noted() {
        let mut b = vec![0u8; 8192];
        b[..4].copy_from_slice(b"XFSB");
        b[4..8].copy_from_slice(&4096u32.to_be_bytes());
        b[8..16].copy_from_slice(&1000u64.to_be_bytes());
        b[100..102].copy_from_slice(&5u16.to_be_bytes());
        let f = recognise(&Memory::new(b)).unwrap().unwrap();
        assert_eq!((f.kind, f.size), (FsKind::Xfs, Some(4_096_000)));
        assert!(f.notes.iter().any(|n| n.contains("its volume has 8192")));
    }
}
