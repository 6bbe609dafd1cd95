//! Rebase: an overlay stands on another image, or on nothing (flatten), from then on.
//!
//! The safe way keeps what a guest sees through the overlay: where it holds nothing and the old chain and the new one differ, what the
//! old one shows is written into the overlay first. What a crash leaves after each step:
//!
//! 1. content becomes the overlay's own, in the format's crash-safe order, and durable: through the old chain the same as before;
//! 2. the reference changes, in one switch of the format's: through the new chain the same.
//!
//! The unsafe way changes the reference alone: for a base that was moved, or that is known to show the same.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::edit::{self, Editing};
use super::plan::{Estimate, Plan, PlanFile, Space, Undo};
use super::{Operation, Outcome, backing, pieces, pipeline::Chunk};
use crate::engine::chain::{Chain, Disk, OpenOptions};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::write::{Below, DiskWriter, NewBacking};
use crate::engine::format::{Format, Image};
use crate::engine::io::bytes::is_zero;
use crate::engine::io::file::FileId;
use crate::engine::io::gate::Gate;
use crate::engine::io::memory::Memory;
use crate::engine::io::overlay::Overlay;
use crate::engine::io::{Device, read_padded, sys};
use crate::engine::job::{Claim, JobContext};
use crate::engine::model::Kind;
use crate::engine::units::count;

/// What to do, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RebaseSpec {
    /// The overlay.
    pub image: PathBuf,
    /// Its format; `None` probes.
    pub format: Option<Format>,
    /// What it is to stand on: the name to record, relative to the overlay; `None` is nothing.
    pub base: Option<String>,
    /// The new base's format.
    pub base_format: Option<Format>,
    /// Only the reference changes; content is not looked at.
    pub unchecked: bool,
    /// What is written is stored compressed.
    pub compress: bool,
    /// Also when internal snapshots would read from the new base.
    pub force: bool,
    /// Bases that another process is writing are read all the same.
    pub force_share: bool,
    /// Folders whose files may be opened when an image names them, besides its own.
    pub roots: Vec<PathBuf>,
    /// Open whatever file an image names.
    pub follow: bool,
}

impl RebaseSpec {
    /// Safely onto `base`, or onto nothing.
    pub fn new(image: impl Into<PathBuf>, base: Option<String>) -> Self {
        RebaseSpec {
            image: image.into(),
            format: None,
            base: base.filter(|b| !b.is_empty()),
            base_format: None,
            unchecked: false,
            compress: false,
            force: false,
            force_share: false,
            roots: Vec::new(),
            follow: false,
        }
    }

    /// What it does, in a line.
    pub fn title(&self) -> String {
        match &self.base {
            Some(base) if self.unchecked => format!("let {} name {base} as its backing file", self.image.display()),
            Some(base) => format!("rebase {} onto {base}", self.image.display()),
            None => format!("make {} stand alone", self.image.display()),
        }
    }

    /// The arguments of the `cowshed` command that does the same.
    pub fn command(&self) -> Vec<String> {
        let mut out: Vec<String> = vec!["rebase".into()];
        out.extend(self.format.iter().flat_map(|f| ["-f".to_string(), f.name().into()]));
        out.extend(["-b".to_string(), self.base.clone().unwrap_or_default()]);
        out.extend(self.base_format.iter().flat_map(|f| ["-F".to_string(), f.name().into()]));
        let flags = [
            (self.unchecked, "-u"),
            (self.compress, "-c"),
            (self.force, "--force"),
            (self.force_share, "-U"),
            (self.follow, "--follow"),
        ];
        out.extend(flags.iter().filter(|f| f.0).map(|f| f.1.to_string()));
        out.push(self.image.display().to_string());
        out
    }

    fn gate(&self) -> Gate {
        self.roots.iter().fold(Gate::around(&self.image), |g, r| g.allow(r)).follow(self.follow)
    }

