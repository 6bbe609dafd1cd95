//! The byte scan: is any of what was removed still in the image's bytes? Of each removed content a few places are looked for.
//!
//! It begins while the change is still being planned, as little of the image is written ([`Scanning`]); where it was written it is
//! scanned again ([`Early`]).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::search::Index;
use crate::engine::spans::Set;

use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::io::file::FileId;
use crate::engine::io::watched::Written;
use crate::engine::io::{Device, ReadAt, sys};
use crate::engine::job::JobContext;
use crate::engine::units::printable;

/// Bytes of a needle, at least: shorter ones are found everywhere.
pub(super) const SHORTEST: usize = 16;
/// Bytes of a needle, at most.
const LONGEST: usize = 48;
/// Needles of one file, and in all.
const PER_FILE: usize = 4;
const MOST: usize = 1000;
/// Bytes read at a time: they stay in the processor's own memory until they are looked through.
const PIECE: u64 = 256 << 10;
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

    /// Looks through what `dev` stores of `ranges` (start to end), with every processor there is. Holes are passed over.
    pub(super) fn scan(&self, dev: &dyn ReadAt, ranges: &[(u64, u64)], job: &JobContext) -> Result<Hits> {
        let (pass, never) = (Pass::of(self, dev, ranges)?, AtomicBool::new(false));
        let work = || pass.work(dev, job, &never);
        let threads = processors().min(pass.pieces.len());
        std::thread::scope(|s| {
            let others: Vec<_> = (1..threads).map(|_| s.spawn(work)).collect();
            let mut done = work();
            for t in others {
                done = done.and(t.join().unwrap_or_else(|_| Err(gave_up())));
            }
            done
        })?;
        Ok(pass.hits(self))
    }
}

/// One pass over ranges of a file, by as many threads as have time for it.
struct Pass {
    index: Index,
    /// Start and end of what is read at a time.
    pieces: Vec<(u64, u64)>,
    /// The next piece to be read.
    next: AtomicU64,
    /// Bytes looked through.
    bytes: AtomicU64,
    /// Where needles begin, and which.
    found: Mutex<Vec<(u64, usize)>>,
}

impl Pass {
    /// Over what `dev` stores of `ranges` (start to end).
    fn of(needles: &Needles, dev: &dyn ReadAt, ranges: &[(u64, u64)]) -> Result<Pass> {
        // What is in memory needs no reading ahead: the system would do that into holes, and fill memory with their zeros.
        if let Some(file) = dev.as_file()
            && sys::cached_bytes(file.file(), 0, file.len()).is_ok_and(|cached| cached >= file.allocated() / 2)
        {
            sys::no_readahead(file.file());
        }
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        for (start, end) in ranges {
            let (mut at, end) = (*start, dev.len().min(*end));
            while at < end {
                let range = dev.host_range(at, end - at)?;
                let upto = at + range.len.clamp(1, end - at);
                while !range.hole && at < upto {
                    pieces.push((at, (at + PIECE).min(upto)));
                    at += PIECE;
                }
                at = upto;
            }
        }
        let index = Index::new(needles.list.iter().map(|(n, _)| n.clone()).collect());
        Ok(Pass { index, pieces, next: AtomicU64::new(0), bytes: AtomicU64::new(0), found: Mutex::default() })
    }

    /// Looks through pieces that nobody has taken yet, until there are none. `stop` ends it early, and the pass is of no use then.
    fn work(&self, dev: &dyn ReadAt, job: &JobContext, stop: &AtomicBool) -> Result<()> {
        let (mut buf, len) = (vec![0; PIECE as usize + LONGEST], dev.len());
        while let Some((from, to)) = self.pieces.get(self.next.fetch_add(1, Relaxed) as usize) {
            job.checkpoint()?;
            if stop.load(Relaxed) {
                return Ok(());
            }
            // Into the next piece, as far as a needle that begins in this one may reach.
            let until = (to + LONGEST as u64).min(len);
            let Some(buf) = buf.get_mut(..(until - from) as usize) else { continue };
            dev.read_at(*from, buf)?;
            self.bytes.fetch_add(to - from, Relaxed);
            let mut hits = Vec::new();
            self.index.search(buf, |at, n| {
                if from + (at as u64) < *to {
                    hits.push((from + at as u64, n));
                }
            });
            if !hits.is_empty() {
                let mut all = self.found.lock().unwrap_or_else(PoisonError::into_inner);
                let room = TOLD.saturating_sub(all.len());
                all.extend(hits.into_iter().take(room));
            }
        }
        Ok(())
    }

