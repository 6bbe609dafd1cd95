//! A scan: walks the roots on several threads, reads what changed, hands out what it finds as it goes, and keeps the cache.
//!
//! Walked are real folders; symbolic links to folders are not followed (so nothing loops), pseudo filesystems (`/proc`, `/sys`) and
//! folders that hold copies or no images by their nature (see `SKIPPED`) are passed over. Hidden folders are walked: desktop tools
//! keep machines below `~/.local`. A link to an image outside the roots is shown and not opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::cache::{Cache, Known};
use super::entry::{EntryKind, Facts, Stamp};
use super::resolve::resolve;
use super::walk::{Crew, News};
use super::{Domain, Root, users};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::io::gate::Gate;
use crate::engine::io::locks::LockState;
use crate::engine::io::sys;

/// What to scan, and how.
#[derive(Debug, Clone, Default)]
pub struct ScanOptions {
    /// Folders, images, block devices.
    pub roots: Vec<PathBuf>,
    /// File that keeps what is known between runs; `None` keeps nothing. Its folder is made when it is not there.
    pub cache: Option<PathBuf>,
    /// Folders with libvirt domain XML files (definitions).
    pub domain_folders: Vec<PathBuf>,
    /// Folders with the state of running domains (`/run/libvirt/qemu`).
    pub running_folders: Vec<PathBuf>,
    /// Threads that read; 0 takes as many as the machine has processors, at least 2 and at most 8.
    pub threads: usize,
}

/// Counts while a scan runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Progress {
    /// Folders walked.
    pub folders: u64,
    /// Files seen.
    pub files: u64,
    /// Images found, broken ones included.
    pub images: u64,
    /// Files, images or not, of which the cache knew everything, so that they were not read.
    pub cached: u64,
}

/// A file a scan found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where.
    pub path: PathBuf,
    /// Below which root.
    pub root: usize,
    /// What it is.
    pub kind: EntryKind,
    /// What the host says.
    pub stamp: Stamp,
    /// Bytes it and its members take on the host.
    pub actual_size: u64,
    /// What reading it, or the cache, said.
    pub facts: Arc<Facts>,
    /// Bytes of guest data, if the cache knows.
    pub allocated: Option<u64>,
    /// Who holds it.
    pub lock: LockState,
}

/// Where a reference leads that is not simply the path of another entry.
#[derive(Debug, Clone)]
pub enum Located {
    /// To this real path, which is an entry.
    Path(PathBuf),
    /// Nowhere: missing, gated, or failed.
    Error(Error),
}

/// News of a scan. Hand each to [`super::Library::apply`].
#[derive(Debug, Clone)]
pub enum ScanEvent {
    /// The scan begins, on these roots.
    Roots(Vec<Root>),
    /// Domains that were found.
    Domains(Vec<Domain>),
    /// A folder was walked, whether it holds images or not.
    Folder(PathBuf),
    /// Some files, new or seen before.
    Found(Vec<Found>),
    /// Where references lead that are no plain paths of entries: path of the child, and where.
    Located(Vec<(PathBuf, Located)>),
    /// How far it is.
    Progress(Progress),
    /// The end.
    Done {
        /// Everything was walked; entries not seen are gone. False when it was cancelled: then nothing is known about what was not seen.
        complete: bool,
        /// Why the cache could not be kept, if so.
        cache_error: Option<Error>,
    },
}

/// Scans the roots, calling `sink` on this thread as news come in. Returns when all is done or `cancel` is set.
///
/// Errors: only when no root can be read at all; everything else is in an entry's or a root's own error.
pub fn scan(options: &ScanOptions, cancel: &AtomicBool, mut sink: impl FnMut(ScanEvent)) -> Result<()> {
    let roots = roots(&options.roots);
    sink(ScanEvent::Roots(roots.clone()));
    if let Some(error) = roots.iter().map(|r| r.error.as_ref()).collect::<Option<Vec<_>>>() {
        sink(ScanEvent::Done { complete: true, cache_error: None });
        let first = error.into_iter().next().cloned();
        return Err(first.unwrap_or_else(|| Error::usage("there is nothing to scan").hint("name a folder or an image")));
    }
    sink(ScanEvent::Domains(users::domains(&options.domain_folders, &options.running_folders)));
    let mut cache = options.cache.as_deref().map(Cache::load).unwrap_or_default();
    let mut index = Index::default();
    let progress = {
        let gate = gate(&roots);
        let crew = Crew::new(&cache, &gate, &roots, cancel);
        let progress = walk(&crew, options.threads, &mut index, &mut sink);
        resolve(&crew, &gate, &mut index, &mut sink);
        Progress { images: index.images.len() as u64, ..progress }
    };
    sink(ScanEvent::Progress(progress));
    let complete = !cancel.load(Ordering::Relaxed);
    let cache_error =
        options.cache.as_deref().and_then(|path| keep(&mut cache, path, index, &roots, complete, progress.cached).err());
    sink(ScanEvent::Done { complete, cache_error });
    Ok(())
}

