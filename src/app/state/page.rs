//! An image's page: what was read of it, and what has the focus.

use std::path::PathBuf;
use std::sync::Arc;

use super::scroll::Scroll;
use crate::app::worker::image::PageData;
use crate::engine::error::Error;
use crate::engine::extents::Cells;

/// State of an image's page.
#[derive(Debug, Clone, Default)]
pub struct PageState {
    /// The image; `None` before one was opened.
    pub path: Option<PathBuf>,
    /// Number of the request that is waited for or was answered last.
    pub generation: u64,
    /// What was read; `None` while it loads.
    pub data: Option<Result<Arc<PageData>, Error>>,
    /// The whole disk in cells, with each layer's share in their sum; `None` while it is counted.
    pub shares: Option<Result<Arc<Cells>, Error>>,
    /// The facts.
    pub facts: Scroll,
    /// The chain.
    pub chain: Scroll,
    /// The snapshots.
    pub snapshots: Scroll,
    /// Pages that Enter on a layer led away from: Esc goes back to them.
    pub trail: Vec<PathBuf>,
}

impl PageState {
    /// What was read, if it was.
    pub fn loaded(&self) -> Option<&PageData> {
        self.data.as_ref()?.as_ref().ok().map(Arc::as_ref)
    }
}
