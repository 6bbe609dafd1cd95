//! Which libvirt domain uses an image: read from domain XML files. It must not know where these are; the caller names the folders.

use std::path::PathBuf;

/// A domain as its XML file defines it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Name. Print through `units::printable`.
    pub name: String,
    /// Whether it runs now.
    pub state: DomainState,
    /// Files its disks are on: path and target (`vda`).
    pub disks: Vec<(PathBuf, String)>,
}

/// Whether a domain runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DomainState {
    /// It runs or is paused.
    Running,
    /// It is defined and does not run.
    Off,
    /// The system does not let us see.
    Unknown,
}

/// A domain's use of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainUse {
    /// The domain's name.
    pub domain: String,
    /// Whether it runs.
    pub state: DomainState,
    /// The target it has there (`vda`); `None` when the domain uses it as a backing file of another.
    pub target: Option<String>,
}
