//! The guest grows with its disk: the partition that reaches furthest, and the filesystem in it.
//!
//! ```text
//!  1  the disk is longer                         the guest is what it was
//!  2  the partition table, step by step          as `guest::partition::grow` tells: the old table or the new one, at any moment
//!  3  the volume group and its logical volume    as `guest::lvm_grow` tells: the same
//!  4  undo file; the filesystem; no undo file    a cut leaves the undo file, and with it a partition larger than its filesystem
//! ```
//!
//! All of it is rehearsed in memory first, so that what would be refused is refused before the disk is longer.

use std::path::Path;
use std::sync::Arc;

use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::write::DiskWriter;
use crate::engine::guest::fs::{self, can_grow};
use crate::engine::guest::lvm_grow::{self, Extended};
use crate::engine::guest::partition::grow::{Edits, grow_last, move_backup};
use crate::engine::guest::partition::{Partition, read};
use crate::engine::guest::recognise::FsKind;
use crate::engine::guest::tree::Guest;
use crate::engine::guest::volumes::{Layout, Volume, volumes};
use crate::engine::io::draft::Draft;
use crate::engine::io::{Device, ReadAt, WriteDevice};
use crate::engine::job::JobContext;
use crate::engine::ops::plan::Undo;
use crate::engine::ops::rehearse::over;
use crate::engine::ops::sanitize::atomic::{self, Change};
use crate::engine::units::binary;

use super::advice;

/// What is going to grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Growth {
    /// Name of the volume that grows.
    pub(super) volume: String,
    /// What becomes of it, in a line.
    pub(super) fate: String,
    /// What is done to the partition table.
    pub(super) steps: Vec<String>,
    /// What a person should know.
    pub(super) warnings: Vec<String>,
    /// Bytes of the undo file while the filesystem is written, about.
    pub(super) saved: u64,
    /// Whether, and how, it can be taken back; `None` when nothing but the disk grows.
    pub(super) undo: Option<Undo>,
}

/// Plays it through for a disk that is to have `size` bytes. Nothing is written. `image` is where an interrupted growing would be found.
///
/// Errors: what running it would refuse.
pub(super) fn rehearse(disk: &Device, size: u64, image: &Path) -> Result<Growth> {
    let draft = over(disk.clone());
    let again = atomic::rehearse(&undo_path(image), draft.as_ref())?;
    draft.set_len(size)?;
    let was = volumes(disk)?;
    refuse_larger(last(&was)?, disk)?;
    let edits = table(draft.as_ref(), size)?;
    edits.apply(draft.as_ref())?;
    let now: Device = draft.clone();
    let mut layout = volumes(&now)?;
    let mut steps: Vec<String> = edits.steps.into_iter().map(|s| s.what).collect();
    let mut uncertain = None;
    match extend(&now, &layout) {
        Ok(Some(e)) => {
            steps.extend(e.edits.steps.iter().map(|s| s.what.clone()));
            e.edits.apply(last(&layout)?.writable(draft.clone()).as_ref())?;
            layout = volumes(&now)?;
        }
        Ok(None) => {}
        Err(e) if e.kind() == ErrorKind::Unsupported => uncertain = Some(e.why().to_string()),
        Err(e) => return Err(refused(last(&layout)?, disk, e)),
    }
    let volume = if uncertain.is_some() { last(&layout)? } else { target(&now, &layout)? };
    let old_len = was.volumes.iter().find(|v| v.name == volume.name).map_or(volume.len, |v| v.len);
    let mut out = Growth { volume: volume.name.clone(), fate: String::new(), steps, warnings: Vec::new(), saved: 0, undo: None };
    if again {
        out.steps.insert(0, "a growing that was interrupted is taken back first".into());
    }
    let place =
        if volume.len > old_len { format!("grows to {}", binary(volume.len)) } else { "has all the room there is".into() };
    let kind = volume.info.as_ref().map(|i| i.kind);
    let Some(kind) = kind.filter(|k| can_grow(*k)) else {
        out.fate = format!("{place}; what is in it stays as large as it is");
        out.warnings.push(stays(volume, &layout, kind, uncertain));
        return Ok(out);
    };
    let writable = Arc::new(Draft::new(now));
    let grown = fs::grow(&volume.writable(writable.clone())).map_err(|e| refused(volume, disk, e))?;
    match grown {
        Some(g) => {
            out.fate = format!("{place}, and its {} from {} to {}", kind.name(), binary(g.from), binary(g.to));
            out.saved = saved(&writable, volume, g.from).iter().map(|(_, n)| n).sum();
            out.undo = Some(match kind {
                FsKind::Xfs => Undo::Impossible("XFS does not become smaller again".into()),
                _ => Undo::Possible(
                    "resize2fs and the partition made shorter, from a rescue system; then resize it back with --shrink".into(),
                ),
            });
        }
        None => out.fate = format!("{place}, and its {} fills it already", kind.name()),
    }
    Ok(out)
}

