//! A form: its fields with what is wrong beside them, then the plan and the buttons.

use ratatui::layout::Rect;
use ratatui::text;

use super::{hints, input, open};
use crate::app::form::{Field, Form, Kind, Page, Part};
use crate::app::hits::Hit;
use crate::app::message::Level;
use crate::engine::ops::plan::Plan;
use crate::engine::units::printable;
use crate::ui::Canvas;
use crate::ui::panel::sanitize;
use crate::ui::pen::{paint_row, put_line};
use crate::ui::text::{count, cut, cut_middle, size_words, width, wrap};
use crate::ui::theme::Role;
use crate::ui::widget::scroll_mark;

/// Columns of the labels.
const LABEL: u16 = 21;
/// Columns from which on every field's explanation stands beside it.
const WIDE: u16 = 104;
/// Columns of the dialog at most.
const WIDEST: u16 = 150;
/// Column where the explanation stands then, at the earliest.
const BESIDE: u16 = LABEL + 29;

pub(super) fn draw(c: &mut Canvas<'_>, screen: Rect, form: &Form) {
    let title =
        cut_middle(&printable(&form.recipe.title()), usize::from(screen.width.saturating_sub(26)), c.look.symbols.ellipsis);
    let pages = match form.page {
        _ if form.fields.is_empty() => "",
        Page::Fields => " (1/2)",
        Page::Plan => " (2/2: the plan)",
    };
    // As high as it must be, with some air; the frame, the line of the plan, buttons and hints need six rows.
    let inner = WIDEST.min(screen.width.saturating_sub(4)).saturating_sub(4);
    let lines = lines(c, inner, form);
    let planned = match form.page {
        Page::Fields => 0,
        Page::Plan => plan_lines(c, form, usize::from(inner)).len() + usize::from(plan_foot(form)) + 2,
    };
    let rows = u16::try_from((lines.len() + 8).max(planned)).unwrap_or(u16::MAX).max(16);
    let area = open(c, screen, WIDEST, rows, &format!("{title}{pages}"));
    match form.page {
        Page::Fields => fields(c, area, form, &lines),
        Page::Plan => plan(c, area, form),
    }
}

/// A line of the page of fields.
struct Line<'a> {
    field: Option<usize>,
    what: What<'a>,
}

enum What<'a> {
    Heading(&'a str),
    Field(&'a Field),
    Below(String, Role),
}

fn lines<'a>(c: &Canvas<'_>, columns: u16, form: &'a Form) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    for (i, f) in form.fields.iter().enumerate() {
        if let Some(section) = &f.section {
            lines.push(Line { field: None, what: What::Heading(section) });
        }
        lines.push(Line { field: Some(i), what: What::Field(f) });
        let room = usize::from(columns.saturating_sub(LABEL));
        let mut below = |text: &str, role| {
            for part in wrap(text, room.max(8)) {
                lines.push(Line { field: Some(i), what: What::Below(part, role) });
            }
        };
        if let Some((text, role)) = remark(c, form, f) {
            below(&text, role);
        }
        let fits = beside(f, columns).is_some_and(|x| width(&explained(f)) <= usize::from(columns - x));
        if form.at == i && !fits {
            below(&explained(f), Role::Dim);
        }
    }
    lines
}

/// Where the explanation of a field stands beside it; `None` where there is no room for one.
fn beside(f: &Field, columns: u16) -> Option<u16> {
    let words: usize = f.words().iter().map(|w| width(&printable(w)) + 2).sum();
    let end = match f.kind {
        Kind::Path { .. } => return None,
        Kind::Choice(_) => BESIDE.max(LABEL + u16::try_from(words).unwrap_or(u16::MAX).saturating_add(1)),
        _ => BESIDE,
    };
    (columns >= WIDE && end.saturating_add(24) <= columns).then_some(end)
}

