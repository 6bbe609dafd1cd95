//! Sanitise: removes from a guest what must not be in every clone, and what is left of it in the image's bytes.
//!
//! ```text
//!  prepare   the guest on a draft in memory: rules, check, operations, edits, wiping, check again    nothing is written
//!  commit    undo file, then the image in one pass (commit.rs tells what a power cut leaves)
//!  scan      the image's bytes, for pieces of what was removed
//! ```
//!
//! With a target the draft is copied into a new image, and the source stays as it is.

pub(super) mod atomic;
mod commit;
mod copy;
mod edit;
mod marker;
mod needles;
mod outlook;
mod prepare;
mod ready;
mod refuse;
mod report;
mod residue;
mod scan;
mod search;
mod spec;
mod undo;
mod whose;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use outlook::{Kept, Outlook, kept, kept_of, outlook};
pub use report::{Entry, Report, Shown, State, UndoFile};
pub use residue::{Residue, Scanned};
pub use spec::{Action, SanitizeSpec};

use prepare::{Prepared, Wish, prepare};
use ready::Ready;
use scan::Early;

use super::edit as open;
use super::plan::{Estimate, Plan, PlanFile, Undo};
use super::{Operation, Outcome, dependents};
use crate::engine::chain::{Chain, Disk};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::Format;
use crate::engine::format::write::DiskWriter;
use crate::engine::io::watched::Written;
use crate::engine::io::{ReadAt, sys};
use crate::engine::job::{Claim, JobContext};
use crate::engine::units::{KIB, binary, count};

/// What to do about a filesystem that is damaged.
const MEND: &str = "have e2fsck or xfs_repair mend it first";

/// True when a sanitising of the image at `path` was interrupted, so that its content is half done.
pub fn interrupted(path: &Path) -> bool {
    marker::of(path).is_some_and(|m| m.half_done(path)) || kept(&undo::beside(path)).ok().flatten().is_some_and(|k| k.half_done)
}

/// What a sanitising would do, in full: nothing is written. The plan of the job is made from this.
///
/// Errors: as running it would refuse.
pub fn preview(spec: &SanitizeSpec) -> Result<Report> {
    foresee(spec, false, &JobContext::detached()).map(|(report, _)| report)
}

fn foresee(spec: &SanitizeSpec, run: bool, job: &JobContext) -> Result<(Report, Ready)> {
    // The system takes milliseconds to say who holds a file: meanwhile the plan is made. In use is what counts, whatever came of that.
    let (held, ready) = std::thread::scope(|s| {
        let held = s.spawn(|| match run && spec.target.is_none() {
            true => open::hold(&spec.image).map(Some),
            false => open::refuse_in_use(&spec.image).map(|()| None),
        });
        let ready = Ready::make(spec, run && spec.target.is_none(), job);
        (held.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "asking who holds the image gave up"))), ready)
    });
    let held = held?;
    let mut ready = ready?;
    ready.held = held;
    let mut report = ready.prepared.report.clone();
    if spec.target.is_none() && !report.is_empty() {
        spec.refuse_second_undo()?;
        report.undo = Some(UndoFile { path: spec.keep_undo.then(|| spec.undo_path()), bytes: undo_bytes(&ready.prepared) });
    }
    Ok((report, ready))
}

/// Bytes the undo file will have, about.
fn undo_bytes(p: &Prepared) -> u64 {
    p.saved.bytes() + 1024 + p.saved.iter().count() as u64 * 24
}

impl SanitizeSpec {
    fn prepare(&self, disk: &Arc<Disk>, scan: bool, job: &JobContext) -> Result<Prepared> {
        let operations = self.selection.operations()?;
        let wish = Wish { image: &self.image, operations: &operations, replay: self.replay, scan };
        let damaged = |e: Error| if e.kind() == ErrorKind::Corrupt { e.hint(MEND) } else { e };
        prepare(disk, &wish, job).path(&self.image).map_err(damaged)
    }

