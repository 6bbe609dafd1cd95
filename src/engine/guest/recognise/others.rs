//! Filesystems named by one signature at one place.

use super::{FsInfo, FsKind, Volume, label, uuid, wide_label};
use crate::engine::io::bytes::{be32, le16, le32, le64};

/// Filesystems named by one signature at one place.
pub(super) fn others(v: &Volume<'_>) -> Option<FsInfo> {
    let table: &[(u64, &[u8], FsKind)] = &[
        (0, b"hsqs", FsKind::Squashfs),
        (32, b"NXSB", FsKind::Apfs),
        (1024, b"\xe2\xe1\xf5\xe0", FsKind::Erofs),
        (1024, b"\x10\x20\xf5\xf2", FsKind::F2fs),
        (1024, b"H+\0\x04", FsKind::HfsPlus),
        (1024, b"HX\0\x05", FsKind::HfsPlus),
        (32768, b"JFS1", FsKind::Jfs),
        (65536 + 52, b"ReIsEr", FsKind::Reiserfs),
        (8192 + 52, b"ReIsEr", FsKind::Reiserfs),
    ];
    let hit = table.iter().find(|(at, sign, _)| v.block(*at, sign.len()).as_deref() == Some(*sign))?;
    let mut f = FsInfo::new(hit.2);
    let _ = more(v, hit.0, &mut f);
    Some(f)
}

/// What the superblock whose signature is at byte `sign` says besides.
fn more(v: &Volume<'_>, sign: u64, f: &mut FsInfo) -> Option<()> {
    let start = match f.kind {
        FsKind::Reiserfs => sign - 52,
        FsKind::Apfs => 0,
        _ => sign,
    };
    let s = v.block(start, 1280)?;
    let word = |at| le32(&s, at).map(u64::from);
    let (block, count, free) = match f.kind {
        FsKind::F2fs => {
            f.uuid = uuid(&s, 108);
            f.label = s.get(124..1148).and_then(wide_label);
            (1u64.checked_shl(le32(&s, 16)?), le64(&s, 36), None)
        }
        FsKind::Jfs => {
            f.uuid = uuid(&s, 136);
            f.label = label(s.get(152..168));
            // Counted in the device's sectors.
            f.size = le64(&s, 8)?.checked_mul(word(24)?);
            (word(16), None, None)
        }
        FsKind::Reiserfs => {
            f.uuid = uuid(&s, 84);
            f.label = label(s.get(100..116));
            (le16(&s, 44).map(u64::from), word(0), word(4))
        }
        FsKind::Squashfs => {
            f.size = le64(&s, 40);
            (word(12), None, Some(0))
        }
        FsKind::Erofs => {
            f.uuid = uuid(&s, 48);
            f.label = label(s.get(64..80));
            (1u64.checked_shl(u32::from(*s.get(12)?)), word(36), Some(0))
        }
        FsKind::HfsPlus => {
            let big = |at| be32(&s, at).map(u64::from);
            (big(40), big(44), big(48))
        }
        FsKind::Apfs => {
            f.uuid = uuid(&s, 72);
            (word(36), le64(&s, 40), None)
        }
        _ => return None,
    };
    f.block_size = block.filter(|b| (512..=1 << 20).contains(b));
    if let Some(count) = count {
        f.size = f.block_size.and_then(|b| b.checked_mul(count));
    }
    f.free = f.block_size.zip(free).and_then(|(b, n)| b.checked_mul(n)).filter(|n| f.size.is_some_and(|s| *n <= s));
    Some(())
}