    /// The overlay with its chain.
    fn open(&self) -> Result<Chain> {
        let options = OpenOptions { format: self.format, gate: Some(self.gate()), ..OpenOptions::default() };
        Chain::open(&self.image, &options)
    }

    /// The new base: its chain, where it can be opened, and what to record.
    fn new_base(&self, child: Format) -> Result<Option<(Option<Chain>, NewBacking)>> {
        let Some(name) = &self.base else { return Ok(None) };
        let wanted = backing::Wanted {
            verb: "rebase",
            target: &self.image,
            child,
            name,
            format: self.base_format,
            roots: &self.roots,
            follow: self.follow,
        };
        wanted.check()?;
        match wanted.open() {
            Ok((chain, new)) => {
                let own = std::fs::metadata(&self.image).ok().map(|m| FileId::of(&m));
                let loops = |n: &crate::engine::model::ChainNode| std::fs::metadata(&n.path).ok().map(|m| FileId::of(&m)) == own;
                if own.is_some() && chain.nodes.iter().any(loops) {
                    return Err(Error::new(ErrorKind::Loop, "the new base is, or stands on, the image itself")
                        .op("rebase")
                        .path(&self.image));
                }
                Ok(Some((Some(chain), new)))
            }
            // Where the child records nothing but the name, the file need not be there.
            Err(e) if self.unchecked && matches!(child, Format::Qcow2 | Format::Qcow | Format::Cow) => {
                let Some(format) = self.base_format else { return Err(e) };
                let path = wanted.path();
                let new = NewBacking { name: name.clone(), path, format, size: 0, identity: Default::default(), disk: None };
                Ok(Some((None, new)))
            }
            Err(e) => Err(e),
        }
    }

    /// Refuses what cannot be done, or not without harm.
    fn refuse(&self, top: &dyn Image) -> Result<()> {
        if self.compress && !top.format().entry().caps.compression {
            return Err(Error::unsupported(format!("{} images cannot store data compressed", top.format()))
                .op("rebase")
                .path(&self.image)
                .hint("leave out -c"));
        }
        if self.base.is_none() && top.backing().is_none() {
            return Err(Error::usage("it stands on nothing already").op("flatten").path(&self.image));
        }
        let snapshots = top.describe().snapshots.len();
        if snapshots > 0 && !self.force && !self.unchecked {
            return Err(Error::usage(format!(
                "{} of it, which would change with another base: where a snapshot holds nothing it reads the old one",
                count(snapshots as u64, "internal snapshot")
            ))
            .op("rebase")
            .path(&self.image)
            .hint("delete the snapshots first, or make a copy with convert; --force does it all the same"));
        }
        Ok(())
    }
}

/// A chain below the overlay: the old one, or the new one. Nothing is zeros.
struct Side {
    disk: Option<Disk>,
    /// By layer and storage file.
    ids: Vec<Vec<Option<FileId>>>,
}

/// What a side has from a guest byte on.
struct Here {
    len: u64,
    zero: bool,
    /// Where the bytes are kept: the same place in the same file is the same content.
    place: Option<(FileId, u64, Kind)>,
}

impl Side {
    fn new(disk: Option<Disk>) -> Self {
        let rows = disk.iter().flat_map(|d| (0..d.layers().len()).map(|i| d.files(i)));
        let ids = rows.map(|row| row.iter().map(|dev| dev.as_file().and_then(|f| f.id().ok())).collect()).collect();
        Side { disk, ids }
    }
    fn at(&self, at: u64, max: u64) -> Result<Here> {
        let Some(disk) = self.disk.as_ref().filter(|d| at < d.size()) else {
            return Ok(Here { len: max, zero: true, place: None });
        };
        let e = disk.extent(at, max)?;
        let zero = matches!(e.kind, Kind::Zero | Kind::Unallocated);
        let file = e.place.and_then(|p| Some((self.ids.get(e.depth)?.get(p.file).copied()??, p.offset, e.kind)));
        Ok(Here { len: e.len, zero, place: file.filter(|_| !zero) })
    }
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        match &self.disk {
            Some(disk) => read_padded(disk, at, buf),
            None => {
                buf.fill(0);
                Ok(())
            }
        }
    }
}