    /// Errors: what an earlier sanitising removed is still kept where this one would keep what it removes.
    fn refuse_second_undo(&self) -> Result<()> {
        match kept(&self.undo_path())? {
            None => Ok(()),
            Some(kept) => Err(Error::new(ErrorKind::Unsupported, "there is an undo file already, of an earlier sanitising")
                .path(&kept.path)
                .hint("take that back with --undo, or destroy it with --destroy-undo")),
        }
    }

    /// The undo file of the image, and where it is: what a change that was interrupted says, else where it is kept.
    fn find_undo(&self) -> Result<Option<(PathBuf, undo::Undo)>> {
        match marker::of(&self.image) {
            Some(m) => m.open(&self.image, self.undo_file.as_deref()).map(Some),
            None => Ok(undo::Undo::open(&self.undo_path())?.map(|u| (self.undo_path(), u))),
        }
    }

    /// Says beside the image where `undo` is, before the image is written.
    fn mark(&self, path: &Path, undo: &undo::Undo, job: &JobContext) -> Result<()> {
        let folder = self.image.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !sys::may_write(folder) {
            // An undo file elsewhere is asked for where nothing can be made beside the image, too.
            job.log("nothing can be made beside the image that tells others while it is half done");
            return Ok(());
        }
        marker::set(&self.image, path, &undo.header.made)
    }

    /// Adds what the image's format and chain have to do with it.
    fn finish_report(&self, chain: &Chain, disk: &Disk, prepared: &mut Prepared) {
        let mut warn = |w: String| prepared.report.warnings.push(w);
        let snapshots = chain.nodes.first().map_or(&[][..], |n| n.description.snapshots.as_slice());
        if self.target.is_none() && !snapshots.is_empty() {
            let names: Vec<&str> = snapshots.iter().map(|s| if s.name.is_empty() { &s.id } else { &s.name }.as_str()).collect();
            warn(format!(
                "{} of it with the old data: {}; delete them, or make a new image of it (--to)",
                count(names.len() as u64, "internal snapshot"),
                names.join(", ")
            ));
        }
        if self.target.is_none() && disk.layers().len() > 1 {
            let below: Vec<String> = chain.nodes.iter().skip(1).map(|n| n.path.display().to_string()).collect();
            warn(format!("what it stands on keeps the old data: {}", below.join(", ")));
        }
        if let Some(target) = &self.target {
            prepared.report.image.clone_from(target);
        }
    }
}

/// The operation of a [`SanitizeSpec`].
pub struct Sanitize {
    spec: SanitizeSpec,
    /// What was prepared for the plan.
    ready: Mutex<Option<Ready>>,
}

impl Sanitize {
    /// Touches nothing yet.
    pub fn new(spec: SanitizeSpec) -> Self {
        Sanitize { spec, ready: Mutex::default() }
    }

    /// What was prepared for the plan.
    fn planned(&self) -> Option<Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What was `planned` where that still holds, else anew. For who holds the image against others.
    fn ready(&self, planned: Option<Ready>, job: &JobContext) -> Result<Ready> {
        planned.filter(Ready::holds).map_or_else(|| Ready::make(&self.spec, self.spec.target.is_none(), job), Ok)
    }

