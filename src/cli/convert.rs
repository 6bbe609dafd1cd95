//! `cowshed convert`: a disk into a new image of any format.

use std::path::PathBuf;

use super::job::JobArgs;
use super::out::Out;
use super::source::{Access, cache_mode, snapshot_name, tell_all_in_use};
use super::{Failure, Verb, options};
use crate::engine::error::{Error, Result};
use crate::engine::format::Format;
use crate::engine::ops::JobSpec;
use crate::engine::ops::convert::{ConvertSpec, SPARSE};
use crate::engine::units::parse_size;

fn bytes(text: &str) -> std::result::Result<u64, String> {
    parse_size(text).map_err(|e| e.why().to_string())
}

/// Copy an image into a new one of another format, or a chain or snapshot into one image
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cowshed convert -O qcow2 disk.vmdk disk.qcow2\n  \
    cowshed convert -p -O raw overlay.qcow2 /dev/vg0/disk\n  \
    cowshed convert -O qcow2 -c -o compression_type=zstd big.raw small.qcow2\n  \
    cowshed convert -O qcow2 -B base.qcow2 -F qcow2 full.raw overlay.qcow2\n  \
    cowshed convert --dry-run -O vhdx disk.qcow2 disk.vhdx")]
pub(super) struct Args {
    /// Format of the sources (default: recognised by their content)
    #[arg(short, long = "source-format", visible_alias = "format", value_name = "FMT")]
    format: Option<String>,

    /// Format of the new image
    #[arg(short = 'O', long, value_name = "FMT", default_value = "raw")]
    target_format: String,

    /// Options of that format; `-o help` lists them
    #[arg(short, long = "target-options", value_name = "OPTS")]
    options: Vec<String>,

    /// Store the data compressed
    #[arg(short, long)]
    compress: bool,

    /// Stand on this backing file and store only what differs from it
    #[arg(short = 'B', long, value_name = "BACKING")]
    backing: Option<String>,

    /// Format of the backing file
    #[arg(short = 'F', long, value_name = "FMT", requires = "backing")]
    backing_format: Option<String>,

    /// Read this internal snapshot (id or name)
    #[arg(short = 'l', long = "source-snapshot", value_name = "SNAPSHOT")]
    snapshot: Option<String>,

    /// Zeros in a row that become a hole; 0 writes everything
    #[arg(short = 'S', long, value_name = "SIZE", value_parser = bytes)]
    sparse_size: Option<u64>,

    /// Bytes per second, at most
    #[arg(short, long, value_name = "RATE", value_parser = bytes)]
    rate: Option<u64>,

    /// Worker threads, 1 to 16 (default: by the number of processors)
    #[arg(short = 'm', long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    parallel: Option<u8>,

    /// Write into the existing target; its format, size and options stay
    #[arg(short = 'n', long)]
    no_create: bool,

    /// The existing target reads as zeros already
    #[arg(long, requires = "no_create")]
    target_is_zero: bool,

    /// Leave zeros where a source cannot be read, and go on
    #[arg(long)]
    salvage: bool,

    /// Copy persistent bitmaps too
    #[arg(long)]
    bitmaps: bool,

    /// Leave out bitmaps that are inconsistent
    #[arg(long, requires = "bitmaps")]
    skip_broken_bitmaps: bool,

    /// Read the target back when it is complete, and compare
    #[arg(long)]
    verify: bool,

    /// Write the target's SHA-256 beside it, as sha256sum does
    #[arg(long)]
    checksum: bool,

    /// Go on where an earlier run of the same conversion was durable
    #[arg(long)]
    resume: bool,

    /// Taken for qemu-img's sake: writes are always in any order where the format allows it
    #[arg(short = 'W', long)]
    oob_writes: bool,

    /// Taken for qemu-img's sake: the way of copying is chosen by itself
    #[arg(short = 'C', long)]
    copy_range_offloading: bool,

    /// Cache mode of the target, taken for qemu-img's sake
    #[arg(short = 't', long, value_name = "CACHE", value_parser = cache_mode)]
    target_cache: Option<String>,

    /// Cache mode of the sources, taken for qemu-img's sake
    #[arg(short = 'T', long, value_name = "CACHE", value_parser = cache_mode)]
    source_cache: Option<String>,

    /// Not supported: images are files, named by their path
    #[arg(long, hide = true)]
    target_image_opts: bool,

    #[command(flatten)]
    access: Access,

    #[command(flatten)]
    job: JobArgs,

    /// The images to read (several are joined end to end), and the one to make
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Args {
    fn spec(&self) -> Result<ConvertSpec> {
        let (Some((target, sources)), false) = (self.files.split_last(), self.target_image_opts) else {
            return Err(Error::usage("a source and a target must be named").op("convert").hint("cowshed convert --help shows how"));
        };
        let [first, ..] = sources else {
            return Err(Error::usage("the target is missing").op("convert").hint("cowshed convert --help shows how"));
        };
        if let Some(s) = self.sparse_size.filter(|s| !s.is_multiple_of(512)) {
            return Err(Error::usage(format!("-S {s}: it must be a multiple of 512")).op("convert"));
        }
        self.access.options(first, None)?;
        let parse = |f: &Option<String>| f.as_deref().map(Format::parse).transpose();
        let mut spec = ConvertSpec::new(first, target, Format::parse(&self.target_format)?);
        spec.sources = sources.to_vec();
        spec.source_format = parse(&self.format)?;
        spec.snapshot = self.snapshot.as_deref().map(|s| snapshot_name(s).to_string());
        spec.backing.clone_from(&self.backing);
        spec.backing_format = parse(&self.backing_format)?;
        for (name, value) in options::parse(&self.options)? {
            // The old way to say -B and -F.
            match name.as_str() {
                "backing_file" => spec.backing = Some(value),
                "backing_fmt" => spec.backing_format = Some(Format::parse(&value)?),
                _ => spec.options.push((name, value)),
            }
        }
        if !self.no_create {
            options::checked(spec.format, spec.options.clone())?;
        }
        spec.compress = self.compress;
        spec.sparse = self.sparse_size.unwrap_or(SPARSE);
        spec.rate = self.rate;
        spec.threads = self.parallel.map(usize::from);
        spec.in_place = self.no_create;
        spec.target_is_zero = self.target_is_zero;
        spec.salvage = self.salvage;
        spec.bitmaps = self.bitmaps;
        spec.skip_broken_bitmaps = self.skip_broken_bitmaps;
        spec.verify = self.verify;
        spec.checksum = self.checksum;
        spec.resume = self.resume;
        spec.force_share = self.access.force_share;
        spec.follow = self.access.named.follow;
        Ok(spec)
    }
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> std::result::Result<u8, Failure> {
        if options::wants_help(&self.options) {
            options::help(out, Format::parse(&self.target_format)?)?;
            return Ok(0);
        }
        let spec = self.spec()?;
        if spec.force_share {
            tell_all_in_use(&spec.sources, spec.source_format, spec.follow);
        }
        self.job.run(JobSpec::Convert(spec), out)
    }
}
