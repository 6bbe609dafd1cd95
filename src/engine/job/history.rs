//! The history: one line per finished job, newest last, so that "what did it do yesterday" has an answer and a new plan can say
//! how long it will take.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use super::state::JobState;
use crate::engine::error::{Context, Result};

/// Lines kept when the file is tidied.
const KEEP: usize = 1000;

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
    if f.metadata().map_or(0, |m| m.len()) > 512 * KEEP as u64 {
        let all = read(file);
        let text: String = all
            .iter()
            .skip(all.len().saturating_sub(KEEP / 2))
            .filter_map(|j| serde_json::to_string(j).ok())
            .map(|l| l + "\n")
            .collect();
        let new = file.with_extension("new");
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, file)).op("tidy the history").path(file)?;
    }
    Ok(())
}

/// The history in `file`, oldest first; lines that are not understood are left out.
pub fn read(file: &Path) -> Vec<Finished> {
    let Ok(f) = std::fs::File::open(file) else { return Vec::new() };
    BufReader::new(f).lines().map_while(std::result::Result::ok).filter_map(|l| serde_json::from_str(&l).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/history.jsonl");
        let job = |n: u64| Finished {
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
    }
}
