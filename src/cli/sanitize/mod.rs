//! `cowshed sanitize`: removes from a guest what must not be in every clone, and what is left of it in the image's bytes.

mod human;
mod sysprep;

use std::path::PathBuf;

use super::job::{JobArgs, foreground_report};
use super::out::{Format as Shown, Out};
use super::{Failure, Verb};
use crate::app::config::{Config, OwnProfile};
use crate::engine::error::{Error, Result};
use crate::engine::format::Format;
use crate::engine::guest::sanitize::{PROFILES, Selection};
use crate::engine::ops::JobSpec;
use crate::engine::ops::sanitize::{Action, SanitizeSpec, preview};

/// Prepare a guest for cloning or a cloud: remove keys, ids, logs and what is left of them in the image's bytes
#[derive(clap::Args)]
#[command(after_help = "Operations: `cowshed sanitize --list`. Profiles: openstack, clone, minimal, and those of the configuration \
    ([sanitize.NAME] with enable and disable).\n\n\
    The undo file (IMAGE.sanitize-undo, readable by its owner alone) holds what was removed: destroy it when it is no longer wanted.\n\n\
    Examples:\n  \
    cowshed sanitize --list\n  \
    cowshed sanitize --dry-run golden.qcow2\n  \
    cowshed sanitize --profile openstack golden.qcow2\n  \
    cowshed sanitize --enable passwords --disable logs golden.raw\n  \
    cowshed sanitize --to clean.qcow2 -O qcow2 golden.vmdk\n  \
    cowshed sanitize --undo golden.qcow2")]
pub(super) struct Args {
    /// Format of the image (default: recognised by its content)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// List the operations and the profiles
    #[arg(long)]
    list: bool,

    /// The operations of this profile
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,

    /// Operations to do besides
    #[arg(long, value_name = "OPS", value_delimiter = ',')]
    enable: Vec<String>,

    /// Operations to leave out
    #[arg(long, value_name = "OPS", value_delimiter = ',')]
    disable: Vec<String>,

    /// Make a new, sanitised image and leave this one as it is
    #[arg(long, value_name = "FILE", conflicts_with_all = ["undo", "no_undo", "destroy_undo"])]
    to: Option<PathBuf>,

    /// Format of the new image (default: that of the source)
    #[arg(short = 'O', long, value_name = "FMT", requires = "to")]
    output_format: Option<String>,

    /// Take the last sanitising back: every file becomes what it was
    #[arg(long, conflicts_with_all = ["no_undo", "destroy_undo"])]
    undo: bool,

    /// Keep no undo file: nothing can be taken back
    #[arg(long)]
    no_undo: bool,

    /// Overwrite and remove the undo file, which holds what was removed
    #[arg(long)]
    destroy_undo: bool,

    /// Where the undo file is (default: beside the image)
    #[arg(long, value_name = "FILE")]
    undo_file: Option<PathBuf>,

    /// Replay the journal of an ext filesystem that was not shut down properly
    #[arg(long)]
    replay: bool,

    /// What does it: cowshed itself, or virt-sysprep where it is installed (for filesystems that cowshed does not write)
    #[arg(long, value_name = "NAME", value_parser = ["own", "libguestfs"], default_value = "own")]
    backend: String,

    /// Open files named inside the image wherever they are
    #[arg(long)]
    follow: bool,

    /// For people, or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Shown::Human)]
    output: Shown,

    #[command(flatten)]
    job: JobArgs,

    /// The image
    #[arg(value_name = "IMAGE", required_unless_present = "list")]
    image: Option<PathBuf>,
}

/// The profiles in the person's configuration. What is wrong with them is told.
fn own_profiles() -> Vec<OwnProfile> {
    let dirs = directories::ProjectDirs::from("", "", "cowshed");
    let Some(text) = dirs.and_then(|d| std::fs::read_to_string(d.config_dir().join("config.toml")).ok()) else { return Vec::new() };
    let (config, wrong) = Config::parse(&text);
    for w in wrong.iter().filter(|w| w.starts_with("sanitize.")) {
        eprintln!("cowshed: warning: configuration: {w}");
    }
    config.profiles
}

