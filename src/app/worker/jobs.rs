//! The jobs' runner as the workbench uses it: edges come as messages, everything else is sampled; plans are made in the background.

use std::path::PathBuf;

use super::Outbox;
use super::latest::Latest;
use crate::app::message::Message;
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
    /// What is to be done.
    pub spec: JobSpec,
}

/// Answers a [`PlanRequest`].
#[derive(Debug)]
pub struct PlanMade {
    /// Of the request.
    pub generation: u64,
    /// The plan, or why there is none.
    pub plan: Result<Plan>,
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
            let plan = std::panic::catch_unwind(|| r.spec.plan())
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "planning this hit a defect in cowshed")));
            let _ = to_plans.send(Message::Plan(Box::new(PlanMade { generation: r.generation, plan })));
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
