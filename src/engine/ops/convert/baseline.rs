//! The backing file a new image is to stand on (`-B`): what equals it need not be stored.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::source::Sources;
use super::spec::ConvertSpec;
use crate::engine::chain::{Chain, Disk, OpenOptions};
use crate::engine::error::{Context, Error, Result};
use crate::engine::format::write::{Below, NewBacking};
use crate::engine::io::ReadAt;
use crate::engine::io::file::FileId;
use crate::engine::io::gate::Gate;
use crate::engine::io::read_padded;
use crate::engine::model::{Extent, Kind};

/// The disk of the backing file.
pub(super) struct Baseline {
    disk: Arc<Disk>,
    /// The same chain stands below the source, from this layer of it on.
    shared_from: Option<usize>,
}

impl Baseline {
    /// Opens the backing file that `spec` names, if it names one, and says how to record it.
    pub(super) fn open(spec: &ConvertSpec, sources: &Sources) -> Result<Option<(Baseline, NewBacking)>> {
        let Some(name) = &spec.backing else { return Ok(None) };
        // Named by the person, not by an image: the gate is for what the file in turn refers to.
        let path = locate(&spec.target, name);
        let gate = spec.roots.iter().fold(Gate::around(&path), |g, r| g.allow(r)).follow(spec.follow);
        let options = OpenOptions { format: spec.backing_format, gate: Some(gate), ..OpenOptions::default() };
        let chain = Chain::open(&path, &options).op("open the backing file")?;
        let disk = Arc::new(chain.disk()?);
        let (Some(node), Some(layer)) = (chain.nodes.first(), chain.layers.first()) else {
            return Err(Error::usage("the backing file is no image").path(&path));
        };
        let backing = NewBacking {
            name: name.clone(),
            format: spec.backing_format.unwrap_or_else(|| layer.format()),
            size: layer.size(),
            identity: node.description.identity.clone(),
            path: path.clone(),
            disk: Some(Below(disk.clone())),
        };
        let id = FileId::of(&std::fs::metadata(&path).path(&path)?);
        // Only when the present state of one image is read: a snapshot's layers may stand for other content.
        let shared_from = if spec.snapshot.is_none() { sources.layer_of(id) } else { None };
        Ok(Some((Baseline { disk, shared_from }, backing)))
    }

    /// True when the range comes from the very files the baseline consists of.
    pub(super) fn shares(&self, extent: &Extent) -> bool {
        self.shared_from.is_some_and(|from| extent.depth >= from) && extent.kind != Kind::Unallocated
    }

    /// How many bytes from `at` on the baseline has nothing but zeros; 0 when there may be data.
    pub(super) fn hole(&self, at: u64) -> Result<u64> {
        if at >= self.disk.len() {
            return Ok(u64::MAX);
        }
        let e = self.disk.extent(at, u64::MAX)?;
        Ok(if matches!(e.kind, Kind::Zero | Kind::Unallocated) { e.len } else { 0 })
    }

    /// Fills `buf` with its content; past its end there are zeros.
    pub(super) fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        read_padded(self.disk.as_ref(), at, buf)
    }
}

/// Where a backing name of the image at `target` points.
fn locate(target: &Path, name: &str) -> PathBuf {
    super::folder(target).join(name.strip_prefix("file:").unwrap_or(name))
}