/// Grows the guest of an image whose disk has its new size: `guest` gives that disk as it is at the moment, `writer` writes it.
/// Says what was done to a filesystem.
pub(super) fn grow(
    guest: &dyn Fn() -> WriteDevice,
    writer: &dyn DiskWriter,
    image: &Path,
    job: &JobContext,
) -> Result<Option<String>> {
    job.progress.set_phase("growing the partition");
    let disk = guest();
    table(disk.as_ref(), disk.len())?.apply(disk.as_ref()).op("change the partition table").path(image)?;
    let disk: Device = guest();
    let mut layout = volumes(&disk)?;
    match extend(&disk, &layout) {
        Ok(Some(e)) => {
            job.progress.set_phase("growing the volume group");
            e.edits.apply(last(&layout)?.writable(guest()).as_ref()).op("change the volume group").path(image)?;
        }
        Ok(None) => {}
        // As the plan said: the volume group stays as it is.
        Err(e) if e.kind() == ErrorKind::Unsupported => return Ok(None),
        Err(e) => return Err(e.path(image)),
    }
    let disk: Device = guest();
    layout = volumes(&disk)?;
    let volume = target(&disk, &layout)?;
    let Some(kind) = volume.info.as_ref().map(|i| i.kind).filter(|k| can_grow(*k)) else { return Ok(None) };
    job.progress.set_phase("growing the filesystem");
    let draft = Arc::new(Draft::new(disk));
    let on: WriteDevice = volume.writable(draft.clone());
    let Some(grown) = fs::grow(&on).path(image)? else { return Ok(None) };
    let ranges = saved(&draft, volume, grown.from);
    let change = Change { image, format: writer.reader().format(), undo: undo_path(image), draft: &draft, ranges };
    change.commit(writer, job)?;
    Ok(Some(format!("{} in {} spans {} now", kind.name(), volume.name, binary(grown.to))))
}

/// Takes back what was written of a filesystem when its growing was interrupted.
pub(super) fn roll_back(writer: &dyn DiskWriter, image: &Path) -> Result<()> {
    atomic::roll_back(&undo_path(image), writer).map(drop)
}

/// Errors: what is in the volume says that it reaches past its end. A longer partition would only hide that.
fn refuse_larger(volume: &Volume, disk: &Device) -> Result<()> {
    match volume.info.as_ref().and_then(|i| i.size) {
        Some(size) if size > volume.len && volume.partition.is_some() => {
            let why = format!("the filesystem spans {size} bytes, and the volume that holds it has {}", volume.len);
            Err(refused(volume, disk, Error::corrupt(why)))
        }
        _ => Ok(()),
    }
}

/// Where the undo file of the image at `path` is while its guest grows.
pub(super) fn undo_path(path: &Path) -> std::path::PathBuf {
    atomic::beside(path, "resize")
}

/// What makes the last partition fill `disk`, which has `size` bytes.
fn table(disk: &dyn ReadAt, size: u64) -> Result<Edits> {
    if let Some(t) = read(disk)?
        && let Some(last) = t.last()
    {
        let meets = |p: &&Partition| !p.extended && p.number != last.number && p.end() > last.start;
        if let Some(p) = t.partitions.iter().find(meets) {
            return Err(Error::corrupt(format!("partitions {} and {} overlap", p.number, last.number))
                .hint("mend the partition table first, on a copy"));
        }
        if last.end() > size {
            return Err(Error::corrupt(format!("partition {} ends beyond the disk", last.number)));
        }
    }
    match grow_last(disk, size)? {
        Some(grown) => Ok(grown.edits),
        None => Ok(move_backup(disk, size)?.unwrap_or_default()),
    }
}

/// The volume that reaches furthest: the last partition, or the whole disk.
fn last(layout: &Layout) -> Result<&Volume> {
    let number = layout.table.as_ref().and_then(|t| t.last()).map(|p| p.number);
    layout
        .volumes
        .iter()
        .find(|v| v.partition == number && !v.logical_volume)
        .ok_or_else(|| Error::usage("there is nothing on the disk that could grow"))
}

