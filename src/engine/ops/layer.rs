//! Layers in the middle of a chain: one is taken out, or put in, and what a guest sees through those above stays.
//!
//! Removing: everything that stands on the layer is rebased, safely, onto what the layer stands on, one after the other; then the layer
//! is deleted. A crash in between leaves some of them rebased and the layer where it is: each of them whole, and the command can be
//! given again. Inserting: a new, empty overlay on the image's base is made and durable; then the image names it. A crash in between
//! leaves a file that nobody uses.

use std::path::{Path, PathBuf};

use super::create::{Create, ImageSpec};
use super::delete::{Delete, DeleteSpec};
use super::plan::{Plan, PlanFile, Undo};
use super::rebase::{Rebase, RebaseSpec};
use super::relink::relative;
use super::{Operation, Outcome, dependents, edit};
use crate::engine::chain::{Chain, OpenOptions};
use crate::engine::error::{Context, Error, Result};
use crate::engine::format::Format;
use crate::engine::io::gate::Gate;
use crate::engine::job::{Claim, JobContext};

/// What to do with a layer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerAction {
    /// Take it out: what it holds goes up into each image that stands on it, and its file is deleted.
    Remove {
        /// The home trash; `None` deletes for good.
        trash: Option<PathBuf>,
    },
    /// Make a new layer between it and what it stands on.
    Insert {
        /// The file of the new layer.
        new: PathBuf,
    },
}

/// What to do, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LayerSpec {
    /// The layer.
    pub image: PathBuf,
    /// What to do with it.
    pub action: LayerAction,
    /// Folders whose files may be opened when an image names them, and where those that stand on the layer are looked for.
    pub roots: Vec<PathBuf>,
}

impl LayerSpec {
    /// What it does, in a line.
    pub fn title(&self) -> String {
        match &self.action {
            LayerAction::Remove { .. } => format!("take {} out of its chain", self.image.display()),
            LayerAction::Insert { new } => format!("put {} below {}", new.display(), self.image.display()),
        }
    }

    /// The arguments of the `cowshed` command that does the same.
    pub fn command(&self) -> Vec<String> {
        let mut out: Vec<String> = vec!["chain".into()];
        match &self.action {
            LayerAction::Remove { trash } => {
                out.push("remove".into());
                out.extend(trash.is_none().then(|| "--forever".to_string()));
                out.extend(self.roots.iter().flat_map(|r| ["--library".to_string(), r.display().to_string()]));
                out.push(self.image.display().to_string());
            }
            LayerAction::Insert { new } => {
                out.extend(["insert".into(), new.display().to_string(), self.image.display().to_string()]);
            }
        }
        out
    }

    fn open(&self) -> Result<Chain> {
        let gate = self.roots.iter().fold(Gate::around(&self.image), |g, r| g.allow(r));
        let chain = Chain::open(&self.image, &OpenOptions { gate: Some(gate), ..OpenOptions::default() })?;
        chain.disk()?;
        Ok(chain)
    }

    /// How the image at `child` is to name what the layer stands on, and the format of that.
    fn base_for(&self, chain: &Chain, child: &Path) -> Result<Option<(String, Format)>> {
        let (Some(node), Some(layer)) = (chain.nodes.get(1), chain.layers.get(1)) else { return Ok(None) };
        let absolute = node.spelled.as_deref().is_some_and(|s| s.starts_with('/'));
        Ok(Some((relative(child, &node.path, absolute)?, layer.format())))
    }

    /// The rebases that take the layer out.
    fn rebases(&self, chain: &Chain) -> Result<Vec<RebaseSpec>> {
        let identity = chain.nodes.first().map(|n| n.description.identity.clone()).unwrap_or_default();
        let found = dependents::of(&self.image, &identity, &self.roots)?;
        if found.all.is_empty() {
            return Err(Error::usage("nothing that was found stands on it")
                .op("chain remove")
                .path(&self.image)
                .hint("commit writes it into what it stands on; delete removes it; --library looks in further folders"));
        }
        if !found.complete {
            return Err(Error::usage("there are too many files to be sure that all that stand on it were found")
                .op("chain remove")
                .path(&self.image));
        }
        let folder = super::convert::folder(&self.image);
        let rebase = |child: &dependents::Dependent| {
            let base = self.base_for(chain, &child.path)?;
            let mut spec = RebaseSpec::new(&child.path, base.as_ref().map(|(name, _)| name.clone()));
            spec.format = Some(child.format);
            spec.base_format = base.map(|(_, format)| format);
            spec.roots = self.roots.iter().cloned().chain([folder.clone()]).collect();
            Ok(spec)
        };
        found.all.iter().map(rebase).collect()
    }

    /// The new layer, and what the image names then.
    fn insertion(&self, chain: &Chain, new: &Path) -> Result<(ImageSpec, RebaseSpec)> {
        let (Some(top), Some((name, format))) = (chain.layers.first(), self.base_for(chain, new)?) else {
            return Err(Error::usage("it stands on nothing; create -b makes an overlay on it")
                .op("chain insert")
                .path(&self.image));
        };
        if new.exists() {
            return Err(Error::usage("there is such a file already").op("chain insert").path(new));
        }
        let base = chain.layers.get(1).map(|l| l.size());
        let mut layer = ImageSpec::new(new, top.format(), base);
        layer.backing = Some(name);
        layer.backing_format = Some(format);
        layer.roots = self.roots.iter().cloned().chain([super::convert::folder(&self.image)]).collect();
        if let (Format::Qcow2, Some(cluster)) = (top.format(), top.describe().cluster_size) {
            layer.options.push(("cluster_size".into(), cluster.to_string()));
        }
        let mut above = RebaseSpec::new(&self.image, None);
        above.unchecked = true;
        above.format = Some(top.format());
        above.base_format = Some(top.format());
        above.roots = layer.roots.clone();
        Ok((layer, above))
    }
}

