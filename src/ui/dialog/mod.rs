//! What lies on top of a screen.

mod form;
mod help;
mod palette;

use ratatui::layout::Rect;
use ratatui::style::Modifier;
use ratatui::widgets::{Clear, Widget as _};

use super::pen::{paint_row, put};
use super::text::{cut_front, width, wrap};
use super::theme::Role;
use super::widget::scroll_mark;
use super::{Canvas, frame};
use crate::app::hits::Hit;
use crate::app::input::Input;
use crate::app::layer::{Confirm, Layer, QUIT_CHOICES};
use crate::engine::units::{printable, printable_bytes};

/// Draws a layer over the whole screen's area.
pub fn draw(c: &mut Canvas<'_>, screen: Rect, layer: &Layer) {
    match layer {
        // In the library's own bar.
        Layer::Filter => {}
        Layer::Help(h) => help::draw(c, screen, h),
        Layer::Palette(p) => palette::draw(c, screen, p),
        Layer::Form(form) => form::draw(c, screen, form),
        Layer::Search(text) => search(c, screen, text),
        Layer::GoTo(text, why) => go_to(c, screen, text, why.as_deref()),
        Layer::Confirm(question) => confirm(c, screen, question),
        Layer::Quit(at) => quit(c, screen, *at),
        Layer::Text(title, lines, top) => text(c, screen, title, lines, *top),
    }
}

/// An empty box in the middle of the screen, with its title; gives the area inside.
fn open(c: &mut Canvas<'_>, screen: Rect, columns: u16, rows: u16, title: &str) -> Rect {
    // The rule with its notices and the footer stay in sight.
    let above = screen.height.saturating_sub(3);
    let (w, h) = (columns.min(screen.width.saturating_sub(4)), rows.min(above));
    let area = Rect { x: screen.x + (screen.width - w) / 2, y: screen.y + (above - h) / 2, width: w, height: h };
    // A column of air on both sides, so that the frame stands off from what is below.
    let air = Rect { x: area.x.saturating_sub(1), width: (w + 2).min(screen.width), ..area };
    Clear.render(air.intersection(c.buf.area), c.buf);
    c.buf.set_style(air.intersection(c.buf.area), c.look.style(Role::Text));
    c.hits.add(screen, Hit::Pane(c.m.pane()));
    c.hits.add(area, Hit::Inside);
    let style = c.look.style(Role::Focus);
    frame::outline(c, area, style);
    c.put(area, 2, 0, &format!(" {title} "), Role::Title);
    Rect { x: area.x + 2, y: area.y + 1, width: w.saturating_sub(4), height: h.saturating_sub(2) }
}

/// A line being typed, with its cursor.
fn input(c: &mut Canvas<'_>, area: Rect, x: u16, y: u16, input: &Input, focused: bool) {
    if focused && input.is_selected() {
        let text = cut_front(input.text(), usize::from(area.width.saturating_sub(x)), c.look.symbols.ellipsis);
        put(c.buf, area, x, y, &text, c.look.style(Role::Select));
        return;
    }
    let (before, after) = input.split();
    let room = usize::from(area.width.saturating_sub(x));
    let ahead = width(after).min(room / 2).max(1);
    let at = c.put(area, x, y, &cut_front(before, room.saturating_sub(ahead), c.look.symbols.ellipsis), Role::Strong);
    let first = after.chars().next().map_or(" ".to_string(), |ch| ch.to_string());
    let style = c.look.style(Role::Strong);
    let style = if focused { style.add_modifier(Modifier::REVERSED) } else { style };
    let at = put(c.buf, area, at, y, &first, style);
    c.put(area, at, y, after.get(first.len()..).unwrap_or_default(), Role::Strong);
}

/// Keys and what they do, at the foot of a dialog.
fn hints(c: &mut Canvas<'_>, area: Rect, y: u16, hints: &[(&str, &str)]) {
    // Closer together where they would not fit, and no halves of words.
    let all: usize = hints.iter().map(|(key, word)| width(key) + width(word) + 4).sum();
    let gap = if all <= usize::from(area.width) + 3 { 3 } else { 2 };
    let mut x = 0;
    for (key, word) in hints {
        if usize::from(x) + width(key) + 1 + width(word) > usize::from(area.width) {
            break;
        }
        x = c.put(area, x, y, key, Role::Accent) + 1;
        x = c.put(area, x, y, word, Role::Dim) + gap;
    }
}

