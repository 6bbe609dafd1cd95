//! LVM2's text metadata with the place of everything in it, for changing single values and leaving the rest as it is.

use std::ops::Range;

use crate::engine::error::{Error, Result};
use crate::engine::units::printable;

/// Sections within sections, at most.
const MAX_DEPTH: usize = 8;
/// Values and sections, at most.
const MAX_ITEMS: usize = 1_000_000;

/// A text, taken apart.
pub(super) struct Text<'a> {
    text: &'a str,
    /// Values: the path of names, and where the value is.
    values: Vec<(Vec<&'a str>, Range<usize>)>,
    /// Sections: the path of names, and where each ends.
    sections: Vec<(Vec<&'a str>, usize)>,
}

fn bad(what: &str) -> Error {
    Error::corrupt(format!("LVM2 metadata: {what}")).op("read LVM2 metadata")
}

/// Takes `text` apart.
pub(super) fn scan(text: &str) -> Result<Text<'_>> {
    let mut out = Text { text, values: Vec::new(), sections: Vec::new() };
    let mut path: Vec<&str> = Vec::new();
    let mut at = 0;
    loop {
        at = blank(text, at);
        let rest = text.get(at..).unwrap_or_default();
        if rest.is_empty() {
            return if path.is_empty() { Ok(out) } else { Err(bad("a section does not end")) };
        }
        if rest.starts_with('}') {
            at += 1;
            if path.is_empty() {
                return Err(bad("a section ends that did not begin"));
            }
            out.sections.push((path.clone(), at));
            path.pop();
            continue;
        }
        let len = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_.+-".contains(c))).unwrap_or(rest.len());
        let name = rest.get(..len).filter(|n| !n.is_empty()).ok_or_else(|| bad("a name was expected"))?;
        if out.values.len() + out.sections.len() > MAX_ITEMS {
            return Err(bad("it is too long"));
        }
        at = blank(text, at + len);
        match text.as_bytes().get(at) {
            Some(b'{') if path.len() < MAX_DEPTH => {
                path.push(name);
                at += 1;
            }
            Some(b'=') => {
                let start = blank(text, at + 1);
                at = value(text, start)?;
                out.values.push((path.iter().copied().chain([name]).collect(), start..at));
            }
            _ => return Err(bad("neither a value nor a section")),
        }
    }
}

/// Behind white space and comments.
fn blank(text: &str, mut at: usize) -> usize {
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let trimmed = rest.trim_start();
        at += rest.len() - trimmed.len();
        if !trimmed.starts_with('#') {
            return at;
        }
        at += trimmed.find('\n').unwrap_or(trimmed.len());
    }
}

/// Where the value that begins at `at` ends.
fn value(text: &str, mut at: usize) -> Result<usize> {
    let bytes = text.as_bytes();
    let list = bytes.get(at) == Some(&b'[');
    let (start, mut quoted) = (at, false);
    while let Some(b) = bytes.get(at) {
        match b {
            b'\\' if quoted => at += 1,
            b'"' => {
                quoted = !quoted;
                if !quoted && !list {
                    return Ok(at + 1);
                }
            }
            b'[' if !quoted && at != start => return Err(bad("a list within a list")),
            b']' if !quoted && list => return Ok(at + 1),
            b if !(quoted || list || b.is_ascii_alphanumeric() || b"_.+-".contains(b)) => break,
            _ => {}
        }
        at += 1;
    }
    if quoted || list || at == start { Err(bad("a value was expected")) } else { Ok(at) }
}

impl<'a> Text<'a> {
    /// Names of the sections in the one at `path`.
    pub(super) fn sections(&self, path: &[&str]) -> impl Iterator<Item = &'a str> {
        let n = path.len();
        let inside = |p: &Vec<&'a str>| (p.len() == n + 1 && p.iter().zip(path).all(|(a, b)| a == b)).then(|| p.last().copied());
        self.sections.iter().filter_map(|(p, _)| inside(p)).flatten().collect::<Vec<_>>().into_iter()
    }

    /// The only value at `path`, and where it is.
    fn at(&self, path: &[&str]) -> Option<(&'a str, Range<usize>)> {
        let mut all = self.values.iter().filter(|(p, _)| p.as_slice() == path);
        let (_, range) = all.next()?;
        // Named twice: who knows which of them counts.
        all.next().is_none().then(|| Some((self.text.get(range.clone())?, range.clone())))?
    }

    /// The value at `path` as it stands there, quotes and all.
    pub(super) fn value(&self, path: &[&str]) -> Option<&'a str> {
        self.at(path).map(|(v, _)| v)
    }

    /// The number at `path`, and where it is. Errors: there is none.
    pub(super) fn number(&self, path: &[&str]) -> Result<(u64, Range<usize>)> {
        let found = self.at(path).and_then(|(v, range)| Some((v.parse().ok()?, range)));
        found.ok_or_else(|| bad(&format!("there is no number {}", printable(&path.join("/")))))
    }

    /// The members of the list at `path` as they stand there; none where there is none.
    pub(super) fn list(&self, path: &[&str]) -> Vec<&'a str> {
        let list = self.value(path).and_then(|v| v.strip_prefix('[')?.strip_suffix(']')).unwrap_or_default();
        list.split(',').map(str::trim).filter(|m| !m.is_empty()).collect()
    }

    /// Errors: the list at `path` has other members than exactly those of `known`; an empty one may be missing.
    pub(super) fn only(&self, path: &[&str], known: &[&str]) -> Result<()> {
        let list = self.list(path);
        let same = list.len() == known.len() && list.iter().all(|m| known.contains(&m.trim_matches('"')));
        if same {
            return Ok(());
        }
        let what = format!("{} is [{}]", path.join("/"), list.join(" "));
        Err(Error::unsupported(format!("its volume group is in a state that is not understood: {}", printable(&what))))
    }

    /// Where the section at `path` ends: behind its brace. Errors: there is none, or several.
    pub(super) fn end(&self, path: &[&str]) -> Result<usize> {
        let mut all = self.sections.iter().filter(|(p, _)| p.as_slice() == path);
        match (all.next(), all.next()) {
            (Some((_, end)), None) => Ok(*end),
            _ => Err(bad(&format!("there is no section {}", printable(&path.join("/"))))),
        }
    }
}
