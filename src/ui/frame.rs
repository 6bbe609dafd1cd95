//! What every screen has: the frame with its tabs and status, notices on the rule above the footer, and the footer with the few
//! useful keys.

use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::{Clear, Widget as _};

use super::pen::{put, put_right};
use super::text::{cut, width, wrap};
use super::theme::Role;
use super::{Canvas, LEAST, widget};
use crate::app::Action;
use crate::app::command::{COMMANDS, Command, Scope};
use crate::app::hits::Hit;
use crate::app::layer::Layer;
use crate::app::message::Level;
use crate::app::model::Screen;
use crate::engine::job::JobState;

/// Draws the frame, tabs, status and footer; gives what is left for the screen.
pub fn frame(c: &mut Canvas<'_>, area: Rect) -> Rect {
    let border = c.look.style(Role::Border);
    outline(c, area, border);
    tabs(c, area);
    let foot = area.height - 3;
    rule(c, area, foot);
    footer(c, Rect { x: area.x + 2, y: area.y + area.height - 2, width: area.width - 4, height: 1 });
    Rect { x: area.x + 1, y: area.y + 1, width: area.width - 2, height: area.height - 4 }
}

/// A box around an area.
pub fn outline(c: &mut Canvas<'_>, area: Rect, style: Style) {
    if area.width < 2 || area.height < 2 {
        return;
    }
    let s = c.look.symbols;
    let [tl, tr, bl, br] = s.corners;
    let line = s.horizontal.repeat(usize::from(area.width - 2));
    put(c.buf, area, 0, 0, &format!("{tl}{line}{tr}"), style);
    put(c.buf, area, 0, area.height - 1, &format!("{bl}{line}{br}"), style);
    for y in 1..area.height - 1 {
        put(c.buf, area, 0, y, s.vertical, style);
        put(c.buf, area, area.width - 1, y, s.vertical, style);
    }
}

/// A rule across a framed area, in row `y`.
pub fn rule(c: &mut Canvas<'_>, area: Rect, y: u16) {
    let s = c.look.symbols;
    let line = s.horizontal.repeat(usize::from(area.width.saturating_sub(2)));
    put(c.buf, area, 0, y, &format!("{}{line}{}", s.tees[0], s.tees[1]), c.look.style(Role::Border));
}

/// A rule inside the frame with a title; brighter when its pane has the focus.
pub fn heading(c: &mut Canvas<'_>, area: Rect, y: u16, title: &str, right: &str, focused: bool) {
    let s = c.look.symbols;
    let style = c.look.style(if focused { Role::Focus } else { Role::Border });
    put(c.buf, area, 0, y, &s.horizontal.repeat(usize::from(area.width)), style);
    if area.width > 4 {
        let title = format!(" {} ", cut(title, usize::from(area.width).saturating_sub(5), s.ellipsis));
        let end = put(c.buf, area, 1, y, &title, c.look.style(if focused { Role::Title } else { Role::Dim }));
        if !right.is_empty() && usize::from(end) + width(right) + 4 < usize::from(area.width) {
            put_right(c.buf, area, area.width - 1, y, &format!(" {right} "), c.look.style(Role::Dim));
        }
    }
}

fn tabs(c: &mut Canvas<'_>, area: Rect) {
    let mut x = c.put(area, 2, 0, " cowshed ", Role::Title);
    let status = status(c);
    // A page below a tab is named after it.
    let below =
        if c.m.screen.tab() == c.m.screen { String::new() } else { format!("{} {} ", c.look.symbols.closed, c.m.screen.title()) };
    let wide = |names: bool| {
        let tabs: usize = Screen::TABS.iter().map(|s| if names { width(s.title()) + 4 } else { 3 }).sum();
        12 + tabs + width(&below) + status.iter().map(|(t, _)| width(t) + 1).sum::<usize>() + 3
    };
    let names = wide(true) <= usize::from(area.width);
    for (i, screen) in Screen::TABS.into_iter().enumerate() {
        let here = c.m.screen.tab() == screen;
        let mut label = if names || here { format!(" {} {} ", i + 1, screen.title()) } else { format!(" {} ", i + 1) };
        if here {
            label.push_str(&below);
        }
        let start = x;
        x = c.put(area, x, 0, &label, if here { Role::Select } else { Role::Dim });
        c.hits.add(Rect { x: area.x + start, y: area.y, width: x - start, height: 1 }, Hit::Screen(screen));
    }
    let total: usize = status.iter().map(|(t, _)| width(t) + 1).sum::<usize>() + 1;
    let mut at = area.width.saturating_sub(u16::try_from(total).unwrap_or(u16::MAX) + 2).max(x + 1);
    if status.is_empty() {
        return;
    }
    at = c.put(area, at, 0, " ", Role::Dim);
    for (text, role) in status {
        at = c.put(area, at, 0, &text, role);
        at = c.put(area, at, 0, " ", Role::Dim);
    }
}

