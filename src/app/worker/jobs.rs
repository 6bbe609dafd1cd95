//! The jobs' runner as the workbench uses it: edges come as messages, everything else is sampled; plans are made in the background.

use std::path::PathBuf;

use super::Outbox;
use super::latest::Latest;
use super::paths::{self, PathCheck};
use crate::app::form::Remark;
use crate::app::message::{Level, Message};
use crate::app::state::jobs::JobRow;
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::job::{JobId, Runner, RunnerOptions, SubmitOptions};
use crate::engine::ops::JobSpec;
use crate::engine::ops::plan::Plan;

/// Asks for the plan of a job that is about to be started.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanRequest {
    /// Numbers the requests.
    pub generation: u64,
    /// What is to be done; `None` while the form's answers are none.
    pub spec: Option<JobSpec>,
    /// Paths of the form to look at first.
    pub paths: Vec<PathCheck>,
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
}

/// The runner, and the thread that plans.
pub struct JobWorkers {
    runner: Runner,
    /// Plans.
    pub plan: Latest<PlanRequest>,
}

impl JobWorkers {
    /// Starts them; journal and history go into `state_dir`.
    ///
    /// Errors: the system gives no thread.
    pub fn spawn(state_dir: Option<PathBuf>, out: &Outbox) -> std::io::Result<Self> {
        let (to_edges, to_plans) = (out.clone(), out.clone());
        let runner = Runner::new(RunnerOptions { state_dir, ..RunnerOptions::default() }, move |edge| {
            let _ = to_edges.send(Message::Edge(edge));
        });
        let plan = Latest::spawn("cowshed-plan", move |r: PlanRequest, _| {
            let PlanRequest { generation, spec, paths } = r;
            let remarks: Vec<_> = paths.iter().map(|p| (p.field, paths::look(p))).collect();
            let tell = |remarks, plan| drop(to_plans.send(Message::Plan(Box::new(PlanMade { generation, remarks, plan }))));
            tell(remarks.clone(), None);
            let Some(spec) = spec.filter(|_| remarks.iter().all(|(_, r)| r.level != Level::Error)) else { return };
            let plan = std::panic::catch_unwind(|| spec.plan())
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "planning this hit a defect in cowshed")));
            tell(remarks, Some(plan));
        })?;
        Ok(JobWorkers { runner, plan })
    }
    /// Starts a job.
    pub fn submit(&self, spec: JobSpec) {
        self.runner.submit(spec, SubmitOptions::default());
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
