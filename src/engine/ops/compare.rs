//! Comparing what two disks show: ranges that are zero in both are skipped unread, the rest is read by several threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::map::{Entry, Map};
use crate::engine::chain::Disk;
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::io::ReadAt;
use crate::engine::io::bytes::is_zero;
use crate::engine::limits::COPY_CHUNK;
use crate::engine::units::SECTOR;

/// What comparing found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A guest cannot tell them apart.
    Same,
    /// The first sector that differs begins at this guest byte.
    Content(u64),
    /// Strict: from this guest byte on one holds what the other does not, or only one says it is zero.
    Status(u64),
    /// Strict: their virtual sizes differ.
    Size,
}

/// Why two disks could not be compared.
#[derive(Debug)]
pub enum Trouble {
    /// Where data lies could not be found out.
    Map(Error),
    /// Data could not be read.
    Read(Error),
}

impl Trouble {
    /// The error behind it.
    pub fn into_error(self) -> Error {
        match self {
            Trouble::Map(e) | Trouble::Read(e) => e,
        }
    }
}

/// Compares `a` with `b`; a shorter one is taken as followed by zeros. With `strict` sizes and allocation must agree too.
/// `progress` is told how far the comparison has come, in guest bytes.
pub fn compare(a: &Disk, b: &Disk, strict: bool, progress: &dyn Fn(u64)) -> Result<Outcome, Trouble> {
    if strict && a.size() != b.size() {
        return Ok(Outcome::Size);
    }
    let found = Found { limit: AtomicU64::new(u64::MAX), first: Mutex::new(None) };
    let workers = thread::available_parallelism().map_or(2, |n| n.get().min(8));
    let (send, receive) = sync_channel::<Span>(workers * 2);
    let receive = Mutex::new(receive);
    let status = thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| work(a, b, &receive, &found));
        }
        let walked = walk(a, b, strict, |span| {
            progress(span.start);
            // Nothing beyond what is known to differ matters any more.
            span.start < found.limit.load(Ordering::Relaxed) && send.send(span).is_ok()
        });
        // Without a sender the workers come to their end.
        drop(send);
        walked
    })
    .map_err(Trouble::Map)?;
    match (found.first.into_inner().unwrap_or_else(PoisonError::into_inner), status) {
        (None, None) => Ok(Outcome::Same),
        (None, Some(status)) => Ok(Outcome::Status(status)),
        (Some((at, _)), Some(status)) if status <= at => Ok(Outcome::Status(status)),
        (Some((at, None)), _) => Ok(Outcome::Content(at)),
        (Some((_, Some(error))), _) => Err(Trouble::Read(error)),
    }
}

/// A range to read: from each disk, unless it is known to be zero there.
struct Span {
    start: u64,
    len: usize,
    a: bool,
    b: bool,
}

/// The first place where the disks differ or cannot be read.
struct Found {
    /// Its guest byte, to be looked at without the lock.
    limit: AtomicU64,
    first: Mutex<Option<(u64, Option<Error>)>>,
}

impl Found {
    fn at(&self, offset: u64, error: Option<Error>) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.as_ref().is_none_or(|(at, _)| offset < *at) {
            *first = Some((offset, error));
            self.limit.store(offset, Ordering::Relaxed);
        }
    }
}

/// Goes through both maps side by side and hands out what must be read. The first status mismatch (strict) ends it.
fn walk(a: &Disk, b: &Disk, strict: bool, mut hand_out: impl FnMut(Span) -> bool) -> Result<Option<u64>> {
    let (mut left, mut right) = (Side::new(a), Side::new(b));
    let mut at = 0;
    let end = a.size().max(b.size());
    while at < end {
        let (x, y) = (left.at(at)?, right.at(at)?);
        if strict && x.state != y.state {
            return Ok(Some(at));
        }
        let stop = x.end.min(y.end).min(end);
        if x.zero && y.zero {
            at = stop;
            continue;
        }
        while at < stop {
            let len = (stop - at).min(COPY_CHUNK as u64 - at % COPY_CHUNK as u64);
            if !hand_out(Span { start: at, len: len as usize, a: !x.zero, b: !y.zero }) {
                return Ok(None);
            }
            at += len;
        }
    }
    Ok(None)
}

/// One disk's map with a place in it.
struct Side<'a> {
    map: Map<'a>,
    entry: Option<Entry>,
}

/// What a disk has at a place, and up to which guest byte.
struct Here {
    end: u64,
    zero: bool,
    /// (stored by some layer, zero, data, compressed): what strict compares.
    state: (bool, bool, bool, bool),
}

