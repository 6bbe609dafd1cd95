//! The inside of an image: its files on the left; its volumes and who the guest is on the right. On narrow screens one below the
//! other.

use ratatui::layout::Rect;

use crate::app::hits::Hit;
use crate::app::model::Pane;
use crate::app::worker::guest::{FileRow, Look, VolumeRow, file_name};
use crate::engine::error::Error;
use crate::engine::guest::fs::FileType;
use crate::engine::units::{printable, printable_bytes};
use crate::ui::pen::{paint_row, put_right};
use crate::ui::text::{count, cut, cut_front, cut_middle, date, size, width, wrap};
use crate::ui::theme::Role;
use crate::ui::widget::{scroll_mark, window};
use crate::ui::{Canvas, frame};

/// Draws the screen.
pub fn draw(c: &mut Canvas<'_>, area: Rect) {
    let Some(file) = c.m.inside.path.clone() else {
        c.put(area, 3, area.height / 3, "no image is open: select one in the library and press i", Role::Dim);
        return;
    };
    let head = Rect { x: area.x + 1, width: area.width - 2, height: 1, ..area };
    title(c, head, &file);
    let body = Rect { y: area.y + 1, height: area.height - 1, ..area };
    if let Some(Err(e)) = &c.m.inside.look {
        let (text, hint) = (e.to_string(), e.advice().unwrap_or_default().to_string());
        refused(c, body, &text, &hint);
        return;
    }
    if let Some(e) = c.m.inside.seen().and_then(|l| l.error.clone()) {
        refused(c, body, &e.text, &e.hint);
        return;
    }
    let count = u16::try_from(c.m.inside.seen().map_or(1, |l| l.volumes.len())).unwrap_or(u16::MAX);
    if body.width >= 100 {
        // Names of files are short, what is known of the guest is not.
        let left = body.width * 9 / 20;
        for y in 1..body.height {
            c.put(body, left, y, c.look.symbols.vertical, Role::Border);
        }
        files(c, Rect { width: left, ..body });
        let right = Rect { x: body.x + left + 1, width: body.width - left - 1, ..body };
        let top = count.saturating_add(4).min(right.height / 2);
        volumes(c, Rect { height: top, ..right });
        identity(c, Rect { y: right.y + top, height: right.height - top, ..right });
    } else {
        let vols = count.saturating_add(3).min(body.height / 4);
        let who = body.height / 4;
        files(c, Rect { height: body.height - vols - who, ..body });
        volumes(c, Rect { y: body.y + body.height - vols - who, height: vols, ..body });
        identity(c, Rect { y: body.y + body.height - who, height: who, ..body });
    }
}

