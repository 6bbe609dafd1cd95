//! Converting an image: where to, the plan, and the two buttons. Nothing is written before the button.

use ratatui::layout::Rect;

use super::{hints, input, open};
use crate::app::hits::Hit;
use crate::app::layer::Convert;
use crate::engine::units::printable;
use crate::ui::Canvas;
use crate::ui::pen::paint_row;
use crate::ui::text::{cut_middle, path, size_words, wrap};
use crate::ui::theme::Role;

pub(super) fn draw(c: &mut Canvas<'_>, screen: Rect, form: &Convert) {
    const LABEL: u16 = 10;
    let area = open(c, screen, 96, 22, "Convert to raw");
    let s = c.look.symbols;
    let room = usize::from(area.width.saturating_sub(LABEL));
    c.put(area, 0, 0, "image", Role::Dim);
    c.put(area, LABEL, 0, &cut_middle(&path(&form.source), room, s.ellipsis), Role::Text);
    c.put(area, 0, 2, "write to", Role::Dim);
    let field = Rect { y: area.y + 2, height: 1, ..area };
    input(c, field, LABEL, 0, &form.target, form.field == 0);
    c.hits.add(field, Hit::Field(0));
    let mut y = 4;
    let last = area.height.saturating_sub(4);
    match &form.plan {
        _ if form.target.is_empty() => {
            c.put(area, 0, y, "type where to write it; a relative path is beside the image", Role::Dim);
        }
        None => {
            let frame = s.spinner.first().copied().unwrap_or_default();
            c.put(area, 0, y, &format!("{frame} looking at the image{}", s.ellipsis), Role::Dim);
        }
        Some(Err(e)) => {
            for line in wrap(&format!("{} {e}", s.bad), usize::from(area.width)) {
                c.put(area, 0, y, &line, Role::Bad);
                y += 1;
            }
            if let Some(hint) = e.advice() {
                c.put(area, 0, y + 1, &printable(hint), Role::Text);
            }
        }
        Some(Ok(plan)) => {
            for line in plan.lines(size_words) {
                let role = if line.warns { Role::Warn } else { Role::Text };
                for (i, part) in wrap(&printable(&line.text), room.max(8)).into_iter().enumerate() {
                    if y >= last {
                        break;
                    }
                    if i == 0 {
                        c.put(area, 0, y, line.label, Role::Dim);
                    }
                    c.put(area, LABEL, y, &part, role);
                    y += 1;
                }
            }
        }
    }
    let ready = matches!(form.plan, Some(Ok(_)));
    let mut x = 0;
    let row = area.height.saturating_sub(2);
    for (n, label) in [(1, "  Start  "), (2, "  Cancel  ")] {
        let at = Rect { x: area.x + x, y: area.y + row, width: label.len() as u16, height: 1 };
        c.put(area, x, row, label, if n == 1 && !ready { Role::Dim } else { Role::Strong });
        if form.field == n {
            paint_row(c.buf, at, 0, c.look.style(Role::Select));
        } else {
            paint_row(c.buf, at, 0, c.look.style(Role::SelectDim));
        }
        c.hits.add(at, Hit::Field(n));
        x += at.width + 2;
    }
    hints(
        c,
        area,
        area.height.saturating_sub(1),
        &[("Tab", "next"), ("Enter", "choose"), ("Esc", "back"), ("Y", "copy command, on a button")],
    );
}
