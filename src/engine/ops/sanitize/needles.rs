//! What a scan looks for: of each removed content a few places.

use crate::engine::units::printable;

/// Bytes of a needle, at least: shorter ones are found everywhere.
pub(super) const SHORTEST: usize = 16;
/// Bytes of a needle, at most.
pub(super) const LONGEST: usize = 48;
/// Needles of one file, and in all.
const PER_FILE: usize = 4;
const MOST: usize = 1000;

/// What is looked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Needles {
    /// Bytes, and the guest's file they are from.
    pub(super) list: Vec<(Vec<u8>, String)>,
}

impl Needles {
    /// Adds places of removed `content`, which was in the guest's file `from`.
    pub(super) fn add(&mut self, content: &[u8], from: &str) {
        let mut taken: Vec<&[u8]> = Vec::new();
        let text =
            content.iter().take(4096).all(|b| *b == b'\t' || *b == b'\n' || *b == b'\r' || (0x20..0x7f).contains(b) || *b > 0x7f);
        if text {
            // The most telling lines: those with the most different bytes, from the beginning, the middle and the end.
            // Comments and the marks around a key are the same everywhere.
            let telling = |l: &&[u8]| {
                l.trim_ascii().len() >= SHORTEST && distinct(l) >= 8 && !l.starts_with(b"#") && !l.starts_with(b"-----")
            };
            let lines: Vec<&[u8]> = content.split(|b| *b == b'\n').filter(telling).collect();
            for part in [0, lines.len() / 2, lines.len().saturating_sub(1)] {
                let near = lines.get(part..(part + 40).min(lines.len())).unwrap_or_default();
                taken.extend(near.iter().max_by_key(|l| distinct(l)).copied());
            }
            // A key, a token: one long word.
            taken.extend(lines.iter().max_by_key(|l| l.split(|b| *b == b' ').map(<[u8]>::len).max().unwrap_or(0)).copied());
        } else {
            for part in [64, content.len() / 2, content.len().saturating_sub(LONGEST)] {
                taken.extend(
                    content.get(part..part + LONGEST.min(content.len().saturating_sub(part))).filter(|c| distinct(c) >= 12),
                );
            }
        }
        for piece in taken.into_iter().take(PER_FILE) {
            // The end of a line tells more than its beginning, which is a date or a key that many have.
            let piece = piece.trim_ascii();
            let cut = piece.get(piece.len().saturating_sub(LONGEST)..).unwrap_or_default();
            if cut.len() >= SHORTEST && self.list.len() < MOST && !self.list.iter().any(|(n, _)| n == cut) {
                self.list.push((cut.to_vec(), printable(from).to_string()));
            }
        }
    }

    /// Adds exactly these bytes but for the blanks around them, when they are enough to be told from chance.
    pub(super) fn add_exact(&mut self, piece: &[u8], from: &str) {
        let piece = piece.trim_ascii();
        if piece.len() >= SHORTEST && distinct(piece) >= 6 && self.list.len() < MOST {
            self.list.push((piece.get(..LONGEST.min(piece.len())).unwrap_or_default().to_vec(), printable(from).to_string()));
        }
    }

    /// The needles from the guest's file `from`.
    pub(super) fn bytes_of(&self, from: &str) -> Vec<&[u8]> {
        self.list.iter().filter(|(_, f)| f == from).map(|(n, _)| n.as_slice()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }
}

/// Different bytes in `b`.
fn distinct(b: &[u8]) -> usize {
    let mut seen = [false; 256];
    for x in b.iter().take(256) {
        if let Some(s) = seen.get_mut(usize::from(*x)) {
            *s = true;
        }
    }
    seen.iter().filter(|s| **s).count()
}
