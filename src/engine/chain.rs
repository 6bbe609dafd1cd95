//! The backing chain: from an image down through what it stands on, across formats, with loops, missing links and the gate; and
//! the disk that the whole chain shows to a guest.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Context, Error, ErrorKind, Result};
use super::extents::Extents;
use super::format::probe::{self, best, probe};
use super::format::{Format, Image, Source};
use super::io::file::{FileDevice, FileId};
use super::io::gate::{Gate, missing};
use super::io::{Device, ReadAt, past_end, read_padded};
use super::limits::MAX_CHAIN;
use super::model::{BackingRef, ChainNode, Description, Extent, Identity, Kind, Mapping, ParentIdentity};

/// Finds parents that an image does not name by path (VDI) or that moved: the library knows where images are.
pub trait ParentFinder: Send + Sync {
    /// Images that may be the parent described by `reference` of the image at `child`, best first.
    fn find(&self, child: &Path, reference: &BackingRef) -> Vec<PathBuf>;
}

/// How to open a chain.
#[derive(Clone, Default)]
pub struct OpenOptions {
    /// The format of the top; `None` probes.
    pub format: Option<Format>,
    /// Which files named inside images may be opened; `None` is the image's own folder tree.
    pub gate: Option<Gate>,
    /// Where else parents may be; `None` looks in the child's folder only.
    pub finder: Option<Arc<dyn ParentFinder>>,
}

/// An image with everything below it, as far as it could be opened.
pub struct Chain {
    /// From the top down; the last one has an error when the chain is broken there.
    pub nodes: Vec<ChainNode>,
    /// The layers that could be opened, from the top down.
    pub layers: Vec<Arc<dyn Image>>,
}

impl Chain {
    /// Opens the image at `path` and what it stands on. Fails only when the image itself cannot be opened; a broken link below
    /// is in the last node.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Chain> {
        let gate = options.gate.clone().unwrap_or_else(|| Gate::around(path));
        let dev = FileDevice::open(path)?;
        let mut seen = vec![dev.id()?];
        let (node, image) = open_layer(dev, path, options.format, &gate)?;
        let mut chain = Chain { nodes: vec![node], layers: vec![image] };
        loop {
            let (Some(node), Some(image)) = (chain.nodes.last(), chain.layers.last()) else { return Ok(chain) };
            let Some(reference) = image.backing() else { return Ok(chain) };
            let (from, child) = (node.path.clone(), image.clone());
            match next_layer(&from, child.as_ref(), &reference, &gate, options.finder.as_deref(), &mut seen) {
                Ok((node, image)) => {
                    chain.nodes.push(node);
                    chain.layers.push(image);
                }
                Err(error) => {
                    chain.nodes.push(broken_node(&from, &reference, &gate, error));
                    return Ok(chain);
                }
            }
        }
    }

    /// Why the chain cannot be read through, if so.
    pub fn error(&self) -> Option<&Error> {
        self.nodes.last().and_then(|n| n.error.as_ref())
    }

    /// The disk a guest sees. Errors: the chain is broken, or a layer's content cannot be read (encrypted).
    pub fn disk(&self) -> Result<Disk> {
        if let Some(e) = self.error() {
            return Err(e.clone());
        }
        for (layer, node) in self.layers.iter().zip(&self.nodes) {
            layer.readable().path(&node.path)?;
        }
        Ok(Disk::new(self.layers.clone()))
    }

    /// The disk as the top's internal snapshot `which` (id or name) kept it.
    pub fn snapshot_disk(&self, which: &str) -> Result<Disk> {
        self.disk()?;
        let (Some(top), Some(rest)) = (self.layers.first(), self.layers.get(1..)) else {
            return Err(Error::new(ErrorKind::Internal, "a chain without layers"));
        };
        let mut layers = vec![top.snapshot(which)?];
        layers.extend(rest.iter().cloned());
        Ok(Disk::new(layers))
    }
}

/// Files looked at in the child's folder for a parent known by UUID, at most.
const MAX_BESIDE: usize = 4096;

