//! What a repair may do, given what the check found.

use crate::engine::error::{Error, Result};
use crate::engine::format::check::{CheckReport, Mend, Repair, Rule, Severity};

use super::super::check::rules;
use super::super::header::{CORRUPT, DIRTY};

/// What is to be done.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Goal {
    /// Entries of tables are mended.
    pub entries: bool,
    /// COPIED flags are set to what the counts say.
    pub flags: bool,
    /// Counts that are too low are raised.
    pub raise: bool,
    /// Counts that are too high are lowered.
    pub lower: bool,
    /// The counts are not what they ought to be.
    pub counts: bool,
    /// What nobody refers to keeps its content.
    pub keep_content: bool,
    /// Incompatible feature bits that are taken away.
    pub clear: u64,
    /// The bitmaps are given up.
    pub drop_bitmaps: bool,
    /// Structures that lie where another is get a place of their own.
    pub apart: bool,
    /// Another width of the refcounts, as a power of two.
    pub order: Option<u32>,
    /// Entries become what version 2 knows: no zero flag.
    pub version2: bool,
}

impl Goal {
    /// What `repair` does about `report`; what is left, when that is nothing.
    pub(super) fn of(report: &CheckReport, repair: Repair) -> std::result::Result<Goal, Vec<String>> {
        let has = |rule: &'static Rule| report.findings.iter().any(|f| f.rule.id == rule.id);
        let counts = [&rules::LOW, &rules::LEAK, &rules::BEHIND, &rules::TABLE].into_iter().any(has);
        // Where something could not be followed, what it uses looks like lost space.
        let blind = has(&rules::UNREADABLE);
        let doubtful =
            report.findings.iter().any(|f| matches!(f.rule.mend, Mend::Lossy | Mend::No) && f.rule.severity > Severity::Leak);
        let mut left = report.split(repair).1.iter().map(|f| f.rule.title.to_string()).collect::<Vec<_>>();
        if report.split(repair).0.is_empty() {
            return Err(left);
        }
        if repair == Repair::Leaks {
            if doubtful || has(&rules::TABLE) {
                left.push("space is not given back while damaged tables may still refer to it: -r all mends them".into());
                return Err(left);
            }
            // With the counts lowered flags become wrong that were right, and the other way round.
            let flags = report.count(Severity::Corruption) == report.count_of(&rules::COPIED);
            if flags {
                left.retain(|title| title != rules::COPIED.title);
            }
            return Ok(Goal { flags, lower: true, counts, ..Goal::default() });
        }
        if blind && has(&rules::TABLE) {
            left.push("the refcounts are damaged, and not all that uses space can be followed: they cannot be made anew".into());
            return Err(left);
        }
        let all = left.is_empty();
        Ok(Goal {
            entries: true,
            flags: true,
            raise: true,
            lower: !blind,
            counts,
            keep_content: doubtful,
            clear: if blind { 0 } else { DIRTY } | if all { CORRUPT } else { 0 },
            drop_bitmaps: has(&rules::BITMAP),
            apart: [&rules::OVERLAP, &rules::CROSSED, &rules::CROWDED].into_iter().any(has),
            ..Goal::default()
        })
    }

    /// Another width of the refcounts, or another version, for an image where nothing is wrong.
    ///
    /// Errors: something is wrong.
    pub(super) fn remake(report: &CheckReport, order: u32, version2: bool) -> Result<Goal> {
        if report.count(Severity::Corruption) + report.count(Severity::Unchecked) > 0 {
            return Err(Error::corrupt("the image is damaged").hint("look with cowshed check, repair with check -r all"));
        }
        Ok(Goal { raise: true, lower: true, counts: true, order: Some(order), version2, clear: DIRTY, ..Goal::default() })
    }
}
