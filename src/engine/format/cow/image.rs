//! A COW version 2 file open for reading. The file is sized lazily: what lies past its end, bitmap or data, is zeros.

use std::sync::Arc;

use super::header::Header;
use crate::engine::error::{Context, Result};
use crate::engine::format::{Format, Image, Source};
use crate::engine::io::{Device, read_padded, read_up_to};
use crate::engine::model::{BackingRef, Description, Fact, Mapping, ParentIdentity};
use crate::engine::units::SECTOR;

/// Bytes of the bitmap read at once.
const CHUNK: usize = 4096;
/// Chunks looked at in one call of `map`.
const MAX_CHUNKS: usize = 4096;

/// An open image.
pub struct Cow {
    dev: Device,
    header: Header,
    description: Arc<Description>,
}

/// Opens an image for reading.
pub(super) fn open(source: Source) -> Result<Arc<dyn Image>> {
    Ok(Arc::new(Cow::open(source.dev)?))
}

impl Cow {
    /// Opens the image in `dev`.
    pub fn open(dev: Device) -> Result<Cow> {
        let head = read_up_to(dev.as_ref(), 0, Header::MAX_BYTES).op("read header")?;
        let header = Header::parse(&head).op("read header")?;
        let description = Arc::new(describe(&header));
        Ok(Cow { dev, header, description })
    }
    /// What its header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whether sector `sector` is in this file, and of how many sectors from it on (at most `max`) the same is true.
    fn run(&self, sector: u64, max: u64) -> Result<(bool, u64)> {
        let bitmap = self.header.layout.header_bytes();
        let mut chunk = [0u8; CHUNK];
        let mut known: Option<bool> = None;
        let mut count = 0;
        for _ in 0..MAX_CHUNKS {
            let at = sector + count;
            let byte = bitmap + at / 8;
            if byte >= self.dev.len() {
                // All clear from here on.
                return Ok(if known == Some(true) { (true, count) } else { (false, max) });
            }
            let host = self.dev.host_range(byte, u64::MAX)?;
            if host.hole && known != Some(true) && host.len > 1 {
                known = Some(false);
                // Whole bytes of zeros; the first may have begun in its middle.
                count += (host.len - 1) * 8 + (8 - at % 8);
            } else {
                read_padded(self.dev.as_ref(), byte, &mut chunk)?;
                let begin = at % 8;
                let bits = (CHUNK as u64 * 8 - begin).min(max - count);
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
            if count >= max {
                break;
            }
        }
        Ok((known == Some(true), count.min(max)))
    }
}

impl Image for Cow {
    fn format(&self) -> Format {
        Format::Cow
    }
    fn size(&self) -> u64 {
        self.header.size
    }
    fn files(&self) -> Vec<Device> {
        vec![self.dev.clone()]
    }
    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let max = max.min(self.header.size.saturating_sub(offset)).max(1);
        let (first, within) = (offset / SECTOR, offset % SECTOR);
        let (here, sectors) = self.run(first, (within + max).div_ceil(SECTOR))?;
        let len = (sectors * SECTOR - within).min(max);
        // No sum overflows: the size is below 2^62.
        Ok(if here { Mapping::data(0, self.header.data_offset() + offset, len) } else { Mapping::unallocated(len) })
    }
    fn backing(&self) -> Option<BackingRef> {
        (!self.header.backing.is_empty()).then(|| BackingRef {
            names: vec![String::from_utf8_lossy(&self.header.backing).into_owned()],
            format: None,
            identity: ParentIdentity::Mtime(i64::from(self.header.mtime)),
        })
    }
    fn describe(&self) -> Arc<Description> {
        self.description.clone()
    }
}

fn describe(h: &Header) -> Description {
    let mut facts = vec![
        Fact { label: "version", value: "2".into() },
        Fact { label: "header", value: format!("{} bytes", h.layout.header_bytes()) },
        Fact { label: "bitmap", value: format!("{} bytes, one bit per sector", h.bitmap_bytes()) },
        Fact { label: "data", value: format!("from byte {}", h.data_offset()) },
    ];
    if !h.backing.is_empty() {
        let when = jiff::Timestamp::from_second(i64::from(h.mtime)).map(|t| t.to_string()).unwrap_or_default();
        facts.push(Fact { label: "backing file modified", value: when });
    }
    Description { cluster_size: Some(SECTOR), facts, ..Description::default() }
}
