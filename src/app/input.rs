//! A line of text being typed: the filter, a path, a search.

use crossterm::event::{KeyCode, KeyModifiers};
use unicode_segmentation::UnicodeSegmentation;

use super::key::Key;

/// Text with a cursor between graphemes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Input {
    text: String,
    /// Byte offset, always at a grapheme's edge.
    cursor: usize,
    /// The whole text is selected: what is typed takes its place.
    selected: bool,
}

impl Input {
    /// The text with the cursor at its end.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let cursor = text.len();
        Input { text, cursor, selected: false }
    }
    /// The same, all of it selected: typing replaces it, moving the cursor keeps it.
    pub fn selected(text: impl Into<String>) -> Self {
        let input = Input::new(text);
        Input { selected: !input.is_empty(), ..input }
    }
    /// The whole text is selected.
    pub fn is_selected(&self) -> bool {
        self.selected
    }
    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }
    /// The text before and after the cursor.
    pub fn split(&self) -> (&str, &str) {
        self.text.split_at_checked(self.cursor).unwrap_or((&self.text, ""))
    }
    /// True without text.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
    /// Types or pastes; control characters are left out.
    pub fn insert(&mut self, text: &str) {
        if std::mem::take(&mut self.selected) {
            self.cut(0, self.text.len());
        }
        let clean: String = text.chars().filter(|c| !c.is_control()).collect();
        self.text.insert_str(self.cursor, &clean);
        self.cursor += clean.len();
    }
    /// Edits by a key as readline does. False when the key is none of its own.
    pub fn key(&mut self, key: Key) -> bool {
        let ctrl = key.mods == KeyModifiers::CONTROL;
        let selected = self.selected;
        match key.code {
            KeyCode::Backspace | KeyCode::Delete if selected => self.cut(0, self.text.len()),
            KeyCode::Char(c) if key.mods.is_empty() => self.insert(c.encode_utf8(&mut [0; 4])),
            KeyCode::Backspace | KeyCode::Char('h') if ctrl || key.code == KeyCode::Backspace => {
                self.cut(self.before(), self.cursor);
            }
            KeyCode::Delete => self.cut(self.cursor, self.after()),
            KeyCode::Left => self.cursor = self.before(),
            KeyCode::Right => self.cursor = self.after(),
            KeyCode::Home => self.cursor = 0,
            KeyCode::End => self.cursor = self.text.len(),
            KeyCode::Char('a') if ctrl => self.cursor = 0,
            KeyCode::Char('e') if ctrl => self.cursor = self.text.len(),
            KeyCode::Char('u') if ctrl => self.cut(0, self.cursor),
            KeyCode::Char('k') if ctrl => self.cut(self.cursor, self.text.len()),
            KeyCode::Char('w') if ctrl => self.cut(self.word(), self.cursor),
            _ => return false,
        }
        self.selected = false;
        true
    }

    fn cut(&mut self, from: usize, to: usize) {
        self.text.replace_range(from..to, "");
        self.cursor = from;
    }
    fn before(&self) -> usize {
        self.split().0.grapheme_indices(true).next_back().map_or(0, |(i, _)| i)
    }
    fn after(&self) -> usize {
        self.cursor + self.split().1.graphemes(true).next().map_or(0, str::len)
    }
    /// Where the word (or path part) before the cursor begins.
    fn word(&self) -> usize {
        let head = self.split().0.trim_end_matches([' ', '/']);
        head.rfind([' ', '/']).map_or(0, |i| i + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_by_grapheme_and_by_word() {
        let mut i = Input::new("/a/né");
        i.insert("e\u{301}\x1b");
        assert_eq!(i.text(), "/a/née\u{301}");
        for (key, text) in
            [("backspace", "/a/né"), ("left", "/a/né"), ("delete", "/a/n"), ("ctrl-w", "/a/"), ("ctrl-w", "/"), ("ctrl-u", "")]
        {
            assert!(i.key(Key::parse(key).unwrap()));
            assert_eq!(i.text(), text, "{key}");
        }
        assert!(!i.key(Key::parse("tab").unwrap()));
    }

    #[test]
    fn what_is_selected_is_replaced_by_typing_and_kept_by_moving() {
        for (keys, text) in
            [("x y", "xy"), ("left x", "name-x1"), ("end x", "name-1x"), ("backspace x", "x"), ("delete", ""), ("tab x", "x")]
        {
            let mut i = Input::selected("name-1");
            for key in keys.split(' ') {
                i.key(Key::parse(key).unwrap());
            }
            assert_eq!((i.text(), i.is_selected()), (text, false), "{keys}");
        }
        let mut i = Input::selected("name-1");
        i.insert("pasted");
        assert_eq!(i.text(), "pasted");
        assert!(!Input::selected("").is_selected());
    }
}
