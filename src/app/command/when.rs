//! When a command can be done: `Err(why)` is what footer, help and palette say of one that cannot be done now.

use crate::app::layer::Layer;
use crate::app::model::{Model, Pane, Screen};
use crate::app::state::snapshots::What;
use crate::engine::format::Format;
use crate::engine::format::check::Repair;
use crate::engine::job::JobState;
use crate::engine::units::printable;

pub(super) fn always(_: &Model) -> Result<(), String> {
    Ok(())
}

fn no(why: &str) -> Result<(), String> {
    Err(why.to_string())
}

pub(super) fn can_back(m: &Model) -> Result<(), String> {
    let top = m.screen == Screen::Library && m.library.filter.is_empty() && !m.library.problems && m.pane() == Pane::Tree;
    if top { no("this is the top; q quits") } else { Ok(()) }
}

pub(super) fn has_image(m: &Model) -> Result<(), String> {
    if m.subject().is_some() { Ok(()) } else { no("no image is selected") }
}

pub(super) fn has_readable(m: &Model) -> Result<(), String> {
    has_image(m)?;
    match m.subject_error() {
        Some(e) => Err(format!("the image cannot be read: {}", printable(e.why()))),
        None => Ok(()),
    }
}

/// The subject may be changed as far as this program and the locks go.
pub(super) fn can_write(m: &Model) -> Result<(), String> {
    has_image(m)?;
    if m.read_only {
        return no("read-only mode: nothing is written");
    }
    match m.subject_entry() {
        Some(e) if e.lock.in_use() => {
            let who = e.lock.holders().first().map_or("another program".to_string(), ToString::to_string);
            Err(format!("the image is in use by {}", printable(&who)))
        }
        _ => Ok(()),
    }
}

pub(super) fn is_overlay(m: &Model) -> Result<(), String> {
    match m.subject_entry() {
        Some(e) if e.is_overlay() => Ok(()),
        Some(_) => no("it stands alone already"),
        None => no("the library does not know this image"),
    }
}

pub(super) fn can_flatten(m: &Model) -> Result<(), String> {
    can_write(m)?;
    is_overlay(m)?;
    has_readable(m)
}

pub(super) fn can_rebase(m: &Model) -> Result<(), String> {
    can_write(m)?;
    is_overlay(m)?;
    can_list(m)
}

pub(super) fn can_relink(m: &Model) -> Result<(), String> {
    can_rebase(m)?;
    writes_into(m)
}

pub(super) fn can_compact(m: &Model) -> Result<(), String> {
    can_write(m)?;
    has_readable(m)?;
    writes_into(m)
}

/// The format of the subject is one whose images are changed in place.
fn writes_into(m: &Model) -> Result<(), String> {
    match m.subject_entry().and_then(|e| e.format()) {
        Some(f) if f.entry().open_write.is_none() => Err(format!("cowshed does not write into {f} images")),
        _ => Ok(()),
    }
}

pub(super) fn can_amend(m: &Model) -> Result<(), String> {
    can_write(m)?;
    can_list(m)?;
    match m.subject_entry().and_then(|e| e.format()).map(crate::engine::ops::amend::options) {
        Some(Err(e)) => Err(e.why().to_string()),
        _ => Ok(()),
    }
}

pub(super) fn can_bitmap(m: &Model) -> Result<(), String> {
    can_write(m)?;
    can_list(m)?;
    match m.subject_entry().and_then(|e| e.format()) {
        Some(f) if f != Format::Qcow2 => Err(format!("{f} images keep no dirty bitmaps; only qcow2 images do")),
        _ => Ok(()),
    }
}

pub(super) fn can_commit(m: &Model) -> Result<(), String> {
    can_flatten(m)?;
    match m.subject_entry().map(|e| e.children.len()) {
        Some(0) | None => Ok(()),
        Some(_) => no("other images stand on it; flatten or rebase them first"),
    }
}

/// Names those that stand on it, and the safe ways.
pub(super) fn can_delete_image(m: &Model) -> Result<(), String> {
    can_write(m)?;
    let Some(e) = m.subject_entry() else { return no("the library does not know this image") };
    let names: Vec<&str> = e.children.iter().filter_map(|id| m.library.data.get(*id)).map(|c| c.name.as_str()).collect();
    match names.as_slice() {
        [] => Ok(()),
        [one] => Err(format!("{one} stands on it; flatten (f) or rebase (b) that first")),
        [first, second] => Err(format!("{first} and {second} stand on it; flatten (f) or rebase (b) them first")),
        [first, rest @ ..] => Err(format!("{first} and {} more stand on it; flatten (f) or rebase (b) them first", rest.len())),
    }
}

