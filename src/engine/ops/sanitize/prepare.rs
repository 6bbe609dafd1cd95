//! Everything up to the commit: the guest is looked at, what operations find is made on a draft in memory, leftovers are wiped there,
//! and the result is checked. Nothing is written.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::edit::{Target, apply};
use super::needles::Needles;
use super::refuse::{blame, changed_fats, is_fat, refuse};
use super::report::{Entry, Report, Shown, State, diff, word};
use super::scan::Scanning;
use crate::engine::chain::Disk;
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::Format;
use crate::engine::guest::fs::{self, FileType, GuestFs, Scrubbed, Traces};
use crate::engine::guest::recognise::FsKind;
use crate::engine::guest::sanitize::find::Survey;
use crate::engine::guest::sanitize::operations::copied_from;
use crate::engine::guest::sanitize::{Edit, Operation};
use crate::engine::guest::tree::{Guest, Mount};
use crate::engine::guest::volumes::{Volume, volumes};
use crate::engine::io::cached::Cached;
use crate::engine::io::draft::{Changed, Draft};
use crate::engine::io::{Device, ReadAt, WriteAt, WriteDevice, read_vec};
use crate::engine::job::JobContext;
use crate::engine::spans::Set;
use crate::engine::units::printable_bytes;

/// Bytes of a removed file that needles are taken from.
const TASTE: usize = 64 << 10;

/// A sanitising ready to be committed.
pub(super) struct Prepared {
    /// The disk with every change.
    pub(super) draft: Arc<Draft>,
    /// The disk as an undo brings it back: as it was, or with its journals replayed.
    pub(super) before: Device,
    /// What changes, operation by operation.
    pub(super) report: Report,
    /// Ranges of the disk whose old bytes an undo needs.
    pub(super) saved: Set,
    /// What must not be found afterwards.
    pub(super) needles: Arc<Needles>,
    /// The first scan for it, where one was wished for.
    pub(super) scanning: Option<Scanning>,
}

/// How a sanitising is prepared.
pub(super) struct Wish<'a> {
    /// The image, for messages.
    pub(super) image: &'a Path,
    /// The operations.
    pub(super) operations: &'a [&'static Operation],
    /// A journal that was not replayed may be.
    pub(super) replay: bool,
    /// A run follows: the image's bytes are scanned as soon as it is known what for.
    pub(super) scan: bool,
}

