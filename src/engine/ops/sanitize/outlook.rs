//! What can be told before anything is chosen: what each operation would find in a guest, and what an earlier sanitising keeps.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{SanitizeSpec, undo};
use crate::engine::error::Result;
use crate::engine::guest::sanitize::find::Survey;
use crate::engine::guest::sanitize::{Found, operations};
use crate::engine::guest::tree::Guest;
use crate::engine::io::Device;

/// An undo file: what a sanitising removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Where.
    pub path: PathBuf,
    /// When it was made, as it says itself.
    pub made: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// The sanitising, or its undoing, was interrupted: the image is half done until it is taken back.
    pub half_done: bool,
}

/// What there is to choose from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outlook {
    /// What each operation of the table would find in the guest as it is, by itself.
    pub operations: Vec<(&'static str, Found)>,
    /// What an earlier sanitising of the image keeps.
    pub kept: Option<Kept>,
}

/// The undo file at `path`; `None` when there is none. A file that was never completed is removed: its image was not touched.
///
/// Errors: it is damaged, or something else.
pub fn kept(path: &Path) -> Result<Option<Kept>> {
    // Most images have none: ask for the name before anything is opened for writing.
    if !path.exists() {
        return Ok(None);
    }
    Ok(undo::Undo::open(path)?.map(|u| Kept {
        path: path.to_path_buf(),
        made: u.header.made.clone(),
        bytes: u.bytes(),
        half_done: u.state != undo::State::Done,
    }))
}

/// Looks at the guest with every operation, whatever `spec` selects. Nothing is written.
///
/// Errors: the image or its guest cannot be read.
pub fn outlook(spec: &SanitizeSpec) -> Result<Outlook> {
    let kept = kept(&spec.undo_path())?;
    let disk: Device = Arc::new(spec.chain()?.disk()?);
    let guest = Guest::open(&disk)?;
    let survey = Survey::new(&guest);
    // What one operation cannot tell says nothing of the others.
    let operations = operations::all().filter_map(|o| Some((o.id, (o.find)(&survey).ok()?))).collect();
    Ok(Outlook { operations, kept })
}
