//! Writing qcow version 1 images. There are no reference counts: clusters are only ever added to the end of the file, and what is
//! replaced there (a compressed cluster) stays as dead bytes.
//!
//! Order of writes, and what a crash leaves:
//! 1. A new cluster's bytes go to the end of the file; its entry waits in memory. A crash leaves bytes that nothing points to.
//! 2. `flush`: the data is made durable, then the changed L2 tables are written and made durable: each entry is the old or the new
//!    one, and both lead to whole clusters. New L2 tables are not linked yet.
//! 3. Then the L1 entries are written and made durable.
//!
//! A cluster that is stored plainly is overwritten in place, as on a disk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::header::{HEADER_BYTES, Header, MAGIC, VERSION};
use super::image::Qcow;
use super::tables::{Entry, Level};
use crate::engine::error::{Error, Result};
use crate::engine::format::write::{CreateSpec, DiskWriter, NewBacking, NewFiles, WriteSource};
use crate::engine::format::{Format, Image};
use crate::engine::io::bytes::{be32, be64, put, put_be32, put_be64};
use crate::engine::io::{Device, WriteDevice, read_padded};
use crate::engine::limits::MAX_NAME;
use crate::engine::units::{SECTOR, round_up};

/// Table pages that may wait before they are written on their own (8 MiB of tables, 4 GiB of data).
const MAX_WAITING: usize = 2048;
/// Bytes of new clusters written at once.
const MAX_RUN: usize = 1 << 20;
/// A compressed cluster is at most this large: QEMU unpacks with a window of 4 KiB, which then cannot matter.
const MAX_PACKED: u64 = 4096;

/// Makes a new image: 4 KiB clusters, or 512 bytes with a backing file so that little is copied, as QEMU chooses.
pub(super) fn create(spec: &CreateSpec, files: &dyn NewFiles) -> Result<Arc<dyn DiskWriter>> {
    spec.check(Format::Qcow, &[])?;
    let size = round_up(spec.size, SECTOR).filter(|s| *s > 0 && *s <= i64::MAX as u64);
    let size = size.ok_or_else(|| Error::usage(format!("a qcow image cannot have {} bytes", spec.size)))?;
    let (cluster_bits, l2_bits) = if spec.backing.is_some() { (9u8, 12u8) } else { (12, 9) };
    let name = spec.backing.as_ref().map(|b| b.name.as_bytes()).unwrap_or_default();
    if name.len() > MAX_NAME {
        return Err(Error::usage(format!("the backing file's name has {} bytes; {MAX_NAME} are allowed", name.len())));
    }
    let l1_offset = (HEADER_BYTES + name.len() as u64).next_multiple_of(8);
    let l1_bytes = size.div_ceil(1 << (cluster_bits + l2_bits)) * 8;
    let mut head = vec![0u8; l1_offset as usize];
    let mut fits = put_be32(&mut head, 0, MAGIC) && put_be32(&mut head, 4, VERSION) && put_be64(&mut head, 24, size);
    fits &= put(&mut head, 32, &[cluster_bits, l2_bits]) && put_be64(&mut head, 40, l1_offset);
    if !name.is_empty() {
        fits &= put_be64(&mut head, 8, HEADER_BYTES) && put_be32(&mut head, 16, name.len() as u32);
        fits &= put(&mut head, HEADER_BYTES as usize, name);
    }
    if !fits {
        return Err(Error::new(crate::engine::error::ErrorKind::Internal, "a header too small for its fields"));
    }
    let dev = files.image();
    let end = l1_offset + l1_bytes.next_multiple_of(SECTOR);
    // The header comes last, so that what was there before stays whole or is gone.
    dev.write_zeroes(l1_offset, end - l1_offset)?;
    dev.flush()?;
    dev.write_at(0, &head)?;
    let below = spec.backing.as_ref().and_then(|b| b.disk.clone()).map(|b| b.0);
    Ok(Arc::new(Writer::new(dev, end, below)?))
}

/// Opens an image for writing guest data in place.
pub(super) fn open_write(source: WriteSource) -> Result<Arc<dyn DiskWriter>> {
    let end = source.dev.len();
    let writer = Writer::new(source.dev, end, source.below.map(|b| b.0))?;
    writer.image.readable()?;
    Ok(Arc::new(writer))
}

struct Writer {
    dev: WriteDevice,
    image: Arc<Qcow>,
    /// Clusters are added, and entries changed, by one thread at a time.
    state: Mutex<State>,
}

struct State {
    /// Byte of the file behind everything that is used.
    end: u64,
    below: Option<Device>,
}

