//! Sets of bytes of a disk as ranges, in order and apart.

/// Ranges start to end, ascending, neither overlapping nor touching.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set(Vec<(u64, u64)>);

impl Set {
    /// Of ranges in any order.
    pub fn of(ranges: impl IntoIterator<Item = (u64, u64)>) -> Set {
        let mut all: Vec<(u64, u64)> = ranges.into_iter().filter(|(s, e)| s < e).collect();
        all.sort_unstable();
        let mut out: Vec<(u64, u64)> = Vec::with_capacity(all.len());
        for (start, end) in all {
            match out.last_mut() {
                Some((_, e)) if start <= *e => *e = (*e).max(end),
                _ => out.push((start, end)),
            }
        }
        Set(out)
    }
    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }
    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|(s, e)| e - s).sum()
    }
    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// The range that holds `byte`.
    pub fn at(&self, byte: u64) -> Option<(u64, u64)> {
        let i = self.0.partition_point(|(_, e)| *e <= byte);
        self.0.get(i).copied().filter(|(s, _)| *s <= byte)
    }
    /// What is both here and in `start..end`, ascending.
    pub fn within(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let first = self.0.partition_point(|(_, e)| *e <= start);
        let there = self.0.iter().skip(first).take_while(move |(s, _)| *s < end);
        there.map(move |(s, e)| ((*s).max(start), (*e).min(end)))
    }
    /// What is here and not in `other`.
    pub fn without(&self, other: &Set) -> Set {
        let mut out = Vec::new();
        for (start, end) in self.iter() {
            let first = other.0.partition_point(|(_, e)| *e <= start);
            let mut at = start;
            for (s, e) in other.0.iter().skip(first).take_while(|(s, _)| *s < end) {
                if at < *s {
                    out.push((at, *s));
                }
                at = at.max(*e);
            }
            if at < end {
                out.push((at, end));
            }
        }
        Set(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn as_sets_of_bytes(a in prop::collection::vec((0u64..60, 0u64..60), 0..8), b in prop::collection::vec((0u64..60, 0u64..60), 0..8)) {
            let bytes = |r: &[(u64, u64)]| (0..60u64).filter(|x| r.iter().any(|(s, e)| s <= x && x < e)).collect::<Vec<_>>();
            let (x, y) = (Set::of(a.clone()), Set::of(b.clone()));
            let left = x.without(&y);
            for v in 0..60u64 {
                prop_assert_eq!(x.at(v).is_some(), bytes(&a).contains(&v));
            }
            let part = Set::of(x.within(20, 45));
            let there: Vec<u64> = bytes(&a).into_iter().filter(|v| (20..45).contains(v)).collect();
            prop_assert_eq!(bytes(&part.iter().collect::<Vec<_>>()), there);
            prop_assert_eq!(x.is_empty(), bytes(&a).is_empty());
            let want: Vec<u64> = bytes(&a).into_iter().filter(|v| !bytes(&b).contains(v)).collect();
            prop_assert_eq!(bytes(&left.iter().collect::<Vec<_>>()), want.clone());
            prop_assert_eq!(left.bytes(), want.len() as u64);
            prop_assert_eq!(Set::of(left.iter()), left);
        }
    }
}