fn fields(c: &mut Canvas<'_>, area: Rect, form: &Form, lines: &[Line<'_>]) {
    let verdict = wrap(&verdict(c, form).0, usize::from(area.width)).len().clamp(1, 2) as u16;
    let body = Rect { height: area.height.saturating_sub(3 + verdict), ..area };
    // The field under the cursor stays in sight, with what stands below it.
    let height = usize::from(body.height);
    let last = lines.iter().rposition(|l| l.field == Some(form.at)).unwrap_or(if form.at == 0 {
        0
    } else {
        lines.len().saturating_sub(1)
    });
    let first = lines.iter().position(|l| l.field == Some(form.at)).unwrap_or(last);
    let top = (last + 1 + height / 3).min(lines.len()).saturating_sub(height).min(first);
    c.hits.layer = height;
    for (y, line) in (0u16..).zip(lines.iter().skip(top).take(height)) {
        let row = Rect { y: body.y + y, height: 1, ..body };
        match &line.what {
            What::Heading(text) => {
                let x = c.put(row, 0, 0, text, Role::Title) + 1;
                let rule = c.look.symbols.horizontal.repeat(usize::from(row.width.saturating_sub(x)));
                c.put(row, x, 0, &rule, Role::Border);
            }
            What::Field(f) => {
                let i = line.field.unwrap_or(0);
                c.hits.add(row, Hit::Field(i));
                field(c, row, i, f, form.at == i);
            }
            What::Below(text, role) => {
                c.hits.add(row, Hit::Field(line.field.unwrap_or(0)));
                c.put(row, LABEL, 0, text, *role);
            }
        }
    }
    scroll_mark(c, body, body.x + body.width + 1, top, lines.len());
    foot(c, area, form);
}

/// What a field means and what no answer means.
fn explained(f: &Field) -> String {
    match (&f.kind, f.default.as_str()) {
        (_, "") | (Kind::Switch, _) => f.doc.clone(),
        // A word such as "(now)" says itself that it is no choice.
        (_, default) if default.starts_with('(') => f.doc.clone(),
        (_, default) => format!("{} (default {})", f.doc, printable(default)),
    }
}

/// What is wrong with an answer, or what the disk says to it.
fn remark(c: &Canvas<'_>, form: &Form, f: &Field) -> Option<(String, Role)> {
    let s = c.look.symbols;
    if let Some(e) = &f.error {
        // Nothing was typed yet: no reason to be loud.
        let early = !form.asked && f.typed() && (f.value().is_empty() || !f.touched);
        return Some((
            format!("{} {}", if early { s.bullet } else { s.bad }, printable(e)),
            if early { Role::Dim } else { Role::Bad },
        ));
    }
    let r = f.remark.as_ref()?;
    let (sign, role) = match r.level {
        Level::Info => (s.good, Role::Good),
        Level::Warning => (s.warn, Role::Warn),
        Level::Error => (s.bad, Role::Bad),
    };
    Some((format!("{sign} {}", printable(&r.text)), role))
}

fn field(c: &mut Canvas<'_>, row: Rect, i: usize, f: &Field, here: bool) {
    let s = c.look.symbols;
    let label = cut(&printable(&f.label), usize::from(LABEL) - 3, s.ellipsis);
    if here {
        c.put(row, 0, 0, s.closed, Role::Accent);
    }
    c.put(row, 2, 0, &label, if here { Role::Strong } else { Role::Text });
    let beside = beside(f, row.width);
    let end = match &f.kind {
        Kind::Switch => {
            let on = f.value() == "on";
            let mark = if on { s.good } else { " " };
            let end = c.put(row, LABEL, 0, &format!("[{mark}]"), if on { Role::Strong } else { Role::Text });
            c.put(row, end + 1, 0, &printable(&f.note), Role::Dim);
            c.hits.add(Rect { x: row.x + LABEL, width: end - LABEL, ..row }, Hit::Word(i, usize::from(!on)));
            end
        }
        Kind::Choice(words) => choice(c, row, i, f, words, here),
        _ => {
            let room = beside.map_or(row.width, |x| x - 1);
            let line = Rect { width: room.min(row.width), ..row };
            if f.input.is_empty() && !here {
                let shown = if f.default.is_empty() { s.dash } else { &f.default };
                c.put(line, LABEL, 0, &printable(shown), Role::Dim);
            } else {
                input(c, line, LABEL, 0, &f.input, here);
            }
            room
        }
    };
    if here && matches!(f.kind, Kind::Switch) {
        paint_row(c.buf, Rect { x: row.x + LABEL, width: end - LABEL, ..row }, 0, c.look.style(Role::Select));
    }
    if let Some(x) = beside {
        let room = usize::from(row.width.saturating_sub(x));
        let text = explained(f);
        // Under the cursor it stands below in full when it does not fit here.
        if !here || width(&text) <= room {
            c.put(row, x, 0, &cut(&text, room, s.ellipsis), Role::Dim);
        }
    }
}