/// Prepares it. Errors: a rule refuses (see `refuse.rs`), damage, a defect of ours found by the check.
pub(super) fn prepare(disk: &Arc<Disk>, wish: &Wish<'_>, job: &JobContext) -> Result<Prepared> {
    let before: Device = Arc::new(Cached::new(disk.clone()));
    let draft = Arc::new(Draft::new(before.clone()));
    let device: Device = draft.clone();
    // What an undo brings back is the disk with its journals replayed: their content does not stay.
    let before: Device = if wish.replay { replay(&draft)? } else { before };
    let guest = Guest::over(&device)?;
    let mut report = Report {
        image: wish.image.to_path_buf(),
        operations: Vec::new(),
        volumes: Vec::new(),
        written: 0,
        zeroed: 0,
        undo: None,
        warnings: refuse(&guest, wish.replay)?,
        scan: None,
    };
    let scrub = wish.operations.iter().any(|o| o.id == "scrub");
    job.progress.set_phase("checking");
    // A FAT is looked at only when something on it is to change.
    let always = |m: &&Mount| writable(m.fs.as_ref()) && !is_fat(m.fs.as_ref());
    let mut volumes: Vec<usize> = guest.mounts.iter().filter(always).map(|m| m.volume).collect();
    volumes.sort_unstable();
    volumes.dedup();
    let (mut survey, mut needles) = (Survey::new(&guest), Needles::default());
    let damaged = |what: &str| Error::corrupt(format!("its check finds: {what}"));
    let (needles, scanning) = while_checked(&guest, &volumes, &damaged, job, || {
        for operation in wish.operations {
            job.checkpoint()?;
            let entry = look(operation, &mut survey, &mut needles)?;
            report.operations.push(entry);
        }
        let needles = Arc::new(needles);
        let scanning = wish.scan.then(|| Scanning::begin(&needles, disk.files(0), job)).transpose()?;
        Ok((needles, scanning))
    })?;
    let mut free = BTreeMap::new();
    for (volume, m, v) in volumes.iter().filter_map(|v| on_volume(&guest, *v)) {
        free.insert(v, free_ranges(volume, m.fs.as_ref())?);
    }
    let targets = targets(&survey, &mut report)?;
    drop(survey);
    for (volume, m, v) in
        changed_fats(&guest, &targets, &report.operations, job)?.into_iter().filter_map(|v| on_volume(&guest, v))
    {
        free.insert(v, free_ranges(volume, m.fs.as_ref())?);
        volumes.push(v);
    }
    job.progress.set_phase("planning");
    let mut traces: BTreeMap<usize, Traces> = volumes.iter().map(|v| (*v, Traces::default())).collect();
    apply(&guest, &draft, &targets, &mut traces)?;
    let (mut unsaved, mut keep) = (Vec::new(), Vec::new());
    for v in volumes.iter().filter(|_| scrub) {
        job.checkpoint()?;
        let Some(volume) = guest.layout.volumes.get(*v) else { continue };
        let on = on_draft(volume, &draft);
        let old = volume.over(before.clone());
        let done = fs::scrub(&old, &on, traces.get(v).unwrap_or(&Traces::default())).map_err(|e| about(volume, e))?;
        wipe_free(volume, &on, &draft)?;
        place(volume, &done, &draft, &mut unsaved, &mut keep)?;
    }
    if scrub {
        for volume in guest.layout.volumes.iter().filter(|v| v.info.as_ref().is_some_and(|i| i.kind == FsKind::Swap)) {
            let head = volume.info.as_ref().and_then(|i| i.block_size).unwrap_or(4096).max(4096);
            let mut ranges = Vec::new();
            volume.on_disk(head, volume.len.saturating_sub(head), |place, len| ranges.push((place, place + len)));
            for (start, end) in &ranges {
                fs::wipe(draft.as_ref(), *start, end - start)?;
            }
            unsaved.extend(ranges);
            report.volumes.push(format!("{}: swap, wiped but for its header", volume.name));
        }
    }
    // Its readers keep what they read in memory.
    drop(guest);
    let changed = draft.changes();
    if let Some(scanning) = scanning.as_ref().filter(|_| disk.layers().first().is_some_and(|l| l.format() == Format::Raw)) {
        let soon = Set::of(changed.iter().map(|(at, n, _)| (*at, at + n)));
        disk.files(0).iter().for_each(|f| scanning.leave(f, &soon));
    }
    job.progress.set_phase("verifying the plan");
    verify(&draft, wish, &volumes, &mut report, job)?;
    let free = Set::of(free.values().flat_map(Set::iter).chain(unsaved));
    let touched = Set::of(changed.iter().filter(|c| c.2 != Changed::Stamped).map(|(at, n, _)| (*at, at + n))).without(&free);
    let sum = |zero: bool| changed.iter().filter(|c| (c.2 == Changed::Zero) == zero).map(|c| c.1).sum();
    (report.written, report.zeroed) = (sum(false), sum(true));
    let saved = Set::of(touched.iter().chain(keep.into_iter().filter(|_| !changed.is_empty())));
    Ok(Prepared { draft, before, report, saved, needles, scanning })
}

/// Replays the journals that wait for it, on the draft; the disk as it is then.
fn replay(draft: &Arc<Draft>) -> Result<Device> {
    let device: Device = draft.clone();
    for volume in volumes(&device)?.volumes.iter().filter(|v| v.dev.is_some()) {
        fs::replay(&on_draft(volume, draft)).map_err(|e| about(volume, e))?;
    }
    let replayed = Draft::new(draft.before().clone());
    for (offset, len, how) in draft.changes() {
        match how {
            Changed::Zero => replayed.write_zeroes(offset, len)?,
            _ => replayed.write_at(offset, &read_vec(draft.as_ref(), offset, len, len)?)?,
        }
    }
    Ok(Arc::new(replayed))
}

fn about(volume: &Volume, e: Error) -> Error {
    e.op(format!("sanitize volume {}", volume.name))
}

fn writable(fs: &dyn GuestFs) -> bool {
    matches!(fs.info().kind, FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4 | FsKind::Xfs) || is_fat(fs)
}

/// The volume on the draft, for writing.
pub(super) fn on_draft(volume: &Volume, draft: &Arc<Draft>) -> WriteDevice {
    volume.writable(draft.clone())
}

/// The free space of the filesystem on `volume`, in bytes of the disk.
fn free_ranges(volume: &Volume, fs: &dyn GuestFs) -> Result<Set> {
    let mut all = Vec::new();
    fs.free_ranges(&mut |at, len| volume.on_disk(at, len, |place, n| all.push((place, place + n))))?;
    Ok(Set::of(all))
}

