//! The disks a conversion reads: opened, looked at, held, and read from many threads.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::spec::ConvertSpec;
use crate::engine::chain::{Chain, Disk, OpenOptions};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::Format;
use crate::engine::io::direct::Direct;
use crate::engine::io::file::FileId;
use crate::engine::io::gate::Gate;
use crate::engine::io::locks::Guard;
use crate::engine::io::{Device, ReadAt, read_padded};
use crate::engine::model::{Bitmap, Extent, Kind};
use crate::engine::ops::edit;
use crate::engine::ops::plan::{Estimate, Layout, PlanFile};
use crate::engine::units::count;

/// How long planning may look for data before it guesses.
const LOOK: Duration = Duration::from_secs(1);

/// Bytes left out at a time where a source cannot be read.
pub(super) const SALVAGE: u64 = 4096;

/// One disk of several joined end to end.
struct Part {
    /// Guest byte of the whole where it begins.
    start: u64,
    disk: Disk,
    chain: Chain,
    /// By layer and storage file: the file once more for direct reading.
    direct: Vec<Vec<Option<Direct>>>,
}

/// A file that is read.
struct SourceFile {
    path: PathBuf,
    id: FileId,
    /// Length when it was opened: a file that becomes shorter is not what was asked for.
    len: u64,
    part: usize,
    layer: usize,
    index: usize,
}

/// Everything a conversion reads from.
pub(in crate::engine::ops) struct Sources {
    parts: Vec<Part>,
    files: Vec<SourceFile>,
    size: u64,
    warnings: Vec<String>,
    /// Where a table cannot be read the disk is taken as data, which then cannot be read either: it is left out in pieces.
    salvage: bool,
}

impl Sources {
    /// Opens the sources of `spec` with all that they stand on.
    pub(in crate::engine::ops) fn open(spec: &ConvertSpec) -> Result<Sources> {
        if spec.sources.is_empty() {
            return Err(Error::usage("there is no source"));
        }
        if spec.sources.len() > 1 && spec.snapshot.is_some() {
            return Err(Error::usage("a snapshot of several joined images makes no sense"));
        }
        let mut out = Sources { parts: Vec::new(), files: Vec::new(), size: 0, warnings: Vec::new(), salvage: spec.salvage };
        for path in &spec.sources {
            out.add(path, spec)?;
        }
        Ok(out)
    }

    /// The same single source with `disk` in the place of its own.
    pub(super) fn over(mut self, disk: Disk) -> Sources {
        if let Some(part) = self.parts.first_mut() {
            part.direct = (0..disk.layers().len()).map(|layer| disk.files(layer).iter().map(|_| None).collect()).collect();
            part.disk = disk;
        }
        // What stands for them is in memory: there is no file to become shorter.
        self.files.clear();
        self
    }

    fn add(&mut self, path: &Path, spec: &ConvertSpec) -> Result<()> {
        let gate = spec.roots.iter().fold(Gate::around(path), |g, r| g.allow(r)).follow(spec.follow);
        let options = OpenOptions { format: spec.source_format, gate: Some(gate), ..OpenOptions::default() };
        let chain = Chain::open(path, &options)?;
        let disk = match &spec.snapshot {
            Some(s) => chain.snapshot_disk(s).path(path)?,
            None => chain.disk()?,
        };
        let mut direct = Vec::new();
        for layer in 0..disk.layers().len() {
            let mut row = Vec::new();
            for (index, dev) in disk.files(layer).iter().enumerate() {
                let file = dev.as_file();
                if let Some(file) = file {
                    let path = file.path().unwrap_or(path).to_path_buf();
                    let (part, len) = (self.parts.len(), file.len());
                    self.files.push(SourceFile { path, id: file.id()?, len, part, layer, index });
                }
                row.push(file.and_then(Direct::for_reading));
            }
            direct.push(row);
        }
        for node in &chain.nodes {
            let place = |w: &String| format!("{}: {w}", node.path.display());
            self.warnings.extend(node.warnings.iter().map(place));
            self.warnings.extend(node.description.warnings.iter().map(place));
        }
        let start = self.size;
        self.size = start.checked_add(disk.len()).ok_or_else(|| Error::usage("the sources together are too large"))?;
        self.parts.push(Part { start, disk, chain, direct });
        Ok(())
    }