/// What concerns every screen: jobs, the mode, a spinner while the library is read.
fn status(c: &Canvas<'_>) -> Vec<(String, Role)> {
    let s = c.look.symbols;
    let mut out = Vec::new();
    if c.m.read_only {
        out.push(("read-only".to_string(), Role::Warn));
    }
    let live = c.m.live_jobs();
    if live > 0 {
        let paused = c.m.jobs.rows.iter().filter(|j| j.view.state == JobState::Paused).count();
        if live > paused {
            out.push((format!("jobs {}{}", live - paused, s.run), Role::Live));
        }
        if paused > 0 {
            out.push((format!("{paused}{} paused", s.pause), Role::Warn));
        }
    }
    if !c.m.jobs.left.is_empty() {
        out.push((format!("{}{} interrupted", c.m.jobs.left.len(), s.pause), Role::Warn));
    }
    if c.m.library.data.scanning || c.m.library.loading {
        let frame = s.spinner.get(c.m.now.frame(s.spinner.len())).copied().unwrap_or_default();
        out.push((format!("{frame} scanning"), Role::Accent));
    }
    out
}

/// What there is to tell, on the rule above the footer: the keys below stay in sight.
pub fn notice(c: &mut Canvas<'_>, screen: Rect) {
    let Some(n) = &c.m.notice else { return };
    let (sign, role) = match n.level {
        Level::Info => (c.look.symbols.good, Role::Good),
        Level::Warning => (c.look.symbols.warn, Role::Warn),
        Level::Error => (c.look.symbols.bad, Role::Bad),
    };
    let text = crate::engine::units::printable(&n.text);
    // What does not fit on the rule goes on above it: a reason half told is none.
    let room = usize::from(screen.width.saturating_sub(9));
    let mut lines = wrap(&text, room);
    if lines.len() > TOLD {
        let rest = lines.split_off(TOLD - 1).join(" ");
        lines.push(cut(&rest, room, c.look.symbols.ellipsis));
    }
    let rows = u16::try_from(lines.len()).unwrap_or(1).max(1);
    let area = Rect { x: screen.x + 2, y: screen.y + screen.height - 2 - rows, width: screen.width - 4, height: rows };
    if rows > 1 {
        let all = Rect { x: screen.x + 1, width: screen.width - 2, ..area }.intersection(c.buf.area);
        Clear.render(all, c.buf);
        c.buf.set_style(all, c.look.style(Role::Text));
    }
    let x = c.put(area, 0, 0, &format!(" {sign} "), role);
    for (y, line) in (0..rows).zip(&lines) {
        c.put(area, x, y, &format!("{line} "), Role::Text);
    }
}

/// Rows of a notice at most.
const TOLD: usize = 3;