/// What the safe way goes through.
pub(super) struct Merge {
    /// The overlay; what becomes its own on the way is seen at once.
    top: Arc<dyn Image>,
    old: Side,
    new: Side,
    /// Whole units only, as compression needs them.
    whole: bool,
}

impl Merge {
    /// Of the overlay `top` from the disk `old` to the disk `new`; nothing is zeros.
    pub(super) fn new(top: Arc<dyn Image>, old: Option<Disk>, new: Option<Disk>, whole: bool) -> Merge {
        Merge { top, old: Side::new(old), new: Side::new(new), whole }
    }

    /// What the overlay's writer is to take for what lies below it: the old disk, as long as the longer of the two. It must not take
    /// zeros past the end of the old one as read already, where the new one goes on.
    pub(super) fn below(&self) -> Option<Below> {
        let size = |side: &Side| side.disk.as_ref().map_or(0, |d| d.size());
        let len = size(&self.old).max(size(&self.new));
        let old: Device = match &self.old.disk {
            Some(disk) => Arc::new(Disk::new(disk.layers().to_vec())),
            None => Arc::new(Memory::default()),
        };
        let mut below = Overlay::new(old);
        below.grow(len);
        (len > 0).then(|| Below(Arc::new(below)))
    }

    /// Makes the overlay hold what the two disks have not in common, durably.
    pub(super) fn run(&self, writer: &dyn DiskWriter, path: &Path, job: &JobContext) -> Result<()> {
        let tells_zeros = self.old.disk.is_some() || self.top.format() == Format::Qcow2;
        let to = Target { writer, path, job, tells_zeros };
        pieces::each(|at| self.next(at), |chunk, buffers| self.copy(chunk, buffers, &to), job)?;
        writer.flush()
    }

    /// The piece at or after `at` that the overlay does not hold and in which the two chains may differ. `zero`: the old one has zeros.
    fn next(&self, mut at: u64) -> Result<Option<Chunk>> {
        let size = self.top.size();
        while at < size {
            let m = self.top.map(at, size - at)?;
            if m.kind != Kind::Unallocated {
                at += m.len;
                continue;
            }
            let (old, new) = (self.old.at(at, m.len)?, self.new.at(at, m.len)?);
            let len = m.len.min(old.len).min(new.len);
            if (old.zero && new.zero) || (old.place.is_some() && old.place == new.place) {
                at += len;
                continue;
            }
            return Ok(Some(match self.whole {
                true => pieces::piece(at, m.len.min(crate::engine::limits::COPY_CHUNK as u64), false),
                false => pieces::piece(at, len, old.zero),
            }));
        }
        Ok(None)
    }

    /// Makes a piece the overlay's own where the chains differ.
    fn copy(&self, chunk: Chunk, buffers: &mut pieces::Buffers, to: &Target<'_>) -> Result<()> {
        // Compared in pieces of at most 64 KiB, so that little is copied for a small difference; packed as whole units.
        let unit = if self.whole { to.writer.unit().max(512) } else { to.writer.unit().clamp(512, 64 << 10) };
        // Only what is a unit of the format's as a whole is zero without being stored.
        let cell = to.writer.unit().max(512);
        let most = (buffers.0.len() as u64 / unit).max(1) * unit;
        let (mut at, end) = (chunk.offset, chunk.offset + chunk.len);
        while at < end {
            to.job.checkpoint()?;
            let n = (end - at).min(most - at % unit);
            let (a, b) = (buffers.0.get_mut(..n as usize), buffers.1.get_mut(..n as usize));
            let (Some(a), Some(b)) = (a, b) else {
                return Err(Error::new(ErrorKind::Internal, "a piece larger than its buffer"));
            };
            to.job.throttle(n)?;
            if chunk.zero {
                a.fill(0);
            } else {
                self.old.read(at, a)?;
            }
            self.new.read(at, b)?;
            to.job.progress.add_read(n);
            let mut done = 0u64;
            while done < n {
                let step = (unit - (at + done) % unit).min(n - done);
                let range = done as usize..(done + step) as usize;
                let (a, b) = (a.get(range.clone()).unwrap_or_default(), b.get(range).unwrap_or_default());
                if a != b {
                    let whole =
                        (at + done).is_multiple_of(cell) && (step.is_multiple_of(cell) || at + done + step == self.top.size());
                    to.write(at + done, a, self.whole && step == unit, whole)?;
                }
                done += step;
            }
            to.job.progress.add_done(n);
            at += n;
        }
        Ok(())
    }
}

