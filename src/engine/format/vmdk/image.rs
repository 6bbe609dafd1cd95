//! An open VMDK: its extents in order, its parent, its description.

use std::path::Path;
use std::sync::Arc;

use super::describe;
use super::descriptor::Descriptor;
use super::extent::{OpenFile, Opener, Part, Sparse, Storage};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::{Format, Image, Source};
use crate::engine::io::{Device, read_padded, read_vec};
use crate::engine::limits::MAX_DESCRIPTOR;
use crate::engine::model::{BackingRef, Description, Kind, Mapping, ParentIdentity};

/// A VMware disk, open for reading.
pub(super) struct Vmdk {
    /// Its extents in guest order.
    pub(super) parts: Vec<Part>,
    /// The image file, then every extent file.
    pub(super) files: Vec<Device>,
    /// Guest bytes.
    pub(super) size: u64,
    /// Its parent.
    pub(super) backing: Option<BackingRef>,
    /// What it says of itself.
    pub(super) description: Arc<Description>,
    /// For a stream: the options that make another like it.
    pub(super) remade_with: Option<Vec<(String, String)>>,
    /// Where the text descriptor is in the image file, and how long it may be there; `None` when there is none.
    pub(super) text: Option<(u64, u64)>,
}

/// Opens a disk for reading; extents through the gate.
pub(super) fn open(source: Source) -> Result<Arc<dyn Image>> {
    let image = load(&source, &mut |name, _| Ok(Arc::new(source.gate.open(&source.path, name)?)))?;
    Ok(Arc::new(image))
}

/// Opens a disk through its text descriptor, through a file that embeds one, or an extent alone.
pub(super) fn load<'a>(source: &'a Source, open: &'a mut OpenFile<'a>) -> Result<Vmdk> {
    let mut opener = Opener::new(source, open);
    let (descriptor, parts, own) = match Sparse::open(&source.dev)? {
        Some(sparse) => {
            let text = match &sparse {
                Sparse::Hosted(o) => Descriptor::parse(&o.descriptor)?,
                _ => Descriptor::default(),
            };
            if matches!(&sparse, Sparse::Hosted(o) if o.header.capacity == 0) && !text.extents.is_empty() {
                // A header that holds no grains but a descriptor: the extents it names are the disk.
                let parts = opener.parts(&text.extents)?;
                (text, parts, Some(sparse))
            } else {
                // The embedded extent line names the file as it was called once; the grains are here whatever it is called now.
                let grains = opener.own(&sparse)?;
                if text.extents.len() > 1 {
                    opener.warnings.push("its descriptor names several extents; only this file's is read".to_string());
                }
                if let (Sparse::Hosted(_), true) = (&sparse, text.extents.is_empty() && text.entries.is_empty()) {
                    opener.warnings.push(
                        "it has no descriptor: it is one extent of a split disk, and its size is that of this part only"
                            .to_string(),
                    );
                }
                let len = grains.geometry.capacity;
                let path = source.path.clone();
                let part = Part { start: 0, len, line: None, path, storage: Storage::Sparse(Arc::new(grains)) };
                (text, vec![part], Some(sparse))
            }
        }
        None => {
            let text = read_vec(source.dev.as_ref(), 0, source.dev.len(), MAX_DESCRIPTOR).op("read the descriptor")?;
            if super::descriptor::looks_like_one(&text).is_none() {
                return Err(Error::new(
                    ErrorKind::Format,
                    "it begins neither with a VMDK signature (KDMV, COWD, seSparse) nor with a text descriptor",
                )
                .path(&source.path));
            }
            let text = Descriptor::parse(&text)?;
            if text.extents.is_empty() {
                return Err(Error::corrupt("its descriptor names no extents").op("read the descriptor").path(&source.path));
            }
            let parts = opener.parts(&text.extents)?;
            (text, parts, None)
        }
    };
    let text = match &own {
        None => Some((0, source.dev.len())),
        Some(Sparse::Hosted(o)) if !o.descriptor.is_empty() => Some((o.descriptor_at, o.descriptor.len() as u64)),
        Some(_) => None,
    };
    let (files, warnings, unclean) = (opener.files, opener.warnings, opener.unclean);
    let backing = backing(&descriptor, &source.path);
    let description = describe::describe(&descriptor, &parts, own.as_ref(), warnings, unclean);
    let size = parts.last().map_or(0, |p| p.start + p.len);
    let remade_with = parts.iter().any(Part::compressed).then(|| stream_options(&descriptor));
    Ok(Vmdk { remade_with, parts, files, size, backing, description: Arc::new(description), text })
}

