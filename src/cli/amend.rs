//! `cowshed amend`: other options for an image that is there.

use std::path::PathBuf;

use super::job::JobArgs;
use super::out::Out;
use super::source::{Named, cache_mode};
use super::{Failure, Verb, options};
use crate::engine::error::{Context, Error};
use crate::engine::format::Format;
use crate::engine::format::probe::{best, probe};
use crate::engine::io::file::FileDevice;
use crate::engine::ops::JobSpec;
use crate::engine::ops::amend::{self, AmendSpec};

/// Change the options of an image in place: compat, refcount_bits, lazy_refcounts, size
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cowshed amend -o compat=1.1,lazy_refcounts=on disk.qcow2\n  \
    cowshed amend --dry-run -o compat=0.10 disk.qcow2\n  \
    cowshed amend -o help disk.qcow2")]
pub(super) struct Args {
    /// Format of the image (default: recognised by its content)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// The options and their new values; help lists them
    #[arg(short, long, value_name = "NAME=VALUE,…")]
    options: Vec<String>,

    /// Taken for qemu-img's sake: nothing here is unsafe
    #[arg(long)]
    force: bool,

    /// Cache mode of the image, as qemu-img names it; it changes nothing here
    #[arg(short = 't', long, value_name = "CACHE", value_parser = cache_mode)]
    cache: Option<String>,

    #[command(flatten)]
    named: Named,

    #[command(flatten)]
    job: JobArgs,

    /// The image
    #[arg(value_name = "IMAGE", required_unless_present = "options")]
    image: Option<PathBuf>,
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> Result<u8, Failure> {
        self.named.check()?;
        let format = self.format.as_deref().map(Format::parse).transpose()?;
        if options::wants_help(&self.options) {
            let format = match (format, &self.image) {
                (Some(f), _) => f,
                (None, Some(image)) => best(&probe(&FileDevice::open(image)?).path(image)?),
                (None, None) => Format::Qcow2,
            };
            options::list(out, format, amend::options(format)?)?;
            return Ok(0);
        }
        if self.options.is_empty() {
            return Err(Error::usage("amend: no options are given (-o)").hint("-o help lists those there are").into());
        }
        let image = self.image.ok_or_else(|| Error::usage("amend: the image is missing"))?;
        let spec = AmendSpec { image, format, options: options::parse(&self.options)?, follow: self.named.follow };
        self.job.run(JobSpec::Amend(spec), out)
    }
}
