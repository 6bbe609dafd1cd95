//! The library: its bar, the tree with its columns, the strip about what is selected, and the totals.
//!
//! ```text
//! filter ▸ group ▸ sort
//! NAME                     FMT   VIRTUAL  ON-DISK  ALLOC        SNAP  USED BY / LOCK   HEALTH
//! ▾ /srv/images
//!   ▾ base.qcow2           qcow2   20.0G     2.1G ▕█▏    11%     0   —                ✔
//!     ├─ web-01.qcow2      …
//! ── base.qcow2 ─────────────────────────────────────────────────────────────────────────────
//! detail strip
//! totals
//! ```

use ratatui::layout::Rect;
use ratatui::style::Modifier;

use super::detail;
use crate::app::filter::Fuzzy;
use crate::app::hits::Hit;
use crate::app::layer::Layer;
use crate::app::model::{Pane, Screen};
use crate::app::state::check::worst;
use crate::app::tree::{Column, Row};
use crate::engine::error::ErrorKind;
use crate::engine::format::check::Severity;
use crate::engine::library::{DomainState, Entry, Grouping, Health, NodeKind};
use crate::engine::ops::checking::verdict;
use crate::engine::units::printable;
use crate::ui::Canvas;
use crate::ui::pen::{paint_row, put, put_right};
use crate::ui::text::{ago, count, cut, cut_front, cut_middle, path, percent, size, width, wrap};
use crate::ui::theme::Role;
use crate::ui::widget::{gauge, scroll_mark, window};

/// A column with its place.
#[derive(Debug, Clone, Copy)]
struct Slot {
    column: Column,
    x: u16,
    width: u16,
}

/// Width of each column besides the name, and in which order they go when there is no room.
const WIDTHS: [(Column, u16, u8); 8] = [
    (Column::Format, 6, 6),
    (Column::Virtual, 7, 4),
    (Column::OnDisk, 7, 7),
    (Column::Alloc, 13, 3),
    (Column::Snapshots, 4, 1),
    (Column::Changed, 13, 0),
    (Column::UsedBy, 17, 2),
    (Column::Health, 15, 8),
];

/// The columns that fit, from left to right.
fn columns(room: u16) -> Vec<Slot> {
    let least = if room < 100 { 26 } else { 32 };
    let mut kept: Vec<(Column, u16, u8)> = WIDTHS.to_vec();
    let total = |kept: &[(Column, u16, u8)]| kept.iter().map(|(_, w, _)| w + 2).sum::<u16>();
    while !kept.is_empty() && total(&kept) + least > room {
        let weakest = kept.iter().enumerate().min_by_key(|(_, k)| k.2).map_or(0, |(i, _)| i);
        kept.remove(weakest);
    }
    // What is left over goes to the name first, then to who uses it and to health, which are words.
    let mut spare = room.saturating_sub(total(&kept) + least);
    let mut name = least + spare.min(26);
    spare -= spare.min(26);
    for (column, w, _) in &mut kept {
        if matches!(column, Column::UsedBy | Column::Health) {
            let more = (spare / 2).min(22);
            *w += more;
        }
    }
    spare = room.saturating_sub(total(&kept) + name);
    name += spare;
    let mut out = vec![Slot { column: Column::Name, x: 0, width: name }];
    let mut x = name;
    for (column, w, _) in kept {
        out.push(Slot { column, x: x + 2, width: w });
        x += w + 2;
    }
    out
}

/// Draws the screen.
pub fn draw(c: &mut Canvas<'_>, area: Rect) {
    let inner = Rect { x: area.x + 1, width: area.width - 2, ..area };
    toolbar(c, Rect { height: 1, ..inner });
    let strip = match area.height {
        0..=13 => 0,
        14..=19 => 4,
        20..=27 => 6,
        _ => 8,
    };
    let totals = area.height - 1;
    let tree = Rect { y: area.y + 1, height: area.height - 2 - strip, ..inner };
    self::tree(c, tree);
    if strip > 0 {
        let y = tree.y + tree.height;
        detail::draw(c, Rect { y, height: strip, ..area });
    }
    totals_line(c, Rect { y: area.y + totals, height: 1, ..inner });
}

