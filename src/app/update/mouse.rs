//! The mouse: what was clicked is looked up in the areas of the last drawing.

use super::{form, image, inside, layers, library, run};
use crate::app::action::Action;
use crate::app::effect::Effect;
use crate::app::form::Did;
use crate::app::hits::Hit;
use crate::app::key::Key;
use crate::app::layer::Layer;
use crate::app::message::Mouse;
use crate::app::model::{Model, Pane};

/// Two presses within this many milliseconds on one spot are a double click.
const DOUBLE: u64 = 400;

pub(super) fn mouse(m: &mut Model, what: Mouse, column: u16, row: u16) -> Vec<Effect> {
    m.dirty = true;
    match what {
        Mouse::Press => press(m, column, row),
        Mouse::WheelUp => wheel(m, column, row, -3),
        Mouse::WheelDown => wheel(m, column, row, 3),
    }
}

fn press(m: &mut Model, column: u16, row: u16) -> Vec<Effect> {
    let now = m.now.ms;
    let double = m.clicked.is_some_and(|(c, r, at)| (c, r) == (column, row) && now.saturating_sub(at) <= DOUBLE);
    m.clicked = (!double).then_some((column, row, now));
    let hit = m.hits.at(column, row).cloned();
    if m.layer().is_some() && !matches!(m.layer(), Some(Layer::Filter)) {
        return on_layer(m, hit, double);
    }
    match hit {
        Some(Hit::Run(action)) => run(m, action),
        Some(Hit::Screen(screen)) => run(m, Action::Go(screen)),
        Some(Hit::Pane(pane)) => {
            m.set_pane(pane);
            Vec::new()
        }
        Some(Hit::Sort(column)) => {
            let lib = &mut m.library;
            lib.sort = if lib.sort.0 == column { (column, !lib.sort.1) } else { (column, column.downwards()) };
            lib.regroup(None);
            Vec::new()
        }
        Some(Hit::Fold(n)) => {
            select(m, Pane::Tree, n);
            library::fold(m, None);
            Vec::new()
        }
        Some(Hit::Row(pane, n)) => {
            select(m, pane, n);
            match (pane, double) {
                (Pane::Tree, true) => run(m, Action::Open),
                (Pane::Chain, true) => run(m, Action::OpenLayer),
                (Pane::States, true) => run(m, Action::OpenImage),
                (_, true) => inside::double(m, pane),
                _ => Vec::new(),
            }
        }
        Some(Hit::Cell(n)) => {
            let effects = image::cursor_to(m, n);
            if double { run(m, Action::ZoomIn) } else { effects }
        }
        _ => Vec::new(),
    }
}

fn select(m: &mut Model, pane: Pane, n: usize) {
    m.set_pane(pane);
    let (scroll, len) = m.scroll_of(pane);
    scroll.go(n, len);
    super::selected(m, pane);
}

fn on_layer(m: &mut Model, hit: Option<Hit>, double: bool) -> Vec<Effect> {
    match (hit, m.layers.last_mut()) {
        // Beside the dialog: as Esc.
        (None | Some(Hit::Pane(_) | Hit::Row(..) | Hit::Fold(_) | Hit::Sort(_) | Hit::Cell(_)), Some(_)) => {
            m.layers.pop();
            Vec::new()
        }
        (Some(Hit::Item(n)), Some(Layer::Palette(p))) => {
            let again = p.selected == n && double;
            p.selected = n;
            if again { Key::parse("enter").map(|k| layers::key(m, k)).unwrap_or_default() } else { Vec::new() }
        }
        (Some(Hit::Item(n)), Some(Layer::Confirm(_))) => match m.layers.pop() {
            Some(Layer::Confirm(c)) if n == 1 => vec![c.effect],
            _ => Vec::new(),
        },
        (Some(Hit::Item(n)), Some(Layer::Quit(_))) => {
            m.layers.pop();
            layers::choose_quit(m, n)
        }
        (Some(hit @ (Hit::Field(_) | Hit::Word(..))), Some(Layer::Form(_))) => {
            let Some(Layer::Form(mut form)) = m.layers.pop() else { return Vec::new() };
            let did = match hit {
                Hit::Field(n) => form.click(n),
                Hit::Word(field, word) => form.click_word(field, word),
                _ => Did::Moved,
            };
            form::after(m, form, did)
        }
        (Some(Hit::Run(action)), Some(_)) => {
            m.layers.pop();
            run(m, action)
        }
        (Some(Hit::Screen(screen)), Some(_)) => {
            m.layers.clear();
            run(m, Action::Go(screen))
        }
        _ => Vec::new(),
    }
}

fn wheel(m: &mut Model, column: u16, row: u16, by: isize) -> Vec<Effect> {
    match m.layers.last_mut() {
        None | Some(Layer::Filter) => {}
        Some(Layer::Help(h)) => {
            h.top = h.top.saturating_add_signed(by);
            return Vec::new();
        }
        Some(Layer::Palette(p)) => {
            p.selected = p.selected.saturating_add_signed(by.signum());
            return Vec::new();
        }
        Some(Layer::Form(form)) => {
            form.wheel(by);
            return Vec::new();
        }
        Some(Layer::Text(_, lines, top)) => {
            *top = top.saturating_add_signed(by).min(lines.len().saturating_sub(1));
            return Vec::new();
        }
        Some(_) => return Vec::new(),
    }
    match m.hits.pane_at(column, row) {
        Some(Pane::Grid) => {
            if let Some(Hit::Cell(n)) = m.hits.at(column, row).cloned() {
                image::cursor_to(m, n);
            }
            run(m, if by < 0 { Action::ZoomIn } else { Action::ZoomOut })
        }
        Some(pane) => {
            let (scroll, len) = m.scroll_of(pane);
            scroll.wheel(by, len);
            Vec::new()
        }
        None => Vec::new(),
    }
}
