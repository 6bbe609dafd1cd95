//! `cowshed extract`: a file or folder out of a guest, to the host.

use std::path::PathBuf;

use super::guest::image_and_path;
use super::job::JobArgs;
use super::out::Out;
use super::source::{snapshot_name, tell_all_in_use};
use super::{Failure, Verb};
use crate::engine::format::Format;
use crate::engine::ops::JobSpec;
use crate::engine::ops::extract::ExtractSpec;

/// Copy a file or folder out of a guest's filesystem, holes kept
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cowshed extract disk.qcow2:/etc ./etc-of-the-guest\n  \
    cowshed extract -l before-upgrade disk.qcow2:/var/lib/mysql /tmp/\n  \
    cowshed extract --dry-run disk.vmdk:/home .")]
pub(super) struct Args {
    /// Format of the image (default: recognised by its content)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// Look at this internal snapshot (qcow2) instead of the current state
    #[arg(short = 'l', long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,

    /// Look at the filesystem of this partition alone (default: the guest's root, with what it mounts)
    #[arg(long, value_name = "N")]
    partition: Option<u32>,

    /// Look at an image that another process is writing to; what is copied may be stale
    #[arg(short = 'U', long)]
    force_share: bool,

    /// Open files named inside images wherever they are, not only below the image's own folder
    #[arg(long)]
    follow: bool,

    #[command(flatten)]
    job: JobArgs,

    /// The image, and the path inside it
    #[arg(value_name = "IMAGE:PATH")]
    what: String,

    /// What it becomes; into an existing folder it goes under its own name
    #[arg(value_name = "TARGET", default_value = ".")]
    target: PathBuf,
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> Result<u8, Failure> {
        let (image, path) = image_and_path(&self.what)?;
        let mut spec = ExtractSpec::new(image, path, self.target);
        spec.format = self.format.as_deref().map(Format::parse).transpose()?;
        spec.snapshot = self.snapshot.as_deref().map(|s| snapshot_name(s).to_string());
        spec.partition = self.partition;
        spec.follow = self.follow;
        spec.force_share = self.force_share;
        if spec.force_share {
            tell_all_in_use([&spec.image], spec.format, spec.follow);
        }
        self.job.run(JobSpec::Extract(spec), out)
    }
}
