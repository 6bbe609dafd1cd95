//! Below the tree: what changed between two states, who owns the space, and what is marked.

use ratatui::layout::Rect;

use super::spinner;
use crate::app::state::snapshots::DiffShown;
use crate::app::worker::snapshots::Listing;
use crate::engine::ops::snapshot::diff::Diff;
use crate::engine::units::printable;
use crate::ui::pen::{fit, put_line};
use crate::ui::text::{count, cut, cut_middle, size, size_words, width, wrap};
use crate::ui::theme::Role;
use crate::ui::{Canvas, frame};

/// Names with bytes.
type Owners = Vec<(String, u64)>;

/// Owners of the space with what only they hold: the live state, the largest snapshots, the other snapshots; and the rest.
fn shares(c: &Canvas<'_>, list: &Listing) -> Option<(Owners, u64, u64)> {
    let usage = c.m.snaps.counted()?;
    let mut all: Vec<(usize, u64)> = usage.snapshots.iter().map(|s| s.exclusive).enumerate().collect();
    all.sort_by_key(|(i, bytes)| (std::cmp::Reverse(*bytes), *i));
    let mut out = vec![("LIVE".to_string(), usage.live.exclusive)];
    let named = if all.len() <= 3 { all.len() } else { 2 };
    for (i, bytes) in all.iter().take(named) {
        out.push((list.snapshots.get(*i).map_or(String::new(), |s| printable(&s.name)), *bytes));
    }
    if all.len() > named {
        out.push((format!("{} others", all.len() - named), all.iter().skip(named).map(|(_, b)| b).sum()));
    }
    let alone: u64 = out.iter().fold(0, |sum, (_, b)| sum.saturating_add(*b));
    let total = list.on_disk.max(alone);
    Some((out, total - alone, total))
}

/// Whose the space is, as a bar with its legend.
pub(super) fn owners(c: &mut Canvas<'_>, area: Rect, list: &Listing) {
    let s = c.look.symbols;
    let mut body = Rect { x: area.x + 1, width: area.width - 2, ..area };
    if area.height > 2 {
        frame::heading(c, area, 0, "Who owns the space", "", false);
        body = Rect { y: area.y + 1, height: area.height - 1, ..body };
    }
    let Some((owners, shared, total)) = shares(c, list) else {
        let text = match &c.m.snaps.usage {
            None if !list.snapshots.is_empty() => format!("{} being counted", s.dash),
            Some(Err(_)) => format!("{} it cannot be counted", s.dash),
            _ => format!("{} on the host, all of it the live state's", size_words(list.on_disk)),
        };
        c.put(body, 0, 0, &text, Role::Dim);
        return;
    };
    let roles = [Role::Layer0, Role::Layer1, Role::Layer2, Role::Layer3];
    let right = size_words(total);
    let room = usize::from(body.width).saturating_sub(width(&right) + 4);
    let mut x = c.put(body, 0, 0, s.edges[0], Role::Border);
    let (mut done, mut drawn) = (0u64, 0usize);
    for (i, (_, bytes)) in owners.iter().enumerate() {
        done = done.saturating_add(*bytes);
        let end = (u128::from(done) * room as u128 / u128::from(total.max(1))) as usize;
        // Anybody who has something is seen.
        let n = end.saturating_sub(drawn).max(usize::from(*bytes > 0)).min(room - drawn);
        let glyph = s.layers.get(i % s.layers.len()).copied().unwrap_or_default();
        x = c.put(body, x, 0, &glyph.repeat(n), roles.get(i % roles.len()).copied().unwrap_or(Role::Bar));
        drawn += n;
    }
    x = c.put(body, x, 0, &s.bullet.repeat(room - drawn), Role::Border);
    x = c.put(body, x, 0, s.edges[1], Role::Border);
    c.put(body, x + 1, 0, &right, Role::Strong);
    let mut legend = Vec::new();
    for (i, (name, bytes)) in owners.iter().enumerate() {
        let role = roles.get(i % roles.len()).copied().unwrap_or(Role::Bar);
        legend.push(c.look.span(role, s.layers.get(i % s.layers.len()).copied().unwrap_or_default()));
        legend.push(c.look.span(Role::Text, format!(" {} {}   ", cut_middle(name, 20, s.ellipsis), size(*bytes))));
    }
    legend.push(c.look.span(Role::Border, s.bullet));
    legend.push(c.look.span(Role::Text, format!(" shared and tables {}", size(shared))));
    put_line(c.buf, body, 1, 1, &fit(legend, usize::from(body.width) - 1, s.ellipsis));
}

