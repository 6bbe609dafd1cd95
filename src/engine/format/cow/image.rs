//! A COW version 2 file open for reading. The file is sized lazily: what lies past its end, bitmap or data, is zeros.

use std::sync::Arc;

use super::bitmap::Bitmap;
use super::header::Header;
use crate::engine::error::{Context, Result};
use crate::engine::format::{Format, Image, Source};
use crate::engine::io::{Device, read_up_to};
use crate::engine::model::{BackingRef, Description, Fact, Mapping, ParentIdentity};
use crate::engine::units::SECTOR;

/// An open image.
pub struct Cow {
    dev: Device,
    header: Header,
    bitmap: Bitmap,
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
        let bitmap = Bitmap::new(dev.clone(), header.layout.header_bytes());
        Ok(Cow { dev, header, bitmap, description })
    }
    /// What its header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Which sectors are in this file.
    pub fn bitmap(&self) -> &Bitmap {
        &self.bitmap
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
        let (here, sectors) = self.bitmap.run(first, (within + max).div_ceil(SECTOR))?;
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
