//! `cowshed chain`: layers taken out of the middle of a chain, and put in.

use std::path::PathBuf;

use super::job::JobArgs;
use super::out::Out;
use super::{Failure, Verb, delete};
use crate::engine::ops::JobSpec;
use crate::engine::ops::layer::{LayerAction, LayerSpec};

/// Take a layer out of a chain, or put one in; what a guest sees stays the same
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cowshed chain remove middle.qcow2\n  \
    cowshed chain remove --dry-run middle.qcow2\n  \
    cowshed chain insert new-layer.qcow2 overlay.qcow2")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Copy what LAYER holds into each image that stands on it, then delete it
    Remove {
        /// Delete its file for good instead of moving it to the trash
        #[arg(long)]
        forever: bool,

        /// Look for images that stand on it in this folder too
        #[arg(long, value_name = "FOLDER")]
        library: Vec<PathBuf>,

        #[command(flatten)]
        job: JobArgs,

        /// The layer to take out
        #[arg(value_name = "LAYER")]
        layer: PathBuf,
    },
    /// Make a new, empty overlay NEW on what IMAGE stands on, and let IMAGE stand on NEW
    Insert {
        #[command(flatten)]
        job: JobArgs,

        /// The file to make
        #[arg(value_name = "NEW")]
        new: PathBuf,

        /// The image to put it below
        #[arg(value_name = "IMAGE")]
        image: PathBuf,
    },
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> std::result::Result<u8, Failure> {
        match self.action {
            Action::Remove { forever, library, job, layer } => {
                let trash = if forever { None } else { Some(delete::home_trash()?) };
                let spec = LayerSpec { image: layer, action: LayerAction::Remove { trash }, roots: library };
                job.run(JobSpec::Layer(spec), out)
            }
            Action::Insert { job, new, image } => {
                job.run(JobSpec::Layer(LayerSpec { image, action: LayerAction::Insert { new }, roots: Vec::new() }), out)
            }
        }
    }
}
