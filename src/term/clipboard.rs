//! The clipboard through the terminal (OSC 52), which also works over ssh; inside tmux wrapped so that tmux passes it on. And
//! desktop notifications (OSC 9), which go the same way.

use base64::Engine as _;

/// The sequence that puts `text` on the clipboard.
pub fn copy(text: &str, tmux: bool) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    wrap(&format!("\x1b]52;c;{encoded}\x07"), tmux)
}

/// The sequence that shows `text` as a notification; terminals that know none ring their bell.
pub fn notify(text: &str, tmux: bool) -> String {
    let text = crate::engine::units::printable(text);
    format!("{}\x07", wrap(&format!("\x1b]9;{text}\x07"), tmux))
}

fn wrap(sequence: &str, tmux: bool) -> String {
    if !tmux {
        return sequence.to_string();
    }
    // tmux takes OSC 52 itself when set-clipboard is on, and the wrapped one when allow-passthrough is: send both.
    format!("{sequence}\x1bPtmux;{}\x1b\\", sequence.replace('\x1b', "\x1b\x1b"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speaks_osc_52_also_through_tmux() {
        assert_eq!(copy("/a", false), "\x1b]52;c;L2E=\x07");
        assert_eq!(copy("/a", true), "\x1b]52;c;L2E=\x07\x1bPtmux;\x1b\x1b]52;c;L2E=\x07\x1b\\");
        assert!(!notify("a\x1b]0;evil\x07", false).contains("\x1b]0"));
    }
}