/// Opens one file as an image of `format` (probed when not given), with its node.
fn open_layer(dev: FileDevice, path: &Path, format: Option<Format>, gate: &Gate) -> Result<(ChainNode, Arc<dyn Image>)> {
    let actual_size = dev.allocated();
    let dev: Device = Arc::new(dev);
    let (format, warnings) = match format {
        Some(f) => (f, Vec::new()),
        // Nothing is not a disk by chance; whoever means a raw disk without any bytes says so.
        None if dev.is_empty() => {
            return Err(Error::new(ErrorKind::Format, "the file is empty")
                .op("open")
                .path(path)
                .hint("if it is meant as a raw disk of no bytes: -f raw"));
        }
        None => {
            let matches = probe(dev.as_ref())?;
            (best(&matches), probe::warnings(path, &matches))
        }
    };
    let image = (format.entry().open)(Source { dev, path: path.to_path_buf(), gate: gate.clone() }).path(path)?;
    let node = ChainNode {
        path: path.to_path_buf(),
        spelled: None,
        format: Some(image.format()),
        virtual_size: Some(image.size()),
        actual_size: Some(image.files().iter().skip(1).fold(actual_size, |sum, f| sum.saturating_add(f.allocated()))),
        error: None,
        warnings,
        description: image.describe(),
    };
    Ok((node, image))
}

fn next_layer(
    from: &Path,
    child: &dyn Image,
    reference: &BackingRef,
    gate: &Gate,
    finder: Option<&dyn ParentFinder>,
    seen: &mut Vec<FileId>,
) -> Result<(ChainNode, Arc<dyn Image>)> {
    if seen.len() >= MAX_CHAIN {
        return Err(Error::new(ErrorKind::Loop, format!("the chain is deeper than {MAX_CHAIN} layers")).path(from));
    }
    let (dev, path, spelled) = find_parent(from, reference, gate, finder)?;
    let id = dev.id()?;
    if seen.contains(&id) {
        return Err(Error::new(ErrorKind::Loop, "the chain comes back to an image that is in it already").path(&path));
    }
    seen.push(id);
    let format = reference.format.as_deref().map(Format::parse).transpose().path(from)?;
    let (mut node, image) = open_layer(dev, &path, format, gate)?;
    node.spelled = spelled;
    if format.is_none() && matches!(child.format(), Format::Qcow2 | Format::Qcow | Format::Cow) {
        node.warnings.push(format!("its format is not recorded in the image above; it looks like {}", image.format()));
    }
    if let Some(warning) = check_identity(&reference.identity, &node.description.identity, &path, from)? {
        node.warnings.push(warning);
    }
    Ok((node, image))
}

/// The first spelling that opens, else what the finder knows. The error is that of the first spelling.
fn find_parent(
    from: &Path,
    reference: &BackingRef,
    gate: &Gate,
    finder: Option<&dyn ParentFinder>,
) -> Result<(FileDevice, PathBuf, Option<String>)> {
    let mut first: Option<Error> = None;
    for name in &reference.names {
        match gate.locate(from, name).and_then(|p| Ok((gate.open(from, name)?, p))) {
            Ok((dev, path)) => return Ok((dev, path, Some(name.clone()))),
            Err(e) => {
                first.get_or_insert(e);
            }
        }
    }
    // A parent known only by UUID is what the finder is for; one known by name that is missing is a candidate to confirm.
    if reference.names.is_empty() {
        let found = finder.map_or_else(|| beside(from, reference, gate), |f| f.find(from, reference));
        for path in found {
            if let Ok(dev) = gate.open_path(&path) {
                return Ok((dev, path, None));
            }
        }
    }
    Err(first.unwrap_or_else(|| missing(&from.with_file_name("(parent known by its UUID only)"), from)))
}

