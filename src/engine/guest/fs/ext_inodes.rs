//! The inodes of an ext filesystem that are in use, one after the other as they lie on the volume: for whoever asks about all of them.

use std::collections::HashSet;

use fs_ext4::checksum::{Checksummer, linux_crc32c};

use super::ext::Ext;
use super::{FileExtent, FileType, Stored};
use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{le16, le32, put};

/// Bytes of an inode table read at a time.
const PIECE: u64 = 32 << 10;
/// Levels of an extent tree, at most.
pub(super) const LEVELS: u16 = 5;
/// Number of the root's inode, and of the first of files where the superblock does not say.
pub(super) const ROOT: u64 = 2;
const FIRST: u64 = 11;
/// Flags of inodes: mapped by extents, an attribute's value, content in the inode.
pub(super) const EXTENTS: u32 = 0x8_0000;
pub(super) const VALUE: u32 = 0x20_0000;
pub(super) const INLINE: u32 = 0x1000_0000;

impl Ext {
    /// The number of the first inode that is no part of the filesystem's own.
    pub(super) fn first_file(&self) -> u64 {
        le32(&self.fs.sb.raw, 0x54).map_or(FIRST, u64::from).max(FIRST)
    }

    /// Calls `visit` with each inode that its group says is in use: its number, and its bytes.
    pub(super) fn each_inode(&self, mut visit: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let sb = &self.fs.sb;
        let (size, per_group) = (u64::from(sb.inode_size), u64::from(sb.inodes_per_group));
        let block = u64::from(sb.block_size());
        if size < 128 || size > block || per_group == 0 {
            return Err(Error::corrupt("the superblock's inodes make no sense"));
        }
        // Groups that say how many of their inodes were never used.
        let counted = sb.feature_ro_compat & 0x0410 != 0;
        let at_once = PIECE.max(block) / size;
        let (mut bitmap, mut bytes) = (Vec::new(), Vec::new());
        for (n, group) in self.fs.groups.iter().enumerate() {
            if counted && group.flags & 1 != 0 {
                continue;
            }
            let unused = if counted { u64::from(group.itable_unused).min(per_group) } else { 0 };
            let mut end = per_group - unused;
            self.blocks_into(group.inode_bitmap, 1, &mut bitmap)?;
            let used = |i: u64| bitmap.get((i / 8) as usize).is_some_and(|b| b & (1 << (i % 8)) != 0);
            // A bitmap is one block, whatever the superblock says of a group.
            end = end.min(bitmap.len() as u64 * 8);
            let mut first = 0;
            while first < end {
                let stop = (first + at_once).min(end);
                if (first..stop).any(used) {
                    let blocks = ((stop - first) * size).div_ceil(block);
                    self.blocks_into(group.inode_table.saturating_add(first * size / block), blocks, &mut bytes)?;
                    for (raw, i) in bytes.chunks_exact(size as usize).zip(first..stop).filter(|(_, i)| used(*i)) {
                        visit(n as u64 * per_group + i + 1, raw)?;
                    }
                }
                first = stop;
            }
        }
        Ok(())
    }

    /// Calls `visit` with every file, folder, link and so on: what it is, and where it lies.
    pub(super) fn each_stored(&self, visit: &mut dyn FnMut(&Stored<'_>)) -> Result<()> {
        let first = self.first_file();
        let (mut seen, mut leaves, mut places) = (HashSet::new(), Vec::new(), Vec::new());
        self.each_inode(|node, raw| {
            let (mode, links, flags) = (le16(raw, 0).unwrap_or(0), le16(raw, 26).unwrap_or(0), le32(raw, 32).unwrap_or(0));
            if links == 0 || flags & VALUE != 0 || (node < first && node != ROOT) {
                return Ok(());
            }
            let kind = FileType::of_mode(u32::from(mode));
            places.clear();
            if kind == FileType::File && flags & INLINE == 0 {
                if flags & EXTENTS != 0 {
                    seen.clear();
                    leaves.clear();
                    let map = raw.get(40..100).unwrap_or_default();
                    if self.tree_node(map, None, &mut seen, &mut leaves).is_ok() {
                        places.extend(self.stored(&leaves, false));
                    }
                } else {
                    places.extend(self.places(node, false).unwrap_or_default());
                }
            }
            let high = if kind == FileType::File { u64::from(le32(raw, 108).unwrap_or(0)) << 32 } else { 0 };
            let size = u64::from(le32(raw, 4).unwrap_or(0)) | high;
            visit(&Stored { node, kind, size, places: &places });
            Ok(())
        })
    }
}

impl Ext {
    /// The extents of a tree whose root, in the inode, is `root`. A node that is met twice ends it: trees that share nodes would be
    /// gone through for ever.
    pub(super) fn tree(&self, root: &[u8]) -> Result<Vec<Leaf>> {
        let (mut seen, mut out) = (HashSet::new(), Vec::new());
        self.tree_node(root, None, &mut seen, &mut out)?;
        Ok(out)
    }

