//! The file that undoes a repair: the metadata a repair changed as it was before, durable before the first write to the image.
//!
//! ```text
//!  "cowshed undo 1\n"
//!  u32 length, JSON: image, length, ranges in groups, when, what the check had found
//!  the bytes of every range, in the order of the JSON
//!  32 bytes SHA-256 of all before
//!  u32 length, JSON: the seal, written when the repair is done: length and time of the image, a hash of its structures
//!  32 bytes SHA-256 of the seal
//!  u32 length, JSON "undoing": written before the image is put back, so that a cut off undo can be done again
//! ```
//!
//! Numbers are big-endian. The seal tells an image that is as the repair left it from one that was changed since: only the first
//! can be put back. Without a seal the repair was cut off; the image is then as it was, or as the repair wanted it.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::check::Evidence;
use crate::engine::io::{ReadAt, WriteAt};

const MAGIC: &[u8] = b"cowshed undo 1\n";
/// Bytes of JSON, at most: what is larger was not written by us.
const MAX_JSON: u32 = 256 << 20;
/// Bytes copied at once.
const PIECE: u64 = 1 << 20;

/// What the file says before the bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Head {
    /// File name of the image.
    pub image: String,
    /// Bytes of the image before the repair.
    pub length: u64,
    /// Ranges of the image in groups: offset and length.
    pub groups: Vec<Vec<(u64, u64)>>,
    /// Seconds since 1970.
    pub date: u64,
    /// What the check had found: rules and how often.
    pub findings: Vec<(String, u64)>,
}

/// How the repair left the image.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Seal {
    length: u64,
    /// Seconds and nanoseconds of its last change; `None` for devices, which have none.
    modified: Option<(u64, u32)>,
    state: Vec<(u64, u64)>,
    hash: String,
}

/// An undo file being made.
pub struct UndoFile {
    file: std::fs::File,
    path: PathBuf,
}

/// The name beside `image` that is free: `disk.qcow2.cowshed-undo`, then `.cowshed-undo.2`, …
pub fn free_name(image: &Path) -> PathBuf {
    let name = |n: u32| {
        let mut name = image.file_name().unwrap_or_default().to_os_string();
        name.push(".cowshed-undo");
        if n > 1 {
            name.push(format!(".{n}"));
        }
        image.with_file_name(name)
    };
    (1..=u32::MAX).map(name).find(|p| std::fs::symlink_metadata(p).is_err()).unwrap_or_else(|| name(1))
}

/// The undo file made last for `image`, if there is one beside it.
pub fn newest(image: &Path) -> Option<PathBuf> {
    let mut found = None;
    let mut name = image.file_name()?.to_os_string();
    name.push(".cowshed-undo");
    let mut path = image.with_file_name(&name);
    for n in 2u32.. {
        if std::fs::symlink_metadata(&path).is_err() {
            break;
        }
        found = Some(path);
        let mut next = name.clone();
        next.push(format!(".{n}"));
        path = image.with_file_name(next);
    }
    found
}

impl UndoFile {
    /// Copies what `evidence` names out of `dev` to a new file at `path`, durably.
    ///
    /// Errors: there is such a file already; it cannot be written whole, and is removed then.
    pub fn save(
        path: &Path,
        image: &Path,
        dev: &dyn ReadAt,
        evidence: &Evidence,
        findings: Vec<(String, u64)>,
    ) -> Result<UndoFile> {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .op("make the undo file")
            .path(path)
            .map_err(|e| e.hint("--undo-file puts it elsewhere; without it nothing is repaired"))?;
        let mut out = UndoFile { file, path: path.to_path_buf() };
        let head = Head {
            image: image.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            length: evidence.length,
            groups: evidence.groups.clone(),
            date: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            findings,
        };
        match out.fill(dev, &head) {
            Ok(()) => Ok(out),
            Err(e) => {
                let _ = std::fs::remove_file(path);
                Err(e.op("save what the repair would change").path(path))
            }
        }
    }

    fn fill(&mut self, dev: &dyn ReadAt, head: &Head) -> Result<()> {
        let mut hash = Sha256::new();
        let mut put = |bytes: &[u8]| {
            hash.update(bytes);
            self.file.write_all(bytes)
        };
        let json = json(head)?;
        put(MAGIC)?;
        put(&(json.len() as u32).to_be_bytes())?;
        put(&json)?;
        for (offset, len) in head.groups.iter().flatten() {
            pieces(*offset, *len, |at, n| {
                let mut buf = vec![0; n];
                dev.read_at(at, &mut buf)?;
                Ok(put(&buf)?)
            })?;
        }
        let sum = hash.finalize();
        self.file.write_all(&sum)?;
        self.file.sync_all()?;
        sync_folder(&self.path)
    }

