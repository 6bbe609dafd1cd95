//! Making new VHDs: fixed, dynamic, and differencing ones on a parent.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use super::footer::{BYTES, DiskType, EPOCH, Footer, MAX_CHS_SECTORS, geometry};
use super::header::{self, Header, Locator};
use super::write::Writer;
use crate::engine::error::{Error, Result};
use crate::engine::format::Format;
use crate::engine::format::blocks::BlockWriter;
use crate::engine::format::windows::to_utf16;
use crate::engine::format::write::{CreateSpec, DiskWriter, NewBacking, NewFiles, OptionKind, OptionSpec};
use crate::engine::io::WriteDevice;
use crate::engine::units::{GIB, MIB, SECTOR, parse_size, round_up};

/// The options of `create -o`.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "subformat",
        doc: "dynamic grows as it is written; fixed is the disk's bytes and a footer, as Azure wants it",
        kind: OptionKind::Choice(&["dynamic", "fixed"]),
        default: "dynamic",
    },
    OptionSpec {
        name: "force_size",
        doc: "the size is exactly what was asked for; off rounds up to a geometry, for Virtual PC",
        kind: OptionKind::Switch,
        default: "on",
    },
    OptionSpec {
        name: "align",
        doc: "the size is rounded up to a multiple of this: 1M for Azure",
        kind: OptionKind::Size,
        default: "512",
    },
];

/// Bytes of a block: what everyone uses.
const BLOCK: u64 = 2 * MIB;
/// The largest disk there can be.
const MAX_SIZE: u64 = 2040 * GIB;
/// Byte where the dynamic header begins, after the footer's copy; the table follows it.
const HEADER_AT: u64 = BYTES as u64;

/// Refuses sizes that no VHD can have.
pub fn check_size(size: u64) -> Result<()> {
    if size > MAX_SIZE {
        return Err(
            Error::usage(format!("a VHD cannot have {size} bytes: 2040 GiB is the most")).hint("a VHDX can have up to 64 TiB")
        );
    }
    Ok(())
}

