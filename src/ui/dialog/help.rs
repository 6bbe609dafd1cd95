//! The help of a screen: its commands, then what works everywhere; typing searches.

use ratatui::layout::Rect;

use super::{hints, input, open};
use crate::app::command::Scope;
use crate::app::hits::Hit;
use crate::app::layer::Help;
use crate::ui::Canvas;
use crate::ui::text::cut;
use crate::ui::theme::Role;
use crate::ui::widget::scroll_mark;

pub(super) fn draw(c: &mut Canvas<'_>, screen: Rect, help: &Help) {
    let area = open(c, screen, 100, screen.height - 2, &format!("Help {} {}", c.look.symbols.dash, c.m.screen.title()));
    c.put(area, 0, 0, "search:", Role::Dim);
    input(c, area, 8, 0, &help.search, true);
    let rows = help.rows(c.m.screen, &c.m.keymap);
    // Lines: a heading before each scope.
    let mut lines: Vec<(Option<Scope>, usize)> = Vec::new();
    let mut last = None;
    for (i, r) in rows.iter().enumerate() {
        if last != Some(r.scope) {
            if last.is_some() {
                lines.push((None, usize::MAX));
            }
            lines.push((Some(r.scope), usize::MAX));
            last = Some(r.scope);
        }
        lines.push((None, i));
    }
    let body = Rect { y: area.y + 2, height: area.height.saturating_sub(4), ..area };
    c.hits.layer = usize::from(body.height);
    if rows.is_empty() {
        c.put(body, 0, 1, "nothing here is called that", Role::Dim);
    }
    let top = help.top.min(lines.len().saturating_sub(usize::from(body.height)));
    for (y, (scope, i)) in (0u16..).zip(lines.iter().skip(top).take(usize::from(body.height))) {
        if let Some(scope) = scope {
            c.put(body, 0, y, scope.title(), Role::Title);
        } else if let Some(r) = rows.get(*i) {
            let keys: Vec<String> = c.m.keymap.keys(r).iter().map(ToString::to_string).collect();
            let text = if keys.is_empty() { c.look.symbols.dash.to_string() } else { keys.join(" ") };
            c.put(body, 2, y, &cut(&text, 16, c.look.symbols.ellipsis), Role::Accent);
            let x = c.put(body, 20, y, r.title, Role::Strong).max(36);
            let state = (r.enabled)(c.m);
            let room = usize::from(body.width.saturating_sub(x + 2));
            match state {
                Ok(()) => c.put(body, x + 2, y, &cut(r.doc, room, c.look.symbols.ellipsis), Role::Text),
                Err(why) => c.put(body, x + 2, y, &cut(&format!("({why})"), room, c.look.symbols.ellipsis), Role::Dim),
            };
            let line = Rect { y: body.y + y, height: 1, ..body };
            c.hits.add(line, Hit::Run(r.action));
        }
    }
    scroll_mark(c, body, body.x + body.width + 1, top, lines.len());
    let foot = area.height.saturating_sub(1);
    hints(c, area, foot, &[("type", "search"), ("PgUp PgDn", "scroll"), ("click", "run"), ("Esc", "close")]);
}
