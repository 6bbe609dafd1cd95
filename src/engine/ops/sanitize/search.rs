//! A search for many needles at once.
//!
//! Every run of eight bytes that a needle begins with goes into a filter. What is searched is probed at a stride that cannot step
//! over a needle, and where the filter says "perhaps", the needles are compared.

/// Bytes of a probe.
const GRAM: usize = 8;
/// Words of the filter: as many as the processor's nearest memory holds with room to spare.
const WORDS: usize = 1 << 12;

/// Probes made before any is looked at.
const AT_ONCE: usize = 8;

/// Needles, ready to be searched for. Each has at least [`GRAM`] bytes; shorter ones are not found.
pub(super) struct Index {
    needles: Vec<Vec<u8>>,
    /// The longest step that no needle fits into: every run of [`GRAM`] bytes of its first `stride + GRAM - 1` is known.
    stride: usize,
    /// One bit for each hash.
    filter: Box<[u64; WORDS]>,
    /// The runs, the needle each is of, and where in it; ascending.
    grams: Vec<(u64, usize, usize)>,
}

#[inline]
fn gram(buf: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*buf.get(at..)?.first_chunk::<GRAM>()?))
}

impl Index {
    /// Of these needles.
    pub(super) fn new(needles: Vec<Vec<u8>>) -> Self {
        let long = || needles.iter().enumerate().filter(|(_, needle)| needle.len() >= GRAM);
        let shortest = long().map(|(_, needle)| needle.len()).min().unwrap_or(GRAM);
        let stride = shortest - GRAM + 1;
        let mut grams: Vec<(u64, usize, usize)> = Vec::new();
        for (n, needle) in long() {
            grams.extend((0..stride).filter_map(|at| Some((gram(needle, at)?, n, at))));
        }
        grams.sort_unstable();
        let mut filter = Box::new([0; WORDS]);
        for (g, _, _) in &grams {
            let (word, bit) = place(*g);
            if let Some(w) = filter.get_mut(word) {
                *w |= 1 << bit;
            }
        }
        Index { needles, stride, filter, grams }
    }

    /// Calls `hit` with each place in `buf` where a needle begins, and which needle.
    pub(super) fn search(&self, buf: &[u8], mut hit: impl FnMut(usize, usize)) {
        if self.grams.is_empty() {
            return;
        }
        // This loop is most of a scan: several probes are made before any is looked at, so that they need not wait for each other.
        let (filter, stride) = (self.filter.as_ref(), self.stride.max(1));
        let mut at = 0;
        if stride >= GRAM {
            for part in buf.chunks_exact(AT_ONCE * stride) {
                let probe = |c: &[u8]| c.first_chunk::<GRAM>().map_or(0, |g| perhaps(filter, u64::from_le_bytes(*g)));
                if part.chunks_exact(stride).fold(0, |any, c| any | probe(c)) & 1 != 0 {
                    self.probe(buf, at, at + part.len(), &mut hit);
                }
                at += part.len();
            }
        }
        self.probe(buf, at, buf.len(), &mut hit);
    }

    /// Probes one by one from `at` up to `end`.
    fn probe(&self, buf: &[u8], mut at: usize, end: usize, hit: &mut impl FnMut(usize, usize)) {
        while at < end
            && let Some(g) = gram(buf, at)
        {
            if perhaps(&self.filter, g) & 1 != 0 {
                self.compare(buf, at, g, hit);
            }
            at += self.stride.max(1);
        }
    }

    /// Compares the needles that hold the run `g`, which is at `at`.
    #[cold]
    #[inline(never)]
    fn compare(&self, buf: &[u8], at: usize, g: u64, hit: &mut impl FnMut(usize, usize)) {
        let from = self.grams.partition_point(|(known, _, _)| *known < g);
        for (_, n, within) in self.grams.iter().skip(from).take_while(|(known, _, _)| *known == g) {
            let start = at.wrapping_sub(*within);
            if let Some(needle) = self.needles.get(*n)
                && buf.get(start..start.wrapping_add(needle.len())) == Some(needle.as_slice())
            {
                hit(start, *n);
            }
        }
    }
}

/// The word of the filter that the run `g` has, and the bit in it.
#[inline]
fn place(g: u64) -> (usize, u32) {
    let hash = g.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((hash >> (64 - WORDS.ilog2())) as usize, (hash >> (58 - WORDS.ilog2())) as u32 & 63)
}

/// Its lowest bit says whether a needle may hold the run `g`.
#[inline]
fn perhaps(filter: &[u64; WORDS], g: u64) -> u64 {
    let (word, bit) = place(g);
    filter.get(word).map_or(0, |w| w >> bit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a search that compares at every byte.
        #[test]
        fn finds_what_a_plain_search_finds(
            needles in prop::collection::vec(prop::collection::vec(0u8..3, 8..40), 0..6),
            mut hay in prop::collection::vec(0u8..3, 0..3000),
            places in prop::collection::vec((0usize..3000, 0usize..6), 0..6),
        ) {
            for (at, n) in places {
                if let Some(needle) = needles.get(n) && at + needle.len() <= hay.len() {
                    hay[at..at + needle.len()].copy_from_slice(needle);
                }
            }
            let index = Index::new(needles.clone());
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
