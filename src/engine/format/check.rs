//! What checking an image found: the words and counts every format's check reports in.
//!
//! A check only reads. Findings of one rule are grouped: a count, the first few places, and what they mean. What a repair may
//! rely on, and what it owes, is here too: it hands over what it is about to change before it changes anything.

use crate::engine::error::Result;
use crate::engine::format::{Format, Source};
use crate::engine::io::WriteDevice;

/// A format's check. Only reads.
pub type CheckFn = fn(&Source) -> Result<CheckReport>;
/// What a format calls one of its units of allocation, and several: the words of its own documents.
pub fn unit(format: Format, n: u64) -> &'static str {
    match (format, n) {
        (Format::Qcow2 | Format::Qcow | Format::Qed | Format::Parallels, 1) => "cluster",
        (Format::Qcow2 | Format::Qcow | Format::Qed | Format::Parallels, _) => "clusters",
        (Format::Vmdk, 1) => "grain",
        (Format::Vmdk, _) => "grains",
        (_, 1) => "block",
        _ => "blocks",
    }
}

/// A format's repair.
pub type RepairFn = fn(&Repairing<'_>) -> Result<Repaired>;

/// How far a repair goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Repair {
    /// Gives back lost space; nothing else.
    Leaks,
    /// Mends all that can be mended.
    All,
}

impl Repair {
    /// True when it mends findings that are mended by `mend`.
    pub fn mends(self, mend: Mend) -> bool {
        match mend {
            Mend::Leaks => true,
            Mend::All | Mend::Lossy => self == Repair::All,
            Mend::No => false,
        }
    }
}

/// What a repair is given.
pub struct Repairing<'a> {
    /// The image file, held for writing.
    pub dev: WriteDevice,
    /// The same file for reading.
    pub source: Source,
    /// How far to go.
    pub repair: Repair,
    /// Makes what is about to change durable in another file. To be called once, before the first write to the image.
    pub keep: &'a dyn Fn(&Evidence) -> Result<()>,
    /// Asked often while nothing is half done, with what is done and what is to do; an error stops the repair.
    pub tick: &'a (dyn Fn(u64, u64) -> Result<()> + Sync),
}

/// What a repair is about to change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Evidence {
    /// Bytes of the file now.
    pub length: u64,
    /// Ranges of the file, offset and length, whose present content undoes the repair when it is written back: group by group,
    /// each durable before the next.
    pub groups: Vec<Vec<(u64, u64)>>,
}

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Repaired {
    /// Instances of damage that were mended.
    pub corruptions: u64,
    /// Lost units that were given back.
    pub leaks: u64,
    /// Ranges of the file, offset and length, that change when anybody changes the image's structures: as long as they are as
    /// they are now, the repair can be undone.
    pub state: Vec<(u64, u64)>,
    /// What was not mended, and why.
    pub left: Vec<String>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Odd, but harms nobody.
    Note,
    /// Space is lost; the guest's data is not concerned.
    Leak,
    /// The guest's data is damaged, or will be when the image is written to.
    Corruption,
    /// Part of the image could not be checked.
    Unchecked,
}

/// What repair does about the findings of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mend {
    /// `-r leaks` mends it.
    Leaks,
    /// `-r all` mends it, losing nothing.
    All,
    /// `-r all` mends the structure; guest data named in the finding is lost already.
    Lossy,
    /// It cannot be mended.
    No,
}

/// One thing that can be wrong with a format.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// A stable word for programs.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in words for one or many places.
    pub title: &'static str,
    /// What it means for the guest's data.
    pub means: &'static str,
    /// What repair does.
    pub mend: Mend,
    /// The same in words.
    pub repair: &'static str,
}

/// Where one instance of a finding is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Spot {
    /// Byte in the file.
    pub offset: Option<u64>,
    /// Guest bytes concerned: first and length.
    pub guest: Option<(u64, u64)>,
    /// Details: numbers, names.
    pub detail: String,
}

/// All findings of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: &'static Rule,
    /// How many places.
    pub count: u64,
    /// The first places, at most [`SPOTS`].
    pub spots: Vec<Spot>,
}

