//! One job in full: its rates over time, what is done of the disk, what is safe, its plan and its log.

use ratatui::layout::Rect;
use ratatui::text::Line;

use super::jobs::{average, took};
use crate::app::model::Pane;
use crate::app::state::jobs::{JobRow, LeftRow};
use crate::engine::job::{Bound, Finished, JobState, ProgressSnapshot};
use crate::engine::ops::plan::Layout;
use crate::engine::units::printable;
use crate::ui::pen::put_line;
use crate::ui::text::{ago, date, duration, size, size_words, wrap};
use crate::ui::theme::Role;
use crate::ui::widget::{scroll_mark, sparkline, sparkline_to};
use crate::ui::{Canvas, frame};

/// Columns of the labels.
const LABEL: usize = 10;

/// Draws the job under the cursor.
pub fn draw(c: &mut Canvas<'_>, area: Rect) {
    let focused = c.m.pane() == Pane::JobLog;
    let body = Rect { x: area.x + 1, y: area.y + 1, width: area.width - 2, height: area.height.saturating_sub(1) };
    let room = usize::from(body.width.saturating_sub(1));
    let lines = match (c.m.selected_job().cloned(), c.m.jobs.selected_left().cloned()) {
        (Some(job), _) => {
            frame::heading(c, area, 0, &format!("Job {}", job.view.id), job.view.state.name(), focused);
            of_job(c, &job, room)
        }
        (None, Some(left)) => {
            frame::heading(c, area, 0, "Interrupted job", &left.record.key, focused);
            of_left(c, &left, room)
        }
        (None, None) => {
            let Some(past) = c.m.jobs.selected_past().cloned() else { return };
            frame::heading(c, area, 0, "Earlier job", past.state.name(), focused);
            of_past(c, &past, room)
        }
    };
    c.pane(Pane::JobLog, body, lines.len());
    let top = c.m.jobs.log.top.min(lines.len().saturating_sub(usize::from(body.height)));
    for (y, line) in (0u16..).zip(lines.iter().skip(top).take(usize::from(body.height))) {
        put_line(c.buf, body, 0, y, line);
    }
    scroll_mark(c, body, body.x + body.width, top, lines.len());
}

/// Lines with a label each; what is too long goes on below.
struct Sheet<'a, 'b> {
    c: &'a Canvas<'b>,
    room: usize,
    out: Vec<Line<'static>>,
}

impl Sheet<'_, '_> {
    fn add(&mut self, label: &str, text: &str, role: Role) {
        for (i, part) in wrap(text, self.room.saturating_sub(LABEL).max(8)).into_iter().enumerate() {
            let label = if i == 0 { label } else { "" };
            let look = self.c.look;
            self.out.push(Line::from(vec![look.span(Role::Dim, format!("{label:<LABEL$}")), look.span(role, part)]));
        }
    }
    /// A graph or map between its edges, and words behind it.
    fn graph(&mut self, label: &str, graph: Vec<(String, Role)>, words: &str) {
        let (look, s) = (self.c.look, self.c.look.symbols);
        let mut spans = vec![look.span(Role::Dim, format!("{label:<LABEL$}")), look.span(Role::Border, s.edges[0])];
        spans.extend(graph.into_iter().map(|(text, role)| look.span(role, text)));
        spans.push(look.span(Role::Border, s.edges[1]));
        spans.push(look.span(Role::Text, format!(" {words}")));
        self.out.push(Line::from(spans));
    }
}

