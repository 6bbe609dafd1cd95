//! `cowshed create`: a new, empty image.

use std::path::PathBuf;

use super::job::JobArgs;
use super::out::Out;
use super::source::Named;
use super::{Failure, Verb, options};
use crate::engine::error::{Error, Result};
use crate::engine::format::Format;
use crate::engine::ops::JobSpec;
use crate::engine::ops::create::ImageSpec;
use crate::engine::units::{parse_size, printable};

/// Make a new, empty image, by itself or standing on another
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cowshed create -f qcow2 disk.qcow2 20G\n  \
    cowshed create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2\n  \
    cowshed create -f vhd -o subformat=fixed,align=1M azure.vhd 30G\n  \
    cowshed create -f qcow2 -o help")]
pub(super) struct Args {
    /// Format of the new image
    #[arg(short, long, value_name = "FMT", default_value = "raw")]
    format: String,

    /// Options of that format; `-o help` lists them
    #[arg(short, long, value_name = "OPTS")]
    options: Vec<String>,

    /// Stand on this image, which is never written; the name is recorded as given, relative to the new image
    #[arg(short, long, value_name = "BACKING")]
    backing: Option<String>,

    /// Format of the backing file
    #[arg(short = 'F', long, value_name = "FMT")]
    backing_format: Option<String>,

    /// Record the backing file without looking at it
    #[arg(short = 'u', long)]
    backing_unsafe: bool,

    #[command(flatten)]
    named: Named,

    #[command(flatten)]
    job: JobArgs,

    /// The image to make; one that is there is replaced
    #[arg(value_name = "IMAGE", required_unless_present = "options")]
    image: Option<PathBuf>,

    /// Virtual size, such as 20G; with a backing file it may be left out
    #[arg(value_name = "SIZE")]
    size: Option<String>,
}

impl Args {
    fn spec(&self, format: Format) -> Result<ImageSpec> {
        self.named.check()?;
        let Some(image) = &self.image else {
            return Err(Error::usage("the image is missing").op("create").hint("cowshed create --help shows how"));
        };
        if self.backing_format.is_some() && self.backing.is_none() && !self.options.iter().any(|o| o.contains("backing_file")) {
            return Err(Error::usage("-F is given without a backing file").op("create").hint("-b names it"));
        }
        let mut spec = ImageSpec::new(image, format, self.size.as_deref().map(parse_size).transpose()?);
        spec.options = options::parse(&self.options)?;
        spec.backing.clone_from(&self.backing);
        spec.backing_format = self.backing_format.as_deref().map(Format::parse).transpose()?;
        spec.unchecked = self.backing_unsafe;
        spec.follow = self.named.follow;
        Ok(spec)
    }
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> std::result::Result<u8, Failure> {
        let format = Format::parse(&self.format)?;
        if options::wants_help(&self.options) {
            options::help(out, format)?;
            return Ok(0);
        }
        let spec = self.spec(format)?;
        let told = formatting(&spec);
        let code = self.job.run(JobSpec::Create(spec), out)?;
        if code == 0 && !out.quiet && !self.job.is_dry_run() {
            out.line(told)?;
        }
        Ok(code)
    }
}

/// The line qemu-img prints.
fn formatting(spec: &ImageSpec) -> String {
    let mut line = format!("Formatting '{}', fmt={}", spec.target.display(), spec.format.driver());
    let mut add = |name: &str, value: &str| line.push_str(&format!(" {name}={value}"));
    if let Some(size) = spec.size {
        add("size", &size.to_string());
    }
    if let Some(backing) = &spec.backing {
        add("backing_file", backing);
    }
    if let Some(format) = spec.backing_format {
        add("backing_fmt", format.driver());
    }
    for (name, value) in &spec.options {
        add(name, value);
    }
    printable(&line)
}
