//! Growing a filesystem to all of its volume, while nobody has it mounted.

use super::{ext_grow, open, refusal, xfs_grow};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::guest::recognise::{FsKind, recognise};
use crate::engine::io::{Device, WriteDevice};

/// Blocks of an XFS that is checked as a whole, at most: the check keeps about 24 bytes of memory for each.
const MAX_CHECKED: u64 = 4 << 20;

/// What became of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grown {
    /// Bytes it spanned.
    pub from: u64,
    /// Bytes it spans now.
    pub to: u64,
}

/// Filesystems of this kind can be grown here, if nothing about the one at hand speaks against it.
pub fn can_grow(kind: FsKind) -> bool {
    matches!(kind, FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4 | FsKind::Xfs)
}

/// Grows the filesystem on `dev` to its end; `None` when there is nothing to gain. It is checked before and afterwards.
///
/// Several structures change, in no order that would bear a power cut: `dev` is a [`crate::engine::io::draft::Draft`], and whoever
/// commits that sees to it. All that is written past the old end ([`Grown::from`]) was no part of the filesystem before.
///
/// Errors: `Unsupported` for filesystems, features and states that are not grown here, with the reason; damage.
pub fn grow(dev: &WriteDevice) -> Result<Option<Grown>> {
    let read = || -> Device { dev.clone() };
    let Some(info) = recognise(dev.as_ref())? else {
        return Err(Error::new(ErrorKind::Format, "no filesystem is recognised there"));
    };
    if !can_grow(info.kind) {
        return Err(Error::unsupported(format!("{} is not grown here", info.kind.name())));
    }
    if let Some(size) = info.size.filter(|size| *size > dev.len()) {
        return Err(Error::corrupt(format!("the filesystem spans {size} bytes, and the volume that holds it has {}", dev.len())));
    }
    // A journal that was not replayed is looked at below; what else speaks against writing speaks against growing.
    if let Some(why) = refusal(&read(), &info, true)? {
        return Err(Error::unsupported(why));
    }
    sound(read(), "before")?;
    let grown = if info.kind == FsKind::Xfs { xfs_grow::grow(dev.as_ref()) } else { ext_grow::grow(dev.as_ref()) }?;
    if grown.is_some() {
        sound(read(), "after").map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
    }
    Ok(grown.map(|(from, to)| Grown { from, to }))
}

/// Errors: the check of the filesystem on `dev` finds something. Of a large XFS only the free space is walked through, group by group.
fn sound(dev: Device, when: &str) -> Result<()> {
    let fs = open(dev)?;
    let info = fs.info();
    let blocks = info.size.unwrap_or(0) / info.block_size.unwrap_or(1).max(1);
    if info.kind == FsKind::Xfs && blocks > MAX_CHECKED {
        return fs.free_ranges(&mut |_, _| {});
    }
    match fs.check() {
        Ok(found) => match found.first() {
            None => Ok(()),
            Some(first) => Err(Error::corrupt(format!("its check {when} growing finds: {first}"))
                .hint("have e2fsck or xfs_repair mend it first")),
        },
        Err(e) if e.kind() == ErrorKind::Unsupported => Ok(()),
        Err(e) => Err(e),
    }
}
