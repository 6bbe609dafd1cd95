//! The allocation map: which part of the disk is shown, in how many cells, and where the cursor is.

use std::path::PathBuf;
use std::sync::Arc;

use crate::app::action::Action;
use crate::app::worker::image::{FreeHere, MapLayer};
use crate::engine::error::Error;
use crate::engine::extents::Cells;
use crate::engine::guest::owners::Owners;
use crate::engine::model::Extent;
use crate::engine::units::SECTOR;

/// What the colours of the map say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Colour {
    /// What is there: data, compressed, zero.
    #[default]
    Kind,
    /// Which layer it lies in.
    Depth,
}

/// State of the map's screen.
#[derive(Debug, Clone, Default)]
pub struct MapState {
    /// The image.
    pub path: Option<PathBuf>,
    /// Bytes of the disk; 0 until it is known.
    pub size: u64,
    /// Layers, top first.
    pub layers: Vec<MapLayer>,
    /// Only this layer is shown.
    pub only: Option<usize>,
    /// What colours say.
    pub colour: Colour,
    /// The part shown, as guest bytes; `None` is the whole disk.
    pub window: Option<(u64, u64)>,
    /// Cells across and down, as last drawn.
    pub shape: (u16, u16),
    /// The cells as last read.
    pub grid: Option<Cells>,
    /// Why there are none.
    pub error: Option<Error>,
    /// Guest byte under the cursor.
    pub cursor: u64,
    /// What lies there, and in which file; `None` while it is looked up.
    pub under: Option<Result<(Extent, Option<PathBuf>), Error>>,
    /// The volume of the guest that the byte belongs to.
    pub owner: Option<String>,
    /// Number of the last request for cells.
    pub generation: u64,
    /// Number of the last request for the cursor.
    pub cursor_generation: u64,
    /// What the guest's filesystems call free; `None` while it is looked for.
    pub free: Option<Result<Arc<FreeHere>, Error>>,
    /// What they call free and the image stores is shaded.
    pub shade: bool,
    /// Whose the bytes are; `None` while every file is gone through.
    pub owners: Option<Result<Arc<Owners>, Error>>,
    /// Number of the last request for what the filesystems say.
    pub inside_generation: u64,
    /// Cells were asked for and have not come.
    pub loading: bool,
}

/// How much closer one step of zoom is.
const STEP: u64 = 4;

impl MapState {
    /// What filesystems call free and the image stores, where that can be told of what is shown: the disk, or its top layer.
    pub fn stored_free(&self) -> Option<&FreeHere> {
        self.free.as_ref()?.as_ref().ok().filter(|_| self.only.unwrap_or(0) == 0).map(Arc::as_ref)
    }
    /// Cells that fit on the screen.
    pub fn cells(&self) -> usize {
        usize::from(self.shape.0) * usize::from(self.shape.1)
    }
    /// The part shown.
    pub fn shown(&self) -> (u64, u64) {
        self.window.unwrap_or((0, self.size))
    }
    /// Bytes of one cell, at least 1.
    pub fn cell_bytes(&self) -> u64 {
        let (start, end) = self.shown();
        ((end - start) / (self.cells().max(1) as u64)).max(1)
    }
    /// A part of the disk is shown.
    pub fn zoomed(&self) -> bool {
        self.window.is_some()
    }
    /// Nothing smaller than a sector is shown.
    pub fn at_closest(&self) -> bool {
        let (start, end) = self.shown();
        end - start <= (self.cells() as u64).saturating_mul(SECTOR)
    }
    /// Steps of zoom: (now, all there are).
    pub fn zoom(&self) -> (u32, u32) {
        let steps = |len: u64| {
            let (mut len, mut n) = (len, 0u32);
            let least = (self.cells() as u64).saturating_mul(SECTOR).max(1);
            while len > least {
                len /= STEP;
                n += 1;
            }
            n
        };
        let (start, end) = self.shown();
        let all = steps(self.size);
        (all - steps(end - start).min(all), all)
    }
    /// The cell the cursor is in, as counted in the grid that is shown.
    pub fn cursor_cell(&self) -> Option<usize> {
        let grid = self.grid.as_ref()?;
        if self.cursor < grid.start || self.cursor >= grid.end {
            return None;
        }
        // The ranges of cells are the engine's business, rounding included: ask it, beginning near where it must be.
        let n = grid.cells.len().max(1) as u128;
        let guess = (u128::from(self.cursor - grid.start) * n / u128::from((grid.end - grid.start).max(1))) as usize;
        (guess.saturating_sub(1)..=guess + 1).find(|&i| {
            let (a, b) = grid.range(i);
            a <= self.cursor && self.cursor < b
        })
    }
    /// Puts the cursor at the beginning of a cell.
    pub fn go_to_cell(&mut self, cell: usize) {
        if let Some(grid) = &self.grid
            && cell < grid.cells.len()
        {
            self.cursor = grid.range(cell).0;
        }
    }

