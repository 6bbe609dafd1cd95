//! The gate: which files named inside an image may be opened. Names in images are hostile; a backing name of `/etc/passwd`,
//! `json:{…}` or `nbd://…` must lead nowhere unless a person allowed it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::file::FileDevice;
use super::sys;
use crate::engine::error::{Context, Error, ErrorKind, Result};

/// The folders below which referenced files may be opened.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    /// Real paths (no symbolic links).
    roots: Vec<PathBuf>,
    follow: bool,
}

impl Gate {
    /// Nothing may be opened.
    pub fn closed() -> Self {
        Gate::default()
    }
    /// The folder of the image at `path` and everything below it; of a symbolic link the folder it is in as well, as names in
    /// the image are read relative to that.
    pub fn around(path: &Path) -> Self {
        let here = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut gate = Gate::default().allow(here);
        if let Ok(real) = std::fs::canonicalize(path)
            && let Some(dir) = real.parent()
        {
            gate.roots.push(dir.to_path_buf());
        }
        gate
    }
    /// Also everything below `root` (a library root).
    pub fn allow(mut self, root: &Path) -> Self {
        if let Ok(real) = std::fs::canonicalize(root) {
            self.roots.push(real);
        }
        self
    }
    /// Follow every name to a regular file or block device (`--follow`).
    pub fn follow(mut self, follow: bool) -> Self {
        self.follow = follow;
        self
    }
    /// The allowed folders.
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// Where `name`, found in the image at `from`, points: the real path if it exists, else the plain joined one.
    /// Nothing is opened. Errors: a protocol or JSON name (`Gated`), an empty one or one with NUL (`Corrupt`).
    pub fn locate(&self, from: &Path, name: &str) -> Result<PathBuf> {
        let joined = named(from, name)?;
        Ok(std::fs::canonicalize(&joined).unwrap_or_else(|_| real_as_far_as_it_goes(&joined)))
    }

    /// Opens what `name`, found in the image at `from`, points to. Only regular files and block devices, never through the
    /// gate's edge. Errors: `Gated` (outside), `MissingReference` (not there), and what opening can fail with.
    pub fn open(&self, from: &Path, name: &str) -> Result<FileDevice> {
        self.open_named(from, name, false)
    }

    /// The same for reading and writing: an extent or data file of an image that is written in place.
    pub fn open_rw(&self, from: &Path, name: &str) -> Result<FileDevice> {
        self.open_named(from, name, true)
    }

    fn open_named(&self, from: &Path, name: &str, write: bool) -> Result<FileDevice> {
        let path = self.locate(from, name)?;
        self.open_with(&path, write).map_err(|e| if e.kind() == ErrorKind::NotFound { missing(&path, from) } else { e })
    }

    /// Opens the real path `path` if it lies within the gate.
    pub fn open_path(&self, path: &Path) -> Result<FileDevice> {
        self.open_with(path, false)
    }

    fn open_with(&self, path: &Path, write: bool) -> Result<FileDevice> {
        let plainly = || if write { FileDevice::open_rw(path) } else { FileDevice::open(path) };
        if self.follow {
            return plainly();
        }
        let Some((root, rel)) = self.roots.iter().find_map(|r| Some((r, path.strip_prefix(r).ok()?))) else {
            return Err(Error::new(
                ErrorKind::Gated,
                "an image names this file, which lies outside the allowed folders; it was not opened",
            )
            .path(path)
            .hint("add its folder as a library root, or use --follow if you trust the image"));
        };
        if rel.components().any(|c| !matches!(c, Component::Normal(_))) {
            return Err(Error::new(ErrorKind::Gated, "the name leaves the allowed folder").path(path));
        }
        let dir = File::open(root).op("open").path(root)?;
        let file = match sys::open_beneath(&dir, rel, write) {
            Ok(f) => f,
            Err(e) if e.raw_os_error() == Some(libc::ENOSYS) || e.raw_os_error() == Some(libc::EPERM) => {
                // No openat2 here (old kernel, seccomp): the path is real already, so plain open without links is as good.
                return plainly();
            }
            Err(e) => return Err(Error::from(e).op("open").path(path)),
        };
        FileDevice::from_file(file, path)
    }
}

