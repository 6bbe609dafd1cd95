//! An image's page: facts and findings on the left; chain and snapshots on the right. On narrow screens one below the other.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::map::cell_look;
use crate::app::Action;
use crate::app::command::Command;
use crate::app::hits::Hit;
use crate::app::model::{Pane, Screen};
use crate::app::state::map::Colour;
use crate::app::worker::image::PageData;
use crate::engine::Health;
use crate::engine::extents::Cell;
use crate::engine::format::probe::Confidence;
use crate::engine::guest::ready::Answer;
use crate::engine::units::printable;
use crate::ui::pen::{fit, paint_row, put_line, put_right};
use crate::ui::text::{
    ago, count, cut, cut_front, cut_middle, date, duration, grouped, path, percent, size, size_words, width, wrap,
};
use crate::ui::theme::Role;
use crate::ui::widget::{bar, scroll_mark, window};
use crate::ui::{Canvas, frame};

/// Draws the screen.
pub fn draw(c: &mut Canvas<'_>, area: Rect) {
    let Some(file) = c.m.page.path.clone() else {
        let text = "no image is open: select one in the library and press Enter";
        c.put(area, 3, area.height / 3, text, Role::Dim);
        return;
    };
    let head = Rect { x: area.x + 1, width: area.width - 2, height: 1, ..area };
    title(c, head, &file);
    let body = Rect { y: area.y + 1, height: area.height - 1, ..area };
    match &c.m.page.data {
        None => loading(c, body),
        Some(Err(e)) => {
            let mut y = 2;
            for line in wrap(&format!("{} {e}", c.look.symbols.bad), usize::from(body.width.saturating_sub(6))) {
                c.put(body, 3, y, &line, Role::Bad);
                y += 1;
            }
            if let Some(hint) = e.advice() {
                c.put(body, 3, y, &printable(hint), Role::Text);
                y += 1;
            }
            // What the library saw of it all the same: what it may be, who stands on it, which others have its name.
            if let Some(entry) = c.m.library.data.at(&file) {
                let lines = super::detail::entry(c, entry, usize::from(body.width.saturating_sub(6)));
                for (y, line) in (y + 1..body.height).zip(&lines) {
                    put_line(c.buf, body, 3, y, line);
                }
            }
            c.pane(Pane::Facts, body, 0);
        }
        Some(Ok(_)) => panes(c, body),
    }
}

fn loading(c: &mut Canvas<'_>, area: Rect) {
    let s = c.look.symbols.spinner;
    let frame = s.get(c.m.now.frame(s.len())).copied().unwrap_or_default();
    c.put(area, 3, 2, &format!("{frame} reading…"), Role::Dim);
}

fn title(c: &mut Canvas<'_>, area: Rect, file: &std::path::Path) {
    let name = file.file_name().map(|n| printable(&n.to_string_lossy())).unwrap_or_default();
    let s = c.look.symbols;
    let (sign, role) = match c.m.page.loaded().map(|d| d.health) {
        Some(Health::Ok) => (s.good, Role::Good),
        Some(Health::Warning) => (s.warn, Role::Warn),
        Some(_) => (s.bad, Role::Bad),
        None => (s.bullet, Role::Dim),
    };
    let x = c.put(area, 0, 0, sign, role) + 1;
    let room = usize::from(area.width / 2);
    let x = c.put(area, x, 0, &cut_middle(&name, room, s.ellipsis), Role::Title) + 2;
    let in_use = c.m.page.loaded().filter(|d| d.lock.in_use()).map(|d| {
        let who = d.lock.holders().first().map_or("another program".to_string(), ToString::to_string);
        format!("{} in use by {}", s.lock, printable(&who))
    });
    let right = in_use.unwrap_or_default();
    put_right(c.buf, area, area.width, 0, &right, c.look.style(Role::Warn));
    let folder = file.parent().map(path).unwrap_or_default();
    let room = usize::from(area.width.saturating_sub(x)).saturating_sub(width(&right) + 2);
    c.put(area, x, 0, &cut_front(&folder, room, s.ellipsis), Role::Dim);
}

