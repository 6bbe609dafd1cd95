//! The states of a job, which may follow which, and the edge that is reported when one does.

use std::fmt;

/// Identifies a job within one runner (and in its journal and log): 1, 2, 3, …
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Waits for its turn or for an image another job holds.
    Queued,
    /// Works.
    Running,
    /// Parked by a person, or because the target's filesystem is full. Holds its images.
    Paused,
    /// Told to stop; cleans up.
    Cancelling,
    /// Stopped; nothing of it is left.
    Cancelled,
    /// The content is written; it is being made durable and given its name. Cannot be cancelled any more.
    Finishing,
    /// Complete and durable.
    Done,
    /// Stopped by an error.
    Failed,
}

impl JobState {
    /// All states, in the order of a job's life.
    pub const ALL: [JobState; 8] = [
        JobState::Queued,
        JobState::Running,
        JobState::Paused,
        JobState::Cancelling,
        JobState::Cancelled,
        JobState::Finishing,
        JobState::Done,
        JobState::Failed,
    ];

    /// True when a job may go from this state to `next`.
    pub fn may_become(self, next: JobState) -> bool {
        use JobState::*;
        matches!(
            (self, next),
            // A job may be held back before it begins, and be cancelled or fail before it ran.
            (Queued, Running | Paused | Cancelled | Failed)
                | (Running, Paused | Cancelling | Finishing | Failed)
                | (Paused, Running | Queued | Cancelling | Cancelled | Failed)
                | (Cancelling, Cancelled | Failed)
                | (Finishing, Done | Failed)
        )
    }

    /// True when nothing more will happen to it.
    pub fn is_over(self) -> bool {
        matches!(self, JobState::Cancelled | JobState::Done | JobState::Failed)
    }

    /// The state as a word: `queued`, `running`, …
    pub fn name(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Paused => "paused",
            JobState::Cancelling => "cancelling",
            JobState::Cancelled => "cancelled",
            JobState::Finishing => "finishing",
            JobState::Done => "done",
            JobState::Failed => "failed",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A job went into a state. The only thing about jobs that is a message; all else is sampled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobEdge {
    /// Which job.
    pub id: JobId,
    /// Its new state.
    pub state: JobState,
    /// Why, where there is more to say than the state does: what it waits for, why it paused, the error's line, what came of it when it is done.
    pub why: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::JobState::*;
    use super::*;

    #[test]
    fn what_is_over_stays_over() {
        for from in JobState::ALL {
            for to in JobState::ALL {
                assert!(!(from.is_over() && from.may_become(to)), "{from} → {to}");
                assert!(from != to || !from.may_become(to), "{from} → itself");
            }
        }
    }

    #[test]
    fn done_only_by_way_of_finishing() {
        let before: Vec<_> = JobState::ALL.into_iter().filter(|s| s.may_become(Done)).collect();
        assert_eq!(before, [Finishing]);
        assert!(!Finishing.may_become(Cancelling));
    }
}
