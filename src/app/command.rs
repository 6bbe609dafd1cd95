//! The one table of commands: id, title, words, where it works, default keys, and when it is not available and why. The keymap,
//! the footer, the help, the palette, the configuration and the README's key table are all made from it.

mod when;

use super::action::Action;
use super::model::{Model, Screen};

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
    /// What sanitising it did.
    Sanitize,
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
            Scope::Sanitize => "Sanitised",
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
            Screen::Sanitize => Scope::Sanitize,
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

/// A row without a place in the footer.
const fn row(
    action: Action,
    scope: Scope,
    id: &'static str,
    title: &'static str,
    keys: &'static [&'static str],
    doc: &'static str,
) -> Command {
    Command { action, id, title, doc, scope, keys, footer: 0, enabled: when::always }
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
use when::*;

/// Every command, in the order of the help.
#[rustfmt::skip]
pub static COMMANDS: &[Command] = &[
    row(A::Open, S::Library, "library.open", "open", &["enter"], "Open the page of the selected image; a folder unfolds.").footer(1),
    row(A::Filter, S::Library, "library.filter", "filter", &["/"], "Show only what matches, fuzzily: names, folders, formats.").footer(2),
    row(A::Map, S::Library, "library.map", "map", &["m"], "Open the allocation map of the selected image.").footer(4).when(has_readable),
    row(A::Convert, S::Library, "library.convert", "convert…", &["c"], "Convert to any format: a form, its plan, then a job.").footer(3).when(can_convert),
    row(A::Go(Screen::Snapshots), S::Library, "library.snapshots", "snapshots", &["s"], "What the snapshots and overlays of the selected image cost, and what each came from.").footer(5).when(can_list),
    row(A::Check, S::Library, "library.check", "check", &["K"], "Look for damage and lost space, as a job; its report says what each finding means and what repair would do.").footer(7).when(can_check),
    row(A::Flatten, S::Library, "library.flatten", "flatten…", &["f"], "Make the overlay stand alone: what it reads from below is copied into it.").footer(12).when(can_flatten),
    row(A::Rebase, S::Library, "library.rebase", "rebase…", &["b"], "Put the overlay on another base, or tell it where a base that moved is now: candidates are offered.").footer(13).when(can_rebase),
    row(A::Commit, S::Library, "library.commit", "commit…", &["w"], "Write what the overlay holds into an image it stands on.").footer(14).when(can_commit),
    row(A::Relink, S::Library, "library.relink", "relink…", &["L"], "Tell the overlay where the image it stands on is now: it is looked at whether that is the right one, and only the reference changes.").footer(15).when(can_relink),
    row(A::Compact, S::Library, "library.compact", "compact…", &["p"], "Give space back to the host, in place or by copy: lost clusters, stored zeros, the file's free tail.").footer(13).when(can_compact),
    row(A::Amend, S::Library, "library.amend", "amend…", &["A"], "Change the options of a qcow2 image in place: compat, lazy refcounts, the width of refcounts.").footer(16).when(can_amend),
    row(A::Bitmap, S::Library, "library.bitmap", "bitmaps…", &["B"], "Add, remove, clear, switch or merge a dirty bitmap.").footer(17).when(can_bitmap),
    row(A::DeleteImage, S::Library, "library.delete", "delete…", &["d", "delete"], "Move the image to the trash, or delete it for good, with every file it consists of.").footer(11).when(can_delete_image),
    row(A::Go(Screen::Inside), S::Library, "library.inside", "inside", &["i"], "Look inside: volumes, who the guest is, its files.").footer(5).when(has_readable),
    row(A::Go(Screen::Ready), S::Library, "library.ready", "ready?", &["W"], "Where the image would be taken, and what is in the way: OpenStack, Azure, EC2, ESXi, Hyper-V, VirtualBox, Proxmox.").footer(6).when(can_list),
    row(A::Sanitize, S::Library, "library.sanitize", "sanitise…", &["z"], "Remove from the guest what must not be in every clone (keys, ids, logs), and what is left of it in the image's bytes: a form, its plan file by file, then a job.").footer(9).when(can_sanitize),
    row(A::Go(Screen::Sanitize), S::Library, "library.sanitised", "sanitised", &["Z"], "What sanitising the image did and what it keeps: the report, taking it back, destroying the undo file.").when(has_image),
    row(A::Create, S::Library, "library.create", "new image…", &["a"], "Make a new, empty image, by itself or standing on another: a form, its plan, then a job.").footer(9).when(can_create),
    row(A::Resize, S::Library, "library.resize", "resize…", &["R"], "Give the image another virtual size, in place: a form, its plan, then a job.").footer(10).when(can_resize),
    row(A::Group, S::Library, "library.group", "group", &["t"], "Group the tree by chain, by folder, or by format.").footer(8),
    row(A::Sort, S::Library, "library.sort", "sort", &[">"], "Sort by the next column.").footer(9),
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
    row(A::Sanitize, S::Image, "image.sanitize", "sanitise…", &["z"], "Remove from the guest what must not be in every clone (keys, ids, logs), and what is left of it in the image's bytes: a form, its plan file by file, then a job.").footer(6).when(can_sanitize),
    row(A::Go(Screen::Sanitize), S::Image, "image.sanitised", "sanitised", &["Z"], "What sanitising the image did and what it keeps: the report, taking it back, destroying the undo file.").when(has_image),
    row(A::OpenLayer, S::Image, "image.open-layer", "open layer", &["enter"], "Open the page of the layer under the cursor.").footer(4).when(on_layer),
    row(A::Map, S::Image, "image.map", "map", &["m"], "Open the allocation map.").footer(1).when(has_readable),
    row(A::Go(Screen::Snapshots), S::Image, "image.snapshots", "snapshots", &["s"], "What the snapshots and overlays of this image cost, and what each came from.").footer(3).when(can_list),
    row(A::Convert, S::Image, "image.convert", "convert…", &["c"], "Convert to any format: a form, its plan, then a job.").footer(2).when(can_convert),
    row(A::Check, S::Image, "image.check", "check", &["K"], "Look for damage and lost space, as a job; its report says what each finding means and what repair would do.").footer(8).when(can_check),
    row(A::Flatten, S::Image, "image.flatten", "flatten…", &["f"], "Make the overlay stand alone: what it reads from below is copied into it.").footer(12).when(can_flatten),
    row(A::Rebase, S::Image, "image.rebase", "rebase…", &["b"], "Put the overlay on another base, or tell it where a base that moved is now: candidates are offered.").footer(13).when(can_rebase),
    row(A::Commit, S::Image, "image.commit", "commit…", &["w"], "Write what the overlay holds into an image it stands on.").footer(14).when(can_commit),
    row(A::Relink, S::Image, "image.relink", "relink…", &["L"], "Tell the overlay where the image it stands on is now: it is looked at whether that is the right one, and only the reference changes.").footer(15).when(can_relink),
    row(A::Compact, S::Image, "image.compact", "compact…", &["p"], "Give space back to the host, in place or by copy: lost clusters, stored zeros, the file's free tail.").footer(13).when(can_compact),
    row(A::Amend, S::Image, "image.amend", "amend…", &["A"], "Change the options of a qcow2 image in place: compat, lazy refcounts, the width of refcounts.").footer(16).when(can_amend),
    row(A::Bitmap, S::Image, "image.bitmap", "bitmaps…", &["B"], "Add, remove, clear, switch or merge a dirty bitmap.").footer(17).when(can_bitmap),
    row(A::DeleteImage, S::Image, "image.delete", "delete…", &["d", "delete"], "Move the image to the trash, or delete it for good, with every file it consists of.").footer(11).when(can_delete_image),
    row(A::Create, S::Image, "image.overlay", "new overlay…", &["a"], "Make a new image that stands on this one: a form, its plan, then a job.").footer(6).when(can_create),
    row(A::Resize, S::Image, "image.resize", "resize…", &["R"], "Give the image another virtual size, in place: a form, its plan, then a job.").footer(7).when(can_resize),
    row(A::Reload, S::Image, "image.reload", "reload", &["r", "f5"], "Read the image again.").footer(5),

    row(A::ZoomIn, S::Map, "map.zoom-in", "zoom in", &["+", "=", "enter"], "Zoom in around the cursor.").footer(1).when(can_zoom_in),
    row(A::ZoomOut, S::Map, "map.zoom-out", "zoom out", &["-", "_"], "Zoom out around the cursor.").footer(2).when(is_zoomed),
    row(A::ZoomFit, S::Map, "map.fit", "whole disk", &["0", "backspace"], "Show the whole disk.").footer(5).when(is_zoomed),
    row(A::MapLayer, S::Map, "map.layer", "layer", &["L"], "Show all layers, or one at a time.").footer(3).when(has_layers),
    row(A::MapColour, S::Map, "map.colour", "colour", &["c"], "Colour by what is there, or by the layer it lies in.").footer(4),
    row(A::MapFree, S::Map, "map.free-space", "free space", &["f"], "Shade what filesystems call free and the image still stores.").footer(5).when(knows_free),
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
    row(A::Compact, S::Check, "check.compact", "compact…", &["p"], "Give space back to the host, in place or by copy: lost clusters, stored zeros, the file's free tail.").footer(4).when(can_compact),
    row(A::UndoRepair, S::Check, "check.undo", "undo a repair…", &["u"], "Put back what the last repair changed, as long as nothing else wrote to the image.").footer(3).when(can_undo_repair),

    row(A::PauseJob, S::Jobs, "jobs.pause", "pause", &["space", "p"], "Pause the selected job, or let it go on; an interrupted one goes on where it was durable.").footer(1).when(can_pause),
    row(A::CancelJob, S::Jobs, "jobs.cancel", "cancel…", &["x"], "Cancel the selected job, or discard an interrupted one: what it had written so far is removed. Asks first.").footer(2).when(can_pause),
    row(A::RetryJob, S::Jobs, "jobs.retry", "retry", &["R"], "Do a failed or cancelled job again, or go on with an interrupted one where it was durable.").footer(3).when(can_retry),
    row(A::LimitDown, S::Jobs, "jobs.slower", "slower", &["-", "_"], "Limit the selected job's rate, or lower its limit.").footer(4).when(has_job),
    row(A::LimitUp, S::Jobs, "jobs.faster", "faster", &["+", "="], "Raise the selected job's limit; above the last step it is lifted.").footer(5).when(has_job),
    row(A::OpenReport, S::Jobs, "jobs.report", "report", &["enter"], "Open what a check found, or what a sanitising did.").footer(3).when(has_report),
    row(A::RankJob, S::Jobs, "jobs.priority", "priority", &["P"], "Turn the priority of a waiting job: high, low, normal.").footer(7).when(can_rank),
    row(A::ShowLog, S::Jobs, "jobs.log", "log", &["L"], "Read the selected job's whole log.").footer(6).when(has_log),
    row(A::ForgetJobs, S::Jobs, "jobs.forget", "clear ended", &["D"], "Take this session's ended jobs off the list; they stay in the history below. On a line of the history: clear that. Asks first.").footer(8).when(has_ended),
    row(A::OpenFile, S::Inside, "inside.open", "open", &["enter"], "Open the folder, or read the file; on a volume: its filesystem alone.").footer(1).when(can_open_file),
    row(A::FolderUp, S::Inside, "inside.up", "up", &["backspace", "-"], "To the folder this one lies in; from what a search found, back.").footer(4).when(can_go_up),
    row(A::Search, S::Inside, "inside.search", "search", &["/"], "Find files by name, in this folder and all below.").footer(2),
    row(A::Extract, S::Inside, "inside.extract", "extract…", &["x"], "Copy the file or folder to the host, holes kept: a form, its plan, then a job.").footer(3).when(can_extract),
    row(A::Go(Screen::Ready), S::Inside, "inside.ready", "ready?", &["W"], "Where the image would be taken, and what is in the way: OpenStack, Azure, EC2, ESXi, Hyper-V, VirtualBox, Proxmox.").footer(5),
    row(A::Sanitize, S::Inside, "inside.sanitize", "sanitise…", &["z"], "Remove from the guest what must not be in every clone (keys, ids, logs), and what is left of it in the image's bytes: a form, its plan file by file, then a job.").footer(5).when(can_sanitize),
    row(A::Go(Screen::Sanitize), S::Inside, "inside.sanitised", "sanitised", &["Z"], "What sanitising the image did and what it keeps: the report, taking it back, destroying the undo file.").when(has_image),
    row(A::Reload, S::Inside, "inside.reload", "reload", &["r", "f5"], "Look again."),

    row(A::Mend, S::Ready, "ready.mend", "mend…", &["enter"], "The one action that mends the most for this target.").footer(1).when(can_mend),
    row(A::Go(Screen::Inside), S::Ready, "ready.inside", "inside", &["i"], "Look inside: volumes, who the guest is, its files.").footer(3),
    row(A::Sanitize, S::Ready, "ready.sanitize", "sanitise…", &["z"], "Remove from the guest what must not be in every clone (keys, ids, logs), and what is left of it in the image's bytes: a form, its plan file by file, then a job.").footer(2).when(can_sanitize),
    row(A::Go(Screen::Sanitize), S::Ready, "ready.sanitised", "sanitised", &["Z"], "What sanitising the image did and what it keeps: the report, taking it back, destroying the undo file.").when(has_image),
    row(A::Convert, S::Ready, "ready.convert", "convert…", &["c"], "Convert to any format: a form, its plan, then a job.").footer(2).when(can_convert),
    row(A::Reload, S::Ready, "ready.reload", "reload", &["r", "f5"], "Look again."),

    row(A::TakeBack, S::Sanitize, "sanitised.undo", "take back…", &["u"], "Bring back every file as it was before the last sanitising: its plan, then a job.").footer(2).when(has_kept),
    row(A::DestroyKept, S::Sanitize, "sanitised.destroy", "destroy undo file…", &["x", "delete"], "Overwrite and remove the undo file, which holds what was removed, secrets among it.").footer(3).when(has_kept),
    row(A::Sanitize, S::Sanitize, "sanitised.again", "sanitise…", &["z"], "Remove from the guest what must not be in every clone (keys, ids, logs), and what is left of it in the image's bytes: a form, its plan file by file, then a job.").footer(5).when(can_sanitize),
    row(A::Go(Screen::Ready), S::Sanitize, "sanitised.ready", "ready?", &["W"], "Where the image would be taken, and what is in the way: OpenStack, Azure, EC2, ESXi, Hyper-V, VirtualBox, Proxmox.").footer(1).when(can_list),
    row(A::Go(Screen::Inside), S::Sanitize, "sanitised.inside", "inside", &["i"], "Look inside: volumes, who the guest is, its files.").footer(4).when(has_readable),
    row(A::Reload, S::Sanitize, "sanitised.reload", "reload", &["r", "f5"], "Look again for the undo file."),

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
