//! `cowshed bitmap`: the dirty bitmaps an image keeps.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};

use super::job::JobArgs;
use super::out::Out;
use super::{Failure, Verb};
use crate::engine::error::Error;
use crate::engine::format::Format;
use crate::engine::ops::JobSpec;
use crate::engine::ops::bitmap::{Action, BitmapSpec};
use crate::engine::units::parse_size;

/// Add, remove, clear, switch or merge a dirty bitmap
#[derive(clap::Args)]
#[command(after_help = "Several actions are done in the order they are given, all of them or none.\n\nExamples:\n  \
    cowshed bitmap --add -g 64k disk.qcow2 backup\n  \
    cowshed bitmap --add --disable --merge monday --merge tuesday disk.qcow2 week\n  \
    cowshed bitmap --merge backup -b overlay.qcow2 disk.qcow2 backup\n  \
    cowshed bitmap --remove disk.qcow2 backup")]
pub(super) struct Args {
    #[command(flatten)]
    actions: Actions,

    /// Bytes of the disk per bit of an added bitmap
    #[arg(short, long, value_name = "SIZE")]
    granularity: Option<String>,

    /// The image that the bitmaps to merge are in
    #[arg(short = 'b', long, value_name = "FILE")]
    source_file: Option<PathBuf>,

    /// Its format
    #[arg(short = 'F', long, value_name = "FMT")]
    source_format: Option<String>,

    /// Format of the image (default: recognised by its content)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// Taken for qemu-img's sake: bitmaps need no secrets
    #[arg(long, value_name = "OBJDEF")]
    object: Vec<String>,

    /// Not supported: images are files, named by their path
    #[arg(long, hide = true)]
    image_opts: bool,

    #[command(flatten)]
    job: JobArgs,

    /// The image
    #[arg(value_name = "IMAGE")]
    image: PathBuf,

    /// The bitmap
    #[arg(value_name = "BITMAP")]
    bitmap: String,
}

/// What to do, in the order of the command line.
struct Actions(Vec<Action>);

/// The actions without a value: flag, help.
const PLAIN: [(&str, &str, Action); 5] = [
    ("add", "Make the bitmap; it records writes from then on", Action::Add),
    ("remove", "Remove it", Action::Remove),
    ("clear", "Clear all its bits", Action::Clear),
    ("enable", "Record writes from now on", Action::Enable),
    ("disable", "Record no writes any more", Action::Disable),
];

impl clap::Args for Actions {
    fn augment_args(cmd: Command) -> Command {
        let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).help(help).action(ArgAction::Append);
        let plain = PLAIN.iter().map(|(name, help, _)| flag(name, help).num_args(0).default_missing_value("on"));
        cmd.args(plain).arg(flag("merge", "Set the bits that another bitmap has").value_name("SOURCE"))
    }
    fn augment_args_for_update(cmd: Command) -> Command {
        Self::augment_args(cmd)
    }
}

impl FromArgMatches for Actions {
    fn from_arg_matches(m: &ArgMatches) -> Result<Self, clap::Error> {
        let mut found: Vec<(usize, Action)> = Vec::new();
        for (name, _, action) in &PLAIN {
            found.extend(m.indices_of(name).into_iter().flatten().map(|i| (i, action.clone())));
        }
        let names = m.get_many::<String>("merge").into_iter().flatten().cloned().map(Action::Merge);
        found.extend(m.indices_of("merge").into_iter().flatten().zip(names));
        found.sort_by_key(|(i, _)| *i);
        Ok(Actions(found.into_iter().map(|(_, a)| a).collect()))
    }
    fn update_from_arg_matches(&mut self, m: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(m)?;
        Ok(())
    }
}

impl Args {
    fn spec(self) -> Result<(BitmapSpec, JobArgs), Error> {
        let usage = |why: &str| Err(Error::usage(why).op("bitmap"));
        let actions = self.actions.0;
        if self.image_opts {
            return usage("--image-opts is not supported");
        }
        if actions.is_empty() {
            return usage("at least one of --add, --remove, --clear, --enable, --disable, --merge is needed");
        }
        if self.granularity.is_some() && !actions.contains(&Action::Add) {
            return usage("a granularity goes with --add only");
        }
        let merges = actions.iter().any(|a| matches!(a, Action::Merge(_)));
        if self.source_file.is_some() && !merges {
            return usage("a source file goes with --merge only");
        }
        if self.source_format.is_some() && self.source_file.is_none() {
            return usage("a source format goes with a source file (-b) only");
        }
        let format = |f: Option<String>| f.as_deref().map(Format::parse).transpose();
        let spec = BitmapSpec {
            image: self.image,
            format: format(self.format)?,
            name: self.bitmap,
            actions,
            granularity: self.granularity.as_deref().map(parse_size).transpose()?,
            source: self.source_file,
            source_format: format(self.source_format)?,
        };
        Ok((spec, self.job))
    }
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> Result<u8, Failure> {
        let (spec, job) = self.spec()?;
        job.run(JobSpec::Bitmap(spec), out)
    }
}