/// What makes a stream as `descriptor` describes one.
fn stream_options(descriptor: &Descriptor) -> Vec<(String, String)> {
    let hardware =
        [("adapter_type", "ddb.adapterType"), ("hwversion", "ddb.virtualHWVersion"), ("toolsversion", "ddb.toolsVersion")];
    let known = |name: &str, value: &str| match name {
        "adapter_type" => super::options::ADAPTERS.contains(&value),
        _ => value.parse::<u64>().is_ok(),
    };
    let kept = hardware.iter().filter_map(|(name, key)| {
        let value = descriptor.get(key).filter(|v| known(name, v))?;
        Some(((*name).to_string(), value.to_string()))
    });
    std::iter::once(("subformat".to_string(), "streamOptimized".to_string())).chain(kept).collect()
}

/// The parent: as the hint spells it, then by its last name beside the child, where VMware looks too.
fn backing(descriptor: &Descriptor, path: &Path) -> Option<BackingRef> {
    let cid = descriptor.parent_cid()?;
    let mut names = Vec::new();
    if let Some(hint) = descriptor.get("parentFileNameHint").filter(|h| !h.is_empty()) {
        names.push(hint.to_string());
        let last = hint.rsplit(['/', '\\']).next().unwrap_or_default();
        if last != hint && !last.is_empty() && last != ".." && path.file_name().is_none_or(|own| own != last) {
            names.push(last.to_string());
        }
    }
    Some(BackingRef { names, format: Some(Format::Vmdk.driver().to_string()), identity: ParentIdentity::Cid(cid) })
}

impl Vmdk {
    /// The extent that holds guest byte `offset`.
    fn part(&self, offset: u64) -> Result<&Part> {
        let i = self.parts.partition_point(|p| p.start + p.len <= offset);
        self.parts.get(i).ok_or_else(|| Error::new(ErrorKind::Internal, "a read past the end of the disk").at(offset))
    }
}

impl Image for Vmdk {
    fn format(&self) -> Format {
        Format::Vmdk
    }
    fn size(&self) -> u64 {
        self.size
    }
    fn files(&self) -> Vec<Device> {
        self.files.clone()
    }
    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let part = self.part(offset)?;
        part.map(offset - part.start, max)
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut done = 0usize;
        while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
            let at = offset + done as u64;
            let part = self.part(at)?;
            let m = part.map(at - part.start, rest.len() as u64)?;
            let n = m.len.clamp(1, rest.len() as u64) as usize;
            let piece = rest.get_mut(..n).unwrap_or_default();
            match (m.kind, m.place, &part.storage) {
                (Kind::Data, Some(place), _) => match self.files.get(place.file) {
                    Some(dev) => read_padded(dev.as_ref(), place.offset, piece)?,
                    None => return Err(Error::new(ErrorKind::Internal, "a mapping into no file")),
                },
                (Kind::Compressed, Some(place), Storage::Sparse(g)) => g.inflate(at - part.start, place.offset, piece)?,
                _ => piece.fill(0),
            }
            done += n;
        }
        Ok(())
    }
    fn backing(&self) -> Option<BackingRef> {
        self.backing.clone()
    }
    fn describe(&self) -> Arc<Description> {
        self.description.clone()
    }
    fn remade_with(&self) -> Option<Vec<(String, String)>> {
        self.remade_with.clone()
    }
    fn holes_under_data(&self) -> bool {
        self.parts.iter().any(|p| matches!(p.storage, Storage::Flat { .. }))
    }
    fn readable(&self) -> Result<()> {
        if let Some(how) = &self.description.encrypted {
            return Err(Error::unsupported(format!("its content is encrypted ({how}), which cannot be read yet")));
        }
        self.parts.iter().try_for_each(|p| match &p.storage {
            Storage::Unavailable(e) => Err(e.clone()),
            _ => Ok(()),
        })
    }
}
