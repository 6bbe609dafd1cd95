//! Bitmap: the dirty bitmaps an image keeps, added, removed, cleared, switched and merged.

use std::path::PathBuf;
use std::sync::Arc;

use super::plan::{Plan, PlanFile, Undo};
use super::{Operation, Outcome, edit, rehearse};
use crate::engine::error::{Context, Error, Result};
use crate::engine::format::probe::{best, probe};
use crate::engine::format::qcow2::edit::{BitSet, Editor, Step};
use crate::engine::format::{Format, Source};
use crate::engine::io::file::FileDevice;
use crate::engine::io::gate::Gate;
use crate::engine::io::locks::{LockMode, lock};
use crate::engine::io::{Device, ReadAt};
use crate::engine::job::{Claim, JobContext};

/// A step, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Make it.
    Add,
    /// Remove it.
    Remove,
    /// Clear all its bits.
    Clear,
    /// Record writes from now on.
    Enable,
    /// Record no writes any more.
    Disable,
    /// Set the bits another bitmap has.
    Merge(String),
}

/// What to do, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BitmapSpec {
    /// The image.
    pub image: PathBuf,
    /// Its format; `None` probes.
    pub format: Option<Format>,
    /// The bitmap.
    pub name: String,
    /// What to do with it, in order.
    pub actions: Vec<Action>,
    /// Bytes of the disk per bit of an added one; `None`: as QEMU chooses.
    pub granularity: Option<u64>,
    /// The image that bitmaps to merge are in; `None`: the same.
    pub source: Option<PathBuf>,
    /// Its format; `None` probes.
    pub source_format: Option<Format>,
}

impl BitmapSpec {
    /// What it does, in a line.
    pub fn title(&self) -> String {
        let steps: Vec<String> = self.actions.iter().map(words).collect();
        format!("bitmap '{}' of {}: {}", self.name, self.image.display(), steps.join(", "))
    }

    /// The arguments of the `cowshed` command that does the same.
    pub fn command(&self) -> Vec<String> {
        let mut out: Vec<String> = vec!["bitmap".into()];
        let mut pair = |flag: &str, value: Option<String>| out.extend(value.into_iter().flat_map(|v| [flag.to_string(), v]));
        pair("-f", self.format.map(|f| f.name().into()));
        pair("-g", self.granularity.map(|g| g.to_string()));
        pair("-b", self.source.as_ref().map(|p| p.display().to_string()));
        pair("-F", self.source_format.map(|f| f.name().into()));
        for action in &self.actions {
            match action {
                Action::Merge(from) => out.extend(["--merge".into(), from.clone()]),
                other => out.push(format!("--{}", words(other))),
            }
        }
        out.extend([self.image.display().to_string(), self.name.clone()]);
        out
    }

    /// The steps, with what another image's bitmaps hold.
    fn steps(&self) -> Result<Vec<Step>> {
        let other = match &self.source {
            None => None,
            Some(path) => {
                let file = FileDevice::open(path)?;
                let guard = lock(&file, LockMode::Read)?;
                let dev: Device = Arc::new(file);
                only_qcow2(self.source_format, dev.as_ref()).path(path)?;
                Some((Source { dev, path: path.clone(), gate: Gate::closed() }, guard))
            }
        };
        let step = |action: &Action| {
            Ok(match (action, &other) {
                (Action::Add, _) => Step::Add(self.granularity),
                (Action::Remove, _) => Step::Remove,
                (Action::Clear, _) => Step::Clear,
                (Action::Enable, _) => Step::Record(true),
                (Action::Disable, _) => Step::Record(false),
                (Action::Merge(from), None) => Step::Merge(from.clone()),
                (Action::Merge(from), Some((source, _))) => Step::MergeBits(BitSet::of(source, from).path(&source.path)?),
            })
        };
        self.actions.iter().map(step).collect()
    }
}

fn words(action: &Action) -> String {
    match action {
        Action::Add => "add".into(),
        Action::Remove => "remove".into(),
        Action::Clear => "clear".into(),
        Action::Enable => "enable".into(),
        Action::Disable => "disable".into(),
        Action::Merge(from) => format!("merge '{from}'"),
    }
}

fn only_qcow2(format: Option<Format>, dev: &dyn ReadAt) -> Result<()> {
    let format = match format {
        Some(f) => f,
        None => best(&probe(dev)?),
    };
    if format == Format::Qcow2 {
        return Ok(());
    }
    Err(Error::unsupported(format!("{format} images keep no dirty bitmaps")).hint("only qcow2 images do"))
}

/// The operation of a [`BitmapSpec`].
pub struct Change {
    spec: BitmapSpec,
}

impl Change {
    /// Touches nothing yet.
    pub fn new(spec: BitmapSpec) -> Self {
        Change { spec }
    }
}

impl Change {
    /// Does all of it in memory, so that what would be refused is known before: a name that is not there, bits too fine.
    fn rehearse(&self, dev: Device) -> Result<()> {
        let spec = &self.spec;
        let draft = rehearse::over(dev);
        let source = Source { dev: draft.clone(), path: spec.image.clone(), gate: Gate::around(&spec.image) };
        Editor::open_any(draft, source)?.change_bitmap(&spec.name, &spec.steps()?)
    }
}

impl Operation for Change {
    fn claims(&self) -> Result<Vec<Claim>> {
        let other = self.spec.source.iter().filter(|p| **p != self.spec.image).map(|p| Claim::read(p));
        Ok(std::iter::once(Claim::write(&self.spec.image)).chain(other).collect())
    }

    fn plan(&self) -> Result<Plan> {
        let spec = &self.spec;
        edit::refuse_in_use(&spec.image)?;
        let dev: Device = Arc::new(FileDevice::open(&spec.image)?);
        only_qcow2(spec.format, dev.as_ref()).path(&spec.image)?;
        self.rehearse(dev).op("change bitmaps").path(&spec.image)?;
        let loses = spec.actions.iter().any(|a| !matches!(a, Action::Enable | Action::Disable | Action::Add));
        Ok(Plan {
            title: spec.title(),
            reads: spec.source.iter().map(|p| PlanFile { path: p.clone(), what: "its bitmaps".into() }).collect(),
            writes: vec![PlanFile { path: spec.image.clone(), what: "qcow2 image, changed in place".into() }],
            steps: spec.actions.iter().map(words).collect(),
            undo: match loses {
                true => Undo::Impossible("which bits were set before is not kept".into()),
                false => Undo::Possible("remove the bitmap, or switch it back".into()),
            },
            ..Plan::default()
        })
    }

    fn run(&self, _: &Plan, job: &JobContext) -> Result<Outcome> {
        let spec = &self.spec;
        // An image may be named as its own source: it is read before it is held.
        let steps = spec.steps().op("merge bitmaps")?;
        let (dev, _guard) = edit::hold(&spec.image)?;
        only_qcow2(spec.format, dev.as_ref()).op("change bitmaps").path(&spec.image)?;
        let source = Source { dev: dev.clone(), path: spec.image.clone(), gate: Gate::around(&spec.image) };
        let mut editor = Editor::open_any(dev, source).op("change bitmaps").path(&spec.image)?;
        job.finishing()?;
        editor.change_bitmap(&spec.name, &steps).op("change bitmaps").path(&spec.image)?;
        Ok(Outcome { summary: spec.title(), made: Vec::new() })
    }
}
