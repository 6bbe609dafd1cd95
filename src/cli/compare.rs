//! `cowshed compare`: whether a guest could tell two disks apart.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use super::out::Out;
use super::source::{Access, Held, cache_mode};
use super::{Failure, Verb};
use crate::engine::chain::Disk;
use crate::engine::error::Error;
use crate::engine::ops::compare::{Outcome, Trouble, compare};

/// Compare what two images hold
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 same, 1 different, 2 and up could not compare.\n\n\
    Examples:\n  \
    cowshed compare disk.vmdk disk.qcow2\n  \
    cowshed compare -s -f raw -F raw a.img b.img")]
pub(super) struct Args {
    /// Format of the first image (default: recognised by its content)
    #[arg(short = 'f', long = "a-format", value_name = "FMT")]
    first_format: Option<String>,

    /// Format of the second image
    #[arg(short = 'F', long = "b-format", value_name = "FMT")]
    second_format: Option<String>,

    /// Sizes and allocation must agree too
    #[arg(short, long)]
    strict: bool,

    /// Show how far it is
    #[arg(short, long)]
    progress: bool,

    /// Cache mode, taken for the sake of scripts
    #[arg(short = 'T', long, value_name = "MODE", value_parser = cache_mode)]
    cache: Option<String>,

    #[command(flatten)]
    access: Access,

    /// The first image
    #[arg(value_name = "IMAGE1")]
    first: PathBuf,

    /// The second image
    #[arg(value_name = "IMAGE2")]
    second: PathBuf,
}

impl Args {
    /// The disk, and what holds it for as long as it is compared.
    fn open(&self, path: &Path, format: Option<&str>) -> Result<(Disk, Held), Error> {
        let held = self.access.open(path, format)?;
        Ok((held.chain.disk()?, held))
    }
}

impl Verb for Args {
    const USAGE: u8 = 2;

    fn run(self, out: &mut Out) -> Result<u8, Failure> {
        let opened = |path: &Path, format: Option<&str>| self.open(path, format).map_err(|e| Failure::from(e).code(2));
        let (a, _first) = opened(&self.first, self.first_format.as_deref())?;
        let (b, _second) = opened(&self.second, self.second_format.as_deref())?;
        let total = a.size().max(b.size());
        let show = self.progress && !out.quiet;
        let last = Cell::new(u64::MAX);
        let progress = |at: u64| {
            let percent = (u128::from(at) * 100 / u128::from(total.max(1))) as u64;
            if show && last.replace(percent) != percent {
                eprint!("    ({percent}.00/100%)\r");
            }
        };
        let outcome = compare(&a, &b, self.strict, &progress).map_err(|trouble| {
            let code = if matches!(trouble, Trouble::Map(_)) { 3 } else { 4 };
            Failure::from(trouble.into_error()).code(code)
        })?;
        if show {
            eprintln!("    (100.00/100%)");
        }
        let verdict = match outcome {
            Outcome::Same => "Images are identical.".to_string(),
            Outcome::Content(at) => format!("Content mismatch at offset {at}!"),
            Outcome::Status(at) => format!("Strict mode: Offset {at} block status mismatch!"),
            Outcome::Size => "Strict mode: Image size mismatch!".to_string(),
        };
        // Of the sizes one hears only when the part that both have is the same.
        let beyond = !matches!(outcome, Outcome::Content(at) if at < a.size().min(b.size()));
        if !self.strict && a.size() != b.size() && beyond && !out.quiet {
            out.line("Warning: Image size mismatch!")?;
        }
        if !out.quiet {
            out.line(verdict)?;
        }
        Ok(if outcome == Outcome::Same { 0 } else { 1 })
    }
}
