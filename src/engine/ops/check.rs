//! Checking and repairing an image, whatever its format: finds the format's tools and runs them. A check only reads. A repair
//! checks first, saves what it will change to an undo file, and writes then; its undo puts that back.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::plan::{Plan, PlanFile, Undo};
use super::undo::{self, UndoFile};
use super::{Operation, Outcome, edit};
use crate::engine::chain::{Chain, OpenOptions};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::check::{CheckFn, CheckReport, Repair, RepairFn, Repaired, Repairing, Severity, Spot};
use crate::engine::format::probe::{best, probe};
use crate::engine::format::{Format, Source, cow, qcow, qcow2, rules, vdi, vhd, vhdx, vmdk};
use crate::engine::io::file::FileDevice;
use crate::engine::io::gate::Gate;
use crate::engine::io::{Device, ReadAt, WriteDevice};
use crate::engine::job::{Claim, JobContext};

/// Guest ranges a plan names one by one.
const RANGES: usize = 50;

/// What can be done about a format's health.
#[derive(Clone, Copy)]
pub struct Tools {
    /// Its check.
    pub check: CheckFn,
    /// Its repair, where there is one.
    pub repair: Option<RepairFn>,
}

/// The tools of `format`; `None` where the format has nothing to check.
pub fn tools(format: Format) -> Option<Tools> {
    match format {
        Format::Qcow2 => Some(Tools { check: qcow2::check::check, repair: Some(qcow2::repair::repair) }),
        Format::Qcow => Some(Tools { check: qcow::check::check, repair: Some(qcow::repair::repair) }),
        Format::Cow => Some(Tools { check: cow::check::check, repair: Some(cow::repair::repair) }),
        Format::Vmdk => Some(Tools { check: vmdk::check, repair: Some(vmdk::repair) }),
        Format::Vdi => Some(Tools { check: vdi::check::check, repair: Some(vdi::repair::repair) }),
        Format::Vhd => Some(Tools { check: vhd::check::check, repair: Some(vhd::repair::repair) }),
        Format::Vhdx => Some(Tools { check: vhdx::check::check, repair: Some(vhdx::repair::repair) }),
        _ => None,
    }
}

/// Checks the image at `path`, of `format` or as recognised.
///
/// Errors: `Unsupported` when the format has no check; the image cannot be opened.
pub fn check(path: &Path, format: Option<Format>, gate: Option<Gate>) -> Result<(Format, CheckReport)> {
    let dev: Device = Arc::new(FileDevice::open(path)?);
    check_on(dev, path, format, gate)
}

fn check_on(dev: Device, path: &Path, format: Option<Format>, gate: Option<Gate>) -> Result<(Format, CheckReport)> {
    let format = recognised(dev.as_ref(), format)?;
    let Some(tools) = tools(format) else {
        return Err(Error::new(ErrorKind::Unsupported, format!("{format} images have nothing that could be checked"))
            .op("check")
            .path(path));
    };
    let gate = gate.unwrap_or_else(|| Gate::around(path));
    let mut report = (tools.check)(&Source { dev, path: path.to_path_buf(), gate: gate.clone() }).op("check").path(path)?;
    parent(path, format, gate, &mut report);
    Ok((format, report))
}

/// Whether what the image stands on is still what it was made on, for formats that can tell. A parent that is missing is no damage.
fn parent(path: &Path, format: Format, gate: Gate, report: &mut CheckReport) {
    if !matches!(format, Format::Vmdk | Format::Vdi | Format::Vhd | Format::Vhdx) {
        return;
    }
    let options = OpenOptions { format: Some(format), gate: Some(gate), ..OpenOptions::default() };
    let Ok(chain) = Chain::open(path, &options) else { return };
    if let Some((below, e)) = chain.nodes.get(1).and_then(|n| Some((n, n.error.as_ref()?)))
        && e.kind() == ErrorKind::ParentChanged
    {
        let guest = chain.layers.first().map(|top| (0, top.size()));
        report.note(&rules::PARENT, Spot { offset: None, guest, detail: format!("{}: {}", below.path.display(), e.why()) });
    }
}

