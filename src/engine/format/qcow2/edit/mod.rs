//! Changing the structures of an image as a whole: the new tables and counts are written where nothing is, then one write of one
//! sector makes them the image's.
//!
//! ```text
//!  1  new L1, L2, snapshot table; every changed refcount block and the refcount table, copied     in free clusters, then a flush
//!  2  header bytes 24 to 96: size, L1, refcount table, snapshots, autoclear bits                   one sector, then a flush
//!     (where the extensions change too, the first cluster is written as `head` describes: still one sector decides)
//!  3  what nobody uses any more is punched out of the host file, and its tail cut
//! ```
//!
//! A crash before 2 leaves the old image, a longer file at most; after 2 the new one. Neither has leaks: the old counts are never
//! changed, and the new ones never see what they replace. No journal is needed, and it holds for version 2 as well.

mod bitmaps;
mod compact;
mod dirty;
mod idle;
mod share;
mod snapshots;
mod zeros;

use crate::engine::error::{Error, Result};
use crate::engine::format::Source;
use crate::engine::io::{Device, WriteAt, WriteDevice, write_sparse};

use super::allocation::Allocator;
use super::extensions::{Extensions, read_head};
use super::head;
use super::header::{BITMAPS, CORRUPT, DIRTY, Header, RAW_EXTERNAL};
use super::image::{Opened, read_l1};
use super::snapshots::{Entry, read};
use super::tables::Geometry;

pub use dirty::{BitSet, Step};
pub use snapshots::{find, find_by_name};

/// An image opened for changing its structures. One of these at a time, and no writer beside it.
pub struct Editor {
    dev: WriteDevice,
    header: Header,
    ext: Extensions,
    /// The extensions are not those of the file.
    new_head: bool,
    geometry: Geometry,
    alloc: Allocator,
    /// The active L1 table.
    l1: Vec<u64>,
    list: Vec<Entry>,
    /// After a failure nobody knows what the file holds; the editor does nothing more.
    broken: bool,
}

impl Editor {
    /// Opens the image on `dev`, which is held for writing; `source` reads the same file. For snapshots.
    ///
    /// Errors: as [`Editor::open_any`]; an image with an external data file, whose data snapshots cannot keep.
    pub fn open(dev: WriteDevice, source: Source) -> Result<Editor> {
        let editor = Self::open_any(dev, source)?;
        if editor.header.external_data() {
            return Err(Error::unsupported(
                "its data is in another file, which snapshots inside this one cannot keep from changing",
            )
            .op("open for writing")
            .hint("make an overlay on it instead: create -b"));
        }
        Ok(editor)
    }

    /// Opens an image whose guest data is not concerned.
    ///
    /// Errors: what opening for reading refuses; images marked as damaged or not closed, whose counts cannot be relied on.
    pub fn open_any(dev: WriteDevice, source: Source) -> Result<Editor> {
        let (header, opened) = Opened::open(source)?;
        refuse(&header)?;
        opened.writable()?;
        let reader: Device = dev.clone();
        let (_, ext) = read_head(&reader)?;
        let l1 = read_l1(&reader, header.l1_offset, header.l1_entries)?;
        let list = read(dev.as_ref(), &header)?;
        let mut alloc = Allocator::open(dev.clone(), &header)?;
        alloc.protect_table(header.l1_offset, u64::from(header.l1_entries) * 8);
        for (offset, len) in &opened.structures {
            alloc.protect_table(*offset, *len);
        }
        Ok(Editor { dev, geometry: opened.geometry, header, ext, new_head: false, alloc, l1, list, broken: false })
    }

    /// The snapshots now.
    pub fn list(&self) -> &[Entry] {
        &self.list
    }
    /// The header now.
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn cluster(&self, offset: u64) -> u64 {
        offset >> self.header.cluster_bits
    }

