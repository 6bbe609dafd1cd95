//! Jobs: long work on threads of its own, with states, pause and cancel, progress, per-image locks, a journal and a history.
//!
//! ```text
//!  queued ─▶ running ⇄ paused ─▶ cancelling ─▶ cancelled
//!               └─▶ finishing ─▶ done | failed
//! ```
//!
//! The runner knows operations only through [`Operation`](crate::engine::ops::Operation) and knows no format. State edges are
//! handed to one callback; everything that moves faster is in atomics that the screen samples ([`Runner::list`]).

pub mod claims;
pub mod control;
pub mod estimate;
pub mod history;
pub mod journal;
pub mod progress;
pub mod remote;
pub mod runner;
pub mod state;

pub use claims::{Claim, ClaimKey};
pub use control::JobContext;
pub use estimate::takes;
pub use history::Finished;
pub use journal::{Journal, Record};
pub use progress::{Bound, Eta, Progress, ProgressSnapshot, Sample};
pub use runner::{JobView, LogLine, Runner, RunnerOptions, SubmitOptions};
pub use state::{JobEdge, JobId, JobState};
