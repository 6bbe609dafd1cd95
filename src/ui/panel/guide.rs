//! The format guide: made from the engine's table of formats, which also says what cowshed can do with each.

use ratatui::layout::Rect;
use ratatui::text::Line;

use crate::app::hits::Hit;
use crate::app::model::Pane;
use crate::engine::format::{Caps, FORMATS, FormatEntry};
use crate::ui::pen::{paint_row, put_line};
use crate::ui::text::{count, wrap};
use crate::ui::theme::Role;
use crate::ui::widget::{scroll_mark, window};
use crate::ui::{Canvas, frame};

/// Draws the screen.
pub fn draw(c: &mut Canvas<'_>, area: Rect) {
    let left = 30.min(area.width / 3);
    list(c, Rect { width: left, ..area });
    for y in 1..area.height {
        c.put(area, left, y, c.look.symbols.vertical, Role::Border);
    }
    text(c, Rect { x: area.x + left + 1, width: area.width - left - 1, ..area });
}

fn list(c: &mut Canvas<'_>, area: Rect) {
    frame::heading(c, area, 0, "Formats", "", c.m.pane() == Pane::FormatList);
    let body = Rect { x: area.x + 1, y: area.y + 1, width: area.width - 2, height: area.height - 1 };
    c.pane(Pane::FormatList, body, FORMATS.len());
    let view = window(c.m.guide.list, FORMATS.len(), body.height);
    for (y, i) in (0u16..).zip(view.window(FORMATS.len())) {
        let Some(f) = FORMATS.get(i) else { break };
        let line = Rect { y: body.y + y, height: 1, ..body };
        c.hits.add(line, Hit::Row(Pane::FormatList, i));
        c.put(line, 0, 0, f.name, if f.caps.read { Role::Strong } else { Role::Dim });
        let have = c.m.library.data.iter().filter(|e| e.part_of.is_none() && e.format() == Some(f.format)).count();
        if have > 0 {
            c.put(line, 11, 0, &count(have, "image"), Role::Dim);
        }
        if i == view.at {
            let style = c.select(Pane::FormatList);
            paint_row(c.buf, line, 0, style);
        }
    }
    scroll_mark(c, body, body.x + body.width, view.top, FORMATS.len());
}

fn text(c: &mut Canvas<'_>, area: Rect) {
    let Some(f) = FORMATS.get(c.m.guide.list.at) else { return };
    frame::heading(c, area, 0, f.title, "", c.m.pane() == Pane::FormatText);
    let body = Rect { x: area.x + 2, y: area.y + 1, width: area.width.saturating_sub(4), height: area.height - 1 };
    let lines = lines(c, f, usize::from(body.width));
    c.pane(Pane::FormatText, body, lines.len());
    let top = c.m.guide.text.top.min(lines.len().saturating_sub(usize::from(body.height)));
    for (y, line) in (0u16..).zip(lines.iter().skip(top).take(usize::from(body.height))) {
        put_line(c.buf, body, 0, y, line);
    }
    scroll_mark(c, body, body.x + body.width + 1, top, lines.len());
}

fn lines(c: &Canvas<'_>, f: &FormatEntry, room: usize) -> Vec<Line<'static>> {
    let mut out = vec![Line::default()];
    for (title, words) in [
        ("What it is", f.guide.what),
        ("Where it comes from", f.guide.origin),
        ("Who uses it", f.guide.used_by),
        ("When to choose it", f.guide.choose),
    ] {
        out.push(Line::from(c.look.span(Role::Title, title)));
        out.extend(wrap(words, room.min(96)).into_iter().map(|l| Line::from(c.look.span(Role::Text, l))));
        out.push(Line::default());
    }
    out.push(Line::from(c.look.span(Role::Title, "What it can hold, and what cowshed can do with it")));
    let Caps { read, write, create, snapshots, backing, compression, encryption, sparse, resize, check, repair } = f.caps;
    let table = [
        [("sparse", sparse), ("read", read)],
        [("snapshots", snapshots), ("write in place", write)],
        [("backing or parent", backing), ("create", create)],
        [("compression", compression), ("resize", resize)],
        [("encryption", encryption), ("check", check)],
        [("", false), ("repair", repair)],
    ];
    for row in table {
        let mut spans = Vec::new();
        for (word, yes) in row {
            let (sign, role) = if yes { (c.look.symbols.good, Role::Good) } else { (c.look.symbols.dash, Role::Dim) };
            let sign = if word.is_empty() { " " } else { sign };
            spans.push(c.look.span(role, format!("{sign:<3}")));
            spans.push(c.look.span(if yes { Role::Text } else { Role::Dim }, format!("{word:<24}")));
        }
        out.push(Line::from(spans));
    }
    out.push(Line::default());
    let other = if f.driver == f.name { String::new() } else { format!("   called {} by QEMU", f.driver) };
    out.push(Line::from(c.look.span(Role::Dim, format!("usual endings: {}{other}", f.extensions.join(", ")))));
    out
}
