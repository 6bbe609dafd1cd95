//! The format guide: which format is looked at.

use super::scroll::Scroll;

/// State of the format guide.
#[derive(Debug, Clone, Default)]
pub struct GuideState {
    /// Cursor in the list of formats, in the order of the engine's table.
    pub list: Scroll,
    /// Scroll of the text.
    pub text: Scroll,
}
