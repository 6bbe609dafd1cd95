//! What can be told before anything is chosen: what each operation would find in a guest, and what an earlier sanitising keeps.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{SanitizeSpec, marker, undo};
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

/// The undo file at `path`; `None` when there is none, or none that was completed: then its image was not touched.
///
/// Errors: it is damaged, or something else.
pub fn kept(path: &Path) -> Result<Option<Kept>> {
    // Most images have none: ask for the name before anything is opened for writing.
    if !path.exists() {
        return Ok(None);
    }
    Ok(undo::Undo::open(path)?.map(|u| of(path.to_path_buf(), &u)))
}

/// What an earlier sanitising of the image at `path` keeps: beside it, or elsewhere while the image is half done.
///
/// Errors: as [`kept`].
pub fn kept_of(path: &Path) -> Result<Option<Kept>> {
    let Some(marker) = marker::of(path) else { return kept(&undo::beside(path)) };
    Ok(Some(match marker.open(path, None) {
        Ok((at, undo)) => of(at, &undo),
        Err(_) => Kept { path: marker.undo, made: marker.made, bytes: 0, half_done: true },
    }))
}

fn of(path: PathBuf, undo: &undo::Undo) -> Kept {
    let half_done = undo.state != undo::State::Done;
    Kept { path, made: undo.header.made.clone(), bytes: undo.bytes(), half_done }
}

/// Looks at the guest with every operation, whatever `spec` selects. Nothing is written.
///
/// Errors: the image or its guest cannot be read.
pub fn outlook(spec: &SanitizeSpec) -> Result<Outlook> {
    let kept = if spec.undo_file.is_some() { kept(&spec.undo_path())? } else { kept_of(&spec.image)? };
    let disk: Device = Arc::new(spec.chain()?.disk()?);
    let guest = Guest::open(&disk)?;
    let survey = Survey::new(&guest);
    // What one operation cannot tell says nothing of the others.
    let operations = operations::all().filter_map(|o| Some((o.id, (o.find)(&survey).ok()?))).collect();
    Ok(Outlook { operations, kept })
}