/// All words in a row when they fit, else the one chosen between arrows.
fn choice(c: &mut Canvas<'_>, row: Rect, i: usize, f: &Field, words: &[String], here: bool) -> u16 {
    let s = c.look.symbols;
    let style = c.look.style(if here { Role::Select } else { Role::SelectDim });
    let total: usize = words.iter().map(|w| width(&printable(w)) + 2).sum();
    let mut x = LABEL;
    if total <= usize::from(row.width.saturating_sub(LABEL)) {
        for (n, word) in words.iter().enumerate() {
            let chosen = *word == f.input.text();
            let text = format!(" {} ", printable(word));
            let end = c.put(row, x, 0, &text, if chosen { Role::Strong } else { Role::Dim });
            let at = Rect { x: row.x + x, width: end - x, ..row };
            if chosen {
                paint_row(c.buf, at, 0, style);
                // Without colours the brackets tell.
                c.put(row, x, 0, "[", Role::Accent);
                c.put(row, end - 1, 0, "]", Role::Accent);
            }
            c.hits.add(at, Hit::Word(i, n));
            x = end;
        }
        return x;
    }
    let at = words.iter().position(|w| w == f.input.text()).unwrap_or(0);
    let len = words.len().max(1);
    let room = usize::from(row.width.saturating_sub(LABEL + 16));
    let left = c.put(row, x, 0, s.back, Role::Accent);
    c.hits.add(Rect { x: row.x + x, width: left - x, ..row }, Hit::Word(i, (at + len - 1) % len));
    let word = format!(" {} ", cut(&printable(f.input.text()), room, s.ellipsis));
    x = c.put(row, left, 0, &word, Role::Strong);
    paint_row(c.buf, Rect { x: row.x + left, width: x - left, ..row }, 0, style);
    let right = c.put(row, x, 0, s.arrow, Role::Accent);
    c.hits.add(Rect { x: row.x + x, width: right - x, ..row }, Hit::Word(i, (at + 1) % len));
    c.put(row, right + 1, 0, &format!("{} of {len}", at + 1), Role::Dim)
}