fn recognised(dev: &dyn ReadAt, format: Option<Format>) -> Result<Format> {
    match format {
        Some(f) => Ok(f),
        None => Ok(best(&probe(dev)?)),
    }
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RepairAction {
    /// Mend what the check finds.
    Mend(Repair),
    /// Put back what the last repair changed.
    Undo,
}

/// A repair, or its undo, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RepairSpec {
    /// The image.
    pub image: PathBuf,
    /// Its format; `None` probes.
    pub format: Option<Format>,
    /// What to do.
    pub action: RepairAction,
    /// Where the undo file is, or is to be; `None`: beside the image.
    pub undo_file: Option<PathBuf>,
    /// Open whatever file the image names.
    pub follow: bool,
}

/// What a repair did to a file.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct RepairDone {
    /// What was mended and what not.
    pub repaired: Repaired,
    /// Where the undo file is; `None` when nothing was written.
    pub undo_file: Option<PathBuf>,
}

impl RepairSpec {
    /// Mends the image at `image` as far as `repair` goes.
    pub fn mend(image: impl Into<PathBuf>, repair: Repair) -> Self {
        RepairSpec { image: image.into(), format: None, action: RepairAction::Mend(repair), undo_file: None, follow: false }
    }

    /// What it does, in a line.
    pub fn title(&self) -> String {
        let image = self.image.display();
        match self.action {
            RepairAction::Mend(Repair::Leaks) => format!("give back lost space of {image}"),
            RepairAction::Mend(Repair::All) => format!("repair {image}"),
            RepairAction::Undo => format!("undo the repair of {image}"),
        }
    }

    /// The arguments of the `cowshed` command that does the same.
    pub fn command(&self) -> Vec<String> {
        let mut out: Vec<String> = vec!["check".into()];
        if let Some(format) = self.format {
            out.extend(["-f".into(), format.name().into()]);
        }
        match self.action {
            RepairAction::Mend(Repair::Leaks) => out.extend(["-r".into(), "leaks".into()]),
            RepairAction::Mend(Repair::All) => out.extend(["-r".into(), "all".into()]),
            RepairAction::Undo => out.push("--undo".into()),
        }
        if let Some(path) = &self.undo_file {
            out.extend(["--undo-file".into(), path.display().to_string()]);
        }
        out.push(self.image.display().to_string());
        out
    }

    fn gate(&self) -> Gate {
        Gate::around(&self.image).follow(self.follow)
    }

