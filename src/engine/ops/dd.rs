//! dd: a piece of a disk, counted in blocks, into a new image.

use std::path::PathBuf;

use super::edit::{self, InPlace};
use super::plan::{Estimate, Plan, PlanFile, Space, Undo};
use super::stage::Stage;
use super::{Operation, Outcome, dependents};
use crate::engine::chain::{Chain, Disk, OpenOptions};
use crate::engine::error::{Context, Error, Result};
use crate::engine::format::Format;
use crate::engine::format::write::{CreateSpec, DiskWriter};
use crate::engine::io::ReadAt;
use crate::engine::io::bytes::is_zero;
use crate::engine::io::file::FileId;
use crate::engine::io::gate::Gate;
use crate::engine::io::locks::{LockMode, lock};
use crate::engine::job::{Claim, JobContext};
use crate::engine::limits::COPY_CHUNK;
use crate::engine::model::Kind;
use crate::engine::units::{SECTOR, round_up};

/// What to copy, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DdSpec {
    /// `if=`: the image to read.
    pub input: PathBuf,
    /// `of=`: the image to make.
    pub output: PathBuf,
    /// Format of the input; `None` probes.
    pub input_format: Option<Format>,
    /// Format of the output.
    pub output_format: Format,
    /// `bs=`: bytes of a block.
    pub block: u64,
    /// `count=`: blocks of the input, counted from its beginning; `None` is all of it.
    pub count: Option<u64>,
    /// `skip=`: of these, blocks passed over at the beginning.
    pub skip: u64,
    /// Read the input although another process may be writing to it.
    pub force_share: bool,
    /// Open whatever file the input names.
    pub follow: bool,
}

impl DdSpec {
    /// What it does, in a line.
    pub fn title(&self) -> String {
        format!("copy a piece of {} to {}", self.input.display(), self.output.display())
    }

    /// The arguments of the `cowshed` command that does the same.
    pub fn command(&self) -> Vec<String> {
        let mut out: Vec<String> = vec!["dd".into()];
        if let Some(format) = self.input_format {
            out.extend(["-f".into(), format.name().into()]);
        }
        out.extend(["-O".into(), self.output_format.name().into()]);
        out.extend([(self.force_share, "-U"), (self.follow, "--follow")].iter().filter(|f| f.0).map(|f| f.1.to_string()));
        out.extend([
            format!("if={}", self.input.display()),
            format!("of={}", self.output.display()),
            format!("bs={}", self.block),
        ]);
        out.extend(self.count.map(|n| format!("count={n}")));
        out.extend((self.skip > 0).then(|| format!("skip={}", self.skip)));
        out
    }

    fn chain(&self) -> Result<Chain> {
        let gate = Gate::around(&self.input).follow(self.follow);
        Chain::open(&self.input, &OpenOptions { format: self.input_format, gate: Some(gate), ..OpenOptions::default() })
    }

    /// First guest byte and length of the piece, on a disk of `size` bytes.
    fn piece(&self, size: u64) -> Result<(u64, u64)> {
        let blocks = |n: u64| n.checked_mul(self.block).ok_or_else(|| Error::usage("the piece lies beyond 2^64 bytes").op("dd"));
        // As qemu-img counts: the blocks passed over are among those counted.
        let end = self.count.map(blocks).transpose()?.map_or(size, |n| n.min(size));
        let start = blocks(self.skip)?.min(end);
        Ok((start, end - start))
    }
}

/// The operation of a [`DdSpec`].
pub struct Dd {
    spec: DdSpec,
}

impl Dd {
    /// Touches nothing yet.
    pub fn new(spec: DdSpec) -> Self {
        Dd { spec }
    }
}

impl Operation for Dd {
    fn claims(&self) -> Result<Vec<Claim>> {
        let chain = self.spec.chain()?;
        Ok(chain.nodes.iter().map(|n| Claim::read(&n.path)).chain([Claim::write(&self.spec.output)]).collect())
    }

