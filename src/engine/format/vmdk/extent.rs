//! The extents of a disk: which file each lies in, what sort it is, and how a guest range of it is found.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::descriptor::{Access, ExtentLine};
use super::grains::{Geometry, Grains, Packing};
use super::pages::Pages;
use super::{cowd, sesparse, sparse};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::Source;
use crate::engine::io::bytes::{array, le64};
use crate::engine::io::{Device, past_end, read_up_to};
use crate::engine::model::Mapping;
use crate::engine::units::SECTOR;

/// Distinct files one disk may consist of. ESXi splits into 2 GiB at the smallest, so this is 2 TiB of split disk; more would
/// eat up the process's file handles.
const MAX_FILES: usize = 1024;

/// One extent of the disk, in guest order.
pub(super) struct Part {
    /// Guest byte where it begins.
    pub(super) start: u64,
    /// Guest bytes.
    pub(super) len: u64,
    /// As the descriptor has it; `None` for an extent that has no line (opened alone).
    pub(super) line: Option<ExtentLine>,
    /// Its file as joined to the image's folder, for people. Empty for ZERO.
    pub(super) path: PathBuf,
    /// Where its bytes are.
    pub(super) storage: Storage,
}

/// Where an extent's bytes are.
pub(super) enum Storage {
    /// In a file as they are, from a byte on.
    Flat {
        /// Storage file.
        file: usize,
        /// The same.
        dev: Device,
        /// First byte.
        offset: u64,
    },
    /// Nowhere: zeros (type ZERO, or no access).
    Zero,
    /// In grains.
    Sparse(Arc<Grains>),
    /// Not to be had: missing, gated, damaged.
    Unavailable(Error),
}

/// What a sparse extent's file is found to be.
pub(super) enum Sparse {
    /// Hosted sparse.
    Hosted(sparse::Opened),
    /// COWD.
    Cowd(cowd::Header),
    /// seSparse.
    Efficient(Geometry),
}

impl Sparse {
    /// Reads the header of `dev`, whichever it is. `None`: none of them.
    pub(super) fn open(dev: &Device) -> Result<Option<Sparse>> {
        let head = read_up_to(dev.as_ref(), 0, 8)?;
        Ok(Some(match array::<4>(&head, 0) {
            Some(sparse::MAGIC) => Sparse::Hosted(sparse::open(dev.as_ref())?),
            Some(cowd::MAGIC) => Sparse::Cowd(cowd::open(dev.as_ref())?),
            _ if le64(&head, 0) == Some(sesparse::MAGIC) => Sparse::Efficient(sesparse::open(dev.as_ref())?),
            _ => return Ok(None),
        }))
    }

    /// Its tables, checked against the file; and warnings.
    pub(super) fn geometry(&self, dev: &Device) -> Result<(Geometry, Vec<String>)> {
        let (mut geometry, mut warnings) = match self {
            Sparse::Hosted(o) => (o.header.geometry()?, o.header.warnings()),
            Sparse::Cowd(h) => (h.geometry.clone(), Vec::new()),
            Sparse::Efficient(g) => (g.clone(), Vec::new()),
        };
        warnings.extend(geometry.check(dev.len())?);
        Ok((geometry, warnings))
    }

    /// It was not closed properly.
    pub(super) fn unclean(&self) -> bool {
        match self {
            Sparse::Hosted(o) => o.header.unclean != 0,
            Sparse::Cowd(h) => h.unclean,
            Sparse::Efficient(_) => false,
        }
    }
}

impl Part {
    /// What lies at byte `offset` of the extent, at most `max` bytes.
    pub(super) fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let max = max.min(self.len.saturating_sub(offset)).max(1);
        match &self.storage {
            Storage::Zero => Ok(Mapping::zero(max)),
            Storage::Unavailable(e) => Err(e.clone()),
            Storage::Flat { file, dev, offset: start } => {
                let at = start + offset;
                match dev.len().saturating_sub(at) {
                    0 => Err(past_end(dev.as_ref(), at, max).op("read a flat extent")),
                    left => Ok(Mapping::data(*file, at, max.min(left))),
                }
            }
            Storage::Sparse(g) => match g.geometry.capacity.checked_sub(offset) {
                None | Some(0) => Ok(Mapping::unallocated(max)),
                Some(left) => g.map(offset, max.min(left)),
            },
        }
    }

    /// Grain size in bytes; `None` for one without grains.
    pub(super) fn grain(&self) -> Option<u64> {
        match &self.storage {
            Storage::Sparse(g) => Some(g.geometry.grain),
            _ => None,
        }
    }
    /// Its grains are compressed.
    pub(super) fn compressed(&self) -> bool {
        matches!(&self.storage, Storage::Sparse(g) if g.geometry.packing != Packing::Plain)
    }
    /// The type word of its line; empty without one.
    pub(super) fn kind(&self) -> &str {
        self.line.as_ref().map_or("", |l| &l.kind)
    }
}

/// Opens the file called so; the flag says that some extent in it may be written. Asked once for each name.
pub(super) type OpenFile<'a> = dyn FnMut(&str, bool) -> Result<Device> + 'a;

/// Opens the extents that a text descriptor names.
pub(super) struct Opener<'a> {
    source: &'a Source,
    open: &'a mut OpenFile<'a>,
    /// The image file, then every extent file.
    pub(super) files: Vec<Device>,
    /// What a person should know.
    pub(super) warnings: Vec<String>,
    /// Some extent was not closed properly.
    pub(super) unclean: bool,
    pages: Arc<Pages>,
    known: HashMap<String, usize>,
    /// Files with an extent that a guest may write.
    writable: HashSet<String>,
}