/// Where pieces are written.
struct Target<'a> {
    writer: &'a dyn DiskWriter,
    path: &'a Path,
    job: &'a JobContext,
    /// Zeros can be told without storing them: the image stands on something already, or its format does not mind.
    tells_zeros: bool,
}

impl Target<'_> {
    /// Writes a piece of one unit. Zeros in a part of a unit are stored: a writer may find them there already, in the old chain.
    fn write(&self, at: u64, data: &[u8], compress: bool, whole: bool) -> Result<()> {
        let write = || match (is_zero(data) && whole && self.tells_zeros, compress) {
            (true, _) => self.writer.write_zeroes(at, data.len() as u64),
            (false, true) => self.writer.write_compressed(at, data),
            (false, false) => self.writer.write(at, data),
        };
        pieces::written(self.job, self.path, write)?;
        self.job.progress.add_written(data.len() as u64);
        Ok(())
    }
}

/// The operation of a [`RebaseSpec`].
pub struct Rebase {
    spec: RebaseSpec,
}

impl Rebase {
    /// Touches nothing yet.
    pub fn new(spec: RebaseSpec) -> Self {
        Rebase { spec }
    }

    fn merge(&self, chain: &Chain, new: Option<&Chain>) -> Result<Merge> {
        chain.disk()?;
        let top = chain.layers.first().ok_or_else(|| Error::new(ErrorKind::Internal, "a chain without layers"))?.clone();
        let below = chain.layers.get(1..).unwrap_or_default().to_vec();
        let old = (!below.is_empty()).then(|| Disk::new(below));
        Ok(Merge::new(top, old, new.map(Chain::disk).transpose()?, self.spec.compress))
    }
}

/// The format of the top of `chain`.
fn format_of(chain: &Chain) -> Format {
    chain.layers.first().map_or(Format::Raw, |l| l.format())
}

impl Operation for Rebase {
    fn claims(&self) -> Result<Vec<Claim>> {
        let chain = self.spec.open()?;
        let new = self.spec.new_base(format_of(&chain))?;
        let mut claims = vec![Claim::write(&self.spec.image)];
        if !self.spec.unchecked {
            let below = new.iter().filter_map(|(c, _)| c.as_ref()).flat_map(|c| &c.nodes);
            claims.extend(chain.nodes.iter().skip(1).chain(below).map(|n| Claim::read(&n.path)));
        }
        Ok(claims)
    }

