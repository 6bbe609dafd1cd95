//! The journal: one small file per unfinished job, so that a job that was killed can go on where it was durable.
//!
//! A record is replaced by renaming a new one over it, so it is always whole. Beside it lies a lock file that the working process
//! holds (`flock`): that is how a record of a dead process is told from one at work. The folder is the caller's choice.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::state::JobState;
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::io::sys;
use crate::engine::ops::JobSpec;

/// Version of the record; others are left alone.
const VERSION: u32 = 1;

/// What is known of an unfinished job.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Record {
    version: u32,
    /// Identifies the job across processes: derived from what it makes.
    pub key: String,
    /// What it does, for people.
    pub title: String,
    /// What was asked for.
    pub spec: JobSpec,
    /// Guest bytes, from the start on, that are durable.
    pub durable: u64,
    /// What the operation needs to go on.
    pub state: serde_json::Value,
    /// The process that works, or worked, on it.
    pub pid: u32,
    /// Seconds since 1970 when the record was written.
    pub updated: u64,
    /// Filled in when listed: a process is at work on it now.
    #[serde(skip)]
    pub alive: bool,
}

/// The folder of records.
#[derive(Debug, Clone)]
pub struct Journal {
    dir: PathBuf,
}

impl Journal {
    /// The journal in `dir`, which is made when the first record is written.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Journal { dir: dir.into() }
    }
    /// The key of the job that makes `target`.
    pub fn key(target: &Path) -> String {
        let digest = Sha256::digest(target.as_os_str().as_encoded_bytes());
        digest.iter().take(4).map(|b| format!("{b:02x}")).collect()
    }
    fn record_path(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{key}.json"))
    }
    fn lock_path(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{key}.lock"))
    }

    /// The record called `key`, if there is a readable one.
    pub fn load(&self, key: &str) -> Option<Record> {
        let text = std::fs::read(self.record_path(key)).ok()?;
        let mut record: Record = serde_json::from_slice(&text).ok()?;
        if record.version != VERSION || record.key != key {
            return None;
        }
        record.alive = File::open(self.lock_path(key)).is_ok_and(|f| !sys::try_flock(&f).unwrap_or(true));
        Some(record)
    }

    /// Every unfinished job, latest first.
    pub fn unfinished(&self) -> Vec<Record> {
        let mut all: Vec<Record> = std::fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.strip_suffix(".json").map(str::to_string))
            .filter_map(|key| self.load(&key))
            .collect();
        all.sort_by_key(|r| std::cmp::Reverse(r.updated));
        all
    }

    /// Removes the record called `key`.
    pub fn forget(&self, key: &str) {
        let _ = std::fs::remove_file(self.record_path(key));
        let _ = std::fs::remove_file(self.lock_path(key));
    }

    /// Takes hold of the record for `target`, for the job `spec`.
    ///
    /// Errors: another process is at work on it (`Locked`), the folder cannot be written.
    pub fn hold(&self, target: &Path, spec: &JobSpec) -> Result<Mark> {
        std::fs::create_dir_all(&self.dir).op("make the journal's folder").path(&self.dir)?;
        let key = Self::key(target);
        let path = self.lock_path(&key);
        let lock = File::create(&path).op("open the journal").path(&path)?;
        if !sys::try_flock(&lock).op("lock the journal").path(&path)? {
            return Err(Error::new(ErrorKind::Locked, "another cowshed is at work on it")
                .op("begin")
                .path(target)
                .hint("see `cowshed jobs list`"));
        }
        let earlier = self.load(&key).map(|r| (r.durable, r.state));
        Ok(Mark { journal: self.clone(), key, spec: spec.clone().absolute(), earlier, _lock: lock })
    }
}

/// A record in this process's hands; let go when dropped.
#[derive(Debug)]
pub struct Mark {
    journal: Journal,
    key: String,
    spec: JobSpec,
    earlier: Option<(u64, serde_json::Value)>,
    _lock: File,
}

impl Mark {
    /// The record's key.
    pub fn key(&self) -> &str {
        &self.key
    }
    /// What an earlier process left: its durable point and the operation's state.
    pub fn earlier(&self) -> Option<(u64, serde_json::Value)> {
        self.earlier.clone()
    }
    /// Replaces the record, durably: it must not be older than what it speaks of once the job goes on.
    pub fn write(&self, durable: u64, state: serde_json::Value) -> Result<()> {
        let updated = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let record = Record {
            version: VERSION,
            key: self.key.clone(),
            title: self.spec.title(),
            spec: self.spec.clone(),
            durable,
            state,
            pid: std::process::id(),
            updated,
            alive: true,
        };
        let path = self.journal.record_path(&self.key);
        let new = path.with_extension("new");
        let text = serde_json::to_vec_pretty(&record)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("a journal record cannot be written: {e}")))?;
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&new)?;
            std::io::Write::write_all(&mut file, &text)?;
            file.sync_data()?;
            std::fs::rename(&new, &path)
        };
        write().op("write the journal").path(&path)
    }
    /// Removes the record: the job is over.
    pub fn remove(self) {
        self.journal.forget(&self.key);
    }
}

impl Record {
    /// What to submit so that it goes on where it was durable.
    pub fn resumed(&self) -> JobSpec {
        self.spec.clone().resumed()
    }
    /// The state to show it in: at work somewhere, or waiting to be resumed.
    pub fn shown_state(&self) -> JobState {
        if self.alive { JobState::Running } else { JobState::Paused }
    }
}
