//! The free space of a disk's filesystems, told only where it is certain: the filesystem is whole and closed, and no file lies in
//! what it calls free.

use std::sync::Arc;

use super::fs::{self, GuestFs};
use super::owners::first_in;
use super::recognise::{FsInfo, FsKind};
use super::volumes::{Volume, volumes};
use crate::engine::error::{Error, Result};
use crate::engine::io::Device;
use crate::engine::spans::Set;

/// What is free in one filesystem.
#[derive(Debug, Clone)]
pub struct VolumeFree {
    /// Its volume (`p2`, `vg/lv`, `disk`) and kind, in words.
    pub name: String,
    /// In bytes of the disk. `Err`: why it is not told.
    pub free: std::result::Result<Set, Doubt>,
}

/// Why free space is not told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// In words.
    pub why: String,
    /// The filesystem is one whose free space could be told, but it was left open or is damaged.
    pub unsound: bool,
}

/// The free space of every filesystem of `disk`, in the order of the disk. Swap and containers are left out.
///
/// `thorough`: have each filesystem checked, and every file of it looked at. Errors: the disk cannot be read; a suspended system
/// is on it, which goes on with filesystems as it knew them; `Cancelled` when `stop` says so.
pub fn free_space(disk: &Device, thorough: bool, stop: &dyn Fn() -> bool) -> Result<Vec<VolumeFree>> {
    let layout = volumes(disk)?;
    let mut out = Vec::new();
    for volume in &layout.volumes {
        let Some(info) = &volume.info else { continue };
        match info.kind {
            FsKind::Swap | FsKind::Lvm2 => continue,
            FsKind::Hibernated => {
                return Err(Error::unsupported(format!(
                    "{}: a suspended system is in the swap; it would wake up on filesystems that it knows otherwise",
                    volume.name
                ))
                .hint("start the guest, and shut it down"));
            }
            _ => {}
        }
        let free = match one(volume, info, thorough, stop) {
            Err(e) if e.kind() == crate::engine::error::ErrorKind::Cancelled => return Err(e),
            Err(e) => Err(Doubt { why: e.to_string(), unsound: readable(info.kind) }),
            Ok(told) => told,
        };
        out.push(VolumeFree { name: format!("{} ({})", volume.name, info.kind.name()), free });
    }
    Ok(out)
}

/// Kinds whose free space can be told.
fn readable(kind: FsKind) -> bool {
    matches!(kind, FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4 | FsKind::Xfs | FsKind::Fat12 | FsKind::Fat16 | FsKind::Fat32)
}

fn one(volume: &Volume, info: &FsInfo, thorough: bool, stop: &dyn Fn() -> bool) -> Result<std::result::Result<Set, Doubt>> {
    let doubt = |why: String| Ok(Err(Doubt { why, unsound: readable(info.kind) }));
    let Some(dev) = &volume.dev else {
        return doubt(volume.problem.clone().unwrap_or_else(|| "it cannot be read".into()));
    };
    if !readable(info.kind) {
        return doubt(format!("the free space of {} cannot be told", info.kind.name()));
    }
    if let Some(why) = fs::refusal(dev, info, false)? {
        return doubt(why);
    }
    let fs: Arc<dyn GuestFs> = Arc::from(fs::open(dev.clone())?);
    if let Some(first) = thorough.then(|| fs.check()).transpose()?.and_then(|found| found.into_iter().next()) {
        return doubt(format!("its check finds: {first}"));
    }
    let mut local = Vec::new();
    fs.free_ranges(&mut |at, len| local.push((at, at.saturating_add(len))))?;
    let local = Set::of(local);
    if thorough && let Some((name, node)) = first_in(&fs, &local, stop)? {
        let name = crate::engine::units::printable_bytes(&name);
        return doubt(format!("a file ('{name}', number {node}) lies in what it calls free"));
    }
    let mut all = Vec::new();
    for (start, end) in local.iter() {
        volume.on_disk(start, end - start, |place, n| all.push((place, place + n)));
    }
    Ok(Ok(Set::of(all)))
}
