//! The operations, one file per subject. Each entry says what it looks at, when it runs and how it is verified.

mod account;
mod identity;
mod network;
mod service;
mod trace;

pub use trace::copied_from;

use super::find::Survey;
use super::{Default, Found, Operation};
use crate::engine::error::Result;

/// The last step. What it wipes is found by the filesystems, not by looking at files.
const SCRUB: &[Operation] = &[Operation {
    id: "scrub",
    title: "Wipe what is left of removed data: free space, journals, swap, removed names",
    files: &["free space and freed blocks", "the journal (ext) and the log (XFS)", "swap, all but its header"],
    default: Default::On,
    reports_only: false,
    verified: "a byte scan for what was removed",
    find: nothing,
}];

fn nothing(_: &Survey<'_>) -> Result<Found> {
    Ok(Found::default())
}

/// Every operation, in the order in which they are shown and done: what the project was asked for comes first.
pub fn all() -> impl Iterator<Item = &'static Operation> {
    [network::ALL, service::ALL, identity::ALL, trace::ALL, account::ALL, SCRUB].into_iter().flatten()
}
