//! A set of numbers (clusters, sectors, bytes) as ranges: what hostile tables claim in one word costs one entry, not one for each.

use std::collections::BTreeMap;
use std::ops::Range;

/// Disjoint ranges of numbers, neighbours merged.
#[derive(Debug, Default)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds the numbers of `range`.
    pub fn insert(&mut self, range: Range<u64>) {
        let (mut start, mut end) = (range.start, range.end);
        if start >= end {
            return;
        }
        // Ranges are disjoint, so the last one that begins no later than `end` is the only way to others that touch.
        while let Some((&s, &e)) = self.0.range(..=end).next_back() {
            if e < start {
                break;
            }
            self.0.remove(&s);
            (start, end) = (start.min(s), end.max(e));
        }
        self.0.insert(start, end);
    }

    /// Takes one number out.
    pub fn remove(&mut self, cluster: u64) {
        if let Some((&s, &e)) = self.0.range(..=cluster).next_back()
            && cluster < e
        {
            self.0.remove(&s);
            for (start, end) in [(s, cluster), (cluster + 1, e)] {
                if start < end {
                    self.0.insert(start, end);
                }
            }
        }
    }

    /// The first number of `range` that is in the set.
    pub fn first_in(&self, range: Range<u64>) -> Option<u64> {
        if range.is_empty() {
            return None;
        }
        let before = self.0.range(..=range.start).next_back().filter(|(_, e)| **e > range.start).map(|_| range.start);
        before.or_else(|| self.0.range(range).next().map(|(s, _)| *s))
    }

    /// Takes the numbers of `range` out.
    pub fn cut(&mut self, range: Range<u64>) {
        while let Some(cluster) = self.first_in(range.clone()) {
            self.remove(cluster);
        }
    }

    /// How many ranges there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> {
        self.0.iter().map(|(s, e)| *s..*e)
    }

    /// True when `cluster` is in the set.
    pub fn contains(&self, cluster: u64) -> bool {
        self.first_in(cluster..cluster.saturating_add(1)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_is_a_set() {
        let (mut ours, mut model) = (Ranges::default(), BTreeSet::new());
        let mut x = 1u64;
        for _ in 0..3000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (at, len) = (x >> 33 & 63, x >> 50 & 7);
            if x >> 60 & 1 == 0 {
                ours.insert(at..at + len);
                model.extend(at..at + len);
            } else {
                ours.remove(at);
                model.remove(&at);
            }
            for c in 0..75 {
                assert_eq!(ours.contains(c), model.contains(&c));
                assert_eq!(ours.first_in(c..c + len), model.range(c..c + len).next().copied());
            }
        }
    }
}
