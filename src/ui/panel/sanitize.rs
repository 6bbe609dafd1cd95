//! What a sanitising does or did: file by file with the reason, what was wiped, what keeps old data, and how each was verified. The
//! form's plan shows the same lines before anything is written.

use ratatui::layout::Rect;
use ratatui::text::Line;

use super::detail::{labelled, paragraph};
use super::inside::title;
use crate::app::Action;
use crate::app::command::Command;
use crate::app::model::{Pane, Screen};
use crate::app::state::sanitize::End;
use crate::engine::job::JobState;
use crate::engine::ops::sanitize::{Entry, Kept, Report, Scanned, Shown, State};
use crate::engine::units::printable;
use crate::ui::pen::{put_line, put_right};
use crate::ui::text::{count, cut, grouped, size, size_words, wrap};
use crate::ui::theme::Role;
use crate::ui::widget::scroll_mark;
use crate::ui::{Canvas, frame};

/// Files of one operation that are shown; a guest may have any number.
const FILES: usize = 1000;
/// Finds in files that are kept, told one by one.
const FINDS: usize = 5;
/// Columns of an operation's id.
const ID: usize = 20;

/// Draws the screen.
pub fn draw(c: &mut Canvas<'_>, area: Rect) {
    let Some(file) = c.m.sanitize.path.clone() else {
        c.put(area, 3, area.height / 3, "no image is open: select one in the library and press z", Role::Dim);
        return;
    };
    let head = Rect { x: area.x + 1, width: area.width - 2, height: 1, ..area };
    title(c, head, &file);
    let live = c.m.sanitizing().filter(|j| j.live()).map(|j| j.view.progress.phase.clone());
    if let Some(phase) = &live {
        let s = c.look.symbols.spinner;
        let text = format!("{} {}", s.get(c.m.now.frame(s.len())).copied().unwrap_or_default(), printable(phase));
        put_right(c.buf, head, head.width, 0, &text, c.look.style(Role::Accent));
    }
    let body = Rect { y: area.y + 1, height: area.height - 1, ..area };
    frame::heading(c, body, 0, "Sanitised", "", true);
    let text = Rect { x: body.x + 1, y: body.y + 1, width: body.width - 2, height: body.height - 1 };
    let room = usize::from(text.width.saturating_sub(1));
    let lines = page(c, live.is_some(), room);
    c.pane(Pane::Sanitized, text, lines.len());
    let top = c.m.sanitize.scroll.top.min(lines.len().saturating_sub(usize::from(text.height)));
    for (y, line) in (0u16..).zip(lines.iter().skip(top).take(usize::from(text.height))) {
        put_line(c.buf, text, 0, y, line);
    }
    scroll_mark(c, text, text.x + text.width, top, lines.len());
}

