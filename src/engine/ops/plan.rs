//! The plan: what an operation is about to do, made before it does anything. The confirm dialog, `--dry-run` and the log print
//! this same plan.

use std::path::PathBuf;
use std::time::Duration;

/// Bytes, as well as they can be told beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Estimate {
    /// Most likely.
    pub likely: u64,
    /// At the very most.
    pub worst: u64,
}

impl Estimate {
    /// Known exactly.
    pub fn exact(bytes: u64) -> Self {
        Estimate { likely: bytes, worst: bytes }
    }
}

/// A file a plan touches.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PlanFile {
    /// Where.
    pub path: PathBuf,
    /// What it is in this plan, e.g. `qcow2, 3 layers below it` or `new raw image`.
    pub what: String,
}

/// Space needed against space there is, on the target's filesystem.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Space {
    /// A folder on that filesystem.
    pub on: PathBuf,
    /// Bytes needed.
    pub needed: Estimate,
    /// Bytes free to us.
    pub free: u64,
}

impl Space {
    /// True when even the worst case fits.
    pub fn is_enough(&self) -> bool {
        self.needed.worst <= self.free
    }
}

/// Whether, and how, an operation can be taken back.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Undo {
    /// It makes something new and changes nothing: delete the result.
    #[default]
    DeleteResult,
    /// It can be taken back, in the way described.
    Possible(String),
    /// It cannot, for the reason given.
    Impossible(String),
}

/// What an operation is about to do.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
pub struct Plan {
    /// In a line: `convert a.qcow2 to raw image b.img`.
    pub title: String,
    /// Files that are read.
    pub reads: Vec<PlanFile>,
    /// Files that are made or changed.
    pub writes: Vec<PlanFile>,
    /// What is done, step by step, where that is more than the title says.
    pub steps: Vec<String>,
    /// Guest bytes that will be read.
    pub read_bytes: u64,
    /// Bytes that will be written.
    pub write_bytes: Estimate,
    /// Bytes of the host that will become free.
    pub freed_bytes: u64,
    /// Space needed, where something is made.
    pub space: Option<Space>,
    /// How long it will take, where earlier jobs tell.
    pub duration: Option<Duration>,
    /// Whether it can be taken back.
    pub undo: Undo,
    /// What the result will not have although the source does.
    pub losses: Vec<String>,
    /// What a person should know before saying yes.
    pub warnings: Vec<String>,
}

/// A line of a plan as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanLine {
    /// What the line is about: `reads`, `writes`, `space`, `warning`, …
    pub label: &'static str,
    /// The text. May hold names from outside: print it through `units::printable`.
    pub text: String,
    /// It is a reason to think twice.
    pub warns: bool,
}

impl Plan {
    /// The plan as lines, in reading order; `size` writes bytes for people.
    pub fn lines(&self, size: impl Fn(u64) -> String) -> Vec<PlanLine> {
        let mut out = Vec::new();
        let mut line = |label, text: String, warns| out.push(PlanLine { label, text, warns });
        line("plan", self.title.clone(), false);
        for f in &self.reads {
            line("reads", format!("{} ({})", f.path.display(), f.what), false);
        }
        for f in &self.writes {
            line("writes", format!("{} ({})", f.path.display(), f.what), false);
        }
        for step in &self.steps {
            line("step", step.clone(), false);
        }
        if self.read_bytes > 0 {
            line("to read", size(self.read_bytes), false);
        }
        if self.write_bytes.worst > 0 {
            line("to write", range(self.write_bytes, &size), false);
        }
        if self.freed_bytes > 0 {
            line("frees", size(self.freed_bytes), false);
        }
        if let Some(space) = &self.space {
            let text = format!("{} needed, {} free on {}", range(space.needed, &size), size(space.free), space.on.display());
            line("space", text, !space.is_enough());
        }
        if let Some(d) = self.duration {
            line("takes", format!("about {} s, by earlier jobs", d.as_secs().max(1)), false);
        }
        match &self.undo {
            Undo::DeleteResult => line("undo", "delete the result; nothing else is changed".into(), false),
            Undo::Possible(how) => line("undo", how.clone(), false),
            Undo::Impossible(why) => line("undo", format!("not possible: {why}"), true),
        }
        for loss in &self.losses {
            line("lost", loss.clone(), true);
        }
        for warning in &self.warnings {
            line("warning", warning.clone(), true);
        }
        out
    }
}

fn range(e: Estimate, size: impl Fn(u64) -> String) -> String {
    if e.likely == e.worst { size(e.worst) } else { format!("{} (at most {})", size(e.likely), size(e.worst)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_all_and_warns_of_what_does_not_fit() {
        let plan = Plan {
            title: "convert a to b".into(),
            space: Some(Space { on: "/x".into(), needed: Estimate { likely: 5, worst: 11 }, free: 10 }),
            undo: Undo::Impossible("it is gone".into()),
            warnings: vec!["careful".into()],
            ..Plan::default()
        };
        let lines = plan.lines(|b| format!("{b} B"));
        let space = lines.iter().find(|l| l.label == "space").unwrap();
        assert_eq!((space.text.as_str(), space.warns), ("5 B (at most 11 B) needed, 10 B free on /x", true));
        assert_eq!(lines.iter().filter(|l| l.warns).count(), 3);
    }
}
