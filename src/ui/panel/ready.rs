//! Where an image would be taken: the targets with their verdicts, and for the one under the cursor every requirement with its
//! evidence, what mends it, the properties to give it, and the one action.

use ratatui::layout::Rect;
use ratatui::text::Line;

use super::inside::title;
use crate::app::Action;
use crate::app::command::Command;
use crate::app::hits::Hit;
use crate::app::model::{Pane, Screen};
use crate::engine::guest::ready::{Answer, Part, Readiness};
use crate::engine::units::printable;
use crate::ui::pen::{paint_row, put_line, put_right};
use crate::ui::text::{cut, wrap};
use crate::ui::theme::Role;
use crate::ui::widget::{scroll_mark, window};
use crate::ui::{Canvas, frame};

/// Draws the screen.
pub fn draw(c: &mut Canvas<'_>, area: Rect) {
    let Some(file) = c.m.inside.path.clone() else {
        c.put(area, 3, area.height / 3, "no image is open: select one in the library and press W", Role::Dim);
        return;
    };
    let head = Rect { x: area.x + 1, width: area.width - 2, height: 1, ..area };
    title(c, head, &file);
    let body = Rect { y: area.y + 1, height: area.height - 1, ..area };
    let look = match &c.m.inside.look {
        Some(Ok(look)) => look.clone(),
        Some(Err(e)) => {
            for (y, line) in (2..body.height).zip(&wrap(&e.to_string(), usize::from(body.width.saturating_sub(6)))) {
                c.put(body, 3, y, line, Role::Bad);
            }
            c.pane(Pane::Targets, body, 0);
            return;
        }
        None => {
            c.put(body, 3, 2, &format!("looking inside{}", c.look.symbols.ellipsis), Role::Dim);
            c.pane(Pane::Targets, body, 0);
            return;
        }
    };
    let n = u16::try_from(look.readiness.len()).unwrap_or(u16::MAX);
    let (list, detail) = if body.width >= 100 {
        let left = 34;
        for y in 1..body.height {
            c.put(body, left, y, c.look.symbols.vertical, Role::Border);
        }
        (Rect { width: left, ..body }, Rect { x: body.x + left + 1, width: body.width - left - 1, ..body })
    } else {
        let top = (n + 1).min(body.height / 2);
        (Rect { height: top, ..body }, Rect { y: body.y + top, height: body.height - top, ..body })
    };
    targets(c, list, &look.readiness);
    if let Some(r) = look.readiness.get(c.m.inside.targets.at) {
        findings(c, detail, r, &file);
    }
}

/// A sign and its colour.
fn sign(c: &Canvas<'_>, answer: Answer) -> (&'static str, Role) {
    let s = c.look.symbols;
    match answer {
        Answer::Yes => (s.good, Role::Good),
        Answer::No => (s.bad, Role::Bad),
        Answer::Advice => (s.warn, Role::Warn),
        Answer::Unknown => ("?", Role::Warn),
    }
}

fn verdict(answer: Answer) -> &'static str {
    match answer {
        Answer::No => "not ready",
        Answer::Unknown => "could not tell",
        _ => "ready",
    }
}

fn targets(c: &mut Canvas<'_>, area: Rect, all: &[Readiness]) {
    frame::heading(c, area, 0, "Ready for", "", c.m.pane() == Pane::Targets);
    let body = Rect { x: area.x + 1, y: area.y + 1, width: area.width.saturating_sub(2), height: area.height.saturating_sub(1) };
    c.pane(Pane::Targets, body, all.len());
    let view = window(c.m.inside.targets, all.len(), body.height);
    for (y, i) in (0u16..).zip(view.window(all.len())) {
        let Some(r) = all.get(i) else { break };
        let line = Rect { y: body.y + y, height: 1, ..body };
        c.hits.add(line, Hit::Row(Pane::Targets, i));
        let (sign, role) = sign(c, r.answer());
        c.put(line, 0, 0, sign, role);
        c.put(line, 2, 0, r.target.entry().title, Role::Strong);
        c.put(line, 15, 0, verdict(r.answer()), role);
        let no = r.count(Answer::No);
        if no > 0 {
            put_right(c.buf, line, line.width, 0, &no.to_string(), c.look.style(Role::Dim));
        }
        if i == view.at {
            let style = c.select(Pane::Targets);
            paint_row(c.buf, line, 0, style);
        }
    }
}

