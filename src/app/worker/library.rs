//! The library's thread: scans the roots, then keeps an eye on them while somebody looks. It owns a library of its own and sends
//! copies, so that drawing never waits for it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::Outbox;
use crate::app::message::{Level, Message};
use crate::engine::io::gate::Gate;
use crate::engine::io::locks::{LockState, LockTable, state_at};
use crate::engine::library::{
    Duplicates, EntryId, Forest, Grouping, Library, Orphan, ScanEvent, ScanOptions, Stamp, allocated, duplicates, forest,
    keep_allocated, orphans, scan,
};

/// What the workbench shows of the library, so that the thread looks at that first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Watch {
    /// Entries on the screen, the selected one first. Empty when the library is not shown.
    pub entries: Vec<EntryId>,
    /// The grouping that forests are made for.
    pub grouping: Grouping,
}

/// The library as it is now.
#[derive(Debug)]
pub struct Snapshot {
    /// All of it.
    pub library: Library,
    /// Its forest, for the grouping that was asked for.
    pub forest: (Grouping, Forest),
    /// Overlays that seem to be of no use; known when the scan is over.
    pub orphans: Vec<Orphan>,
    /// Images that are there more than once; known when the scan is over.
    pub duplicates: Vec<Duplicates>,
}

enum Ask {
    Rescan,
    Watch(Watch),
}

/// The sender's end. Dropping it ends the thread.
pub struct LibraryWorker {
    asks: Sender<Ask>,
    cancel: Arc<AtomicBool>,
}

impl LibraryWorker {
    /// Starts the thread. Locks of what is shown are asked again every `every`, and files looked at for changes.
    ///
    /// Errors: the system gives no thread.
    pub fn spawn(options: ScanOptions, every: Duration, out: Outbox) -> std::io::Result<Self> {
        let (asks, inbox) = channel();
        let cancel = Arc::new(AtomicBool::new(false));
        let theirs = cancel.clone();
        std::thread::Builder::new().name("cowshed-library".into()).spawn(move || {
            Thread {
                options,
                every,
                out,
                inbox,
                cancel: theirs,
                library: Library::new(),
                watch: Watch::default(),
                uncountable: HashSet::new(),
            }
            .run();
        })?;
        Ok(LibraryWorker { asks, cancel })
    }
    /// Scans again now.
    pub fn rescan(&self) {
        let _ = self.asks.send(Ask::Rescan);
    }
    /// Says what is shown.
    pub fn watch(&self, watch: Watch) {
        let _ = self.asks.send(Ask::Watch(watch));
    }
}

