//! Putting text on the buffer: a pen with an area, that never writes outside it, whatever its size.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::text::{cut, width};

/// Writes `text` at column `x` of row `y` of `area` (counted from its corner); gives the column after it.
pub fn put(buf: &mut Buffer, area: Rect, x: u16, y: u16, text: &str, style: Style) -> u16 {
    let area = area.intersection(buf.area);
    if y >= area.height || x >= area.width {
        return x;
    }
    let room = usize::from(area.width - x);
    let (end, _) = buf.set_stringn(area.x + x, area.y + y, text, room, style);
    end - area.x
}

/// Writes `text` so that it ends before column `end`.
pub fn put_right(buf: &mut Buffer, area: Rect, end: u16, y: u16, text: &str, style: Style) {
    let w = u16::try_from(width(text)).unwrap_or(u16::MAX);
    put(buf, area, end.saturating_sub(w), y, text, style);
}

/// Writes spans in row `y`.
pub fn put_line(buf: &mut Buffer, area: Rect, x: u16, y: u16, line: &Line<'_>) -> u16 {
    line.spans.iter().fold(x, |x, s| put(buf, area, x, y, &s.content, s.style))
}

/// The style of a whole row.
pub fn paint_row(buf: &mut Buffer, area: Rect, y: u16, style: Style) {
    if y < area.height {
        buf.set_style(Rect { y: area.y + y, height: 1, ..area }.intersection(buf.area), style);
    }
}

/// Spans that fit in `room` columns, the last of them cut.
pub fn fit(spans: Vec<Span<'_>>, room: usize, more: &str) -> Line<'static> {
    let mut left = room;
    let mut out = Vec::new();
    for s in spans {
        let w = width(&s.content);
        if w <= left {
            left -= w;
            out.push(Span::styled(s.content.into_owned(), s.style));
        } else {
            out.push(Span::styled(cut(&s.content, left, more), s.style));
            break;
        }
    }
    Line::from(out)
}
