//! The allocation map: the disk as a grid of cells, a cursor that says what lies there, legend and totals. Without colours the
//! characters tell the same.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use crate::app::hits::Hit;
use crate::app::model::Pane;
use crate::app::state::map::{Colour, MapState};
use crate::app::worker::image::FreeHere;
use crate::engine::extents::Cell;
use crate::engine::guest::owners::Owner;
use crate::engine::model::Kind;
use crate::engine::units::{SECTOR, printable, printable_bytes};
use crate::ui::Canvas;
use crate::ui::frame;
use crate::ui::pen::{fit, put, put_line, put_right};
use crate::ui::symbols::Symbols;
use crate::ui::text::{cut_front, cut_middle, grouped, path, percent, size, size_words, width, wrap};
use crate::ui::theme::Role;

const GUTTER: u16 = 9;

/// Draws the screen.
pub fn draw(c: &mut Canvas<'_>, area: Rect) {
    let inner = Rect { x: area.x + 1, width: area.width - 2, ..area };
    let Some(file) = c.m.map.path.clone() else {
        c.put(inner, 2, area.height / 3, "no image is open: select one in the library and press m", Role::Dim);
        return;
    };
    title(c, Rect { height: 1, ..inner }, &file);
    let foot = match area.height {
        20.. => 7,
        16.. => 6,
        _ => 4,
    };
    let grid = Rect { y: area.y + 1, height: area.height.saturating_sub(1 + foot), x: inner.x, width: inner.width };
    let cells = Rect {
        x: grid.x + GUTTER,
        y: grid.y,
        // Eights: a row is a round number of cells.
        width: (grid.width.saturating_sub(GUTTER + 2)) / 8 * 8,
        height: grid.height,
    };
    c.hits.map = Some((cells.width, cells.height));
    c.pane(Pane::Grid, cells, 0);
    if let Some(e) = c.m.map.error.clone() {
        let mut y = 1;
        for line in wrap(&format!("{} {e}", c.look.symbols.bad), usize::from(grid.width.saturating_sub(4))) {
            c.put(grid, 2, y, &line, Role::Bad);
            y += 1;
        }
        if let Some(hint) = e.advice() {
            c.put(grid, 2, y + 1, &printable(hint), Role::Text);
        }
    } else {
        draw_grid(c, cells);
    }
    let below = Rect { x: area.x, y: grid.y + grid.height, width: area.width, height: foot };
    info(c, below);
}

fn title(c: &mut Canvas<'_>, area: Rect, file: &std::path::Path) {
    let m = &c.m.map;
    let s = c.look.symbols;
    let name = file.file_name().map(|n| printable(&n.to_string_lossy())).unwrap_or_default();
    let layer = m.only.map_or("all".to_string(), |n| n.to_string());
    let colour = match m.colour {
        Colour::Kind => "kind",
        Colour::Depth => "layer",
    };
    let (zoom, zooms) = m.zoom();
    let mut right = format!("layer: {layer}   colour: {colour}   zoom {zoom}/{zooms}");
    if area.width < 90 {
        right = format!("zoom {zoom}/{zooms}");
    }
    put_right(c.buf, area, area.width, 0, &right, c.look.style(Role::Dim));
    let area = Rect { width: area.width.saturating_sub(width(&right) as u16 + 2), ..area };
    let mut x = c.put(area, 0, 0, &cut_middle(&name, usize::from(area.width / 2), s.ellipsis), Role::Title) + 2;
    if m.size > 0 && m.cells() > 0 {
        let (start, end) = m.shown();
        let part = if m.zoomed() { format!("{} of {}", size_words(end - start), size_words(m.size)) } else { size_words(m.size) };
        x = c.put(area, x, 0, &format!("{part}   1 cell = {}", size_words(m.cell_bytes())), Role::Text) + 2;
    }
    if m.loading {
        let frame = s.spinner.get(c.m.now.frame(s.spinner.len())).copied().unwrap_or_default();
        c.put(area, x, 0, frame, Role::Accent);
    }
}

