//! Removing many names from ext2, ext3 and ext4 that nobody has mounted, each structure written once.
//!
//! ```text
//!  folders   names go out of their blocks, whose indexes stay valid without them; times, and links of folders that are gone
//!  inodes    one name less, or cleared: then its blocks, its attributes and their values, and its number are free
//!  books     bitmaps, descriptors, counts (account.rs)
//! ```
//!
//! Names in folders that go themselves are left where they are: their blocks become free space. The journal is not used: whoever
//! calls gives a draft, and it commits.

mod account;
mod attributes;
mod blocks;
mod inode;
mod names;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use account::Account;
use inode::{FOLDER, INDEXED, INLINE, Inode, MAP, VALUE};

use super::ext_super::{Sums, raw_crc32c};
use super::{Node, Removal};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::io::bytes::{le16, le32, put_le32};
use crate::engine::io::{WriteAt, read_vec};
use crate::engine::units::printable_bytes;

/// Blocks of one folder, at most.
const MAX_BLOCKS: u64 = 1 << 20;
/// The entry at a block's end that holds its checksum.
const TAIL: usize = 12;

/// Does what [`super::remove_all`] says.
pub(super) fn remove(dev: &dyn WriteAt, wanted: &[Removal<'_>]) -> Result<Vec<bool>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let mut r = Remover { dev, books: Account::open(dev)?, now };
    let mut gone = vec![false; wanted.len()];
    // What goes, folder by folder, and how many of its names that are.
    let mut losses: BTreeMap<u32, Vec<&Removal<'_>>> = BTreeMap::new();
    for (w, gone) in wanted.iter().zip(&mut gone).filter(|(w, _)| !w.folder) {
        losses.entry(number(w.dir)?).or_default().push(w);
        *gone = true;
    }
    let mut folders: HashMap<u32, usize> = HashMap::new();
    for w in wanted.iter().filter(|w| w.folder) {
        let ino = number(w.node)?;
        folders.insert(ino, r.names_in(ino)?);
    }
    let mut emptied = HashSet::new();
    for (w, gone) in wanted.iter().zip(&mut gone).filter(|(w, _)| w.folder) {
        let (ino, dir) = (number(w.node)?, number(w.dir)?);
        if folders.get(&ino) != Some(&losses.get(&ino).map_or(0, Vec::len)) {
            continue;
        }
        if !emptied.insert(ino) {
            return Err(Error::corrupt(format!("inode {ino} is a folder with two names")));
        }
        losses.entry(dir).or_default().push(w);
        *gone = true;
    }
    let mut links: BTreeMap<u32, u16> = BTreeMap::new();
    for (dir, lost) in &losses {
        r.take_names(*dir, lost, emptied.contains(dir))?;
        for w in lost.iter().filter(|w| !w.folder) {
            let n = links.entry(number(w.node)?).or_default();
            *n = n.checked_add(1).ok_or_else(|| Error::corrupt(format!("inode {} has too many names", w.node)))?;
        }
    }
    for (ino, n) in links {
        r.unlink(ino, n)?;
    }
    for ino in emptied {
        r.free(Inode::read(dev, &r.books, ino)?)?;
    }
    r.books.close(dev)?;
    Ok(gone)
}

fn number(node: Node) -> Result<u32> {
    u32::try_from(node).map_err(|_| Error::corrupt("an inode number past 2^32"))
}

struct Remover<'a> {
    dev: &'a dyn WriteAt,
    books: Account,
    now: i64,
}

