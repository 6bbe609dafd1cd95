//! Compact: space that an image takes on the host without holding anything goes back, in place or in a [`copy`] of the image file that
//! then takes its name. What a guest sees stays.
//!
//! 0. if it is asked for: what is stored of the filesystems' free space ([`free_space`] has how);
//! 1. qcow2: clusters that are counted and that nobody uses (leaks) are given back, by the repair of leaks;
//! 2. units full of zeros become zeros that are not stored, or holes in the host file ([`zeros`]);
//! 3. qcow2: clusters and tables at the end of the file move into free places before it, and the file is cut.
//!
//! Each step changes the image in its format's crash-safe order, so a cut leaves the same content, with more or less space given back.

mod copy;
pub(super) mod zeros;

use std::path::PathBuf;
use std::sync::Arc;

use super::check::{counts, tools};
use super::edit;
use super::plan::{Plan, PlanFile, Undo};
use super::{Operation, Outcome, free_space, pieces};
use crate::engine::chain::{Chain, OpenOptions};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::check::{Repair, Repairing};
use crate::engine::format::qcow2::edit::Editor;
use crate::engine::format::write::NewFiles;
use crate::engine::format::{Format, Source};
use crate::engine::io::file::FileDevice;
use crate::engine::io::gate::Gate;
use crate::engine::io::locks::Guard;
use crate::engine::io::{Device, WriteDevice};
use crate::engine::job::{Claim, JobContext};
use crate::engine::units::about;

/// What to do, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CompactSpec {
    /// The image.
    pub image: PathBuf,
    /// Its format; `None` probes.
    pub format: Option<Format>,
    /// Open whatever file the image names.
    pub follow: bool,
    /// Also what filesystems in it call free.
    #[serde(default)]
    pub free_space: bool,
    /// In a copy of the image file, which replaces it when it is complete.
    #[serde(default)]
    pub copy: bool,
}

impl CompactSpec {
    /// Of the image at `image`.
    pub fn new(image: impl Into<PathBuf>) -> Self {
        CompactSpec { image: image.into(), format: None, follow: false, free_space: false, copy: false }
    }

    /// What it does, in a line.
    pub fn title(&self) -> String {
        format!("compact {}{}", self.image.display(), if self.copy { " by copy" } else { "" })
    }

    /// The arguments of the `cowshed` command that does the same.
    pub fn command(&self) -> Vec<String> {
        let mut out: Vec<String> = vec!["compact".into()];
        out.extend(self.format.iter().flat_map(|f| ["-f".to_string(), f.name().into()]));
        out.extend(self.follow.then(|| "--follow".to_string()));
        out.extend(self.free_space.then(|| "--free-space".to_string()));
        out.extend(self.copy.then(|| "--copy".to_string()));
        out.push(self.image.display().to_string());
        out
    }

    fn gate(&self) -> Gate {
        Gate::around(&self.image).follow(self.follow)
    }

    /// The image with its chain.
    fn open(&self) -> Result<Chain> {
        let options = OpenOptions {
            format: edit::bare_is_raw(&self.image, self.format)?,
            gate: Some(self.gate()),
            ..OpenOptions::default()
        };
        let chain = Chain::open(&self.image, &options)?;
        chain.disk()?;
        Ok(chain)
    }

    /// Lost clusters; an error when the check finds damage, which compacting could make worse.
    fn leaks(&self, dev: Device, format: Format) -> Result<u64> {
        let Some(tools) = tools(format) else { return Ok(0) };
        let report = (tools.check)(&Source { dev, path: self.image.clone(), gate: self.gate() })?;
        match counts(&report) {
            (0, leaks, 0) => Ok(leaks),
            _ => Err(Error::corrupt("it is damaged: it must be repaired before it is compacted")
                .op("compact")
                .path(&self.image)
                .hint("look with cowshed check; check -r all repairs")),
        }
    }
}

/// The operation of a [`CompactSpec`].
pub struct Compact {
    spec: CompactSpec,
}

impl Compact {
    /// Touches nothing yet.
    pub fn new(spec: CompactSpec) -> Self {
        Compact { spec }
    }