/// What a cell looks like: the character says as much as the colour.
pub(super) fn cell_look(s: &Symbols, cell: &Cell, colour: Colour) -> (&'static str, Role) {
    let t = &cell.totals;
    let [none, zero, compressed, part, data] = s.cells;
    if t.stored() == 0 {
        return if t.zero > 0 { (zero, Role::Zero) } else { (none, Role::Border) };
    }
    let layers = [Role::Layer0, Role::Layer1, Role::Layer2, Role::Layer3];
    match colour {
        Colour::Depth => {
            let depth = cell.main_depth().unwrap_or(0);
            (
                s.layers.get(depth % s.layers.len()).copied().unwrap_or(data),
                layers.get(depth % layers.len()).copied().unwrap_or(Role::Data),
            )
        }
        Colour::Kind if t.compressed > t.data => (compressed, Role::Compressed),
        Colour::Kind if t.stored() * 2 <= t.all() => (part, Role::Data),
        Colour::Kind => (data, Role::Data),
    }
}

/// What is shaded.
fn shaded(m: &MapState) -> Option<&FreeHere> {
    m.stored_free().filter(|_| m.shade)
}

fn draw_grid(c: &mut Canvas<'_>, area: Rect) {
    let m = &c.m.map;
    let s = c.look.symbols;
    let (start, end) = m.shown();
    let columns = usize::from(area.width.max(1));
    let rows = area.height;
    // Labels follow what is asked for, cells what has come.
    for y in 0..rows {
        let at = start + (u128::from(end - start) * u128::from(y) / u128::from(rows.max(1))) as u64;
        let left = Rect { x: area.x - GUTTER, width: GUTTER, ..area };
        if m.size > 0 {
            put_right(c.buf, left, GUTTER - 2, y, &size(at), c.look.style(Role::Dim));
        }
        put(c.buf, left, GUTTER - 1, y, s.edges[0], c.look.style(Role::Border));
        put(c.buf, Rect { x: area.x + area.width, width: 1, ..area }, 0, y, s.edges[1], c.look.style(Role::Border));
    }
    let Some(grid) = &m.grid else { return };
    let cursor = m.cursor_cell();
    let shade = shaded(m);
    for (i, cell) in grid.cells.iter().enumerate() {
        let (x, y) = ((i % columns) as u16, (i / columns) as u16);
        if y >= rows {
            break;
        }
        let free = shade.map_or(0, |here| {
            let (from, to) = grid.range(i);
            here.stored.within(from, to).map(|(a, b)| b - a).sum()
        });
        let mostly = free > 0 && free.saturating_mul(2) >= cell.totals.stored();
        let (glyph, role) = if mostly { (s.free, Role::Warn) } else { cell_look(s, cell, m.colour) };
        let (glyph, role) = if cursor == Some(i) { (s.cursor, Role::Cursor) } else { (glyph, role) };
        put(c.buf, area, x, y, glyph, c.look.style(role));
        c.hits.add(Rect { x: area.x + x, y: area.y + y, width: 1, height: 1 }, Hit::Cell(i));
    }
}

