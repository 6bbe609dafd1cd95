//! After the commit: the image's bytes are scanned for what was removed, and what is found is told by where it lies.

use std::sync::Arc;

use super::SanitizeSpec;
use super::needles::Needles;
use super::scan::{Early, Hits};
use super::whose::{Asked, whose};
use crate::engine::chain::Disk;
use crate::engine::error::Result;
use crate::engine::format::Format;
use crate::engine::io::ReadAt;
use crate::engine::io::watched::Written;
use crate::engine::job::JobContext;
use crate::engine::model::Kind;
use crate::engine::units::printable;

/// A needle found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Residue {
    /// The guest's file it is from.
    pub from: String,
    /// Byte in the file that was scanned, of the first.
    pub offset: u64,
    /// How many pieces of it lie there.
    pub count: u64,
    /// Which file was scanned.
    pub file: String,
    /// What lies there: a file that is kept, a snapshot, or nothing that should hold it.
    pub place: String,
    /// It lies where nothing of it should be.
    pub residue: bool,
}

impl Residue {
    /// It lies where nothing of it should be.
    pub fn is_residue(&self) -> bool {
        self.residue
    }
}

/// What a scan found.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Scanned {
    /// Pieces of removed content looked for.
    pub needles: usize,
    /// Bytes looked through.
    pub bytes: u64,
    /// Where some were found.
    pub found: Vec<Residue>,
}

impl Scanned {
    /// Adds a find; those of one file in one place are counted together.
    pub(super) fn add(&mut self, find: Residue) {
        match self.found.iter_mut().find(|f| f.from == find.from && f.place == find.place && f.file == find.file) {
            Some(known) => known.count += 1,
            None => self.found.push(find),
        }
    }
}

/// Scans the image of `spec`: every host file of its top layer, and what is compressed in it. `early` was found before what `written`
/// names was written.
pub(super) fn look(
    spec: &SanitizeSpec,
    needles: &Needles,
    (early, written): (&Early, &Written),
    job: &JobContext,
) -> Result<Scanned> {
    let mut out = Scanned { needles: needles.len(), ..Scanned::default() };
    if needles.len() == 0 {
        return Ok(out);
    }
    let chain = spec.chain()?;
    let disk = Arc::new(chain.disk()?);
    let raw = disk.layers().first().is_none_or(|l| l.format() == Format::Raw);
    let snapshots = chain.nodes.first().is_some_and(|n| !n.description.snapshots.is_empty());
    // What was found, and the guest's byte where it lies: `None` where the guest sees nothing of it.
    let mut finds: Vec<(Residue, Option<u64>)> = Vec::new();
    let find = |from: &str, offset: u64, file: &str| Residue {
        from: from.into(),
        offset,
        count: 1,
        file: file.into(),
        place: String::new(),
        residue: false,
    };
    for (index, file) in disk.files(0).iter().enumerate() {
        let Hits { bytes, found } = early.complete(needles, file.as_ref(), written, job)?;
        out.bytes += bytes;
        let offsets: Vec<u64> = found.iter().map(|(offset, _)| *offset).collect();
        let places = if raw { offsets.iter().copied().map(Some).collect() } else { guest_places(&disk, index, &offsets)? };
        let name = file.path().map_or_else(String::new, |p| printable(&p.to_string_lossy()).to_string());
        finds.extend(found.iter().zip(places).map(|((offset, from), at)| (find(from, *offset, &name), at)));
    }
    // Compressed data shows itself to the guest only.
    let mut packed = Vec::new();
    // A raw file has none, and many extents.
    let mut extents = disk.extents(0, if raw { 0 } else { disk.len() });
    while let Some(e) = extents.piece()? {
        if e.kind == Kind::Compressed && e.depth == 0 {
            packed.push((e.offset, e.offset + e.len));
        }
    }
    if !packed.is_empty() {
        let Hits { bytes, found } = needles.scan(disk.as_ref(), &packed, job)?;
        out.bytes += bytes;
        let name = "the disk, in compressed clusters";
        finds.extend(found.iter().map(|(offset, from)| (find(from, *offset, name), Some(*offset))));
    }
    let ask = |(f, at): &(Residue, Option<u64>)| Some(Asked { at: (*at)?, wanted: needles.bytes_of(&f.from) });
    let asked: Vec<Asked<'_>> = finds.iter().filter_map(ask).collect();
    let mut told = whose(&disk, &asked)?.into_iter();
    for (mut find, at) in finds {
        (find.place, find.residue) = match at {
            Some(_) => told.next().unwrap_or_default(),
            None if snapshots => ("kept by an internal snapshot, or in space no longer used".into(), false),
            None => ("in no part of the disk".into(), true),
        };
        out.add(find);
    }
    Ok(out)
}

/// The guest's bytes that lie at `offsets` (ascending) of the top layer's file `index`.
fn guest_places(disk: &Disk, index: usize, offsets: &[u64]) -> Result<Vec<Option<u64>>> {
    let mut out = vec![None; offsets.len()];
    if offsets.is_empty() {
        return Ok(out);
    }
    let mut extents = disk.extents(0, disk.len());
    while let Some(e) = extents.piece()? {
        let Some(place) = e.place.filter(|p| e.kind == Kind::Data && e.depth == 0 && p.file == index) else { continue };
        let first = offsets.partition_point(|o| *o < place.offset);
        for (offset, out) in
            offsets.iter().zip(&mut out).skip(first).take_while(|(o, _)| **o < place.offset.saturating_add(e.len))
        {
            *out = Some(e.offset + (offset - place.offset));
        }
    }
    Ok(out)
}
