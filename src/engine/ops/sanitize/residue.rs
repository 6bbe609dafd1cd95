//! After the commit: the image's bytes are scanned for what was removed, and what is found is told by where it lies.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::SanitizeSpec;
use super::scan::{Early, Hits, Needles, Residue, Scanned};
use crate::engine::chain::Disk;
use crate::engine::error::Result;
use crate::engine::format::Format;
use crate::engine::guest::fs::{FileType, GuestFs, Node};
use crate::engine::guest::tree::Guest;
use crate::engine::io::watched::Written;
use crate::engine::io::{Device, ReadAt};
use crate::engine::job::JobContext;
use crate::engine::model::Kind;
use crate::engine::units::{printable, printable_bytes};

/// Files asked where they lie, at most.
const MAX_FILES: usize = 500_000;

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
    let format = disk.layers().first().map_or(Format::Raw, |l| l.format());
    let snapshots = chain.nodes.first().is_some_and(|n| !n.description.snapshots.is_empty());
    let mut finder = None;
    for (index, file) in disk.files(0).iter().enumerate() {
        let Hits { bytes, found } = early.complete(needles, file.as_ref(), written, job)?;
        out.bytes += bytes;
        for (offset, from) in found {
            let at = if format == Format::Raw { Some(offset) } else { guest_place(&disk, index, offset)? };
            let (place, residue) = match at {
                Some(at) => place_of(&disk, at, (&from, &needles.bytes_of(&from)), &mut finder)?,
                None if snapshots => ("kept by an internal snapshot, or in space no longer used".into(), false),
                None => ("in no part of the disk".into(), true),
            };
            let file = file.path().map_or_else(String::new, |p| printable(&p.to_string_lossy()).to_string());
            out.add(Residue { from, offset, count: 1, file, place, residue });
        }
    }
    // Compressed data shows itself to the guest only.
    let mut packed = Vec::new();
    let mut extents = disk.extents(0, disk.len());
    while let Some(e) = extents.piece()? {
        if e.kind == Kind::Compressed && e.depth == 0 {
            packed.push((e.offset, e.offset + e.len));
        }
    }
    if !packed.is_empty() {
        let Hits { bytes, found } = needles.scan(disk.as_ref(), &packed, job)?;
        out.bytes += bytes;
        for (offset, from) in found {
            let (place, residue) = place_of(&disk, offset, (&from, &needles.bytes_of(&from)), &mut finder)?;
            let file = "the disk, in compressed clusters".to_string();
            out.add(Residue { from, offset, count: 1, file, place, residue });
        }
    }
    Ok(out)
}

/// The guest's byte that lies at `offset` of the top layer's file `index`.
fn guest_place(disk: &Disk, index: usize, offset: u64) -> Result<Option<u64>> {
    let mut extents = disk.extents(0, disk.len());
    while let Some(e) = extents.piece()? {
        if let (Kind::Data, 0, Some(p)) = (e.kind, e.depth, e.place)
            && p.file == index
            && (p.offset..p.offset + e.len).contains(&offset)
        {
            return Ok(Some(e.offset + (offset - p.offset)));
        }
    }
    Ok(None)
}

/// What lies at byte `at` of the disk, and whether removed data has no business there. `wanted`: the file it is from, and its needles.
fn place_of(disk: &Arc<Disk>, at: u64, wanted: (&str, &[&[u8]]), owners: &mut Option<Owners>) -> Result<(String, bool)> {
    if owners.is_none() {
        *owners = Some(Owners::of(disk)?);
    }
    let Some(owners) = owners else { return Ok((String::new(), true)) };
    let volumes = &owners.guest.layout.volumes;
    // Logical volumes before the partition that holds them.
    let mut found = None;
    for (i, v) in volumes.iter().enumerate().rev() {
        let Some((offset, place, _)) = v.places.iter().find(|(_, p, n)| (*p..p + n).contains(&at)) else { continue };
        let within = offset + (at - place);
        if !owners.guest.mounts.iter().any(|m| m.volume == i) {
            if volumes.iter().any(|o| o.logical_volume && !v.logical_volume && o.partition == v.partition) {
                continue;
            }
            return Ok((format!("{}, which is not a filesystem of the guest", v.name), true));
        }
        found = Some((i, within, v.name.clone()));
        break;
    }
    let Some((volume, within, name)) = found else { return Ok(("outside the volumes".into(), true)) };
    Ok(match owners.find(volume, within, wanted)? {
        Some(path) => (format!("{path}, which is kept"), false),
        None => (format!("{name}, in no file"), true),
    })
}

