//! `cowshed info`: what an image is, what it stands on, and whether it is well.

pub(super) mod human;
pub(super) mod json;

use std::path::PathBuf;

use super::out::{Format, Out};
use super::source::Source;
use super::{Failure, Verb, names};
use crate::engine::inspect;

/// Show what an image is, what it stands on and what it holds
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cowshed info disk.qcow2\n  \
    cowshed info --backing-chain --output json overlay.qcow2\n  \
    cowshed info -U running-vm.qcow2")]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,

    /// Also show every image it stands on
    #[arg(short, long)]
    backing_chain: bool,

    /// For people, or for programs with qemu-img's keys
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Human)]
    output: Format,

    /// The image
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> Result<u8, Failure> {
        let found = inspect(&self.image, &self.source.options(&self.image)?)?;
        let names = names::chain(&self.image, &found.chain.nodes);
        let count = if self.backing_chain { found.chain.layers.len() } else { 1 };
        match self.output {
            Format::Json => {
                let mut all: Vec<_> = (0..count).map(|depth| json::node(&found, depth, &names)).collect();
                match all.pop() {
                    Some(only) if !self.backing_chain => out.json(&only)?,
                    last => out.json(&all.into_iter().chain(last).collect::<Vec<_>>())?,
                }
            }
            Format::Human => {
                for depth in 0..count {
                    if depth > 0 {
                        out.line("")?;
                    }
                    human::node(out, &found, depth, &names)?;
                }
            }
        }
        // Who asked for the whole chain and did not get it is told so; a look at the image alone has succeeded.
        match found.chain.error() {
            Some(e) if self.backing_chain => Err(e.clone().into()),
            _ => Ok(0),
        }
    }
}
