//! How far a job is: atomics the workers add to, sampled by whoever draws. It costs a few additions per chunk and never a lock
//! on the way of the data.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Samples kept: two minutes of them.
const SAMPLES: usize = 240;
/// Time between samples.
const STEP: Duration = Duration::from_millis(500);
/// Samples the present rate and the ETA are made of: ten seconds.
const WINDOW: usize = 20;

/// The counters of a running job. Workers add; nobody subtracts.
#[derive(Debug)]
pub struct Progress {
    /// Work there is: guest bytes that hold data, once for copying and once more for verifying.
    total: AtomicU64,
    /// Work that is behind us.
    done: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    skipped: AtomicU64,
    durable: AtomicU64,
    reached: AtomicU64,
    /// Nanoseconds the workers together spent waiting for the source, for the target, working, and held back by the limit.
    spent: [AtomicU64; 4],
    /// Milliseconds since `began` when the next sample is due.
    due: AtomicU64,
    began: Instant,
    slow: Mutex<Slow>,
}

/// What changes rarely.
#[derive(Debug, Default)]
struct Slow {
    phase: String,
    samples: VecDeque<Sample>,
    last: Option<(Instant, [u64; 3], [u64; 4])>,
    started: Option<Instant>,
    /// Time worked before the last pause.
    worked: Duration,
}

/// Rates over one step of half a second. The screen draws its graphs from these.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct Sample {
    /// Bytes read per second.
    pub read: u64,
    /// Bytes written per second.
    pub written: u64,
    /// Work done per second, in bytes of `total`.
    pub work: u64,
    /// Share of the workers' time spent on the source, on the target, computing, and held back by the rate limit; adds up to 1,
    /// or to 0 when idle.
    pub source: f32,
    /// See `source`.
    pub target: f32,
    /// See `source`.
    pub cpu: f32,
    /// Processors kept busy computing, on average: 1.5 is one and a half.
    pub busy: f32,
    /// See `source`.
    pub limit: f32,
}

/// What holds a job back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Reading the source.
    Source,
    /// Writing the target.
    Target,
    /// Computing: decompressing, compressing, digests.
    Cpu,
    /// The rate it was limited to.
    Limit,
}

/// How long it will go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Eta {
    /// Most likely.
    pub left: Duration,
    /// Plus or minus.
    pub spread: Duration,
}

/// A job's progress at one moment.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
pub struct ProgressSnapshot {
    /// What it is doing, in a few words.
    pub phase: String,
    /// Bytes of work there are; 0 while that is not known.
    pub total: u64,
    /// Bytes of work behind it.
    pub done: u64,
    /// Guest bytes read from the source.
    pub read: u64,
    /// Guest bytes written to the target.
    pub written: u64,
    /// Guest bytes that were zeros or unallocated and needed neither.
    pub skipped: u64,
    /// Guest bytes, from the start on, that are durable: a resume goes on here.
    pub durable: u64,
    /// Guest bytes, from the start on, that are behind it, durable or not.
    pub reached: u64,
    /// Bytes read per second now.
    pub read_rate: Option<u64>,
    /// Bytes written per second now.
    pub write_rate: Option<u64>,
    /// 0 to 100; below 100 until the result is durable.
    pub percent: f32,
    /// How long it will go on, as soon as that can be told.
    pub eta: Option<Eta>,
    /// What holds it back.
    pub bound: Option<Bound>,
    /// Time worked, pauses left out.
    pub elapsed: Duration,
}

/// What a worker spent time on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    /// Waiting for the source.
    Source = 0,
    /// Waiting for the target.
    Target = 1,
    /// Computing.
    Cpu = 2,
    /// Waiting because the job may go no faster.
    Limit = 3,
}

impl Default for Progress {
    fn default() -> Self {
        Progress {
            total: AtomicU64::new(0),
            done: AtomicU64::new(0),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            reached: AtomicU64::new(0),
            spent: Default::default(),
            due: AtomicU64::new(0),
            began: Instant::now(),
            slow: Mutex::default(),
        }
    }
}

