//! Probing: looks at everything a file may be and reports every match with its evidence. Never believes an extension.

use super::{FORMATS, Format};
use crate::engine::error::Result;
use crate::engine::io::{ReadAt, read_up_to};
use crate::engine::limits::PROBE_HEAD;

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
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Match {
    /// As what.
    pub format: Format,
    /// Why: what was seen, and where.
    pub evidence: String,
    /// How sure.
    pub confidence: Confidence,
}

/// How much a match is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
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

/// The match to believe when nobody says otherwise: the surest.
pub fn best(matches: &[Match]) -> Format {
    matches.first().map_or(Format::Raw, |m| m.format)
}
