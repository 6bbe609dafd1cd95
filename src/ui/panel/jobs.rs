//! The jobs: what runs, waits, has ended, was interrupted, or was done in an earlier session; the selected one in full is [`super::job`]'s.

use ratatui::layout::Rect;

use super::job;
use crate::app::hits::Hit;
use crate::app::model::Pane;
use crate::app::state::jobs::{JobRow, LeftRow};
use crate::engine::job::{Finished, JobState};
use crate::engine::units::printable;
use crate::ui::pen::{paint_row, put_right};
use crate::ui::text::{ago, brief, cut, cut_middle, duration, size};
use crate::ui::theme::Role;
use crate::ui::widget::{scroll_mark, window};
use crate::ui::{Canvas, widget};

/// Draws the screen.
pub fn draw(c: &mut Canvas<'_>, area: Rect) {
    let rows = c.m.jobs.len();
    if rows == 0 {
        let lines = ["no jobs", "c in the library or on an image's page converts it, here in the background"];
        for (i, line) in (0u16..).zip(lines) {
            let x = (usize::from(area.width).saturating_sub(line.len()) / 2) as u16;
            c.put(area, x, area.height / 3 + i * 2, line, if i == 0 { Role::Strong } else { Role::Dim });
        }
        c.pane(Pane::JobList, area, 0);
        return;
    }
    let below =
        (area.height * 3 / 5).max(area.height.saturating_sub(u16::try_from(rows + 2).unwrap_or(u16::MAX))).min(area.height - 4);
    let top = Rect { x: area.x + 1, width: area.width - 2, height: area.height - below, ..area };
    list(c, top);
    job::draw(c, Rect { y: area.y + top.height, height: below, ..area });
}

fn sign(c: &Canvas<'_>, state: JobState) -> (&'static str, Role) {
    let s = c.look.symbols;
    match state {
        JobState::Queued => (s.ring, Role::Dim),
        JobState::Running | JobState::Finishing => (s.run, Role::Live),
        JobState::Paused => (s.pause, Role::Warn),
        JobState::Cancelling => (s.dot, Role::Warn),
        JobState::Cancelled => (s.bullet, Role::Dim),
        JobState::Done => (s.good, Role::Good),
        JobState::Failed => (s.bad, Role::Bad),
    }
}

fn list(c: &mut Canvas<'_>, area: Rect) {
    let w = area.width;
    // From the right: time left, rate, gauge; the rest is what it does.
    let (gauge, time, rate): (u16, u16, u16) = match w {
        110.. => (26, 11, 13),
        90.. => (14, 11, 13),
        _ => (8, 8, 11),
    };
    let (eta_end, rate_end) = (w, w.saturating_sub(time));
    let gauge_end = rate_end.saturating_sub(rate);
    let what_x = 18;
    let what_room = gauge_end.saturating_sub(gauge + 6 + what_x + 2);
    for (x, title) in [(0, "ID"), (4, "STATE"), (what_x, "WHAT")] {
        c.put(area, x, 0, title, Role::Dim);
    }
    c.put(area, gauge_end - gauge - 5, 0, "PROGRESS", Role::Dim);
    put_right(c.buf, area, rate_end, 0, "RATE", c.look.style(Role::Dim));
    put_right(c.buf, area, eta_end, 0, "TIME", c.look.style(Role::Dim));
    let list = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    let len = c.m.jobs.len();
    c.pane(Pane::JobList, list, len);
    let view = window(c.m.jobs.scroll, len, list.height);
    for (y, i) in (0u16..).zip(view.window(len)) {
        let line = Rect { y: list.y + y, height: 1, ..list };
        c.hits.add(line, Hit::Row(Pane::JobList, i));
        let s = c.look.symbols;
        let Some(job) = c.m.jobs.rows.get(i) else {
            let (rows, left) = (c.m.jobs.rows.len(), c.m.jobs.left.len());
            let place = Place { what_x, what_room, at: gauge_end - gauge - 5, took_end: eta_end };
            if let Some(left) = c.m.jobs.left.get(i - rows) {
                interrupted(c, line, &place, left);
            } else if let Some(past) = (i - rows).checked_sub(left).and_then(|i| c.m.jobs.past.get(i)).cloned() {
                ended(c, line, &place, &past);
            }
            if i == view.at {
                let style = c.select(Pane::JobList);
                paint_row(c.buf, line, 0, style);
            }
            continue;
        };
        let v = &job.view;
        let (glyph, role) = sign(c, v.state);
        c.put(line, 0, 0, &v.id.to_string(), Role::Dim);
        let x = c.put(line, 4, 0, glyph, role) + 1;
        let x = c.put(line, x, 0, v.state.name(), role);
        if v.priority != 0 {
            c.put(line, x, 0, if v.priority > 0 { s.up } else { s.down }, Role::Accent);
        }
        c.put(line, what_x, 0, &cut_middle(&brief(&printable(&v.title)), usize::from(what_room), s.ellipsis), Role::Text);
        let p = &v.progress;
        let at = gauge_end - gauge - 5;
        match (v.state, &v.why, &v.error) {
            (JobState::Failed, _, Some(e)) => {
                let room = usize::from(w - at);
                c.put(line, at, 0, &cut(&printable(e.why()), room, s.ellipsis), Role::Bad);
            }
            (JobState::Queued, Some(why), _) => {
                c.put(line, at, 0, &cut(&printable(why), usize::from(w - at), s.ellipsis), Role::Dim);
            }
            (JobState::Cancelled, why, _) => {
                let text = why.as_deref().unwrap_or("nothing of it is left");
                c.put(line, at, 0, &cut(&printable(text), usize::from(w - at), s.ellipsis), Role::Dim);
            }
            _ => {
                let share = f64::from(p.percent) / 100.0;
                widget::gauge(c, line, at, share, usize::from(gauge));
                put_right(c.buf, line, gauge_end, 0, &format!("{:.0}%", p.percent.floor()), c.look.style(Role::Text));
                let rate = match v.state {
                    JobState::Done => Some(average(job)),
                    _ => p.read_rate.or(p.write_rate),
                };
                let rate = rate.filter(|r| *r > 0).map_or(s.dash.to_string(), |r| format!("{}/s", size(r)));
                put_right(c.buf, line, rate_end, 0, &rate, c.look.style(Role::Text));
                let left = match (v.state, &p.eta) {
                    (JobState::Done, _) => duration(p.elapsed.as_secs()),
                    (JobState::Running, Some(eta)) => duration(eta.left.as_secs()),
                    (JobState::Finishing, _) => "syncing".into(),
                    _ => s.dash.to_string(),
                };
                put_right(c.buf, line, eta_end, 0, &left, c.look.style(Role::Text));
            }
        }
        if i == view.at {
            let style = c.select(Pane::JobList);
            paint_row(c.buf, line, 0, style);
        }
    }
    scroll_mark(c, list, list.x + list.width + 1, view.top, len);
}

