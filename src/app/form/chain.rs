//! The forms that change a chain: flatten, rebase, commit, delete; and which bases an overlay may have.

use std::path::{Path, PathBuf};

use super::Recipe;
use super::field::{Answers, Field, Role};
use super::options::Beside;
use crate::app::model::Model;
use crate::engine::error::Result;
use crate::engine::format::{FORMATS, Format};
use crate::engine::library::{Entry, Link};
use crate::engine::limits::MAX_CHAIN;
use crate::engine::ops::JobSpec;
use crate::engine::ops::commit::CommitSpec;
use crate::engine::ops::delete::DeleteSpec;
use crate::engine::ops::rebase::RebaseSpec;
use crate::engine::units::parse_size;

/// The file name of `path`.
pub(super) fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// How `image` is to name `base`: by the file name where both are in one folder, so that they can be moved together.
fn recorded(image: &Path, base: &Path) -> String {
    if image.parent() == base.parent() { name(base) } else { base.to_string_lossy().into_owned() }
}

/// Making an overlay stand alone.
#[derive(Debug, Clone)]
pub struct FlattenForm {
    image: PathBuf,
    format: Option<Format>,
    roots: Vec<PathBuf>,
}

impl FlattenForm {
    /// The form for `image`.
    pub fn new(m: &Model, image: &Path, roots: Vec<PathBuf>) -> Self {
        FlattenForm { image: image.to_path_buf(), format: m.library.data.at(image).and_then(Entry::format), roots }
    }
}

impl Recipe for FlattenForm {
    fn title(&self) -> String {
        format!("Flatten {}", name(&self.image))
    }

    fn fields(&self, _: &Answers<'_>) -> Vec<Field> {
        if self.format.is_none_or(|f| !f.entry().caps.compression) {
            return Vec::new();
        }
        vec![Field::switch("compress", "compressed", "store what is copied into it compressed (-c)", false)]
    }

    fn spec(&self, a: &Answers<'_>) -> Result<JobSpec> {
        let spec = RebaseSpec::new(&self.image, None);
        Ok(JobSpec::Rebase(RebaseSpec { format: self.format, compress: a.on("compress"), roots: self.roots.clone(), ..spec }))
    }

    fn verb(&self) -> &'static str {
        "Flatten"
    }
}

/// The word for a base that is typed.
const OTHER: &str = "another file";

/// Where what an overlay stands on is, or may be.
#[derive(Debug, Clone)]
pub(super) struct Bases {
    /// It is not where the overlay says.
    pub(super) lost: bool,
    /// Names to record with the evidence, best first; of a base that is there, itself.
    candidates: Vec<(String, String)>,
}

impl Bases {
    /// Of the overlay at `image`, as the library knows.
    pub(super) fn of(m: &Model, image: &Path) -> Self {
        let lib = &m.library.data;
        let link = lib.at(image).and_then(|e| e.backing.as_ref()).map(|b| &b.link);
        let candidates = match link {
            Some(Link::Missing(_, found)) => found
                .iter()
                .filter_map(|c| {
                    let sure = if c.proven { "proven: " } else { "perhaps: " };
                    Some((recorded(image, &lib.get(c.id)?.path), format!("{sure}{}", c.evidence.join(", "))))
                })
                .collect(),
            Some(link) => {
                let base = link.entry().and_then(|id| lib.get(id));
                base.map(|e| (recorded(image, &e.path), String::new())).into_iter().collect()
            }
            None => Vec::new(),
        };
        Bases { lost: matches!(link, Some(Link::Missing(..))), candidates }
    }

