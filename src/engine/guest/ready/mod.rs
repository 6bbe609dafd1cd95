//! Would a target take this image, and would the guest come up there? A verdict with the evidence for each requirement, what
//! would mend it, and the one action that does.
//!
//! One file per target over the requirements they share ([`shared`]). Everything is looked at once ([`Subject`]); a target then
//! only compares. Nothing is written, nothing is asked of a network.

mod azure;
mod ec2;
mod esxi;
mod hyperv;
pub mod inspector;
mod openstack;
mod proxmox;
mod shared;
mod subject;
mod virtualbox;

use std::path::Path;

use crate::engine::error::{Error, Result};
use crate::engine::format::Format;

pub use subject::Subject;

/// Where an image is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names are the things themselves
pub enum Target {
    OpenStack,
    Azure,
    Ec2,
    Esxi,
    HyperV,
    VirtualBox,
    Proxmox,
}

/// A row of the table of targets.
pub struct TargetEntry {
    /// Which.
    pub target: Target,
    /// Its name on the command line.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// What takes the image there.
    pub taker: &'static str,
    /// The format to make for it, with its options.
    pub make: (Format, &'static [(&'static str, &'static str)]),
    assess: fn(&Subject, &mut Readiness),
}

/// Every target.
pub static TARGETS: &[TargetEntry] =
    &[openstack::ENTRY, azure::ENTRY, ec2::ENTRY, esxi::ENTRY, hyperv::ENTRY, virtualbox::ENTRY, proxmox::ENTRY];

impl Target {
    /// Its row.
    pub fn entry(self) -> &'static TargetEntry {
        TARGETS.iter().find(|e| e.target == self).unwrap_or(&openstack::ENTRY)
    }
    /// The target called `name`, any case.
    ///
    /// Errors: there is none; the hint lists those there are.
    pub fn parse(name: &str) -> Result<Target> {
        let n = name.to_ascii_lowercase().replace('-', "");
        TARGETS.iter().find(|e| e.name == n).map(|e| e.target).ok_or_else(|| {
            let all: Vec<_> = TARGETS.iter().map(|e| e.name).collect();
            Error::usage(format!("there is no target '{name}'")).hint(format!("one of: {}", all.join(", ")))
        })
    }
}

/// Whether a requirement is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Met.
    Yes,
    /// Not met; the target refuses the image or the guest does not come up right.
    No,
    /// Not met, and the target takes it all the same.
    Advice,
    /// It could not be told.
    Unknown,
}

/// What mends a finding.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// A copy in the format the target wants; it stands alone, whatever the image stood on.
    Convert,
    /// Another virtual size, in bytes.
    Resize(u64),
    /// A check of the image, with repair.
    Check,
    /// Nothing that cowshed does: in words.
    ByHand(String),
}

/// What a requirement is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The image as the target takes it.
    Image,
    /// The guest in it, once it runs there.
    Guest,
}

/// One requirement, and how the image stands to it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What it is about.
    pub part: Part,
    /// The requirement, in a few words.
    pub what: &'static str,
    /// Whether it is met.
    pub answer: Answer,
    /// What was seen.
    pub evidence: String,
    /// The guest's file, or the part of the image, it was seen in; empty when the evidence says it.
    pub from: String,
    /// What would mend it.
    pub fix: Option<Remedy>,
}

/// A property to give the image at its target.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Property {
    /// Name.
    pub name: &'static str,
    /// Value; from the guest where the guest says it.
    pub value: String,
    /// Why.
    pub why: String,
}

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Readiness {
    /// For which target.
    pub target: Target,
    /// As which format it would be given to it.
    pub as_format: Format,
    /// Every requirement.
    pub findings: Vec<Finding>,
    /// Properties to give it there.
    pub properties: Vec<Property>,
}

impl Readiness {
    /// The verdict over all: no before could-not-tell before yes.
    pub fn answer(&self) -> Answer {
        let any = |a| self.findings.iter().any(|f| f.answer == a);
        if any(Answer::No) {
            Answer::No
        } else if any(Answer::Unknown) {
            Answer::Unknown
        } else {
            Answer::Yes
        }
    }

