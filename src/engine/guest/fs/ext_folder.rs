//! Folders of ext2, ext3 and ext4: the names in their blocks. Blocks of an index look like blocks without names.
//!
//! The crate's own listing and look-up read through several layers for every folder, and take no older block lists.

use super::ext::Ext;
use super::{DirEntry, FileExtent, Node, guarded};
use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{le16, le32};

/// Names in one folder, at most: a damaged folder must not fill the memory.
const MAX_NAMES: usize = 1_000_000;
/// Blocks of a folder from which on its index is asked for a name.
const LARGE: u64 = 16;
/// Flag of inodes: encrypted.
const ENCRYPTED: u32 = 0x800;

/// The names in a block of a folder, and the inodes they lead to; `typed`: entries carry the type of what they name. Ends with an error
/// where they make no sense.
pub(super) fn names_in(b: &[u8], typed: bool) -> impl Iterator<Item = Result<(&[u8], Node)>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < b.len() {
            let start = at;
            let (node, len) = (le32(b, at).unwrap_or(0), le16(b, at + 4).map_or(0, usize::from));
            // Blocks of 64 KiB: a length that does not fit is written as 65535 or 0.
            let len = if b.len() == 1 << 16 && (len == 0 || len == 0xffff) { b.len() - at } else { len };
            let name = b.get(at + 6).map_or(0, |n| usize::from(*n))
                | if typed { 0 } else { b.get(at + 7).map_or(0, |n| usize::from(*n) << 8) };
            if len < 8 || !len.is_multiple_of(4) || at + len > b.len() || (node != 0 && 8 + name > len) {
                at = b.len();
                return Some(Err(Error::corrupt("names that make no sense")));
            }
            at += len;
            if node != 0 {
                return Some(Ok((b.get(start + 8..start + 8 + name).unwrap_or_default(), u64::from(node))));
            }
        }
        None
    })
}

impl Ext {
    /// Every name of a folder, `.` and `..` too.
    pub(super) fn entries(&self, dir: Node) -> Result<Vec<DirEntry>> {
        let mut out = Vec::new();
        self.names_until(dir, &mut |name, node| {
            out.push(DirEntry { name: name.to_vec(), node });
            out.len() <= MAX_NAMES
        })?;
        if out.len() > MAX_NAMES {
            return Err(Error::corrupt(format!("a folder with more than {MAX_NAMES} names")).op("read folder"));
        }
        Ok(out)
    }

    /// What `name` leads to.
    pub(super) fn named(&self, dir: Node, name: &[u8]) -> Result<Option<Node>> {
        let (ino, inode, _) = self.inode(dir)?;
        if inode.has_extents() && inode.size > LARGE * u64::from(self.fs.sb.block_size()) {
            return guarded("look up a name", || match self.fs.lookup_at(ino, name) {
                Err(fs_ext4::error::Error::NotFound) => Ok(None),
                other => other.map(|n| Some(u64::from(n))),
            });
        }
        let mut found = None;
        self.names_until(dir, &mut |known, node| {
            found = (known == name).then_some(node);
            found.is_none()
        })?;
        Ok(found)
    }

    /// Calls `visit` with the names of a folder, until it says false.
    pub(super) fn names_until(&self, dir: Node, visit: &mut dyn FnMut(&[u8], Node) -> bool) -> Result<()> {
        let (ino, inode, _) = self.inode(dir)?;
        if !inode.is_dir() {
            return Err(Error::usage("it is not a folder"));
        }
        if inode.flags & ENCRYPTED != 0 {
            return Err(Error::unsupported("its names are encrypted").op("read folder"));
        }
        if inode.has_inline_data() {
            let found = guarded("read folder", || self.fs.read_dir_ino(ino))?;
            let _ = found.into_iter().all(|e| visit(&e.name, u64::from(e.inode)));
            return Ok(());
        }
        let size = u64::from(self.fs.sb.block_size());
        let mut bytes = Vec::new();
        for FileExtent { offset, place, len } in self.places_of(dir, &inode, false)? {
            let inside = inode.size.saturating_sub(offset).min(len).div_ceil(size);
            for block in (place / size)..(place / size).saturating_add(inside) {
                self.blocks_into(block, 1, &mut bytes)?;
                for entry in names_in(&bytes, self.typed) {
                    let (name, node) = entry.map_err(|e| e.op("read folder"))?;
                    if !visit(name, node) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}
