//! A search for many needles at once.
//!
//! Every run of eight bytes that a needle begins with goes into a filter. What is searched is probed at a stride that cannot step
//! over a needle, and where the filter says "perhaps", the needles are compared.

use std::collections::HashMap;

/// Bytes of a probe.
const GRAM: usize = 8;
/// Bits of the filter, as a power of two: small enough to stay in the processor's nearest memory.
const FILTER: u32 = 16;

/// Needles, ready to be searched for. Each has at least [`GRAM`] bytes; shorter ones are not found.
pub(super) struct Index<'a> {
    needles: Vec<&'a [u8]>,
    /// The longest step that no needle fits into: every run of [`GRAM`] bytes of its first `stride + GRAM - 1` is known.
    stride: usize,
    filter: Vec<u64>,
    grams: HashMap<u64, Vec<(usize, usize)>>,
}

fn bit(gram: u64) -> usize {
    (gram.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - FILTER)) as usize
}

fn gram(buf: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*buf.get(at..)?.first_chunk::<GRAM>()?))
}

impl<'a> Index<'a> {
    /// Of these needles.
    pub(super) fn new(needles: Vec<&'a [u8]>) -> Self {
        let shortest = needles.iter().map(|n| n.len()).filter(|n| *n >= GRAM).min().unwrap_or(GRAM);
        let stride = shortest - GRAM + 1;
        let mut filter = vec![0u64; 1 << (FILTER - 6)];
        let mut grams: HashMap<u64, Vec<(usize, usize)>> = HashMap::new();
        for (n, needle) in needles.iter().enumerate() {
            for at in 0..stride {
                let Some(g) = gram(needle, at) else { continue };
                let b = bit(g);
                if let Some(word) = filter.get_mut(b / 64) {
                    *word |= 1 << (b % 64);
                }
                grams.entry(g).or_default().push((n, at));
            }
        }
        Index { needles, stride, filter, grams }
    }

    /// Calls `hit` with each place in `buf` where a needle begins, and which needle.
    pub(super) fn search(&self, buf: &[u8], mut hit: impl FnMut(usize, usize)) {
        if self.grams.is_empty() {
            return;
        }
        let mut at = 0;
        while let Some(g) = gram(buf, at) {
            let b = bit(g);
            if self.filter.get(b / 64).is_some_and(|w| w & (1 << (b % 64)) != 0) {
                for (n, within) in self.grams.get(&g).into_iter().flatten() {
                    let start = at.wrapping_sub(*within);
                    if let Some(needle) = self.needles.get(*n)
                        && buf.get(start..start.wrapping_add(needle.len())) == Some(needle)
                    {
                        hit(start, *n);
                    }
                }
            }
            at += self.stride;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a search that compares at every byte.
        #[test]
        fn finds_what_a_plain_search_finds(
            needles in prop::collection::vec(prop::collection::vec(0u8..3, 8..30), 0..6),
            mut hay in prop::collection::vec(0u8..3, 0..3000),
            places in prop::collection::vec((0usize..3000, 0usize..6), 0..6),
        ) {
            for (at, n) in places {
                if let Some(needle) = needles.get(n) && at + needle.len() <= hay.len() {
                    hay[at..at + needle.len()].copy_from_slice(needle);
                }
            }
            let index = Index::new(needles.iter().map(Vec::as_slice).collect());
            let mut found = Vec::new();
            index.search(&hay, |at, n| found.push((at, n)));
            found.sort_unstable();
            found.dedup();
            let mut want = Vec::new();
            for at in 0..hay.len() {
                want.extend(needles.iter().enumerate().filter(|(_, n)| hay[at..].starts_with(n)).map(|(n, _)| (at, n)));
            }
            prop_assert_eq!(found, want);
        }
    }
}
