//! Making new VDIs: dynamic, static, and differencing ones on a parent.

use std::sync::Arc;

use uuid::Uuid;

use super::header::{HEADER_BYTES, Header, ImageType, MAX_BLOCKS};
use super::write::Writer;
use super::{FREE, ZERO};
use crate::engine::error::{Error, Result};
use crate::engine::format::Format;
use crate::engine::format::blocks::BlockWriter;
use crate::engine::format::write::{CreateSpec, DiskWriter, NewBacking, NewFiles, OptionKind, OptionSpec};
use crate::engine::io::{WriteAt, WriteDevice};
use crate::engine::units::{MIB, SECTOR, round_up};

/// The options of `create -o`.
pub const OPTIONS: &[OptionSpec] =
    &[OptionSpec { name: "static", doc: "every block has its place from the start", kind: OptionKind::Switch, default: "off" }];

/// Bytes of a block: what VirtualBox and QEMU use, and all that QEMU reads.
const BLOCK: u64 = MIB;

/// Makes the image that `spec` describes.
///
/// Errors: too large, a parent that is no VDI or has no UUID, a static image on a parent.
pub fn create(spec: &CreateSpec, files: &dyn NewFiles) -> Result<Arc<dyn DiskWriter>> {
    spec.check(Format::Vdi, OPTIONS)?;
    let fixed = spec.switch("static", false)?;
    let mut header = new_header(spec.size, BLOCK)?;
    if let Some(parent) = &spec.backing {
        if fixed {
            return Err(Error::usage("a static image cannot stand on a parent"));
        }
        header.image_type = ImageType::Differencing;
        (header.link, header.parent_modification) = link(parent)?;
    } else if fixed {
        header.image_type = ImageType::Static;
        header.allocated = header.blocks;
    }
    let dev = files.image();
    write_new(&dev, &header)?;
    BlockWriter::<Writer>::open(dev, spec.backing.as_ref().and_then(|b| b.disk.as_ref()).map(|d| d.0.clone()))
}

/// The two UUIDs by which a child knows `parent`: the image's, and that of its last change.
///
/// Errors: it is no VDI.
pub fn link(parent: &NewBacking) -> Result<(Uuid, Uuid)> {
    let uuid = |text: &Option<String>| text.as_deref().and_then(|t| Uuid::parse_str(t).ok()).filter(|u| !u.is_nil());
    let Some(link) = uuid(&parent.identity.uuid).filter(|_| parent.format == Format::Vdi) else {
        return Err(Error::usage(format!("the parent of a VDI is another VDI, but this one is {}", parent.format))
            .path(&parent.path)
            .hint("convert the parent to vdi, or make the child a qcow2"));
    };
    Ok((link, uuid(&parent.identity.modification).unwrap_or_default()))
}

/// A header for a dynamic image of `size` bytes. The data begins at a whole MiB, which leaves room for the map to grow.
pub fn new_header(size: u64, block: u64) -> Result<Header> {
    let too_large = || Error::usage(format!("a VDI cannot have {size} bytes: at most {MAX_BLOCKS} blocks of 1 MiB"));
    let disk_size = round_up(size, SECTOR).ok_or_else(too_large)?;
    let blocks = disk_size.div_ceil(block);
    let map_at = HEADER_BYTES as u64;
    let data_at = (map_at + blocks * 4).next_multiple_of(block);
    if blocks > MAX_BLOCKS || data_at > u64::from(u32::MAX) {
        return Err(too_large());
    }
    Ok(Header {
        image_type: ImageType::Dynamic,
        flags: 0,
        comment: Vec::new(),
        map_at,
        data_at,
        disk_size,
        block_size: block,
        block_extra: 0,
        blocks,
        allocated: 0,
        geometry: (0, 0, 0),
        uuid: Uuid::new_v4(),
        modification: Uuid::new_v4(),
        link: Uuid::nil(),
        parent_modification: Uuid::nil(),
    })
}

/// Writes header and map. Static images get every block its place, in order.
pub fn write_new(dev: &WriteDevice, header: &Header) -> Result<()> {
    let fixed = header.image_type == ImageType::Static;
    let old = dev.len();
    let end = if fixed { header.block_at(header.blocks) } else { header.data_at };
    if old < end {
        dev.set_len(end)?;
    }
    if fixed && old > header.data_at {
        // A block device: what was there must not show.
        dev.write_zeroes(header.data_at, end - header.data_at)?;
    }
    write_entries(dev.as_ref(), header.map_at, header.blocks, |i| if fixed { i as u32 } else { FREE })?;
    dev.write_at(0, &header.encode())
}

/// Writes `count` map entries at byte `at`, a piece at a time.
pub fn write_entries(dev: &dyn WriteAt, at: u64, count: u64, mut entry: impl FnMut(u64) -> u32) -> Result<()> {
    const AT_ONCE: u64 = 16 << 10;
    let mut done = 0;
    while done < count {
        let n = (count - done).min(AT_ONCE);
        let bytes: Vec<u8> = (done..done + n).flat_map(|i| entry(i).to_le_bytes()).collect();
        dev.write_at(at + done * 4, &bytes)?;
        done += n;
    }
    Ok(())
}

/// The entry of a block past the old end of a disk that grows: zeros, also where a longer parent has something.
pub fn new_entry(header: &Header) -> u32 {
    if header.link.is_nil() { FREE } else { ZERO }
}
