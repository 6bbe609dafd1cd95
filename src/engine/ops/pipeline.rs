//! The bounded pipeline of a copy: workers take chunks in order, each reads, works on and writes its own.
//!
//! There are no queues between the stages. A worker that waits for the disk leaves the processor to one that compresses, so with a
//! few more workers than processors all three stages are busy, memory is bounded by one buffer per worker, and nobody hands data to
//! another core. Formats that must be written in order take [`Turn`]s: reading and compressing still happen side by side.
//!
//! The calling thread looks after the rest: it makes durable points for the journal, and flushes when the workers are parked.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::job::JobContext;

/// A piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Guest byte where it begins.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// All of it reads as zeros: there is nothing to read.
    pub zero: bool,
}

/// What a copy does with its chunks.
pub trait Work: Sync {
    /// A worker's own memory.
    type Memory: Send;

    /// Memory for one worker.
    fn memory(&self) -> Self::Memory;

    /// The first chunk at or after guest byte `at`; `None` at the end. Called under a lock: it looks at tables and reads no data.
    fn next(&self, at: u64) -> Result<Option<Chunk>>;

    /// Copies a chunk. Whatever must happen in order happens after `turn.wait()`.
    fn copy(&self, chunk: Chunk, memory: &mut Self::Memory, turn: &Turn<'_>) -> Result<()>;

    /// Makes all that was copied durable; everything before guest byte `done` is complete.
    fn settle(&self, done: u64) -> Result<()>;
}

/// How to run.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Worker threads.
    pub workers: usize,
    /// Time between durable points; `None` makes none.
    pub settle_every: Option<Duration>,
}

struct State {
    /// Where the next chunk is looked for.
    cursor: u64,
    /// Number of the next chunk.
    next: u64,
    /// Number of the chunk whose turn it is to write.
    turn: u64,
    /// Where the chunks that are being copied begin.
    busy: BTreeSet<u64>,
    workers: usize,
    error: Option<Error>,
    end: bool,
}

struct Shared<'a> {
    state: Mutex<State>,
    changed: Condvar,
    job: &'a JobContext,
}

impl Shared<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a chunk in the order of writing.
pub struct Turn<'a> {
    shared: &'a Shared<'a>,
    number: u64,
}

impl Turn<'_> {
    /// Waits until every chunk before this one is written. Errors: the copy is over (cancelled, or failed elsewhere).
    pub fn wait(&self) -> Result<()> {
        let mut state = self.shared.lock();
        while state.turn != self.number {
            if state.error.is_some() || self.shared.job.stopping() {
                return Err(Error::new(ErrorKind::Cancelled, "the copy is over"));
            }
            let wait = self.shared.changed.wait_timeout(state, Duration::from_millis(100));
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

/// Copies everything from guest byte `from` on.
pub fn run<W: Work>(work: &W, from: u64, pace: Pace, job: &JobContext) -> Result<()> {
    let workers = pace.workers.max(1);
    let state = State { cursor: from, next: 0, turn: 0, busy: BTreeSet::new(), workers, error: None, end: false };
    let shared = Shared { state: Mutex::new(state), changed: Condvar::new(), job };
    let name = std::thread::current().name().unwrap_or("copy").to_string();
    std::thread::scope(|scope| {
        for i in 0..workers {
            let shared = &shared;
            let spawned =
                std::thread::Builder::new().name(format!("{name}-{i}")).spawn_scoped(scope, move || worker(work, shared));
            if let Err(e) = spawned {
                let mut state = shared.lock();
                state.workers -= 1;
                // Fewer threads than wished are no reason to stop, none at all is.
                if state.workers == 0 {
                    state.error.get_or_insert_with(|| Error::from(e).op("start a thread"));
                }
            }
        }
        attend(work, &shared, from, pace);
    });
    match shared.lock().error.take() {
        Some(e) => Err(e),
        None => Ok(()),
    }
}

/// Counts a worker out even when it panics, so that the others and the caller do not wait for it.
struct Leave<'a>(&'a Shared<'a>);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.workers -= 1;
        if std::thread::panicking() {
            // The scope passes the panic on; this only makes the others stop.
            state.error.get_or_insert_with(|| Error::new(ErrorKind::Internal, "a worker panicked"));
        }
        self.0.changed.notify_all();
    }
}

fn worker<W: Work>(work: &W, shared: &Shared<'_>) {
    let _leave = Leave(shared);
    let mut memory = work.memory();
    if let Err(e) = chunks(work, shared, &mut memory) {
        // The first error is the one to tell; that the others then stopped is not.
        shared.lock().error.get_or_insert(e);
        shared.changed.notify_all();
    }
}

fn chunks<W: Work>(work: &W, shared: &Shared<'_>, memory: &mut W::Memory) -> Result<()> {
    loop {
        shared.job.checkpoint()?;
        let (chunk, number) = {
            let mut state = shared.lock();
            if state.error.is_some() || state.end {
                return Ok(());
            }
            let Some(chunk) = work.next(state.cursor)? else {
                state.end = true;
                return Ok(());
            };
            state.cursor = chunk.offset.saturating_add(chunk.len);
            state.busy.insert(chunk.offset);
            state.next += 1;
            (chunk, state.next - 1)
        };
        work.copy(chunk, memory, &Turn { shared, number })?;
        let mut state = shared.lock();
        state.busy.remove(&chunk.offset);
        // Those who take no turns finish in any order; the counter is then only a counter.
        state.turn = state.turn.max(number + 1);
        drop(state);
        shared.changed.notify_all();
    }
}

