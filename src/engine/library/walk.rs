//! The crew of a scan: threads that take folders and files from one queue, look at what the cache does not know and send news home.

use std::collections::{HashMap, HashSet};
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Root;
use super::cache::{Cache, Known};
use super::entry::{EntryKind, Facts, Stamp};
use super::read::{promised, read};
use super::scan::{Found, Progress};
use crate::engine::error::{Error, ErrorKind};
use crate::engine::io::PARTIAL;
use crate::engine::io::gate::{Gate, missing};
use crate::engine::io::locks::{LockState, LockTable, network_filesystem, state_at, unlocked_on};
use crate::engine::io::sys;

/// Folders that are not walked: version control, package trees, and snapshots that hold every image once more.
const SKIPPED: &[&str] = &[".git", ".hg", ".svn", "node_modules", "lost+found", ".snapshot", ".snapshots", ".zfs"];

/// Filesystems without files (`f_type` of statfs): proc, sysfs, devpts, cgroups, debugfs, tracefs, securityfs, bpf, configfs, efivarfs,
/// mqueue, pstore, binfmt, autofs.
const PSEUDO: &[u64] = &[
    0x9fa0,
    0x6265_6572,
    0x1cd1,
    0x0027_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
    0x6265_6570,
    0xde5e_81e4,
    0x1980_0202,
    0x6165_676c,
    0x4249_4e4d,
    0x0187,
];

/// Files handed to a thread at once.
const CHUNK: usize = 16;

/// What a worker sends home.
#[derive(Default)]
pub(super) struct News {
    /// Images and unreadable folders.
    pub(super) found: Vec<Found>,
    /// Every file looked at, image or not.
    pub(super) seen: Vec<PathBuf>,
    /// What was read, for the cache.
    pub(super) read: Vec<(PathBuf, Known)>,
    /// The folder that was walked, if it was one.
    pub(super) folder: Option<PathBuf>,
}

/// A file to look at.
struct Job {
    path: PathBuf,
    root: usize,
    meta: Metadata,
    /// Somebody pointed at this very file.
    wanted: bool,
    /// Something called `.lck` is in its folder.
    lck: bool,
}

enum Task {
    Folder { path: PathBuf, root: usize },
    Files(Vec<Job>),
}

#[derive(Default)]
struct Queue {
    tasks: Vec<Task>,
    /// Workers that may still add tasks.
    busy: usize,
}

/// What a filesystem is, as far as scanning cares.
#[derive(Debug, Clone, Copy)]
struct Filesystem {
    pseudo: bool,
    network: Option<&'static str>,
}

/// Shared by the threads of a scan.
pub(super) struct Crew<'a> {
    cache: &'a Cache,
    gate: &'a Gate,
    roots: &'a [Root],
    cancel: &'a AtomicBool,
    locks: LockTable,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Folders walked (device, inode): a bind mount shows a folder twice.
    walked: Mutex<HashSet<(u64, u64)>>,
    filesystems: Mutex<HashMap<u64, Filesystem>>,
    folders: AtomicU64,
    files: AtomicU64,
    images: AtomicU64,
    cached: AtomicU64,
}

