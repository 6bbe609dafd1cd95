//! Making new disks of the hosted sub-formats.

use std::collections::HashMap;
use std::sync::Arc;

use super::compose::Text;
use super::sparse::{self, Header};
use super::streamout::StreamWriter;
use super::writer::{Writer, new_cid};
use super::{image, options};
use crate::engine::error::{Error, Result};
use crate::engine::format::write::{CreateSpec, DiskWriter, NewFiles};
use crate::engine::format::{Format, Source};
use crate::engine::io::gate::Gate;
use crate::engine::io::{Device, WriteDevice};
use crate::engine::units::{SECTOR, round_up};

/// Sectors of a grain, as every writer has them.
pub(super) const GRAIN: u64 = 128;
/// Entries of a grain table.
pub(super) const PER_TABLE: u64 = 512;
/// Sectors kept for an embedded descriptor. Others append lines to it, so it is far longer than what stands in it.
pub(super) const DESCRIPTOR_SECTORS: u64 = 20;
/// Bytes of one extent of a split disk.
pub(super) const SPLIT: u64 = 0x8000_0000;
/// Extents a split disk may have: as many as the reader takes.
pub(super) const MAX_SPLIT: u64 = 1000;

/// Makes a new disk.
///
/// Errors: options that contradict each other, a parent that is no VMDK, names that a descriptor cannot hold.
pub(super) fn create(spec: &CreateSpec, files: &dyn NewFiles) -> Result<Arc<dyn DiskWriter>> {
    spec.check(Format::Vmdk, options::OPTIONS)?;
    let chosen = options::Chosen::of(spec)?;
    let size =
        round_up(spec.size, SECTOR).filter(|&s| s <= i64::MAX as u64).ok_or_else(|| Error::usage("the size is too large"))?;
    let parent = spec.backing.as_ref().map(|b| parent_cid(b).map(|cid| (cid, b.name.as_str()))).transpose()?;
    let (kind, names) = extents(spec, &chosen, size)?;
    let listed: Vec<_> = names.into_iter().map(|(len, name)| (len, kind, name)).collect();
    let text = Text {
        cid: new_cid(),
        parent,
        create_type: chosen.subformat,
        extents: &listed,
        hardware: &chosen.hardware,
        adapter: chosen.adapter,
        tools: &chosen.tools,
    };
    let text = text.compose()?;
    let embedded = matches!(chosen.subformat, "monolithicSparse" | "streamOptimized");
    if embedded && text.len() as u64 >= DESCRIPTOR_SECTORS * SECTOR {
        return Err(Error::usage("the names are too long for a descriptor inside the file"));
    }
    let dev = files.image();
    if chosen.subformat == "streamOptimized" {
        return Ok(Arc::new(StreamWriter::begin(dev, size, &text, chosen.zeroed_grain, spec.backing.as_ref())?));
    }
    let mut ends: Vec<(WriteDevice, u64)> = Vec::new();
    let mut by_name: HashMap<String, WriteDevice> = HashMap::new();
    if embedded {
        let end = sparse_file(&dev, size, Some(&text), chosen.zeroed_grain)?;
        ends.push((dev.clone(), end));
    } else {
        for (len, _, name) in &listed {
            let extent = files.extra(name)?;
            if kind == "FLAT" {
                extent.set_len(*len)?;
            } else {
                let end = sparse_file(&extent, *len, None, chosen.zeroed_grain)?;
                ends.push((extent.clone(), end));
            }
            by_name.insert(name.clone(), extent);
        }
        dev.write_at(0, text.as_bytes())?;
        dev.set_len(text.len() as u64)?;
    }
    let path = dev.path().map(std::path::Path::to_path_buf).unwrap_or_default();
    let source = Source { dev: dev.clone(), path, gate: Gate::closed() };
    let mut opened = vec![Some(dev)];
    let made = image::load(&source, &mut |name, _| {
        let extent = by_name.get(name).ok_or_else(|| Error::usage(format!("the extent '{name}' was not made")))?;
        opened.push(Some(extent.clone()));
        Ok(extent.clone() as Device)
    })?;
    // A content id that nobody has seen yet need not change before the first write.
    let next = |dev: &WriteDevice| ends.iter().find(|(d, _)| Arc::ptr_eq(d, dev)).map_or(0, |(_, end)| *end);
    let below = spec.backing.as_ref().and_then(|b| b.disk.clone());
    Ok(Arc::new(Writer::new(made, opened, below, None, next)))
}

