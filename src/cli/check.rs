//! `cowshed check`: what is wrong with an image, what it means and what would mend it. Keys and exit codes are `qemu-img`'s.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::out::{Format as Output, Out, Tone};
use super::source::Source;
use super::{Failure, Verb};
use crate::engine::error::ErrorKind;
use crate::engine::format::Format;
use crate::engine::format::check::{CheckReport, Severity, Spot};
use crate::engine::ops;
use crate::engine::units::printable;

/// Exit code of a format that has no check, as qemu-img's.
const NO_CHECK: u8 = 63;

/// Check an image for damage and lost space
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 clean, 1 could not check, 2 damaged, 3 space lost only, 63 the format has no check.\n\nExamples:\n  \
    cowshed check disk.qcow2\n  \
    cowshed check --output json disk.qcow2")]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,

    /// For people, or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Output::Human)]
    output: Output,

    /// Cache mode of the image, as qemu-img names it; it changes nothing here
    #[arg(short = 'T', value_name = "CACHE", value_parser = super::source::cache_mode)]
    source_cache: Option<String>,

    /// The image
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> Result<u8, Failure> {
        let Args { source, output, source_cache: _, image } = self;
        let options = source.options(&image)?;
        let _held = source.open_top(&image)?;
        let (format, report) = match ops::check::check(&image, options.format, options.gate) {
            Err(e) if e.kind() == ErrorKind::Unsupported && e.why().contains("nothing that could be checked") => {
                return Err(Failure::from(e).code(NO_CHECK));
            }
            other => other?,
        };
        match output {
            Output::Json => out.json(&to_json(&report, format, &image.display().to_string()))?,
            Output::Human if !out.quiet => human(out, &report)?,
            Output::Human => {}
        }
        Ok(report.exit_code())
    }
}

fn to_json(r: &CheckReport, format: Format, name: &str) -> Value {
    let mut v = Map::new();
    if let Some(end) = r.image_end {
        v.insert("image-end-offset".into(), json!(end));
    }
    v.insert("total-clusters".into(), json!(r.total));
    v.insert("check-errors".into(), json!(r.count(Severity::Unchecked)));
    for (key, n) in [
        ("corruptions", r.count(Severity::Corruption)),
        ("leaks", r.count(Severity::Leak)),
        ("allocated-clusters", r.allocated),
        ("fragmented-clusters", r.fragmented),
        ("compressed-clusters", r.compressed),
    ] {
        if n > 0 {
            v.insert(key.into(), json!(n));
        }
    }
    v.insert("filename".into(), json!(name));
    v.insert("format".into(), json!(format.driver()));
    let findings: Vec<Value> = r
        .findings
        .iter()
        .map(|f| {
            json!({
                "id": f.rule.id, "severity": f.rule.severity, "title": f.rule.title, "count": f.count, "means": f.rule.means,
                "mend": f.rule.mend, "repair": f.rule.repair, "places": f.spots,
            })
        })
        .collect();
    v.insert("disk-format".into(), json!(format.name()));
    v.insert("findings".into(), json!(findings));
    Value::Object(v)
}

fn human(out: &mut Out, r: &CheckReport) -> Result<(), Failure> {
    for f in &r.findings {
        let (word, tone) = match f.rule.severity {
            Severity::Corruption => ("damage", Tone::Bad),
            Severity::Leak => ("lost space", Tone::Warning),
            Severity::Unchecked => ("not checked", Tone::Warning),
            Severity::Note => ("note", Tone::Label),
        };
        out.line(format!("{} {} ({} place{})", out.paint(tone, format!("{word}:")), f.rule.title, f.count, if f.count == 1 { "" } else { "s" }))?;
        for s in f.spots.iter().take(5) {
            out.line(format!("    {}", place(s)))?;
        }
        if f.count > 5 {
            out.line(format!("    and {} more", f.count - 5))?;
        }
        out.line(format!("    means:  {}", f.rule.means))?;
        out.line(format!("    mended by: {}", f.rule.repair))?;
    }
    let (bad, leaks, errors) = (r.count(Severity::Corruption), r.count(Severity::Leak), r.count(Severity::Unchecked));
    if bad + leaks + errors == 0 {
        out.line("No errors were found on the image.")?;
    } else {
        out.line(format!("{bad} errors, {leaks} leaked clusters, {errors} parts that could not be checked."))?;
        if bad + leaks > 0 {
            out.line("cowshed does not repair yet; qemu-img check -r leaks|all does. Keep a copy of the image first.")?;
        }
    }
    if r.total > 0 {
        let share = |n: u64, of: u64| if of == 0 { 0.0 } else { n as f64 * 100.0 / of as f64 };
        out.line(format!(
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters",
            r.allocated,
            r.total,
            share(r.allocated, r.total),
            share(r.fragmented, r.allocated),
            share(r.compressed, r.allocated)
        ))?;
    }
    if let Some(end) = r.image_end {
        out.line(format!("Image end offset: {end}"))?;
    }
    Ok(())
}

fn place(s: &Spot) -> String {
    let at = s.offset.map(|o| format!("at {o:#x}: ")).unwrap_or_default();
    let guest = s.guest.map(|(o, l)| format!(" (guest bytes {o:#x} to {:#x})", o.saturating_add(l))).unwrap_or_default();
    format!("{at}{}{guest}", printable(&s.detail))
}
