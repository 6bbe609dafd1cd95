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
/// The fields of further raw files that are read after the first, at most; one more is asked for when the last is answered.
const JOINED: [&str; 8] = ["join-1", "join-2", "join-3", "join-4", "join-5", "join-6", "join-7", "join-8"];
/// Worker threads, at most.
const THREADS: u64 = 16;

/// What is known of the image when the form is opened.
#[derive(Debug, Clone)]
pub struct ConvertForm {
    source: PathBuf,
    format: Option<Format>,
    /// It stands on another image.
    overlay: bool,
    /// Names of its snapshots; `None` when it may have some whose names are not known.
    snapshots: Option<Vec<String>>,
    /// Whether its bitmaps were saved properly, of each; `None` when it may have some that were not read.
    bitmaps: Option<Vec<bool>>,
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
        let bitmaps = node.map(|n| n.description.bitmaps.iter().map(|b| !b.in_use).collect());
        ConvertForm {
            source: source.to_path_buf(),
            format: entry.and_then(|e| e.format()).or(node.and_then(|n| n.format)),
            bitmaps,
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
        options::chosen(a, "format", self.likely(a))
    }
    /// The format proposed: that of an existing target, where it is known, else what people mostly want.
    fn likely(&self, a: &Answers<'_>) -> Format {
        let existing = a.path("target").filter(|_| a.on("existing")).and_then(|p| self.beside.format(&p));
        existing.unwrap_or(self.usual())
    }
    /// What people mostly want: out of qcow2 the plain bytes, into qcow2 everything else.
    fn usual(&self) -> Format {
        if let Some((format, _)) = self.wanted {
            return format;
        }
        if self.format == Some(Format::Qcow2) { Format::Raw } else { Format::Qcow2 }
    }
    /// Further raw files: as many fields as were answered, and one.
    fn joined(&self, a: &Answers<'_>) -> Vec<Field> {
        if self.format != Some(Format::Raw) {
            return Vec::new();
        }
        let filled = JOINED.iter().take_while(|id| a.path(id).is_some()).count();
        let doc = "another raw file that the disk goes on with: several are joined end to end";
        let field = |id: &&'static str| Field::path(id, "and then", doc, &self.beside.folder, Role::Existing);
        JOINED.iter().take(filled + 1).map(field).collect()
    }
    /// The bitmaps of the source can be copied.
    fn has_bitmaps(&self, a: &Answers<'_>) -> bool {
        let both = self.format == Some(Format::Qcow2) && self.target_format(a) == Format::Qcow2;
        let old = a.given("compat").is_some_and(|c| matches!(c, "0.10" | "v2"));
        both && !old && a.given("snapshot").is_none() && self.bitmaps.as_ref().is_none_or(|b| !b.is_empty())
    }
    /// The fields of how it is done.
    fn how(&self, a: &Answers<'_>) -> Vec<Field> {
        let mut out = vec![Field::switch("verify", "verify", "read the target back when it is complete, and compare", false)];
        if !a.on("existing") {
            out.push(Field::switch("checksum", "checksum", "write the target's SHA-256 beside it, as sha256sum does", false));
        }
        let threads = "worker threads, 1 to 16; without it by the processors (-m). Writes go in any order where the format allows, as with -W";
        out.extend([
            Field::size("rate", "rate limit", "bytes per second at most, such as 50M; without it as fast as it goes (-r)"),
            Field::number("threads", "parallel", threads),
            Field::size("sparse", "sparse size", "zeros in a row that become a hole; 0 writes everything (-S)").default("4k"),
            Field::switch("salvage", "salvage", "leave zeros where the image cannot be read, and go on", false),
            Field::switch(
                "share",
                "though in use",
                "read it although another process is writing to it: the copy may be stale (-U)",
                false,
            ),
        ]);
        if self.has_bitmaps(a) {
            out.push(Field::switch("bitmaps", "bitmaps", "copy the dirty bitmaps too (--bitmaps)", false));
            let sound = self.bitmaps.as_ref().is_some_and(|b| b.iter().all(|sound| *sound));
            if a.on("bitmaps") && !sound {
                let doc = "leave out bitmaps that were not saved properly, instead of stopping (--skip-broken-bitmaps)";
                out.push(Field::switch("skip-broken", "skip broken ones", doc, false));
            }
        }
        if let Some(first) = out.first_mut() {
            first.section = Some("How".into());
        }
        out
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
        let existing = a.on("existing");
        let target = if existing {
            let doc = "the image that is there: its format, size and options stay, and what it holds is overwritten";
            Field::path("target", "write to", doc, &self.beside.folder, Role::Existing)
        } else {
            let joined = JOINED.iter().filter_map(|id| a.path(id));
            let read = std::iter::once(self.source.clone()).chain(joined).collect();
            let doc = "the new image; a relative path is beside the old one";
            let field = Field::path("target", "write to", doc, &self.beside.folder, Role::New(read));
            field.propose(self.beside.free(&stem, format).to_string_lossy())
        };
        let doc = "write into an image that is there already (-n)";
        let mut out = vec![
            Field::choice("format", "format", format.entry().title, options::writable()).default(self.likely(a).name()),
            target.required(),
            Field::switch("existing", "onto existing", doc, false),
        ];
        if existing {
            let doc = "it reads as zeros everywhere: zeros of the source are not written again (--target-is-zero)";
            out.push(Field::switch("target-is-zero", "it holds zeros", doc, false));
        }
        out.extend(self.joined(a));
        out.extend(self.snapshot());
        if caps.backing && !existing {
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
        out.extend(self.how(a));
        if existing {
            return out;
        }
        let wanted = self.wanted.filter(|(f, _)| *f == format).map_or(&[][..], |(_, o)| o);
        out.extend(options::fields(format).into_iter().map(|f| match wanted.iter().find(|(name, _)| *name == f.id) {
            Some((_, value)) => f.propose(*value),
            None => f,
        }));
        out
    }

    fn wrong(&self, a: &Answers<'_>) -> Vec<(&'static str, String)> {
        let mut out = if a.on("existing") { Vec::new() } else { options::wrong(a, self.target_format(a)) };
        let same = a
            .path("target")
            .filter(|t| a.on("existing") && (*t == self.source || JOINED.iter().any(|id| a.path(id).as_ref() == Some(t))));
        if same.is_some() {
            out.push(("target", "this is the image that is read".into()));
        }
        if a.text("threads").parse().is_ok_and(|n: u64| n == 0 || n > THREADS) {
            out.push(("threads", format!("between 1 and {THREADS}")));
        }
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
        spec.in_place = a.on("existing");
        spec.target_is_zero = a.on("target-is-zero");
        spec.options = if spec.in_place { Vec::new() } else { options::given(a, format) };
        let joined: Vec<PathBuf> = JOINED.iter().filter_map(|id| a.path(id)).collect();
        if !joined.is_empty() {
            // A piece of a disk may begin with anything: it is not to be taken for an image.
            spec.source_format = Some(Format::Raw);
            spec.sources.extend(joined);
        }
        spec.threads = a.given("threads").and_then(|n| n.parse().ok());
        spec.bitmaps = a.on("bitmaps");
        spec.skip_broken_bitmaps = a.on("skip-broken");
        spec.snapshot = a.given("snapshot").map(str::to_string);
        spec.backing = a.given("backing").map(str::to_string);
        spec.backing_format = options::backing_format(a)?;
        spec.compress = a.on("compress");
        spec.verify = a.on("verify");
        spec.checksum = a.on("checksum");
        spec.salvage = a.on("salvage");
        spec.force_share = a.on("share");
        spec.rate = a.size("rate")?;
        spec.sparse = a.size("sparse")?.unwrap_or(SPARSE);
        spec.roots.clone_from(&self.roots);
        Ok(JobSpec::Convert(spec))
    }

    fn verb(&self) -> &'static str {
        "Convert"
    }
}
