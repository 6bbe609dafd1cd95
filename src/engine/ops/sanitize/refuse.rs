//! What is not sanitised: refused with the reason, before anything is looked for, and a FAT (the firmware's; most have nothing that
//! goes, and are not even looked at) when it is known that something on it is to go.

use super::edit::Target;
use super::report::Entry;
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::guest::fs::{self, GuestFs};
use crate::engine::guest::recognise::FsKind;
use crate::engine::guest::tree::{Guest, Mount};
use crate::engine::job::JobContext;
use crate::engine::units::printable_bytes;

const SHOWN: &str = "cowshed inspect shows what is on it";

/// Refuses what must not be written; answers what to warn of.
pub(super) fn refuse(guest: &Guest, replay: bool) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    if let Some((group, why)) = guest.layout.groups.iter().find_map(|g| Some((&g.name, g.problems.first()?))) {
        return Err(Error::corrupt(format!("volume group {group}: {why}"))
            .op("read LVM2 metadata")
            .hint("vgck or pvck in the guest says what is wrong; vgcfgrestore brings back metadata that was good"));
    }
    for v in &guest.layout.volumes {
        // Who knows what is mounted from it, or, of a snapshot, which blocks it shares with what would be written.
        if let Some(why) = v.problem.as_ref().filter(|_| v.logical_volume) {
            return Err(Error::unsupported(format!("{}: {why}", v.name)).hint(SHOWN));
        }
        let Some(info) = &v.info else { continue };
        let locked = match info.kind {
            FsKind::Hibernated => {
                return Err(Error::unsupported(format!(
                    "{}: a suspended system is in the swap; it would wake up on a disk that changed",
                    v.name
                ))
                .hint("start the guest, and shut it down"));
            }
            FsKind::Luks => "it is encrypted (LUKS), and without its key nothing in it is seen",
            FsKind::BitLocker => "it is encrypted (BitLocker), and nothing in it is seen",
            FsKind::Md => "it is a part of an MD RAID, which is not read",
            FsKind::Zfs | FsKind::Bcachefs => "its filesystem is not read",
            FsKind::Ntfs if guest.mounts.is_empty() => "it is NTFS: Windows guests are not sanitised",
            _ => continue,
        };
        if guest.mounts.is_empty() {
            return Err(Error::unsupported(format!("{}: {locked}", v.name)).hint(SHOWN));
        }
        warnings.push(format!("{}: {locked}; it is left as it is", v.name));
    }
    if guest.mounts.is_empty() {
        let lost: Vec<String> =
            guest.layout.volumes.iter().filter_map(|v| Some(format!("{}: {}", v.name, v.problem.as_ref()?))).collect();
        let why = lost.iter().chain(&guest.problems).chain(&guest.layout.problems).next().cloned();
        let error = Error::new(
            ErrorKind::NotFound,
            format!("no root filesystem was found on this disk{}", why.map(|w| format!(" ({w})")).unwrap_or_default()),
        );
        return Err(error.hint(SHOWN));
    }
    for (i, m) in guest.mounts.iter().enumerate() {
        let Some(v) = guest.layout.volumes.get(m.volume) else { continue };
        let (Some(dev), Some(info)) = (&v.dev, &v.info) else { continue };
        if is_fat(m.fs.as_ref()) {
            // The firmware's: looked at when something on it is to go.
            if i > 0 {
                continue;
            }
            return Err(Error::unsupported(format!("{}: the system itself is on FAT", v.name)).hint(SHOWN));
        }
        if let Some(why) = fs::refusal(dev, info, replay)? {
            return Err(Error::unsupported(format!("{} ({}): {why}", v.name, info.kind.name())).hint(SHOWN));
        }
    }
    if let Some(p) = guest.problems.first() {
        return Err(Error::unsupported(format!("a filesystem of the guest cannot be read: {p}")).hint(SHOWN));
    }
    overlaps(guest)?;
    Ok(warnings)
}

/// True for FAT12, FAT16 and FAT32.
pub(super) fn is_fat(fs: &dyn GuestFs) -> bool {
    matches!(fs.info().kind, FsKind::Fat12 | FsKind::Fat16 | FsKind::Fat32)
}

/// The FAT volumes that something in `targets` is on, each once.
///
/// Errors: one that is not sound, with what is to do and which of `operations` asks for it.
pub(super) fn changed_fats(guest: &Guest, targets: &[Target], operations: &[Entry], job: &JobContext) -> Result<Vec<usize>> {
    let mut out: Vec<usize> = Vec::new();
    for t in targets {
        let Some(m) = guest.mounts.get(t.dir.mount).filter(|m| is_fat(m.fs.as_ref()) && !out.contains(&m.volume)) else {
            continue;
        };
        job.checkpoint()?;
        let path = printable_bytes(&t.path).to_string();
        let asks = operations.iter().find(|o| o.changes.iter().any(|c| c.path == path)).map_or("", |o| o.id);
        sound(guest, m, asks)?;
        out.push(m.volume);
    }
    Ok(out)
}

/// Why `operation` could not read what it looked for: the damage that is found on a FAT is told rather than where it was stumbled over.
pub(super) fn blame(guest: &Guest, operation: &str, e: Error) -> Error {
    let damaged = e.kind() == ErrorKind::Corrupt && e.operation() == Some("read FAT");
    let mut fats = guest.mounts.iter().skip(1).filter(|m| damaged && is_fat(m.fs.as_ref()));
    fats.find_map(|m| sound(guest, m, operation).err()).unwrap_or(e)
}

/// Errors: the FAT is not fit to be written, or damaged; `operation` wants something on it.
fn sound(guest: &Guest, m: &Mount, operation: &str) -> Result<()> {
    let Some(volume) = guest.layout.volumes.get(m.volume) else { return Ok(()) };
    let (Some(dev), Some(info)) = (&volume.dev, &volume.info) else { return Ok(()) };
    let about = |e: Error| {
        e.op(format!("sanitize volume {} ({})", volume.name, info.kind.name()))
            .hint(format!("have fsck.fat mend it first, or leave what is on it: --disable {operation}"))
    };
    if let Some(why) = fs::refusal(dev, info, false).map_err(about)? {
        return Err(about(Error::unsupported(why)));
    }
    match m.fs.check().map_err(about)?.first() {
        Some(first) => Err(about(Error::corrupt(format!("its check finds: {first}")))),
        None => Ok(()),
    }
}

/// What is free in one partition must not be another's.
fn overlaps(guest: &Guest) -> Result<()> {
    let mut parts: Vec<(u64, u64, &str)> = Vec::new();
    for v in guest.layout.volumes.iter().filter(|v| !v.logical_volume && v.len > 0) {
        parts.extend(v.start.map(|s| (s, s.saturating_add(v.len), v.name.as_str())));
    }
    parts.sort_unstable();
    for pair in parts.windows(2) {
        if let [(_, end, one), (start, _, other)] = pair
            && end > start
        {
            return Err(Error::corrupt(format!(
                "partitions {one} and {other} overlap: what is free in one may be in use in the other"
            ))
            .at(*start)
            .hint("cowshed inspect shows them; sfdisk or gdisk mends the partition table"));
        }
    }
    Ok(())
}
