//! Places of a file that nothing in an image refers to: space lost when a writer was cut off. It may hold what guests no longer do.

use crate::engine::error::Result;
use crate::engine::io::WriteAt;
use crate::engine::io::bytes::is_zero;

/// Bytes looked at at once.
const PIECE: u64 = 1 << 20;

/// What of `from..end` none of `stored` (place and length, ascending) lies in: place and length.
pub fn between(stored: impl IntoIterator<Item = (u64, u64)>, from: u64, end: u64) -> Vec<(u64, u64)> {
    let (mut out, mut at) = (Vec::new(), from);
    for (start, len) in stored.into_iter().chain([(end, 0)]) {
        let stop = start.min(end);
        if stop > at {
            out.push((at, stop - at));
        }
        at = at.max(start.saturating_add(len));
    }
    out
}

/// Makes `ranges` of the file zero, holes left alone; how many bytes were not. Not yet durable.
pub fn wipe(dev: &dyn WriteAt, ranges: &[(u64, u64)]) -> Result<u64> {
    let mut wiped = 0;
    for (start, len) in ranges {
        let (mut at, end) = (*start, start.saturating_add(*len).min(dev.len()));
        while at < end {
            let here = dev.host_range(at, end - at)?;
            let stop = at + here.len.clamp(1, end - at);
            if !here.hole {
                wiped += zero(dev, at, stop)?;
            }
            at = stop;
        }
    }
    Ok(wiped)
}

/// Makes `start..end` zero where it is not; how many bytes were not.
pub fn zero(dev: &dyn WriteAt, start: u64, end: u64) -> Result<u64> {
    let (mut at, mut wiped) = (start, 0);
    let mut bytes = vec![0; PIECE.min(end - start) as usize];
    while at < end {
        let n = (end - at).min(PIECE);
        let piece = bytes.get_mut(..n as usize).unwrap_or_default();
        dev.read_at(at, piece)?;
        if !is_zero(piece) {
            dev.write_zeroes(at, n)?;
            wiped += n;
        }
        at += n;
    }
    Ok(wiped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::io::ReadAt;
    use crate::engine::io::memory::Memory;

    #[test]
    fn what_is_stored_stays() {
        let gaps = between([(100, 50), (120, 100), (300, 10)], 50, 400);
        assert_eq!(gaps, [(50, 50), (220, 80), (310, 90)]);
        assert_eq!(between([(500, 1)], 600, 400), []);
        let dev = Memory::new(vec![7; 400]);
        assert_eq!(wipe(&dev, &gaps).unwrap(), 220);
        assert_eq!(wipe(&dev, &gaps).unwrap(), 0);
        let mut bytes = vec![0; 400];
        dev.read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes.iter().filter(|b| **b == 7).count(), 180);
    }
}
