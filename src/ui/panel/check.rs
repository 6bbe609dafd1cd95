//! The report of a check: what is wrong, where, what it means for the guest's data, and what repair would do; the worst first.

use ratatui::layout::Rect;
use ratatui::text::Line;

use super::detail::{labelled, paragraph};
use crate::app::model::Pane;
use crate::app::state::check::worst;
use crate::engine::format::check::{Finding, Mend, Severity, Spot, unit};
use crate::engine::ops::checking::{Checked, verdict};
use crate::engine::units::printable;
use crate::ui::pen::{put_line, put_right};
use crate::ui::text::{ago, cut_front, cut_middle, grouped, path, percent, size_words, width};
use crate::ui::theme::Role;
use crate::ui::widget::scroll_mark;
use crate::ui::{Canvas, frame};

/// Places shown of a finding.
const SPOTS: usize = 6;

/// Draws the screen.
pub fn draw(c: &mut Canvas<'_>, area: Rect) {
    let Some(file) = c.m.check.path.clone() else {
        c.put(area, 3, area.height / 3, "no image is checked: select one in the library and press K", Role::Dim);
        return;
    };
    let head = Rect { x: area.x + 1, width: area.width - 2, height: 1, ..area };
    let s = c.look.symbols;
    let name = file.file_name().map(|n| printable(&n.to_string_lossy())).unwrap_or_default();
    let x = c.put(head, 0, 0, &cut_middle(&name, usize::from(head.width / 2), s.ellipsis), Role::Title) + 2;
    let right = state(c);
    put_right(c.buf, head, head.width, 0, &right.0, c.look.style(right.1));
    let room = usize::from(head.width.saturating_sub(x)).saturating_sub(width(&right.0) + 2);
    c.put(head, x, 0, &cut_front(&file.parent().map(path).unwrap_or_default(), room, s.ellipsis), Role::Dim);
    let body = Rect { y: area.y + 1, height: area.height - 1, ..area };
    frame::heading(c, body, 0, "Check", "", true);
    let text = Rect { x: body.x + 1, y: body.y + 1, width: body.width - 2, height: body.height - 1 };
    let room = usize::from(text.width.saturating_sub(1));
    let lines = match (c.m.check.shown().cloned(), &c.m.check.failed) {
        (_, Some(why)) if !c.m.checking() => {
            let mut out = Vec::new();
            paragraph(c, "failed", &format!("{} {}", s.bad, printable(why)), Role::Bad, room, &mut out);
            out
        }
        (Some(checked), _) => report(c, &checked, room),
        (None, _) => Vec::new(),
    };
    c.pane(Pane::Report, text, lines.len());
    let top = c.m.check.scroll.top.min(lines.len().saturating_sub(usize::from(text.height)));
    for (y, line) in (0u16..).zip(lines.iter().skip(top).take(usize::from(text.height))) {
        put_line(c.buf, text, 0, y, line);
    }
    scroll_mark(c, text, text.x + text.width, top, lines.len());
}

/// How the report stands to the image: being made, of now, or of before.
fn state(c: &Canvas<'_>) -> (String, Role) {
    let s = c.look.symbols.spinner;
    if c.m.checking() {
        return (format!("{} checking", s.get(c.m.now.frame(s.len())).copied().unwrap_or_default()), Role::Accent);
    }
    match (c.m.check.shown(), c.m.subject_entry()) {
        (Some(_), Some(e)) if c.m.check.of(e).is_none() => ("it was written to since: check it again".into(), Role::Warn),
        (Some(checked), _) => {
            let when = ago(checked.stamp.modified(), c.m.now.unix);
            (format!("{}, last written {when}", checked.format.name()), Role::Dim)
        }
        _ => (String::new(), Role::Dim),
    }
}

fn look(c: &Canvas<'_>, severity: Option<Severity>) -> (&'static str, Role) {
    let s = c.look.symbols;
    match severity {
        None => (s.good, Role::Good),
        Some(Severity::Note) => (s.bullet, Role::Text),
        Some(Severity::Leak | Severity::Unchecked) => (s.warn, Role::Warn),
        Some(Severity::Corruption) => (s.bad, Role::Bad),
    }
}

/// The report as lines.
fn report(c: &Canvas<'_>, checked: &Checked, room: usize) -> Vec<Line<'static>> {
    let r = &checked.report;
    let mut out = Vec::new();
    let (sign, role) = look(c, worst(checked));
    paragraph(c, "verdict", &format!("{sign} {}", verdict(checked.format, r)), role, room, &mut out);
    let mut facts = Vec::new();
    if r.total > 0 {
        let share = percent(r.allocated as f64 / r.total as f64);
        let units = unit(checked.format, r.total);
        facts.push(format!("{} of {} {units} stored ({share})", grouped(r.allocated), grouped(r.total)));
    }
    if r.allocated > 0 {
        facts.push(format!("{} fragmented", percent(r.fragmented as f64 / r.allocated as f64)));
    }
    if r.compressed > 0 {
        facts.push(format!("{} compressed", grouped(r.compressed)));
    }
    facts.extend(r.image_end.map(|end| format!("the last {} ends at {}", unit(checked.format, 1), size_words(end))));
    if !facts.is_empty() {
        paragraph(c, "storage", &facts.join(", "), Role::Text, room, &mut out);
    }
    for severity in [Severity::Corruption, Severity::Unchecked, Severity::Leak, Severity::Note] {
        for f in r.findings.iter().filter(|f| f.rule.severity == severity) {
            out.push(Line::default());
            finding(c, f, room, &mut out);
        }
    }
    if !r.lost.is_empty() {
        out.push(Line::default());
        let lost = |(at, len): &(u64, u64)| format!("{} at {}", size_words(*len), size_words(*at));
        let first: Vec<String> = r.lost.iter().take(SPOTS).map(lost).collect();
        let more = r.lost.len().saturating_sub(SPOTS);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        let text = format!("{}{more}: what the guest kept there cannot be read back", first.join(", "));
        paragraph(c, "lost", &text, Role::Bad, room, &mut out);
    }
    out
}

fn finding(c: &Canvas<'_>, f: &Finding, room: usize, out: &mut Vec<Line<'static>>) {
    let (sign, role) = look(c, Some(f.rule.severity));
    paragraph(c, &grouped(f.count), &format!("{sign} {}", f.rule.title), role, room, out);
    paragraph(c, "means", f.rule.means, Role::Text, room, out);
    let role = if f.rule.mend == Mend::No { Role::Warn } else { Role::Text };
    paragraph(c, "repair", f.rule.repair, role, room, out);
    for (i, spot) in f.spots.iter().take(SPOTS).enumerate() {
        paragraph(c, if i == 0 { "where" } else { "" }, &place(spot), Role::Dim, room, out);
    }
    let more = f.count.saturating_sub(f.spots.len().min(SPOTS) as u64);
    if more > 0 {
        out.push(labelled(c, "", vec![c.look.span(Role::Dim, format!("and {} more", grouped(more)))]));
    }
}

/// Where an instance is, in a line.
fn place(spot: &Spot) -> String {
    let mut parts = Vec::new();
    parts.extend(spot.offset.map(|at| format!("byte {at:#x} of the file")));
    parts.extend(spot.guest.map(|(at, len)| format!("guest {} at {at:#x}", size_words(len))));
    if !spot.detail.is_empty() {
        parts.push(printable(&spot.detail));
    }
    parts.join(", ")
}
