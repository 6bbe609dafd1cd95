//! What spans several devices: MD RAID, ZFS, bcachefs.

use super::{FsInfo, FsKind, Volume, label, uuid};
use crate::engine::io::bytes::{array, be32, be64, le32, le64};

/// MD RAID member: superblock 1.1 at 0, 1.2 at 4 KiB, 1.0 and 0.90 near the end (Documentation/admin-guide/md.rst).
pub(super) fn md(v: &Volume<'_>) -> Option<FsInfo> {
    let len = v.dev.len();
    let ends = [(len.checked_sub(8192).map(|x| x & !4095)), (len & !65535).checked_sub(65536)];
    for at in [Some(0), Some(4096), ends[0], ends[1]].into_iter().flatten() {
        let Some(s) = v.block(at, 256) else { continue };
        if le32(&s, 0)? != 0xa92b_4efc {
            continue;
        }
        let mut f = FsInfo::new(FsKind::Md);
        let (level, devices) = if le32(&s, 4)? == 1 {
            f.uuid = uuid(&s, 16);
            f.label = label(s.get(32..64));
            f.size = le64(&s, 136)?.checked_mul(512);
            (le32(&s, 72)?, le32(&s, 92)?)
        } else {
            // Version 0.90 has the parts of its UUID in two places, and its size in KiB.
            f.uuid = uuid(&[s.get(20..24)?, s.get(52..64)?].concat(), 0);
            f.size = u64::from(le32(&s, 32)?).checked_mul(1024);
            (le32(&s, 28)?, le32(&s, 40)?)
        };
        let level = match level as i32 {
            -1 => "linear".to_string(),
            n => format!("raid{n}"),
        };
        f.notes.push(format!("a part of a {level} of {devices} device(s)"));
        return Some(f);
    }
    None
}

/// ZFS: an uberblock (magic 00bab10c, either byte order) in the ring at 128 KiB of the first label.
pub(super) fn zfs(v: &Volume<'_>) -> Option<FsInfo> {
    let ring = v.block(128 << 10, 128 << 10)?;
    let found = ring.chunks(1024).any(|u| le64(u, 0) == Some(0x00ba_b10c) || be64(u, 0) == Some(0x00ba_b10c));
    let mut f = found.then(|| FsInfo::new(FsKind::Zfs))?;
    // The pool's name and number are pairs of the label's list (XDR), 16 KiB from its beginning.
    let _ = v.block(16 << 10, 112 << 10).and_then(|list| pairs(&list, &mut f));
    Some(f)
}

/// Goes through the pairs of a list: encoded size, decoded size, name, type, count, value; a size of 0 ends it.
fn pairs(list: &[u8], f: &mut FsInfo) -> Option<()> {
    let text = |at: usize| list.get(at + 4..at.checked_add(4)?.checked_add(be32(list, at)? as usize)?);
    let mut at = 12;
    while let Some(size) = be32(list, at).map(|n| n as usize).filter(|n| *n >= 16) {
        let name = text(at + 8)?;
        let value = at + 12 + name.len().next_multiple_of(4);
        match (name, be32(list, value)?) {
            (b"name", 9) => f.label = label(text(value + 8)),
            (b"pool_guid", 8) => f.uuid = be64(list, value + 8).map(|n| n.to_string()),
            _ => {}
        }
        at = at.checked_add(size)?;
    }
    Some(())
}

/// bcachefs: superblock at sector 8, its magic UUID at byte 24 of it.
pub(super) fn bcachefs(v: &Volume<'_>) -> Option<FsInfo> {
    const MAGIC: [u8; 16] = [0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81];
    let s = v.block(4096, 128)?;
    if array::<16>(&s, 24)? != MAGIC {
        return None;
    }
    let mut f = FsInfo::new(FsKind::Bcachefs);
    f.uuid = uuid(&s, 56);
    f.label = label(s.get(72..104));
    Some(f)
}
