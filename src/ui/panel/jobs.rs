//! The jobs: what runs, waits and has ended; and the selected one in full, with its rates over time, its plan and its log.

use ratatui::layout::Rect;
use ratatui::text::Line;

use crate::app::hits::Hit;
use crate::app::model::Pane;
use crate::app::state::jobs::JobRow;
use crate::engine::job::{Bound, JobState};
use crate::engine::units::printable;
use crate::ui::pen::{paint_row, put_line, put_right};
use crate::ui::text::{cut, cut_middle, duration, size, size_words, wrap};
use crate::ui::theme::Role;
use crate::ui::widget::{scroll_mark, sparkline, window};
use crate::ui::{Canvas, frame, widget};

/// Draws the screen.
pub fn draw(c: &mut Canvas<'_>, area: Rect) {
    let rows = c.m.jobs.rows.len();
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
    detail(c, Rect { y: area.y + top.height, height: below, ..area });
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
    let gauge: u16 = if w >= 110 { 26 } else { 14 };
    let (eta_end, rate_end) = (w, w.saturating_sub(11));
    let gauge_end = rate_end.saturating_sub(13);
    let what_x = 16;
    let what_room = gauge_end.saturating_sub(gauge + 6 + what_x + 2);
    for (x, title) in [(0, "ID"), (4, "STATE"), (what_x, "WHAT")] {
        c.put(area, x, 0, title, Role::Dim);
    }
    c.put(area, gauge_end - gauge - 5, 0, "PROGRESS", Role::Dim);
    put_right(c.buf, area, rate_end, 0, "RATE", c.look.style(Role::Dim));
    put_right(c.buf, area, eta_end, 0, "TIME", c.look.style(Role::Dim));
    let list = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    let len = c.m.jobs.rows.len();
    c.pane(Pane::JobList, list, len);
    let view = window(c.m.jobs.scroll, len, list.height);
    for (y, i) in (0u16..).zip(view.window(len)) {
        let Some(job) = c.m.jobs.rows.get(i) else { break };
        let line = Rect { y: list.y + y, height: 1, ..list };
        c.hits.add(line, Hit::Row(Pane::JobList, i));
        let s = c.look.symbols;
        let v = &job.view;
        let (glyph, role) = sign(c, v.state);
        c.put(line, 0, 0, &v.id.to_string(), Role::Dim);
        let x = c.put(line, 4, 0, glyph, role) + 1;
        c.put(line, x, 0, v.state.name(), role);
        c.put(line, what_x, 0, &cut_middle(&printable(&v.title), usize::from(what_room), s.ellipsis), Role::Text);
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
            (JobState::Cancelled, ..) => {}
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

/// Bytes a second over all of its life.
fn average(job: &JobRow) -> u64 {
    let p = &job.view.progress;
    let seconds = p.elapsed.as_secs_f64();
    if seconds > 0.0 { (p.read.max(p.done) as f64 / seconds) as u64 } else { 0 }
}

fn detail(c: &mut Canvas<'_>, area: Rect) {
    let Some(job) = c.m.selected_job().cloned() else { return };
    let focused = c.m.pane() == Pane::JobLog;
    frame::heading(c, area, 0, &format!("Job {}", job.view.id), job.view.state.name(), focused);
    let body = Rect { x: area.x + 1, y: area.y + 1, width: area.width - 2, height: area.height.saturating_sub(1) };
    let lines = lines(c, &job, usize::from(body.width.saturating_sub(1)));
    c.pane(Pane::JobLog, body, lines.len());
    let top = c.m.jobs.log.top.min(lines.len().saturating_sub(usize::from(body.height)));
    for (y, line) in (0u16..).zip(lines.iter().skip(top).take(usize::from(body.height))) {
        put_line(c.buf, body, 0, y, line);
    }
    scroll_mark(c, body, body.x + body.width, top, lines.len());
}

fn lines(c: &Canvas<'_>, job: &JobRow, room: usize) -> Vec<Line<'static>> {
    const LABEL: usize = 10;
    let s = c.look.symbols;
    let v = &job.view;
    let p = &v.progress;
    let mut out = Vec::new();
    let mut add = |label: &str, text: &str, role: Role| {
        for (i, part) in wrap(text, room.saturating_sub(LABEL).max(8)).into_iter().enumerate() {
            let label = if i == 0 { label } else { "" };
            out.push(Line::from(vec![c.look.span(Role::Dim, format!("{label:<LABEL$}")), c.look.span(role, part)]));
        }
    };
    add("what", &printable(&v.title), Role::Strong);
    if let Some(e) = &v.error {
        add("error", &format!("{} {e}", s.bad), Role::Bad);
        if let Some(hint) = e.advice() {
            add("hint", &printable(hint), Role::Text);
        }
    }
    if let Some(why) = &v.why
        && v.error.is_none()
    {
        add("waits", &printable(why), Role::Warn);
    }
    if let Some(o) = &v.outcome {
        add("made", &printable(&o.summary), Role::Good);
    }
    let graph = room.saturating_sub(LABEL + 28).min(100);
    if !job.samples.is_empty() && graph >= 10 {
        let read: Vec<u64> = job.samples.iter().map(|x| x.read).collect();
        let write: Vec<u64> = job.samples.iter().map(|x| x.written).collect();
        let rate = |now: Option<u64>, all: &[u64]| {
            let now = now.map_or(s.dash.to_string(), |r| format!("{}/s", size(r)));
            format!("{now:>10}  peak {}/s", size(all.iter().copied().max().unwrap_or(0)))
        };
        for (label, values, now) in [("read", &read, p.read_rate), ("write", &write, p.write_rate)] {
            let line = format!("{}{}{}{}", s.edges[0], sparkline(s, values, graph), s.edges[1], rate(now, values));
            add(label, &line, Role::Bar);
        }
    }
    let mut facts =
        vec![format!("{} of {}", size_words(p.done), if p.total > 0 { size_words(p.total) } else { s.dash.to_string() })];
    facts.push(format!("read {}", size_words(p.read)));
    facts.push(format!("written {}", size_words(p.written)));
    facts.push(format!("skipped {}", size_words(p.skipped)));
    add("data", &facts.join("   "), Role::Text);
    let mut time = vec![format!("{} elapsed", duration(p.elapsed.as_secs()))];
    if let Some(eta) = p.eta {
        time.push(format!("{} left, give or take {}", duration(eta.left.as_secs()), duration(eta.spread.as_secs())));
    }
    if let Some(b) = p.bound {
        let what = match b {
            Bound::Source => "reading the source",
            Bound::Target => "writing the target",
            Bound::Cpu => "computing",
            Bound::Limit => "its rate limit",
        };
        time.push(format!("bound by {what}"));
    }
    if !p.phase.is_empty() && !v.state.is_over() {
        time.push(printable(&p.phase));
    }
    add("time", &time.join("   "), Role::Text);
    if let Some(plan) = &v.plan {
        for l in plan.lines(size_words).into_iter().skip(1) {
            add(l.label, &printable(&l.text), if l.warns { Role::Warn } else { Role::Text });
        }
    }
    for (i, l) in job.log.iter().rev().enumerate() {
        let at = l.at.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let time = crate::ui::text::date(i64::try_from(at).unwrap_or(0));
        add(
            if i == 0 { "log" } else { "" },
            &format!("{} {}", time.split(' ').nth(1).unwrap_or_default(), printable(&l.text)),
            Role::Text,
        );
    }
    out
}
