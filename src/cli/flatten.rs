//! `cowshed flatten`: an overlay stands alone.

use std::path::PathBuf;

use super::job::JobArgs;
use super::out::Out;
use super::{Failure, Verb};
use crate::engine::error::Result;
use crate::engine::format::Format;
use crate::engine::ops::JobSpec;
use crate::engine::ops::rebase::RebaseSpec;

/// Make an overlay stand alone: what it reads from below is copied into it
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cowshed flatten overlay.qcow2\n  \
    cowshed flatten -c overlay.qcow2\n  \
    cowshed flatten --dry-run child.vmdk")]
pub(super) struct Args {
    /// Format of the overlay (default: recognised by its content)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// Store what is copied into the overlay compressed
    #[arg(short, long)]
    compress: bool,

    /// Do it although internal snapshots would lose what they read from below
    #[arg(long)]
    force: bool,

    /// Open files named inside images wherever they are
    #[arg(long)]
    follow: bool,

    #[command(flatten)]
    job: JobArgs,

    /// The overlay
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
}

impl Args {
    fn spec(&self) -> Result<RebaseSpec> {
        Ok(RebaseSpec {
            format: self.format.as_deref().map(Format::parse).transpose()?,
            compress: self.compress,
            force: self.force,
            follow: self.follow,
            ..RebaseSpec::new(&self.image, None)
        })
    }
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> std::result::Result<u8, Failure> {
        self.job.run(JobSpec::Rebase(self.spec()?), out)
    }
}
