//! Relink: the image that an overlay stands on was moved or renamed. It is looked at whether a file is the right one, and then only
//! the reference changes, in the format's own switch; content is not touched.

use std::path::{Component, Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::edit;
use super::plan::{Plan, PlanFile, Undo};
use super::{Operation, Outcome, backing};
use crate::engine::chain::{Chain, OpenOptions, check_identity};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::write::NewBacking;
use crate::engine::format::{Format, Image};
use crate::engine::io::file::FileId;
use crate::engine::io::gate::Gate;
use crate::engine::job::{Claim, JobContext};
use crate::engine::library::{Finder, Guess, Library, ScanOptions, scan};
use crate::engine::model::{BackingRef, ParentIdentity};

/// What to do, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RelinkSpec {
    /// The overlay.
    pub image: PathBuf,
    /// Its format; `None` probes.
    pub format: Option<Format>,
    /// Where what it stands on is now.
    pub base: PathBuf,
    /// The format of that; `None` is what the overlay has recorded.
    pub base_format: Option<Format>,
    /// Also when nothing says that it is the right one, or something says that it is not.
    pub force: bool,
    /// Folders whose files may be opened when an image names them, besides its own.
    pub roots: Vec<PathBuf>,
    /// Open whatever file an image names.
    pub follow: bool,
}

/// The overlay's reference, and what is to be recorded instead.
struct Link {
    image: std::sync::Arc<dyn Image>,
    backing: NewBacking,
    /// Why it is the right one.
    evidence: Vec<String>,
    /// What speaks against it, and was overruled.
    warnings: Vec<String>,
}

impl RelinkSpec {
    /// To the image at `base`.
    pub fn new(image: impl Into<PathBuf>, base: impl Into<PathBuf>) -> Self {
        RelinkSpec {
            image: image.into(),
            format: None,
            base: base.into(),
            base_format: None,
            force: false,
            roots: Vec::new(),
            follow: false,
        }
    }

    /// What it does, in a line.
    pub fn title(&self) -> String {
        format!("relink {} to {}", self.image.display(), self.base.display())
    }

    /// The arguments of the `cowshed` command that does the same.
    pub fn command(&self) -> Vec<String> {
        let mut out: Vec<String> = vec!["relink".into()];
        out.extend(self.format.iter().flat_map(|f| ["-f".to_string(), f.name().into()]));
        out.extend(self.base_format.iter().flat_map(|f| ["-F".to_string(), f.name().into()]));
        let flags = [(self.force, "--force"), (self.follow, "--follow")];
        out.extend(flags.iter().filter(|f| f.0).map(|f| f.1.to_string()));
        out.extend([self.image.display().to_string(), self.base.display().to_string()]);
        out
    }

    fn gate(&self) -> Gate {
        let gate = Gate::around(&self.image).allow(&super::convert::folder(&self.base));
        self.roots.iter().fold(gate, |g, r| g.allow(r)).follow(self.follow)
    }

    fn link(&self) -> Result<Link> {
        let (image, reference) = reference(&self.image, self.format, self.gate())?;
        let recorded = reference.format.as_deref().and_then(|f| Format::parse(f).ok());
        let spelled_absolute = reference.names.first().is_some_and(|n| n.starts_with('/'));
        let name = relative(&self.image, &self.base, spelled_absolute)?;
        let wanted = backing::Wanted {
            verb: "relink",
            target: &self.image,
            child: image.format(),
            name: &name,
            format: self.base_format.or(recorded),
            roots: &self.roots,
            follow: self.follow,
        };
        let (chain, backing) = wanted.open()?;
        let own = std::fs::metadata(&self.image).ok().map(|m| FileId::of(&m));
        if own.is_some() && chain.nodes.iter().any(|n| std::fs::metadata(&n.path).ok().map(|m| FileId::of(&m)) == own) {
            return Err(Error::new(ErrorKind::Loop, "it is, or stands on, the image itself").op("relink").path(&self.base));
        }
        let mut link = Link { image, backing, evidence: Vec::new(), warnings: Vec::new() };
        match self.judge(&reference, &link) {
            Ok(evidence) => link.evidence = evidence,
            Err(e) if self.force => link.warnings.push(format!("{} (overruled by --force)", e.why())),
            // Its own hint says to do what is being done here.
            Err(e) => {
                return Err(Error::new(e.kind(), e.why()).op("relink").path(&self.base).hint("--force relinks it all the same"));
            }
        }
        Ok(link)
    }