fn go_to(c: &mut Canvas<'_>, screen: Rect, typed: &Input, why: Option<&str>) {
    let area = open(c, screen, 52, 6, "Go to");
    c.put(area, 0, 0, "offset:", Role::Dim);
    input(c, area, 8, 0, typed, true);
    match why {
        Some(why) => c.put(area, 0, 2, why, Role::Bad),
        None => c.put(area, 0, 2, "10G, 512M, 0x1f0000 or plain bytes", Role::Dim),
    };
    hints(c, area, 3, &[("Enter", "go"), ("Esc", "back")]);
}

fn search(c: &mut Canvas<'_>, screen: Rect, typed: &Input) {
    let area = open(c, screen, 60, 6, "Search the guest");
    c.put(area, 0, 0, "name:", Role::Dim);
    input(c, area, 6, 0, typed, true);
    let folder = printable_bytes(&c.m.inside.folder);
    c.put(area, 0, 2, &format!("any part of a name, in {folder} and below"), Role::Dim);
    hints(c, area, 3, &[("Enter", "search"), ("Esc", "back")]);
}

fn quit(c: &mut Canvas<'_>, screen: Rect, at: usize) {
    let live = c.m.live_jobs();
    let area = open(c, screen, 72, 10, "Quit?");
    let text = if live == 1 { "A job is still running.".to_string() } else { format!("{live} jobs are still running.") };
    c.put(area, 0, 0, &text, Role::Text);
    for (i, choice) in (0u16..).zip(QUIT_CHOICES) {
        let line = Rect { y: area.y + 2 + i, height: 1, ..area };
        c.put(line, 1, 0, choice, Role::Text);
        c.hits.add(line, Hit::Item(usize::from(i)));
        if usize::from(i) == at {
            paint_row(c.buf, line, 0, c.look.style(Role::Select));
        }
    }
    hints(c, area, 7, &[("Enter", "choose"), ("Ctrl-c", "leave them"), ("Esc", "stay")]);
}

fn confirm(c: &mut Canvas<'_>, screen: Rect, question: &Confirm) {
    let room = usize::from(76u16.min(screen.width.saturating_sub(4)).saturating_sub(4));
    let lines = wrap(&printable(&question.text), room);
    let rows = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(6);
    let area = open(c, screen, 76, rows, &question.title);
    for (y, line) in (0u16..).zip(&lines) {
        c.put(area, 0, y, line, Role::Text);
    }
    let y = area.height.saturating_sub(3);
    let mut x = 0;
    for (n, word) in question.words.iter().enumerate() {
        let text = format!("  {word}  ");
        let at = Rect { x: area.x + x, y: area.y + y, width: width(&text) as u16, height: 1 };
        c.put(area, x, y, &text, Role::Strong);
        let here = question.yes == (n == 1);
        paint_row(c.buf, at.intersection(area), 0, c.look.style(if here { Role::Select } else { Role::SelectDim }));
        if here {
            c.put(area, x, y, c.look.symbols.closed, Role::Accent);
        }
        c.hits.add(at.intersection(area), Hit::Item(n));
        x += at.width + 2;
    }
    hints(c, area, area.height.saturating_sub(1), &[("Tab", "the other"), ("Enter", "choose"), ("Esc", "back")]);
}

fn text(c: &mut Canvas<'_>, screen: Rect, title: &str, lines: &[String], top: usize) {
    let area = open(c, screen, 100, screen.height, title);
    let all: Vec<String> = lines.iter().flat_map(|l| wrap(l, usize::from(area.width))).collect();
    let body = Rect { height: area.height.saturating_sub(2), ..area };
    c.hits.layer = usize::from(body.height);
    let top = top.min(all.len().saturating_sub(1));
    for (y, line) in (0u16..).zip(all.iter().skip(top).take(usize::from(body.height))) {
        c.put(body, 0, y, line, Role::Text);
    }
    scroll_mark(c, body, body.x + body.width + 1, top, all.len());
    hints(c, area, area.height.saturating_sub(1), &[("Up Down PgUp PgDn", "scroll"), ("Esc", "close")]);
}
