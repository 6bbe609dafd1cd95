//! `cowshed ready`: would a target take the image, and would its guest come up there.

use std::path::PathBuf;

use serde_json::json;

use super::out::{Format as Output, Out, Tone};
use super::source::Source;
use super::{Failure, Verb};
use crate::engine::error::{Context, Error};
use crate::engine::format::Format;
use crate::engine::guest::ready::{Answer, Finding, Readiness, Subject, TARGETS, Target, assess};
use crate::engine::inspect;
use crate::engine::units::printable;

/// Say whether a cloud or a hypervisor would take an image, and why not
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 yes, 1 no, 2 could not tell; without --for, 0 when any target would take it.\n\n\
    Examples:\n  \
    cowshed ready --for openstack web.qcow2\n  \
    cowshed ready --for azure --output json disk.vhd\n  \
    cowshed ready --for openstack --as raw disk.img")]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,

    /// Where it is to go: openstack, azure, ec2, esxi, hyperv, virtualbox, proxmox (default: all of them, in a line each)
    #[arg(long = "for", value_name = "TARGET")]
    target: Option<String>,

    /// The format it would be declared as there (default: what it is)
    #[arg(long = "as", value_name = "FMT")]
    declared: Option<String>,

    /// For people, or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Output::Human)]
    output: Output,

    /// The image
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
}

impl Args {
    fn subject(&self) -> Result<Subject, Error> {
        let declared = self.declared.as_deref().map(Format::parse).transpose()?;
        let found = inspect(&self.image, &self.source.options(&self.image)?)?;
        Subject::of(&found, declared).op("ready").path(&self.image)
    }
}

impl Verb for Args {
    const USAGE: u8 = 2;

    fn run(self, out: &mut Out) -> Result<u8, Failure> {
        let could_not = |e: Error| Failure::from(e).code(2);
        let target = self.target.as_deref().map(Target::parse).transpose().map_err(could_not)?;
        let subject = self.subject().map_err(could_not)?;
        let Some(target) = target else {
            let all: Vec<Readiness> = TARGETS.iter().map(|t| assess(&subject, t.target)).collect();
            match self.output {
                Output::Json => out.json(&all.iter().map(|r| document(&subject, r)).collect::<Vec<_>>())?,
                Output::Human => summary(out, &all)?,
            }
            return Ok(all.iter().map(|r| code(r.answer())).min().unwrap_or(2));
        };
        let readiness = assess(&subject, target);
        match self.output {
            Output::Json => out.json(&document(&subject, &readiness))?,
            Output::Human => human(out, &subject, &readiness)?,
        }
        Ok(code(readiness.answer()))
    }
}

fn code(answer: Answer) -> u8 {
    match answer {
        Answer::Yes | Answer::Advice => 0,
        Answer::No => 1,
        Answer::Unknown => 2,
    }
}

/// The verdict in a word.
fn verdict(answer: Answer) -> &'static str {
    match answer {
        Answer::Yes | Answer::Advice => "ready",
        Answer::No => "not ready",
        Answer::Unknown => "could not tell",
    }
}

/// What stands before a finding, with its tone.
fn mark(answer: Answer) -> (&'static str, Option<Tone>) {
    match answer {
        Answer::Yes => ("yes", None),
        Answer::No => ("no", Some(Tone::Bad)),
        Answer::Advice => ("advice", Some(Tone::Warning)),
        Answer::Unknown => ("unknown", Some(Tone::Warning)),
    }
}

/// `cowshed …` as a shell takes it.
fn command(words: &[String]) -> String {
    let safe = |c: char| c.is_alphanumeric() || "-_./=,:+@".contains(c);
    let quoted = words.iter().map(|w| if !w.is_empty() && w.chars().all(safe) { w.clone() } else { format!("'{}'", w.replace('\'', "'\\''")) });
    printable(&std::iter::once("cowshed".to_string()).chain(quoted).collect::<Vec<_>>().join(" "))
}

fn document(subject: &Subject, r: &Readiness) -> serde_json::Value {
    let action = r.action(&subject.path).map(|words| std::iter::once("cowshed".to_string()).chain(words).collect::<Vec<_>>());
    json!({
        "target": r.target, "format": subject.format, "as-format": r.as_format, "verdict": verdict(r.answer()), "image-accepted": r.accepted(),
        "findings": r.findings, "properties": r.properties, "inspector": subject.inspected, "action": action,
    })
}

fn summary(out: &mut Out, all: &[Readiness]) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|r| {
            let first = r.findings.iter().find(|f| f.answer == r.answer() && f.answer != Answer::Yes);
            let why = first.map(|f| printable(&format!("{}: {}", f.what, f.evidence))).unwrap_or_default();
            let counts = format!("{} no, {} advice", r.count(Answer::No), r.count(Answer::Advice));
            vec![r.target.entry().title.to_string(), verdict(r.answer()).to_string(), counts, why]
        })
        .collect();
    out.table(&["target", "verdict", "findings", "first reason"], &rows, &[])?;
    Ok(())
}

fn human(out: &mut Out, subject: &Subject, r: &Readiness) -> Result<(), Failure> {
    let entry = r.target.entry();
    let tone = match r.answer() {
        Answer::No => Tone::Bad,
        Answer::Unknown => Tone::Warning,
        _ => Tone::Title,
    };
    let title = format!("{} for {} ({})", verdict(r.answer()), entry.title, entry.taker);
    out.line(out.paint(tone, title))?;
    let wide = |f: fn(&Finding) -> usize| r.findings.iter().map(f).max().unwrap_or(0);
    let what = wide(|f| f.what.len());
    for f in &r.findings {
        let (word, tone) = mark(f.answer);
        let word = format!("{word:<7}");
        let from = if f.from.is_empty() { String::new() } else { format!("  [{}]", f.from) };
        let line = printable(&format!("{:<what$}  {}{from}", f.what, f.evidence));
        out.line(format!("  {}  {line}", tone.map_or(word.clone(), |t| out.paint(t, &word))))?;
        if let Some(fix) = &f.fix {
            out.line(format!("  {:7}  {:what$}  -> {}", "", "", printable(&fix.text(r.target))))?;
        }
    }
    if !r.properties.is_empty() {
        out.line("")?;
        out.line(out.paint(Tone::Title, "properties to give it"))?;
        let rows: Vec<Vec<String>> =
            r.properties.iter().map(|p| vec![format!("  {}", p.name), printable(&p.value), printable(&p.why)]).collect();
        out.table(&["  name", "value", "because of"], &rows, &[])?;
    }
    if let Some(words) = r.action(&subject.path) {
        out.line("")?;
        out.line(format!("{} {}", out.paint(Tone::Title, "next:"), command(&words)))?;
    }
    Ok(())
}