impl Remover<'_> {
    /// A folder's inode. Errors: it is something else.
    fn folder(&self, ino: u32) -> Result<Inode> {
        let inode = Inode::read(self.dev, &self.books, ino)?;
        if inode.kind() == FOLDER { Ok(inode) } else { Err(Error::usage(format!("inode {ino} is no folder"))) }
    }

    /// How many names are in folder `ino`.
    fn names_in(&self, ino: u32) -> Result<usize> {
        let (inode, typed) = (self.folder(ino)?, self.books.sb.typed());
        if inode.flags() & INLINE != 0 {
            let parts = inline_parts(&inode)?;
            return parts.into_iter().try_fold(0, |n, p| Ok(n + names::count(inode.raw.get(p).unwrap_or_default(), typed)?));
        }
        self.blocks(&inode)?.into_iter().try_fold(0, |n, place| Ok(n + names::count(&self.read(place)?, typed)?))
    }

    fn read(&self, block: u64) -> Result<Vec<u8>> {
        let size = self.books.sb.block_size();
        read_vec(self.dev, block.saturating_mul(size), size, size)
    }

    /// Every block of a folder.
    fn blocks(&self, inode: &Inode) -> Result<Vec<u64>> {
        let runs = blocks::of(self.dev, &self.books.sb, inode)?.data;
        if runs.iter().map(|(_, n)| n).sum::<u64>() > MAX_BLOCKS {
            return Err(Error::unsupported(format!("inode {} is a folder of more than {MAX_BLOCKS} blocks", inode.ino)));
        }
        Ok(runs.into_iter().flat_map(|(start, n)| start..start + n).collect())
    }

    /// Takes the names `lost` out of folder `dir`. With `look` they are only looked for: the folder goes itself.
    fn take_names(&self, dir: u32, lost: &[&Removal<'_>], look: bool) -> Result<()> {
        let mut wanted: HashMap<&[u8], u32> = HashMap::new();
        for w in lost {
            if matches!(w.name, b"" | b"." | b"..") || wanted.insert(w.name, number(w.node)?).is_some() {
                return Err(Error::usage(format!("'{}' cannot be removed", printable_bytes(w.name))));
            }
        }
        let (mut inode, typed) = (self.folder(dir)?, self.books.sb.typed());
        if inode.flags() & INLINE != 0 {
            for part in inline_parts(&inode)? {
                names::take(inode.raw.get_mut(part).unwrap_or_default(), typed, &mut wanted)?;
            }
        } else {
            for (i, place) in self.blocks(&inode)?.into_iter().enumerate() {
                if wanted.is_empty() {
                    break;
                }
                let mut block = self.read(place)?;
                // Blocks of the index hold no names.
                let whole = le16(&block, 4).map(usize::from) == Some(block.len()) || block.len() == 1 << 16;
                if inode.flags() & INDEXED != 0 && (i == 0 || (le32(&block, 0) == Some(0) && whole)) {
                    continue;
                }
                let sum = |block: &[u8]| self.sum(&inode, block);
                let end = block.len().saturating_sub(4);
                if sum(&block).is_some_and(|sum| le32(&block, end) != Some(sum)) {
                    return Err(Error::corrupt(format!("the checksum of a folder's block is wrong (inode {dir})")));
                }
                if names::take(&mut block, typed, &mut wanted)? > 0 && !look {
                    if let Some(sum) = sum(&block) {
                        let _ = put_le32(&mut block, end, sum);
                    }
                    self.dev.write_at(place.saturating_mul(self.books.sb.block_size()), &block)?;
                }
            }
        }
        if let Some(name) = wanted.keys().next() {
            let name = printable_bytes(name);
            return Err(Error::new(ErrorKind::NotFound, format!("there is no '{name}' in the folder of inode {dir}")));
        }
        if look {
            return Ok(());
        }
        // Each folder in it has a link back; from 65,000 on they are no longer counted, which 1 stands for.
        let folders = lost.iter().filter(|w| w.folder).count();
        if folders > 0 && inode.links() != 1 {
            let left = usize::from(inode.links()).checked_sub(folders).filter(|n| *n >= 2);
            let left = left.ok_or_else(|| Error::corrupt(format!("inode {dir} has fewer links than folders in it")))?;
            inode.set_links(left as u16);
        }
        inode.touch(self.now, true);
        inode.write(self.dev, &self.books.sb)
    }

    /// The checksum of a block of names; `None` where there are none.
    fn sum(&self, inode: &Inode, block: &[u8]) -> Option<u32> {
        (self.books.sb.sums() == Sums::Crc32c)
            .then(|| raw_crc32c(inode.seed(&self.books.sb), block.get(..block.len().saturating_sub(TAIL)).unwrap_or_default()))
    }

    /// Takes `n` names from the file `ino`, which with its last one is gone.
    fn unlink(&mut self, ino: u32, n: u16) -> Result<()> {
        let mut inode = Inode::read(self.dev, &self.books, ino)?;
        if inode.kind() == FOLDER || inode.flags() & VALUE != 0 {
            return Err(Error::usage(format!("inode {ino} is no file")));
        }
        let left = inode.links().checked_sub(n);
        match left.ok_or_else(|| Error::corrupt(format!("inode {ino} has {} links and {n} names", inode.links())))? {
            0 => self.free(inode),
            left => {
                inode.set_links(left);
                inode.touch(self.now, false);
                inode.write(self.dev, &self.books.sb)
            }
        }
    }

    /// Frees an inode and all that is only its own.
    fn free(&mut self, inode: Inode) -> Result<()> {
        for value in self.free_one(inode)? {
            let mut inode = Inode::read(self.dev, &self.books, value)?;
            let uses = inode.uses().checked_sub(1).filter(|_| inode.flags() & VALUE != 0);
            match uses.ok_or_else(|| Error::corrupt(format!("inode {value} is no attribute's value")))? {
                // A value has no attributes of its own.
                0 => drop(self.free_one(inode)?),
                left => {
                    inode.set_uses(left);
                    inode.write(self.dev, &self.books.sb)?;
                }
            }
        }
        Ok(())
    }

    /// Frees an inode, its blocks and its block of attributes. Answers which inodes were values of those.
    fn free_one(&mut self, mut inode: Inode) -> Result<Vec<u32>> {
        let blocks = blocks::of(self.dev, &self.books.sb, &inode)?;
        for (start, len) in blocks.data.into_iter().chain(blocks.nodes.into_iter().map(|b| (b, 1))) {
            self.books.free_blocks(self.dev, start, len)?;
        }
        let values = attributes::release(self.dev, &mut self.books, &inode)?;
        self.books.free_inode(self.dev, inode.ino, inode.kind() == FOLDER)?;
        inode.clear(self.now);
        inode.write(self.dev, &self.books.sb)?;
        Ok(values)
    }
}

/// Where the names of a folder are that is kept in its inode: behind the number of the folder above, and in an attribute.
fn inline_parts(inode: &Inode) -> Result<Vec<std::ops::Range<usize>>> {
    let first = MAP.start + 4..MAP.end;
    Ok(std::iter::once(first).chain(attributes::more_content(inode)?.filter(|r| !r.is_empty())).collect())
}
