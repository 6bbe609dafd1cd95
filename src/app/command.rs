//! The one table of commands: id, title, words, where it works, default keys, and when it is not available and why. The keymap,
//! the footer, the help, the palette, the configuration and the README's key table are all made from it.

use super::action::Action;
use super::layer::Layer;
use super::model::{Model, Pane, Screen};
use super::state::snapshots::What;
use crate::engine::format::check::Repair;
use crate::engine::job::JobState;
use crate::engine::units::printable;

/// Where a command's keys work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The library's tree.
    Library,
    /// An image's page.
    Image,
    /// The allocation map.
    Map,
    /// The snapshots of an image.
    Snapshots,
    /// A check's report.
    Check,
    /// What is inside an image.
    Inside,
    /// Where it would be taken.
    Ready,
    /// The jobs panel.
    Jobs,
    /// The format guide.
    Guide,
    /// Moving in whatever is focused.
    Moving,
    /// Everywhere.
    Global,
}

impl Scope {
    /// Title of its part of the help.
    pub fn title(self) -> &'static str {
        match self {
            Scope::Library => "Library",
            Scope::Image => "Image",
            Scope::Map => "Allocation map",
            Scope::Snapshots => "Snapshots",
            Scope::Check => "Check",
            Scope::Inside => "Inside",
            Scope::Ready => "Ready?",
            Scope::Jobs => "Jobs",
            Scope::Guide => "Format guide",
            Scope::Moving => "Moving",
            Scope::Global => "Everywhere",
        }
    }
    /// The scopes active on a screen, innermost first.
    pub fn of(screen: Screen) -> [Scope; 3] {
        let own = match screen {
            Screen::Library => Scope::Library,
            Screen::Image => Scope::Image,
            Screen::Map => Scope::Map,
            Screen::Jobs => Scope::Jobs,
            Screen::Guide => Scope::Guide,
            Screen::Snapshots => Scope::Snapshots,
            Screen::Check => Scope::Check,
            Screen::Inside => Scope::Inside,
            Screen::Ready => Scope::Ready,
        };
        [own, Scope::Moving, Scope::Global]
    }
}

/// A row of the table.
pub struct Command {
    /// What it does.
    pub action: Action,
    /// Its name in the configuration, `scope.verb`.
    pub id: &'static str,
    /// Its name in footer and palette.
    pub title: &'static str,
    /// One sentence for the help.
    pub doc: &'static str,
    /// Where its keys work.
    pub scope: Scope,
    /// Default keys, the one to show first.
    pub keys: &'static [&'static str],
    /// Shown in the footer of its scope; lower numbers survive longer on narrow screens, 0 is never shown.
    pub footer: u8,
    /// `Err(why)` when it cannot be done now.
    pub enabled: fn(&Model) -> Result<(), String>,
}

impl Command {
    /// The row of an action on a screen; some have a row for several screens.
    pub fn of(action: Action, screen: Screen) -> Option<&'static Command> {
        let scopes = Scope::of(screen);
        let rows = || COMMANDS.iter().filter(|c| c.action == action);
        rows().find(|c| scopes.contains(&c.scope)).or_else(|| rows().next())
    }
}

fn always(_: &Model) -> Result<(), String> {
    Ok(())
}

fn no(why: &str) -> Result<(), String> {
    Err(why.to_string())
}

fn can_back(m: &Model) -> Result<(), String> {
    let top = m.screen == Screen::Library && m.library.filter.is_empty() && !m.library.problems && m.pane() == Pane::Tree;
    if top { no("this is the top; q quits") } else { Ok(()) }
}

fn has_image(m: &Model) -> Result<(), String> {
    if m.subject().is_some() { Ok(()) } else { no("no image is selected") }
}

fn has_readable(m: &Model) -> Result<(), String> {
    has_image(m)?;
    match m.subject_error() {
        Some(e) => Err(format!("the image cannot be read: {}", printable(e.why()))),
        None => Ok(()),
    }
}

