//! `cowshed jobs`: unfinished work of this user, running or left behind, and what was done before.

use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::json;

use super::job::{Shown, foreground};
use super::out::{Format as Output, Out};
use super::{Failure, Verb};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::job::remote::{RemoteJob, Request, ask, sockets};
use crate::engine::job::{Journal, Record, history};
use crate::engine::units::printable;
use crate::term::dirs::{runtime_dir, state_dir};

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Act {
    /// Show unfinished jobs
    List,
    /// Show jobs that are over
    History,
    /// Park a running job
    Pause,
    /// Let a paused job go on, or go on with one that was killed
    Resume,
    /// Stop a job and remove what it has made so far
    Cancel,
}

/// See and steer jobs: those running in another cowshed, and those that were left unfinished
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cowshed jobs\n  \
    cowshed jobs pause 1f0c33ab\n  \
    cowshed jobs resume 1f0c33ab")]
pub(super) struct Args {
    /// What to do
    #[arg(value_enum, default_value_t = Act::List)]
    act: Act,

    /// Which jobs, as the list names them
    #[arg(value_name = "JOB")]
    jobs: Vec<String>,

    /// For people, or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Output::Human)]
    output: Output,
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> std::result::Result<u8, Failure> {
        match self.act {
            Act::List => list(self.output, out)?,
            Act::History => past(self.output, out)?,
            _ if self.jobs.is_empty() => {
                return Err(Error::usage("no job is named").op("jobs").hint("`cowshed jobs` lists them").into());
            }
            act => {
                for job in &self.jobs {
                    steer(act, job, out)?;
                }
            }
        }
        Ok(0)
    }
}

/// The jobs of every cowshed that runs, each with the socket it answers on.
fn running() -> Vec<(PathBuf, RemoteJob)> {
    let Some(dir) = runtime_dir() else { return Vec::new() };
    let mut all = Vec::new();
    for socket in sockets(&dir) {
        match ask(&socket, &Request::List) {
            Ok(jobs) => all.extend(jobs.into_iter().map(|j| (socket.clone(), j))),
            // Of a process that was killed.
            Err(e) if e.kind() == ErrorKind::NotFound => drop(std::fs::remove_file(&socket)),
            Err(_) => {}
        }
    }
    all
}

fn journal() -> Option<Journal> {
    state_dir().map(|d| Journal::new(d.join("jobs")))
}

fn left_behind() -> Vec<Record> {
    journal().map(|j| j.unfinished()).unwrap_or_default().into_iter().filter(|r| !r.alive).collect()
}

fn list(output: Output, out: &mut Out) -> std::io::Result<()> {
    let running = running();
    let left = left_behind();
    match output {
        Output::Json => {
            let mut all: Vec<_> = running.iter().map(|(_, j)| json!(j)).collect();
            all.extend(left.iter().map(|r| {
                json!({ "id": r.key, "pid": null, "title": printable(&r.title), "state": r.shown_state(), "durable": r.durable,
                        "why": "its process is gone" })
            }));
            out.json(&all)
        }
        Output::Human if running.is_empty() && left.is_empty() => out.line("No unfinished jobs."),
        Output::Human => {
            let mut rows: Vec<Vec<String>> = Vec::new();
            for (_, j) in &running {
                let why = j.why.clone().unwrap_or_default();
                rows.push(vec![j.id.clone(), j.state.to_string(), format!("{:.1} %", j.percent), j.title.clone(), why]);
            }
            for r in &left {
                let why = format!("its process is gone; durable up to {}", super::out::size(r.durable));
                rows.push(vec![r.key.clone(), r.shown_state().to_string(), "—".into(), printable(&r.title), why]);
            }
            out.table(&["JOB", "STATE", "DONE", "WHAT", ""], &rows, &[2])
        }
    }
}

fn past(output: Output, out: &mut Out) -> std::io::Result<()> {
    let all = state_dir().map(|d| history::read(&d.join("history.jsonl"))).unwrap_or_default();
    if output == Output::Json {
        return out.json(&all);
    }
    let time = |s: u64| i64::try_from(s).ok().and_then(|s| jiff::Timestamp::from_second(s).ok()).map(|t| t.to_string());
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|j| {
            let (ended, error) = (time(j.ended).unwrap_or_default(), j.error.as_deref().map(printable).unwrap_or_default());
            vec![ended, j.state.to_string(), format!("{:.1} s", j.seconds), printable(&j.title), error]
        })
        .collect();
    out.table(&["ENDED", "STATE", "TOOK", "WHAT", ""], &rows, &[2])
}

fn steer(act: Act, job: &str, out: &mut Out) -> std::result::Result<(), Failure> {
    if let Some((socket, found)) = running().into_iter().find(|(_, j)| j.id == job) {
        let job = found.id.rsplit('.').next().unwrap_or(&found.id).to_string();
        let request = match act {
            Act::Pause => Request::Pause { job },
            Act::Resume => Request::Resume { job },
            _ => Request::Cancel { job },
        };
        ask(&socket, &request)?;
        return Ok(());
    }
    let record = record(job)?;
    match act {
        Act::Pause => Err(Error::usage("its process is gone: it stands still already").op("pause").path(job).into()),
        Act::Resume => {
            let shown = if out.quiet { Shown::Nothing } else { Shown::Bar };
            foreground(record.resumed(), shown, out).map(drop)
        }
        _ => {
            record.spec.discard(&record.state)?;
            if let Some(journal) = journal() {
                journal.forget(&record.key);
            }
            Ok(())
        }
    }
}

fn record(key: &str) -> Result<Record> {
    left_behind()
        .into_iter()
        .find(|r| r.key == key)
        .ok_or_else(|| Error::usage(format!("there is no unfinished job '{key}'")).op("jobs").hint("`cowshed jobs` lists them"))
}