    /// The repair is done: notes how it left the image.
    pub fn seal(&mut self, dev: &dyn ReadAt, state: Vec<(u64, u64)>) -> Result<()> {
        let hash = hash(dev, &state)?;
        let json = json(&Seal { length: dev.len(), modified: modified(dev), state, hash })?;
        let write = |file: &mut std::fs::File| {
            file.write_all(&(json.len() as u32).to_be_bytes())?;
            file.write_all(&json)?;
            file.write_all(&Sha256::digest(&json))?;
            file.sync_all()
        };
        write(&mut self.file).op("seal the undo file").path(&self.path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Puts back what the undo file at `path` holds, into the image on `dev`. The file stays.
///
/// Errors: the file is damaged or not sealed; the image was changed since the repair (`Usage`). Nothing is written then.
pub fn restore(path: &Path, dev: &dyn WriteAt) -> Result<Head> {
    let mut file = std::fs::File::options().read(true).write(true).open(path).op("open the undo file").path(path)?;
    let (head, seal, again) = read(&mut file, dev).op("read the undo file").path(path)?;
    let changed = |what: &str| {
        Error::usage(format!("{what}; putting old structures back would damage it"))
            .op("undo the repair")
            .hint("the undo file holds the old metadata all the same; look with cowshed check")
    };
    if !again && (dev.len() != seal.length || seal.modified.is_some_and(|m| modified(dev).is_some_and(|now| now != m))) {
        return Err(changed("the image has changed since the repair"));
    }
    if hash(dev, &seal.state)? != seal.hash {
        return Err(changed("the image's structures have changed since the repair"));
    }
    if !again {
        note_undoing(&mut file).op("note the undo").path(path)?;
    }
    let block_device = dev.as_file().is_some_and(|f| f.is_block_device());
    if !block_device && dev.len() < head.length {
        dev.set_len(head.length)?;
    }
    for group in &head.groups {
        for (offset, len) in group {
            pieces(*offset, *len, |at, n| {
                let mut buf = vec![0; n];
                file.read_exact(&mut buf)?;
                dev.write_at(at, &buf)
            })?;
        }
        dev.flush()?;
    }
    if !block_device && dev.len() > head.length {
        dev.set_len(head.length)?;
        dev.flush()?;
    }
    Ok(head)
}

/// Appends that the image is being put back; `file` stands where it stood.
fn note_undoing(file: &mut std::fs::File) -> Result<()> {
    let here = file.stream_position()?;
    file.seek(SeekFrom::End(0))?;
    let json = json(&"undoing")?;
    file.write_all(&(json.len() as u32).to_be_bytes())?;
    file.write_all(&json)?;
    file.sync_all()?;
    file.seek(SeekFrom::Start(here))?;
    Ok(())
}

/// Head and seal, after the sum was found right, and whether an undo was begun; `file` stands at the first range's bytes then.
fn read(file: &mut std::fs::File, dev: &dyn ReadAt) -> Result<(Head, Seal, bool)> {
    let damaged = |why: &str| Error::corrupt(format!("the undo file {why}"));
    let length = file.metadata()?.len();
    let mut sum = Sha256::new();
    let mut magic = vec![0; MAGIC.len()];
    if file.read_exact(&mut magic).is_err() || magic != MAGIC {
        return Err(damaged("is none, or of another version"));
    }
    sum.update(&magic);
    let head = block(file, length)?.ok_or_else(|| damaged("is cut short"))?;
    sum.update((head.len() as u32).to_be_bytes());
    sum.update(&head);
    let head: Head = serde_json::from_slice(&head).map_err(|e| damaged(&format!("cannot be understood: {e}")))?;
    let start = file.stream_position()?;
    let mut total = 0u64;
    for (offset, len) in head.groups.iter().flatten() {
        total = total.saturating_add(*len);
        if offset.checked_add(*len).is_none_or(|end| end > head.length) {
            return Err(damaged("names a place behind the end of the image"));
        }
    }
    if start.saturating_add(total).saturating_add(32) > length {
        return Err(damaged("is cut short"));
    }
    pieces(start, total, |_, n| {
        let mut buf = vec![0; n];
        file.read_exact(&mut buf)?;
        sum.update(&buf);
        Ok(())
    })?;
    let mut want = [0; 32];
    file.read_exact(&mut want)?;
    if want[..] != sum.finalize()[..] {
        return Err(damaged("is damaged: its sum is wrong"));
    }
    let Some(seal) = block(file, length)? else {
        return Err(damaged("has no seal: the repair was cut off, so the image is as it was, or as the repair wanted it")
            .hint("look with cowshed check"));
    };
    if file.read_exact(&mut want).is_err() || want[..] != Sha256::digest(&seal)[..] {
        return Err(damaged("is damaged: the sum of its seal is wrong"));
    }
    let seal: Seal = serde_json::from_slice(&seal).map_err(|e| damaged(&format!("cannot be understood: {e}")))?;
    if seal.state.iter().any(|(at, len)| at.checked_add(*len).is_none_or(|end| end > dev.len().min(seal.length))) {
        return Err(damaged("belongs to another image, or the image has changed since the repair"));
    }
    let again = block(file, length)?.is_some();
    file.seek(SeekFrom::Start(start))?;
    Ok((head, seal, again))
}

/// A block of JSON with its length; `None` at the end of the file.
fn block(file: &mut std::fs::File, length: u64) -> Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    match file.read_exact(&mut len) {
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let len = u32::from_be_bytes(len);
    if len > MAX_JSON || u64::from(len) > length {
        return Err(Error::corrupt("the undo file is damaged"));
    }
    let mut bytes = vec![0; len as usize];
    match file.read_exact(&mut bytes) {
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        other => Ok(other.map(|()| Some(bytes))?),
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))
}

/// Calls `each` with every piece of a range.
fn pieces(offset: u64, len: u64, mut each: impl FnMut(u64, usize) -> Result<()>) -> Result<()> {
    let mut done = 0;
    while done < len {
        let n = (len - done).min(PIECE);
        each(offset + done, n as usize)?;
        done += n;
    }
    Ok(())
}

fn hash(dev: &dyn ReadAt, state: &[(u64, u64)]) -> Result<String> {
    let mut sum = Sha256::new();
    for (offset, len) in state {
        pieces(*offset, *len, |at, n| {
            let mut buf = vec![0; n];
            dev.read_at(at, &mut buf)?;
            sum.update(&buf);
            Ok(())
        })?;
    }
    Ok(sum.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

fn modified(dev: &dyn ReadAt) -> Option<(u64, u32)> {
    let file = dev.as_file().filter(|f| !f.is_block_device())?;
    let since = file.file().metadata().ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((since.as_secs(), since.subsec_nanos()))
}

fn sync_folder(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(std::fs::File::open(folder)?.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::io::memory::Memory;

    #[test]
    fn what_was_saved_comes_back_unless_anything_changed() {
        let d = tempfile::tempdir().unwrap();
        let path = free_name(&d.path().join("x"));
        let before: Vec<u8> = (0..100).collect();
        let dev = Memory::new(before.clone());
        let evidence = Evidence { length: 100, groups: vec![vec![(10, 20), (50, 5)], vec![(0, 4)]] };
        let mut file = UndoFile::save(&path, Path::new("x"), &dev, &evidence, Vec::new()).unwrap();
        dev.write_at(0, &[9; 70]).unwrap();
        dev.set_len(200).unwrap();
        assert!(restore(&path, &dev).unwrap_err().why().contains("no seal"));
        file.seal(&dev, vec![(0, 30), (150, 50)]).unwrap();
        let repaired = dev.to_vec();
        dev.write_at(160, &[1]).unwrap();
        assert_eq!(restore(&path, &dev).unwrap_err().kind(), ErrorKind::Usage);
        dev.write_at(160, &[0]).unwrap();
        assert_eq!(dev.to_vec(), repaired);
        let whole = std::fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            std::fs::write(&path, bad).unwrap();
            assert!(restore(&path, &dev).is_err(), "byte {at}");
            assert_eq!(dev.to_vec(), repaired);
        }
        std::fs::write(&path, whole).unwrap();
        restore(&path, &dev).unwrap();
        let mut want = vec![9; 70];
        want.extend(70..100);
        for (at, len) in [(10usize, 20usize), (50, 5), (0, 4)] {
            want[at..at + len].copy_from_slice(&before[at..at + len]);
        }
        assert_eq!(dev.to_vec(), want);
        assert_eq!(newest(&d.path().join("x")), Some(path));
    }
}