fn page(c: &Canvas<'_>, live: bool, room: usize) -> Vec<Line<'static>> {
    let s = c.look.symbols;
    let mut out = Vec::new();
    let failed = c.m.sanitizing().filter(|j| j.view.state == JobState::Failed).and_then(|j| j.view.error.as_ref());
    match (c.m.sanitize.end(), failed) {
        _ if live => paragraph(c, "now", "it is worked on; the report stands here when it is done", Role::Text, room, &mut out),
        (_, Some(e)) => {
            paragraph(c, "failed", &format!("{} {e}", s.bad), Role::Bad, room, &mut out);
            if let Some(hint) = e.advice() {
                paragraph(c, "hint", &printable(hint), Role::Text, room, &mut out);
            }
        }
        (Some(End::Done(report)), _) => return lines(c, report, false, room),
        (Some(End::TakenBack), _) => {
            let text = "the last sanitising was taken back: every file is what it was, and what was free space stays wiped";
            paragraph(c, "verdict", &format!("{} {text}", s.good), Role::Good, room, &mut out);
        }
        (None, None) => paragraph(c, "verdict", "cowshed has not sanitised it since it was opened", Role::Dim, room, &mut out),
    }
    if !live {
        undo_file(c, room, &mut out);
    }
    out
}

fn key(c: &Canvas<'_>, action: Action) -> String {
    let row = Command::of(action, Screen::Sanitize);
    row.and_then(|r| c.m.keymap.keys(r).first().map(ToString::to_string)).unwrap_or_default()
}

/// What the last sanitising of the image shown keeps, and what can become of it.
fn undo_file(c: &Canvas<'_>, room: usize, out: &mut Vec<Line<'static>>) {
    let s = c.look.symbols;
    match &c.m.sanitize.kept {
        None => {}
        Some(Err(e)) => paragraph(c, "undo file", &format!("{} {e}", s.bad), Role::Bad, room, out),
        Some(Ok(None)) => {
            paragraph(c, "undo file", "there is none: nothing that was removed is kept beside the image", Role::Text, room, out);
        }
        Some(Ok(Some(kept))) => {
            let Kept { path, made, bytes, half_done } = kept;
            let text = format!(
                "{} {} ({}, of {}): it holds what was removed, secrets among it; only its owner can read it",
                s.warn,
                printable(&path.to_string_lossy()),
                size_words(*bytes),
                printable(made.split('.').next().unwrap_or_default()).replace('T', " "),
            );
            paragraph(c, "undo file", &text, Role::Warn, room, out);
            if *half_done {
                let text = format!("{} it was interrupted: the image is half done until it is taken back", s.bad);
                paragraph(c, "", &text, Role::Bad, room, out);
            }
            let image = c.m.sanitize.path.as_ref().map(|p| printable(&p.to_string_lossy())).unwrap_or_default();
            for (action, flag, what) in
                [(Action::TakeBack, "--undo", "takes it back"), (Action::DestroyKept, "--destroy-undo", "destroys it")]
            {
                let text = format!("{} {what}: cowshed sanitize {flag} {image}", key(c, action));
                paragraph(c, "", &text, Role::Accent, room, out);
            }
        }
    }
}

/// A report, planned or done, as lines.
pub(in crate::ui) fn lines(c: &Canvas<'_>, r: &Report, planned: bool, room: usize) -> Vec<Line<'static>> {
    let s = c.look.symbols;
    let mut out = Vec::new();
    let files = count(r.files(), "file");
    let (verdict, role) = match (planned, r.is_empty(), r.failed()) {
        (true, true, _) => ("nothing: all is as it should be".to_string(), Role::Good),
        (false, true, _) => (format!("{} there was nothing to do", s.good), Role::Good),
        (true, ..) => (format!("{files}; {} to write, {} to wipe", size_words(r.written), size_words(r.zeroed)), Role::Strong),
        (false, _, true) => (format!("{} done, but some of what was removed is still in the image's bytes", s.bad), Role::Bad),
        (false, ..) => (
            format!("{} done: {files} changed, {} written, {} wiped", s.good, size_words(r.written), size_words(r.zeroed)),
            Role::Good,
        ),
    };
    paragraph(c, if planned { "changes" } else { "verdict" }, &verdict, role, room, &mut out);
    if let Some(scan) = &r.scan {
        scanned(c, scan, &r.image.to_string_lossy(), room, &mut out);
    }
    match &r.undo {
        _ if !planned => undo_file(c, room, &mut out),
        Some(undo) => {
            let text = match &undo.path {
                Some(path) => format!(
                    "{}, about {}: keeps what is removed, secrets among it, until you destroy it; only you can read it",
                    printable(&path.to_string_lossy()),
                    size_words(undo.bytes)
                ),
                None => format!("none is kept: about {} of old bytes are gone for good", size_words(undo.bytes)),
            };
            paragraph(c, "undo file", &text, Role::Text, room, &mut out);
        }
        None => {}
    }
    for w in &r.warnings {
        paragraph(c, "warning", &format!("{} {}", s.warn, printable(w)), Role::Warn, room, &mut out);
    }
    for v in &r.volumes {
        paragraph(c, "volume", &printable(v), Role::Dim, room, &mut out);
    }
    let idle = |e: &&Entry| e.state == State::NothingToDo && e.notes.is_empty() && e.warnings.is_empty();
    for e in r.operations.iter().filter(|e| !idle(e)) {
        out.push(Line::default());
        operation(c, e, room, &mut out);
    }
    let rest: Vec<&str> = r.operations.iter().filter(idle).map(|e| e.id).collect();
    if !rest.is_empty() {
        out.push(Line::default());
        paragraph(c, "no need", &rest.join(", "), Role::Dim, room, &mut out);
    }
    out
}

fn operation(c: &Canvas<'_>, e: &Entry, room: usize, out: &mut Vec<Line<'static>>) {
    let s = c.look.symbols;
    let (sign, role) = match e.state {
        State::Planned => (s.bullet, Role::Accent),
        State::Done => (s.good, Role::Good),
        State::NothingToDo | State::Reported => (s.bullet, Role::Dim),
        State::Refused => (s.bad, Role::Bad),
    };
    let files = if e.changes.is_empty() { e.state.words().to_string() } else { count(e.changes.len(), "file") };
    let state = if e.state == State::Done && !e.changes.is_empty() { format!("done, {files}") } else { files };
    out.push(Line::from(vec![
        c.look.span(role, format!("{sign} ")),
        c.look.span(Role::Strong, format!("{:<ID$}", e.id)),
        c.look.span(role, format!("{state:<16} ")),
        c.look.span(Role::Text, cut(e.title, room.saturating_sub(ID + 19), s.ellipsis)),
    ]));
    let mut put = |text: &str, role: Role| {
        for part in wrap(text, room.saturating_sub(4).max(10)) {
            out.push(Line::from(vec![c.look.span(Role::Dim, "    "), c.look.span(role, part)]));
        }
    };
    if e.state == State::Done {
        put(&format!("verified: {}", e.verified), Role::Dim);
    }
    let mut reason = "";
    for f in e.changes.iter().take(FILES) {
        if f.reason != reason {
            put(&format!("{}:", f.reason), Role::Dim);
            reason = f.reason;
        }
        change(f, &mut put);
    }
    if e.changes.len() > FILES {
        put(&format!("and {} more", grouped((e.changes.len() - FILES) as u64)), Role::Dim);
    }
    for note in &e.notes {
        put(&printable(note), Role::Text);
    }
    for w in &e.warnings {
        put(&format!("{} {}", s.warn, printable(w)), Role::Warn);
    }
}

fn change(f: &Shown, put: &mut impl FnMut(&str, Role)) {
    let bytes = if f.what == "remove folder" { String::new() } else { format!("  {}", size(f.before)) };
    put(&format!("{:<8} {}{bytes}", f.what, f.path), Role::Text);
    for line in &f.diff {
        let role = match line.as_bytes().first() {
            Some(b'-') => Role::Bad,
            Some(b'+') => Role::Good,
            _ => Role::Dim,
        };
        put(&format!("  {}", printable(line)), role);
    }
}

/// What the scan of the image's bytes found.
fn scanned(c: &Canvas<'_>, scan: &Scanned, image: &str, room: usize, out: &mut Vec<Line<'static>>) {
    let s = c.look.symbols;
    let (left, kept): (Vec<_>, Vec<_>) = scan.found.iter().partition(|f| f.is_residue());
    let (sign, role, what) = match left.len() {
        0 => (s.good, Role::Good, "none is left".to_string()),
        n => (s.bad, Role::Bad, format!("{n} are left")),
    };
    let n = count(scan.needles, "piece");
    let text = format!("{sign} {n} of what was removed looked for in {}: {what}", size_words(scan.bytes));
    paragraph(c, "byte scan", &text, role, room, out);
    let place = |f: &crate::engine::ops::sanitize::Residue| {
        // Whose byte it is says the page, where it is the image's own.
        let of = if f.file == image { String::new() } else { format!(" of {}", f.file) };
        printable(&format!("of {}: in {} (byte {}{of})", f.from, f.place, grouped(f.offset)))
    };
    for f in left {
        paragraph(c, "", &place(f), Role::Bad, room, out);
    }
    for f in kept.iter().take(FINDS) {
        paragraph(c, "", &place(f), Role::Dim, room, out);
    }
    if kept.len() > FINDS {
        let more = format!("and {} more in files that are kept", kept.len() - FINDS);
        out.push(labelled(c, "", vec![c.look.span(Role::Dim, more)]));
    }
}
