//! The trash of the desktop (freedesktop.org trash specification 1.0): a file that is deleted moves to a folder on its own
//! filesystem, with a note of where it was and when, so that any file manager can put it back.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::io::sys;

/// Names tried for one file.
const MAX_NAMES: u32 = 10_000;

/// Moves `file` to the trash; where it is now. `home` is the home trash (`$XDG_DATA_HOME/Trash`), used for what lies on its filesystem;
/// for other filesystems it is the one at their top.
///
/// Errors: there is no trash on that filesystem and none can be made; what renaming can fail with.
pub fn put(file: &Path, home: &Path) -> Result<PathBuf> {
    let folder = std::fs::canonicalize(super::convert::folder(file)).op("move to the trash").path(file)?;
    let name = file.file_name().ok_or_else(|| Error::usage("it has no name").path(file))?;
    let real = folder.join(name);
    let meta = std::fs::symlink_metadata(&real).op("move to the trash").path(&real)?;
    let (trash, recorded) = trash_of(&real, &meta, home)?;
    let (files, info) = (trash.join("files"), trash.join("info"));
    make(&files)?;
    make(&info)?;
    for n in 0..MAX_NAMES {
        let mut as_name = name.to_os_string();
        if n > 0 {
            as_name.push(format!(".{n}"));
        }
        let mut note_name = as_name.clone();
        note_name.push(".trashinfo");
        let (to, note) = (files.join(&as_name), info.join(&note_name));
        // The note is what reserves the name.
        let mut writer = match OpenOptions::new().write(true).create_new(true).open(&note) {
            Ok(w) => w,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(Error::from(e).op("move to the trash").path(&note)),
        };
        let text = format!("[Trash Info]\nPath={}\nDeletionDate={}\n", escaped(&recorded), now());
        let moved =
            writer.write_all(text.as_bytes()).and_then(|()| writer.sync_all()).op("move to the trash").path(&note).and_then(
                |()| {
                    if std::fs::symlink_metadata(&to).is_ok() {
                        return Err(Error::usage("there is a file of that name in the trash without a note").path(&to));
                    }
                    std::fs::rename(&real, &to).op("move to the trash").path(&real)
                },
            );
        if let Err(e) = moved {
            let _ = std::fs::remove_file(&note);
            return Err(e.hint("--forever deletes it without the trash"));
        }
        for dir in [&info, &files, &folder] {
            File::open(dir).and_then(|d| d.sync_all()).op("flush the folder").path(dir)?;
        }
        return Ok(to);
    }
    Err(Error::usage("the trash is full of files of that name").path(&real).hint("empty the trash"))
}

/// The trash for `file`, and the path its note has: absolute in the home trash, else from the top of the filesystem on.
fn trash_of(file: &Path, meta: &Metadata, home: &Path) -> Result<(PathBuf, PathBuf)> {
    make(home)?;
    if std::fs::metadata(home).is_ok_and(|m| m.dev() == meta.dev()) {
        return Ok((home.to_path_buf(), file.to_path_buf()));
    }
    let same = |p: &&Path| std::fs::metadata(p).is_ok_and(|m| m.dev() == meta.dev());
    let top = file.ancestors().skip(1).take_while(same).last().unwrap_or(Path::new("/"));
    let relative = file.strip_prefix(top).unwrap_or(file).to_path_buf();
    let uid = sys::user_id();
    // A common one counts only with the sticky bit, and when it is no link.
    let common = top.join(".Trash");
    let safe = std::fs::symlink_metadata(&common).is_ok_and(|m| m.is_dir() && m.permissions().mode() & 0o1000 != 0);
    let own = if safe { common.join(uid.to_string()) } else { top.join(format!(".Trash-{uid}")) };
    match make(&own) {
        Ok(()) => Ok((own, relative)),
        Err(e) => Err(Error::new(ErrorKind::Permission, format!("there is no trash on its filesystem: {}", e.why()))
            .op("move to the trash")
            .path(file)
            .hint("--forever deletes it without the trash")),
    }
}

/// Makes a folder that only its owner may enter, with those above it.
fn make(folder: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).op("make the trash").path(folder)
}

/// A path as a URI has it: bytes other than letters, digits and `-_.~/` as `%XX`.
fn escaped(path: &Path) -> String {
    let mut out = String::new();
    for b in path.as_os_str().as_bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => out.push(char::from(*b)),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// The local time as `YYYY-MM-DDThh:mm:ss`.
fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let [year, month, day, hour, minute, second] = sys::local_time(i64::try_from(seconds).unwrap_or(0));
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}
