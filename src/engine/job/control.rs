//! The handle a running operation holds: it asks here whether to go on, counts its progress, logs, and leaves marks in the journal.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::journal::Mark;
use super::progress::{Progress, Spent};
use super::state::JobState;
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::io::sys;
use crate::engine::ops::checking::Checked;
use crate::engine::ops::sanitize::Report;
use crate::engine::units::MIB;

const PAUSE: u8 = 1;
const CANCEL: u8 = 2;
/// Stop, but keep what is durable so that a later run can go on.
const LEAVE: u8 = 4;

/// Lines of log kept per job.
const LOG_LINES: usize = 1000;

/// A line of a job's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When.
    pub at: SystemTime,
    /// What. May hold names from images: print it through `units::printable`.
    pub text: String,
}

type OnState = Box<dyn Fn(JobState, Option<String>) + Send + Sync>;

/// What a running operation holds. Cheap to clone; every worker thread may have one.
#[derive(Clone)]
pub struct JobContext {
    /// Its counters.
    pub progress: Arc<Progress>,
    inner: Arc<Inner>,
}

struct Inner {
    flags: AtomicU8,
    wait_for_space: bool,
    gate: Mutex<Gate>,
    wake: Condvar,
    /// Bytes per second; 0 is no limit.
    limit: AtomicU64,
    next_slot: Mutex<Option<Instant>>,
    log: Mutex<VecDeque<LogLine>>,
    mark: Mutex<Option<Mark>>,
    found: Mutex<Option<Arc<Checked>>>,
    report: Mutex<Option<Arc<Report>>>,
    on_state: OnState,
}

