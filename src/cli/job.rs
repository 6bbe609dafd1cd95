//! Running one job in the foreground: progress, signals, the exit code. The same runner serves the workbench.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::Failure;
use super::out::{Out, Tone, size};
use crate::engine::error::Error;
use crate::engine::job::{JobState, JobView, ProgressSnapshot, Runner, RunnerOptions, SubmitOptions, remote, takes};
use crate::engine::ops::JobSpec;
use crate::engine::ops::convert::tells_of_resume;
use crate::engine::ops::plan::Plan;
use crate::engine::ops::sanitize::Report;
use crate::engine::units::printable;
use crate::term::dirs::{runtime_dir, state_dir};

/// Exit code after an interrupt, as shells have it.
const INTERRUPTED: u8 = 130;
/// Time between two looks at the progress.
const TICK: Duration = Duration::from_millis(250);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Shown {
    /// Not at all.
    #[default]
    Nothing,
    /// One line that is written over and over, as qemu-img's `-p`.
    Bar,
    /// A JSON object per line.
    Json,
}

/// The flags of verbs that run as a job.
#[derive(Debug, clap::Args)]
pub(super) struct JobArgs {
    /// Show progress
    #[arg(short = 'p')]
    bar: bool,

    /// Show progress, as a line that is written over or as JSON objects, one per line
    #[arg(long, value_name = "json|bar", num_args = 0..=1, require_equals = true, default_missing_value = "bar",
          value_parser = ["bar", "json"])]
    progress: Option<String>,

    /// Print the plan and write nothing
    #[arg(long)]
    dry_run: bool,
}

impl JobArgs {
    /// Only the plan was asked for.
    pub(super) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// How progress is to be shown.
    pub(super) fn shown(&self, quiet: bool) -> Shown {
        match self.progress.as_deref() {
            Some("json") => Shown::Json,
            _ if quiet => Shown::Nothing,
            Some(_) => Shown::Bar,
            None if self.bar => Shown::Bar,
            None => Shown::Nothing,
        }
    }

    /// Does what `spec` says, or prints its plan.
    pub(super) fn run(&self, spec: JobSpec, out: &mut Out) -> Result<u8, Failure> {
        if self.dry_run {
            let mut plan = spec.plan()?;
            plan.duration = takes(&plan, &spec, state_dir().as_deref());
            match self.shown(false) {
                Shown::Json => out.json(&plan)?,
                _ => print_plan(&plan, out)?,
            }
            return Ok(0);
        }
        foreground(spec, self.shown(out.quiet), out)
    }
}

/// Prints a plan for people.
pub(super) fn print_plan(plan: &Plan, out: &mut Out) -> std::io::Result<()> {
    for line in plan.lines(size) {
        let label = out.paint(if line.warns { Tone::Warning } else { Tone::Label }, format!("{:>8}", line.label));
        out.line(format!("{label}  {}", printable(&line.text)))?;
    }
    Ok(())
}

/// Runs one job to its end.
pub(super) fn foreground(spec: JobSpec, shown: Shown, out: &mut Out) -> Result<u8, Failure> {
    foreground_report(spec, shown, out).map(|(code, _)| code)
}