/// Where `name`, found in the image at `from`, points as text alone: joined to the image's folder, `.` and `..` resolved without
/// looking at the disk. The same errors as [`Gate::locate`].
pub fn locate_text(from: &Path, name: &str) -> Result<PathBuf> {
    named(from, name).map(|p| plain(&p))
}

/// `name` joined to the folder of `from`, if it is the name of a file at all.
fn named(from: &Path, name: &str) -> Result<PathBuf> {
    let name = name.strip_prefix("file:").unwrap_or(name);
    if name.is_empty() || name.contains('\0') {
        return Err(Error::corrupt("an image names a file with an empty or impossible name").path(from));
    }
    if let Some(protocol) = protocol(name) {
        return Err(Error::new(
            ErrorKind::Gated,
            format!("the image names '{name}', which is a {protocol} address and not a file"),
        )
        .path(from)
        .hint("cowshed opens only local files; fetch it and relink the image"));
    }
    let dir = from.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(dir.join(OsStr::from_bytes(name.as_bytes())))
}

/// The error for a file that an image names and that is not there.
pub fn missing(path: &Path, from: &Path) -> Error {
    Error::new(ErrorKind::MissingReference, format!("the file that {} stands on is not there", from.display()))
        .path(path)
        .hint("it was moved or renamed: find it and relink the image to it")
}

/// The protocol of a name that is no file: `json`, `nbd`, `http`, … as QEMU reads names (text before the first `:` that comes
/// before any `/`). A Windows drive letter is no protocol.
fn protocol(name: &str) -> Option<&str> {
    let (head, _) = name.split_once(':')?;
    let plain = !head.is_empty() && head.chars().all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c));
    (plain && head.len() > 1).then_some(head)
}

/// `path` with `.` and `..` resolved as text.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for c in path.components() {
        match c {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            c => out.push(c),
        }
    }
    out
}

/// Where a file that is not there would be: its folder's real path when that exists, so that the gate can tell "missing" from
/// "outside" however the image itself was named.
fn real_as_far_as_it_goes(path: &Path) -> PathBuf {
    let folder = path.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
    match (folder.and_then(|f| std::fs::canonicalize(f).ok()), path.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => plain(&std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_base_is_missing_by_whatever_path_its_overlay_was_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("lib")).unwrap();
        std::fs::write(dir.path().join("lib/top"), b"x").unwrap();
        std::os::unix::fs::symlink("lib", dir.path().join("link")).unwrap();
        for top in [dir.path().join("lib/top"), dir.path().join("link/top"), dir.path().join("lib/../link/top")] {
            assert_eq!(
                Gate::around(&top).open(&top, "gone").unwrap_err().kind(),
                ErrorKind::MissingReference,
                "{}",
                top.display()
            );
        }
    }

    #[test]
    fn only_files_below_the_roots_open() {
        let dir = tempfile::tempdir().unwrap();
        let lib = dir.path().join("lib");
        std::fs::create_dir_all(lib.join("sub")).unwrap();
        std::fs::write(lib.join("sub/base"), b"x").unwrap();
        std::fs::write(dir.path().join("outside"), b"x").unwrap();
        std::os::unix::fs::symlink("../outside", lib.join("link")).unwrap();
        let top = lib.join("top");
        std::fs::write(&top, b"x").unwrap();
        let gate = Gate::around(&top);
        assert!(gate.open(&top, "sub/base").is_ok());
        assert!(gate.open(&top, "sub/../sub/base").is_ok());
        for name in ["../outside", "link", "/etc/passwd", "json:{}", "nbd:localhost:10809", "http://x/y"] {
            assert_eq!(gate.open(&top, name).unwrap_err().kind(), ErrorKind::Gated, "{name}");
        }
        assert_eq!(gate.open(&top, "gone").unwrap_err().kind(), ErrorKind::MissingReference);
        assert!(gate.clone().follow(true).open(&top, "link").is_ok());
        assert!(Gate::around(&top).allow(dir.path()).open(&top, "../outside").is_ok());
    }
}
