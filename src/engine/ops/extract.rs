//! Extract: a file or a folder of a guest, copied to the host. Streamed, holes kept; nothing has its final name before it is whole.
//!
//! Order: everything is written below a partial name beside the target, files are flushed, the partial gets its final name, the
//! folder is flushed. A crash leaves a partial, which the next attempt removes.
//!
//! Names come from the guest: each is one name in a folder made here, never a path; links are made last, so that nothing is ever
//! written through one. Owners, set-user-ID bits and special files are left out.

use std::fs::{DirBuilder, File, OpenOptions as Open};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::plan::{Estimate, Plan, PlanFile, Space, Undo};
use super::stage::{SUFFIX, room};
use super::{Operation, Outcome, edit};
use crate::engine::chain::{Chain, OpenOptions};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::Format;
use crate::engine::guest::fs::FileType;
use crate::engine::guest::tree::{Guest, Spot};
use crate::engine::guest::walk::{Step, walk};
use crate::engine::io::Device;
use crate::engine::io::gate::Gate;
use crate::engine::io::locks::Guard;
use crate::engine::job::{Claim, JobContext};
use crate::engine::limits::COPY_CHUNK;
use crate::engine::units::printable_bytes;

/// A hole is kept where this many bytes are zero.
const HOLE: usize = 65536;

/// What to copy out, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ExtractSpec {
    /// The image.
    pub image: PathBuf,
    /// Its format; `None` probes.
    pub format: Option<Format>,
    /// The internal snapshot to look into.
    pub snapshot: Option<String>,
    /// Only the filesystem of this partition; `None` is the guest's root with what it mounts.
    pub partition: Option<u32>,
    /// The file or folder in the guest.
    pub path: String,
    /// What it becomes on the host; an existing folder gets it under its own name.
    pub target: PathBuf,
    /// Look at it although another process may be writing to it.
    #[serde(default)]
    pub force_share: bool,
    /// Folders whose files may be opened when images name them, besides their own.
    pub roots: Vec<PathBuf>,
    /// Open whatever file an image names.
    pub follow: bool,
}

impl ExtractSpec {
    /// `path` of the guest in `image` to `target`.
    pub fn new(image: impl Into<PathBuf>, path: impl Into<String>, target: impl Into<PathBuf>) -> Self {
        ExtractSpec {
            image: image.into(),
            format: None,
            snapshot: None,
            partition: None,
            path: path.into(),
            target: target.into(),
            force_share: false,
            roots: Vec::new(),
            follow: false,
        }
    }

    /// What it does, in a line.
    pub fn title(&self) -> String {
        format!("extract {} of {} to {}", self.path, self.image.display(), self.target.display())
    }

    /// The arguments of the `cowshed` command that does the same.
    pub fn command(&self) -> Vec<String> {
        let mut out: Vec<String> = vec!["extract".into()];
        if let Some(f) = self.format {
            out.extend(["-f".into(), f.name().into()]);
        }
        if let Some(s) = &self.snapshot {
            out.extend(["-l".into(), s.clone()]);
        }
        if let Some(n) = self.partition {
            out.extend(["--partition".into(), n.to_string()]);
        }
        out.extend([(self.force_share, "-U"), (self.follow, "--follow")].iter().filter(|f| f.0).map(|f| f.1.to_string()));
        out.extend([format!("{}:{}", self.image.display(), self.path), self.target.display().to_string()]);
        out
    }
}

/// The operation of an [`ExtractSpec`].
pub struct Extract {
    spec: ExtractSpec,
}

/// The guest, with what keeps writers off while it is read.
struct Opened {
    chain: Chain,
    guest: Guest,
    _guards: Vec<Guard>,
}

/// What is copied.
struct Amount {
    files: u64,
    folders: u64,
    links: u64,
    special: u64,
    bytes: u64,
}

impl Extract {
    /// Touches nothing yet.
    pub fn new(spec: ExtractSpec) -> Self {
        Extract { spec }
    }

    fn open(&self) -> Result<Opened> {
        let s = &self.spec;
        let gate = s.roots.iter().fold(Gate::around(&s.image), |g, r| g.allow(r)).follow(s.follow);
        let chain = Chain::open(&s.image, &OpenOptions { format: s.format, gate: Some(gate), ..OpenOptions::default() })?;
        let disk = match &s.snapshot {
            Some(which) => chain.snapshot_disk(which),
            None => chain.disk(),
        }
        .path(&s.image)?;
        let guards = edit::hold_layers(&disk, s.force_share)?;
        let disk: Device = Arc::new(disk);
        let guest = Guest::open_for(&disk, s.partition).path(&s.image)?;
        Ok(Opened { chain, guest, _guards: guards })
    }

