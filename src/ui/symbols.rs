//! The characters drawn with: Unicode, and ASCII for terminals that have nothing else.

/// Every character views use besides text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // Named by what they look like or stand for.
pub struct Symbols {
    pub horizontal: &'static str,
    pub vertical: &'static str,
    /// Corners: top left, top right, bottom left, bottom right.
    pub corners: [&'static str; 4],
    /// Where a rule meets the frame: left, right.
    pub tees: [&'static str; 2],
    /// Where a divider meets a rule above, below.
    pub divider: [&'static str; 2],
    pub open: &'static str,
    pub closed: &'static str,
    /// Tree: a sibling follows, the last, the line down.
    pub branch: [&'static str; 3],
    /// The same for what is inferred.
    pub dotted: [&'static str; 3],
    pub good: &'static str,
    pub warn: &'static str,
    pub bad: &'static str,
    pub dot: &'static str,
    pub ring: &'static str,
    /// An image that is not the one shown.
    pub other: &'static str,
    /// Where the live state came from.
    pub current: &'static str,
    pub lock: &'static str,
    pub ellipsis: &'static str,
    pub dash: &'static str,
    pub arrow: &'static str,
    pub back: &'static str,
    pub up: &'static str,
    pub down: &'static str,
    pub bullet: &'static str,
    pub times: &'static str,
    pub mark: &'static str,
    pub run: &'static str,
    pub pause: &'static str,
    /// Edges of bars.
    pub edges: [&'static str; 2],
    /// Parts of a bar's cell, from one eighth to full.
    pub eighths: &'static [&'static str],
    /// Heights of a sparkline, from least to full.
    pub heights: &'static [&'static str],
    /// Map: nothing, zero, compressed, part of the cell, data.
    pub cells: [&'static str; 5],
    /// Map: mostly what filesystems call free.
    pub free: &'static str,
    /// Map: the cell under the cursor.
    pub cursor: &'static str,
    /// Map by layer, the top first.
    pub layers: [&'static str; 4],
    pub spinner: &'static [&'static str],
    pub scroll: &'static str,
}

/// For terminals that show Unicode.
pub static UNICODE: Symbols = Symbols {
    horizontal: "─",
    vertical: "│",
    corners: ["┌", "┐", "└", "┘"],
    tees: ["├", "┤"],
    divider: ["┬", "┴"],
    open: "▾",
    closed: "▸",
    branch: ["├─", "└─", "│ "],
    dotted: ["├┄", "└┄", "┊ "],
    good: "✔",
    warn: "▲",
    bad: "✖",
    dot: "●",
    ring: "○",
    other: "◇",
    current: "◉",
    lock: "◆",
    ellipsis: "…",
    dash: "—",
    arrow: "→",
    back: "←",
    up: "↑",
    down: "↓",
    bullet: "·",
    times: "×",
    mark: "▌",
    run: "▶",
    pause: "‖",
    edges: ["▕", "▏"],
    eighths: &["▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"],
    heights: &["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"],
    cells: ["·", "░", "▒", "▄", "█"],
    free: "╳",
    cursor: "◆",
    layers: ["█", "▓", "▒", "░"],
    spinner: &["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"],
    scroll: "┃",
};

/// For all others.
pub static ASCII: Symbols = Symbols {
    horizontal: "-",
    vertical: "|",
    corners: ["+", "+", "+", "+"],
    tees: ["+", "+"],
    divider: ["+", "+"],
    open: "v",
    closed: ">",
    branch: ["|-", "`-", "| "],
    dotted: ["|.", "`.", ": "],
    good: "ok",
    warn: "!",
    bad: "X",
    dot: "*",
    ring: "o",
    other: "%",
    current: "@",
    lock: "#",
    ellipsis: "~",
    dash: "-",
    arrow: "->",
    back: "<-",
    up: "^",
    down: "v",
    bullet: ".",
    times: "x",
    mark: ">",
    run: ">",
    pause: "=",
    edges: ["[", "]"],
    eighths: &["-", "#"],
    heights: &["_", ".", "-", "=", "#"],
    cells: [".", "0", "c", "+", "#"],
    free: "x",
    cursor: "X",
    layers: ["#", "%", "+", ":"],
    spinner: &["|", "/", "-", "\\"],
    scroll: "#",
};

#[cfg(test)]
mod tests {
    use super::*;
    use unicode_width::UnicodeWidthStr;

    #[test]
    fn what_stands_in_columns_is_one_cell_wide() {
        for s in [&UNICODE, &ASCII] {
            let all = s.eighths.iter().chain(s.heights).chain(&s.cells).chain(&s.layers).chain(s.spinner).chain(&s.corners);
            for c in all.chain(&s.edges).chain(&s.tees).chain([
                &s.cursor,
                &s.other,
                &s.current,
                &s.open,
                &s.closed,
                &s.dot,
                &s.ring,
                &s.ellipsis,
                &s.dash,
            ]) {
                assert_eq!(c.width(), 1, "{c}");
            }
            for b in s.branch.iter().chain(&s.dotted) {
                assert_eq!(b.width(), 2, "{b}");
            }
        }
        let debug = format!("{ASCII:?}");
        assert!(debug.is_ascii());
    }
}