    fn plan(&self) -> Result<Plan> {
        let spec = &self.spec;
        edit::refuse_in_use(&spec.image)?;
        let chain = spec.open()?;
        if let Some(top) = chain.layers.first() {
            spec.refuse(top.as_ref())?;
        }
        let new = spec.new_base(format_of(&chain))?;
        let mut plan = Plan {
            title: spec.title(),
            writes: vec![PlanFile { path: spec.image.clone(), what: format!("{} image, changed in place", format_of(&chain)) }],
            ..Plan::default()
        };
        let file = |n: &crate::engine::model::ChainNode, what: &str| PlanFile { path: n.path.clone(), what: what.into() };
        plan.reads.extend(chain.nodes.iter().skip(1).map(|n| file(n, "the old chain")));
        plan.reads.extend(new.iter().filter_map(|(c, _)| c.as_ref()).flat_map(|c| &c.nodes).map(|n| file(n, "the new chain")));
        if spec.unchecked {
            plan.reads.clear();
            plan.steps.push("only the reference changes; content is not looked at".into());
            plan.undo = Undo::Possible("rebase -u back onto the old base".into());
            plan.warnings.push("a base with other content than the old one makes the overlay show something else".into());
            return Ok(plan);
        }
        let merge = self.merge(&chain, new.as_ref().and_then(|(c, _)| c.as_ref()))?;
        let data = pieces::estimate(merge.top.size(), |at| merge.next(at))?;
        plan.read_bytes = data.likely;
        // Nobody knows before how much is the same in both.
        plan.write_bytes = if spec.base.is_some() { Estimate { likely: data.likely / 2, ..data } } else { data };
        plan.steps.push("what the old chain shows and the new one does not is copied into the overlay".into());
        plan.steps.push("then the reference changes".into());
        plan.undo = Undo::Possible("rebase it back; what was copied stays in the overlay".into());
        let on = super::convert::folder(&spec.image);
        if let Ok(free) = sys::free_space(&on) {
            plan.space = Some(Space { on, needed: plan.write_bytes, free });
        }
        let snapshots = merge.top.describe().snapshots.len();
        if snapshots > 0 {
            plan.warnings.push(format!("{} of it will read from the new base", count(snapshots as u64, "internal snapshot")));
        }
        Ok(plan)
    }

    fn run(&self, plan: &Plan, job: &JobContext) -> Result<Outcome> {
        self.perform(plan, job)
    }
}

impl Rebase {
    /// Does it, as a whole job or as a step of one.
    pub(super) fn perform(&self, plan: &Plan, job: &JobContext) -> Result<Outcome> {
        let spec = &self.spec;
        if spec.unchecked {
            let top = edit::open_alone(&spec.image, spec.format, &spec.gate())?;
            let reader = top.writer.reader();
            spec.refuse(reader.as_ref())?;
            let new = spec.new_base(reader.format())?;
            return self.switch(&top, new.map(|(_, b)| b), job);
        }
        // Held before it is looked at.
        let own = edit::hold(&spec.image)?;
        let chain = spec.open()?;
        let format = format_of(&chain);
        let new = spec.new_base(format)?;
        let merge = self.merge(&chain, new.as_ref().and_then(|(c, _)| c.as_ref()))?;
        spec.refuse(merge.top.as_ref())?;
        let top = edit::writing(&spec.image, format, &spec.gate(), own, merge.below())?;
        let reader = top.writer.reader();
        let mut held = Vec::new();
        for disk in [&merge.old.disk, &merge.new.disk].into_iter().flatten() {
            held.extend(edit::hold_layers(disk, spec.force_share)?);
        }
        job.progress.set_total(plan.read_bytes.max(1));
        job.progress.set_phase("copying");
        top.writer.keep_identity();
        Merge { top: reader, ..merge }.run(top.writer.as_ref(), &spec.image, job).op("rebase").path(&spec.image)?;
        self.switch(&top, new.map(|(_, b)| b), job)
    }

    /// The reference changes: the last step.
    fn switch(&self, top: &Editing, backing: Option<NewBacking>, job: &JobContext) -> Result<Outcome> {
        let spec = &self.spec;
        job.checkpoint()?;
        top.writer.keep_identity();
        top.writer.set_backing(backing.as_ref()).op("rebase").path(&spec.image)?;
        let summary = match &spec.base {
            Some(base) => format!("{} stands on {base}", spec.image.display()),
            None => format!("{} stands alone", spec.image.display()),
        };
        job.log(summary.clone());
        Ok(Outcome { summary, made: Vec::new() })
    }
}
