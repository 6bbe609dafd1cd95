//! A draft's changes written all or none, for operations other than sanitising: the same undo file, in a place of its own, and gone as
//! soon as the change is complete.

use std::path::{Path, PathBuf};

use super::{commit, undo};
use crate::engine::error::{Context, Error, Result};
use crate::engine::format::Format;
use crate::engine::format::write::DiskWriter;
use crate::engine::io::WriteAt;
use crate::engine::io::draft::Draft;
use crate::engine::job::JobContext;

/// Where the undo file of an operation called `verb` on the image at `path` is.
pub(in crate::engine::ops) fn beside(path: &Path, verb: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(format!(".{verb}-undo"));
    PathBuf::from(name)
}

/// What is written.
pub(in crate::engine::ops) struct Change<'a> {
    /// The image.
    pub(in crate::engine::ops) image: &'a Path,
    /// Its format.
    pub(in crate::engine::ops) format: Format,
    /// Where the undo file is while it is needed.
    pub(in crate::engine::ops) undo: PathBuf,
    /// The changes.
    pub(in crate::engine::ops) draft: &'a Draft,
    /// Places of the disk (offset and length) whose old bytes matter; what else changes was of no use to anybody.
    pub(in crate::engine::ops) ranges: Vec<(u64, u64)>,
}

impl Change<'_> {
    /// Writes it through `writer`. A power cut leaves the undo file, by which [`roll_back`] makes the disk what it was.
    pub(in crate::engine::ops) fn commit(self, writer: &dyn DiskWriter, job: &JobContext) -> Result<()> {
        let before = self.draft.before();
        let header = undo::Header {
            image: self.image.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            format: self.format.name().into(),
            size: before.len(),
            made: jiff::Timestamp::now().to_string(),
            new: undo::checksum(self.draft, &self.ranges)?,
            old: 0,
            ranges: self.ranges,
        };
        let mut undo = undo::Undo::write(Box::new(undo::create(&self.undo)?), header, before.as_ref())
            .and_then(|u| undo::sync_folder(&self.undo).map(|()| u))
            .inspect_err(|_| {
                // The image was not touched; a file half written is no undo file.
                let _ = undo::destroy(&self.undo).or_else(|_| std::fs::remove_file(&self.undo));
            })?;
        commit::commit(self.draft, writer, &mut undo, false, job)
            .path(self.image)
            .map_err(|e| e.hint("the same command again takes back what is half done, and begins anew"))?;
        drop(undo);
        undo::destroy(&self.undo)
    }
}

/// Takes back what the undo file at `path` belongs to, if that was interrupted. True when it did.
///
/// Errors: it is damaged, or of another disk.
pub(in crate::engine::ops) fn roll_back(path: &Path, writer: &dyn DiskWriter) -> Result<bool> {
    let Some(mut undo) = open(path)? else { return Ok(false) };
    if undo.state != undo::State::Done {
        undo.set(undo::State::Undoing)?;
        undo.restore(writer).path(path)?;
    }
    drop(undo);
    undo::destroy(path)?;
    Ok(true)
}

/// Shows on `dev` what [`roll_back`] would make of the disk, for a plan.
pub(in crate::engine::ops) fn rehearse(path: &Path, dev: &dyn WriteAt) -> Result<bool> {
    let Some(undo) = open(path)?.filter(|u| u.state != undo::State::Done) else { return Ok(false) };
    if undo.header.size != dev.len() {
        return Err(Error::usage("the undo file belongs to a disk of another size").path(path));
    }
    undo.pieces(|offset, bytes| dev.write_at(offset, &bytes))?;
    Ok(true)
}

fn open(path: &Path) -> Result<Option<undo::Undo>> {
    // Most images have none: ask for the name before anything is opened for writing.
    if path.exists() { undo::Undo::open(path) } else { Ok(None) }
}
