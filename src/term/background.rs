//! Whether the terminal's background is light: asked of the terminal itself before it is taken, with an answer that may never come.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use rustix::termios::{OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};

use super::caps::Env;
use crate::app::key::Key;

/// The colour of the background (OSC 11), then what kind of terminal it is (DA1): every terminal answers the second, and in order, so
/// that one that does not know the first is not waited for.
const QUESTION: &[u8] = b"\x1b]11;?\x1b\\\x1b[c";
/// Tenths of a second of silence that end the waiting.
const SILENCE: u8 = 2;
/// No answer takes longer.
const LONGEST: Duration = Duration::from_secs(1);
/// No answer is longer, in bytes.
const MOST: usize = 1024;

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Background {
    /// It is light; `None` when nobody says.
    pub light: Option<bool>,
    /// An answer may still come, and must not be taken for keys.
    pub late: bool,
}

/// Asks the terminal, and failing that the environment (`COLORFGBG`). What is typed meanwhile is lost.
pub fn ask(env: Env<'_>) -> Background {
    let (light, late) = match exchange() {
        Ok(answer) => (parse(&answer), !complete(&answer)),
        Err(_) => (None, false),
    };
    Background { light: light.or_else(|| named(&env("COLORFGBG")?)), late }
}

/// The question and what came back, the terminal being silent and unbuffered for so long.
fn exchange() -> io::Result<Vec<u8>> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let before = tcgetattr(&stdin)?;
    let mut raw = before.clone();
    raw.make_raw();
    raw.special_codes[SpecialCodeIndex::VMIN] = 0;
    raw.special_codes[SpecialCodeIndex::VTIME] = SILENCE;
    tcsetattr(&stdin, OptionalActions::Now, &raw)?;
    let mut answer = Vec::new();
    let told = io::stdout().write_all(QUESTION).and_then(|()| io::stdout().flush());
    let start = Instant::now();
    while told.is_ok() && answer.len() < MOST && start.elapsed() < LONGEST && !complete(&answer) {
        let mut part = [0; 256];
        match rustix::io::read(&stdin, &mut part) {
            Ok(0) | Err(_) => break,
            Ok(n) => answer.extend_from_slice(part.get(..n).unwrap_or_default()),
        }
    }
    tcsetattr(&stdin, OptionalActions::Now, &before)?;
    told.map(|()| answer)
}

/// The answer to the second question is there: `ESC [ ? … c`.
fn complete(answer: &[u8]) -> bool {
    let Some(at) = answer.windows(3).position(|w| w == b"\x1b[?") else { return false };
    answer.get(at..).unwrap_or_default().contains(&b'c')
}

/// The answer to the first: `ESC ] 11 ; rgb:RRRR/GGGG/BBBB`, with one to four hexadecimal digits each.
fn parse(answer: &[u8]) -> Option<bool> {
    let text = String::from_utf8_lossy(answer);
    let (_, rest) = text.split_once("\x1b]11;rgb")?;
    // Some terminals add how opaque it is.
    let rest = rest.strip_prefix('a').unwrap_or(rest).strip_prefix(':')?;
    let mut parts = rest.split(|c: char| !c.is_ascii_hexdigit() && c != '/').next()?.split('/').map(|part| {
        let most = (1u32 << (4 * part.len().clamp(1, 4))) - 1;
        u32::from_str_radix(part, 16).ok().filter(|n| *n <= most).map(|n| f64::from(n) / f64::from(most))
    });
    let (r, g, b) = (parts.next()??, parts.next()??, parts.next()??);
    // As bright as it looks (ITU-R BT.709).
    Some(0.2126 * r + 0.7152 * g + 0.0722 * b > 0.5)
}

/// `15;0`, `0;default;15`: the last is the background, of the 16 colours.
fn named(value: &str) -> Option<bool> {
    let n: u8 = value.rsplit(';').next()?.parse().ok()?;
    (n < 16).then_some(n == 7 || n > 8)
}

/// Keeps an answer that came late from being taken for keys: it comes in as Alt-] and letters, up to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Late {
    /// An answer may still come.
    waiting: bool,
    /// It is coming in.
    inside: bool,
}

impl Late {
    /// Waits for one when `late`.
    pub fn new(late: bool) -> Self {
        Late { waiting: late, inside: false }
    }
    /// True when the key is a part of it.
    pub fn swallows(&mut self, key: &Key) -> bool {
        use crossterm::event::{KeyCode, KeyModifiers};
        let KeyCode::Char(c) = key.code else { return false };
        let alt = key.mods.contains(KeyModifiers::ALT);
        if self.waiting && alt && c == ']' {
            *self = Late { waiting: false, inside: true };
            return true;
        }
        if !self.inside {
            return false;
        }
        // BEL, or ESC and a backslash, ends it; anything else that is none of its letters was typed.
        let end = alt && c == '\\' || key.mods.contains(KeyModifiers::CONTROL) && c == 'g';
        self.inside = !end && (c.is_ascii_hexdigit() || "rgba:/;".contains(c));
        end || self.inside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood_in_every_spelling() {
        for (answer, light) in [
            ("\x1b]11;rgb:ffff/ffff/ffff\x1b\\\x1b[?62;4c", Some(true)),
            ("\x1b]11;rgb:1e1e/1e1e/2e2e\x07\x1b[?1;2c", Some(false)),
            ("\x1b]11;rgb:fd/f6/e3\x07", Some(true)),
            ("\x1b]11;rgba:0/0/0/f\x1b\\", Some(false)),
            ("\x1b[?6c", None),
            ("\x1b]11;rgb:fffff/0/0\x07", None),
            ("\x1b]11;rgb:ff/ff\x07", None),
            ("\x1b]11;rgb://\x07", None),
            ("", None),
        ] {
            assert_eq!(parse(answer.as_bytes()), light, "{answer:?}");
        }
        assert!(complete(b"\x1b]11;rgb:c/c/c\x07\x1b[?62c") && !complete(b"\x1b]11;rgb:cc/cc/cc\x07\x1b[?62"));
    }

    #[test]
    fn the_environment_is_asked_where_the_terminal_is_silent() {
        for (value, light) in [("15;0", Some(false)), ("0;15", Some(true)), ("0;default;7", Some(true)), ("12;8", Some(false))] {
            assert_eq!(named(value), light, "{value}");
        }
        for value in ["", "0;default", "0;99", "x"] {
            assert_eq!(named(value), None, "{value}");
        }
    }

    #[test]
    fn a_late_answer_is_no_key_and_keys_are_no_answer() {
        let left = |late, keys: &str| {
            let mut filter = Late::new(late);
            let keys = keys.split(' ').map(|k| Key::parse(k).unwrap_or_else(|| panic!("{k}")));
            keys.filter(|k| !filter.swallows(k)).map(|k| k.to_string()).collect::<Vec<_>>().join(" ")
        };
        let answer = "alt-] 1 1 ; r g b : f f / 0 0 / f f";
        assert_eq!(left(true, &format!("j {answer} alt-\\ d q")), "j d q");
        assert_eq!(left(true, &format!("{answer} ctrl-g a")), "a");
        // Cut off: what follows is typed, and the second one is as well.
        assert_eq!(left(true, "alt-] 1 1 j alt-] 1"), "j Alt-] 1");
        assert_eq!(left(false, "alt-] 1"), "Alt-] 1");
    }
}
