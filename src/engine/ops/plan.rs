//! The plan: what an operation is about to do, made before it does anything. The confirm dialog, `--dry-run` and the log print
//! this same plan.

use std::path::PathBuf;
use std::sync::Arc;

use super::sanitize::Report;

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

/// Where on the disk that is read there is data: for the map of a job, and for how much of it is behind a resumed one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    /// Virtual size in bytes.
    pub size: u64,
    /// Bytes of data in each of equal parts of it, in order. Where looking took too long they are as full as the rest.
    pub parts: Vec<u64>,
}

impl Layout {
    /// Parts of a layout: more than a line on a screen has columns.
    pub const PARTS: usize = 256;

    /// A disk of `size` bytes without data.
    pub fn new(size: u64) -> Self {
        Layout { size, parts: vec![0; Self::PARTS] }
    }
    /// The first byte of part `i`, and of the part after the last.
    pub fn edge(&self, i: usize) -> u64 {
        let n = self.parts.len().max(1) as u128;
        (u128::from(self.size) * (i as u128).min(n) / n) as u64
    }
    /// Adds the data from byte `start` to `end`.
    pub fn add(&mut self, start: u64, end: u64) {
        let mut at = start;
        while at < end {
            let i = (u128::from(at) * self.parts.len() as u128 / u128::from(self.size.max(1))) as usize;
            // Rounding may put the edge of this part a byte before `at`.
            let stop = self.edge(i + 1).max(at + 1).min(end);
            match self.parts.get_mut(i) {
                Some(part) => *part += stop - at,
                None => return,
            }
            at = stop;
        }
    }
    /// Bytes of data before byte `offset`; within a part they are taken as spread evenly.
    pub fn data_before(&self, offset: u64) -> u64 {
        let mut sum = 0u64;
        if offset == 0 {
            return 0;
        }
        for (i, data) in self.parts.iter().enumerate() {
            let (from, to) = (self.edge(i), self.edge(i + 1));
            if to <= offset {
                sum += data;
            } else {
                let share = u128::from(offset.saturating_sub(from)) * u128::from(*data) / u128::from((to - from).max(1));
                return sum + share as u64;
            }
        }
        sum
    }
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

/// How long something will take.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Takes {
    /// Seconds, most likely.
    pub seconds: f64,
    /// What makes us think so.
    pub basis: String,
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
    /// How long it will take, where earlier jobs or a limit tell.
    pub duration: Option<Takes>,
    /// Whether it can be taken back.
    pub undo: Undo,
    /// Where the data lies that is read, where that was looked at.
    #[serde(skip)]
    pub layout: Option<Layout>,
    /// What changes in the guest, file by file, where that was looked at; the steps say the same without the lines.
    #[serde(skip)]
    pub report: Option<Arc<Report>>,
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
        if let Some(d) = &self.duration {
            line("takes", format!("about {} s ({})", (d.seconds.round() as u64).max(1), d.basis), false);
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
    fn a_layout_loses_no_byte_however_it_is_cut() {
        for size in [1u64, 255, 256, 1000, 4 << 30, (4 << 30) + 511] {
            let mut l = Layout::new(size);
            let (mut at, mut data) = (0u64, 0u64);
            for (i, step) in [1u64, 7, 300, 65536, 1 << 28, u64::MAX].into_iter().cycle().enumerate() {
                let end = at.saturating_add(step).min(size);
                if i % 2 == 0 {
                    l.add(at, end);
                    data += end - at;
                }
                at = end;
                if at == size {
                    break;
                }
            }
            assert_eq!(l.parts.iter().sum::<u64>(), data, "{size}");
            assert_eq!((l.data_before(size), l.data_before(0)), (data, 0), "{size}");
        }
        let mut l = Layout::new(2560);
        l.add(0, 1280);
        assert_eq!((l.data_before(640), l.data_before(2000)), (640, 1280));
    }

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
