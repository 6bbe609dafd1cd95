//! Sanitising: what it came to for each image, and what the last one of the image shown keeps.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::scroll::Scroll;
use crate::engine::error::Error;
use crate::engine::ops::sanitize::{Kept, Report};

/// What became of an image in this session.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// It was sanitised.
    Done(Arc<Report>),
    /// That was taken back.
    TakenBack,
}

/// State of the page of sanitising.
#[derive(Debug, Clone, Default)]
pub struct SanitizeState {
    /// The image.
    pub path: Option<PathBuf>,
    /// What became of each image.
    pub ends: HashMap<PathBuf, End>,
    /// The undo file of the image shown; `None` while it is looked for.
    pub kept: Option<Result<Option<Kept>, Error>>,
    /// Number of the last look for it.
    pub generation: u64,
    /// Window of the report.
    pub scroll: Scroll,
}

impl SanitizeState {
    /// What became of the image shown.
    pub fn end(&self) -> Option<&End> {
        self.ends.get(self.path.as_ref()?)
    }
    /// The undo file of the image shown, if it is known and there.
    pub fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()?.as_ref().ok()?.as_ref()
    }
}
