//! Who holds a file now. Takes no lock: asking must not make another program fail.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::holders::{self, ProcLock};
use super::{Holder, KEEPS, LockState, PERMISSIONS, RESIZE, USES, WRITE};
use crate::engine::io::ReadAt;
use crate::engine::io::file::FileDevice;
use crate::engine::io::sys::{self, ForeignLock};
use crate::engine::units::printable;

/// Who holds the open file `dev` now. Costs a dozen system calls when it is free; naming the holders reads `/proc`.
pub fn state(dev: &FileDevice) -> LockState {
    let mut qemu = Vec::new();
    let mut writes = false;
    for base in [USES, KEEPS] {
        for i in 0..PERMISSIONS {
            match sys::foreign_lock(dev.file(), base + i, 1) {
                Err(e) => return LockState::Unknown(format!("the filesystem cannot test locks: {e}")),
                Ok(Some(lock)) if is_qemus(&lock) => {
                    writes |= base == USES && (i == WRITE || i == RESIZE);
                    qemu.push(lock);
                }
                Ok(_) => {}
            }
        }
    }
    if !qemu.is_empty() {
        let holders = holders_of(dev, &qemu);
        return if writes { LockState::Writer(holders) } else { LockState::Readers(holders) };
    }
    if let Some((how, holders)) = other_tool(dev) {
        return LockState::Other(how, holders);
    }
    unlocked_on(network_filesystem(dev.file()))
}

/// The state of a file on which no lock is to be seen, given the network filesystem it is on.
pub fn unlocked_on(network: Option<&str>) -> LockState {
    match network {
        Some(name) => LockState::Unknown(format!("it is on {name}, where locks of other machines cannot all be seen")),
        None => LockState::Free,
    }
}

/// The same for a file that is not open. A file that cannot be opened is of unknown state.
pub fn state_at(path: &Path) -> LockState {
    match FileDevice::open(path) {
        Ok(dev) => state(&dev),
        Err(e) => LockState::Unknown(e.why().to_string()),
    }
}

/// A lock as QEMU takes them: shared, within its bytes. (The kernel joins neighbouring bytes of one holder to a range.)
fn is_qemus(lock: &ForeignLock) -> bool {
    let end = lock.start.saturating_add(lock.len);
    !lock.exclusive && [USES, KEEPS].iter().any(|base| lock.start >= *base && end <= base + PERMISSIONS)
}

fn holders_of(dev: &FileDevice, locks: &[ForeignLock]) -> Vec<Holder> {
    let mut pids: Vec<u32> = locks.iter().filter_map(|l| l.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    if pids.is_empty() {
        let mut all = dev.id().map(holders::of).unwrap_or_default();
        // We may hold it as well, and are not who is in the way, unless it is another part of us.
        let others = |h: &Holder| h.pid != Some(std::process::id());
        if all.iter().any(others) {
            all.retain(others);
        }
        return all;
    }
    pids.into_iter().map(holders::named).collect()
}

/// A holder that does not follow QEMU's protocol: how it holds the file, and who it is.
pub(super) fn other_tool(dev: &FileDevice) -> Option<(String, Vec<Holder>)> {
    // Everything but QEMU's bytes, and QEMU's bytes for locks that are not as QEMU takes them.
    let gaps = [(0, USES), (USES + PERMISSIONS, KEEPS - USES - PERMISSIONS), (KEEPS + PERMISSIONS, 0)];
    let all = gaps.into_iter().chain([(USES, PERMISSIONS), (KEEPS, PERMISSIONS)]);
    for (start, len) in all {
        if let Ok(Some(lock)) = sys::foreign_lock(dev.file(), start, len)
            && !is_qemus(&lock)
        {
            let what = if lock.start == 0 && lock.len >= dev.len().max(1) {
                "a lock on the whole file".to_string()
            } else {
                format!("a lock on bytes from {} on", lock.start)
            };
            return Some((what, holders_of(dev, &[lock])));
        }
    }
    if let Some(holders) = flock_holders(dev) {
        return Some(("flock".to_string(), holders));
    }
    if let Some(name) = dev.id().ok().and_then(holders::loop_device) {
        return Some((format!("/dev/{name} attached to it"), Vec::new()));
    }
    let lck = lck_beside(dev.path()?)?;
    let name = lck.file_name().map(|n| printable(&n.to_string_lossy())).unwrap_or_default();
    Some((format!("{name} beside it"), Vec::new()))
}

/// Holders of a `flock`. Only `/proc/locks` shows one without taking it.
fn flock_holders(dev: &FileDevice) -> Option<Vec<Holder>> {
    let meta = dev.file().metadata().ok()?;
    let found: Vec<ProcLock> =
        holders::all()?.into_iter().filter(|l| l.class == "FLOCK" && holders::same_file(l, &meta)).collect();
    if found.is_empty() {
        return None;
    }
    // The inode number alone may be that of another filesystem's file: believe it only when a process shows it, or hides itself.
    let id = dev.id().ok()?;
    let seen = holders::of(id);
    let named = seen.iter().any(|h| h.pid.is_some());
    (named || found.iter().all(|l| l.pid.is_none())).then_some(seen)
}

/// The lock VMware keeps beside a disk (`web.vmdk.lck`) or beside the machine it belongs to (`web.vmx.lck`).
fn lck_beside(path: &Path) -> Option<PathBuf> {
    let mut own = path.as_os_str().to_owned();
    own.push(".lck");
    let own = PathBuf::from(own);
    if own.exists() {
        return Some(own);
    }
    if !path.extension().is_some_and(|e| e.eq_ignore_ascii_case("vmdk")) {
        return None;
    }
    let beside = std::fs::read_dir(path.parent()?).ok()?.flatten();
    beside.map(|e| e.path()).find(|p| p.to_string_lossy().to_ascii_lowercase().ends_with(".vmx.lck"))
}

/// The name of the network filesystem an open file or folder is on, if it is on one.
pub fn network_filesystem(file: &File) -> Option<&'static str> {
    Some(match sys::filesystem_type(file).ok()? & 0xffff_ffff {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x0102_1997 => "9P",
        0x00c3_6400 => "Ceph",
        0x5346_414f => "AFS",
        0x0116_1970 => "GFS2",
        0x7461_636f => "OCFS2",
        0x6573_5546 => "a FUSE filesystem",
        _ => return None,
    })
}

/// The files that anybody has locked, from one look at `/proc/locks`: a library of thousands of images asks this and opens only those
/// that may be held.
#[derive(Debug, Clone, Default)]
pub struct LockTable {
    inodes: Option<HashSet<u64>>,
}

impl LockTable {
    /// Looks now.
    pub fn read() -> Self {
        LockTable { inodes: holders::all().map(|all| all.into_iter().map(|l| l.ino).collect()) }
    }
    /// False when surely nobody has locked the file with this inode number. True asks for a closer look ([`state`]).
    pub fn may_be_held(&self, ino: u64) -> bool {
        self.inodes.as_ref().is_none_or(|all| all.contains(&ino))
    }
    /// False when the system did not let us look: then everything may be held.
    pub fn is_known(&self) -> bool {
        self.inodes.is_some()
    }
}
