//! Which processes hold a lock on a file, as far as `/proc` lets us see. Locks of open file descriptions name no process; but the
//! process has the file open, and its `fdinfo` has a `lock:` line.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Holder;
use crate::engine::io::file::FileId;
use crate::engine::units::printable_bytes;

/// Processes named at most.
const MAX_HOLDERS: usize = 8;

/// The holder with this process id.
pub(super) fn named(pid: u32) -> Holder {
    let name = fs::read(format!("/proc/{pid}/comm")).ok().map(|b| printable_bytes(b.trim_ascii()));
    Holder { pid: Some(pid), name }
}

/// Every process that has the file open with a lock on it; a nameless one when there is none to see.
pub(super) fn of(id: FileId) -> Vec<Holder> {
    let mut found = Vec::new();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in pids.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok()) {
        if found.len() >= MAX_HOLDERS {
            break;
        }
        if holds(pid, id) {
            found.push(named(pid));
        }
    }
    if found.is_empty() {
        found.push(Holder { pid: None, name: None });
    }
    found
}

fn holds(pid: u32, id: FileId) -> bool {
    let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    infos.into_iter().any(|info| {
        let Ok(text) = fs::read_to_string(info.path()) else { return false };
        text.lines().any(|l| l.starts_with("lock:"))
            && fs::metadata(Path::new(&format!("/proc/{pid}/fd")).join(info.file_name())).is_ok_and(|m| FileId::of(&m) == id)
    })
}

/// The loop device that shows the file as a disk of this machine, if there is one: it may be mounted, and takes no lock.
pub(super) fn loop_device(id: FileId) -> Option<String> {
    let disks = fs::read_dir("/sys/block").ok()?.flatten();
    let mut loops = disks.filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.starts_with("loop"));
    loops.find(|name| {
        let Ok(file) = fs::read(format!("/sys/block/{name}/loop/backing_file")) else { return false };
        let path = Path::new(std::ffi::OsStr::from_bytes(file.strip_suffix(b"\n").unwrap_or(&file)));
        fs::metadata(path).is_ok_and(|m| FileId::of(&m) == id)
    })
}

/// One line of `/proc/locks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProcLock {
    /// `POSIX`, `OFDLCK`, `FLOCK`, …
    pub(super) class: String,
    /// The process, where the lock has one.
    pub(super) pid: Option<u32>,
    /// Inode of the file. The device is not compared: on some filesystems the number there is not the one `stat` gives.
    pub(super) ino: u64,
}

/// All locks that the system lets us see; `None` when `/proc/locks` cannot be read.
pub(super) fn all() -> Option<Vec<ProcLock>> {
    Some(fs::read_to_string("/proc/locks").ok()?.lines().filter_map(parse).collect())
}

/// `12: OFDLCK ADVISORY  READ -1 fe:01:1234 100 100`; a waiting lock has `->` after the number.
fn parse(line: &str) -> Option<ProcLock> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let class = words.next()?;
    if class == "->" {
        return None;
    }
    let pid = words.nth(2)?.parse::<i64>().ok()?;
    let ino = words.next()?.rsplit(':').next()?.parse().ok()?;
    Some(ProcLock { class: class.to_string(), pid: u32::try_from(pid).ok().filter(|p| *p > 0), ino })
}

/// True when `meta`'s inode is the one in `lock`.
pub(super) fn same_file(lock: &ProcLock, meta: &fs::Metadata) -> bool {
    lock.ino == meta.ino()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_locks() {
        let l = parse("3: OFDLCK ADVISORY  READ -1 fe:01:131 100 101").unwrap();
        assert_eq!(l, ProcLock { class: "OFDLCK".into(), pid: None, ino: 131 });
        assert_eq!(parse("4: FLOCK  ADVISORY  WRITE 812 00:19:77 0 EOF").unwrap().pid, Some(812));
        assert_eq!(parse("4: -> FLOCK  ADVISORY  WRITE 812 00:19:77 0 EOF"), None);
        assert_eq!(parse("nonsense"), None);
    }
}
