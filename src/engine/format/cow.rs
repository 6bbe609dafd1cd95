//! User-mode Linux copy-on-write, version 2.

use std::sync::Arc;

use super::probe::{Match, Probe};
use super::{Caps, Format, FormatEntry, Guide, Image, Source};
use crate::engine::error::{Error, Result};

fn probe(_: &Probe<'_>) -> Option<Match> {
    None
}

fn open(source: Source) -> Result<Arc<dyn Image>> {
    Err(Error::unsupported("not read yet").path(source.path))
}

/// Its row in the table of formats.
pub static ENTRY: FormatEntry = FormatEntry {
    format: Format::Cow,
    name: "cow",
    driver: "cow",
    title: "cow",
    extensions: &["cow"],
    caps: Caps::NONE,
    guide: Guide { what: "", origin: "", used_by: "", choose: "" },
    probe,
    open,
    options: &[],
    create: None,
    open_write: None,
};