#[derive(Default)]
struct Gate {
    /// Threads that stand at a checkpoint.
    parked: usize,
    /// The paused state was reported.
    shown: bool,
    /// Why it paused, when nobody asked it to.
    reason: Option<String>,
    finishing: bool,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl JobContext {
    /// A context that reports its states to `on_state`.
    pub(super) fn new(on_state: OnState, wait_for_space: bool) -> Self {
        JobContext {
            progress: Arc::default(),
            inner: Arc::new(Inner {
                flags: AtomicU8::new(0),
                wait_for_space,
                gate: Mutex::default(),
                wake: Condvar::new(),
                limit: AtomicU64::new(0),
                next_slot: Mutex::new(None),
                log: Mutex::default(),
                mark: Mutex::new(None),
                found: Mutex::new(None),
                report: Mutex::new(None),
                on_state,
            }),
        }
    }

    /// Hands over what a check found; [`super::Runner::found`] gives it out.
    pub fn deliver(&self, found: Arc<Checked>) {
        *lock(&self.inner.found) = Some(found);
    }
    pub(super) fn found(&self) -> Option<Arc<Checked>> {
        lock(&self.inner.found).clone()
    }

    /// A context outside any runner: nothing pauses or cancels it but its own methods.
    pub fn detached() -> Self {
        Self::new(Box::new(|_, _| {}), false)
    }

    /// Go on, park until resumed, or stop. To be called at least every 4 MiB or 50 ms, with nothing half-written.
    ///
    /// Errors: `Cancelled`, when the job was told to stop.
    pub fn checkpoint(&self) -> Result<()> {
        self.progress.tick();
        match self.inner.flags.load(SeqCst) {
            0 => Ok(()),
            f if f & (CANCEL | LEAVE) != 0 => Err(cancelled()),
            _ => self.park(|| false),
        }
    }

    /// For work that is a few units long and holds something: only whether to stop, never a pause.
    pub fn stop_if_asked(&self) -> Result<()> {
        self.progress.tick();
        if self.stopping() { Err(cancelled()) } else { Ok(()) }
    }

    /// Stands still until resumed, cancelled, or `over` says (asked every second) that the reason is gone.
    fn park(&self, over: impl Fn() -> bool) -> Result<()> {
        let mut gate = lock(&self.inner.gate);
        gate.parked += 1;
        loop {
            let flags = self.inner.flags.load(SeqCst);
            if flags & (CANCEL | LEAVE) != 0 {
                gate.parked -= 1;
                return Err(cancelled());
            }
            if flags & PAUSE == 0 {
                break;
            }
            if !gate.shown {
                gate.shown = true;
                self.progress.stop();
                (self.inner.on_state)(JobState::Paused, gate.reason.clone());
            }
            gate = self.inner.wake.wait_timeout(gate, Duration::from_secs(1)).unwrap_or_else(PoisonError::into_inner).0;
            if gate.reason.is_some() && over() {
                self.inner.flags.fetch_and(!PAUSE, SeqCst);
                self.inner.wake.notify_all();
            }
        }
        gate.parked -= 1;
        if gate.shown {
            gate.shown = false;
            gate.reason = None;
            self.progress.start();
            (self.inner.on_state)(JobState::Running, None);
        }
        Ok(())
    }

    /// Threads that stand at a checkpoint now.
    pub fn parked(&self) -> usize {
        lock(&self.inner.gate).parked
    }

    /// What to do about a write that failed with `error`: when the disk is full and the job may wait, parks until it is resumed
    /// or there is space again on the filesystem of `path`, and the caller tries once more; every other error comes back.
    pub fn recover(&self, error: Error, path: &Path) -> Result<()> {
        // After a failed flush nobody knows what is on the disk, so there is nothing to try once more.
        if error.kind() != ErrorKind::NoSpace || !self.inner.wait_for_space || error.operation() == Some("flush") {
            return Err(error);
        }
        // A new image has its name only when it is complete; its folder is there from the beginning.
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let free = || sys::free_space(folder).unwrap_or(0);
        let before = free();
        {
            let mut gate = lock(&self.inner.gate);
            if gate.reason.is_none() {
                let reason =
                    format!("no space left for {}: make some on its filesystem, and it goes on by itself", path.display());
                self.log(reason.clone());
                gate.reason = Some(reason);
            }
            self.inner.flags.fetch_or(PAUSE, SeqCst);
        }
        // A few megabytes come and go by themselves; going on for them would only fail again, unless little is left to do.
        let at = self.progress.snapshot(false);
        let wanted = at.total.saturating_sub(at.done).clamp(MIB, 32 * MIB);
        self.park(|| free() >= before.saturating_add(wanted))
    }

    /// Holds the caller so that no more than the limit passes; `bytes` are about to.
    pub fn throttle(&self, bytes: u64) -> Result<()> {
        let limit = self.inner.limit.load(SeqCst);
        if limit == 0 {
            return Ok(());
        }
        let cost = Duration::from_secs_f64(bytes as f64 / limit as f64);
        let until = {
            let mut next = lock(&self.inner.next_slot);
            let start = next.map_or_else(Instant::now, |n| n.max(Instant::now()));
            *next = Some(start + cost);
            start
        };
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|l| !l.is_zero()) {
            self.progress.time(Spent::Limit, || std::thread::sleep(left.min(Duration::from_millis(50))));
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Limits the job to `bytes` per second; 0 lifts the limit.
    pub fn set_limit(&self, bytes: u64) {
        self.inner.limit.store(bytes, SeqCst);
        *lock(&self.inner.next_slot) = None;
    }
    /// The limit in bytes per second; 0 is none.
    pub fn limit(&self) -> u64 {
        self.inner.limit.load(SeqCst)
    }

    /// The content is written: from here on the job cannot be cancelled.
    ///
    /// Errors: `Cancelled`, when that was asked for before.
    pub fn finishing(&self) -> Result<()> {
        self.checkpoint()?;
        let mut gate = lock(&self.inner.gate);
        if self.inner.flags.load(SeqCst) & (CANCEL | LEAVE) != 0 {
            return Err(cancelled());
        }
        gate.finishing = true;
        (self.inner.on_state)(JobState::Finishing, None);
        Ok(())
    }

    /// Adds a line to the job's log.
    pub fn log(&self, text: impl Into<String>) {
        let mut log = lock(&self.inner.log);
        if log.len() >= LOG_LINES {
            log.pop_front();
        }
        log.push_back(LogLine { at: SystemTime::now(), text: text.into() });
    }
    /// The log so far.
    pub fn log_lines(&self) -> Vec<LogLine> {
        lock(&self.inner.log).iter().cloned().collect()
    }

    /// True when the job stops so that a later run can go on: partial files stay.
    pub fn leaving(&self) -> bool {
        self.inner.flags.load(SeqCst) & LEAVE != 0
    }
    /// True when the job was told to stop.
    pub fn stopping(&self) -> bool {
        self.inner.flags.load(SeqCst) & (CANCEL | LEAVE) != 0
    }
    /// True when the job is, or is about to be, paused.
    pub fn pausing(&self) -> bool {
        self.inner.flags.load(SeqCst) & PAUSE != 0
    }

    /// Writes `state` into the job's journal record: what a resume needs to know, with everything before guest byte `durable`
    /// safe. Does nothing when no journal is kept; a journal that cannot be written is logged, once, and the job goes on.
    pub fn mark(&self, durable: u64, state: serde_json::Value) {
        self.progress.set_durable(durable);
        let mut mark = lock(&self.inner.mark);
        if let Some(Err(e)) = mark.as_ref().map(|m| m.write(durable, state)) {
            *mark = None;
            drop(mark);
            self.log(format!("the journal cannot be kept, so this job cannot be resumed: {e}"));
        }
    }
    /// Leaves the report of a sanitising; [`super::Runner::report`] gives it out.
    pub fn set_report(&self, report: Arc<Report>) {
        *lock(&self.inner.report) = Some(report);
    }
    pub(super) fn report(&self) -> Option<Arc<Report>> {
        lock(&self.inner.report).clone()
    }
    /// What the journal has of an earlier run of the same job: the durable point and the state left there.
    pub fn earlier(&self) -> Option<(u64, serde_json::Value)> {
        lock(&self.inner.mark).as_ref().and_then(Mark::earlier)
    }
    /// The key of the journal record, when one is kept.
    pub(super) fn key(&self) -> Option<String> {
        lock(&self.inner.mark).as_ref().map(|m| m.key().to_string())
    }
    /// True when a journal is kept, so that marks are worth their flush.
    pub fn journaled(&self) -> bool {
        lock(&self.inner.mark).is_some()
    }
    /// Keeps the journal record `mark` from here on.
    pub(super) fn set_mark(&self, mark: Mark) {
        *lock(&self.inner.mark) = Some(mark);
    }
    /// Lets go of the journal record at the end of the job; without `keep` it is forgotten, as there is nothing to resume.
    pub(super) fn unmark(&self, keep: bool) {
        if let Some(mark) = lock(&self.inner.mark).take()
            && !keep
        {
            mark.remove();
        }
    }

    // The runner's side.

    /// Asks it to pause.
    pub(in crate::engine) fn ask_pause(&self) {
        self.inner.flags.fetch_or(PAUSE, SeqCst);
    }
    /// Lets it go on.
    pub(in crate::engine) fn ask_resume(&self) {
        let _gate = lock(&self.inner.gate);
        self.inner.flags.fetch_and(!PAUSE, SeqCst);
        self.inner.wake.notify_all();
    }
    /// Asks it to stop; false when it is too late for that.
    pub(super) fn ask_stop(&self, leave: bool) -> bool {
        let gate = lock(&self.inner.gate);
        if gate.finishing {
            return false;
        }
        self.inner.flags.fetch_or(if leave { LEAVE } else { CANCEL }, SeqCst);
        self.inner.wake.notify_all();
        true
    }
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the job was cancelled")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parks_and_goes_on() {
        let states: Arc<Mutex<Vec<JobState>>> = Arc::default();
        let seen = states.clone();
        let ctx = JobContext::new(Box::new(move |s, _| lock(&seen).push(s)), false);
        ctx.ask_pause();
        let other = ctx.clone();
        let thread = std::thread::spawn(move || other.checkpoint());
        while ctx.parked() == 0 {
            std::thread::yield_now();
        }
        ctx.ask_resume();
        thread.join().unwrap().unwrap();
        assert_eq!(*lock(&states), [JobState::Paused, JobState::Running]);
        ctx.ask_pause();
        assert!(ctx.ask_stop(false));
        assert_eq!(ctx.checkpoint().unwrap_err().kind(), ErrorKind::Cancelled);
    }

    #[test]
    fn too_late_to_cancel() {
        let ctx = JobContext::detached();
        ctx.finishing().unwrap();
        assert!(!ctx.ask_stop(false));
    }

    #[test]
    fn the_limit_holds() {
        let ctx = JobContext::detached();
        ctx.set_limit(10 << 20);
        let start = Instant::now();
        for _ in 0..5 {
            ctx.throttle(1 << 20).unwrap();
        }
        // Five of 0.1 s each; the first goes at once.
        assert!(start.elapsed() >= Duration::from_millis(390), "{:?}", start.elapsed());
    }

    /// The states a job went through, with their reasons.
    type Seen = Arc<Mutex<Vec<(JobState, Option<String>)>>>;

    #[test]
    fn a_full_disk_parks_the_job_until_it_is_resumed() {
        let full = || Error::from(std::io::Error::from_raw_os_error(libc::ENOSPC));
        let here = Path::new("/");
        assert_eq!(JobContext::detached().recover(full(), here).unwrap_err().kind(), ErrorKind::NoSpace);
        let states = Seen::default();
        let seen = states.clone();
        let ctx = JobContext::new(Box::new(move |s, why| lock(&seen).push((s, why))), true);
        assert_eq!(ctx.recover(Error::corrupt("other"), here).unwrap_err().kind(), ErrorKind::Corrupt);
        let other = ctx.clone();
        let thread = std::thread::spawn(move || other.recover(full(), here));
        while ctx.parked() == 0 {
            std::thread::yield_now();
        }
        ctx.ask_resume();
        thread.join().unwrap().unwrap();
        let states = lock(&states);
        assert_eq!(states.iter().map(|(s, _)| *s).collect::<Vec<_>>(), [JobState::Paused, JobState::Running]);
        assert!(states[0].1.as_ref().unwrap().contains("no space left"));
    }
}
