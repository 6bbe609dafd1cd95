//! `cowshed measure`: how large an image would become.

use std::path::PathBuf;

use serde_json::json;

use super::out::{Format as Output, Out};
use super::source::Source;
use super::{Failure, Verb, options};
use crate::engine::error::Error;
use crate::engine::format::Format;
use crate::engine::ops::measure::{Measured, Subject, measure};
use crate::engine::units::parse_size;

/// Tell how large an image would be after a conversion, or a new one of a given size
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cowshed measure -O qcow2 disk.vmdk\n  \
    cowshed measure -O qcow2 -o cluster_size=2M --size 1T")]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,

    /// Format of the image to measure
    #[arg(short = 'O', long, value_name = "FMT", default_value = "raw")]
    target_format: String,

    /// Options of that format
    #[arg(short, long, value_name = "OPTS")]
    options: Vec<String>,

    /// Measure a new image of this virtual size
    #[arg(short, long, value_name = "SIZE", value_parser = |s: &str| parse_size(s).map_err(|e| e.why().to_string()))]
    size: Option<u64>,

    /// Measure this internal snapshot (id or name)
    #[arg(short = 'l', long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,

    /// For people, or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Output::Human)]
    output: Output,

    /// The image to convert
    #[arg(value_name = "IMAGE")]
    image: Option<PathBuf>,
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> Result<u8, Failure> {
        let target = Format::parse(&self.target_format)?;
        if options::wants_help(&self.options) {
            options::help(out, target)?;
            return Ok(0);
        }
        let spec = options::checked(target, options::parse(&self.options)?)?;
        let measured = match (&self.image, self.size) {
            (None, Some(size)) => measure(&Subject::Size(size), target, &spec)?,
            (Some(image), None) => {
                let held = self.source.open(image)?;
                let chain = &held.chain;
                let disk = match &self.snapshot {
                    Some(which) => chain.snapshot_disk(super::source::snapshot_name(which))?,
                    None => chain.disk()?,
                };
                let description = chain.nodes.first().map(|n| n.description.clone()).unwrap_or_default();
                measure(&Subject::Disk(&disk, &description), target, &spec)?
            }
            _ => return Err(Error::usage("either --size SIZE or one image must be given").op("measure").into()),
        };
        let Measured { required, fully_allocated, bitmaps } = measured;
        match self.output {
            Output::Json => {
                let mut value = json!({ "required": required, "fully-allocated": fully_allocated });
                if let Some(bytes) = bitmaps {
                    value["bitmaps"] = json!(bytes);
                }
                out.json(&value)?;
            }
            Output::Human => {
                out.line(format!("required size: {required}"))?;
                out.line(format!("fully allocated size: {fully_allocated}"))?;
                if let Some(bytes) = bitmaps {
                    out.line(format!("bitmaps size: {bytes}"))?;
                }
            }
        }
        Ok(0)
    }
}
