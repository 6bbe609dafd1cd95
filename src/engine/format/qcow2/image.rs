//! An open qcow2 image for reading: the active disk or one of its internal snapshots, over shared caches.

use std::sync::{Arc, OnceLock};

use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::format::{Format, Image, Source};
use crate::engine::io::bytes::be64;
use crate::engine::io::{Device, past_end, read_padded, read_vec};
use crate::engine::limits::MAX_L1_BYTES;
use crate::engine::model::{BackingRef, Description, Kind, Mapping, ParentIdentity, Place};
use crate::engine::units::MIB;

use super::cache::Cache;
use super::describe::{Parts, bit_names, describe, warnings};
use super::extensions::{BitmapsExtension, Extensions, read_head};
use super::header::{BITMAPS, Compression, Header, KNOWN_INCOMPATIBLE};
use super::holes::Refcounts;
use super::tables::{Geometry, Packed};
use super::{bitmaps, compression, encryption, snapshots};

/// Bytes of L2 tables kept.
const TABLE_CACHE: usize = 32 * MIB as usize;
/// Bytes of decoded clusters kept for reads smaller than a cluster.
const CLUSTER_CACHE: usize = 8 * MIB as usize;

/// The file an image is read from, with what all its disks share.
pub struct Opened {
    /// The image file.
    pub dev: Device,
    /// The external data file, or why it cannot be opened.
    pub data: Option<Result<Device>>,
    /// How entries are read.
    pub geometry: Geometry,
    /// How clusters are compressed.
    pub compression: Compression,
    tables: Cache,
    clusters: Cache,
    refcounts: Refcounts,
    /// Asked for once: it may read all refcounts.
    sparse: OnceLock<bool>,
    snapshots: Vec<snapshots::Entry>,
    /// Snapshots, by their number, whose L1 table cannot be where it is said to be. Readers of the disk are not concerned.
    damaged: Vec<(usize, Error)>,
    /// The bitmaps that can be relied on.
    bitmaps: Vec<bitmaps::Entry>,
    /// The reference to what the image stands on.
    pub backing: Option<BackingRef>,
    /// What the image says about itself.
    pub description: Arc<Description>,
    /// The external data file's name.
    pub data_name: Option<String>,
    /// Host ranges of structures besides header, refcounts and the active tables: offset and bytes.
    pub structures: Vec<(u64, u64)>,
}

impl Opened {
    /// Reads everything that describes the image; no guest data and no mapping tables yet.
    ///
    /// Errors: what a reader must not pass over: unknown incompatible features, structures outside the file or out of range.
    pub fn open(source: Source) -> Result<(Header, Opened)> {
        let dev = source.dev.clone();
        let (header, ext) = read_head(&dev)?;
        refuse_unknown(&header, &ext)?;
        for (what, offset, len) in [
            ("L1 table", header.l1_offset, u64::from(header.l1_entries) * 8),
            ("refcount table", header.reftable_offset, u64::from(header.reftable_clusters) << header.cluster_bits),
        ] {
            if offset.saturating_add(len) > dev.len() {
                return Err(past_end(dev.as_ref(), offset, len).op(format!("look for the {what}")));
            }
        }
        let data = header.external_data().then(|| open_data(&source, &ext));
        let snapshots = snapshots::read_table(dev.as_ref(), &header)?;
        let damaged: Vec<(usize, Error)> = snapshots
            .iter()
            .enumerate()
            .filter_map(|(i, s)| Some((i, snapshots::check(s, dev.as_ref(), &header).err()?)))
            .collect();
        let trusted = header.autoclear & BITMAPS != 0;
        let directory = ext.bitmaps(&header)?;
        let bitmaps = match &directory {
            Some(directory) if trusted => bitmaps::read(dev.as_ref(), directory)?,
            _ => Vec::new(),
        };
        let encryption = encryption::read(dev.as_ref(), &header, &ext)?;
        let mut warnings = warnings(&header, &ext, directory.is_some() && !trusted);
        warnings.extend(damaged.iter().map(|(_, e)| format!("a snapshot cannot be read: {}", e.why())));
        if let Some(Err(e)) = &data {
            warnings.push(format!("its content cannot be read: {e}"));
        }
        let description = describe(Parts {
            header: &header,
            ext: &ext,
            snapshots: snapshots.iter().map(|s| s.describe(&header)).collect(),
            bitmaps: bitmaps.iter().map(bitmaps::Entry::describe).collect(),
            encryption,
            warnings,
        });
        let opened = Opened {
            structures: structures(&header, &ext, &snapshots, directory.as_ref(), &bitmaps),
            data_name: ext.data_file().filter(|_| header.external_data()),
            dev,
            data,
            geometry: Geometry::of(&header),
            compression: header.compression,
            tables: Cache::new(TABLE_CACHE),
            clusters: Cache::new(CLUSTER_CACHE),
            refcounts: Refcounts::of(&header),
            sparse: OnceLock::new(),
            snapshots,
            damaged,
            bitmaps,
            backing: ext.backing_name().map(|name| BackingRef {
                names: vec![name],
                format: ext.backing_format(),
                identity: ParentIdentity::Name,
            }),
            description: Arc::new(description),
        };
        Ok((header, opened))
    }