    /// Virtual size of the whole in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }
    /// Every file that is read.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|f| f.path.as_path())
    }
    /// The identity of every file that is read.
    pub(super) fn ids(&self) -> Vec<FileId> {
        self.files.iter().map(|f| f.id).collect()
    }
    /// The layer of a single source whose image file is `id`.
    pub(super) fn layer_of(&self, id: FileId) -> Option<usize> {
        let one = self.parts.len() == 1;
        self.files.iter().find(|f| one && f.index == 0 && f.id == id).map(|f| f.layer)
    }
    /// What a person should know of the sources.
    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }
    /// Identity, length and time of change of every file: a resume goes on only when none of them differs.
    pub(super) fn fingerprint(&self) -> Vec<(PathBuf, FileId, u64, i64, i64)> {
        use std::os::unix::fs::MetadataExt;
        let time = |p: &Path| std::fs::metadata(p).map_or((0, 0), |m| (m.mtime(), m.mtime_nsec()));
        self.files
            .iter()
            .map(|f| {
                let (s, ns) = time(&f.path);
                (f.path.clone(), f.id, f.len, s, ns)
            })
            .collect()
    }

    /// Refuses a target that is one of the files read (whatever it is called).
    pub(super) fn refuse(&self, target: &Path) -> Result<()> {
        let Ok(meta) = std::fs::metadata(target) else { return Ok(()) };
        if meta.is_dir() {
            return Err(Error::usage("the target is a folder").op("convert").path(target).hint("name the file to make in it"));
        }
        let id = FileId::of(&meta);
        match self.files.iter().find(|f| f.id == id) {
            Some(f) => Err(same_file(target, &f.path)),
            None => Ok(()),
        }
    }

    /// Holds every file so that no other process writes it meanwhile (`shared`: just says that we read).
    pub(super) fn hold(&self, shared: bool) -> Result<Vec<Guard>> {
        let mut guards = Vec::new();
        for part in &self.parts {
            guards.extend(edit::hold_layers(&part.disk, shared)?);
        }
        Ok(guards)
    }

    /// The bitmaps to copy: those of the source that `spec` asks for.
    ///
    /// Errors: a side that holds none, several sources, an inconsistent one that is not to be left out.
    pub(super) fn bitmaps(&self, spec: &ConvertSpec) -> Result<Vec<(Bitmap, Device)>> {
        if !spec.bitmaps {
            return Ok(Vec::new());
        }
        let refuse = |why: String, hint: &str| Err(Error::unsupported(why).op("convert").hint(hint));
        if spec.format != Format::Qcow2 {
            return refuse(format!("{} images hold no bitmaps", spec.format), "leave out --bitmaps, or choose qcow2");
        }
        if spec.options.iter().any(|(n, v)| n == "compat" && matches!(v.as_str(), "0.10" | "v2")) {
            return refuse("a version 2 image cannot keep bitmaps".into(), "leave out --bitmaps or compat");
        }
        let [part] = self.parts.as_slice() else {
            return refuse("bitmaps can be copied from a single source only".into(), "leave out --bitmaps");
        };
        let (Some(node), Some(top)) = (part.chain.nodes.first(), part.chain.layers.first()) else { return Ok(Vec::new()) };
        if top.format() != Format::Qcow2 {
            return refuse(format!("the source is {}, which has no bitmaps", top.format()), "leave out --bitmaps");
        }
        let mut out = Vec::new();
        for bitmap in &node.description.bitmaps {
            match (bitmap.in_use, spec.skip_broken_bitmaps) {
                (false, _) => out.push((bitmap.clone(), top.bitmap(&bitmap.name).path(&node.path)?)),
                (true, true) => {}
                (true, false) => {
                    return Err(Error::corrupt(format!("bitmap '{}' is inconsistent and cannot be copied", bitmap.name))
                        .op("convert")
                        .path(&node.path)
                        .hint("--skip-broken-bitmaps leaves it out, qemu-img bitmap --remove removes it"));
                }
            }
        }
        Ok(out)
    }

    /// What will not be in the target.
    pub(super) fn losses(&self, spec: &ConvertSpec) -> Vec<String> {
        let mut out = Vec::new();
        for node in self.parts.iter().filter_map(|p| p.chain.nodes.first()) {
            let snapshots = node.description.snapshots.len();
            // Who takes one snapshot out knows that it is one.
            if snapshots > 0 && spec.snapshot.is_none() {
                out.push(format!("{} has {}: not copied", node.path.display(), count(snapshots as u64, "internal snapshot")));
            }
            let left: Vec<_> = node.description.bitmaps.iter().filter(|b| !spec.bitmaps || b.in_use).collect();
            let broken = if spec.bitmaps { " inconsistent" } else { "" };
            if !left.is_empty() {
                out.push(format!("{} has {}{broken} bitmap(s), which are not copied", node.path.display(), left.len()));
            }
        }
        out
    }

    /// The files as a plan shows them.
    pub(super) fn files_for_plan(&self) -> Vec<PlanFile> {
        let nodes = self.parts.iter().flat_map(|p| p.chain.nodes.iter().enumerate());
        nodes
            .map(|(depth, n)| {
                let format = n.format.map_or("?", |f| f.name());
                let what = if depth == 0 { format.to_string() } else { format!("{format}, {depth} below") };
                PlanFile { path: n.path.clone(), what }
            })
            .collect()
    }

    /// Guest bytes that hold data, and where. On a disk so large or scattered that counting takes long, the rest is guessed.
    pub(super) fn estimate(&self) -> Result<(Estimate, Layout)> {
        let begin = Instant::now();
        let mut layout = Layout::new(self.size);
        let (mut at, mut data) = (0u64, 0u64);
        while at < self.size {
            let e = self.extent(at, u64::MAX)?;
            if matches!(e.kind, Kind::Data | Kind::Compressed) {
                data += e.len;
                layout.add(at, at + e.len);
            }
            at += e.len;
            if begin.elapsed() > LOOK {
                let share = data as f64 / at as f64;
                let likely = (share * self.size as f64) as u64;
                for i in 0..layout.parts.len() {
                    let (from, to) = (layout.edge(i).max(at), layout.edge(i + 1));
                    if let Some(part) = layout.parts.get_mut(i).filter(|_| from < to) {
                        *part += (share * (to - from) as f64) as u64;
                    }
                }
                return Ok((Estimate { likely, worst: data.saturating_add(self.size - at) }, layout));
            }
        }
        Ok((Estimate::exact(data), layout))
    }

    fn part(&self, offset: u64) -> Option<&Part> {
        self.parts.get(self.parts.partition_point(|p| p.start <= offset).checked_sub(1)?)
    }

    /// What lies at guest byte `offset`, at most `max` bytes, within one disk. `offset` of the answer is the whole's.
    pub(super) fn extent(&self, offset: u64, max: u64) -> Result<Extent> {
        let Some(part) = self.part(offset) else { return Err(Error::new(ErrorKind::Internal, "an offset in no disk")) };
        match part.disk.extent(offset - part.start, max) {
            Ok(e) => Ok(Extent { offset, ..e }),
            Err(_) if self.salvage => {
                let len = (SALVAGE - offset % SALVAGE).min(max).min(part.start + part.disk.size() - offset);
                Ok(Extent { offset, len, kind: Kind::Data, depth: 0, place: None })
            }
            Err(e) => Err(e),
        }
    }

    /// Reads the beginning of `extent` (as [`Sources::extent`] gave it) into `buf`.
    pub(super) fn read(&self, extent: &Extent, buf: &mut [u8]) -> Result<()> {
        let Some(part) = self.part(extent.offset) else { return Err(Error::new(ErrorKind::Internal, "an offset in no disk")) };
        if let (Kind::Data, Some(place)) = (extent.kind, extent.place) {
            let direct = part.direct.get(extent.depth).and_then(|row| row.get(place.file)?.as_ref());
            if let Some(direct) = direct {
                return read_padded(direct, place.offset, buf);
            }
        }
        let local = Extent { offset: extent.offset - part.start, ..*extent };
        part.disk.read_extent(&local, local.offset, buf)
    }

    /// Fails when a file has become shorter since it was opened: its last bytes were read as zeros then, or will be.
    pub(super) fn unchanged(&self) -> Result<()> {
        for f in &self.files {
            let now = self.parts.get(f.part).and_then(|p| p.disk.files(f.layer).get(f.index)).map_or(0, |d| d.len());
            if now < f.len {
                return Err(Error::new(
                    ErrorKind::Truncated,
                    format!("the file became shorter while it was read: {} bytes, now {now}", f.len),
                )
                .op("convert")
                .path(&f.path)
                .at(now)
                .hint("something else writes to it; convert it when it is at rest"));
            }
        }
        Ok(())
    }
}

/// The error for a target that is a file which is read, called `read`.
pub(super) fn same_file(target: &Path, read: &Path) -> Error {
    Error::usage(format!("the target is the same file as {}, which is read", read.display()))
        .op("convert")
        .path(target)
        .hint("choose another name; the source stays as it is")
}
