//! The list of operations, and a report, for people.

use serde_json::{Value, json};

use super::super::out::{Out, Tone, size};
use crate::app::config::OwnProfile;
use crate::engine::guest::sanitize::{Default, PROFILES, operations};
use crate::engine::units::printable;

/// Finds in files that are kept, told one by one.
const KEPT: usize = 5;

/// What is said of a profile of the configuration.
const OWN: &str = "your own, from the configuration";

/// The operations and the profiles.
pub(super) fn list(own: &[OwnProfile], as_json: bool, out: &mut Out) -> std::io::Result<()> {
    if as_json {
        let operations: Vec<Value> = operations::all()
            .map(|o| {
                json!({ "id": o.id, "title": o.title, "files": o.files, "default": o.default, "reports-only": o.reports_only,
                        "verified": o.verified })
            })
            .collect();
        let mut profiles: Vec<Value> =
            PROFILES.iter().map(|p| json!({ "name": p.name, "what": p.what, "enable": p.enable, "disable": p.disable })).collect();
        profiles.extend(own.iter().map(|p| json!({ "name": p.name, "what": OWN, "enable": p.enable, "disable": p.disable })));
        return out.json(&json!({ "operations": operations, "profiles": profiles }));
    }
    for o in operations::all() {
        let when = match (o.default, o.reports_only) {
            (_, true) => "report",
            (Default::On, _) => "on",
            (Default::Off, _) => "off",
        };
        out.line(format!("{}  {:<6}  {}", out.paint(Tone::Title, format!("{:<18}", o.id)), when, o.title))?;
        for f in o.files {
            out.line(out.paint(Tone::Label, format!("{:28}{f}", "")))?;
        }
    }
    out.line("")?;
    for p in PROFILES {
        out.line(format!("{}  {}", out.paint(Tone::Title, format!("profile {:<10}", p.name)), p.what))?;
    }
    for p in own {
        out.line(format!("{}  {OWN}", out.paint(Tone::Title, format!("profile {:<10}", p.name))))?;
    }
    Ok(())
}

fn text(v: &Value) -> String {
    printable(v.as_str().unwrap_or_default()).to_string()
}

fn items(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

/// A report: what is planned, or what was done. Every operation, file by file, with the reason.
pub(super) fn report(r: &Value, plan: bool, out: &mut Out) -> std::io::Result<()> {
    for o in items(&r["operations"]) {
        let state = match text(&o["state"]).as_str() {
            "planned" => "planned",
            "done" => "done",
            "nothing-to-do" => "nothing to do",
            "reported" => "reported",
            other => return out.line(format!("{other}?")),
        };
        let tone = if state == "nothing to do" { Tone::Label } else { Tone::Title };
        let verified = if state == "done" { format!("; verified: {}", text(&o["verified"])) } else { String::new() };
        out.line(format!("{}  {state}{verified}", out.paint(tone, format!("{:<18}", text(&o["id"])))))?;
        let mut reason = "";
        for c in items(&o["changes"]) {
            let why = c["reason"].as_str().unwrap_or_default();
            if why != reason {
                out.line(out.paint(Tone::Label, format!("    {why}:")))?;
                reason = why;
            }
            let before = c["before"].as_u64().unwrap_or(0);
            let bytes = if c["what"] == "remove folder" { String::new() } else { format!(" ({})", size(before)) };
            out.line(format!("    {:<13} {}{bytes}", text(&c["what"]), text(&c["path"])))?;
            for line in items(&c["diff"]) {
                out.line(format!("        {}", text(line)))?;
            }
        }
        for n in items(&o["notes"]) {
            out.line(format!("    {}", text(n)))?;
        }
        for w in items(&o["warnings"]) {
            out.line(out.paint(Tone::Warning, format!("    {}", text(w))))?;
        }
    }
    out.line("")?;
    for v in items(&r["volumes"]) {
        out.line(text(v))?;
    }
    let (written, zeroed) = (r["written"].as_u64().unwrap_or(0), r["zeroed"].as_u64().unwrap_or(0));
    let (will, are) = if plan { ("will be written", "will be wiped") } else { ("written", "wiped") };
    out.line(format!("{} {will}, {} {are}", size(written), size(zeroed)))?;
    let undo = &r["undo"];
    match (undo["path"].as_str(), undo["bytes"].as_u64()) {
        (Some(path), Some(bytes)) => {
            let line = format!("undo file: {} ({}), which holds what was removed", printable(path), size(bytes));
            out.line(line)?;
            if !plan {
                let image = text(&r["image"]);
                out.line(format!("    take it back: cowshed sanitize --undo {image}"))?;
                out.line(format!("    destroy it:   cowshed sanitize --destroy-undo {image}"))?;
            }
        }
        (None, Some(_)) => out.line("no undo file is kept")?,
        _ => {}
    }
    for w in items(&r["warnings"]) {
        out.line(out.paint(Tone::Warning, format!("warning: {}", text(w))))?;
    }
    let scan = &r["scan"];
    if let (Some(needles), Some(bytes)) = (scan["needles"].as_u64(), scan["bytes"].as_u64()) {
        let (left, kept): (Vec<&Value>, Vec<&Value>) = items(&scan["found"]).partition(|f| f["residue"] == true);
        let what = if left.is_empty() { "none is left".to_string() } else { format!("{} are left", left.len()) };
        out.line(format!("byte scan: {needles} pieces of what was removed looked for in {}: {what}", size(bytes)))?;
        let line = |f: &Value| format!("    of {}: in {} (byte {} of {})", text(&f["from"]), text(&f["place"]), f["offset"], text(&f["file"]));
        for f in left {
            out.line(out.paint(Tone::Warning, line(f)))?;
        }
        // The same text in a file that stays is no secret, but good to know.
        for f in kept.iter().take(KEPT) {
            out.line(out.paint(Tone::Label, line(f)))?;
        }
        if kept.len() > KEPT {
            out.line(out.paint(Tone::Label, format!("    and {} more in files that are kept", kept.len() - KEPT)))?;
        }
    }
    Ok(())
}