fn footer(c: &mut Canvas<'_>, area: Rect) {
    let area = jobs_gauge(c, area);
    // Under a dialog the screen's keys do nothing: they are there, and dim.
    let covered = c.m.layer().is_some_and(|l| !matches!(l, Layer::Filter));
    if let Some(Layer::Filter) = c.m.layer() {
        let hints = [("Enter", "keep"), ("Esc", "clear"), ("^~", "move")];
        let hints = if c.look.symbols.up == "↑" {
            [hints[0], hints[1], ("↑↓", "move")]
        } else {
            [hints[0], hints[1], ("Up/Down", "move")]
        };
        let mut x = 0;
        for (key, title) in hints {
            x = c.put(area, x, 0, key, Role::Accent) + 1;
            x = c.put(area, x, 0, title, Role::Text) + 2;
        }
        return;
    }
    // As many as fit, the most useful first, in the order of the table; help and palette always.
    let scopes = Scope::of(c.m.screen);
    let mut rows: Vec<&'static Command> = COMMANDS.iter().filter(|r| r.footer > 0 && scopes.contains(&r.scope)).collect();
    rows.sort_by_key(|r| (scopes.iter().position(|s| *s == r.scope), r.footer));
    let keymap = &c.m.keymap;
    let hint = |r: &'static Command| keymap.keys(r).first().map(|k| (k.to_string(), r));
    // What works everywhere gives way where there is little room: the screen's own keys are what nobody can guess.
    let narrow = area.width < 100;
    let interrupted = c.m.jobs.selected_left().filter(|_| c.m.screen == Screen::Jobs);
    let (left, anew) = (interrupted.is_some(), interrupted.is_some_and(|l| l.why_not.is_some()));
    let kept = |r: &&'static Command| match (r.action, r.scope) {
        (Action::Back, _) => !narrow && (r.enabled)(c.m).is_ok(),
        // One key is enough to say that it can be resumed.
        (Action::PauseJob, _) if left => false,
        // Jobs differ too much for what most of them cannot do to take the room.
        (_, Scope::Jobs) => (r.enabled)(c.m).is_ok(),
        _ => true,
    };
    let hints = rows.into_iter().filter(kept).filter_map(hint);
    let (last, first): (Vec<_>, Vec<_>) = hints.partition(|(_, r)| r.scope == Scope::Global);
    let paused = c.m.selected_job().is_some_and(|j| j.view.state == JobState::Paused);
    let title = |r: &'static Command| match r.action {
        Action::RetryJob if anew => "begin anew…",
        Action::RetryJob if left => "resume",
        Action::PauseJob if paused => "resume",
        Action::CancelJob if left => "discard…",
        _ => r.title,
    };
    let room_of = |(k, r): &(String, &'static Command)| width(k) + width(&c.word(title(r))) + 3;
    let mut room = usize::from(area.width) + 2;
    let mut shown = Vec::new();
    // Those of everywhere come last on the screen, but are sure of their place.
    let tail: Vec<_> = last
        .into_iter()
        .take_while(|h| {
            let fits = room_of(h) <= room;
            room = room.saturating_sub(room_of(h));
            fits
        })
        .collect();
    for h in first {
        if room_of(&h) > room {
            break;
        }
        room -= room_of(&h);
        shown.push(h);
    }
    shown.extend(tail);
    let mut x = 0;
    for (key, row) in shown {
        let start = x;
        let enabled = !covered && (row.enabled)(c.m).is_ok();
        x = c.put(area, x, 0, &key, if enabled { Role::Accent } else { Role::Dim }) + 1;
        x = c.put(area, x, 0, title(row), if enabled { Role::Text } else { Role::Dim });
        c.hits.add(Rect { x: area.x + start, y: area.y, width: x - start, height: 1 }, Hit::Run(row.action));
        x += 2;
    }
}

/// At the right end of the footer: how far the live jobs together are. Gives what is left of it.
fn jobs_gauge(c: &mut Canvas<'_>, area: Rect) -> Rect {
    let Some(share) = c.m.jobs.share() else { return area };
    let gauge: u16 = if area.width >= 100 { 12 } else { 6 };
    let room = gauge + 5;
    if area.width < 70 {
        return area;
    }
    let at = Rect { x: area.x + area.width - room, width: room, ..area };
    widget::gauge(c, at, 0, share, usize::from(gauge));
    // Never a hundred while a job lives: its result is not durable yet.
    put_right(c.buf, at, room, 0, &format!("{:.0}%", (share * 100.0).floor().min(99.0)), c.look.style(Role::Text));
    c.hits.add(at, Hit::Screen(Screen::Jobs));
    Rect { width: area.width - room - 2, ..area }
}

/// A note instead of a screen, as much of it as fits.
pub fn too_small(c: &mut Canvas<'_>, area: Rect) {
    let (w, h) = LEAST;
    let lines = [
        "cowshed".to_string(),
        format!("needs {w}{}{h},", c.look.symbols.times),
        format!("this is {}{}{}", area.width, c.look.symbols.times, area.height),
    ];
    let top = area.height.saturating_sub(3) / 2;
    for (i, line) in (0u16..).zip(&lines) {
        let x = (usize::from(area.width).saturating_sub(width(line)) / 2) as u16;
        c.put(area, x, top + i, line, if i == 0 { Role::Title } else { Role::Text });
    }
}
