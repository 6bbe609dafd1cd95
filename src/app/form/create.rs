//! The form of a new image: empty by itself, or an overlay on another.

use std::path::{Path, PathBuf};

use super::Recipe;
use super::field::{Answers, Field, Role};
use super::options::{self, Beside};
use crate::app::model::Model;
use crate::engine::error::Result;
use crate::engine::format::Format;
use crate::engine::ops::JobSpec;
use crate::engine::ops::create::ImageSpec;
use crate::engine::units::{binary, parse_size};

/// What is known when the form is opened.
#[derive(Debug, Clone)]
pub struct CreateForm {
    /// The image it is to stand on, with its virtual size: then the form makes an overlay.
    below: Option<(PathBuf, Option<u64>)>,
    beside: Beside,
    roots: Vec<PathBuf>,
}

impl CreateForm {
    /// A form for a new image in `folder`.
    pub fn new(m: &Model, folder: &Path, roots: Vec<PathBuf>) -> Self {
        CreateForm { below: None, beside: Beside::of(m, folder), roots }
    }
    /// A form for an overlay on `base`.
    pub fn overlay(m: &Model, base: &Path, roots: Vec<PathBuf>) -> Self {
        let size = m.library.data.at(base).and_then(|e| e.virtual_size());
        let folder = base.parent().unwrap_or(Path::new("."));
        CreateForm { below: Some((base.to_path_buf(), size)), ..CreateForm::new(m, folder, roots) }
    }

    fn format(a: &Answers<'_>) -> Format {
        options::chosen(a, "format", Format::Qcow2)
    }
    /// The name of the image below as it is recorded: relative, so that both can be moved together.
    fn below_name(&self) -> Option<&Path> {
        self.below.as_ref().and_then(|(p, _)| p.file_name()).map(Path::new)
    }
}

impl Recipe for CreateForm {
    fn title(&self) -> String {
        match self.below_name() {
            Some(name) => format!("New overlay on {}", name.display()),
            None => "New image".into(),
        }
    }

    fn fields(&self, a: &Answers<'_>) -> Vec<Field> {
        let format = Self::format(a);
        let stem =
            self.below_name().and_then(Path::file_stem).map_or("disk".into(), |s| format!("{}-overlay", s.to_string_lossy()));
        let mut out = vec![
            Field::choice("format", "format", format.entry().title, options::writable()).default(Format::Qcow2.name()),
            Field::path(
                "target",
                "make",
                "the new image; a relative path is below the folder of the library",
                &self.beside.folder,
                Role::New(self.below.iter().map(|(p, _)| p.clone()).collect()),
            )
            .propose(self.beside.free(&stem, format).to_string_lossy())
            .required(),
        ];
        if format.entry().caps.backing {
            let doc = "what is not written yet is read from this file, which is never written (-b)";
            out.extend(options::backing(a, &self.beside, doc, self.below_name()));
        }
        let stands = !a.text("backing").is_empty() && format.entry().caps.backing;
        let size = Field::size("size", "size", "what the guest sees, such as 20G");
        out.push(match (&self.below, stands) {
            (Some((_, Some(bytes))), true) => size.default(binary(*bytes).replace(' ', "")),
            (_, true) => Field { doc: "what the guest sees; left empty it is that of the backing file".into(), ..size },
            _ => size.required(),
        });
        out.extend(options::fields(format));
        out
    }

    fn wrong(&self, a: &Answers<'_>) -> Vec<(&'static str, String)> {
        let mut out = options::wrong(a, Self::format(a));
        if parse_size(a.text("size")).is_ok_and(|s| s == 0) {
            out.push(("size", "a disk of nothing is of no use".into()));
        }
        out
    }

    fn spec(&self, a: &Answers<'_>) -> Result<JobSpec> {
        let format = Self::format(a);
        let mut spec = ImageSpec::new(a.path("target").unwrap_or_default(), format, a.size("size")?);
        spec.options = options::given(a, format);
        spec.backing = Some(a.text("backing")).filter(|b| !b.is_empty()).map(str::to_string);
        spec.backing_format = options::backing_format(a)?;
        spec.roots.clone_from(&self.roots);
        Ok(JobSpec::Create(spec))
    }

    fn verb(&self) -> &'static str {
        "Make it"
    }
}
