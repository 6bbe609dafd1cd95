//! `cowshed snapshot`: internal snapshots listed, taken, applied, deleted, renamed, compared, and made into images of their own.

mod diff;

use std::path::{Path, PathBuf};

use super::info::{human, json};
use super::job::JobArgs;
use super::out::{Format as Output, Out};
use super::source::Source;
use super::{Failure, Verb, options};
use crate::engine::chain::Chain;
use crate::engine::error::{Error, Result};
use crate::engine::format::Format;
use crate::engine::ops::JobSpec;
use crate::engine::ops::convert::ConvertSpec;
use crate::engine::ops::snapshot::{Action, SnapshotSpec, export, usage};

/// List, take, apply, delete, rename, compare or export the snapshots inside an image
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("action").args(["list", "create", "apply", "delete", "rename", "diff", "export", "branch"])))]
#[command(after_help = "Examples:\n  \
    cowshed snapshot -l disk.qcow2\n  \
    cowshed snapshot -c before-upgrade disk.qcow2\n  \
    cowshed snapshot -a before-upgrade --keep disk.qcow2\n  \
    cowshed snapshot --dry-run -d old -d older disk.qcow2\n  \
    cowshed snapshot --rename old kept disk.qcow2\n  \
    cowshed snapshot --diff before-upgrade disk.qcow2\n  \
    cowshed snapshot --export before-upgrade then.vmdk -O vmdk disk.qcow2\n  \
    cowshed snapshot --branch before-upgrade second.qcow2 disk.qcow2")]
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

    /// Which guest bytes differ between this snapshot and another (named after it), or the disk as it is now
    #[arg(long, value_name = "NAME")]
    diff: Option<String>,

    /// With --diff: read no data; what the tables store in another place counts as changed, the same bytes or not
    #[arg(long, requires = "diff")]
    quick: bool,

    /// Copy the disk at this snapshot into a new image that stands alone
    #[arg(long, num_args = 2, value_names = ["NAME", "OUT"])]
    export: Option<Vec<String>>,

    /// Format of the exported image
    #[arg(short = 'O', long, value_name = "FMT", default_value = "qcow2", requires = "export")]
    target_format: String,

    /// Options of that format; `-o help` lists them
    #[arg(short, long = "target-options", value_name = "OPTS", requires = "export")]
    options: Vec<String>,

    /// Make a new image to go on from this snapshot: on the same backing file as the image, or alone where it has none. Never on
    /// the image itself, which goes on being written
    #[arg(long, num_args = 2, value_names = ["NAME", "OUT"])]
    branch: Option<Vec<String>>,

    /// Before applying, take a snapshot of the disk as it is, named before-NAME
    #[arg(long, requires = "apply")]
    keep: bool,

    /// The list, or what differs, for people or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Output::Human)]
    output: Output,

    /// The image; further names may stand before it with -d, and the other snapshot with --diff
    #[arg(value_name = "IMAGE", required = true)]
    image: Vec<PathBuf>,
}

impl Args {
    /// What to do, if it is more than listing; and the image.
    fn action(&self) -> Result<(Option<Action>, PathBuf)> {
        let usage = |why: &str| Error::usage(why).op("snapshot").hint("cowshed snapshot --help shows how");
        let Some((image, names)) = self.image.split_last() else { return Err(usage("the image is missing")) };
        if names.len() > usize::from(self.diff.is_some()) && self.delete.is_empty() {
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

    /// The conversion that makes an image of a snapshot, if one is asked for.
    fn conversion(&self, image: &Path) -> Result<Option<ConvertSpec>> {
        let (name, target, alone) = match (self.export.as_deref(), self.branch.as_deref()) {
            (Some([name, out]), _) => (name, Path::new(out), true),
            (_, Some([name, out])) => (name, Path::new(out), false),
            _ => return Ok(None),
        };
        let open = self.source.options(image)?;
        let mut spec = if alone {
            let to = Format::parse(&self.target_format)?;
            let mut spec = export::export(image, open.format, name, target, to);
            spec.options = options::parse(&self.options)?;
            options::checked(to, spec.options.clone())?;
            spec
        } else {
            export::branch(image, name, target, &open)?
        };
        spec.force_share = self.source.access.force_share;
        spec.follow = self.source.access.named.follow;
        Ok(Some(spec))
    }

    fn print(&self, image: &Path, out: &mut Out) -> std::result::Result<u8, Failure> {
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
        if let Some(name) = &self.diff {
            let other = self.image.split_last().and_then(|(_, names)| names.first());
            return diff::run(&self, &image, name, other.map(|n| n.to_string_lossy().into_owned()), out);
        }
        if self.export.is_some() && options::wants_help(&self.options) {
            options::help(out, Format::parse(&self.target_format)?)?;
            return Ok(0);
        }
        if let Some(spec) = self.conversion(&image)? {
            return self.job.run(JobSpec::Convert(spec), out);
        }
        let Some(action) = action else { return self.print(&image, out) };
        self.source.options(&image)?;
        let format = self.source.format.as_deref().map(Format::parse).transpose()?;
        self.job.run(JobSpec::Snapshot(SnapshotSpec { image, format, action }), out)
    }
}
