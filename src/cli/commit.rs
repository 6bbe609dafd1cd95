//! `cowshed commit`: an overlay is written into the image it stands on.

use std::path::PathBuf;

use super::job::JobArgs;
use super::out::Out;
use super::source::{Named, cache_mode};
use super::{Failure, Verb};
use crate::engine::error::Result;
use crate::engine::format::Format;
use crate::engine::ops::JobSpec;
use crate::engine::ops::commit::CommitSpec;
use crate::engine::units::parse_size;

/// Write an overlay into the image it stands on, and empty the overlay
#[derive(clap::Args)]
#[command(after_help = "Other images that stand on the base would change with it: those found in its folder, in the two levels of\n\
    folders below and in the folders named with --library are named, and nothing is done without --force.\n\n\
    Examples:\n  \
    cowshed commit overlay.qcow2\n  \
    cowshed commit --dry-run -d overlay.qcow2\n  \
    cowshed commit -b base.qcow2 top.qcow2")]
pub(super) struct Args {
    /// Format of the overlay (default: recognised by its content)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// Write into this image further down in its chain; the overlay then keeps its data (as with -d)
    #[arg(short, long, value_name = "BASE")]
    base: Option<PathBuf>,

    /// The overlay keeps its data: for one that is deleted afterwards
    #[arg(short, long)]
    drop: bool,

    /// Read at most so many bytes per second
    #[arg(short, long, value_name = "RATE")]
    rate: Option<String>,

    /// Do it although other images, or snapshots, see a change
    #[arg(long)]
    force: bool,

    /// Look for images that stand on the base in this folder too, and open files of it that images name
    #[arg(long, value_name = "FOLDER")]
    library: Vec<PathBuf>,

    #[command(flatten)]
    named: Named,

    /// Taken for qemu-img's sake; changes nothing
    #[arg(short = 't', long, value_name = "CACHE", value_parser = cache_mode)]
    cache: Option<String>,

    #[command(flatten)]
    job: JobArgs,

    /// The overlay
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
}

impl Args {
    fn spec(&self) -> Result<CommitSpec> {
        self.named.check()?;
        Ok(CommitSpec {
            format: self.format.as_deref().map(Format::parse).transpose()?,
            base: self.base.clone(),
            keep: self.drop,
            rate: self.rate.as_deref().map(parse_size).transpose()?,
            force: self.force,
            roots: self.library.clone(),
            follow: self.named.follow,
            ..CommitSpec::new(&self.image)
        })
    }
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> std::result::Result<u8, Failure> {
        let code = self.job.run(JobSpec::Commit(self.spec()?), out)?;
        if code == 0 && !out.quiet && !self.job.is_dry_run() {
            out.line("Image committed.")?;
        }
        Ok(code)
    }
}
