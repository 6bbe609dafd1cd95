//! The palette: every command by name; those not available say why.

use ratatui::layout::Rect;

use super::{hints, input, open};
use crate::app::hits::Hit;
use crate::app::layer::Palette;
use crate::app::state::scroll::Scroll;
use crate::ui::Canvas;
use crate::ui::pen::{paint_row, put_right};
use crate::ui::text::{cut, width, wrap};
use crate::ui::theme::Role;
use crate::ui::widget::{scroll_mark, window};

/// Rows for the sentence of the command under the cursor.
const TOLD: u16 = 3;

pub(super) fn draw(c: &mut Canvas<'_>, screen: Rect, palette: &Palette) {
    let area = open(c, screen, 90, (screen.height * 3 / 4).max(15), "Commands");
    c.put(area, 0, 0, ":", Role::Accent);
    input(c, area, 2, 0, &palette.input, true);
    let rows = palette.rows(c.m);
    // The sentence of the command under the cursor stands below the list in full.
    let body = Rect { y: area.y + 2, height: area.height.saturating_sub(4 + TOLD + 1), ..area };
    c.hits.layer = usize::from(body.height);
    let at = palette.selected.min(rows.len().saturating_sub(1));
    let view = window(Scroll { at, ..Scroll::default() }, rows.len(), body.height);
    if rows.is_empty() {
        c.put(body, 0, 0, "no command is called that", Role::Dim);
    }
    for (y, i) in (0u16..).zip(view.window(rows.len())) {
        let Some((r, state)) = rows.get(i) else { break };
        let line = Rect { y: body.y + y, height: 1, ..body };
        let key = c.m.keymap.keys(r).first().map(ToString::to_string).unwrap_or_default();
        let (name, text) = match state {
            Ok(()) => (Role::Strong, r.doc.to_string()),
            Err(why) => (Role::Dim, format!("not now: {why}")),
        };
        let x = c.put(line, 1, 0, r.title, name).max(22);
        let room = usize::from(line.width.saturating_sub(x + 4)).saturating_sub(width(&key));
        c.put(line, x + 1, 0, &cut(&text, room, c.look.symbols.ellipsis), Role::Dim);
        put_right(c.buf, line, line.width - 1, 0, &key, c.look.style(Role::Accent));
        c.hits.add(line, Hit::Item(i));
        if i == view.at {
            paint_row(c.buf, line, 0, c.look.style(Role::Select));
        }
    }
    scroll_mark(c, body, body.x + body.width + 1, view.top, rows.len());
    if let Some((r, state)) = rows.get(view.at) {
        let mut told: Vec<_> = wrap(r.doc, usize::from(area.width)).into_iter().map(|l| (l, Role::Text)).collect();
        if let Err(why) = state {
            told.truncate(usize::from(TOLD) - 1);
            told.push((cut(&format!("not now: {why}"), usize::from(area.width), c.look.symbols.ellipsis), Role::Warn));
        }
        let top = area.height.saturating_sub(2 + TOLD);
        for (y, (line, role)) in (top..).zip(told.iter().take(usize::from(TOLD))) {
            c.put(area, 0, y, line, *role);
        }
    }
    let foot = area.height.saturating_sub(1);
    hints(c, area, foot, &[("Enter", "run"), ("Up Down", "choose"), ("Esc", "close")]);
}