pub(super) fn can_check(m: &Model) -> Result<(), String> {
    can_list(m)?;
    let format = m.subject_entry().and_then(|e| e.format());
    match format {
        Some(f) if !f.entry().caps.check => Err(format!("{} images have nothing that could be checked", f.name())),
        _ if m.screen == Screen::Check && m.checking() => no("it is being checked"),
        _ => Ok(()),
    }
}

pub(super) fn can_repair(m: &Model) -> Result<(), String> {
    if m.read_only {
        return no("read-only mode: nothing is written");
    }
    if m.checking() {
        return no("it is being checked");
    }
    let Some(checked) = m.check.shown() else { return no("check it first") };
    if m.subject_entry().is_some_and(|e| m.check.of(e).is_none()) {
        return no("it was written to since; check it again");
    }
    if !checked.format.entry().caps.repair {
        return Err(format!("cowshed does not repair {} images", checked.format.name()));
    }
    if checked.report.split(Repair::All).0.is_empty() { no("there is nothing that repair would mend") } else { Ok(()) }
}

pub(super) fn can_undo_repair(m: &Model) -> Result<(), String> {
    if m.read_only { no("read-only mode: nothing is written") } else { has_image(m) }
}

/// Its own file can be read; what it stands on may be gone.
pub(super) fn can_list(m: &Model) -> Result<(), String> {
    has_image(m)?;
    match m.subject_entry().and_then(|e| e.facts.error.as_ref()) {
        Some(e) => Err(format!("the image cannot be read: {}", printable(e.why()))),
        None => Ok(()),
    }
}

pub(super) fn can_convert(m: &Model) -> Result<(), String> {
    has_readable(m)?;
    if m.read_only { no("read-only mode: nothing is written") } else { Ok(()) }
}

pub(super) fn can_create(m: &Model) -> Result<(), String> {
    if m.read_only { no("read-only mode: nothing is written") } else { Ok(()) }
}

pub(super) fn can_resize(m: &Model) -> Result<(), String> {
    can_convert(m)?;
    match m.subject_entry().and_then(|e| e.format()) {
        Some(f) if !f.entry().caps.resize => Err(format!("{f} images cannot be resized in place")),
        _ => Ok(()),
    }
}

pub(super) fn has_command(m: &Model) -> Result<(), String> {
    match m.layer() {
        Some(Layer::Form(f)) if f.spec().is_none_or(|s| s.is_err()) => no("an answer is wrong"),
        Some(Layer::Form(_)) => Ok(()),
        _ if m.screen == Screen::Jobs && m.selected_job().is_some() => Ok(()),
        _ if m.screen == Screen::Jobs && m.jobs.selected_past().is_some_and(|p| p.command.is_empty()) => {
            no("the history has no command of this job")
        }
        _ if m.screen == Screen::Jobs && m.jobs.selected_past().is_some() => Ok(()),
        _ => has_image(m),
    }
}

pub(super) fn has_error(m: &Model) -> Result<(), String> {
    if m.error_text().is_some() { Ok(()) } else { no("there is no error here") }
}

pub(super) fn has_filter(m: &Model) -> Result<(), String> {
    if m.library.filter.is_empty() { no("no filter is set; / sets one") } else { Ok(()) }
}

pub(super) fn has_job(m: &Model) -> Result<(), String> {
    match m.selected_job() {
        None if m.jobs.selected_left().is_some() => no("this job was interrupted; R resumes it"),
        None if m.jobs.selected_past().is_some() => no("this job has ended"),
        None => no("no job is selected"),
        Some(j) if !j.live() => no("this job has ended"),
        Some(_) => Ok(()),
    }
}

pub(super) fn can_pause(m: &Model) -> Result<(), String> {
    if m.jobs.selected_left().is_some() { Ok(()) } else { has_job(m) }
}

pub(super) fn can_retry(m: &Model) -> Result<(), String> {
    match m.selected_job() {
        _ if m.read_only => no("read-only mode: nothing is written"),
        Some(j) if j.live() => no("this job has not ended; Space pauses and resumes it"),
        Some(j) if j.view.state == JobState::Done => no("this job is done"),
        Some(_) => Ok(()),
        None if m.jobs.selected_left().is_some() => Ok(()),
        None if m.jobs.selected_past().is_some() => {
            no("images may have changed since: Y copies its command, and the image's own page makes a plan first")
        }
        None => no("no job is selected"),
    }
}

