//! Making new VHDXs: dynamic, fixed, and differencing ones on a parent.

use std::sync::Arc;

use uuid::Uuid;

use super::header::{self, Header, SIGNATURE};
use super::metadata::{MAX_SIZE, Metadata};
use super::regions::{self, Region, Regions};
use super::state;
use super::write::Writer;
use crate::engine::error::{Error, Result};
use crate::engine::format::Format;
use crate::engine::format::blocks::BlockWriter;
use crate::engine::format::windows::to_utf16;
use crate::engine::format::write::{CreateSpec, DiskWriter, NewBacking, NewFiles, OptionKind, OptionSpec};
use crate::engine::io::WriteDevice;
use crate::engine::units::{GIB, MIB, TIB};

/// The options of `create -o`.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "subformat",
        doc: "dynamic grows as it is written; fixed has every block from the start",
        kind: OptionKind::Choice(&["dynamic", "fixed"]),
        default: "dynamic",
    },
    OptionSpec { name: "block_size", doc: "1M to 256M; 0 chooses by the disk's size", kind: OptionKind::Size, default: "0" },
    OptionSpec {
        name: "logical_sector_size",
        doc: "bytes of a sector as the guest sees them",
        kind: OptionKind::Choice(&["512", "4096"]),
        default: "512",
    },
    OptionSpec { name: "log_size", doc: "bytes of the log, whole MiB", kind: OptionKind::Size, default: "1M" },
    OptionSpec {
        name: "block_state_zero",
        doc: "blocks not written yet are marked as zeros, as QEMU does, and not as absent",
        kind: OptionKind::Switch,
        default: "on",
    },
];

/// Refuses sizes that no VHDX can have.
pub fn check_size(size: u64) -> Result<()> {
    if size > MAX_SIZE {
        return Err(Error::usage(format!("a VHDX cannot have {size} bytes: 64 TiB is the most")));
    }
    Ok(())
}

/// Makes the image that `spec` describes.
///
/// Errors: sizes that are not possible, a parent that is no VHDX, a fixed disk on a parent.
pub fn create(spec: &CreateSpec, files: &dyn NewFiles) -> Result<Arc<dyn DiskWriter>> {
    spec.check(Format::Vhdx, OPTIONS)?;
    let fixed = spec.option("subformat") == Some("fixed");
    let sector = if spec.option("logical_sector_size") == Some("4096") { 4096 } else { 512 };
    let size = spec.size.checked_next_multiple_of(sector).unwrap_or(u64::MAX);
    check_size(size)?;
    let block_size = match spec.bytes("block_size", 0)? {
        0 if spec.backing.is_some() => 2 * MIB,
        0 if size > 32 * TIB => 64 * MIB,
        0 if size > 100 * GIB => 32 * MIB,
        0 if size > GIB => 16 * MIB,
        0 => 8 * MIB,
        n if n.is_power_of_two() && (MIB..=256 * MIB).contains(&n) => n,
        n => return Err(Error::usage(format!("block_size={n}: it takes a power of two from 1M to 256M"))),
    };
    let log_len = spec.bytes("log_size", MIB)?;
    if log_len == 0 || !log_len.is_multiple_of(MIB) || log_len > GIB {
        return Err(Error::usage(format!("log_size={log_len}: it takes whole MiB, at most 1G")));
    }
    let parent = match &spec.backing {
        Some(_) if fixed => return Err(Error::usage("a fixed disk cannot stand on a parent")),
        Some(p) => locator(p)?,
        None => Vec::new(),
    };
    let metadata = Metadata {
        block_size,
        leave_allocated: fixed,
        has_parent: spec.backing.is_some(),
        size,
        disk_id: Some(Uuid::new_v4()),
        sector,
        physical_sector: 4096.max(sector),
        parent,
    };
    let dev = files.image();
    write_new(&dev, &metadata, log_len, spec.switch("block_state_zero", true)?)?;
    BlockWriter::<Writer>::open(dev, spec.backing.as_ref().and_then(|b| b.disk.as_ref()).map(|d| d.0.clone()))
}

/// Keys and values by which a child finds `parent`.
pub fn locator(parent: &NewBacking) -> Result<Vec<(String, String)>> {
    let id = parent.identity.uuid.as_deref().and_then(|t| Uuid::parse_str(t).ok()).filter(|_| parent.format == Format::Vhdx);
    let id = id.ok_or_else(|| {
        Error::usage(format!("the parent of a VHDX is another VHDX, but this one is {}", parent.format))
            .path(&parent.path)
            .hint("convert the parent to vhdx, or make the child a qcow2")
    })?;
    let name = parent.name.replace('/', "\\");
    let (key, value) =
        if parent.name.starts_with('/') { ("absolute_win32_path", name) } else { ("relative_path", format!(".\\{name}")) };
    Ok(vec![("parent_linkage".to_string(), format!("{{{id}}}")), (key.to_string(), value)])
}

/// Writes everything an empty image has: signature, headers, region tables, metadata and BAT. The log's place stays empty.
pub fn write_new(dev: &WriteDevice, m: &Metadata, log_len: u64, zero: bool) -> Result<()> {
    let metadata = Region { at: MIB + log_len, len: MIB };
    let bat = Region { at: metadata.at + MIB, len: (m.bat_entries() * 8).next_multiple_of(MIB).max(MIB) };
    let data_at = bat.at + bat.len;
    let end = if m.leave_allocated { data_at + m.blocks() * m.block_size } else { data_at };
    let old = dev.len();
    if old > 0 {
        // A block device: what was there must not be taken for a log, a BAT or the guest's.
        dev.write_zeroes(0, end.min(old))?;
    }
    if old < end {
        dev.set_len(end)?;
    }
    let mut first = vec![0u8; 4096];
    let _ = crate::engine::io::bytes::put(&mut first, 0, SIGNATURE)
        && crate::engine::io::bytes::put(&mut first, 8, &to_utf16("cowshed", false));
    dev.write_at(0, &first)?;
    let table = Regions::encode(bat, metadata);
    for at in regions::AT {
        dev.write_at(at, &table)?;
    }
    dev.write_at(metadata.at, &m.encode())?;
    if m.leave_allocated || (zero && !m.has_parent) {
        let ratio = m.chunk_ratio();
        let entry = |n: u64| match (n % (ratio + 1) == ratio, m.leave_allocated) {
            (true, _) => state::NOT_PRESENT,
            (false, true) => (data_at + (n - n / (ratio + 1)) * m.block_size) | state::FULLY_PRESENT,
            (false, false) => state::ZERO,
        };
        const AT_ONCE: u64 = 8 << 10;
        let (count, mut done) = (m.bat_entries(), 0);
        while done < count {
            let n = (count - done).min(AT_ONCE);
            let bytes: Vec<u8> = (done..done + n).flat_map(|i| entry(i).to_le_bytes()).collect();
            dev.write_at(bat.at + done * 8, &bytes)?;
            done += n;
        }
    }
    let mut h =
        Header { sequence: 0, file_write: Uuid::new_v4(), data_write: Uuid::new_v4(), log: Uuid::nil(), log_len, log_at: MIB };
    for at in header::AT {
        h.sequence += 1;
        dev.write_at(at, &h.encode())?;
    }
    Ok(())
}
