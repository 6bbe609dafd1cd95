//! Changing the internal snapshots of an image: held against others, planned, then done in one switch.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::engine::error::{Context, Error, Result};
use crate::engine::format::probe::{best, probe};
use crate::engine::format::qcow2::edit::{Editor, find, find_by_name};
use crate::engine::format::qcow2::snapshots::{Entry, read};
use crate::engine::format::qcow2::{extensions::read_head, header::BITMAPS, header::Header};
use crate::engine::format::{Format, Source};
use crate::engine::io::file::FileDevice;
use crate::engine::io::gate::Gate;
use crate::engine::io::{Device, ReadAt};
use crate::engine::job::{Claim, JobContext};
use crate::engine::ops::plan::{Plan, PlanFile, Undo};
use crate::engine::ops::{Operation, Outcome, dependents, edit};
use crate::engine::units::{about, count};

/// What to do with the snapshots of an image. Names may be ids.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Take one of the disk as it is.
    Create(String),
    /// Make the disk what it was then.
    Apply {
        /// Which.
        name: String,
        /// First take a snapshot of the disk as it is.
        keep: bool,
    },
    /// Delete all of these.
    Delete(Vec<String>),
    /// Rename one.
    Rename {
        /// Which.
        from: String,
        /// Its new name.
        to: String,
    },
}

/// What to do, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SnapshotSpec {
    /// The image.
    pub image: PathBuf,
    /// Its format; `None` probes.
    pub format: Option<Format>,
    /// What to do.
    pub action: Action,
}

impl SnapshotSpec {
    /// What it does, in a line.
    pub fn title(&self) -> String {
        let image = self.image.display();
        match &self.action {
            Action::Create(name) => format!("take snapshot '{name}' of {image}"),
            Action::Apply { name, .. } => format!("revert {image} to snapshot '{name}'"),
            Action::Delete(names) => {
                let s = if names.len() == 1 { "" } else { "s" };
                format!("delete snapshot{s} '{}' of {image}", names.join("', '"))
            }
            Action::Rename { from, to } => format!("rename snapshot '{from}' of {image} to '{to}'"),
        }
    }

    /// The arguments of the `cowshed` command that does the same.
    pub fn command(&self) -> Vec<String> {
        let mut out: Vec<String> = vec!["snapshot".into()];
        if let Some(format) = self.format {
            out.extend(["-f".into(), format.name().into()]);
        }
        match &self.action {
            Action::Create(name) => out.extend(["-c".into(), name.clone()]),
            Action::Apply { name, keep } => {
                out.extend(["-a".into(), name.clone()]);
                out.extend(keep.then(|| "--keep".into()));
            }
            Action::Delete(names) => out.extend(names.iter().flat_map(|n| ["-d".into(), n.clone()])),
            Action::Rename { from, to } => out.extend(["--rename".into(), from.clone(), to.clone()]),
        }
        out.push(self.image.display().to_string());
        out
    }

    /// Refuses other formats than qcow2.
    fn check_format(&self, dev: &dyn ReadAt) -> Result<()> {
        let format = match self.format {
            Some(f) => f,
            None => best(&probe(dev)?),
        };
        if format == Format::Qcow2 {
            return Ok(());
        }
        Err(super::none_inside(format, &self.image))
    }

    fn source(&self, dev: Device) -> Source {
        Source { dev, path: self.image.clone(), gate: Gate::around(&self.image) }
    }

    fn one(&self, list: &[Entry], name: &str) -> Result<usize> {
        find(list, name).ok_or_else(|| super::missing(name, &self.image))
    }

    fn set(&self, list: &[Entry], names: &[String]) -> Result<BTreeSet<usize>> {
        names.iter().map(|n| find_by_name(list, n).ok_or_else(|| super::missing(n, &self.image))).collect()
    }
}

/// The operation of a [`SnapshotSpec`].
pub struct Change {
    spec: SnapshotSpec,
}

impl Change {
    /// Touches nothing yet.
    pub fn new(spec: SnapshotSpec) -> Self {
        Change { spec }
    }