    /// Why the new base is the right one. Errors: it is not, or nothing says so.
    fn judge(&self, reference: &BackingRef, link: &Link) -> Result<Vec<String>> {
        check_identity(&reference.identity, &link.backing.identity, &self.base, &self.image)?;
        let mut out = Vec::new();
        if !matches!(reference.identity, ParentIdentity::Name | ParentIdentity::Mtime(_)) {
            out.push("it has the identity that is recorded".to_string());
        }
        let last = |n: &str| n.rsplit(['/', '\\']).next().unwrap_or(n).to_lowercase();
        let name = last(&self.base.to_string_lossy());
        if reference.names.iter().any(|n| last(n) == name) {
            out.push("it has the name that is recorded".to_string());
        }
        if link.backing.size == link.image.size() {
            out.push("it has the overlay's virtual size".to_string());
        }
        if out.is_empty() {
            return Err(Error::usage("nothing says that it is the right one: neither its name nor its size is what is recorded")
                .path(&self.base));
        }
        Ok(out)
    }
}

/// The image at `path` and its reference. What that leads to is not looked at.
fn reference(path: &Path, format: Option<Format>, gate: Gate) -> Result<(std::sync::Arc<dyn Image>, BackingRef)> {
    let chain = Chain::open(path, &OpenOptions { format, gate: Some(gate), ..OpenOptions::default() })?;
    let image = chain.layers.first().ok_or_else(|| Error::new(ErrorKind::Internal, "a chain without layers"))?.clone();
    match image.backing() {
        Some(reference) => Ok((image, reference)),
        None => Err(Error::usage("it stands on nothing").op("relink").path(path)),
    }
}

/// How the image at `from` names the file at `to`: from its own folder on, or from the root on.
pub(super) fn relative(from: &Path, to: &Path, absolute: bool) -> Result<String> {
    let real = std::fs::canonicalize(to).op("relink").path(to)?;
    let folder = std::fs::canonicalize(super::convert::folder(from)).op("relink").path(from)?;
    let path = if absolute {
        real
    } else {
        let parts =
            |p: &Path| p.components().filter(|c| matches!(c, Component::Normal(_))).map(|c| c.as_os_str().to_owned()).collect();
        let (a, b): (Vec<_>, Vec<_>) = (parts(&folder), parts(&real));
        let common = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
        let up = std::iter::repeat_n("..".into(), a.len() - common);
        up.chain(b.into_iter().skip(common)).collect::<PathBuf>()
    };
    path.to_str().map(str::to_string).ok_or_else(|| Error::usage("its name is no text that an image could record").path(to))
}

/// Images that may be what the one at `image` stands on, best first: looked for in its folder and below, and in `roots`.
pub fn candidates(image: &Path, format: Option<Format>, roots: &[PathBuf]) -> Result<Vec<Guess>> {
    let (_, reference) = reference(image, format, Gate::around(image))?;
    let real = std::fs::canonicalize(image).op("relink").path(image)?;
    let mut library = Library::new();
    let folders = std::iter::once(super::convert::folder(&real)).chain(roots.iter().cloned()).collect();
    scan(&ScanOptions { roots: folders, ..ScanOptions::default() }, &AtomicBool::new(false), |event| library.apply(event))?;
    library.relink();
    Ok(Finder::new(&library).guesses(&real, &reference))
}

/// The operation of a [`RelinkSpec`].
pub struct Relink {
    spec: RelinkSpec,
}

impl Relink {
    /// Touches nothing yet.
    pub fn new(spec: RelinkSpec) -> Self {
        Relink { spec }
    }
}

impl Operation for Relink {
    fn claims(&self) -> Result<Vec<Claim>> {
        Ok(vec![Claim::write(&self.spec.image), Claim::read(&self.spec.base)])
    }

    fn plan(&self) -> Result<Plan> {
        let spec = &self.spec;
        edit::refuse_in_use(&spec.image)?;
        let Link { image, backing, evidence, warnings } = spec.link()?;
        let what = format!("{} image, only its reference changes", image.format());
        Ok(Plan {
            title: spec.title(),
            reads: vec![PlanFile { path: spec.base.clone(), what: format!("{} image to stand on", backing.format) }],
            writes: vec![PlanFile { path: spec.image.clone(), what }],
            steps: evidence.into_iter().chain([format!("it is recorded as {}", backing.name)]).collect(),
            undo: Undo::Possible("relink it back".into()),
            warnings,
            ..Plan::default()
        })
    }

    fn run(&self, _: &Plan, job: &JobContext) -> Result<Outcome> {
        let spec = &self.spec;
        let top = edit::open_alone(&spec.image, spec.format, &spec.gate())?;
        let link = spec.link()?;
        job.finishing()?;
        top.writer.keep_identity();
        top.writer.set_backing(Some(&link.backing)).op("relink").path(&spec.image)?;
        Ok(Outcome { summary: format!("{} stands on {}", spec.image.display(), link.backing.name), made: Vec::new() })
    }
}
