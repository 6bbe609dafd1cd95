//! `cowshed formats`: the engine's table of formats, for people and for programs.

use serde_json::{Value, json};

use super::out::{Format, Out, Tone};
use super::{Failure, Verb};
use crate::engine::format::{Caps, FORMATS};

/// Show every format: what it is for and what cowshed can do with it
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cowshed formats\n  \
    cowshed formats qcow2\n  \
    cowshed formats --output json")]
pub(super) struct Args {
    /// For people, or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Human)]
    output: Format,

    /// Tell all about these only
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// The columns of the table: heading, JSON key, and how to read it off a row.
type Column = (&'static str, &'static str, fn(&Caps) -> bool);
const COLUMNS: &[Column] = &[
    ("read", "read", |c| c.read),
    ("write", "write", |c| c.write),
    ("create", "create", |c| c.create),
    ("snapshots", "snapshots", |c| c.snapshots),
    ("backing", "backing", |c| c.backing),
    ("compress", "compression", |c| c.compression),
    ("encrypt", "encryption", |c| c.encryption),
    ("sparse", "sparse", |c| c.sparse),
    ("resize", "resize", |c| c.resize),
    ("check", "check", |c| c.check),
    ("repair", "repair", |c| c.repair),
];

impl Verb for Args {
    fn run(self, out: &mut Out) -> Result<u8, Failure> {
        let mut entries = FORMATS.to_vec();
        if !self.names.is_empty() {
            entries = self
                .names
                .iter()
                .map(|n| crate::engine::format::Format::parse(n).map(|f| f.entry()))
                .collect::<Result<_, _>>()?;
        }
        if self.output == Format::Json {
            let rows: Vec<Value> = entries
                .iter()
                .map(|e| {
                    let mut row = json!({ "name": e.name, "driver": e.driver, "title": e.title, "extensions": e.extensions });
                    for (_, key, has) in COLUMNS {
                        row[*key] = json!(has(&e.caps));
                    }
                    row["what"] = json!(e.guide.what);
                    row["origin"] = json!(e.guide.origin);
                    row["used-by"] = json!(e.guide.used_by);
                    row["choose"] = json!(e.guide.choose);
                    row["options"] = e.options.iter().map(|o| json!({ "name": o.name, "doc": o.doc, "default": o.default })).collect();
                    row
                })
                .collect();
            out.json(&rows)?;
            return Ok(0);
        }
        if self.names.is_empty() {
            let heading: Vec<_> = ["format"].into_iter().chain(COLUMNS.iter().map(|c| c.0)).chain(["what it is"]).collect();
            let rows: Vec<Vec<String>> = entries
                .iter()
                .map(|e| {
                    let marks = COLUMNS.iter().map(|c| if c.2(&e.caps) { "yes" } else { "-" }.to_string());
                    [e.name.to_string()].into_iter().chain(marks).chain([e.title.to_string()]).collect()
                })
                .collect();
            out.table(&heading, &rows, &[])?;
            return Ok(0);
        }
        for (i, e) in entries.iter().enumerate() {
            if i > 0 {
                out.line("")?;
            }
            let can: Vec<_> = COLUMNS.iter().filter(|c| c.2(&e.caps)).map(|c| c.1).collect();
            out.line(out.paint(Tone::Title, format!("{} ({})", e.name, e.title)))?;
            for (label, text) in [
                ("what", e.guide.what.to_string()),
                ("origin", e.guide.origin.to_string()),
                ("used by", e.guide.used_by.to_string()),
                ("choose it", e.guide.choose.to_string()),
                ("extensions", e.extensions.join(", ")),
                ("qemu driver", e.driver.to_string()),
                ("can", can.join(", ")),
            ] {
                out.line(format!("  {} {text}", out.paint(Tone::Label, format!("{label}:"))))?;
            }
            for o in e.options {
                let default = if o.default.is_empty() { String::new() } else { format!(" (default {})", o.default) };
                out.line(format!("  -o {}: {}{default}", o.name, o.doc))?;
            }
        }
        Ok(0)
    }
}
