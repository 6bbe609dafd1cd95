//! Reading the target back: every range against the digest taken when it was copied, and zeros everywhere else.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

use sha2::{Digest, Sha256};

use super::copy::{CHUNK, Piece};
use super::run::differs;
use super::source::Sources;
use super::target::Target;
use crate::engine::chain::Disk;
use crate::engine::error::{Context, Result};
use crate::engine::io::bytes::is_zero;
use crate::engine::io::direct::Buffer;
use crate::engine::io::file::FileDevice;
use crate::engine::io::{ReadAt, read_padded};
use crate::engine::job::JobContext;
use crate::engine::job::progress::Spent;
use crate::engine::model::Kind;
use crate::engine::ops::pipeline::{Chunk, Pace, Turn, Work, run};

struct Check<'a> {
    /// The new image alone: what it does not hold belongs to its backing file and is compared with the source through it.
    disk: Disk,
    sources: &'a Sources,
    pieces: Mutex<std::collections::HashMap<u64, Piece>>,
    job: &'a JobContext,
    /// It stands on a backing file, so that a range it does not hold says nothing.
    overlay: bool,
}

/// Compares the finished `target` with what was read.
pub(super) fn compare(target: &Target, sources: &Sources, pieces: Vec<Piece>, job: &JobContext) -> Result<()> {
    let image = target.writer.reader();
    let overlay = image.backing().is_some();
    let disk = Disk::new(vec![image]);
    let digest = content_digest(&pieces);
    let pieces = Mutex::new(pieces.into_iter().map(|p| (p.offset, p)).collect());
    let check = Check { disk, sources, pieces, job, overlay };
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    run(&check, 0, Pace { workers, settle_every: None }, job)?;
    job.log(format!("verified: the target reads back as the source did (content digest {digest})"));
    Ok(())
}

/// One digest for all pieces, in the order of the disk.
fn content_digest(pieces: &[Piece]) -> String {
    let mut all: Vec<_> = pieces.iter().collect();
    all.sort_by_key(|p| p.offset);
    let mut hash = Sha256::new();
    for p in all {
        hash.update(p.offset.to_le_bytes());
        hash.update(p.digest);
    }
    hex(&hash.finalize())
}

impl Work for Check<'_> {
    type Memory = (Buffer, Buffer);

    fn memory(&self) -> (Buffer, Buffer) {
        (Buffer::new(CHUNK as usize), Buffer::new(CHUNK as usize))
    }

    fn next(&self, at: u64) -> Result<Option<Chunk>> {
        let size = self.sources.size();
        let mut at = at;
        // Where both sides have nothing there is nothing to compare.
        while at < size {
            let (s, t) = (self.sources.extent(at, u64::MAX)?, self.disk.extent(at, u64::MAX)?);
            let hole = |k| matches!(k, Kind::Zero | Kind::Unallocated);
            if !hole(s.kind) || !hole(t.kind) {
                let end = (at / CHUNK + 1).saturating_mul(CHUNK).min(size);
                // Pieces begin where their chunk did: keep to the same grid.
                let known = self.pieces.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&at);
                return Ok(Some(Chunk { offset: at, len: end - at, zero: !known && hole(s.kind) }));
            }
            at += s.len.min(t.len);
        }
        Ok(None)
    }

    fn copy(&self, chunk: Chunk, (target, source): &mut Self::Memory, _: &Turn<'_>) -> Result<()> {
        let len = chunk.len as usize;
        let (Some(target), Some(source)) = (target.get_mut(..len), source.get_mut(..len)) else { return Ok(()) };
        self.job.progress.time(Spent::Target, || read_padded(&self.disk, chunk.offset, target))?;
        let piece =
            self.pieces.lock().unwrap_or_else(PoisonError::into_inner).remove(&chunk.offset).filter(|p| p.len == chunk.len);
        let same = match piece {
            Some(piece) if !self.overlay => {
                self.job.progress.time(Spent::Cpu, || Sha256::digest(&*target).as_slice() == piece.digest.as_slice())
            }
            // Not copied in this run, or cut otherwise: the source itself is asked once more.
            _ => {
                let mut at = 0usize;
                while let Some(rest) = source.get_mut(at..).filter(|r| !r.is_empty()) {
                    let e = self.sources.extent(chunk.offset + at as u64, rest.len() as u64)?;
                    let n = e.len.min(rest.len() as u64) as usize;
                    if matches!(e.kind, Kind::Zero | Kind::Unallocated) {
                        rest.get_mut(..n).unwrap_or_default().fill(0);
                    } else {
                        self.sources.read(&e, rest.get_mut(..n).unwrap_or_default())?;
                    }
                    at += n;
                }
                target == source || (self.overlay && self.held_ranges_equal(chunk.offset, target, source)?)
            }
        };
        if !same {
            return Err(differs(chunk.offset));
        }
        if !is_zero(target) {
            self.job.progress.add_done(chunk.len);
        }
        Ok(())
    }

    fn settle(&self, _: u64) -> Result<()> {
        Ok(())
    }
}

impl Check<'_> {
    /// For an overlay: what it holds itself equals the source; the rest is its backing file's.
    fn held_ranges_equal(&self, offset: u64, target: &[u8], source: &[u8]) -> Result<bool> {
        let mut at = 0usize;
        while at < target.len() {
            let e = self.disk.extent(offset + at as u64, (target.len() - at) as u64)?;
            let end = at + e.len.min((target.len() - at) as u64) as usize;
            if e.kind != Kind::Unallocated && target.get(at..end) != source.get(at..end) {
                return Ok(false);
            }
            at = end;
        }
        Ok(true)
    }
}

/// Writes `FILE.sha256` beside `file`, as `sha256sum` does, so that `sha256sum -c` checks it.
pub(super) fn checksum(file: &Path) -> Result<PathBuf> {
    let dev = FileDevice::open(file)?;
    let mut hash = Sha256::new();
    let mut buf = Buffer::new(CHUNK as usize);
    let mut at = 0;
    while at < dev.len() {
        let n = (dev.len() - at).min(CHUNK) as usize;
        let part = buf.get_mut(..n).unwrap_or_default();
        dev.read_at(at, part)?;
        hash.update(part);
        at += n as u64;
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut sum = file.as_os_str().to_os_string();
    sum.push(".sha256");
    let sum = PathBuf::from(sum);
    std::fs::write(&sum, format!("{}  {name}\n", hex(&hash.finalize()))).op("write the checksum").path(&sum)?;
    Ok(sum)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
