//! Resize: another virtual size, in place.

mod advice;
mod division;
mod inside;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dd::copy;
use super::dependents::{self, Dependents};
use super::edit::{self, Editing};
use super::plan::{Estimate, Plan, PlanFile, Space, Undo};
use super::stage::Stage;
use super::{Operation, Outcome, pieces, rehearse};
use crate::engine::chain::{Chain, Disk, OpenOptions};
use crate::engine::error::{Context, Error, Result};
pub use crate::engine::format::write::Preallocation;
use crate::engine::format::write::{Below, CreateSpec, DiskWriter, NewBacking, OpenOther, WriteSource};
use crate::engine::format::{Format, Source};
use crate::engine::guest::partition::grow::move_backup;
use crate::engine::io::file::FileDevice;
use crate::engine::io::gate::Gate;
use crate::engine::io::{Device, WriteDevice};
use crate::engine::job::{Claim, JobContext};
use crate::engine::limits::COPY_CHUNK;
use crate::engine::model::Kind;
use crate::engine::units::{SECTOR, round_up};

/// The size wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// So many bytes.
    To(u64),
    /// So many bytes more.
    By(u64),
    /// So many bytes fewer.
    Less(u64),
}

/// What to do, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ResizeSpec {
    /// The image.
    pub image: PathBuf,
    /// Its format; `None` probes.
    pub format: Option<Format>,
    /// The size wanted.
    pub change: Change,
    /// It may become smaller; what lies beyond the new end is lost.
    pub shrink: bool,
    /// What is reserved of the new part.
    pub preallocation: Preallocation,
    /// Move the backup GPT to the new end.
    #[serde(default)]
    pub move_gpt: bool,
    /// Grow the last partition, and its filesystem where that can be done.
    #[serde(default)]
    pub grow_guest: bool,
    /// Folders whose files may be opened when the image names them, besides its own.
    pub roots: Vec<PathBuf>,
    /// Open whatever file the image names.
    pub follow: bool,
}

impl ResizeSpec {
    /// A plain change of size.
    pub fn new(image: impl Into<PathBuf>, change: Change) -> Self {
        ResizeSpec {
            image: image.into(),
            format: None,
            change,
            shrink: false,
            preallocation: Preallocation::Off,
            move_gpt: false,
            grow_guest: false,
            roots: Vec::new(),
            follow: false,
        }
    }
    /// What it does, in a line.
    pub fn title(&self) -> String {
        let to = match self.change {
            Change::To(n) => format!("to {n} bytes"),
            Change::By(n) => format!("by {n} more bytes"),
            Change::Less(n) => format!("by {n} fewer bytes"),
        };
        format!("resize {} {to}", self.image.display())
    }

    /// The arguments of the `cowshed` command that does the same.
    pub fn command(&self) -> Vec<String> {
        let mut out: Vec<String> = vec!["resize".into()];
        if let Some(format) = self.format {
            out.extend(["-f".into(), format.name().into()]);
        }
        let flags = [
            (self.shrink, "--shrink"),
            (self.move_gpt, "--move-gpt"),
            (self.grow_guest, "--grow-guest"),
            (self.follow, "--follow"),
        ];
        out.extend(flags.iter().filter(|f| f.0).map(|f| f.1.to_string()));
        let mode = match self.preallocation {
            Preallocation::Off => None,
            Preallocation::Metadata => Some("metadata"),
            Preallocation::Falloc => Some("falloc"),
            Preallocation::Full => Some("full"),
        };
        out.extend(mode.map(|m| format!("--preallocation={m}")));
        out.push(self.image.display().to_string());
        out.push(match self.change {
            Change::To(n) => n.to_string(),
            Change::By(n) => format!("+{n}"),
            Change::Less(n) => format!("-{n}"),
        });
        out
    }

    fn gate(&self) -> Gate {
        self.roots.iter().fold(Gate::around(&self.image), |g, r| g.allow(r)).follow(self.follow)
    }

