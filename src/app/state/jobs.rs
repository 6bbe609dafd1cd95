//! The jobs panel: the jobs as last sampled, those an earlier run left unfinished, and the one selected.

use super::scroll::Scroll;
use crate::engine::job::{JobView, LogLine, Record, Sample};

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

/// State of the jobs panel.
#[derive(Debug, Clone, Default)]
pub struct JobsState {
    /// As last sampled, newest first.
    pub rows: Vec<JobRow>,
    /// Left unfinished by a process that is gone, latest first; those that `rows` shows too are not among them.
    pub left: Vec<LeftRow>,
    /// The journal was looked at.
    pub looked: bool,
    /// Cursor and window: first the rows, then what is left.
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
        self.rows.len() + self.left.len()
    }
    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The interrupted job under the cursor.
    pub fn selected_left(&self) -> Option<&LeftRow> {
        self.left.get(self.scroll.at.checked_sub(self.rows.len())?)
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
