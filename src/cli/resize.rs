//! `cowshed resize`: another virtual size, in place.

use std::path::PathBuf;

use clap::ValueEnum;

use super::job::JobArgs;
use super::out::Out;
use super::source::Named;
use super::{Failure, Verb};
use crate::engine::error::Result;
use crate::engine::format::Format;
use crate::engine::ops::JobSpec;
use crate::engine::ops::resize::{Change, Preallocation, ResizeSpec};
use crate::engine::units::parse_size;

/// Give an image another virtual size, in place
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cowshed resize disk.qcow2 +10G\n  \
    cowshed resize --grow-guest disk.qcow2 40G\n  \
    cowshed resize --move-gpt --preallocation metadata disk.qcow2 40G\n  \
    cowshed resize --dry-run --shrink disk.raw 20G\n  \
    cowshed resize --shrink disk.qcow2 -1G")]
pub(super) struct Args {
    /// Format of the image (default: recognised by its content)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// Let it become smaller: what lies beyond the new end is lost
    #[arg(long)]
    shrink: bool,

    /// What to reserve of the new part
    #[arg(long, value_enum, value_name = "MODE", default_value_t = Mode::Off)]
    preallocation: Mode,

    /// Move the backup of the guest's GPT to the new end of the disk
    #[arg(long)]
    move_gpt: bool,

    /// Grow the guest's last partition to the new end, and the ext2, ext3, ext4 or XFS in it
    #[arg(long)]
    grow_guest: bool,

    #[command(flatten)]
    named: Named,

    #[command(flatten)]
    job: JobArgs,

    /// The image
    #[arg(value_name = "IMAGE")]
    image: PathBuf,

    /// The new size, or by how much it grows (+) or shrinks (-)
    #[arg(value_name = "[+-]SIZE", allow_hyphen_values = true)]
    size: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Off,
    Metadata,
    Falloc,
    Full,
}

impl Args {
    fn spec(&self) -> Result<ResizeSpec> {
        self.named.check()?;
        let change = match (self.size.strip_prefix('+'), self.size.strip_prefix('-')) {
            (Some(more), _) => Change::By(parse_size(more)?),
            (_, Some(less)) => Change::Less(parse_size(less)?),
            _ => Change::To(parse_size(&self.size)?),
        };
        let mut spec = ResizeSpec::new(&self.image, change);
        spec.format = self.format.as_deref().map(Format::parse).transpose()?;
        spec.shrink = self.shrink;
        spec.follow = self.named.follow;
        spec.move_gpt = self.move_gpt;
        spec.grow_guest = self.grow_guest;
        spec.preallocation = match self.preallocation {
            Mode::Off => Preallocation::Off,
            Mode::Metadata => Preallocation::Metadata,
            Mode::Falloc => Preallocation::Falloc,
            Mode::Full => Preallocation::Full,
        };
        Ok(spec)
    }
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> std::result::Result<u8, Failure> {
        let code = self.job.run(JobSpec::Resize(self.spec()?), out)?;
        if code == 0 && !out.quiet && !self.job.is_dry_run() {
            out.line("Image resized.")?;
        }
        Ok(code)
    }
}