impl Drop for LibraryWorker {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

struct Thread {
    options: ScanOptions,
    every: Duration,
    out: Outbox,
    inbox: Receiver<Ask>,
    cancel: Arc<AtomicBool>,
    library: Library,
    watch: Watch,
    /// Images whose tables could not be counted, so that it is not tried at every look.
    uncountable: HashSet<(EntryId, Stamp)>,
}

/// Every how many looks all files are looked at for changes, not only those shown and the folders.
const ALL_EVERY: u32 = 10;
/// Folders looked at every time, whether they hold images or not; where there are more, those without images have their turn with all.
const MANY_FOLDERS: usize = 4096;

impl Thread {
    fn run(mut self) {
        let mut cost = self.scan();
        let mut seen = self.look(true);
        let mut looks = 0u32;
        loop {
            // A scan that took long is not done again soon: at most a twentieth of the time goes into it.
            match self.inbox.recv_timeout(self.every.max(cost * 20)) {
                Ok(Ask::Rescan) => {
                    cost = self.scan();
                    seen = self.look(true);
                }
                Ok(Ask::Watch(watch)) => self.watch(watch),
                Err(RecvTimeoutError::Timeout) => {
                    if self.watch.entries.is_empty() && !self.library.is_empty() {
                        continue; // nobody looks
                    }
                    looks = looks.wrapping_add(1);
                    let now = self.look(looks.is_multiple_of(ALL_EVERY));
                    // Only what was looked at both times can have changed.
                    if now.iter().any(|(path, stamp)| seen.get(path).is_none_or(|old| old != stamp)) {
                        cost = self.scan();
                        seen = self.look(true);
                    } else {
                        seen.extend(now);
                    }
                    self.check_locks();
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.cancel.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Takes the newest watch; what came into view is looked at at once.
    fn watch(&mut self, mut watch: Watch) {
        while let Ok(ask) = self.inbox.try_recv() {
            match ask {
                Ask::Watch(newer) => watch = newer,
                Ask::Rescan => {
                    self.scan();
                }
            }
        }
        self.watch = watch;
        self.check_locks();
        self.count();
    }

    /// Scans once; says how long it took.
    fn scan(&mut self) -> Duration {
        let start = Instant::now();
        let mut next = start;
        let (library, out, grouping) = (&mut self.library, &self.out, self.watch.grouping);
        let result = scan(&self.options.clone(), &self.cancel, |event| {
            let done = matches!(event, ScanEvent::Done { .. });
            library.apply(event);
            if !done && Instant::now() >= next {
                let from = Instant::now();
                send(library, grouping, out);
                // Telling how far it is must not be what it spends its time on.
                next = Instant::now() + (from.elapsed() * 5).max(Duration::from_millis(120));
            }
        });
        if let Err(e) = result {
            let _ = self.out.send(Message::Told(e.to_string().into(), Level::Error));
        }
        self.library.scanning = false;
        send(&mut self.library, self.watch.grouping, &self.out);
        let cost = start.elapsed();
        self.count();
        cost
    }

    /// Stamps of the folders, and of the files shown (or of all).
    fn look(&self, all: bool) -> BTreeMap<PathBuf, Option<Stamp>> {
        let mut paths: BTreeSet<&std::path::Path> = self.library.roots.iter().map(|r| r.real.as_path()).collect();
        paths.extend(self.library.iter().map(|e| e.folder()));
        if all || self.library.folders.len() <= MANY_FOLDERS {
            paths.extend(self.library.folders.iter().map(PathBuf::as_path));
        }
        if all {
            paths.extend(self.library.iter().map(|e| e.path.as_path()));
        } else {
            paths.extend(self.watch.entries.iter().filter_map(|id| self.library.get(*id)).map(|e| e.path.as_path()));
        }
        paths.into_iter().map(|p| (p.to_path_buf(), std::fs::metadata(p).ok().map(|m| Stamp::of(&m)))).collect()
    }

    /// Asks who holds what is shown, and tells what changed.
    fn check_locks(&mut self) {
        let table = LockTable::read();
        let mut news = Vec::new();
        for id in &self.watch.entries {
            let Some(entry) = self.library.get(*id) else { continue };
            let now =
                if table.is_known() && !table.may_be_held(entry.stamp.ino) { LockState::Free } else { state_at(&entry.path) };
            if now != entry.lock {
                news.push((*id, now));
            }
        }
        for (id, lock) in &news {
            self.library.set_lock(*id, lock.clone());
        }
        if !news.is_empty() {
            let _ = self.out.send(Message::Locks(news));
        }
    }

    /// Counts what the images shown store themselves, where nobody did yet; stops when something else is asked for.
    fn count(&mut self) {
        let gate = self.library.roots.iter().fold(Gate::closed(), |gate, r| gate.allow(&r.real));
        let mut counted = Vec::new();
        for id in self.watch.entries.clone() {
            let Some(entry) = self.library.get(id) else { continue };
            if entry.allocated.is_some() || entry.facts.error.is_some() || self.uncountable.contains(&(id, entry.stamp)) {
                continue;
            }
            let (path, stamp) = (entry.path.clone(), entry.stamp);
            match allocated(&path, &gate, &self.cancel) {
                Ok(bytes) => {
                    self.library.set_allocated(id, bytes);
                    counted.push((path, stamp, bytes));
                    let _ = self.out.send(Message::Allocated(vec![(id, bytes)]));
                }
                Err(_) => {
                    self.uncountable.insert((id, stamp));
                }
            }
        }
        if let Some(cache) = self.options.cache.as_deref().filter(|_| !counted.is_empty()) {
            // Counted again next time when it cannot be kept.
            let _ = keep_allocated(cache, &counted);
        }
    }
}

fn send(library: &mut Library, grouping: Grouping, out: &Outbox) {
    library.relink();
    let (orphans, duplicates) = if library.scanning { Default::default() } else { (orphans(library), duplicates(library)) };
    let snapshot = Snapshot { library: library.clone(), forest: (grouping, forest(library, grouping)), orphans, duplicates };
    let _ = out.send(Message::Library(Box::new(snapshot)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_in_a_folder_that_held_none_appears_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
        let options = ScanOptions { roots: vec![dir.path().to_path_buf()], ..ScanOptions::default() };
        let _worker = LibraryWorker::spawn(options, Duration::from_millis(20), tx).unwrap();
        let mut wait = |images: usize| {
            let until = Instant::now() + Duration::from_secs(20);
            while Instant::now() < until {
                match rx.try_recv() {
                    Ok(Message::Library(s)) if !s.library.scanning && s.library.len() == images => return true,
                    Ok(_) => {}
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
            false
        };
        assert!(wait(0), "the empty folder");
        // The clock of a folder's change has ticks.
        std::thread::sleep(Duration::from_millis(30));
        std::fs::File::create(deep.join("disk.raw")).unwrap().set_len(1 << 20).unwrap();
        assert!(wait(1), "the new image");
    }
}
