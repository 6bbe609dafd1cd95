//! Delete: an image goes to the trash or for good, with every file it consists of. Images that stand on it are named, and it stays.
//!
//! The image file goes first: a crash in the middle leaves extents or a data file that nobody names, never an image without them.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::plan::{Plan, PlanFile, Undo};
use super::{Operation, Outcome, dependents, edit, trash};
use crate::engine::chain::{Chain, OpenOptions};
use crate::engine::error::{Context, Error, Result};
use crate::engine::format::Format;
use crate::engine::format::probe::{best, probe};
use crate::engine::io::ReadAt;
use crate::engine::io::file::{FileDevice, FileId};
use crate::engine::io::gate::Gate;
use crate::engine::job::{Claim, JobContext};

/// What to delete, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeleteSpec {
    /// The images. One that stands on another of them is no reason to keep that.
    pub images: Vec<PathBuf>,
    /// Where the home trash is (`$XDG_DATA_HOME/Trash`); `None` deletes for good.
    pub trash: Option<PathBuf>,
    /// Also when others stand on it.
    pub force: bool,
    /// Folders where those are looked for, besides the image's own.
    pub roots: Vec<PathBuf>,
}

/// An image about to go.
struct Doomed {
    /// The image file, then what it consists of besides.
    files: Vec<PathBuf>,
    bytes: u64,
    warnings: Vec<String>,
}

impl DeleteSpec {
    /// What it does, in a line.
    pub fn title(&self) -> String {
        let names: Vec<String> = self.images.iter().map(|i| i.display().to_string()).collect();
        match self.trash {
            Some(_) => format!("move {} to the trash", names.join(", ")),
            None => format!("delete {} for good", names.join(", ")),
        }
    }

    /// The arguments of the `cowshed` command that does the same.
    pub fn command(&self) -> Vec<String> {
        let mut out: Vec<String> = vec!["delete".into()];
        let flags = [(self.trash.is_none(), "--forever"), (self.force, "--force")];
        out.extend(flags.iter().filter(|f| f.0).map(|f| f.1.to_string()));
        out.extend(self.roots.iter().flat_map(|r| ["--library".to_string(), r.display().to_string()]));
        out.extend(self.images.iter().map(|i| i.display().to_string()));
        out
    }

    fn doomed(&self) -> Result<Vec<Doomed>> {
        let mut all = Vec::new();
        for image in &self.images {
            let one = files(image)?;
            one.files.iter().try_for_each(|f| edit::refuse_in_use(f))?;
            all.push(one);
        }
        Ok(all)
    }

    /// Who stands on the images and stays.
    fn bystanders(&self) -> Result<Vec<String>> {
        let ids: Vec<FileId> = self.images.iter().filter_map(|i| std::fs::metadata(i).ok().map(|m| FileId::of(&m))).collect();
        let mut warnings = Vec::new();
        for image in &self.images {
            // One that cannot be opened has no identity to be known by, but a name.
            let chain = Chain::open(image, &OpenOptions { gate: Some(Gate::closed()), ..OpenOptions::default() });
            let identity = chain.ok().and_then(|c| c.nodes.first().map(|n| n.description.identity.clone()));
            let others = dependents::others(image, &identity.unwrap_or_default(), &self.roots, &ids)?;
            warnings.extend(dependents::refuse("delete", image, &others, self.force)?);
            if !others.complete {
                warnings.push(format!("not all folders could be looked through for images that stand on {}", image.display()));
            }
        }
        Ok(warnings)
    }
}

/// The files of the image at `path`. A damaged one is its file alone. A file that it names and that is an image of its own is not its
/// to take along.
fn files(path: &Path) -> Result<Doomed> {
    let meta = std::fs::symlink_metadata(path).op("delete").path(path)?;
    if !meta.is_file() && !meta.is_symlink() {
        return Err(Error::usage("it is no file").op("delete").path(path));
    }
    let mut out = Doomed { files: vec![path.to_path_buf()], bytes: 0, warnings: Vec::new() };
    if meta.is_symlink() {
        out.warnings.push(format!("{} is a link: the link goes, the image stays", path.display()));
        return Ok(out);
    }
    out.bytes = FileDevice::open(path)?.allocated();
    let chain = match Chain::open(path, &OpenOptions { gate: Some(Gate::around(path)), ..OpenOptions::default() }) {
        Ok(chain) => chain,
        Err(e) => {
            out.warnings.push(format!("it cannot be opened as an image, so only the file itself goes: {e}"));
            return Ok(out);
        }
    };
    let Some(layer) = chain.layers.first() else { return Ok(out) };
    for dev in layer.files().iter().skip(1) {
        let Some(file) = dev.path().filter(|p| !out.files.iter().any(|f| f == p)) else { continue };
        let kind = best(&probe(dev.as_ref())?);
        if kind.entry().caps.sparse && kind != Format::Vmdk && kind != Format::Raw
            || dev.as_file().is_some_and(|f| f.is_block_device())
        {
            out.warnings.push(format!("{} is named by it, but is an image of its own ({kind}) and stays", file.display()));
            continue;
        }
        out.bytes += dev.allocated();
        out.files.push(file.to_path_buf());
    }
    Ok(out)
}

/// The operation of a [`DeleteSpec`].
pub struct Delete {
    spec: DeleteSpec,
}

impl Delete {
    /// Touches nothing yet.
    pub fn new(spec: DeleteSpec) -> Self {
        Delete { spec }
    }
}

impl Operation for Delete {
    fn claims(&self) -> Result<Vec<Claim>> {
        let doomed = self.spec.doomed()?;
        Ok(doomed.iter().flat_map(|d| &d.files).map(|f| Claim::write(f)).collect())
    }

    fn plan(&self) -> Result<Plan> {
        let spec = &self.spec;
        let doomed = spec.doomed()?;
        let mut plan = Plan { title: spec.title(), warnings: spec.bystanders()?, ..Plan::default() };
        for d in &doomed {
            let what = if spec.trash.is_some() { "moved to the trash" } else { "deleted" };
            plan.writes.extend(d.files.iter().map(|f| PlanFile { path: f.clone(), what: what.into() }));
            plan.warnings.extend(d.warnings.iter().cloned());
        }
        match &spec.trash {
            Some(_) => plan.undo = Undo::Possible("take it back out of the trash".into()),
            None => {
                plan.undo = Undo::Impossible("what is deleted for good is gone".into());
                plan.freed_bytes = doomed.iter().map(|d| d.bytes).sum();
            }
        }
        Ok(plan)
    }

    fn run(&self, _: &Plan, job: &JobContext) -> Result<Outcome> {
        let spec = &self.spec;
        spec.bystanders()?;
        let doomed = spec.doomed()?;
        job.finishing()?;
        let mut gone = 0;
        for file in doomed.iter().flat_map(|d| &d.files) {
            match &spec.trash {
                Some(home) => {
                    let to = trash::put(file, home)?;
                    job.log(format!("{} is in the trash as {}", file.display(), to.display()));
                }
                None => {
                    std::fs::remove_file(file).op("delete").path(file)?;
                    let folder = super::convert::folder(file);
                    File::open(&folder).and_then(|d| d.sync_all()).op("flush the folder").path(&folder)?;
                }
            }
            gone += 1;
        }
        let how = if spec.trash.is_some() { "in the trash" } else { "deleted" };
        Ok(Outcome { summary: format!("{gone} file(s) are {how}"), made: Vec::new() })
    }
}