fn toolbar(c: &mut Canvas<'_>, area: Rect) {
    let lib = &c.m.library;
    let typing = matches!(c.m.layer(), Some(Layer::Filter));
    // Right: grouping and order.
    let sign = if lib.sort.1 { c.look.symbols.down } else { c.look.symbols.up };
    let order = format!("{} {sign}", lib.sort.0.title().split(" /").next().unwrap_or_default().to_lowercase());
    let groups = [("chain", Grouping::Chain), ("folder", Grouping::Folder), ("format", Grouping::Format)];
    let right = format!("group: chain folder format   sort: {order}");
    let mut at = area.width.saturating_sub(width(&right) as u16);
    let wide = area.width >= 76;
    if wide {
        let start = at;
        at = c.put(area, at, 0, "group: ", Role::Dim);
        for (name, grouping) in groups {
            at = c.put(area, at, 0, name, if lib.grouping == grouping { Role::Title } else { Role::Dim }) + 1;
        }
        c.hits.add(Rect { x: area.x + start, width: at - start, ..area }, Hit::Run(crate::app::Action::Group));
        let start = at + 2;
        at = c.put(area, start, 0, "sort: ", Role::Dim);
        at = c.put(area, at, 0, &order, Role::Title);
        c.hits.add(Rect { x: area.x + start, width: at - start, ..area }, Hit::Run(crate::app::Action::Sort));
    }
    let room = if wide { area.width.saturating_sub(width(&right) as u16 + 2) } else { area.width };
    let left = Rect { width: room, ..area };
    if typing || !lib.filter.is_empty() {
        let (before, after) = lib.filter.split();
        let mut x = c.put(left, 0, 0, "/", Role::Accent);
        x = c.put(left, x, 0, &cut_front(before, 30, c.look.symbols.ellipsis), Role::Strong);
        if typing {
            let under = after.chars().next().map_or(" ".to_string(), |ch| ch.to_string());
            let style = c.look.style(Role::Strong).add_modifier(Modifier::REVERSED);
            x = put(c.buf, left, x, 0, &under, style);
            x = c.put(left, x, 0, after.get(under.len().min(after.len())..).unwrap_or_default(), Role::Strong);
        } else {
            x = c.put(left, x, 0, after, Role::Strong);
        }
        let found = format!("{} of {}", lib.matched, lib.totals.images);
        let role = if lib.matched == 0 { Role::Bad } else { Role::Dim };
        c.put(left, x + 2, 0, &found, role);
        c.hits.add(left, Hit::Run(crate::app::Action::Filter));
    } else if lib.problems {
        let text = format!("only problems: {} of {}", lib.matched, lib.totals.images);
        c.put(left, 0, 0, &text, Role::Warn);
    } else {
        let roots: Vec<String> = lib.data.roots.iter().map(|r| path(&r.path)).collect();
        let text = if roots.is_empty() { c.m.roots.iter().map(|p| path(p)).collect::<Vec<_>>() } else { roots }.join("  ");
        let shown = cut_middle(&text, usize::from(room), c.look.symbols.ellipsis);
        c.put(left, 0, 0, &shown, Role::Dim);
    }
}

fn tree(c: &mut Canvas<'_>, area: Rect) {
    let slots = columns(area.width);
    for s in &slots {
        let sorted = c.m.library.sort.0 == s.column;
        let role = if sorted { Role::Title } else { Role::Dim };
        let mark = if !sorted {
            ""
        } else if c.m.library.sort.1 {
            c.look.symbols.down
        } else {
            c.look.symbols.up
        };
        // The mark of a heading as wide as its column stands in the gap before it.
        let gap = usize::from(numeric(s.column));
        let title = cut(&format!("{}{mark}", s.column.title()), usize::from(s.width) + gap, "");
        let style = c.look.style(role);
        if numeric(s.column) {
            put_right(c.buf, area, s.x + s.width, 0, &title, style);
        } else {
            put(c.buf, area, s.x, 0, &title, style);
        }
        c.hits.add(Rect { x: area.x + s.x, y: area.y, width: s.width, height: 1 }, Hit::Sort(s.column));
    }
    let list = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    let lib = &c.m.library;
    c.pane(Pane::Tree, list, lib.rows.len());
    if lib.rows.iter().all(|r| lib.entry(r).is_none()) && !lib.loading && (lib.data.is_empty() || !lib.filter.is_empty()) {
        empty(c, list);
        return;
    }
    let view = window(lib.scroll, lib.rows.len(), list.height);
    let mut fuzzy = (!lib.filter.is_empty()).then(|| Fuzzy::new(lib.filter.text()));
    for (y, i) in (0u16..).zip(view.window(lib.rows.len())) {
        let Some(row) = c.m.library.rows.get(i) else { break };
        let line = Rect { y: list.y + y, height: 1, ..list };
        c.hits.add(line, Hit::Row(Pane::Tree, i));
        draw_row(c, line, row, i, &slots, fuzzy.as_mut());
        if i == view.at {
            let style = c.select(Pane::Tree);
            paint_row(c.buf, line, 0, style);
        }
    }
    scroll_mark(c, list, list.x + list.width + 1, view.top, lib.rows.len());
}