impl Args {
    /// The operations asked for. A profile of the configuration is put into words of the engine's.
    fn selection(&self) -> Result<Selection> {
        let mut out = Selection { profile: self.profile.clone(), enable: self.enable.clone(), disable: self.disable.clone() };
        if let Some(both) = self.enable.iter().find(|id| self.disable.contains(id)) {
            return Err(Error::usage(format!("'{both}' is to be done and to be left out")).hint("name it once, with --enable or --disable"));
        }
        let Some(name) = &self.profile else { return Ok(out) };
        let all = own_profiles();
        if !PROFILES.iter().any(|p| p.name == name) {
            let Some(own) = all.iter().find(|p| p.name == *name).cloned() else {
                let there: Vec<&str> = PROFILES.iter().map(|p| p.name).chain(all.iter().map(|p| p.name.as_str())).collect();
                return Err(Error::usage(format!("there is no profile '{name}'")).hint(format!("there are: {}", there.join(", "))));
            };
            out.profile = None;
            out.enable.extend(own.enable);
            // What is asked for by hand wins over the profile.
            let by_hand = &self.enable;
            out.disable.extend(own.disable.into_iter().filter(|d| !by_hand.contains(d)));
        }
        Ok(out)
    }

    fn spec(&self) -> Result<SanitizeSpec> {
        let image = self.image.clone().ok_or_else(|| Error::usage("no image is named"))?;
        let parse = |f: &Option<String>| f.as_deref().map(Format::parse).transpose();
        Ok(SanitizeSpec {
            format: parse(&self.format)?,
            action: match (self.undo, self.destroy_undo) {
                (true, _) => Action::Undo,
                (_, true) => Action::DestroyUndo,
                _ => Action::Sanitize,
            },
            selection: self.selection()?,
            keep_undo: !self.no_undo,
            undo_file: self.undo_file.clone(),
            target: self.to.clone(),
            target_format: parse(&self.output_format)?,
            replay: self.replay,
            follow: self.follow,
            ..SanitizeSpec::new(image)
        })
    }
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> std::result::Result<u8, Failure> {
        if self.list {
            human::list(&own_profiles(), self.output == Shown::Json, out)?;
            return Ok(0);
        }
        let spec = self.spec()?;
        // Told before anything is opened.
        spec.selection.operations()?;
        if self.backend == "libguestfs" {
            return sysprep::run(&spec, self.job.is_dry_run(), out);
        }
        if self.job.is_dry_run() && spec.action == Action::Sanitize {
            let report = preview(&spec).map_err(|e| sysprep::offer_in(e.into()))?;
            match self.output {
                Shown::Json => out.json(&report)?,
                Shown::Human => human::report(&serde_json::to_value(&report).unwrap_or_default(), true, out)?,
            }
            return Ok(0);
        }
        if self.job.is_dry_run() {
            return self.job.run(JobSpec::Sanitize(spec), out);
        }
        let (action, image) = (spec.action, spec.image.clone());
        let shown = self.job.shown(out.quiet);
        let (code, report) = foreground_report(JobSpec::Sanitize(spec), shown, out).map_err(sysprep::offer_in)?;
        let Some(report) = report else {
            if code == 0 && !out.quiet {
                let said = if action == Action::Undo { "Sanitising taken back." } else { "Undo file destroyed." };
                out.line(said)?;
            }
            return Ok(code);
        };
        match self.output {
            Shown::Json => out.json(&*report)?,
            Shown::Human if out.quiet => {}
            Shown::Human => human::report(&serde_json::to_value(&*report).unwrap_or_default(), false, out)?,
        }
        if code == 0 && report.failed() {
            eprintln!("cowshed: {}: some of what was removed is still in its bytes", image.display());
            eprintln!("hint: a new image made of it with --to holds only what the disk holds");
            return Ok(1);
        }
        Ok(code)
    }
}
