//! The engine's one error: what failed, where (path and offset), why, and what to do next.
//!
//! Structure is kept until the screen or the exit code decides how to say it. This module knows no terminal.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The engine's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it is; callers match on this, never on text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The host refused or failed: open, read, write, sync, … (source holds the system's own error).
    Io,
    /// The file or folder is not there.
    NotFound,
    /// The system does not let us.
    Permission,
    /// Bytes end before the structure does.
    Truncated,
    /// Bytes contradict the format's specification.
    Corrupt,
    /// Well formed, but nothing cowshed can do (yet): encrypted content, an unknown feature bit, …
    Unsupported,
    /// No format, or not the one that was asked for, was recognised.
    Format,
    /// A file named inside an image lies outside the allowed folders.
    Gated,
    /// A backing file, extent or parent is missing.
    MissingReference,
    /// A chain comes back to itself or is deeper than the cap.
    Loop,
    /// A parent is there but is not the one the child was made on (CID, UUID).
    ParentChanged,
    /// Another process holds the image.
    Locked,
    /// The caller asked for something that makes no sense.
    Usage,
    /// No space left where we write.
    NoSpace,
    /// A job was cancelled.
    Cancelled,
    /// A defect of ours, caught.
    Internal,
}

/// An engine error. Cheap to clone, so that a broken tree node can keep it.
#[derive(Debug, Clone)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    kind: ErrorKind,
    /// Why, as a sentence without the place.
    why: String,
    /// What was being done, e.g. `read L1 table`.
    op: Option<String>,
    path: Option<PathBuf>,
    /// Byte offset in `path`.
    offset: Option<u64>,
    hint: Option<String>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with the reason `why`.
    pub fn new(kind: ErrorKind, why: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, why: why.into(), op: None, path: None, offset: None, hint: None, source: None }))
    }
    /// Shorthand for [`ErrorKind::Corrupt`].
    pub fn corrupt(why: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, why)
    }
    /// Shorthand for [`ErrorKind::Unsupported`].
    pub fn unsupported(why: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, why)
    }
    /// Shorthand for [`ErrorKind::Usage`].
    pub fn usage(why: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, why)
    }
    /// Says what was being done.
    pub fn op(mut self, op: impl Into<String>) -> Self {
        self.0.op.get_or_insert_with(|| op.into());
        self
    }
    /// Says in which file; the innermost place wins.
    pub fn path(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path.get_or_insert_with(|| path.as_ref().to_path_buf());
        self
    }
    /// Says at which byte of the file.
    pub fn at(mut self, offset: u64) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }
    /// Says what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint.get_or_insert_with(|| hint.into());
        self
    }
    /// The sort of failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
    /// Why, without the place.
    pub fn why(&self) -> &str {
        &self.0.why
    }
    /// What was being done.
    pub fn operation(&self) -> Option<&str> {
        self.0.op.as_deref()
    }
    /// In which file.
    pub fn file(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }
    /// At which byte.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }
    /// What to do next.
    pub fn advice(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
    /// The host's error number, where the source is one.
    pub fn errno(&self) -> Option<i32> {
        self.0.source.as_ref()?.downcast_ref::<std::io::Error>()?.raw_os_error()
    }
}

/// `what, where: why`, without control bytes (names come from images).
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &self.0;
        let mut place = String::new();
        if let Some(op) = &e.op {
            place.push_str(op);
        }
        if let Some(path) = &e.path {
            if !place.is_empty() {
                place.push_str(", ");
            }
            place.push_str(&path.display().to_string());
        }
        if let Some(offset) = e.offset {
            place.push_str(&format!(" at byte {offset:#x}"));
        }
        let text = if place.is_empty() { e.why.clone() } else { format!("{place}: {}", e.why) };
        f.write_str(&super::units::printable(&text))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| s.as_ref() as &(dyn std::error::Error + 'static))
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let kind = match e.kind() {
            K::NotFound => ErrorKind::NotFound,
            K::PermissionDenied => ErrorKind::Permission,
            K::UnexpectedEof => ErrorKind::Truncated,
            K::StorageFull | K::QuotaExceeded => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        let mut out = Error::new(kind, e.to_string());
        out.0.source = Some(Arc::new(e));
        out
    }
}

/// Adds a place to whatever error passes.
pub trait Context<T> {
    /// Says what was being done.
    fn op(self, op: &str) -> Result<T>;
    /// Says in which file.
    fn path(self, path: impl AsRef<Path>) -> Result<T>;
    /// Says at which byte of the file.
    fn at(self, offset: u64) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn op(self, op: &str) -> Result<T> {
        self.map_err(|e| e.into().op(op))
    }
    fn path(self, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|e| e.into().path(path))
    }
    fn at(self, offset: u64) -> Result<T> {
        self.map_err(|e| e.into().at(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_where_why_and_hides_control_bytes() {
        let e =
            Error::corrupt("entry \x1b[31m is out of range").op("read L1 table").path("/a/b.qcow2").at(4096).hint("run check");
        assert_eq!(e.to_string(), "read L1 table, /a/b.qcow2 at byte 0x1000: entry \\x1b[31m is out of range");
        assert_eq!(e.advice(), Some("run check"));
    }

    #[test]
    fn keeps_the_innermost_place() {
        let e = Error::corrupt("x").path("/in").path("/out").at(1).at(2);
        assert_eq!(e.file(), Some(Path::new("/in")));
        assert_eq!(e.offset(), Some(1));
    }

    #[test]
    fn maps_full_disks() {
        let e: Error = std::io::Error::from_raw_os_error(libc::ENOSPC).into();
        assert_eq!((e.kind(), e.errno()), (ErrorKind::NoSpace, Some(libc::ENOSPC)));
    }
}