/// What lets the volume group in the last volume, and the logical volume that grows, take all of it. `None`: there is none, or nothing
/// to gain.
///
/// Errors: `Unsupported` where it is not certain what to do; damage.
fn extend(disk: &Device, layout: &Layout) -> Result<Option<Extended>> {
    let volume = last(layout)?;
    let (Some(FsKind::Lvm2), Some(dev)) = (volume.info.as_ref().map(|i| i.kind), &volume.dev) else { return Ok(None) };
    lvm_grow::extend(dev.as_ref(), &logical(disk, layout, volume)?.name)
}

/// The volume whose filesystem grows: the last one, or the logical volume in it.
fn target<'a>(disk: &Device, layout: &'a Layout) -> Result<&'a Volume> {
    let volume = last(layout)?;
    if volume.info.as_ref().map(|i| i.kind) != Some(FsKind::Lvm2) {
        return Ok(volume);
    }
    Ok(logical(disk, layout, volume).unwrap_or(volume))
}

/// Of the logical volumes in `volume` the guest's root, else the only one with a filesystem that can grow.
///
/// Errors: `Unsupported`, neither is there.
fn logical<'a>(disk: &Device, layout: &'a Layout, volume: &Volume) -> Result<&'a Volume> {
    let own = || layout.volumes.iter().filter(|v| v.logical_volume && v.partition == volume.partition);
    let root = Guest::open(disk).ok().and_then(|g| Some(g.layout.volumes.get(g.mounts.first()?.volume)?.name.clone()));
    if let Some(v) = own().find(|v| Some(&v.name) == root.as_ref()) {
        return Ok(v);
    }
    let mut can = own().filter(|v| v.info.as_ref().is_some_and(|i| can_grow(i.kind)));
    match (can.next(), can.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(Error::unsupported("none of its volumes holds a filesystem that can be grown")),
        _ => Err(Error::unsupported("it has several volumes, and none of them is the guest's root")),
    }
}

/// Places of the disk, of what changed, that the filesystem spanned before.
fn saved(draft: &Draft, volume: &Volume, from: u64) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    let changes = draft.changes();
    volume.on_disk(0, from, |place, len| {
        for (at, n, _) in &changes {
            let (start, end) = ((*at).max(place), (at + n).min(place + len));
            if start < end {
                out.push((start, end - start));
            }
        }
    });
    out
}

/// Why what is in the volume does not grow, and how it does.
fn stays(volume: &Volume, layout: &Layout, kind: Option<FsKind>, uncertain: Option<String>) -> String {
    let device = volume.partition.map_or_else(|| "/dev/vda".into(), |n| format!("/dev/vda{n}"));
    match kind {
        Some(FsKind::Lvm2) => {
            let own = layout.volumes.iter().filter(|v| v.logical_volume && v.partition == volume.partition);
            let lv = own
                .max_by_key(|v| (v.info.as_ref().is_some_and(|i| can_grow(i.kind)), v.len))
                .map_or_else(|| "GROUP/VOLUME".to_string(), |v| v.name.clone());
            let why = uncertain.map(|w| format!(" ({w})")).unwrap_or_default();
            format!(
                "its logical volumes are not grown here{why}: in the guest, pvresize {device}, then lvextend -r -l +100%FREE {lv}"
            )
        }
        Some(FsKind::Btrfs) => "btrfs is not grown here: in the guest, btrfs filesystem resize max / (cloud-init does it)".into(),
        Some(kind) => format!("{} is not grown here: that is for the guest's own tools", kind.name()),
        None => "what is in it is not recognised, and stays as it is".into(),
    }
}

