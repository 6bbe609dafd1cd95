//! Writing a streamOptimized disk as VMware lays it out: header, descriptor, compressed grains in ascending order each behind its
//! marker, every grain table after its grains, then directory, footer and end-of-stream marker.
//!
//! A stream is written once. Until [`DiskWriter::finish`] its header points to a footer that is not there, so a cut leaves a file
//! that every reader refuses, never a wrong disk.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::create::{DESCRIPTOR_SECTORS, GRAIN, PER_TABLE};
use super::image;
use super::sparse::{self, Header};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::format::write::{Below, DiskWriter, NewBacking};
use crate::engine::format::{Format, Image, Source};
use crate::engine::io::bytes::is_zero;
use crate::engine::io::gate::Gate;
use crate::engine::io::{Device, WriteDevice};
use crate::engine::model::{Description, Mapping};
use crate::engine::units::SECTOR;

const GRAIN_BYTES: u64 = GRAIN * SECTOR;
/// Effort of the compression: what zlib's default gives, at a third of its time.
const LEVEL: i32 = 6;

thread_local! {
    static DEFLATE: RefCell<Option<libdeflater::Compressor>> = const { RefCell::new(None) };
}

/// A stream being written.
pub(super) struct StreamWriter {
    dev: WriteDevice,
    size: u64,
    header: Header,
    parent: bool,
    below: RwLock<Option<Below>>,
    state: Mutex<State>,
}

struct State {
    /// Byte where the next marker goes.
    end: u64,
    /// The table being filled: its index and entries.
    table: Option<(u64, Vec<u32>)>,
    /// Sectors of the tables written, by index.
    directory: Vec<u32>,
    /// First grain that may still come.
    next: u64,
    /// A grain that is only there in part, and its number: writes need not be whole grains.
    pending: Option<(u64, Vec<u8>)>,
    finished: bool,
}

