//! A field of a form: what is asked, what was answered, and whether the answer is one.

use std::path::{Path, PathBuf};

use crate::app::input::Input;
use crate::engine::error::{Error, Result};
use crate::engine::units::parse_size;

/// What a field takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A plain number.
    Number,
    /// A size as people write it; `signed` also takes `+10G` and `-1G`.
    Size {
        /// A sign says by how much.
        signed: bool,
    },
    /// A file; a relative path begins at `beside`.
    Path {
        /// Folder that relative paths begin at.
        beside: PathBuf,
        /// What is looked at on the disk.
        role: Role,
    },
    /// One of these words.
    Choice(Vec<String>),
    /// `on` or `off`.
    Switch,
}

/// What a path is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It is to be made; none of these files may be it.
    New(Vec<PathBuf>),
    /// It is there.
    Existing,
    /// A file or folder is to be made, and nothing may be there.
    Free,
}

/// How an answer looks after a look at the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// How grave: with an error the form cannot go on.
    pub level: crate::app::message::Level,
    /// In a line.
    pub text: String,
}

/// One field.
#[derive(Debug, Clone)]
pub struct Field {
    /// Names it within its form.
    pub id: &'static str,
    /// What stands before it.
    pub label: String,
    /// What it means, in a line.
    pub doc: String,
    /// A heading before it.
    pub section: Option<String>,
    /// What it takes.
    pub kind: Kind,
    /// What no answer means; empty when there is nothing of the sort.
    pub default: String,
    /// Without an answer the form cannot go on.
    pub required: bool,
    /// The answer. Of a choice and a switch it is the word.
    pub input: Input,
    /// A person answered; else the form may propose something better.
    pub touched: bool,
    /// Why the answer is none.
    pub error: Option<String>,
    /// What the disk says to it.
    pub remark: Option<Remark>,
    /// A few words right behind a switch: what it comes to here.
    pub note: String,
}