/// Makes the image that `spec` describes.
///
/// Errors: too large, a parent that is no VHD, a fixed disk on a parent.
pub fn create(spec: &CreateSpec, files: &dyn NewFiles) -> Result<Arc<dyn DiskWriter>> {
    spec.check(Format::Vhd, OPTIONS)?;
    let align = spec.option("align").map_or(Ok(SECTOR), parse_size)?;
    if align == 0 || !align.is_multiple_of(SECTOR) {
        return Err(Error::usage(format!("align={align}: it takes a multiple of 512")));
    }
    let mut size = round_up(spec.size, align).unwrap_or(u64::MAX);
    check_size(size)?;
    let mut creator = *b"win ";
    if !spec.switch("force_size", true)? {
        size = by_geometry(size);
        creator = *b"qemu";
    }
    let fixed = spec.option("subformat") == Some("fixed");
    let kind = match (&spec.backing, fixed) {
        (Some(_), true) => return Err(Error::usage("a fixed disk cannot stand on a parent")),
        (Some(_), false) => DiskType::Differencing,
        (None, true) => DiskType::Fixed,
        (None, false) => DiskType::Dynamic,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let footer = Footer {
        features: 2,
        version: 0x1_0000,
        data_offset: if fixed { u64::MAX } else { HEADER_AT },
        timestamp: u32::try_from(now.saturating_sub(EPOCH as u64)).unwrap_or(u32::MAX),
        creator,
        creator_version: 0xa_0000,
        creator_os: *b"Wi2k",
        original_size: size,
        current_size: size,
        geometry: geometry(size / SECTOR),
        kind,
        uuid: Uuid::new_v4(),
        saved_state: false,
    };
    let dev = files.image();
    if fixed {
        write_fixed(&dev, &footer)?;
    } else {
        write_dynamic(&dev, &footer, BLOCK, spec.backing.as_ref())?;
    }
    BlockWriter::<Writer>::open(dev, spec.backing.as_ref().and_then(|b| b.disk.as_ref()).map(|d| d.0.clone()))
}

/// The smallest size, at least `size`, that a geometry says exactly.
fn by_geometry(size: u64) -> u64 {
    let wanted = size.div_ceil(SECTOR);
    let mut sectors = wanted;
    loop {
        let (c, h, s) = geometry(sectors);
        let has = u64::from(c) * u64::from(h) * u64::from(s);
        if has >= wanted || sectors >= MAX_CHS_SECTORS {
            return has.max(wanted) * SECTOR;
        }
        // A cylinder more than the geometry of `sectors` has.
        sectors = has + u64::from(h) * u64::from(s);
    }
}

fn write_fixed(dev: &WriteDevice, footer: &Footer) -> Result<()> {
    let (size, old) = (footer.current_size, dev.len());
    let len = size + BYTES as u64;
    dev.set_len(len)?;
    if dev.len() != len {
        return Err(Error::unsupported(format!(
            "a fixed VHD ends with its footer, but the device has {} bytes and not {len}",
            dev.len()
        ))
        .hint("write a dynamic VHD, or a raw disk"));
    }
    if old > 0 {
        dev.write_zeroes(0, size)?;
    }
    dev.write_at(size, &footer.encode())
}

/// Writes footer, header, an empty table, the parent's names and the footer again.
pub fn write_dynamic(dev: &WriteDevice, footer: &Footer, block: u64, parent: Option<&NewBacking>) -> Result<()> {
    let entries = footer.current_size.div_ceil(block);
    let table_at = HEADER_AT + header::BYTES as u64;
    // Up to a whole page, so that there is some room to grow.
    let mut end = (table_at + entries * 4).next_multiple_of(4096);
    let table_bytes = end - table_at;
    let mut h = Header {
        table_at,
        version: 0x1_0000,
        entries: entries as u32,
        block_size: block,
        parent: Uuid::nil(),
        parent_timestamp: 0,
        parent_name: Vec::new(),
        locators: [Locator::default(); 8],
    };
    let mut name = None;
    if let Some(p) = parent {
        let text = name_parent(&mut h, p, end)?;
        let space = (text.len() as u64).next_multiple_of(SECTOR);
        name = Some((end, text));
        end += space;
    }
    if dev.len() < end + BYTES as u64 {
        dev.set_len(end + BYTES as u64)?;
    }
    dev.write_at(HEADER_AT, &h.encode())?;
    dev.write_at(table_at, &vec![0xff; table_bytes as usize])?;
    if let Some((at, text)) = name {
        dev.write_at(at, &text)?;
    }
    dev.write_at(0, &footer.encode())?;
    dev.write_at(end, &footer.encode())
}

/// Makes `h` name the parent `p`. The bytes of its locator, to be written at byte `at` of the file.
///
/// Errors: the parent is no VHD.
pub fn name_parent(h: &mut Header, p: &NewBacking, at: u64) -> Result<Vec<u8>> {
    let uuid = p.identity.uuid.as_deref().and_then(|t| Uuid::parse_str(t).ok());
    h.parent = uuid.filter(|_| p.format == Format::Vhd).ok_or_else(|| {
        Error::usage(format!("the parent of a VHD is another VHD, but this one is {}", p.format))
            .path(&p.path)
            .hint("convert the parent to vhd, or make the child a qcow2")
    })?;
    let file = p.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    h.parent_name = to_utf16(&file, true);
    let (code, spelled) = if p.name.starts_with('/') {
        (*b"W2ku", p.name.replace('/', "\\"))
    } else {
        (*b"W2ru", format!(".\\{}", p.name.replace('/', "\\")))
    };
    let text = to_utf16(&spelled, false);
    let space = (text.len() as u64).next_multiple_of(SECTOR);
    h.locators = [Locator::default(); 8];
    if let Some(l) = h.locators.first_mut() {
        *l = Locator { code, space: space as u32, len: text.len() as u32, at };
    }
    Ok(text)
}