/// The same, with the report that a sanitising left.
pub(super) fn foreground_report(spec: JobSpec, shown: Shown, out: &mut Out) -> Result<(u8, Option<Arc<Report>>), Failure> {
    let options = RunnerOptions {
        parallel: 1,
        state_dir: state_dir(),
        // Without a person there nobody makes space: a script that hangs is worse than one that fails.
        wait_for_space: std::io::stderr().is_terminal() && shown != Shown::Json,
    };
    let runner = Runner::new(options, |_| {});
    // Without a socket nobody can steer it from outside; that is no reason not to do it.
    let _served = runtime_dir().and_then(|dir| remote::serve(&runner, &dir).ok());
    // A signal is heard from before the first file is made; what came before the job was there is not lost.
    let interrupted = cancel_on_signal(&runner);
    let id = runner.submit(spec, SubmitOptions::default());
    if interrupted.load(std::sync::atomic::Ordering::SeqCst) {
        runner.cancel(id);
    }
    let mut told = String::new();
    let mut resumed = out.quiet;
    let mut tell = || {
        let lines = if resumed { Vec::new() } else { runner.log(id) };
        if let Some(line) = lines.iter().find(|l| tells_of_resume(&l.text)) {
            eprintln!("cowshed: {}", printable(&line.text));
            resumed = true;
        }
    };
    let done = loop {
        if let Some(view) = runner.wait(id, TICK) {
            break view;
        }
        let Some(view) = runner.view(id) else { continue };
        tell();
        show(&view, shown, out)?;
        if let (JobState::Paused, Some(why)) = (view.state, &view.why)
            && told != *why
        {
            eprintln!("cowshed: paused: {}", printable(why));
            told.clone_from(why);
        }
    };
    tell();
    show(&done, shown, out)?;
    if shown == Shown::Bar {
        out.line("")?;
    }
    match (done.state, done.error) {
        (JobState::Done, _) => {
            // What is written in place may matter to others, and is said even when it went well.
            let plans = || done.plan.iter();
            let also = plans().filter(|_| matches!(done.spec, JobSpec::Resize(_))).flat_map(|p| p.warnings.iter());
            for line in plans().flat_map(|p| p.losses.iter()).chain(also).filter(|_| !out.quiet) {
                eprintln!("cowshed: warning: {}", printable(line));
            }
            Ok((0, runner.report(id)))
        }
        (_, Some(error)) => Err(error.into()),
        _ => {
            let code = if interrupted.load(std::sync::atomic::Ordering::SeqCst) { INTERRUPTED } else { 1 };
            Err(Failure::from(Error::new(crate::engine::error::ErrorKind::Cancelled, "cancelled; nothing was left behind"))
                .code(code))
        }
    }
}

fn show(view: &JobView, shown: Shown, out: &mut Out) -> std::io::Result<()> {
    let p = &view.progress;
    match shown {
        Shown::Nothing => return Ok(()),
        Shown::Bar => write!(out, "\r{}", bar(p))?,
        Shown::Json => {
            let line = json!({
                "state": view.state, "phase": p.phase, "percent": (f64::from(p.percent) * 10.0).round() / 10.0,
                "total": p.total, "done": p.done, "read": p.read, "written": p.written, "skipped": p.skipped,
                "durable": p.durable, "read-rate": p.read_rate, "write-rate": p.write_rate,
                "eta": p.eta.map(|e| e.left.as_secs_f64()), "eta-spread": p.eta.map(|e| e.spread.as_secs_f64()),
                "bound-by": p.bound, "elapsed": p.elapsed.as_secs_f64(), "why": view.why.as_deref().map(printable),
            });
            out.line(line)?;
        }
    }
    Write::flush(out)
}

/// qemu-img's form first, what else is known after it.
fn bar(p: &ProgressSnapshot) -> String {
    let rate = p.read_rate.map(|r| format!("  {}/s", size(r))).unwrap_or_default();
    let eta = p.eta.map(|e| format!("  {} s left (±{} s)", e.left.as_secs(), e.spread.as_secs())).unwrap_or_default();
    format!("    ({:.2}/100%)  {}{rate}{eta}\x20\x20\x20\x20", p.percent, p.phase)
}

/// Cancels the runner's jobs on SIGINT, SIGTERM and SIGHUP, from the moment this returns. The answer tells whether one came.
fn cancel_on_signal(runner: &Runner) -> std::sync::Arc<std::sync::atomic::AtomicBool> {
    use tokio::signal::unix::{SignalKind, signal};
    let flag = std::sync::Arc::<std::sync::atomic::AtomicBool>::default();
    let (runner, seen) = (runner.clone(), flag.clone());
    let (listening, ready) = std::sync::mpsc::channel::<()>();
    let wait = move || {
        let Ok(rt) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        rt.block_on(async {
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
            let [Ok(mut int), Ok(mut term), Ok(mut hup)] = kinds else { return };
            let _ = listening.send(());
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
                _ = hup.recv() => {}
            }
            seen.store(true, std::sync::atomic::Ordering::SeqCst);
            for job in runner.list() {
                runner.cancel(job.id);
            }
        });
    };
    // Without the thread a signal kills us, which leaves a partial file and nothing else.
    if std::thread::Builder::new().name("signals".into()).spawn(wait).is_ok() {
        // An error says that the thread gave up; either way there is nothing more to wait for.
        let _ = ready.recv();
    }
    flag
}