impl Writer {
    fn new(dev: WriteDevice, end: u64, below: Option<Device>) -> Result<Writer> {
        let image = Arc::new(Qcow::open(dev.clone())?);
        Ok(Writer { dev, image, state: Mutex::new(State { end, below }) })
    }
    fn header(&self) -> &Header {
        self.image.header()
    }
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn within(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size() => Ok(()),
            _ => Err(Error::usage(format!("{len} bytes at {offset} do not lie within the disk of {} bytes", self.size()))),
        }
    }

    /// Refuses to write over the header, the name or the L1 table, where a damaged entry may lead.
    fn guard(&self, offset: u64) -> Result<u64> {
        let metadata = self.header().l1_offset + self.header().l1_entries * 8;
        if offset < metadata {
            return Err(Error::corrupt("an entry leads into the image's own header; nothing was written there").at(offset));
        }
        Ok(offset)
    }

    /// The entry of `cluster`, checked for writing.
    fn entry(&self, cluster: u64) -> Result<Entry> {
        let entry = self.image.tables().lookup(cluster)?.0;
        if let Entry::Data(offset) = entry {
            self.guard(offset)?;
        }
        Ok(entry)
    }

    /// Sets the entry of `cluster`, adding its L2 table when there is none.
    fn set(&self, state: &mut State, cluster: u64, entry: Entry) -> Result<()> {
        let index = cluster >> self.header().l2_bits;
        let table = self.image.tables().l1(index)?;
        if table == 0 {
            let at = state.end.next_multiple_of(self.header().cluster_size());
            self.image.tables().link(index, at)?;
            state.end = at + self.header().l2_entries() * 8;
        } else {
            self.guard(table)?;
        }
        self.image.tables().set_cluster(cluster, entry)
    }

    /// What a guest reads from `offset` on now, this layer over the one below.
    fn fill(&self, state: &State, offset: u64, buf: &mut [u8]) -> Result<()> {
        // Past the end of the disk the last cluster has zeros.
        let have = self.size().saturating_sub(offset).min(buf.len() as u64) as usize;
        let (buf, rest) = buf.split_at_mut(have);
        rest.fill(0);
        if buf.is_empty() {
            return Ok(());
        }
        if self.entry(offset >> self.header().cluster_bits)? != Entry::Unallocated {
            return self.image.read(offset, buf);
        }
        match &state.below {
            Some(below) => read_padded(below.as_ref(), offset, buf),
            None if self.header().backing.is_some() => Err(Error::usage(
                "part of a cluster is to be written, and the rest of it lies in the backing file, which is not open",
            )),
            None => {
                buf.fill(0);
                Ok(())
            }
        }
    }

    /// How many clusters from `first` to `last` are not stored plainly and can be added in one run.
    fn run(&self, first: u64, last: u64) -> Result<u64> {
        let most = (MAX_RUN as u64 >> self.header().cluster_bits).max(1);
        let mut n = 0;
        while first + n <= last && n < most && !matches!(self.entry(first + n)?, Entry::Data(_)) {
            n += 1;
        }
        Ok(n)
    }

    /// Adds `data`, whole clusters from `first` on, to the end of the file.
    fn add(&self, state: &mut State, first: u64, data: &[u8]) -> Result<()> {
        let size = self.header().cluster_size();
        let at = state.end.next_multiple_of(size);
        self.dev.write_at(at, data)?;
        state.end = at + data.len() as u64;
        for i in 0..data.len() as u64 / size {
            self.set(state, first + i, Entry::Data(at + i * size))?;
        }
        self.relieve()
    }

    /// Writes tables that have waited long enough.
    fn relieve(&self) -> Result<()> {
        if self.image.tables().changed() < MAX_WAITING { Ok(()) } else { self.write_tables() }
    }

    /// Steps 2 and 3 of the order. The state is locked.
    fn write_tables(&self) -> Result<()> {
        self.dev.flush()?;
        if self.image.tables().changed() == 0 {
            return Ok(());
        }
        self.image.tables().write(Level::L2, self.dev.as_ref())?;
        self.dev.flush()?;
        self.image.tables().write(Level::L1, self.dev.as_ref())?;
        self.dev.flush()
    }
}

