//! What edits of an ext filesystem leave behind: names in folders' blocks, inode tables never used, copies in the journal.

use super::scrub::wipe;
use super::{Ext, GuestFs, Node, Scrubbed, Traces, guarded};
use crate::engine::error::{Error, Result};
use crate::engine::guest::recognise::FsInfo;
use crate::engine::io::bytes::{be32, le16, le32};
use crate::engine::io::{Device, WriteAt, WriteDevice};

/// Blocks of one folder looked at, at most.
const MAX_BLOCKS: u64 = 1 << 20;
/// A folder indexed by hashes (EXT4_INDEX_FL).
const INDEXED: u32 = 0x1000;
/// Levels of such an index, at most (largedir has three).
const MAX_LEVELS: u8 = 3;

/// Wipes what is left on `dev`, whose filesystem was closed.
pub(super) fn scrub(dev: &WriteDevice, info: FsInfo, traces: &Traces) -> Result<Scrubbed> {
    let read: Device = dev.clone();
    let ext = Ext::open(read, info)?;
    for folder in &traces.folders {
        wipe_names(&ext, dev.as_ref(), *folder)?;
    }
    wipe_unused_inodes(&ext, dev.as_ref())?;
    let journal = wipe_journal(&ext, dev.as_ref())?;
    Ok(Scrubbed { unsaved: journal, ..Scrubbed::default() })
}

/// Zeroes what lies between the names in folder `dir`.
fn wipe_names(ext: &Ext, dev: &dyn WriteAt, dir: Node) -> Result<()> {
    let (ino, inode, _) = ext.inode(dir)?;
    // Names inside the inode go with the inode's own rewriting.
    if !inode.is_dir() || inode.has_inline_data() {
        return Ok(());
    }
    let size = u64::from(ext.fs.sb.block_size());
    let blocks = (inode.size / size.max(1)).min(MAX_BLOCKS);
    let read = |logical: u64| -> Result<Option<(u64, Vec<u8>)>> {
        let Some(place) = guarded("read folder", || ext.fs.map_inode_logical(&inode, logical))? else { return Ok(None) };
        Ok(Some((place * size, ext.block(place)?)))
    };
    let mut index = Vec::new();
    if inode.flags & INDEXED != 0 {
        index.push(0);
        let root = read(0)?.map(|(_, b)| b).unwrap_or_default();
        let levels = root.get(30).copied().unwrap_or(0);
        if levels > MAX_LEVELS {
            return Err(Error::corrupt("a folder's index has too many levels"));
        }
        // The entries behind the root's head of 32 bytes, and behind the 8 of a node.
        let mut level = vec![(root, 32)];
        for _ in 0..levels {
            let mut next = Vec::new();
            for (block, at) in &level {
                for child in children(block, *at) {
                    index.push(child);
                    if let Some((_, b)) = read(child)? {
                        next.push((b, 8));
                    }
                }
            }
            level = next;
        }
    }
    for logical in (0..blocks).filter(|b| !index.contains(b)) {
        let Some((place, mut block)) = read(logical)? else { continue };
        if wipe_gaps(&mut block) {
            ext.fs.csum.patch_dir_entry_tail(ino, inode.generation, &mut block);
            dev.write_at(place, &block)?;
        }
    }
    Ok(())
}

/// The blocks that an index block points to (`dx_entry`: the first has the limit and the count in place of a hash).
fn children(block: &[u8], at: usize) -> Vec<u64> {
    let count = le16(block, at + 2).map_or(0, usize::from);
    (0..count).filter_map(|i| Some(u64::from(le32(block, at + i * 8 + 4)? & 0x0fff_ffff))).collect()
}