fn panes(c: &mut Canvas<'_>, area: Rect) {
    let Some(data) = c.m.page.data.as_ref().and_then(|d| d.as_ref().ok()).cloned() else { return };
    let chain = u16::try_from(data.nodes.len()).unwrap_or(u16::MAX).saturating_add(3);
    if area.width >= 100 {
        let left = area.width * 11 / 24;
        let right = Rect { x: area.x + left + 1, width: area.width - left - 1, ..area };
        for y in 1..area.height {
            c.put(area, left, y, c.look.symbols.vertical, Role::Border);
        }
        facts(c, Rect { width: left, ..area }, &data);
        // On high screens the map and the guest get what the snapshots do not need.
        let snaps = data.nodes.first().map_or(0, |n| n.description.snapshots.len());
        let spare = right.height.saturating_sub(46 + u16::try_from(snaps).unwrap_or(u16::MAX).min(right.height / 3));
        let map = if right.height >= 18 { 6 + (spare / 2).min(10) } else { 0 };
        let free = right.height.saturating_sub(chain + map + 8 + u16::try_from(snaps).unwrap_or(u16::MAX).saturating_add(3));
        let inside = if right.height >= 28 { 8 + free.min(3) } else { 0 };
        let top = chain.min((right.height - map - inside) * 3 / 5).max(4.min(right.height));
        self::chain(c, Rect { height: top, ..right }, &data);
        snapshots(c, Rect { y: right.y + top, height: right.height - top - map - inside, ..right }, &data);
        if inside > 0 {
            guest(c, Rect { y: right.y + right.height - map - inside, height: inside, ..right });
        }
        if map > 0 {
            strip(c, Rect { y: right.y + right.height - map, height: map, ..right });
        }
    } else {
        let chain = chain.min(area.height / 3);
        let snaps = match data.nodes.first().map_or(0, |n| n.description.snapshots.len()) {
            0 => 2,
            n => u16::try_from(n + 2).unwrap_or(u16::MAX).min(area.height / 4).max(3),
        };
        let top = area.height - chain - snaps;
        facts(c, Rect { height: top, ..area }, &data);
        self::chain(c, Rect { y: area.y + top, height: chain, ..area }, &data);
        snapshots(c, Rect { y: area.y + top + chain, height: snaps, ..area }, &data);
    }
}

/// A pane's heading, and the area below it.
fn opened(c: &mut Canvas<'_>, area: Rect, pane: Pane, title: &str, right: &str) -> Rect {
    frame::heading(c, area, 0, title, right, c.m.pane() == pane);
    Rect { x: area.x + 1, y: area.y + 1, width: area.width.saturating_sub(2), height: area.height.saturating_sub(1) }
}

fn facts(c: &mut Canvas<'_>, area: Rect, data: &PageData) {
    let body = opened(c, area, Pane::Facts, "Facts", "");
    let lines = fact_lines(c, data, usize::from(body.width.saturating_sub(1)));
    c.pane(Pane::Facts, body, lines.len());
    let top = c.m.page.facts.top.min(lines.len().saturating_sub(usize::from(body.height)));
    for (y, line) in (0u16..).zip(lines.iter().skip(top).take(usize::from(body.height))) {
        put_line(c.buf, body, 0, y, line);
    }
    scroll_mark(c, body, body.x + body.width, top, lines.len());
}