/// `error`, with who else grows it.
fn refused(volume: &Volume, disk: &Device, error: Error) -> Error {
    let advice = advice::grower(disk, volume.partition);
    let first = error.advice().map(|h| format!("{h}; ")).unwrap_or_default();
    Error::new(error.kind(), error.why())
        .op(format!("grow {}", volume.name))
        .hint(format!("{first}without --grow-guest only the disk becomes larger: {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::format::write::WriteSource;
    use crate::engine::format::{Format, Source};
    use crate::engine::io::fault::{Failure, Faulty};
    use crate::engine::io::gate::Gate;
    use std::process::Command;

    fn writer(dev: WriteDevice, path: &Path) -> Arc<dyn DiskWriter> {
        let source = Source { dev: dev.clone(), path: path.to_path_buf(), gate: Gate::closed() };
        (Format::Raw.entry().open_write.unwrap())(WriteSource::alone(dev, source)).unwrap()
    }

    /// What the filesystem's own checker says of what begins at 1 MiB in `bytes`, if anything.
    fn complaint(dir: &Path, kind: FsKind, bytes: &[u8], len: u64) -> Option<String> {
        let path = dir.join("fs");
        std::fs::write(&path, &bytes[1 << 20..(1 << 20) + len as usize]).unwrap();
        let (program, how) = if kind == FsKind::Xfs { ("xfs_repair", "-n") } else { ("e2fsck", "-fn") };
        let out = Command::new(program).arg(how).arg(&path).output().unwrap();
        let text = [out.stdout, out.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
        let begins = ["Pass ", "e2fsck ", "Phase ", "        - ", "No modify flag set", "Cannot get host", "Repair may fail"];
        let expected = |l: &&str| {
            begins.iter().any(|b| l.starts_with(b))
                || l.contains(" files (")
                || l.contains("the image and the host")
                || l.is_empty()
        };
        let said: Vec<&str> = text.lines().filter(|l| !expected(l)).collect();
        (!out.status.success() || !said.is_empty()).then(|| said.join("\n"))
    }

    #[test]
    fn wherever_the_power_is_cut_the_guest_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let fs = dir.path().join("made");
        let make = |program: &str, args: &[&str]| {
            // XFS of this size is made for tests only.
            let small = [("TEST_DIR", "x"), ("TEST_DEV", "x"), ("QA_CHECK_FS", "x")];
            assert!(Command::new(program).envs(small).args(args).status().unwrap().success());
        };
        let path = fs.to_str().unwrap();
        make("mke2fs", &["-q", "-t", "ext4", "-b", "1024", "-g", "2048", path, "5M"]);
        cuts(dir.path(), FsKind::Ext4, &std::fs::read(&fs).unwrap(), 23);
        std::fs::remove_file(&fs).unwrap();
        make("mkfs.xfs", &["-q", "-d", &format!("file,name={path},size=32m,agcount=2"), "-m", "rmapbt=1"]);
        cuts(dir.path(), FsKind::Xfs, &std::fs::read(&fs).unwrap(), 64);
    }

    /// Grows the filesystem `made` to `to` MiB, failing at each write in turn.
    fn cuts(dir: &Path, kind: FsKind, made: &[u8], to: u64) {
        let image = dir.join("disk.raw");
        let (from, to) = (made.len() as u64, to << 20);
        // An MBR with one partition at 1 MiB.
        let mut disk = vec![0u8; (to + (1 << 20)) as usize];
        disk[446 + 4] = 0x83;
        disk[446 + 8..446 + 12].copy_from_slice(&2048u32.to_le_bytes());
        disk[446 + 12..446 + 16].copy_from_slice(&((from >> 9) as u32).to_le_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk[1 << 20..][..made.len()].copy_from_slice(made);
        let (mut cut, mut rolled_back) = (0, 0);
        loop {
            let dev = Faulty::new(disk.clone());
            dev.fail(Some(Failure { at: cut, once: false, errno: libc::EIO, reads: false }));
            let guest = || -> WriteDevice { dev.clone() };
            let done = grow(&guest, writer(dev.clone(), &image).as_ref(), &image, &JobContext::detached());
            dev.fail(None);
            let interrupted = crate::engine::ops::resize::interrupted(&image);
            if interrupted {
                roll_back(writer(dev.clone(), &image).as_ref(), &image).unwrap();
                rolled_back += 1;
            }
            assert!(!undo_path(&image).exists());
            let bytes = dev.to_vec();
            let table = read(dev.as_ref()).unwrap().expect("the table is there");
            let len = table.partitions[0].len;
            assert!(len == from || len == to, "cut {cut}: {len}");
            assert_eq!(complaint(dir, kind, &bytes, len), None, "{kind:?} cut {cut}");
            let spans = volumes(&(dev.clone() as Device)).unwrap().volumes[0].info.as_ref().unwrap().size;
            match done {
                Ok(said) => {
                    assert!(said.is_some() && !interrupted && spans == Some(to), "{said:?} {spans:?}");
                    break;
                }
                Err(_) => assert_eq!(spans, Some(from), "{kind:?} cut {cut}"),
            }
            // What was cut off is done by doing it again.
            let again = grow(&guest, writer(dev.clone(), &image).as_ref(), &image, &JobContext::detached());
            assert!(again.unwrap().is_some());
            assert_eq!(complaint(dir, kind, &dev.to_vec(), to), None, "again after cut {cut}");
            cut += 1;
        }
        // XFS changes in fewer, longer pieces.
        let (cuts, backs) = if kind == FsKind::Xfs { (6, 4) } else { (10, 5) };
        assert!(cut > cuts && rolled_back > backs, "{kind:?}: {cut} {rolled_back}");
    }
}
