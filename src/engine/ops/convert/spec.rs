//! What a conversion is asked to do, as plain data.

use std::path::{Path, PathBuf};

use crate::engine::format::Format;

/// The zeros that must stand in a row to be left out, when nobody says otherwise (qemu-img's `-S 4k`).
pub const SPARSE: u64 = 4096;

/// A conversion: disks in, one new image out.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ConvertSpec {
    /// The images to read; several are joined end to end.
    pub sources: Vec<PathBuf>,
    /// The format of the sources; `None` probes.
    pub source_format: Option<Format>,
    /// Read this internal snapshot (id or name) instead of the present state.
    pub snapshot: Option<String>,
    /// The image to make.
    pub target: PathBuf,
    /// In which format.
    pub format: Format,
    /// `-o` options of that format.
    pub options: Vec<(String, String)>,
    /// Store the data compressed.
    pub compress: bool,
    /// Stand on this backing file, storing only what differs from it: the name to record.
    pub backing: Option<String>,
    /// The backing file's format; `None` probes.
    pub backing_format: Option<Format>,
    /// Zeros that must stand in a row to be left out, in bytes; 0 writes everything.
    pub sparse: u64,
    /// Write into an image that is there already, keeping its format, size and options.
    pub in_place: bool,
    /// The existing target reads as zeros.
    pub target_is_zero: bool,
    /// At most so many bytes per second.
    pub rate: Option<u64>,
    /// Worker threads; `None` chooses.
    pub threads: Option<usize>,
    /// Go on over unreadable places, leaving zeros there.
    pub salvage: bool,
    /// Copy persistent bitmaps (qcow2 to qcow2).
    pub bitmaps: bool,
    /// Leave out bitmaps that are inconsistent instead of failing.
    pub skip_broken_bitmaps: bool,
    /// Read the target back when it is complete and compare.
    pub verify: bool,
    /// Write the target's SHA-256 beside it, as `sha256sum` does.
    pub checksum: bool,
    /// Go on where an earlier run of the same conversion was durable.
    pub resume: bool,
    /// Read the source although another process may be writing to it.
    pub force_share: bool,
    /// Folders whose files may be opened when an image names them, besides the image's own.
    pub roots: Vec<PathBuf>,
    /// Open whatever file an image names.
    pub follow: bool,
}

impl ConvertSpec {
    /// A plain conversion of one image.
    pub fn new(source: impl Into<PathBuf>, target: impl Into<PathBuf>, format: Format) -> Self {
        ConvertSpec {
            sources: vec![source.into()],
            source_format: None,
            snapshot: None,
            target: target.into(),
            format,
            options: Vec::new(),
            compress: false,
            backing: None,
            backing_format: None,
            sparse: SPARSE,
            in_place: false,
            target_is_zero: false,
            rate: None,
            threads: None,
            salvage: false,
            bitmaps: false,
            skip_broken_bitmaps: false,
            verify: false,
            checksum: false,
            resume: false,
            force_share: false,
            roots: Vec::new(),
            follow: false,
        }
    }

    /// The same with absolute paths, so that it means the same from any folder.
    pub fn absolute(mut self) -> Self {
        let full = |p: &PathBuf| std::path::absolute(p).unwrap_or_else(|_| p.clone());
        self.sources = self.sources.iter().map(full).collect();
        self.roots = self.roots.iter().map(full).collect();
        self.target = full(&self.target);
        self
    }

    /// What it does, in a line.
    pub fn title(&self) -> String {
        let name = |p: &Path| p.file_name().unwrap_or(p.as_os_str()).to_string_lossy().into_owned();
        let mut from = self.sources.iter().map(|s| name(s)).collect::<Vec<_>>().join(" + ");
        if let Some(s) = &self.snapshot {
            from.push_str(&format!(" (snapshot {s})"));
        }
        format!("convert {from} to {} ({}{})", name(&self.target), self.format, if self.compress { ", compressed" } else { "" })
    }

    /// The arguments of the `cowshed` command that does the same.
    pub fn command(&self) -> Vec<String> {
        let mut out: Vec<String> = vec!["convert".into()];
        let mut opt = |flag: &str, value: Option<String>| {
            out.push(flag.into());
            out.extend(value);
        };
        if let Some(f) = self.source_format {
            opt("-f", Some(f.name().into()));
        }
        opt("-O", Some(self.format.name().into()));
        if !self.options.is_empty() {
            opt("-o", Some(crate::engine::ops::options_argument(&self.options)));
        }
        if let Some(b) = &self.backing {
            opt("-B", Some(b.clone()));
        }
        if let Some(f) = self.backing_format {
            opt("-F", Some(f.name().into()));
        }
        if let Some(s) = &self.snapshot {
            opt("-l", Some(s.clone()));
        }
        if self.sparse != SPARSE {
            opt("-S", Some(self.sparse.to_string()));
        }
        if let Some(r) = self.rate {
            opt("-r", Some(r.to_string()));
        }
        if let Some(m) = self.threads {
            opt("-m", Some(m.to_string()));
        }
        for (on, flag) in [
            (self.compress, "-c"),
            (self.in_place, "-n"),
            (self.target_is_zero, "--target-is-zero"),
            (self.salvage, "--salvage"),
            (self.bitmaps, "--bitmaps"),
            (self.skip_broken_bitmaps, "--skip-broken-bitmaps"),
            (self.verify, "--verify"),
            (self.checksum, "--checksum"),
            (self.resume, "--resume"),
            (self.force_share, "-U"),
            (self.follow, "--follow"),
        ] {
            if on {
                opt(flag, None);
            }
        }
        out.extend(self.sources.iter().chain([&self.target]).map(|p| p.display().to_string()));
        out
    }
}
