//! Who holds an image now, and holding one ourselves: QEMU's byte-range protocol on the file itself.

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