fn findings(c: &mut Canvas<'_>, area: Rect, r: &Readiness, file: &std::path::Path) {
    let entry = r.target.entry();
    let head = format!("{}: {}", entry.title, verdict(r.answer()));
    frame::heading(c, area, 0, &head, entry.taker, c.m.pane() == Pane::Findings);
    // The one action stands below, always in sight.
    let action = r.action(file);
    let foot = if action.is_some() { 2 } else { 0 };
    let body =
        Rect { x: area.x + 1, y: area.y + 1, width: area.width.saturating_sub(2), height: area.height.saturating_sub(1 + foot) };
    let lines = lines(c, r, usize::from(body.width.saturating_sub(1)));
    c.pane(Pane::Findings, body, lines.len());
    let top = c.m.inside.findings.top.min(lines.len().saturating_sub(usize::from(body.height)));
    for (y, line) in (0u16..).zip(lines.iter().skip(top).take(usize::from(body.height))) {
        put_line(c.buf, body, 0, y, line);
    }
    scroll_mark(c, body, body.x + body.width, top, lines.len());
    if let Some(words) = action {
        let foot = Rect { y: body.y + body.height, height: 2, ..body };
        let key = Command::of(Action::Mend, Screen::Ready).and_then(|r| c.m.keymap.keys(r).first().map(ToString::to_string));
        let key = key.unwrap_or_default();
        c.hits.add(foot, Hit::Run(Action::Mend));
        let x = c.put(foot, 0, 1, &key, Role::Accent) + 1;
        let x = c.put(foot, x, 1, c.look.symbols.arrow, Role::Dim) + 1;
        let line = printable(&format!("cowshed {}", words.join(" ")));
        c.put(foot, x, 1, &cut(&line, usize::from(foot.width.saturating_sub(x)), c.look.symbols.ellipsis), Role::Strong);
    }
}

fn lines(c: &Canvas<'_>, r: &Readiness, room: usize) -> Vec<Line<'static>> {
    let mut out = Vec::new();
    for (part, title) in [(Part::Image, "the image"), (Part::Guest, "the guest")] {
        let mut all: Vec<_> = r.findings.iter().filter(|f| f.part == part).collect();
        if all.is_empty() {
            continue;
        }
        // What stands in the way first, what is met last.
        all.sort_by_key(|f| match f.answer {
            Answer::No => 0,
            Answer::Unknown => 1,
            Answer::Advice => 2,
            Answer::Yes => 3,
        });
        out.push(Line::from(c.look.span(Role::Dim, title)));
        for f in all {
            let (sign, role) = sign(c, f.answer);
            let from = if f.from.is_empty() { String::new() } else { format!("  [{}]", f.from) };
            let text = printable(&format!("{}{from}", f.evidence));
            for (i, part) in wrap(&text, room.saturating_sub(25).max(10)).into_iter().enumerate() {
                let (sign, what) = if i == 0 { (sign, f.what) } else { ("", "") };
                out.push(Line::from(vec![
                    c.look.span(role, format!("{sign:<2}")),
                    c.look.span(Role::Strong, format!("{what:<23}")),
                    c.look.span(Role::Text, part),
                ]));
            }
            if let Some(fix) = &f.fix {
                let parts = wrap(&printable(&fix.text(r.target)), room.saturating_sub(28).max(10));
                for (i, part) in parts.into_iter().enumerate() {
                    let arrow = format!("{:25}{:<3}", "", if i == 0 { c.look.symbols.arrow } else { "" });
                    out.push(Line::from(vec![c.look.span(Role::Dim, arrow), c.look.span(Role::Accent, part)]));
                }
            }
        }
    }
    if !r.properties.is_empty() {
        out.push(Line::default());
        out.push(Line::from(c.look.span(Role::Dim, "properties to give it")));
        for p in &r.properties {
            let value = cut(&printable(&p.value), 20, c.look.symbols.ellipsis);
            let why = cut(&printable(&p.why), room.saturating_sub(47), c.look.symbols.ellipsis);
            out.push(Line::from(vec![
                c.look.span(Role::Text, format!("  {:<23}", p.name)),
                c.look.span(Role::Strong, format!("{value:<21}")),
                c.look.span(Role::Dim, why),
            ]));
        }
    }
    out
}
