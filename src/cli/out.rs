//! Standard output for the verbs: buffered, never through a macro that panics when the reader goes away; JSON laid out as
//! `qemu-img` lays it out; colours only where a person looks.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use clap::ValueEnum;
use serde::Serialize;

/// When to use colours: `auto` is on a terminal, unless NO_COLOR is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ColorWhen {
    Auto,
    Always,
    Never,
}

/// Human or machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Human,
    Json,
}

/// What a piece of text means; the colour follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// The name of a field.
    Label,
    /// A heading.
    Title,
    /// Look at this.
    Warning,
    /// This is wrong.
    Bad,
}

/// Where verbs write.
pub(super) struct Out {
    writer: BufWriter<StdoutLock<'static>>,
    color: bool,
    /// `-q` was given.
    pub(super) quiet: bool,
}

impl Out {
    pub(super) fn new(when: ColorWhen, quiet: bool) -> Self {
        let color = match when {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        };
        Out { writer: BufWriter::with_capacity(1 << 16, io::stdout().lock()), color, quiet }
    }

    /// `text` in the colour of `tone`.
    pub(super) fn paint(&self, tone: Tone, text: impl Display) -> String {
        if !self.color {
            return text.to_string();
        }
        let code = match tone {
            Tone::Label => "2",
            Tone::Title => "1",
            Tone::Warning => "33",
            Tone::Bad => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// One line.
    pub(super) fn line(&mut self, text: impl Display) -> io::Result<()> {
        writeln!(self.writer, "{text}")
    }

    /// A value as JSON with four spaces of indentation, as qemu-img prints it.
    pub(super) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let layout = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut json = serde_json::Serializer::with_formatter(&mut self.writer, layout);
        value.serialize(&mut json)?;
        writeln!(self.writer)
    }

    /// Rows under a heading, each column as wide as its widest cell. Columns in `right` (counted from 0) are aligned to the right.
    pub(super) fn table(&mut self, heading: &[&str], rows: &[Vec<String>], right: &[usize]) -> io::Result<()> {
        let mut widths: Vec<usize> = heading.iter().map(|h| cells(h)).collect();
        for row in rows {
            for (w, cell) in widths.iter_mut().zip(row) {
                *w = (*w).max(cells(cell));
            }
        }
        let mut line = String::new();
        let mut lay = |row: &mut dyn Iterator<Item = &str>| {
            line.clear();
            for (i, (cell, width)) in row.zip(&widths).enumerate() {
                let gap = std::iter::repeat_n(' ', width.saturating_sub(cells(cell)));
                if right.contains(&i) {
                    line.extend(gap);
                    line.push_str(cell);
                } else {
                    line.push_str(cell);
                    line.extend(gap);
                }
                line.push_str("  ");
            }
            line.truncate(line.trim_end_matches(' ').len());
            line.clone()
        };
        let head = lay(&mut heading.iter().copied());
        self.line(self.paint(Tone::Label, head))?;
        for row in rows {
            self.line(lay(&mut row.iter().map(String::as_str)))?;
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Bytes in bulk, written by hand where speed counts.
impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Columns that `text` takes in a terminal. Escape sequences of [`Out::paint`] are not counted right, so only last columns are painted.
fn cells(text: &str) -> usize {
    // Most names are plain, and then bytes are columns; control bytes are escaped before they come here.
    if text.is_ascii() { text.len() } else { unicode_width::UnicodeWidthStr::width(text) }
}

/// A size for people: `2 MiB`.
pub(super) fn size(bytes: u64) -> String {
    humansize::format_size(bytes, humansize::BINARY)
}
