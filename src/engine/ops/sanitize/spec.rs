//! What is asked of a sanitising, as plain data.

use std::path::PathBuf;

use super::undo;
use crate::engine::chain::{Chain, OpenOptions};
use crate::engine::error::Result;
use crate::engine::format::Format;
use crate::engine::guest::sanitize::Selection;
use crate::engine::io::gate::Gate;
use crate::engine::ops::{absolute, edit as open};

/// What to do with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Sanitise it.
    #[default]
    Sanitize,
    /// Take the last sanitising back.
    Undo,
    /// Destroy the undo file, which holds what was removed.
    DestroyUndo,
}

/// A sanitising, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SanitizeSpec {
    /// The image.
    pub image: PathBuf,
    /// Its format; `None` probes.
    pub format: Option<Format>,
    /// What to do.
    pub action: Action,
    /// Which operations.
    pub selection: Selection,
    /// Keep the undo file when it is done; without it nothing can be taken back.
    pub keep_undo: bool,
    /// Where the undo file is; `None`: beside the image.
    pub undo_file: Option<PathBuf>,
    /// Make a new image instead of changing this one.
    pub target: Option<PathBuf>,
    /// The new image's format; `None`: that of the source.
    pub target_format: Option<Format>,
    /// Replay a journal that the guest left (ext).
    pub replay: bool,
    /// Folders whose files may be opened when an image names them, besides the image's own.
    pub roots: Vec<PathBuf>,
    /// Open whatever file an image names.
    pub follow: bool,
}

impl SanitizeSpec {
    /// The default operations, in place.
    pub fn new(image: impl Into<PathBuf>) -> Self {
        SanitizeSpec {
            image: image.into(),
            format: None,
            action: Action::Sanitize,
            selection: Selection::default(),
            keep_undo: true,
            undo_file: None,
            target: None,
            target_format: None,
            replay: false,
            roots: Vec::new(),
            follow: false,
        }
    }

    /// What it does, in a line.
    pub fn title(&self) -> String {
        let image = self.image.display();
        match (self.action, &self.target) {
            (Action::Undo, _) => format!("take back the sanitising of {image}"),
            (Action::DestroyUndo, _) => format!("destroy the undo file of {image}"),
            (Action::Sanitize, Some(to)) => format!("sanitize {image} into {}", to.display()),
            (Action::Sanitize, None) => format!("sanitize {image}"),
        }
    }

    /// The arguments of the `cowshed` command that does the same.
    pub fn command(&self) -> Vec<String> {
        let mut out: Vec<String> = vec!["sanitize".into()];
        let mut opt = |flag: &str, value: Option<String>| {
            out.push(flag.into());
            out.extend(value);
        };
        if let Some(f) = self.format {
            opt("-f", Some(f.name().into()));
        }
        match self.action {
            Action::Undo => opt("--undo", None),
            Action::DestroyUndo => opt("--destroy-undo", None),
            Action::Sanitize => {
                if let Some(p) = &self.selection.profile {
                    opt("--profile", Some(p.clone()));
                }
                for (flag, ids) in [("--enable", &self.selection.enable), ("--disable", &self.selection.disable)] {
                    if !ids.is_empty() {
                        opt(flag, Some(ids.join(",")));
                    }
                }
                if !self.keep_undo && self.target.is_none() {
                    opt("--no-undo", None);
                }
                if let Some(to) = &self.target {
                    opt("--to", Some(to.display().to_string()));
                }
                if let Some(f) = self.target_format {
                    opt("-O", Some(f.name().into()));
                }
                if self.replay {
                    opt("--replay", None);
                }
            }
        }
        if let Some(f) = &self.undo_file {
            opt("--undo-file", Some(f.display().to_string()));
        }
        if self.follow {
            opt("--follow", None);
        }
        out.push(self.image.display().to_string());
        out
    }

    /// The same with absolute paths.
    pub fn absolute(mut self) -> Self {
        self.image = absolute(self.image);
        self.target = self.target.map(absolute);
        self.undo_file = self.undo_file.map(absolute);
        self.roots = self.roots.into_iter().map(absolute).collect();
        self
    }

    pub(super) fn gate(&self) -> Gate {
        self.roots.iter().fold(Gate::around(&self.image), |g, r| g.allow(r)).follow(self.follow)
    }

    /// Where the undo file is.
    pub fn undo_path(&self) -> PathBuf {
        self.undo_file.clone().unwrap_or_else(|| undo::beside(&self.image))
    }

    pub(super) fn chain(&self) -> Result<Chain> {
        Chain::open(&self.image, &OpenOptions { format: self.open_as()?, gate: Some(self.gate()), ..OpenOptions::default() })
    }

    /// The format it is opened as.
    pub(super) fn open_as(&self) -> Result<Option<Format>> {
        open::bare_is_raw(&self.image, self.format)
    }
}
