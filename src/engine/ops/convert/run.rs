//! The course of a conversion, from the locks to the name.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::baseline::Baseline;
use super::copy::{Copy, Manner};
use super::source::Sources;
use super::spec::ConvertSpec;
use super::target::Target;
use super::verify;
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::write::NewBacking;
use crate::engine::io::file::FileId;
use crate::engine::job::JobContext;
use crate::engine::ops::Outcome;
use crate::engine::ops::pipeline::{self, Pace};
use crate::engine::ops::plan::Plan;
use crate::engine::ops::stage::Stage;
use crate::engine::units::about;

/// Time between durable points. Each costs a flush, which the disk must do sooner or later anyway.
const SETTLE: Duration = Duration::from_secs(5);

/// How the lines of the log begin that say what became of `--resume`.
const GOES_ON: &str = "goes on at";
const BEGINS_ANEW: &str = "begins anew:";

/// True for the line of a job's log that says what became of `--resume`.
pub(super) fn tells_of_resume(line: &str) -> bool {
    line.starts_with(GOES_ON) || line.starts_with(BEGINS_ANEW)
}

/// What the journal keeps for a resume.
#[derive(serde::Serialize, serde::Deserialize, PartialEq)]
struct State {
    /// The conversion, apart from what does not change the result.
    plan: ConvertSpec,
    /// Every file read: path, device, inode, length, time of change.
    sources: Vec<(PathBuf, u64, u64, u64, i64, i64)>,
    /// The partial file.
    partial: PathBuf,
    /// Files beside it.
    extras: Vec<String>,
}

/// Does it. `kept` is set when partial files were left on purpose.
pub(super) fn run(
    spec: &ConvertSpec,
    sources: &Sources,
    baseline: Option<(Baseline, NewBacking)>,
    plan: &Plan,
    job: &JobContext,
    kept: &AtomicBool,
) -> Result<Outcome> {
    if let Some(rate) = spec.rate {
        job.set_limit(rate);
    }
    let (baseline, backing) = baseline.unzip();
    let mut held = sources.hold(spec.force_share)?;
    let mut protected = sources.ids();
    if let Some(baseline) = &baseline {
        held.extend(baseline.hold(spec.force_share)?);
        protected.extend(baseline.ids());
    }
    let target = match resumed(spec, sources, &protected, backing.clone(), job)? {
        Some(target) => target,
        None => Target::open(spec, protected, sources.size(), backing)?,
    };
    let passes = 1 + u64::from(spec.verify);
    job.progress.set_total(plan.read_bytes.saturating_mul(passes).max(1));
    job.progress.set_phase("copying");
    if let Some(layout) = plan.layout.as_ref().filter(|_| target.from > 0) {
        job.progress.add_done(layout.data_before(target.from));
    }
    job.log(format!("{}: {} of data on a disk of {}", plan.title, about(plan.read_bytes), about(sources.size())));

    let state = State {
        plan: essence(spec),
        sources: fingerprint(sources),
        partial: crate::engine::ops::stage::partial_name(&spec.target),
        extras: target.extras(),
    };
    let state = serde_json::to_value(&state).unwrap_or_default();
    let journaled = job.journaled() && target.resumable();
    let mark = |done: u64| {
        if journaled {
            job.mark(done, state.clone());
        }
    };
    mark(target.from);
    let manner =
        Manner { blank: target.blank, compress: spec.compress, sparse: spec.sparse, salvage: spec.salvage, digests: spec.verify };
    let copy = Copy {
        sources,
        // What an existing target holds is not known, so nothing of it can be taken for granted.
        baseline: baseline.as_ref().filter(|_| target.blank),
        writer: target.writer.clone(),
        job,
        manner,
        target: spec.target.clone(),
        mark: &mark,
        pieces: Mutex::default(),
        lost: AtomicU64::new(0),
    };
    let pace = Pace { workers: workers(spec), settle_every: journaled.then_some(SETTLE) };
    let copied = pipeline::run(&copy, target.from, pace, job).and_then(|()| sources.unchanged()).and_then(|()| {
        job.progress.set_phase("making it durable");
        let bitmaps = sources.bitmaps(spec)?;
        if !bitmaps.is_empty() {
            target.writer.add_bitmaps(&bitmaps).path(&spec.target)?;
        }
        copy.persist(|| target.writer.finish())?;
        target.flush()
    });
    let Copy { pieces, lost, .. } = copy;
    let mut target = target;
    if let Err(e) = copied {
        if !target.blank {
            // An image of others stays with what was written to it: its bitmaps that record have to know of that.
            let _ = target.writer.finish();
        }
        // Stopped by a person who wants to go on later, or by a full disk: what is durable stays.
        let keep = journaled && (job.leaving() || e.kind() == ErrorKind::NoSpace) && job.progress.snapshot(false).durable > 0;
        target.keep(keep);
        kept.store(keep, Relaxed);
        return Err(if keep {
            e.hint("make space and run the same conversion with --resume: it goes on where it stopped")
        } else {
            e
        });
    }
    mark(sources.size());
    if spec.verify {
        job.progress.set_phase("verifying");
        let pieces = pieces.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        verify::compare(&target, sources, pieces, job)?;
    }
    job.finishing()?;
    let made = target.commit()?;
    let mut outcome = Outcome { summary: format!("{} is complete", spec.target.display()), made };
    let lost = lost.load(Relaxed);
    if lost > 0 {
        outcome.summary.push_str(&format!(", but {lost} bytes could not be read and are zeros"));
    }
    if spec.checksum {
        outcome.made.push(verify::checksum(&spec.target)?);
    }
    job.log(outcome.summary.clone());
    Ok(outcome)
}

