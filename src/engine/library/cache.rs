//! What is known between runs, in one file that the caller names: a heading, a line with every list of matches that occurs (there are
//! few: thousands of images say the same of themselves), and for every file that was read its stamp and its facts, one JSON line
//! each. A cache that cannot be read, is damaged or of another version is no error: everything is read again.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::entry::{Facts, Member, Stamp};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::Format;
use crate::engine::format::probe::Match;
use crate::engine::model::{BackingRef, Identity};

/// First line of the file. Changes with whatever changes the meaning of a line, and with every release, as probing gets better.
const HEADER: &str = concat!("cowshed library cache 2 ", env!("CARGO_PKG_VERSION"));

/// A file younger than this when it was read may change again without its stamp changing (the kernel's clock ticks every few
/// milliseconds), so it is not kept.
const SETTLED_NS: i64 = 50_000_000;

/// What is known of a file: `facts` is `None` when it is no image.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) stamp: Stamp,
    pub(super) facts: Option<Arc<Facts>>,
    pub(super) allocated: Option<u64>,
}

/// The cache in memory.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// By path; as a plain string, which is hashed faster than a path's parts.
    known: HashMap<OsString, Known>,
}

/// One line.
#[derive(serde::Serialize, serde::Deserialize)]
struct Line<'a> {
    #[serde(rename = "p", borrow)]
    path: std::borrow::Cow<'a, str>,
    #[serde(rename = "s")]
    stamp: (u64, u64, u64, i64, i64),
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    allocated: Option<u64>,
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    facts: Option<Saved>,
}

/// [`Facts`] as they are kept: short names, nothing that is empty.
#[derive(serde::Serialize, serde::Deserialize, Default)]
#[serde(default)]
struct Saved {
    #[serde(rename = "f", skip_serializing_if = "Option::is_none")]
    format: Option<Format>,
    /// Which list of matches.
    #[serde(rename = "m")]
    matches: usize,
    #[serde(rename = "v", skip_serializing_if = "Option::is_none")]
    virtual_size: Option<u64>,
    #[serde(rename = "c", skip_serializing_if = "Option::is_none")]
    cluster_size: Option<u64>,
    #[serde(rename = "n", skip_serializing_if = "Option::is_none")]
    snapshots: Option<u32>,
    #[serde(rename = "b", skip_serializing_if = "Option::is_none")]
    backing: Option<BackingRef>,
    #[serde(rename = "i", skip_serializing_if = "Option::is_none")]
    identity: Option<Identity>,
    #[serde(rename = "x", skip_serializing_if = "Vec::is_empty")]
    members: Vec<Member>,
    /// Dirty, corrupt, compressed.
    #[serde(rename = "d", skip_serializing_if = "is_unset")]
    flags: (bool, bool, bool),
    #[serde(rename = "k", skip_serializing_if = "Option::is_none")]
    encrypted: Option<String>,
    #[serde(rename = "w", skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    #[serde(rename = "e", skip_serializing_if = "Option::is_none")]
    error: Option<SavedError>,
}

fn is_unset(flags: &(bool, bool, bool)) -> bool {
    *flags == (false, false, false)
}

#[derive(serde::Serialize, serde::Deserialize)]
struct SavedError {
    kind: ErrorKind,
    why: String,
    op: Option<String>,
    path: Option<PathBuf>,
    at: Option<u64>,
    hint: Option<String>,
}