    /// Refuses what must not be written to: where a snapshot lies that nobody finds, anything may be written over it.
    pub fn writable(&self) -> Result<()> {
        match self.damaged.first() {
            None => Ok(()),
            Some((_, e)) => Err(e.clone()),
        }
    }

    /// The file guest data is in, with its index among the image's files.
    fn data(&self) -> Result<(usize, &Device)> {
        match &self.data {
            None => Ok((0, &self.dev)),
            Some(Ok(dev)) => Ok((1, dev)),
            Some(Err(e)) => Err(e.clone()),
        }
    }

    /// The L2 table at host byte `offset`.
    fn table(&self, offset: u64) -> Result<Arc<Vec<u8>>> {
        if let Some(table) = self.tables.get(offset) {
            return Ok(table);
        }
        let len = self.geometry.cluster();
        let table = Arc::new(read_vec(self.dev.as_ref(), offset, len, len).map_err(|e| e.op("read an L2 table"))?);
        self.tables.insert(offset, table.clone());
        Ok(table)
    }

    /// Decodes the compressed cluster at `place` into `out`, one cluster.
    pub fn unpack(&self, place: Packed, out: &mut [u8]) -> Result<()> {
        unpack(&self.dev, self.compression, place, out)
    }
}

/// Decodes the compressed cluster that `dev` holds at `place` into `out`, one cluster.
pub fn unpack(dev: &Device, kind: Compression, place: Packed, out: &mut [u8]) -> Result<()> {
    let mut packed = vec![0; place.len as usize];
    read_padded(dev.as_ref(), place.offset, &mut packed)?;
    compression::decompress(kind, &packed, out).map_err(|e| e.op("read a compressed cluster").at(place.offset))
}

/// Where the lesser structures are, so that a writer stays clear of them.
fn structures(
    header: &Header,
    ext: &Extensions,
    snapshots: &[snapshots::Entry],
    directory: Option<&BitmapsExtension>,
    bitmaps: &[bitmaps::Entry],
) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    if !snapshots.is_empty() {
        out.push((header.snapshots_offset, snapshots.iter().map(|s| s.encode().len() as u64).sum()));
    }
    out.extend(snapshots.iter().map(|s| (s.l1_offset, u64::from(s.l1_entries) * 8)));
    out.extend(directory.map(|d| (d.directory_offset, d.directory_size)));
    out.extend(bitmaps.iter().map(|b| (b.table_offset, u64::from(b.table_entries) * 8)));
    out.extend(ext.crypto_header());
    out
}

fn refuse_unknown(header: &Header, ext: &Extensions) -> Result<()> {
    let unknown = header.incompatible & !KNOWN_INCOMPATIBLE;
    if unknown == 0 {
        return Ok(());
    }
    let names = bit_names(ext, 0, unknown).join(", ");
    Err(Error::unsupported(format!("it needs features cowshed does not know: {names}"))
        .op("read the qcow2 header")
        .at(72)
        .hint("a newer program made it; convert it there to an image without these features"))
}

