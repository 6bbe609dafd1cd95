//! What a sanitising found, did and verified, as plain data: for the report on paper, in JSON and on the workbench's page.

use std::path::PathBuf;

use super::residue::Scanned;
use crate::engine::guest::sanitize::Edit;
use crate::engine::units::printable_bytes;

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its changes are planned, and nothing is written yet.
    Planned,
    /// Its changes are made, and verified.
    Done,
    /// There was nothing to do.
    NothingToDo,
    /// It only tells.
    Reported,
    /// It was not done, for the reason in its notes.
    Refused,
}

impl State {
    /// The words for people.
    pub fn words(self) -> &'static str {
        match self {
            State::Planned => "planned",
            State::Done => "done",
            State::NothingToDo => "nothing to do",
            State::Reported => "reported",
            State::Refused => "refused",
        }
    }
}

/// One change, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Shown {
    /// The guest's file, printable.
    pub path: String,
    /// `empty`, `edit`, `remove`, `remove folder`, `link`.
    pub what: &'static str,
    /// Why.
    pub reason: &'static str,
    /// Bytes it had.
    pub before: u64,
    /// Lines that go (`-`) and come (`+`), of an edited text.
    pub diff: Vec<String>,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Entry {
    /// Its id.
    pub id: &'static str,
    /// What it does, in a line.
    pub title: &'static str,
    /// How it ended.
    pub state: State,
    /// What changes.
    pub changes: Vec<Shown>,
    /// Facts, and what was left alone and why.
    pub notes: Vec<String>,
    /// What to think about.
    pub warnings: Vec<String>,
    /// How it is verified.
    pub verified: &'static str,
}

/// The undo file of a sanitising.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct UndoFile {
    /// Where; `None` when it is done without.
    pub path: Option<PathBuf>,
    /// Bytes.
    pub bytes: u64,
}

/// The whole.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// The image that is sanitised (with `--to`: the one that is made).
    pub image: PathBuf,
    /// Each operation, in the order of the table.
    pub operations: Vec<Entry>,
    /// Volumes that were written, and of each what was checked.
    pub volumes: Vec<String>,
    /// Bytes written to the disk.
    pub written: u64,
    /// Bytes of the disk that read as zeros now and did not before.
    pub zeroed: u64,
    /// Where the old bytes are kept.
    pub undo: Option<UndoFile>,
    /// What holds old data all the same, and what else a person should know.
    pub warnings: Vec<String>,
    /// The byte scan at the end.
    pub scan: Option<Scanned>,
}

impl Report {
    /// Nothing at all changes.
    pub fn is_empty(&self) -> bool {
        self.written == 0 && self.zeroed == 0
    }
    /// Removed data was found where none should be.
    pub fn failed(&self) -> bool {
        self.scan.as_ref().is_some_and(|s| s.found.iter().any(|f| f.is_residue()))
    }
    /// Files changed in all.
    pub fn files(&self) -> usize {
        self.operations.iter().map(|o| o.changes.len()).sum()
    }
}

/// The lines that an edit of a text takes away and adds: what is the same at both ends is left out, and so is the middle that a
/// longest common run keeps. Bounded: a long text is told by its number of lines.
pub(super) fn diff(before: &[u8], after: &[u8]) -> Vec<String> {
    const MOST: usize = 200;
    let lines = |b: &[u8]| -> Vec<Vec<u8>> { b.split_inclusive(|c| *c == b'\n').map(<[u8]>::to_vec).collect() };
    let (old, new) = (lines(before), lines(after));
    let mut out = Vec::new();
    let mut j = 0;
    for line in &old {
        // Edits take lines away far more often than they add any: what is found again further on was kept.
        match new.get(j..).and_then(|rest| rest.iter().position(|n| n == line)) {
            Some(skip) => {
                out.extend(new.get(j..j + skip).into_iter().flatten().map(|n| ('+', n.clone())));
                j += skip + 1;
            }
            None => out.push(('-', line.clone())),
        }
    }
    out.extend(new.get(j..).into_iter().flatten().map(|n| ('+', n.clone())));
    let total = out.len();
    let mut shown: Vec<String> =
        out.into_iter().take(MOST).map(|(sign, l)| format!("{sign}{}", printable_bytes(l.trim_ascii_end()))).collect();
    if total > MOST {
        shown.push(format!("… {} more lines", total - MOST));
    }
    shown
}

/// The word for an edit.
pub(super) fn word(edit: &Edit) -> &'static str {
    match edit {
        Edit::Empty => "empty",
        Edit::Replace(_) => "edit",
        Edit::Remove => "remove",
        Edit::RemoveFolder => "remove folder",
        Edit::Link(_) => "link",
    }
}

#[cfg(test)]
mod tests {
    use super::diff;

    #[test]
    fn shows_what_goes_and_what_comes() {
        assert_eq!(diff(b"a\nHWADDR=1\nb\n", b"a\nb\n"), ["-HWADDR=1"]);
        assert_eq!(diff(b"ENABLED=yes\nx\n", b"ENABLED=no\nx\n"), ["-ENABLED=yes", "+ENABLED=no"]);
        assert_eq!(diff(b"same", b"same"), Vec::<String>::new());
        assert_eq!(diff(b"a\x1b[31m\n", b""), ["-a\\x1b[31m"]);
    }
}