impl StreamWriter {
    /// Begins a stream for a disk of `size` bytes: header and descriptor.
    pub(super) fn begin(
        dev: WriteDevice,
        size: u64,
        text: &str,
        zeroed_grain: bool,
        backing: Option<&NewBacking>,
    ) -> Result<Self> {
        let tables = (size / SECTOR).div_ceil(GRAIN * PER_TABLE);
        let directory = usize::try_from(tables).ok().filter(|_| tables * 4 < u64::from(u32::MAX));
        let directory = directory.ok_or_else(|| Error::usage("the disk is too large for a grain directory"))?;
        let header = Header {
            version: 3,
            flags: sparse::NEWLINES | sparse::COMPRESSED | sparse::MARKERS | if zeroed_grain { sparse::ZERO_GRAIN } else { 0 },
            capacity: size / SECTOR,
            grain: GRAIN,
            descriptor: (1, DESCRIPTOR_SECTORS),
            per_table: PER_TABLE as u32,
            redundant: 0,
            directory: sparse::AT_END,
            overhead: GRAIN,
            unclean: 0,
            newlines: sparse::NEWLINE_BYTES,
            algorithm: 1,
        };
        let mut front = header.encode();
        front.extend(text.as_bytes());
        front.resize(GRAIN_BYTES as usize, 0);
        dev.set_len(0)
            .or_else(|e| if dev.len() > 0 && dev.as_file().is_none_or(|f| f.is_block_device()) { Ok(()) } else { Err(e) })?;
        dev.write_at(0, &front)?;
        let state =
            State { end: GRAIN_BYTES, table: None, directory: vec![0; directory], next: 0, pending: None, finished: false };
        Ok(StreamWriter {
            dev,
            size,
            header,
            parent: backing.is_some(),
            below: RwLock::new(backing.and_then(|b| b.disk.clone())),
            state: Mutex::new(state),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Grain `number`, empty but for what the guest sees there now.
    fn seen(&self, number: u64) -> Result<Vec<u8>> {
        let mut grain = vec![0u8; GRAIN_BYTES as usize];
        if self.parent {
            let below = self.below.read().unwrap_or_else(PoisonError::into_inner).clone();
            let below = below.ok_or_else(|| {
                Error::usage("a grain is written in part and its other bytes are in the parent, which was not opened")
            })?;
            let start = number * GRAIN_BYTES;
            let on_disk = self.size.saturating_sub(start).min(GRAIN_BYTES) as usize;
            below.read(start, grain.get_mut(..on_disk).unwrap_or_default())?;
        }
        Ok(grain)
    }

    /// Puts bytes (zeros when `None`) into the pending grain, which is stored when another one begins.
    fn put(&self, state: &mut State, offset: u64, data: Option<&[u8]>, len: usize) -> Result<()> {
        let (number, within) = (offset / GRAIN_BYTES, (offset % GRAIN_BYTES) as usize);
        if state.pending.as_ref().is_none_or(|(n, _)| *n != number) {
            self.store_pending(state)?;
            check_order(state, number)?;
            let whole = within == 0 && len as u64 == GRAIN_BYTES.min(self.size - number * GRAIN_BYTES);
            let grain = if whole { vec![0; GRAIN_BYTES as usize] } else { self.seen(number)? };
            state.pending = Some((number, grain));
        }
        let place = state.pending.as_mut().and_then(|(_, g)| g.get_mut(within..within.checked_add(len)?));
        match (place, data) {
            (Some(place), Some(data)) => place.copy_from_slice(data),
            (Some(place), None) => place.fill(0),
            (None, _) => return Err(Error::new(ErrorKind::Internal, "a piece longer than its grain")),
        }
        Ok(())
    }

    fn store_pending(&self, state: &mut State) -> Result<()> {
        if let Some((number, grain)) = state.pending.take() {
            // Zeros need no place, unless a parent would show through.
            if self.parent || !is_zero(&grain) {
                let packed = pack(&grain)?;
                self.store(state, number, &packed)?;
            }
        }
        Ok(())
    }

    /// Appends a compressed grain behind its marker.
    fn store(&self, state: &mut State, number: u64, packed: &[u8]) -> Result<()> {
        check_order(state, number)?;
        if state.table.as_ref().is_some_and(|(i, _)| *i != number / PER_TABLE) {
            self.store_table(state)?;
        }
        let mut bytes = Vec::with_capacity(packed.len() + 1024);
        bytes.extend((number * GRAIN).to_le_bytes());
        bytes.extend((packed.len() as u32).to_le_bytes());
        bytes.extend(packed);
        let sector = self.append(state, bytes)?;
        let (_, entries) = state.table.get_or_insert_with(|| (number / PER_TABLE, vec![0; PER_TABLE as usize]));
        if let Some(entry) = entries.get_mut((number % PER_TABLE) as usize) {
            *entry = sector;
        }
        state.next = number + 1;
        Ok(())
    }

    /// Appends the table being filled behind its marker.
    fn store_table(&self, state: &mut State) -> Result<()> {
        let Some((index, entries)) = state.table.take() else { return Ok(()) };
        self.append(state, marker((PER_TABLE * 4).div_ceil(SECTOR), 1))?;
        let sector = self.append(state, entries.iter().flat_map(|e| e.to_le_bytes()).collect())?;
        if let Some(entry) = state.directory.get_mut(index as usize) {
            *entry = sector;
        }
        Ok(())
    }

    /// Appends `bytes`, padded to sectors; the sector where they begin.
    fn append(&self, state: &mut State, mut bytes: Vec<u8>) -> Result<u32> {
        bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0);
        let sector = u32::try_from(state.end / SECTOR)
            .map_err(|_| Error::new(ErrorKind::NoSpace, "a streamOptimized file cannot grow beyond 2 TiB"))?;
        self.dev.write_at(state.end, &bytes)?;
        state.end += bytes.len() as u64;
        Ok(sector)
    }

    fn range(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len).is_some_and(|end| end <= self.size) {
            true => Ok(()),
            false => Err(Error::usage("a write past the end of the disk").at(offset)),
        }
    }
}

fn check_order(state: &State, number: u64) -> Result<()> {
    if state.finished || number < state.next {
        return Err(
            Error::usage("a streamOptimized disk is written in ascending order, each grain once").at(number * GRAIN_BYTES)
        );
    }
    Ok(())
}

/// A sector that says what follows: `value` sectors of the sort `kind`.
fn marker(value: u64, kind: u32) -> Vec<u8> {
    let mut b = value.to_le_bytes().to_vec();
    b.extend([0; 4]);
    b.extend(kind.to_le_bytes());
    b.resize(SECTOR as usize, 0);
    b
}

/// `grain` as a zlib stream.
fn pack(grain: &[u8]) -> Result<Vec<u8>> {
    DEFLATE.with_borrow_mut(|slot| {
        let level = libdeflater::CompressionLvl::new(LEVEL).unwrap_or_default();
        let deflate = slot.get_or_insert_with(|| libdeflater::Compressor::new(level));
        let mut out = vec![0u8; deflate.zlib_compress_bound(grain.len())];
        let n = deflate
            .zlib_compress(grain, &mut out)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("compression failed: {e}")))?;
        out.truncate(n);
        Ok(out)
    })
}

