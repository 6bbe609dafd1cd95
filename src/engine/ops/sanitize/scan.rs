//! The byte scan: is any of what was removed still in the image's bytes?
//!
//! Of each removed content a few places are looked for. Every run of eight bytes of a needle goes into a filter; the image is then
//! probed at a stride that cannot step over a needle, and what passes the filter is compared.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::engine::error::Result;
use crate::engine::io::ReadAt;
use crate::engine::job::JobContext;
use crate::engine::units::printable;

/// Bytes of a needle, at least: shorter ones are found everywhere.
const SHORTEST: usize = 16;
/// Bytes of a needle, at most.
const LONGEST: usize = 48;
/// Bytes of a probe.
const GRAM: usize = 8;
/// Steps that cannot miss a needle.
const STRIDE: usize = SHORTEST - GRAM + 1;
/// Bits of the filter, as a power of two.
const FILTER: u32 = 18;
/// Needles of one file, and in all.
const PER_FILE: usize = 4;
const MOST: usize = 1000;
/// Bytes read at a time.
const PIECE: u64 = 1 << 20;
/// Places told, at most.
const TOLD: usize = 20_000;

/// What is looked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Needles {
    /// Bytes, and the guest's file they are from.
    list: Vec<(Vec<u8>, String)>,
}

/// A needle found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Residue {
    /// The guest's file it is from.
    pub from: String,
    /// Byte in the file that was scanned, of the first.
    pub offset: u64,
    /// How many pieces of it lie there.
    pub count: u64,
    /// Which file was scanned.
    pub file: String,
    /// What lies there: a file that is kept, a snapshot, or nothing that should hold it.
    pub place: String,
    /// It lies where nothing of it should be.
    pub residue: bool,
}

impl Residue {
    /// It lies where nothing of it should be.
    pub fn is_residue(&self) -> bool {
        self.residue
    }
}

/// What a scan found.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Scanned {
    /// Pieces of removed content looked for.
    pub needles: usize,
    /// Bytes looked through.
    pub bytes: u64,
    /// Where some were found.
    pub found: Vec<Residue>,
}

impl Scanned {
    /// Adds a find; those of one file in one place are counted together.
    pub(super) fn add(&mut self, find: Residue) {
        match self.found.iter_mut().find(|f| f.from == find.from && f.place == find.place && f.file == find.file) {
            Some(known) => known.count += 1,
            None => self.found.push(find),
        }
    }
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
            let telling = |l: &&[u8]| l.len() >= SHORTEST && distinct(l) >= 8 && !l.starts_with(b"#") && !l.starts_with(b"-----");
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
            let cut = piece.get(piece.len().saturating_sub(LONGEST)..).unwrap_or_default();
            if cut.len() >= SHORTEST && self.list.len() < MOST && !self.list.iter().any(|(n, _)| n == cut) {
                self.list.push((cut.to_vec(), printable(from).to_string()));
            }
        }
    }

    /// Adds exactly these bytes, when they are enough to be told from chance.
    pub(super) fn add_exact(&mut self, piece: &[u8], from: &str) {
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

    /// Looks through what `dev` stores in `start..end` of it. Holes are passed over. Answers: bytes read, and (offset, file) of each
    /// needle found.
    pub(super) fn scan(&self, dev: &dyn ReadAt, ranges: &[(u64, u64)], job: &JobContext) -> Result<(u64, Vec<(u64, String)>)> {
        let index = Index::new(&self.list);
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        for (start, end) in ranges {
            let mut at = *start;
            while at < *end {
                let range = dev.host_range(at, end - at)?;
                let stop = at + range.len.clamp(1, end - at);
                if !range.hole {
                    let mut from = at;
                    while from < stop {
                        pieces.push((from, (from + PIECE).min(stop)));
                        from += PIECE;
                    }
                }
                at = stop;
            }
        }
        let (next, bytes, found) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(Vec::new()));
        let work = || -> Result<()> {
            let mut buf = Vec::new();
            while let Some((from, to)) = pieces.get(next.fetch_add(1, Relaxed) as usize) {
                job.checkpoint()?;
                // Into the next piece, as far as a needle that begins in this one may reach.
                let until = (to + LONGEST as u64).min(dev.len());
                buf.resize((until - from) as usize, 0);
                dev.read_at(*from, &mut buf)?;
                bytes.fetch_add(to - from, Relaxed);
                let mut hits = Vec::new();
                index.search(&buf, |at, n| {
                    if let Some((_, from_file)) = self.list.get(n)
                        && from + (at as u64) < *to
                    {
                        hits.push((from + at as u64, from_file.clone()));
                    }
                });
                if !hits.is_empty() {
                    let mut all = found.lock().unwrap_or_else(PoisonError::into_inner);
                    let room = TOLD.saturating_sub(all.len());
                    all.extend(hits.into_iter().take(room));
                }
            }
            Ok(())
        };
        let threads = std::thread::available_parallelism().map_or(2, usize::from).min(8);
        std::thread::scope(|s| {
            let others: Vec<_> = (1..threads).map(|_| s.spawn(work)).collect();
            let mut done = work();
            for t in others {
                let other = t.join().unwrap_or_else(|_| {
                    Err(crate::engine::error::Error::new(crate::engine::error::ErrorKind::Internal, "a scanning thread gave up"))
                });
                done = done.and(other);
            }
            done
        })?;
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort();
        found.dedup();
        Ok((bytes.into_inner(), found))
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

/// Needles by every eight bytes of their first [`SHORTEST`].
struct Index<'a> {
    needles: &'a [(Vec<u8>, String)],
    filter: Vec<u64>,
    grams: HashMap<u64, Vec<(usize, usize)>>,
}