fn fact_lines(c: &Canvas<'_>, data: &PageData, room: usize) -> Vec<Line<'static>> {
    let s = c.look.symbols;
    let Some(node) = data.nodes.first() else { return Vec::new() };
    let d = &node.description;
    let widest = d.facts.iter().map(|f| f.label.len()).max().unwrap_or(0).clamp(12, 22) + 2;
    let mut out = Vec::new();
    let mut add = |label: &str, value: String, role: Role| {
        for (i, part) in wrap(&printable(&value), room.saturating_sub(widest).max(8)).into_iter().enumerate() {
            let label = if i == 0 { label } else { "" };
            out.push(Line::from(vec![c.look.span(Role::Dim, format!("{label:<widest$}")), c.look.span(role, part)]));
        }
    };
    if !data.problems.is_empty() {
        let bad = !matches!(data.health, Health::Warning);
        for (i, p) in data.problems.iter().enumerate() {
            let (sign, role) = if bad && i == 0 { (s.bad, Role::Bad) } else { (s.warn, Role::Warn) };
            add(if i == 0 { "findings" } else { "" }, format!("{sign} {p}"), role);
        }
        if let Some(hint) = data.nodes.last().and_then(|n| n.error.as_ref()).and_then(|e| e.advice()) {
            add("hint", hint.to_string(), Role::Text);
        }
    }
    add(
        "format",
        node.format.map_or(s.dash.to_string(), |f| format!("{} {} {}", f.name(), s.dash, f.entry().title)),
        Role::Strong,
    );
    let virtual_size = node.virtual_size;
    add(
        "virtual size",
        virtual_size.map_or(s.dash.to_string(), |v| format!("{} ({} bytes)", size_words(v), grouped(v))),
        Role::Text,
    );
    let on_disk = node.actual_size.map_or(s.dash.to_string(), size_words);
    add("on disk", format!("{on_disk}, file {}", size_words(data.len)), Role::Text);
    if let Some(b) = d.cluster_size.filter(|_| {
        !d.facts.iter().any(|f| f.label.contains("cluster") || f.label.contains("grain") || f.label.contains("block"))
    }) {
        add("cluster size", size_words(b), Role::Text);
    }
    for f in &d.facts {
        add(f.label, f.value.clone(), Role::Text);
    }
    if let Some(how) = &d.encrypted {
        add("encrypted", how.clone(), Role::Warn);
    }
    for (i, b) in d.bitmaps.iter().enumerate() {
        let state = if b.in_use {
            ", in use or not saved"
        } else if b.auto {
            ", recording"
        } else {
            ""
        };
        add(if i == 0 { "bitmaps" } else { "" }, format!("{} ({}{state})", b.name, size_words(b.granularity)), Role::Text);
    }
    add("changed", format!("{} UTC ({})", date(data.modified), ago(data.modified, c.m.now.unix)), Role::Text);
    let more: Vec<_> = data.matches.iter().collect();
    for (i, m) in more.iter().enumerate() {
        let sure = match m.confidence {
            Confidence::Certain => "certain",
            Confidence::Likely => "likely",
            Confidence::Possible => "possible",
        };
        add(
            if i == 0 { "recognised" } else { "" },
            format!("{} ({sure}): {}", m.format, m.evidence),
            if i == 0 { Role::Text } else { Role::Dim },
        );
    }
    if data.problems.is_empty() {
        add("findings", format!("{} nothing is wrong, as far as opening it tells", s.good), Role::Good);
    }
    out
}

fn chain(c: &mut Canvas<'_>, area: Rect, data: &PageData) {
    let right = if data.nodes.len() == 1 {
        "stands alone".to_string()
    } else {
        format!("{}, read from the top down", count(data.nodes.len(), "layer"))
    };
    let body = opened(c, area, Pane::Chain, "Chain", &right);
    let s = c.look.symbols;
    let shares = c.m.page.shares.clone();
    // Columns: number, name, format, on disk, share of what a guest sees.
    let w = usize::from(body.width);
    let bar_room = if w >= 64 { 14 } else { 0 };
    let tail = 8 + 2 + 8 + 2 + 5 + if bar_room > 0 { bar_room + 1 } else { 0 };
    let name_room = w.saturating_sub(3 + tail + 1);
    let list = Rect { y: body.y + 1, height: body.height.saturating_sub(1), ..body };
    let fmt_x = (3 + name_room + 1) as u16;
    let size_x = fmt_x + 8 + 8 + 1;
    c.put(body, 3, 0, "LAYER", Role::Dim);
    c.put(body, fmt_x, 0, "FMT", Role::Dim);
    put_right(c.buf, body, size_x, 0, "ON-DISK", c.look.style(Role::Dim));
    put_right(c.buf, body, body.width, 0, "SEEN", c.look.style(Role::Dim));
    let total = data.nodes.first().and_then(|n| n.virtual_size).unwrap_or(0);
    let rest = matches!(&shares, Some(Ok(_)));
    c.pane(Pane::Chain, list, data.nodes.len());
    let view = window(c.m.page.chain, data.nodes.len(), list.height);
    for (y, i) in (0u16..).zip(view.window(data.nodes.len())) {
        let Some(node) = data.nodes.get(i) else { break };
        let line = Rect { y: list.y + y, height: 1, ..list };
        c.hits.add(line, Hit::Row(Pane::Chain, i));
        c.put(line, 0, 0, &i.to_string(), Role::Dim);
        let name = node.path.file_name().map(|n| printable(&n.to_string_lossy()));
        let name = name.or_else(|| node.spelled.as_deref().map(printable)).unwrap_or_else(|| s.dash.to_string());
        let role = if node.error.is_some() {
            Role::Bad
        } else if i == 0 {
            Role::Strong
        } else {
            Role::Text
        };
        let name = if node.error.is_some() { format!("{} {name}", s.bad) } else { name };
        c.put(line, 3, 0, &cut_middle(&name, name_room, s.ellipsis), role);
        c.put(line, fmt_x, 0, node.format.map_or(s.dash, |f| f.name()), Role::Text);
        put_right(c.buf, line, size_x, 0, &node.actual_size.map_or(s.dash.to_string(), size), c.look.style(Role::Text));
        if node.error.is_none() {
            let share = match &shares {
                Some(Ok(cells)) if total > 0 => Some(cells.total.by_depth.get(i).copied().unwrap_or(0) as f64 / total as f64),
                _ => None,
            };
            let text = match (&shares, share) {
                (_, Some(v)) => percent(v),
                (None, _) => s.spinner.get(c.m.now.frame(s.spinner.len())).copied().unwrap_or_default().to_string(),
                _ => s.dash.to_string(),
            };
            put_right(c.buf, line, line.width, 0, &text, c.look.style(Role::Text));
            if let Some(v) = share.filter(|_| bar_room > 0) {
                let colour = [Role::Layer0, Role::Layer1, Role::Layer2, Role::Layer3];
                let role = colour.get(i % colour.len()).copied().unwrap_or(Role::Bar);
                c.put(line, size_x + 1, 0, &bar(s, v, bar_room), role);
            }
        }
        if i == view.at && c.m.pane() == Pane::Chain {
            let style = c.select(Pane::Chain);
            paint_row(c.buf, line, 0, style);
        }
    }
    // What no layer holds, where there is room to say so.
    let y = u16::try_from(data.nodes.len()).unwrap_or(u16::MAX);
    if rest
        && y < list.height
        && total > 0
        && let Some(Ok(cells)) = &shares
    {
        c.put(list, 3, y, "(stored by none: zeros)", Role::Dim);
        put_right(
            c.buf,
            list,
            list.width,
            y,
            &percent((total.saturating_sub(cells.total.totals.stored())) as f64 / total as f64),
            c.look.style(Role::Dim),
        );
    }
}

/// Who is inside, in a few lines; the screen Inside tells it all.
fn guest(c: &mut Canvas<'_>, area: Rect) {
    let key = |action, screen| {
        let row = Command::of(action, screen);
        row.and_then(|r| c.m.keymap.keys(r).first().map(ToString::to_string)).unwrap_or_default()
    };
    let (inside, ready) = (key(Action::Go(Screen::Inside), Screen::Image), key(Action::Go(Screen::Ready), Screen::Image));
    frame::heading(c, area, 0, "Inside", &format!("{inside} looks inside, {ready} says where it is ready for"), false);
    let body = Rect { x: area.x + 1, y: area.y + 1, width: area.width.saturating_sub(2), height: area.height - 1 };
    c.hits.add(body, Hit::Run(Action::Go(Screen::Inside)));
    let Some(look) = c.m.inside.seen().filter(|_| c.m.inside.path == c.m.page.path).cloned() else {
        let why = match &c.m.inside.look {
            Some(Err(e)) => printable(e.why()),
            _ => format!("looking inside{}", c.look.symbols.ellipsis),
        };
        c.put(body, 0, 0, &cut(&why, usize::from(body.width), c.look.symbols.ellipsis), Role::Dim);
        return;
    };
    super::inside::strip(c, Rect { height: 1, ..body }, &look);
    let s = c.look.symbols;
    let holds: Vec<String> = look
        .volumes
        .iter()
        .map(|v| {
            let at = if v.at.is_empty() { String::new() } else { format!(" {}", v.at) };
            let holds = if v.holds.is_empty() { &v.kind } else { &v.holds };
            format!("{} {} {}{at}", printable(&v.name), holds, size(v.len))
        })
        .collect();
    let fact = |what: &str| look.facts.iter().find(|f| f.what == what).map(|f| f.value.clone());
    let all = |what: &str| look.facts.iter().filter(|f| f.what == what).count();
    let named = |what: &str, label: &str| fact(what).map(|v| format!("{label}{v}"));
    let who = [fact("os"), named("hostname", "host "), fact("architecture"), named("kernel", "kernel ")];
    let runs = [fact("init"), named("cloud-init", "cloud-init "), named("agent", ""), named("sshd", ""), named("firewall", "")];
    let keeps =
        [("host-key", "host key"), ("mac", "kept MAC"), ("user", "user with a shell"), ("authorized-keys", "authorized key")]
            .map(|(what, name)| (all(what) > 0).then(|| count(all(what), name)));
    let ready: Vec<String> = look
        .readiness
        .iter()
        .map(|r| {
            let sign = match r.answer() {
                Answer::No => s.bad,
                Answer::Unknown => "?",
                _ => s.good,
            };
            format!("{sign} {}", r.target.entry().title)
        })
        .collect();
    let join = |parts: Vec<Option<String>>| parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let lines = match (&look.error, look.found) {
        (Some(e), _) => vec![printable(&e.text)],
        (None, false) => vec![holds.join("  "), "no root filesystem of a Linux guest was found".into()],
        (None, true) => vec![holds.join("  "), join(who.to_vec()), join(runs.to_vec()), join(keeps.to_vec())],
    };
    let room = usize::from(body.width);
    // Each in one line, and the room that is left goes to those that need more of it.
    let verdicts = packed(&ready, room);
    let mut spare = usize::from(body.height.saturating_sub(1)).saturating_sub(lines.len() + verdicts.len());
    let mut y = 1;
    for (i, line) in lines.iter().enumerate() {
        let mut parts = wrap(line, room);
        if parts.len() > 1 + spare {
            let rest = parts.split_off(spare).join(" ");
            parts.push(cut(&rest, room, s.ellipsis));
        }
        spare -= parts.len().saturating_sub(1).min(spare);
        for part in parts {
            c.put(body, 0, y, &part, if i == 1 { Role::Strong } else { Role::Text });
            y += 1;
        }
    }
    for line in verdicts {
        c.put(body, 0, y, &line, Role::Dim);
        y += 1;
    }
}

/// Words side by side, none of them broken, in lines of at most `room` columns.
fn packed(words: &[String], room: usize) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for word in words {
        match out.last_mut() {
            Some(line) if width(line) + 2 + width(word) <= room => {
                line.push_str("  ");
                line.push_str(word);
            }
            _ => out.push(word.clone()),
        }
    }
    out
}