impl Cache {
    /// What the file at `path` holds; nothing when it is not there or not ours.
    pub(super) fn load(path: &Path) -> Self {
        let Ok(text) = std::fs::read_to_string(path) else { return Cache::default() };
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Cache::default();
        }
        let Some(matches) = lines.next().and_then(|l| serde_json::from_str::<Vec<Vec<Match>>>(l).ok()) else {
            return Cache::default();
        };
        let matches: Vec<Arc<[Match]>> = matches.into_iter().map(Arc::from).collect();
        let lines: Vec<&str> = lines.collect();
        // Two halves on two threads.
        let (a, b) = lines.split_at(lines.len() / 2);
        let parse = |lines: &[&str]| {
            let mut out = Vec::with_capacity(lines.len());
            out.extend(lines.iter().filter_map(|l| parse(l, &matches)));
            out
        };
        let (a, b) = std::thread::scope(|s| {
            let other = s.spawn(|| parse(b));
            (parse(a), other.join().unwrap_or_default())
        });
        let mut known = HashMap::with_capacity(lines.len());
        known.extend(a.into_iter().chain(b));
        Cache { known }
    }

    /// What is known of the file at `path`, if it has not changed since, nor any file it consists of.
    pub(super) fn get(&self, path: &Path, stamp: Stamp) -> Option<&Known> {
        let known = self.known.get(path.as_os_str()).filter(|k| k.stamp == stamp)?;
        let members = known.facts.iter().flat_map(|f| &f.members);
        let same = |m: &Member| std::fs::metadata(&m.path).is_ok_and(|now| Stamp::of(&now) == m.stamp);
        members.into_iter().all(same).then_some(known)
    }

    /// Keeps what reading a file said. Not kept: what may change without the file changing.
    pub(super) fn put(&mut self, path: PathBuf, known: Known) {
        if keeps(&known) {
            self.known.insert(path.into(), known);
        } else {
            self.known.remove(path.as_os_str());
        }
    }

    /// Notes how many bytes of guest data the image at `path` stores, if it is known.
    pub(super) fn set_allocated(&mut self, path: &Path, stamp: Stamp, bytes: u64) -> bool {
        match self.known.get_mut(path.as_os_str()).filter(|k| k.stamp == stamp) {
            Some(known) => known.allocated.replace(bytes) != Some(bytes),
            None => false,
        }
    }

    /// True when it knows just so many files: if that many were found in it, none is gone.
    pub(super) fn has(&self, files: u64) -> bool {
        self.known.len() as u64 == files
    }

    /// Forgets what lies below `roots` and is not in `seen`; says whether there was any.
    pub(super) fn retain(&mut self, roots: &[PathBuf], seen: &[PathBuf]) -> bool {
        let below = |p: &OsStr| roots.iter().any(|r| Path::new(p).starts_with(r));
        let before = self.known.len();
        let seen: HashSet<&OsStr> = seen.iter().map(|p| p.as_os_str()).collect();
        self.known.retain(|p, _| seen.contains(p.as_os_str()) || !below(p));
        self.known.len() != before
    }

    /// Writes the cache to `path`, whole or not at all. Its folder is made when it is not there.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let mut out = Vec::with_capacity(self.known.len() * 256);
        out.extend_from_slice(HEADER.as_bytes());
        out.push(b'\n');
        let mut lists: Vec<&[Match]> = Vec::new();
        let mut index: HashMap<&[Match], usize> = HashMap::new();
        for facts in self.known.values().filter_map(|k| k.facts.as_deref()) {
            index.entry(&facts.matches).or_insert_with(|| {
                lists.push(&facts.matches);
                lists.len() - 1
            });
        }
        serde_json::to_writer(&mut out, &lists).map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
        for (file, known) in &self.known {
            // A path that is no UTF-8 is not kept: its file is read each time.
            let Some(file) = file.to_str() else { continue };
            let s = known.stamp;
            let line = Line {
                path: file.into(),
                stamp: (s.dev, s.ino, s.len, s.mtime_ns, s.ctime_ns),
                allocated: known.allocated,
                facts: known.facts.as_deref().map(|f| Saved::of(f, index.get(&*f.matches).copied().unwrap_or_default())),
            };
            let start = out.len();
            out.push(b'\n');
            if serde_json::to_writer(&mut out, &line).is_err() {
                out.truncate(start);
            }
        }
        out.push(b'\n');
        let dir = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir).op("save the library cache").path(dir)?;
        let partial = path.with_extension(format!("partial-{}", std::process::id()));
        let written =
            std::fs::File::create(&partial).and_then(|mut f| f.write_all(&out)).and_then(|()| std::fs::rename(&partial, path));
        if written.is_err() {
            let _ = std::fs::remove_file(&partial);
        }
        written.op("save the library cache").path(path)
    }
}

fn parse(line: &str, matches: &[Arc<[Match]>]) -> Option<(OsString, Known)> {
    let line: Line<'_> = serde_json::from_str(line).ok()?;
    let (dev, ino, len, mtime_ns, ctime_ns) = line.stamp;
    let facts = match line.facts {
        Some(f) => Some(Arc::new(f.facts(matches)?)),
        None => None,
    };
    let stamp = Stamp { dev, ino, len, mtime_ns, ctime_ns };
    Some((line.path.into_owned().into(), Known { stamp, facts, allocated: line.allocated }))
}

fn keeps(known: &Known) -> bool {
    let now =
        SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_nanos()).ok()).unwrap_or(i64::MAX);
    let settled = now.saturating_sub(known.stamp.ctime_ns) > SETTLED_NS;
    // These errors may go away without the file changing: permissions, a missing extent, the gate's roots.
    let own =
        |e: &Error| matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Truncated | ErrorKind::Unsupported | ErrorKind::Format);
    settled && known.facts.as_ref().and_then(|f| f.error.as_ref()).is_none_or(own)
}

