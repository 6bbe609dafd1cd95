//! Create: a new, empty image, by itself or standing on another.

use std::path::PathBuf;
use std::sync::Arc;

use super::dependents;
use super::edit::{self, InPlace};
use super::plan::{Estimate, Plan, PlanFile, Space, Undo};
use super::stage::Stage;
use super::{Operation, Outcome, backing};
use crate::engine::error::{Context, Error, Result};
use crate::engine::format::Format;
use crate::engine::format::write::{Below, CreateSpec, NewBacking, OptionKind, OptionSpec};
use crate::engine::io::file::FileId;
use crate::engine::job::{Claim, JobContext};
use crate::engine::units::{MIB, SECTOR, parse_size, round_up};

/// The options of every new image, whatever its format: [`ImageSpec`] has a field for each.
pub const COMMON_OPTIONS: &[OptionSpec] = &[
    OptionSpec { name: "size", doc: "Virtual disk size", kind: OptionKind::Size, default: "" },
    OptionSpec { name: "backing_file", doc: "File name of a base image", kind: OptionKind::Text, default: "" },
    OptionSpec { name: "backing_fmt", doc: "Image format of the base image", kind: OptionKind::Text, default: "" },
];

/// What to make, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ImageSpec {
    /// The image to make.
    pub target: PathBuf,
    /// In which format.
    pub format: Format,
    /// `-o` options of that format; `size`, `backing_file` and `backing_fmt` are taken for the fields below.
    pub options: Vec<(String, String)>,
    /// Virtual size in bytes; `None` is that of the backing file.
    pub size: Option<u64>,
    /// What it stands on: the name to record, relative to the new image.
    pub backing: Option<String>,
    /// The backing file's format.
    pub backing_format: Option<Format>,
    /// Record the backing file without looking at it.
    pub unchecked: bool,
    /// Folders whose files may be opened when the backing file names them, besides its own.
    pub roots: Vec<PathBuf>,
    /// Open whatever file the backing file names.
    pub follow: bool,
}

impl ImageSpec {
    /// A plain image of `size` bytes.
    pub fn new(target: impl Into<PathBuf>, format: Format, size: Option<u64>) -> Self {
        ImageSpec {
            target: target.into(),
            format,
            options: Vec::new(),
            size,
            backing: None,
            backing_format: None,
            unchecked: false,
            roots: Vec::new(),
            follow: false,
        }
    }

    /// What it does, in a line.
    pub fn title(&self) -> String {
        format!("create {} image {}", self.format, self.target.display())
    }

    /// The arguments of the `cowshed` command that does the same.
    pub fn command(&self) -> Vec<String> {
        let mut out: Vec<String> = vec!["create".into(), "-f".into(), self.format.name().into()];
        if !self.options.is_empty() {
            out.extend(["-o".into(), super::options_argument(&self.options)]);
        }
        if let Some(backing) = &self.backing {
            out.extend(["-b".into(), backing.clone()]);
        }
        if let Some(format) = self.backing_format {
            out.extend(["-F".into(), format.name().into()]);
        }
        out.extend([(self.unchecked, "-u"), (self.follow, "--follow")].iter().filter(|f| f.0).map(|f| f.1.to_string()));
        out.push(self.target.display().to_string());
        out.extend(self.size.map(|s| s.to_string()));
        out
    }

    /// The options that mean a field, put there.
    fn settled(&self) -> Result<ImageSpec> {
        let mut out = ImageSpec { options: Vec::new(), ..self.clone() };
        for (name, value) in &self.options {
            match name.as_str() {
                "size" if out.size.is_none() => out.size = Some(parse_size(value)?),
                "backing_file" if out.backing.is_none() => out.backing = Some(value.clone()),
                "backing_fmt" if out.backing_format.is_none() => out.backing_format = Some(Format::parse(value)?),
                "size" | "backing_file" | "backing_fmt" => {
                    return Err(Error::usage(format!("-o {name} is given twice, or as a flag too")).op("create"));
                }
                _ => out.options.push((name.clone(), value.clone())),
            }
        }
        Ok(out)
    }
}

/// What the format's own create is told, and the files it must not replace.
struct Wanted {
    spec: CreateSpec,
    protected: Vec<FileId>,
    warnings: Vec<String>,
}

/// The operation of an [`ImageSpec`].
pub struct Create {
    spec: ImageSpec,
}

impl Create {
    /// Touches nothing yet.
    pub fn new(spec: ImageSpec) -> Self {
        Create { spec }
    }

