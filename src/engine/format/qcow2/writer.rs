//! An image open for writing: the tables in memory, and the order in which changes reach the file.
//!
//! Guest data goes to the file at once, into clusters nothing points to yet; tables are changed in memory. A flush then writes
//! in five steps, each durable before the next, and this is what a crash leaves after each:
//!
//! 1. data, new L2 tables, new refcount blocks, a moved refcount table: nothing points to them; the old image, longer.
//! 2. counts of clusters in use: the old image with leaked clusters.
//! 3. links to new refcount blocks, or the header's pointer to a moved refcount table: the same.
//! 4. L2 entries and L1 entries: the new content, each cluster old or new; clusters no longer used are leaked.
//! 5. counts of clusters no longer used: the new image.
//!
//! So a crash leaves leaks at worst, never a cluster that is used without being counted. A cluster is handed out again only after
//! step 4, when no table in the file points to it any more. Lazy refcounts are not made use of: counts are always right after a
//! flush, so the dirty bit is never needed.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::Image;
use crate::engine::format::write::{Below, DiskWriter, NewBacking, Preallocation, WriteSource};
use crate::engine::io::{Device, WriteDevice};
use crate::engine::model::{BackingRef, Bitmap, Description};
use crate::engine::units::MIB;

use super::allocation::Allocator;
use super::block::Block;
use super::header::{CORRUPT, Compression, DIRTY, Header};
use super::image::{Opened, read_l1};
use super::live::Live;
use super::tables::{COPIED, Geometry};
use super::track::Tracker;

/// Bytes of L2 tables kept in memory.
const TABLES: u64 = 32 * MIB;

/// An image open for writing.
pub struct Writer {
    pub(super) shared: Arc<Shared>,
}

/// What the writer and its readers share.
pub struct Shared {
    /// The image file.
    pub dev: WriteDevice,
    /// The external data file.
    pub data: Option<WriteDevice>,
    /// How entries are read.
    pub geometry: Geometry,
    /// How clusters are compressed.
    pub compression: Compression,
    /// What the image stands on, where it was opened.
    pub below: Option<Below>,
    /// The reference to it.
    pub backing: Option<BackingRef>,
    /// What the image said when it was opened.
    pub description: Arc<Description>,
    /// The image was made by this writer, so that nobody relies on it yet.
    pub is_new: bool,
    /// Virtual size in bytes.
    pub size: AtomicU64,
    /// Everything that changes.
    pub state: Mutex<State>,
}

/// The tables of an image open for writing.
pub struct State {
    /// The header as it is in the file (its refcount table fields excepted, which the allocator writes).
    pub header: Header,
    /// Nothing was written yet: autoclear features are still to be cleared.
    pub untouched: bool,
    /// The clusters of the file and their counts.
    pub alloc: Allocator,
    /// The active L1 table.
    pub l1: Vec<u64>,
    /// L1 entries newer than the file.
    pub l1_changed: BTreeSet<usize>,
    /// L2 tables by L1 index.
    pub tables: HashMap<u64, Block>,
    /// Where the next compressed cluster goes, if there is room in the last one's host cluster.
    pub pack: Option<u64>,
    /// Bitmaps that record, and what was written meanwhile.
    pub tracker: Option<Tracker>,
    /// A flush failed: what the file holds is not known any more.
    pub broken: Option<Error>,
}

impl Writer {
    /// Opens an existing image for writing.
    ///
    /// Errors: what opening for reading refuses; encrypted, damaged or dirty images, whose refcounts cannot be relied on.
    pub fn open(from: WriteSource) -> Result<Writer> {
        let WriteSource { dev, source, below, other } = from;
        let path = source.path.clone();
        let (header, opened) = Opened::open(source).path(&path)?;
        refuse(&header, &opened).path(&path)?;
        opened.writable().path(&path)?;
        let data = match &opened.data_name {
            Some(name) => Some(other(&path, name)?),
            None => None,
        };
        let l1 = read_l1(&opened.dev, header.l1_offset, header.l1_entries).path(&path)?;
        let mut alloc = Allocator::open(dev.clone(), &header).path(&path)?;
        alloc.protect(header.l1_offset, u64::from(header.l1_entries) * 8);
        for l2 in &l1 {
            if let Some(offset) = opened.geometry.l2_offset(*l2)? {
                alloc.protect(offset, 1);
            }
        }
        for (offset, len) in &opened.structures {
            alloc.protect(*offset, *len);
        }
        let shared = Shared {
            dev,
            data,
            geometry: opened.geometry,
            compression: header.compression,
            below,
            backing: opened.backing.clone(),
            description: opened.description.clone(),
            is_new: false,
            size: AtomicU64::new(header.size),
            state: Mutex::new(State::new(header, alloc, l1)),
        };
        Ok(Writer { shared: Arc::new(shared) })
    }
}