impl Field {
    fn new(id: &'static str, label: impl Into<String>, doc: impl Into<String>, kind: Kind) -> Self {
        Field {
            id,
            label: label.into(),
            doc: doc.into(),
            section: None,
            kind,
            default: String::new(),
            required: false,
            input: Input::default(),
            touched: false,
            error: None,
            remark: None,
            note: String::new(),
        }
    }
    /// A field for any text.
    pub fn text(id: &'static str, label: impl Into<String>, doc: impl Into<String>) -> Self {
        Field::new(id, label, doc, Kind::Text)
    }
    /// A field for a number.
    pub fn number(id: &'static str, label: impl Into<String>, doc: impl Into<String>) -> Self {
        Field::new(id, label, doc, Kind::Number)
    }
    /// A field for a size.
    pub fn size(id: &'static str, label: impl Into<String>, doc: impl Into<String>) -> Self {
        Field::new(id, label, doc, Kind::Size { signed: false })
    }
    /// A field for a size or a change of one.
    pub fn change(id: &'static str, label: impl Into<String>, doc: impl Into<String>) -> Self {
        Field::new(id, label, doc, Kind::Size { signed: true })
    }
    /// A field for a file, relative to `beside`.
    pub fn path(id: &'static str, label: impl Into<String>, doc: impl Into<String>, beside: &Path, role: Role) -> Self {
        Field::new(id, label, doc, Kind::Path { beside: beside.to_path_buf(), role })
    }
    /// One word of several; the first is the default unless [`Field::default`] says otherwise.
    pub fn choice(id: &'static str, label: impl Into<String>, doc: impl Into<String>, words: Vec<String>) -> Self {
        let first = words.first().cloned().unwrap_or_default();
        Field::new(id, label, doc, Kind::Choice(words)).default(first)
    }
    /// On or off.
    pub fn switch(id: &'static str, label: impl Into<String>, doc: impl Into<String>, on: bool) -> Self {
        Field::new(id, label, doc, Kind::Switch).default(if on { "on" } else { "off" })
    }
    /// Says what no answer means.
    pub fn default(mut self, value: impl Into<String>) -> Self {
        self.default = value.into();
        if !self.typed() {
            self.input = Input::new(self.default.clone());
        }
        self
    }
    /// Proposes an answer.
    pub fn propose(mut self, value: impl Into<String>) -> Self {
        // A name is mostly another one altogether, a path another at its end.
        self.input = if self.kind == Kind::Text { Input::selected(value) } else { Input::new(value) };
        self
    }
    /// It must be answered.
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }
    /// Puts a heading before it.
    pub fn under(mut self, section: impl Into<String>) -> Self {
        self.section = Some(section.into());
        self
    }

    /// Puts a few words right behind a switch.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Letters are typed into it.
    pub fn typed(&self) -> bool {
        !matches!(self.kind, Kind::Choice(_) | Kind::Switch)
    }
    /// What counts: the answer, else the default.
    pub fn value(&self) -> &str {
        let text = self.input.text().trim();
        if text.is_empty() { &self.default } else { text }
    }
    /// The words it can be turned through.
    pub fn words(&self) -> Vec<&str> {
        match &self.kind {
            Kind::Choice(words) => words.iter().map(String::as_str).collect(),
            Kind::Switch => vec!["off", "on"],
            _ => Vec::new(),
        }
    }
    /// Turns to another word, round.
    pub(super) fn turn(&mut self, by: isize) {
        let words = self.words();
        let at = words.iter().position(|w| *w == self.input.text()).unwrap_or(0) as isize;
        let next = (at + by).rem_euclid(words.len().max(1) as isize) as usize;
        self.pick(next);
    }
    /// Takes word number `n`.
    pub(super) fn pick(&mut self, n: usize) {
        if let Some(word) = self.words().get(n).map(ToString::to_string) {
            self.input = Input::new(word);
            self.touched = true;
        }
    }

    /// Why the answer is none, as far as the kind tells.
    pub(super) fn wrong(&self) -> Option<String> {
        let text = self.value();
        if text.is_empty() {
            return self.required.then(|| "this is needed".to_string());
        }
        let why = |e: Error| e.why().to_string();
        match &self.kind {
            Kind::Number => text.parse::<u64>().err().map(|_| "this takes a number".to_string()),
            Kind::Size { signed } => {
                let bare = if *signed { text.trim_start_matches(['+', '-']) } else { text };
                parse_size(bare).err().map(why)
            }
            Kind::Choice(words) => (!words.iter().any(|w| w == text)).then(|| format!("one of {}", words.join(", "))),
            _ => None,
        }
    }
}

/// The answers of a form, by the names of its fields. Fields that are not there answer nothing.
#[derive(Debug, Clone, Copy)]
pub struct Answers<'a>(pub &'a [Field]);

impl<'a> Answers<'a> {
    /// The field called `id`.
    pub fn field(&self, id: &str) -> Option<&'a Field> {
        self.0.iter().find(|f| f.id == id)
    }
    /// The answer, else the default, else nothing.
    pub fn text(&self, id: &str) -> &'a str {
        self.field(id).map_or("", Field::value)
    }
    /// The answer when it is one and not the default: what has to be said on a command line.
    pub fn given(&self, id: &str) -> Option<&'a str> {
        self.field(id).filter(|f| f.value() != f.default).map(Field::value).filter(|v| !v.is_empty())
    }
    /// The same as a size in bytes.
    ///
    /// Errors: it is none.
    pub fn size(&self, id: &str) -> Result<Option<u64>> {
        self.given(id).map(parse_size).transpose()
    }
    /// A switch that is on.
    pub fn on(&self, id: &str) -> bool {
        self.text(id) == "on"
    }
    /// The file meant, from the root on; `None` without an answer.
    pub fn path(&self, id: &str) -> Option<PathBuf> {
        let field = self.field(id)?;
        match &field.kind {
            Kind::Path { beside, .. } if !field.value().is_empty() => Some(beside.join(field.value())),
            _ => None,
        }
    }
}
