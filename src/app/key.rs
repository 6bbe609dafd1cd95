//! Keys as people write them (`ctrl-u`, `G`, `shift-tab`), and the keymap from keys to commands by scope.

use std::collections::HashMap;
use std::fmt;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::action::Action;
use super::command::{COMMANDS, Command, Scope};

/// One key with its modifiers. Shift is part of a character and kept only for other keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Which.
    pub code: KeyCode,
    /// Held with it.
    pub mods: KeyModifiers,
}

impl Key {
    /// A plain key.
    pub const fn plain(code: KeyCode) -> Self {
        Key { code, mods: KeyModifiers::NONE }
    }

    /// A key as the configuration spells it. `None` when there is no such key.
    pub fn parse(text: &str) -> Option<Key> {
        let mut mods = KeyModifiers::NONE;
        let mut rest = text;
        loop {
            let lower = rest.to_ascii_lowercase();
            let (m, n) = if lower.starts_with("ctrl-") {
                (KeyModifiers::CONTROL, 5)
            } else if lower.starts_with("alt-") {
                (KeyModifiers::ALT, 4)
            } else if lower.starts_with("shift-") {
                (KeyModifiers::SHIFT, 6)
            } else {
                break;
            };
            mods |= m;
            rest = rest.get(n..)?;
        }
        let mut chars = rest.chars();
        let code = match (chars.next(), chars.next()) {
            (Some(c), None) => KeyCode::Char(c),
            _ => match rest.to_ascii_lowercase().as_str() {
                "enter" => KeyCode::Enter,
                "esc" => KeyCode::Esc,
                "tab" => KeyCode::Tab,
                "space" => KeyCode::Char(' '),
                "backspace" => KeyCode::Backspace,
                "delete" => KeyCode::Delete,
                "up" => KeyCode::Up,
                "down" => KeyCode::Down,
                "left" => KeyCode::Left,
                "right" => KeyCode::Right,
                "home" => KeyCode::Home,
                "end" => KeyCode::End,
                "pgup" => KeyCode::PageUp,
                "pgdn" => KeyCode::PageDown,
                f => KeyCode::F(f.strip_prefix('f')?.parse().ok().filter(|n| (1..=12).contains(n))?),
            },
        };
        Some(Key { code, mods }.normal())
    }

    /// One spelling per key: back-tab is shift-tab, and a character carries its own shift.
    fn normal(mut self) -> Self {
        match self.code {
            KeyCode::BackTab => self = Key { code: KeyCode::Tab, mods: self.mods | KeyModifiers::SHIFT },
            KeyCode::Char(c) if self.mods.contains(KeyModifiers::CONTROL) => self.code = KeyCode::Char(c.to_ascii_lowercase()),
            _ => {}
        }
        if matches!(self.code, KeyCode::Char(_)) {
            self.mods -= KeyModifiers::SHIFT;
        }
        self
    }
}

impl From<KeyEvent> for Key {
    fn from(e: KeyEvent) -> Self {
        let mods = e.modifiers & (KeyModifiers::CONTROL | KeyModifiers::ALT | KeyModifiers::SHIFT);
        Key { code: e.code, mods }.normal()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (m, name) in [(KeyModifiers::CONTROL, "Ctrl-"), (KeyModifiers::ALT, "Alt-"), (KeyModifiers::SHIFT, "Shift-")] {
            if self.mods.contains(m) {
                f.write_str(name)?;
            }
        }
        match self.code {
            KeyCode::Char(' ') => f.write_str("Space"),
            KeyCode::Char(c) => write!(f, "{c}"),
            KeyCode::PageUp => f.write_str("PgUp"),
            KeyCode::PageDown => f.write_str("PgDn"),
            KeyCode::F(n) => write!(f, "F{n}"),
            KeyCode::Esc => f.write_str("Esc"),
            KeyCode::Delete => f.write_str("Del"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// Which command a key means, scope by scope.
#[derive(Debug, Clone)]
pub struct Keymap {
    by_key: HashMap<(Scope, Key), Action>,
    by_id: HashMap<&'static str, Vec<Key>>,
}

impl Default for Keymap {
    fn default() -> Self {
        Keymap::new(&[])
    }
}

impl Keymap {
    /// The command table's keys, with `overrides` (a command's id, its keys) in place of the defaults of those commands.
    pub fn new(overrides: &[(String, Vec<Key>)]) -> Self {
        let mut map = Keymap { by_key: HashMap::new(), by_id: HashMap::new() };
        for c in COMMANDS {
            let own = overrides.iter().find(|(id, _)| id == c.id).map(|(_, keys)| keys.clone());
            let keys = own.unwrap_or_else(|| c.keys.iter().filter_map(|k| Key::parse(k)).collect());
            for &key in &keys {
                map.by_key.insert((c.scope, key), c.action);
            }
            map.by_id.insert(c.id, keys);
        }
        map
    }

    /// The command of `key` where `scopes` are active, the innermost first.
    pub fn lookup(&self, scopes: &[Scope], key: Key) -> Option<Action> {
        scopes.iter().find_map(|s| self.by_key.get(&(*s, key)).copied())
    }

    /// Every key of a command, the best known first.
    pub fn keys(&self, command: &Command) -> &[Key] {
        self.by_id.get(command.id).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_key_is_spelled_right_and_means_one_thing_in_its_scope() {
        let mut seen = HashMap::new();
        for c in COMMANDS {
            for k in c.keys {
                let key = Key::parse(k).unwrap_or_else(|| panic!("{k}"));
                if let Some(other) = seen.insert((c.scope, key), c.id) {
                    panic!("{k} is both {other} and {} in {:?}", c.id, c.scope);
                }
            }
        }
    }

    #[test]
    fn keys_have_one_spelling() {
        assert_eq!(Key::parse("ctrl-U"), Key::parse("ctrl-u"));
        assert_eq!(Key::parse("shift-tab"), Some(Key::from(KeyEvent::new(KeyCode::BackTab, KeyModifiers::SHIFT))));
        assert_eq!(Key::parse("G"), Some(Key::from(KeyEvent::new(KeyCode::Char('G'), KeyModifiers::SHIFT))));
        assert_eq!(Key::parse("-").map(|k| k.to_string()).as_deref(), Some("-"));
        for bad in ["", "ctrl-", "hyper-x", "f13", "banana"] {
            assert_eq!(Key::parse(bad), None, "{bad}");
        }
    }
}
