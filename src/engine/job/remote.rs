//! Reaching the jobs of another cowshed: a Unix socket in a folder that only its owner can enter. One JSON line asks, one answers.
//!
//! Where the folder is, is the caller's knowledge; it should be one that goes away with the session.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::runner::Runner;
use super::state::{JobId, JobState};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::units::printable;

/// Bytes of a request or an answer, at most.
const LONGEST: u64 = 1 << 20;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked of a running cowshed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase", tag = "do")]
pub enum Request {
    /// Its jobs.
    List,
    /// Pause a job.
    Pause {
        /// Which: its key, or its number in that process.
        job: String,
    },
    /// Let a job go on.
    Resume {
        /// See `Pause`.
        job: String,
    },
    /// Stop a job and remove what it made.
    Cancel {
        /// See `Pause`.
        job: String,
    },
}

/// A job as it is told to another process.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RemoteJob {
    /// The key of its journal record, or `PID.NUMBER` when it has none.
    pub id: String,
    /// The process it runs in.
    pub pid: u32,
    /// What it does; safe to print.
    pub title: String,
    /// Where it stands.
    pub state: JobState,
    /// How far it is.
    pub percent: f32,
    /// Why it waits or is paused.
    #[serde(default)]
    pub why: Option<String>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Answer {
    jobs: Vec<RemoteJob>,
    #[serde(default)]
    error: Option<String>,
}

/// Answers until it is dropped.
pub struct Served {
    path: PathBuf,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Lets other processes of the same user see and steer the jobs of `runner`, through a socket in `dir`.
pub fn serve(runner: &Runner, dir: &Path) -> Result<Served> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).op("make the folder for the socket").path(dir)?;
    let path = dir.join(format!("{}.sock", std::process::id()));
    // One of a dead process with our number.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).op("open the socket").path(&path)?;
    let runner = runner.clone();
    let answer = move || {
        for stream in listener.incoming().flatten() {
            // Whoever asks badly gets no answer, and nobody waits for whom.
            let _ = attend(&runner, stream);
        }
    };
    std::thread::Builder::new().name("jobs-socket".into()).spawn(answer).op("start a thread")?;
    Ok(Served { path })
}

fn attend(runner: &Runner, stream: UnixStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new((&stream).take(LONGEST)).read_line(&mut line)?;
    let error = match serde_json::from_str(&line) {
        Ok(Request::List) => None,
        Ok(Request::Pause { job }) => with(runner, &job, |id| {
            runner.pause(id);
            true
        }),
        Ok(Request::Resume { job }) => with(runner, &job, |id| {
            runner.resume(id);
            true
        }),
        Ok(Request::Cancel { job }) => with(runner, &job, |id| runner.cancel(id)),
        Err(e) => Some(format!("the request is not understood: {e}")),
    };
    let text = serde_json::to_string(&Answer { jobs: jobs(runner), error })?;
    (&stream).write_all(text.as_bytes())?;
    (&stream).write_all(b"\n")
}

fn with(runner: &Runner, job: &str, act: impl Fn(JobId) -> bool) -> Option<String> {
    let found =
        runner.list().into_iter().find(|v| !v.state.is_over() && (v.key.as_deref() == Some(job) || v.id.to_string() == job));
    match found {
        None => Some(format!("there is no job '{job}'")),
        Some(v) if act(v.id) => None,
        Some(v) => Some(format!("job '{job}' is {}: it is too late for that", v.state)),
    }
}

fn jobs(runner: &Runner) -> Vec<RemoteJob> {
    let pid = std::process::id();
    let told = runner.list().into_iter().filter(|v| !v.state.is_over()).map(|v| RemoteJob {
        id: v.key.unwrap_or_else(|| format!("{pid}.{}", v.id)),
        pid,
        title: printable(&v.title),
        state: v.state,
        percent: v.progress.percent,
        why: v.why.as_deref().map(printable),
    });
    told.collect()
}

/// The sockets of running cowsheds in `dir`.
pub fn sockets(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "sock")).collect()
}

/// Asks the cowshed behind `socket`; its jobs after it did what was asked.
///
/// Errors: nobody answers there (`NotFound`), it could not do it (`Usage`).
pub fn ask(socket: &Path, request: &Request) -> Result<Vec<RemoteJob>> {
    let gone = |e: std::io::Error| Error::new(ErrorKind::NotFound, format!("nobody answers: {e}")).path(socket);
    let mut stream = UnixStream::connect(socket).map_err(gone)?;
    stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE))).map_err(gone)?;
    let mut text = serde_json::to_string(request).map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
    text.push('\n');
    stream.write_all(text.as_bytes()).map_err(gone)?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST)).read_line(&mut line).map_err(gone)?;
    let answer: Answer =
        serde_json::from_str(&line).map_err(|e| Error::new(ErrorKind::Corrupt, format!("the answer is not understood: {e}")))?;
    match answer.error {
        Some(why) => Err(Error::usage(printable(&why))),
        None => Ok(answer.jobs),
    }
}
