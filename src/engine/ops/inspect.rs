//! Looking at one image: its chain, everything it may be, and whether it is well.

use std::path::Path;

use crate::engine::chain::{Chain, OpenOptions};
use crate::engine::error::Result;
use crate::engine::format::probe::{Match, probe};
use crate::engine::io::locks::{LockState, state};

/// How an image is, as far as opening it and its chain tells (no check of its tables).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Nothing is wrong.
    Ok,
    /// It, or a layer below, was not closed properly or is in an odd state that can be tolerated.
    Warning,
    /// Something it stands on is missing, gated, changed or damaged: its content cannot be read.
    Broken,
    /// It says itself that it is damaged.
    Corrupt,
}

/// What `info` and an image's page show.
pub struct Inspection {
    /// The image and what it stands on.
    pub chain: Chain,
    /// Everything the file may be, surest first.
    pub matches: Vec<Match>,
    /// Who holds the image file now.
    pub lock: LockState,
    /// How it is.
    pub health: Health,
    /// What is wrong or odd, one sentence each, the worst first.
    pub problems: Vec<String>,
}

/// Opens the image at `path` and looks at it. A broken chain is no error, but a finding.
pub fn inspect(path: &Path, options: &OpenOptions) -> Result<Inspection> {
    let chain = Chain::open(path, options)?;
    let file = chain.layers.first().and_then(|l| l.files().into_iter().next());
    let lock = file.as_ref().and_then(|dev| dev.as_file()).map(state).unwrap_or_default();
    let matches = match &file {
        Some(dev) => probe(dev.as_ref())?,
        None => Vec::new(),
    };
    let (mut health, mut problems) = (Health::Ok, Vec::new());
    for (depth, node) in chain.nodes.iter().enumerate() {
        let about = |what: &str| if depth == 0 { what.to_string() } else { format!("{}: {what}", node.path.display()) };
        if node.description.corrupt {
            health = Health::Corrupt;
            problems.insert(0, about("the image is marked corrupt; check it"));
        }
        if let Some(error) = &node.error {
            problems.push(error.to_string());
        }
        if node.description.dirty {
            problems.push(about("it was not closed properly"));
        }
        problems.extend(node.warnings.iter().chain(&node.description.warnings).map(|w| about(w)));
    }
    if health == Health::Ok && chain.error().is_some() {
        health = Health::Broken;
    } else if health == Health::Ok && !problems.is_empty() {
        health = Health::Warning;
    }
    Ok(Inspection { chain, matches, lock, health, problems })
}