impl<'a> Side<'a> {
    fn new(disk: &'a Disk) -> Self {
        Side { map: Map::new(disk, 0, u64::MAX), entry: None }
    }
    fn at(&mut self, at: u64) -> Result<Here> {
        while self.entry.as_ref().is_none_or(|e| e.start + e.len <= at) {
            match self.map.next() {
                Some(entry) => self.entry = Some(entry?),
                None => return Ok(Here { end: u64::MAX, zero: true, state: (false, true, false, false) }),
            }
        }
        Ok(match &self.entry {
            Some(e) => Here { end: e.start + e.len, zero: e.zero, state: (e.present, e.zero, e.data, e.compressed) },
            None => Here { end: u64::MAX, zero: true, state: (false, true, false, false) },
        })
    }
}

fn work(a: &Disk, b: &Disk, spans: &Mutex<Receiver<Span>>, found: &Found) {
    let (mut left, mut right) = (vec![0u8; COPY_CHUNK], vec![0u8; COPY_CHUNK]);
    loop {
        let next = spans.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(span) = next else { return };
        if span.start >= found.limit.load(Ordering::Relaxed) {
            continue;
        }
        match differs(a, b, &span, &mut left, &mut right) {
            Ok(Some(offset)) => found.at(offset, None),
            Ok(None) => {}
            Err(e) => found.at(span.start, Some(e)),
        }
    }
}

/// The first guest byte of the first sector of `span` that differs.
fn differs(a: &Disk, b: &Disk, span: &Span, left: &mut [u8], right: &mut [u8]) -> Result<Option<u64>> {
    let short = || Error::new(ErrorKind::Internal, "a span larger than its buffer");
    let left = left.get_mut(..span.len).ok_or_else(short)?;
    let right = right.get_mut(..span.len).ok_or_else(short)?;
    let same = |x: &[u8], y: &[u8]| match (span.a, span.b) {
        (true, true) => x == y,
        (true, false) => is_zero(x),
        (false, true) => is_zero(y),
        (false, false) => true,
    };
    if span.a {
        a.read_at(span.start, left)?;
    }
    if span.b {
        b.read_at(span.start, right)?;
    }
    if same(left, right) {
        return Ok(None);
    }
    // Whole sectors first, then the byte: the disks may change place in the middle of a sector.
    let sectors = || left.chunks(SECTOR as usize).zip(right.chunks(SECTOR as usize));
    let first = sectors().position(|(x, y)| !same(x, y)).unwrap_or(0);
    let byte = sectors().nth(first).and_then(|(x, y)| x.iter().zip(y).position(|(x, y)| !same(&[*x], &[*y])));
    let at = span.start + first as u64 * SECTOR + byte.unwrap_or(0) as u64;
    Ok(Some(at - at % SECTOR))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::format::raw::Raw;
    use crate::engine::io::memory::Memory;

    fn disk(bytes: Vec<u8>) -> Disk {
        Disk::new(vec![Arc::new(Raw::new(vec![Arc::new(Memory::new(bytes))]))])
    }

    #[test]
    fn the_first_sector_that_differs_is_told_wherever_it_is() {
        let len = 2 * COPY_CHUNK + 700;
        let a = disk(vec![7; len]);
        assert_eq!(compare(&a, &a, true, &|_| ()).unwrap(), Outcome::Same);
        for at in [0, 511, 512, COPY_CHUNK - 1, COPY_CHUNK, 2 * COPY_CHUNK + 699] {
            let mut other = vec![7; len];
            other[at] = 8;
            other[len - 1] = 9;
            let want = Outcome::Content(at as u64 / 512 * 512);
            assert_eq!(compare(&a, &disk(other), false, &|_| ()).unwrap(), want, "{at}");
        }
    }

    #[test]
    fn a_shorter_disk_ends_in_zeros_unless_strict() {
        let (a, mut longer) = (vec![1; 1000], vec![1; 1000]);
        longer.resize(5000, 0);
        assert_eq!(compare(&disk(a.clone()), &disk(longer.clone()), false, &|_| ()).unwrap(), Outcome::Same);
        assert_eq!(compare(&disk(longer.clone()), &disk(a.clone()), true, &|_| ()).unwrap(), Outcome::Size);
        longer[4000] = 1;
        assert_eq!(compare(&disk(longer), &disk(a), false, &|_| ()).unwrap(), Outcome::Content(3584));
    }
}