/// The operation of a [`LayerSpec`].
pub struct Layer {
    spec: LayerSpec,
}

impl Layer {
    /// Touches nothing yet.
    pub fn new(spec: LayerSpec) -> Self {
        Layer { spec }
    }

    /// Whether the image still names what it named when `chain` was opened. False where that cannot be told.
    fn stands_as_before(&self, chain: &Chain) -> bool {
        let now = self.spec.open().ok();
        let base = |chain: &Chain| chain.nodes.get(1).map(|n| n.path.clone());
        now.is_some_and(|now| base(&now).is_some() && base(&now) == base(chain))
    }

    fn delete(&self, trash: Option<&PathBuf>) -> Delete {
        Delete::new(DeleteSpec {
            images: vec![self.spec.image.clone()],
            trash: trash.cloned(),
            force: false,
            roots: self.spec.roots.clone(),
        })
    }
}

impl Operation for Layer {
    fn claims(&self) -> Result<Vec<Claim>> {
        let chain = self.spec.open()?;
        let mut claims = vec![Claim::write(&self.spec.image)];
        claims.extend(chain.nodes.iter().skip(1).map(|n| Claim::read(&n.path)));
        match &self.spec.action {
            LayerAction::Remove { .. } => claims.extend(self.spec.rebases(&chain)?.iter().map(|r| Claim::write(&r.image))),
            LayerAction::Insert { new } => claims.push(Claim::write(new)),
        }
        Ok(claims)
    }

    fn plan(&self) -> Result<Plan> {
        let spec = &self.spec;
        let chain = spec.open()?;
        edit::refuse_in_use(&spec.image)?;
        let mut plan = Plan { title: spec.title(), ..Plan::default() };
        match &spec.action {
            LayerAction::Insert { new } => {
                let (layer, _) = spec.insertion(&chain, new)?;
                plan.writes.push(PlanFile { path: new.clone(), what: format!("new, empty {} image", layer.format) });
                plan.writes.push(PlanFile { path: spec.image.clone(), what: "names the new one as its backing file".into() });
                plan.undo = Undo::Possible(format!("chain remove {}", new.display()));
            }
            LayerAction::Remove { trash } => {
                for rebase in spec.rebases(&chain)? {
                    let one = Rebase::new(rebase.clone()).plan()?;
                    let onto = rebase.base.clone().unwrap_or_else(|| "nothing".into());
                    plan.steps
                        .push(format!("{} is rebased onto {onto}: what the layer holds goes into it", rebase.image.display()));
                    plan.writes.extend(one.writes);
                    plan.warnings.extend(one.warnings);
                    plan.read_bytes += one.read_bytes;
                    plan.write_bytes.likely += one.write_bytes.likely;
                    plan.write_bytes.worst += one.write_bytes.worst;
                    plan.space = one.space;
                }
                if let Some(space) = &mut plan.space {
                    space.needed = plan.write_bytes;
                }
                let how = if trash.is_some() { "goes to the trash" } else { "is deleted" };
                plan.steps.push(format!("{} {how}", spec.image.display()));
                plan.undo = Undo::Impossible("those that stood on it hold its data themselves then".into());
            }
        }
        Ok(plan)
    }

    fn run(&self, plan: &Plan, job: &JobContext) -> Result<Outcome> {
        let spec = &self.spec;
        let chain = spec.open()?;
        match &spec.action {
            LayerAction::Insert { new } => {
                let (layer, mut above) = spec.insertion(&chain, new)?;
                job.finishing()?;
                let create = Create::new(layer);
                create.run(&create.plan()?, &JobContext::detached())?;
                let absolute = chain.nodes.get(1).and_then(|n| n.spelled.as_deref()).is_some_and(|s| s.starts_with('/'));
                above.base = Some(relative(&spec.image, new, absolute)?);
                let named = Rebase::new(above).perform(&Plan::default(), &JobContext::detached());
                if let Err(e) = named {
                    // Where nobody names it, it goes: it holds nothing. After a flush that failed the image may name it already.
                    if self.stands_as_before(&chain) {
                        let _ = std::fs::remove_file(new);
                        return Err(e);
                    }
                    let why = format!("{}; the image may stand on {} already, which stays", e.why(), new.display());
                    return Err(Error::new(e.kind(), why)
                        .op("chain insert")
                        .path(&spec.image)
                        .hint("it holds nothing; chain remove takes it out again"));
                }
                Ok(Outcome { summary: format!("{} stands on {}", spec.image.display(), new.display()), made: vec![new.clone()] })
            }
            LayerAction::Remove { trash } => {
                job.progress.set_total(plan.read_bytes.max(1));
                let rebases = spec.rebases(&chain)?;
                // All of them can be written, before the first one is.
                rebases.iter().try_for_each(|r| edit::refuse_in_use(&r.image))?;
                for rebase in rebases {
                    Rebase::new(rebase).perform(plan, job)?;
                }
                job.finishing()?;
                let delete = self.delete(trash.as_ref());
                let done = delete.run(&Plan::default(), &JobContext::detached()).op("delete the layer").path(&spec.image)?;
                Ok(Outcome {
                    summary: format!("{} is out of its chain; {}", spec.image.display(), done.summary),
                    made: Vec::new(),
                })
            }
        }
    }
}