    /// The target takes the image, whatever becomes of the guest in it.
    pub fn accepted(&self) -> bool {
        !self.findings.iter().any(|f| f.part == Part::Image && f.answer == Answer::No)
    }

    /// Findings with this answer.
    pub fn count(&self, answer: Answer) -> usize {
        self.findings.iter().filter(|f| f.answer == answer).count()
    }

    /// The one action that mends the most, as the words of a command line after `cowshed`; `None` when cowshed has none.
    ///
    /// A copy mends every finding about format and layers at once, so it comes first; then the size; then a check.
    pub fn action(&self, image: &Path) -> Option<Vec<String>> {
        let fixes = |found: fn(&Remedy) -> bool| {
            let refused = self.findings.iter().filter(|f| f.answer == Answer::No);
            refused.filter_map(|f| f.fix.as_ref()).find(|r| found(r))
        };
        let name = image.display().to_string();
        let (format, options) = self.target.entry().make;
        if fixes(|r| *r == Remedy::Check).is_some() {
            return Some(vec!["check".into(), "-r".into(), "all".into(), name]);
        }
        if let Some(Remedy::Resize(size)) = fixes(|r| matches!(r, Remedy::Resize(_)))
            && fixes(|r| *r == Remedy::Convert).is_none()
        {
            return Some(vec!["resize".into(), name, size.to_string()]);
        }
        fixes(|r| *r == Remedy::Convert)?;
        let mut words = vec!["convert".into(), "-O".into(), format.name().to_string()];
        if !options.is_empty() {
            let all: Vec<_> = options.iter().map(|(k, v)| format!("{k}={v}")).collect();
            words.extend(["-o".into(), all.join(",")]);
        }
        let stem = image.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_else(|| "image".into());
        let out = image.with_file_name(format!("{stem}-{}.{}", self.target.entry().name, format.name()));
        words.extend([name, out.display().to_string()]);
        Some(words)
    }

    fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }
    fn property(&mut self, name: &'static str, value: impl Into<String>, why: impl Into<String>) {
        self.properties.push(Property { name, value: value.into(), why: why.into() });
    }
}

impl Finding {
    fn new(what: &'static str, answer: Answer, evidence: impl Into<String>) -> Finding {
        Finding { part: Part::Image, what, answer, evidence: evidence.into(), from: String::new(), fix: None }
    }
    fn yes(what: &'static str, evidence: impl Into<String>) -> Finding {
        Finding::new(what, Answer::Yes, evidence)
    }
    fn no(what: &'static str, evidence: impl Into<String>) -> Finding {
        Finding::new(what, Answer::No, evidence)
    }
    fn advice(what: &'static str, evidence: impl Into<String>) -> Finding {
        Finding::new(what, Answer::Advice, evidence)
    }
    fn unknown(what: &'static str, evidence: impl Into<String>) -> Finding {
        Finding::new(what, Answer::Unknown, evidence)
    }
    fn from(mut self, from: impl Into<String>) -> Finding {
        self.from = from.into();
        self
    }
    /// What mends it; kept only where there is something to mend.
    fn fix(mut self, remedy: Remedy) -> Finding {
        if self.answer != Answer::Yes {
            self.fix = Some(remedy);
        }
        self
    }
    fn by_hand(self, words: impl Into<String>) -> Finding {
        self.fix(Remedy::ByHand(words.into()))
    }
}

impl Remedy {
    /// In a few words.
    pub fn text(&self, target: Target) -> String {
        match self {
            Remedy::Convert => format!("convert a copy to {}", target.entry().make.0),
            Remedy::Resize(size) => format!("resize to {size} bytes"),
            Remedy::Check => "check and repair it".into(),
            Remedy::ByHand(words) => words.clone(),
        }
    }
}

/// Assesses `subject` for `target`.
pub fn assess(subject: &Subject, target: Target) -> Readiness {
    let mut out = Readiness { target, as_format: subject.declared, findings: Vec::new(), properties: Vec::new() };
    shared::image(subject, &mut out);
    (target.entry().assess)(subject, &mut out);
    out
}
