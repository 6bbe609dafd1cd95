//! The command line: one verb per file, thin over the engine, with human and JSON output. Names, flags, keys and exit codes
//! follow `qemu-img` where it has the verb.
//!
//! To add a verb: write its file with a struct `Args` (`clap::Args`, its doc comment is the help) that implements [`Verb`], and
//! name it in the list of `verbs!` below.

mod failure;
mod guest;
mod job;
mod names;
mod options;
mod out;
mod source;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::engine::error::{Error, ErrorKind};
pub use failure::Failure;
use out::{ColorWhen, Out};

/// What a verb does with its arguments: the exit code, or why it failed.
trait Verb {
    /// Exit code of a wrong command line; `qemu-img` has 1 for all but `compare`.
    const USAGE: u8 = 1;

    fn run(self, out: &mut Out) -> Result<u8, Failure>;
}

macro_rules! verbs {
    ($($module:ident $name:ident,)*) => {
        $(mod $module;)*

        #[derive(Subcommand)]
        enum Command {
            $($name($module::Args),)*
        }

        impl Command {
            fn run(self, out: &mut Out) -> Result<u8, Failure> {
                match self {
                    $(Command::$name(args) => args.run(out),)*
                }
            }
        }

        /// Exit code of wrong usage of the verb called `name`.
        fn usage_code(name: &str) -> u8 {
            match name {
                $(stringify!($module) => <$module::Args as Verb>::USAGE,)*
                _ => 1,
            }
        }
    };
}

// Each line: the file, and the verb as clap's variant.
verbs! {
    amend Amend,
    bitmap Bitmap,
    cat Cat,
    chain Chain,
    check Check,
    commit Commit,
    compact Compact,
    compare Compare,
    convert Convert,
    create Create,
    dd Dd,
    delete Delete,
    demo Demo,
    extract Extract,
    flatten Flatten,
    formats Formats,
    info Info,
    inspect Inspect,
    jobs Jobs,
    ls Ls,
    map Map,
    measure Measure,
    ready Ready,
    rebase Rebase,
    relink Relink,
    resize Resize,
    sanitize Sanitize,
    scan Scan,
    snapshot Snapshot,
}

/// A terminal workbench for virtual-machine disk images.
#[derive(Parser)]
#[command(name = "cowshed", version, subcommand_precedence_over_arg = true, infer_long_args = true)]
#[command(after_help = "Without a verb the workbench opens on the given folders or images.\n\
    `cowshed VERB --help` shows a verb's options and examples.")]
struct Cli {
    /// Folders or images to open the workbench on (default: the configured roots, else the current folder)
    #[arg(value_name = "ROOT")]
    roots: Vec<PathBuf>,

    /// Write nothing, not even converted copies
    #[arg(long)]
    read_only: bool,

    /// Draw the workbench with ASCII characters only
    #[arg(long)]
    ascii: bool,

    /// The workbench's configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    common: Common,
}

/// What every verb takes.
#[derive(clap::Args)]
struct Common {
    /// When to use colours
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = ColorWhen::Auto, global = true)]
    color: ColorWhen,

    /// Print no more than is asked for
    #[arg(short, long, global = true)]
    quiet: bool,
}

/// `--progress json` as one word: qemu-img's `--progress` takes no value, so the word after it may as well be a file.
fn join_progress(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut out: Vec<OsString> = Vec::new();
    for arg in args {
        match out.last_mut() {
            Some(last) if last == "--progress" && (arg == "json" || arg == "bar") => {
                last.push("=");
                last.push(arg);
            }
            _ => out.push(arg),
        }
    }
    out
}

/// Runs the command line `args` (the program's name first). The exit code, or the failure to report.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Result<u8, Failure> {
    let args = join_progress(args);
    let cli = match Cli::command().try_get_matches_from(&args).and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(e) if !e.use_stderr() => {
            // --help and --version.
            let _ = e.print();
            return Ok(0);
        }
        Err(e) => {
            let verb = args.iter().skip(1).filter_map(|a| a.to_str()).find(|a| Cli::command().find_subcommand(a).is_some());
            return Err(Failure::usage(&e, verb, verb.map_or(1, usage_code)));
        }
    };
    if cli.command.is_some() && (cli.read_only || cli.ascii || cli.config.is_some() || !cli.roots.is_empty()) {
        let why = "folders, --read-only, --ascii and --config are for the workbench, which a verb does not open";
        return Err(Error::usage(why).hint("cowshed VERB --help lists what a verb takes; --dry-run writes nothing").into());
    }
    let mut out = Out::new(cli.common.color, cli.common.quiet);
    let done = match cli.command {
        Some(command) => command.run(&mut out),
        None => {
            let color = Some(format!("{:?}", cli.common.color).to_lowercase());
            let Cli { roots, read_only, ascii, config, .. } = cli;
            workbench(crate::app::Options { roots, read_only, config, ascii, color })
        }
    };
    let flushed = out.flush();
    let code = done?;
    flushed?;
    Ok(code)
}

/// Opens the workbench. A root that is not there may be a verb that was mistyped.
fn workbench(options: crate::app::Options) -> Result<u8, Failure> {
    if let Some(root) = options.roots.iter().find(|r| std::fs::symlink_metadata(r).is_err()) {
        let error = Error::new(ErrorKind::NotFound, "there is no such file or folder, and no verb of that name");
        return Err(error.path(root).hint("cowshed --help lists the verbs").into());
    }
    Ok(crate::term::run(options)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_examples() {
        for verb in Cli::command().get_subcommands() {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:") && help.contains(&format!("cowshed {}", verb.get_name())), "{}", verb.get_name());
        }
    }
}