    fn plan(&self) -> Result<Plan> {
        let spec = &self.spec;
        edit::refuse_in_use(&spec.output)?;
        let chain = spec.chain()?;
        let (start, len) = spec.piece(chain.disk()?.size())?;
        let reads = chain.nodes.iter().map(|n| PlanFile { path: n.path.clone(), what: "read".into() }).collect();
        let needed = Estimate::exact(len);
        let (space, undo, what) = match edit::is_device(&spec.output) {
            true => {
                let space = edit::device_space(&spec.output, spec.output_format, len, needed)?;
                (space, Undo::Impossible("what the device holds now is overwritten".into()), "block device, overwritten".into())
            }
            false => {
                super::stage::replaceable(&spec.output)?;
                let on = super::convert::folder(&spec.output);
                let free = super::stage::room(&on)?;
                (Space { on, needed, free }, Undo::DeleteResult, format!("new {} image", spec.output_format))
            }
        };
        Ok(Plan {
            losses: dependents::losing(&spec.output, &[])?,
            space: Some(space),
            title: spec.title(),
            reads,
            writes: vec![PlanFile { path: spec.output.clone(), what }],
            steps: vec![format!("{len} bytes from byte {start} on")],
            read_bytes: len,
            write_bytes: needed,
            undo,
            ..Plan::default()
        })
    }

    fn run(&self, _: &Plan, job: &JobContext) -> Result<Outcome> {
        let spec = &self.spec;
        let chain = spec.chain()?;
        let disk = chain.disk()?;
        let mode = if spec.force_share { LockMode::Shared } else { LockMode::Read };
        let mut held = Vec::new();
        let mut protected = Vec::new();
        for file in chain.layers.iter().flat_map(|l| l.files()) {
            if let Some(file) = file.as_file() {
                protected.push(file.id()?);
                held.push(lock(file, mode)?);
            }
        }
        if std::fs::metadata(&spec.output).is_ok_and(|m| protected.contains(&FileId::of(&m))) {
            return Err(Error::usage("input and output are the same file").op("dd").path(&spec.output));
        }
        edit::refuse_in_use(&spec.output)?;
        let (start, len) = spec.piece(disk.size())?;
        let create = spec.output_format.entry().create.ok_or_else(|| {
            Error::unsupported(format!("cowshed does not make {} images", spec.output_format)).hint("see `cowshed formats`")
        })?;
        let wanted = CreateSpec {
            size: round_up(len, SECTOR).unwrap_or(len),
            file_name: spec.output.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            ..CreateSpec::default()
        };
        job.progress.set_total(len.max(1));
        let fill = |writer: &dyn DiskWriter| {
            copy(&disk, start, len, writer, job)?;
            writer.finish()?;
            job.finishing()
        };
        let made = if edit::is_device(&spec.output) {
            let (dev, _guard) = edit::hold(&spec.output)?;
            let writer = create(&wanted, &InPlace(dev.clone())).path(&spec.output)?;
            if spec.output_format == Format::Raw {
                // The plain bytes of a device are what they were.
                writer.write_zeroes(0, len)?;
            }
            fill(writer.as_ref())?;
            dev.flush()?;
            vec![spec.output.clone()]
        } else {
            let stage = Stage::new(&spec.output, protected)?;
            fill(create(&wanted, &stage).path(&spec.output)?.as_ref())?;
            stage.commit()?
        };
        Ok(Outcome { summary: format!("{len} bytes copied to {}", spec.output.display()), made })
    }
}

/// Copies `len` bytes of `disk` from `start` on to the beginning of `writer`, in whole units of it, leaving zeros out.
pub(super) fn copy(disk: &Disk, start: u64, len: u64, writer: &dyn DiskWriter, job: &JobContext) -> Result<()> {
    let unit = writer.unit().clamp(4096, COPY_CHUNK as u64);
    let mut buf = vec![0u8; COPY_CHUNK];
    let mut done = 0;
    for extent in disk.extents(start, start.saturating_add(len)) {
        let e = extent?;
        if !matches!(e.kind, Kind::Data | Kind::Compressed) {
            continue;
        }
        // A unit may hold the end of one extent and the beginning of the next: it is read and written as a whole, once.
        let mut at = ((e.offset - start) / unit * unit).max(done);
        let end = (e.offset + e.len - start).next_multiple_of(unit).min(len);
        while at < end {
            job.checkpoint()?;
            let n = (end - at).min(COPY_CHUNK as u64);
            let piece = buf.get_mut(..n as usize).unwrap_or_default();
            disk.read_at(start + at, piece)?;
            job.progress.add_read(n);
            for (i, part) in piece.chunks(unit as usize).enumerate().filter(|(_, p)| !is_zero(p)) {
                writer.write(at + i as u64 * unit, part)?;
                job.progress.add_written(part.len() as u64);
            }
            at += n;
            job.progress.add_done(at.saturating_sub(done));
            done = done.max(at);
        }
    }
    job.progress.add_done(len - done.min(len));
    Ok(())
}
