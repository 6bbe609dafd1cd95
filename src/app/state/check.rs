//! Checks: what each found last, and the report that is shown.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::scroll::Scroll;
use crate::engine::format::check::Severity;
use crate::engine::library::Entry;
use crate::engine::ops::checking::Checked;

/// State of the check page.
#[derive(Debug, Clone, Default)]
pub struct CheckState {
    /// The image.
    pub path: Option<PathBuf>,
    /// What the last check of each image found.
    pub found: HashMap<PathBuf, Arc<Checked>>,
    /// Why the last check of the image shown did not come to an end.
    pub failed: Option<String>,
    /// Window of the report.
    pub scroll: Scroll,
}

impl CheckState {
    /// What the last check of the image shown found, though it may have changed since.
    pub fn shown(&self) -> Option<&Arc<Checked>> {
        self.found.get(self.path.as_ref()?)
    }
    /// What is known of an image as it is now: the last check, if nothing was written since.
    pub fn of(&self, entry: &Entry) -> Option<&Checked> {
        let checked = self.found.get(&entry.path)?;
        let (then, now) = (checked.stamp, entry.stamp);
        // The library may not have seen yet what was checked: only what it saw later counts against it.
        let since = now.ctime_ns > then.ctime_ns && (now.mtime_ns, now.len) != (then.mtime_ns, then.len);
        (!since).then_some(checked.as_ref())
    }
}

/// The worst of a report; `None` when nothing is wrong.
pub fn worst(checked: &Checked) -> Option<Severity> {
    let all = [Severity::Corruption, Severity::Unchecked, Severity::Leak];
    all.into_iter().find(|s| checked.report.count(*s) > 0)
}
