//! Where a conversion writes: a new image under a partial name, an image that is there already, or a block device.

use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::spec::ConvertSpec;
use crate::engine::chain::{Chain, OpenOptions};
use crate::engine::error::{Context, Error, Result};
use crate::engine::format::Source;
use crate::engine::format::write::{CreateSpec, DiskWriter, NewBacking, NewFiles, WriteSource};
use crate::engine::io::WriteDevice;
use crate::engine::io::file::FileId;
use crate::engine::io::gate::Gate;
use crate::engine::io::locks::Guard;
use crate::engine::ops::edit::{self, Editing, InPlace};
use crate::engine::ops::stage::Stage;

/// The target of a running conversion.
pub(super) struct Target {
    pub(super) writer: Arc<dyn DiskWriter>,
    /// It reads as zeros, or as its backing file, where nothing is written.
    pub(super) blank: bool,
    /// Guest bytes that are there from an earlier run.
    pub(super) from: u64,
    place: Place,
}

/// Refuses an existing target of `spec` that cannot take the `size` bytes to be written: it cannot be opened, is in use, is too small, or has bitmaps that those to be copied would stand beside.
pub(super) fn refuse(spec: &ConvertSpec, size: u64) -> Result<()> {
    let gate = spec.roots.iter().fold(Gate::around(&spec.target), |g, r| g.allow(r)).follow(spec.follow);
    let options = OpenOptions { format: Some(spec.format), gate: Some(gate), ..OpenOptions::default() };
    let chain = Chain::open(&spec.target, &options)?;
    edit::refuse_chain_in_use(&chain)?;
    let bitmaps = chain.nodes.first().map_or(0, |n| n.description.bitmaps.len());
    fits(spec, chain.layers.first().map_or(0, |l| l.size()), size, bitmaps)
}

/// Refuses an existing target of `holds` bytes with `bitmaps` bitmaps that cannot take the `size` bytes to be written.
fn fits(spec: &ConvertSpec, holds: u64, size: u64, bitmaps: usize) -> Result<()> {
    let refuse = |why: String, hint: &str| Err(Error::usage(why).op("convert").path(&spec.target).hint(hint));
    if spec.bitmaps && bitmaps > 0 {
        let hint = "remove them first (qemu-img bitmap --remove), or convert to a new image";
        return refuse("the target has bitmaps of its own, beside which no others are put".into(), hint);
    }
    if holds < size {
        return refuse(format!("the target holds {holds} bytes and {size} are to be written"), "resize it first");
    }
    Ok(())
}