/// The subject may be changed as far as this program and the locks go.
fn can_write(m: &Model) -> Result<(), String> {
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

fn is_overlay(m: &Model) -> Result<(), String> {
    match m.subject_entry() {
        Some(e) if e.is_overlay() => Ok(()),
        Some(_) => no("it stands alone already"),
        None => no("the library does not know this image"),
    }
}

fn can_flatten(m: &Model) -> Result<(), String> {
    can_write(m)?;
    is_overlay(m)?;
    has_readable(m)
}

fn can_rebase(m: &Model) -> Result<(), String> {
    can_write(m)?;
    is_overlay(m)?;
    can_list(m)
}

fn can_commit(m: &Model) -> Result<(), String> {
    can_flatten(m)?;
    match m.subject_entry().map(|e| e.children.len()) {
        Some(0) | None => Ok(()),
        Some(_) => no("other images stand on it; flatten or rebase them first"),
    }
}

/// Names those that stand on it, and the safe ways.
fn can_delete_image(m: &Model) -> Result<(), String> {
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

fn can_check(m: &Model) -> Result<(), String> {
    can_list(m)?;
    let format = m.subject_entry().and_then(|e| e.format());
    match format {
        Some(f) if !f.entry().caps.check => Err(format!("{} images have nothing that could be checked", f.name())),
        _ if m.screen == Screen::Check && m.checking() => no("it is being checked"),
        _ => Ok(()),
    }
}

fn can_repair(m: &Model) -> Result<(), String> {
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

fn can_undo_repair(m: &Model) -> Result<(), String> {
    if m.read_only { no("read-only mode: nothing is written") } else { has_image(m) }
}

/// Its own file can be read; what it stands on may be gone.
fn can_list(m: &Model) -> Result<(), String> {
    has_image(m)?;
    match m.subject_entry().and_then(|e| e.facts.error.as_ref()) {
        Some(e) => Err(format!("the image cannot be read: {}", printable(e.why()))),
        None => Ok(()),
    }
}

fn can_convert(m: &Model) -> Result<(), String> {
    has_readable(m)?;
    if m.read_only { no("read-only mode: nothing is written") } else { Ok(()) }
}

fn can_create(m: &Model) -> Result<(), String> {
    if m.read_only { no("read-only mode: nothing is written") } else { Ok(()) }
}

fn can_resize(m: &Model) -> Result<(), String> {
    can_convert(m)?;
    match m.subject_entry().and_then(|e| e.format()) {
        Some(f) if !f.entry().caps.resize => Err(format!("{f} images cannot be resized in place")),
        _ => Ok(()),
    }
}

fn has_command(m: &Model) -> Result<(), String> {
    match m.layer() {
        Some(Layer::Form(f)) if f.spec().is_none_or(|s| s.is_err()) => no("an answer is wrong"),
        Some(Layer::Form(_)) => Ok(()),
        _ if m.screen == Screen::Jobs && m.selected_job().is_some() => Ok(()),
        _ => has_image(m),
    }
}

fn has_error(m: &Model) -> Result<(), String> {
    if m.error_text().is_some() { Ok(()) } else { no("there is no error here") }
}

fn has_filter(m: &Model) -> Result<(), String> {
    if m.library.filter.is_empty() { no("no filter is set; / sets one") } else { Ok(()) }
}

fn has_job(m: &Model) -> Result<(), String> {
    match m.selected_job() {
        None if m.jobs.selected_left().is_some() => no("this job was interrupted; R resumes it"),
        None => no("no job is selected"),
        Some(j) if !j.live() => no("this job has ended"),
        Some(_) => Ok(()),
    }
}

fn can_pause(m: &Model) -> Result<(), String> {
    if m.jobs.selected_left().is_some() { Ok(()) } else { has_job(m) }
}

fn can_retry(m: &Model) -> Result<(), String> {
    match m.selected_job() {
        _ if m.read_only => no("read-only mode: nothing is written"),
        Some(j) if j.live() => no("this job has not ended; Space pauses and resumes it"),
        Some(j) if j.view.state == JobState::Done => no("this job is done"),
        Some(_) => Ok(()),
        None if m.jobs.selected_left().is_some() => Ok(()),
        None => no("no job is selected"),
    }
}

fn can_rank(m: &Model) -> Result<(), String> {
    has_job(m)?;
    match m.selected_job() {
        Some(j) if j.view.state != JobState::Queued => no("only a job that waits for its turn has a priority"),
        _ => Ok(()),
    }
}

fn has_log(m: &Model) -> Result<(), String> {
    match m.selected_job() {
        Some(j) if j.log.is_empty() => no("its log is empty"),
        Some(_) => Ok(()),
        None => no("no job is selected"),
    }
}

fn has_ended(m: &Model) -> Result<(), String> {
    if m.jobs.rows.iter().any(|j| !j.live()) { Ok(()) } else { no("no job has ended") }
}

fn on_layer(m: &Model) -> Result<(), String> {
    let node = m.page.loaded().and_then(|d| d.nodes.get(m.page.chain.at));
    match (m.pane(), node) {
        (Pane::Chain, Some(n)) if n.error.is_some() => no("this layer could not be opened"),
        (Pane::Chain, Some(_)) if m.page.chain.at == 0 => no("this is the image itself; the layers below it have pages too"),
        (Pane::Chain, Some(_)) => Ok(()),
        _ => no("focus the chain first (Tab)"),
    }
}

fn can_zoom_in(m: &Model) -> Result<(), String> {
    match &m.map.grid {
        None => no("the map is still being read"),
        Some(_) if m.map.at_closest() => no("one cell is one sector already"),
        Some(_) => Ok(()),
    }
}

fn is_zoomed(m: &Model) -> Result<(), String> {
    if m.map.zoomed() { Ok(()) } else { no("the whole disk is shown already") }
}

fn has_layers(m: &Model) -> Result<(), String> {
    if m.map.layers.len() > 1 { Ok(()) } else { no("the image stands alone: there is one layer") }
}

fn on_other_image(m: &Model) -> Result<(), String> {
    if m.snaps.image_at_cursor().is_some() { Ok(()) } else { no("put the cursor on an overlay or a base first") }
}

fn on_snapshot(m: &Model) -> Result<(), String> {
    match m.snaps.at_cursor() {
        Some(What::Snapshot(_)) => Ok(()),
        Some(What::Overlay(_) | What::Base(_)) => no("this is an image of its own, not a snapshot inside this one"),
        Some(What::Lost(_)) => no("this file is not there"),
        Some(What::Live) => no("this is the disk as it is now; put the cursor on a snapshot"),
        None => no("there is no snapshot"),
    }
}

/// Snapshots inside the image can be taken, deleted and so on.
fn can_change_snapshots(m: &Model) -> Result<(), String> {
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

fn can_revert(m: &Model) -> Result<(), String> {
    on_snapshot(m)?;
    can_change_snapshots(m)?;
    let entry = m.snaps.path.as_ref().and_then(|p| m.library.data.at(p));
    match entry.map_or(0, |e| e.children.len()) {
        0 => Ok(()),
        1 => no("an overlay reads through to the disk as it is now, and what it holds would change"),
        n => Err(format!("{n} overlays read through to the disk as it is now, and what they hold would change")),
    }
}

fn can_delete(m: &Model) -> Result<(), String> {
    if m.snaps.marked.is_empty() {
        if m.snaps.image_at_cursor().is_some() {
            return can_delete_image(m);
        }
        on_snapshot(m)?;
    }
    can_change_snapshots(m)
}

fn can_rename(m: &Model) -> Result<(), String> {
    on_snapshot(m)?;
    can_change_snapshots(m)
}

fn can_export(m: &Model) -> Result<(), String> {
    match m.snaps.at_cursor() {
        Some(What::Snapshot(_)) | Some(What::Live) => {}
        _ => on_snapshot(m)?,
    }
    if m.read_only { no("read-only mode: nothing is written") } else { Ok(()) }
}

fn can_branch(m: &Model) -> Result<(), String> {
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

fn can_diff(m: &Model) -> Result<(), String> {
    if m.snaps.pair().is_some() { Ok(()) } else { no("put the cursor on a snapshot, or mark two") }
}

fn has_marks(m: &Model) -> Result<(), String> {
    if m.snaps.marked.is_empty() { no("nothing is marked; Space marks") } else { Ok(()) }
}

fn on_file(m: &Model) -> Result<(), String> {
    match m.pane() {
        Pane::Files if m.inside.file().is_some() => Ok(()),
        Pane::Files => no("this folder is empty"),
        _ => no("focus the files first (Tab)"),
    }
}

fn can_open_file(m: &Model) -> Result<(), String> {
    match m.pane() {
        Pane::Volumes if m.inside.seen().is_some_and(|l| l.volumes.get(m.inside.volumes.at).is_some()) => Ok(()),
        Pane::Volumes => no("there is no volume"),
        _ => on_file(m),
    }
}

fn can_extract(m: &Model) -> Result<(), String> {
    on_file(m)?;
    if m.read_only { no("read-only mode: nothing is written") } else { Ok(()) }
}

fn can_go_up(m: &Model) -> Result<(), String> {
    if m.inside.folder.len() > 1 || m.inside.found.is_some() { Ok(()) } else { no("this is the guest's root") }
}

fn can_mend(m: &Model) -> Result<(), String> {
    if m.read_only {
        return no("read-only mode: nothing is written");
    }
    match (m.inside.verdict(), &m.inside.path) {
        (Some(v), Some(path)) if v.action(path).is_some() => Ok(()),
        (Some(_), Some(_)) => no("there is nothing here that cowshed could mend"),
        _ => no("it is still being looked at"),
    }
}

fn has_panes(m: &Model) -> Result<(), String> {
    if Pane::of(m.screen).len() > 1 { Ok(()) } else { no("this screen has one panel; digits go to the others") }
}

/// A row without a place in the footer.
const fn row(
    action: Action,
    scope: Scope,
    id: &'static str,
    title: &'static str,
    keys: &'static [&'static str],
    doc: &'static str,
) -> Command {
    Command { action, id, title, doc, scope, keys, footer: 0, enabled: always }
}

impl Command {
    const fn footer(mut self, rank: u8) -> Self {
        self.footer = rank;
        self
    }
    const fn when(mut self, enabled: fn(&Model) -> Result<(), String>) -> Self {
        self.enabled = enabled;
        self
    }
}

use Action as A;
use Scope as S;

/// Every command, in the order of the help.
#[rustfmt::skip]
pub static COMMANDS: &[Command] = &[
    row(A::Open, S::Library, "library.open", "open", &["enter"], "Open the page of the selected image; a folder unfolds.").footer(1),
    row(A::Filter, S::Library, "library.filter", "filter", &["/"], "Show only what matches, fuzzily: names, folders, formats.").footer(2),
    row(A::Map, S::Library, "library.map", "map", &["m"], "Open the allocation map of the selected image.").footer(4).when(has_readable),
    row(A::Convert, S::Library, "library.convert", "convert…", &["c"], "Convert to any format: a form, its plan, then a job.").footer(3).when(can_convert),
    row(A::Go(Screen::Snapshots), S::Library, "library.snapshots", "snapshots", &["s"], "What the snapshots and overlays of the selected image cost, and what each came from.").footer(5).when(can_list),
    row(A::Check, S::Library, "library.check", "check", &["K"], "Look for damage and lost space, as a job; its report says what each finding means and what repair would do.").footer(8).when(can_check),
    row(A::Flatten, S::Library, "library.flatten", "flatten…", &["f"], "Make the overlay stand alone: what it reads from below is copied into it.").footer(12).when(can_flatten),
    row(A::Rebase, S::Library, "library.rebase", "rebase…", &["b"], "Put the overlay on another base, or tell it where a base that moved is now: candidates are offered.").footer(13).when(can_rebase),
    row(A::Commit, S::Library, "library.commit", "commit…", &["w"], "Write what the overlay holds into an image it stands on.").footer(14).when(can_commit),
    row(A::DeleteImage, S::Library, "library.delete", "delete…", &["d", "delete"], "Move the image to the trash, or delete it for good, with every file it consists of.").footer(11).when(can_delete_image),
    row(A::Go(Screen::Inside), S::Library, "library.inside", "inside", &["i"], "Look inside: volumes, who the guest is, its files.").footer(5).when(has_readable),
    row(A::Go(Screen::Ready), S::Library, "library.ready", "ready?", &["W"], "Where the image would be taken, and what is in the way.").footer(10).when(can_list),
    row(A::Create, S::Library, "library.create", "new image…", &["a"], "Make a new, empty image, by itself or standing on another: a form, its plan, then a job.").footer(9).when(can_create),
    row(A::Resize, S::Library, "library.resize", "resize…", &["R"], "Give the image another virtual size, in place: a form, its plan, then a job.").footer(10).when(can_resize),
    row(A::Group, S::Library, "library.group", "group", &["t"], "Group the tree by chain, by folder, or by format.").footer(6),
    row(A::Sort, S::Library, "library.sort", "sort", &[">"], "Sort by the next column.").footer(7),
    row(A::Reverse, S::Library, "library.reverse", "reverse", &["S"], "Turn the order round."),
    row(A::Fold, S::Library, "library.fold", "fold", &["space"], "Fold or unfold what is selected."),
    row(A::UnfoldAll, S::Library, "library.unfold-all", "unfold all", &["E"], "Unfold everything."),
    row(A::FoldAll, S::Library, "library.fold-all", "fold all", &["C"], "Fold everything."),
    row(A::Problems, S::Library, "library.problems", "problems", &["o"], "Show only images with something wrong: broken, orphaned, warned of.").footer(8),
    row(A::NextMatch, S::Library, "library.next-match", "next match", &["n"], "Go to the next image that matches the filter.").when(has_filter),
    row(A::PreviousMatch, S::Library, "library.previous-match", "previous match", &["N"], "Go to the previous image that matches the filter.").when(has_filter),
    row(A::Rescan, S::Library, "library.rescan", "rescan", &["r", "f5"], "Look at the folders again now; they are also watched while open."),

    row(A::Go(Screen::Inside), S::Image, "image.inside", "inside", &["i"], "Look inside: volumes, who the guest is, its files.").footer(3).when(has_readable),
    row(A::Go(Screen::Ready), S::Image, "image.ready", "ready?", &["W"], "Where the image would be taken, and what is in the way: OpenStack, Azure, EC2, ESXi, Hyper-V, VirtualBox, Proxmox.").footer(5).when(can_list),
    row(A::OpenLayer, S::Image, "image.open-layer", "open layer", &["enter"], "Open the page of the layer under the cursor.").footer(4).when(on_layer),
    row(A::Map, S::Image, "image.map", "map", &["m"], "Open the allocation map.").footer(1).when(has_readable),
    row(A::Go(Screen::Snapshots), S::Image, "image.snapshots", "snapshots", &["s"], "What the snapshots and overlays of this image cost, and what each came from.").footer(3).when(can_list),
    row(A::Convert, S::Image, "image.convert", "convert…", &["c"], "Convert to any format: a form, its plan, then a job.").footer(2).when(can_convert),
    row(A::Check, S::Image, "image.check", "check", &["K"], "Look for damage and lost space, as a job; its report says what each finding means and what repair would do.").footer(8).when(can_check),
    row(A::Flatten, S::Image, "image.flatten", "flatten…", &["f"], "Make the overlay stand alone: what it reads from below is copied into it.").footer(12).when(can_flatten),
    row(A::Rebase, S::Image, "image.rebase", "rebase…", &["b"], "Put the overlay on another base, or tell it where a base that moved is now: candidates are offered.").footer(13).when(can_rebase),
    row(A::Commit, S::Image, "image.commit", "commit…", &["w"], "Write what the overlay holds into an image it stands on.").footer(14).when(can_commit),
    row(A::DeleteImage, S::Image, "image.delete", "delete…", &["d", "delete"], "Move the image to the trash, or delete it for good, with every file it consists of.").footer(11).when(can_delete_image),
    row(A::Create, S::Image, "image.overlay", "new overlay…", &["a"], "Make a new image that stands on this one: a form, its plan, then a job.").footer(6).when(can_create),
    row(A::Resize, S::Image, "image.resize", "resize…", &["R"], "Give the image another virtual size, in place: a form, its plan, then a job.").footer(7).when(can_resize),
    row(A::Reload, S::Image, "image.reload", "reload", &["r", "f5"], "Read the image again.").footer(5),

    row(A::ZoomIn, S::Map, "map.zoom-in", "zoom in", &["+", "=", "enter"], "Zoom in around the cursor.").footer(1).when(can_zoom_in),
    row(A::ZoomOut, S::Map, "map.zoom-out", "zoom out", &["-", "_"], "Zoom out around the cursor.").footer(2).when(is_zoomed),
    row(A::ZoomFit, S::Map, "map.fit", "whole disk", &["0", "backspace"], "Show the whole disk.").footer(5).when(is_zoomed),
    row(A::MapLayer, S::Map, "map.layer", "layer", &["L"], "Show all layers, or one at a time.").footer(3).when(has_layers),
    row(A::MapColour, S::Map, "map.colour", "colour", &["c"], "Colour by what is there, or by the layer it lies in.").footer(4),
    row(A::GoTo, S::Map, "map.go-to", "go to…", &["o"], "Put the cursor on an offset: 10G, 0x1f0000, 512M.").footer(6),

    row(A::TakeSnapshot, S::Snapshots, "snapshots.new", "new…", &["n"], "Take a snapshot of the disk as it is: a name, its plan, then a job.").footer(2).when(can_change_snapshots),
    row(A::Revert, S::Snapshots, "snapshots.revert", "revert…", &["r"], "Make the disk what it was at this snapshot; a safety snapshot is taken first unless you say otherwise.").footer(4).when(can_revert),
    row(A::Mark, S::Snapshots, "snapshots.mark", "mark", &["space"], "Mark the snapshot for deleting, or take the mark off: what all marked ones free together is counted.").footer(1).when(on_snapshot),
    row(A::DeleteSnapshots, S::Snapshots, "snapshots.delete", "delete…", &["d", "delete"], "Delete the marked snapshots in one pass, or the snapshot or overlay under the cursor when none is marked: shows first what it frees.").footer(3).when(can_delete),
    row(A::ClearMarks, S::Snapshots, "snapshots.clear-marks", "clear marks", &["u"], "Take all marks off.").footer(10).when(has_marks),
    row(A::Diff, S::Snapshots, "snapshots.diff", "diff", &["D"], "What changed between the two marked snapshots, between the marked one and the one under the cursor, or since the one under the cursor; again closes it.").footer(6).when(can_diff),
    row(A::Export, S::Snapshots, "snapshots.export", "export…", &["e"], "Write the disk as it was at this snapshot into a new image of any format.").footer(7).when(can_export),
    row(A::Branch, S::Snapshots, "snapshots.branch", "branch…", &["b"], "A new image to go on from here: off a snapshot, or an overlay on an image.").footer(5).when(can_branch),
    row(A::RenameSnapshot, S::Snapshots, "snapshots.rename", "rename…", &["R"], "Rename the snapshot.").footer(9).when(can_rename),
    row(A::OpenImage, S::Snapshots, "snapshots.open", "open image", &["enter"], "Show the snapshots of the overlay or base under the cursor.").footer(8).when(on_other_image),
    row(A::Check, S::Snapshots, "snapshots.check", "check", &["K"], "Look for damage and lost space, as a job; its report says what each finding means and what repair would do.").footer(11).when(can_check),
    row(A::Reload, S::Snapshots, "snapshots.reload", "reload", &["f5"], "Read the snapshots again."),

    row(A::Repair, S::Check, "check.repair", "repair…", &["r"], "Mend what was found: the plan first; what will change is saved, so that it can be undone.").footer(1).when(can_repair),
    row(A::Check, S::Check, "check.again", "check again", &["K", "f5"], "Check the image again.").footer(2).when(can_check),
    row(A::UndoRepair, S::Check, "check.undo", "undo a repair…", &["u"], "Put back what the last repair changed, as long as nothing else wrote to the image.").footer(3).when(can_undo_repair),

    row(A::PauseJob, S::Jobs, "jobs.pause", "pause", &["space", "p"], "Pause the selected job, or let it go on; an interrupted one goes on where it was durable.").footer(1).when(can_pause),
    row(A::CancelJob, S::Jobs, "jobs.cancel", "cancel…", &["x"], "Cancel the selected job, or discard an interrupted one: what it had written so far is removed. Asks first.").footer(2).when(can_pause),
    row(A::RetryJob, S::Jobs, "jobs.retry", "retry", &["R"], "Do a failed or cancelled job again, or go on with an interrupted one where it was durable.").footer(3).when(can_retry),
    row(A::LimitDown, S::Jobs, "jobs.slower", "slower", &["-", "_"], "Limit the selected job's rate, or lower its limit.").footer(4).when(has_job),
    row(A::LimitUp, S::Jobs, "jobs.faster", "faster", &["+", "="], "Raise the selected job's limit; above the last step it is lifted.").footer(5).when(has_job),
    row(A::RankJob, S::Jobs, "jobs.priority", "priority", &["P"], "Turn the priority of a waiting job: high, low, normal.").footer(7).when(can_rank),
    row(A::ShowLog, S::Jobs, "jobs.log", "log", &["L"], "Read the selected job's whole log.").footer(6).when(has_log),
    row(A::ForgetJobs, S::Jobs, "jobs.forget", "clear ended", &["D"], "Take ended jobs off the list.").footer(8).when(has_ended),
    row(A::OpenFile, S::Inside, "inside.open", "open", &["enter"], "Open the folder, or read the file; on a volume: its filesystem alone.").footer(1).when(can_open_file),
    row(A::FolderUp, S::Inside, "inside.up", "up", &["backspace", "-"], "To the folder this one lies in; from what a search found, back.").footer(4).when(can_go_up),
    row(A::Search, S::Inside, "inside.search", "search", &["/"], "Find files by name, in this folder and all below.").footer(2),
    row(A::Extract, S::Inside, "inside.extract", "extract…", &["x"], "Copy the file or folder to the host, holes kept: a form, its plan, then a job.").footer(3).when(can_extract),
    row(A::Go(Screen::Ready), S::Inside, "inside.ready", "ready?", &["W"], "Where the image would be taken, and what is in the way.").footer(5),
    row(A::Reload, S::Inside, "inside.reload", "reload", &["r", "f5"], "Look again."),

    row(A::Mend, S::Ready, "ready.mend", "mend…", &["enter"], "The one action that mends the most for this target.").footer(1).when(can_mend),
    row(A::Go(Screen::Inside), S::Ready, "ready.inside", "inside", &["i"], "Look inside: volumes, who the guest is, its files.").footer(3),
    row(A::Convert, S::Ready, "ready.convert", "convert…", &["c"], "Convert to any format: a form, its plan, then a job.").footer(2).when(can_convert),
    row(A::Reload, S::Ready, "ready.reload", "reload", &["r", "f5"], "Look again."),


    row(A::Up, S::Moving, "move.up", "up", &["k", "up"], "One up."),
    row(A::Down, S::Moving, "move.down", "down", &["j", "down"], "One down."),
    row(A::Left, S::Moving, "move.left", "left", &["h", "left"], "Left; in the tree: fold, then to what it lies under."),
    row(A::Right, S::Moving, "move.right", "right", &["l", "right"], "Right; in the tree: unfold, then to the first below."),
    row(A::First, S::Moving, "move.first", "first", &["g", "home"], "To the first."),
    row(A::Last, S::Moving, "move.last", "last", &["G", "end"], "To the last."),
    row(A::PageUp, S::Moving, "move.page-up", "page up", &["pgup", "ctrl-b"], "One page up."),
    row(A::PageDown, S::Moving, "move.page-down", "page down", &["pgdn", "ctrl-f"], "One page down."),
    row(A::HalfUp, S::Moving, "move.half-up", "half page up", &["ctrl-u"], "Half a page up."),
    row(A::HalfDown, S::Moving, "move.half-down", "half page down", &["ctrl-d"], "Half a page down."),
    row(A::NextPane, S::Moving, "move.next-panel", "next panel", &["tab"], "Focus the next panel of this screen.").footer(8).when(has_panes),
    row(A::PreviousPane, S::Moving, "move.previous-panel", "previous panel", &["shift-tab"], "Focus the previous panel of this screen.").when(has_panes),

    row(A::Back, S::Global, "back", "back", &["esc"], "One level back: close what is on top, clear the filter, leave the page.").footer(9).when(can_back),
    row(A::Go(Screen::Library), S::Global, "go.library", "library", &["1"], "The tree of images."),
    row(A::Go(Screen::Image), S::Global, "go.image", "image", &["2"], "The page of the selected image.").when(has_image),
    row(A::Go(Screen::Map), S::Global, "go.map", "map", &["3"], "The allocation map of the selected image.").when(has_readable),
    row(A::Go(Screen::Jobs), S::Global, "go.jobs", "jobs", &["4"], "The jobs: progress, rate, time left."),
    row(A::Go(Screen::Guide), S::Global, "go.formats", "formats", &["5"], "The format guide: what each is, who uses it, when to choose it."),
    row(A::Help, S::Global, "help", "help", &["?", "f1"], "What can be done where you are; type to search.").footer(1),
    row(A::Palette, S::Global, "palette", "commands", &[":"], "Every command by name; those not available say why.").footer(2),
    row(A::CopyPath, S::Global, "copy.path", "copy path", &["y"], "Copy the image's path to the clipboard (through the terminal, also inside tmux).").when(has_image),
    row(A::CopyError, S::Global, "copy.error", "copy error", &["e"], "Copy the error or warning shown, with its place.").when(has_error),
    row(A::CopyCommand, S::Global, "copy.command", "copy command", &["Y"], "Copy the command line that does what the screen or form shows; while typing: Ctrl-y.").when(has_command),
    row(A::ToggleMouse, S::Global, "mouse", "mouse on/off", &["M"], "Give the mouse back to the terminal, or take it."),
    row(A::WriteConfig, S::Global, "config.write", "write configuration", &[], "Write a commented configuration file where there is none yet."),
    row(A::Redraw, S::Global, "redraw", "redraw", &["ctrl-l"], "Draw the whole screen again."),
    row(A::Suspend, S::Global, "suspend", "suspend", &["ctrl-z"], "Back to the shell; fg comes back here."),
    row(A::Quit, S::Global, "quit", "quit", &["q"], "Quit; asks when jobs are running.").footer(10),
    row(A::Interrupt, S::Global, "interrupt", "quit", &["ctrl-c"], "Quit from anywhere, also while typing; asks when jobs are running."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_titles_and_docs_are_written() {
        let mut ids: Vec<_> = COMMANDS.iter().map(|c| c.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), COMMANDS.len());
        for c in COMMANDS {
            assert!(!c.title.is_empty() && c.doc.ends_with('.'), "{}", c.id);
        }
    }
}
