//! `cowshed rebase`: an overlay stands on another image.

use std::path::PathBuf;

use super::job::JobArgs;
use super::out::Out;
use super::source::{Named, cache_mode};
use super::{Failure, Verb};
use crate::engine::error::Result;
use crate::engine::format::Format;
use crate::engine::ops::JobSpec;
use crate::engine::ops::rebase::RebaseSpec;

/// Let an overlay stand on another image, or on none; what a guest sees stays the same
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cowshed rebase -b new-base.qcow2 -F qcow2 overlay.qcow2\n  \
    cowshed rebase -b '' overlay.qcow2\n  \
    cowshed rebase -u -b moved/base.raw -F raw overlay.qcow2")]
pub(super) struct Args {
    /// Format of the overlay (default: recognised by its content)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// What it is to stand on; the name is recorded as given, relative to the overlay. Empty, or left out: nothing
    #[arg(short, long, value_name = "BACKING")]
    backing: Option<String>,

    /// Format of the new backing file
    #[arg(short = 'F', short_alias = 'B', long, value_name = "FMT")]
    backing_format: Option<String>,

    /// Change the reference only, without looking at content: for a base that was moved
    #[arg(short = 'u', long)]
    backing_unsafe: bool,

    /// Store what is copied into the overlay compressed
    #[arg(short, long)]
    compress: bool,

    /// Do it although internal snapshots would read from the new base
    #[arg(long)]
    force: bool,

    /// Read bases that another process is writing to; what is read may be stale
    #[arg(short = 'U', long)]
    force_share: bool,

    #[command(flatten)]
    named: Named,

    /// Taken for qemu-img's sake; changes nothing
    #[arg(short = 't', long, value_name = "CACHE", value_parser = cache_mode)]
    cache: Option<String>,

    /// Taken for qemu-img's sake; changes nothing
    #[arg(short = 'T', long, value_name = "CACHE", value_parser = cache_mode)]
    backing_cache: Option<String>,

    #[command(flatten)]
    job: JobArgs,

    /// The overlay
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
}

impl Args {
    fn spec(&self) -> Result<RebaseSpec> {
        self.named.check()?;
        Ok(RebaseSpec {
            format: self.format.as_deref().map(Format::parse).transpose()?,
            base_format: self.backing_format.as_deref().map(Format::parse).transpose()?,
            unchecked: self.backing_unsafe,
            compress: self.compress,
            force: self.force,
            force_share: self.force_share,
            follow: self.named.follow,
            ..RebaseSpec::new(&self.image, self.backing.clone())
        })
    }
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> std::result::Result<u8, Failure> {
        self.job.run(JobSpec::Rebase(self.spec()?), out)
    }
}
