//! `cowshed dd`: a piece of a disk into a new image, with dd's way of saying so.

use std::path::PathBuf;

use super::job::JobArgs;
use super::out::Out;
use super::source::{Named, tell_all_in_use};
use super::{Failure, Verb};
use crate::engine::error::{Error, Result};
use crate::engine::format::Format;
use crate::engine::ops::JobSpec;
use crate::engine::ops::dd::DdSpec;
use crate::engine::units::parse_size;

/// Copy a piece of an image, counted in blocks, into a new one
#[derive(clap::Args)]
#[command(after_help = "Operands: if=INPUT of=OUTPUT, and as needed bs=SIZE (default 512), count=BLOCKS, skip=BLOCKS\n\n\
    Examples:\n  \
    cowshed dd if=disk.qcow2 of=first-mib.raw bs=1M count=1\n  \
    cowshed dd -f vmdk -O qcow2 if=disk.vmdk of=rest.qcow2 bs=1M skip=2048")]
pub(super) struct Args {
    /// Format of the input (default: recognised by its content)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// Format of the output
    #[arg(short = 'O', long, value_name = "FMT", default_value = "raw")]
    output_format: String,

    /// Read an image that another process is writing to; what is read may be stale
    #[arg(short = 'U', long)]
    force_share: bool,

    #[command(flatten)]
    named: Named,

    #[command(flatten)]
    job: JobArgs,

    /// if=, of=, bs=, count=, skip=
    #[arg(value_name = "NAME=VALUE")]
    operands: Vec<String>,
}

impl Args {
    fn spec(&self) -> Result<DdSpec> {
        let wrong = |why: String| Error::usage(why).op("dd").hint("cowshed dd --help shows how");
        self.named.check()?;
        let (mut input, mut output, mut block, mut count, mut skip) = (None, None, 512, None, 0);
        for operand in &self.operands {
            let Some((name, value)) = operand.split_once('=') else {
                return Err(wrong(format!("'{operand}' is no operand: they are written name=value")));
            };
            match name {
                "if" => input = Some(PathBuf::from(value)),
                "of" => output = Some(PathBuf::from(value)),
                "bs" => block = parse_size(value)?,
                "count" => count = Some(parse_size(value)?),
                "skip" => skip = parse_size(value)?,
                _ => return Err(wrong(format!("there is no operand '{name}'"))),
            }
        }
        let (Some(input), Some(output)) = (input, output) else {
            return Err(wrong("if= and of= must both be given".into()));
        };
        if block == 0 {
            return Err(wrong("bs= must be larger than zero".into()));
        }
        Ok(DdSpec {
            input,
            output,
            input_format: self.format.as_deref().map(Format::parse).transpose()?,
            output_format: Format::parse(&self.output_format)?,
            block,
            count,
            skip,
            force_share: self.force_share,
            follow: self.named.follow,
        })
    }
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> std::result::Result<u8, Failure> {
        let spec = self.spec()?;
        if spec.force_share {
            tell_all_in_use([&spec.input], spec.input_format, spec.follow);
        }
        self.job.run(JobSpec::Dd(spec), out)
    }
}
