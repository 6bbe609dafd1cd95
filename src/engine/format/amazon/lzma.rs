//! The head of an LZMA stream, alone or in the first block of an xz file. The bytes that came out are the dictionary, so memory is
//! bounded by what is asked for, whatever the stream claims.
//!
//! Spec: LZMA specification (2015), The .xz File Format 1.2.1.

use crate::engine::io::bytes::be16;

/// Bits of a probability.
const PROB_BITS: u32 = 11;
const PROB_START: u16 = 1 << (PROB_BITS - 1);

/// Up to `max` bytes of the `.lzma` file `b`.
pub(super) fn alone(b: &[u8], max: usize) -> Option<Vec<u8>> {
    let mut decoder = Decoder::new(*b.first()?)?;
    let mut out = Vec::new();
    // Properties, dictionary size (4), unpacked size (8).
    decoder.run(b.get(13..)?, &mut out, max);
    Some(out)
}

/// Up to `max` bytes of the `.xz` file `b`, from the first chunks of its first block.
pub(super) fn xz(b: &[u8], max: usize) -> Option<Vec<u8>> {
    // Stream header: 12 bytes. Block header: its length in words, then what is skipped here.
    let header = (usize::from(*b.get(12)?) + 1) * 4;
    let mut rest = b.get(12 + header..)?;
    let mut out = Vec::new();
    let mut decoder: Option<Decoder> = None;
    while out.len() < max {
        let Some((control, tail)) = rest.split_first() else { break };
        let Some(low) = be16(tail, 0).map(usize::from) else { break };
        match control {
            1 | 2 => {
                let Some(text) = tail.get(2..) else { break };
                let (text, next) = text.split_at_checked(low + 1).unwrap_or((text, &[]));
                out.extend_from_slice(text);
                rest = next;
            }
            0x80.. => {
                let unpacked = (usize::from(control & 0x1f) << 16) + low + 1;
                let Some(packed) = be16(tail, 2).map(|n| usize::from(n) + 1) else { break };
                let mut from = 4;
                match (control >> 5) & 3 {
                    2 | 3 => {
                        decoder = tail.get(4).and_then(|props| Decoder::new(*props));
                        from = 5;
                    }
                    1 => decoder.iter_mut().for_each(Decoder::reset),
                    _ => {}
                }
                let (Some(decoder), Some(chunk)) = (&mut decoder, tail.get(from..)) else { break };
                let (chunk, next) = chunk.split_at_checked(packed).unwrap_or((chunk, &[]));
                let end = out.len() + unpacked;
                decoder.run(chunk, &mut out, end.min(max));
                rest = next;
            }
            _ => break,
        }
    }
    out.truncate(max);
    Some(out)
}

/// The range decoder's input.
struct Range<'a> {
    input: &'a [u8],
    range: u32,
    code: u32,
}

impl<'a> Range<'a> {
    fn new(b: &'a [u8]) -> Option<Self> {
        let (start, input) = b.split_at_checked(5)?;
        let code = start.iter().skip(1).fold(0u32, |c, b| c << 8 | u32::from(*b));
        (start.first() == Some(&0)).then_some(Range { input, range: u32::MAX, code })
    }
    fn normalize(&mut self) -> Option<()> {
        if self.range < 1 << 24 {
            let (next, rest) = self.input.split_first()?;
            (self.range, self.code, self.input) = (self.range << 8, self.code << 8 | u32::from(*next), rest);
        }
        Some(())
    }
    fn bit(&mut self, prob: &mut u16) -> Option<bool> {
        let bound = (self.range >> PROB_BITS) * u32::from(*prob);
        let bit = self.code >= bound;
        if bit {
            *prob -= *prob >> 5;
            self.code -= bound;
            self.range -= bound;
        } else {
            *prob += ((1 << PROB_BITS) - *prob) >> 5;
            self.range = bound;
        }
        self.normalize()?;
        Some(bit)
    }
    fn direct(&mut self, bits: u32) -> Option<u32> {
        let mut out = 0;
        for _ in 0..bits {
            self.range >>= 1;
            let bit = self.code >= self.range;
            if bit {
                self.code -= self.range;
            }
            self.normalize()?;
            out = out << 1 | u32::from(bit);
        }
        Some(out)
    }
    /// A number of `bits` bits, the highest first.
    fn tree(&mut self, probs: &mut [u16], bits: u32) -> Option<u32> {
        let mut m = 1;
        for _ in 0..bits {
            m = m << 1 | usize::from(self.bit(probs.get_mut(m)?)?);
        }
        Some(m as u32 - (1 << bits))
    }
    /// The same, the lowest bit first.
    fn reverse(&mut self, probs: &mut [u16], bits: u32) -> Option<u32> {
        let (mut m, mut out) = (1, 0);
        for i in 0..bits {
            let bit = self.bit(probs.get_mut(m)?)?;
            m = m << 1 | usize::from(bit);
            out |= u32::from(bit) << i;
        }
        Some(out)
    }
}

