//! Commit: what an overlay holds is written into the image it stands on, or into one further down; then the overlay is emptied.
//!
//! What is written into the base lies where the layers above it hide the base, so what a guest sees through the overlay is the same
//! at any moment, also after a power cut:
//!
//! 1. the base grows, if it is shorter: with zeros, where its overlay saw zeros past its end;
//! 2. data and zeros of the layers above go into the base, in the base's own crash-safe order, and become durable;
//! 3. the overlay lets go of what it holds, unit by unit: each reads the same from the base.
//!
//! Identities (CID, UUIDs) of both stay, as nobody who stands on the overlay sees a change. Others that stand on the base, or on a
//! layer in between, would: they are looked for, and the operation refused.

use std::path::{Path, PathBuf};

use super::edit;
use super::plan::{Plan, PlanFile, Space, Undo};
use super::{Operation, Outcome, dependents, pieces, pipeline::Chunk};
use crate::engine::chain::{Chain, Disk, OpenOptions};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::Format;
use crate::engine::format::write::DiskWriter;
use crate::engine::io::file::FileId;
use crate::engine::io::gate::Gate;
use crate::engine::io::{ReadAt, sys};
use crate::engine::job::{Claim, JobContext};
use crate::engine::model::Kind;

/// What to do, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CommitSpec {
    /// The overlay.
    pub image: PathBuf,
    /// Its format; `None` probes.
    pub format: Option<Format>,
    /// The layer to write into, as a path or as the image above it spells it; `None` is what the overlay stands on.
    pub base: Option<PathBuf>,
    /// The overlay keeps what it holds. Always so when the base is further down, as the layers in between no longer say what they said.
    pub keep: bool,
    /// At most so many bytes per second.
    pub rate: Option<u64>,
    /// Also when others see a change: images that stand on the base, internal snapshots.
    pub force: bool,
    /// Folders whose files may be opened when the image names them, besides its own, and where others are looked for.
    pub roots: Vec<PathBuf>,
    /// Open whatever file the image names.
    pub follow: bool,
}

impl CommitSpec {
    /// Into what `image` stands on; emptied afterwards.
    pub fn new(image: impl Into<PathBuf>) -> Self {
        CommitSpec {
            image: image.into(),
            format: None,
            base: None,
            keep: false,
            rate: None,
            force: false,
            roots: Vec::new(),
            follow: false,
        }
    }

    /// What it does, in a line.
    pub fn title(&self) -> String {
        match &self.base {
            None => format!("commit {} into the image it stands on", self.image.display()),
            Some(base) => format!("commit {} into {}", self.image.display(), base.display()),
        }
    }

    /// The arguments of the `cowshed` command that does the same.
    pub fn command(&self) -> Vec<String> {
        let mut out: Vec<String> = vec!["commit".into()];
        out.extend(self.format.iter().flat_map(|f| ["-f".to_string(), f.name().into()]));
        out.extend(self.base.iter().flat_map(|b| ["-b".to_string(), b.display().to_string()]));
        out.extend(self.rate.iter().flat_map(|r| ["-r".to_string(), r.to_string()]));
        let flags = [(self.keep, "-d"), (self.force, "--force"), (self.follow, "--follow")];
        out.extend(flags.iter().filter(|f| f.0).map(|f| f.1.to_string()));
        out.extend(self.roots.iter().flat_map(|r| ["--library".to_string(), r.display().to_string()]));
        out.push(self.image.display().to_string());
        out
    }

    fn gate(&self, image: &Path) -> Gate {
        let gate = Gate::around(image).allow(&super::convert::folder(&self.image));
        self.roots.iter().fold(gate, |g, r| g.allow(r)).follow(self.follow)
    }

    /// The chain, and which layer of it is the base.
    fn open(&self) -> Result<(Chain, usize)> {
        let options = OpenOptions { format: self.format, gate: Some(self.gate(&self.image)), ..OpenOptions::default() };
        let chain = Chain::open(&self.image, &options)?;
        chain.disk()?;
        if chain.layers.len() < 2 {
            return Err(Error::usage("it stands on nothing, so there is nothing to commit into").op("commit").path(&self.image));
        }
        let Some(base) = &self.base else { return Ok((chain, 1)) };
        let id = |p: &Path| std::fs::metadata(p).ok().map(|m| FileId::of(&m));
        let wanted = [id(base), id(&super::convert::folder(&self.image).join(base))];
        let found = chain.nodes.iter().skip(1).position(|n| {
            n.spelled.as_deref().is_some_and(|s| Path::new(s) == base) || wanted.iter().flatten().any(|w| id(&n.path) == Some(*w))
        });
        match found {
            Some(i) => Ok((chain, i + 1)),
            None => {
                let all: Vec<String> = chain.nodes.iter().skip(1).map(|n| n.path.display().to_string()).collect();
                Err(Error::new(ErrorKind::NotFound, format!("{} is not in its chain", base.display()))
                    .op("commit")
                    .path(&self.image)
                    .hint(format!("it stands on: {}", all.join(", "))))
            }
        }
    }