    /// The new size for a disk of `old` bytes, checked.
    fn target(&self, old: u64) -> Result<u64> {
        let new = match self.change {
            Change::To(n) => Some(n),
            Change::By(n) => old.checked_add(n),
            Change::Less(n) => old.checked_sub(n),
        };
        let new = new
            .and_then(|n| round_up(n, SECTOR))
            .filter(|n| *n <= i64::MAX as u64)
            .ok_or_else(|| Error::usage("the new size is below zero or too large").op("resize").path(&self.image))?;
        if new < old && !self.shrink {
            return Err(Error::usage(format!("it has {old} bytes, and {new} are fewer: what lies beyond would be lost"))
                .op("resize")
                .path(&self.image)
                .hint("shrink the filesystems in it first, then add --shrink"));
        }
        if new < old && self.grow_guest {
            return Err(Error::usage("the guest cannot grow on a disk that becomes smaller").op("resize").path(&self.image));
        }
        if new < old && self.preallocation != Preallocation::Off {
            return Err(Error::usage("there is nothing to preallocate when it becomes smaller").op("resize").path(&self.image));
        }
        Ok(new)
    }
}

/// True when growing the guest of the image at `path` was interrupted, so that its filesystem is half done.
pub fn interrupted(path: &Path) -> bool {
    super::sanitize::kept(&inside::undo_path(path)).ok().flatten().is_some_and(|k| k.half_done)
}

/// The operation of a [`ResizeSpec`].
pub struct Resize {
    spec: ResizeSpec,
}

impl Resize {
    /// Touches nothing yet.
    pub fn new(spec: ResizeSpec) -> Self {
        Resize { spec }
    }

    fn chain(&self) -> Result<Chain> {
        let options = OpenOptions { format: self.spec.format, gate: Some(self.spec.gate()), ..OpenOptions::default() };
        Chain::open(&self.spec.image, &options)
    }

    /// Opens the image for writing. What an interrupted growing left is taken back, when this is to be one.
    fn open(&self, job: &JobContext) -> Result<Editing> {
        let spec = &self.spec;
        if !spec.grow_guest || !interrupted(&spec.image) {
            return edit::open(&spec.image, spec.format, &spec.gate());
        }
        let editing = edit::open_as_it_is(&spec.image, spec.format, &spec.gate())?;
        inside::roll_back(editing.writer.as_ref(), &spec.image)?;
        job.log("a growing of the filesystem that was interrupted is taken back");
        drop(editing);
        edit::open(&spec.image, spec.format, &spec.gate())
    }

    /// Refuses what the image's format would refuse: opened with all changes kept in memory, it is asked for no other size.
    fn refuse_unable(&self, chain: &Chain, old: u64, new: u64) -> Result<()> {
        let Some((top, below)) = chain.layers.split_first() else { return Ok(()) };
        let format = top.format();
        let open = format.entry().open_write.ok_or_else(|| {
            Error::unsupported(format!("cowshed does not write into {format} images")).op("resize").path(&self.spec.image)
        })?;
        let dev = rehearse::over(Arc::new(FileDevice::open(&self.spec.image)?));
        let gate = self.spec.gate();
        let source = Source { dev: dev.clone(), path: self.spec.image.clone(), gate: gate.clone() };
        let below = (!below.is_empty()).then(|| Below(Arc::new(Disk::new(below.to_vec()))));
        let other: OpenOther = Arc::new(move |from, name| Ok(rehearse::over(Arc::new(gate.open(from, name)?))));
        let asked = open(WriteSource { dev, source, below, other }).and_then(|writer| {
            writer.preallocate(old, self.spec.preallocation)?;
            if writer.is_split(new) { Ok(()) } else { writer.resize(old) }
        });
        asked.op("resize").path(&self.spec.image)
    }