fn numeric(column: Column) -> bool {
    matches!(column, Column::Virtual | Column::OnDisk | Column::Snapshots | Column::Changed)
}

fn empty(c: &mut Canvas<'_>, area: Rect) {
    let key = |action| {
        crate::app::command::Command::of(action, c.m.screen)
            .and_then(|r| c.m.keymap.keys(r).first().map(ToString::to_string))
            .unwrap_or_default()
    };
    let lines = if c.m.library.filter.is_empty() {
        let roots: Vec<String> = c.m.roots.iter().map(|r| path(r)).collect();
        // A folder that cannot be read is no empty folder.
        let error = c.m.library.data.roots.iter().find_map(|r| r.error.as_ref());
        let first = match error {
            Some(e) => format!("{} cannot be read: {}", roots.join(", "), printable(e.why())),
            None => format!("no disk images in {}", roots.join(", ")),
        };
        [
            cut_front(&first, usize::from(area.width).saturating_sub(2), c.look.symbols.ellipsis),
            format!(
                "{} looks again   {} makes a new image   {} shows the formats   {} quits",
                key(crate::app::Action::Rescan),
                key(crate::app::Action::Create),
                key(crate::app::Action::Go(Screen::Guide)),
                key(crate::app::Action::Quit)
            ),
            "cowshed DIR opens another folder; cowshed demo makes one to play with".to_string(),
        ]
    } else {
        [
            format!("nothing matches '{}'", printable(c.m.library.filter.text())),
            "Esc clears the filter".to_string(),
            String::new(),
        ]
    };
    let mut y = area.height / 3;
    for (i, line) in lines.iter().enumerate() {
        for part in wrap(line, usize::from(area.width)) {
            let x = (usize::from(area.width).saturating_sub(width(&part)) / 2) as u16;
            c.put(area, x, y, &part, if i == 0 { Role::Strong } else { Role::Dim });
            y += 1;
        }
        y += 1;
    }
}

