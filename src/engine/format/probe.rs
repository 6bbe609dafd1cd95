//! Probing: looks at everything a file may be and reports every match with its evidence. Never believes an extension.

use std::path::Path;

use super::{FORMATS, Format};
use crate::engine::error::Result;
use crate::engine::io::{ReadAt, read_up_to};
use crate::engine::limits::PROBE_HEAD;
use crate::engine::units::printable;

/// What a format's probe may look at.
pub struct Probe<'a> {
    /// The first bytes of the file (up to [`PROBE_HEAD`]).
    pub head: &'a [u8],
    /// The last bytes of the file (up to 4 KiB; all of a smaller file).
    pub tail: &'a [u8],
    /// Length of the file in bytes.
    pub len: u64,
    /// The file, for the few that must look elsewhere. Reads must stay few and small.
    pub dev: &'a dyn ReadAt,
}

/// One thing a file may be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Match {
    /// As what.
    pub format: Format,
    /// Why: what was seen, and where.
    pub evidence: String,
    /// How sure.
    pub confidence: Confidence,
}

/// How much a match is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// Always possible: any bytes are a raw disk.
    Possible,
    /// Content that this kind has, and others may have too (a bare filesystem, a gzip stream).
    Likely,
    /// A signature in its place.
    Certain,
}

impl Match {
    /// A match with a signature.
    pub fn certain(format: Format, evidence: impl Into<String>) -> Option<Self> {
        Some(Match { format, evidence: evidence.into(), confidence: Confidence::Certain })
    }
    /// A match by content alone.
    pub fn likely(format: Format, evidence: impl Into<String>) -> Option<Self> {
        Some(Match { format, evidence: evidence.into(), confidence: Confidence::Likely })
    }
}

/// Everything `dev` may be, surest first; raw is always among them and, where nothing else matches, alone.
pub fn probe(dev: &dyn ReadAt) -> Result<Vec<Match>> {
    let head = read_up_to(dev, 0, PROBE_HEAD)?;
    let len = dev.len();
    let tail = if len <= head.len() as u64 {
        head.get(head.len().saturating_sub(4096)..).unwrap_or_default().to_vec()
    } else {
        read_up_to(dev, len.saturating_sub(4096), 4096)?
    };
    let p = Probe { head: &head, tail: &tail, len, dev };
    let mut found: Vec<Match> = FORMATS.iter().filter_map(|e| (e.probe)(&p)).collect();
    found.sort_by_key(|m| std::cmp::Reverse(m.confidence));
    Ok(found)
}

/// What a person should know before believing the best of `matches` for the file at `path`: other signatures in it, and a name
/// that says something else.
pub fn warnings(path: &Path, matches: &[Match]) -> Vec<String> {
    let format = best(matches);
    let mut out = Vec::new();
    let sure = matches.iter().skip(1).filter(|m| m.confidence == Confidence::Certain);
    let others: Vec<_> = sure.map(|m| format!("{} ({})", m.format, m.evidence)).collect();
    if !others.is_empty() {
        out.push(format!(
            "its content is that of {format}, and also of {}; if it is not a {format} image, say so with -f",
            others.join(" and of ")
        ));
    }
    out.extend(extension_warning(path, format));
    out
}

/// A warning when the extension of `path` is another format's than `format`, which its content shows.
///
/// Kinds that are read as raw bytes do not contradict each other (an `.img` may be a disc, a kernel or a bare filesystem).
pub fn extension_warning(path: &Path, format: Format) -> Option<String> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    let named: Vec<Format> = FORMATS.iter().filter(|e| e.extensions.contains(&extension.as_str())).map(|e| e.format).collect();
    let first = *named.first()?;
    let bytes = |f: Format| f.driver() == Format::Raw.driver();
    if named.contains(&format) || named.iter().any(|n| bytes(*n)) && (bytes(format) || format == Format::Luks) {
        return None;
    }
    let name = printable(&extension);
    if first == Format::Raw {
        return Some(format!(
            "its name (.{name}) says raw, its content says {format}: if it is a raw disk whose guest wrote that header, open it with -f raw"
        ));
    }
    // A flat extent of a VMDK is raw bytes under that extension.
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    if first == Format::Vmdk && bytes(format) && is_extent(stem) {
        return None;
    }
    Some(format!("its name (.{name}) says {first}, its content says {format}; the content is believed"))
}

/// `disk-flat`, `disk-f001`, `disk-rdm`, …: how VMware names the extents that hold no header.
fn is_extent(stem: &str) -> bool {
    let Some((_, last)) = stem.rsplit_once('-') else { return false };
    let numbered = last.strip_prefix('f').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    numbered || matches!(last, "flat" | "rdm" | "rdmp" | "delta")
}

/// The match to believe when nobody says otherwise: the surest.
pub fn best(matches: &[Match]) -> Format {
    matches.first().map_or(Format::Raw, |m| m.format)
}