/// What it comes to, in a sentence.
fn verdict(c: &Canvas<'_>, form: &Form) -> (String, Role) {
    let s = c.look.symbols;
    let wrong = form.fields.iter().filter(|f| f.error.is_some()).count();
    match &form.plan {
        // The answers ask for nothing yet.
        Some(Err(e)) if !form.asked && matches!(form.spec(), Some(Err(_))) => {
            (format!("{} {}", s.bullet, printable(e.why())), Role::Dim)
        }
        Some(Err(e)) => (format!("{} {}", s.bad, printable(e.why())), Role::Bad),
        Some(Ok(Plan { report: Some(r), .. })) if r.is_empty() => (format!("{} there is nothing to do", s.good), Role::Good),
        Some(Ok(Plan { report: Some(r), .. })) => {
            let (files, wiped) = (count(r.files(), "file"), size_words(r.zeroed));
            let kept = match &r.undo {
                Some(u) if u.path.is_some() => format!(", {} kept to take it back", size_words(u.bytes)),
                _ => String::new(),
            };
            let more = r.warnings.len() + r.operations.iter().map(|o| o.warnings.len()).sum::<usize>();
            let warned = if more > 0 { format!("; {} {more} to know before", s.warn) } else { String::new() };
            let role = if more > 0 { Role::Warn } else { Role::Good };
            (format!("{} {files} to change, {wiped} to wipe{kept}{warned}", s.good), role)
        }
        Some(Ok(p)) => {
            let worst = if p.write_bytes.worst > 0 {
                format!(", at most {} written", size_words(p.write_bytes.worst))
            } else {
                String::new()
            };
            let read = if p.read_bytes > 0 {
                format!(" {} to read{worst}", size_words(p.read_bytes))
            } else {
                " it can be done".to_string()
            };
            let more = p.warnings.len() + p.losses.len();
            let warned = if more > 0 { format!("; {} {more} to know before", s.warn) } else { String::new() };
            (format!("{}{read}{warned}", s.good), if more > 0 { Role::Warn } else { Role::Good })
        }
        None if form.waiting => (spinning(c, "making the plan"), Role::Dim),
        None if wrong > 0 && form.asked => (format!("{} {wrong} to mend before it can go on", s.bad), Role::Bad),
        None => (String::new(), Role::Dim),
    }
}

/// What it comes to, the buttons, and the keys.
fn foot(c: &mut Canvas<'_>, area: Rect, form: &Form) {
    let (text, role) = verdict(c, form);
    let room = usize::from(area.width);
    let mut lines = wrap(&text, room);
    if lines.len() > 2 {
        let rest = lines.split_off(1).join(" ");
        lines.push(cut(&rest, room, c.look.symbols.ellipsis));
    }
    let top = area.height.saturating_sub(2 + lines.len().max(1) as u16);
    for (y, line) in (top..).zip(&lines) {
        c.put(area, 0, y, line, role);
    }
    let first = form.fields.len();
    buttons(c, area, &[("  Plan  ", first, form.at == first, true), ("  Cancel  ", first + 1, form.at == first + 1, true)]);
    let typing = form.fields.get(form.at).is_some_and(Field::typed);
    let turn = if typing { ("type", "to answer") } else { ("Space", "change") };
    let copy = if typing { "Ctrl-y" } else { "Y" };
    let all = [("Tab", "next"), turn, ("Enter", "the plan"), ("Esc", "close"), (copy, "copy command")];
    hints(c, area, area.height.saturating_sub(1), &all);
}

fn spinning(c: &Canvas<'_>, what: &str) -> String {
    let s = c.look.symbols;
    let frame = s.spinner.get(c.m.now.frame(s.spinner.len())).copied().unwrap_or_default();
    format!("{frame} {what}{}", s.ellipsis)
}

/// Buttons in a row: word, number for the mouse, under the cursor, can be pressed.
fn buttons(c: &mut Canvas<'_>, area: Rect, all: &[(&str, usize, bool, bool)]) {
    let y = area.height.saturating_sub(2);
    let mut x = 0;
    for (label, n, here, ready) in all {
        let at = Rect { x: area.x + x, y: area.y + y, width: width(label) as u16, height: 1 };
        c.put(area, x, y, label, if *ready { Role::Strong } else { Role::Dim });
        paint_row(c.buf, at, 0, c.look.style(if *here { Role::Select } else { Role::SelectDim }));
        if *here {
            c.put(area, x, y, c.look.symbols.closed, Role::Accent);
        }
        c.hits.add(at.intersection(area), Hit::Field(*n));
        x += at.width + 2;
    }
}