enum Place {
    New(Box<Stage>),
    /// A file or device written in place, held by the lock.
    Existing(PathBuf, WriteDevice, #[expect(dead_code, reason = "held, never looked at")] Vec<Guard>),
}

/// What the format is told to make, for a disk of `size` bytes.
pub(super) fn wanted(spec: &ConvertSpec, size: u64, backing: Option<NewBacking>) -> Result<CreateSpec> {
    let wanted = CreateSpec {
        size,
        options: spec.options.clone(),
        backing,
        file_name: spec.target.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    wanted.check(spec.format, spec.format.entry().options)?;
    Ok(wanted)
}

/// Refuses to compress into a format that cannot.
pub(super) fn compressible(spec: &ConvertSpec) -> Result<()> {
    if spec.compress && !spec.format.entry().caps.compression {
        return Err(Error::unsupported(format!("{} images cannot store data compressed", spec.format))
            .op("convert")
            .hint("leave out -c, or choose qcow2"));
    }
    Ok(())
}

impl Target {
    /// Makes or opens the target of `spec`, for a disk of `size` bytes. The files `protected` are never replaced.
    pub(super) fn open(spec: &ConvertSpec, protected: Vec<FileId>, size: u64, backing: Option<NewBacking>) -> Result<Target> {
        compressible(spec)?;
        if spec.in_place {
            return Target::existing(spec, size);
        }
        let create = spec.format.entry().create.ok_or_else(|| {
            Error::unsupported(format!("cowshed does not make {} images", spec.format)).hint("see `cowshed formats`")
        })?;
        let wanted = wanted(spec, size, backing)?;
        if std::fs::metadata(&spec.target).is_ok_and(|m| m.file_type().is_block_device()) {
            let (dev, guard) = edit::hold(&spec.target)?;
            let writer = create(&wanted, &InPlace(dev.clone())).path(&spec.target)?;
            // A format writes tables that say what is zero; the plain bytes of a device are what they were.
            let blank = spec.target_is_zero || spec.format != crate::engine::format::Format::Raw;
            return Ok(Target { writer, blank, from: 0, place: Place::Existing(spec.target.clone(), dev, vec![guard]) });
        }
        edit::refuse_in_use(&spec.target)?;
        let stage = Stage::new(&spec.target, protected)?;
        let writer = create(&wanted, &stage).path(&spec.target)?;
        Ok(Target { writer, blank: true, from: 0, place: Place::New(Box::new(stage)) })
    }

    /// `-n`: the image that is there.
    fn existing(spec: &ConvertSpec, size: u64) -> Result<Target> {
        let gate = spec.roots.iter().fold(Gate::around(&spec.target), |g, r| g.allow(r)).follow(spec.follow);
        let Editing { writer, dev, guards, .. } = edit::open(&spec.target, Some(spec.format), &gate)?;
        fits(spec, writer.size(), size, writer.reader().describe().bitmaps.len())?;
        Ok(Target { writer, blank: spec.target_is_zero, from: 0, place: Place::Existing(spec.target.clone(), dev, guards) })
    }

    /// What an earlier run of the same conversion left, going on at guest byte `from`.
    pub(super) fn resume(
        spec: &ConvertSpec,
        protected: Vec<FileId>,
        backing: Option<NewBacking>,
        extras: &[String],
        from: u64,
    ) -> Result<Target> {
        let open = spec
            .format
            .entry()
            .open_write
            .filter(|_| extras.is_empty())
            .ok_or_else(|| Error::unsupported(format!("a half-written {} image cannot be gone on with", spec.format)))?;
        let stage = Stage::resume(&spec.target, extras, protected)?;
        let dev = stage.image();
        let source = Source { dev: dev.clone(), path: stage.partial(), gate: Gate::around(&spec.target) };
        let below = backing.and_then(|b| b.disk);
        let writer = open(WriteSource { below, ..WriteSource::alone(dev, source) })?;
        Ok(Target { writer, blank: true, from, place: Place::New(Box::new(stage)) })
    }

    /// Names of the files beside the image itself.
    pub(super) fn extras(&self) -> Vec<String> {
        match &self.place {
            Place::New(stage) => stage.extras(),
            Place::Existing(..) => Vec::new(),
        }
    }
    /// True when it is made under a partial name, so that a later run can go on with it.
    pub(super) fn resumable(&self) -> bool {
        matches!(self.place, Place::New(_)) && !self.writer.sequential()
    }
    /// The partial files stay when this is dropped.
    pub(super) fn keep(&mut self, keep: bool) {
        if let Place::New(stage) = &mut self.place {
            stage.keep(keep);
        }
    }
    /// Everything is durable after this, still without its name.
    pub(super) fn flush(&self) -> Result<()> {
        match &self.place {
            Place::New(stage) => stage.flush(),
            Place::Existing(_, dev, _) => dev.flush(),
        }
    }
    /// The image gets its name.
    pub(super) fn commit(self) -> Result<Vec<PathBuf>> {
        // The writer holds devices of the stage's; it has nothing more to say.
        drop(self.writer);
        match self.place {
            Place::New(stage) => stage.commit(),
            Place::Existing(path, dev, _) => dev.flush().map(|()| vec![path]),
        }
    }
}
