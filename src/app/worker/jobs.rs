//! The jobs' runner as the workbench uses it: edges come as messages, everything else is sampled; plans are made in the background.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::Outbox;
use super::latest::Latest;
use super::paths::{self, PathCheck};
use crate::app::form::Remark;
use crate::app::message::{Level, Message};
use crate::app::state::jobs::{JobRow, LeftRow};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::job::remote::{self, Served};
use crate::engine::job::{JobId, Journal, Runner, RunnerOptions, SubmitOptions, history, takes};
use crate::engine::ops::JobSpec;
use crate::engine::ops::checking::Checked;
use crate::engine::ops::plan::Plan;
use crate::engine::ops::sanitize::{Outlook, Report, SanitizeSpec, outlook};

/// Asks for the plan of a job that is about to be started.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanRequest {
    /// Numbers the requests.
    pub generation: u64,
    /// What is to be done; `None` while the form's answers are none.
    pub spec: Option<JobSpec>,
    /// Paths of the form to look at first.
    pub paths: Vec<PathCheck>,
    /// The guest that the form would like to know more of.
    pub wonders: Option<Box<SanitizeSpec>>,
}

/// Answers a [`PlanRequest`]: at once with what the disk says of the paths, and once more with the plan.
#[derive(Debug)]
pub struct PlanMade {
    /// Of the request.
    pub generation: u64,
    /// What the disk says of the paths, by field.
    pub remarks: Vec<(&'static str, Remark)>,
    /// The plan, or why there is none; `None` before it is made, and when a path is wrong.
    pub plan: Option<Result<Plan>>,
    /// What there is in the guest that the form wondered about.
    pub outlook: Option<Outlook>,
}

/// The runner, and the thread that plans.
pub struct JobWorkers {
    runner: Runner,
    /// Answers `cowshed jobs` of other processes; `None` where there is no folder for its socket.
    _served: Option<Served>,
    left: Left,
    /// Plans.
    pub plan: Latest<PlanRequest>,
}

impl JobWorkers {
    /// Starts them; journal and history go into `state_dir`, the socket for other processes into `runtime_dir`.
    ///
    /// Errors: the system gives no thread.
    pub fn spawn(state_dir: Option<PathBuf>, runtime_dir: Option<PathBuf>, out: &Outbox) -> std::io::Result<Self> {
        let (to_edges, to_plans, folder) = (out.clone(), out.clone(), state_dir.clone());
        let left = Left {
            journal: state_dir.as_ref().map(|d| Journal::new(d.join("jobs"))),
            history: state_dir.as_ref().map(|d| d.join("history.jsonl")),
            order: Arc::default(),
            out: out.clone(),
        };
        let runner = Runner::new(RunnerOptions { state_dir, ..RunnerOptions::default() }, move |edge| {
            let _ = to_edges.send(Message::Edge(edge));
        });
        let plan = Latest::spawn("cowshed-plan", move |r: PlanRequest, _| {
            let PlanRequest { generation, spec, paths, wonders } = r;
            let remarks: Vec<_> = paths.iter().map(|p| (p.field, paths::look(p))).collect();
            let tell = |remarks, plan, outlook| {
                drop(to_plans.send(Message::Plan(Box::new(PlanMade { generation, remarks, plan, outlook }))));
            };
            tell(remarks.clone(), None, None);
            // A guest that cannot be read is told of by the plan.
            let seen = wonders.and_then(|w| std::panic::catch_unwind(|| outlook(&w)).ok()?.ok());
            if seen.is_some() {
                tell(remarks.clone(), None, seen);
            }
            let Some(spec) = spec.filter(|_| remarks.iter().all(|(_, r)| r.level != Level::Error)) else { return };
            let plan = std::panic::catch_unwind(|| spec.plan())
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "planning this hit a defect in cowshed")));
            let plan = plan.map(|mut plan| {
                plan.duration = takes(&plan, &spec, folder.as_deref());
                plan
            });
            tell(remarks, Some(plan), None);
        })?;
        // Without a socket nobody can steer the jobs from outside; that is no reason not to work.
        let served = runtime_dir.and_then(|dir| remote::serve(&runner, &dir).ok());
        left.behind(|_| {});
        Ok(JobWorkers { runner, _served: served, left, plan })
    }
    /// Starts a job.
    pub fn submit(&self, spec: JobSpec) {
        self.runner.submit(spec, SubmitOptions::default());
    }
    /// What a check found.
    pub fn found(&self, id: JobId) -> Option<Arc<Checked>> {
        self.runner.found(id)
    }
    /// The report of a sanitising.
    pub fn report(&self, id: JobId) -> Option<Arc<Report>> {
        self.runner.report(id)
    }
    /// Cancels a job.
    pub fn cancel(&self, id: JobId) {
        self.runner.cancel(id);
    }
    /// Pauses a job, or lets it go on.
    pub fn pause(&self, id: JobId, pause: bool) {
        if pause { self.runner.pause(id) } else { self.runner.resume(id) }
    }
    /// Takes ended jobs off the list.
    pub fn forget(&self) {
        self.runner.list().iter().filter(|v| v.state.is_over()).for_each(|v| self.runner.remove(v.id));
    }
    /// Does a job that has ended again; what it left that is durable is gone on with.
    pub fn retry(&self, id: JobId) {
        if let Some(view) = self.runner.view(id) {
            self.runner.submit(view.spec.resumed(), SubmitOptions { priority: view.priority, held: false });
            self.runner.remove(id);
        }
    }
    /// Limits a job to `bytes` per second; 0 lifts the limit.
    pub fn limit(&self, id: JobId, bytes: u64) {
        self.runner.set_limit(id, bytes);
    }
    /// Changes the priority of a job that waits.
    pub fn rank(&self, id: JobId, priority: i32) {
        self.runner.set_priority(id, priority);
    }
    /// Clears the history of jobs that are over.
    pub fn forget_past(&self) {
        self.left.behind(|left| {
            if let Some(Err(e)) = left.history.as_deref().map(history::clear) {
                let _ = left.out.send(Message::Told(e.to_string().into(), Level::Error));
            }
        });
    }
    /// Looks for interrupted jobs, and for those that are over.
    pub fn look_left(&self) {
        self.left.behind(|_| {});
    }
    /// Goes on with an interrupted job.
    pub fn resume_left(&self, key: &str) {
        let record = self.left.journal.as_ref().and_then(|j| j.load(key)).filter(|r| !r.alive);
        if let Some(record) = record {
            self.submit(record.resumed());
        }
        self.look_left();
    }
    /// Removes what an interrupted job had written, and its record.
    pub fn discard_left(&self, key: String) {
        self.left.behind(move |left| {
            let Some((journal, record)) = left.journal.as_ref().and_then(|j| Some((j, j.load(&key)?))) else { return };
            if record.alive {
                return;
            }
            match record.spec.discard(&record.state) {
                Ok(()) => journal.forget(&key),
                Err(e) => drop(left.out.send(Message::Told(e.to_string().into(), Level::Error))),
            }
        });
    }
    /// The jobs as they are now, the newest first.
    pub fn sample(&self) -> Vec<JobRow> {
        let row = |view: crate::engine::job::JobView| {
            let (samples, log) = (self.runner.samples(view.id), self.runner.log(view.id));
            JobRow { view, samples, log }
        };
        self.runner.list().into_iter().rev().map(row).collect()
    }
    /// Ends all jobs: what can be resumed later is left so when `leave` is set, everything else is cancelled and cleaned up.
    pub fn shut_down(&self, leave: bool) {
        self.runner.shut_down(leave);
    }
}

