//! The bitmap of a COW file: one bit per sector, the lowest bit of a byte first. Read in chunks; changed chunks wait here until they
//! are written.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::engine::error::{Context, Result};
use crate::engine::io::{Device, WriteAt, read_padded};

/// Bytes read at once.
const CHUNK: usize = 4096;
/// Sectors of a chunk.
const SECTORS: u64 = CHUNK as u64 * 8;
/// Chunks looked at in one search.
const MAX_CHUNKS: usize = 4096;

type Chunk = Box<[u8; CHUNK]>;

/// The bitmap in a file.
pub struct Bitmap {
    dev: Device,
    /// Byte of the file where it begins.
    start: u64,
    /// Changed chunks by number.
    changed: Mutex<BTreeMap<u64, Chunk>>,
}

impl Bitmap {
    /// The bitmap that begins at byte `start` of `dev`. What the file does not hold of it is clear.
    pub fn new(dev: Device, start: u64) -> Self {
        Bitmap { dev, start, changed: Mutex::default() }
    }

    /// Whether sector `sector` is in this file, and of how many sectors from it on (at most `max`, not 0) the same is true.
    pub fn run(&self, sector: u64, max: u64) -> Result<(bool, u64)> {
        let mut known: Option<bool> = None;
        let mut count = 0;
        for _ in 0..MAX_CHUNKS {
            if count >= max {
                break;
            }
            let at = sector + count;
            if known != Some(true)
                && let Some(clear) = self.clear_run(at)?
            {
                known = Some(false);
                count = count.saturating_add(clear);
                continue;
            }
            let (number, begin) = (at / SECTORS, at % SECTORS);
            let chunk = self.chunk(number)?;
            let bits = (SECTORS - begin).min(max - count);
            let mut same = 0;
            while same < bits {
                let bit = begin + same;
                let octet = chunk.get((bit / 8) as usize).copied().unwrap_or(0);
                let set = octet >> (bit % 8) & 1 == 1;
                if *known.get_or_insert(set) != set {
                    return Ok((!set, count + same));
                }
                // A byte of equal bits is passed in one step.
                same += if bit.is_multiple_of(8) && octet == if set { 0xff } else { 0 } { 8 } else { 1 };
            }
            count += same;
        }
        Ok((known == Some(true), count.min(max)))
    }

    /// How many sectors from `sector` on are clear because the file does not store their bits: a hole, or past its end.
    fn clear_run(&self, sector: u64) -> Result<Option<u64>> {
        if !self.lock().is_empty() {
            return Ok(None);
        }
        let byte = self.start + sector / 8;
        if byte >= self.dev.len() {
            return Ok(Some(u64::MAX));
        }
        let host = self.dev.host_range(byte, u64::MAX)?;
        Ok((host.hole && host.len > 1).then(|| (host.len - 1).saturating_mul(8) + (8 - sector % 8)))
    }

    fn chunk(&self, number: u64) -> Result<Chunk> {
        if let Some(chunk) = self.lock().get(&number) {
            return Ok(chunk.clone());
        }
        let mut chunk = Box::new([0; CHUNK]);
        read_padded(self.dev.as_ref(), self.start + number * CHUNK as u64, chunk.as_mut_slice()).op("read the bitmap")?;
        Ok(chunk)
    }

    /// Sets the bits of `count` sectors from `sector` on, in memory.
    pub(super) fn set(&self, sector: u64, count: u64) -> Result<()> {
        for number in sector / SECTORS..=(sector + count - 1) / SECTORS {
            let mut chunk = self.chunk(number)?;
            let first = number * SECTORS;
            for bit in sector.saturating_sub(first)..(sector + count - first).min(SECTORS) {
                if let Some(octet) = chunk.get_mut((bit / 8) as usize) {
                    *octet |= 1 << (bit % 8);
                }
            }
            self.lock().insert(number, chunk);
        }
        Ok(())
    }

    /// Chunks waiting to be written.
    pub(super) fn changed(&self) -> usize {
        self.lock().len()
    }

    /// Writes the changed chunks, as far as the bitmap of `bytes` bytes reaches.
    pub(super) fn write(&self, dev: &dyn WriteAt, bytes: u64) -> Result<()> {
        let waiting: Vec<(u64, Chunk)> = self.lock().iter().map(|(n, c)| (*n, c.clone())).collect();
        for (number, chunk) in waiting {
            let at = number * CHUNK as u64;
            let len = bytes.saturating_sub(at).min(CHUNK as u64) as usize;
            dev.write_at(self.start + at, chunk.get(..len).unwrap_or_default()).op("write the bitmap")?;
            self.lock().remove(&number);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Chunk>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