    fn plan_undo(&self) -> Result<Plan> {
        let spec = &self.spec;
        let Some((path, undo)) = spec.find_undo()? else {
            // One that was never completed is none, but holds secrets: gone, unless somebody is making it.
            let path = spec.undo_path();
            if path.is_file() {
                let _held = open::hold(&spec.image)?;
                undo::discard_incomplete(&path)?;
            }
            return Err(no_undo(&path));
        };
        let mut plan = Plan { title: spec.title(), ..Plan::default() };
        plan.reads.push(PlanFile {
            path: path.clone(),
            what: format!("undo file, of {}", undo.header.made.split('.').next().unwrap_or_default().replace('T', " ")),
        });
        if spec.action == Action::DestroyUndo {
            if undo.state != undo::State::Done {
                return Err(half_done(&path));
            }
            plan.undo = Undo::Impossible("what was removed is gone for good".into());
            plan.writes.push(PlanFile { path, what: "undo file, overwritten and removed".into() });
            return Ok(plan);
        }
        plan.steps.push("every file becomes what it was; what was free space before stays wiped".into());
        plan.write_bytes = Estimate::exact(undo.header.ranges.iter().map(|(_, n)| n).sum());
        plan.writes.push(PlanFile { path: spec.image.clone(), what: "image, changed in place".into() });
        plan.undo = Undo::Possible("sanitize it again".into());
        Ok(plan)
    }

    /// The plan that says what `report` foresees.
    fn plan_of(&self, report: Report) -> Plan {
        let spec = &self.spec;
        let mut plan = Plan { title: spec.title(), ..Plan::default() };
        for o in &report.operations {
            for c in &o.changes {
                plan.steps.push(format!("{}: {} {}", o.id, c.what, c.path));
            }
            plan.warnings.extend(o.warnings.iter().cloned());
        }
        plan.steps.extend(report.volumes.iter().cloned());
        plan.warnings.extend(report.warnings.iter().cloned());
        match (&spec.target, &report.undo) {
            (Some(to), _) => {
                plan.reads.push(PlanFile { path: spec.image.clone(), what: "image, left as it is".into() });
                plan.writes.push(PlanFile { path: to.clone(), what: "new image".into() });
            }
            (None, undo) => {
                plan.writes.push(PlanFile { path: spec.image.clone(), what: "image, changed in place".into() });
                plan.write_bytes = Estimate::exact(report.written);
                plan.undo = match undo {
                    Some(UndoFile { path: Some(path), bytes }) => {
                        let what = format!(
                            "undo file of {}: holds what is removed, secrets among it",
                            binary(bytes.next_multiple_of(KIB))
                        );
                        plan.writes.push(PlanFile { path: path.clone(), what });
                        Undo::Possible(format!("cowshed sanitize --undo {}", spec.image.display()))
                    }
                    Some(_) => Undo::Impossible("no undo file is kept".into()),
                    None => Undo::Possible("nothing changes".into()),
                };
            }
        }
        plan.report = Some(Arc::new(report));
        plan
    }

    /// Takes a commit back. `finished`: only one that was interrupted.
    fn roll_back(&self, only_interrupted: bool, job: &JobContext) -> Result<bool> {
        let spec = &self.spec;
        let Some((path, mut undo)) = spec.find_undo()? else { return Ok(false) };
        if only_interrupted && undo.state == undo::State::Done {
            return Ok(false);
        }
        let open::Editing { writer, guards: _guards, .. } = open::open_as_it_is(&spec.image, spec.open_as()?, &spec.gate())?;
        let image: Arc<dyn ReadAt> = Arc::new(spec.chain()?.disk()?);
        if image.len() != undo.header.size {
            return Err(Error::usage("the undo file belongs to a disk of another size").path(&path));
        }
        if undo.state == undo::State::Done && undo::checksum(image.as_ref(), &undo.header.ranges)? != undo.header.new {
            return Err(Error::usage("the image was changed after it was sanitised; the old bytes no longer fit it")
                .path(&spec.image)
                .hint(format!("to be rid of the undo file: cowshed sanitize --destroy-undo {}", spec.image.display())));
        }
        job.finishing()?;
        spec.mark(&path, &undo, job)?;
        undo.set(undo::State::Undoing)?;
        undo.restore(writer.as_ref())?;
        // What was lost when it was cut off holds what the disk held.
        writer.wipe_unused()?;
        drop(undo);
        marker::clear(&spec.image)?;
        undo::destroy(&path)?;
        Ok(true)
    }

