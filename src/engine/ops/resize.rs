//! Resize: another virtual size, in place.

use std::path::PathBuf;

use super::edit::{self, Editing};
use super::plan::{Estimate, Plan, PlanFile, Undo};
use super::{Operation, Outcome};
use crate::engine::chain::{Chain, OpenOptions};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::Format;
use crate::engine::guest::partition::{self, TableKind};
use crate::engine::io::ReadAt;
use crate::engine::io::gate::Gate;
use crate::engine::job::{Claim, JobContext};
use crate::engine::units::{MIB, SECTOR, round_up};

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

/// What is reserved of the new part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// The format's tables.
    Metadata,
    /// Space.
    Falloc,
    /// Space filled with zeros.
    Full,
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
        if new < old && self.preallocation != Preallocation::Off {
            return Err(Error::usage("there is nothing to preallocate when it becomes smaller").op("resize").path(&self.image));
        }
        Ok(new)
    }
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
}

impl Operation for Resize {
    fn claims(&self) -> Result<Vec<Claim>> {
        Ok(vec![Claim::write(&self.spec.image)])
    }

    fn plan(&self) -> Result<Plan> {
        let spec = &self.spec;
        edit::refuse_in_use(&spec.image)?;
        let options = OpenOptions { format: spec.format, gate: Some(spec.gate()), ..OpenOptions::default() };
        let chain = Chain::open(&spec.image, &options)?;
        let disk = chain.disk()?;
        let (old, new) = (disk.size(), spec.target(disk.size())?);
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
        guest(&disk, old, new, &mut plan);
        Ok(plan)
    }

    fn run(&self, _: &Plan, job: &JobContext) -> Result<Outcome> {
        let spec = &self.spec;
        let Editing { writer, dev, guard: _guard } = edit::open(&spec.image, spec.format, &spec.gate())?;
        let old = writer.size();
        let new = spec.target(old)?;
        let raw = writer.reader().format() == Format::Raw;
        let refuse = |what: &str| Err(Error::unsupported(format!("{what} cannot be reserved in this format")).path(&spec.image));
        match spec.preallocation {
            Preallocation::Metadata => return refuse("tables"),
            Preallocation::Falloc if !raw => return refuse("space"),
            _ => {}
        }
        writer.resize(new).op("resize").path(&spec.image)?;
        match spec.preallocation {
            Preallocation::Falloc => dev.allocate(old, new - old)?,
            Preallocation::Full => {
                let zeros = vec![0u8; MIB as usize];
                let mut at = old;
                job.progress.set_total((new - old).max(1));
                while at < new {
                    job.checkpoint()?;
                    let n = (new - at).min(MIB);
                    writer.write(at, zeros.get(..n as usize).unwrap_or_default())?;
                    job.progress.add_written(n);
                    job.progress.add_done(n);
                    at += n;
                }
            }
            _ => {}
        }
        writer.finish()?;
        Ok(Outcome { summary: format!("{} has {new} bytes now", spec.image.display()), made: Vec::new() })
    }
}

/// What the guest's partition table means for the new size.
fn guest(disk: &dyn ReadAt, old: u64, new: u64, plan: &mut Plan) {
    let table = match partition::read(disk) {
        Ok(Some(table)) => table,
        Ok(None) => {
            if new < old {
                plan.warnings.push("it has no partition table: whatever lies beyond the new end is cut".into());
            }
            return;
        }
        Err(e) if e.kind() == ErrorKind::Cancelled => return,
        Err(e) => return plan.warnings.push(format!("its partition table cannot be read: {e}")),
    };
    for p in table.partitions.iter().filter(|p| !p.extended) {
        if p.start >= new {
            plan.losses.push(format!("partition {} ({}) as a whole", p.number, p.kind));
        } else if p.end() > new {
            plan.losses.push(format!("the last {} bytes of partition {} ({})", p.end() - new, p.number, p.kind));
        }
    }
    let gpt = matches!(table.kind, TableKind::Gpt);
    match (new.cmp(&old), table.last()) {
        (std::cmp::Ordering::Greater, last) => {
            if let Some(p) = last {
                plan.steps
                    .push(format!("the partitions stay as they are; partition {} can grow afterwards, in the guest", p.number));
            }
            if gpt {
                plan.warnings.push("the GPT's backup header stays where the disk ended; the guest's tools move it".into());
            }
        }
        (std::cmp::Ordering::Less, _) if gpt => {
            plan.warnings
                .push("the GPT's backup header lies beyond the new end and is lost; gdisk or parted write it anew".into());
        }
        _ => {}
    }
}
