//! The archive of the demo library: one zstd stream, a line of JSON that names the files and where in each there is data, then the
//! data of all files in that order. What is not data becomes a hole.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::engine::error::{Context, Error, ErrorKind, Result};

#[derive(serde::Deserialize)]
struct Index {
    files: Vec<Entry>,
}

#[derive(serde::Deserialize)]
struct Entry {
    path: PathBuf,
    size: u64,
    /// Seconds since 1970.
    mtime: u64,
    /// Offset and length of each stretch of data.
    data: Vec<(u64, u64)>,
}

/// Unpacks `archive` into the folder `dir`. A file that is there is left as it is; a new one appears under its name when whole.
///
/// Errors: the archive is damaged, or the folder cannot be written.
pub(super) fn unpack(archive: &[u8], dir: &Path) -> Result<()> {
    let mut stream = zstd::stream::read::Decoder::new(archive).op("unpack the demo library")?;
    // The recipe packs with a window of 128 MiB.
    stream.window_log_max(27).op("unpack the demo library")?;
    let mut stream = BufReader::with_capacity(1 << 16, stream);
    let mut line = Vec::new();
    stream.by_ref().take(4 << 20).read_until(b'\n', &mut line).op("unpack the demo library")?;
    let index: Index =
        serde_json::from_slice(&line).map_err(|e| Error::corrupt(format!("its index cannot be read: {e}")).op("unpack the demo library"))?;
    for entry in &index.files {
        if entry.path.components().any(|c| !matches!(c, Component::Normal(_))) {
            return Err(Error::corrupt("a name in it leaves the folder").op("unpack the demo library").path(&entry.path));
        }
        write(&mut stream, entry, &dir.join(&entry.path))?;
    }
    Ok(())
}

fn write(stream: &mut impl Read, entry: &Entry, path: &Path) -> Result<()> {
    const OP: &str = "unpack the demo library";
    if path.symlink_metadata().is_ok() {
        // Its data is passed over.
        let len: u64 = entry.data.iter().map(|d| d.1).sum();
        return std::io::copy(&mut stream.take(len), &mut std::io::sink()).op(OP).map(drop);
    }
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder).op(OP).path(folder)?;
    let partial = folder.join(format!(".unpacking-{}", std::process::id()));
    let file = File::create(&partial).op(OP).path(&partial)?;
    let written = fill(stream, entry, &file).and_then(|()| std::fs::rename(&partial, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    written.map_err(|e| match Error::from(e) {
        e if e.kind() == ErrorKind::Truncated => Error::corrupt("the archive ends early").op(OP).path(path),
        e => e.op(OP).path(path),
    })
}

fn fill(stream: &mut impl Read, entry: &Entry, file: &File) -> std::io::Result<()> {
    let mut buf = vec![0u8; 1 << 16];
    file.set_len(entry.size)?;
    for &(offset, len) in &entry.data {
        let mut done = 0;
        while done < len {
            let n = usize::try_from(len - done).unwrap_or(usize::MAX).min(buf.len());
            let (part, _) = buf.split_at_mut(n);
            stream.read_exact(part)?;
            file.write_all_at(part, offset + done)?;
            done += n as u64;
        }
    }
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(entry.mtime))
}