    /// Where it goes: into an existing folder under its own name, else to the name that was given.
    fn target(&self) -> Result<PathBuf> {
        let target = &self.spec.target;
        if !target.is_dir() {
            return Ok(target.clone());
        }
        let name = self.spec.path.trim_end_matches('/').rsplit('/').next().filter(|n| safe(n.as_bytes()));
        let name = name.ok_or_else(|| Error::usage("the guest's root has no name of its own").hint("name what it becomes"))?;
        Ok(target.join(name))
    }

    fn amount(&self, guest: &Guest, spot: Spot) -> Result<Amount> {
        let mut a = Amount { files: 0, folders: 0, links: 0, special: 0, bytes: 0 };
        let stat = guest.stat(spot)?;
        if stat.kind != FileType::Folder {
            a.files = 1;
            a.bytes = stat.size;
            return Ok(a);
        }
        a.folders = 1;
        walk(guest, self.spec.path.as_bytes(), &mut |met| {
            match met.stat.kind {
                FileType::File => {
                    a.files += 1;
                    a.bytes = a.bytes.saturating_add(met.stat.size);
                }
                FileType::Folder => a.folders += 1,
                FileType::Link => a.links += 1,
                FileType::Special => a.special += 1,
            }
            Ok(Step::On)
        })?;
        Ok(a)
    }
}

/// A name that is one name and nothing else.
fn safe(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0) && name.len() <= 255
}

fn partial(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_os_string();
    name.push(SUFFIX);
    PathBuf::from(name)
}

fn remove(path: &Path) -> Result<()> {
    let gone = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    gone.op("remove what an earlier attempt left").path(path)
}

impl Operation for Extract {
    fn claims(&self) -> Result<Vec<Claim>> {
        let target = self.target()?;
        Ok(vec![Claim::read(&self.spec.image), Claim::write(&target)])
    }

    fn plan(&self) -> Result<Plan> {
        let target = self.target()?;
        if std::fs::symlink_metadata(&target).is_ok() {
            return Err(Error::usage("it is there already; nothing is replaced")
                .op("extract")
                .path(&target)
                .hint("name another target"));
        }
        let opened = self.open()?;
        let spot = opened.guest.resolve(self.spec.path.as_bytes(), true).op("look inside").path(&self.spec.image)?;
        if opened.guest.stat(spot)?.kind == FileType::Special {
            return Err(Error::usage(format!("{} is neither a file nor a folder", self.spec.path)).op("extract"));
        }
        let a = self.amount(&opened.guest, spot)?;
        let on = super::convert::folder(&target);
        let mut plan = Plan {
            title: self.spec.title(),
            reads: vec![PlanFile {
                path: self.spec.image.clone(),
                what: format!(
                    "{}, {} layers",
                    opened.chain.nodes.first().and_then(|n| n.format).unwrap_or(Format::Raw),
                    opened.chain.nodes.len()
                ),
            }],
            writes: vec![PlanFile { path: target, what: format!("{} files in {} folders", a.files, a.folders) }],
            read_bytes: a.bytes,
            write_bytes: Estimate { likely: a.bytes, worst: a.bytes },
            space: Some(Space { free: room(&on)?, on, needed: Estimate { likely: a.bytes, worst: a.bytes } }),
            undo: Undo::DeleteResult,
            ..Plan::default()
        };
        if a.links > 0 {
            plan.warnings.push(format!("{} links are copied as they are: on the host they may lead elsewhere", a.links));
        }
        if a.special > 0 {
            plan.losses.push(format!("{} device nodes, sockets and pipes", a.special));
        }
        Ok(plan)
    }

