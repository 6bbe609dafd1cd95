//! The undo file: the old bytes of every place of the disk that a commit changes, apart from the image.
//!
//! ```text
//!  0    "cowshed undo 1\n", state (1 committing, 2 done, 3 undoing), length of the header
//!  512  header: JSON (which image, which ranges, checksums)
//!  …    the old bytes of the ranges, one after the other, from the next multiple of 512 on
//! ```
//!
//! It is complete and durable before the first byte of the image is written. While it says "committing" or "undoing", the image may be
//! in any state between, and writing the old bytes back makes it what it was, however often that is done. Changing the state is one
//! write of one sector.

use std::path::{Path, PathBuf};

use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::write::DiskWriter;
use crate::engine::io::bytes::le32;
use crate::engine::io::file::FileDevice;
use crate::engine::io::{ReadAt, WriteAt, read_vec};

const MAGIC: &[u8; 15] = b"cowshed undo 1\n";
const SECTOR: u64 = 512;
/// Bytes of a header, at most.
const MAX_HEADER: u64 = 256 << 20;
/// Bytes moved at a time.
const PIECE: u64 = 256 << 10;

/// How far the commit is that the file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The image is being written.
    Committing,
    /// It is complete.
    Done,
    /// The old bytes are being written back.
    Undoing,
}

/// What the file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Header {
    /// Name of the image's file, for messages.
    pub(super) image: String,
    /// Its format.
    pub(super) format: String,
    /// The disk's size in bytes.
    pub(super) size: u64,
    /// When it was made.
    pub(super) made: String,
    /// The ranges: offset on the disk and length.
    pub(super) ranges: Vec<(u64, u64)>,
    /// CRC-32 of their old bytes, as they stand in the file.
    pub(super) old: u32,
    /// CRC-32 of their bytes after the commit.
    pub(super) new: u32,
}

/// An undo file that was found.
pub(super) struct Undo {
    dev: Box<dyn WriteAt>,
    /// Which state it is in.
    pub(super) state: State,
    /// What it says.
    pub(super) header: Header,
    body: u64,
}

/// Where the undo file of the image at `path` is.
pub(super) fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".sanitize-undo");
    PathBuf::from(name)
}

fn first_sector(state: State, header: u32) -> Vec<u8> {
    let mut sector = MAGIC.to_vec();
    sector.push(match state {
        State::Committing => 1,
        State::Done => 2,
        State::Undoing => 3,
    });
    sector.extend(header.to_le_bytes());
    sector.resize(SECTOR as usize, 0);
    sector
}

/// CRC-32 (IEEE) of the bytes of `ranges` on `disk`. Not CRC32C: filesystems end their structures with that one, and over a structure
/// and its own checksum it is the same whatever the structure says.
pub(super) fn checksum(disk: &dyn ReadAt, ranges: &[(u64, u64)]) -> Result<u32> {
    let mut crc = crc32fast::Hasher::new();
    each_piece(ranges, |offset, len| {
        crc.update(&read_vec(disk, offset, len, PIECE)?);
        Ok(())
    })?;
    Ok(crc.finalize())
}

/// The header as it is written.
fn text(header: &Header) -> Result<Vec<u8>> {
    serde_json::to_vec(header).map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))
}

fn each_piece(ranges: &[(u64, u64)], mut act: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
    for (offset, len) in ranges {
        let mut done = 0;
        while done < *len {
            let n = (len - done).min(PIECE);
            act(offset + done, n)?;
            done += n;
        }
    }
    Ok(())
}

impl Undo {
    /// Writes the undo file to `dev` (new and empty) and makes it durable: `before` is the disk as it is, `header.ranges` are saved.
    pub(super) fn write(dev: Box<dyn WriteAt>, mut header: Header, before: &dyn ReadAt) -> Result<Undo> {
        // The old bytes are read once: what they sum up to is known when they are written, and room is left for it before them.
        header.old = u32::MAX;
        let room = text(&header)?.len();
        let body = (SECTOR + room as u64).next_multiple_of(SECTOR);
        let (mut at, mut old) = (body, crc32fast::Hasher::new());
        each_piece(&header.ranges, |offset, len| {
            let bytes = read_vec(before, offset, len, PIECE)?;
            old.update(&bytes);
            dev.write_at(at, &bytes)?;
            at += len;
            Ok(())
        })?;
        header.old = old.finalize();
        let mut text = text(&header)?;
        text.resize(room, b' ');
        dev.write_at(SECTOR, &text)?;
        // The first sector last: without it the file is none, and nothing of the image has changed.
        dev.flush()?;
        let length = u32::try_from(text.len()).map_err(|_| Error::unsupported("there is too much to undo"))?;
        dev.write_at(0, &first_sector(State::Committing, length))?;
        dev.flush()?;
        Ok(Undo { dev, state: State::Committing, header, body })
    }