fn locked<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Crew<'a> {
    /// A crew with the roots in its queue.
    pub(super) fn new(cache: &'a Cache, gate: &'a Gate, roots: &'a [Root], cancel: &'a AtomicBool) -> Self {
        let task = |(root, r): (usize, &Root)| {
            let meta = std::fs::metadata(&r.real).ok().filter(|_| r.error.is_none())?;
            if meta.is_dir() {
                return Some(Task::Folder { path: r.real.clone(), root });
            }
            let lck = r.real.parent().is_some_and(has_lck);
            Some(Task::Files(vec![Job { path: r.real.clone(), root, meta, wanted: true, lck }]))
        };
        let tasks = roots.iter().enumerate().filter_map(task).collect();
        Crew {
            cache,
            gate,
            roots,
            cancel,
            locks: LockTable::read(),
            queue: Mutex::new(Queue { tasks, busy: 0 }),
            wake: Condvar::new(),
            walked: Mutex::default(),
            filesystems: Mutex::default(),
            folders: AtomicU64::new(0),
            files: AtomicU64::new(0),
            images: AtomicU64::new(0),
            cached: AtomicU64::new(0),
        }
    }

    pub(super) fn progress(&self) -> Progress {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Progress { folders: get(&self.folders), files: get(&self.files), images: get(&self.images), cached: get(&self.cached) }
    }

    /// Works until there is nothing left to do.
    pub(super) fn work(&self, home: &Sender<News>) {
        while let Some(task) = self.next() {
            match task {
                _ if self.cancelled() => {}
                Task::Folder { path, root } => self.folder(&path, root, home),
                Task::Files(jobs) => {
                    let mut news = News::default();
                    for job in jobs {
                        if !self.cancelled() {
                            self.file(job, &mut news);
                        }
                    }
                    // Nobody listens any more only when the scan is being given up.
                    let _ = home.send(news);
                }
            }
            locked(&self.queue).busy -= 1;
            self.wake.notify_all();
        }
    }

    pub(super) fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    fn next(&self) -> Option<Task> {
        let mut queue = locked(&self.queue);
        loop {
            if let Some(task) = queue.tasks.pop() {
                queue.busy += 1;
                return Some(task);
            }
            if queue.busy == 0 {
                return None;
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn add(&self, task: Task) {
        locked(&self.queue).tasks.push(task);
        self.wake.notify_one();
    }

    fn folder(&self, path: &Path, root: usize, home: &Sender<News>) {
        let mut news = News::default();
        let entries = match std::fs::metadata(path).and_then(|m| Ok((m, std::fs::read_dir(path)?))) {
            Err(e) => {
                news.found.extend(broken_folder(path, root, Error::from(e).op("read the folder").path(path)));
                let _ = home.send(news);
                return;
            }
            Ok((meta, entries)) => {
                let first = locked(&self.walked).insert((meta.dev(), meta.ino()));
                if !first || self.filesystem(meta.dev(), path).pseudo {
                    return;
                }
                entries
            }
        };
        self.folders.fetch_add(1, Ordering::Relaxed);
        news.folder = Some(path.to_path_buf());
        let entries: Vec<_> = entries.flatten().collect();
        let lck = entries.iter().any(|e| is_lck(&e.file_name()));
        let mut jobs = Vec::new();
        for entry in entries {
            let Ok(kind) = entry.file_type() else { continue };
            let path = entry.path();
            if kind.is_dir() {
                let name = entry.file_name();
                if !SKIPPED.iter().any(|s| name == *s) && !is_lck(&name) {
                    self.add(Task::Folder { path, root });
                }
                continue;
            }
            // An image that is still being made is none yet.
            if entry.file_name().as_encoded_bytes().ends_with(PARTIAL.as_bytes()) {
                continue;
            }
            self.files.fetch_add(1, Ordering::Relaxed);
            // Links, FIFOs and devices are looked at only when their name promises an image.
            if !kind.is_file() && promised(&path).is_none() {
                continue;
            }
            let Ok(meta) = entry.metadata() else { continue };
            if kind.is_symlink() {
                news.found.extend(self.link(path, root, &meta));
                continue;
            }
            let job = Job { path, root, meta, wanted: false, lck };
            // What the cache knows is settled here; what must be read is shared out.
            match self.cache.get(&job.path, Stamp::of(&job.meta)) {
                Some(known) => self.settle(job, known.clone(), &mut news),
                None => jobs.push(job),
            }
            if jobs.len() >= CHUNK {
                self.add(Task::Files(std::mem::take(&mut jobs)));
            }
            if news.found.len() >= 512 && home.send(std::mem::take(&mut news)).is_err() {
                return;
            }
        }
        if !jobs.is_empty() {
            self.add(Task::Files(jobs));
        }
        let _ = home.send(news);
    }

    /// A symbolic link whose name promises an image. Inside the roots its target is found by itself.
    fn link(&self, path: PathBuf, root: usize, meta: &Metadata) -> Option<Found> {
        let error = match std::fs::canonicalize(&path) {
            Err(_) => missing(&path, &path).op("follow the link"),
            Ok(real) if self.roots.iter().any(|r| real.starts_with(&r.real)) => return None,
            Ok(real) => Error::new(
                ErrorKind::Gated,
                format!("it is a link to {}, outside the folders that were opened; it was not followed", real.display()),
            )
            .path(&path)
            .hint("open that folder as well"),
        };
        let facts = Arc::new(Facts { error: Some(error), ..Facts::default() });
        self.images.fetch_add(1, Ordering::Relaxed);
        let lock = LockState::Unchecked;
        Some(Found { path, root, kind: EntryKind::Image, stamp: Stamp::of(meta), actual_size: 0, facts, allocated: None, lock })
    }

    /// Looks at a file that the cache does not know (roots that are files come here unasked).
    fn file(&self, job: Job, news: &mut News) {
        let stamp = Stamp::of(&job.meta);
        if let Some(known) = self.cache.get(&job.path, stamp).filter(|k| k.facts.is_some() || !job.wanted) {
            return self.settle(job, known.clone(), news);
        }
        // A defect of ours in a format must not take the whole scan with it.
        let facts = catch_unwind(AssertUnwindSafe(|| read(&job.path, self.gate, job.wanted))).unwrap_or_else(|_| {
            let error = Error::new(ErrorKind::Internal, "reading it failed in an unforeseen way").path(&job.path);
            Some(Facts { error: Some(error.hint("please report this with the image's first mebibyte")), ..Facts::default() })
        });
        let known = Known { stamp, facts: facts.map(Arc::new), allocated: None };
        news.read.push((job.path.clone(), known.clone()));
        self.show(job, known, news);
    }

    /// A file whose facts the cache knew.
    fn settle(&self, job: Job, known: Known, news: &mut News) {
        self.cached.fetch_add(1, Ordering::Relaxed);
        self.show(job, known, news);
    }

    fn show(&self, job: Job, known: Known, news: &mut News) {
        news.seen.push(job.path.clone());
        let Some(facts) = known.facts else { return };
        self.images.fetch_add(1, Ordering::Relaxed);
        let own = if job.meta.file_type().is_block_device() { facts.virtual_size.unwrap_or(0) } else { job.meta.blocks() * 512 };
        let blocks = |m: &super::entry::Member| std::fs::metadata(&m.path).map_or(0, |m| m.blocks() * 512);
        let actual_size = facts.members.iter().map(blocks).fold(own, u64::saturating_add);
        let lock = self.lock(&job, &facts);
        news.found.push(Found {
            path: job.path,
            root: job.root,
            kind: EntryKind::Image,
            stamp: known.stamp,
            actual_size,
            facts,
            allocated: known.allocated,
            lock,
        });
    }

    /// Who holds it: asked of the system's table, closer only where there may be somebody.
    fn lock(&self, job: &Job, facts: &Facts) -> LockState {
        if !self.locks.is_known() || facts.format.is_none() {
            return LockState::Unchecked;
        }
        if job.lck || self.locks.may_be_held(job.meta.ino()) {
            let state = state_at(&job.path);
            if state.in_use() {
                return state;
            }
        }
        for m in facts.members.iter().filter(|m| self.locks.may_be_held(m.stamp.ino)) {
            let state = state_at(&m.path);
            if state.in_use() {
                return state;
            }
        }
        unlocked_on(self.filesystem(job.meta.dev(), job.path.parent().unwrap_or(Path::new("/"))).network)
    }

    /// What the filesystem `dev` is, which holds the folder `at`.
    fn filesystem(&self, dev: u64, at: &Path) -> Filesystem {
        if let Some(known) = locked(&self.filesystems).get(&dev) {
            return *known;
        }
        let dir = File::open(at).ok();
        let kind = dir.as_ref().and_then(|d| sys::filesystem_type(d).ok());
        let fs = Filesystem {
            pseudo: kind.is_some_and(|k| PSEUDO.contains(&(k & 0xffff_ffff))),
            network: dir.as_ref().and_then(network_filesystem),
        };
        locked(&self.filesystems).insert(dev, fs);
        fs
    }

    /// Looks at a file that an image refers to and that was not walked over: beside a root that is an image, or without a signature.
    pub(super) fn referenced(&self, path: &Path, root: usize) -> News {
        let mut news = News::default();
        if let Ok(meta) = std::fs::metadata(path) {
            let lck = path.parent().is_some_and(has_lck);
            self.file(Job { path: path.to_path_buf(), root, meta, wanted: true, lck }, &mut news);
        }
        news
    }
}

fn is_lck(name: &std::ffi::OsStr) -> bool {
    Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case("lck"))
}

fn has_lck(dir: &Path) -> bool {
    std::fs::read_dir(dir).into_iter().flatten().flatten().any(|e| is_lck(&e.file_name()))
}

fn broken_folder(path: &Path, root: usize, error: Error) -> Option<Found> {
    let stamp = std::fs::symlink_metadata(path).map(|m| Stamp::of(&m)).ok()?;
    let facts = Arc::new(Facts { error: Some(error), ..Facts::default() });
    let lock = LockState::Unchecked;
    Some(Found { path: path.to_path_buf(), root, kind: EntryKind::Folder, stamp, actual_size: 0, facts, allocated: None, lock })
}
