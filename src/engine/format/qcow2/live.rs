//! The reading side of an image open for writing: what was written is seen at once, before any flush.

use std::sync::Arc;

use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::format::{Format, Image};
use crate::engine::io::{Device, read_padded};
use crate::engine::model::{BackingRef, Description, Kind, Mapping, Place};

use super::image::{unpack, within_file};
use super::tables::Packed;
use super::writer::{Shared, State};

/// A reader over a writer's tables.
pub struct Live(pub Arc<Shared>);

impl Image for Live {
    fn format(&self) -> Format {
        Format::Qcow2
    }
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn files(&self) -> Vec<Device> {
        let image: Device = self.0.dev.clone();
        std::iter::once(image).chain(self.0.data.clone().map(|d| d as Device)).collect()
    }
    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let max = max.min(self.size().saturating_sub(offset));
        let mut s = self.0.lock();
        let mut run = self.0.geometry.map(offset, max, |index| self.0.table(&mut s, index))?;
        drop(s);
        if run.kind == Kind::Data
            && self.0.data.is_none()
            && let Some(host) = run.host
        {
            run.len = within_file(&self.0.geometry, &self.0.data_reader(), host, run.len)?;
        }
        let file = usize::from(self.0.data.is_some());
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
                (Kind::Data, Some(place)) => read_padded(self.0.data().as_ref(), place.offset, part)?,
                (Kind::Compressed, _) => {
                    let packed = self.0.packed(&mut self.0.lock(), at)?;
                    self.0.read_packed(packed, at, part)?;
                }
                _ => part.fill(0),
            }
            done += n;
        }
        Ok(())
    }
    fn backing(&self) -> Option<BackingRef> {
        self.0.backing.clone()
    }
    fn describe(&self) -> Arc<Description> {
        self.0.description.clone()
    }
}

impl Shared {
    /// The place of the compressed cluster that holds guest byte `offset`.
    pub fn packed(&self, s: &mut State, offset: u64) -> Result<Packed> {
        let span = self.geometry.l2_span();
        let table = self.table(s, offset / span)?.ok_or_else(|| Error::new(ErrorKind::Internal, "a cluster without a table"))?;
        Ok(self.geometry.packed(self.geometry.entry(&table, offset % span)?.0))
    }

    /// Reads guest bytes from `offset` on out of the compressed cluster at `packed`, which holds them all.
    pub fn read_packed(&self, packed: Packed, offset: u64, buf: &mut [u8]) -> Result<()> {
        let size = self.geometry.cluster();
        let mut cluster = vec![0; size as usize];
        let dev: Device = self.dev.clone();
        unpack(&dev, self.compression, packed, &mut cluster)?;
        let within = (offset & (size - 1)) as usize;
        match cluster.get(within..within + buf.len()) {
            Some(part) => buf.copy_from_slice(part),
            None => return Err(Error::new(ErrorKind::Internal, "a read past its cluster")),
        }
        Ok(())
    }

    /// Reads what a guest sees from `offset` on, through to what lies below; zeros past the end of the disk.
    pub fn guest_read(&self, s: &mut State, offset: u64, buf: &mut [u8]) -> Result<()> {
        let (span, size) = (self.geometry.l2_span(), self.size());
        let mut done = 0usize;
        while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
            let at = offset + done as u64;
            if at >= size {
                rest.fill(0);
                break;
            }
            let max = (rest.len() as u64).min(size - at).min(span - at % span);
            let (kind, host, len) = match self.table(s, at / span)? {
                None => (Kind::Unallocated, None, max),
                Some(table) => {
                    let piece = self.geometry.piece(&table, at % span)?;
                    (piece.kind, piece.host, piece.len.min(max))
                }
            };
            let part = rest.get_mut(..len as usize).unwrap_or_default();
            match (kind, host) {
                (Kind::Data, Some(host)) => read_padded(self.data().as_ref(), host, part)?,
                (Kind::Compressed, _) => {
                    let packed = self.packed(s, at)?;
                    self.read_packed(packed, at, part)?;
                }
                (Kind::Unallocated, _) if self.stands_on_something() => match &self.below {
                    Some(below) => below.read(at, part)?,
                    None => {
                        return Err(Error::new(
                            ErrorKind::MissingReference,
                            "what the image stands on is needed to fill up a cluster",
                        ));
                    }
                },
                _ => part.fill(0),
            }
            done += len as usize;
        }
        Ok(())
    }
}
