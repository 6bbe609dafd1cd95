//! An internal snapshot as an image of its own: exported into any format, or branched off into a sibling of its image. Both are
//! conversions; only what they are asked to do is made here.

use std::path::Path;

use crate::engine::chain::{Chain, OpenOptions};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::Format;
use crate::engine::format::qcow2::edit::find;
use crate::engine::format::qcow2::extensions::read_head;
use crate::engine::format::qcow2::header::Compression;
use crate::engine::format::qcow2::snapshots::read;
use crate::engine::io::Device;
use crate::engine::io::file::FileDevice;
use crate::engine::ops::convert::ConvertSpec;

/// The disk at snapshot `name` (id or name) of `image` as a new image `target` of format `to`, which stands alone.
pub fn export(image: &Path, format: Option<Format>, name: &str, target: &Path, to: Format) -> ConvertSpec {
    let mut spec = ConvertSpec::new(image, target, to);
    spec.source_format = format;
    spec.snapshot = Some(name.to_string());
    spec
}

/// A new qcow2 image `target` to go on from snapshot `name` of `image`, laid out as that is. When the image stands on a backing file
/// the branch stands on the same one and holds what the snapshot has above it; otherwise it stands alone. It never stands on the
/// image itself: that goes on being written, which would change the branch.
///
/// Errors: `Unsupported` for other formats; `NotFound` for a snapshot that is not there; the backing file cannot be opened.
pub fn branch(image: &Path, name: &str, target: &Path, options: &OpenOptions) -> Result<ConvertSpec> {
    let chain = Chain::open(image, options)?;
    let top = chain.layers.first().ok_or_else(|| Error::new(ErrorKind::Internal, "a chain without layers"))?;
    if top.format() != Format::Qcow2 {
        return Err(super::none_inside(top.format(), image));
    }
    chain.disk()?;
    let dev: Device = std::sync::Arc::new(FileDevice::open(image)?);
    let (header, _) = read_head(&dev).path(image)?;
    let list = read(dev.as_ref(), &header).path(image)?;
    let entry = find(&list, name).and_then(|i| list.get(i)).ok_or_else(|| super::missing(name, image))?;
    // By its id: a name may be another one's id.
    let mut spec = export(image, Some(Format::Qcow2), &String::from_utf8_lossy(&entry.id), target, Format::Qcow2);
    let mut option = |name: &str, value: String| spec.options.push((name.to_string(), value));
    option("compat", if header.version < 3 { "0.10" } else { "1.1" }.into());
    option("cluster_size", header.cluster_size().to_string());
    if header.version >= 3 {
        option("refcount_bits", (1u32 << header.refcount_order).to_string());
        if header.extended_l2() {
            option("extended_l2", "on".into());
        }
        if header.compression == Compression::Zstd {
            option("compression_type", "zstd".into());
        }
    }
    if let Some(below) = chain.nodes.get(1) {
        let folder = |p: &Path| std::fs::canonicalize(super::super::convert::folder(p)).ok();
        let beside = folder(image).is_some() && folder(image) == folder(target);
        spec.backing = Some(match &below.spelled {
            Some(spelled) if beside => spelled.clone(),
            _ => std::fs::canonicalize(&below.path).path(&below.path)?.to_string_lossy().into_owned(),
        });
        spec.backing_format = below.format;
    }
    Ok(spec)
}
