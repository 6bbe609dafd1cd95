//! The form of a repair, or of its undo: nothing is asked, the plan is all there is.

use std::path::{Path, PathBuf};

use super::Recipe;
use super::field::{Answers, Field};
use crate::engine::error::Result;
use crate::engine::format::check::Repair;
use crate::engine::ops::JobSpec;
use crate::engine::ops::check::{RepairAction, RepairSpec};

/// A repair of an image.
#[derive(Debug, Clone)]
pub struct RepairForm {
    image: PathBuf,
    action: RepairAction,
}

impl RepairForm {
    /// The form for `image`.
    pub fn new(image: &Path, action: RepairAction) -> Self {
        RepairForm { image: image.to_path_buf(), action }
    }
}

impl Recipe for RepairForm {
    fn title(&self) -> String {
        let image = self.image.file_name().unwrap_or_default().to_string_lossy();
        match self.action {
            RepairAction::Mend(_) => format!("Repair {image}"),
            RepairAction::Undo => format!("Undo the repair of {image}"),
        }
    }

    fn fields(&self, _: &Answers<'_>) -> Vec<Field> {
        Vec::new()
    }

    fn spec(&self, _: &Answers<'_>) -> Result<JobSpec> {
        Ok(JobSpec::Repair(RepairSpec { action: self.action, ..RepairSpec::mend(&self.image, Repair::All) }))
    }

    fn verb(&self) -> &'static str {
        match self.action {
            RepairAction::Mend(_) => "Repair",
            RepairAction::Undo => "Undo",
        }
    }
}