pub(super) fn can_rank(m: &Model) -> Result<(), String> {
    has_job(m)?;
    match m.selected_job() {
        Some(j) if j.view.state != JobState::Queued => no("only a job that waits for its turn has a priority"),
        _ => Ok(()),
    }
}

pub(super) fn has_log(m: &Model) -> Result<(), String> {
    match m.selected_job() {
        Some(j) if j.log.is_empty() => no("its log is empty"),
        Some(_) => Ok(()),
        None if m.jobs.selected_past().is_some_and(|p| !p.log.is_empty()) => Ok(()),
        None if m.jobs.selected_past().is_some() => no("the history has no log of this job"),
        None => no("no job is selected"),
    }
}

pub(super) fn has_ended(m: &Model) -> Result<(), String> {
    if m.jobs.selected_past().is_some() || m.jobs.rows.iter().any(|j| !j.live()) {
        Ok(())
    } else if m.jobs.past.is_empty() {
        no("no job has ended")
    } else {
        no("no job of this session has ended; on a line of the history it clears that")
    }
}

pub(super) fn on_layer(m: &Model) -> Result<(), String> {
    let node = m.page.loaded().and_then(|d| d.nodes.get(m.page.chain.at));
    match (m.pane(), node) {
        (Pane::Chain, Some(n)) if n.error.is_some() => no("this layer could not be opened"),
        (Pane::Chain, Some(_)) if m.page.chain.at == 0 => no("this is the image itself; the layers below it have pages too"),
        (Pane::Chain, Some(_)) => Ok(()),
        _ => no("focus the chain first (Tab)"),
    }
}

pub(super) fn can_zoom_in(m: &Model) -> Result<(), String> {
    match &m.map.grid {
        None => no("the map is still being read"),
        Some(_) if m.map.at_closest() => no("one cell is one sector already"),
        Some(_) => Ok(()),
    }
}

pub(super) fn is_zoomed(m: &Model) -> Result<(), String> {
    if m.map.zoomed() { Ok(()) } else { no("the whole disk is shown already") }
}

pub(super) fn knows_free(m: &Model) -> Result<(), String> {
    match &m.map.free {
        None => no("the filesystems are still being looked at"),
        Some(Err(e)) => Err(e.to_string()),
        Some(Ok(here)) if here.free.is_empty() => no("there is no filesystem whose free space can be told"),
        Some(Ok(_)) => Ok(()),
    }
}

pub(super) fn has_layers(m: &Model) -> Result<(), String> {
    if m.map.layers.len() > 1 { Ok(()) } else { no("the image stands alone: there is one layer") }
}

pub(super) fn on_other_image(m: &Model) -> Result<(), String> {
    if m.snaps.image_at_cursor().is_some() { Ok(()) } else { no("put the cursor on an overlay or a base first") }
}

pub(super) fn on_snapshot(m: &Model) -> Result<(), String> {
    match m.snaps.at_cursor() {
        Some(What::Snapshot(_)) => Ok(()),
        Some(What::Overlay(_) | What::Base(_)) => no("this is an image of its own, not a snapshot inside this one"),
        Some(What::Lost(_)) => no("this file is not there"),
        Some(What::Live) => no("this is the disk as it is now; put the cursor on a snapshot"),
        None => no("there is no snapshot"),
    }
}

/// Snapshots inside the image can be taken, deleted and so on.
pub(super) fn can_change_snapshots(m: &Model) -> Result<(), String> {
    if m.read_only {
        return no("read-only mode: nothing is written");
    }
    let Some(list) = m.snaps.list() else { return no("the snapshots are not read yet") };
    if !list.format.entry().caps.snapshots {
        return Err(format!("{} images have no snapshots inside; b makes an overlay, which does the same", list.format.name()));
    }
    if list.lock.in_use() {
        let who = list.lock.holders().first().map_or("another program".to_string(), ToString::to_string);
        return Err(format!("the image is in use by {}", printable(&who)));
    }
    Ok(())
}

pub(super) fn can_revert(m: &Model) -> Result<(), String> {
    on_snapshot(m)?;
    can_change_snapshots(m)?;
    let entry = m.snaps.path.as_ref().and_then(|p| m.library.data.at(p));
    match entry.map_or(0, |e| e.children.len()) {
        0 => Ok(()),
        1 => no("an overlay reads through to the disk as it is now, and what it holds would change"),
        n => Err(format!("{n} overlays read through to the disk as it is now, and what they hold would change")),
    }
}

