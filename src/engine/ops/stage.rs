//! New images under partial names: nothing stands under its final name before all of it is complete and durable.
//!
//! Order of a commit, and what a crash leaves after each step:
//!
//! 1. every file is flushed: partial files only (removed by the next attempt, or resumed);
//! 2. further files (extents, data files) get their names, and their folders are flushed: files that nothing refers to yet;
//! 3. the image file gets its name: the image is complete;
//! 4. its folder is flushed: the name is durable too.
//!
//! An old image of several files that is replaced, extents and all, loses its image file before step 2, so that it never stands on
//! new extents.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::write::NewFiles;
use crate::engine::io::direct::Direct;
use crate::engine::io::file::{FileDevice, FileId};
use crate::engine::io::locks::{self, Guard, LockMode};
use crate::engine::io::{ReadAt, WriteAt, WriteDevice, sys};

/// Bytes free in `folder`, where a new image is to be made.
///
/// Errors: the folder is not there or is none, or nothing can be made in it, with what to do.
pub fn room(folder: &Path) -> Result<u64> {
    if !folder.is_dir() {
        return Err(Error::new(ErrorKind::NotFound, "the folder the new image should lie in is not there")
            .op("create")
            .path(folder)
            .hint("make it first, or choose another"));
    }
    if !sys::may_write(folder) {
        return Err(Error::new(ErrorKind::Permission, "files cannot be made in this folder")
            .op("create")
            .path(folder)
            .hint("choose another, or ask its owner"));
    }
    sys::free_space(folder).op("ask the free space").path(folder)
}

/// Refuses a target that is there and is no regular file: nothing else is ever replaced.
pub fn replaceable(target: &Path) -> Result<()> {
    match std::fs::metadata(target) {
        Ok(meta) if !meta.is_file() => {
            Err(Error::usage("it is there already, and is no regular file that could be replaced").op("create").path(target))
        }
        _ => Ok(()),
    }
}

/// End of every partial file's name.
pub const SUFFIX: &str = crate::engine::io::PARTIAL;

/// The files of one new image. Dropped without a commit it removes them, unless they are kept for a resume.
pub struct Stage {
    /// Real path of the image to be.
    target: PathBuf,
    folder: PathBuf,
    files: Mutex<Vec<Staged>>,
    /// Files that must not be replaced: they are being read.
    protected: Vec<FileId>,
    keep: bool,
}

struct Staged {
    partial: PathBuf,
    to: PathBuf,
    dev: Arc<Direct>,
    /// Keeps others off.
    _guard: Guard,
}

impl Stage {
    /// A new, empty partial file for `target`. What an earlier attempt left is removed.
    ///
    /// Errors: `Locked` when another cowshed is making the same image; what making a file can fail with.
    pub fn new(target: &Path, protected: Vec<FileId>) -> Result<Stage> {
        let stage = Stage::empty(target, protected)?;
        let staged = stage.make(stage.target.clone())?;
        stage.files().push(staged);
        Ok(stage)
    }

    /// The partial files that an earlier attempt left for `target`, `extras` beside the image itself.
    ///
    /// Errors: as [`Stage::new`], and `NotFound`.
    pub fn resume(target: &Path, extras: &[String], protected: Vec<FileId>) -> Result<Stage> {
        let mut stage = Stage::empty(target, protected)?;
        // Until the caller is content with what it finds, nothing is removed.
        stage.keep = true;
        for to in std::iter::once(stage.target.clone()).chain(extras.iter().map(|n| stage.folder.join(n))) {
            let partial = partial_name(&to);
            let staged = staged(FileDevice::open_rw(&partial)?, partial, to)?;
            stage.files().push(staged);
        }
        Ok(stage)
    }

    fn empty(target: &Path, protected: Vec<FileId>) -> Result<Stage> {
        // A link is followed, as whoever opens the name would: the file it points to is replaced, not the link.
        let target = std::fs::canonicalize(target).unwrap_or_else(|_| target.to_path_buf());
        replaceable(&target)?;
        let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf();
        let meta = std::fs::metadata(&folder).op("create").path(&target)?;
        if !meta.is_dir() {
            return Err(Error::usage("it does not lie in a folder").op("create").path(&target));
        }
        Ok(Stage { target, folder, files: Mutex::default(), protected, keep: false })
    }

