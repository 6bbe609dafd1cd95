//! The jobs panel: the jobs as last sampled, those an earlier run left unfinished, those of earlier sessions that are over, and the one
//! selected.

use super::scroll::Scroll;
use std::sync::Arc;

use crate::engine::job::{Finished, JobId, JobView, LogLine, Record, Sample};

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

/// A job whose process is gone before it was done.
#[derive(Debug, Clone)]
pub struct LeftRow {
    /// Its record in the journal.
    pub record: Record,
    /// Why it cannot go on where it was; it would begin anew.
    pub why_not: Option<String>,
}

/// A line of the list, by what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A job of this process.
    Job(JobId),
    /// An interrupted one, by its key.
    Left(String),
    /// One that is over, by who did it and when it ended.
    Past((u32, u64), u64),
}

/// State of the jobs panel.
#[derive(Debug, Clone, Default)]
pub struct JobsState {
    /// As last sampled, newest first.
    pub rows: Vec<JobRow>,
    /// Left unfinished by a process that is gone, latest first; those that `rows` shows too are not among them.
    pub left: Vec<LeftRow>,
    /// Jobs that are over, latest first, as the history has them.
    pub history: Vec<Arc<Finished>>,
    /// Those of them that `rows` does not show.
    pub past: Vec<Arc<Finished>>,
    /// The journal was looked at.
    pub looked: bool,
    /// Cursor and window: first the rows, then what is left, then what is past.
    pub scroll: Scroll,
    /// The selected job's details.
    pub log: Scroll,
    /// The workbench quits when the last job has ended.
    pub quit_when_done: bool,
    /// Number of the last request for a plan.
    pub plan_generation: u64,
}

impl JobsState {
    /// Lines of the list.
    pub fn len(&self) -> usize {
        self.rows.len() + self.left.len() + self.past.len()
    }
    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The interrupted job under the cursor.
    pub fn selected_left(&self) -> Option<&LeftRow> {
        self.left.get(self.scroll.at.checked_sub(self.rows.len())?)
    }
    /// The job of the history under the cursor.
    pub fn selected_past(&self) -> Option<&Arc<Finished>> {
        self.past.get(self.scroll.at.checked_sub(self.rows.len() + self.left.len())?)
    }
    /// What the cursor is on.
    pub fn line(&self) -> Option<Line> {
        let row = self.rows.get(self.scroll.at).map(|j| Line::Job(j.view.id));
        row.or_else(|| self.selected_left().map(|l| Line::Left(l.record.key.clone())))
            .or_else(|| self.selected_past().map(|p| Line::Past(p.by, p.ended)))
    }
    /// Puts the cursor on `line` again, where it is still there.
    pub fn keep(&mut self, line: Option<Line>) {
        let (rows, left) = (self.rows.len(), self.left.len());
        let at = line.and_then(|line| match line {
            Line::Job(id) => self.rows.iter().position(|j| j.view.id == id),
            Line::Left(key) => self.left.iter().position(|l| l.record.key == key).map(|i| rows + i),
            Line::Past(by, ended) => self.past.iter().position(|p| (p.by, p.ended) == (by, ended)).map(|i| rows + left + i),
        });
        let len = self.len();
        self.scroll.go(at.unwrap_or(self.scroll.at), len);
    }
    /// How far all live jobs together are, 0 to 1; `None` while none has begun.
    pub fn share(&self) -> Option<f64> {
        let begun = self.rows.iter().filter(|j| j.live() && j.view.progress.total > 0);
        let (mut done, mut total) = (0.0, 0.0);
        for j in begun {
            done += j.view.progress.done as f64;
            total += j.view.progress.total as f64;
        }
        (total > 0.0).then(|| done / total)
    }
}

/// Steps of the rate limit in bytes per second.
const LIMITS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];

/// The next limit above (`up`) or below the present one, 0 being none; from none it goes below the rate that there is.
pub fn next_limit(now: u64, rate: u64, up: bool) -> u64 {
    let mut steps = LIMITS.iter().map(|m| m << 20);
    match (now, up) {
        (0, true) => 0,
        (0, false) => steps.rfind(|s| *s < rate.max(2 << 20)).unwrap_or(1 << 20),
        // Above the last step there is no limit any more.
        (_, true) => steps.find(|s| *s > now).unwrap_or(0),
        (_, false) => steps.rfind(|s| *s < now).unwrap_or(1 << 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_go_in_steps_and_end_in_none() {
        let mib = |n: u64| n << 20;
        assert_eq!(next_limit(0, mib(412), false), mib(200));
        assert_eq!(next_limit(0, 0, false), mib(1));
        assert_eq!(next_limit(mib(200), 0, false), mib(100));
        assert_eq!(next_limit(mib(1), 0, false), mib(1));
        assert_eq!(next_limit(mib(3), 0, true), mib(5));
        assert_eq!(next_limit(mib(5000), 0, true), 0);
        assert_eq!(next_limit(0, mib(100), true), 0);
    }
}
