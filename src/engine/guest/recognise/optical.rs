//! ISO 9660 and UDF.

use super::{FsInfo, FsKind, Volume, label};
use crate::engine::format::iso::udf;
use crate::engine::io::bytes::{le16, le32};

/// ISO 9660 (ECMA-119) and UDF (ECMA-167): volume descriptors from 32 KiB on.
pub(super) fn optical(v: &Volume<'_>) -> Option<FsInfo> {
    let area = v.block(32 << 10, 16 * 2048)?;
    let mut found = None;
    for d in area.chunks(2048) {
        match d.get(1..6)? {
            b"CD001" => {
                let mut f = FsInfo::new(FsKind::Iso9660);
                if d.first() == Some(&1) {
                    f.label = label(d.get(40..72));
                    f.block_size = le16(d, 128).map(u64::from);
                    f.size = le32(d, 80).zip(f.block_size).map(|(n, b)| u64::from(n) * b);
                    found = Some(f);
                } else {
                    found.get_or_insert(f);
                }
            }
            b"NSR02" | b"NSR03" => {
                found.get_or_insert_with(|| udf(v));
            }
            _ => {}
        }
    }
    found
}

/// What the descriptors of a UDF volume say. Its UUID is, as `blkid` has it, the number its volume set's name begins with.
fn udf(v: &Volume<'_>) -> FsInfo {
    let mut f = FsInfo::new(FsKind::Udf);
    if let Ok(volume) = udf::Volume::read(v.dev) {
        f.label = label(Some(if volume.name.is_empty() { &volume.volume } else { &volume.name }.as_bytes()));
        f.block_size = Some(volume.block);
        f.size = Some(volume.end).filter(|end| *end > 0);
        let number: String = volume.set.chars().take(16).collect();
        f.uuid = (number.len() == 16 && number.bytes().all(|b| b.is_ascii_hexdigit())).then(|| number.to_ascii_lowercase());
    }
    f
}
