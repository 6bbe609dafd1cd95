//! Amazon kinds: a bare filesystem, a kernel, an initramfs.

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
pub static AMI: FormatEntry = FormatEntry {
    format: Format::Ami,
    name: "ami",
    driver: "raw",
    title: "ami",
    extensions: &["ami"],
    caps: Caps::NONE,
    guide: Guide { what: "", origin: "", used_by: "", choose: "" },
    probe,
    open,
    options: &[],
    create: None,
    open_write: None,
};

/// Its row in the table of formats.
pub static AKI: FormatEntry = FormatEntry {
    format: Format::Aki,
    name: "aki",
    driver: "raw",
    title: "aki",
    extensions: &["aki"],
    caps: Caps::NONE,
    guide: Guide { what: "", origin: "", used_by: "", choose: "" },
    probe,
    open,
    options: &[],
    create: None,
    open_write: None,
};

/// Its row in the table of formats.
pub static ARI: FormatEntry = FormatEntry {
    format: Format::Ari,
    name: "ari",
    driver: "raw",
    title: "ari",
    extensions: &["ari"],
    caps: Caps::NONE,
    guide: Guide { what: "", origin: "", used_by: "", choose: "" },
    probe,
    open,
    options: &[],
    create: None,
    open_write: None,
};