fn refuse(header: &Header, opened: &Opened) -> Result<()> {
    let no = |why: &str, hint: &str| Err(Error::unsupported(why).op("open for writing").hint(hint));
    if let Some(how) = &opened.description.encrypted {
        return no(&format!("its content is encrypted ({how}), which cannot be written yet"), "decrypt it with qemu-img convert");
    }
    if header.incompatible & CORRUPT != 0 {
        return no("it is marked as damaged", "look with cowshed check, repair with check -r all");
    }
    if header.incompatible & DIRTY != 0 {
        return no("it was not closed properly, and its refcounts may be stale", "cowshed check -r all brings them up to date");
    }
    Ok(())
}

impl State {
    /// The state of an image just opened or made.
    pub fn new(header: Header, alloc: Allocator, l1: Vec<u64>) -> Self {
        State {
            header,
            untouched: true,
            alloc,
            l1,
            l1_changed: BTreeSet::new(),
            tables: HashMap::new(),
            pack: None,
            tracker: None,
            broken: None,
        }
    }
}

impl Shared {
    /// The tables, for one caller at a time.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Virtual size in bytes.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }
    /// The file guest data goes to.
    pub fn data(&self) -> &WriteDevice {
        self.data.as_ref().unwrap_or(&self.dev)
    }
    /// The same for reading.
    pub fn data_reader(&self) -> Device {
        self.data().clone()
    }
    /// There is something below that clusters not held here fall through to.
    pub fn stands_on_something(&self) -> bool {
        // Also when it is about to: a rebase tells what lies below before the header does.
        self.backing.is_some() || self.below.is_some()
    }