    /// Extents in bytes; with `unwritten` also what is reserved and was never written.
    pub(super) fn stored(&self, all: &[Leaf], unwritten: bool) -> impl Iterator<Item = FileExtent> {
        let block = u64::from(self.fs.sb.block_size());
        let bytes = move |&(logical, place, len, _): &Leaf| FileExtent {
            offset: logical * block,
            place: place.saturating_mul(block),
            len: len * block,
        };
        all.iter().filter(move |(_, _, _, written)| unwritten || *written).map(bytes)
    }

    fn tree_node(&self, node: &[u8], level: Option<u16>, seen: &mut HashSet<u64>, out: &mut Vec<Leaf>) -> Result<()> {
        let bad = || Error::corrupt("an extent tree that makes no sense").op("read extents");
        let (entries, depth) = (le16(node, 2).unwrap_or(0), le16(node, 6).unwrap_or(u16::MAX));
        let fits = usize::from(entries) * 12 + 12 <= node.len();
        if le16(node, 0) != Some(0xf30a) || depth > LEVELS || !fits || level.is_some_and(|l| l != depth) {
            return Err(bad());
        }
        for e in node.get(12..).unwrap_or_default().chunks_exact(12).take(usize::from(entries)) {
            if depth == 0 {
                let leaf = leaf(e).ok_or_else(bad)?;
                if out.last().is_some_and(|(logical, _, len, _)| leaf.0 < logical + len) {
                    return Err(bad());
                }
                out.push(leaf);
                continue;
            }
            let child = u64::from(le32(e, 4).unwrap_or(0)) | u64::from(le16(e, 8).unwrap_or(0)) << 32;
            if child >= self.fs.sb.blocks_count || !seen.insert(child) {
                return Err(bad());
            }
            self.tree_node(&self.block(child)?, Some(depth - 1), seen, out)?;
        }
        Ok(())
    }
}

/// True when the checksum in an inode, number `ino`, is that of its bytes; of a filesystem without checksums it always is.
pub(super) fn is_whole(csum: &Checksummer, ino: u32, raw: &[u8]) -> bool {
    const MOST: usize = 1024;
    let mut all = [0; 8 + MOST];
    // Inodes are smaller; the crate copies each, and sums it up in four parts.
    let (Some(bytes), Some(generation)) = (all.get_mut(..8 + raw.len()), raw.get(100..104)) else {
        return csum.verify_inode(ino, le32(raw, 100).unwrap_or(0), raw);
    };
    let _ = put(bytes, 0, &ino.to_le_bytes()) && put(bytes, 4, generation) && put(bytes, 8, raw);
    // The upper half lies behind the first 128 bytes, where the inode says that it is so long.
    let long = raw.len() > 128 && le16(raw, 128).is_some_and(|extra| extra >= 4);
    let _ = put(bytes, 8 + 124, &[0; 2]) && (!long || put(bytes, 8 + 130, &[0; 2]));
    let sum = linux_crc32c(csum.seed, bytes);
    let (low, high) = (le16(raw, 124).map(u32::from), le16(raw, 130).map(u32::from));
    !csum.enabled || (low == Some(sum & 0xffff) && (!long || high == Some(sum >> 16)))
}

/// An extent: the first block in the file, on the volume, how many, and whether they were ever written.
pub(super) type Leaf = (u64, u64, u64, bool);

/// An extent as it stands in a leaf.
pub(super) fn leaf(e: &[u8]) -> Option<Leaf> {
    let (logical, len) = (u64::from(le32(e, 0)?), u64::from(le16(e, 4)?));
    let place = u64::from(le32(e, 8)?) | u64::from(le16(e, 6)?) << 32;
    // Longer than 32768: reserved, and not yet written.
    Some(if len > 0x8000 { (logical, place, len - 0x8000, false) } else { (logical, place, len, true) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Beside the crate's own, with the right sum in it and with any.
        #[test]
        fn an_inode_is_whole_when_the_crate_says_so(
            mut raw in prop::sample::select(vec![128usize, 256, 512, 1024, 2048]).prop_flat_map(|n| prop::collection::vec(any::<u8>(), n)),
            ino in 1u32..5000,
            seed: u32,
            extra in 0u16..40,
            right in prop::sample::select(vec![true, true, false]),
            enabled in prop::sample::select(vec![true, true, true, false]),
        ) {
            let csum = Checksummer { seed, enabled };
            if raw.len() > 128 {
                raw[128..130].copy_from_slice(&extra.to_le_bytes());
            }
            let generation = le32(&raw, 100).unwrap();
            if let Some((low, high)) = csum.compute_inode_checksum(ino, generation, &raw).filter(|_| right) {
                raw[124..126].copy_from_slice(&low.to_le_bytes());
                if raw.len() > 128 && extra >= 4 {
                    raw[130..132].copy_from_slice(&high.to_le_bytes());
                }
                prop_assert!(is_whole(&csum, ino, &raw));
            }
            prop_assert_eq!(is_whole(&csum, ino, &raw), csum.verify_inode(ino, generation, &raw));
        }
    }
}
