//! The jobs panel: the jobs as last sampled, and the one selected.

use super::scroll::Scroll;
use crate::engine::job::{JobView, LogLine, Sample};

/// A job as the panel shows it.
#[derive(Debug, Clone)]
pub struct JobRow {
    /// As the runner tells.
    pub view: JobView,
    /// Rates of the last two minutes, oldest first.
    pub samples: Vec<Sample>,
    /// Its log.
    pub log: Vec<LogLine>,
}

impl JobRow {
    /// It has not ended.
    pub fn live(&self) -> bool {
        !self.view.state.is_over()
    }
}

/// State of the jobs panel.
#[derive(Debug, Clone, Default)]
pub struct JobsState {
    /// As last sampled, newest first.
    pub rows: Vec<JobRow>,
    /// Cursor and window.
    pub scroll: Scroll,
    /// The selected job's details.
    pub log: Scroll,
    /// The workbench quits when the last job has ended.
    pub quit_when_done: bool,
    /// Number of the last request for a plan.
    pub plan_generation: u64,
}