fn draw_row(c: &mut Canvas<'_>, line: Rect, row: &Row, index: usize, slots: &[Slot], fuzzy: Option<&mut Fuzzy>) {
    let Some(kind) = c.m.library.kind(row) else { return };
    let s = c.look.symbols;
    let name_room = slots.first().map_or(0, |s| s.width);
    let cell = Rect { width: name_room.min(line.width), ..line };
    // A top stands at the edge; what is below it is moved in by one step, and joined by lines from the second step on.
    let mut x = if row.depth > 0 { 2 } else { 0 };
    for d in 2..row.depth {
        let down = row.lines & 1u128.checked_shl(d as u32).unwrap_or(0) != 0;
        x = c.put(cell, x, 0, if down { s.branch[2] } else { "  " }, Role::Border);
    }
    let joined = row.depth > 1;
    if joined {
        x = c.put(cell, x, 0, if row.more { s.branch[0] } else { s.branch[1] }, Role::Border);
    }
    if row.parent {
        c.put(cell, x, 0, if row.open { s.open } else { s.closed }, Role::Accent);
        c.hits.add(Rect { x: cell.x + x, y: cell.y, width: 2, height: 1 }, Hit::Fold(index));
    } else if joined {
        c.put(cell, x, 0, s.horizontal, Role::Border);
    }
    x += 2;
    match kind {
        NodeKind::Entry(id) => {
            if let Some(entry) = c.m.library.data.get(*id) {
                entry_name(c, cell, x, entry, row.matched, fuzzy);
                for slot in slots.iter().skip(1) {
                    entry_cell(c, Rect { x: line.x + slot.x, width: slot.width, ..line }, slot.column, entry);
                }
            }
        }
        NodeKind::Root(i) => {
            let Some(root) = c.m.library.data.roots.get(*i) else { return };
            let text = path(&root.path);
            if let Some(e) = &root.error {
                let room = usize::from(line.width.saturating_sub(x));
                x = c.put(line, x, 0, &cut_front(&text, room, s.ellipsis), Role::Title);
                let room = usize::from(line.width.saturating_sub(x + 2));
                c.put(line, x + 2, 0, &cut(&format!("{} {}", s.bad, printable(e.why())), room, s.ellipsis), Role::Bad);
                return;
            }
            let free = root.free;
            let room = usize::from(cell.width.saturating_sub(x));
            c.put(cell, x, 0, &cut_front(&text, room, s.ellipsis), Role::Title);
            sums(c, line, slots, row.node, free);
        }
        NodeKind::Folder(p) => {
            let text = p.file_name().map(|n| printable(&n.to_string_lossy())).unwrap_or_default();
            let room = usize::from(cell.width.saturating_sub(x + 1));
            c.put(cell, x, 0, &format!("{}/", cut_middle(&text, room, s.ellipsis)), Role::Title);
            sums(c, line, slots, row.node, None);
        }
        NodeKind::Format(f) => {
            let text = f.map_or("not an image", |f| f.entry().title);
            let room = usize::from(cell.width.saturating_sub(x));
            c.put(cell, x, 0, &cut(text, room, s.ellipsis), Role::Title);
            sums(c, line, slots, row.node, None);
        }
    }
}

/// What is below a folder, a root or a format together, each number in the column of its kind.
fn sums(c: &mut Canvas<'_>, line: Rect, slots: &[Slot], node: usize, free: Option<u64>) {
    let s = c.look.symbols;
    let sum = c.m.library.sorted.below(node);
    let images = count(sum.images, "image");
    let more = free.map_or(String::new(), |free| format!(", {} free", size(free)));
    for slot in slots.iter().skip(1) {
        let cell = Rect { x: line.x + slot.x, width: slot.width, ..line };
        match slot.column {
            Column::Virtual => put_right(c.buf, cell, cell.width, 0, &size(sum.virtual_size), c.look.style(Role::Dim)),
            Column::OnDisk => put_right(c.buf, cell, cell.width, 0, &size(sum.on_disk), c.look.style(Role::Text)),
            // The columns up to its health have nothing to sum up.
            Column::Alloc => {
                let end = slots.iter().find(|s| s.column == Column::Health).map_or(cell.width, |s| s.x - slot.x);
                let room = usize::from(end.saturating_sub(1));
                let text = if width(&images) + width(&more) <= room { format!("{images}{more}") } else { images.clone() };
                c.put(Rect { width: end, ..cell }, 0, 0, &cut(&text, room, s.ellipsis), Role::Dim);
            }
            Column::Health => {
                let mut x = 0;
                for (n, sign, role) in [(sum.broken, s.bad, Role::Bad), (sum.warned, s.warn, Role::Warn)] {
                    if n > 0 {
                        x = c.put(cell, x, 0, &format!("{sign} {n}"), role) + 2;
                    }
                }
            }
            _ => {}
        }
    }
}