fn spinner(c: &Canvas<'_>) -> &'static str {
    let s = c.look.symbols.spinner;
    s.get(c.m.now.frame(s.len())).copied().unwrap_or_default()
}

fn refused(c: &mut Canvas<'_>, area: Rect, why: &str, hint: &str) {
    let mut lines = wrap(&format!("{} {}", c.look.symbols.bad, printable(why)), usize::from(area.width.saturating_sub(6)));
    lines.push(printable(hint));
    for (y, line) in (2..area.height).zip(&lines) {
        c.put(area, 3, y, line, Role::Bad);
    }
    c.pane(Pane::Files, area, 0);
}

/// The image's name, and what is going on.
pub(super) fn title(c: &mut Canvas<'_>, area: Rect, file: &std::path::Path) {
    let s = c.look.symbols;
    let x =
        c.put(area, 0, 0, &cut_middle(&printable(&file_name(file)), usize::from(area.width / 2), s.ellipsis), Role::Title) + 2;
    let right = if c.m.inside.loading() { format!("{} reading", spinner(c)) } else { String::new() };
    put_right(c.buf, area, area.width, 0, &right, c.look.style(Role::Accent));
    let room = usize::from(area.width.saturating_sub(x)).saturating_sub(width(&right) + 2);
    let folder = file.parent().map(crate::ui::text::path).unwrap_or_default();
    c.put(area, x, 0, &cut_front(&folder, room, s.ellipsis), Role::Dim);
}

/// A pane's heading, and the area below it.
fn opened(c: &mut Canvas<'_>, area: Rect, pane: Pane, title: &str, right: &str) -> Rect {
    frame::heading(c, area, 0, title, right, c.m.pane() == pane);
    Rect { x: area.x + 1, y: area.y + 1, width: area.width.saturating_sub(2), height: area.height.saturating_sub(1) }
}

fn files(c: &mut Canvas<'_>, area: Rect) {
    let s = c.look.symbols;
    let folder = printable_bytes(&c.m.inside.folder);
    let only = c.m.inside.volume.and_then(|i| c.m.inside.seen()?.volumes.get(i)).map(|v| format!("{}:", v.name));
    let (title, right) = match &c.m.inside.found {
        Some((text, more)) => {
            let n = c.m.inside.list().len();
            let more = if *more { ", and more" } else { "" };
            (format!("'{}' in {folder}", printable(text)), format!("{n} found{more}"))
        }
        None => (format!("{}{folder}", only.unwrap_or_default()), count(c.m.inside.list().len(), "name")),
    };
    let title = cut_front(&title, usize::from(area.width.saturating_sub(20)), s.ellipsis);
    let body = opened(c, area, Pane::Files, &title, &right);
    let rows: &[FileRow] = match &c.m.inside.rows {
        Some(Ok(rows)) => rows,
        Some(Err(e)) => return unreadable(c, body, &e.clone()),
        None => {
            c.put(body, 1, 0, &format!("{} reading{}", spinner(c), s.ellipsis), Role::Dim);
            c.pane(Pane::Files, body, 0);
            return;
        }
    };
    let rows = rows.to_vec();
    c.pane(Pane::Files, body, rows.len());
    if rows.is_empty() {
        c.put(body, 0, 0, if c.m.inside.found.is_some() { "nothing of that name" } else { "(empty)" }, Role::Dim);
        return;
    }
    let view = window(c.m.inside.files, rows.len(), body.height);
    // Columns from the right: size, date, mode; those that fit.
    let (dated, moded) = (body.width >= 50, body.width >= 70);
    let tail = 9 + if dated { 17 } else { 0 } + if moded { 11 } else { 0 };
    for (y, i) in (0u16..).zip(view.window(rows.len())) {
        let Some(row) = rows.get(i) else { break };
        let line = Rect { y: body.y + y, height: 1, ..body };
        c.hits.add(line, Hit::Row(Pane::Files, i));
        let (sign, role) = match row.stat.kind {
            FileType::Folder => (s.closed, Role::Strong),
            FileType::Link => (s.arrow, Role::Accent),
            FileType::Special => (s.bullet, Role::Dim),
            FileType::File => (" ", Role::Text),
        };
        c.put(line, 0, 0, sign, Role::Dim);
        let room = usize::from(line.width.saturating_sub(tail + 3));
        let name = printable_bytes(&row.name);
        let name = if c.m.inside.found.is_some() { cut_front(&name, room, s.ellipsis) } else { cut(&name, room, s.ellipsis) };
        let x = c.put(line, 2, 0, &name, role);
        if let Some(target) = &row.target {
            let left = room.saturating_sub(usize::from(x));
            c.put(line, x + 1, 0, &cut(&format!("{} {}", s.arrow, printable_bytes(target)), left, s.ellipsis), Role::Dim);
        }
        let mut end = line.width;
        if moded {
            put_right(c.buf, line, end, 0, &mode(row), c.look.style(Role::Dim));
            end -= 11;
        }
        if dated {
            put_right(c.buf, line, end, 0, &date(row.stat.mtime), c.look.style(Role::Dim));
            end -= 17;
        }
        if row.stat.kind == FileType::File {
            put_right(c.buf, line, end, 0, &size(row.stat.size), c.look.style(Role::Text));
        }
        if i == view.at {
            let style = c.select(Pane::Files);
            paint_row(c.buf, line, 0, style);
        }
    }
    scroll_mark(c, body, body.x + body.width, view.top, rows.len());
}

fn unreadable(c: &mut Canvas<'_>, body: Rect, e: &Error) {
    let mut lines = wrap(&e.to_string(), usize::from(body.width));
    lines.extend(e.advice().map(printable));
    for (y, line) in (0..body.height).zip(&lines) {
        c.put(body, 0, y, line, Role::Warn);
    }
    let tip = "Tab to the volumes, Enter opens one";
    c.put(body, 0, u16::try_from(lines.len() + 1).unwrap_or(u16::MAX), tip, Role::Dim);
    c.pane(Pane::Files, body, 0);
}

/// `rwxr-xr-x`.
fn mode(row: &FileRow) -> String {
    "rwxrwxrwx".chars().enumerate().map(|(i, c)| if row.stat.mode & (0o400 >> i) != 0 { c } else { '-' }).collect()
}

fn volumes(c: &mut Canvas<'_>, area: Rect) {
    let look = c.m.inside.seen().cloned().unwrap_or_default();
    let body = opened(c, area, Pane::Volumes, "Volumes", &look.table);
    if body.height == 0 {
        return;
    }
    strip(c, Rect { height: 1, ..body }, &look);
    let list = Rect { y: body.y + 1, height: body.height - 1, ..body };
    c.pane(Pane::Volumes, list, look.volumes.len());
    let view = window(c.m.inside.volumes, look.volumes.len(), list.height);
    for (y, i) in (0u16..).zip(view.window(look.volumes.len())) {
        let Some(v) = look.volumes.get(i) else { break };
        let line = Rect { y: list.y + y, height: 1, ..list };
        c.hits.add(line, Hit::Row(Pane::Volumes, i));
        volume(c, line, v, i);
        if i == view.at && c.m.pane() == Pane::Volumes {
            let style = c.select(Pane::Volumes);
            paint_row(c.buf, line, 0, style);
        }
    }
}

const COLOURS: [Role; 4] = [Role::Layer0, Role::Layer1, Role::Layer2, Role::Layer3];

fn colour(i: usize) -> Role {
    COLOURS.get(i % COLOURS.len()).copied().unwrap_or(Role::Bar)
}

/// A line about a volume: name, size, what it holds, where it is mounted, how full it is.
fn volume(c: &mut Canvas<'_>, line: Rect, v: &VolumeRow, i: usize) {
    let s = c.look.symbols;
    let x = c.put(line, 0, 0, if v.logical { s.branch[1] } else { "" }, Role::Dim);
    c.put(line, x, 0, &cut(&printable(&v.name), 14, s.ellipsis), colour(i));
    put_right(c.buf, line, 24, 0, &size(v.len), c.look.style(Role::Text));
    let holds = if v.holds.is_empty() { v.kind.as_str() } else { v.holds.as_str() };
    let x = c.put(line, 26, 0, &cut(holds, 12, s.ellipsis), Role::Strong).max(35) + 1;
    let told = match (v.at.is_empty(), v.label.is_empty()) {
        (false, _) => v.at.clone(),
        (true, false) => printable(&v.label),
        // What kind of partition it is stands before already where nothing is known to be in it.
        (true, true) if v.holds.is_empty() => String::new(),
        (true, true) => v.kind.clone(),
    };
    let used = v.free.filter(|f| *f <= v.len && v.len > 0).map(|f| format!("{} free", size(f))).unwrap_or_default();
    let note = v.notes.first().map(|n| format!("{} {}", s.warn, printable(n)));
    let room = usize::from(line.width.saturating_sub(x)).saturating_sub(width(&used) + 1);
    match note {
        Some(note) => c.put(line, x, 0, &cut(&note, room, s.ellipsis), Role::Warn),
        None => c.put(line, x, 0, &cut(&told, room, s.ellipsis), Role::Text),
    };
    put_right(c.buf, line, line.width, 0, &used, c.look.style(Role::Dim));
}

/// The disk in one line: each volume in its colour, what it uses full, what it has free light.
pub(super) fn strip(c: &mut Canvas<'_>, area: Rect, look: &Look) {
    let s = c.look.symbols;
    let room = u64::from(area.width.saturating_sub(2));
    if look.size == 0 || room == 0 {
        return;
    }
    c.put(area, 0, 0, s.edges[0], Role::Border);
    for x in 0..room {
        let at = (u128::from(look.size) * (2 * u128::from(x) + 1) / (2 * u128::from(room))) as u64;
        // A logical volume lies on top of the partition that holds it.
        let inside = |v: &VolumeRow| v.start.is_some_and(|b| at >= b && at - b < v.len);
        let found = look.volumes.iter().enumerate().rev().find(|(_, v)| inside(v));
        let (glyph, role) = match found {
            None => (s.cells[0], Role::Dim),
            Some((i, v)) => {
                let used = v.len.saturating_sub(v.free.unwrap_or(if v.holds.is_empty() { v.len } else { 0 }));
                let full = at - v.start.unwrap_or(0) < used;
                (if full { s.cells[4] } else { s.cells[1] }, colour(i))
            }
        };
        c.put(area, x as u16 + 1, 0, glyph, role);
    }
    c.put(area, room as u16 + 1, 0, s.edges[1], Role::Border);
}

/// Column where the values of facts stand.
const FACT: u16 = 16;

fn identity(c: &mut Canvas<'_>, area: Rect) {
    let body = opened(c, area, Pane::Identity, "Guest", "with the file each comes from");
    let Some(look) = c.m.inside.seen().cloned() else {
        c.pane(Pane::Identity, body, 0);
        return;
    };
    let mut lines: Vec<(String, String, String, Role)> = Vec::new();
    if !look.found {
        lines.push((String::new(), "no root filesystem of a Linux guest was found".into(), String::new(), Role::Dim));
    }
    for p in &look.problems {
        lines.push((c.look.symbols.warn.to_string(), printable(p), String::new(), Role::Warn));
    }
    for f in &look.facts {
        lines.push((f.what.to_string(), f.value.clone(), printable(&f.from), Role::Text));
    }
    // A value and its source stand in one line where both fit, else the source stands below: neither is cut.
    let room = usize::from(body.width.saturating_sub(FACT));
    let mut shown: Vec<(String, String, String, Role)> = Vec::new();
    for (what, value, from, role) in lines {
        let mut parts = wrap(&value, room.max(8));
        let last = parts.pop().unwrap_or_default();
        let mut what = what;
        for part in parts {
            shown.push((std::mem::take(&mut what), part, String::new(), role));
        }
        if width(&last) + 2 + width(&from) <= room || from.is_empty() {
            shown.push((what, last, from, role));
        } else {
            shown.push((what, last, String::new(), role));
            shown.push((String::new(), String::new(), cut_front(&from, room, c.look.symbols.ellipsis), role));
        }
    }
    let lines = shown;
    c.pane(Pane::Identity, body, lines.len());
    let top = c.m.inside.identity.top.min(lines.len().saturating_sub(usize::from(body.height)));
    for (y, (what, value, from, role)) in (0u16..).zip(lines.iter().skip(top).take(usize::from(body.height))) {
        c.put(body, 0, y, &cut(what, usize::from(FACT) - 1, c.look.symbols.ellipsis), Role::Dim);
        c.put(body, FACT, y, value, *role);
        put_right(c.buf, body, body.width, y, from, c.look.style(Role::Dim));
    }
    scroll_mark(c, body, body.x + body.width, top, lines.len());
}
