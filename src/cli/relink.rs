//! `cowshed relink`: the image that an overlay stands on was moved or renamed.

use std::path::PathBuf;

use super::job::JobArgs;
use super::out::Out;
use super::{Failure, Verb};
use crate::engine::error::{Error, Result};
use crate::engine::format::Format;
use crate::engine::ops::JobSpec;
use crate::engine::ops::relink::{RelinkSpec, candidates};
use crate::engine::units::printable;

/// Tell an overlay where the image it stands on is now
#[derive(clap::Args)]
#[command(after_help = "The new base must be the right one: by its identity (CID, UUID) where the format has one, else by its name or size.\n\n\
    Examples:\n  \
    cowshed relink overlay.qcow2 moved/base.qcow2\n  \
    cowshed relink --find overlay.qcow2\n  \
    cowshed relink --find --library /srv/images child.vmdk")]
pub(super) struct Args {
    /// Format of the overlay (default: recognised by its content)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// Format of the base (default: the one that is recorded)
    #[arg(short = 'F', long, value_name = "FMT")]
    base_format: Option<String>,

    /// Look for the base in the overlay's folder and those below; one that is certain, or the only one, is taken, several are listed
    #[arg(long, conflicts_with = "base")]
    find: bool,

    /// Look in this folder too
    #[arg(long, value_name = "FOLDER")]
    library: Vec<PathBuf>,

    /// Relink although it is another image, or nothing says that it is the right one
    #[arg(long)]
    force: bool,

    /// Open files named inside images wherever they are
    #[arg(long)]
    follow: bool,

    #[command(flatten)]
    job: JobArgs,

    /// The overlay
    #[arg(value_name = "IMAGE")]
    image: PathBuf,

    /// Where the base is now
    #[arg(value_name = "BASE", required_unless_present = "find")]
    base: Option<PathBuf>,
}

impl Args {
    /// The one candidate there is. Errors: none, or several of which none is certain.
    fn found(&self, format: Option<Format>, out: &mut Out) -> Result<PathBuf> {
        let all = candidates(&self.image, format, &self.library)?;
        let certain: Vec<_> = all.iter().filter(|g| g.proven).collect();
        let one = match (certain.as_slice(), all.as_slice()) {
            ([one], _) => *one,
            ([], [one]) => one,
            _ => {
                let names: Vec<String> = all.iter().map(|g| format!("{} ({})", g.path.display(), g.evidence.join(", "))).collect();
                let why = if names.is_empty() { "no image was found that could be it".into() } else { names.join("; ") };
                return Err(Error::usage(why)
                    .op("find the base")
                    .path(&self.image)
                    .hint("name it: cowshed relink IMAGE BASE; --library looks in further folders"));
            }
        };
        if !out.quiet {
            out.line(printable(&format!("{}: {}", one.path.display(), one.evidence.join(", "))))?;
        }
        Ok(one.path.clone())
    }

    fn spec(&self, out: &mut Out) -> Result<RelinkSpec> {
        let format = self.format.as_deref().map(Format::parse).transpose()?;
        let base = match &self.base {
            Some(base) => base.clone(),
            None => self.found(format, out)?,
        };
        Ok(RelinkSpec {
            format,
            base_format: self.base_format.as_deref().map(Format::parse).transpose()?,
            force: self.force,
            roots: self.library.clone(),
            follow: self.follow,
            ..RelinkSpec::new(&self.image, base)
        })
    }
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> std::result::Result<u8, Failure> {
        let spec = self.spec(out)?;
        self.job.run(JobSpec::Relink(spec), out)
    }
}