    /// True when the overlay is emptied.
    fn empties(&self, depth: usize) -> bool {
        !self.keep && self.base.is_none() && depth == 1
    }

    /// Who else would see a change, named; `force` makes warnings of them.
    fn bystanders(&self, chain: &Chain, depth: usize) -> Result<Vec<String>> {
        let ids: Vec<FileId> =
            chain.nodes.iter().filter_map(|n| std::fs::metadata(&n.path).ok().map(|m| FileId::of(&m))).collect();
        let mut warnings = Vec::new();
        for node in chain.nodes.iter().take(depth + 1).skip(1) {
            let others = dependents::others(&node.path, &node.description.identity, &self.roots, &ids)?;
            warnings.extend(dependents::refuse("commit", &node.path, &others, self.force)?);
            if !others.complete {
                warnings
                    .push(format!("not all folders could be looked through for images that stand on {}", node.path.display()));
            }
        }
        for node in chain.nodes.iter().take(depth) {
            let n = node.description.snapshots.len();
            if n == 0 {
                continue;
            }
            let why = format!("its {n} internal snapshot(s) read the base where they hold nothing, and would change with it");
            if !self.force {
                return Err(Error::usage(why)
                    .op("commit")
                    .path(&node.path)
                    .hint("delete the snapshots first, or make a copy with convert; --force commits all the same"));
            }
            warnings.push(format!("{}: {why}", node.path.display()));
        }
        Ok(warnings)
    }
}

/// The format a base is written in: what cowshed takes a plain disk for by its content is a raw disk all the same.
fn written_as(format: Format) -> Format {
    if format.driver() == Format::Raw.driver() { Format::Raw } else { format }
}

/// The piece at or after `at` that the layers above the base hold: data, or zeros that hide it.
fn next(upper: &Disk, mut at: u64) -> Result<Option<Chunk>> {
    while at < upper.size() {
        let e = upper.extent(at, u64::MAX)?;
        // A layer that ends early hides the base with zeros, just as if it said so.
        let through = e.kind == Kind::Unallocated && e.depth + 1 == upper.layers().len();
        if !through {
            return Ok(Some(pieces::piece(at, e.len, !matches!(e.kind, Kind::Data | Kind::Compressed))));
        }
        at += e.len;
    }
    Ok(None)
}

/// The operation of a [`CommitSpec`].
pub struct Commit {
    spec: CommitSpec,
}

impl Commit {
    /// Touches nothing yet.
    pub fn new(spec: CommitSpec) -> Self {
        Commit { spec }
    }
}

impl Operation for Commit {
    fn claims(&self) -> Result<Vec<Claim>> {
        let (chain, depth) = self.spec.open()?;
        let claim = |(i, n): (usize, &crate::engine::model::ChainNode)| match i == 0 || i == depth {
            true => Claim::write(&n.path),
            false => Claim::read(&n.path),
        };
        Ok(chain.nodes.iter().enumerate().map(claim).collect())
    }

