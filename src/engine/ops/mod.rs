//! Operations: what cowshed does to images, one verb per file. Each is planned first and then runs as a job.
//!
//! They know formats only through the table and the traits of [`crate::engine::format`], and neither screens nor arguments.

pub mod amend;
mod backing;
pub mod bitmap;
pub mod check;
pub mod checking;
pub mod commit;
pub mod compact;
pub mod compare;
pub mod convert;
pub mod create;
pub mod dd;
pub mod delete;
pub mod dependents;
pub mod edit;
pub mod extract;
pub mod free_space;
pub mod inspect;
pub mod layer;
pub mod map;
pub mod measure;
mod pieces;
pub mod pipeline;
pub mod plan;
pub mod rebase;
pub mod rehearse;
pub mod relink;
pub mod resize;
pub mod sanitize;
pub mod snapshot;
pub mod stage;
#[cfg(test)]
mod tests;
pub mod trash;
pub mod undo;

use std::path::PathBuf;

use super::error::{Error, Result};
use super::job::{Claim, JobContext};
use plan::Plan;

/// What a job is asked to do: plain data, so that it can be journaled, retried and shown as a command line.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobSpec {
    /// Looks for damage and lost space; only reads.
    Check(checking::CheckSpec),
    /// Writes an overlay into what it stands on.
    Commit(commit::CommitSpec),
    /// Gives space back to the host.
    Compact(compact::CompactSpec),
    /// Copies a disk into a new image of any format.
    Convert(convert::ConvertSpec),
    /// Makes a new, empty image.
    Create(create::ImageSpec),
    /// Copies a piece of a disk.
    Dd(dd::DdSpec),
    /// Copies files out of a guest.
    Extract(extract::ExtractSpec),
    /// Deletes images.
    Delete(delete::DeleteSpec),
    /// Takes a layer out of a chain, or puts one in.
    Layer(layer::LayerSpec),
    /// Lets an overlay stand on another image, or on nothing.
    Rebase(rebase::RebaseSpec),
    /// Names a base that was moved.
    Relink(relink::RelinkSpec),
    /// Changes the virtual size.
    Resize(resize::ResizeSpec),
    /// Changes options of an image.
    Amend(amend::AmendSpec),
    /// Changes dirty bitmaps of an image.
    Bitmap(bitmap::BitmapSpec),
    /// Mends an image, or takes that back.
    Repair(check::RepairSpec),
    /// Removes from a guest what must not be in every clone, or takes that back.
    Sanitize(sanitize::SanitizeSpec),
    /// Takes, applies, deletes or renames internal snapshots.
    Snapshot(snapshot::SnapshotSpec),
}

