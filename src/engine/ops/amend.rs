//! Amend: other options for an image that is there. Only qcow2 has any.

use std::path::PathBuf;
use std::sync::Arc;

use super::plan::{Plan, PlanFile, Undo};
use super::{Operation, Outcome, edit, options_argument};
use crate::engine::error::{Context, Error, Result};
use crate::engine::format::Format;
use crate::engine::format::probe::{best, probe};
use crate::engine::format::qcow2::amend::{Amendment, OPTIONS};
use crate::engine::format::qcow2::extensions::read_head;
use crate::engine::format::write::{CreateSpec, OptionSpec};
use crate::engine::io::Device;
use crate::engine::io::file::FileDevice;
use crate::engine::io::gate::Gate;
use crate::engine::job::{Claim, JobContext};
use crate::engine::units::{SECTOR, round_up};

/// What to do, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AmendSpec {
    /// The image.
    pub image: PathBuf,
    /// Its format; `None` probes.
    pub format: Option<Format>,
    /// Names and values, as `-o` has them.
    pub options: Vec<(String, String)>,
    /// Open whatever file the image names.
    pub follow: bool,
}

/// The options an image of `format` can be amended in.
///
/// Errors: `Unsupported`, there are none.
pub fn options(format: Format) -> Result<&'static [OptionSpec]> {
    match format {
        Format::Qcow2 => Ok(OPTIONS),
        _ => Err(Error::unsupported(format!("{format} images have no options that could be amended"))),
    }
}

impl AmendSpec {
    /// What it does, in a line.
    pub fn title(&self) -> String {
        format!("amend {} ({})", self.image.display(), options_argument(&self.options))
    }

    /// The arguments of the `cowshed` command that does the same.
    pub fn command(&self) -> Vec<String> {
        let mut out: Vec<String> = vec!["amend".into()];
        if let Some(format) = self.format {
            out.extend(["-f".into(), format.name().into()]);
        }
        out.extend(["-o".into(), options_argument(&self.options), self.image.display().to_string()]);
        out
    }

    fn gate(&self) -> Gate {
        Gate::around(&self.image).follow(self.follow)
    }

    /// The request as it stands for the image on `dev`, and the virtual size wanted.
    fn read(&self, dev: &Device) -> Result<(Amendment, Option<u64>)> {
        let format = match self.format {
            Some(f) => f,
            None => best(&probe(dev.as_ref())?),
        };
        options(format)?;
        let spec = CreateSpec { options: self.options.clone(), ..CreateSpec::default() };
        let amendment = Amendment::new(dev, &spec)?;
        let size = match spec.option("size") {
            None => None,
            Some(_) => {
                let size = round_up(spec.bytes("size", 0)?, SECTOR).filter(|n| *n <= i64::MAX as u64);
                Some(size.ok_or_else(|| Error::usage("the size is too large"))?)
            }
        };
        let now = read_head(dev)?.0.size;
        Ok((amendment, size.filter(|s| *s != now)))
    }

    fn resize(&self, size: u64) -> Result<()> {
        edit::open(&self.image, Some(Format::Qcow2), &self.gate())?.writer.resize(size)
    }
}

/// The operation of an [`AmendSpec`].
pub struct Amend {
    spec: AmendSpec,
}

impl Amend {
    /// Touches nothing yet.
    pub fn new(spec: AmendSpec) -> Self {
        Amend { spec }
    }
}

impl Operation for Amend {
    fn claims(&self) -> Result<Vec<Claim>> {
        Ok(vec![Claim::write(&self.spec.image)])
    }

    fn plan(&self) -> Result<Plan> {
        let spec = &self.spec;
        edit::refuse_in_use(&spec.image)?;
        let dev: Device = Arc::new(FileDevice::open(&spec.image)?);
        let (amendment, size) = spec.read(&dev).op("amend").path(&spec.image)?;
        let now = read_head(&dev)?.0.size;
        let mut plan = Plan {
            title: spec.title(),
            writes: vec![PlanFile { path: spec.image.clone(), what: "qcow2 image, changed in place".into() }],
            steps: amendment.steps.clone(),
            undo: Undo::Possible("amend it back".into()),
            ..Plan::default()
        };
        if let Some(size) = size {
            plan.steps.push(format!("virtual size {now} bytes, then {size}"));
            if size < now {
                plan.losses.push(format!("what lies beyond byte {size} of the disk"));
                plan.undo = Undo::Impossible("what lies beyond the new end is lost".into());
            }
        }
        if plan.steps.is_empty() {
            plan.steps.push("nothing changes: it is so already".into());
        }
        Ok(plan)
    }

    fn run(&self, _: &Plan, job: &JobContext) -> Result<Outcome> {
        let spec = &self.spec;
        let (dev, guard) = edit::hold(&spec.image)?;
        let reader: Device = dev.clone();
        let (amendment, size) = spec.read(&reader).op("amend").path(&spec.image)?;
        let down = amendment.is_downgrade();
        let tick = |_: u64, _: u64| job.stop_if_asked();
        let Some(size) = size else {
            amendment.apply(&dev, &tick).op("amend").path(&spec.image)?;
            return Ok(Outcome { summary: format!("{} is amended", spec.image.display()), made: Vec::new() });
        };
        // Version 3 keeps the size of each snapshot, so the size changes while the image has that version.
        if !down {
            amendment.apply(&dev, &tick).op("amend").path(&spec.image)?;
            drop((dev, reader, guard));
            spec.resize(size)?;
        } else {
            drop((dev, reader, guard));
            spec.resize(size)?;
            let (dev, _guard) = edit::hold(&spec.image)?;
            let reader: Device = dev.clone();
            spec.read(&reader)?.0.apply(&dev, &tick).op("amend").path(&spec.image)?;
        }
        Ok(Outcome { summary: format!("{} is amended, {size} bytes", spec.image.display()), made: Vec::new() })
    }
}