/// Waits for the workers; meanwhile makes durable points.
fn attend<W: Work>(work: &W, shared: &Shared<'_>, from: u64, pace: Pace) {
    let (mut settled, mut last) = (from, Instant::now());
    loop {
        let state = shared.lock();
        let done = state.busy.first().copied().unwrap_or(state.cursor);
        shared.job.progress.set_reached(done);
        if state.workers == 0 {
            // A chunk that failed stays among the busy ones, so what is before the first of them is complete.
            let full = state.error.as_ref().is_some_and(|e| e.kind() == ErrorKind::NoSpace);
            drop(state);
            if pace.settle_every.is_some() && done > settled && (full || shared.job.leaving()) {
                // When this fails as well, the earlier point stands.
                let _ = work.settle(done);
            }
            return;
        }
        let (live, failed) = (state.workers, state.error.is_some());
        let due = pace.settle_every.is_some_and(|t| last.elapsed() >= t);
        let parked = shared.job.pausing() && shared.job.parked() >= live;
        if !failed && done > settled && (due || parked) {
            drop(state);
            if let Err(e) = work.settle(done) {
                shared.lock().error.get_or_insert(e);
            }
            (settled, last) = (done, Instant::now());
            continue;
        }
        let wait = shared.changed.wait_timeout(state, Duration::from_millis(100));
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    /// Notes what is copied; fails or panics at a chosen chunk.
    struct Notes {
        copied: Mutex<Vec<u64>>,
        settled: AtomicU64,
        fail_at: Option<u64>,
        panic_at: Option<u64>,
        ordered: bool,
        /// Where the copy begins.
        from: u64,
    }

    impl Notes {
        fn new() -> Self {
            Notes { copied: Mutex::default(), settled: AtomicU64::new(0), fail_at: None, panic_at: None, ordered: false, from: 0 }
        }
        fn copied(&self) -> Vec<u64> {
            self.copied.lock().unwrap().clone()
        }
    }

    impl Work for Notes {
        type Memory = ();
        fn memory(&self) {}
        fn next(&self, at: u64) -> Result<Option<Chunk>> {
            Ok((at < 1000).then_some(Chunk { offset: at, len: 10, zero: false }))
        }
        fn copy(&self, chunk: Chunk, (): &mut (), turn: &Turn<'_>) -> Result<()> {
            // Early chunks take longest, so that without turns they would be written last.
            std::thread::sleep(Duration::from_micros(3000 - chunk.offset * 2));
            if self.fail_at == Some(chunk.offset) {
                return Err(Error::corrupt("as asked"));
            }
            assert!(self.panic_at != Some(chunk.offset), "as asked");
            if self.ordered {
                turn.wait()?;
            }
            self.copied.lock().unwrap().push(chunk.offset);
            Ok(())
        }
        fn settle(&self, done: u64) -> Result<()> {
            let copied = self.copied();
            assert!((self.from..done).step_by(10).all(|o| copied.contains(&o)), "{done} settled with a gap");
            self.settled.store(done, SeqCst);
            Ok(())
        }
    }

    const PACE: Pace = Pace { workers: 4, settle_every: Some(Duration::from_millis(5)) };

    #[test]
    fn every_chunk_once_and_settled_without_gaps() {
        let work = Notes::new();
        run(&work, 0, PACE, &JobContext::detached()).unwrap();
        let mut all = work.copied();
        all.sort_unstable();
        assert_eq!(all, (0..1000).step_by(10).collect::<Vec<_>>());
        assert!(work.settled.load(SeqCst) > 0);
    }

    #[test]
    fn in_order_when_turns_are_taken() {
        let work = Notes { ordered: true, from: 500, ..Notes::new() };
        run(&work, 500, PACE, &JobContext::detached()).unwrap();
        assert_eq!(work.copied(), (500..1000).step_by(10).collect::<Vec<_>>());
    }

    #[test]
    fn one_failure_stops_all() {
        let work = Notes { fail_at: Some(200), ordered: true, ..Notes::new() };
        let e = run(&work, 0, PACE, &JobContext::detached()).unwrap_err();
        assert_eq!(e.why(), "as asked");
        // Those before it may have been waiting for their turn; nothing behind it was written, and nothing out of order.
        let copied = work.copied();
        assert!(copied.len() <= 20 && copied.iter().enumerate().all(|(i, o)| *o == i as u64 * 10), "{copied:?}");
    }

    #[test]
    fn a_panic_reaches_the_caller_and_nobody_hangs() {
        let work = Notes { panic_at: Some(300), ordered: true, ..Notes::new() };
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&work, 0, PACE, &JobContext::detached())));
        assert!(caught.is_err());
    }
}
