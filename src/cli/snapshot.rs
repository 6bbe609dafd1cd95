//! `cowshed snapshot`: internal snapshots listed, taken, applied, deleted and renamed.

use std::path::PathBuf;

use super::info::{human, json};
use super::job::JobArgs;
use super::out::{Format as Output, Out};
use super::source::Source;
use super::{Failure, Verb};
use crate::engine::chain::Chain;
use crate::engine::error::{Error, Result};
use crate::engine::format::Format;
use crate::engine::ops::JobSpec;
use crate::engine::ops::snapshot::{Action, SnapshotSpec, usage};

/// List, take, apply, delete or rename the snapshots inside an image
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("action").args(["list", "create", "apply", "delete", "rename"])))]
#[command(after_help = "Examples:\n  \
    cowshed snapshot -l disk.qcow2\n  \
    cowshed snapshot -c before-upgrade disk.qcow2\n  \
    cowshed snapshot -a before-upgrade --keep disk.qcow2\n  \
    cowshed snapshot --dry-run -d old -d older disk.qcow2\n  \
    cowshed snapshot --rename old kept disk.qcow2")]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,

    #[command(flatten)]
    job: JobArgs,

    /// List the snapshots and what each costs (also without any of these flags)
    #[arg(short, long)]
    list: bool,

    /// Take a snapshot of the disk as it is
    #[arg(short, long, value_name = "NAME")]
    create: Option<String>,

    /// Make the disk what it was at this snapshot (id or name); what it holds now is lost
    #[arg(short, long, value_name = "NAME")]
    apply: Option<String>,

    /// Delete snapshots (name or id), all in one pass
    #[arg(short, long, value_name = "NAME")]
    delete: Vec<String>,

    /// Rename a snapshot
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"])]
    rename: Option<Vec<String>>,

    /// Before applying, take a snapshot of the disk as it is, named before-NAME
    #[arg(long, requires = "apply")]
    keep: bool,

    /// The list for people, or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Output::Human)]
    output: Output,

    /// The image; with -d, further names may stand before it
    #[arg(value_name = "IMAGE", required = true)]
    image: Vec<PathBuf>,
}

impl Args {
    /// What to do, if it is more than listing; and the image.
    fn action(&self) -> Result<(Option<Action>, PathBuf)> {
        let usage = |why: &str| Error::usage(why).op("snapshot").hint("cowshed snapshot --help shows how");
        let Some((image, names)) = self.image.split_last() else { return Err(usage("the image is missing")) };
        if !names.is_empty() && self.delete.is_empty() {
            return Err(usage("only one image can be named"));
        }
        let action = if let Some(name) = &self.create {
            Some(Action::Create(name.clone()))
        } else if let Some(name) = &self.apply {
            Some(Action::Apply { name: name.clone(), keep: self.keep })
        } else if let Some([from, to]) = self.rename.as_deref() {
            Some(Action::Rename { from: from.clone(), to: to.clone() })
        } else if self.delete.is_empty() {
            None
        } else {
            let more = names.iter().map(|n| n.to_string_lossy().into_owned());
            Some(Action::Delete(self.delete.iter().cloned().chain(more).collect()))
        };
        Ok((action, image.clone()))
    }

    fn print(&self, image: &std::path::Path, out: &mut Out) -> std::result::Result<u8, Failure> {
        let (_file, _guard) = self.source.open_top(image)?;
        let options = self.source.options(image)?;
        let chain = Chain::open(image, &options)?;
        let Some(layer) = chain.layers.first() else { return Ok(0) };
        let all = &layer.describe().snapshots;
        let shares = match all.is_empty() {
            true => Vec::new(),
            false => usage(image, layer.format()).ok().flatten().map(|u| u.snapshots).unwrap_or_default(),
        };
        match self.output {
            Output::Json => {
                let list: Vec<_> = all.iter().enumerate().map(|(i, s)| json::snapshot(s, shares.get(i))).collect();
                out.json(&list)?;
            }
            Output::Human if !all.is_empty() && !out.quiet => human::snapshots(out, all, &shares)?,
            Output::Human => {}
        }
        Ok(0)
    }
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> std::result::Result<u8, Failure> {
        let (action, image) = self.action()?;
        let Some(action) = action else { return self.print(&image, out) };
        self.source.options(&image)?;
        let format = self.source.format.as_deref().map(Format::parse).transpose()?;
        self.job.run(JobSpec::Snapshot(SnapshotSpec { image, format, action }), out)
    }
}