/// Lengths of matches: short, middle, long.
struct Lengths {
    choice: [u16; 2],
    low: [[u16; 8]; 16],
    middle: [[u16; 8]; 16],
    high: [u16; 256],
}

impl Lengths {
    const NEW: Lengths =
        Lengths { choice: [PROB_START; 2], low: [[PROB_START; 8]; 16], middle: [[PROB_START; 8]; 16], high: [PROB_START; 256] };

    fn next(&mut self, range: &mut Range<'_>, pos: usize) -> Option<usize> {
        let [first, second] = &mut self.choice;
        let n = if !range.bit(first)? {
            range.tree(self.low.get_mut(pos)?, 3)?
        } else if !range.bit(second)? {
            8 + range.tree(self.middle.get_mut(pos)?, 3)?
        } else {
            16 + range.tree(&mut self.high, 8)?
        };
        Some(n as usize + 2)
    }
}

/// What a stream keeps between chunks.
struct Decoder {
    lc: u32,
    lp: u32,
    pb: u32,
    state: usize,
    reps: [usize; 4],
    literal: Vec<[u16; 0x300]>,
    is_match: [[u16; 16]; 12],
    is_rep: [u16; 12],
    is_rep0: [u16; 12],
    is_rep1: [u16; 12],
    is_rep2: [u16; 12],
    is_rep0_long: [[u16; 16]; 12],
    slot: [[u16; 64]; 4],
    special: [u16; 128],
    align: [u16; 16],
    lengths: Lengths,
    rep_lengths: Lengths,
}

impl Decoder {
    fn new(properties: u8) -> Option<Decoder> {
        let p = u32::from(properties);
        let (lc, lp, pb) = (p % 9, p / 9 % 5, p / 45);
        (pb <= 4).then(|| Decoder {
            lc,
            lp,
            pb,
            state: 0,
            reps: [0; 4],
            literal: vec![[PROB_START; 0x300]; 1 << (lc + lp)],
            is_match: [[PROB_START; 16]; 12],
            is_rep: [PROB_START; 12],
            is_rep0: [PROB_START; 12],
            is_rep1: [PROB_START; 12],
            is_rep2: [PROB_START; 12],
            is_rep0_long: [[PROB_START; 16]; 12],
            slot: [[PROB_START; 64]; 4],
            special: [PROB_START; 128],
            align: [PROB_START; 16],
            lengths: Lengths::NEW,
            rep_lengths: Lengths::NEW,
        })
    }

    fn reset(&mut self) {
        let properties = (self.pb * 5 + self.lp) * 9 + self.lc;
        if let Some(fresh) = u8::try_from(properties).ok().and_then(Decoder::new) {
            *self = fresh;
        }
    }