impl Progress {
    fn slow(&self) -> MutexGuard<'_, Slow> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Says how much work there is, in bytes.
    pub fn set_total(&self, bytes: u64) {
        self.total.store(bytes, Relaxed);
    }
    /// Says what is being done now.
    pub fn set_phase(&self, phase: impl Into<String>) {
        self.slow().phase = phase.into();
    }
    /// `bytes` of work are behind us.
    pub fn add_done(&self, bytes: u64) {
        self.done.fetch_add(bytes, Relaxed);
    }
    /// `bytes` were read.
    pub fn add_read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Relaxed);
    }
    /// `bytes` were written.
    pub fn add_written(&self, bytes: u64) {
        self.written.fetch_add(bytes, Relaxed);
    }
    /// `bytes` needed neither.
    pub fn add_skipped(&self, bytes: u64) {
        self.skipped.fetch_add(bytes, Relaxed);
    }
    /// Everything before guest byte `offset` is durable.
    pub fn set_durable(&self, offset: u64) {
        self.durable.fetch_max(offset, Relaxed);
    }
    /// Everything before guest byte `offset` is behind us.
    pub fn set_reached(&self, offset: u64) {
        self.reached.fetch_max(offset, Relaxed);
    }
    /// Runs `work` and counts its time as spent on `what`.
    pub fn time<T>(&self, what: Spent, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let out = work();
        let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if let Some(counter) = self.spent.get(what as usize) {
            counter.fetch_add(ns, Relaxed);
        }
        out
    }

    /// The clock of `elapsed` runs (again).
    pub fn start(&self) {
        let mut slow = self.slow();
        slow.started.get_or_insert_with(Instant::now);
        // A pause is not a slow half-second.
        slow.last = None;
    }
    /// The clock of `elapsed` stands still.
    pub fn stop(&self) {
        let mut slow = self.slow();
        if let Some(at) = slow.started.take() {
            slow.worked += at.elapsed();
        }
        slow.last = None;
    }

    /// Takes a sample when one is due. Called at every checkpoint; nearly always a load and a comparison.
    pub fn tick(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let due = self.due.load(Relaxed);
        let next = now.saturating_add(STEP.as_millis() as u64);
        if now >= due && self.due.compare_exchange(due, next, Relaxed, Relaxed).is_ok() {
            self.sample();
        }
    }

    fn sample(&self) {
        let now = Instant::now();
        let counts = [self.read.load(Relaxed), self.written.load(Relaxed), self.done.load(Relaxed)];
        let spent = [0, 1, 2, 3].map(|i: usize| self.spent.get(i).map_or(0, |c| c.load(Relaxed)));
        let mut slow = self.slow();
        if let Some((then, old, old_spent)) = slow.last.replace((now, counts, spent)) {
            let seconds = now.duration_since(then).as_secs_f64().max(0.001);
            let rate = |new: u64, old: u64| (new.saturating_sub(old) as f64 / seconds) as u64;
            let [source, target, cpu, limit] = [0, 1, 2, 3].map(|i: usize| {
                let at = |a: &[u64; 4]| a.get(i).copied().unwrap_or(0);
                at(&spent).saturating_sub(at(&old_spent)) as f32
            });
            let all = (source + target + cpu + limit).max(1.0);
            let ([r, w, d], [r0, w0, d0]) = (counts, old);
            if slow.samples.len() >= SAMPLES {
                slow.samples.pop_front();
            }
            slow.samples.push_back(Sample {
                read: rate(r, r0),
                written: rate(w, w0),
                work: rate(d, d0),
                source: source / all,
                target: target / all,
                cpu: cpu / all,
                busy: (f64::from(cpu) / 1e9 / seconds) as f32,
                limit: limit / all,
            });
        }
    }

    /// The samples of the last two minutes, oldest first.
    pub fn samples(&self) -> Vec<Sample> {
        self.slow().samples.iter().copied().collect()
    }

    /// How far it is now. `complete` when the result is durable: only then are there 100 percent.
    pub fn snapshot(&self, complete: bool) -> ProgressSnapshot {
        let (total, done) = (self.total.load(Relaxed), self.done.load(Relaxed));
        let done = if total > 0 { done.min(total) } else { done };
        let slow = self.slow();
        let recent: Vec<Sample> = slow.samples.iter().rev().take(WINDOW).copied().collect();
        let running = slow.started.is_some();
        let mean = |f: fn(&Sample) -> u64| recent.iter().map(|s| f(s) as f64).sum::<f64>() / recent.len().max(1) as f64;
        let now = |f: fn(&Sample) -> u64| {
            // Two seconds: steady enough to read, fresh enough to trust.
            let last: Vec<f64> = recent.iter().take(4).map(|s| f(s) as f64).collect();
            (running && !last.is_empty()).then(|| (last.iter().sum::<f64>() / last.len() as f64) as u64)
        };
        let percent = match (complete, total) {
            (true, _) => 100.0,
            (false, 0) => 0.0,
            // In double precision and rounded down, so that it never shows 100 by rounding.
            (false, _) => ((done as f64 / total as f64 * 1000.0).floor() / 10.0).min(99.9) as f32,
        };
        ProgressSnapshot {
            phase: slow.phase.clone(),
            total,
            done,
            read: self.read.load(Relaxed),
            written: self.written.load(Relaxed),
            skipped: self.skipped.load(Relaxed),
            durable: self.durable.load(Relaxed),
            reached: self.reached.load(Relaxed).max(self.durable.load(Relaxed)),
            read_rate: now(|s| s.read),
            write_rate: now(|s| s.written),
            percent,
            eta: if complete || !running { None } else { eta(&recent, mean(|s| s.work), total.saturating_sub(done), total) },
            bound: if complete || !running { None } else { bound(&recent) },
            elapsed: slow.worked + slow.started.map_or(Duration::ZERO, |s| s.elapsed()),
        }
    }
}