    /// Reads an undo file. `None`: it was never completed, so the image was not touched.
    ///
    /// Errors: it is damaged, or something else.
    pub(super) fn read(dev: Box<dyn WriteAt>) -> Result<Option<Undo>> {
        if dev.len() < SECTOR {
            return Ok(None);
        }
        let first = read_vec(dev.as_ref(), 0, SECTOR, SECTOR)?;
        if first.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let state = match (first.starts_with(MAGIC), first.get(MAGIC.len())) {
            (true, Some(1)) => State::Committing,
            (true, Some(2)) => State::Done,
            (true, Some(3)) => State::Undoing,
            _ => return Err(Error::new(ErrorKind::Format, "it is no undo file of cowshed")),
        };
        let len = u64::from(le32(&first, MAGIC.len() + 1).unwrap_or(0));
        let text = read_vec(dev.as_ref(), SECTOR, len, MAX_HEADER)?;
        let header: Header =
            serde_json::from_slice(&text).map_err(|e| Error::corrupt(format!("the undo file's header is damaged: {e}")))?;
        let undo = Undo { body: (SECTOR + len).next_multiple_of(SECTOR), dev, state, header };
        let mut crc = crc32fast::Hasher::new();
        undo.pieces(|_, bytes| {
            crc.update(&bytes);
            Ok(())
        })?;
        if crc.finalize() != undo.header.old {
            return Err(Error::corrupt("the undo file's content is damaged"));
        }
        Ok(Some(undo))
    }

    /// The undo file at `path`; `None` when there is none, or none that was completed. Somebody may be making it.
    pub(super) fn open(path: &Path) -> Result<Option<Undo>> {
        match FileDevice::open_rw(path) {
            Ok(dev) => Undo::read(Box::new(dev)).path(path),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes it durable that the commit is in `state`.
    pub(super) fn set(&mut self, state: State) -> Result<()> {
        let text = serde_json::to_vec(&self.header).map_or(0, |t| t.len());
        self.dev.write_at(0, &first_sector(state, u32::try_from(text).unwrap_or(0)))?;
        self.dev.flush()?;
        self.state = state;
        Ok(())
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.dev.len()
    }

    /// The old bytes, with where they belong.
    pub(super) fn pieces(&self, mut act: impl FnMut(u64, Vec<u8>) -> Result<()>) -> Result<()> {
        let mut at = self.body;
        each_piece(&self.header.ranges, |offset, len| {
            act(offset, read_vec(self.dev.as_ref(), at, len, PIECE)?)?;
            at += len;
            Ok(())
        })
    }

    /// Writes the old bytes back and makes them durable. May be repeated.
    pub(super) fn restore(&self, writer: &dyn DiskWriter) -> Result<()> {
        if writer.size() != self.header.size {
            return Err(Error::usage("the undo file belongs to a disk of another size"));
        }
        self.pieces(|offset, bytes| writer.write(offset, &bytes))?;
        writer.finish()
    }
}

/// A new undo file at `path` that only its owner can read. One that was never completed gives way to it: for whoever holds the image.
///
/// Errors: there is one already.
pub(super) fn create(path: &Path) -> Result<FileDevice> {
    use std::os::unix::fs::OpenOptionsExt;
    discard_incomplete(path)?;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_CLOEXEC)
        .open(path)
        .op("create the undo file")
        .path(path)?;
    FileDevice::from_file(file, path)
}

/// Destroys what is at `path` if it is an undo file that was never completed; true when there was one. For whoever holds the image.
pub(super) fn discard_incomplete(path: &Path) -> Result<bool> {
    let incomplete = path.is_file() && matches!(Undo::open(path), Ok(None));
    if incomplete {
        destroy(path)?;
    }
    Ok(incomplete)
}

/// Overwrites the undo file at `path` with zeros, and removes it.
pub(super) fn destroy(path: &Path) -> Result<()> {
    let dev = FileDevice::open_rw(path)?;
    let zeros = vec![0; PIECE as usize];
    let mut at = 0;
    while at < dev.len() {
        let n = (dev.len() - at).min(PIECE);
        dev.write_at(at, zeros.get(..n as usize).unwrap_or_default())?;
        at += n;
    }
    dev.flush()?;
    std::fs::remove_file(path).op("remove").path(path)?;
    sync_folder(path)
}

/// Makes the names in the folder of `path` durable.
pub(super) fn sync_folder(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder).and_then(|f| f.sync_all()).op("flush").path(folder)
}