/// The journal's side: what processes left unfinished that are gone. Looked at behind the scenes, as sources may lie on slow disks.
#[derive(Clone)]
struct Left {
    journal: Option<Journal>,
    history: Option<PathBuf>,
    /// Looks come one after the other, so that the last list sent is the newest.
    order: Arc<Mutex<()>>,
    out: Outbox,
}

impl Left {
    /// Does `work` in a thread of its own, then tells what is left.
    fn behind(&self, work: impl FnOnce(&Left) + Send + 'static) {
        let left = self.clone();
        let all = move || {
            let _order = left.order.lock().unwrap_or_else(PoisonError::into_inner);
            work(&left);
            let _ = left.out.send(Message::Left(left.rows()));
            let past = left.history.as_deref().map(history::read).unwrap_or_default();
            let _ = left.out.send(Message::Past(past.into_iter().rev().map(Arc::new).collect()));
        };
        // Without a thread the list stays as it was.
        let _ = std::thread::Builder::new().name("cowshed-journal".into()).spawn(all);
    }

    fn rows(&self) -> Vec<LeftRow> {
        let records = self.journal.as_ref().map(Journal::unfinished).unwrap_or_default();
        let row = |record: crate::engine::job::Record| {
            let can = std::panic::catch_unwind(|| record.spec.resumable(&record.state));
            let can = can.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "looking at this hit a defect in cowshed")));
            LeftRow { why_not: can.err().map(|e| e.why().to_string()), record }
        };
        records.into_iter().filter(|r| !r.alive).map(row).collect()
    }
}
