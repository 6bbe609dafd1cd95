//! What checking an image found: the words and counts every format's check reports in.
//!
//! A check only reads. Findings of one rule are grouped: a count, the first few places, and what they mean.

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
}

impl CheckReport {
    /// Adds an instance of `rule`.
    pub fn note(&mut self, rule: &'static Rule, spot: Spot) {
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
        finding.count += 1;
        if finding.spots.len() < SPOTS {
            finding.spots.push(spot);
        }
    }
    /// Adds what another part of the check found.
    pub fn merge(&mut self, other: CheckReport) {
        for f in other.findings {
            let left = f.count - f.spots.len() as u64;
            for spot in f.spots {
                self.note(f.rule, spot);
            }
            if let Some(mine) = self.findings.iter_mut().find(|m| m.rule.id == f.rule.id) {
                mine.count += left;
            }
        }
        self.allocated += other.allocated;
        self.fragmented += other.fragmented;
        self.compressed += other.compressed;
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