/// What is marked for deleting, and what that frees.
pub(super) fn set(c: &mut Canvas<'_>, area: Rect, list: &Listing) {
    let s = c.look.symbols;
    let mut body = Rect { x: area.x + 1, width: area.width - 2, ..area };
    if area.height > 2 {
        frame::heading(c, area, 0, "Delete set", "", false);
        body = Rect { y: area.y + 1, height: area.height - 1, ..body };
    }
    let state = &c.m.snaps;
    if state.marked.is_empty() {
        let text = if list.snapshots.is_empty() {
            ""
        } else {
            "nothing is marked: Space marks snapshots and counts what they free together"
        };
        c.put(body, 0, 0, text, Role::Dim);
        return;
    }
    let alone: Option<u64> = state.marked.iter().map(|i| state.share(*i).map(|s| s.exclusive)).sum();
    let (text, role) = match &state.freed {
        None => (format!("{} {} marked, being counted", spinner(c), state.marked.len()), Role::Dim),
        Some(Err(e)) => (format!("{} {} marked; it cannot be counted: {e}", s.bad, state.marked.len()), Role::Bad),
        Some(Ok(bytes)) => {
            let more = alone.and_then(|a| bytes.checked_sub(a)).filter(|m| *m > 0 && state.marked.len() > 1);
            let more = more.map_or(String::new(), |m| format!(", {} of it shared by just these", size_words(m)));
            (
                format!(
                    "{} marked, deleting {} frees {}{more}",
                    state.marked.len(),
                    if state.marked.len() == 1 { "it" } else { "them" },
                    size_words(*bytes)
                ),
                Role::Strong,
            )
        }
    };
    let room = usize::from(body.width);
    let x = c.put(body, 0, 0, &cut(&text, room, s.ellipsis), role);
    let names: Vec<String> = state.marked.iter().filter_map(|i| list.snapshots.get(*i)).map(|s| printable(&s.name)).collect();
    let names = names.join("  ");
    if body.height > 1 {
        c.put(body, 0, 1, &cut(&names, room, s.ellipsis), Role::Dim);
    } else {
        let room = room.saturating_sub(usize::from(x) + 2);
        if room > 8 {
            c.put(body, x + 2, 0, &cut(&names, room, s.ellipsis), Role::Dim);
        }
    }
}