    /// The steps, on the file that is `held`: that of the image, which is the top of `chain`, or a copy of it. How much was moved, and
    /// what keeps others off still.
    fn steps(&self, chain: &Chain, held: (WriteDevice, Guard), job: &JobContext) -> Result<(u64, Vec<Guard>)> {
        let spec = &self.spec;
        let format = chain.layers.first().map_or(Format::Raw, |l| l.format());
        let (dev, guard) = held;
        self.drop_leaks(&dev, format, job)?;
        let mut top = edit::open_held(&spec.image, Some(format), &spec.gate(), (dev.clone(), guard), None)?;
        top.writer.keep_identity();
        if spec.free_space {
            job.progress.set_phase("giving back free space");
            let disk = Arc::new(spec.open()?.disk()?);
            let found = disk.layers().first().map(|image| free_space::look(&disk, image.as_ref(), job)).transpose()?;
            let (found, _) = found.unwrap_or_default();
            let freed = free_space::give_back(top.writer.as_ref(), &found, job)?;
            job.log(format!("{freed} bytes that are free in its filesystems were given back or made zeros"));
        }
        job.progress.set_phase("looking for zeros");
        if format != Format::Qcow2 || top.writer.reader().files().len() > 1 {
            zeros::drop_zeros(top.writer.as_ref(), job)?;
        }
        top.writer.finish()?;
        let guards = std::mem::take(&mut top.guards);
        drop(top);
        if format != Format::Qcow2 {
            return Ok((0, guards));
        }
        let source = Source { dev: dev.clone(), path: spec.image.clone(), gate: spec.gate() };
        let mut editor = Editor::open_any(dev.clone(), source)?;
        zeros::drop_clusters(&dev, &mut editor, job)?;
        job.progress.set_phase("moving clusters");
        Ok((editor.compact(&|| job.checkpoint())?, guards))
    }

    /// Gives back what is counted and not used in the image of `format` on `dev`.
    fn drop_leaks(&self, dev: &WriteDevice, format: Format, job: &JobContext) -> Result<()> {
        let Some(run) = tools(format).and_then(|t| t.repair) else { return Ok(()) };
        if self.spec.leaks(dev.clone(), format)? == 0 {
            return Ok(());
        }
        job.progress.set_phase("giving back lost clusters");
        let source = Source { dev: dev.clone(), path: self.spec.image.clone(), gate: self.spec.gate() };
        let dev = dev.clone();
        // Nothing that is in use changes, so there is nothing to keep for an undo.
        run(&Repairing { dev, source, repair: Repair::Leaks, keep: &|_| Ok(()), tick: &|_, _| job.stop_if_asked() })?;
        Ok(())
    }
}

/// Adds to `plan` what the image of `chain` stores of its filesystems' free space.
fn plan_free_space(chain: &Chain, plan: &mut Plan) -> Result<()> {
    let disk = Arc::new(chain.disk()?);
    let Some(top) = disk.layers().first() else { return Ok(()) };
    let (found, left) = free_space::look(&disk, top.as_ref(), &JobContext::detached())?;
    for f in &found {
        let stored = f.whole(free_space::least(top.as_ref()));
        let (given, free) = (about(stored), about(f.free));
        plan.steps
            .push(format!("{}: of {free} free {given} are stored; they are given back, and all of it reads as zeros", f.name));
        plan.freed_bytes = plan.freed_bytes.saturating_add(stored);
    }
    plan.warnings.extend(left);
    if !top.describe().snapshots.is_empty() {
        plan.warnings.push("what its internal snapshots share of the free space stays, with its old content".into());
    }
    if disk.layers().len() > 1 {
        plan.warnings.push("what it stands on keeps its free space: compact that by itself".into());
    }
    Ok(())
}

/// What an image takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Taken {
    /// Bytes on the host.
    bytes: u64,
    /// Bytes of its files, holes too.
    length: u64,
}

impl Taken {
    /// By the top of `chain` now.
    fn by(chain: &Chain) -> Taken {
        let length = chain.layers.first().map_or(0, |l| l.files().iter().map(|f| f.len()).sum());
        Taken { bytes: allocated(chain), length }
    }