    /// Where the undo file of this repair is, or will be.
    ///
    /// Errors: `NotFound`: there is none to undo with.
    pub fn undo_path(&self) -> Result<PathBuf> {
        match (&self.undo_file, self.action) {
            (Some(path), _) => Ok(path.clone()),
            (None, RepairAction::Mend(_)) => Ok(undo::free_name(&self.image)),
            (None, RepairAction::Undo) => undo::newest(&self.image).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "there is no undo file beside it")
                    .op("undo the repair")
                    .path(&self.image)
                    .hint("--undo-file names one elsewhere")
            }),
        }
    }

    /// The plan of mending what `report` found.
    pub fn plan_for(&self, format: Format, report: &CheckReport) -> Result<Plan> {
        let RepairAction::Mend(repair) = self.action else { return self.plan_undo() };
        let (mended, left) = report.split(repair);
        let mut plan = Plan { title: self.title(), ..Plan::default() };
        if mended.is_empty() {
            plan.steps.push("there is nothing to mend".into());
        } else {
            let undo = self.undo_path()?;
            plan.writes.push(PlanFile { path: undo.clone(), what: "new undo file: the metadata as it is now".into() });
            plan.writes.push(PlanFile { path: self.image.clone(), what: format!("{format} image, repaired in place") });
            plan.steps = mended.iter().map(|f| format!("{} ({}): {}", f.rule.title, f.count, f.rule.repair)).collect();
            plan.undo = Undo::Possible(format!("check --undo, as long as nothing else was written to it ({})", undo.display()));
        }
        if repair == Repair::All {
            let range = |(at, len): &(u64, u64)| format!("guest bytes {at:#x} to {:#x}, which read as zeros then", at + len);
            plan.losses = report.lost.iter().take(RANGES).map(range).collect();
            if report.lost.len() > RANGES {
                plan.losses.push(format!("and {} further ranges (check --output json lists all)", report.lost.len() - RANGES));
            }
            plan.losses.extend(report.given_up.iter().map(|what| format!("{what}, which cannot be found")));
        }
        plan.warnings = left.iter().map(|f| format!("not mended: {} ({}): {}", f.rule.title, f.count, f.rule.repair)).collect();
        Ok(plan)
    }

    fn plan_undo(&self) -> Result<Plan> {
        Ok(Plan {
            title: self.title(),
            reads: vec![PlanFile { path: self.undo_path()?, what: "undo file".into() }],
            writes: vec![PlanFile { path: self.image.clone(), what: "its metadata as it was before the repair".into() }],
            undo: Undo::Possible("repair it again".into()),
            ..Plan::default()
        })
    }

    /// Mends the image, asking `job` whether to go on.
    ///
    /// Errors: another process holds it; the format has no repair; what the format's repair says.
    pub fn run(&self, job: &JobContext) -> Result<RepairDone> {
        let (dev, _guard) = edit::hold(&self.image)?;
        let RepairAction::Mend(repair) = self.action else {
            let path = self.undo_path()?;
            job.finishing()?;
            undo::restore(&path, dev.as_ref()).path(&self.image)?;
            return Ok(RepairDone { undo_file: Some(path), ..RepairDone::default() });
        };
        self.mend_on(dev, repair, job).op("repair").path(&self.image)
    }

    fn mend_on(&self, dev: WriteDevice, repair: Repair, job: &JobContext) -> Result<RepairDone> {
        let reader: Device = dev.clone();
        let (format, report) = check_on(reader.clone(), &self.image, self.format, Some(self.gate()))?;
        let Some(run) = tools(format).and_then(|t| t.repair) else {
            return Err(Error::unsupported(format!("cowshed does not repair {format} images")));
        };
        let path = self.undo_path()?;
        let findings: Vec<(String, u64)> = report.findings.iter().map(|f| (f.rule.id.to_string(), f.count)).collect();
        let saved: Mutex<Option<UndoFile>> = Mutex::default();
        let repairing = Repairing {
            dev: dev.clone(),
            source: Source { dev: reader, path: self.image.clone(), gate: self.gate() },
            repair,
            keep: &|evidence| {
                let file = UndoFile::save(&path, &self.image, dev.as_ref(), evidence, findings.clone())?;
                *saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
                job.finishing()
            },
            tick: &|done, total| {
                job.progress.set_total(total);
                let _ = done;
                job.stop_if_asked()
            },
        };
        let repaired = run(&repairing)?;
        let mut undo_file = None;
        if let Some(mut file) = saved.into_inner().unwrap_or_else(PoisonError::into_inner) {
            file.seal(dev.as_ref(), repaired.state.clone())?;
            undo_file = Some(file.path().to_path_buf());
        }
        Ok(RepairDone { repaired, undo_file })
    }
}

/// The operation of a [`RepairSpec`].
pub struct RepairImage {
    spec: RepairSpec,
}

impl RepairImage {
    /// Touches nothing yet.
    pub fn new(spec: RepairSpec) -> Self {
        RepairImage { spec }
    }
}

impl Operation for RepairImage {
    fn claims(&self) -> Result<Vec<Claim>> {
        Ok(vec![Claim::write(&self.spec.image)])
    }

    fn plan(&self) -> Result<Plan> {
        let spec = &self.spec;
        edit::refuse_in_use(&spec.image)?;
        if spec.action == RepairAction::Undo {
            return spec.plan_undo();
        }
        let (format, report) = check(&spec.image, spec.format, Some(spec.gate()))?;
        spec.plan_for(format, &report)
    }

    fn run(&self, _: &Plan, job: &JobContext) -> Result<Outcome> {
        let done = self.spec.run(job)?;
        let r = &done.repaired;
        let summary = match self.spec.action {
            RepairAction::Undo => "the repair is undone".into(),
            RepairAction::Mend(_) if done.undo_file.is_none() => "there was nothing to mend".into(),
            RepairAction::Mend(_) => format!("{} errors mended, {} lost units given back", r.corruptions, r.leaks),
        };
        for left in &r.left {
            job.log(format!("not mended: {left}"));
        }
        Ok(Outcome { summary, made: done.undo_file.filter(|_| self.spec.action != RepairAction::Undo).into_iter().collect() })
    }
}

/// Instances of damage, of lost space, and of parts that could not be checked.
pub fn counts(report: &CheckReport) -> (u64, u64, u64) {
    (report.count(Severity::Corruption), report.count(Severity::Leak), report.count(Severity::Unchecked))
}
