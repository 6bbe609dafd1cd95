//! Raw: the disk's bytes and nothing else. Any length, sparse or not, a regular file or a block device; several files joined end
//! to end are one disk.

mod write;

use std::sync::Arc;

use super::front::Front;
use super::probe::{Confidence, Match, Probe};
use super::{Caps, Format, FormatEntry, Guide, Image, Source, read_mapped};
use crate::engine::error::Result;
use crate::engine::io::{Device, read_up_to};
use crate::engine::model::{Description, Fact, Kind, Mapping, Place};

/// Raw's row in the table of formats.
pub static ENTRY: FormatEntry = FormatEntry {
    format: Format::Raw,
    name: "raw",
    driver: "raw",
    title: "raw disk",
    extensions: &["raw", "img", "dd", "bin", "dsk"],
    caps: Caps { read: true, write: true, create: true, sparse: true, resize: true, ..Caps::NONE },
    guide: Guide {
        what: "The disk byte for byte, without any header; a sparse file stores only what was written.",
        origin: "As old as disks; block devices and LVM volumes are raw as well.",
        used_by: "Everything: QEMU, Xen, bhyve, clouds, dd; Ceph and LVM hold nothing else.",
        choose: "For speed and for tools that know no format. It has no snapshots, no backing file, no compression.",
    },
    probe,
    open,
    options: write::OPTIONS,
    create: Some(write::create),
    open_write: Some(write::open_write),
};

fn probe(p: &Probe<'_>) -> Option<Match> {
    let evidence = match Front::of(p.head).words() {
        Some(table) => format!("any bytes can be a raw disk; a partition table is in front: {table}"),
        None => "any bytes can be a raw disk".into(),
    };
    Some(Match { format: Format::Raw, evidence, confidence: Confidence::Possible })
}

fn open(source: Source) -> Result<Arc<dyn Image>> {
    // A disk that cannot be read at its start may be readable elsewhere: no facts then, and the error when it is read.
    let head = read_up_to(source.dev.as_ref(), 0, 8192).unwrap_or_default();
    let table = Front::of(&head).words().unwrap_or_else(|| "none seen".into());
    let facts = vec![Fact { label: "partition table", value: table }];
    Ok(Arc::new(Raw::with(vec![source.dev], Format::Raw, Description { facts, ..Description::default() })))
}

/// Bytes that are read without asking for holes.
const LITTLE: usize = 64 << 10;

/// One or several devices read as one disk.
pub struct Raw {
    /// Each part with the guest byte where it begins.
    parts: Vec<(u64, Device)>,
    size: u64,
    format: Format,
    description: Arc<Description>,
}

impl Raw {
    /// The parts joined end to end.
    pub fn new(parts: Vec<Device>) -> Self {
        Self::with(parts, Format::Raw, Description::default())
    }

    /// The same for a format whose content is plain bytes (iso, ami, …), with its own description.
    pub fn with(parts: Vec<Device>, format: Format, description: Description) -> Self {
        let mut size = 0u64;
        let mut placed = Vec::with_capacity(parts.len());
        for dev in parts {
            let len = dev.len();
            placed.push((size, dev));
            size = size.saturating_add(len);
        }
        Raw { parts: placed, size, format, description: Arc::new(description) }
    }
}

impl Image for Raw {
    fn format(&self) -> Format {
        self.format
    }
    fn size(&self) -> u64 {
        self.size
    }
    fn files(&self) -> Vec<Device> {
        self.parts.iter().map(|(_, d)| d.clone()).collect()
    }
    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let i = self.parts.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        let Some((start, dev)) = self.parts.get(i) else { return Ok(Mapping::zero(max)) };
        let end = self.parts.get(i + 1).map_or(self.size, |(next, _)| *next);
        let max = max.min(end.saturating_sub(offset)).max(1);
        let at = offset - start;
        let host = dev.host_range(at, max)?;
        Ok(if host.hole {
            Mapping { kind: Kind::Zero, len: host.len, place: Some(Place { file: i, offset: at }) }
        } else {
            Mapping::data(i, at, host.len)
        })
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let i = self.parts.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        let end = self.parts.get(i + 1).map_or(self.size, |(next, _)| *next);
        // A little within one part: asking where its holes are would take longer than reading them. A part that became shorter is
        // filled up as the long way says.
        if buf.len() <= LITTLE
            && offset.checked_add(buf.len() as u64).is_some_and(|stop| stop <= end)
            && let Some((start, dev)) = self.parts.get(i)
            && dev.read_at(offset - start, buf).is_ok()
        {
            return Ok(());
        }
        read_mapped(self, offset, buf)
    }
    fn describe(&self) -> Arc<Description> {
        self.description.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::io::memory::Memory;

    #[test]
    fn several_files_are_one_disk() {
        let a: Device = Arc::new(Memory::new(vec![1; 700]));
        let b: Device = Arc::new(Memory::new(vec![2; 300]));
        let raw = Raw::new(vec![a, b]);
        let mut buf = vec![0; 1000];
        raw.read(0, &mut buf).unwrap();
        assert_eq!((raw.size(), &buf[..700], &buf[700..]), (1000, &[1; 700][..], &[2; 300][..]));
        assert_eq!(raw.map(650, 100).unwrap(), Mapping::data(0, 650, 50));
    }
}