/// The rest at the mean rate; the spread is the standard error of that mean, as a share.
fn eta(recent: &[Sample], mean: f64, left: u64, total: u64) -> Option<Eta> {
    if recent.len() < 3 || mean < 1.0 || total == 0 {
        return None;
    }
    let n = recent.len() as f64;
    let variance = recent.iter().map(|s| (s.work as f64 - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let share = (variance.sqrt() / mean / n.sqrt()).min(1.0);
    let seconds = (left as f64 / mean).min(1e9);
    Some(Eta { left: Duration::from_secs_f64(seconds), spread: Duration::from_secs_f64(seconds * share) })
}

fn bound(recent: &[Sample]) -> Option<Bound> {
    let last = recent.iter().take(4);
    let sum = last.fold([0.0f32; 4], |[s, t, c, l], x| [s + x.source, t + x.target, c + x.cpu, l + x.limit]);
    let [source, target, cpu, limit] = sum;
    if source + target + cpu + limit <= 0.0 {
        None
    } else if limit >= source.max(target).max(cpu) {
        Some(Bound::Limit)
    } else if cpu >= source && cpu >= target {
        Some(Bound::Cpu)
    } else if source >= target {
        Some(Bound::Source)
    } else {
        Some(Bound::Target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_a_hundred_before_it_is_durable() {
        let p = Progress::default();
        p.set_total(1000);
        p.add_done(999);
        assert!((p.snapshot(false).percent - 99.9).abs() < 0.01);
        p.add_done(5000);
        assert!(p.snapshot(false).percent < 100.0);
        assert_eq!(p.snapshot(false).done, 1000);
        assert_eq!(p.snapshot(true).percent, 100.0);
    }

    #[test]
    fn eta_is_the_rest_at_the_mean_rate() {
        let even = [Sample { work: 100, ..Sample::default() }; 4];
        let e = eta(&even, 100.0, 1000, 2000).unwrap();
        assert_eq!((e.left, e.spread), (Duration::from_secs(10), Duration::ZERO));
        let uneven: Vec<_> = [50, 150, 50, 150].map(|work| Sample { work, ..Sample::default() }).into();
        let e = eta(&uneven, 100.0, 1000, 2000).unwrap();
        // Standard deviation 57.7 of 100, over the root of 4 samples: 29 percent of ten seconds.
        assert_eq!((e.left.as_secs(), e.spread.as_millis()), (10, 2886));
        assert!(eta(&even[..2], 100.0, 1000, 2000).is_none());
    }

    #[test]
    fn says_what_binds() {
        let s = |source, target, cpu| Sample { source, target, cpu, ..Sample::default() };
        assert_eq!(bound(&[s(0.2, 0.7, 0.1)]), Some(Bound::Target));
        assert_eq!(bound(&[s(0.1, 0.1, 0.8)]), Some(Bound::Cpu));
        assert_eq!(bound(&[Sample { limit: 0.9, ..s(0.1, 0.0, 0.0) }]), Some(Bound::Limit));
        assert_eq!(bound(&[]), None);
    }
}