    /// Moves the cursor; true when the part shown had to move with it.
    pub fn step(&mut self, action: Action) -> bool {
        let cell = self.cell_bytes();
        let row = cell.saturating_mul(u64::from(self.shape.0.max(1)));
        let rows = u64::from(self.shape.1.max(2));
        let (back, by) = match action {
            Action::Left => (true, cell),
            Action::Right => (false, cell),
            Action::Up => (true, row),
            Action::Down => (false, row),
            Action::PageUp => (true, row.saturating_mul(rows - 1)),
            Action::PageDown => (false, row.saturating_mul(rows - 1)),
            Action::HalfUp => (true, row.saturating_mul(rows / 2)),
            Action::HalfDown => (false, row.saturating_mul(rows / 2)),
            Action::First => (true, u64::MAX),
            Action::Last => (false, u64::MAX),
            _ => return false,
        };
        let last = self.size.saturating_sub(1);
        match (self.cursor_cell(), action) {
            // Steps go from cell to cell, so that rounding never leaves one out.
            (Some(i), Action::Left | Action::Right | Action::Up | Action::Down) => {
                let n = if matches!(action, Action::Up | Action::Down) { usize::from(self.shape.0.max(1)) } else { 1 };
                let count = self.grid.as_ref().map_or(0, |g| g.cells.len());
                let to = if back { i.checked_sub(n) } else { Some(i + n).filter(|t| *t < count) };
                match to {
                    Some(to) => self.go_to_cell(to),
                    // Off the edge of a part: the part moves along. Off the edge of the disk: stay.
                    None if self.zoomed() => {
                        self.cursor =
                            if back { self.cursor.saturating_sub(by) } else { self.cursor.saturating_add(by).min(last) };
                    }
                    None => {}
                }
            }
            _ => self.cursor = if back { self.cursor.saturating_sub(by) } else { self.cursor.saturating_add(by).min(last) },
        }
        self.reveal(row)
    }

    /// Moves the part shown so that it holds the cursor, by whole rows. True when it moved.
    pub fn reveal(&mut self, row: u64) -> bool {
        let Some((start, end)) = self.window else { return false };
        let (len, row) = (end - start, row.max(1));
        let to = if self.cursor < start {
            start.saturating_sub((start - self.cursor).div_ceil(row).saturating_mul(row))
        } else if self.cursor >= end {
            start.saturating_add((self.cursor - end + 1).div_ceil(row).saturating_mul(row)).min(self.size.saturating_sub(len))
        } else {
            return false;
        };
        self.window = Some((to, to + len));
        to != start
    }

    /// Shows a quarter of what is shown, around the cursor. True when it changed.
    pub fn zoom_in(&mut self) -> bool {
        if self.at_closest() {
            return false;
        }
        let (start, end) = self.shown();
        let least = (self.cells() as u64).saturating_mul(SECTOR).max(SECTOR);
        self.around(((end - start) / STEP).max(least))
    }
    /// Shows four times of what is shown, around the cursor. True when it changed.
    pub fn zoom_out(&mut self) -> bool {
        let (start, end) = self.shown();
        self.zoomed() && self.around((end - start).saturating_mul(STEP))
    }
    fn around(&mut self, len: u64) -> bool {
        let before = self.window;
        self.window = (len < self.size).then(|| {
            // Parts begin at sectors, so that a cell of a sector is that sector.
            let start = self.cursor.saturating_sub(len / 2).min(self.size - len) / SECTOR * SECTOR;
            (start, (start + len).min(self.size))
        });
        before != self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::extents::Cell;

    fn state(size: u64) -> MapState {
        let mut m = MapState { size, shape: (64, 10), ..MapState::default() };
        load(&mut m);
        m
    }
    /// What the worker would answer.
    fn load(m: &mut MapState) {
        let (start, end) = m.shown();
        let cells = vec![Cell::default(); m.cells().min((end - start) as usize)];
        m.grid = Some(Cells { start, end, cells, total: Cell::default() });
    }

    #[test]
    fn zooming_in_ends_at_a_sector_and_out_at_the_disk() {
        let mut m = state(10 << 30);
        m.cursor = 7 << 30;
        let mut steps = 0;
        while m.zoom_in() {
            steps += 1;
            let (start, end) = m.shown();
            assert!(start <= m.cursor && m.cursor < end && end <= m.size);
            assert_eq!(m.zoom().0, steps);
        }
        assert_eq!((m.zoom(), m.cell_bytes()), ((steps, steps), SECTOR));
        while m.zoom_out() {}
        assert_eq!(m.window, None);
    }

    #[test]
    fn every_cell_is_reached_and_the_part_moves_along() {
        let mut m = state(1000 * 64 + 7);
        for i in 0..m.cells() {
            assert_eq!(m.cursor_cell(), Some(i));
            m.step(Action::Right);
        }
        assert_eq!(m.cursor_cell(), Some(m.cells() - 1));
        let mut m = state(1 << 30);
        m.zoom_in();
        load(&mut m);
        m.step(Action::Last);
        assert_eq!((m.cursor, m.shown().1), ((1 << 30) - 1, 1 << 30));
        load(&mut m);
        m.step(Action::First);
        assert_eq!((m.cursor, m.shown().0), (0, 0));
    }
}
