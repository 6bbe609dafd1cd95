//! The views: pure functions from the model to cells, and to the areas the mouse asks for. No clock, no I/O, no engine calls.
//!
//! ```text
//! ┌─ cowshed ── tabs ──────────────────────────── status ─┐
//! │ the screen's panels                                   │
//! ├─ a notice ────────────────────────────────────────────┤
//! │ footer: the few useful keys                           │
//! └───────────────────────────────────────────────────────┘
//! ```

pub mod dialog;
pub mod frame;
pub mod panel;
pub mod pen;
pub mod symbols;
pub mod text;
pub mod theme;
pub mod widget;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Span;

use crate::app::hits::{Hit, Hits};
use crate::app::model::{Model, Pane, Screen};
use symbols::Symbols;
use theme::{Depth, Role, Theme};

/// How things look: colours and characters.
#[derive(Debug, Clone)]
pub struct Look {
    /// Colours.
    pub theme: Theme,
    /// Characters.
    pub symbols: &'static Symbols,
}

impl Look {
    /// The theme called `theme` at a depth of colours; with it what is wrong with it.
    pub fn new(theme: &str, depth: Depth, unicode: bool, read: &dyn Fn(&str) -> std::io::Result<String>) -> (Look, Vec<String>) {
        let (theme, wrong) = Theme::load(theme, depth, read);
        (Look { theme, symbols: if unicode { &symbols::UNICODE } else { &symbols::ASCII } }, wrong)
    }
    /// A role's style.
    pub fn style(&self, role: Role) -> Style {
        self.theme.style(role)
    }
    /// A text in a role's style.
    pub fn span(&self, role: Role, text: impl Into<String>) -> Span<'static> {
        Span::styled(text.into(), self.style(role))
    }
}

/// What a view draws with.
pub struct Canvas<'a> {
    /// The model.
    pub m: &'a Model,
    /// Colours and characters.
    pub look: &'a Look,
    /// Cells.
    pub buf: &'a mut Buffer,
    /// Areas for the mouse.
    pub hits: Hits,
}

impl Canvas<'_> {
    /// Writes text of a role.
    pub fn put(&mut self, area: Rect, x: u16, y: u16, text: &str, role: Role) -> u16 {
        let style = self.look.style(role);
        pen::put(self.buf, area, x, y, &self.word(text), style)
    }
    /// A text as the terminal can show it: our own words have dashes and dots, names stay as they are.
    pub fn word<'t>(&self, text: &'t str) -> std::borrow::Cow<'t, str> {
        if self.look.symbols == &symbols::ASCII && !text.is_ascii() {
            return text.replace('…', "..").replace('—', "-").into();
        }
        text.into()
    }
    /// Notes a pane: where it is, how many lines it shows and has.
    pub fn pane(&mut self, pane: Pane, area: Rect, len: usize) {
        self.hits.add(area, Hit::Pane(pane));
        self.hits.panes.push((pane, usize::from(area.height), len));
    }
    /// The style of the cursor's line in a pane.
    pub fn select(&self, pane: Pane) -> Style {
        let here = self.m.pane() == pane && self.m.layer().is_none_or(|l| matches!(l, crate::app::layer::Layer::Filter));
        self.look.style(if here { Role::Select } else { Role::SelectDim })
    }
}

/// Least size the screens are made for.
pub const LEAST: (u16, u16) = (60, 15);

/// Draws everything.
pub fn draw(m: &Model, look: &Look, frame: &mut ratatui::Frame<'_>) -> Hits {
    let area = frame.area();
    let mut c = Canvas { m, look, buf: frame.buffer_mut(), hits: Hits::default() };
    c.buf.set_style(area, look.style(Role::Text));
    if area.width < LEAST.0 || area.height < LEAST.1 {
        frame::too_small(&mut c, area);
        return c.hits;
    }
    let inner = frame::frame(&mut c, area);
    match m.screen {
        Screen::Library => panel::library::draw(&mut c, inner),
        Screen::Image => panel::image::draw(&mut c, inner),
        Screen::Map => panel::map::draw(&mut c, inner),
        Screen::Jobs => panel::jobs::draw(&mut c, inner),
        Screen::Guide => panel::guide::draw(&mut c, inner),
        Screen::Check => panel::check::draw(&mut c, inner),
        Screen::Snapshots => panel::snapshots::draw(&mut c, inner),
        Screen::Inside => panel::inside::draw(&mut c, inner),
        Screen::Ready => panel::ready::draw(&mut c, inner),
        Screen::Sanitize => panel::sanitize::draw(&mut c, inner),
    }
    for layer in &m.layers {
        dialog::draw(&mut c, area, layer);
    }
    frame::notice(&mut c, area);
    c.hits
}

#[cfg(test)]
mod tests;
