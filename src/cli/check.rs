//! `cowshed check`: what is wrong with an image, what it means and what would mend it; and the repair. Keys and exit codes are `qemu-img`'s.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::out::{Format as Output, Out, Tone};
use super::source::Source;
use super::{Failure, Verb};
use crate::engine::error::{Error, ErrorKind};
use crate::engine::format::Format;
use crate::engine::format::check::{CheckReport, Repair, Severity, Spot};
use crate::engine::job::JobContext;
use crate::engine::ops::check::{RepairAction, RepairDone, RepairImage, RepairSpec};
use crate::engine::ops::{self, Operation};
use crate::engine::units::printable;

/// Exit code of a format that has no check, as qemu-img's.
const NO_CHECK: u8 = 63;

/// Check an image for damage and lost space, and repair it
#[derive(clap::Args)]
#[command(after_help = "A repair reports first, then saves the metadata it will change to IMAGE.cowshed-undo, then writes. As long as\n\
    nothing else has written to the image, --undo puts it back as it was.\n\n\
    Exit codes: 0 clean, 1 could not check, 2 damaged, 3 space lost only, 63 the format has no check; after a repair,\n\
    those of the repaired image.\n\nExamples:\n  \
    cowshed check disk.qcow2\n  \
    cowshed check --output json disk.qcow2\n  \
    cowshed check -r all --dry-run disk.qcow2\n  \
    cowshed check -r all disk.qcow2\n  \
    cowshed check --undo disk.qcow2")]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,

    /// Give back lost space (leaks), or mend all that can be mended (all)
    #[arg(short, long, value_name = "leaks|all", value_parser = repair_kind)]
    repair: Option<Repair>,

    /// Put back what the last repair changed
    #[arg(long, conflicts_with = "repair")]
    undo: bool,

    /// The undo file, where it is not to lie beside the image
    #[arg(long, value_name = "FILE")]
    undo_file: Option<PathBuf>,

    /// Report, print the plan of the repair, and write nothing
    #[arg(long)]
    dry_run: bool,

    /// For people, or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Output::Human)]
    output: Output,

    /// Cache mode of the image, as qemu-img names it; it changes nothing here
    #[arg(short = 'T', long = "cache", value_name = "CACHE", value_parser = super::source::cache_mode)]
    source_cache: Option<String>,

    /// The image
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
}

fn repair_kind(text: &str) -> std::result::Result<Repair, String> {
    match text {
        "leaks" => Ok(Repair::Leaks),
        "all" => Ok(Repair::All),
        _ => Err("it is none of leaks, all".into()),
    }
}

impl Args {
    fn check(&self) -> Result<(Format, CheckReport), Failure> {
        let options = self.source.options(&self.image)?;
        let _held = self.source.open_top(&self.image)?;
        match ops::check::check(&self.image, options.format, options.gate) {
            Err(e) if e.kind() == ErrorKind::Unsupported && e.why().contains("nothing that could be checked") => {
                Err(Failure::from(e).code(NO_CHECK))
            }
            other => Ok(other?),
        }
    }

    fn spec(&self, action: RepairAction) -> Result<RepairSpec, Failure> {
        Ok(RepairSpec {
            image: self.image.clone(),
            format: self.source.options(&self.image)?.format,
            action,
            undo_file: self.undo_file.clone(),
            follow: self.source.access.named.follow,
        })
    }

    fn undo(&self, out: &mut Out) -> Result<u8, Failure> {
        let spec = self.spec(RepairAction::Undo)?;
        if self.dry_run {
            super::job::print_plan(&RepairImage::new(spec).plan()?, out)?;
            return Ok(0);
        }
        let done = spec.run(&JobContext::detached())?;
        if let Some(path) = done.undo_file.filter(|_| !out.quiet) {
            out.line(format!("The image is as it was before the repair. {} can be deleted.", shown(&path)))?;
        }
        Ok(0)
    }

