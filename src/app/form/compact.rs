//! The form of giving space back to the host: its plan says what there is to give.

use std::path::{Path, PathBuf};

use super::Recipe;
use super::chain::name;
use super::field::{Answers, Field};
use crate::app::model::Model;
use crate::engine::error::Result;
use crate::engine::format::Format;
use crate::engine::library::Entry;
use crate::engine::ops::JobSpec;
use crate::engine::ops::compact::CompactSpec;

const FREE_SPACE: &str = "free-space";
const COPY: &str = "copy";

/// Compacting an image.
#[derive(Debug, Clone)]
pub struct CompactForm {
    image: PathBuf,
    format: Option<Format>,
}

impl CompactForm {
    /// The form for `image`.
    pub fn new(m: &Model, image: &Path) -> Self {
        CompactForm { image: image.to_path_buf(), format: m.library.data.at(image).and_then(Entry::format) }
    }
}

impl Recipe for CompactForm {
    fn title(&self) -> String {
        format!("Compact {}", name(&self.image))
    }

    fn fields(&self, _: &Answers<'_>) -> Vec<Field> {
        vec![
            Field::switch(FREE_SPACE, "Free space", "also what its filesystems call free; it reads as zeros afterwards", false),
            Field::switch(
                COPY,
                "By copy",
                "in a copy, which takes the image's name when it is complete; needs room for both",
                false,
            ),
        ]
    }

    fn spec(&self, a: &Answers<'_>) -> Result<JobSpec> {
        let (free_space, copy) = (a.on(FREE_SPACE), a.on(COPY));
        Ok(JobSpec::Compact(CompactSpec { format: self.format, free_space, copy, ..CompactSpec::new(&self.image) }))
    }

    fn verb(&self) -> &'static str {
        "Compact"
    }
}