    /// The tables, unless a flush failed.
    pub fn sound(&self) -> Result<MutexGuard<'_, State>> {
        let s = self.lock();
        match &s.broken {
            Some(e) => Err(e.clone()),
            None => Ok(s),
        }
    }

    /// The tables, ready to be changed. Before anything else is written the autoclear features that are not maintained are cleared,
    /// and bitmaps marked.
    pub fn change(&self) -> Result<MutexGuard<'_, State>> {
        let mut s = self.sound()?;
        if s.untouched {
            self.begin_change(&mut s)?;
            s.untouched = false;
        }
        Ok(s)
    }

    /// The same for writing guest bytes of this range.
    pub fn change_guest(&self, offset: u64, len: u64) -> Result<MutexGuard<'_, State>> {
        let mut s = self.change()?;
        if let Some(tracker) = &mut s.tracker {
            tracker.mark(offset, len);
        }
        Ok(s)
    }

    /// The L2 table of L1 index `index` for reading; `None` where there is none.
    pub fn table(&self, s: &mut State, index: u64) -> Result<Option<Arc<Vec<u8>>>> {
        if let Some(t) = s.tables.get(&index) {
            return Ok(Some(t.bytes().clone()));
        }
        let entry = usize::try_from(index).ok().and_then(|i| s.l1.get(i)).copied().unwrap_or(0);
        let Some(offset) = self.geometry.l2_offset(entry)? else { return Ok(None) };
        let block = Block::read(self.dev.as_ref(), offset, self.geometry.cluster()).op("read an L2 table")?;
        let bytes = block.bytes().clone();
        self.keep(s, index, block);
        Ok(Some(bytes))
    }

    fn keep(&self, s: &mut State, index: u64, block: Block) {
        if (s.tables.len() as u64) << self.geometry.cluster_bits >= TABLES {
            s.tables.retain(|_, t| t.is_dirty());
        }
        s.tables.insert(index, block);
    }

    /// The L2 table of L1 index `index` for changing: made when there is none, copied when a snapshot shares it.
    pub fn table_mut<'s>(&self, s: &'s mut State, index: u64) -> Result<&'s mut Block> {
        let i = usize::try_from(index).unwrap_or(usize::MAX);
        let entry = *s.l1.get(i).ok_or_else(|| Error::new(ErrorKind::Internal, "a guest range without an L1 entry"))?;
        let old = self.geometry.l2_offset(entry)?;
        if old.is_none() || entry & COPIED == 0 {
            let bytes = match self.table(s, index)? {
                Some(shared) => shared.to_vec(),
                None => vec![0; self.geometry.cluster() as usize],
            };
            let offset = s.alloc.metadata_run(1)?;
            if let Some(old) = old {
                s.alloc.free(old, 1);
            }
            if let Some(e) = s.l1.get_mut(i) {
                *e = offset | COPIED;
            }
            s.l1_changed.insert(i);
            self.keep(s, index, Block::fresh(offset, bytes));
        } else if !s.tables.contains_key(&index) {
            self.table(s, index)?;
        }
        s.tables.get_mut(&index).ok_or_else(|| Error::new(ErrorKind::Internal, "an L2 table that was not kept"))
    }

    /// Makes everything durable, in the order the module describes.
    pub fn flush(&self, s: &mut State) -> Result<()> {
        if let Some(e) = &s.broken {
            return Err(e.clone());
        }
        // 1
        s.alloc.refs.write_unreachable(self.dev.as_ref())?;
        let mut fresh: Vec<_> = s.tables.values_mut().filter(|t| t.fresh).collect();
        fresh.sort_unstable_by_key(|t| t.offset);
        for table in fresh {
            table.write(self.dev.as_ref())?;
        }
        if let Some(data) = &self.data {
            self.barrier(s, data)?;
        }
        self.barrier(s, &self.dev)?;
        // 2
        if s.alloc.refs.write_blocks(self.dev.as_ref())? {
            self.barrier(s, &self.dev)?;
        }
        // 3
        if s.alloc.refs.write_links(self.dev.as_ref())? {
            s.header.reftable_offset = s.alloc.refs.table_offset;
            s.header.reftable_clusters = s.alloc.refs.table_clusters() as u32;
            self.barrier(s, &self.dev)?;
        }
        // 4
        if self.write_tables(s)? {
            self.barrier(s, &self.dev)?;
        }
        // 5
        if s.alloc.has_freed() {
            let State { alloc, pack, .. } = s;
            let bits = self.geometry.cluster_bits;
            let settled = alloc.settle(self.dev.as_ref(), |gone| {
                if pack.is_some_and(|p| p.saturating_sub(1) >> bits == gone >> bits) {
                    *pack = None;
                }
            });
            s.alloc.refs.write_blocks(self.dev.as_ref())?;
            settled?;
        }
        s.alloc.refs.trim();
        Ok(())
    }

    fn write_tables(&self, s: &mut State) -> Result<bool> {
        let mut any = !s.l1_changed.is_empty();
        let mut dirty: Vec<_> = s.tables.values_mut().filter(|t| t.is_dirty()).collect();
        dirty.sort_unstable_by_key(|t| t.offset);
        for table in dirty {
            table.write(self.dev.as_ref())?;
            any = true;
        }
        // Neighbouring entries go in one write.
        let mut entries = s.l1_changed.iter().copied().peekable();
        while let Some(first) = entries.next() {
            let mut last = first;
            while entries.peek() == Some(&(last + 1)) {
                last += 1;
                entries.next();
            }
            let bytes: Vec<u8> = s.l1.get(first..=last).unwrap_or_default().iter().flat_map(|e| e.to_be_bytes()).collect();
            self.dev.write_at(s.header.l1_offset + first as u64 * 8, &bytes)?;
        }
        s.l1_changed.clear();
        for table in s.tables.values_mut() {
            table.fresh = false;
        }
        Ok(any)
    }

    /// Makes what was written to `dev` durable. After a failure nobody knows what was: nothing more is written.
    pub fn barrier(&self, s: &mut State, dev: &WriteDevice) -> Result<()> {
        dev.flush().inspect_err(|e| s.broken = Some(e.clone()))
    }

    /// Writes tables out when too many have changed.
    pub fn relieve(&self, s: &mut State) -> Result<()> {
        let limit = TABLES >> self.geometry.cluster_bits;
        if (s.tables.len() as u64) < limit {
            return Ok(());
        }
        s.tables.retain(|_, t| t.is_dirty());
        if (s.tables.len() as u64) < limit / 2 {
            return Ok(());
        }
        self.flush(s)?;
        s.tables.clear();
        Ok(())
    }
}

impl DiskWriter for Writer {
    fn size(&self) -> u64 {
        self.shared.size()
    }
    fn unit(&self) -> u64 {
        self.shared.geometry.cluster()
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.shared.write(offset, data)
    }
    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.shared.write_zeroes(offset, len)
    }
    fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.shared.write_compressed(offset, data)
    }
    fn flush(&self) -> Result<()> {
        let mut s = self.shared.lock();
        self.shared.flush(&mut s)
    }
    fn finish(&self) -> Result<()> {
        let mut s = self.shared.lock();
        self.shared.flush(&mut s)?;
        self.shared.settle_bitmaps(&mut s)
    }
    fn add_bitmaps(&self, bitmaps: &[(Bitmap, Device)]) -> Result<()> {
        self.shared.add_bitmaps(bitmaps)
    }
    fn resize(&self, size: u64) -> Result<()> {
        self.shared.resize(size)
    }
    fn preallocate(&self, from: u64, how: Preallocation) -> Result<()> {
        self.shared.preallocate(from, how)
    }
    fn clear(&self) -> Result<()> {
        self.shared.clear()
    }
    fn wipe_unused(&self) -> Result<u64> {
        self.shared.wipe_unused()
    }
    fn set_backing(&self, backing: Option<&NewBacking>) -> Result<()> {
        self.finish()?;
        super::reparent::set_backing(&self.shared.dev, backing)
    }
    fn reader(&self) -> Arc<dyn Image> {
        Arc::new(Live(self.shared.clone()))
    }
}