    /// Repairs what `before` found, and checks again.
    fn mend(&self, repair: Repair, format: Format, before: &CheckReport, out: &mut Out) -> Result<(CheckReport, RepairDone), Failure> {
        let done = self.spec(RepairAction::Mend(repair))?.run(&JobContext::detached())?;
        let fixed = done.undo_file.is_some();
        if self.output == Output::Human && !out.quiet && fixed {
            let r = &done.repaired;
            if r.leaks + r.corruptions > 0 {
                out.line("The following inconsistencies were found and repaired:\n")?;
                for (n, what) in [(r.leaks, "leaked clusters"), (r.corruptions, "corruptions")] {
                    if n > 0 {
                        out.line(format!("    {n} {what}"))?;
                    }
                }
                out.line("")?;
            }
            if let Some(path) = &done.undo_file {
                out.line(format!("What it was like before is in {}; check --undo puts it back.", shown(path)))?;
            }
            out.line("Double checking the fixed image now...")?;
        }
        for left in &done.repaired.left {
            if !out.quiet {
                eprintln!("cowshed: warning: not mended: {}", printable(left));
            }
        }
        let after = if fixed { self.check()?.1 } else { before.clone() };
        let _ = format;
        Ok((after, done))
    }
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> Result<u8, Failure> {
        if self.source.access.force_share && !self.dry_run && (self.undo || self.repair.is_some()) {
            return Err(Error::usage("-U shares the image with a writer: nothing is repaired then").hint("leave -U out").into());
        }
        if self.undo {
            return self.undo(out);
        }
        let (format, before) = self.check()?;
        let name = self.image.display().to_string();
        let people = self.output == Output::Human && !out.quiet;
        let (after, done) = match self.repair {
            Some(repair) if self.dry_run => {
                if people {
                    findings(out, &before)?;
                }
                let plan = self.spec(RepairAction::Mend(repair))?.plan_for(format, &before)?;
                match self.output {
                    Output::Json => out.json(&json!({ "check": to_json(&before, format, &name), "plan": plan }))?,
                    Output::Human => super::job::print_plan(&plan, out)?,
                }
                return Ok(before.exit_code());
            }
            Some(repair) => {
                if people {
                    findings(out, &before)?;
                }
                let (after, done) = self.mend(repair, format, &before, out)?;
                (after, Some(done))
            }
            None => (before.clone(), None),
        };
        match self.output {
            Output::Json => {
                let mut v = to_json(&after, format, &name);
                if let (Some(done), Some(map)) = (&done, v.as_object_mut()) {
                    for (key, n) in [("corruptions-fixed", done.repaired.corruptions), ("leaks-fixed", done.repaired.leaks)] {
                        if n > 0 {
                            map.insert(key.into(), json!(n));
                        }
                    }
                    let found = to_json(&before, format, &name);
                    map.insert(
                        "repair".into(),
                        json!({
                            "undo-file": done.undo_file, "left": done.repaired.left, "findings": found["findings"],
                            "lost": found["lost"], "given-up": found["given-up"],
                        }),
                    );
                }
                out.json(&v)?;
            }
            Output::Human if people => {
                // Without a repair the findings were not shown yet; after one, only what is left.
                findings(out, &after)?;
                summary(out, &after, self.repair)?;
            }
            Output::Human => {}
        }
        Ok(after.exit_code())
    }
}

fn shown(path: &Path) -> String {
    printable(&path.display().to_string())
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
    let lost: Vec<Value> = r.lost.iter().map(|(start, length)| json!({ "start": start, "length": length })).collect();
    v.insert("lost".into(), json!(lost));
    v.insert("given-up".into(), json!(r.given_up));
    v.insert("disk-format".into(), json!(format.name()));
    v.insert("findings".into(), json!(findings));
    Value::Object(v)
}

fn findings(out: &mut Out, r: &CheckReport) -> Result<(), Failure> {
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
    Ok(())
}

fn summary(out: &mut Out, r: &CheckReport, repaired: Option<Repair>) -> Result<(), Failure> {
    let (bad, leaks, errors) = ops::check::counts(r);
    if bad + leaks + errors == 0 {
        out.line("No errors were found on the image.")?;
    } else {
        out.line(format!("{bad} errors, {leaks} leaked clusters, {errors} parts that could not be checked."))?;
    }
    let all = !r.split(Repair::All).0.is_empty();
    let only_leaks = bad + errors == 0 && leaks > 0;
    if all && repaired != Some(Repair::All) {
        let how = if only_leaks { "leaks" } else { "all" };
        out.line(format!("cowshed check -r {how} mends it; with --dry-run it says first what it would do."))?;
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