fn open_data(source: &Source, ext: &Extensions) -> Result<Device> {
    let name = ext
        .data_file()
        .ok_or_else(|| Error::corrupt("its data is in another file, and the image does not name it").path(&source.path))?;
    Ok(Arc::new(source.gate.open(&source.path, &name)?))
}

/// One disk of an image: the active one, or a snapshot.
pub struct Qcow2 {
    opened: Arc<Opened>,
    size: u64,
    l1_offset: u64,
    l1_entries: u32,
    /// Read when first needed: describing an image needs no mapping.
    l1: OnceLock<Vec<u64>>,
}

impl Qcow2 {
    /// Opens the active disk.
    pub fn open(source: Source) -> Result<Qcow2> {
        let (header, opened) = Opened::open(source)?;
        Ok(Qcow2 {
            opened: Arc::new(opened),
            size: header.size,
            l1_offset: header.l1_offset,
            l1_entries: header.l1_entries,
            l1: OnceLock::new(),
        })
    }

    fn l1(&self) -> Result<&[u64]> {
        if let Some(l1) = self.l1.get() {
            return Ok(l1);
        }
        let table = read_l1(&self.opened.dev, self.l1_offset, self.l1_entries)?;
        Ok(self.l1.get_or_init(|| table))
    }

    /// The L2 table of an L1 index; `None` where there is none. Indices past the L1 table (a snapshot may have a short one) hold
    /// nothing.
    fn l2(&self, l1: &[u64], index: u64) -> Result<Option<Arc<Vec<u8>>>> {
        let entry = usize::try_from(index).ok().and_then(|i| l1.get(i)).copied().unwrap_or(0);
        match self.opened.geometry.l2_offset(entry).map_err(|e| e.op("read the L1 table").at(self.l1_offset + index * 8))? {
            Some(offset) => self.opened.table(offset).map(Some),
            None => Ok(None),
        }
    }

    /// The place of the compressed cluster that holds guest byte `offset`.
    fn packed(&self, offset: u64) -> Result<Packed> {
        let g = &self.opened.geometry;
        let table = self.l2(self.l1()?, offset / g.l2_span())?.ok_or_else(changed)?;
        let (entry, _) = g.entry(&table, offset % g.l2_span())?;
        Ok(g.packed(entry))
    }

    /// Reads from the compressed cluster that holds `offset`; `buf` does not reach past it.
    fn read_packed(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let o = &self.opened;
        let size = o.geometry.cluster();
        let place = self.packed(offset)?;
        if buf.len() as u64 == size {
            return o.unpack(place, buf);
        }
        let cluster = match o.clusters.get(place.offset) {
            Some(c) => c,
            None => {
                let mut c = vec![0; size as usize];
                o.unpack(place, &mut c)?;
                let c = Arc::new(c);
                o.clusters.insert(place.offset, c.clone());
                c
            }
        };
        let within = (offset & (size - 1)) as usize;
        buf.copy_from_slice(cluster.get(within..within + buf.len()).ok_or_else(changed)?);
        Ok(())
    }
}

/// An L1 table out of the file.
pub fn read_l1(dev: &Device, offset: u64, entries: u32) -> Result<Vec<u64>> {
    let bytes = read_vec(dev.as_ref(), offset, u64::from(entries) * 8, MAX_L1_BYTES).map_err(|e| e.op("read the L1 table"))?;
    Ok((0..entries as usize).filter_map(|i| be64(&bytes, i * 8)).collect())
}

fn changed() -> Error {
    Error::new(ErrorKind::Corrupt, "the image's tables changed while they were read")
}

/// A data run cut where the image file ends; a run that begins behind the end is an error. A last cluster may be stored in part.
pub fn within_file(geometry: &Geometry, dev: &Device, place: u64, len: u64) -> Result<u64> {
    let end = dev.len();
    if place.saturating_add(len) <= end {
        return Ok(len);
    }
    if place >= end {
        return Err(past_end(dev.as_ref(), place, len).op("look for guest data"));
    }
    let cluster = geometry.cluster();
    Ok(len.min(end.next_multiple_of(cluster).saturating_sub(place)).max(1))
}

