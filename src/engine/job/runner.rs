//! Runs jobs on named threads of their own, as many at a time as is allowed, none on an image another one holds.
//!
//! A waiting job is a parked thread: it costs nothing, and all of a job's life is one function read from top to bottom.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::claims::{Claim, conflict};
use super::control::JobContext;
pub use super::control::LogLine;
use super::estimate::takes;
use super::history::{self, Finished};
use super::journal::Journal;
use super::progress::{ProgressSnapshot, Sample};
use super::state::{JobEdge, JobId, JobState};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::ops::checking::Checked;
use crate::engine::ops::plan::Plan;
use crate::engine::ops::sanitize::Report;
use crate::engine::ops::{JobSpec, Operation, Outcome};

/// How a runner works.
#[derive(Debug, Clone)]
pub struct RunnerOptions {
    /// Jobs that run at once.
    pub parallel: usize,
    /// Folder for the journal and the history; `None` keeps neither.
    pub state_dir: Option<PathBuf>,
    /// A full disk pauses a job (somebody is there to make space); else it fails.
    pub wait_for_space: bool,
}

impl Default for RunnerOptions {
    fn default() -> Self {
        RunnerOptions { parallel: 2, state_dir: None, wait_for_space: true }
    }
}

/// How one job is to be run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SubmitOptions {
    /// Higher goes first; jobs of the same priority go in the order they came.
    pub priority: i32,
    /// Hold it back until it is resumed.
    pub held: bool,
}

/// A job as it stands.
#[derive(Debug, Clone)]
pub struct JobView {
    /// Which.
    pub id: JobId,
    /// What it does, for people. May hold names from outside: print it through `units::printable`.
    pub title: String,
    /// What was asked for; the command line that does the same comes from it.
    pub spec: JobSpec,
    /// Where it stands.
    pub state: JobState,
    /// Why it waits or is paused, where the state does not say.
    pub why: Option<String>,
    /// The key of its journal record, when it keeps one.
    pub key: Option<String>,
    /// Its priority.
    pub priority: i32,
    /// Its limit in bytes per second; 0 is none.
    pub limit: u64,
    /// Its plan, as soon as it was made.
    pub plan: Option<Arc<Plan>>,
    /// How far it is.
    pub progress: ProgressSnapshot,
    /// What it made, when it is done.
    pub outcome: Option<Outcome>,
    /// What went wrong, when it failed.
    pub error: Option<Error>,
    /// When it was submitted.
    pub submitted: SystemTime,
    /// When it ended.
    pub ended: Option<SystemTime>,
}

/// The jobs of this process.
#[derive(Clone)]
pub struct Runner {
    inner: Arc<Inner>,
}

struct Inner {
    options: RunnerOptions,
    table: Mutex<Table>,
    changed: Condvar,
}

struct Table {
    next: u64,
    jobs: BTreeMap<JobId, Job>,
    on_edge: Box<dyn Fn(JobEdge) + Send>,
}

struct Job {
    spec: JobSpec,
    state: JobState,
    why: Option<String>,
    priority: i32,
    context: JobContext,
    /// It had its turn: until it is over it holds its images.
    begun: bool,
    /// What it needs; `None` while that is not known.
    claims: Option<Arc<[Claim]>>,
    plan: Option<Arc<Plan>>,
    outcome: Option<Outcome>,
    error: Option<Error>,
    submitted: SystemTime,
    ended: Option<SystemTime>,
    thread: Option<JoinHandle<()>>,
}