/// The content id that a child of `parent` records.
fn parent_cid(parent: &crate::engine::format::write::NewBacking) -> Result<u32> {
    if parent.format != Format::Vmdk {
        return Err(Error::usage(format!("the parent of a VMDK must be a VMDK, and it is {}", parent.format))
            .path(&parent.path)
            .hint("convert the parent first, or make a qcow2 overlay, which stands on anything"));
    }
    parent
        .identity
        .cid
        .ok_or_else(|| Error::usage("the parent has no content id, so no child could recognise it").path(&parent.path))
}

/// The type of the extents, and of each its bytes and file name.
fn extents(spec: &CreateSpec, chosen: &options::Chosen, size: u64) -> Result<(&'static str, Vec<(u64, String)>)> {
    let (stem, extension) = match spec.file_name.rfind('.') {
        Some(dot) => spec.file_name.split_at(dot),
        None => (spec.file_name.as_str(), ""),
    };
    let split = |letter: char| {
        let count = size.div_ceil(SPLIT).max(1);
        if count > MAX_SPLIT {
            return Err(Error::usage(format!("the disk would consist of {count} files, more than the {MAX_SPLIT} allowed"))
                .hint("choose monolithicSparse or monolithicFlat"));
        }
        Ok((0..count)
            .map(|i| ((size - i * SPLIT).min(SPLIT), format!("{stem}-{letter}{:03}{extension}", i + 1)))
            .collect::<Vec<_>>())
    };
    Ok(match chosen.subformat {
        "monolithicFlat" => ("FLAT", vec![(size, format!("{stem}-flat{extension}"))]),
        "twoGbMaxExtentFlat" => ("FLAT", split('f')?),
        "twoGbMaxExtentSparse" => ("SPARSE", split('s')?),
        _ => ("SPARSE", vec![(size, spec.file_name.clone())]),
    })
}

/// Lays out an empty sparse extent: header, descriptor, redundant directory and tables, directory and tables, all tables there so
/// that a grain costs one write later. The byte where grains begin.
pub(super) fn sparse_file(dev: &WriteDevice, size: u64, text: Option<&str>, zeroed_grain: bool) -> Result<u64> {
    let tables = (size / SECTOR).div_ceil(GRAIN * PER_TABLE);
    let table_sectors = (PER_TABLE * 4).div_ceil(SECTOR);
    let directory_sectors = (tables * 4).div_ceil(SECTOR);
    let redundant = if text.is_some() { 1 + DESCRIPTOR_SECTORS } else { 1 };
    let directory = redundant + directory_sectors + tables * table_sectors;
    let overhead = (directory + directory_sectors + tables * table_sectors).next_multiple_of(GRAIN);
    if overhead > u64::from(u32::MAX) {
        return Err(
            Error::usage("the disk is too large for 32-bit sector numbers").hint("choose another format, e.g. qcow2 or vhdx")
        );
    }
    let header = Header {
        version: if zeroed_grain { 2 } else { 1 },
        flags: sparse::NEWLINES | sparse::REDUNDANT | if zeroed_grain { sparse::ZERO_GRAIN } else { 0 },
        capacity: size / SECTOR,
        grain: GRAIN,
        descriptor: if text.is_some() { (1, DESCRIPTOR_SECTORS) } else { (0, 0) },
        per_table: PER_TABLE as u32,
        redundant,
        directory,
        overhead,
        unclean: 0,
        newlines: sparse::NEWLINE_BYTES,
        algorithm: 0,
    };
    let end = overhead * SECTOR;
    // Whatever a block device holds must not be taken for tables.
    dev.write_zeroes(0, end)?;
    dev.set_len(end)?;
    for at in [redundant, directory] {
        let entries = (0..tables).map(|i| ((at + directory_sectors + i * table_sectors) as u32).to_le_bytes());
        dev.write_at(at * SECTOR, &entries.flatten().collect::<Vec<u8>>())?;
    }
    if let Some(text) = text {
        dev.write_at(SECTOR, text.as_bytes())?;
    }
    dev.write_at(0, &header.encode())?;
    Ok(end)
}