/// The files beside the image at `from` that are the parent it knows by UUID, those written to since last.
fn beside(from: &Path, reference: &BackingRef, gate: &Gate) -> Vec<PathBuf> {
    let ParentIdentity::VdiUuids { image: wanted, .. } = &reference.identity else { return Vec::new() };
    let Some(format) = reference.format.as_deref().and_then(|f| Format::parse(f).ok()) else { return Vec::new() };
    let folder = from.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten().take(MAX_BESIDE) {
        let name = entry.file_name();
        let (Some(name), Ok(true)) = (name.to_str(), entry.file_type().map(|t| t.is_file())) else { continue };
        let (Ok(path), Ok(dev)) = (gate.locate(from, name), gate.open(from, name)) else { continue };
        let source = Source { dev: Arc::new(dev), path: path.clone(), gate: Gate::closed() };
        if let Ok(image) = (format.entry().open)(source)
            && image.describe().identity.uuid.as_deref() == Some(wanted)
        {
            let changed = check_identity(&reference.identity, &image.describe().identity, &path, from).is_err();
            found.push((changed, path));
        }
    }
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

/// Compares what the child expects with what the parent is. `Ok(Some(_))` is a warning.
pub(crate) fn check_identity(want: &ParentIdentity, have: &Identity, parent: &Path, child: &Path) -> Result<Option<String>> {
    let changed = |what: &str| {
        Err(Error::new(ErrorKind::ParentChanged, format!("it is not the parent that {} was made on: {what}", child.display()))
            .path(parent)
            .hint("the parent was changed or replaced; if you know it is right, repair the link explicitly"))
    };
    match want {
        ParentIdentity::Cid(cid) if have.cid.is_some_and(|h| h != *cid) => {
            changed(&format!("its CID is {:08x} and {cid:08x} was expected", have.cid.unwrap_or_default()))
        }
        ParentIdentity::Uuid(u) if have.uuid.as_deref() != Some(u) => {
            changed(&format!("its UUID is {} and {u} was expected", have.uuid.as_deref().unwrap_or("none")))
        }
        ParentIdentity::AnyUuid(all) if !all.iter().any(|u| have.uuid.as_deref() == Some(u)) => {
            changed(&format!("its UUID is {} and {} was expected", have.uuid.as_deref().unwrap_or("none"), all.join(" or ")))
        }
        ParentIdentity::VdiUuids { image, .. } if have.uuid.as_deref() != Some(image) => {
            changed(&format!("its UUID is {} and {image} was expected", have.uuid.as_deref().unwrap_or("none")))
        }
        // A child that does not say which state it was made on (all zeros) cannot be wrong about it.
        ParentIdentity::VdiUuids { modification, .. }
            if have.modification.as_deref() != Some(modification) && modification.bytes().any(|b| b != b'0' && b != b'-') =>
        {
            changed("it was written to after the child was made")
        }
        ParentIdentity::Mtime(seconds) => Ok(std::fs::metadata(parent)
            .ok()
            .filter(|m| std::os::unix::fs::MetadataExt::mtime(m) != *seconds)
            .map(|_| "it was modified after the image above was made".to_string())),
        _ => Ok(None),
    }
}

fn broken_node(from: &Path, reference: &BackingRef, gate: &Gate, error: Error) -> ChainNode {
    let spelled = reference.names.first().cloned();
    let located = spelled.as_ref().and_then(|n| gate.locate(from, n).ok());
    ChainNode {
        path: error.file().filter(|p| *p != from).map(Path::to_path_buf).or(located).unwrap_or_default(),
        spelled,
        format: reference.format.as_deref().and_then(|f| Format::parse(f).ok()),
        virtual_size: None,
        actual_size: None,
        error: Some(error),
        warnings: Vec::new(),
        description: Arc::new(Description::default()),
    }
}

/// What a guest sees: layers from the top down, read through. A device of its own, so everything that reads devices reads disks.
pub struct Disk {
    layers: Vec<Arc<dyn Image>>,
    files: Vec<Vec<Device>>,
    size: u64,
}

impl Disk {
    /// The disk of these layers, top first.
    pub fn new(layers: Vec<Arc<dyn Image>>) -> Self {
        let files = layers.iter().map(|l| l.files()).collect();
        let size = layers.first().map_or(0, |l| l.size());
        Disk { layers, files, size }
    }
    /// The layers, top first.
    pub fn layers(&self) -> &[Arc<dyn Image>] {
        &self.layers
    }
    /// The host files of the layer at `depth`, as [`super::model::Place::file`] counts them.
    pub fn files(&self, depth: usize) -> &[Device] {
        self.files.get(depth).map_or(&[], Vec::as_slice)
    }

    /// Virtual size in bytes: that of the top layer.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What lies at guest byte `offset`, at most `max` bytes. For a single look: whoever goes through a range uses
    /// [`Disk::extents`], which asks every layer once.
    pub fn extent(&self, offset: u64, max: u64) -> Result<Extent> {
        self.resolve(offset, max, |depth, len| match self.layers.get(depth) {
            Some(layer) => layer.map(offset, len.min(layer.size() - offset)),
            None => Err(Error::new(ErrorKind::Internal, "a layer that is not there")),
        })
    }

    /// The extents from guest byte `start` up to, not including, `end`.
    pub fn extents(&self, start: u64, end: u64) -> Extents<'_> {
        Extents::new(self, start, end)
    }

    /// The answer of the first layer that holds guest byte `offset`, at most `max` bytes long. `ask(depth, len)` is the layer's
    /// mapping there; of a longer one only `len` bytes count.
    pub(super) fn resolve(&self, offset: u64, max: u64, mut ask: impl FnMut(usize, u64) -> Result<Mapping>) -> Result<Extent> {
        let mut len = max.min(self.size.saturating_sub(offset)).max(1);
        let (mut last, mut place) = (0, None);
        for (depth, layer) in self.layers.iter().enumerate() {
            if offset >= layer.size() {
                // Shorter than what stands on it: zeros from its end on, as if the layer above had nothing below.
                break;
            }
            last = depth;
            let mapping = ask(depth, len)?;
            place = mapping.place;
            len = mapping.len.min(len).min(layer.size() - offset).max(1);
            if mapping.kind != Kind::Unallocated {
                return Ok(Extent { offset, len, kind: mapping.kind, depth, place: mapping.place });
            }
        }
        Ok(Extent { offset, len, kind: Kind::Unallocated, depth: last, place })
    }

    /// Reads the range of `extent` that begins at `offset` (within it) into `buf` (not longer than what is left of it).
    pub fn read_extent(&self, extent: &Extent, offset: u64, buf: &mut [u8]) -> Result<()> {
        match (extent.kind, extent.place) {
            (Kind::Zero | Kind::Unallocated, _) => {
                buf.fill(0);
                Ok(())
            }
            (Kind::Data, Some(place)) => match self.files(extent.depth).get(place.file) {
                Some(dev) => read_padded(dev.as_ref(), place.offset + (offset - extent.offset), buf),
                None => Err(Error::new(ErrorKind::Internal, "an extent in no file")),
            },
            _ => match self.layers.get(extent.depth) {
                Some(layer) => layer.read(offset, buf),
                None => Err(Error::new(ErrorKind::Internal, "an extent in no layer")),
            },
        }
    }
}

impl ReadAt for Disk {
    fn len(&self) -> u64 {
        self.size
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size) {
            return Err(past_end(self, offset, buf.len() as u64));
        }
        // One that stands on nothing reads its own bytes, and knows best how.
        if let [only] = self.layers.as_slice() {
            return only.read(offset, buf);
        }
        let mut extents = self.extents(offset, offset.saturating_add(buf.len() as u64));
        let mut done = 0usize;
        while let Some(extent) = extents.piece()? {
            let part = usize::try_from(extent.len).ok().and_then(|n| buf.get_mut(done..)?.get_mut(..n)).unwrap_or_default();
            done += part.len();
            self.read_extent(&extent, extent.offset, part)?;
        }
        Ok(())
    }
    fn host_range(&self, offset: u64, max: u64) -> Result<super::io::HostRange> {
        let e = self.extent(offset, max)?;
        Ok(super::io::HostRange { len: e.len, hole: matches!(e.kind, Kind::Zero | Kind::Unallocated) })
    }
}