impl Table {
    /// Puts a job into `state` and reports the edge. An edge that is not legal is left out: the job is further already.
    fn enter(&mut self, id: JobId, state: JobState, why: Option<String>) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        if !job.state.may_become(state) {
            return false;
        }
        job.state = state;
        job.why.clone_from(&why);
        if state.is_over() {
            job.ended = Some(SystemTime::now());
        }
        let came = job.outcome.as_ref().filter(|_| state == JobState::Done).map(|o| o.summary.clone());
        let why = why.or(came);
        (self.on_edge)(JobEdge { id, state, why });
        true
    }
    /// True for a job that holds its images.
    fn holds(job: &Job) -> bool {
        job.begun && !job.state.is_over()
    }
    /// Why `id` cannot begin now; `None` when it can.
    fn obstacle(&self, id: JobId, parallel: usize) -> Option<String> {
        let me = self.jobs.get(&id)?;
        let claims = me.claims.as_deref().unwrap_or_default();
        let held = self.jobs.iter().filter(|(_, j)| Self::holds(j)).map(|(i, j)| (*i, j.claims.as_deref().unwrap_or_default()));
        if let Some((other, claim)) = conflict(claims, held) {
            let how = if claim.write { "writes" } else { "reads" };
            return Some(format!("waits for job {other}, which {how} {}", claim.path.display()));
        }
        // A paused job holds its images but leaves its turn to others.
        let running = self.jobs.values().filter(|j| Self::holds(j) && j.state != JobState::Paused).count();
        if running >= parallel.max(1) {
            return Some("waits for its turn".into());
        }
        let first = self.jobs.iter().any(|(i, j)| {
            let ready = j.state == JobState::Queued && j.claims.is_some();
            let ahead = (-j.priority, *i) < (-me.priority, id);
            ready && ahead && self.free(j)
        });
        first.then(|| "waits for its turn".into())
    }
    fn free(&self, job: &Job) -> bool {
        let held = self.jobs.iter().filter(|(_, j)| Self::holds(j)).map(|(i, j)| (*i, j.claims.as_deref().unwrap_or_default()));
        conflict(job.claims.as_deref().unwrap_or_default(), held).is_none()
    }
}

