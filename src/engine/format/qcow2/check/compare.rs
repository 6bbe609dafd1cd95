//! Comparing what was counted with what the file has as counts.

use std::sync::atomic::Ordering;

use crate::engine::format::check::CheckReport;
use crate::engine::format::qcow2::stored::Span;

use super::counts::Before;
use super::{Checker, PAGE, rules, spot};

impl Checker {
    /// Calls `each` with every stretch of clusters that are used or counted: the first, how many, the stored counts, and what was
    /// seen of each. Ascending; at most a page of clusters at once.
    pub(in crate::engine::format::qcow2) fn stretches(&self, mut each: impl FnMut(u64, u64, &Span, &dyn Fn(u64) -> Before)) {
        let per_block = self.stored.per_block();
        // Counts may be stored for clusters behind the end of the file.
        let stored_end = (self.stored.table.len() as u64).saturating_mul(per_block);
        let limit = self.counts.clusters().max(stored_end);
        let mut n = 0;
        while n < limit {
            let stop = ((n / per_block + 1).saturating_mul(per_block)).min((n / PAGE + 1) * PAGE).min(limit);
            let (page, span) = (self.counts.page(n), self.stored.span(n));
            if page.is_none() && span.is_none() {
                // Where neither uses nor a block are there is nothing: go to what comes first.
                let block = self.stored.next_block(n / per_block).map(|b| (b * per_block).max(n));
                n = match (self.counts.next_touched(n), block) {
                    (Some(a), Some(b)) => a.min(b),
                    (a, b) => match a.or(b) {
                        Some(next) => next,
                        None => break,
                    },
                };
                continue;
            }
            let slots = page.and_then(|p| p.get((n % PAGE) as usize..)).unwrap_or_default();
            let used = |i: u64| Before::of(slots.get(i as usize).map_or(0, |c| c.load(Ordering::Relaxed)));
            each(n, stop - n, &span, &used);
            n = stop;
        }
    }

    /// Reports every difference.
    pub(super) fn compare(&self, report: &mut CheckReport) {
        let (mut end, clusters) = (0, self.counts.clusters());
        self.stretches(|first, len, span, used| {
            for i in 0..len {
                let (uses, stored) = (u64::from(used(i).uses), span.get(i));
                if uses | stored == 0 {
                    continue;
                }
                // No space is lost where there is none, and QEMU does not look there.
                let behind = first + i >= clusters;
                if !behind {
                    end = first + i + 1;
                }
                if uses != stored {
                    let rule = match stored < uses {
                        true => &rules::LOW,
                        false if behind => &rules::BEHIND,
                        false => &rules::LEAK,
                    };
                    let at = (first + i) << self.header.cluster_bits;
                    report.note(rule, spot(at, format!("counted {stored}, used {uses}")));
                }
            }
        });
        report.image_end = Some(end << self.header.cluster_bits);
    }
}