impl DiskWriter for StreamWriter {
    fn size(&self) -> u64 {
        self.size
    }
    fn unit(&self) -> u64 {
        GRAIN_BYTES
    }
    fn sequential(&self) -> bool {
        true
    }
    fn set_below(&self, below: Device) {
        *self.below.write().unwrap_or_else(PoisonError::into_inner) = Some(Below(below));
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.range(offset, data.len() as u64)?;
        let mut state = self.lock();
        let mut done = 0usize;
        while let Some(rest) = data.get(done..).filter(|r| !r.is_empty()) {
            let at = offset + done as u64;
            let n = rest.len().min((GRAIN_BYTES - at % GRAIN_BYTES) as usize);
            self.put(&mut state, at, rest.get(..n), n)?;
            done += n;
        }
        Ok(())
    }
    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.range(offset, len)?;
        let mut state = self.lock();
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let n = (GRAIN_BYTES - at % GRAIN_BYTES).min(end - at);
            let pending = state.pending.as_ref().is_some_and(|(number, _)| *number == at / GRAIN_BYTES);
            if self.parent || pending {
                self.put(&mut state, at, None, n as usize)?;
                at += n;
            } else {
                // What is not stored reads as zeros: only a grain begun earlier is touched, and that was the last one.
                at = end;
            }
        }
        Ok(())
    }
    fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<()> {
        let packed = self.pack(data)?;
        self.write_packed(offset, &packed)
    }
    fn pack(&self, data: &[u8]) -> Result<Vec<u8>> {
        match data.len() as u64 {
            GRAIN_BYTES => pack(data),
            n if n < GRAIN_BYTES => {
                // Readers expect whole grains, at the end of the disk too.
                let mut grain = data.to_vec();
                grain.resize(GRAIN_BYTES as usize, 0);
                pack(&grain)
            }
            _ => Err(Error::usage("more than one grain was given to compress")),
        }
    }
    fn write_packed(&self, offset: u64, packed: &[u8]) -> Result<()> {
        if !offset.is_multiple_of(GRAIN_BYTES) || offset >= self.size {
            return Err(Error::usage("compressed data must be a whole grain of the disk").at(offset));
        }
        let mut state = self.lock();
        self.store_pending(&mut state)?;
        self.store(&mut state, offset / GRAIN_BYTES, packed)
    }
    fn flush(&self) -> Result<()> {
        self.dev.flush()
    }
    fn finish(&self) -> Result<()> {
        let mut state = self.lock();
        if state.finished {
            return Ok(());
        }
        self.store_pending(&mut state)?;
        self.store_table(&mut state)?;
        let directory: Vec<u8> = state.directory.iter().flat_map(|e| e.to_le_bytes()).collect();
        self.append(&mut state, marker((directory.len() as u64).div_ceil(SECTOR), 2))?;
        let sector = self.append(&mut state, directory)?;
        self.append(&mut state, marker(1, 3))?;
        let footer = Header { directory: u64::from(sector), ..self.header };
        self.append(&mut state, footer.encode())?;
        // All but the end is durable before the mark that says so.
        self.dev.flush()?;
        self.append(&mut state, marker(0, 0))?;
        self.dev.flush()?;
        state.finished = true;
        Ok(())
    }
    fn resize(&self, _: u64) -> Result<()> {
        Err(Error::unsupported("a streamOptimized disk is written once, from front to end").hint("convert it with the new size"))
    }
    fn reader(&self) -> Arc<dyn Image> {
        let path = self.dev.path().map(std::path::Path::to_path_buf).unwrap_or_default();
        let source = Source { dev: self.dev.clone(), path, gate: Gate::closed() };
        image::open(source).unwrap_or_else(|why| Arc::new(Unfinished { size: self.size, why, description: Arc::default() }))
    }
}

/// A stream that cannot be read yet: its directory comes last.
struct Unfinished {
    size: u64,
    why: Error,
    description: Arc<Description>,
}

impl Image for Unfinished {
    fn format(&self) -> Format {
        Format::Vmdk
    }
    fn size(&self) -> u64 {
        self.size
    }
    fn files(&self) -> Vec<Device> {
        Vec::new()
    }
    fn map(&self, _: u64, _: u64) -> Result<Mapping> {
        Err(self.why.clone())
    }
    fn describe(&self) -> Arc<Description> {
        self.description.clone()
    }
    fn readable(&self) -> Result<()> {
        Err(self.why.clone())
    }
}
