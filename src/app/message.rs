//! Everything that can happen to the workbench, as typed values: they can be logged, replayed and tested.

use std::sync::Arc;

use super::key::Key;
use super::state::jobs::{JobRow, LeftRow};
use super::worker::guest::{FilesLoaded, KeptLoaded, LookLoaded};
use super::worker::image::{CursorLoaded, GridLoaded, InsideLoaded, PageLoaded, SharesLoaded};
use super::worker::jobs::PlanMade;
use super::worker::library::Snapshot;
use super::worker::snapshots::{DiffLoaded, FreedLoaded, SnapshotsLoaded};
use crate::engine::io::locks::LockState;
use crate::engine::job::{Finished, JobEdge};
use crate::engine::library::EntryId;
use crate::engine::ops::checking::Checked;
use crate::engine::ops::sanitize::Report;

/// One happening.
#[derive(Debug)]
pub enum Message {
    /// A key.
    Key(Key),
    /// Text was pasted.
    Paste(String),
    /// The mouse did something at column, row.
    Mouse(Mouse, u16, u16),
    /// The screen has a new size: columns, rows.
    Resize(u16, u16),
    /// The terminal window got or lost the focus.
    Focus(bool),
    /// Time passed while something moves.
    Tick,
    /// SIGTERM, SIGHUP or SIGINT: save and go.
    Terminate(i32),
    /// SIGTSTP from outside.
    Stop,
    /// SIGCONT: somebody else stopped us and the terminal may be in any state.
    Continue,
    /// The library as it is now.
    Library(Box<Snapshot>),
    /// Locks were asked again.
    Locks(Vec<(EntryId, LockState)>),
    /// Bytes that images store themselves were counted.
    Allocated(Vec<(EntryId, u64)>),
    /// A page was read.
    Page(Box<PageLoaded>),
    /// Each layer's share was counted.
    Shares(Box<SharesLoaded>),
    /// The map's cells were read.
    Grid(Box<GridLoaded>),
    /// What lies under the map's cursor.
    Cursor(Box<CursorLoaded>),
    /// What the guest's filesystems say of the map's bytes.
    MapInside(Box<InsideLoaded>),
    /// Who is inside an image.
    Look(Box<LookLoaded>),
    /// Files of a guest.
    Files(Box<FilesLoaded>),
    /// Something of the snapshots' screen was read.
    Snapshots(Box<SnapshotsLoaded>),
    /// What changed between two states.
    Diff(Box<DiffLoaded>),
    /// What the marked snapshots free together.
    Freed(Box<FreedLoaded>),
    /// What a check found.
    Checked(Arc<Checked>),
    /// What a sanitising did.
    Sanitized(Arc<Report>),
    /// What the last sanitising of an image keeps.
    Kept(Box<KeptLoaded>),
    /// A job went into another state.
    Edge(JobEdge),
    /// A plan was made.
    Plan(Box<PlanMade>),
    /// The jobs as they are now.
    Jobs(Vec<JobRow>),
    /// The jobs that processes left unfinished which are gone.
    Left(Vec<LeftRow>),
    /// The jobs that are over, latest first, as the history has them.
    Past(Vec<Arc<Finished>>),
    /// Something to tell at the bottom of the screen.
    Told(Arc<str>, Level),
}

impl Message {
    /// Somebody did it and waits for the answer.
    pub fn is_input(&self) -> bool {
        matches!(self, Message::Key(_) | Message::Paste(_) | Message::Mouse(..) | Message::Resize(..))
    }
}

/// What the mouse did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mouse {
    /// The left button went down.
    Press,
    /// The wheel turned up.
    WheelUp,
    /// The wheel turned down.
    WheelDown,
}

/// How grave a notice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// It went well.
    Info,
    /// Worth a look.
    Warning,
    /// It failed.
    Error,
}