impl DiskWriter for Writer {
    fn size(&self) -> u64 {
        self.header().size
    }
    fn unit(&self) -> u64 {
        self.header().cluster_size()
    }
    fn set_below(&self, below: Device) {
        self.lock().below = Some(below);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.within(offset, data.len() as u64)?;
        let (bits, size) = (self.header().cluster_bits, self.header().cluster_size());
        let mut state = self.lock();
        let mut done = 0usize;
        while let Some(rest) = data.get(done..).filter(|r| !r.is_empty()) {
            let at = offset + done as u64;
            let (cluster, within) = (at >> bits, (at & (size - 1)) as usize);
            if let Entry::Data(place) = self.entry(cluster)? {
                let n = rest.len().min(size as usize - within);
                self.dev.write_at(place + within as u64, rest.get(..n).unwrap_or_default())?;
                done += n;
                continue;
            }
            let last = (at + rest.len() as u64 - 1) >> bits;
            let bytes = (self.run(cluster, last)? << bits) as usize;
            let n = rest.len().min(bytes - within);
            let mut whole = vec![0u8; (within + n).next_multiple_of(size as usize)];
            // The first and the last cluster may be written in part: the rest of them is what is there now.
            if within > 0 {
                self.fill(&state, at - within as u64, whole.get_mut(..within).unwrap_or_default())?;
            }
            self.fill(&state, at + n as u64, whole.get_mut(within + n..).unwrap_or_default())?;
            let fits = put(&mut whole, within, rest.get(..n).unwrap_or_default());
            debug_assert!(fits);
            self.add(&mut state, cluster, &whole)?;
            done += n;
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.within(offset, len)?;
        let (bits, size) = (self.header().cluster_bits, self.header().cluster_size());
        let alone = self.header().backing.is_none();
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let (cluster, within) = (at >> bits, at & (size - 1));
            let n = (size - within).min(end - at);
            let state = self.lock();
            let (entry, clusters) = self.image.tables().lookup(cluster)?;
            match entry {
                // Nothing below: it reads as zeros already, perhaps as far as a whole L2 table reaches.
                Entry::Unallocated if alone => {
                    at += ((clusters << bits) - within).min(end - at);
                    continue;
                }
                Entry::Data(place) => self.dev.write_zeroes(self.guard(place)? + within, n)?,
                _ => {
                    drop(state);
                    self.write(at, &vec![0; n as usize])?;
                }
            }
            at += n;
        }
        Ok(())
    }

    fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.within(offset, data.len() as u64)?;
        let size = self.header().cluster_size();
        if !offset.is_multiple_of(size) || data.len() as u64 > size {
            return Err(Error::usage("compressed data is written a whole cluster at a time"));
        }
        let mut plain = data.to_vec();
        plain.resize(size as usize, 0);
        if let Some(rest) = plain.get_mut(data.len()..).filter(|r| !r.is_empty()) {
            // The last one of a disk, or of a source whose size is no whole number of sectors.
            self.fill(&self.lock(), offset + data.len() as u64, rest)?;
        }
        let mut packed = vec![0u8; size as usize - 1];
        let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
        // What does not become smaller is stored plainly.
        let (Ok(len), true) = (compressor.deflate_compress(&plain, &mut packed), size <= MAX_PACKED) else {
            return self.write(offset, data);
        };
        packed.truncate(len);
        let mut state = self.lock();
        let at = state.end;
        self.dev.write_at(at, &packed)?;
        state.end = at + len as u64;
        let entry = Entry::Compressed { offset: at, len: len as u64 };
        self.set(&mut state, offset >> self.header().cluster_bits, entry)?;
        self.relieve()
    }

    fn flush(&self) -> Result<()> {
        let _state = self.lock();
        self.write_tables()
    }

    fn clear(&self) -> Result<()> {
        let mut state = self.lock();
        self.write_tables()?;
        for index in 0..self.header().l1_entries {
            if self.image.tables().l1(index)? != 0 {
                self.image.tables().unlink(index)?;
            }
        }
        self.write_tables()?;
        let h = self.header();
        // The name may lie behind the table.
        let mut fields = [0u8; 20];
        self.dev.read_at(0, &mut fields)?;
        let name = be64(&fields, 8).unwrap_or(0).saturating_add(be32(&fields, 16).unwrap_or(0).into());
        state.end = (h.l1_offset + h.l1_entries * 8).max(name).next_multiple_of(SECTOR);
        if self.dev.len() > state.end && self.dev.as_file().is_none_or(|f| !f.is_block_device()) {
            self.dev.set_len(state.end)?;
        }
        self.dev.flush()
    }

    /// The name goes behind all that there is; then one sector, the header, names it.
    fn set_backing(&self, backing: Option<&NewBacking>) -> Result<()> {
        let mut state = self.lock();
        self.write_tables()?;
        let name = backing.map(|b| b.name.as_bytes()).unwrap_or_default();
        if name.len() > MAX_NAME || (backing.is_some() && name.is_empty()) {
            return Err(Error::usage(format!("a backing file's name has 1 to {MAX_NAME} bytes")));
        }
        let mut fields = vec![0u8; 16];
        if !name.is_empty() {
            let at = state.end.max(self.dev.len()).next_multiple_of(SECTOR);
            self.dev.write_at(at, name)?;
            self.dev.flush()?;
            state.end = at + name.len() as u64;
            let fits = put_be64(&mut fields, 0, at) && put_be32(&mut fields, 8, name.len() as u32);
            debug_assert!(fits, "16 bytes hold both");
        }
        // Offset, length, and the time of change, which is not kept.
        self.dev.write_at(8, &fields)?;
        self.dev.flush()
    }

    fn reader(&self) -> Arc<dyn Image> {
        self.image.clone()
    }
}
