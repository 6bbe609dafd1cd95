//! Guest filesystems behind one trait, whatever crate reads them. Nothing is mounted; names are bytes; links are not followed
//! here (that is `path.rs`).
//!
//! The crates behind it are young and the bytes hostile, so every call into them passes through [`guarded`]: a panic there is
//! an error here.

mod btrfs;
mod device;
mod ext;
mod ext_check;
mod ext_folder;
mod ext_groups;
mod ext_grow;
mod ext_holes;
mod ext_inodes;
mod ext_remove;
mod ext_replay;
mod ext_scrub;
mod ext_super;
mod ext_write;
mod fat;
mod grow;
mod iso;
mod refuse;
mod remove;
mod scrub;
mod threads;
mod write;
mod xfs;
mod xfs_check;
mod xfs_folder;
mod xfs_grow;
mod xfs_index;
mod xfs_inodes;
mod xfs_links;
mod xfs_log;
mod xfs_remove;
mod xfs_rows;
mod xfs_scrub;
mod xfs_write;

use std::cell::Cell;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ext::Ext;
pub use ext_replay::replay;
pub use grow::{Grown, can_grow, grow};
pub use refuse::refusal;
pub use remove::{Removal, remove_all};
pub use scrub::{Scrubbed, Traces, scrub, wipe};
pub(in crate::engine) use threads::side_by_side;
pub use write::{GuestWrite, Owner, open_rw};
use xfs::Xfs;

use super::recognise::{FsInfo, FsKind, recognise};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::io::Device;

/// A file's number in its filesystem (an inode, or a number of ours where there are none).
pub type Node = u64;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileType {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A FIFO, socket or device node.
    Special,
}

impl FileType {
    /// From the type bits of a Unix mode.
    pub fn of_mode(mode: u32) -> FileType {
        match mode & 0o170_000 {
            0o100_000 => FileType::File,
            0o040_000 => FileType::Folder,
            0o120_000 => FileType::Link,
            _ => FileType::Special,
        }
    }
}

/// Facts of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Its number.
    pub node: Node,
    /// What it is.
    pub kind: FileType,
    /// Permission bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Names it has.
    pub links: u32,
    /// Last change of its content, seconds since 1970 UTC.
    pub mtime: i64,
}

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, as stored; hostile.
    pub name: Vec<u8>,
    /// What it stands for.
    pub node: Node,
}

/// Where a part of a file lies on its volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileExtent {
    /// Byte in the file.
    pub offset: u64,
    /// Byte on the volume.
    pub place: u64,
    /// Bytes.
    pub len: u64,
}

/// A file, folder or other thing that a filesystem holds, whatever it is called.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    /// Its number.
    pub node: Node,
    /// What it is.
    pub kind: FileType,
    /// Bytes.
    pub size: u64,
    /// Where a regular file's content lies on the volume, as [`GuestFs::extents`] tells it.
    pub places: &'a [FileExtent],
}

/// A filesystem open for reading.
pub trait GuestFs: Send + Sync {
    /// What its superblock says.
    fn info(&self) -> &FsInfo;

    /// Its root folder.
    fn root(&self) -> Node;

    /// Facts of `node`.
    fn stat(&self, node: Node) -> Result<Stat>;

    /// The names in folder `dir`, without `.` and `..`.
    fn list(&self, dir: Node) -> Result<Vec<DirEntry>>;

    /// Calls `visit` with the names in folder `dir`, without `.` and `..`, and what each leads to.
    fn each_name(&self, dir: Node, visit: &mut dyn FnMut(&[u8], Node)) -> Result<()> {
        self.list(dir)?.iter().for_each(|e| visit(&e.name, e.node));
        Ok(())
    }

    /// What `name` stands for in folder `dir`.
    fn lookup(&self, dir: Node, name: &[u8]) -> Result<Option<Node>> {
        Ok(self.list(dir)?.into_iter().find(|e| e.name == name).map(|e| e.node))
    }

    /// Names that differ in case are different names: what is not listed cannot be found either.
    fn minds_case(&self) -> bool {
        true
    }

    /// Reads up to `buf.len()` bytes of a regular file from `offset` on; fewer only at its end.
    fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize>;