fn info(c: &mut Canvas<'_>, area: Rect) {
    let m = &c.m.map;
    let s = c.look.symbols;
    let room = usize::from(area.width.saturating_sub(3));
    frame::heading(c, area, 0, "Under the cursor", "", true);
    let body = Rect { x: area.x + 1, y: area.y + 1, width: area.width - 2, height: area.height.saturating_sub(1) };
    let name = |depth: usize| {
        let layer = m.layers.get(depth);
        layer.and_then(|l| l.path.file_name()).map_or(s.dash.to_string(), |n| printable(&n.to_string_lossy()))
    };
    let mut first = vec![
        c.look.span(Role::Strong, format!("{} ", size_words(m.cursor))),
        c.look.span(Role::Dim, format!("{:#x}  LBA ", m.cursor)),
        c.look.span(Role::Text, grouped(m.cursor / SECTOR)),
        c.look.span(Role::Dim, format!("  {} ", s.arrow)),
    ];
    let mut second = Vec::new();
    match &m.under {
        None if m.error.is_none() => first.push(c.look.span(Role::Dim, s.ellipsis)),
        None => {}
        Some(Err(e)) => first.push(c.look.span(Role::Bad, e.to_string())),
        Some(Ok((extent, file))) => {
            let (word, role) = match extent.kind {
                Kind::Data => ("data", Role::Data),
                Kind::Compressed => ("compressed", Role::Compressed),
                Kind::Zero => ("zero", Role::Zero),
                Kind::Unallocated => ("held by no layer: reads as zeros", Role::Dim),
            };
            first.push(c.look.span(role, word));
            first.push(c.look.span(Role::Dim, format!(", {} from here", size_words(extent.len))));
            if let Some(owner) = &m.owner {
                first.push(c.look.span(Role::Dim, ", in "));
                first.push(c.look.span(Role::Text, printable(owner)));
            }
            if extent.kind != Kind::Unallocated {
                second.push(c.look.span(Role::Dim, format!("layer {} ", extent.depth)));
                second.push(c.look.span(Role::Strong, name(extent.depth)));
            }
            if let Some(place) = extent.place {
                let file = file.as_deref().map(path).unwrap_or_default();
                second.push(c.look.span(Role::Dim, "  at host byte "));
                second.push(c.look.span(Role::Text, format!("{:#x}", place.offset)));
                second.push(c.look.span(Role::Dim, format!(" of {}", cut_front(&file, room / 2, s.ellipsis))));
            }
        }
    }
    put_line(c.buf, body, 0, 0, &fit(first, room, s.ellipsis));
    put_line(c.buf, body, 0, 1, &fit(second, room, s.ellipsis));
    let mut y = 2;
    if area.height >= 7 {
        put_line(c.buf, body, 0, y, &fit(owner(c), room, s.ellipsis));
        y += 1;
    }
    put_line(c.buf, body, 0, y, &legend(c, room));
    if area.height < 6 {
        return;
    }
    put_line(c.buf, body, 0, y + 1, &totals(c, room));
    zoom_line(c, Rect { y: body.y + y + 2, height: 1, ..body });
}

