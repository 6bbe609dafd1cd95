//! Sanitising while copying: the draft goes into a new image, and the source is only read.

use std::path::Path;
use std::sync::Arc;

use super::SanitizeSpec;
use super::prepare::Prepared;
use super::ready::Ready;
use crate::engine::chain::Disk;
use crate::engine::error::Result;
use crate::engine::format::Format;
use crate::engine::format::raw::Raw;
use crate::engine::io::Device;
use crate::engine::job::JobContext;
use crate::engine::ops::convert::{self, ConvertSpec};
use crate::engine::ops::edit;

/// Makes the image at `to` of the sanitised disk of `spec`.
pub(super) fn copy(
    spec: &SanitizeSpec,
    to: &Path,
    ready: impl Fn(&JobContext) -> Result<Ready>,
    job: &JobContext,
) -> Result<Prepared> {
    let _held = edit::hold_layers(&spec.chain()?.disk()?, false)?;
    let Ready { chain, prepared, .. } = ready(job)?;
    let format = spec.target_format.or_else(|| chain.layers.first().map(|l| l.format())).unwrap_or(Format::Raw);
    let mut order = ConvertSpec::new(&spec.image, to, format);
    order.source_format = spec.open_as()?;
    order.roots.clone_from(&spec.roots);
    order.follow = spec.follow;
    let changed: Device = prepared.draft.clone();
    convert::run_over(&order, Disk::new(vec![Arc::new(Raw::new(vec![changed]))]), job)?;
    Ok(prepared)
}