    fn files(&self) -> MutexGuard<'_, Vec<Staged>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, to: PathBuf) -> Result<Staged> {
        let old = std::fs::metadata(&to).ok();
        if let Some(meta) = &old
            && self.protected.contains(&FileId::of(meta))
        {
            return Err(Error::usage("the new image would replace a file that is being read").op("create").path(&to));
        }
        let partial = partial_name(&to);
        if let Ok(left) = FileDevice::open_rw(&partial) {
            drop(take(&left, &to)?);
            std::fs::remove_file(&partial).op("remove what an earlier attempt left").path(&partial)?;
        }
        let dev = FileDevice::create_new(&partial)?;
        if let Some(meta) = old.filter(std::fs::Metadata::is_file) {
            // Who could read the old file can read the new one. Its owner first, which may take bits of the mode away; that we
            // may not give files away, or that the filesystem has no modes, is no reason to stop.
            let _ = fchown(dev.file(), None, Some(meta.gid()));
            let _ = fchown(dev.file(), Some(meta.uid()), None);
            let _ = dev.file().set_permissions(meta.permissions());
        }
        staged(dev, partial, to)
    }

    /// The partial name of the image file.
    pub fn partial(&self) -> PathBuf {
        partial_name(&self.target)
    }
    /// Where the image will be.
    pub fn target(&self) -> &Path {
        &self.target
    }
    /// Paths of the further files handed out so far.
    pub fn extras(&self) -> Vec<String> {
        self.files().iter().skip(1).filter_map(|f| Some(f.to.to_str()?.to_string())).collect()
    }
    /// Bytes the files take on the host so far.
    pub fn allocated(&self) -> u64 {
        self.files().iter().map(|f| f.dev.allocated()).sum()
    }
    /// The files stay when this is dropped, so that a later run can go on.
    pub fn keep(&mut self, keep: bool) {
        self.keep = keep;
    }

    /// Makes every file durable, still under partial names. The long part of a commit.
    pub fn flush(&self) -> Result<()> {
        let devices: Vec<_> = self.files().iter().map(|f| f.dev.clone()).collect();
        devices.iter().try_for_each(|d| d.flush())
    }

    /// Gives every file its name, the image itself last; the names they have now. See the module for the order.
    pub fn commit(self) -> Result<Vec<PathBuf>> {
        self.flush()?;
        let files = std::mem::take(&mut *self.files());
        if files.iter().skip(1).any(|f| f.to.exists()) && self.target.is_file() {
            std::fs::remove_file(&self.target).op("replace").path(&self.target)?;
        }
        let (image, extras) = files.split_at(files.len().min(1));
        // The image never has its name before those it refers to have theirs, whatever order the filesystem keeps by itself.
        let renamed = named(extras).and_then(|()| named(image));
        let made = files.iter().rev().map(|f| f.to.clone()).collect();
        if let Err(e) = renamed {
            *self.files() = files;
            return Err(e);
        }
        Ok(made)
    }
}

/// Gives `files` their names, durably.
fn named(files: &[Staged]) -> Result<()> {
    files.iter().try_for_each(|f| std::fs::rename(&f.partial, &f.to).op("rename").path(&f.to))?;
    let mut folders: Vec<&Path> = files.iter().filter_map(|f| f.to.parent()).collect();
    folders.dedup();
    for folder in folders.into_iter().map(|f| if f.as_os_str().is_empty() { Path::new(".") } else { f }) {
        File::open(folder).and_then(|d| d.sync_all()).op("flush the folder").path(folder)?;
    }
    Ok(())
}