    /// Refuses what would take content away from images that stand on this one, or break them.
    fn dependents(&self, chain: &Chain, new: u64) -> Result<Dependents> {
        let spec = &self.spec;
        let identity = chain.nodes.first().map(|n| n.description.identity.clone()).unwrap_or_default();
        let found = dependents::of(&spec.image, &identity, &spec.roots)?;
        found.refuse_broken(&spec.image)?;
        if let Some(d) = found.all.iter().filter(|d| d.size > new).max_by_key(|d| d.size) {
            let old = chain.layers.first().map_or(0, |l| l.size());
            if new < old {
                return Err(Error::usage(format!(
                    "{} stands on it with {} bytes, of which it would lose those past {new}",
                    d.path.display(),
                    d.size
                ))
                .op("resize")
                .path(&spec.image)
                .hint("shrink that image first, or make it stand alone"));
            }
        }
        Ok(found)
    }

    /// Gives a disk that is split over several files another size: new extents and a new image file take their names at once.
    fn split(&self, editing: Editing, old: u64, new: u64, job: &JobContext) -> Result<Outcome> {
        let spec = &self.spec;
        if spec.preallocation != Preallocation::Off {
            return Err(Error::unsupported("nothing can be reserved in a split disk").op("resize").path(&spec.image));
        }
        // What an interrupted change left goes first.
        editing.writer.resize(old).op("resize").path(&spec.image)?;
        if new < old {
            self.move_gpt(&editing, new)?;
        }
        let stage = Stage::new(&spec.image, Vec::new())?;
        let gone = editing.writer.resize_split(new, &stage).op("resize").path(&spec.image)?;
        let gone = gone.iter().map(|n| spec.gate().locate(&spec.image, n)).collect::<Result<Vec<_>>>()?;
        job.finishing()?;
        let made = stage.commit()?;
        drop(editing);
        let editing = edit::open(&spec.image, spec.format, &spec.gate())?;
        editing.writer.resize(new).op("resize").path(&spec.image)?;
        let grown = if new > old || spec.grow_guest { self.divide(&editing, new, job)? } else { String::new() };
        editing.writer.finish()?;
        for path in gone {
            std::fs::remove_file(&path).op("remove an extent that is no longer used").path(&path)?;
        }
        Ok(Outcome { summary: format!("{} has {new} bytes now{grown}", spec.image.display()), made })
    }

    /// On a disk that is as long as it will be: what the person asked for of the guest's own tables. Says what grew.
    fn divide(&self, editing: &Editing, size: u64, job: &JobContext) -> Result<String> {
        if !self.spec.grow_guest {
            return self.move_gpt(editing, size).map(|()| String::new());
        }
        let guest = || -> WriteDevice { Arc::new(editing.guest()) };
        let grown = inside::grow(&guest, editing.writer.as_ref(), &self.spec.image, job)?;
        Ok(grown.map(|g| format!("; {g}")).unwrap_or_default())
    }

    /// Moves the backup GPT of the guest to the end of `size` bytes, if that was asked for.
    fn move_gpt(&self, editing: &Editing, size: u64) -> Result<()> {
        if !self.spec.move_gpt {
            return Ok(());
        }
        let edits = move_backup(&editing.guest(), size).and_then(|edits| edits.unwrap_or_default().apply(&editing.guest()));
        edits.op("move the backup GPT").path(&self.spec.image)
    }

    /// Refuses what cannot be asked of an image that is written anew.
    fn refuse_remade(&self) -> Result<()> {
        let spec = &self.spec;
        if !spec.move_gpt && !spec.grow_guest && spec.preallocation == Preallocation::Off {
            return Ok(());
        }
        Err(Error::unsupported("it is compressed from front to end: nothing in it can be moved, grown or reserved")
            .op("resize")
            .path(&spec.image)
            .hint("convert it to another sub-format"))
    }

