//! Growing XFS version 5 that nobody has mounted, its log clean.
//!
//! ```text
//!  last group    longer: AGF, AGI, and one more free extent in both trees of free space
//!  new groups    headers, and trees that know of nothing but themselves
//!  superblock    blocks, groups, free blocks; in every group
//! ```
//!
//! It comes to what `xfs_growfs` comes to, but for the order of writes, which is the committer's (see [`super::grow`]).

mod free;
mod group;
mod superblock;

use free::{Tree, appended};
use group::{AGF_CRC, AGI_CRC};
use superblock::Super;

use super::xfs_scrub::stamp_crc;
use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{be32, put_be32};
use crate::engine::io::{WriteAt, read_vec};

/// Makes the filesystem on `dev` span all of it; `None` when it does already, as far as it can.
/// Returns the bytes it spanned and those it spans.
///
/// Errors: it is damaged, or uses what is not known here. Then something may have been written: `dev` is a draft.
pub(super) fn grow(dev: &dyn WriteAt) -> Result<Option<(u64, u64)>> {
    let old = Super::read(dev)?;
    let block = old.block_size();
    let Some(mut new) = old.for_blocks(dev.len() / block)? else { return Ok(None) };
    let last = old.groups() - 1;
    let more = new.len_of(last).saturating_sub(old.len_of(last));
    if more > 0 {
        extend(dev, &old, last, more as u32)?;
        new.add_free(more);
    }
    for ag in old.groups()..new.groups() {
        let free = group::write(dev, &new, ag)?;
        new.add_free(free);
    }
    for ag in 0..new.groups() {
        dev.write_at(new.start_of(ag), &new.bytes())?;
    }
    Ok(Some((old.blocks() * block, new.blocks() * block)))
}

/// Makes group `ag` longer by `more` blocks, which are free.
fn extend(dev: &dyn WriteAt, sb: &Super, ag: u64, more: u32) -> Result<()> {
    let len = sb.len_of(ag) as u32;
    let damaged = |what: &str| Error::corrupt(format!("{what} of group {ag} is damaged")).hint("let xfs_repair mend it");
    let header = |n: u64, magic: &[u8; 4], crc: usize, what: &str| -> Result<(u64, Vec<u8>)> {
        let at = sb.start_of(ag) + n * sb.sector();
        let bytes = read_vec(dev, at, sb.sector(), sb.sector())?;
        let mut sealed = bytes.clone();
        stamp_crc(&mut sealed, crc);
        let own = bytes.starts_with(magic) && be32(&bytes, 8) == Some(ag as u32) && be32(&bytes, 12) == Some(len);
        if own && sealed == bytes { Ok((at, bytes)) } else { Err(damaged(what).at(at)) }
    };
    let (agf_at, mut agf) = header(1, b"XAGF", AGF_CRC, "the header of free space")?;
    let (agi_at, mut agi) = header(2, b"XAGI", AGI_CRC, "the header of inodes")?;
    let field = |at: usize| be32(&agf, at).unwrap_or(0);
    let by_place = Tree::read(dev, sb, ag, field(16), field(28), b"AB3B")?;
    let by_size = Tree::read(dev, sb, ag, field(20), field(32), b"AB3C")?;
    let free = field(52);
    let records = by_place.records();
    let sum: u64 = records.iter().map(|(_, n)| u64::from(*n)).sum();
    let ordered = records.windows(2).all(|w| matches!(w, [a, b] if a.0.checked_add(a.1).is_some_and(|end| end < b.0)));
    let inside = records.last().is_none_or(|(at, n)| at.checked_add(*n).is_some_and(|end| end <= len));
    let mut sizes = by_size.records();
    sizes.sort_unstable();
    if sum != u64::from(free) || !ordered || !inside || sizes != records {
        return Err(damaged("the free space"));
    }
    let records = appended(records, (len, more));
    let mut sizes = records.clone();
    sizes.sort_unstable_by_key(|(at, n)| (*n, *at));
    by_place.write(dev, sb, &records)?;
    by_size.write(dev, sb, &sizes)?;
    let longest = sizes.last().map_or(0, |(_, n)| *n);
    let _ = put_be32(&mut agf, 12, len + more) && put_be32(&mut agf, 52, free + more) && put_be32(&mut agf, 56, longest);
    let _ = put_be32(&mut agi, 12, len + more);
    stamp_crc(&mut agf, AGF_CRC);
    stamp_crc(&mut agi, AGI_CRC);
    dev.write_at(agf_at, &agf)?;
    dev.write_at(agi_at, &agi)
}