impl JobSpec {
    /// The operation that does it. Touches nothing.
    pub fn operation(&self) -> Box<dyn Operation> {
        match self {
            JobSpec::Check(spec) => Box::new(checking::Checking::new(spec.clone())),
            JobSpec::Commit(spec) => Box::new(commit::Commit::new(spec.clone())),
            JobSpec::Compact(spec) => Box::new(compact::Compact::new(spec.clone())),
            JobSpec::Layer(spec) => Box::new(layer::Layer::new(spec.clone())),
            JobSpec::Relink(spec) => Box::new(relink::Relink::new(spec.clone())),
            JobSpec::Convert(spec) => Box::new(convert::Convert::new(spec.clone())),
            JobSpec::Create(spec) => Box::new(create::Create::new(spec.clone())),
            JobSpec::Dd(spec) => Box::new(dd::Dd::new(spec.clone())),
            JobSpec::Extract(spec) => Box::new(extract::Extract::new(spec.clone())),
            JobSpec::Delete(spec) => Box::new(delete::Delete::new(spec.clone())),
            JobSpec::Rebase(spec) => Box::new(rebase::Rebase::new(spec.clone())),
            JobSpec::Resize(spec) => Box::new(resize::Resize::new(spec.clone())),
            JobSpec::Amend(spec) => Box::new(amend::Amend::new(spec.clone())),
            JobSpec::Bitmap(spec) => Box::new(bitmap::Change::new(spec.clone())),
            JobSpec::Repair(spec) => Box::new(check::RepairImage::new(spec.clone())),
            JobSpec::Sanitize(spec) => Box::new(sanitize::Sanitize::new(spec.clone())),
            JobSpec::Snapshot(spec) => Box::new(snapshot::Change::new(spec.clone())),
        }
    }
    /// What it does, in a line. May hold names from outside: print it through `units::printable`.
    pub fn title(&self) -> String {
        match self {
            JobSpec::Check(spec) => spec.title(),
            JobSpec::Commit(spec) => spec.title(),
            JobSpec::Compact(spec) => spec.title(),
            JobSpec::Layer(spec) => spec.title(),
            JobSpec::Relink(spec) => spec.title(),
            JobSpec::Convert(spec) => spec.title(),
            JobSpec::Create(spec) => spec.title(),
            JobSpec::Dd(spec) => spec.title(),
            JobSpec::Extract(spec) => spec.title(),
            JobSpec::Delete(spec) => spec.title(),
            JobSpec::Rebase(spec) => spec.title(),
            JobSpec::Resize(spec) => spec.title(),
            JobSpec::Amend(spec) => spec.title(),
            JobSpec::Bitmap(spec) => spec.title(),
            JobSpec::Repair(spec) => spec.title(),
            JobSpec::Sanitize(spec) => spec.title(),
            JobSpec::Snapshot(spec) => spec.title(),
        }
    }
    /// The verb: `convert`, …
    pub fn verb(&self) -> &'static str {
        match self {
            JobSpec::Check(_) => "check",
            JobSpec::Commit(_) => "commit",
            JobSpec::Compact(_) => "compact",
            JobSpec::Layer(_) => "chain",
            JobSpec::Relink(_) => "relink",
            JobSpec::Convert(_) => "convert",
            JobSpec::Create(_) => "create",
            JobSpec::Dd(_) => "dd",
            JobSpec::Extract(_) => "extract",
            JobSpec::Delete(_) => "delete",
            JobSpec::Rebase(_) => "rebase",
            JobSpec::Resize(_) => "resize",
            JobSpec::Amend(_) => "amend",
            JobSpec::Bitmap(_) => "bitmap",
            JobSpec::Repair(_) => "check",
            JobSpec::Sanitize(_) => "sanitize",
            JobSpec::Snapshot(_) => "snapshot",
        }
    }
    /// The arguments of the `cowshed` command that does the same.
    pub fn command(&self) -> Vec<String> {
        match self {
            JobSpec::Check(spec) => spec.command(),
            JobSpec::Commit(spec) => spec.command(),
            JobSpec::Compact(spec) => spec.command(),
            JobSpec::Layer(spec) => spec.command(),
            JobSpec::Relink(spec) => spec.command(),
            JobSpec::Convert(spec) => spec.command(),
            JobSpec::Create(spec) => spec.command(),
            JobSpec::Dd(spec) => spec.command(),
            JobSpec::Extract(spec) => spec.command(),
            JobSpec::Delete(spec) => spec.command(),
            JobSpec::Rebase(spec) => spec.command(),
            JobSpec::Resize(spec) => spec.command(),
            JobSpec::Amend(spec) => spec.command(),
            JobSpec::Bitmap(spec) => spec.command(),
            JobSpec::Repair(spec) => spec.command(),
            JobSpec::Sanitize(spec) => spec.command(),
            JobSpec::Snapshot(spec) => spec.command(),
        }
    }
    /// What sort of work it is: jobs of one sort go about equally fast on one machine.
    pub fn sort(&self) -> String {
        match self {
            JobSpec::Convert(spec) => {
                let from = spec.source_format.map_or("any", |f| f.name());
                let packed = spec.options.iter().rev().find(|(n, _)| n == "compression_type").map_or("", |(_, v)| v.as_str());
                let how = if spec.compress { format!(", compressed {packed}") } else { String::new() };
                format!("convert {from} to {}{how}{}", spec.format, if spec.verify { ", verified" } else { "" })
            }
            other => other.verb().to_string(),
        }
    }
    /// Bytes per second it may read at most, where it was limited.
    pub fn limit(&self) -> Option<u64> {
        match self {
            JobSpec::Convert(spec) => spec.rate,
            _ => None,
        }
    }
    /// The same with absolute paths: for the journal, which is read from any folder.
    pub fn absolute(self) -> JobSpec {
        match self {
            JobSpec::Check(spec) => JobSpec::Check(checking::CheckSpec { image: absolute(spec.image), ..spec }),
            JobSpec::Commit(spec) => JobSpec::Commit(commit::CommitSpec {
                image: absolute(spec.image),
                // As the image spells it, unless it is there.
                base: spec.base.map(|b| if b.exists() { absolute(b) } else { b }),
                roots: spec.roots.into_iter().map(absolute).collect(),
                ..spec
            }),
            JobSpec::Compact(spec) => JobSpec::Compact(compact::CompactSpec { image: absolute(spec.image), ..spec }),
            JobSpec::Layer(spec) => JobSpec::Layer(layer::LayerSpec {
                image: absolute(spec.image),
                action: match spec.action {
                    layer::LayerAction::Insert { new } => layer::LayerAction::Insert { new: absolute(new) },
                    remove => remove,
                },
                roots: spec.roots.into_iter().map(absolute).collect(),
            }),
            JobSpec::Relink(spec) => {
                JobSpec::Relink(relink::RelinkSpec { image: absolute(spec.image), base: absolute(spec.base), ..spec })
            }
            JobSpec::Convert(spec) => JobSpec::Convert(spec.absolute()),
            JobSpec::Create(spec) => JobSpec::Create(create::ImageSpec { target: absolute(spec.target), ..spec }),
            JobSpec::Dd(spec) => JobSpec::Dd(dd::DdSpec { input: absolute(spec.input), output: absolute(spec.output), ..spec }),
            JobSpec::Extract(spec) => {
                JobSpec::Extract(extract::ExtractSpec { image: absolute(spec.image), target: absolute(spec.target), ..spec })
            }
            JobSpec::Delete(spec) => JobSpec::Delete(delete::DeleteSpec {
                images: spec.images.into_iter().map(absolute).collect(),
                trash: spec.trash.map(absolute),
                ..spec
            }),
            JobSpec::Rebase(spec) => JobSpec::Rebase(rebase::RebaseSpec { image: absolute(spec.image), ..spec }),
            JobSpec::Resize(spec) => JobSpec::Resize(resize::ResizeSpec { image: absolute(spec.image), ..spec }),
            JobSpec::Amend(spec) => JobSpec::Amend(amend::AmendSpec { image: absolute(spec.image), ..spec }),
            JobSpec::Bitmap(spec) => {
                JobSpec::Bitmap(bitmap::BitmapSpec { image: absolute(spec.image), source: spec.source.map(absolute), ..spec })
            }
            JobSpec::Repair(spec) => JobSpec::Repair(check::RepairSpec {
                image: absolute(spec.image),
                undo_file: spec.undo_file.map(absolute),
                ..spec
            }),
            JobSpec::Sanitize(spec) => JobSpec::Sanitize(spec.absolute()),
            JobSpec::Snapshot(spec) => JobSpec::Snapshot(snapshot::SnapshotSpec { image: absolute(spec.image), ..spec }),
        }
    }
    /// The same, going on where an earlier run was durable. What cannot be resumed begins anew.
    pub fn resumed(self) -> JobSpec {
        match self {
            JobSpec::Convert(spec) => JobSpec::Convert(convert::ConvertSpec { resume: true, ..spec }),
            other => other,
        }
    }
    /// Removes what an unfinished run left, `state` being what it noted in the journal.
    pub fn discard(&self, state: &serde_json::Value) -> Result<()> {
        match self {
            JobSpec::Convert(spec) => convert::discard(spec, state),
            // The others leave nothing that a later run would go on with.
            _ => Ok(()),
        }
    }
    /// Whether an unfinished run can be gone on with, `state` being what it noted in the journal.
    ///
    /// Errors: it cannot, and why: it would begin anew.
    pub fn resumable(&self, state: &serde_json::Value) -> Result<()> {
        match self {
            JobSpec::Convert(spec) => convert::resumable(spec, state),
            other => Err(Error::unsupported(format!("{} always begins anew", other.verb()))),
        }
    }
    /// Makes the plan and does nothing else: what `--dry-run` and the confirm dialog show.
    pub fn plan(&self) -> Result<Plan> {
        self.operation().plan()
    }
}

