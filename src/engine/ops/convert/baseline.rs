//! The backing file a new image is to stand on (`-B`): what equals it need not be stored.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::source::{Sources, same_file};
use super::spec::ConvertSpec;
use crate::engine::chain::Disk;
use crate::engine::error::{Context, Error, Result};
use crate::engine::format::write::{Below, NewBacking};
use crate::engine::io::file::FileId;
use crate::engine::io::locks::Guard;
use crate::engine::io::{ReadAt, read_padded};
use crate::engine::model::{Extent, Kind};
use crate::engine::ops::backing::Wanted;
use crate::engine::ops::edit;

/// The disk of the backing file.
pub(super) struct Baseline {
    disk: Arc<Disk>,
    /// Every file of its chain.
    files: Vec<(PathBuf, FileId)>,
    /// The same chain stands below the source, from this layer of it on.
    shared_from: Option<usize>,
}

impl Baseline {
    /// Opens the backing file that `spec` names, if it names one, and says how to record it.
    pub(super) fn open(spec: &ConvertSpec, sources: &Sources) -> Result<Option<(Baseline, NewBacking)>> {
        let Some(name) = &spec.backing else { return Ok(None) };
        if spec.target_is_zero {
            return Err(Error::usage("a target that stands on a backing file does not read as zeros")
                .op("convert")
                .hint("leave out --target-is-zero or -B"));
        }
        let (chain, backing) = Wanted {
            verb: "convert",
            target: &spec.target,
            child: spec.format,
            name,
            format: spec.backing_format,
            roots: &spec.roots,
            follow: spec.follow,
        }
        .open()?;
        let disk = Arc::new(chain.disk()?);
        let mut files = Vec::new();
        for dev in (0..disk.layers().len()).flat_map(|layer| disk.files(layer)) {
            if let Some(file) = dev.as_file() {
                files.push((file.path().unwrap_or(&backing.path).to_path_buf(), file.id()?));
            }
        }
        let target = std::fs::metadata(&spec.target).ok().map(|m| FileId::of(&m));
        if let Some((path, _)) = files.iter().find(|(_, id)| target == Some(*id)) {
            return Err(same_file(&spec.target, path));
        }
        let id = FileId::of(&std::fs::metadata(&backing.path).path(&backing.path)?);
        // The image itself, as a snapshot of it is read, stands for other content than its present state; what lies below it does not.
        let shared_from = sources.layer_of(id).filter(|layer| *layer > 0 || spec.snapshot.is_none());
        let backing = NewBacking { disk: Some(Below(disk.clone())), ..backing };
        Ok(Some((Baseline { disk, files, shared_from }, backing)))
    }

    /// Every file that is read.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }
    /// The identity of every file that is read.
    pub(super) fn ids(&self) -> impl Iterator<Item = FileId> {
        self.files.iter().map(|(_, id)| *id)
    }
    /// Holds every file so that no other process writes it meanwhile (`shared`: just says that we read).
    pub(super) fn hold(&self, shared: bool) -> Result<Vec<Guard>> {
        edit::hold_layers(&self.disk, shared)
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