/// Asks one operation, and takes note of the bytes that must be gone afterwards.
fn look(operation: &'static Operation, survey: &mut Survey<'_>, needles: &mut Needles) -> Result<Entry> {
    let left = |e: Error| match e.kind() {
        ErrorKind::Unsupported => e.hint(format!("to leave those as they are: --disable {}", operation.id)),
        _ => blame(survey.guest(), operation.id, e),
    };
    let found = (operation.find)(survey).op(operation.id).map_err(left)?;
    let mut shown = Vec::new();
    for c in &found.changes {
        let name = printable_bytes(&c.path).to_string();
        let spot = survey.guest().resolve(&c.path, false)?;
        let stat = survey.guest().stat(spot)?;
        let mut lines = Vec::new();
        if stat.kind == FileType::File {
            match &c.edit {
                Edit::Replace(new) => {
                    let old = survey.content(&c.path).unwrap_or_default();
                    lines = diff(&old, new);
                    for line in lines.iter().filter_map(|l| l.strip_prefix('-')) {
                        needles.add_exact(line.as_bytes(), &name);
                    }
                }
                Edit::Empty | Edit::Remove | Edit::Link(_) if stat.links == 1 || c.edit == Edit::Empty => {
                    let taste = taste(survey.guest(), spot, stat.size);
                    let kept = copied_from(&c.path).and_then(|original| survey.content(&original)).unwrap_or_default();
                    needles.add(&taste.map_err(|e| blame(survey.guest(), operation.id, e))?, &kept, &name);
                }
                _ => {}
            }
        }
        shown.push(Shown { path: name, what: word(&c.edit), reason: c.reason, before: stat.size, diff: lines });
    }
    let mut warnings = found.warnings;
    for c in found.changes.iter().filter(|c| c.edit == Edit::Remove) {
        let stat = survey.guest().stat(survey.guest().resolve(&c.path, false)?)?;
        if stat.kind == FileType::File && stat.links > 1 {
            warnings.push(format!("{} has {} names; its content stays under the others", printable_bytes(&c.path), stat.links));
        }
    }
    survey.accept(&found.changes);
    let state = match (operation.reports_only, shown.is_empty() && operation.id != "scrub") {
        (true, _) => State::Reported,
        (_, true) => State::NothingToDo,
        _ => State::Planned,
    };
    let (id, title, verified) = (operation.id, operation.title, operation.verified);
    Ok(Entry { id, title, state, changes: shown, notes: found.notes, warnings, verified })
}

/// The beginning, the middle and the end of a file.
fn taste(guest: &Guest, spot: crate::engine::guest::tree::Spot, size: u64) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let parts: &[u64] = if size <= 3 * TASTE as u64 { &[0] } else { &[0, size / 2, size - TASTE as u64] };
    let each = if parts.len() == 1 { size as usize } else { TASTE };
    for at in parts {
        let mut buf = vec![0; each];
        let n = guest.read(spot, *at, &mut buf)?;
        buf.truncate(n);
        out.extend(buf);
    }
    Ok(out)
}

/// Where each pending change is made.
fn targets(survey: &Survey<'_>, report: &mut Report) -> Result<Vec<Target>> {
    let guest = survey.guest();
    let mut out = Vec::new();
    for (path, edit) in survey.pending() {
        let Some(at) = path.iter().rposition(|b| *b == b'/') else { continue };
        let (folder, name) = (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default());
        let dir = guest.resolve(folder, true)?;
        let spot = guest.resolve(path, false)?;
        if spot.mount != dir.mount || !guest.mounts.get(dir.mount).is_some_and(|m| writable(m.fs.as_ref())) {
            report.warnings.push(format!(
                "{} lies on a filesystem that is not written, or is a mount point; it stays",
                printable_bytes(path)
            ));
            continue;
        }
        out.push(Target { path: path.clone(), dir, name: name.to_vec(), node: spot.node, edit: edit.clone() });
    }
    Ok(out)
}

/// Zeroes the free space of the filesystem on the draft.
fn wipe_free(volume: &Volume, on: &WriteDevice, draft: &Draft) -> Result<()> {
    let read: Device = on.clone();
    let fs = fs::open(read)?;
    for (start, end) in free_ranges(volume, fs.as_ref())?.iter() {
        fs::wipe(draft, start, end - start)?;
    }
    Ok(())
}

