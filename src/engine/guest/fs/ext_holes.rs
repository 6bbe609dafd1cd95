//! Holes of files that are mapped by lists of blocks (ext2, ext3): passed in one step for each list that is not there.

use fs_ext4::inode::Inode;

use crate::engine::error::Result;
use crate::engine::io::bytes::le32;

/// Blocks that the inode names itself.
const DIRECT: u64 = 12;

/// The first block of the file behind `at`, which is a hole, that may be stored. `list` reads the pointer numbered `n` of a list.
pub(super) fn behind(inode: &Inode, at: u64, per_list: u64, mut list: impl FnMut(u64, u64) -> Result<u64>) -> Result<u64> {
    let mut start = DIRECT;
    for level in 1..=3u32 {
        // Blocks below one pointer of the list at this depth, and below the inode's own.
        let whole = per_list.saturating_pow(level);
        if at < start {
            break;
        }
        if at - start >= whole {
            start = start.saturating_add(whole);
            continue;
        }
        let (mut block, mut span, mut first) =
            (u64::from(le32(&inode.block, 44 + 4 * level as usize).unwrap_or(0)), whole, start);
        while block != 0 && span > 1 {
            span /= per_list.max(1);
            let n = (at - first) / span.max(1);
            first += n * span;
            block = list(block, n)?;
        }
        return Ok((first.saturating_add(span)).max(at + 1));
    }
    Ok(at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_not_there_is_passed_at_once() {
        let mut raw = vec![0u8; 128];
        // The list of lists is block 50; the others are not there.
        raw[40 + 52..40 + 56].copy_from_slice(&50u32.to_le_bytes());
        let inode = Inode::parse(&raw).unwrap();
        let list = |block: u64, n: u64| Ok(if (block, n) == (50, 3) { 60 } else { 0 });
        let next = |at: u64| behind(&inode, at, 256, list).unwrap();
        assert_eq!([next(3), next(11)], [4, 12]);
        // Block 12 to 267 are behind the first list, 256 each behind those of the second.
        assert_eq!([next(12), next(100)], [268, 268]);
        assert_eq!([next(268), next(268 + 255), next(268 + 256)], [268 + 256, 268 + 256, 268 + 512]);
        assert_eq!(next(268 + 3 * 256 + 7), 268 + 3 * 256 + 8);
        assert_eq!(next(268 + 65_536), 268 + 65_536 + (1 << 24));
        assert_eq!(next(268 + 65_536 + (1 << 24)), 268 + 65_536 + (1 << 24) + 1);
    }
}