/// What decides the result.
fn essence(spec: &ConvertSpec) -> ConvertSpec {
    ConvertSpec { resume: false, threads: None, rate: None, ..spec.clone().absolute() }
}

/// By absolute paths, so that it can be gone on with from any folder.
fn fingerprint(sources: &Sources) -> Vec<(PathBuf, u64, u64, u64, i64, i64)> {
    let full = |p: PathBuf| std::path::absolute(&p).unwrap_or(p);
    sources.fingerprint().into_iter().map(|(p, id, len, s, ns)| (full(p), id.dev, id.ino, len, s, ns)).collect()
}

/// Worker threads: while some wait for the disk, others compute.
fn workers(spec: &ConvertSpec) -> usize {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    spec.threads.unwrap_or(processors + 2).clamp(1, 16)
}

/// The target of an earlier run, when there is one to go on with and that was asked for; says why not when there is none.
fn resumed(
    spec: &ConvertSpec,
    sources: &Sources,
    protected: &[FileId],
    backing: Option<NewBacking>,
    job: &JobContext,
) -> Result<Option<Target>> {
    if !spec.resume {
        return Ok(None);
    }
    let why = match job.earlier() {
        None => "no earlier run of it is in the journal".to_string(),
        Some((durable, state)) => match check(spec, sources, &state) {
            Err(why) => why,
            Ok(state) => match Target::resume(spec, protected.to_vec(), backing, &state.extras, durable) {
                Ok(target) => {
                    job.log(format!("{GOES_ON} {}, where an earlier run was durable", about(durable)));
                    job.progress.add_skipped(durable);
                    return Ok(Some(target));
                }
                Err(e) if e.kind() == ErrorKind::Locked => return Err(e),
                Err(e) => e.to_string(),
            },
        },
    };
    job.log(format!("{BEGINS_ANEW} {why}"));
    Ok(None)
}

/// Compares what the journal has with what is asked now.
fn check(spec: &ConvertSpec, sources: &Sources, state: &serde_json::Value) -> Result<State, String> {
    let old: State = serde_json::from_value(state.clone()).map_err(|e| format!("the journal is not understood ({e})"))?;
    if old.plan != essence(spec) {
        return Err("the earlier run was asked for something else".into());
    }
    let fresh = fingerprint(sources);
    if let Some((path, ..)) = old.sources.iter().find(|f| !fresh.contains(f)) {
        return Err(format!("{} has changed since", path.display()));
    }
    if old.sources.len() != fresh.len() {
        return Err("the source consists of other files now".into());
    }
    Ok(old)
}

/// Whether what an unfinished run left can be gone on with.
pub(super) fn resumable(spec: &ConvertSpec, sources: &Sources, state: &serde_json::Value) -> Result<()> {
    let state = check(spec, sources, state).map_err(|why| Error::usage(why).op("resume").path(&spec.target))?;
    if !state.partial.is_file() {
        return Err(Error::new(ErrorKind::NotFound, "what it had written is no longer there").op("resume").path(&state.partial));
    }
    Ok(())
}

/// Removes the partial files an unfinished run left.
pub(super) fn discard(spec: &ConvertSpec, state: &serde_json::Value) -> Result<()> {
    let extras = serde_json::from_value::<State>(state.clone()).map(|s| s.extras).unwrap_or_default();
    // Opened and dropped: a stage that is not committed removes its files, and one that another process has is refused.
    match Stage::resume(&spec.target, &extras, Vec::new()) {
        Ok(mut stage) => {
            stage.keep(false);
            Ok(())
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// An error of ours for a target that does not hold what was written.
pub(super) fn differs(offset: u64) -> Error {
    Error::new(ErrorKind::Corrupt, "the target does not read back as it was written")
        .op("verify")
        .at(offset)
        .hint("the disk or its driver loses data; nothing was left under the final name")
}