    /// The target of a symbolic link, as stored.
    fn read_link(&self, node: Node) -> Result<Vec<u8>>;

    /// Where a file's content lies on the volume, in the order of the file. Holes, inline and compressed parts are left out.
    /// Filesystems that cannot tell say `Unsupported`.
    fn extents(&self, node: Node) -> Result<Vec<FileExtent>> {
        let _ = node;
        Err(Error::unsupported(format!("where files lie in {} cannot be told yet", self.info().kind.name())))
    }

    /// Where everything that belongs to a file or folder lies, parts that are reserved and not written among it.
    fn allocated(&self, node: Node) -> Result<Vec<FileExtent>> {
        self.extents(node)
    }

    /// Calls `visit` with all that the filesystem holds, each once. A file that damage hides is left out.
    fn each_stored(&self, visit: &mut dyn FnMut(&Stored<'_>)) -> Result<()> {
        let (mut seen, mut todo) = (HashSet::from([self.root()]), vec![self.root()]);
        while let Some(node) = todo.pop() {
            let Ok(stat) = self.stat(node) else { continue };
            let places = if stat.kind == FileType::File { self.extents(node).unwrap_or_default() } else { Vec::new() };
            visit(&Stored { node, kind: stat.kind, size: stat.size, places: &places });
            if stat.kind == FileType::Folder {
                todo.extend(self.list(node).unwrap_or_default().into_iter().map(|e| e.node).filter(|n| seen.insert(*n)));
            }
        }
        Ok(())
    }

    /// Areas of the filesystem's own that have a name: calls `visit` with it, the offset and the length in bytes on the volume.
    fn own_areas(&self, visit: &mut dyn FnMut(&'static str, u64, u64)) -> Result<()> {
        let _ = visit;
        Ok(())
    }

    /// Our own check of the whole filesystem: what is wrong, in words; empty when nothing is. Filesystems that cannot be checked say
    /// `Unsupported`.
    fn check(&self) -> Result<Vec<String>> {
        Err(Error::unsupported(format!("{} cannot be checked", self.info().kind.name())))
    }

    /// Calls `visit` with each free range (offset and length in bytes on the volume), in ascending order.
    fn free_ranges(&self, visit: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let _ = visit;
        Err(Error::unsupported(format!("free space of {} cannot be listed yet", self.info().kind.name())))
    }
}

/// Opens the filesystem on `dev`.
///
/// Errors: nothing known is there, it is a container or a filesystem whose files cannot be read, or it is damaged.
pub fn open(dev: Device) -> Result<Box<dyn GuestFs>> {
    let Some(info) = recognise(dev.as_ref())? else {
        return Err(Error::new(ErrorKind::Format, "no filesystem is recognised there"));
    };
    match info.kind {
        FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4 => Ok(Box::new(Ext::open(dev, info)?)),
        FsKind::Xfs => Ok(Box::new(Xfs::open(dev, info)?)),
        FsKind::Btrfs => Ok(Box::new(btrfs::Btrfs::open(dev, info)?)),
        FsKind::Fat12 | FsKind::Fat16 | FsKind::Fat32 => Ok(Box::new(fat::Fat::open(dev, info)?)),
        FsKind::Iso9660 => Ok(Box::new(iso::Iso::open(dev, info)?)),
        other => Err(Error::unsupported(format!("files in {} cannot be read", other.name()))),
    }
}

thread_local! {
    static GUARDING: Cell<bool> = const { Cell::new(false) };
}

/// True while this thread is in a call whose panic becomes an error: a panic hook has nothing to tell then.
pub fn guarding() -> bool {
    GUARDING.get()
}

/// Runs a call into a filesystem crate; its errors get `what`, and a panic becomes an error.
fn guarded<T, E: std::fmt::Display>(what: &str, call: impl FnOnce() -> std::result::Result<T, E>) -> Result<T> {
    let outer = GUARDING.replace(true);
    let done = catch_unwind(AssertUnwindSafe(call));
    GUARDING.set(outer);
    match done {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(Error::corrupt(e.to_string()).op(what)),
        Err(_) => Err(Error::new(ErrorKind::Internal, "the filesystem reader gave up on damaged structures")
            .op(what)
            .hint("let the filesystem's own checker look at it")),
    }
}