impl Runner {
    /// A runner that reports state edges to `on_edge`. The callback must not call the runner: it sends a message and returns.
    pub fn new(options: RunnerOptions, on_edge: impl Fn(JobEdge) + Send + 'static) -> Self {
        let table = Table { next: 1, jobs: BTreeMap::new(), on_edge: Box::new(on_edge) };
        Runner { inner: Arc::new(Inner { options, table: Mutex::new(table), changed: Condvar::new() }) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Makes every waiting thread look again. Under the lock, so that none is between looking and waiting.
    fn wake(&self) {
        let _table = self.table();
        self.inner.changed.notify_all();
    }
    fn context(&self, id: JobId) -> Option<JobContext> {
        self.table().jobs.get(&id).map(|j| j.context.clone())
    }

    /// Queues a job and returns at once; everything that touches a file happens on the job's own thread.
    pub fn submit(&self, spec: JobSpec, options: SubmitOptions) -> JobId {
        let mut table = self.table();
        let id = JobId(table.next);
        table.next += 1;
        let runner = self.clone();
        let on_state = Box::new(move |state: JobState, why: Option<String>| {
            runner.table().enter(id, state, why);
            runner.wake();
        });
        let context = JobContext::new(on_state, self.inner.options.wait_for_space);
        table.jobs.insert(
            id,
            Job {
                spec: spec.clone(),
                state: JobState::Queued,
                why: None,
                priority: options.priority,
                context: context.clone(),
                begun: false,
                claims: None,
                plan: None,
                outcome: None,
                error: None,
                submitted: SystemTime::now(),
                ended: None,
                thread: None,
            },
        );
        (table.on_edge)(JobEdge { id, state: JobState::Queued, why: None });
        if options.held {
            context.ask_pause();
            table.enter(id, JobState::Paused, Some("held back".into()));
        }
        let runner = self.clone();
        let spawned = std::thread::Builder::new().name(format!("job-{id}")).spawn(move || runner.live(id, spec, context));
        match spawned {
            Ok(handle) => {
                if let Some(job) = table.jobs.get_mut(&id) {
                    job.thread = Some(handle);
                }
            }
            Err(e) => {
                let error = Error::from(e).op("start a thread");
                let why = Some(error.to_string());
                if let Some(job) = table.jobs.get_mut(&id) {
                    job.error = Some(error);
                }
                table.enter(id, JobState::Failed, why);
            }
        }
        id
    }

    /// A job's life, on its own thread.
    fn live(&self, id: JobId, spec: JobSpec, context: JobContext) {
        let operation = spec.operation();
        // A panic (a defect of ours) fails this job alone; the threads it started are scoped and gone when we get here.
        let result = catch_unwind(AssertUnwindSafe(|| self.work(id, &spec, operation.as_ref(), &context)))
            .unwrap_or_else(|panic| Err(internal(panic.as_ref())));
        context.progress.stop();
        let mut keep_record = false;
        let (state, why) = {
            let mut table = self.table();
            match result {
                Ok(outcome) => {
                    table.enter(id, JobState::Finishing, None);
                    if let Some(job) = table.jobs.get_mut(&id) {
                        job.outcome = Some(outcome);
                    }
                    (JobState::Done, None)
                }
                Err(e) if e.kind() == ErrorKind::Cancelled => {
                    table.enter(id, JobState::Cancelling, None);
                    keep_record = context.leaving();
                    (JobState::Cancelled, keep_record.then(|| "left to be resumed".to_string()))
                }
                Err(e) => {
                    let why = e.to_string();
                    context.log(format!("failed: {why}"));
                    keep_record = operation.keeps_partial(&e);
                    if let Some(job) = table.jobs.get_mut(&id) {
                        job.error = Some(e);
                    }
                    (JobState::Failed, Some(why))
                }
            }
        };
        context.unmark(keep_record);
        self.remember(id, &spec, &context, state, why.clone());
        self.table().enter(id, state, why);
        self.wake();
    }

    /// Waits for its turn, plans, works.
    fn work(&self, id: JobId, spec: &JobSpec, operation: &dyn Operation, context: &JobContext) -> Result<Outcome> {
        let claims: Arc<[Claim]> = operation.claims()?.into();
        if let Some(job) = self.table().jobs.get_mut(&id) {
            job.claims = Some(claims);
        }
        self.wake();
        self.await_turn(id, context)?;
        context.progress.set_phase("planning");
        let mut plan = operation.plan_run(context)?;
        plan.duration = takes(&plan, spec, self.inner.options.state_dir.as_deref());
        let plan = Arc::new(plan);
        if let Some(job) = self.table().jobs.get_mut(&id) {
            job.plan = Some(plan.clone());
        }
        for warning in &plan.warnings {
            context.log(format!("warning: {warning}"));
        }
        if let (Some(dir), Some(target)) = (&self.inner.options.state_dir, operation.journal_target()) {
            match Journal::new(dir.join("jobs")).hold(&target, spec) {
                Ok(mark) => context.set_mark(mark),
                Err(e) if e.kind() == ErrorKind::Locked => return Err(e),
                Err(e) => context.log(format!("no journal is kept, so this job cannot be resumed: {e}")),
            }
        }
        operation.run(&plan, context)
    }

    fn await_turn(&self, id: JobId, context: &JobContext) -> Result<()> {
        let mut table = self.table();
        loop {
            if context.stopping() {
                return Err(Error::new(ErrorKind::Cancelled, "the job was cancelled"));
            }
            let state = table.jobs.get(&id).map(|j| j.state);
            if context.pausing() {
                table.enter(id, JobState::Paused, Some("held back".into()));
            } else if state == Some(JobState::Paused) {
                table.enter(id, JobState::Queued, None);
                continue;
            } else {
                match table.obstacle(id, self.inner.options.parallel) {
                    None => {
                        context.progress.start();
                        if let Some(job) = table.jobs.get_mut(&id) {
                            job.begun = true;
                        }
                        table.enter(id, JobState::Running, None);
                        return Ok(());
                    }
                    why => {
                        if let Some(job) = table.jobs.get_mut(&id) {
                            job.why = why;
                        }
                    }
                }
            }
            table = self.inner.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn remember(&self, id: JobId, spec: &JobSpec, context: &JobContext, state: JobState, error: Option<String>) {
        let Some(dir) = &self.inner.options.state_dir else { return };
        let p = context.progress.snapshot(true);
        let unix = |t: SystemTime| t.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let summary = self.table().jobs.get(&id).and_then(|j| j.outcome.as_ref()).map(|o| o.summary.clone());
        let line = Finished {
            summary,
            command: spec.clone().absolute().command(),
            log: context.log_lines().into_iter().map(|l| (unix(l.at), l.text)).collect(),
            by: (std::process::id(), id.0),
            title: spec.title(),
            verb: spec.verb().into(),
            sort: spec.sort(),
            state,
            error,
            ended: unix(SystemTime::now()),
            seconds: p.elapsed.as_secs_f64(),
            read: p.read,
            written: p.written,
        };
        if let Err(e) = history::append(&dir.join("history.jsonl"), &line.short()) {
            context.log(format!("the history cannot be kept: {e}"));
        }
    }

    /// Asks a job to pause. It parks within a second, everything written so far durable.
    pub fn pause(&self, id: JobId) {
        if let Some(context) = self.context(id) {
            context.ask_pause();
            self.wake();
        }
    }

    /// Lets a paused job go on.
    pub fn resume(&self, id: JobId) {
        if let Some(context) = self.context(id) {
            context.ask_resume();
            self.wake();
        }
    }

    /// Stops a job and removes what it has made so far. False when it is too late: it is finishing, or over.
    pub fn cancel(&self, id: JobId) -> bool {
        self.stop(id, false)
    }

    /// Stops a job where it is durable, keeping what it needs to go on in a later run.
    pub fn leave(&self, id: JobId) -> bool {
        self.stop(id, true)
    }

    fn stop(&self, id: JobId, leave: bool) -> bool {
        let Some(context) = self.context(id) else { return false };
        if self.view(id).is_none_or(|v| v.state.is_over()) || !context.ask_stop(leave) {
            return false;
        }
        // One that never ran is cancelled by its own thread, straight from the queue.
        self.table().enter(id, JobState::Cancelling, None);
        self.wake();
        true
    }

    /// Submits the same work again.
    pub fn retry(&self, id: JobId) -> Option<JobId> {
        let view = self.view(id)?;
        Some(self.submit(view.spec, SubmitOptions { priority: view.priority, held: false }))
    }

    /// Changes the priority of a job that waits.
    pub fn set_priority(&self, id: JobId, priority: i32) {
        if let Some(job) = self.table().jobs.get_mut(&id) {
            job.priority = priority;
        }
        self.wake();
    }

    /// Limits a job to `bytes` per second; 0 lifts the limit.
    pub fn set_limit(&self, id: JobId, bytes: u64) {
        if let Some(context) = self.context(id) {
            context.set_limit(bytes);
        }
    }

    /// Every job, in the order they were submitted.
    pub fn list(&self) -> Vec<JobView> {
        self.table().jobs.iter().map(|(id, job)| view(*id, job)).collect()
    }
    /// One job.
    pub fn view(&self, id: JobId) -> Option<JobView> {
        self.table().jobs.get(&id).map(|job| view(id, job))
    }
    /// A job's log.
    pub fn log(&self, id: JobId) -> Vec<LogLine> {
        self.context(id).map(|c| c.log_lines()).unwrap_or_default()
    }
    /// What a check found.
    pub fn found(&self, id: JobId) -> Option<Arc<Checked>> {
        self.context(id)?.found()
    }
    /// The report that a sanitising left.
    pub fn report(&self, id: JobId) -> Option<Arc<Report>> {
        self.context(id).and_then(|c| c.report())
    }
    /// A job's rates over the last two minutes, oldest first, one sample per half second.
    pub fn samples(&self, id: JobId) -> Vec<Sample> {
        self.context(id).map(|c| c.progress.samples()).unwrap_or_default()
    }
    /// Jobs that are not over.
    pub fn live_count(&self) -> usize {
        self.table().jobs.values().filter(|j| !j.state.is_over()).count()
    }
    /// Forgets a job that is over.
    pub fn remove(&self, id: JobId) {
        let mut table = self.table();
        if table.jobs.get(&id).is_some_and(|j| j.state.is_over()) {
            table.jobs.remove(&id);
        }
    }

    /// Waits up to `timeout` for a job to be over; its view then, `None` when it is not or there is none such.
    pub fn wait(&self, id: JobId, timeout: Duration) -> Option<JobView> {
        let end = Instant::now().checked_add(timeout)?;
        let mut table = self.table();
        loop {
            let job = table.jobs.get(&id)?;
            if job.state.is_over() {
                return Some(view(id, job));
            }
            let left = end.checked_duration_since(Instant::now())?;
            table = self.inner.changed.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Stops every job (`leave`: so that a later run can go on) and waits for their threads.
    pub fn shut_down(&self, leave: bool) {
        for job in self.list() {
            self.stop(job.id, leave);
        }
        let threads: Vec<_> = self.table().jobs.values_mut().filter_map(|j| j.thread.take()).collect();
        for thread in threads {
            let _ = thread.join();
        }
    }
}

fn view(id: JobId, job: &Job) -> JobView {
    JobView {
        id,
        title: job.spec.title(),
        spec: job.spec.clone(),
        state: job.state,
        why: job.why.clone(),
        key: job.context.key(),
        priority: job.priority,
        limit: job.context.limit(),
        plan: job.plan.clone(),
        progress: job.context.progress.snapshot(job.state == JobState::Done),
        outcome: job.outcome.clone(),
        error: job.error.clone(),
        submitted: job.submitted,
        ended: job.ended,
    }
}

/// The error for a caught panic.
fn internal(panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_string()).or_else(|| panic.downcast_ref::<String>().cloned());
    Error::new(ErrorKind::Internal, format!("a defect in cowshed: {}", text.as_deref().unwrap_or("panic")))
        .hint("nothing was left under the final name; please report it")
}