    fn wanted(&self) -> Result<Wanted> {
        let image = self.spec.settled()?;
        let (mut protected, mut warnings) = (Vec::new(), Vec::new());
        let backing = match &image.backing {
            None => None,
            Some(name) => Some(backing(&image, name, &mut protected, &mut warnings)?),
        };
        let size = image.size.or(backing.as_ref().map(|b| b.size)).ok_or_else(|| {
            Error::usage("the size is missing")
                .op("create")
                .path(&image.target)
                .hint("give a size such as 10G, or a backing file")
        })?;
        let size = round_up(size, SECTOR).ok_or_else(|| Error::usage("the size is too large").op("create"))?;
        let spec = CreateSpec {
            size,
            options: image.options,
            backing,
            file_name: image.target.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        };
        spec.check(image.format, image.format.entry().options)?;
        Ok(Wanted { spec, protected, warnings })
    }
}

/// Looks at the backing file `name` of `image`, or takes it unseen.
fn backing(image: &ImageSpec, name: &str, protected: &mut Vec<FileId>, warnings: &mut Vec<String>) -> Result<NewBacking> {
    let wanted = backing::Wanted {
        verb: "create",
        target: &image.target,
        child: image.format,
        name,
        format: image.backing_format,
        roots: &image.roots,
        follow: image.follow,
    };
    wanted.check()?;
    if image.unchecked {
        let size = image.size.ok_or_else(|| Error::usage("with -u the size must be given").op("create").path(&image.target))?;
        let format = image.backing_format.unwrap_or(image.format);
        let path = wanted.path();
        return Ok(NewBacking { name: name.into(), path, format, size, identity: Default::default(), disk: None });
    }
    let (chain, backing) = wanted.open()?;
    for below in &chain.nodes {
        if let Ok(meta) = std::fs::metadata(&below.path) {
            protected.push(FileId::of(&meta));
        }
    }
    let disk = match chain.disk() {
        Ok(disk) => Some(Below(Arc::new(disk))),
        Err(e) => {
            warnings.push(format!("the backing file cannot be read through: {e}"));
            None
        }
    };
    Ok(NewBacking { disk, ..backing })
}

impl Operation for Create {
    fn claims(&self) -> Result<Vec<Claim>> {
        let wanted = self.wanted()?;
        let reads = wanted.spec.backing.iter().filter(|b| b.disk.is_some()).map(|b| Claim::read(&b.path));
        Ok(reads.chain([Claim::write(&self.spec.target)]).collect())
    }

    fn plan(&self) -> Result<Plan> {
        let Wanted { spec, warnings, .. } = self.wanted()?;
        super::rehearse::rehearse(self.spec.format, &spec).op("create").path(&self.spec.target)?;
        let target = &self.spec.target;
        edit::refuse_in_use(target)?;
        let losses = dependents::losing(target, &self.spec.roots)?;
        let reserves = matches!(spec.option("preallocation"), Some("full" | "falloc"))
            || spec.option("subformat").is_some_and(|s| s == "fixed" || s.ends_with("Flat"))
            || spec.switch("static", false).unwrap_or(false);
        let needed = if reserves { spec.size.saturating_add(MIB) } else { MIB };
        let mut plan = Plan {
            title: self.spec.title(),
            steps: vec![format!("virtual size {} bytes", spec.size)],
            write_bytes: Estimate::exact(needed),
            writes: vec![PlanFile { path: target.clone(), what: format!("new {} image", self.spec.format) }],
            undo: Undo::DeleteResult,
            warnings,
            losses,
            ..Plan::default()
        };
        if let Some(b) = &spec.backing {
            plan.reads.push(PlanFile { path: b.path.clone(), what: format!("{} image to stand on, never written", b.format) });
        }
        if target.exists() {
            plan.undo = Undo::Impossible("what the target holds now is replaced".into());
            plan.warnings.push(format!("{} is there already and will be replaced", target.display()));
        }
        if edit::is_device(target) {
            plan.space = Some(edit::device_space(target, self.spec.format, spec.size, plan.write_bytes)?);
        } else {
            let on = super::convert::folder(target);
            let free = super::stage::room(&on)?;
            plan.space = Some(Space { on, needed: Estimate::exact(needed), free });
        }
        Ok(plan)
    }

    fn run(&self, _: &Plan, job: &JobContext) -> Result<Outcome> {
        let Wanted { spec, protected, .. } = self.wanted()?;
        let target = &self.spec.target;
        let create = self.spec.format.entry().create.ok_or_else(|| {
            Error::unsupported(format!("cowshed does not make {} images", self.spec.format)).hint("see `cowshed formats`")
        })?;
        let made = if edit::is_device(target) {
            let (dev, _guard) = edit::hold(target)?;
            create(&spec, &InPlace(dev)).path(target)?.finish()?;
            vec![target.clone()]
        } else {
            edit::refuse_in_use(target)?;
            let stage = Stage::new(target, protected)?;
            create(&spec, &stage).path(target)?.finish()?;
            job.finishing()?;
            stage.commit()?
        };
        Ok(Outcome { summary: format!("{} is made, {} bytes", target.display(), spec.size), made })
    }
}
