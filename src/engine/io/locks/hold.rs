//! Holding a file ourselves, so that QEMU and other cowsheds keep off (or know that we read).

use std::fs::File;

use super::ask::{other_tool, state};
use super::{Holder, KEEPS, LockState, RESIZE, USES, WRITE};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::io::ReadAt;
use crate::engine::io::file::FileDevice;
use crate::engine::io::sys;

/// What a file is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockMode {
    /// Reading that relies on the content: nobody may write meanwhile.
    Read,
    /// Reading that takes what it gets (`-U`): others may write, the content may be stale.
    Shared,
    /// Writing in place; the file's length stays.
    Write,
    /// Writing that may change the file's length, as most formats do when they grow.
    Resize,
}

impl LockMode {
    /// Permissions used, and permissions others may not use meanwhile.
    fn permissions(self) -> (&'static [u64], &'static [u64]) {
        match self {
            LockMode::Read => (&[0], &[WRITE, RESIZE]),
            LockMode::Shared => (&[0], &[]),
            LockMode::Write => (&[0, WRITE], &[WRITE, RESIZE]),
            LockMode::Resize => (&[0, WRITE, RESIZE], &[WRITE, RESIZE]),
        }
    }
    fn writes(self) -> bool {
        matches!(self, LockMode::Write | LockMode::Resize)
    }
    /// The bytes locked.
    fn bytes(self) -> Vec<u64> {
        let (uses, keeps) = self.permissions();
        uses.iter().map(|i| USES + i).chain(keeps.iter().map(|i| KEEPS + i)).collect()
    }
    /// The bytes where a lock of somebody else contradicts ours.
    fn tests(self) -> Vec<u64> {
        let (uses, keeps) = self.permissions();
        uses.iter().map(|i| KEEPS + i).chain(keeps.iter().map(|i| USES + i)).collect()
    }
}

/// Holds a file until it is dropped. The locks belong to the device's open file description, not to the process: closing another
/// descriptor of the same file does not lose them, a killed process frees them, and started programs do not inherit them.
#[derive(Debug)]
pub struct Guard {
    /// The same open file description as the device's.
    file: File,
    held: Vec<u64>,
    mode: LockMode,
    missing: Option<String>,
}

/// Holds the open file `dev` for `mode`. Take one guard for an open file; change it with [`Guard::change`].
///
/// Errors: `Locked`, naming who holds it where the system lets us see; nothing is held then. A filesystem without locks is no error:
/// the guard says so in [`Guard::missing`], and whoever writes must show it.
pub fn lock(dev: &FileDevice, mode: LockMode) -> Result<Guard> {
    let path = dev.path().unwrap_or(std::path::Path::new(""));
    let file = dev.file().try_clone().op("lock").path(path)?;
    let mut guard = Guard { file, held: Vec::new(), mode, missing: None };
    guard.change(dev, mode)?;
    Ok(guard)
}

impl Guard {
    /// What the file is held for.
    pub fn mode(&self) -> LockMode {
        self.mode
    }
    /// Why nothing is really held, on a filesystem without locks.
    pub fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// Holds the same file for another purpose. On an error what was held before is still held, and nothing else.
    pub fn change(&mut self, dev: &FileDevice, mode: LockMode) -> Result<()> {
        let wanted = mode.bytes();
        let added: Vec<u64> = wanted.iter().copied().filter(|b| !self.held.contains(b)).collect();
        match self.add(dev, mode, &added) {
            Ok(missing) => self.missing = missing,
            Err(e) => {
                self.release(&added);
                return Err(e);
            }
        }
        let surplus: Vec<u64> = self.held.iter().copied().filter(|b| !wanted.contains(b)).collect();
        self.release(&surplus);
        self.held = wanted;
        self.mode = mode;
        Ok(())
    }

    /// Locks `added`, then tests what others mean. `Ok(Some)` says why locks do not work here.
    fn add(&self, dev: &FileDevice, mode: LockMode, added: &[u64]) -> Result<Option<String>> {
        for &byte in added {
            match sys::read_lock_byte(&self.file, byte, true) {
                Ok(true) => {}
                Ok(false) => return Err(conflict(dev, mode)),
                Err(e) => return Ok(Some(format!("the filesystem does not lock: {e}"))),
            }
        }
        for byte in mode.tests() {
            match sys::foreign_lock(&self.file, byte, 1) {
                Ok(None) => {}
                Ok(Some(_)) => return Err(conflict(dev, mode)),
                Err(e) => return Ok(Some(format!("the filesystem cannot test locks: {e}"))),
            }
        }
        if mode.writes() && other_tool(dev).is_some() {
            return Err(conflict(dev, mode));
        }
        Ok(None)
    }