    /// Writes an image of another size beside the old one, with `options`, and puts it in its place when it is complete.
    fn rewrite(&self, chain: &Chain, options: Vec<(String, String)>, job: &JobContext) -> Result<Outcome> {
        let spec = &self.spec;
        let (_dev, _guard) = edit::hold(&spec.image)?;
        let disk = chain.disk()?;
        let _below = edit::hold_layers(&Disk::new(chain.layers.get(1..).unwrap_or_default().to_vec()), false)?;
        let new = spec.target(disk.size())?;
        let format = chain.layers.first().map_or(Format::Raw, |l| l.format());
        self.refuse_remade()?;
        self.dependents(chain, new)?;
        let create = format.entry().create.ok_or_else(|| Error::unsupported(format!("cowshed does not make {format} images")))?;
        let file_name = spec.image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stage = Stage::new(&spec.image, Vec::new())?;
        let backing = parent(chain);
        let writer = create(&CreateSpec { size: new, options, backing: backing.clone(), file_name }, &stage).path(&spec.image)?;
        let (old, len) = (disk.size(), disk.size().min(new));
        job.progress.set_total(len.max(1));
        job.progress.set_phase("writing it anew");
        match backing.and_then(|b| b.disk) {
            None => copy(&disk, 0, len, writer.as_ref(), job)?,
            Some(below) => {
                copy_layer(&Disk::new(chain.layers.get(..1).unwrap_or_default().to_vec()), len, writer.as_ref(), job)?;
                // What a longer parent has beyond the old end must not show.
                below.shown(old..new.max(old), writer.unit(), |at, len| writer.write_zeroes(at, len))?;
            }
        }
        writer.finish()?;
        job.finishing()?;
        drop(writer);
        Ok(Outcome { summary: format!("{} has {new} bytes now", spec.image.display()), made: stage.commit()? })
    }
}

/// What an image of `chain`'s top that is written anew stands on: what the old one does, by the name it has for it.
fn parent(chain: &Chain) -> Option<NewBacking> {
    let (reference, node, layer) = (chain.layers.first()?.backing()?, chain.nodes.get(1)?, chain.layers.get(1)?);
    Some(NewBacking {
        name: reference.names.first()?.clone(),
        path: node.path.clone(),
        format: layer.format(),
        size: layer.size(),
        identity: node.description.identity.clone(),
        disk: Some(Below(Arc::new(Disk::new(chain.layers.get(1..)?.to_vec())))),
    })
}

/// Copies what the one layer of `top` holds of its first `len` bytes, zeros too; what it leaves to its parent stays so.
fn copy_layer(top: &Disk, len: u64, writer: &dyn DiskWriter, job: &JobContext) -> Result<()> {
    let mut buf = vec![0u8; COPY_CHUNK];
    for extent in top.extents(0, len) {
        let e = extent?;
        let mut at = e.offset;
        while at < e.offset + e.len {
            job.checkpoint()?;
            let n = pieces::piece(at, e.offset + e.len - at, e.kind == Kind::Zero).len;
            match e.kind {
                Kind::Unallocated => {}
                Kind::Zero => writer.write_zeroes(at, n)?,
                Kind::Data | Kind::Compressed => {
                    let part = buf.get_mut(..n as usize).unwrap_or_default();
                    top.read_extent(&e, at, part)?;
                    job.progress.add_read(n);
                    writer.write(at, part)?;
                    job.progress.add_written(n);
                }
            }
            at += n;
            job.progress.add_done(n);
        }
    }
    Ok(())
}

impl Operation for Resize {
    fn claims(&self) -> Result<Vec<Claim>> {
        let chain = self.chain()?;
        let mut claims = vec![Claim::write(&self.spec.image)];
        for (depth, layer) in chain.layers.iter().enumerate() {
            for path in layer.files().iter().filter_map(|f| f.path()) {
                claims.push(if depth == 0 { Claim::write(path) } else { Claim::read(path) });
            }
        }
        Ok(claims)
    }