/// Places kept of one rule.
pub const SPOTS: usize = 20;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Findings by rule, in the order they were found.
    pub findings: Vec<Finding>,
    /// Units (clusters, grains, blocks) of the virtual disk.
    pub total: u64,
    /// Units the current state stores.
    pub allocated: u64,
    /// Units that do not follow their neighbour in the file, compressed ones among them.
    pub fragmented: u64,
    /// Units stored compressed.
    pub compressed: u64,
    /// Byte behind the last unit in use; `None` where the format has no such thing.
    pub image_end: Option<u64>,
    /// Guest bytes of the current state whose content is lost: first and length, ascending, neighbours merged.
    pub lost: Vec<(u64, u64)>,
    /// What else a repair gives up, by name.
    pub given_up: Vec<String>,
    /// Places of the file (offset, length) that are used by nothing and could hold a unit, where the check looks for them by itself.
    pub unused: Vec<(u64, u64)>,
}

impl CheckReport {
    /// Adds an instance of `rule`.
    pub fn note(&mut self, rule: &'static Rule, spot: Spot) {
        self.note_many(rule, spot, 1);
    }
    /// Adds `count` instances of `rule`, of which `spot` is the first.
    pub fn note_many(&mut self, rule: &'static Rule, spot: Spot, count: u64) {
        let finding = match self.findings.iter_mut().find(|f| f.rule.id == rule.id) {
            Some(f) => f,
            None => {
                self.findings.push(Finding { rule, count: 0, spots: Vec::new() });
                match self.findings.last_mut() {
                    Some(f) => f,
                    None => return,
                }
            }
        };
        finding.count = finding.count.saturating_add(count);
        if finding.spots.len() < SPOTS {
            finding.spots.push(spot);
        }
    }
    /// Guest bytes are lost. To be called in ascending order by one part of a check.
    pub fn lose(&mut self, start: u64, len: u64) {
        match self.lost.last_mut() {
            Some((at, have)) if *at + *have == start => *have += len,
            _ => self.lost.push((start, len)),
        }
    }
    /// Findings that `repair` mends, and the others that are more than notes.
    pub fn split(&self, repair: Repair) -> (Vec<&Finding>, Vec<&Finding>) {
        let wrong = self.findings.iter().filter(|f| f.rule.severity != Severity::Note || repair.mends(f.rule.mend));
        wrong.partition(|f| repair.mends(f.rule.mend))
    }
    /// Adds what another part of the check found. Of the places of a rule the first ones in the file are kept, so that it does not
    /// matter which of several threads found them.
    pub fn merge(&mut self, other: CheckReport) {
        for f in other.findings {
            match self.findings.iter_mut().find(|m| m.rule.id == f.rule.id) {
                Some(mine) => {
                    mine.count = mine.count.saturating_add(f.count);
                    mine.spots.extend(f.spots);
                    mine.spots.sort_by_key(|s| s.offset);
                    mine.spots.truncate(SPOTS);
                }
                None => self.findings.push(f),
            }
        }
        self.given_up.extend(other.given_up);
        self.allocated += other.allocated;
        self.fragmented += other.fragmented;
        self.compressed += other.compressed;
        let mut all = std::mem::take(&mut self.lost);
        all.extend(other.lost);
        all.sort_unstable();
        for (start, len) in all {
            self.lose(start, len);
        }
    }
    /// How many instances of `rule` there are.
    pub fn count_of(&self, rule: &Rule) -> u64 {
        self.findings.iter().find(|f| f.rule.id == rule.id).map_or(0, |f| f.count)
    }
    /// How many instances are of `severity`.
    pub fn count(&self, severity: Severity) -> u64 {
        self.findings.iter().filter(|f| f.rule.severity == severity).map(|f| f.count).sum()
    }
    /// The exit code of `qemu-img check`: 0 clean, 2 corrupt, 3 leaks, 1 could not check everything.
    pub fn exit_code(&self) -> u8 {
        if self.count(Severity::Corruption) > 0 {
            2
        } else if self.count(Severity::Unchecked) > 0 {
            1
        } else if self.count(Severity::Leak) > 0 {
            3
        } else {
            0
        }
    }
}
