//! The snapshots of an image: the tree of where its states came from and what stands on it, what each costs, who owns the space, and
//! what is marked for deleting. A number that is not known yet is a dash.

mod space;

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::detail::{deleted, labelled, paragraph};
use crate::app::Action;
use crate::app::command::Command;
use crate::app::hits::Hit;
use crate::app::model::{Pane, Screen};
use crate::app::state::snapshots::{Joint, Row, What};
use crate::app::worker::snapshots::Listing;
use crate::engine::library::{Entry, EntryId};
use crate::engine::units::printable;
use crate::ui::pen::{fit, paint_row, put_line, put_right};
use crate::ui::text::{count, cut_front, cut_middle, date, duration, grouped, path, size, size_words, width, wrap};
use crate::ui::theme::Role;
use crate::ui::widget::{gauge, scroll_mark, window};
use crate::ui::{Canvas, frame};

/// Draws the screen.
pub fn draw(c: &mut Canvas<'_>, area: Rect) {
    let Some(file) = c.m.snaps.path.clone() else {
        c.put(area, 3, area.height / 3, "no image is open: select one in the library and press s", Role::Dim);
        return;
    };
    let head = Rect { x: area.x + 1, width: area.width - 2, height: 1, ..area };
    title(c, head, &file);
    let body = Rect { y: area.y + 1, height: area.height - 1, ..area };
    let list = match &c.m.snaps.listing {
        Some(Ok(list)) => list.clone(),
        Some(Err(e)) => {
            let mut lines = wrap(&format!("{} {e}", c.look.symbols.bad), usize::from(body.width.saturating_sub(6)));
            lines.extend(e.advice().map(printable));
            for (y, line) in (2..body.height).zip(&lines) {
                c.put(body, 3, y, line, Role::Bad);
            }
            c.pane(Pane::States, body, 0);
            return;
        }
        None => {
            let frame = spinner(c);
            c.put(body, 3, 2, &format!("{frame} reading the snapshots{}", c.look.symbols.ellipsis), Role::Dim);
            c.pane(Pane::States, body, 0);
            return;
        }
    };
    // From below: what is marked, who owns the space, what the cursor is on; the tree has the rest.
    let compared = c.m.snaps.diff.is_some();
    let (detail, diff, space, set) = match body.height {
        0..=13 if compared => (0, 3, 0, 1),
        0..=13 => (0, 0, 2, 1),
        14..=21 if compared => (0, 4, 2, 1),
        14..=21 => (5, 0, 2, 1),
        22..=39 => (6, if compared { 5 } else { 0 }, 3, 3),
        _ => (9, if compared { 6 } else { 0 }, 3, 4),
    };
    let mut y = body.y + body.height;
    let mut below = |height: u16| {
        y -= height;
        Rect { y, height, ..body }
    };
    let (set, space, diff, detail) = (below(set), below(space), below(diff), below(detail));
    let tree = Rect { height: y - body.y, ..body };
    self::tree(c, tree, &list);
    if detail.height > 0 {
        self::detail(c, detail, &list);
    }
    if let Some(shown) = c.m.snaps.diff.clone() {
        space::diff(c, diff, &list, &shown);
    }
    if space.height > 0 {
        space::owners(c, space, &list);
    }
    space::set(c, set, &list);
}

fn key(c: &Canvas<'_>, action: Action) -> String {
    let row = Command::of(action, Screen::Snapshots);
    row.and_then(|r| c.m.keymap.keys(r).first().map(ToString::to_string)).unwrap_or_default()
}

