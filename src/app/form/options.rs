//! Fields made of the engine's table of formats: which formats there are to write, and each one's own options.

use std::path::{Path, PathBuf};

use super::field::{Answers, Field};
use crate::app::model::Model;
use crate::engine::error::Result;
use crate::engine::format::write::{CreateSpec, OptionKind};
use crate::engine::format::{FORMATS, Format};
use crate::engine::ops::rehearse;

/// Options that have fields of their own in every form.
const ELSEWHERE: [&str; 3] = ["backing_file", "backing_fmt", "size"];

/// The images of a folder, as far as the library knows them: for names that are free and formats that are known.
#[derive(Debug, Clone, Default)]
pub(super) struct Beside {
    pub(super) folder: PathBuf,
    images: Vec<(PathBuf, Option<Format>)>,
}

impl Beside {
    /// The images in `folder`.
    pub(super) fn of(m: &Model, folder: &Path) -> Self {
        let here = m.library.data.iter().filter(|e| e.folder() == folder);
        Beside { folder: folder.to_path_buf(), images: here.map(|e| (e.path.clone(), e.format())).collect() }
    }
    /// All images that are known; relative names begin at `folder`.
    pub(super) fn library(m: &Model, folder: &Path) -> Self {
        let all = m.library.data.iter().map(|e| (e.path.clone(), e.format()));
        Beside { folder: folder.to_path_buf(), images: all.collect() }
    }
    /// A name that no image known has: `stem.extension`, else numbered.
    pub(super) fn free(&self, stem: &str, format: Format) -> PathBuf {
        let ext = format.entry().extensions.first().copied().unwrap_or(format.name());
        let ext = if format == Format::Raw { "raw" } else { ext };
        let named = |n: u32| self.folder.join(if n == 0 { format!("{stem}.{ext}") } else { format!("{stem}.{n}.{ext}") });
        (0..1000).map(named).find(|p| self.images.iter().all(|(i, _)| i != p)).unwrap_or_else(|| named(0))
    }
    /// The format of an image here.
    pub(super) fn format(&self, path: &Path) -> Option<Format> {
        self.images.iter().find(|(p, _)| p == path).and_then(|(_, f)| *f)
    }
}

/// Names of all formats that can be made.
pub(super) fn writable() -> Vec<String> {
    FORMATS.iter().filter(|e| e.create.is_some()).map(|e| e.name.to_string()).collect()
}

/// The format chosen in field `id`, else `or`.
pub(super) fn chosen(a: &Answers<'_>, id: &str, or: Format) -> Format {
    Format::parse(a.text(id)).unwrap_or(or)
}

/// The fields for the file to stand on: its name, and its format as soon as there is a name.
pub(super) fn backing(a: &Answers<'_>, beside: &Beside, doc: &str, proposed: Option<&Path>) -> Vec<Field> {
    let name = Field::path("backing", "backing file", doc, &beside.folder, super::Role::Existing);
    let mut out = vec![match proposed {
        Some(path) => name.propose(path.to_string_lossy()),
        None => name,
    }];
    if !a.text("backing").is_empty() {
        let formats = FORMATS.iter().filter(|e| e.caps.read).map(|e| e.name.to_string()).collect();
        let known = a.path("backing").and_then(|p| beside.format(&p)).unwrap_or(Format::Qcow2);
        let doc = "it is recorded in the new image, so it must be right";
        out.push(Field::choice("backing-format", "its format", doc, formats).default(known.name()));
    }
    out
}

/// The fields of `format`'s own options, named as `qemu-img create -o` names them.
pub(super) fn fields(format: Format) -> Vec<Field> {
    let all = format.entry().options.iter().filter(|o| !ELSEWHERE.contains(&o.name));
    let mut out: Vec<Field> = all
        .map(|o| match o.kind {
            OptionKind::Switch => Field::switch(o.name, o.name, o.doc, o.default == "on"),
            OptionKind::Size => Field::size(o.name, o.name, o.doc).default(o.default),
            OptionKind::Number => Field::number(o.name, o.name, o.doc).default(o.default),
            OptionKind::Choice(words) => {
                Field::choice(o.name, o.name, o.doc, words.iter().map(ToString::to_string).collect()).default(o.default)
            }
            OptionKind::Text => Field::text(o.name, o.name, o.doc).default(o.default),
        })
        .collect();
    if let Some(first) = out.first_mut() {
        first.section = Some(format!("{format} options (-o)"));
    }
    out
}

/// Those of them that were given.
pub(super) fn given(a: &Answers<'_>, format: Format) -> Vec<(String, String)> {
    let all = format.entry().options.iter().filter(|o| !ELSEWHERE.contains(&o.name));
    all.filter_map(|o| Some((o.name.to_string(), a.given(o.name)?.to_string()))).collect()
}

/// What the format says is wrong with them, each beside its field.
pub(super) fn wrong(a: &Answers<'_>, format: Format) -> Vec<(&'static str, String)> {
    let specs = format.entry().options;
    let check = |o: &&crate::engine::format::write::OptionSpec| {
        let options = vec![(o.name.to_string(), a.given(o.name)?.to_string())];
        let spec = CreateSpec { options, ..CreateSpec::default() };
        spec.check(format, specs).err().map(|e| (o.name, e.why().to_string()))
    };
    let mut out: Vec<_> = specs.iter().filter_map(|o| check(&o)).collect();
    if out.is_empty()
        && let Err((culprit, e)) = rehearse::options(format, &given(a, format))
        && let Some(o) = specs.iter().find(|o| Some(o.name) == culprit.as_deref())
    {
        out.push((o.name, e.why().to_string()));
    }
    out
}

/// The format of the backing file, when one is given.
pub(super) fn backing_format(a: &Answers<'_>) -> Result<Option<Format>> {
    if a.text("backing").is_empty() { Ok(None) } else { Format::parse(a.text("backing-format")).map(Some) }
}
