//! One file of the library as plain data: what reading it said ([`Facts`]), what the host says of it ([`Stamp`], lock, users) and
//! how it hangs together with the others (link to its parent, children, health). Nothing here reads anything.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::users::DomainUse;
use crate::engine::error::Error;
use crate::engine::format::Format;
use crate::engine::format::probe::Match;
use crate::engine::io::locks::LockState;
use crate::engine::model::{BackingRef, Identity};

/// Names an entry for as long as the library lives: a file keeps its id over rescans, and an id is never given to another path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(pub u32);

/// What the host says of a file; equal stamps mean that it was not changed and need not be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Stamp {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
    /// Length in bytes (0 for a block device: see [`Facts::virtual_size`]).
    pub len: u64,
    /// Last change of content, in nanoseconds since 1970 (at the limits of 64 bits where it lies beyond).
    pub mtime_ns: i64,
    /// Last change of the inode, in nanoseconds since 1970.
    pub ctime_ns: i64,
}

impl Stamp {
    /// The stamp in `meta`.
    pub fn of(meta: &Metadata) -> Self {
        let ns = |s: i64, n: i64| s.saturating_mul(1_000_000_000).saturating_add(n);
        Stamp {
            dev: meta.dev(),
            ino: meta.ino(),
            len: meta.len(),
            mtime_ns: ns(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: ns(meta.ctime(), meta.ctime_nsec()),
        }
    }
    /// Last change of content in whole seconds since 1970.
    pub fn modified(&self) -> i64 {
        self.mtime_ns.div_euclid(1_000_000_000)
    }
}

/// A further file an image consists of: a VMDK extent, a qcow2 data file. It is no entry of its own in the tree.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Member {
    /// Where.
    pub path: PathBuf,
    /// What the host said of it when the image was read.
    pub stamp: Stamp,
}

/// What reading a file said. Kept in the cache; shared, as it never changes for an unchanged file.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The format believed; `None` for what could not be looked at (unreadable, a FIFO, a folder).
    pub format: Option<Format>,
    /// Everything it may be, surest first, with the evidence.
    pub matches: Arc<[Match]>,
    /// Bytes a guest sees; `None` when it could not be opened.
    pub virtual_size: Option<u64>,
    /// Cluster, grain or block size in bytes, where the format has one.
    pub cluster_size: Option<u64>,
    /// Internal snapshots; `None` for formats that have none and for images that could not be opened.
    pub snapshots: Option<u32>,
    /// What it stands on, as it spells it. Hostile bytes.
    pub backing: Option<BackingRef>,
    /// What it says it is (UUID, CID).
    pub identity: Identity,
    /// Further files it consists of.
    pub members: Vec<Member>,
    /// It was not closed properly.
    pub dirty: bool,
    /// It says itself that it is damaged.
    pub corrupt: bool,
    /// How its content is encrypted.
    pub encrypted: Option<String>,
    /// Something in it is stored compressed.
    pub compressed: bool,
    /// What a person should know before trusting it.
    pub warnings: Vec<String>,
    /// Why it could not be opened as an image.
    pub error: Option<Error>,
}

/// Whether an image can be trusted, as far as scanning sees. A full check is another matter.
#[derive(Debug, Clone)]
pub enum Health {
    /// Nothing is known against it.
    Ok,
    /// It can be read, but a person should know these.
    Warning(Vec<String>),
    /// It, or the chain below it, cannot be read.
    Broken(Error),
}

/// The reference to what an image stands on.
#[derive(Debug, Clone)]
pub struct Backing {
    /// Every spelling in the image, best first; empty for a parent known only by UUID. Hostile: print through `units::printable`.
    pub spelled: Vec<String>,
    /// Format recorded for it, as the image spells it.
    pub format: Option<String>,
    /// Where it leads.
    pub link: Link,
}

/// Where a reference leads.
#[derive(Debug, Clone)]
pub enum Link {
    /// Not looked up yet (the scan still runs).
    Pending,
    /// To this entry.
    Entry(EntryId),
    /// To this entry, but the chain comes back to itself.
    Loop(EntryId, Error),
    /// To this entry, but it is not the one the child was made on (CID, UUID).
    Changed(EntryId, Error),
    /// To nothing that is there; with entries that may be it (it moved), best first.
    Missing(Error, Vec<Candidate>),
    /// Out of the allowed folders, or to no file at all (`json:`, `nbd:`); it was not opened.
    Gated(Error),
    /// To something that cannot be looked at.
    Failed(Error),
}

impl Link {
    /// The entry it leads to, right or wrong.
    pub fn entry(&self) -> Option<EntryId> {
        match self {
            Link::Entry(id) | Link::Loop(id, _) | Link::Changed(id, _) => Some(*id),
            _ => None,
        }
    }
    /// Why the chain cannot be read through here.
    pub fn error(&self) -> Option<&Error> {
        match self {
            Link::Loop(_, e) | Link::Changed(_, e) | Link::Missing(e, _) | Link::Gated(e) | Link::Failed(e) => Some(e),
            Link::Pending | Link::Entry(_) => None,
        }
    }
}

/// An entry that may be the parent an image misses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub id: EntryId,
    /// Why it may be, strongest first.
    pub evidence: Vec<String>,
    /// An identity (UUID, CID) proves it.
    pub proven: bool,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A disk image, or a file that claims to be one and is broken.
    Image,
    /// A folder that could not be read; its health says why.
    Folder,
}

/// A node of the library.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name within this library.
    pub id: EntryId,
    /// What it is.
    pub kind: EntryKind,
    /// Where it is: a real path below its root, or the root as it was given.
    pub path: PathBuf,
    /// Index into [`super::Library::roots`].
    pub root: usize,
    /// File name, safe to print.
    pub name: String,
    /// What reading it said.
    pub facts: Arc<Facts>,
    /// What the host says of it.
    pub stamp: Stamp,
    /// Bytes it and its members take on the host.
    pub actual_size: u64,
    /// Bytes of guest data it stores itself; `None` until somebody counted ([`super::allocated`], [`super::Library::set_allocated`]).
    pub allocated: Option<u64>,
    /// What it stands on.
    pub backing: Option<Backing>,
    /// What stands on it.
    pub children: Vec<EntryId>,
    /// The image this file is a part of (an extent, a data file): such entries are members and not shown in the tree.
    pub part_of: Option<EntryId>,
    /// Whether it can be trusted.
    pub health: Health,
    /// Who holds it, when it was last asked.
    pub lock: LockState,
    /// Which libvirt domains use it, itself or through an overlay's chain.
    pub users: Vec<DomainUse>,
}

impl Entry {
    /// The format believed.
    pub fn format(&self) -> Option<Format> {
        self.facts.format
    }
    /// Bytes a guest sees.
    pub fn virtual_size(&self) -> Option<u64> {
        self.facts.virtual_size
    }
    /// Length of the file in bytes.
    pub fn file_len(&self) -> u64 {
        self.stamp.len
    }
    /// How much of the virtual size it stores itself, 0 to 1; `None` until it is counted.
    pub fn share(&self) -> Option<f64> {
        let (have, of) = (self.allocated?, self.facts.virtual_size?);
        Some(if of == 0 { 0.0 } else { (have as f64 / of as f64).min(1.0) })
    }
    /// Last change of content, seconds since 1970.
    pub fn modified(&self) -> i64 {
        self.stamp.modified()
    }
    /// The folder it is in.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }
    /// It stands on something.
    pub fn is_overlay(&self) -> bool {
        self.backing.is_some()
    }
}
