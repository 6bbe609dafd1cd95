//! `cowshed compact`: space that an image takes without holding anything goes back to the host.

use std::path::PathBuf;

use super::job::JobArgs;
use super::out::Out;
use super::{Failure, Verb};
use crate::engine::error::Result;
use crate::engine::format::Format;
use crate::engine::ops::JobSpec;
use crate::engine::ops::compact::CompactSpec;

/// Give space back to the host, in place or by copy: lost clusters, stored zeros, the file's free tail
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cowshed compact disk.qcow2\n  \
    cowshed compact --dry-run disk.qcow2\n  \
    cowshed compact --free-space guest.qcow2\n  \
    cowshed compact --copy disk.qcow2\n  \
    cowshed compact -f raw disk.img")]
pub(super) struct Args {
    /// Format of the image (default: recognised by its content)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// Open files named inside the image wherever they are
    #[arg(long)]
    follow: bool,

    /// Also give back what the filesystems in it (ext2/3/4, XFS, FAT, on LVM too) call free; it reads as zeros afterwards
    #[arg(long)]
    free_space: bool,

    /// Do it in a copy of the file, which takes its name when it is complete and durable: until then the image is as it was. Needs
    /// room for both; owner, mode, ACLs and extended attributes are kept
    #[arg(long)]
    copy: bool,

    #[command(flatten)]
    job: JobArgs,

    /// The image
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
}

impl Args {
    fn spec(&self) -> Result<CompactSpec> {
        Ok(CompactSpec {
            format: self.format.as_deref().map(Format::parse).transpose()?,
            follow: self.follow,
            free_space: self.free_space,
            copy: self.copy,
            ..CompactSpec::new(&self.image)
        })
    }
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> std::result::Result<u8, Failure> {
        self.job.run(JobSpec::Compact(self.spec()?), out)
    }
}