/// Puts what a filesystem's scrub says in bytes of the disk.
fn place(
    volume: &Volume,
    done: &Scrubbed,
    draft: &Draft,
    unsaved: &mut Vec<(u64, u64)>,
    keep: &mut Vec<(u64, u64)>,
) -> Result<()> {
    for (at, len) in &done.unsaved {
        volume.on_disk(*at, *len, |place, n| unsaved.push((place, place + n)));
    }
    for (at, len) in &done.saved {
        volume.on_disk(*at, *len, |place, n| keep.push((place, place + n)));
    }
    let mut stamps = Vec::new();
    for (at, len) in &done.stamps {
        volume.on_disk(*at, *len, |place, n| stamps.push((place, place + n)));
    }
    for (start, end) in stamps {
        stamp(draft, start, end)?;
    }
    Ok(())
}

/// Stamps `start..end` where that changes anything, in pieces.
fn stamp(draft: &Draft, start: u64, end: u64) -> Result<()> {
    const PIECE: u64 = 256 << 10;
    let mut at = start;
    let mut buf = Vec::new();
    while at < end {
        let range = draft.host_range(at, (end - at).min(PIECE))?;
        let len = range.len.min(end - at).min(PIECE);
        if !range.hole {
            // From whole sectors on: what is behind the cycle number and is not zero.
            buf.resize(len as usize, 0);
            draft.read_at(at, &mut buf)?;
            if buf.chunks(512).any(|s| s.get(4..).is_some_and(|rest| rest.iter().any(|b| *b != 0))) {
                draft.stamp(at, at + len);
            }
        }
        at += len.max(512);
    }
    Ok(())
}

/// Looks at the draft with fresh eyes: every filesystem is sound, and no operation finds anything left to do.
fn verify(draft: &Arc<Draft>, wish: &Wish<'_>, volumes: &[usize], report: &mut Report, job: &JobContext) -> Result<()> {
    let defect = |what: String| {
        Error::new(ErrorKind::Internal, what).op("verify the plan").hint("nothing was written; please report this")
    };
    let device: Device = draft.clone();
    let guest = Guest::over(&device)?;
    if volumes.iter().any(|v| on_volume(&guest, *v).is_none()) {
        return Err(defect("a filesystem of the guest is no longer found".into()));
    }
    let wrong = |what: &str| defect(format!("the check of the changed filesystem finds: {what}"));
    while_checked(&guest, volumes, &wrong, job, || nothing_left(&guest, wish, report, &defect))?;
    for (volume, m, _) in volumes.iter().filter_map(|v| on_volume(&guest, *v)) {
        report.volumes.push(format!("{}: {}, checked before and after", volume.name, m.fs.info().kind.name()));
    }
    Ok(())
}

/// No operation finds anything left to do.
fn nothing_left(guest: &Guest, wish: &Wish<'_>, report: &mut Report, defect: &dyn Fn(String) -> Error) -> Result<()> {
    let survey = Survey::new(guest);
    for (operation, entry) in wish.operations.iter().zip(&mut report.operations).filter(|(o, _)| !o.reports_only) {
        let left = (operation.find)(&survey).op(operation.id)?;
        for c in &left.changes {
            // A folder that something else was left in, or a file on a filesystem that is not written.
            let name = printable_bytes(&c.path).to_string();
            let known = c.edit == Edit::RemoveFolder || report.warnings.iter().any(|w| w.starts_with(&name));
            if !known {
                return Err(defect(format!("{name} is still there after '{}'", operation.id)));
            }
            entry.notes.push(format!("{name} stays"));
        }
    }
    Ok(())
}

/// The volume numbered `v`, and what is mounted from it.
fn on_volume(guest: &Guest, v: usize) -> Option<(&Volume, &Mount, usize)> {
    Some((guest.layout.volumes.get(v)?, guest.mounts.iter().find(|m| m.volume == v)?, v))
}

/// Does `rest` while the filesystems on `volumes` are checked beside it. Where a check finds something, that is the error (as `wrong`
/// words it), whatever came of the rest: it may have read what is damaged.
fn while_checked<T>(
    guest: &Guest,
    volumes: &[usize],
    wrong: &(dyn Fn(&str) -> Error + Sync),
    job: &JobContext,
    rest: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let check = || {
        volumes.iter().filter_map(|v| on_volume(guest, *v)).try_for_each(|(volume, m, _)| {
            job.checkpoint()?;
            let found = m.fs.check().op("check").map_err(|e| about(volume, e))?;
            found.first().map_or(Ok(()), |first| Err(about(volume, wrong(first))))
        })
    };
    std::thread::scope(|s| {
        let checked = s.spawn(check);
        let done = rest();
        checked.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "the check of a filesystem gave up")))?;
        done
    })
}
