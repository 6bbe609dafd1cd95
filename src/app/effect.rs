//! What update asks the runtime to do. Values only, so that a test can read them.

use std::path::PathBuf;

use super::worker::guest::{FilesRequest, KeptRequest, LookRequest};
use super::worker::image::{CursorRequest, GridRequest, InsideRequest, PageRequest};
use super::worker::jobs::PlanRequest;
use super::worker::library::Watch;
use super::worker::snapshots::{DiffRequest, FreedRequest, SnapshotsRequest};
use crate::engine::job::JobId;
use crate::engine::ops::JobSpec;

/// One thing to carry out.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Leave the loop.
    Quit,
    /// Give the terminal back and stop, until the shell's `fg`.
    Suspend,
    /// Take the terminal again after somebody else stopped us.
    Resume,
    /// Draw every cell again.
    Repaint,
    /// To the clipboard, through the terminal.
    Copy(String),
    /// Ask the terminal for mouse events, or no longer.
    Mouse(bool),
    /// A desktop notification.
    Notify(String),
    /// Scan the roots again.
    Rescan,
    /// What the library's thread should keep an eye on.
    Watch(Watch),
    /// Load an image's page.
    LoadPage(PageRequest),
    /// Load the cells of the map.
    LoadGrid(GridRequest),
    /// Find out what lies under the map's cursor.
    LoadCursor(CursorRequest),
    /// Ask what the guest's filesystems say of the map's bytes.
    LoadInside(InsideRequest),
    /// Look who is inside an image.
    Look(LookRequest),
    /// Read files of its guest.
    Files(FilesRequest),
    /// Load the snapshots of an image.
    LoadSnapshots(SnapshotsRequest),
    /// Find out what changed between two states.
    LoadDiff(DiffRequest),
    /// Count what marked snapshots free together.
    CountFreed(FreedRequest),
    /// Make the plan of a job.
    Plan(PlanRequest),
    /// Start a job.
    Submit(JobSpec),
    /// Sample the jobs.
    SampleJobs,
    /// Ask what a check found.
    AskFound(JobId),
    /// Ask what a sanitising did.
    AskReport(JobId),
    /// Look what the last sanitising of an image keeps.
    LookKept(KeptRequest),
    /// Cancel a job.
    CancelJob(JobId),
    /// Pause a job, or let it go on.
    PauseJob(JobId, bool),
    /// Take ended jobs off the list.
    ForgetJobs,
    /// Clear the history of earlier jobs.
    ForgetPast,
    /// Do a job that has ended again, from where it was durable if it left something.
    RetryJob(JobId),
    /// Limit a job to so many bytes per second; 0 lifts the limit.
    LimitJob(JobId, u64),
    /// Change the priority of a job that waits.
    RankJob(JobId, i32),
    /// Look for interrupted jobs in the journal.
    LookLeft,
    /// Go on with the interrupted job of this key.
    ResumeLeft(String),
    /// Forget the interrupted job of this key, and remove what it had written.
    DiscardLeft(String),
    /// Write the commented configuration to this file.
    WriteConfig(PathBuf),
}
