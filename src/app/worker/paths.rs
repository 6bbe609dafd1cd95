//! A look at the disk for the paths a form asks for: whether a new file can be made there, whether an old one is there.

use std::path::{Path, PathBuf};

use crate::app::form::{Remark, Role};
use crate::app::message::Level;
use crate::engine::io::file::FileId;
use crate::engine::ops::stage::{replaceable, room};
use crate::engine::units::{GIB, KIB, MIB, TIB};

/// A path to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathCheck {
    /// The field it was typed into.
    pub field: &'static str,
    /// From the root on.
    pub path: PathBuf,
    /// What it is for.
    pub role: Role,
}

/// Looks.
pub fn look(check: &PathCheck) -> Remark {
    let remark = |level, text: String| Remark { level, text };
    let found = match &check.role {
        Role::New(others) => new_file(&check.path, others),
        Role::Existing => existing(&check.path),
        Role::Free => match std::fs::symlink_metadata(&check.path) {
            Ok(meta) if meta.is_dir() => Ok((Level::Info, "goes into this folder, under its own name".into())),
            Ok(_) => Err("it is there already; nothing is replaced".into()),
            Err(_) => new_file(&check.path, &[]),
        },
    };
    match found {
        Ok((level, text)) => remark(level, text),
        Err(why) => remark(Level::Error, why),
    }
}

fn new_file(path: &Path, others: &[PathBuf]) -> Result<(Level, String), String> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let old = std::fs::metadata(path).ok();
    if let Some(meta) = &old {
        if meta.is_dir() {
            return Err("this is a folder: name the file to make in it".into());
        }
        let same = |o: &PathBuf| std::fs::metadata(o).is_ok_and(|m| FileId::of(&m) == FileId::of(meta));
        if others.iter().any(same) {
            return Err("this is the image that is read".into());
        }
        if std::os::unix::fs::FileTypeExt::is_block_device(&meta.file_type()) {
            return Ok((Level::Warning, "a block device: what it holds will be overwritten".into()));
        }
        replaceable(path).map_err(|e| e.why().to_string())?;
    }
    if path.file_name().is_none() || path.to_string_lossy().ends_with('/') {
        return Err("this names no file".into());
    }
    let free = room(folder).map_err(|e| e.why().to_string())?;
    match old {
        Some(_) => Ok((Level::Warning, "it is there already and will be replaced".into())),
        None => Ok((Level::Info, format!("a new file; {} free there", rough(free)))),
    }
}

fn existing(path: &Path) -> Result<(Level, String), String> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Err("this is a folder".into()),
        Ok(meta) => {
            std::fs::File::open(path).map_err(|e| format!("it cannot be read: {e}"))?;
            Ok((Level::Info, if meta.len() > 0 { format!("it is there, {}", rough(meta.len())) } else { "it is there".into() }))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(format!("there is no {}", path.display())),
        Err(e) => Err(e.to_string()),
    }
}

/// A size to a decimal, for a remark.
fn rough(bytes: u64) -> String {
    let units = [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(path: PathBuf, role: Role) -> (Level, String) {
        let r = look(&PathCheck { field: "target", path, role });
        (r.level, r.text)
    }

    #[test]
    fn says_what_a_person_must_know_of_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let (old, link) = (dir.path().join("old.raw"), dir.path().join("link.raw"));
        std::fs::write(&old, b"x").unwrap();
        std::fs::hard_link(&old, &link).unwrap();
        let new = |p: PathBuf| says(p, Role::New(vec![old.clone()]));
        assert_eq!(new(link), (Level::Error, "this is the image that is read".into()));
        assert_eq!(new(dir.path().to_path_buf()).0, Level::Error);
        let (level, text) = new(dir.path().join("new.raw"));
        assert!(level == Level::Info && text.starts_with("a new file; "), "{text}");
        assert_eq!(says(old.clone(), Role::New(Vec::new())).0, Level::Warning);
        assert!(new(dir.path().join("none/new.raw")).1.contains("folder"));
        assert_eq!(new("/proc/sys/new.raw".into()).0, Level::Error, "nothing can be made there, whoever asks");
        assert_eq!(says(old, Role::Existing).0, Level::Info);
        assert_eq!(says(dir.path().join("none"), Role::Existing).0, Level::Error);
    }
}