pub(super) fn can_delete(m: &Model) -> Result<(), String> {
    if m.snaps.marked.is_empty() {
        if m.snaps.image_at_cursor().is_some() {
            return can_delete_image(m);
        }
        on_snapshot(m)?;
    }
    can_change_snapshots(m)
}

pub(super) fn can_rename(m: &Model) -> Result<(), String> {
    on_snapshot(m)?;
    can_change_snapshots(m)
}

pub(super) fn can_export(m: &Model) -> Result<(), String> {
    match m.snaps.at_cursor() {
        Some(What::Snapshot(_)) | Some(What::Live) => {}
        _ => on_snapshot(m)?,
    }
    if m.read_only { no("read-only mode: nothing is written") } else { Ok(()) }
}

pub(super) fn can_branch(m: &Model) -> Result<(), String> {
    if m.read_only {
        return no("read-only mode: nothing is written");
    }
    match m.snaps.at_cursor() {
        Some(What::Snapshot(_)) => match m.snaps.list().map(|l| &l.branch) {
            Some(Ok(_)) => Ok(()),
            Some(Err(e)) => Err(printable(e.why())),
            None => no("the snapshots are not read yet"),
        },
        Some(What::Lost(_)) => no("this file is not there"),
        Some(_) => Ok(()),
        None => no("the snapshots are not read yet"),
    }
}

pub(super) fn can_diff(m: &Model) -> Result<(), String> {
    if m.snaps.pair().is_some() { Ok(()) } else { no("put the cursor on a snapshot, or mark two") }
}

pub(super) fn has_marks(m: &Model) -> Result<(), String> {
    if m.snaps.marked.is_empty() { no("nothing is marked; Space marks") } else { Ok(()) }
}

pub(super) fn on_file(m: &Model) -> Result<(), String> {
    match m.pane() {
        Pane::Files if m.inside.file().is_some() => Ok(()),
        Pane::Files => no("this folder is empty"),
        _ => no("focus the files first (Tab)"),
    }
}

pub(super) fn can_open_file(m: &Model) -> Result<(), String> {
    match m.pane() {
        Pane::Volumes if m.inside.seen().is_some_and(|l| l.volumes.get(m.inside.volumes.at).is_some()) => Ok(()),
        Pane::Volumes => no("there is no volume"),
        _ => on_file(m),
    }
}

pub(super) fn can_extract(m: &Model) -> Result<(), String> {
    on_file(m)?;
    if m.read_only { no("read-only mode: nothing is written") } else { Ok(()) }
}

pub(super) fn can_go_up(m: &Model) -> Result<(), String> {
    if m.inside.folder.len() > 1 || m.inside.found.is_some() { Ok(()) } else { no("this is the guest's root") }
}

pub(super) fn can_sanitize(m: &Model) -> Result<(), String> {
    can_write(m)?;
    has_readable(m)
}

/// What the last sanitising removed is still kept.
pub(super) fn has_kept(m: &Model) -> Result<(), String> {
    can_write(m)?;
    match &m.sanitize.kept {
        Some(Ok(Some(_))) => Ok(()),
        Some(Ok(None)) => no("no undo file stands beside the image: it was destroyed, or the image was never sanitised in place"),
        Some(Err(e)) => Err(printable(e.why())),
        None => no("its undo file is still being looked for"),
    }
}

pub(super) fn has_report(m: &Model) -> Result<(), String> {
    match m.selected_job().map(|j| j.view.spec.verb()) {
        Some("sanitize" | "check") => Ok(()),
        Some(_) => no("this job has no report; its log and plan are below"),
        None => no("no job is selected"),
    }
}

pub(super) fn can_mend(m: &Model) -> Result<(), String> {
    if m.read_only {
        return no("read-only mode: nothing is written");
    }
    match (m.inside.verdict(), &m.inside.path) {
        (Some(v), Some(path)) if v.action(path).is_some() => Ok(()),
        (Some(_), Some(_)) => no("there is nothing here that cowshed could mend"),
        _ => no("it is still being looked at"),
    }
}

pub(super) fn has_panes(m: &Model) -> Result<(), String> {
    if Pane::of(m.screen).len() > 1 { Ok(()) } else { no("this screen has one panel; digits go to the others") }
}