fn of_left(c: &Canvas<'_>, left: &LeftRow, room: usize) -> Vec<Line<'static>> {
    let s = c.look.symbols;
    let r = &left.record;
    let mut sheet = Sheet { c, room, out: Vec::new() };
    sheet.add("what", &printable(&r.title), Role::Strong);
    match &left.why_not {
        None => sheet.add(
            "state",
            "its process is gone; nothing stands under the final name, and it can go on where it was durable",
            Role::Good,
        ),
        Some(why) => {
            sheet.add(
                "state",
                &format!("{} its process is gone, and it cannot go on where it was: {}", s.warn, printable(why)),
                Role::Warn,
            );
        }
    }
    sheet.add("durable", &format!("up to {} of the guest's disk", size_words(r.durable)), Role::Text);
    let updated = date(i64::try_from(r.updated).unwrap_or(0));
    sheet.add("last seen", &format!("{updated} UTC, process {}", r.pid), Role::Text);
    sheet.add("command", &printable(&format!("cowshed {}", r.resumed().command().join(" "))), Role::Text);
    let goes = if left.why_not.is_some() { "begins anew" } else { "resumes" };
    sheet.add("keys", &format!("R or Space {goes}, x discards it and removes what it had written"), Role::Dim);
    sheet.out
}

/// A job of an earlier session.
fn of_past(c: &Canvas<'_>, job: &Finished, room: usize) -> Vec<Line<'static>> {
    let s = c.look.symbols;
    let mut sheet = Sheet { c, room, out: Vec::new() };
    sheet.add("what", &printable(&job.title), Role::Strong);
    if let Some(e) = &job.error {
        sheet.add(if job.state == JobState::Failed { "error" } else { "why" }, &printable(&format!("{} {e}", s.bad)), Role::Bad);
    }
    if let Some(summary) = &job.summary {
        sheet.add("made", &printable(summary), Role::Good);
    }
    let unix = i64::try_from(job.ended).unwrap_or(0);
    sheet.add("ended", &format!("{} UTC, {}", date(unix), ago(unix, c.m.now.unix)), Role::Text);
    let rate = if job.seconds > 0.0 { (job.read as f64 / job.seconds) as u64 } else { 0 };
    let average = if rate > 0 { format!("   {}/s on average", size(rate)) } else { String::new() };
    sheet.add("took", &format!("{}{average}", took(job)), Role::Text);
    if job.read > 0 || job.written > 0 {
        sheet.add("data", &format!("read {}   written {}", size_words(job.read), size_words(job.written)), Role::Text);
    }
    if !job.command.is_empty() {
        sheet.add("command", &printable(&format!("cowshed {}", job.command.join(" "))), Role::Text);
    }
    for (i, (at, text)) in job.log.iter().rev().enumerate() {
        let time = date(i64::try_from(*at).unwrap_or(0));
        let text = format!("{} {}", time.split(' ').nth(1).unwrap_or_default(), printable(text));
        sheet.add(if i == 0 { "log" } else { "" }, &text, Role::Text);
    }
    sheet.out
}

fn of_job(c: &Canvas<'_>, job: &JobRow, room: usize) -> Vec<Line<'static>> {
    let s = c.look.symbols;
    let v = &job.view;
    let mut sheet = Sheet { c, room, out: Vec::new() };
    sheet.add("what", &printable(&v.title), Role::Strong);
    if let Some(e) = &v.error {
        sheet.add("error", &format!("{} {e}", s.bad), Role::Bad);
        if let Some(hint) = e.advice() {
            sheet.add("hint", &printable(hint), Role::Text);
        }
    }
    if let Some(why) = &v.why
        && v.error.is_none()
    {
        sheet.add(if v.state.is_over() { "why" } else { "waits" }, &printable(why), Role::Warn);
    }
    if let Some(o) = &v.outcome {
        sheet.add("made", &printable(&o.summary), Role::Good);
    }
    rates(&mut sheet, job);
    facts(&mut sheet, job);
    if let Some(plan) = &v.plan {
        for l in plan.lines(size_words).into_iter().skip(1) {
            sheet.add(l.label, &printable(&l.text), if l.warns { Role::Warn } else { Role::Text });
        }
    }
    for (i, l) in job.log.iter().rev().enumerate() {
        let at = l.at.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let time = date(i64::try_from(at).unwrap_or(0));
        let text = format!("{} {}", time.split(' ').nth(1).unwrap_or_default(), printable(&l.text));
        sheet.add(if i == 0 { "log" } else { "" }, &text, Role::Text);
    }
    sheet.out
}

/// Reading, writing and computing over the last two minutes, and the map of what is done.
fn rates(sheet: &mut Sheet<'_, '_>, job: &JobRow) {
    let s = sheet.c.look.symbols;
    let p = &job.view.progress;
    let graph = sheet.room.saturating_sub(LABEL + 42).min(120);
    if graph < 8 {
        return;
    }
    if !job.samples.is_empty() {
        let read: Vec<u64> = job.samples.iter().map(|x| x.read).collect();
        let write: Vec<u64> = job.samples.iter().map(|x| x.written).collect();
        let mean = |all: &[u64]| all.iter().sum::<u64>() / (all.len() as u64).max(1);
        for (label, values, now) in [("read", &read, p.read_rate), ("write", &write, p.write_rate)] {
            let now = now.map_or(s.dash.to_string(), |r| format!("{}/s", size(r)));
            let peak = values.iter().copied().max().unwrap_or(0);
            let words = format!("{now:>9}  avg {:>6}  peak {:>6}", size(mean(values)), size(peak));
            sheet.graph(label, vec![(sparkline(s, values, graph), Role::Bar)], &words);
        }
        // In thousandths of a processor; a full column is as many as were ever busy, at least one.
        let busy: Vec<u64> = job.samples.iter().map(|x| (f64::from(x.busy) * 1000.0) as u64).collect();
        let most = busy.iter().copied().max().unwrap_or(0).div_ceil(1000).max(1) * 1000;
        let now = job.samples.last().filter(|_| p.bound.is_some()).map_or(s.dash.to_string(), |x| format!("{:.1} busy", x.busy));
        let bound = p.bound.map(|b| format!("  bound by {}", bound(b))).unwrap_or_default();
        sheet.graph("cpu", vec![(sparkline_to(s, &busy, most, graph), Role::Bar)], &format!("{now:>9}{bound}"));
    }
    if let Some(layout) = job.view.plan.as_ref().and_then(|p| p.layout.as_ref()).filter(|l| l.size > 0) {
        let [hole, _, _, todo, done] = s.cells;
        let words = format!("{done} durable  {} copied  {todo} to do  {hole} hole", s.layers[2]);
        sheet.graph("map", map(sheet.c, layout, p, job.view.state == JobState::Done, graph), &words);
    }
}

/// Every column of the map, runs of one sort together.
fn map(c: &Canvas<'_>, layout: &Layout, p: &ProgressSnapshot, complete: bool, room: usize) -> Vec<(String, Role)> {
    let s = c.look.symbols;
    let [hole, _, _, todo, done] = s.cells;
    let parts = layout.parts.len();
    let mut out: Vec<(String, Role)> = Vec::new();
    for i in 0..room {
        let (a, b) = (i * parts / room, ((i + 1) * parts / room).max(i * parts / room + 1));
        let data = layout.parts.get(a..b.min(parts)).unwrap_or_default().iter().any(|n| *n > 0);
        let end = layout.edge(b.min(parts));
        let (cell, role) = match data {
            false => (hole, Role::Dim),
            true if complete || end <= p.durable => (done, Role::Good),
            true if end <= p.reached => (s.layers[2], Role::Bar),
            true => (todo, Role::Dim),
        };
        match out.last_mut() {
            Some((text, last)) if *last == role => text.push_str(cell),
            _ => out.push((cell.to_string(), role)),
        }
    }
    out
}

fn bound(b: Bound) -> &'static str {
    match b {
        Bound::Source => "reading the source",
        Bound::Target => "writing the target",
        Bound::Cpu => "computing",
        Bound::Limit => "its rate limit",
    }
}

fn facts(sheet: &mut Sheet<'_, '_>, job: &JobRow) {
    let s = sheet.c.look.symbols;
    let (v, p) = (&job.view, &job.view.progress);
    // A disk without data has one byte of work, so that it can be done.
    if p.total > 1 {
        let all = [
            format!("{} of {}", size_words(p.done), size_words(p.total)),
            format!("read {}", size_words(p.read)),
            format!("written {}", size_words(p.written)),
            format!("skipped {}", size_words(p.skipped)),
        ];
        sheet.add("data", &all.join("   "), Role::Text);
    }
    let mut time = vec![format!("{} elapsed", duration(p.elapsed.as_secs()))];
    if let Some(eta) = p.eta {
        let spread = if s.ellipsis == "…" { "±" } else { "+-" };
        let about = match eta.spread.as_secs() {
            0 => String::new(),
            n => format!(" {spread}{}", duration(n)),
        };
        time.push(format!("{} left{about}", duration(eta.left.as_secs())));
    }
    if v.state.is_over() && average(job) > 0 {
        time.push(format!("{}/s on average", size(average(job))));
    }
    if !p.phase.is_empty() && !v.state.is_over() {
        time.push(printable(&p.phase));
    }
    sheet.add("time", &time.join("   "), Role::Text);
    if !v.state.is_over() {
        let limit = if v.limit > 0 { format!("at most {}/s", size(v.limit)) } else { "none".into() };
        sheet.add("limit", &limit, if v.limit > 0 { Role::Strong } else { Role::Text });
        if v.priority != 0 {
            sheet.add("priority", if v.priority > 0 { "high" } else { "low" }, Role::Strong);
        }
        let safe = match (&v.key, p.durable) {
            (None, _) => "it cannot be resumed when it is interrupted: it would begin anew".to_string(),
            (Some(_), 0) => "nothing is durable yet".to_string(),
            (Some(key), n) => {
                format!("durable up to {} of the disk: if it is interrupted it goes on there (job {key})", size_words(n))
            }
        };
        if v.state != JobState::Queued {
            sheet.add("safe", &safe, Role::Text);
        }
    }
}