/// Which file a block belongs to. Made only when something was found.
struct Owners {
    guest: Guest,
    /// Folders whose files were asked.
    folders: HashSet<String>,
    /// All files were asked.
    walked: bool,
    /// By volume: start and end of each piece, and whose it is; ascending.
    pieces: BTreeMap<usize, Vec<(u64, u64, usize)>>,
    /// By volume: what files keep in their inodes.
    inline: Vec<(usize, Vec<u8>, usize)>,
    paths: Vec<String>,
}

impl Owners {
    fn of(disk: &Arc<Disk>) -> Result<Owners> {
        let dev: Device = disk.clone();
        let guest = Guest::open(&dev)?;
        Ok(Owners {
            guest,
            folders: HashSet::new(),
            walked: false,
            pieces: BTreeMap::new(),
            inline: Vec::new(),
            paths: Vec::new(),
        })
    }

    /// The file that byte `at` of `volume` belongs to, or that keeps what is wanted in its inode. What was removed is mostly kept by a
    /// file beside it (`passwd` beside `passwd-`), so those are asked first.
    fn find(&mut self, volume: usize, at: u64, (from, wanted): (&str, &[&[u8]])) -> Result<Option<String>> {
        if self.owner(volume, at, wanted).is_none() {
            self.beside(from)?;
        }
        if self.owner(volume, at, wanted).is_none() && !self.walked {
            self.walked = true;
            let mounts: Vec<_> =
                self.guest.mounts.iter().map(|m| (m.volume, m.fs.clone(), printable_bytes(&m.at).to_string())).collect();
            for (volume, fs, at) in mounts {
                self.walk(volume, fs.as_ref(), at)?;
            }
            self.sort();
        }
        Ok(self.owner(volume, at, wanted).cloned())
    }

    /// Asks the files in the folder of `from`.
    fn beside(&mut self, from: &str) -> Result<()> {
        let Some((folder, _)) = from.rsplit_once('/') else { return Ok(()) };
        if !self.folders.insert(folder.into()) {
            return Ok(());
        }
        // Its name was made printable, and the folder may be gone.
        let Ok(spot) = self.guest.resolve(folder.as_bytes(), true) else { return Ok(()) };
        let Some((volume, fs)) = self.guest.mounts.get(spot.mount).map(|m| (m.volume, m.fs.clone())) else { return Ok(()) };
        for e in fs.list(spot.node).unwrap_or_default() {
            self.file(volume, fs.as_ref(), e.node, format!("{folder}/{}", printable_bytes(&e.name)))?;
        }
        self.sort();
        Ok(())
    }

    fn sort(&mut self) {
        self.pieces.values_mut().for_each(|p| p.sort_unstable());
    }

    /// Asks where the file `node` lies; nothing if it is none. Answers what it is.
    fn file(&mut self, volume: usize, fs: &dyn GuestFs, node: Node, name: String) -> Result<FileType> {
        let stat = fs.stat(node)?;
        if stat.kind == FileType::File {
            let places = fs.extents(node).unwrap_or_default();
            if places.is_empty() && stat.size > 0 && stat.size < 4096 {
                let mut content = vec![0; stat.size as usize];
                let n = fs.read(node, 0, &mut content)?;
                content.truncate(n);
                self.inline.push((volume, content, self.paths.len()));
            }
            let index = self.paths.len();
            self.pieces.entry(volume).or_default().extend(places.iter().map(|x| (x.place, x.place + x.len, index)));
            self.paths.push(name);
        }
        Ok(stat.kind)
    }

    fn walk(&mut self, volume: usize, fs: &dyn GuestFs, at: String) -> Result<()> {
        let mut todo: Vec<(Node, String)> = vec![(fs.root(), at)];
        let mut folders = HashSet::new();
        while let Some((dir, path)) = todo.pop() {
            if !folders.insert(dir) {
                continue;
            }
            for e in fs.list(dir)? {
                if self.paths.len() > MAX_FILES {
                    return Ok(());
                }
                let name = format!("{path}/{}", printable_bytes(&e.name));
                if self.file(volume, fs, e.node, name.clone())? == FileType::Folder {
                    todo.push((e.node, name));
                }
            }
        }
        Ok(())
    }

    /// The file that byte `at` of `volume` belongs to, or that keeps what is wanted in its inode.
    fn owner(&self, volume: usize, at: u64, wanted: &[&[u8]]) -> Option<&String> {
        let pieces = self.pieces.get(&volume).map_or(&[][..], Vec::as_slice);
        let i = pieces.partition_point(|(_, end, _)| *end <= at);
        if let Some((_, _, index)) = pieces.get(i).filter(|(start, _, _)| *start <= at) {
            return self.paths.get(*index);
        }
        let holds = |content: &[u8]| wanted.iter().any(|w| content.windows(w.len()).any(|c| c == *w));
        let (_, _, index) = self.inline.iter().find(|(v, content, _)| *v == volume && holds(content))?;
        self.paths.get(*index)
    }
}
