//! The inside of an image: volumes, who the guest is, its files as they are gone through, and where it would be taken.

use std::path::PathBuf;
use std::sync::Arc;

use super::scroll::Scroll;
use crate::app::worker::guest::{FileRow, Look, below};
use crate::engine::error::Error;
use crate::engine::guest::ready::Readiness;

/// State of the screens Inside and Ready; both are about one image.
#[derive(Debug, Clone, Default)]
pub struct InsideState {
    /// The image.
    pub path: Option<PathBuf>,
    /// Number of the last request for a look.
    pub generation: u64,
    /// What was seen; `None` while it is looked.
    pub look: Option<Result<Arc<Look>, Error>>,
    /// The volumes.
    pub volumes: Scroll,
    /// Who the guest is.
    pub identity: Scroll,
    /// Only the filesystem of this volume is gone through.
    pub volume: Option<usize>,
    /// The folder shown, free of links.
    pub folder: Vec<u8>,
    /// Its files, or what a search found; `None` while they are read.
    pub rows: Option<Result<Vec<FileRow>, Error>>,
    /// What was searched for, when the rows are what was found; true when there is more.
    pub found: Option<(String, bool)>,
    /// Number of the last request for files.
    pub files_generation: u64,
    /// Something was asked for and has not come.
    pub reading: bool,
    /// The files.
    pub files: Scroll,
    /// The name the cursor goes to when the folder has come.
    pub select: Option<Vec<u8>>,
    /// The targets.
    pub targets: Scroll,
    /// What is found for the target under the cursor.
    pub findings: Scroll,
}

impl InsideState {
    /// What was seen, if it was.
    pub fn seen(&self) -> Option<&Look> {
        self.look.as_ref()?.as_ref().ok().map(Arc::as_ref)
    }
    /// The files shown.
    pub fn list(&self) -> &[FileRow] {
        self.rows.as_ref().and_then(|r| r.as_ref().ok()).map(Vec::as_slice).unwrap_or_default()
    }
    /// The file under the cursor.
    pub fn file(&self) -> Option<&FileRow> {
        self.list().get(self.files.at)
    }
    /// Its path in the guest.
    pub fn file_path(&self) -> Option<Vec<u8>> {
        Some(below(&self.folder, &self.file()?.name))
    }
    /// The verdict for the target under the cursor.
    pub fn verdict(&self) -> Option<&Readiness> {
        self.seen()?.readiness.get(self.targets.at)
    }
    /// Something is still being read.
    pub fn loading(&self) -> bool {
        self.path.is_some() && (self.look.is_none() || self.reading)
    }
}