    /// What was found, once nobody is at work.
    fn hits(&self, needles: &Needles) -> Hits {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let named = found.iter().filter_map(|(at, n)| Some((*at, needles.list.get(*n)?.1.clone())));
        Hits { bytes: self.bytes.load(Relaxed), found: named.collect() }.sorted()
    }
}

/// What a scan found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Hits {
    /// Bytes looked through.
    pub(super) bytes: u64,
    /// Where needles begin, and the guest's file each is from.
    pub(super) found: Vec<(u64, String)>,
}

impl Hits {
    fn sorted(mut self) -> Hits {
        self.found.sort();
        self.found.dedup();
        self
    }
}

/// A scan of an image's files in threads of its own, which take what time others leave them. Ended when it is dropped.
pub(super) struct Scanning {
    files: Arc<Files>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

/// The files that are scanned.
struct Files {
    needles: Arc<Needles>,
    list: Vec<(FileId, Device, Pass)>,
}

impl Files {
    fn work(&self, job: &JobContext, stop: &AtomicBool) -> Result<()> {
        self.list.iter().try_for_each(|(_, dev, pass)| dev.as_file().map_or(Ok(()), |f| pass.work(f, job, stop)))
    }
}

impl Scanning {
    /// Begins to look for `needles` in `files`, as far as they are host files.
    pub(super) fn begin(needles: &Arc<Needles>, files: &[Device], job: &JobContext) -> Result<Scanning> {
        let mut list = Vec::new();
        for dev in files {
            if let Some(file) = dev.as_file() {
                list.push((file.id()?, dev.clone(), Pass::of(needles, file, &[(0, file.len())])?));
            }
        }
        let (files, stop) = (Arc::new(Files { needles: needles.clone(), list }), Arc::new(AtomicBool::new(false)));
        // Where a thread cannot be had, others do its part in the end.
        let thread = |_| {
            let (files, stop, job) = (files.clone(), stop.clone(), job.clone());
            let work = move || {
                sys::stand_back();
                files.work(&job, &stop)
            };
            std::thread::Builder::new().name("scan".into()).spawn(work).ok()
        };
        let threads = (0..processors()).filter_map(thread).collect();
        Ok(Scanning { files, stop, threads })
    }

    /// Helps with what is left, and answers what was found.
    pub(super) fn finish(mut self, job: &JobContext) -> Result<Early> {
        let mut done = self.files.work(job, &self.stop);
        for t in self.threads.drain(..) {
            done = done.and(t.join().unwrap_or_else(|_| Err(gave_up())));
        }
        done?;
        let hits = self.files.list.iter().map(|(id, _, pass)| (*id, pass.hits(&self.files.needles)));
        Ok(Early { files: hits.collect() })
    }
}

impl Drop for Scanning {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for t in self.threads.drain(..) {
            let _ = t.join();
        }
    }
}

/// What a scan found while the files were being written.
#[derive(Debug, Default)]
pub(super) struct Early {
    files: Vec<(FileId, Hits)>,
}

impl Early {
    /// What a scan of the whole of `dev` finds now: what was found before holds where nothing was written since, and only the rest is
    /// looked through again.
    pub(super) fn complete(&self, needles: &Needles, dev: &dyn ReadAt, written: &Written, job: &JobContext) -> Result<Hits> {
        let id = dev.as_file().and_then(|f| f.id().ok());
        let known = id.and_then(|id| Some((self.files.iter().find(|(f, _)| *f == id)?, written.of(id)?)));
        let Some(((_, early), written)) = known else {
            return needles.scan(dev, &[(0, dev.len())], job);
        };
        // A needle that begins before a range may reach into it.
        let again = Set::of(written.into_iter().map(|(s, e)| (s.saturating_sub(LONGEST as u64), e)));
        let ranges: Vec<(u64, u64)> = again.iter().collect();
        let mut now = needles.scan(dev, &ranges, job)?;
        now.found.extend(early.found.iter().filter(|(at, _)| *at < dev.len() && again.at(*at).is_none()).cloned());
        now.bytes += early.bytes;
        Ok(now.sorted())
    }
}

