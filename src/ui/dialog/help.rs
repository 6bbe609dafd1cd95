//! The help of a screen: its commands, then what works everywhere; typing searches.

use ratatui::layout::Rect;

use super::{hints, input, open};
use crate::app::command::Command;
use crate::app::hits::Hit;
use crate::app::layer::Help;
use crate::ui::Canvas;
use crate::ui::text::{cut, wrap};
use crate::ui::theme::Role;
use crate::ui::widget::scroll_mark;

/// Column where the sentences stand.
const DOC: u16 = 38;

/// A line of the help.
enum Line {
    Blank,
    Heading(&'static str),
    /// Of a command: whether it is the first of its lines, and what stands on it of its sentence.
    Command {
        row: &'static Command,
        first: bool,
        text: String,
        role: Role,
    },
}

/// Commands with their sentences in full, and why not where they cannot be done now; a heading before each scope.
fn lines(c: &Canvas<'_>, rows: &[&'static Command], columns: u16) -> Vec<Line> {
    let room = usize::from(columns.saturating_sub(DOC)).max(10);
    let mut out = Vec::new();
    let mut last = None;
    for &row in rows {
        if last.is_some() && last != Some(row.scope) {
            out.push(Line::Blank);
        }
        if last != Some(row.scope) {
            out.push(Line::Heading(row.scope.title()));
            last = Some(row.scope);
        }
        let why = (row.enabled)(c.m).err().map(|why| format!("not now: {why}"));
        let role = if why.is_some() { Role::Dim } else { Role::Text };
        let sentence = wrap(row.doc, room).into_iter().map(|l| (l, role));
        let reason = why.iter().flat_map(|w| wrap(w, room)).map(|l| (l, Role::Warn));
        for (i, (text, role)) in sentence.chain(reason).enumerate() {
            out.push(Line::Command { row, first: i == 0, text, role });
        }
    }
    out
}

pub(super) fn draw(c: &mut Canvas<'_>, screen: Rect, help: &Help) {
    let area = open(c, screen, 100, screen.height, &format!("Help {} {}", c.look.symbols.dash, c.m.screen.title()));
    c.put(area, 0, 0, "search:", Role::Dim);
    input(c, area, 8, 0, &help.search, true);
    let rows = help.rows(c.m.screen, &c.m.keymap);
    let body = Rect { y: area.y + 2, height: area.height.saturating_sub(4), ..area };
    let lines = lines(c, &rows, body.width);
    c.hits.layer = usize::from(body.height);
    c.hits.layer_len = lines.len();
    if rows.is_empty() {
        c.put(body, 0, 1, "nothing here is called that", Role::Dim);
    }
    let top = help.top.min(lines.len().saturating_sub(usize::from(body.height)));
    for (y, line) in (0u16..).zip(lines.iter().skip(top).take(usize::from(body.height))) {
        match line {
            Line::Blank => {}
            Line::Heading(text) => {
                c.put(body, 0, y, text, Role::Title);
            }
            Line::Command { row, first, text, role } => {
                if *first {
                    let keys: Vec<String> = c.m.keymap.keys(row).iter().map(ToString::to_string).collect();
                    let text = if keys.is_empty() { c.look.symbols.dash.to_string() } else { keys.join(" ") };
                    c.put(body, 2, y, &cut(&text, 16, c.look.symbols.ellipsis), Role::Accent);
                    c.put(body, 20, y, row.title, Role::Strong);
                }
                c.put(body, DOC, y, text, *role);
                c.hits.add(Rect { y: body.y + y, height: 1, ..body }, Hit::Run(row.action));
            }
        }
    }
    scroll_mark(c, body, body.x + body.width + 1, top, lines.len());
    let foot = area.height.saturating_sub(1);
    hints(c, area, foot, &[("type", "search"), ("PgUp PgDn", "scroll"), ("click", "run"), ("Esc", "close")]);
}
