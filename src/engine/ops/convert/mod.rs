//! Convert: copies a disk, a chain of layers, or a snapshot, into a new image of any format.

mod baseline;
mod copy;
mod run;
mod source;
mod spec;
mod target;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

pub use spec::{ConvertSpec, SPARSE};

use self::baseline::Baseline;
use self::source::Sources;
use super::plan::{Estimate, Plan, PlanFile, Space, Undo};
use super::{Operation, Outcome};
use super::{dependents, edit};
use crate::engine::chain::Disk;
use crate::engine::error::{Context, Error, Result};
use crate::engine::format::Format;
use crate::engine::format::write::NewBacking;
use crate::engine::job::{Claim, JobContext};

/// The operation of a [`ConvertSpec`].
pub struct Convert {
    spec: ConvertSpec,
    /// The partial files were left for a resume.
    kept: AtomicBool,
}

impl Convert {
    /// Touches nothing yet.
    pub fn new(spec: ConvertSpec) -> Self {
        Convert { spec, kept: AtomicBool::new(false) }
    }

    /// What the target will take on its filesystem.
    fn estimate(&self, size: u64, data: Estimate) -> Estimate {
        let full = self.spec.sparse == 0 || matches!(self.option("preallocation"), Some("full" | "falloc"));
        if full {
            return Estimate::exact(size);
        }
        if self.spec.format == Format::Raw {
            return data;
        }
        // Tables: a few bytes per cluster, well under a percent, and a megabyte or two for the smallest.
        let tables = |b: u64| b + b / 100 + (2 << 20);
        // What people's disks compress to is about a half; what is compressed already does not shrink at all.
        let likely = if self.spec.compress { data.likely / 2 } else { data.likely };
        Estimate { likely: tables(likely), worst: tables(data.worst) }
    }

    /// Opens all that is read; refuses what would harm it, and what cannot be done.
    fn open(&self) -> Result<(Sources, Option<(Baseline, NewBacking)>)> {
        let sources = Sources::open(&self.spec)?;
        sources.refuse(&self.spec.target)?;
        sources.bitmaps(&self.spec)?;
        let baseline = Baseline::open(&self.spec, &sources)?;
        Ok((sources, baseline))
    }

    fn option(&self, name: &str) -> Option<&str> {
        self.spec.options.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Runs `spec` on `disk`, which stands for the spec's single source with changes; the source's files are held by the caller.
pub(in crate::engine::ops) fn run_over(spec: &ConvertSpec, disk: Disk, job: &JobContext) -> Result<Outcome> {
    let sources = Sources::open(spec)?;
    sources.refuse(&spec.target)?;
    super::stage::replaceable(&spec.target)?;
    edit::refuse_in_use(&spec.target)?;
    let sources = sources.over(disk);
    let plan = Plan { title: spec.title(), read_bytes: sources.estimate()?.0.likely, ..Plan::default() };
    run::run(spec, &sources, None, &plan, job, &AtomicBool::new(false))
}

/// Removes what an unfinished conversion left; `state` is what it noted in the journal.
pub fn discard(spec: &ConvertSpec, state: &serde_json::Value) -> Result<()> {
    run::discard(spec, state)
}

/// Whether what an unfinished conversion left can be gone on with; `state` is what it noted in the journal.
///
/// Errors: it cannot, and why.
pub fn resumable(spec: &ConvertSpec, state: &serde_json::Value) -> Result<()> {
    run::resumable(spec, &Sources::open(spec)?, state)
}

/// True for the line of a job's log that says what became of `--resume`: where it goes on, or why it cannot.
pub fn tells_of_resume(line: &str) -> bool {
    run::tells_of_resume(line)
}

/// The folder a file of that name lies in.
pub(super) fn folder(path: &Path) -> PathBuf {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf()
}

impl Operation for Convert {
    fn claims(&self) -> Result<Vec<Claim>> {
        let (sources, baseline) = self.open()?;
        let below = baseline.iter().flat_map(|(b, _)| b.paths());
        let mut claims: Vec<Claim> = sources.paths().chain(below).map(Claim::read).collect();
        claims.push(Claim::write(&self.spec.target));
        Ok(claims)
    }

    fn plan(&self) -> Result<Plan> {
        let spec = &self.spec;
        let (sources, baseline) = self.open()?;
        target::compressible(spec)?;
        if !spec.in_place {
            let backing = baseline.as_ref().map(|(_, b)| b.clone());
            let wanted = target::wanted(spec, sources.size(), backing)?;
            super::rehearse::rehearse(spec.format, &wanted).op("convert").path(&spec.target)?;
        }
        let (data, layout) = sources.estimate()?;
        let needed = self.estimate(sources.size(), data);
        let on = folder(&spec.target);
        let mut plan = Plan {
            title: spec.title(),
            reads: sources.files_for_plan(),
            writes: vec![PlanFile { path: spec.target.clone(), what: format!("new {} image", spec.format) }],
            read_bytes: data.likely,
            write_bytes: needed,
            undo: Undo::DeleteResult,
            layout: Some(layout),
            losses: sources.losses(spec),
            warnings: sources.warnings().to_vec(),
            ..Plan::default()
        };
        if let Some((_, b)) = &baseline {
            plan.reads.push(PlanFile { path: b.path.clone(), what: format!("{} image to stand on, never written", b.format) });
        }
        let existing = std::fs::metadata(&spec.target).ok();
        let device = edit::is_device(&spec.target);
        if !spec.in_place && !device {
            super::stage::replaceable(&spec.target)?;
        }
        edit::refuse_in_use(&spec.target)?;
        plan.losses.extend(dependents::losing(&spec.target, &spec.roots)?);
        // The job waits for what cowshed itself does with them, so that this is no reason to refuse the plan.
        if let Err(e) = sources.hold(spec.force_share) {
            plan.warnings.push(format!("{e}: nothing is converted while that is so"));
        }
        if spec.in_place || device {
            let what = if device { "block device, overwritten" } else { "existing image, overwritten in place" };
            plan.writes = vec![PlanFile { path: spec.target.clone(), what: what.into() }];
            plan.undo = Undo::Impossible("what the target holds now is overwritten".into());
            if spec.in_place {
                target::refuse(spec, sources.size())?;
            } else {
                let space = edit::device_space(&spec.target, spec.format, sources.size(), needed)?;
                if !space.is_enough() {
                    plan.warnings.push("in the worst case the target does not fit on its device".into());
                }
                plan.space = Some(space);
            }
        } else {
            let free = super::stage::room(&on)?;
            let space = Space { on, needed, free };
            if space.needed.likely > free {
                plan.warnings.push("the target will probably not fit on its filesystem".into());
            } else if !space.is_enough() {
                plan.warnings.push("in the worst case the target does not fit on its filesystem".into());
            }
            plan.space = Some(space);
            if existing.is_some() {
                plan.warnings.push(format!("{} is there already and will be replaced", spec.target.display()));
                plan.undo = Undo::Impossible("the file that has the target's name now is replaced".into());
            }
        }
        Ok(plan)
    }

    fn run(&self, plan: &Plan, job: &JobContext) -> Result<Outcome> {
        let (sources, baseline) = self.open()?;
        run::run(&self.spec, &sources, baseline, plan, job, &self.kept)
    }

    fn journal_target(&self) -> Option<PathBuf> {
        // What is written in place has no partial file to go on with.
        (!self.spec.in_place).then(|| std::path::absolute(&self.spec.target).unwrap_or_else(|_| self.spec.target.clone()))
    }

    fn keeps_partial(&self, _: &Error) -> bool {
        self.kept.load(Relaxed)
    }
}