impl Saved {
    fn of(f: &Facts, matches: usize) -> Self {
        let f = f.clone();
        Saved {
            format: f.format,
            matches,
            virtual_size: f.virtual_size,
            cluster_size: f.cluster_size,
            snapshots: f.snapshots,
            backing: f.backing,
            identity: (f.identity != Identity::default()).then_some(f.identity),
            members: f.members,
            flags: (f.dirty, f.corrupt, f.compressed),
            encrypted: f.encrypted,
            warnings: f.warnings,
            error: f.error.as_ref().map(|e| SavedError {
                kind: e.kind(),
                why: e.why().to_string(),
                op: e.operation().map(str::to_string),
                path: e.file().map(Path::to_path_buf),
                at: e.offset(),
                hint: e.advice().map(str::to_string),
            }),
        }
    }

    fn facts(self, matches: &[Arc<[Match]>]) -> Option<Facts> {
        Some(Facts {
            format: self.format,
            matches: matches.get(self.matches)?.clone(),
            virtual_size: self.virtual_size,
            cluster_size: self.cluster_size,
            snapshots: self.snapshots,
            backing: self.backing,
            identity: self.identity.unwrap_or_default(),
            members: self.members,
            dirty: self.flags.0,
            corrupt: self.flags.1,
            compressed: self.flags.2,
            encrypted: self.encrypted,
            warnings: self.warnings,
            error: self.error.map(SavedError::error),
        })
    }
}

impl SavedError {
    fn error(self) -> Error {
        let mut e = Error::new(self.kind, self.why);
        if let Some(op) = self.op {
            e = e.op(op);
        }
        if let Some(path) = self.path {
            e = e.path(path);
        }
        if let Some(at) = self.at {
            e = e.at(at);
        }
        match self.hint {
            Some(hint) => e.hint(hint),
            None => e,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::model::ParentIdentity;

    #[test]
    fn comes_back_as_it_was_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sub/cache");
        let facts = Facts {
            format: Some(Format::Vhdx),
            matches: Match::certain(Format::Vhdx, "seen").into_iter().collect(),
            virtual_size: Some(u64::MAX),
            snapshots: Some(3),
            backing: Some(BackingRef {
                names: vec!["\u{1b}[31m\"x".into()],
                format: None,
                identity: ParentIdentity::AnyUuid(vec!["u".into()]),
            }),
            dirty: true,
            error: Some(Error::corrupt("bad").op("read").path("/x").at(7).hint("do")),
            ..Facts::default()
        };
        let stamp = Stamp { dev: 1, ino: 2, len: 3, mtime_ns: -4, ctime_ns: 5 };
        let mut cache = Cache::default();
        cache.put("/a".into(), Known { stamp, facts: Some(Arc::new(facts.clone())), allocated: Some(9) });
        cache.put("/b".into(), Known { stamp, facts: None, allocated: None });
        cache.save(&file).unwrap();
        let back = Cache::load(&file);
        let known = back.get(Path::new("/a"), stamp).unwrap();
        assert_eq!(format!("{:?}", known.facts.as_deref()), format!("{:?}", Some(&facts)));
        assert_eq!(known.allocated, Some(9));
        assert!(back.get(Path::new("/b"), stamp).unwrap().facts.is_none());
        assert!(back.get(Path::new("/a"), Stamp { mtime_ns: 0, ..stamp }).is_none(), "a changed file is not known");
    }

    #[test]
    fn a_damaged_cache_is_no_cache() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cache");
        for bytes in [
            &b""[..],
            b"other\n{}",
            &[0xff; 100],
            format!("{HEADER}\n[]\n{{\"p\":3}}\nnonsense\n").as_bytes(),
            format!("{HEADER}\n[]\n{{\"p\":\"/a\",\"s\":[1,2,3,4,5],\"f\":{{\"m\":7}}}}\n").as_bytes(),
        ] {
            std::fs::write(&file, bytes).unwrap();
            assert!(Cache::load(&file).known.is_empty());
        }
    }

    #[test]
    fn what_may_change_by_itself_is_not_kept() {
        let stamp = Stamp { dev: 1, ino: 2, len: 3, mtime_ns: 4, ctime_ns: 5 };
        let mut cache = Cache::default();
        let facts = Facts { error: Some(Error::new(ErrorKind::Permission, "no")), ..Facts::default() };
        cache.put("/a".into(), Known { stamp, facts: Some(Arc::new(facts)), allocated: None });
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64;
        let young = Stamp { ctime_ns: now, ..stamp };
        cache.put("/b".into(), Known { stamp: young, facts: None, allocated: None });
        assert!(cache.known.is_empty());
    }
}
