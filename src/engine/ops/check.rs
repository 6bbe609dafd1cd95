//! Checking an image, whatever its format: finds the format's checker and runs it. Only reads.

use std::path::Path;
use std::sync::Arc;

use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::check::CheckReport;
use crate::engine::format::probe::{best, probe};
use crate::engine::format::{Format, Source, qcow2};
use crate::engine::io::Device;
use crate::engine::io::file::FileDevice;
use crate::engine::io::gate::Gate;

/// A format's check.
type CheckFn = fn(&Source) -> Result<CheckReport>;

/// The check of `format`; `None` where the format has nothing to check.
pub fn checker(format: Format) -> Option<CheckFn> {
    match format {
        Format::Qcow2 => Some(qcow2::check::check),
        _ => None,
    }
}

/// Checks the image at `path`, of `format` or as recognised.
///
/// Errors: `Unsupported` when the format has no check; the image cannot be opened.
pub fn check(path: &Path, format: Option<Format>, gate: Option<Gate>) -> Result<(Format, CheckReport)> {
    let dev: Device = Arc::new(FileDevice::open(path)?);
    let format = match format {
        Some(f) => f,
        None => best(&probe(dev.as_ref())?),
    };
    let Some(run) = checker(format) else {
        return Err(Error::new(ErrorKind::Unsupported, format!("{format} images have nothing that could be checked"))
            .op("check")
            .path(path));
    };
    let gate = gate.unwrap_or_else(|| Gate::around(path));
    let report = run(&Source { dev, path: path.to_path_buf(), gate }).op("check").path(path)?;
    Ok((format, report))
}