impl NewFiles for Stage {
    fn image(&self) -> WriteDevice {
        match self.files().first() {
            Some(f) => f.dev.clone(),
            // Never empty between construction and commit; memory stands in so that this cannot fail.
            None => Arc::new(crate::engine::io::memory::Memory::default()),
        }
    }
    fn extra(&self, name: &str) -> Result<WriteDevice> {
        // An extent lies beside the image; a data file lies where the option says, from the image's folder on.
        if Path::new(name).file_name().is_none() {
            return Err(Error::usage(format!("'{name}' is no name for a file")));
        }
        let to = self.folder.join(name);
        if let Some(f) = self.files().iter().find(|f| f.to == to) {
            return Ok(f.dev.clone());
        }
        let staged = self.make(to)?;
        let dev = staged.dev.clone();
        self.files().push(staged);
        Ok(dev)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.keep {
            for f in self.files().iter() {
                let _ = std::fs::remove_file(&f.partial);
            }
        }
    }
}

fn staged(dev: FileDevice, partial: PathBuf, to: PathBuf) -> Result<Staged> {
    let guard = take(&dev, &to)?;
    Ok(Staged { partial, to, dev: Arc::new(Direct::for_writing(dev)), _guard: guard })
}

/// Holds a partial file: off for QEMU, and for another cowshed that is asked for the same image.
fn take(dev: &FileDevice, to: &Path) -> Result<Guard> {
    let told = |e: Error| match e.kind() {
        ErrorKind::Locked => Error::new(ErrorKind::Locked, format!("it is being made now: {}", e.why()))
            .op("create")
            .path(to)
            .hint("see `cowshed jobs list`"),
        _ => e,
    };
    locks::lock(dev, LockMode::Resize).map_err(told)
}

/// The name under which `to` is made: hidden, in the same folder, so that a rename is enough.
pub fn partial_name(to: &Path) -> PathBuf {
    let name = to.file_name().unwrap_or_default();
    let mut partial = OsString::from(".");
    if name.len() + 1 + SUFFIX.len() <= 255 {
        partial.push(name);
    } else {
        // Too long for a name with more to it: a digest stands for it.
        let digest = Sha256::digest(name.as_encoded_bytes());
        partial.push(digest.iter().take(16).map(|b| format!("{b:02x}")).collect::<String>());
    }
    partial.push(SUFFIX);
    to.with_file_name(partial)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_its_name_before_the_commit() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("disk.vmdk");
        let stage = Stage::new(&target, vec![]).unwrap();
        stage.image().write_at(0, b"descriptor").unwrap();
        stage.extra("disk-f001.vmdk").unwrap().write_at(0, b"extent").unwrap();
        let names = || {
            let mut all: Vec<_> =
                std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            all.sort();
            all
        };
        assert_eq!(names(), [".disk-f001.vmdk.cowshed-partial", ".disk.vmdk.cowshed-partial"]);
        assert_eq!(Stage::new(&target, vec![]).err().unwrap().kind(), ErrorKind::Locked);
        stage.commit().unwrap();
        assert_eq!(names(), ["disk-f001.vmdk", "disk.vmdk"]);
        assert_eq!(std::fs::read(&target).unwrap(), b"descriptor");
    }

    #[test]
    fn dropped_it_leaves_nothing_and_kept_it_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a");
        drop(Stage::new(&target, vec![]).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let mut stage = Stage::new(&target, vec![]).unwrap();
        stage.image().write_at(0, b"half").unwrap();
        stage.keep(true);
        drop(stage);
        let stage = Stage::resume(&target, &[], vec![]).unwrap();
        assert_eq!(stage.image().len(), 4);
        stage.commit().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"half");
    }

    #[test]
    fn a_link_is_followed_and_a_source_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        std::fs::write(&real, b"old").unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        Stage::new(&link, vec![]).unwrap().commit().unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read(&real).unwrap(), b"");
        let id = FileId::of(&std::fs::metadata(&real).unwrap());
        assert_eq!(Stage::new(&real, vec![id]).err().unwrap().kind(), ErrorKind::Usage);
    }

    #[test]
    fn the_longest_name_works() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("n".repeat(255));
        Stage::new(&target, vec![]).unwrap().commit().unwrap();
        assert!(target.is_file());
    }
}