/// What changed between two states: how much, where on the disk, and in which partitions.
pub(super) fn diff(c: &mut Canvas<'_>, area: Rect, list: &Listing, shown: &DiffShown) {
    let s = c.look.symbols;
    let name = |i: usize| list.snapshots.get(i).map_or(String::new(), |s| printable(&s.name));
    let to = shown.to.map_or("LIVE".to_string(), name);
    let title = format!("Diff  {} {} {to}", name(shown.from), s.arrow);
    let right = match &shown.diff {
        None => format!("{} comparing the tables", spinner(c)),
        Some(Ok(d)) if d.quick => format!("{} comparing the content", spinner(c)),
        _ => String::new(),
    };
    frame::heading(c, area, 0, &title, &right, false);
    let body = Rect { x: area.x + 1, y: area.y + 1, width: area.width - 2, height: area.height - 1 };
    let diff = match &shown.diff {
        None => {
            c.put(body, 0, 0, s.dash, Role::Dim);
            return;
        }
        Some(Err(e)) => {
            for (y, line) in (0..body.height).zip(wrap(&format!("{} {e}", s.bad), usize::from(body.width))) {
                c.put(body, 0, y, &line, Role::Bad);
            }
            return;
        }
        Some(Ok(diff)) => diff,
    };
    let room = usize::from(body.width);
    let most = if diff.quick { "at most " } else { "" };
    let text = match diff.changed {
        0 => "nothing differs".to_string(),
        n => format!("{most}{} differ, in {}", size_words(n), count(diff.ranges.len(), "range")),
    };
    let x = c.put(body, 0, 0, &text, Role::Strong) + 3;
    let parts: Vec<String> = diff
        .regions
        .iter()
        .filter(|r| r.changed > 0 && diff.regions.len() > 1)
        .map(|r| {
            let kind = if r.kind.is_empty() { String::new() } else { format!(" {}", printable(&r.kind)) };
            format!("{}{kind} {}", printable(&r.name), size(r.changed))
        })
        .collect();
    if !parts.is_empty() {
        let text = format!("by partition: {}", parts.join("   "));
        c.put(body, x, 0, &cut(&text, room.saturating_sub(usize::from(x)), s.ellipsis), Role::Text);
    }
    let total = diff.from.size.max(diff.to.size);
    let right = size_words(total);
    let cells = room.saturating_sub(width(&right) + 4);
    let mut x = c.put(body, 0, 1, s.edges[0], Role::Border);
    for share in spread(diff, total, cells) {
        let step = (share * s.heights.len() as f64).ceil() as usize;
        let (glyph, role) = match step.checked_sub(1) {
            None => (s.bullet, Role::Border),
            Some(n) => (s.heights.get(n.min(s.heights.len() - 1)).copied().unwrap_or_default(), Role::Data),
        };
        x = c.put(body, x, 1, glyph, role);
    }
    x = c.put(body, x, 1, s.edges[1], Role::Border);
    c.put(body, x + 1, 1, &right, Role::Dim);
    if body.height > 2 && diff.changed > 0 {
        let first: Vec<String> = diff.ranges.iter().take(4).map(|(at, len)| format!("{} at {}", size(*len), size(*at))).collect();
        let more = if diff.ranges.len() > 4 { format!("   and {} more", diff.ranges.len() - 4) } else { String::new() };
        let text = format!("first: {}{more}", first.join("   "));
        c.put(body, 0, 2, &cut(&text, room, s.ellipsis), Role::Dim);
    }
}

/// How much of each of `cells` parts of the disk differs, 0 to 1.
fn spread(diff: &Diff, total: u64, cells: usize) -> Vec<f64> {
    let mut out = vec![0.0; cells];
    let (n, total) = (cells.max(1) as u128, u128::from(total.max(1)));
    for (start, len) in &diff.ranges {
        let (mut at, end) = (u128::from(*start), u128::from(start.saturating_add(*len)).min(total));
        while at < end {
            let i = at * n / total;
            let (from, edge) = ((i * total).div_ceil(n), ((i + 1) * total).div_ceil(n).max(at + 1));
            let stop = edge.min(end);
            if let Some(cell) = out.get_mut(i as usize) {
                *cell += (stop - at) as f64 / (edge - from.min(at)).max(1) as f64;
            }
            at = stop;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::snapshot::diff::Side;

    #[test]
    fn every_changed_byte_is_in_one_cell() {
        let side = || Side { id: None, name: None, size: 1000 };
        let ranges = vec![(0, 1), (99, 2), (500, 300), (999, 1)];
        let diff = Diff { from: side(), to: side(), quick: false, changed: 304, ranges, unit: 1, regions: Vec::new() };
        let shares = spread(&diff, 1000, 10);
        let bytes: Vec<f64> = shares.iter().map(|s| (s * 100.0).round()).collect();
        assert_eq!(bytes, [2.0, 1.0, 0.0, 0.0, 0.0, 100.0, 100.0, 100.0, 0.0, 1.0]);
        // More cells than bytes, and none at all.
        assert_eq!(spread(&diff, 1000, 3000).len(), 3000);
        assert!(spread(&diff, 1000, 0).is_empty());
    }
}
