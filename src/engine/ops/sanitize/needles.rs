//! What a scan looks for: of each removed content a few places.

use std::collections::HashSet;

use crate::engine::units::printable;

/// Bytes of a needle, at least: shorter ones are found everywhere.
const SHORTEST: usize = 16;
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
    /// Adds places of removed `content`, which was in the guest's file `from`. Lines that it has in common with `kept` stay in the guest.
    pub(super) fn add(&mut self, content: &[u8], kept: &[u8], from: &str) {
        let mut taken: Vec<&[u8]> = Vec::new();
        let text =
            content.iter().take(4096).all(|b| *b == b'\t' || *b == b'\n' || *b == b'\r' || (0x20..0x7f).contains(b) || *b > 0x7f);
        if text {
            // The most telling lines: those with the most different bytes, from the beginning, the middle and the end.
            // Comments and the marks around a key are the same everywhere.
            let telling = |l: &&[u8]| l.len() >= SHORTEST && distinct(l) >= 8 && !l.starts_with(b"#") && !l.starts_with(b"-----");
            let kept: HashSet<&[u8]> = kept.split(|b| *b == b'\n').collect();
            let lines: Vec<&[u8]> = content.split(|b| *b == b'\n').filter(|l| telling(l) && !kept.contains(l)).collect();
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
            let piece = bare(piece);
            let cut = piece.get(piece.len().saturating_sub(LONGEST)..).unwrap_or_default();
            if cut.len() >= SHORTEST && self.list.len() < MOST && !self.list.iter().any(|(n, _)| n == cut) {
                self.list.push((cut.to_vec(), printable(from).to_string()));
            }
        }
    }

    /// Adds exactly these bytes but for blanks around them, when they are enough to be told from chance.
    pub(super) fn add_exact(&mut self, piece: &[u8], from: &str) {
        let piece = bare(piece);
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

/// `piece` without the blanks around it, which are everywhere, as far as it does not become too short to be looked for.
fn bare(piece: &[u8]) -> &[u8] {
    let lead = piece.len() - piece.trim_ascii_start().len();
    let end = piece.trim_ascii_end().len().max(SHORTEST).min(piece.len());
    piece.get(lead.min(end.saturating_sub(SHORTEST))..end).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_go_and_what_is_short_without_them_is_looked_for_all_the_same() {
        let mut needles = Needles::default();
        needles.add_exact(b"        macaddress: 52:54:00:12:34:56  ", "/a");
        needles.add_exact(b"      set-name: eth0", "/a");
        needles.add_exact(b"token: abc       ", "/a");
        needles.add_exact(b"  set-name: eth", "/a");
        needles.add(b"        key: 0123456\n", b"", "/b");
        let found: Vec<&[u8]> = needles.list.iter().map(|(n, _)| n.as_slice()).collect();
        let want: [&[u8]; 4] = [b"macaddress: 52:54:00:12:34:56", b"  set-name: eth0", b"token: abc      ", b"    key: 0123456"];
        assert_eq!(found, want);
    }
    #[test]
    fn lines_that_stay_in_the_guest_are_not_looked_for() {
        let mut needles = Needles::default();
        needles.add(
            b"root:$6$an-old-hash:19000:0\nalice:$6$her-hash:19000:0\n",
            b"alice:$6$her-hash:19000:0\nroot:$6$new\n",
            "/etc/shadow-",
        );
        let found: Vec<&[u8]> = needles.list.iter().map(|(n, _)| n.as_slice()).collect();
        assert_eq!(found, [b"root:$6$an-old-hash:19000:0"]);
    }
}
