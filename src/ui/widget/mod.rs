//! Small things that several panels draw.

use ratatui::layout::Rect;

use super::Canvas;
use super::pen::put;
use super::symbols::Symbols;
use super::theme::Role;
use crate::app::state::scroll::Scroll;

/// A bar of `room` columns (edges included) filled to `share`, to an eighth of a cell. Anything above nothing shows.
pub fn bar(s: &Symbols, share: f64, room: usize) -> String {
    let inner = room.saturating_sub(2);
    let parts = s.eighths.len();
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    let mut units = (share * (inner * parts) as f64).round() as usize;
    if share > 0.0 {
        units = units.max(1);
    }
    if share < 1.0 {
        units = units.min((inner * parts).saturating_sub(1));
    }
    let full = s.eighths.last().copied().unwrap_or("#");
    let mut out = String::from(s.edges[0]);
    out.push_str(&full.repeat(units / parts));
    let mut used = units / parts;
    if !units.is_multiple_of(parts) {
        out.push_str(s.eighths.get(units % parts - 1).copied().unwrap_or_default());
        used += 1;
    }
    out.push_str(&" ".repeat(inner - used));
    out.push_str(s.edges[1]);
    out
}

/// A bar at column `x` of `area`, its edges in the colour of frames.
pub fn gauge(c: &mut Canvas<'_>, area: Rect, x: u16, share: f64, room: usize) {
    let s = c.look.symbols;
    let text = bar(s, share, room);
    let inner = text.strip_prefix(s.edges[0]).and_then(|t| t.strip_suffix(s.edges[1])).unwrap_or_default();
    let x = c.put(area, x, 0, s.edges[0], Role::Border);
    let x = c.put(area, x, 0, inner, Role::Bar);
    c.put(area, x, 0, s.edges[1], Role::Border);
}

/// Values as heights, the newest at the right, in `room` columns, scaled to the largest shown.
pub fn sparkline(s: &Symbols, values: &[u64], room: usize) -> String {
    let shown = values.get(values.len().saturating_sub(room)..).unwrap_or_default();
    sparkline_to(s, values, shown.iter().copied().max().unwrap_or(0), room)
}

/// The same, scaled so that `most` is full.
pub fn sparkline_to(s: &Symbols, values: &[u64], most: u64, room: usize) -> String {
    let shown = values.get(values.len().saturating_sub(room)..).unwrap_or_default();
    let most = most.max(1);
    let steps = s.heights.len() as u128;
    let mut out = " ".repeat(room - shown.len());
    for v in shown {
        let step = (u128::from(*v) * steps).div_ceil(u128::from(most)).clamp(1, steps) as usize;
        out.push_str(if *v == 0 { " " } else { s.heights.get(step - 1).copied().unwrap_or_default() });
    }
    out
}

/// A mark on the frame at column `x` beside `area`, that shows where the window of a list or text is when not all of it is seen.
pub fn scroll_mark(c: &mut Canvas<'_>, area: Rect, x: u16, top: usize, len: usize) {
    let height = usize::from(area.height);
    if len <= height || height == 0 {
        return;
    }
    let size = (height * height / len).max(1);
    let room = height - size;
    let at = (top * room).div_ceil((len - height).max(1)).min(room);
    for y in at..at + size {
        put(c.buf, Rect { x, width: 1, ..area }, 0, y as u16, c.look.symbols.scroll, c.look.style(Role::Dim));
    }
}

/// The window of a list of `len` lines in `height` rows that keeps the cursor in sight.
pub fn window(scroll: Scroll, len: usize, height: u16) -> Scroll {
    let mut s = Scroll { height: usize::from(height), ..scroll };
    s.follow(len);
    s
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::symbols::{ASCII, UNICODE};

    #[test]
    fn a_bar_is_full_only_when_full_and_empty_only_when_empty() {
        assert_eq!(bar(&UNICODE, 0.0, 6), "▕    ▏");
        assert_eq!(bar(&UNICODE, 1e-9, 6), "▕▏   ▏");
        assert_eq!(bar(&UNICODE, 0.5, 6), "▕██  ▏");
        assert_eq!(bar(&UNICODE, 0.9999, 6), "▕███▉▏");
        assert_eq!(bar(&UNICODE, 1.0, 6), "▕████▏");
        assert_eq!(bar(&ASCII, 0.5, 6), "[##  ]");
        for room in 0..4 {
            bar(&UNICODE, 0.3, room);
        }
    }

    #[test]
    fn sparklines_scale_to_what_is_shown() {
        assert_eq!(sparkline(&UNICODE, &[9000, 0, 4, 8], 3), " ▄█");
        assert_eq!(sparkline(&UNICODE, &[1], 3), "  █");
    }
}
