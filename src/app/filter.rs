//! Fuzzy matching, one way for the library's filter, the help's search and the palette.

use nucleo_matcher::pattern::{AtomKind, CaseMatching, Normalization, Pattern};
use nucleo_matcher::{Config, Matcher, Utf32Str};

/// A pattern ready to be held against many texts.
pub struct Fuzzy {
    pattern: Pattern,
    matcher: Matcher,
    buf: Vec<char>,
}

impl Fuzzy {
    /// Words separated by blanks must all match; `^`, `$`, `'` and `!` as in fzf. Lower case matches any case.
    pub fn new(pattern: &str) -> Self {
        Fuzzy {
            pattern: Pattern::parse(pattern, CaseMatching::Smart, Normalization::Smart),
            matcher: Matcher::new(Config::DEFAULT),
            buf: Vec::new(),
        }
    }
    /// Words that must all stand in the text as they are typed: in sentences a fuzzy pattern finds its letters nearly anywhere.
    pub fn words(text: &str) -> Self {
        let pattern = Pattern::new(text, CaseMatching::Ignore, Normalization::Smart, AtomKind::Substring);
        Fuzzy { pattern, ..Fuzzy::new("") }
    }
    /// How well `text` matches; `None` when it does not.
    pub fn score(&mut self, text: &str) -> Option<u32> {
        self.pattern.score(Utf32Str::new(text, &mut self.buf), &mut self.matcher)
    }
    /// Which characters of `text` matched, ascending; empty when it does not match.
    pub fn marks(&mut self, text: &str) -> Vec<u32> {
        let mut out = Vec::new();
        if self.pattern.indices(Utf32Str::new(text, &mut self.buf), &mut self.matcher, &mut out).is_none() {
            return Vec::new();
        }
        out.sort_unstable();
        out.dedup();
        out
    }
}