    fn release(&self, bytes: &[u64]) {
        for &byte in bytes {
            // It cannot be helped when this fails; closing the file ends the lock anyway.
            let _ = sys::read_lock_byte(&self.file, byte, false);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.release(&self.held);
    }
}

/// The error that names who is in the way.
fn conflict(dev: &FileDevice, mode: LockMode) -> Error {
    let state = state(dev);
    let names = state.holders().iter().map(Holder::to_string).collect::<Vec<_>>().join(", ");
    let why = match &state {
        LockState::Writer(_) => format!("it is in use: {names} writes it"),
        LockState::Readers(_) => format!("it is in use: {names} reads it and relies on its content"),
        LockState::Other(how, h) if h.is_empty() => format!("it is in use: there is {how}"),
        LockState::Other(how, _) => format!("it is in use: {names} holds {how}"),
        _ => "it is in use by another process".to_string(),
    };
    let hint = match (&state, mode.writes()) {
        (LockState::Other(how, _), _) if how.starts_with("/dev/loop") => "unmount what is on it, and detach it with losetup -d",
        (LockState::Other(_, h), _) if h.is_empty() => "if no program has it open, the lock was left behind: remove it",
        (_, true) => "stop the machine or program that uses it, then try again",
        (_, false) => "stop the machine that uses it, or read it as it is with -U (it may be stale)",
    };
    let error = Error::new(ErrorKind::Locked, why).op("lock").hint(hint);
    match dev.path() {
        Some(p) => error.path(p),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::io::locks::{LockTable, state_at};

    fn file() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, [0u8; 4096]).unwrap();
        (dir, path)
    }

    #[test]
    fn readers_stand_together_and_exclude_writers() {
        let (_dir, path) = file();
        let (a, b, c) = (FileDevice::open(&path).unwrap(), FileDevice::open(&path).unwrap(), FileDevice::open_rw(&path).unwrap());
        assert_eq!(state(&a), LockState::Free);
        let one = lock(&a, LockMode::Read).unwrap();
        let two = lock(&b, LockMode::Read).unwrap();
        assert!(matches!(state(&c), LockState::Readers(_)));
        for mode in [LockMode::Write, LockMode::Resize] {
            let e = lock(&c, mode).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Locked);
            assert!(e.why().contains(&format!("pid {}", std::process::id())), "{e}");
        }
        drop(one);
        assert!(lock(&c, LockMode::Write).is_err(), "the second reader still holds it");
        drop(two);
        // Nothing was left behind by the failed attempts.
        assert_eq!(state(&a), LockState::Free);
        let writer = lock(&c, LockMode::Write).unwrap();
        assert!(matches!(state(&a), LockState::Writer(_)));
        assert_eq!(lock(&a, LockMode::Read).unwrap_err().kind(), ErrorKind::Locked);
        assert!(lock(&a, LockMode::Shared).is_ok());
        drop(writer);
        assert_eq!(state_at(&path), LockState::Free);
    }

    #[test]
    fn a_failed_change_keeps_what_was_held() {
        let (_dir, path) = file();
        let (a, b) = (FileDevice::open_rw(&path).unwrap(), FileDevice::open(&path).unwrap());
        let mut guard = lock(&a, LockMode::Read).unwrap();
        let other = lock(&b, LockMode::Read).unwrap();
        assert!(guard.change(&a, LockMode::Resize).is_err());
        assert_eq!(guard.mode(), LockMode::Read);
        assert!(matches!(state(&b), LockState::Readers(_)));
        drop(other);
        guard.change(&a, LockMode::Resize).unwrap();
        assert!(matches!(state(&b), LockState::Writer(_)));
        guard.change(&a, LockMode::Shared).unwrap();
        assert!(lock(&b, LockMode::Read).is_ok());
    }

    #[test]
    fn the_table_of_locks_knows_held_files() {
        use std::os::unix::fs::MetadataExt;
        let (_dir, path) = file();
        let dev = FileDevice::open(&path).unwrap();
        let _guard = lock(&dev, LockMode::Read).unwrap();
        let table = LockTable::read();
        assert!(table.is_known() && table.may_be_held(std::fs::metadata(&path).unwrap().ino()));
    }

    #[test]
    fn what_vmware_leaves_beside_a_disk_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.vmdk");
        std::fs::write(&path, b"x").unwrap();
        let dev = FileDevice::open_rw(&path).unwrap();
        std::fs::create_dir(dir.path().join("web.vmdk.lck")).unwrap();
        assert_eq!(state(&dev), LockState::Other("web.vmdk.lck beside it".into(), vec![]));
        assert_eq!(lock(&dev, LockMode::Write).unwrap_err().kind(), ErrorKind::Locked);
        assert!(lock(&dev, LockMode::Read).is_ok());
    }
}