fn entry_name(c: &mut Canvas<'_>, cell: Rect, x: u16, entry: &Entry, matched: bool, fuzzy: Option<&mut Fuzzy>) {
    let role = match (&entry.health, matched) {
        (_, false) => Role::Dim,
        (Health::Broken(_), _) => Role::Bad,
        _ if entry.children.is_empty() => Role::Text,
        _ => Role::Strong,
    };
    let room = usize::from(cell.width.saturating_sub(x));
    let shown = cut_middle(&entry.name, room, c.look.symbols.ellipsis);
    let end = c.put(cell, x, 0, &shown, role);
    // Marks only where the name is whole: their places count its characters.
    if let Some(fuzzy) = fuzzy.filter(|_| matched && shown == entry.name) {
        let marks = fuzzy.marks(&entry.name);
        let style = c.look.style(Role::Accent).add_modifier(Modifier::UNDERLINED);
        let mut at = x;
        for (i, ch) in (0u32..).zip(entry.name.chars()) {
            let w = width(ch.encode_utf8(&mut [0; 4])) as u16;
            if marks.binary_search(&i).is_ok() && at + w <= end {
                c.buf.set_style(Rect { x: cell.x + at, y: cell.y, width: w.max(1), height: 1 }.intersection(c.buf.area), style);
            }
            at += w;
        }
    }
}

fn entry_cell(c: &mut Canvas<'_>, cell: Rect, column: Column, e: &Entry) {
    let s = c.look.symbols;
    let right = |c: &mut Canvas<'_>, text: Option<String>, role: Role| {
        let (text, role) = text.map_or((s.dash.to_string(), Role::Dim), |t| (t, role));
        put_right(c.buf, cell, cell.width, 0, &text, c.look.style(role));
    };
    match column {
        Column::Name => {}
        Column::Format => {
            let text = e.format().map_or(s.dash, |f| f.name());
            c.put(cell, 0, 0, &cut(text, usize::from(cell.width), s.ellipsis), Role::Text);
        }
        // Of a kind that is only recognised, nought is no size but one that nobody looked for.
        Column::Virtual => right(c, e.virtual_size().filter(|v| *v > 0 || reads(e)).map(size), Role::Text),
        // What cannot be read has a size nobody knows.
        Column::OnDisk => right(c, Some(size(e.actual_size)).filter(|_| e.actual_size > 0 || e.format().is_some()), Role::Text),
        Column::Alloc => match e.share().filter(|_| reads(e)) {
            Some(share) => {
                let room = usize::from(cell.width).saturating_sub(5);
                gauge(c, cell, 0, share, room);
                put_right(c.buf, cell, cell.width, 0, &percent(share), c.look.style(Role::Text));
            }
            None => right(c, None, Role::Dim),
        },
        Column::Snapshots => {
            let role = if e.facts.snapshots == Some(0) { Role::Dim } else { Role::Text };
            right(c, e.facts.snapshots.map(|n| n.to_string()), role);
        }
        Column::Changed => right(c, Some(ago(e.modified(), c.m.now.unix)), Role::Dim),
        Column::UsedBy => {
            let (text, role) = used_by(c, e);
            c.put(cell, 0, 0, &cut(&text, usize::from(cell.width), s.ellipsis), role);
        }
        Column::Health => {
            let (sign, text, role) = health(c, e);
            let x = c.put(cell, 0, 0, sign, role) + 1;
            let room = usize::from(cell.width.saturating_sub(x));
            c.put(cell, x, 0, &cut(&text, room, s.ellipsis), role);
        }
    }
}

/// What is in it can be read, as far as its format goes.
fn reads(e: &Entry) -> bool {
    e.format().is_some_and(|f| f.entry().caps.read)
}

/// Who uses or holds an image, in a few words.
fn used_by(c: &Canvas<'_>, e: &Entry) -> (String, Role) {
    let s = c.look.symbols;
    let held = e.lock.in_use();
    match (e.users.first(), held) {
        (Some(u), _) => {
            let more = if e.users.len() > 1 { format!(" +{}", e.users.len() - 1) } else { String::new() };
            let (sign, role) = match u.state {
                DomainState::Running => (s.dot, Role::Live),
                _ if held => (s.lock, Role::Warn),
                _ => (s.ring, Role::Text),
            };
            (format!("{sign} {}{more}", printable(&u.domain)), role)
        }
        (None, true) => {
            let who = e.lock.holders().first().map_or("in use".to_string(), |h| match (&h.name, h.pid) {
                (Some(n), Some(p)) => format!("{} {p}", printable(n)),
                _ => h.to_string(),
            });
            (format!("{} {who}", s.lock), Role::Warn)
        }
        (None, false) if !e.children.is_empty() => (count_children(e.children.len()), Role::Dim),
        _ => (s.dash.to_string(), Role::Dim),
    }
}