/// The lines of the plan, or why there is none.
fn plan_lines(c: &Canvas<'_>, form: &Form, columns: usize) -> Vec<text::Line<'static>> {
    match &form.plan {
        Some(Ok(Plan { report: Some(report), .. })) => sanitize::lines(c, report, true, columns),
        _ => told(c, form, columns),
    }
}

/// Rows below them: the name to type, the buttons, the keys, with air before each.
fn plan_foot(form: &Form) -> u16 {
    if form.word().is_some() { 5 } else { 3 }
}

fn plan(c: &mut Canvas<'_>, area: Rect, form: &Form) {
    let s = c.look.symbols;
    let word = form.word();
    let body = Rect { height: area.height.saturating_sub(plan_foot(form)), ..area };
    let lines = plan_lines(c, form, usize::from(area.width));
    let height = usize::from(body.height);
    c.hits.layer = height;
    c.hits.layer_len = lines.len();
    let top = form.top.min(lines.len().saturating_sub(height));
    for (y, line) in (0u16..).zip(lines.iter().skip(top).take(height)) {
        put_line(c.buf, body, 0, y, line);
    }
    scroll_mark(c, body, body.x + body.width + 1, top, lines.len());
    let parts = form.parts();
    if let Some(word) = &word {
        let row = Rect { y: area.y + area.height.saturating_sub(4), height: 1, ..area };
        let x = c.put(row, 0, 0, "This cannot be undone. Type ", Role::Warn);
        let x = c.put(row, x, 0, &cut_middle(&printable(word), usize::from(row.width / 2), s.ellipsis), Role::Strong);
        let x = c.put(row, x, 0, ": ", Role::Warn);
        let here = parts.get(form.part) == Some(&Part::Name);
        input(c, row, x, 0, &form.typed, here);
        c.hits.add(row, Hit::Field(0));
    }
    let ready = form.obstacle().is_none();
    let start = format!("  {}  ", form.recipe.verb());
    let shown: Vec<(&str, usize, bool, bool)> = parts
        .iter()
        .enumerate()
        .filter_map(|(n, p)| match p {
            Part::Name => None,
            Part::Start => Some((start.as_str(), n, form.part == n, ready)),
            Part::Back => Some((if form.fields.is_empty() { "  Cancel  " } else { "  Back  " }, n, form.part == n, true)),
        })
        .collect();
    buttons(c, area, &shown);
    let naming = parts.get(form.part) == Some(&Part::Name);
    let (enter, copy) = if naming { ("do it", "Ctrl-y") } else { ("choose", "Y") };
    let all = [("Tab", "next"), ("Enter", enter), ("Up Down", "scroll"), ("Esc", "back"), (copy, "copy command")];
    hints(c, area, area.height.saturating_sub(1), &all);
}

/// The plan as lines, or why there is none.
fn told(c: &Canvas<'_>, form: &Form, columns: usize) -> Vec<text::Line<'static>> {
    const LABEL: usize = 10;
    let s = c.look.symbols;
    let room = columns.saturating_sub(LABEL).max(8);
    let mut lines: Vec<(&str, String, Role)> = Vec::new();
    match &form.plan {
        None if form.waiting => lines.push(("", spinning(c, "making the plan"), Role::Dim)),
        None => lines.push(("", "an answer is wrong".into(), Role::Bad)),
        Some(Err(e)) => {
            lines.extend(wrap(&format!("{} {e}", s.bad), room).into_iter().map(|l| ("", l, Role::Bad)));
            if let Some(hint) = e.advice() {
                lines.extend(
                    wrap(&printable(hint), room)
                        .into_iter()
                        .enumerate()
                        .map(|(i, l)| (if i == 0 { "hint" } else { "" }, l, Role::Text)),
                );
            }
        }
        Some(Ok(plan)) => {
            for line in plan.lines(size_words) {
                let role = if line.warns { Role::Warn } else { Role::Text };
                let text = if line.warns { format!("{} {}", s.warn, printable(&line.text)) } else { printable(&line.text) };
                for (i, part) in wrap(&text, room).into_iter().enumerate() {
                    lines.push((if i == 0 { line.label } else { "" }, part, role));
                }
            }
        }
    }
    let line = |(label, text, role): (&str, String, Role)| {
        text::Line::from(vec![c.look.span(Role::Dim, format!("{label:<LABEL$}")), c.look.span(role, text)])
    };
    lines.into_iter().map(line).collect()
}
