//! A search for many needles at once.
//!
//! Of every needle as many runs of four bytes as a stride is long go into a filter, one for each place that a needle may have between
//! two probes. What is searched is probed at that stride, which cannot step over them all, and where the filter says "perhaps", the
//! needles are compared.

/// Bytes of a probe. Longer ones are told better from chance, and let probes stand less far apart.
const GRAM: usize = 4;
/// Words of the filter: as many as the processor's nearest memory holds with room to spare.
const WORDS: usize = 1 << 12;

/// Probes in a row; where one says "perhaps", all of them are made again.
const AT_ONCE: usize = 8;
/// Strides that the program was made for, ascending: needles have at least 16 bytes.
const STRIDES: [usize; 5] = [13, 15, 21, 29, 45];

/// Needles, ready to be searched for. Each has at least [`GRAM`] bytes; shorter ones are not found.
pub(super) struct Index {
    needles: Vec<Vec<u8>>,
    /// No longer than what a needle has room for: of each, `stride` runs of [`GRAM`] bytes are known.
    stride: usize,
    /// One bit for each hash.
    filter: Box<[u64; WORDS]>,
    /// The runs, the needle each is of, and where in it; by their words in the filter.
    grams: Vec<(u32, usize, usize)>,
    /// Of each word of the filter, the first of its runs.
    first: Box<[u32; WORDS]>,
}

#[inline]
fn gram(buf: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*buf.get(at..)?.first_chunk::<GRAM>()?))
}

impl Index {
    /// Of these needles.
    pub(super) fn new(needles: Vec<Vec<u8>>) -> Self {
        let long = || needles.iter().enumerate().filter(|(_, needle)| needle.len() >= GRAM);
        let shortest = long().map(|(_, needle)| needle.len()).min().unwrap_or(GRAM);
        let stride = shortest - GRAM + 1;
        let stride = STRIDES.into_iter().rfind(|s| *s <= stride).unwrap_or(stride);
        let mut grams: Vec<(u32, usize, usize)> = Vec::new();
        for (n, needle) in long() {
            grams.extend((0..stride).filter_map(|place| telling(needle, place, stride)).map(|(g, at)| (g, n, at)));
        }
        grams.sort_unstable_by_key(|gram| (place(gram.0).0, *gram));
        let (mut filter, mut first) = (Box::new([0; WORDS]), Box::new([0; WORDS]));
        for (i, (g, _, _)) in grams.iter().enumerate().rev() {
            let (word, bit) = place(*g);
            if let Some((w, first)) = filter.get_mut(word).zip(first.get_mut(word)) {
                *w |= 1 << bit;
                *first = i as u32;
            }
        }
        Index { needles, stride, filter, grams, first }
    }

    /// Calls `hit` with each place in `buf` where a needle begins, and which needle.
    pub(super) fn search(&self, buf: &[u8], mut hit: impl FnMut(usize, usize)) {
        if self.grams.is_empty() {
            return;
        }
        let done = match self.stride {
            13 => self.quick::<13>(buf, &mut hit),
            15 => self.quick::<15>(buf, &mut hit),
            21 => self.quick::<21>(buf, &mut hit),
            29 => self.quick::<29>(buf, &mut hit),
            45 => self.quick::<45>(buf, &mut hit),
            _ => 0,
        };
        self.probe(buf, done, buf.len(), &mut hit);
    }

    /// Probes `buf` at a stride that the compiler knows, which halves the work of a scan, as far as a whole number of probes goes; how far
    /// that is.
    fn quick<const STRIDE: usize>(&self, buf: &[u8], hit: &mut impl FnMut(usize, usize)) -> usize {
        let filter = self.filter.as_ref();
        let mut at = 0;
        for part in buf.as_chunks::<STRIDE>().0.as_chunks::<AT_ONCE>().0 {
            if part.iter().filter_map(|c| c.first_chunk::<GRAM>()).any(|g| perhaps(filter, u32::from_le_bytes(*g))) {
                self.probe(buf, at, at + AT_ONCE * STRIDE, hit);
            }
            at += AT_ONCE * STRIDE;
        }
        at
    }

    /// Probes one by one from `at` up to `end`.
    fn probe(&self, buf: &[u8], mut at: usize, end: usize, hit: &mut impl FnMut(usize, usize)) {
        while at < end
            && let Some(g) = gram(buf, at)
        {
            if perhaps(&self.filter, g) {
                self.compare(buf, at, g, hit);
            }
            at += self.stride;
        }
    }

    /// Compares the needles that hold the run `g`, which is at `at`.
    #[cold]
    #[inline(never)]
    fn compare(&self, buf: &[u8], at: usize, g: u32, hit: &mut impl FnMut(usize, usize)) {
        let word = place(g).0;
        let from = self.first.get(word).copied().unwrap_or(0) as usize;
        let of_word = self.grams.get(from..).unwrap_or_default().iter().take_while(|(known, _, _)| place(*known).0 == word);
        for (_, n, within) in of_word.filter(|(known, _, _)| *known == g) {
            let start = at.wrapping_sub(*within);
            if let Some(needle) = self.needles.get(*n)
                && buf.get(start..start.wrapping_add(needle.len())) == Some(needle.as_slice())
            {
                hit(start, *n);
            }
        }
    }
}

/// Of the runs of [`GRAM`] bytes in `needle` that a probe meets at every `stride` from `place` on, the one that says most, and where it
/// is: spaces or zeros are everywhere.
fn telling(needle: &[u8], place: usize, stride: usize) -> Option<(u32, usize)> {
    let distinct = |at: &usize| {
        let g = needle.get(*at..*at + GRAM).unwrap_or_default();
        g.iter().enumerate().filter(|(i, b)| !g.iter().take(*i).any(|o| o == *b)).count()
    };
    let at = (place..=needle.len() - GRAM).step_by(stride).max_by_key(distinct)?;
    Some((gram(needle, at)?, at))
}

/// The word of the filter that the run `g` has, and the bit in it.
#[inline]
fn place(g: u32) -> (usize, u32) {
    let hash = g.wrapping_mul(0x9e37_79b1);
    ((hash >> (32 - WORDS.ilog2())) as usize, (hash >> (26 - WORDS.ilog2())) & 63)
}

/// Whether a needle may hold the run `g`.
#[inline]
fn perhaps(filter: &[u64; WORDS], g: u32) -> bool {
    let (word, bit) = place(g);
    filter.get(word).is_some_and(|w| w >> bit & 1 != 0)
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