/// Zeroes what no entry uses; true when there was something. Stops where the entries make no sense.
fn wipe_gaps(block: &mut [u8]) -> bool {
    let (mut at, mut changed) = (0, false);
    while let (Some(inode), Some(len)) = (le32(block, at), le16(block, at + 4).map(usize::from)) {
        if len < 8 || at + len > block.len() {
            break;
        }
        let name = block.get(at + 6).map_or(0, |n| usize::from(*n));
        let tail = inode == 0 && len == 12 && block.get(at + 7) == Some(&0xde);
        if !tail {
            let used = if inode == 0 { 6 } else { (8 + name).next_multiple_of(4) };
            // Padding behind the name belongs to what is not used.
            let from = if inode == 0 { at + 6 } else { at + 8 + name };
            if used <= len
                && let Some(gap) = block.get_mut(from..at + len).filter(|g| g.iter().any(|b| *b != 0))
            {
                gap.fill(0);
                changed = true;
            }
        }
        at += len;
    }
    changed
}

/// Zeroes the parts of inode tables that were never used (the groups count them), as making the filesystem may have left them as
/// they were.
fn wipe_unused_inodes(ext: &Ext, dev: &dyn WriteAt) -> Result<()> {
    let sb = &ext.fs.sb;
    // Only with checksums of groups is the count kept.
    if sb.feature_ro_compat & 0x0410 == 0 {
        return Ok(());
    }
    let (size, per_group) = (u64::from(sb.inode_size), u64::from(sb.inodes_per_group));
    for group in &ext.fs.groups {
        let unused = u64::from(group.itable_unused).min(per_group);
        let start = group.inode_table.saturating_mul(u64::from(sb.block_size())) + (per_group - unused) * size;
        wipe(dev, start, unused * size)?;
    }
    Ok(())
}

/// Zeroes the journal behind its superblock, which says that it is empty. Returns where it lies.
fn wipe_journal(ext: &Ext, dev: &dyn WriteAt) -> Result<Vec<(u64, u64)>> {
    let sb = &ext.fs.sb;
    if sb.feature_compat & 4 == 0 || sb.journal_inode == 0 {
        return Ok(Vec::new());
    }
    let mut places = ext.extents(u64::from(sb.journal_inode))?;
    let block = u64::from(sb.block_size());
    let first = places.first_mut().filter(|e| e.offset == 0).ok_or_else(|| Error::corrupt("the journal has no superblock"))?;
    let mut head = [0u8; 1024];
    dev.read_at(first.place, &mut head)?;
    if be32(&head, 0) != Some(0xc03b_3998) || be32(&head, 28) != Some(0) {
        return Err(Error::corrupt("the journal is not empty after it was closed"));
    }
    (first.offset, first.place, first.len) = (block, first.place + block, first.len - block);
    let mut out = Vec::new();
    for e in places.iter().filter(|e| e.len > 0) {
        wipe(dev, e.place, e.len)?;
        out.push((e.place, e.len));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::io::bytes::put;

    fn entry(block: &mut [u8], at: usize, inode: u32, len: u16, name: &[u8]) {
        assert!(put(block, at, &inode.to_le_bytes()));
        assert!(put(block, at + 4, &len.to_le_bytes()));
        assert!(put(block, at + 6, &[name.len() as u8, 1]));
        assert!(put(block, at + 8, name));
    }

    #[test]
    fn names_that_are_gone_leave_nothing() {
        let mut block = vec![0x55; 64];
        entry(&mut block, 0, 11, 32, b"kept");
        entry(&mut block, 32, 0, 20, b"deleted");
        assert!(put(&mut block, 52, &[0, 0, 0, 0, 12, 0, 0, 0xde, 1, 2, 3, 4]));
        assert!(wipe_gaps(&mut block));
        assert_eq!(block.get(..12), Some(&[11, 0, 0, 0, 32, 0, 4, 1, b'k', b'e', b'p', b't'][..]));
        assert!(block[12..32].iter().chain(&block[38..52]).all(|b| *b == 0));
        assert_eq!((block[59], block[63]), (0xde, 4), "the checksum's entry stays");
        assert!(!wipe_gaps(&mut block), "nothing is left to do");
    }

    #[test]
    fn nonsense_is_left_alone() {
        let mut block = vec![0xff; 32];
        assert!(!wipe_gaps(&mut block));
        assert_eq!(block, [0xff; 32]);
    }
}