/// The whole disk in a few rows: enough to see where it is full. The map shows it closely.
fn strip(c: &mut Canvas<'_>, area: Rect) {
    let key = Command::of(Action::Map, Screen::Image).and_then(|r| c.m.keymap.keys(r).first().map(ToString::to_string));
    let right = key.map(|k| format!("{k} opens the map")).unwrap_or_default();
    frame::heading(c, area, 0, "Allocation", &right, false);
    let body = Rect { x: area.x + 1, y: area.y + 1, width: area.width.saturating_sub(2), height: area.height - 2 };
    c.hits.add(body, Hit::Run(Action::Map));
    let cells = match &c.m.page.shares {
        Some(Ok(cells)) if !cells.cells.is_empty() => cells.clone(),
        Some(Err(e)) => {
            let text = cut(&printable(e.why()), usize::from(body.width), c.look.symbols.ellipsis);
            c.put(body, 0, 0, &text, Role::Dim);
            return;
        }
        _ => return,
    };
    let room = usize::from(body.width) * usize::from(body.height);
    for i in 0..room {
        // As many cells of the answer as fall on this one, at least one.
        let n = cells.cells.len();
        let (from, to) = (i * n / room, ((i + 1) * n / room).max(i * n / room + 1));
        let mut sum = Cell::default();
        for cell in cells.cells.get(from..to.min(n)).unwrap_or_default() {
            sum.merge(cell);
        }
        let (glyph, role) = cell_look(c.look.symbols, &sum, Colour::Depth);
        let (x, y) = (i % usize::from(body.width), i / usize::from(body.width));
        c.put(body, x as u16, y as u16, glyph, role);
    }
    let total = cells.total.totals;
    let all = total.all().max(1) as f64;
    let text = format!("{} stored, {}", size_words(total.stored()), percent(total.stored() as f64 / all));
    c.put(area, 1, area.height - 1, &text, Role::Dim);
}

