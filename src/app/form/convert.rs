//! The form of a conversion: any image into any format that can be written, with that format's own options.

use std::path::{Path, PathBuf};

use super::Recipe;
use super::field::{Answers, Field, Role};
use super::options::{self, Beside};
use crate::app::model::Model;
use crate::engine::error::Result;
use crate::engine::format::Format;
use crate::engine::model::Snapshot;
use crate::engine::ops::JobSpec;
use crate::engine::ops::convert::{ConvertSpec, SPARSE};
use crate::engine::units::SECTOR;

/// The word for the disk as it is now.
const NOW: &str = "(now)";

/// What is known of the image when the form is opened.
#[derive(Debug, Clone)]
pub struct ConvertForm {
    source: PathBuf,
    format: Option<Format>,
    /// It stands on another image.
    overlay: bool,
    /// Names of its snapshots; `None` when it may have some whose names are not known.
    snapshots: Option<Vec<String>>,
    /// The snapshot that is proposed.
    at: Option<String>,
    beside: Beside,
    roots: Vec<PathBuf>,
    /// The format that is wanted, with options of it.
    wanted: Option<Wanted>,
}

/// A format with options, proposed.
type Wanted = (Format, &'static [(&'static str, &'static str)]);

impl ConvertForm {
    /// The same, proposing a format with options of it.
    pub fn towards(mut self, format: Format, options: &'static [(&'static str, &'static str)]) -> Self {
        self.wanted = Some((format, options));
        self
    }

    /// The form for `source`; files named inside images may be opened in `roots`.
    pub fn new(m: &Model, source: &Path, roots: Vec<PathBuf>) -> Self {
        let entry = m.library.data.at(source);
        let node = m.page.loaded().and_then(|d| d.nodes.first()).filter(|n| n.path == source);
        let count = entry.map(|e| e.facts.snapshots.unwrap_or(0));
        let snapshots = match (node, count) {
            (Some(n), _) => Some(n.description.snapshots.iter().map(|s| s.name.clone()).collect()),
            (None, Some(0)) => Some(Vec::new()),
            _ => None,
        };
        ConvertForm {
            source: source.to_path_buf(),
            format: entry.and_then(|e| e.format()).or(node.and_then(|n| n.format)),
            overlay: entry.is_some_and(|e| e.is_overlay()),
            snapshots,
            at: None,
            beside: Beside::of(m, source.parent().unwrap_or(Path::new("."))),
            roots,
            wanted: None,
        }
    }

    /// The form for `source` as it was at snapshot `i` of `list`.
    pub fn at_snapshot(m: &Model, source: &Path, list: &[Snapshot], i: usize, roots: Vec<PathBuf>) -> Self {
        // By their names, as long as these tell them apart.
        let names: Vec<String> = list.iter().map(|s| s.name.clone()).collect();
        let clear = |n: &String| *n != NOW && list.iter().filter(|s| s.name == *n || s.id == *n).count() == 1;
        let names = if names.iter().all(clear) { names } else { list.iter().map(|s| s.id.clone()).collect() };
        let at = names.get(i).cloned();
        ConvertForm { snapshots: Some(names), at, ..ConvertForm::new(m, source, roots) }
    }

    fn target_format(&self, a: &Answers<'_>) -> Format {
        options::chosen(a, "format", self.usual())
    }
    /// What people mostly want: out of qcow2 the plain bytes, into qcow2 everything else.
    fn usual(&self) -> Format {
        if let Some((format, _)) = self.wanted {
            return format;
        }
        if self.format == Some(Format::Qcow2) { Format::Raw } else { Format::Qcow2 }
    }
    fn snapshot(&self) -> Option<Field> {
        let doc = "read the disk as it was then, instead of as it is now (-l)";
        match &self.snapshots {
            Some(names) if names.is_empty() => None,
            Some(names) => {
                let words = std::iter::once(NOW.to_string()).chain(names.iter().cloned()).collect();
                let field = Field::choice("snapshot", "snapshot", doc, words);
                Some(match &self.at {
                    Some(name) => field.propose(name.clone()),
                    None => field,
                })
            }
            None => Some(Field::text("snapshot", "snapshot", doc)),
        }
    }
}

impl Recipe for ConvertForm {
    fn title(&self) -> String {
        format!("Convert {}", self.source.file_name().unwrap_or_default().to_string_lossy())
    }

    fn fields(&self, a: &Answers<'_>) -> Vec<Field> {
        let format = self.target_format(a);
        let caps = format.entry().caps;
        let stem = self.source.file_stem().unwrap_or_default().to_string_lossy();
        let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        let stem =
            match a.given("snapshot").or(self.at.as_deref()).filter(|_| a.field("snapshot").is_none_or(|f| f.value() != NOW)) {
                Some(s) => format!("{stem}-{}", s.chars().map(|c| if plain(c) { c } else { '-' }).take(64).collect::<String>()),
                None => stem.into_owned(),
            };
        let mut out = vec![
            Field::choice("format", "format", format.entry().title, options::writable()).default(self.usual().name()),
            Field::path(
                "target",
                "write to",
                "the new image; a relative path is beside the old one",
                &self.beside.folder,
                Role::New(vec![self.source.clone()]),
            )
            .propose(self.beside.free(&stem, format).to_string_lossy())
            .required(),
        ];
        out.extend(self.snapshot());
        if caps.backing {
            let doc = if self.overlay {
                "stand on this file and store only what differs (-B); without it the chain is flattened into one image"
            } else {
                "stand on this file and store only what differs (-B); without it the new image stands alone"
            };
            out.extend(options::backing(a, &self.beside, doc, None));
        }
        if caps.compression {
            let doc = match format {
                Format::Vmdk => "store the data compressed (-c): with the subformat streamOptimized",
                _ => "store the data compressed (-c): smaller, slower to make, and written again plainly when the guest writes",
            };
            out.push(Field::switch("compress", "compressed", doc, false));
        }
        out.extend([
            Field::switch("verify", "verify", "read the target back when it is complete, and compare", false).under("How"),
            Field::switch("checksum", "checksum", "write the target's SHA-256 beside it, as sha256sum does", false),
            Field::size("rate", "rate limit", "bytes per second at most, such as 50M; without it as fast as it goes (-r)"),
            Field::size("sparse", "sparse size", "zeros in a row that become a hole; 0 writes everything (-S)").default("4k"),
            Field::switch("salvage", "salvage", "leave zeros where the image cannot be read, and go on", false),
        ]);
        let wanted = self.wanted.filter(|(f, _)| *f == format).map_or(&[][..], |(_, o)| o);
        out.extend(options::fields(format).into_iter().map(|f| match wanted.iter().find(|(name, _)| *name == f.id) {
            Some((_, value)) => f.propose(*value),
            None => f,
        }));
        out
    }

    fn wrong(&self, a: &Answers<'_>) -> Vec<(&'static str, String)> {
        let mut out = options::wrong(a, self.target_format(a));
        if a.size("sparse").is_ok_and(|s| s.is_some_and(|s| !s.is_multiple_of(SECTOR))) {
            out.push(("sparse", "it must be a multiple of 512".into()));
        }
        if a.size("rate").is_ok_and(|r| r == Some(0)) {
            out.push(("rate", "nothing would ever be copied; leave it empty for no limit".into()));
        }
        out
    }

    fn spec(&self, a: &Answers<'_>) -> Result<JobSpec> {
        let format = self.target_format(a);
        let mut spec = ConvertSpec::new(&self.source, a.path("target").unwrap_or_default(), format);
        spec.options = options::given(a, format);
        spec.snapshot = a.given("snapshot").map(str::to_string);
        spec.backing = a.given("backing").map(str::to_string);
        spec.backing_format = options::backing_format(a)?;
        spec.compress = a.on("compress");
        spec.verify = a.on("verify");
        spec.checksum = a.on("checksum");
        spec.salvage = a.on("salvage");
        spec.rate = a.size("rate")?;
        spec.sparse = a.size("sparse")?.unwrap_or(SPARSE);
        spec.roots.clone_from(&self.roots);
        Ok(JobSpec::Convert(spec))
    }

    fn verb(&self) -> &'static str {
        "Convert"
    }
}