    fn plan(&self) -> Result<Plan> {
        let spec = &self.spec;
        let chain = self.chain()?;
        edit::refuse_chain_in_use(&chain)?;
        let disk: Device = Arc::new(chain.disk()?);
        let old = disk.len();
        let new = spec.target(old)?;
        let dependents = self.dependents(&chain, new)?;
        let format = chain.layers.first().map_or(Format::Raw, |l| l.format());
        let mut plan = Plan {
            title: spec.title(),
            steps: vec![format!("virtual size {old} bytes, then {new}")],
            writes: vec![PlanFile { path: spec.image.clone(), what: format!("{format} image, changed in place") }],
            write_bytes: match spec.preallocation {
                Preallocation::Falloc | Preallocation::Full => Estimate::exact(new.saturating_sub(old)),
                _ => Estimate::default(),
            },
            undo: if new < old {
                Undo::Impossible("what lies beyond the new end is lost".into())
            } else {
                Undo::Possible(format!("resize it back to {old} bytes with --shrink"))
            },
            ..Plan::default()
        };
        if spec.format.is_none() && format == Format::Raw {
            plan.warnings.push("its format is not given, and it looks like raw; -f raw says so for sure".into());
        }
        if !dependents.all.is_empty() {
            let verb = if dependents.all.len() == 1 { "stands" } else { "stand" };
            plan.warnings.push(format!("{} {verb} on it; their own size stays", dependents.names()));
        }
        if !dependents.complete {
            plan.warnings.push("not every file that may stand on it could be looked at".into());
        }
        if chain.layers.first().is_some_and(|l| l.remade_with().is_some()) {
            self.refuse_remade()?;
            plan.steps
                .push("images of this kind are not changed in place: it is written anew and takes the old one's place".into());
            plan.read_bytes = old;
            let needed = Estimate { likely: chain.nodes.first().and_then(|n| n.actual_size).unwrap_or(old), worst: old.max(new) };
            plan.write_bytes = needed;
            let on = super::convert::folder(&spec.image);
            let free = super::stage::room(&on)?;
            plan.space = Some(Space { on, needed, free });
        } else {
            self.refuse_unable(&chain, old, new)?;
        }
        let growth = if spec.grow_guest { Some(inside::rehearse(&disk, new, &spec.image)?) } else { None };
        division::describe(&disk, old, new, spec.move_gpt, growth.as_ref(), &mut plan)?;
        Ok(plan)
    }

    fn run(&self, _: &Plan, job: &JobContext) -> Result<Outcome> {
        let spec = &self.spec;
        let chain = self.chain()?;
        if let Some(options) = chain.layers.first().and_then(|l| l.remade_with()) {
            return self.rewrite(&chain, options, job);
        }
        let editing = self.open(job)?;
        let writer = &editing.writer;
        let old = writer.size();
        let new = spec.target(old)?;
        self.dependents(&chain, new)?;
        if spec.grow_guest {
            job.progress.set_phase("rehearsing");
            let disk: Device = Arc::new(editing.guest());
            inside::rehearse(&disk, new, &spec.image).path(&spec.image)?;
            // The last moment to stop.
            job.finishing()?;
        }
        if writer.is_split(new) {
            return self.split(editing, old, new, job);
        }
        // The backup is moved inside before the end goes, and to the end when that is there: the table is whole at any moment.
        if new < old {
            self.move_gpt(&editing, new)?;
        }
        // Of nothing, before anything is changed: a format that cannot reserve says so here.
        writer.preallocate(old, spec.preallocation).op("reserve space").path(&spec.image)?;
        job.progress.set_phase("changing the size");
        writer.resize(new).op("resize").path(&spec.image)?;
        if new > old {
            job.progress.set_phase("reserving space");
            writer.preallocate(old, spec.preallocation).op("reserve space").path(&spec.image)?;
        }
        let grown = if new > old || spec.grow_guest { self.divide(&editing, new, job)? } else { String::new() };
        writer.finish()?;
        Ok(Outcome { summary: format!("{} has {new} bytes now{grown}", spec.image.display()), made: Vec::new() })
    }
}