    fn in_place(&self, job: &JobContext) -> Result<Outcome> {
        let spec = &self.spec;
        if self.roll_back(true, job)? {
            job.log("an earlier sanitise that was interrupted is rolled back");
        }
        let (written, mut planned) = (Written::default(), self.planned());
        let held = planned.as_mut().and_then(|p| p.held.take()).map_or_else(|| open::hold(&spec.image), Ok)?;
        let open::Editing { writer, guards: _guards, .. } =
            open::open_held(&spec.image, spec.open_as()?, &spec.gate(), held, Some(&written))?;
        // What it still says, nobody else can have said since: the image is held.
        if interrupted(&spec.image) {
            return Err(half_done(&spec.undo_path()));
        }
        marker::clear(&spec.image)?;
        let Ready { chain, disk, mut prepared, .. } = self.ready(planned, job)?;
        if prepared.report.is_empty() && scrubs(&prepared.report) {
            job.finishing()?;
            writer.wipe_unused()?;
        }
        if !prepared.report.is_empty() {
            spec.refuse_second_undo()?;
            // The last moment to stop: from here on it is one pass.
            job.finishing()?;
            prepared.report.undo = Some(self.write(&chain, &disk, &prepared, writer.as_ref(), job)?);
        }
        drop(writer);
        let early = prepared.scanning.take().map(|s| s.finish(job)).transpose()?.unwrap_or_default();
        self.close(prepared, (&early, &written), job)
    }

    /// The undo file, then the image.
    fn write(
        &self,
        chain: &Chain,
        disk: &Disk,
        prepared: &Prepared,
        writer: &dyn DiskWriter,
        job: &JobContext,
    ) -> Result<UndoFile> {
        let spec = &self.spec;
        let path = spec.undo_path();
        let ranges: Vec<(u64, u64)> = prepared.saved.iter().map(|(s, e)| (s, e - s)).collect();
        let header = undo::Header {
            image: spec.image.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            format: chain.layers.first().map_or(Format::Raw, |l| l.format()).name().into(),
            size: disk.len(),
            made: jiff::Timestamp::now().to_string(),
            new: undo::checksum(prepared.draft.as_ref(), &ranges)?,
            old: 0,
            ranges,
        };
        job.progress.set_total(prepared.report.written.max(1));
        job.progress.set_phase("saving what changes");
        let mut undo = undo::Undo::write(Box::new(undo::create(&path)?), header, prepared.before.as_ref())
            .and_then(|u| undo::sync_folder(&path).map(|()| u))
            .and_then(|u| spec.mark(&path, &u, job).map(|()| u))
            .inspect_err(|_| {
                // The image was not touched; a file half written is no undo file, and holds secrets all the same.
                let _ = undo::destroy(&path).or_else(|_| std::fs::remove_file(&path));
            })?;
        job.progress.set_phase("writing");
        commit::commit(&prepared.draft, writer, &mut undo, scrubs(&prepared.report), job).path(&spec.image).map_err(|e| {
            e.hint(format!("what was there is in the undo file: cowshed sanitize --undo {}", spec.image.display()))
        })?;
        let done = UndoFile { path: spec.keep_undo.then(|| path.clone()), bytes: undo.bytes() };
        drop(undo);
        marker::clear(&spec.image)?;
        if !spec.keep_undo {
            undo::destroy(&path)?;
        }
        Ok(done)
    }