    /// The fields that ask for one: the candidates for a lost one, and the file, `doc` saying what it is for.
    pub(super) fn fields(&self, a: &Answers<'_>, image: &Path, doc: &str) -> Vec<Field> {
        let folder = image.parent().unwrap_or(Path::new("."));
        let mut out = Vec::new();
        let picked = a.text("candidate");
        let first = self.candidates.first().map_or("", |c| c.0.as_str());
        if self.lost && !self.candidates.is_empty() {
            let words = self.candidates.iter().map(|c| c.0.clone()).chain([OTHER.to_string()]).collect();
            let at = if picked.is_empty() { first } else { picked };
            let evidence = self.candidates.iter().find(|c| c.0 == at).map_or("type it below", |c| c.1.as_str());
            out.push(Field::choice("candidate", "candidate", evidence.to_string(), words));
        }
        let proposed = if picked.is_empty() { first } else { picked };
        let field = Field::path("base", "base", doc, folder, Role::Existing).required();
        out.push(if proposed == OTHER { field } else { field.propose(proposed) });
        out
    }
}

/// Putting an overlay on another base, or telling it where its own went.
#[derive(Debug, Clone)]
pub struct RebaseForm {
    image: PathBuf,
    format: Option<Format>,
    bases: Bases,
    /// The base it names now, with the format it records for it.
    now: Option<(PathBuf, Format)>,
    known: Beside,
    roots: Vec<PathBuf>,
}

/// The format of the base is not said.
const UNSAID: &str = "(not given)";

impl RebaseForm {
    /// The form for `image`: of a missing base the library's candidates are offered.
    pub fn new(m: &Model, image: &Path, roots: Vec<PathBuf>) -> Self {
        let entry = m.library.data.at(image);
        let now = entry.and_then(|e| e.backing.as_ref()).and_then(|b| {
            let base = b.link.entry().and_then(|id| m.library.data.get(id))?;
            Some((base.path.clone(), Format::parse(b.format.as_deref()?).ok()?))
        });
        let known = Beside::library(m, image.parent().unwrap_or(Path::new(".")));
        let format = entry.and_then(Entry::format);
        RebaseForm { image: image.to_path_buf(), format, bases: Bases::of(m, image), now, known, roots }
    }

    /// The format of the base that is answered, where it is known: as it is recorded now, else as the library has it.
    fn base_format(&self, a: &Answers<'_>) -> Option<Format> {
        let path = a.path("base")?;
        match &self.now {
            Some((now, format)) if *now == path => Some(*format),
            _ => self.known.format(&path),
        }
    }
}

impl Recipe for RebaseForm {
    fn title(&self) -> String {
        let verb = if self.bases.lost { "Find the base of" } else { "Rebase" };
        format!("{verb} {}", name(&self.image))
    }

    fn fields(&self, a: &Answers<'_>) -> Vec<Field> {
        let doc = if self.bases.lost {
            "where its base is now: only the name in it changes"
        } else {
            "what it is to stand on: the guest sees the same as before; a relative path begins at its own folder (-b)"
        };
        let mut out = self.bases.fields(a, &self.image, doc);
        // Only these record it; of the others' bases there is one format.
        if matches!(self.format, Some(Format::Qcow2 | Format::Qcow)) {
            let formats = FORMATS.iter().filter(|e| e.caps.read).map(|e| e.name.to_string());
            let words = std::iter::once(UNSAID.to_string()).chain(formats).collect();
            let doc = "the format of that file: it is recorded in the overlay, so it must be right (-F)";
            let field = Field::choice("base-format", "its format", doc, words);
            out.push(match self.base_format(a) {
                Some(format) => field.propose(format.name()),
                None => field,
            });
        }
        let doc = "only change the name of the base and look at no content (-u): right when it merely moved, else the guest sees other bytes";
        out.push(Field::switch("unchecked", "name only", doc, self.bases.lost));
        let doc = "read bases although another process is writing to them: what is copied may be stale (-U)";
        out.push(Field::switch("share", "though in use", doc, false));
        out
    }

    fn spec(&self, a: &Answers<'_>) -> Result<JobSpec> {
        let spec = RebaseSpec::new(&self.image, Some(a.text("base").to_string()));
        let (unchecked, force_share) = (a.on("unchecked"), a.on("share"));
        let base_format = a.given("base-format").map(Format::parse).transpose()?;
        let roots = self.roots.clone();
        Ok(JobSpec::Rebase(RebaseSpec { format: self.format, base_format, unchecked, force_share, roots, ..spec }))
    }

    fn verb(&self) -> &'static str {
        if self.bases.lost { "Write the name" } else { "Rebase" }
    }
}

