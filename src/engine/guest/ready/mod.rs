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
use crate::engine::guest::sanitize::PROFILES;

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
    /// The profile of sanitising that is made for it.
    pub fn profile(self) -> Option<&'static str> {
        PROFILES.iter().map(|p| p.name).find(|p| *p == self.entry().name)
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

/// The one action that mends the most for a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Check and repair the image.
    Check,
    /// Convert a copy into the target's format.
    Convert,
    /// Give it another virtual size, in bytes.
    Resize(u64),
    /// Sanitise its guest.
    Sanitize {
        /// Operations that mend what stands in the way.
        operations: Vec<&'static str>,
        /// Into a new image of this format, which mends what the format has in the way.
        to: Option<Format>,
    },
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
    /// The sanitise operation of this id.
    Sanitize(&'static str),
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

    /// The one action that mends the most; `None` when cowshed has none.
    ///
    /// A damaged image is mended before anything else. A copy mends every finding about format and layers at once, so it comes
    /// next, sanitised on the way where the target wants no options that sanitising does not have; then the size; then the guest.
    /// Where nothing stands in the way, what is only advised is offered.
    pub fn next(&self) -> Option<Next> {
        let all = |answer: Answer| self.findings.iter().filter(move |f| f.answer == answer).filter_map(|f| f.fix.as_ref());
        let refused = || all(Answer::No);
        let operations = |answer: Answer| -> Vec<&'static str> {
            let id = |r: &Remedy| if let Remedy::Sanitize(id) = r { Some(*id) } else { None };
            all(answer).filter_map(id).collect()
        };
        let (format, options) = self.target.entry().make;
        let must = operations(Answer::No);
        if refused().any(|r| *r == Remedy::Check) {
            return Some(Next::Check);
        }
        if refused().any(|r| *r == Remedy::Convert) {
            let both = !must.is_empty() && options.is_empty();
            return Some(if both { Next::Sanitize { operations: must, to: Some(format) } } else { Next::Convert });
        }
        let size = |r: &Remedy| if let Remedy::Resize(size) = r { Some(*size) } else { None };
        if let Some(size) = refused().find_map(size) {
            return Some(Next::Resize(size));
        }
        let operations = if must.is_empty() { operations(Answer::Advice) } else { must };
        (!operations.is_empty()).then_some(Next::Sanitize { operations, to: None })
    }

    /// The same as the words of a command line after `cowshed`.
    pub fn action(&self, image: &Path) -> Option<Vec<String>> {
        let entry = self.target.entry();
        let name = image.display().to_string();
        let stem = image.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_else(|| "image".into());
        let new = |format: Format| image.with_file_name(format!("{stem}-{}.{}", entry.name, format.name())).display().to_string();
        let mut words: Vec<String> = Vec::new();
        match self.next()? {
            Next::Check => words.extend(["check".into(), "-r".into(), "all".into(), name]),
            Next::Resize(size) => words.extend(["resize".into(), name, size.to_string()]),
            Next::Convert => {
                let (format, options) = entry.make;
                words.extend(["convert".into(), "-O".into(), format.name().to_string()]);
                if !options.is_empty() {
                    let all: Vec<_> = options.iter().map(|(k, v)| format!("{k}={v}")).collect();
                    words.extend(["-o".into(), all.join(",")]);
                }
                words.extend([name, new(format)]);
            }
            Next::Sanitize { operations, to } => {
                words.push("sanitize".into());
                if let Some(profile) = self.target.profile() {
                    words.extend(["--profile".into(), profile.into()]);
                }
                words.extend(["--enable".into(), operations.join(",")]);
                if let Some(format) = to {
                    words.extend(["--to".into(), new(format), "-O".into(), format.name().into()]);
                }
                words.push(name);
            }
        }
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
            Remedy::Sanitize(id) => format!("sanitise it ({id})"),
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
