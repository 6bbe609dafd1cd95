//! What lies where on the screen, as the last drawing left it: the mouse asks here.

use ratatui::layout::{Position, Rect};

use super::action::Action;
use super::model::{Pane, Screen};
use super::tree::Column;

/// What a click means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hit {
    /// Run a command (footer hints, buttons).
    Run(Action),
    /// Go to a screen (tabs).
    Screen(Screen),
    /// Focus a pane; the wheel scrolls it.
    Pane(Pane),
    /// Row `n` (counted from the first, not from the top of the window) of a pane's list.
    Row(Pane, usize),
    /// The arrow that opens and closes row `n` of the tree.
    Fold(usize),
    /// Sort the library by a column.
    Sort(Column),
    /// Cell `n` of the allocation map.
    Cell(usize),
    /// Line `n` of the top layer's list.
    Item(usize),
    /// A field of the top layer's form.
    Field(usize),
    /// Word `n` of a field of the top layer's form.
    Word(usize, usize),
    /// Within the top layer, but on nothing.
    Inside,
}

/// The areas of one drawing; later ones lie on top. With them what only drawing knows: how many lines panes have and show.
#[derive(Debug, Clone, Default)]
pub struct Hits {
    areas: Vec<(Rect, Hit)>,
    /// Panes drawn: lines shown, and lines there are.
    pub panes: Vec<(Pane, usize, usize)>,
    /// Cells of the map across and down, when it was drawn.
    pub map: Option<(u16, u16)>,
    /// Lines the top layer shows.
    pub layer: usize,
    /// Lines it has, where it can be scrolled; 0 where that does not matter.
    pub layer_len: usize,
}

impl Hits {
    /// Notes what lies in `area`.
    pub fn add(&mut self, area: Rect, hit: Hit) {
        if area.area() > 0 {
            self.areas.push((area, hit));
        }
    }
    /// What lies at a cell, topmost first.
    pub fn at(&self, column: u16, row: u16) -> Option<&Hit> {
        self.areas.iter().rev().find(|(r, _)| r.contains(Position { x: column, y: row })).map(|(_, h)| h)
    }
    /// The pane at a cell, below whatever else lies there.
    pub fn pane_at(&self, column: u16, row: u16) -> Option<Pane> {
        self.areas.iter().rev().filter(|(r, _)| r.contains(Position { x: column, y: row })).find_map(|(_, h)| match h {
            Hit::Pane(p) => Some(*p),
            _ => None,
        })
    }
}