fn bit(gram: u64) -> usize {
    (gram.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - FILTER)) as usize
}

fn gram(buf: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(buf.get(at..at + GRAM)?.try_into().ok()?))
}

impl<'a> Index<'a> {
    fn new(needles: &'a [(Vec<u8>, String)]) -> Self {
        let mut filter = vec![0u64; 1 << (FILTER - 6)];
        let mut grams: HashMap<u64, Vec<(usize, usize)>> = HashMap::new();
        for (n, (needle, _)) in needles.iter().enumerate() {
            for at in 0..STRIDE {
                let Some(g) = gram(needle, at) else { continue };
                let b = bit(g);
                if let Some(word) = filter.get_mut(b / 64) {
                    *word |= 1 << (b % 64);
                }
                grams.entry(g).or_default().push((n, at));
            }
        }
        Index { needles, filter, grams }
    }

    fn search(&self, buf: &[u8], mut hit: impl FnMut(usize, usize)) {
        if self.needles.is_empty() {
            return;
        }
        let mut at = 0;
        while let Some(g) = gram(buf, at) {
            let b = bit(g);
            if self.filter.get(b / 64).is_some_and(|w| w & (1 << (b % 64)) != 0) {
                for (n, within) in self.grams.get(&g).into_iter().flatten() {
                    let start = at.wrapping_sub(*within);
                    if let Some((needle, _)) = self.needles.get(*n)
                        && buf.get(start..start.wrapping_add(needle.len())) == Some(needle)
                    {
                        hit(start, *n);
                    }
                }
            }
            at += STRIDE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::io::memory::Memory;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_needle_is_stepped_over(at in 0usize..5000, seed in 1u64..1000, len in 16usize..60) {
            let mut x = seed;
            let mut random = |n: usize| (0..n).map(|_| { x ^= x << 13; x ^= x >> 7; x ^= x << 17; x as u8 }).collect::<Vec<u8>>();
            let mut disk = random(6000);
            let needle = random(len);
            let mut needles = Needles::default();
            needles.add_exact(&needle, "/f");
            let n = needles.len();
            disk[at..at + len].copy_from_slice(&needle);
            let dev = Memory::new(disk);
            let (_, found) = needles.scan(&dev, &[(0, 6000)], &JobContext::detached()).unwrap();
            prop_assert_eq!(found.len(), n);
            prop_assert!(n == 0 || found[0].0 == at as u64);
        }
    }

    #[test]
    fn needles_across_pieces_are_found_once() {
        let mut disk = vec![0u8; 3 << 20];
        let secret = b"a secret that lies on the border";
        let at = (1 << 20) - 10;
        disk[at..at + secret.len()].copy_from_slice(secret);
        let mut needles = Needles::default();
        needles.add(&[b"x\n".as_slice(), secret, b"\n"].concat(), "/etc/s");
        let dev = Memory::new(disk);
        let (bytes, found) = needles.scan(&dev, &[(0, 3 << 20)], &JobContext::detached()).unwrap();
        assert_eq!((bytes, found), (3 << 20, vec![(at as u64, "/etc/s".to_string())]));
    }
}
