//! The history: one line per finished job, newest last, so that "what did it do yesterday" has an answer and a new plan can say
//! how long it will take.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use super::state::JobState;
use crate::engine::error::{Context, Result};

/// Bytes of the file from which on it is tidied; half of that is kept.
const ROOM: u64 = 1 << 20;
/// Lines of a job's log that are kept, the last.
const LOG: usize = 40;
/// Bytes of such a line that are kept.
const LINE: usize = 300;

/// A job that is over.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Finished {
    /// What it did, for people.
    pub title: String,
    /// The verb: `convert`, …
    pub verb: String,
    /// What sort of work it was ([`crate::engine::ops::JobSpec::sort`]); jobs of one sort go equally fast.
    #[serde(default)]
    pub sort: String,
    /// How it ended.
    pub state: JobState,
    /// The error's line, when it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// Seconds since 1970 when it ended.
    pub ended: u64,
    /// Seconds it worked, pauses left out.
    pub seconds: f64,
    /// Guest bytes read.
    pub read: u64,
    /// Guest bytes written.
    pub written: u64,
    /// What came of it, when it is done.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub summary: Option<String>,
    /// The arguments of the `cowshed` command that does the same.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub command: Vec<String>,
    /// The end of its log: seconds since 1970, and what.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub log: Vec<(u64, String)>,
    /// The process that did it, and the job's number there.
    #[serde(default)]
    pub by: (u32, u64),
}

impl Finished {
    /// The same with a log no longer than the history keeps.
    pub fn short(mut self) -> Self {
        self.log.drain(..self.log.len().saturating_sub(LOG));
        for (_, line) in &mut self.log {
            if line.len() > LINE {
                *line = line.chars().take(LINE / 2).chain(['…']).collect();
            }
        }
        self
    }
}

/// Adds `job` to the history in `file`; every so often the oldest lines go.
pub fn append(file: &Path, job: &Finished) -> Result<()> {
    let Ok(mut line) = serde_json::to_string(job) else { return Ok(()) };
    line.push('\n');
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir).op("make the history's folder").path(dir)?;
    }
    let mut f = OpenOptions::new().create(true).append(true).open(file).op("open the history").path(file)?;
    // One write of a whole line: other processes append to the same file.
    f.write_all(line.as_bytes()).op("write the history").path(file)?;
    if f.metadata().map_or(0, |m| m.len()) > ROOM {
        let mut kept: Vec<String> = Vec::new();
        let mut bytes = 0;
        for line in read(file).iter().rev().filter_map(|j| serde_json::to_string(j).ok()) {
            bytes += line.len() as u64 + 1;
            if bytes > ROOM / 2 {
                break;
            }
            kept.push(line + "\n");
        }
        kept.reverse();
        let new = file.with_extension("new");
        std::fs::write(&new, kept.concat()).and_then(|()| std::fs::rename(&new, file)).op("tidy the history").path(file)?;
    }
    Ok(())
}

/// The history in `file`, oldest first; lines that are not understood are left out.
pub fn read(file: &Path) -> Vec<Finished> {
    let Ok(f) = std::fs::File::open(file) else { return Vec::new() };
    BufReader::new(f).lines().map_while(std::result::Result::ok).filter_map(|l| serde_json::from_str(&l).ok()).collect()
}

/// Removes the history in `file`; how long a job will take is not known from it any more.
pub fn clear(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).op("clear the history").path(file),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/history.jsonl");
        let job = |n: u64| Finished {
            summary: None,
            command: vec!["convert".into()],
            log: vec![(n, "begins".into())],
            by: (7, n),
            title: format!("convert {n}"),
            verb: "convert".into(),
            sort: "convert".into(),
            state: JobState::Failed,
            error: Some("read, /x: it\nbroke".into()),
            ended: n,
            seconds: 1.5,
            read: n,
            written: 0,
        };
        append(&file, &job(1)).unwrap();
        std::fs::write(&file, [std::fs::read(&file).unwrap(), b"{ half a li\n".to_vec()].concat()).unwrap();
        append(&file, &job(2)).unwrap();
        assert_eq!(read(&file), [job(1), job(2)]);
        clear(&file).unwrap();
        clear(&file).unwrap();
        assert!(read(&file).is_empty());
        // A line of an older version has neither log nor command.
        let old = r#"{"title":"a","verb":"convert","state":"done","ended":1,"seconds":1.5,"read":1,"written":0}"#;
        std::fs::write(&file, format!("{old}\n")).unwrap();
        assert!(matches!(read(&file).as_slice(), [j] if j.log.is_empty() && j.title == "a"), "{:?}", read(&file));
    }

    #[test]
    fn it_stays_small_and_keeps_the_latest() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("history.jsonl");
        let line = |n: usize| (n as u64, "é".repeat(LINE));
        let job = |n: u64| Finished {
            title: "x".into(),
            verb: "convert".into(),
            sort: String::new(),
            state: JobState::Done,
            error: None,
            ended: n,
            seconds: 1.0,
            read: 0,
            written: 0,
            summary: None,
            command: Vec::new(),
            log: (0..100).map(line).collect(),
            by: (1, n),
        };
        assert_eq!(job(1).short().log.len(), LOG);
        assert!(job(1).short().log.iter().all(|(_, l)| l.len() <= LINE + 3));
        for n in 0..200 {
            append(&file, &job(n).short()).unwrap();
            assert!(std::fs::metadata(&file).unwrap().len() <= ROOM);
        }
        let all = read(&file);
        let ends: Vec<u64> = all.iter().map(|j| j.ended).collect();
        assert_eq!(ends, (200 - all.len() as u64..200).collect::<Vec<_>>());
        assert!(all.len() > 10, "{}", all.len());
    }
}
