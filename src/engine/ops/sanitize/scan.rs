//! The byte scan: is any of what was removed still in the image's bytes?
//!
//! It begins while the change is still being planned, as little of the image is written ([`Scanning`]); where it was written it is
//! scanned again ([`Early`]).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use super::needles::{LONGEST, Needles};
use super::search::Index;
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::io::file::FileId;
use crate::engine::io::watched::Written;
use crate::engine::io::{Device, ReadAt, sys};
use crate::engine::job::JobContext;
use crate::engine::spans::Set;

/// Bytes read at a time: they stay in the processor's own memory until they are looked through.
const PIECE: u64 = 256 << 10;
/// Places told, at most.
const TOLD: usize = 20_000;

impl Needles {
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
    /// What is read at a time.
    pieces: Vec<Piece>,
    /// What need not be looked through: it is going to be written.
    doomed: OnceLock<Set>,
    /// Pieces that were left out for that.
    left: Mutex<Vec<(u64, u64)>>,
    /// The next piece to be read.
    next: AtomicU64,
    /// Bytes looked through.
    bytes: AtomicU64,
    /// Where needles begin, and which.
    found: Mutex<Vec<(u64, usize)>>,
}

/// A part of a file that is read at a time.
struct Piece {
    from: u64,
    to: u64,
    /// Behind it is a hole.
    last: bool,
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
        let mut pieces: Vec<Piece> = Vec::new();
        for (start, end) in ranges {
            let (mut at, end) = (*start, dev.len().min(*end));
            while at < end {
                let range = dev.host_range(at, end - at)?;
                let upto = at + range.len.clamp(1, end - at);
                if let Some(before) = pieces.last_mut().filter(|p| range.hole && p.to == at) {
                    before.last = true;
                }
                while !range.hole && at < upto {
                    pieces.push(Piece { from: at, to: (at + PIECE).min(upto), last: false });
                    at += PIECE;
                }
                at = upto;
            }
        }
        let index = Index::new(needles.list.iter().map(|(n, _)| n.clone()).collect());
        let (next, bytes, found) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::default());
        Ok(Pass { index, pieces, doomed: OnceLock::new(), left: Mutex::default(), next, bytes, found })
    }

    /// Looks through pieces that nobody has taken yet, until there are none. `stop` ends it early, and the pass is of no use then.
    fn work(&self, dev: &dyn ReadAt, job: &JobContext, stop: &AtomicBool) -> Result<()> {
        let (mut buf, len) = (vec![0; PIECE as usize + LONGEST], dev.len());
        while let Some(Piece { from, to, last }) = self.pieces.get(self.next.fetch_add(1, Relaxed) as usize) {
            job.checkpoint()?;
            if stop.load(Relaxed) {
                return Ok(());
            }
            if self.doomed.get().is_some_and(|d| d.at(*from).is_some_and(|(_, end)| end >= *to)) {
                self.left.lock().unwrap_or_else(PoisonError::into_inner).push((*from, *to));
                continue;
            }
            // Into the next piece, as far as a needle that begins in this one may reach. A hole is not read: the system would make
            // pages of it.
            let until = (to + LONGEST as u64).min(len);
            let read = if *last { *to } else { until };
            let Some(buf) = buf.get_mut(..(until - from) as usize) else { continue };
            let (part, zeros) = buf.split_at_mut((read - from) as usize);
            zeros.fill(0);
            dev.read_at(*from, part)?;
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

    /// Leaves out what is known to be written soon: `ranges` of the file `disk`.
    pub(super) fn leave(&self, disk: &Device, ranges: &Set) {
        let id = disk.as_file().and_then(|f| f.id().ok());
        for (_, _, pass) in self.files.list.iter().filter(|(file, _, _)| Some(*file) == id) {
            let _ = pass.doomed.set(ranges.clone());
        }
    }

    /// Helps with what is left, and answers what was found.
    pub(super) fn finish(mut self, job: &JobContext) -> Result<Early> {
        let mut done = self.files.work(job, &self.stop);
        for t in self.threads.drain(..) {
            done = done.and(t.join().unwrap_or_else(|_| Err(gave_up())));
        }
        done?;
        let seen = |(id, _, pass): &(FileId, Device, Pass)| {
            let left = pass.left.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Seen { id: *id, hits: pass.hits(&self.files.needles), left }
        };
        Ok(Early { files: self.files.list.iter().map(seen).collect() })
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
    files: Vec<Seen>,
}

/// Of one file.
#[derive(Debug)]
struct Seen {
    id: FileId,
    hits: Hits,
    /// What was left out.
    left: Vec<(u64, u64)>,
}

impl Early {
    /// What a scan of the whole of `dev` finds now: what was found before holds where nothing was written since, and only the rest is
    /// looked through again.
    pub(super) fn complete(&self, needles: &Needles, dev: &dyn ReadAt, written: &Written, job: &JobContext) -> Result<Hits> {
        let id = dev.as_file().and_then(|f| f.id().ok());
        let known = id.and_then(|id| Some((self.files.iter().find(|f| f.id == id)?, written.of(id)?)));
        let Some((Seen { hits: early, left, .. }, written)) = known else {
            return needles.scan(dev, &[(0, dev.len())], job);
        };
        // A needle that begins before a range may reach into it.
        let again = Set::of(written.into_iter().chain(left.iter().copied()).map(|(s, e)| (s.saturating_sub(LONGEST as u64), e)));
        let ranges: Vec<(u64, u64)> = again.iter().collect();
        let mut now = needles.scan(dev, &ranges, job)?;
        now.found.extend(early.found.iter().filter(|(at, _)| *at < dev.len() && again.at(*at).is_none()).cloned());
        now.bytes += early.bytes;
        Ok(now.sorted())
    }
}

/// Threads that work at once.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).min(8)
}

fn gave_up() -> Error {
    Error::new(ErrorKind::Internal, "a scanning thread gave up")
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
        needles.add(&[b"x\n".as_slice(), secret, b"\n"].concat(), b"", "/etc/s");
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

    #[test]
    fn what_is_left_out_for_being_written_is_looked_through_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let secret = b"one of the secrets that went";
        let mut disk = vec![b'.'; 8 * PIECE as usize];
        // In what is left out, on both its borders, in what is written of it, and elsewhere.
        let p = PIECE as usize;
        for at in [p + 5, 2 * p - 9, 4 * p - 9, 3 * p + 7, 6 * p] {
            disk[at..at + secret.len()].copy_from_slice(secret);
        }
        std::fs::write(&path, disk).unwrap();
        let mut needles = Needles::default();
        needles.add_exact(secret, "/f");
        let (needles, job, written) = (Arc::new(needles), JobContext::detached(), Written::default());
        let read: Device = Arc::new(FileDevice::open(&path).unwrap());
        let dev = written.noting(Arc::new(FileDevice::open_rw(&path).unwrap())).unwrap();
        // Its threads are held up until it is known what to leave out.
        job.ask_pause();
        let scanning = Scanning::begin(&needles, std::slice::from_ref(&read), &job).unwrap();
        scanning.leave(&read, &Set::of([(PIECE, 4 * PIECE)]));
        job.ask_resume();
        dev.write_zeroes(3 * PIECE, PIECE).unwrap();
        let early = scanning.finish(&job).unwrap();
        // By whichever thread came to each, in any order.
        assert_eq!(Set::of(early.files[0].left.iter().copied()), Set::of([(PIECE, 4 * PIECE)]));
        let done = early.complete(&needles, read.as_ref(), &written, &job).unwrap();
        let places: Vec<u64> = done.found.iter().map(|(at, _)| *at).collect();
        assert_eq!(places, [PIECE + 5, 2 * PIECE - 9, 6 * PIECE]);
        assert_eq!(done.found, scan(&needles, read.as_ref()).found);
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