fn spinner(c: &Canvas<'_>) -> &'static str {
    let s = c.look.symbols.spinner;
    s.get(c.m.now.frame(s.len())).copied().unwrap_or_default()
}

fn title(c: &mut Canvas<'_>, area: Rect, file: &std::path::Path) {
    let s = c.look.symbols;
    let name = file.file_name().map(|n| printable(&n.to_string_lossy())).unwrap_or_default();
    let x = c.put(area, 0, 0, &cut_middle(&name, usize::from(area.width / 2), s.ellipsis), Role::Title) + 2;
    let right = match c.m.snaps.list() {
        Some(l) if l.lock.in_use() => {
            let who = l.lock.holders().first().map_or("another program".to_string(), ToString::to_string);
            (format!("{} in use by {}: nothing here can be changed", s.lock, printable(&who)), Role::Warn)
        }
        Some(_) if c.m.snaps.loading() => (format!("{} counting", spinner(c)), Role::Accent),
        _ => (String::new(), Role::Dim),
    };
    put_right(c.buf, area, area.width, 0, &right.0, c.look.style(right.1));
    let room = usize::from(area.width.saturating_sub(x)).saturating_sub(width(&right.0) + 2);
    let folder = file.parent().map(path).unwrap_or_default();
    c.put(area, x, 0, &cut_front(&folder, room, s.ellipsis), Role::Dim);
}

/// Where the columns of the tree end, from the left of the list; those that do not fit are 0.
struct Columns {
    time: u16,
    tree: u16,
    bar: u16,
    exclusive: u16,
    deleted: u16,
    refers: u16,
    state: u16,
    kind: u16,
}

impl Columns {
    fn of(room: u16) -> Self {
        let wide = room >= 104;
        let (kind, state, exclusive) = (if wide { 10 } else { 0 }, if room >= 66 { 10 } else { 0 }, if wide { 11 } else { 0 });
        let state_end = room - kind;
        let refers = state_end - state;
        let deleted = refers - 9;
        let exclusive_end = deleted - 12;
        // The bar shows at a glance who holds most; it stands beside its number.
        let bar = match room {
            150.. => 26,
            112.. => 9,
            _ => 0,
        };
        Columns {
            time: 2 + if wide { 16 } else { 10 },
            tree: exclusive_end - exclusive - bar,
            bar,
            exclusive: if exclusive > 0 { exclusive_end } else { 0 },
            deleted,
            refers,
            state: if state > 0 { state_end } else { 0 },
            kind: if kind > 0 { room } else { 0 },
        }
    }
}

fn tree(c: &mut Canvas<'_>, area: Rect, list: &Listing) {
    let inferred = if c.m.snaps.lineage.is_none() {
        format!("{} looking where each came from", spinner(c))
    } else if list.snapshots.is_empty() {
        String::new()
    } else if list.snapshots.len() > 1 && c.m.snaps.rows.iter().all(|r| r.joints.is_empty()) {
        "each seems to come from the one above, as their shared clusters tell".to_string()
    } else {
        format!("{} inferred from shared clusters", c.look.symbols.dotted[1])
    };
    let overlays = c.m.snaps.rows.iter().filter(|r| matches!(r.what, What::Overlay(_))).count();
    let overlays = if overlays > 0 { format!(", {}", count(overlays, "overlay")) } else { String::new() };
    let title = format!("{}{overlays}", count(list.snapshots.len(), "snapshot"));
    frame::heading(c, area, 0, &title, &inferred, c.m.pane() == Pane::States);
    let body = Rect { x: area.x + 1, y: area.y + 1, width: area.width - 2, height: area.height.saturating_sub(1) };
    let at = Columns::of(body.width);
    c.put(body, 2, 0, if at.kind > 0 { "TIME (UTC)" } else { "DATE" }, Role::Dim);
    c.put(body, at.time + 1, 0, "TREE", Role::Dim);
    let dim = c.look.style(Role::Dim);
    for (end, name) in [
        (at.exclusive, "EXCLUSIVE"),
        (at.deleted, "IF DELETED"),
        (at.refers, "REFERS"),
        (at.state, "VM STATE"),
        (at.kind, "KIND"),
    ] {
        if end > 0 {
            put_right(c.buf, body, end, 0, name, dim);
        }
    }
    let lines = Rect { y: body.y + 1, height: body.height.saturating_sub(1), ..body };
    let len = c.m.snaps.rows.len();
    c.pane(Pane::States, lines, len);
    let view = window(c.m.snaps.scroll, len, lines.height);
    for (y, i) in (0u16..).zip(view.window(len)) {
        let Some(row) = c.m.snaps.rows.get(i) else { break };
        let line = Rect { y: lines.y + y, height: 1, ..lines };
        c.hits.add(line, Hit::Row(Pane::States, i));
        draw_row(c, line, row, &at, list);
        if i == view.at {
            let style = c.select(Pane::States);
            paint_row(c.buf, line, 0, style);
        }
    }
    scroll_mark(c, lines, lines.x + lines.width, view.top, len);
}

/// What a line says in its columns.
struct Cells {
    time: Option<i64>,
    bullet: (&'static str, Role),
    name: Vec<Span<'static>>,
    exclusive: Option<u64>,
    deleted: Option<(String, Role)>,
    refers: Option<u64>,
    state: Option<u64>,
    kind: String,
}

fn draw_row(c: &mut Canvas<'_>, line: Rect, row: &Row, at: &Columns, list: &Listing) {
    let s = c.look.symbols;
    let cells = cells(c, &row.what, list);
    if let What::Snapshot(i) = row.what
        && c.m.snaps.marked.contains(&i)
    {
        c.put(line, 0, 0, "x", Role::Bad);
    }
    let when = cells.time.map_or(s.dash.to_string(), date);
    c.put(Rect { width: at.time, ..line }, 2, 0, &when, Role::Dim);
    let mut x = at.time + 1;
    // Other images have no bar: their names have its room.
    let barred = !matches!(row.what, What::Base(_) | What::Overlay(_) | What::Lost(_));
    let width = if barred { at.tree } else { at.tree + at.bar };
    let tree = Rect { width, ..line };
    for joint in &row.joints {
        let (set, n) = match joint {
            Joint::Blank => (None, 0),
            Joint::Branch(inferred) => (Some(*inferred), 0),
            Joint::Last(inferred) => (Some(*inferred), 1),
            Joint::Down(inferred) => (Some(*inferred), 2),
        };
        let glyphs = if set == Some(true) { s.dotted } else { s.branch };
        let glyph = set.and_then(|_| glyphs.get(n).copied()).unwrap_or("  ");
        x = c.put(tree, x, 0, glyph, Role::Border);
    }
    x = c.put(tree, x, 0, cells.bullet.0, cells.bullet.1) + 1;
    let room = usize::from(width.saturating_sub(x));
    put_line(c.buf, tree, x, 0, &fit(cells.name, room, s.ellipsis));
    if at.bar > 0
        && barred
        && let (Some(own), Some(most)) = (cells.exclusive, c.m.snaps.most())
    {
        gauge(c, line, at.tree + 1, own as f64 / most.max(1) as f64, usize::from(at.bar - 1));
    }
    let dash = || (s.dash.to_string(), Role::Dim);
    let bytes = |v: Option<u64>| v.map_or_else(dash, |v| (size(v), Role::Text));
    for (end, (text, role)) in [
        (at.exclusive, bytes(cells.exclusive)),
        (at.deleted, cells.deleted.unwrap_or_else(dash)),
        (at.refers, bytes(cells.refers)),
        (at.state, bytes(cells.state)),
        (at.kind, (cells.kind, Role::Dim)),
    ] {
        if end > 0 {
            put_right(c.buf, line, end, 0, &text, c.look.style(role));
        }
    }
}

fn cells(c: &Canvas<'_>, what: &What, list: &Listing) -> Cells {
    let s = c.look.symbols;
    let state = &c.m.snaps;
    let current = state.lineage.as_ref().and_then(|l| l.as_ref().ok()).and_then(|l| l.live.parent);
    match what {
        What::Snapshot(i) => {
            let snap = list.snapshots.get(*i);
            let share = state.share(*i);
            let mut name = vec![c.look.span(Role::Strong, snap.map_or(String::new(), |s| printable(&s.name)))];
            if let Some(snap) = snap.filter(|s| s.id != s.name) {
                name.push(c.look.span(Role::Dim, format!(" #{}", printable(&snap.id))));
            }
            Cells {
                time: snap.map(|s| i64::from(s.date_sec)),
                bullet: if current == Some(*i) { (s.current, Role::Live) } else { (s.ring, Role::Text) },
                name,
                exclusive: share.map(|s| s.exclusive),
                deleted: share.map(|s| (format!("+{}", size(s.exclusive)), Role::Text)),
                refers: share.map(|s| s.referred),
                state: snap.map(|s| s.vm_state_size).filter(|n| *n > 0),
                kind: "internal".into(),
            }
        }
        What::Live => {
            let live = state.counted().map(|u| u.live);
            Cells {
                time: None,
                bullet: (s.dot, Role::Live),
                name: vec![c.look.span(Role::Title, "LIVE"), c.look.span(Role::Dim, "  the disk now")],
                exclusive: live.map(|l| l.exclusive),
                deleted: None,
                refers: live.map(|l| l.referred),
                state: None,
                kind: list.format.name().into(),
            }
        }
        What::Base(id) | What::Overlay(id) => image(c, *id, matches!(what, What::Base(_))),
        What::Lost(name) => Cells {
            time: None,
            bullet: (s.bad, Role::Bad),
            name: vec![c.look.span(Role::Bad, printable(name)), c.look.span(Role::Dim, "  the base is not there")],
            exclusive: None,
            deleted: None,
            refers: None,
            state: None,
            kind: String::new(),
        },
    }
}

/// Another image of the library: below the one shown, or on it.
fn image(c: &Canvas<'_>, id: EntryId, base: bool) -> Cells {
    let s = c.look.symbols;
    let e = c.m.library.data.get(id);
    let mut name = vec![c.look.span(Role::Text, e.map_or(String::new(), |e| e.name.clone()))];
    let note = match e {
        Some(e) if e.lock.in_use() => Some(format!("{} in use", s.lock)),
        Some(e) => e.users.first().map(|u| format!("vm {}", printable(&u.domain))),
        None => None,
    };
    name.push(c.look.span(Role::Dim, format!("  {}", if base { "base" } else { "overlay" })));
    name.extend(note.map(|n| c.look.span(Role::Warn, format!("  {n}"))));
    let deleted = |e: &Entry| match e.children.len() {
        0 => (format!("+{}", size(e.actual_size)), Role::Text),
        n => (format!("{} {n} on it", s.bad), Role::Warn),
    };
    Cells {
        time: e.map(Entry::modified),
        bullet: (s.other, Role::Accent),
        name,
        exclusive: e.map(|e| e.actual_size),
        deleted: e.map(deleted),
        refers: e.and_then(|e| e.allocated),
        state: None,
        kind: e.and_then(Entry::format).map_or(String::new(), |f| f.name().to_string()),
    }
}

fn detail(c: &mut Canvas<'_>, area: Rect, list: &Listing) {
    let at = c.m.snaps.at_cursor().cloned();
    let room = usize::from(area.width.saturating_sub(3));
    let (title, lines) = match &at {
        Some(What::Snapshot(i)) => snapshot_lines(c, *i, list, room),
        Some(What::Live) => live_lines(c, list, room),
        Some(What::Base(id) | What::Overlay(id)) => match c.m.library.data.get(*id) {
            Some(e) => (e.name.clone(), image_lines(c, e, room)),
            None => (String::new(), Vec::new()),
        },
        Some(What::Lost(name)) => {
            let mut out = Vec::new();
            paragraph(
                c,
                "missing",
                "the image this one stands on is not where it says; nothing that needs it can be read",
                Role::Bad,
                room,
                &mut out,
            );
            (printable(name), out)
        }
        None => (String::new(), Vec::new()),
    };
    frame::heading(c, area, 0, &title, "", c.m.pane() == Pane::State);
    let body = Rect { x: area.x + 1, y: area.y + 1, width: area.width - 2, height: area.height - 1 };
    c.pane(Pane::State, body, lines.len());
    let top = c.m.snaps.detail.top.min(lines.len().saturating_sub(usize::from(body.height)));
    for (y, line) in (0u16..).zip(lines.iter().skip(top).take(usize::from(body.height))) {
        put_line(c.buf, body, 0, y, line);
    }
    scroll_mark(c, body, body.x + body.width, top, lines.len());
}

fn snapshot_lines(c: &Canvas<'_>, i: usize, list: &Listing, room: usize) -> (String, Vec<Line<'static>>) {
    let Some(snap) = list.snapshots.get(i) else { return (String::new(), Vec::new()) };
    let mut out = Vec::new();
    match (&c.m.snaps.usage, c.m.snaps.share(i)) {
        (Some(Err(e)), _) => paragraph(c, "cost", &format!("it cannot be counted: {e}"), Role::Bad, room, &mut out),
        (_, Some(share)) => {
            let text = format!(
                "gives back {}; it refers to {}, the rest of which others use too",
                size_words(share.exclusive),
                size_words(share.referred)
            );
            paragraph(c, "if deleted", &text, Role::Text, room, &mut out);
        }
        _ => paragraph(c, "if deleted", c.look.symbols.dash, Role::Dim, room, &mut out),
    }
    came_from(c, c.m.snaps.kin(i), list, room, &mut out);
    let mut facts = vec![format!("{} UTC", date(i64::from(snap.date_sec))), format!("id {}", printable(&snap.id))];
    facts.push(format!("disk of {}", size_words(snap.disk_size)));
    if snap.disk_size != list.virtual_size {
        facts.push(format!("now {}", size_words(list.virtual_size)));
    }
    if snap.vm_state_size > 0 {
        facts.push(format!("with {} of VM state", size_words(snap.vm_state_size)));
    }
    if snap.vm_clock_nsec > 0 {
        facts.push(format!("guest clock {}", duration(snap.vm_clock_nsec / 1_000_000_000)));
    }
    paragraph(c, "taken", &facts.join(", "), Role::Text, room, &mut out);
    (printable(&snap.name), out)
}

/// Where a state seems to come from, and why.
fn came_from(
    c: &Canvas<'_>,
    kin: Option<crate::engine::format::qcow2::lineage::Kin>,
    list: &Listing,
    room: usize,
    out: &mut Vec<Line<'static>>,
) {
    let text = match (&c.m.snaps.lineage, kin) {
        (Some(Err(e)), _) => format!("cannot be told: {e}"),
        (None, _) | (_, None) => c.look.symbols.dash.to_string(),
        (_, Some(kin)) => match kin.parent.and_then(|p| list.snapshots.get(p)) {
            None => "it began by itself".to_string(),
            Some(p) if kin.shared == 0 => {
                format!("perhaps {}: they share nothing, and it is the one before", printable(&p.name))
            }
            Some(p) => format!(
                "{}, by inference: they share {} of its {}; no earlier snapshot shares more",
                printable(&p.name),
                grouped(kin.shared),
                count(usize::try_from(kin.own).unwrap_or(usize::MAX), "cluster")
            ),
        },
    };
    paragraph(c, "came from", &text, Role::Text, room, out);
}

fn live_lines(c: &Canvas<'_>, list: &Listing, room: usize) -> (String, Vec<Line<'static>>) {
    let mut out = Vec::new();
    let lineage = c.m.snaps.lineage.as_ref().and_then(|l| l.as_ref().ok());
    match &c.m.snaps.usage {
        Some(Err(e)) => paragraph(c, "cost", &format!("it cannot be counted: {e}"), Role::Bad, room, &mut out),
        _ => {
            if let Some(live) = c.m.snaps.counted().map(|u| u.live) {
                let text =
                    format!("{} that no snapshot has, of {} it refers to", size_words(live.exclusive), size_words(live.referred));
                paragraph(c, "holds", &text, Role::Text, room, &mut out);
            }
        }
    }
    if !list.snapshots.is_empty() {
        came_from(c, lineage.map(|l| l.live), list, room, &mut out);
    }
    if let Some(line) =
        c.m.snaps.path.as_ref().and_then(|p| c.m.library.data.at(p)).and_then(|e| deleted(c, &c.m.library.data, e))
    {
        out.push(line);
    }
    if list.broken {
        let text = "what it stands on cannot be read, so neither can it";
        paragraph(c, "broken", text, Role::Bad, room, &mut out);
    }
    if list.snapshots.is_empty() {
        let text = if list.format.entry().caps.snapshots {
            format!("none inside it; {} takes one", key(c, Action::TakeSnapshot))
        } else {
            format!("{} images have none inside; overlays on them do the same", list.format.name())
        };
        paragraph(c, "snapshots", &text, Role::Text, room, &mut out);
    }
    let text = format!(
        "{} of disk, {} on the host, file of {}",
        size_words(list.virtual_size),
        size_words(list.on_disk),
        size_words(list.len)
    );
    paragraph(c, "image", &text, Role::Text, room, &mut out);
    ("LIVE".into(), out)
}

fn image_lines(c: &Canvas<'_>, e: &Entry, room: usize) -> Vec<Line<'static>> {
    let mut out = Vec::new();
    match deleted(c, &c.m.library.data, e) {
        Some(line) => out.push(line),
        None => paragraph(c, "if deleted", &format!("gives back {}", size_words(e.actual_size)), Role::Text, room, &mut out),
    }
    paragraph(c, "path", &path(&e.path), Role::Text, room, &mut out);
    let snaps =
        e.facts.snapshots.filter(|n| *n > 0).map_or(String::new(), |n| format!(", {} inside it", count(n as usize, "snapshot")));
    let format = e.format().map_or("?", |f| f.name());
    let text = format!("{format}, {} on the host{snaps}", size_words(e.actual_size));
    out.push(labelled(c, "image", vec![c.look.span(Role::Text, text)]));
    out
}