fn count_children(n: usize) -> String {
    if n == 1 { "1 child".into() } else { format!("{n} children") }
}

/// How an image is, in a word.
pub fn health(c: &Canvas<'_>, e: &Entry) -> (&'static str, String, Role) {
    let s = c.look.symbols;
    // A check knows more than opening does, as long as nothing was written since.
    if let Some(checked) = c.m.check.of(e) {
        let verdict = verdict(checked.format, &checked.report);
        match (worst(checked), &e.health) {
            (Some(Severity::Corruption), _) => return (s.bad, verdict, Role::Bad),
            (Some(_), Health::Ok) => return (s.warn, verdict, Role::Warn),
            (None, Health::Ok) => return (s.good, "checked".into(), Role::Good),
            _ => {}
        }
    }
    match &e.health {
        Health::Ok if e.lock.in_use() => (s.good, "in use".into(), Role::Good),
        Health::Ok => (s.good, String::new(), Role::Good),
        Health::Warning(all) => {
            let text = if e.facts.encrypted.is_some() {
                "encrypted".into()
            } else if e.facts.dirty {
                "not closed".into()
            } else {
                match all.as_slice() {
                    [_] if e.format().is_some_and(|f| !f.entry().caps.read) => "not supported".into(),
                    [one] => printable(one),
                    many => format!("{} warnings", many.len()),
                }
            };
            (s.warn, text, Role::Warn)
        }
        Health::Broken(error) => {
            let own = e.facts.error.is_some();
            let word = match error.kind() {
                ErrorKind::MissingReference => "base gone",
                ErrorKind::NotFound if !own => "base gone",
                ErrorKind::NotFound => "gone",
                ErrorKind::Loop => "loop",
                ErrorKind::Gated => "base outside",
                ErrorKind::ParentChanged => "base changed",
                ErrorKind::Truncated => "truncated",
                ErrorKind::Corrupt => "corrupt",
                ErrorKind::Permission => "no access",
                ErrorKind::Unsupported => "unsupported",
                ErrorKind::Format => "no format",
                _ => "unreadable",
            };
            (s.bad, if own || !e.is_overlay() { word.into() } else { word.to_string() }, Role::Bad)
        }
    }
}

fn totals_line(c: &mut Canvas<'_>, area: Rect) {
    let lib = &c.m.library;
    let s = c.look.symbols;
    let t = lib.totals;
    let mut x = 0;
    if lib.loading || lib.data.scanning {
        let frame = s.spinner.get(c.m.now.frame(s.spinner.len())).copied().unwrap_or_default();
        let p = lib.data.progress;
        x = c.put(area, x, 0, frame, Role::Accent) + 1;
        let text = format!("{} files, {} images", crate::ui::text::grouped(p.files), crate::ui::text::grouped(p.images));
        x = c.put(area, x, 0, &text, Role::Text) + 3;
    } else {
        x = c.put(area, x, 0, &count(t.images, "image"), Role::Strong) + 3;
    }
    if t.images == 0 {
        return;
    }
    x = c.put(area, x, 0, &format!("on disk {} of {}", size(t.on_disk), size(t.virtual_size)), Role::Text) + 3;
    for (n, word, role) in
        [(t.broken, "broken", Role::Bad), (t.warned, "to look at", Role::Warn), (t.in_use, "in use", Role::Live)]
    {
        if n > 0 {
            x = c.put(area, x, 0, &format!("{n} {word}"), role) + 3;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fill_the_room_and_go_one_by_one() {
        let mut last = 0;
        for room in 40..240 {
            let all = columns(room);
            let end = all.last().map(|s| s.x + s.width).unwrap();
            assert!(end == room || all.len() == 1, "{room}: {end}");
            assert!(all.len() >= last, "{room}");
            last = all.len();
        }
        assert_eq!(last, 9);
        let names: Vec<_> = columns(77).iter().map(|s| s.column).collect();
        assert!(
            names.contains(&Column::Format) && names.contains(&Column::OnDisk) && names.contains(&Column::Health),
            "{names:?}"
        );
    }
}