    fn plan_apply(&self, plan: &mut Plan, header: &Header, list: &[Entry], name: &str, keep: bool) -> Result<()> {
        let Some(entry) = list.get(self.spec.one(list, name)?) else { return Ok(()) };
        plan.undo = Undo::Impossible("what the disk holds now is lost, unless a snapshot has it (--keep takes one first)".into());
        if keep {
            let kept = safety_name(name);
            plan.steps.push(format!("take snapshot '{kept}' of the disk as it is"));
            plan.undo = Undo::Possible(format!("apply snapshot '{kept}'"));
        }
        plan.steps.push(format!("the disk becomes what it was at snapshot '{}'", String::from_utf8_lossy(&entry.name)));
        if let Some(size) = entry.disk_size().filter(|size| *size != header.size) {
            plan.steps.push(format!("its size becomes {size} bytes; now it is {}", header.size));
        }
        if header.autoclear & BITMAPS != 0 {
            plan.warnings.push("dirty bitmaps will say that everything changed: the next incremental backup takes all".into());
        }
        Ok(())
    }

    fn apply(&self, editor: &mut Editor, name: &str, keep: bool) -> Result<String> {
        let index = self.spec.one(editor.list(), name)?;
        if keep {
            editor.create(&safety_name(name), now())?;
        }
        editor.apply(index)?;
        Ok(format!("the disk is what it was at snapshot '{name}'"))
    }
}

/// The name of the snapshot that `keep` takes.
fn safety_name(name: &str) -> String {
    let mut out = format!("before-{name}");
    while out.len() > 255 {
        out.pop();
    }
    out
}

fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Operation for Change {
    fn claims(&self) -> Result<Vec<Claim>> {
        Ok(vec![Claim::write(&self.spec.image)])
    }

    fn plan(&self) -> Result<Plan> {
        let spec = &self.spec;
        edit::refuse_in_use(&spec.image)?;
        let dev: Device = std::sync::Arc::new(FileDevice::open(&spec.image)?);
        spec.check_format(dev.as_ref())?;
        let (header, _) = read_head(&dev).path(&spec.image)?;
        if header.external_data() {
            return Err(Error::unsupported("its data is in another file, which internal snapshots cannot keep from changing")
                .path(&spec.image)
                .hint("make an overlay on it instead: create -b"));
        }
        let list = read(dev.as_ref(), &header).path(&spec.image)?;
        let mut plan = Plan {
            title: spec.title(),
            writes: vec![PlanFile { path: spec.image.clone(), what: "qcow2 image, changed in place".into() }],
            ..Plan::default()
        };
        match &spec.action {
            Action::Create(name) => plan.undo = Undo::Possible(format!("delete snapshot '{name}'")),
            Action::Apply { name, keep } => {
                self.plan_apply(&mut plan, &header, &list, name, *keep)?;
                plan.losses.extend(dependents::losing(&spec.image, &[])?);
            }
            Action::Delete(names) => {
                let set: Vec<usize> = spec.set(&list, names)?.into_iter().collect();
                plan.freed_bytes = super::freed_by(&spec.image, &set)?;
                let verb = if set.len() == 1 { "is" } else { "are" };
                plan.steps.push(format!("{} of {} snapshots {verb} deleted in one pass", set.len(), list.len()));
                let these = if set.len() == 1 { "this snapshot holds" } else { "these snapshots hold" };
                plan.undo = Undo::Impossible(format!("what only {these} is gone"));
            }
            Action::Rename { from, .. } => {
                let index = spec.one(&list, from)?;
                let old = list.get(index).map(|s| String::from_utf8_lossy(&s.name).into_owned()).unwrap_or_default();
                plan.undo = Undo::Possible(format!("rename it back to '{old}'"));
            }
        }
        Ok(plan)
    }

    fn run(&self, _: &Plan, job: &JobContext) -> Result<Outcome> {
        let spec = &self.spec;
        let (dev, _guard) = edit::hold(&spec.image)?;
        spec.check_format(dev.as_ref())?;
        let mut editor = Editor::open(dev.clone(), spec.source(dev.clone())).op("change snapshots").path(&spec.image)?;
        // From here on it is one switch: there is nothing to pause in.
        job.finishing()?;
        let summary = match &spec.action {
            Action::Create(name) => editor.create(name, now()).map(|id| format!("snapshot '{name}' has id {id}")),
            Action::Apply { name, keep } => self.apply(&mut editor, name, *keep),
            Action::Delete(names) => {
                let set = spec.set(editor.list(), names)?;
                let before = dev.allocated();
                let deleted = editor.delete(&set);
                let back = about(before.saturating_sub(dev.allocated()));
                deleted.map(|()| format!("{} deleted, {back} given back", count(set.len() as u64, "snapshot")))
            }
            Action::Rename { from, to } => {
                let index = spec.one(editor.list(), from)?;
                editor.rename(index, to).map(|()| format!("snapshot '{from}' is called '{to}'"))
            }
        };
        let summary = summary.op("change snapshots").path(&spec.image)?;
        Ok(Outcome { summary, made: Vec::new() })
    }
}
