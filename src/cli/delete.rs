//! `cowshed delete`: an image goes to the trash, or for good, with all its files.

use std::path::PathBuf;

use super::job::JobArgs;
use super::out::Out;
use super::{Failure, Verb};
use crate::engine::error::{Error, Result};
use crate::engine::ops::JobSpec;
use crate::engine::ops::delete::DeleteSpec;

/// Move images to the trash, or delete them for good, with their extents and data files
#[derive(clap::Args)]
#[command(after_help = "Images that stand on one of them are looked for in its folder, in the two levels of folders below and in the\n\
    folders named with --library; they are named, and nothing is deleted without --force.\n\n\
    Examples:\n  \
    cowshed delete old.qcow2\n  \
    cowshed delete --dry-run --forever disk.vmdk\n  \
    cowshed delete overlay.qcow2 base.qcow2")]
pub(super) struct Args {
    /// Delete for good instead of moving to the trash
    #[arg(long)]
    forever: bool,

    /// Do it although other images stand on it
    #[arg(long)]
    force: bool,

    /// Look for images that stand on it in this folder too
    #[arg(long, value_name = "FOLDER")]
    library: Vec<PathBuf>,

    #[command(flatten)]
    job: JobArgs,

    /// The images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
}

/// The home trash.
pub(super) fn home_trash() -> Result<PathBuf> {
    let dirs = directories::BaseDirs::new().ok_or_else(|| {
        Error::usage("there is no home folder, so there is no trash").op("delete").hint("--forever deletes without it")
    })?;
    Ok(dirs.data_dir().join("Trash"))
}

impl Args {
    fn spec(&self) -> Result<DeleteSpec> {
        let trash = if self.forever { None } else { Some(home_trash()?) };
        Ok(DeleteSpec { images: self.images.clone(), trash, force: self.force, roots: self.library.clone() })
    }
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> std::result::Result<u8, Failure> {
        self.job.run(JobSpec::Delete(self.spec()?), out)
    }
}
