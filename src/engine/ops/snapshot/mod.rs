//! Internal snapshots: what they cost, what changed between them, changing them, and making images of them.

mod change;
pub mod diff;
pub mod export;

use std::path::Path;
use std::sync::Arc;

use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::qcow2::lineage::{self, Lineage};
use crate::engine::format::qcow2::usage::{self, Usage};
use crate::engine::format::{Format, Source};
use crate::engine::io::file::FileDevice;
use crate::engine::io::gate::Gate;

pub use change::{Action, Change, SnapshotSpec};

/// Whose the space of the qcow2 image at `path` is; `None` for formats without internal snapshots.
///
/// Errors: the image cannot be read.
pub fn usage(path: &Path, format: Format) -> Result<Option<Usage>> {
    if format != Format::Qcow2 {
        return Ok(None);
    }
    usage::usage(&source(path)?).path(path).map(Some)
}

/// Bytes that deleting the snapshots `set` (indices into the image's list) together gives back.
///
/// Errors: the image cannot be read; an index that is not there.
pub fn freed_by(path: &Path, set: &[usize]) -> Result<u64> {
    usage::freed_by(&source(path)?, set).path(path)
}

/// Which snapshot each state of the qcow2 image at `path` seems to come from: inferred, the file does not say. `stop` is asked now and
/// then.
///
/// Errors: the image cannot be read; `Cancelled`.
pub fn lineage(path: &Path, stop: &dyn Fn() -> bool) -> Result<Lineage> {
    lineage::lineage(&source(path)?, stop).path(path)
}

fn source(path: &Path) -> Result<Source> {
    Ok(Source { dev: Arc::new(FileDevice::open(path)?), path: path.to_path_buf(), gate: Gate::closed() })
}

/// The error for a snapshot that is not there.
fn missing(name: &str, image: &Path) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no snapshot '{name}'"))
        .path(image)
        .hint("snapshot -l lists those there are")
}

/// The error for a format without internal snapshots.
fn none_inside(format: Format, image: &Path) -> Error {
    Error::unsupported(format!("{format} images have no internal snapshots"))
        .path(image)
        .hint("make an overlay on it instead (create -b), or convert it to qcow2")
}
