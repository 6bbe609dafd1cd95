//! What the terminal can show: colours and characters, from the environment and a person's choice.

use crate::app::config::{Colors, Glyphs};
use crate::ui::theme::Depth;

/// Looks up an environment variable; tests bring their own.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Colours.
    pub depth: Depth,
    /// More than ASCII.
    pub unicode: bool,
    /// We run inside tmux, which passes some sequences on only in a wrapper.
    pub tmux: bool,
}

/// Finds out. A choice wins over the environment, and `NO_COLOR` over what the terminal could do.
pub fn detect(env: Env<'_>, colors: Colors, glyphs: Glyphs) -> Caps {
    let set = |name: &str| env(name).filter(|v| !v.is_empty());
    let term = set("TERM").unwrap_or_default();
    let depth = match colors {
        Colors::Never => Depth::Mono,
        Colors::Ansi => Depth::Ansi,
        Colors::Many => Depth::Many,
        Colors::True => Depth::True,
        Colors::Auto if set("NO_COLOR").is_some() || term == "dumb" || term.starts_with("vt1") => Depth::Mono,
        Colors::Auto => match set("COLORTERM").as_deref() {
            Some("truecolor" | "24bit") => Depth::True,
            _ if term.contains("direct") => Depth::True,
            _ if term.contains("256") => Depth::Many,
            _ => Depth::Ansi,
        },
    };
    let unicode = match glyphs {
        Glyphs::Unicode => true,
        Glyphs::Ascii => false,
        Glyphs::Auto => {
            // The first of them that is set decides, as the C library does it.
            let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        }
    };
    Caps { depth, unicode, tmux: set("TMUX").is_some() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(vars: &[(&str, &str)]) -> (Depth, bool) {
        let caps = detect(&|k| vars.iter().find(|(n, _)| *n == k).map(|(_, v)| v.to_string()), Colors::Auto, Glyphs::Auto);
        (caps.depth, caps.unicode)
    }

    #[test]
    fn the_environment_decides() {
        assert_eq!(of(&[("TERM", "xterm-256color"), ("LANG", "de_DE.UTF-8")]), (Depth::Many, true));
        assert_eq!(of(&[("TERM", "xterm-256color"), ("COLORTERM", "truecolor"), ("LANG", "C.utf8")]), (Depth::True, true));
        assert_eq!(of(&[("TERM", "xterm"), ("LANG", "C")]), (Depth::Ansi, false));
        assert_eq!(
            of(&[("TERM", "xterm-256color"), ("NO_COLOR", "1"), ("LC_ALL", "C"), ("LANG", "C.UTF-8")]),
            (Depth::Mono, false)
        );
        assert_eq!(of(&[("TERM", "xterm"), ("NO_COLOR", "")]), (Depth::Ansi, false));
        assert_eq!(of(&[]), (Depth::Ansi, false));
    }
}