    fn run(&self, plan: &Plan, job: &JobContext) -> Result<Outcome> {
        let target = self.target()?;
        if std::fs::symlink_metadata(&target).is_ok() {
            return Err(Error::usage("it is there already; nothing is replaced").op("extract").path(&target));
        }
        let opened = self.open()?;
        let guest = &opened.guest;
        let spot = guest.resolve(self.spec.path.as_bytes(), true).op("look inside").path(&self.spec.image)?;
        job.progress.set_total(plan.read_bytes);
        let partial = partial(&target);
        remove(&partial)?;
        let copied = self.copy(guest, spot, &partial, job);
        let (files, problems) = match copied {
            Ok(n) => n,
            Err(e) => {
                let _ = remove(&partial);
                return Err(e);
            }
        };
        for p in &problems {
            job.log(format!("passed over: {p}"));
        }
        job.finishing()?;
        std::fs::rename(&partial, &target).op("extract").path(&target)?;
        if let Some(folder) = target.parent() {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            File::open(folder).and_then(|d| d.sync_all()).op("extract").path(folder)?;
        }
        let passed = if problems.is_empty() { String::new() } else { format!(", {} passed over as unreadable", problems.len()) };
        Ok(Outcome { summary: format!("{files} files extracted{passed}"), made: vec![target] })
    }
}

impl Extract {
    /// Copies to `partial`; how many files, and what could not be read.
    fn copy(&self, guest: &Guest, spot: Spot, partial: &Path, job: &JobContext) -> Result<(u64, Vec<String>)> {
        let stat = guest.stat(spot)?;
        if stat.kind == FileType::File {
            copy_file(guest, spot, stat.size, stat.mode, partial, job)?;
            return Ok((1, Vec::new()));
        }
        folder(partial)?;
        let (mut files, mut links) = (0, Vec::new());
        let mut odd = Vec::new();
        let mut problems = walk(guest, self.spec.path.as_bytes(), &mut |met| {
            job.checkpoint()?;
            let names: Vec<&[u8]> = met.path.split(|c| *c == b'/').collect();
            if !names.iter().all(|n| safe(n)) {
                odd.push(format!("{}: no name for the host", printable_bytes(met.path)));
                return Ok(Step::Past);
            }
            let to = partial.join(std::ffi::OsStr::from_bytes(met.path));
            match met.stat.kind {
                FileType::Folder => folder(&to)?,
                FileType::File => match copy_file(guest, met.spot, met.stat.size, met.stat.mode, &to, job) {
                    Ok(()) => files += 1,
                    // What the guest's filesystem cannot give is passed over; what the host refuses ends it.
                    Err(e) if e.kind() == ErrorKind::Corrupt || e.kind() == ErrorKind::Unsupported => {
                        let _ = std::fs::remove_file(&to);
                        odd.push(format!("{}: {e}", printable_bytes(met.path)));
                    }
                    Err(e) => return Err(e),
                },
                FileType::Link => links.push((to, guest.read_link(met.spot)?)),
                FileType::Special => {}
            }
            Ok(Step::On)
        })?;
        for (at, to) in links {
            if !to.is_empty() && !to.contains(&0) {
                std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(&to), &at).op("extract").path(&at)?;
            }
        }
        problems.append(&mut odd);
        Ok((files, problems))
    }
}

fn folder(path: &Path) -> Result<()> {
    DirBuilder::new().mode(0o755).create(path).op("extract").path(path)
}

/// One file: streamed, holes kept, flushed.
fn copy_file(guest: &Guest, spot: Spot, size: u64, mode: u32, to: &Path, job: &JobContext) -> Result<()> {
    let open = Open::new().write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(to);
    let mut file = open.op("extract").path(to)?;
    let mut buf = vec![0u8; COPY_CHUNK.min(usize::try_from(size).unwrap_or(COPY_CHUNK).max(HOLE))];
    let mut at = 0;
    while at < size {
        job.checkpoint()?;
        let n = guest.read(spot, at, &mut buf)?;
        if n == 0 {
            return Err(Error::corrupt("it ends before its size says").at(at));
        }
        for (i, piece) in buf.get(..n).unwrap_or_default().chunks(HOLE).enumerate() {
            if piece.iter().any(|b| *b != 0) {
                file.write_all_at(piece, at + (i * HOLE) as u64).op("extract").path(to)?;
                job.progress.add_written(piece.len() as u64);
            } else {
                job.progress.add_skipped(piece.len() as u64);
            }
        }
        at += n as u64;
        job.progress.add_read(n as u64);
        job.progress.add_done(n as u64);
    }
    file.set_len(size).op("extract").path(to)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode & 0o777 | 0o400)).op("extract").path(to)?;
    file.flush().and_then(|()| file.sync_data()).op("extract").path(to)
}
