//! How much guest data one image stores itself. Walks its tables, so it is asked for what is looked at, not for a whole library.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::format::probe::{best, probe};
use crate::engine::format::{Image, Source};
use crate::engine::io::Device;
use crate::engine::io::file::FileDevice;
use crate::engine::io::gate::Gate;
use crate::engine::model::Kind;

/// Bytes of guest data that the image at `path` stores itself, without what it stands on. For [`super::Library::set_allocated`].
///
/// Errors: it cannot be opened, its tables are damaged, or `cancel` was set.
pub fn allocated(path: &Path, gate: &Gate, cancel: &AtomicBool) -> Result<u64> {
    let dev: Device = Arc::new(FileDevice::open(path)?);
    let format = best(&probe(dev.as_ref())?);
    let image = (format.entry().open)(Source { dev, path: path.to_path_buf(), gate: gate.clone() })?;
    count(image.as_ref(), cancel).map_err(|e| e.path(path))
}

fn count(image: &dyn Image, cancel: &AtomicBool) -> Result<u64> {
    let (size, mut at, mut sum) = (image.size(), 0u64, 0u64);
    while at < size {
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Cancelled, "counting was cancelled"));
        }
        let m = image.map(at, size - at)?;
        let len = m.len.clamp(1, size - at);
        if matches!(m.kind, Kind::Data | Kind::Compressed) {
            sum += len;
        }
        at += len;
    }
    Ok(sum)
}