impl Image for Qcow2 {
    fn format(&self) -> Format {
        Format::Qcow2
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn files(&self) -> Vec<Device> {
        let mut files = vec![self.opened.dev.clone()];
        if let Some(Ok(data)) = &self.opened.data {
            files.push(data.clone());
        }
        files
    }

    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let o = &self.opened;
        let l1 = self.l1()?;
        let (file, _) = o.data()?;
        let max = max.min(self.size.saturating_sub(offset));
        let place_of = |e: Error| e.op(format!("map guest byte {offset:#x}"));
        let mut run = o.geometry.map(offset, max, |index| self.l2(l1, index)).map_err(place_of)?;
        if run.kind == Kind::Data
            && file == 0
            && let Some(host) = run.host
        {
            run.len = within_file(&o.geometry, &o.dev, host, run.len).map_err(place_of)?;
        }
        Ok(Mapping { kind: run.kind, len: run.len, place: run.host.map(|offset| Place { file, offset }) })
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut done = 0usize;
        while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
            let at = offset + done as u64;
            let m = self.map(at, rest.len() as u64)?;
            let n = m.len.min(rest.len() as u64) as usize;
            let part = rest.get_mut(..n).unwrap_or_default();
            match (m.kind, m.place) {
                (Kind::Data, Some(place)) => read_padded(self.opened.data()?.1.as_ref(), place.offset, part)?,
                (Kind::Compressed, _) => self.read_packed(at, part)?,
                _ => part.fill(0),
            }
            done += n;
        }
        Ok(())
    }

    fn backing(&self) -> Option<BackingRef> {
        self.opened.backing.clone()
    }

    fn describe(&self) -> Arc<Description> {
        self.opened.description.clone()
    }

    fn bitmap(&self, name: &str) -> Result<Device> {
        let found = self.opened.bitmaps.iter().find(|b| b.describe().name == name);
        let entry = found.ok_or_else(|| Error::usage(format!("there is no bitmap '{name}'")))?;
        let bits = bitmaps::Bits::open(self.opened.dev.clone(), entry, self.size, self.opened.geometry.cluster())?;
        Ok(Arc::new(bits))
    }

    fn snapshot(&self, which: &str) -> Result<Arc<dyn Image>> {
        let list = &self.opened.snapshots;
        let find = |same: &dyn Fn(&snapshots::Entry) -> bool| list.iter().enumerate().find(|(_, s)| same(s));
        let found = find(&|s| s.id == which.as_bytes()).or_else(|| find(&|s| s.name == which.as_bytes()));
        let Some((i, s)) = found else {
            let names: Vec<_> = list.iter().map(|s| String::from_utf8_lossy(&s.name).into_owned()).collect();
            let hint = if names.is_empty() { "it has no snapshots".into() } else { format!("it has: {}", names.join(", ")) };
            return Err(Error::usage(format!("there is no snapshot '{which}'")).hint(hint));
        };
        if let Some((_, e)) = self.opened.damaged.iter().find(|(n, _)| *n == i) {
            return Err(e.clone());
        }
        Ok(Arc::new(Qcow2 {
            opened: self.opened.clone(),
            size: s.disk_size().unwrap_or(self.size),
            l1_offset: s.l1_offset,
            l1_entries: s.l1_entries,
            l1: OnceLock::new(),
        }))
    }

    fn holes_under_data(&self) -> bool {
        // Refcounts that cannot be read are for a check to report; the map is right without them, if less exact.
        *self.opened.sparse.get_or_init(|| self.opened.refcounts.exceed_storage(&self.opened.dev).unwrap_or(false))
    }

    fn readable(&self) -> Result<()> {
        if let Some(how) = &self.opened.description.encrypted {
            return Err(Error::unsupported(format!("its content is encrypted ({how}), which cannot be read yet")));
        }
        self.opened.data().map(drop)
    }
}