/// Whose the byte under the cursor is: a file's, the filesystem's own, nobody's.
fn owner(c: &Canvas<'_>) -> Vec<Span<'static>> {
    let m = &c.m.map;
    let s = c.look.symbols;
    let head = c.look.span(Role::Dim, "file    ");
    let free = m.free.as_ref().and_then(|f| f.as_ref().ok());
    if let Some((_, end)) = free.and_then(|here| here.free.at(m.cursor)) {
        let stored = free.is_some_and(|here| here.stored.at(m.cursor).is_some());
        let what = if stored { "free in the filesystem, and stored" } else { "free in the filesystem" };
        let left = format!(", {} from here", size_words(end - m.cursor));
        return vec![head, c.look.span(if stored { Role::Warn } else { Role::Text }, what), c.look.span(Role::Dim, left)];
    }
    match &m.owners {
        None if m.error.is_some() => Vec::new(),
        None => vec![head, c.look.span(Role::Dim, format!("the guest's files are looked through{}", s.ellipsis))],
        Some(Err(e)) => vec![head, c.look.span(Role::Dim, e.to_string())],
        Some(Ok(owners)) => match owners.at(m.cursor) {
            Some(Owner::File { path, inode }) => {
                let inode = inode.map(|n| format!("  inode {}", grouped(n))).unwrap_or_default();
                vec![head, c.look.span(Role::Strong, printable_bytes(&path)), c.look.span(Role::Dim, inode)]
            }
            Some(Owner::Own(what)) => vec![head, c.look.span(Role::Dim, "the filesystem's own: "), c.look.span(Role::Text, what)],
            None if owners.partial => vec![head, c.look.span(Role::Dim, "none of those that could be looked through")],
            None => vec![head, c.look.span(Role::Dim, "none")],
        },
    }
}

fn legend(c: &Canvas<'_>, room: usize) -> Line<'static> {
    let s = c.look.symbols;
    let mut all = vec![c.look.span(Role::Dim, "legend  ")];
    if shaded(&c.m.map).is_some() {
        all.push(c.look.span(Role::Warn, s.free));
        all.push(c.look.span(Role::Text, " mostly free in fs   "));
    }
    match c.m.map.colour {
        Colour::Kind => {
            for (glyph, role, word) in [
                (s.cells[4], Role::Data, "data"),
                (s.cells[3], Role::Data, "half or less"),
                (s.cells[2], Role::Compressed, "compressed"),
                (s.cells[1], Role::Zero, "zero"),
                (s.cells[0], Role::Border, "nothing"),
            ] {
                all.push(c.look.span(role, glyph));
                all.push(c.look.span(Role::Text, format!(" {word}   ")));
            }
        }
        Colour::Depth => {
            let roles = [Role::Layer0, Role::Layer1, Role::Layer2, Role::Layer3];
            for (i, layer) in c.m.map.layers.iter().enumerate().take(8) {
                let n = i % roles.len();
                let name = layer.path.file_name().map(|n| printable(&n.to_string_lossy())).unwrap_or_default();
                all.push(c.look.span(roles.get(n).copied().unwrap_or(Role::Data), s.layers.get(n).copied().unwrap_or_default()));
                all.push(c.look.span(Role::Text, format!(" {i} {}   ", cut_middle(&name, 24, s.ellipsis))));
            }
        }
    }
    fit(all, room, s.ellipsis)
}

fn totals(c: &Canvas<'_>, room: usize) -> Line<'static> {
    let s = c.look.symbols;
    let Some(grid) = &c.m.map.grid else { return Line::default() };
    let t = grid.total.totals;
    let all = t.all().max(1) as f64;
    let mut out = vec![c.look.span(Role::Dim, if c.m.map.zoomed() { "shown   " } else { "totals  " })];
    let free = c.m.map.stored_free().map(|here| here.given).filter(|n| *n > 0);
    for (bytes, word, role) in [
        (t.data, "data", Role::Data),
        (t.compressed, "compressed", Role::Compressed),
        (t.zero, "zero", Role::Zero),
        // What is left; where there is little room, what is free in filesystems says more.
        (if room < 80 && free.is_some() { 0 } else { t.unallocated }, "nothing", Role::Dim),
    ] {
        if bytes > 0 || word == "data" {
            let share = if room < 100 && free.is_some() { String::new() } else { format!("{} ", percent(bytes as f64 / all)) };
            out.push(c.look.span(role, size(bytes)));
            out.push(c.look.span(Role::Text, format!(" {word} {share} ")));
        }
    }
    if let Some(stored) = free {
        out.push(c.look.span(Role::Warn, size(stored)));
        let how = if room < 100 { "" } else { ": compact --free-space" };
        out.push(c.look.span(Role::Text, format!(" free in fs{how}")));
    }
    fit(out, room, s.ellipsis)
}

/// Where the part shown lies in the whole disk.
fn zoom_line(c: &mut Canvas<'_>, area: Rect) {
    let m = &c.m.map;
    let s = c.look.symbols;
    if m.size == 0 {
        return;
    }
    let x = c.put(area, 0, 0, "window  ", Role::Dim);
    let room = u64::from(area.width.saturating_sub(x + 2));
    let (start, end) = m.shown();
    let place = |byte: u64| (u128::from(byte) * u128::from(room) / u128::from(m.size)) as u16;
    let x = c.put(area, x, 0, s.edges[0], Role::Border);
    let (a, b) = (place(start), place(end).max(place(start) + 1).min(room as u16));
    for i in 0..room as u16 {
        let inside = i >= a && i < b;
        c.put(
            area,
            x + i,
            0,
            if inside { s.heights.last().copied().unwrap_or("#") } else { s.bullet },
            if inside { Role::Bar } else { Role::Border },
        );
    }
    c.put(area, x + room as u16, 0, s.edges[1], Role::Border);
}
