//! Who holds an image now ([`state`]), and holding one ourselves ([`lock`]).
//!
//! QEMU's protocol: single bytes of the image file itself are read-locked through the open file description. Byte 100+i says "I use
//! permission i", byte 200+i says "nobody else may use permission i beside me"; i is 0 consistent read, 1 write, 2 write of the same
//! content, 3 resize. Whoever opens locks what it means and then tests what others mean. Programs with locks of their own (whole-file
//! locks, `flock`, `.lck` beside the image) are looked for as well. This module must not know any format.

mod ask;
mod hold;
mod holders;

pub use ask::{LockTable, network_filesystem, state, state_at, unlocked_on};
pub use hold::{Guard, LockMode, lock};

/// First byte of "I use permission i".
const USES: u64 = 100;
/// First byte of "nobody else may use permission i".
const KEEPS: u64 = 200;
/// Number of permissions.
const PERMISSIONS: u64 = 4;
/// Permission to write.
const WRITE: u64 = 1;
/// Permission to change the length.
const RESIZE: u64 = 3;

/// A process that holds an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Holder {
    /// Process id; `None` when the system does not let us see.
    pub pid: Option<u32>,
    /// Name of the program, safe to print; `None` when the system does not let us see.
    pub name: Option<String>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.name, self.pid) {
            (Some(name), Some(pid)) => write!(f, "{name} (pid {pid})"),
            (None, Some(pid)) => write!(f, "pid {pid}"),
            _ => f.write_str("another user's process"),
        }
    }
}

/// Who holds an image at the moment it was asked. Locks raise no events: ask again when it matters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum LockState {
    /// Not asked yet.
    #[default]
    Unchecked,
    /// Nobody holds it.
    Free,
    /// Programs read it and rely on its content (QEMU's protocol); it must not be written.
    Readers(Vec<Holder>),
    /// A program writes it (QEMU's protocol), as a running machine does; what is read may be stale.
    Writer(Vec<Holder>),
    /// A program that does not follow QEMU's protocol holds it; says how (`a lock on the whole file`, `flock`, `web.vmdk.lck`).
    Other(String, Vec<Holder>),
    /// It cannot be told here, and why (a network filesystem without locks).
    Unknown(String),
}

impl LockState {
    /// True when a person should see that it is in use.
    pub fn in_use(&self) -> bool {
        matches!(self, LockState::Readers(_) | LockState::Writer(_) | LockState::Other(..))
    }
    /// The processes known to hold it.
    pub fn holders(&self) -> &[Holder] {
        match self {
            LockState::Readers(h) | LockState::Writer(h) | LockState::Other(_, h) => h,
            _ => &[],
        }
    }
}

/// In a few words, for people: `free`, `written by qemu-system-x86 (pid 412)`.
impl std::fmt::Display for LockState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.holders().iter().map(Holder::to_string).collect::<Vec<_>>().join(", ");
        match self {
            LockState::Unchecked => f.write_str("not asked"),
            LockState::Free => f.write_str("free"),
            LockState::Readers(_) => write!(f, "read by {names}"),
            LockState::Writer(_) => write!(f, "written by {names}"),
            LockState::Other(how, h) if h.is_empty() => f.write_str(how),
            LockState::Other(how, _) => write!(f, "{how} held by {names}"),
            LockState::Unknown(why) => write!(f, "not known: {why}"),
        }
    }
}
