//! The strip under the tree: what is selected, what it stands on, who stands on it, and what is wrong, in full.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use crate::app::model::Pane;
use crate::engine::library::{Entry, EntryId, Health, Library, Link, NodeKind, OrphanReason, Sameness};
use crate::engine::units::printable;
use crate::ui::pen::put_line;
use crate::ui::text::{ago, count, date, path, size, size_words, wrap};
use crate::ui::theme::Role;
use crate::ui::widget::scroll_mark;
use crate::ui::{Canvas, frame};

/// Labels stand in a column of their own.
const LABEL: usize = 12;

/// Draws the strip, its heading included.
pub fn draw(c: &mut Canvas<'_>, area: Rect) {
    let focused = c.m.pane() == Pane::Detail;
    let lib = &c.m.library;
    let (title, lines) = match (lib.selected(), lib.selected_kind()) {
        (Some(e), _) => (e.name.clone(), entry(c, e, usize::from(area.width.saturating_sub(3)))),
        (None, Some(kind)) => {
            let title = match kind {
                NodeKind::Root(i) => lib.data.roots.get(*i).map(|r| path(&r.path)).unwrap_or_default(),
                NodeKind::Folder(p) => path(p),
                NodeKind::Format(f) => f.map_or("not an image", |f| f.name()).to_string(),
                NodeKind::Entry(_) => String::new(),
            };
            (title, group(c, kind))
        }
        (None, None) => (String::new(), Vec::new()),
    };
    let right = lib.selected().map(|e| ago(e.modified(), c.m.now.unix)).filter(|_| lib.selected().is_some());
    let right = right.map(|a| format!("changed {a}")).unwrap_or_default();
    frame::heading(c, area, 0, &title, &right, focused);
    let body = Rect { x: area.x + 1, y: area.y + 1, width: area.width - 2, height: area.height.saturating_sub(1) };
    c.pane(Pane::Detail, body, lines.len());
    let top = lib.detail.top.min(lines.len().saturating_sub(usize::from(body.height)));
    for (y, line) in (0u16..).zip(lines.iter().skip(top).take(usize::from(body.height))) {
        put_line(c.buf, body, 0, y, line);
    }
    scroll_mark(c, body, body.x + body.width, top, lines.len());
}

pub(super) fn labelled(c: &Canvas<'_>, label: &str, spans: Vec<Span<'static>>) -> Line<'static> {
    let mut all = vec![c.look.span(Role::Dim, format!("{label:<LABEL$}"))];
    all.extend(spans);
    Line::from(all)
}

/// A text under a label, wrapped.
pub(super) fn paragraph(c: &Canvas<'_>, label: &str, text: &str, role: Role, room: usize, out: &mut Vec<Line<'static>>) {
    for (i, part) in wrap(text, room.saturating_sub(LABEL).max(10)).into_iter().enumerate() {
        out.push(labelled(c, if i == 0 { label } else { "" }, vec![c.look.span(role, part)]));
    }
}