fn snapshots(c: &mut Canvas<'_>, area: Rect, data: &PageData) {
    let none = Vec::new();
    let all = data.nodes.first().map_or(&none, |n| &n.description.snapshots);
    let can = data.nodes.first().and_then(|n| n.format).is_some_and(|f| f.entry().caps.snapshots);
    let right = if all.is_empty() { String::new() } else { count(all.len(), "snapshot") };
    let body = opened(c, area, Pane::Snapshots, "Snapshots", &right);
    if all.is_empty() {
        let text = if can { "none" } else { "this format has no internal snapshots" };
        c.pane(Pane::Snapshots, body, 0);
        c.put(body, 0, 0, text, Role::Dim);
        return;
    }
    let list = Rect { y: body.y + 1, height: body.height.saturating_sub(1), ..body };
    c.put(body, 0, 0, "TAKEN (UTC)", Role::Dim);
    c.put(body, 18, 0, "NAME", Role::Dim);
    let wide = body.width >= 76;
    put_right(
        c.buf,
        body,
        body.width,
        0,
        if wide { " VIRTUAL  VM STATE     CLOCK" } else { "VM STATE" },
        c.look.style(Role::Dim),
    );
    c.pane(Pane::Snapshots, list, all.len());
    let view = window(c.m.page.snapshots, all.len(), list.height);
    for (y, i) in (0u16..).zip(view.window(all.len())) {
        let Some(snap) = all.get(i) else { break };
        let line = Rect { y: list.y + y, height: 1, ..list };
        c.hits.add(line, Hit::Row(Pane::Snapshots, i));
        c.put(line, 0, 0, &date(i64::from(snap.date_sec)), Role::Text);
        let state = if snap.vm_state_size > 0 { size(snap.vm_state_size) } else { c.look.symbols.dash.to_string() };
        let clock =
            if snap.vm_clock_nsec > 0 { duration(snap.vm_clock_nsec / 1_000_000_000) } else { c.look.symbols.dash.to_string() };
        let right = if wide { format!("{:>8} {state:>9} {clock:>9}", size(snap.disk_size)) } else { state };
        let room = usize::from(line.width).saturating_sub(19 + right.len());
        let name = fit(
            vec![
                c.look.span(Role::Strong, printable(&snap.name)),
                Span::raw(" "),
                c.look.span(Role::Dim, if snap.id == snap.name { String::new() } else { format!("#{}", printable(&snap.id)) }),
            ],
            room,
            c.look.symbols.ellipsis,
        );
        put_line(c.buf, line, 18, 0, &name);
        put_right(c.buf, line, line.width, 0, &right, c.look.style(Role::Text));
        if i == view.at && c.m.pane() == Pane::Snapshots {
            let style = c.select(Pane::Snapshots);
            paint_row(c.buf, line, 0, style);
        }
    }
}
