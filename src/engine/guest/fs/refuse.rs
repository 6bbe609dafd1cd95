//! Why a filesystem is not written: told before anything of it is opened for writing.

use super::xfs::superblock;
use super::xfs_log::is_clean;
use super::{fat, guarded};
use crate::engine::error::Result;
use crate::engine::guest::recognise::{FsInfo, FsKind};
use crate::engine::io::bytes::{le16, le32};
use crate::engine::io::{Device, read_up_to};

/// Incompatible features of ext that can be written: filetype, recover, meta_bg, extents, 64bit, flex_bg, ea_inode, csum_seed,
/// largedir, inline_data.
const EXT_KNOWN: u32 = 0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000;
const RECOVER: u32 = 0x4;
/// Read-only-compatible features of ext that are not maintained here, with their names.
const EXT_READ_ONLY: &[(u32, &str)] = &[
    (0x100, "quota"),
    (0x200, "bigalloc"),
    (0x1000, "read-only"),
    (0x2000, "project quota"),
    (0x4000, "shared_blocks"),
    (0x8000, "verity"),
];
const EXT_INCOMPAT: &[(u32, &str)] = &[
    (0x1, "compression"),
    (0x8, "a journal device"),
    (0x100, "multi-mount protection"),
    (0x1000, "dirdata"),
    (0x1_0000, "encryption"),
    (0x2_0000, "casefold"),
];

/// Why the filesystem `info` on `dev` is not written; `None` when it can be. `replay`: a journal that was not replayed may be.
pub fn refusal(dev: &Device, info: &FsInfo, replay: bool) -> Result<Option<String>> {
    if info.size.is_some_and(|size| size > dev.len()) {
        return Ok(Some("the filesystem is larger than the volume that holds it".into()));
    }
    match info.kind {
        FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4 => ext(dev, replay),
        FsKind::Xfs => xfs(dev),
        FsKind::Fat12 | FsKind::Fat16 | FsKind::Fat32 => fat::refusal(dev, info),
        FsKind::Btrfs => Ok(Some("btrfs is read and reported, and not written".into())),
        FsKind::Ntfs => Ok(Some("NTFS is not written".into())),
        other => Ok(Some(format!("{} is not written", other.name()))),
    }
}

fn ext(dev: &Device, replay: bool) -> Result<Option<String>> {
    let sb = read_up_to(dev.as_ref(), 1024, 1024)?;
    let word = |at| le32(&sb, at).unwrap_or(0);
    let (compat, incompat, read_only) = (word(0x5c), word(0x60), word(0x64));
    let named = |table: &[(u32, &'static str)], bits: u32| table.iter().find(|(b, _)| bits & b != 0).map(|(_, n)| *n);
    if le16(&sb, 0x3a).unwrap_or(0) & 2 != 0 {
        return Ok(Some("it is marked as having errors: e2fsck must look at it first".into()));
    }
    if let Some(name) = named(EXT_READ_ONLY, read_only).or_else(|| named(EXT_INCOMPAT, incompat)) {
        return Ok(Some(format!("it uses {name}, which is not written")));
    }
    if incompat & !EXT_KNOWN != 0 {
        return Ok(Some(format!("it uses features that are not known ({:#x})", incompat & !EXT_KNOWN)));
    }
    if compat & 4 != 0 && word(0xe0) == 0 {
        return Ok(Some("its journal is on another device".into()));
    }
    if incompat & RECOVER != 0 && !replay {
        return Ok(Some("its journal was not replayed: the guest was not shut down properly (--replay allows it)".into()));
    }
    Ok(None)
}

fn xfs(dev: &Device) -> Result<Option<String>> {
    let sb = superblock(dev.as_ref())?;
    if sb.versionnum & 0xf < 5 {
        return Ok(Some("it is XFS version 4, without checksums, which is not written".into()));
    }
    if sb.rblocks > 0 {
        return Ok(Some("it has a realtime section".into()));
    }
    if sb.logstart == 0 {
        return Ok(Some("its log is on another device".into()));
    }
    let dirty = !guarded("read the XFS log", || is_clean(dev, &sb))?;
    Ok(dirty
        .then(|| "its log is dirty: the guest was not shut down properly (start it and shut it down, or mount it once)".into()))
}