    /// Unpacks `input` until `out` has `end` bytes or nothing more comes.
    fn run(&mut self, input: &[u8], out: &mut Vec<u8>, end: usize) {
        if let Some(mut range) = Range::new(input) {
            while out.len() < end && self.step(&mut range, out, end).is_some() {}
        }
    }

    /// One literal or match.
    fn step(&mut self, r: &mut Range<'_>, out: &mut Vec<u8>, end: usize) -> Option<()> {
        let pos = out.len() & ((1 << self.pb) - 1);
        if !r.bit(self.is_match.get_mut(self.state)?.get_mut(pos)?)? {
            return self.step_literal(r, out);
        }
        let len;
        if !r.bit(self.is_rep.get_mut(self.state)?)? {
            len = self.lengths.next(r, pos)?;
            self.state = if self.state < 7 { 7 } else { 10 };
            let distance = self.distance(r, len)?;
            self.reps.rotate_right(1);
            *self.reps.first_mut()? = distance;
        } else {
            if !r.bit(self.is_rep0.get_mut(self.state)?)? {
                if !r.bit(self.is_rep0_long.get_mut(self.state)?.get_mut(pos)?)? {
                    self.state = if self.state < 7 { 9 } else { 11 };
                    out.push(back(out, self.reps[0])?);
                    return Some(());
                }
            } else {
                let which = if !r.bit(self.is_rep1.get_mut(self.state)?)? {
                    1
                } else {
                    2 + usize::from(r.bit(self.is_rep2.get_mut(self.state)?)?)
                };
                self.reps.get_mut(..=which)?.rotate_right(1);
            }
            len = self.rep_lengths.next(r, pos)?;
            self.state = if self.state < 7 { 8 } else { 11 };
        }
        for _ in 0..len.min(end.checked_sub(out.len())?) {
            out.push(back(out, self.reps[0])?);
        }
        Some(())
    }

    fn step_literal(&mut self, r: &mut Range<'_>, out: &mut Vec<u8>) -> Option<()> {
        let previous = usize::from(out.last().copied().unwrap_or(0));
        let row = ((out.len() & ((1 << self.lp) - 1)) << self.lc) + (previous >> (8 - self.lc));
        let probs = self.literal.get_mut(row)?;
        let mut symbol = 1usize;
        if self.state >= 7 {
            // After a match, the byte that would have followed it steers the choice until they part.
            let mut expected = usize::from(back(out, self.reps[0])?);
            while symbol < 0x100 {
                let guess = expected >> 7 & 1;
                expected <<= 1;
                let bit = usize::from(r.bit(probs.get_mut(((1 + guess) << 8) + symbol)?)?);
                symbol = symbol << 1 | bit;
                if bit != guess {
                    break;
                }
            }
        }
        while symbol < 0x100 {
            symbol = symbol << 1 | usize::from(r.bit(probs.get_mut(symbol)?)?);
        }
        out.push((symbol & 0xff) as u8);
        self.state = match self.state {
            0..4 => 0,
            4..10 => self.state - 3,
            _ => self.state - 6,
        };
        Some(())
    }

    /// The distance of a match of `len` bytes, counted from 0.
    fn distance(&mut self, r: &mut Range<'_>, len: usize) -> Option<usize> {
        let slot = r.tree(self.slot.get_mut((len - 2).min(3))?, 6)?;
        if slot < 4 {
            return Some(slot as usize);
        }
        let bits = (slot >> 1) - 1;
        let base = (2 | (slot & 1)) << bits;
        let rest = if slot < 14 {
            r.reverse(self.special.get_mut((base - slot) as usize..)?, bits)?
        } else {
            (r.direct(bits - 4)? << 4) + r.reverse(&mut self.align, 4)?
        };
        usize::try_from(base.checked_add(rest)?).ok()
    }
}

/// The byte `distance` + 1 back.
fn back(out: &[u8], distance: usize) -> Option<u8> {
    out.len().checked_sub(distance.checked_add(1)?).and_then(|i| out.get(i)).copied()
}
