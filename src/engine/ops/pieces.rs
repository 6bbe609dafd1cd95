//! Work for the pipeline that is said in two closures: which piece comes next, and what is done with it. For operations that write an
//! existing image in place, where there is nothing to resume.

use std::path::Path;
use std::time::{Duration, Instant};

use super::pipeline::{self, Chunk, Pace, Turn, Work};
use super::plan::Estimate;
use crate::engine::error::Result;
use crate::engine::job::JobContext;
use crate::engine::limits::COPY_CHUNK;
use crate::engine::units::GIB;

/// How long planning may look for work before it guesses.
const LOOK: Duration = Duration::from_secs(1);

/// Two buffers of a worker's own, as long as a piece can be.
pub(super) struct Buffers(pub(super) Vec<u8>, pub(super) Vec<u8>);

struct Pieces<N, C> {
    next: N,
    copy: C,
}

impl<N, C> Work for Pieces<N, C>
where
    N: Fn(u64) -> Result<Option<Chunk>> + Sync,
    C: Fn(Chunk, &mut Buffers) -> Result<()> + Sync,
{
    type Memory = Buffers;

    fn memory(&self) -> Buffers {
        Buffers(vec![0; COPY_CHUNK], vec![0; COPY_CHUNK])
    }
    fn next(&self, at: u64) -> Result<Option<Chunk>> {
        (self.next)(at)
    }
    fn copy(&self, chunk: Chunk, memory: &mut Buffers, _: &Turn<'_>) -> Result<()> {
        (self.copy)(chunk, memory)
    }
    fn settle(&self, _: u64) -> Result<()> {
        Ok(())
    }
}

/// Does `copy` with every piece that `next` finds, on several threads, in no order.
pub(super) fn each(
    next: impl Fn(u64) -> Result<Option<Chunk>> + Sync,
    copy: impl Fn(Chunk, &mut Buffers) -> Result<()> + Sync,
    job: &JobContext,
) -> Result<()> {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    pipeline::run(&Pieces { next, copy }, 0, Pace { workers: processors.clamp(2, 8), settle_every: None }, job)
}

/// A piece that begins at `offset`, of a stretch of `len` bytes of one sort: no longer than a buffer, and ending where buffers end;
/// zeros need none.
pub(super) fn piece(offset: u64, len: u64, zero: bool) -> Chunk {
    let most = if zero { GIB } else { COPY_CHUNK as u64 };
    Chunk { offset, len: len.min(most - offset % most), zero }
}

/// Bytes that the pieces of a disk of `size` bytes have together, zeros not counted; where looking takes long the rest is guessed.
pub(super) fn estimate(size: u64, next: impl Fn(u64) -> Result<Option<Chunk>>) -> Result<Estimate> {
    let begin = Instant::now();
    let (mut at, mut data) = (0u64, 0u64);
    while let Some(chunk) = next(at)? {
        at = chunk.offset.saturating_add(chunk.len);
        data += if chunk.zero { 0 } else { chunk.len };
        if begin.elapsed() > LOOK && at > 0 {
            let likely = (data as f64 / at as f64 * size as f64) as u64;
            return Ok(Estimate { likely, worst: data.saturating_add(size.saturating_sub(at)) });
        }
    }
    Ok(Estimate::exact(data))
}

/// Writes with `write`; when the disk of `path` is full and the job may wait for space, waits and tries again.
pub(super) fn written(job: &JobContext, path: &Path, write: impl Fn() -> Result<()>) -> Result<()> {
    while let Err(e) = write() {
        job.recover(e, path)?;
    }
    Ok(())
}
