//! The file a new image is to stand on (`-b`, `-B`): found from the new image's folder, opened, and described as the format
//! records it. What is read of it is the caller's.

use std::path::{Path, PathBuf};

use crate::engine::chain::{Chain, OpenOptions};
use crate::engine::error::{Context, Error, Result};
use crate::engine::format::Format;
use crate::engine::format::write::NewBacking;
use crate::engine::io::gate::Gate;

/// What is asked for.
pub(super) struct Wanted<'a> {
    /// The verb, for what is said when it fails.
    pub(super) verb: &'a str,
    /// The image to make, and its format.
    pub(super) target: &'a Path,
    pub(super) child: Format,
    /// The name to record, relative to the new image.
    pub(super) name: &'a str,
    /// The backing file's format, as a person gave it.
    pub(super) format: Option<Format>,
    /// Folders whose files may be opened when the backing file names them, besides its own.
    pub(super) roots: &'a [PathBuf],
    /// Open whatever file the backing file names.
    pub(super) follow: bool,
}

impl Wanted<'_> {
    /// Where the name points.
    pub(super) fn path(&self) -> PathBuf {
        super::convert::folder(self.target).join(self.name.strip_prefix("file:").unwrap_or(self.name))
    }

    /// Refuses a format that stands on nothing.
    pub(super) fn check(&self) -> Result<()> {
        if self.child.entry().caps.backing {
            return Ok(());
        }
        Err(Error::usage(format!("{} images cannot stand on another", self.child))
            .op(self.verb)
            .hint("qcow2, vmdk, vdi, vhd, vhdx, qcow and cow can"))
    }

    /// Opens it: its chain, and what to record. [`NewBacking::disk`] is left to the caller.
    pub(super) fn open(&self) -> Result<(Chain, NewBacking)> {
        self.check()?;
        // Named by the person, not by an image: the gate is for what the file in turn refers to.
        let path = self.path();
        let gate = self.roots.iter().fold(Gate::around(&path), |g, r| g.allow(r)).follow(self.follow);
        let options = OpenOptions { format: self.format, gate: Some(gate), ..OpenOptions::default() };
        let chain = Chain::open(&path, &options).op("open the backing file")?;
        let (Some(node), Some(layer)) = (chain.nodes.first(), chain.layers.first()) else {
            return Err(Error::usage("the backing file is no image").path(&path));
        };
        let format = layer.format();
        // Where the child records a format, a guess would be believed ever after: what a guest wrote could pass for another format.
        if self.format.is_none() && matches!(self.child, Format::Qcow2 | Format::Qcow) {
            return Err(Error::usage("the format of the backing file is not given")
                .op(self.verb)
                .path(self.target)
                .hint(format!("it looks like {format}: if that is right, add -F {}", format.driver())));
        }
        let identity = node.description.identity.clone();
        let backing = NewBacking { name: self.name.into(), format, size: layer.size(), identity, path, disk: None };
        Ok((chain, backing))
    }
}
