//! Growing ext2, ext3 and ext4 that nobody has mounted.
//!
//! ```text
//!  last group      its bitmap gets the blocks behind its old end, as free ones
//!  new groups      [superblock, descriptors, reserved] block bitmap, inode bitmap, inodes; the rest is free
//!  descriptors     more of them, in blocks that were reserved for that, and in every copy
//!  inode 7         gives up those blocks, and learns of the copies in new groups
//!  superblock      the counts, in every copy
//! ```
//!
//! Every new group holds its own structures, also with flex_bg, which allows more and asks for nothing. With checksums of groups the
//! bitmaps of new groups are left uninitialised, as making a filesystem leaves them; their inode tables are zeros in any case.
//! Descriptors are never moved: what would need more of them than are reserved is refused (meta_bg has them in the new groups).

mod resize_inode;

use super::ext_groups::{BLOCK_UNINIT, Groups, INODE_UNINIT, INODE_ZEROED};
use super::ext_super::{AT, Sums, Super};
use crate::engine::error::{Error, Result};
use crate::engine::io::{WriteAt, read_vec};

/// Blocks a last group must have beside its own structures, so that it is worth having.
const MIN_GROUP: u64 = 50;

/// Makes the filesystem on `dev` span all of it; `None` when it does already, as far as it can.
/// Returns the bytes it spanned and those it spans.
///
/// Errors: it is damaged, not clean, or uses what is not known here. Then something may have been written: `dev` is a draft.
pub(super) fn grow(dev: &dyn WriteAt) -> Result<Option<(u64, u64)>> {
    let old = Super::read(dev)?;
    old.refuse_growing()?;
    let block = old.block_size();
    if old.blocks().checked_mul(block).is_none_or(|size| size > dev.len()) {
        return Err(Error::corrupt("the filesystem is larger than the volume that holds it").at(AT));
    }
    let Some(mut new) = target(&old, dev.len() / block)? else { return Ok(None) };
    let mut groups = Groups::read(dev, &old)?;
    groups.resize(new.groups());
    let last = old.groups() - 1;
    let more = new.group_len(last) - old.group_len(last);
    if more > 0 {
        extend(dev, &mut groups, &new, last, old.group_len(last))?;
    }
    for g in old.groups()..new.groups() {
        add(dev, &mut groups, &new, g)?;
    }
    if old.reserved() > 0 {
        resize_inode::update(dev, &groups, &old, &new)?;
    }
    let free_blocks = (0..new.groups()).map(|g| groups.free_blocks(g)).sum();
    let free_inodes = (0..new.groups()).map(|g| groups.free_inodes(g)).sum();
    new.set_free(free_blocks, free_inodes);
    new.forget_overhead();
    for index in 0..new.table_blocks() {
        let bytes = groups.block(&new, index);
        for place in new.descriptor_places(index) {
            dev.write_at(place * block, &bytes)?;
        }
    }
    dev.write_at(AT, &new.bytes(0))?;
    for g in (1..new.groups()).filter(|g| new.has_super(*g)) {
        dev.write_at(new.group_start(g) * block, &new.bytes(g))?;
    }
    Ok(Some((old.blocks() * block, new.blocks() * block)))
}

/// What the first `groups` groups begin with by the superblock `raw`: the block, and how many of them hold superblock, descriptors and
/// what is reserved for more of those. Groups that begin with none of that are left out.
pub(super) fn fixed(raw: &[u8], groups: u64) -> Vec<(u64, u64)> {
    let sb = Super::over(raw);
    (0..groups).map(|g| (sb.group_start(g), sb.base_len(g))).filter(|(_, n)| *n > 0).collect()
}

/// The superblock for a volume of `blocks`, its counts of free ones still to be set.
fn target(old: &Super, blocks: u64) -> Result<Option<Super>> {
    if blocks > u64::from(u32::MAX) && !old.is_wide() {
        return Err(Error::unsupported("it counts blocks with 32 bits, and would have more (it lacks the feature 64bit)"));
    }
    let mut wanted = blocks;
    loop {
        if wanted <= old.blocks() {
            return Ok(None);
        }
        let mut new = old.clone();
        new.grow(wanted)?;
        let last = new.groups() - 1;
        let own = new.base_len(last) + 2 + new.inode_blocks();
        // What is left at the end may be too small for a group of its own.
        if last >= old.groups() && new.group_len(last) < own + MIN_GROUP {
            if new.group_len(last) == new.per_group() {
                return Err(Error::corrupt("its groups are too small for their own structures").at(AT));
            }
            wanted = new.group_start(last);
            continue;
        }
        return Ok(Some(new));
    }
}

/// Gives the last group the blocks behind its `old_len`, as free ones.
fn extend(dev: &dyn WriteAt, groups: &mut Groups, new: &Super, g: u64, old_len: u64) -> Result<()> {
    let len = new.group_len(g);
    groups.set_free_blocks(g, groups.free_blocks(g) + (len - old_len));
    if groups.flags(g) & BLOCK_UNINIT == 0 {
        let place = groups.block_bitmap(g) * new.block_size();
        let mut bitmap = read_vec(dev, place, new.block_size(), new.block_size())?;
        fill(&mut bitmap, old_len, len, false);
        dev.write_at(place, &bitmap)?;
        groups.sum_blocks(new, g, &bitmap);
    }
    groups.seal(new, g);
    Ok(())
}

/// Adds group `g`.
fn add(dev: &dyn WriteAt, groups: &mut Groups, new: &Super, g: u64) -> Result<()> {
    let (block, start) = (new.block_size(), new.group_start(g));
    let base = new.base_len(g);
    let own = base + 2 + new.inode_blocks();
    let (bitmap, inode_bitmap, table) = (start + base, start + base + 1, start + base + 2);
    groups.place(g, bitmap, inode_bitmap, table);
    groups.set_free_blocks(g, new.group_len(g) - own);
    groups.set_free_inodes(g, new.inodes_per_group(), 0);
    // Everything at its start: what lay there before is no longer of use to anybody.
    dev.write_zeroes(start * block, own * block)?;
    let lazy = new.sums() != Sums::None;
    let is_last = g + 1 == new.groups();
    if lazy {
        groups.set_free_inodes(g, new.inodes_per_group(), new.inodes_per_group());
        // The last group's bitmap also says where the filesystem ends.
        groups.set_flags(g, INODE_UNINIT | INODE_ZEROED | if is_last { 0 } else { BLOCK_UNINIT });
    } else {
        let mut bits = vec![0; block as usize];
        fill(&mut bits, new.inodes_per_group(), block * 8, true);
        dev.write_at(inode_bitmap * block, &bits)?;
        groups.sum_inodes(new, g, &bits);
    }
    if !lazy || is_last {
        let mut bits = vec![0; block as usize];
        fill(&mut bits, 0, own, true);
        fill(&mut bits, new.group_len(g), block * 8, true);
        dev.write_at(bitmap * block, &bits)?;
        groups.sum_blocks(new, g, &bits);
    }
    groups.seal(new, g);
    Ok(())
}

/// Sets or clears bits `from..to`.
fn fill(bits: &mut [u8], from: u64, to: u64, on: bool) {
    for i in from..to {
        if let Some(byte) = bits.get_mut((i / 8) as usize) {
            let bit = 1 << (i % 8);
            *byte = if on { *byte | bit } else { *byte & !bit };
        }
    }
}
