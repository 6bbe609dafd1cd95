//! Formats recognised by name only.

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
pub static QED: FormatEntry = FormatEntry {
    format: Format::Qed,
    name: "qed",
    driver: "qed",
    title: "qed",
    extensions: &["qed"],
    caps: Caps::NONE,
    guide: Guide { what: "", origin: "", used_by: "", choose: "" },
    probe,
    open,
    options: &[],
    create: None,
    open_write: None,
};

/// Its row in the table of formats.
pub static PARALLELS: FormatEntry = FormatEntry {
    format: Format::Parallels,
    name: "parallels",
    driver: "parallels",
    title: "parallels",
    extensions: &["parallels"],
    caps: Caps::NONE,
    guide: Guide { what: "", origin: "", used_by: "", choose: "" },
    probe,
    open,
    options: &[],
    create: None,
    open_write: None,
};

/// Its row in the table of formats.
pub static BOCHS: FormatEntry = FormatEntry {
    format: Format::Bochs,
    name: "bochs",
    driver: "bochs",
    title: "bochs",
    extensions: &["bochs"],
    caps: Caps::NONE,
    guide: Guide { what: "", origin: "", used_by: "", choose: "" },
    probe,
    open,
    options: &[],
    create: None,
    open_write: None,
};

/// Its row in the table of formats.
pub static CLOOP: FormatEntry = FormatEntry {
    format: Format::Cloop,
    name: "cloop",
    driver: "cloop",
    title: "cloop",
    extensions: &["cloop"],
    caps: Caps::NONE,
    guide: Guide { what: "", origin: "", used_by: "", choose: "" },
    probe,
    open,
    options: &[],
    create: None,
    open_write: None,
};

/// Its row in the table of formats.
pub static DMG: FormatEntry = FormatEntry {
    format: Format::Dmg,
    name: "dmg",
    driver: "dmg",
    title: "dmg",
    extensions: &["dmg"],
    caps: Caps::NONE,
    guide: Guide { what: "", origin: "", used_by: "", choose: "" },
    probe,
    open,
    options: &[],
    create: None,
    open_write: None,
};