/// Where things stand in a line.
struct Place {
    /// What it does, and the columns for that.
    what_x: u16,
    what_room: u16,
    /// The gauge, or words in its place.
    at: u16,
    /// The end of the time it took.
    took_end: u16,
}

/// A job of an earlier session.
fn ended(c: &mut Canvas<'_>, line: Rect, place: &Place, job: &Finished) {
    let s = c.look.symbols;
    let (glyph, role) = sign(c, job.state);
    c.put(line, 0, 0, s.dash, Role::Dim);
    let x = c.put(line, 4, 0, glyph, role) + 1;
    c.put(line, x, 0, job.state.name(), Role::Dim);
    let title = cut_middle(&brief(&printable(&job.title)), usize::from(place.what_room), s.ellipsis);
    c.put(line, place.what_x, 0, &title, Role::Dim);
    c.put(line, place.at, 0, &ago(i64::try_from(job.ended).unwrap_or(0), c.m.now.unix), Role::Dim);
    put_right(c.buf, line, place.took_end, 0, &took(job), c.look.style(Role::Dim));
}

/// How long a job worked, pauses left out.
pub(super) fn took(job: &Finished) -> String {
    if job.seconds < 10.0 { format!("{:.1} s", job.seconds.max(0.0)) } else { duration(job.seconds as u64) }
}

/// A job whose process is gone.
fn interrupted(c: &mut Canvas<'_>, line: Rect, place: &Place, left: &LeftRow) {
    let (what_x, what_room, at) = (place.what_x, place.what_room, place.at);
    let s = c.look.symbols;
    c.put(line, 0, 0, s.dash, Role::Dim);
    let x = c.put(line, 4, 0, s.pause, Role::Warn) + 1;
    c.put(line, x, 0, "interrupted", Role::Warn);
    let title = cut_middle(&brief(&printable(&left.record.title)), usize::from(what_room), s.ellipsis);
    c.put(line, what_x, 0, &title, Role::Text);
    let (text, role) = match &left.why_not {
        None => (format!("resumable from {}", size(left.record.durable)), Role::Good),
        Some(why) => (printable(why), Role::Warn),
    };
    c.put(line, at, 0, &cut(&text, usize::from(line.width.saturating_sub(at)), s.ellipsis), role);
}

/// Bytes a second over all of its life.
pub(super) fn average(job: &JobRow) -> u64 {
    let p = &job.view.progress;
    let seconds = p.elapsed.as_secs_f64();
    if seconds > 0.0 { (p.read.max(p.done) as f64 / seconds) as u64 } else { 0 }
}
