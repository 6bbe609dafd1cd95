//! A qcow version 1 image open for reading.

use std::sync::Arc;

use flate2::{Decompress, FlushDecompress};

use super::header::Header;
use super::tables::{Entry, Tables};
use crate::engine::error::{Context, Error, Result};
use crate::engine::format::{Format, Image, Source};
use crate::engine::io::{Device, ReadAt, past_end, read_vec};
use crate::engine::model::{BackingRef, Description, Fact, Kind, Mapping, ParentIdentity, Place};

/// Clusters looked at in one call of `map`, so that a hostile image cannot hold a caller for long.
const STEPS: usize = 1 << 16;

/// An open image.
pub struct Qcow {
    dev: Device,
    header: Header,
    tables: Tables,
    description: Arc<Description>,
}

/// Opens an image for reading.
pub(super) fn open(source: Source) -> Result<Arc<dyn Image>> {
    Ok(Arc::new(Qcow::open(source.dev)?))
}

impl Qcow {
    /// Opens the image in `dev`.
    pub fn open(dev: Device) -> Result<Qcow> {
        let header = Header::read(dev.as_ref())?;
        let tables = Tables::new(dev.clone(), header.clone());
        let description = Arc::new(describe(&header));
        Ok(Qcow { dev, header, tables, description })
    }
    /// What its header says.
    pub fn header(&self) -> &Header {
        &self.header
    }
    /// Its tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// What is stored from guest byte `offset` on, as one entry says, and that entry.
    fn step(&self, offset: u64) -> Result<(Entry, Mapping)> {
        let bits = self.header.cluster_bits;
        let (cluster, within) = (offset >> bits, offset & (self.header.cluster_size() - 1));
        let (entry, clusters) = self.tables.lookup(cluster)?;
        let left = (clusters << bits) - within;
        let len = left.min(self.header.size - offset);
        let mapping = match entry {
            Entry::Unallocated => Mapping::unallocated(len),
            Entry::Data(start) => {
                let place = start.checked_add(within).ok_or_else(|| Error::corrupt("a cluster lies past 2^64 bytes"))?;
                if place.checked_add(len).is_none_or(|end| end > self.dev.len()) {
                    return Err(past_end(self.dev.as_ref(), place, len).op("find a cluster"));
                }
                Mapping::data(0, place, len)
            }
            Entry::Compressed { offset, .. } => Mapping { kind: Kind::Compressed, len, place: Some(Place { file: 0, offset }) },
        };
        Ok((entry, mapping))
    }
}

/// The plain bytes of the compressed cluster of `len` bytes at byte `offset`.
pub(super) fn inflate(dev: &dyn ReadAt, header: &Header, offset: u64, len: u64) -> Result<Vec<u8>> {
    let packed = read_vec(dev, offset, len, header.cluster_size()).op("read a compressed cluster")?;
    let mut plain = vec![0u8; header.cluster_size() as usize];
    let mut stream = Decompress::new(false);
    // The stream may end late or not at all, as long as a whole cluster comes out of it.
    let done = stream.decompress(&packed, &mut plain, FlushDecompress::Finish);
    if done.is_err() || stream.total_out() != plain.len() as u64 {
        return Err(Error::corrupt("a compressed cluster cannot be unpacked").op("read a compressed cluster").at(offset));
    }
    Ok(plain)
}

impl Image for Qcow {
    fn format(&self) -> Format {
        Format::Qcow
    }
    fn size(&self) -> u64 {
        self.header.size
    }
    fn files(&self) -> Vec<Device> {
        vec![self.dev.clone()]
    }
    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let max = max.min(self.header.size.saturating_sub(offset)).max(1);
        let (_, mut run) = self.step(offset)?;
        for _ in 0..STEPS {
            if run.len >= max || run.kind == Kind::Compressed {
                break;
            }
            // What comes next may be damaged: that is told when it is asked for.
            let Ok((_, next)) = self.step(offset + run.len) else { break };
            let follows = match (run.place, next.place) {
                (Some(a), Some(b)) => a.offset.checked_add(run.len) == Some(b.offset),
                (a, b) => a == b,
            };
            if next.kind != run.kind || !follows {
                break;
            }
            run.len += next.len;
        }
        run.len = run.len.min(max);
        Ok(run)
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut done = 0usize;
        while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
            let at = offset + done as u64;
            let (entry, step) = self.step(at)?;
            let n = step.len.min(rest.len() as u64) as usize;
            let part = rest.get_mut(..n).unwrap_or_default();
            match (entry, step.place) {
                (Entry::Compressed { offset, len }, _) => {
                    let plain = inflate(self.dev.as_ref(), &self.header, offset, len)?;
                    let within = (at & (self.header.cluster_size() - 1)) as usize;
                    for (to, from) in part.iter_mut().zip(plain.iter().skip(within)) {
                        *to = *from;
                    }
                }
                (_, Some(place)) => self.dev.read_at(place.offset, part)?,
                _ => part.fill(0),
            }
            done += n;
        }
        Ok(())
    }
    fn backing(&self) -> Option<BackingRef> {
        let name = self.header.backing.as_deref()?;
        Some(BackingRef { names: vec![String::from_utf8_lossy(name).into_owned()], format: None, identity: ParentIdentity::Name })
    }
    fn describe(&self) -> Arc<Description> {
        self.description.clone()
    }
}

fn describe(h: &Header) -> Description {
    let mut facts = vec![
        Fact { label: "version", value: "1".into() },
        Fact { label: "L2 entries", value: h.l2_entries().to_string() },
        Fact { label: "L1 table", value: format!("{} entries at byte {:#x}", h.l1_entries, h.l1_offset) },
    ];
    let encrypted = (h.crypt == 1).then(|| "AES".to_string());
    if encrypted.is_some() {
        facts.push(Fact { label: "encryption", value: "AES-128-CBC, IV by guest sector".into() });
    }
    Description { cluster_size: Some(h.cluster_size()), facts, encrypted, ..Description::default() }
}