fn group(c: &Canvas<'_>, kind: &NodeKind) -> Vec<Line<'static>> {
    let lib = &c.m.library;
    let mut out = Vec::new();
    match kind {
        NodeKind::Root(i) => {
            if let Some(r) = lib.data.roots.get(*i) {
                out.push(labelled(c, "root", vec![c.look.span(Role::Text, path(&r.real))]));
                if let Some(e) = &r.error {
                    paragraph(c, "error", &e.to_string(), Role::Bad, 100, &mut out);
                }
                let own = || lib.data.iter().filter(|e| e.root == *i && e.part_of.is_none());
                let on_disk = own().fold(0u64, |sum, e| sum.saturating_add(e.actual_size));
                let seen = own().fold(0u64, |sum, e| sum.saturating_add(e.virtual_size().unwrap_or(0)));
                let text = format!(
                    "{}, {} on disk for {} of disks",
                    count(own().count(), "image"),
                    size_words(on_disk),
                    size_words(seen)
                );
                out.push(labelled(c, "holds", vec![c.look.span(Role::Text, text)]));
                if let Some(free) = r.free {
                    out.push(labelled(c, "free", vec![c.look.span(Role::Text, size_words(free))]));
                }
            }
        }
        NodeKind::Folder(p) => out.push(labelled(c, "folder", vec![c.look.span(Role::Text, path(p))])),
        NodeKind::Format(Some(f)) => {
            out.push(labelled(c, "format", vec![c.look.span(Role::Text, f.entry().guide.what)]));
            out.push(labelled(c, "used by", vec![c.look.span(Role::Text, f.entry().guide.used_by)]));
        }
        NodeKind::Format(None) | NodeKind::Entry(_) => {}
    }
    out
}

pub(super) fn entry(c: &Canvas<'_>, e: &Entry, room: usize) -> Vec<Line<'static>> {
    let lib = &c.m.library;
    let data = &lib.data;
    let s = c.look.symbols;
    let mut out = Vec::new();
    // What is wrong comes first: it is what a person looks for.
    match &e.health {
        Health::Broken(error) => {
            paragraph(c, "error", &format!("{} {error}", s.bad), Role::Bad, room, &mut out);
            if let Some(hint) = error.advice() {
                paragraph(c, "hint", &printable(hint), Role::Text, room, &mut out);
            }
        }
        Health::Warning(all) => {
            for (i, w) in all.iter().enumerate() {
                paragraph(
                    c,
                    if i == 0 { "warning" } else { "" },
                    &format!("{} {}", s.warn, printable(w)),
                    Role::Warn,
                    room,
                    &mut out,
                );
            }
        }
        Health::Ok => {}
    }
    let mut facts = vec![e.format().map_or(s.dash.to_string(), |f| f.entry().title.to_string())];
    facts.extend(e.virtual_size().map(|v| format!("{} virtual", size_words(v))));
    facts.push(format!("{} on disk", size_words(e.actual_size)));
    facts.extend(e.facts.cluster_size.map(|b| format!("{} clusters", size_words(b))));
    facts.extend(e.facts.snapshots.filter(|n| *n > 0).map(|n| count(n as usize, "snapshot")));
    facts.extend(e.facts.compressed.then(|| "compressed".to_string()));
    facts.extend(e.facts.encrypted.as_ref().map(|how| format!("encrypted ({})", printable(how))));
    out.push(labelled(c, "image", vec![c.look.span(Role::Text, facts.join("  "))]));
    paragraph(c, "path", &path(&e.path), Role::Text, room, &mut out);
    out.push(labelled(c, "stands on", stands_on(c, data, e)));
    candidates(c, data, e, room, &mut out);
    if let Some(line) = deleted(c, data, e) {
        out.push(line);
    }
    if !e.users.is_empty() {
        let text: Vec<String> = e
            .users
            .iter()
            .map(|u| {
                let target = u.target.as_ref().map_or("as a base".to_string(), |t| printable(t));
                format!("{} ({target}, {:?})", printable(&u.domain), u.state).to_lowercase()
            })
            .collect();
        paragraph(c, "used by", &text.join(", "), Role::Text, room, &mut out);
    }
    if e.lock.in_use() {
        let who: Vec<String> = e.lock.holders().iter().map(|h| printable(&h.to_string())).collect();
        let how = match &e.lock {
            crate::engine::io::locks::LockState::Writer(_) => "written by",
            crate::engine::io::locks::LockState::Readers(_) => "read by",
            _ => "held by",
        };
        let text = if who.is_empty() { format!("{how} another program") } else { format!("{how} {}", who.join(", ")) };
        paragraph(c, "in use", &text, Role::Warn, room, &mut out);
    }
    for orphan in &lib.orphans {
        if orphan.id == e.id {
            let what = match orphan.reason {
                OrphanReason::BaseGone => "orphan: its base is gone",
                OrphanReason::Unused => "nothing uses it",
            };
            paragraph(c, "maybe", &format!("{what} ({})", printable(&orphan.evidence.join("; "))), Role::Warn, room, &mut out);
        }
    }
    for group in &lib.duplicates {
        if group.ids.contains(&e.id) {
            let same = match group.sameness {
                Sameness::File(..) => "the same file",
                Sameness::Uuid(_) => "the same UUID",
                Sameness::Name(_) => "the same name",
            };
            let others = group.ids.iter().filter(|i| **i != e.id).filter_map(|i| data.get(*i));
            let others: Vec<String> = others.take(3).map(|o| path(&o.path)).collect();
            let more = group.ids.len().saturating_sub(1 + others.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            paragraph(c, "duplicate", &format!("{same} as {}{more}", others.join(", ")), Role::Text, room, &mut out);
        }
    }
    if let [_, others @ ..] = &*e.facts.matches {
        let all: Vec<String> = others
            .iter()
            .filter(|m| m.confidence > crate::engine::format::probe::Confidence::Possible)
            .map(|m| format!("{} ({})", m.format, printable(&m.evidence)))
            .collect();
        if !all.is_empty() {
            paragraph(c, "maybe also", &all.join(", "), Role::Text, room, &mut out);
        }
    }
    out.push(labelled(
        c,
        "changed",
        vec![c.look.span(Role::Text, format!("{} UTC   file {}", date(e.modified()), size(e.file_len())))],
    ));
    out
}

/// The way down: each base as far as the library knows it.
fn stands_on(c: &Canvas<'_>, data: &Library, e: &Entry) -> Vec<Span<'static>> {
    let s = c.look.symbols;
    let mut out = Vec::new();
    let mut at = e;
    // A loop ends where it is found; this bound only says that drawing ends whatever the library holds.
    for step in 0..64 {
        let Some(backing) = &at.backing else {
            if step == 0 {
                out.push(c.look.span(Role::Dim, "nothing: it stands alone"));
            }
            return out;
        };
        if step > 0 {
            out.push(c.look.span(Role::Dim, format!(" {} ", s.arrow)));
        }
        let spelled = backing.spelled.first().map_or("a parent known by its UUID".to_string(), |n| printable(n));
        match (&backing.link, backing.link.entry().and_then(|id| data.get(id))) {
            (Link::Entry(_), Some(below)) => {
                out.push(c.look.span(Role::Text, below.name.clone()));
                at = below;
            }
            (Link::Loop(..), _) => {
                out.push(c.look.span(Role::Bad, format!("{} {spelled} (a loop)", s.bad)));
                return out;
            }
            (Link::Changed(..), Some(below)) => {
                out.push(c.look.span(Role::Bad, format!("{} {} (changed since)", s.bad, below.name)));
                return out;
            }
            (Link::Pending, _) => {
                out.push(c.look.span(Role::Dim, spelled));
                return out;
            }
            _ => {
                out.push(c.look.span(Role::Bad, format!("{} {spelled}", s.bad)));
                return out;
            }
        }
    }
    out
}

fn candidates(c: &Canvas<'_>, data: &Library, e: &Entry, room: usize, out: &mut Vec<Line<'static>>) {
    let Some(Link::Missing(_, found)) = e.backing.as_ref().map(|b| &b.link) else { return };
    for (i, candidate) in found.iter().take(4).enumerate() {
        let Some(other) = data.get(candidate.id) else { continue };
        let sure = if candidate.proven { "is " } else { "may be " };
        let text = format!("{sure}{}: {}", path(&other.path), printable(&candidate.evidence.join(", ")));
        paragraph(c, if i == 0 { "candidates" } else { "" }, &text, Role::Good, room, out);
    }
}

/// What would become unreadable without it.
pub(super) fn deleted(c: &Canvas<'_>, data: &Library, e: &Entry) -> Option<Line<'static>> {
    if e.children.is_empty() {
        return None;
    }
    let mut all: Vec<EntryId> = Vec::new();
    let mut todo = e.children.clone();
    while let Some(id) = todo.pop() {
        if id != e.id && !all.contains(&id) && all.len() < 10_000 {
            all.push(id);
            todo.extend(data.get(id).map(|x| x.children.as_slice()).unwrap_or_default());
        }
    }
    let verb = if all.len() == 1 { "becomes" } else { "become" };
    let text = format!("{} {} {verb} unreadable", c.look.symbols.bad, count(all.len(), "image"));
    let names: Vec<String> = e.children.iter().filter_map(|i| data.get(*i)).take(4).map(|x| x.name.clone()).collect();
    let more = if e.children.len() > 4 { ", …" } else { "" };
    Some(labelled(
        c,
        "if deleted",
        vec![c.look.span(Role::Warn, text), c.look.span(Role::Dim, format!("  {}{more}", names.join(", ")))],
    ))
}