    /// The scan at the end, and the report.
    fn close(&self, prepared: Prepared, seen: (&Early, &Written), job: &JobContext) -> Result<Outcome> {
        let spec = &self.spec;
        job.progress.set_phase("looking for what was removed");
        let mut made = SanitizeSpec { image: prepared.report.image.clone(), ..spec.clone() };
        if spec.target.is_some() {
            made.format = None;
        }
        // What was planned on is of no more use, and takes memory.
        let Prepared { mut report, needles, .. } = prepared;
        report.scan = Some(residue::look(&made, &needles, seen, job)?);
        for o in &mut report.operations {
            if o.state == State::Planned {
                o.state = State::Done;
            }
        }
        let r = &report;
        let summary = match (r.is_empty(), r.failed()) {
            (true, _) => format!("{}: there was nothing to do", r.image.display()),
            (_, true) => format!("{} is sanitised, but some of what was removed is still in its bytes", r.image.display()),
            _ => format!("{} is sanitised: {} files changed", r.image.display(), r.files()),
        };
        job.log(summary.clone());
        job.set_report(Arc::new(r.clone()));
        let made = spec.target.iter().cloned().chain(r.undo.iter().filter_map(|u| u.path.clone())).collect();
        Ok(Outcome { summary, made })
    }
}

/// Wiping is among what is done.
fn scrubs(report: &Report) -> bool {
    report.operations.iter().any(|o| o.id == "scrub")
}

fn no_undo(path: &Path) -> Error {
    Error::new(ErrorKind::NotFound, "there is no undo file")
        .path(path)
        .hint("it was destroyed, or the image was never sanitised in place")
}

fn half_done(path: &Path) -> Error {
    Error::new(ErrorKind::Unsupported, "the sanitising was interrupted, and the image is half done")
        .path(path)
        .hint("take it back first, with --undo")
}

impl Operation for Sanitize {
    fn claims(&self) -> Result<Vec<Claim>> {
        let spec = &self.spec;
        Ok(match &spec.target {
            Some(to) => vec![Claim::read(&spec.image), Claim::write(to)],
            None => vec![Claim::write(&spec.image)],
        })
    }

    fn plan(&self) -> Result<Plan> {
        self.plan_for(false, &JobContext::detached())
    }

    fn plan_run(&self, job: &JobContext) -> Result<Plan> {
        self.plan_for(true, job)
    }

    fn run(&self, _: &Plan, job: &JobContext) -> Result<Outcome> {
        let spec = &self.spec;
        match (spec.action, &spec.target) {
            (Action::Undo, _) => {
                let path = spec.undo_path();
                if !self.roll_back(false, job)? {
                    return Err(no_undo(&path));
                }
                Ok(Outcome {
                    summary: format!("{} is what it was before it was sanitised", spec.image.display()),
                    made: Vec::new(),
                })
            }
            (Action::DestroyUndo, _) => {
                let Some((path, undo)) = spec.find_undo()? else { return Err(no_undo(&spec.undo_path())) };
                if undo.state != undo::State::Done {
                    return Err(half_done(&path));
                }
                drop(undo);
                undo::destroy(&path)?;
                Ok(Outcome { summary: format!("{} is destroyed", path.display()), made: Vec::new() })
            }
            (Action::Sanitize, None) => self.in_place(job),
            (Action::Sanitize, Some(to)) => {
                let prepared = copy::copy(spec, to, |job| self.ready(self.planned(), job), job)?;
                self.close(prepared, (&Early::default(), &Written::default()), job)
            }
        }
    }
}

impl Sanitize {
    /// The plan; when a `run` follows, what it prepared goes on being scanned.
    fn plan_for(&self, run: bool, job: &JobContext) -> Result<Plan> {
        let spec = &self.spec;
        if spec.action != Action::Sanitize {
            return self.plan_undo();
        }
        if spec.target.is_none() && interrupted(&spec.image) {
            return Ok(Plan {
                title: spec.title(),
                steps: vec!["a sanitise that was interrupted is rolled back".into(), "then it is done anew".into()],
                writes: vec![PlanFile { path: spec.image.clone(), what: "image, changed in place".into() }],
                undo: Undo::Possible("sanitize --undo".into()),
                ..Plan::default()
            });
        }
        let losses = match spec.target {
            None => dependents::losing(&spec.image, &spec.roots)?,
            Some(_) => Vec::new(),
        };
        let (report, ready) = foresee(spec, run, job)?;
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = Some(ready);
        Ok(Plan { losses, ..self.plan_of(report) })
    }
}