    fn plan(&self) -> Result<Plan> {
        let spec = &self.spec;
        let (chain, depth) = spec.open()?;
        let warnings = spec.bystanders(&chain, depth)?;
        let (Some(base), Some(layer)) = (chain.nodes.get(depth), chain.layers.get(depth)) else {
            return Err(Error::new(ErrorKind::Internal, "a base that is not there"));
        };
        edit::refuse_in_use(&spec.image)?;
        edit::refuse_in_use(&base.path)?;
        let format = written_as(layer.format());
        if format.entry().open_write.is_none() {
            return Err(Error::unsupported(format!("cowshed does not write into {format} images")).op("commit").path(&base.path));
        }
        let upper = Disk::new(chain.layers.get(..depth).unwrap_or_default().to_vec());
        let data = pieces::estimate(upper.size(), |at| next(&upper, at))?;
        let on = super::convert::folder(&base.path);
        let mut plan = Plan {
            title: spec.title(),
            writes: vec![PlanFile { path: base.path.clone(), what: format!("{format} image, written in place") }],
            read_bytes: data.likely,
            write_bytes: data,
            undo: Undo::Impossible("what the base held where the overlay has data is overwritten".into()),
            warnings,
            ..Plan::default()
        };
        plan.reads = chain.nodes.iter().take(depth).map(|n| PlanFile { path: n.path.clone(), what: "overlay".into() }).collect();
        if layer.size() < upper.size() {
            plan.steps.push(format!("the base grows from {} bytes to {}", layer.size(), upper.size()));
        }
        plan.steps.push("data of the overlay goes into the base".into());
        if spec.empties(depth) {
            plan.steps.push("the overlay is emptied; it goes on standing on the base".into());
            plan.freed_bytes = data.likely;
            plan.writes.push(PlanFile { path: spec.image.clone(), what: "overlay, emptied".into() });
        }
        for between in chain.nodes.iter().take(depth).skip(1) {
            plan.warnings.push(format!("{} by itself will show a mixture of old and new afterwards", between.path.display()));
        }
        if let Ok(free) = sys::free_space(&on) {
            plan.space = Some(Space { on, needed: data, free });
        }
        Ok(plan)
    }

    fn run(&self, plan: &Plan, job: &JobContext) -> Result<Outcome> {
        let spec = &self.spec;
        if let Some(rate) = spec.rate {
            job.set_limit(rate);
        }
        // What it stands on is held below, each layer as it is used.
        let top = edit::open_alone(&spec.image, spec.format, &spec.gate(&spec.image))?;
        let (chain, depth) = spec.open()?;
        spec.bystanders(&chain, depth)?;
        let Some(path) = chain.nodes.get(depth).map(|n| n.path.clone()) else {
            return Err(Error::new(ErrorKind::Internal, "a base that is not there"));
        };
        let format = chain.layers.get(depth).map(|l| written_as(l.format()));
        let base = edit::open(&path, format, &spec.gate(&path)).op("commit")?;
        let _held = edit::hold_layers(&Disk::new(chain.layers.get(1..depth).unwrap_or_default().to_vec()), false)?;
        let upper = Disk::new(chain.layers.get(..depth).unwrap_or_default().to_vec());
        top.writer.keep_identity();
        base.writer.keep_identity();
        job.progress.set_total(plan.read_bytes.max(1));
        job.progress.set_phase("copying");
        pour(&upper, base.writer.as_ref(), &path, job).op("commit").path(&path)?;
        let mut summary = format!("{} is in {}", spec.image.display(), path.display());
        if spec.empties(depth) {
            job.finishing()?;
            job.progress.set_phase("emptying the overlay");
            match top.writer.clear() {
                Ok(()) => top.writer.finish().op("empty the overlay").path(&spec.image)?,
                // It may keep what it holds: the base has the same.
                Err(e) if e.kind() == ErrorKind::Unsupported => summary.push_str(&format!("; the overlay keeps its data: {e}")),
                Err(e) => return Err(e.op("empty the overlay").path(&spec.image)),
            }
        }
        job.log(summary.clone());
        Ok(Outcome { summary, made: Vec::new() })
    }
}

/// Writes what the layers `upper` hold into the image at `path` below them, durably.
pub(super) fn pour(upper: &Disk, base: &dyn DiskWriter, path: &Path, job: &JobContext) -> Result<()> {
    if base.size() < upper.size() {
        base.resize(upper.size()).op("make the base longer")?;
    }
    let write = |chunk: Chunk, buffers: &mut pieces::Buffers| {
        if chunk.zero {
            return pieces::written(job, path, || base.write_zeroes(chunk.offset, chunk.len));
        }
        let data = buffers.0.get_mut(..chunk.len as usize).unwrap_or_default();
        job.throttle(chunk.len)?;
        upper.read_at(chunk.offset, data)?;
        job.progress.add_read(chunk.len);
        pieces::written(job, path, || base.write(chunk.offset, data))?;
        job.progress.add_written(chunk.len);
        job.progress.add_done(chunk.len);
        Ok(())
    };
    let poured = pieces::each(|at| next(upper, at), write, job);
    // What was written stands, whatever came then: bitmaps that record have to know of it, or they stay marked and nobody trusts them.
    let finished = base.finish();
    poured.and(finished)
}