/// Notes in the cache file what counting the guest data of images said, so that it need not be counted again: path, stamp, bytes.
///
/// Errors: the file cannot be written.
pub fn keep_allocated(cache_file: &Path, counted: &[(PathBuf, Stamp, u64)]) -> Result<()> {
    let mut cache = Cache::load(cache_file);
    let news = counted.iter().filter(|(path, stamp, bytes)| cache.set_allocated(path, *stamp, *bytes)).count();
    if news > 0 { cache.save(cache_file) } else { Ok(()) }
}

/// What the scan saw so far: what resolving references and keeping the cache need.
#[derive(Default)]
pub(super) struct Index {
    /// Every image, with its root and facts.
    pub(super) images: Vec<(PathBuf, usize, Arc<Facts>)>,
    /// Every file walked over, image or not.
    pub(super) seen: Vec<PathBuf>,
    /// What was read and is not in the cache yet.
    pub(super) news: Vec<(PathBuf, Known)>,
}

impl Index {
    /// Takes a worker's news in and hands out what views want to know.
    pub(super) fn take(&mut self, news: News, sink: &mut dyn FnMut(ScanEvent)) {
        self.seen.extend(news.seen);
        self.news.extend(news.read);
        if let Some(folder) = news.folder {
            sink(ScanEvent::Folder(folder));
        }
        let images = news.found.iter().filter(|f| f.kind == EntryKind::Image);
        self.images.extend(images.map(|f| (f.path.clone(), f.root, f.facts.clone())));
        if !news.found.is_empty() {
            sink(ScanEvent::Found(news.found));
        }
    }
}

/// Lets the crew work and passes on what it finds, with the counts a few times a second.
fn walk(crew: &Crew<'_>, threads: usize, index: &mut Index, sink: &mut dyn FnMut(ScanEvent)) -> Progress {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 8),
        n => n,
    };
    let (tx, rx) = channel::<News>();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let tx = tx.clone();
            scope.spawn(move || crew.work(&tx));
        }
        drop(tx);
        let every = Duration::from_millis(50);
        let mut told = Instant::now();
        loop {
            match rx.recv_timeout(every) {
                Ok(news) => index.take(news, sink),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if told.elapsed() >= every {
                told = Instant::now();
                sink(ScanEvent::Progress(crew.progress()));
            }
        }
    });
    crew.progress()
}

/// `cached` files were found in the cache.
fn keep(cache: &mut Cache, path: &Path, index: Index, roots: &[Root], complete: bool, cached: u64) -> Result<()> {
    if index.news.is_empty() && cache.has(cached) {
        return Ok(());
    }
    let mut changed = !index.news.is_empty();
    for (path, known) in index.news {
        cache.put(path, known);
    }
    if complete {
        let reals: Vec<PathBuf> = roots.iter().map(|r| r.real.clone()).collect();
        changed |= cache.retain(&reals, &index.seen);
    }
    if changed { cache.save(path) } else { Ok(()) }
}

/// What images below the roots may refer to: anything below a root, or beside a root that is an image.
fn gate(roots: &[Root]) -> Gate {
    roots.iter().filter(|r| r.error.is_none()).fold(Gate::closed(), |gate, r| {
        if r.real.is_dir() { gate.allow(&r.real) } else { gate.allow(r.real.parent().unwrap_or(&r.real)) }
    })
}

/// The roots as they are on disk. One that lies within another is left out, as it is walked anyway.
fn roots(given: &[PathBuf]) -> Vec<Root> {
    let mut out: Vec<Root> = Vec::new();
    for path in given {
        let root = match real(path) {
            Ok(real) => Root { path: path.clone(), free: sys::free_space(&real).ok(), real, error: None },
            Err(e) => Root { path: path.clone(), real: path.clone(), error: Some(e), free: None },
        };
        if !out.iter().any(|r| root.error.is_none() && r.error.is_none() && root.real.starts_with(&r.real)) {
            out.retain(|r| root.error.is_some() || r.error.is_some() || !r.real.starts_with(&root.real));
            out.push(root);
        }
    }
    out
}

/// The real path of a root that can be read. A block device keeps the name it was given: `/dev/vg/lv` says more than `/dev/dm-3`.
fn real(path: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::FileTypeExt;
    let meta = std::fs::metadata(path).op("scan").path(path)?;
    if meta.file_type().is_block_device() {
        return std::path::absolute(path).op("scan").path(path);
    }
    let real = std::fs::canonicalize(path).op("scan").path(path)?;
    if meta.is_dir() {
        std::fs::read_dir(&real).op("scan").path(path)?;
    } else if !meta.is_file() {
        return Err(Error::new(ErrorKind::Usage, "it is neither a folder nor an image").op("scan").path(path));
    }
    Ok(real)
}