/// Writing an overlay into what it stands on.
#[derive(Debug, Clone)]
pub struct CommitForm {
    image: PathBuf,
    format: Option<Format>,
    /// What it stands on, the nearest first.
    below: Vec<PathBuf>,
    roots: Vec<PathBuf>,
}

impl CommitForm {
    /// The form for `image`.
    pub fn new(m: &Model, image: &Path, roots: Vec<PathBuf>) -> Self {
        let lib = &m.library.data;
        let mut below: Vec<PathBuf> = Vec::new();
        let mut at = lib.at(image);
        let format = at.and_then(Entry::format);
        while let Some(e) = at.filter(|_| below.len() < MAX_CHAIN) {
            at = match e.backing.as_ref().map(|b| &b.link) {
                Some(Link::Entry(id)) => lib.get(*id),
                _ => None,
            };
            below.extend(at.map(|e| e.path.clone()));
        }
        CommitForm { image: image.to_path_buf(), format, below, roots }
    }
}

impl Recipe for CommitForm {
    fn title(&self) -> String {
        format!("Commit {}", name(&self.image))
    }

    fn fields(&self, a: &Answers<'_>) -> Vec<Field> {
        let mut out = Vec::new();
        if self.below.len() > 1 {
            let words = self.below.iter().map(|p| p.to_string_lossy().into_owned()).collect();
            out.push(Field::choice("into", "write into", "which image below takes what it holds (-b)", words));
        }
        if self.below.first().is_none_or(|p| a.text("into").is_empty() || a.text("into") == p.to_string_lossy()) {
            let doc = "leave what it holds in it (-d); else it is emptied, and gives its space back";
            out.push(Field::switch("keep", "keep", doc, false));
        }
        out.push(Field::size("rate", "rate limit", "bytes per second at most, such as 50M; without it as fast as it goes (-r)"));
        out
    }

    fn wrong(&self, a: &Answers<'_>) -> Vec<(&'static str, String)> {
        let none = parse_size(a.text("rate")).is_ok_and(|r| r == 0);
        if none { vec![("rate", "nothing would ever be copied; leave it empty for no limit".into())] } else { Vec::new() }
    }

    fn spec(&self, a: &Answers<'_>) -> Result<JobSpec> {
        let spec = CommitSpec::new(&self.image);
        let base = a.given("into").map(PathBuf::from);
        let (keep, rate, roots) = (a.on("keep"), a.size("rate")?, self.roots.clone());
        Ok(JobSpec::Commit(CommitSpec { format: self.format, base, keep, rate, roots, ..spec }))
    }

    fn verb(&self) -> &'static str {
        "Commit"
    }
}

/// Deleting an image.
#[derive(Debug, Clone)]
pub struct DeleteForm {
    image: PathBuf,
    /// Where the trash is, if there is one.
    trash: Option<PathBuf>,
    roots: Vec<PathBuf>,
}

impl DeleteForm {
    /// The form for `image`.
    pub fn new(m: &Model, image: &Path, roots: Vec<PathBuf>) -> Self {
        DeleteForm { image: image.to_path_buf(), trash: m.trash.clone(), roots }
    }
}

impl Recipe for DeleteForm {
    fn title(&self) -> String {
        format!("Delete {}", name(&self.image))
    }

    fn fields(&self, _: &Answers<'_>) -> Vec<Field> {
        if self.trash.is_none() {
            return Vec::new();
        }
        let words = ["to the trash", "for good"].map(str::to_string).to_vec();
        let doc =
            "from the trash it can be taken back, and its space comes back when that is emptied; for good there is no way back";
        vec![Field::choice("how", "delete", doc, words)]
    }

    fn spec(&self, a: &Answers<'_>) -> Result<JobSpec> {
        let trash = self.trash.clone().filter(|_| a.text("how") != "for good");
        Ok(JobSpec::Delete(DeleteSpec { images: vec![self.image.clone()], trash, force: false, roots: self.roots.clone() }))
    }

    fn verb(&self) -> &'static str {
        "Delete"
    }
}
