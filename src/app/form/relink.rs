//! The form of telling an overlay where the image it stands on is now: candidates of the library first, each with its evidence.

use std::path::{Path, PathBuf};

use super::Recipe;
use super::chain::{Bases, name};
use super::field::{Answers, Field};
use crate::app::model::Model;
use crate::engine::error::Result;
use crate::engine::format::{FORMATS, Format};
use crate::engine::library::Entry;
use crate::engine::ops::JobSpec;
use crate::engine::ops::relink::RelinkSpec;

/// No other format than the one that is recorded.
const RECORDED: &str = "(as recorded)";

/// Naming a base that was moved or renamed.
#[derive(Debug, Clone)]
pub struct RelinkForm {
    image: PathBuf,
    format: Option<Format>,
    bases: Bases,
    roots: Vec<PathBuf>,
}

impl RelinkForm {
    /// The form for `image`.
    pub fn new(m: &Model, image: &Path, roots: Vec<PathBuf>) -> Self {
        let format = m.library.data.at(image).and_then(Entry::format);
        RelinkForm { image: image.to_path_buf(), format, bases: Bases::of(m, image), roots }
    }
}

impl Recipe for RelinkForm {
    fn title(&self) -> String {
        format!("Relink {}", name(&self.image))
    }

    fn fields(&self, a: &Answers<'_>) -> Vec<Field> {
        let doc = "where what it stands on is now: only the reference changes; a relative path begins at its own folder";
        let mut out = self.bases.fields(a, &self.image, doc);
        let formats = FORMATS.iter().filter(|e| e.caps.read).map(|e| e.name.to_string());
        let words = std::iter::once(RECORDED.to_string()).chain(formats).collect();
        out.push(Field::choice(
            "base-format",
            "its format",
            "the format of the base, where the overlay has it wrong (-F)",
            words,
        ));
        let doc =
            "also when nothing says that it is the right one, or something says that it is not: the guest may see other bytes";
        out.push(Field::switch("force", "even so", doc, false));
        out
    }

    fn spec(&self, a: &Answers<'_>) -> Result<JobSpec> {
        let spec = RelinkSpec::new(&self.image, a.path("base").unwrap_or_default());
        let base_format = a.given("base-format").map(Format::parse).transpose()?;
        let (force, roots) = (a.on("force"), self.roots.clone());
        Ok(JobSpec::Relink(RelinkSpec { format: self.format, base_format, force, roots, ..spec }))
    }

    fn verb(&self) -> &'static str {
        "Relink"
    }
}
