//! Which images the jobs of this process hold: a writer excludes all others, readers share. (Other processes are kept out by
//! QEMU's byte-range locks, [`crate::engine::io::locks`].)

use std::path::{Path, PathBuf};

use super::state::JobId;
use crate::engine::io::file::FileId;

/// What identifies an image, whatever it is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize)]
pub enum ClaimKey {
    /// A file that is there: device and inode.
    File(FileId),
    /// A name that is about to exist: the folder's real path and the name.
    Name(PathBuf),
}

impl ClaimKey {
    /// The key of `path`: its identity if there is such a file, else its name in the real folder.
    pub fn of(path: &Path) -> ClaimKey {
        if let Ok(meta) = std::fs::metadata(path) {
            return ClaimKey::File(FileId::of(&meta));
        }
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf());
        ClaimKey::Name(folder.join(path.file_name().unwrap_or_default()))
    }
}

/// A file a job needs, and what for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Claim {
    /// Which.
    pub key: ClaimKey,
    /// Where it is, for messages.
    pub path: PathBuf,
    /// True: written; false: only read.
    pub write: bool,
}

impl Claim {
    /// A claim to read `path`.
    pub fn read(path: &Path) -> Claim {
        Claim { key: ClaimKey::of(path), path: path.to_path_buf(), write: false }
    }
    /// A claim to write `path`.
    pub fn write(path: &Path) -> Claim {
        Claim { key: ClaimKey::of(path), path: path.to_path_buf(), write: true }
    }
    /// True when the two cannot be held at once.
    pub fn excludes(&self, other: &Claim) -> bool {
        self.key == other.key && (self.write || other.write)
    }
}

/// The first of `wanted` that one of `held` excludes: which job holds it, and its path.
pub(super) fn conflict<'a>(
    wanted: &'a [Claim],
    held: impl IntoIterator<Item = (JobId, &'a [Claim])>,
) -> Option<(JobId, &'a Claim)> {
    for (id, claims) in held {
        if let Some(claim) = claims.iter().find(|h| wanted.iter().any(|w| w.excludes(h))) {
            return Some((id, claim));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_and_writers_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let a = dir.path().join("a");
        std::fs::write(&a, b"x").unwrap();
        let link = dir.path().join("link");
        std::fs::hard_link(&a, &link).unwrap();
        let (read, write, other) = (Claim::read(&a), Claim::write(&link), Claim::write(&dir.path().join("none")));
        assert!(!read.excludes(&Claim::read(&link)));
        assert!(read.excludes(&write) && write.excludes(&read) && write.excludes(&Claim::write(&a)));
        assert!(!other.excludes(&write));
        assert!(other.excludes(&Claim::read(&dir.path().join(".").join("none"))));
        let held = [(JobId(1), std::slice::from_ref(&read)), (JobId(2), std::slice::from_ref(&write))];
        assert_eq!(conflict(&[Claim::read(&link)], held).map(|(id, _)| id), Some(JobId(2)));
    }
}
