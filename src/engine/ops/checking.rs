//! Checking as a job: it waits for jobs that write the image, holds it against other writers, and hands its report to whoever
//! started it. What a check is, is in [`super::check`].

use std::path::PathBuf;
use std::sync::Arc;

use super::check::check;
use super::plan::{Plan, PlanFile, Undo};
use super::{Operation, Outcome};
use crate::engine::error::{Context, Result};
use crate::engine::format::Format;
use crate::engine::format::check::{CheckReport, Severity, unit};
use crate::engine::io::file::FileDevice;
use crate::engine::io::gate::Gate;
use crate::engine::io::locks::{LockMode, lock};
use crate::engine::job::{Claim, JobContext};
use crate::engine::library::Stamp;

/// A check, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CheckSpec {
    /// The image.
    pub image: PathBuf,
    /// Its format; `None` probes.
    pub format: Option<Format>,
    /// Folders whose files may be opened when an image names them, besides the image's own.
    pub roots: Vec<PathBuf>,
}

/// What a check found, and of which state of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The image.
    pub image: PathBuf,
    /// Its format.
    pub format: Format,
    /// The file as it was when it was read.
    pub stamp: Stamp,
    /// What was found.
    pub report: CheckReport,
}

impl CheckSpec {
    /// What it does, in a line.
    pub fn title(&self) -> String {
        format!("check {}", self.image.display())
    }
    /// The arguments of the `cowshed` command that does the same.
    pub fn command(&self) -> Vec<String> {
        let mut out: Vec<String> = vec!["check".into()];
        if let Some(format) = self.format {
            out.extend(["-f".into(), format.name().into()]);
        }
        out.push(self.image.display().to_string());
        out
    }
}

/// The operation of a [`CheckSpec`].
pub struct Checking {
    spec: CheckSpec,
}

impl Checking {
    /// Touches nothing yet.
    pub fn new(spec: CheckSpec) -> Self {
        Checking { spec }
    }
}

/// What a report comes to, in a few words.
pub fn verdict(format: Format, report: &CheckReport) -> String {
    let word = |severity, n| match severity {
        Severity::Corruption => format!("{n} damaged"),
        Severity::Leak => format!("{n} {} lost", unit(format, n)),
        _ => format!("{n} not checked"),
    };
    let found = [Severity::Corruption, Severity::Leak, Severity::Unchecked].map(|s| (s, report.count(s)));
    let found: Vec<String> = found.into_iter().filter(|(_, n)| *n > 0).map(|(s, n)| word(s, n)).collect();
    if found.is_empty() { "nothing is wrong".into() } else { found.join(", ") }
}

impl Operation for Checking {
    fn claims(&self) -> Result<Vec<Claim>> {
        Ok(vec![Claim::read(&self.spec.image)])
    }

    fn plan(&self) -> Result<Plan> {
        let image = &self.spec.image;
        std::fs::metadata(image).path(image)?;
        Ok(Plan {
            title: self.spec.title(),
            reads: vec![PlanFile { path: image.clone(), what: "all its tables".into() }],
            undo: Undo::Possible("nothing is changed".into()),
            ..Plan::default()
        })
    }

    fn run(&self, _: &Plan, job: &JobContext) -> Result<Outcome> {
        let image = &self.spec.image;
        job.progress.set_phase("checking");
        job.checkpoint()?;
        let file = FileDevice::open(image)?;
        let _guard = lock(&file, LockMode::Read)?;
        let stamp = Stamp::of(&std::fs::metadata(image).path(image)?);
        let gate = self.spec.roots.iter().fold(Gate::around(image), |gate, root| gate.allow(root));
        let (format, report) = check(image, self.spec.format, Some(gate))?;
        let summary = verdict(format, &report);
        job.deliver(Arc::new(Checked { image: image.clone(), format, stamp, report }));
        job.checkpoint()?;
        Ok(Outcome { summary, made: Vec::new() })
    }
}
