//! A filesystem from the first byte of a file on: ext2/3/4, XFS, Btrfs. Only what proves it and what people ask for is read.

use super::Seen;
use crate::engine::io::bytes::{array, be32, be64, le16, le32, le64, until_nul};
use crate::engine::units::printable_bytes;

/// Looks for a filesystem in the first bytes of a file of `len` bytes.
pub(super) fn recognise(head: &[u8], len: u64) -> Option<Seen> {
    let (seen, bytes) = ext(head).or_else(|| xfs(head)).or_else(|| btrfs(head))?;
    let mut seen = seen.fact("filesystem size", format!("{bytes} bytes"));
    if bytes > len {
        seen.warnings.push(format!("the filesystem has {bytes} bytes and the file only {len}: it was cut short"));
    }
    Some(seen)
}

/// The facts all have: kind, label, UUID.
fn told(evidence: &str, kind: &str, label: &[u8], id: Option<[u8; 16]>) -> Seen {
    let mut seen = Seen::because(evidence).fact("filesystem", kind);
    let label = printable_bytes(until_nul(label));
    if !label.is_empty() {
        seen = seen.fact("label", label);
    }
    match id {
        Some(id) => seen.fact("UUID", uuid::Uuid::from_bytes(id).to_string()),
        None => seen,
    }
}

/// The superblock at 1024: magic at 56. Spec: Linux, Documentation/filesystems/ext4/super.rst.
fn ext(head: &[u8]) -> Option<(Seen, u64)> {
    let s = head.get(1024..2048)?;
    let (log_block, revision) = (le32(s, 24)?, le32(s, 76)?);
    if le16(s, 56)? != 0xef53 || log_block > 6 || revision > 1 || le32(s, 0)? == 0 {
        return None;
    }
    let (compat, incompat) = (le32(s, 92)?, le32(s, 96)?);
    // Extents, 64-bit or flexible groups make it ext4; a journal ext3.
    let kind = if incompat & 0x2c0 != 0 {
        "ext4"
    } else if compat & 4 != 0 {
        "ext3"
    } else {
        "ext2"
    };
    let high = if incompat & 0x80 != 0 { le32(s, 336)? } else { 0 };
    let blocks = u64::from(high) << 32 | u64::from(le32(s, 4)?);
    let bytes = blocks.checked_mul(1024 << log_block).filter(|b| *b > 0)?;
    let evidence = "an ext superblock (magic 0xEF53 at byte 0x438) and no partition table";
    Some((told(evidence, kind, s.get(120..136)?, array(s, 104)), bytes))
}

/// The superblock at 0, big-endian.
fn xfs(head: &[u8]) -> Option<(Seen, u64)> {
    let block = be32(head, 4)?;
    if !head.starts_with(b"XFSB") || !block.is_power_of_two() || !(512..=65536).contains(&block) {
        return None;
    }
    let bytes = be64(head, 8)?.checked_mul(u64::from(block)).filter(|b| *b > 0)?;
    Some((told("'XFSB' at byte 0", "XFS", head.get(108..120)?, array(head, 32)), bytes))
}

/// The superblock at 64 KiB.
fn btrfs(head: &[u8]) -> Option<(Seen, u64)> {
    let s = head.get(65536..)?;
    if s.get(64..72)? != b"_BHRfS_M" {
        return None;
    }
    let bytes = le64(s, 112)?;
    Some((told("'_BHRfS_M' at byte 0x10040 and no partition table", "Btrfs", s.get(299..555)?, array(s, 32)), bytes))
}