/// `name=value,name=value` as `-o` takes it; a comma in a value is written twice.
fn options_argument(options: &[(String, String)]) -> String {
    options.iter().map(|(n, v)| format!("{n}={}", v.replace(',', ",,"))).collect::<Vec<_>>().join(",")
}

/// `path` from the root on; unchanged where the current folder cannot be told.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// What an operation made.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Outcome {
    /// In a line.
    pub summary: String,
    /// Files that are new, under their final names.
    pub made: Vec<PathBuf>,
}

/// An operation as the runner sees it.
pub trait Operation: Send + Sync {
    /// The files it needs, to read or to write. Quick: opens headers, reads no tables.
    fn claims(&self) -> Result<Vec<Claim>>;

    /// What it is about to do. Reads; writes nothing.
    fn plan(&self) -> Result<Plan>;

    /// The same, when the run follows at once: what only reads may begin already. Asks `job` whether to go on.
    fn plan_run(&self, job: &JobContext) -> Result<Plan> {
        let _ = job;
        self.plan()
    }

    /// Does it, asking `job` at every step whether to go on.
    fn run(&self, plan: &Plan, job: &JobContext) -> Result<Outcome>;

    /// The file whose making is journaled, for operations that can be resumed.
    fn journal_target(&self) -> Option<PathBuf> {
        None
    }

    /// True when, after failing with `error`, it has kept what a later run can go on with.
    fn keeps_partial(&self, error: &Error) -> bool {
        let _ = error;
        false
    }
}