    /// Writes `bytes` as whole clusters into free ones; the first byte. Nothing is written for no bytes.
    fn place(&mut self, bytes: &[u8]) -> Result<u64> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let cluster = self.geometry.cluster();
        let mut padded = bytes.to_vec();
        padded.resize(padded.len().next_multiple_of(cluster as usize), 0);
        let at = self.alloc.metadata_run(padded.len() as u64 / cluster)?;
        write_sparse(self.dev.as_ref(), at, &padded)?;
        Ok(at)
    }

    /// `l1` becomes the active table.
    fn place_l1(&mut self, l1: Vec<u64>) -> Result<()> {
        self.alloc.drop_range(self.header.l1_offset, u64::from(self.header.l1_entries) * 8)?;
        self.header.l1_offset = self.place(&bytes(&l1))?;
        self.header.l1_entries = l1.len() as u32;
        self.l1 = l1;
        Ok(())
    }

    /// Does `work` and makes it the image's. When it fails before that, the file is as it was.
    fn change<T>(&mut self, work: impl FnOnce(&mut Editor) -> Result<T>) -> Result<T> {
        if self.broken {
            return Err(Error::unsupported("an earlier change of this image failed").hint("open it again"));
        }
        let len = self.dev.len();
        self.broken = true;
        let prepared = work(self).and_then(|done| self.prepare().map(|()| done));
        match prepared {
            Ok(done) => {
                self.switch()?;
                self.broken = false;
                Ok(done)
            }
            Err(e) => {
                // What was appended is nobody's.
                if self.dev.len() > len && self.dev.as_file().is_none_or(|f| !f.is_block_device()) {
                    let _ = self.dev.set_len(len);
                }
                Err(e)
            }
        }
    }

    /// Copies every changed refcount block, and the table, to free places, and writes them: nothing points there yet.
    fn prepare(&mut self) -> Result<()> {
        loop {
            for cluster in std::mem::take(&mut self.alloc.freed) {
                self.alloc.drop_use(cluster, 1)?;
            }
            if !self.alloc.refs.is_moved() {
                let clusters = self.alloc.refs.table_clusters();
                let old = self.alloc.refs.table_offset;
                let at = self.alloc.metadata_run(clusters)?;
                // Finding room may have moved it already, and freed it then.
                if !self.alloc.refs.is_moved() {
                    self.alloc.refs.move_table(at);
                    self.alloc.drop_range(old, clusters << self.header.cluster_bits)?;
                } else {
                    self.alloc.drop_range(at, clusters << self.header.cluster_bits)?;
                }
            }
            let changed = self.alloc.refs.changed_blocks();
            if changed.is_empty() && self.alloc.freed.is_empty() {
                break;
            }
            for index in changed {
                let at = self.alloc.metadata_run(1)?;
                if let Some(old) = self.alloc.refs.move_block(index, self.cluster(at)) {
                    self.alloc.drop_use(self.cluster(old), 1)?;
                }
            }
        }
        self.alloc.refs.write_unreachable(self.dev.as_ref())?;
        self.dev.flush()
    }

    /// The one write that counts, and giving back what it let go of.
    fn switch(&mut self) -> Result<()> {
        self.header.reftable_offset = self.alloc.refs.table_offset;
        self.header.reftable_clusters = self.alloc.refs.table_clusters() as u32;
        // BitSet not known here promise something nobody keeps.
        self.header.autoclear &= BITMAPS | RAW_EXTERNAL;
        if std::mem::take(&mut self.new_head) {
            head::rewrite(self.dev.as_ref(), &mut self.header, &self.ext)?;
        } else {
            head::write_fields(self.dev.as_ref(), &self.header)?;
        }
        self.alloc.refs.linked();
        self.alloc.reclaim(self.dev.as_ref())?;
        self.dev.flush()
    }
}

/// A table of entries as bytes.
fn bytes(table: &[u64]) -> Vec<u8> {
    table.iter().flat_map(|e| e.to_be_bytes()).collect()
}

fn refuse(header: &Header) -> Result<()> {
    let no = |why: &str, hint: &str| Err(Error::unsupported(why).op("open for writing").hint(hint));
    if header.incompatible & CORRUPT != 0 {
        return no("it is marked as damaged", "look with cowshed check, repair with check -r all");
    }
    if header.incompatible & DIRTY != 0 {
        return no("it was not closed properly, and its refcounts may be stale", "cowshed check -r all brings them up to date");
    }
    Ok(())
}

impl Allocator {
    /// As [`Allocator::protect`], for a table that may be empty.
    fn protect_table(&mut self, offset: u64, len: u64) {
        if len > 0 {
            self.protect(offset, len);
        }
    }

    /// `times` uses of `cluster` less. At zero it is set aside until the file lets go of it; the count left.
    fn drop_use(&mut self, cluster: u64, times: i64) -> Result<u64> {
        let left = self.refs.change(cluster, -times)?;
        if left == 0 {
            self.retired.insert(cluster..cluster + 1);
        }
        Ok(left)
    }

    /// One use less of each cluster that the `len` bytes at `offset` touch.
    fn drop_range(&mut self, offset: u64, len: u64) -> Result<()> {
        if len > 0 {
            for cluster in offset >> self.cluster_bits..=(offset + (len - 1)) >> self.cluster_bits {
                self.drop_use(cluster, 1)?;
            }
        }
        Ok(())
    }

    /// The file no longer points to what was set aside: its space goes back to the host, and the end of the file is cut.
    fn reclaim(&mut self, dev: &dyn WriteAt) -> Result<()> {
        let retired = std::mem::take(&mut self.retired);
        if dev.as_file().is_some_and(|f| f.is_block_device()) {
            return Ok(());
        }
        for range in retired.iter() {
            self.hint = self.hint.min(range.start);
            self.metadata.cut(range.clone());
        }
        let len = dev.len();
        let end = self.used_end(len)?;
        for range in retired.iter() {
            let (start, stop) = (range.start << self.cluster_bits, (range.end << self.cluster_bits).min(end));
            // Space that cannot be given back is only space.
            if start < stop {
                let _ = dev.write_zeroes(start, stop - start);
            }
        }
        if end < len { dev.set_len(end) } else { Ok(()) }
    }
}