    /// What became of `before`.
    fn told(&self, before: &Taken, moved: u64) -> String {
        let mut out = format!("takes {} bytes on the host, ", self.bytes);
        out += &match (before.bytes.checked_sub(self.bytes), self.bytes.saturating_sub(before.bytes)) {
            (Some(0), _) => "as many as before".to_string(),
            (Some(fewer), _) => format!("{fewer} fewer than before"),
            (None, more) => format!("{more} more than before"),
        };
        if let Some(shorter) = before.length.checked_sub(self.length).filter(|n| *n > 0) {
            out += &format!("; the file is {shorter} bytes shorter");
        }
        out + &match moved {
            0 => "; nothing was moved".to_string(),
            1 => "; one cluster or table was moved".to_string(),
            n => format!("; {n} clusters and tables were moved"),
        }
    }
}

/// Bytes that `image` and its further files take on the host now.
fn allocated(chain: &Chain) -> u64 {
    chain.layers.first().map_or(0, |l| l.files().iter().map(|f| f.allocated()).sum())
}

impl Operation for Compact {
    fn claims(&self) -> Result<Vec<Claim>> {
        let chain = self.spec.open()?;
        let below = chain.nodes.iter().skip(1).map(|n| Claim::read(&n.path));
        Ok(std::iter::once(Claim::write(&self.spec.image)).chain(below).collect())
    }

    fn plan(&self) -> Result<Plan> {
        let spec = &self.spec;
        edit::refuse_half_done(&spec.image)?;
        edit::refuse_in_use(&spec.image)?;
        let chain = spec.open()?;
        let top = chain.layers.first().ok_or_else(|| Error::new(ErrorKind::Internal, "a chain without layers"))?;
        let format = top.format();
        if format.entry().open_write.is_none() {
            return Err(Error::unsupported(format!("cowshed does not write into {format} images"))
                .op("compact")
                .path(&spec.image));
        }
        let mut plan = Plan {
            title: spec.title(),
            writes: vec![PlanFile { path: spec.image.clone(), what: format!("{format} image, changed in place") }],
            undo: Undo::Possible("there is nothing to take back: the content stays".into()),
            ..Plan::default()
        };
        let files = top.files();
        plan.read_bytes = pieces::estimate(top.size(), |at| zeros::next(top.as_ref(), &files, at))?.likely;
        let dev: Device = Arc::new(FileDevice::open(&spec.image)?);
        if spec.copy {
            copy::plan(&spec.image, &chain, dev.as_ref(), &mut plan)?;
        }
        let leaks = spec.leaks(dev, format)?;
        if spec.free_space {
            plan_free_space(&chain, &mut plan).op("compact").path(&spec.image)?;
        }
        if leaks > 0 {
            let cluster = top.describe().cluster_size.unwrap_or(0);
            plan.freed_bytes += leaks.saturating_mul(cluster);
            plan.steps.push(format!("{leaks} clusters that nobody uses are given back"));
        }
        plan.steps.push(match top.describe().snapshots.is_empty() {
            true => "zeros that are stored are given back".into(),
            false => "zeros that it or a snapshot of it stores are given back".into(),
        });
        if format == Format::Qcow2 {
            plan.steps.push("clusters and tables at the end of the file move into free places, and the file is cut".into());
        }
        plan.steps.push(format!("it takes {} on the host now", about(allocated(&chain))));
        Ok(plan)
    }

    fn run(&self, plan: &Plan, job: &JobContext) -> Result<Outcome> {
        let spec = &self.spec;
        job.progress.set_total(plan.read_bytes.max(1));
        edit::refuse_half_done(&spec.image)?;
        let held = edit::hold(&spec.image)?;
        let chain = spec.open()?;
        let before = Taken::by(&chain);
        let (moved, made) = if spec.copy {
            let (old, guard) = held;
            let stage = copy::copied(&spec.image, &chain, &old, job)?;
            let (moved, _guards) = self.steps(&chain, (stage.image(), guard), job).op("compact").path(&spec.image)?;
            job.progress.set_phase("making it durable");
            stage.flush()?;
            job.finishing()?;
            (moved, stage.commit()?)
        } else {
            let (moved, _) = self.steps(&chain, held, job).op("compact").path(&spec.image)?;
            job.finishing()?;
            (moved, Vec::new())
        };
        let summary = format!("{} {}", spec.image.display(), Taken::by(&spec.open()?).told(&before, moved));
        job.log(summary.clone());
        Ok(Outcome { summary, made })
    }
}