/// Threads that work at once.
pub(super) fn processors() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).min(8)
}

fn gave_up() -> Error {
    Error::new(ErrorKind::Internal, "a scanning thread gave up")
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
    use crate::engine::io::file::FileDevice;
    use crate::engine::io::memory::Memory;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn scan(needles: &Needles, dev: &dyn ReadAt) -> Hits {
        needles.scan(dev, &[(0, dev.len())], &JobContext::detached()).unwrap()
    }

    #[test]
    fn needles_across_pieces_are_found_once() {
        let mut disk = vec![0u8; 3 << 20];
        let secret = b"a secret that lies on the border";
        let at = PIECE as usize - 10;
        disk[at..at + secret.len()].copy_from_slice(secret);
        let mut needles = Needles::default();
        needles.add(&[b"x\n".as_slice(), secret, b"\n"].concat(), "/etc/s");
        let found = scan(&needles, &Memory::new(disk));
        assert_eq!((found.bytes, found.found), (3 << 20, vec![(at as u64, "/etc/s".to_string())]));
    }

    #[test]
    fn holes_are_not_read_and_what_begins_at_their_edges_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let dev = FileDevice::create_new(dir.path().join("a")).unwrap();
        let mut needles = Needles::default();
        needles.add_exact(b"one of the secrets that went", "/f");
        crate::engine::io::WriteAt::set_len(&dev, 64 << 20).unwrap();
        let mut all = Vec::new();
        // At the first byte behind a hole, at the last before one, and over the border of two blocks.
        for at in [8 << 20, (16 << 20) + 4096 - 28, (24 << 20) + 4080] {
            crate::engine::io::WriteAt::write_at(&dev, at, b"one of the secrets that went").unwrap();
            all.push((at, "/f".to_string()));
        }
        let found = scan(&needles, &dev);
        assert_eq!(found.found, all);
        assert!(found.bytes <= 5 * 65536, "{} bytes were read", found.bytes);
    }

    proptest! {
        /// Whatever is written while the first scan runs, the end is that of one scan of everything.
        #[test]
        fn an_early_scan_completed_is_a_scan_of_everything(
            secrets in prop::collection::vec((0usize..60_000, 0usize..2), 0..10),
            writes in prop::collection::vec((0usize..60_000, 0usize..5000, 0u8..3), 0..8),
            moment in 0usize..8,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a");
            let words: [&[u8]; 2] = [b"the first secret, which is long", b"another secret!!"];
            let mut needles = Needles::default();
            words.iter().for_each(|w| needles.add_exact(w, "/f"));
            let mut disk = vec![b'.'; 61_000];
            for (at, w) in secrets { disk[at..at + words[w].len()].copy_from_slice(words[w]); }
            std::fs::write(&path, disk).unwrap();
            let written = Written::default();
            let dev = written.noting(Arc::new(FileDevice::open_rw(&path).unwrap())).unwrap();
            let read: Device = Arc::new(FileDevice::open(&path).unwrap());
            let job = JobContext::detached();
            let needles = Arc::new(needles);
            let begin = || Scanning::begin(&needles, std::slice::from_ref(&read), &job).unwrap();
            let mut scanning = None;
            for (i, (at, len, what)) in writes.iter().enumerate() {
                if i == moment {
                    scanning = Some(begin());
                }
                match what {
                    0 => dev.write_zeroes(*at as u64, *len as u64).unwrap(),
                    1 => dev.write_at(*at as u64, words[len % 2]).unwrap(),
                    _ => dev.write_at(*at as u64, &words[0][..len % 31]).unwrap(),
                }
            }
            let early = scanning.unwrap_or_else(begin).finish(&job).unwrap();
            let done = early.complete(&needles, read.as_ref(), &written, &job).unwrap();
            prop_assert_eq!(done.found, scan(&needles, read.as_ref()).found);
        }
    }
}