impl<'a> Opener<'a> {
    /// Opens extents on behalf of the image that `source` is, by means of `open`.
    pub(super) fn new(source: &'a Source, open: &'a mut OpenFile<'a>) -> Self {
        Opener {
            source,
            open,
            files: vec![source.dev.clone()],
            warnings: Vec::new(),
            unclean: false,
            pages: Arc::default(),
            known: HashMap::new(),
            writable: HashSet::new(),
        }
    }

    /// The image file itself as a sparse extent.
    pub(super) fn own(&mut self, sparse: &Sparse) -> Result<Grains> {
        let dev = self.source.dev.clone();
        let (geometry, warnings) = sparse.geometry(&dev)?;
        self.warnings.extend(warnings);
        self.unclean |= sparse.unclean();
        Ok(Grains::new(geometry, 0, dev, self.pages.clone()))
    }

    /// All extents of `lines`, each at its place. One that cannot be had is kept as such, so that the disk can be described.
    ///
    /// Errors: more bytes than a disk can have.
    pub(super) fn parts(&mut self, lines: &[ExtentLine]) -> Result<Vec<Part>> {
        let mut parts = Vec::with_capacity(lines.len());
        let mut start = 0u64;
        for line in lines.iter().filter(|l| l.access == Access::ReadWrite) {
            self.writable.extend(line.file.clone());
        }
        for line in lines {
            let len = line.sectors.saturating_mul(SECTOR);
            let end = start.checked_add(len).filter(|&e| e <= i64::MAX as u64);
            let end = end.ok_or_else(|| Error::corrupt("its extents together are larger than any disk can be"))?;
            let folder = self.source.path.parent().unwrap_or(Path::new(""));
            let path = line.file.as_ref().map(|f| folder.join(f)).unwrap_or_default();
            let storage = self.storage(line, len).unwrap_or_else(|e| {
                self.warnings.push(format!("extent {} cannot be read: {e}", parts.len() + 1));
                Storage::Unavailable(e)
            });
            parts.push(Part { start, len, line: Some(line.clone()), path, storage });
            start = end;
        }
        Ok(parts)
    }

    fn storage(&mut self, line: &ExtentLine, len: u64) -> Result<Storage> {
        if line.access == Access::Barred {
            // A guest gets nothing of it, so nobody reads its file here either; its place on the disk stays.
            self.warnings.push(format!("an extent of {len} bytes is marked NOACCESS: it is not opened and reads as zeros"));
            return Ok(Storage::Zero);
        }
        let Some(name) = line.file.as_deref().filter(|_| line.kind != "ZERO") else { return Ok(Storage::Zero) };
        match line.kind.as_str() {
            "FLAT" | "VMFS" => {
                let (file, dev) = self.file(name)?;
                let offset = line.offset.checked_mul(SECTOR).filter(|o| o.checked_add(len).is_some());
                let offset = offset.ok_or_else(|| Error::corrupt("a flat extent begins out of reach"))?;
                if dev.len() < offset + len {
                    self.warnings.push(format!("the file '{name}' is shorter than its extent: {} of {len} bytes", dev.len()));
                }
                Ok(Storage::Flat { file, dev, offset })
            }
            "SPARSE" | "VMFSSPARSE" | "SESPARSE" => {
                let (file, dev) = self.file(name)?;
                let place = dev.path().unwrap_or(&self.source.path).to_path_buf();
                let sparse = Sparse::open(&dev).path(&place)?.ok_or_else(|| {
                    Error::corrupt(format!("it is named as a {} extent and begins with none of their signatures", line.kind))
                        .path(&place)
                })?;
                let (geometry, warnings) = sparse.geometry(&dev).path(&place)?;
                self.warnings.extend(warnings.into_iter().map(|w| format!("{name}: {w}")));
                self.unclean |= sparse.unclean();
                if geometry.capacity != len {
                    self.warnings.push(format!(
                        "the extent '{name}' holds {} bytes by its own header and {len} by the descriptor, which is believed",
                        geometry.capacity
                    ));
                }
                Ok(Storage::Sparse(Arc::new(Grains::new(geometry, file, dev, self.pages.clone()))))
            }
            "VMFSRDM" | "VMFSRAW" => Err(Error::unsupported(format!(
                "it maps a raw device of the ESXi host ({} '{name}'), which is not in any file",
                line.kind
            ))
            .hint("export the disk on the host, or copy the device itself")),
            other => Err(Error::unsupported(format!("extents of type {other} are not known"))),
        }
    }

    /// Opens the file called `name`, once.
    fn file(&mut self, name: &str) -> Result<(usize, Device)> {
        if name.contains('\\') {
            return Err(Error::new(
                ErrorKind::Gated,
                format!("the extent '{name}' is named by a Windows path; it was not opened"),
            )
            .path(&self.source.path)
            .hint("put the file beside the descriptor and its plain name into it"));
        }
        if let Some((&index, dev)) = self.known.get(name).and_then(|i| Some((i, self.files.get(*i)?))) {
            return Ok((index, dev.clone()));
        }
        if self.files.len() > MAX_FILES {
            return Err(Error::unsupported(format!("the disk consists of more than {MAX_FILES} files")));
        }
        let dev = (self.open)(name, self.writable.contains(name))?;
        let index = self.files.len();
        self.files.push(dev.clone());
        self.known.insert(name.to_string(), index);
        Ok((index, dev))
    }
}
