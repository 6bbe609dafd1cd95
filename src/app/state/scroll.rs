//! A cursor in a list that is shown through a window.

use crate::app::action::Action;

/// Where the cursor is, and which line is the first shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scroll {
    /// Line under the cursor.
    pub at: usize,
    /// First line shown.
    pub top: usize,
    /// Lines shown, as last drawn.
    pub height: usize,
    /// Lines there are, as last drawn; of texts only drawing knows it.
    pub len: usize,
}

impl Scroll {
    /// Moves in a list of `len` lines. False when the action is no move.
    pub fn step(&mut self, action: Action, len: usize) -> bool {
        let page = self.height.max(2) - 1;
        let half = (self.height / 2).max(1);
        let last = len.saturating_sub(1);
        self.at = match action {
            Action::Up => self.at.saturating_sub(1),
            Action::Down => self.at + 1,
            Action::First => 0,
            Action::Last => last,
            Action::PageUp => self.at.saturating_sub(page),
            Action::PageDown => self.at + page,
            Action::HalfUp => self.at.saturating_sub(half),
            Action::HalfDown => self.at + half,
            _ => return false,
        }
        .min(last);
        self.follow(len);
        true
    }

    /// Moves a text without a cursor: its first line shown.
    pub fn roll(&mut self, action: Action, len: usize) -> bool {
        self.at = self.top;
        let most = len.saturating_sub(self.height);
        let moved = match action {
            Action::Last => {
                self.at = most;
                true
            }
            _ => self.step(action, len),
        };
        self.at = self.at.min(most);
        self.top = self.at;
        moved
    }

    /// Puts the cursor on a line.
    pub fn go(&mut self, at: usize, len: usize) {
        self.at = at.min(len.saturating_sub(1));
        self.follow(len);
    }

    /// Turns the wheel: the window moves, and the cursor is taken along only where it would leave it.
    pub fn wheel(&mut self, by: isize, len: usize) {
        self.top = self.top.saturating_add_signed(by).min(len.saturating_sub(self.height));
        self.at = self.at.clamp(self.top, (self.top + self.height.max(1) - 1).min(len.saturating_sub(1)).max(self.top));
    }

    /// Keeps the cursor within the list and the window around the cursor.
    pub fn follow(&mut self, len: usize) {
        self.at = self.at.min(len.saturating_sub(1));
        let height = self.height.max(1);
        if self.at < self.top {
            self.top = self.at;
        } else if self.at >= self.top + height {
            self.top = self.at + 1 - height;
        }
        self.top = self.top.min(len.saturating_sub(height));
    }

    /// The lines shown.
    pub fn window(&self, len: usize) -> std::ops::Range<usize> {
        self.top.min(len)..(self.top + self.height).min(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_follows_the_cursor() {
        let mut s = Scroll { height: 10, ..Scroll::default() };
        for (action, at, top) in [
            (Action::Down, 1, 0),
            (Action::PageDown, 10, 1),
            (Action::HalfDown, 15, 6),
            (Action::Last, 99, 90),
            (Action::Down, 99, 90),
            (Action::Up, 98, 90),
            (Action::First, 0, 0),
        ] {
            assert!(s.step(action, 100));
            assert_eq!((s.at, s.top), (at, top), "{action:?}");
        }
        s.wheel(3, 100);
        assert_eq!((s.at, s.top), (3, 3));
        s.step(Action::Down, 0);
        assert_eq!((s.at, s.top), (0, 0));
    }
}
