//! What edits of an XFS filesystem leave behind: names in folders' blocks, forks of inodes that are gone, copies in the log.

use fs_xfs::Superblock;
use fs_xfs::log::head;

use super::device::Reader;
use super::xfs_folder::{HEAD, INDEX, entry_len};
use super::xfs_log::{place, unmounted};
use super::{Node, Scrubbed, Traces, Xfs, guarded};
use crate::engine::error::{Error, Result};
use crate::engine::guest::recognise::FsInfo;
use crate::engine::io::bytes::{be16, be32};
use crate::engine::io::{Device, WriteAt, WriteDevice};

/// Bytes of a version 3 inode's core.
const CORE: usize = 176;
/// Where a version 3 inode has its checksum, and a version 5 folder block.
const INODE_CRC: usize = 100;
const BLOCK_CRC: usize = 4;
/// Bytes of an extent in an inode.
const EXTENT: usize = 16;

/// Wipes what is left on `dev`, whose filesystem was closed; `before` is the volume as it was.
pub(super) fn scrub(before: &Device, dev: &WriteDevice, info: FsInfo, traces: &Traces) -> Result<Scrubbed> {
    let read: Device = dev.clone();
    let xfs = Xfs::open(read, info)?;
    for folder in &traces.folders {
        wipe_names(&xfs, dev.as_ref(), *folder)?;
    }
    for node in &traces.gone {
        wipe_fork(&xfs, dev.as_ref(), *node)?;
    }
    log(&xfs, before)
}

/// A folder's leftovers: in its blocks, or behind its names when it is kept in the inode.
fn wipe_names(xfs: &Xfs, dev: &dyn WriteAt, dir: Node) -> Result<()> {
    let (inode, mut raw) = xfs.inode(dir)?;
    if inode.mode & 0o170_000 != 0o040_000 {
        return Ok(());
    }
    // Byte 82 of the core: where the attributes begin, in units of 8 bytes behind it; 0 when there are none.
    let fork = match raw.get(82).copied().unwrap_or(0) {
        0 => raw.len(),
        n => CORE + usize::from(n) * 8,
    };
    // Names were kept there before it got blocks, too.
    let used = match inode.format {
        fs_xfs::inode::Format::Local => Some(inode.size as usize),
        fs_xfs::inode::Format::Extents => usize::try_from(inode.nextents).ok().and_then(|n| n.checked_mul(EXTENT)),
        // A root of a tree, which takes the whole of it.
        _ => None,
    };
    if let Some(from) = used.and_then(|n| CORE.checked_add(n))
        && let Some(rest) = raw.get_mut(from..fork).filter(|r| r.iter().any(|b| *b != 0))
    {
        rest.fill(0);
        write_inode(xfs, dev, dir, raw.clone())?;
    }
    if inode.format == fs_xfs::inode::Format::Local {
        return Ok(());
    }
    let sb = xfs.fs.superblock();
    let block = u64::from(sb.blocksize);
    let whole = (block as usize) << sb.dirblklog;
    for e in guarded("read folder", || xfs.fs.data_extents(&inode, &raw))? {
        for i in 0..e.blockcount {
            let at = e.startoff + i;
            // A folder block of several blocks lies in one piece unless the filesystem is badly torn; then it is left as it is.
            let fits = e.blockcount - i >= 1 << sb.dirblklog;
            if at.saturating_mul(block) >= INDEX || at & ((1 << sb.dirblklog) - 1) != 0 || !fits {
                continue;
            }
            let place = sb.fsblock_offset(e.startblock + i);
            let mut bytes = vec![0; whole];
            dev.read_at(place, &mut bytes)?;
            if wipe_gaps(&mut bytes) {
                stamp_crc(&mut bytes, BLOCK_CRC);
                dev.write_at(place, &bytes)?;
            }
        }
    }
    Ok(())
}

/// Zeroes unused space in a block of names (`XDD3`, or `XDB3` with its index at the end); true when there was something.
fn wipe_gaps(block: &mut [u8]) -> bool {
    let end = match block.get(..4) {
        Some(b"XDD3") => block.len(),
        Some(b"XDB3") => {
            let count = be32(block, block.len() - 8).unwrap_or(0) as usize;
            match count.checked_mul(8).and_then(|n| block.len().checked_sub(8 + n)) {
                Some(end) => end,
                None => return false,
            }
        }
        _ => return false,
    };
    let (mut at, mut changed) = (HEAD, false);
    while at + 8 <= end {
        if be16(block, at) == Some(0xffff) {
            let len = be16(block, at + 2).map_or(0, usize::from);
            if len < 8 || at + len > end {
                break;
            }
            // Its mark, its length, and at its very end where it begins.
            if let Some(gap) = block.get_mut(at + 4..at + len - 2).filter(|g| g.iter().any(|b| *b != 0)) {
                gap.fill(0);
                changed = true;
            }
            at += len;
            continue;
        }
        // Inode, length of the name, name, type, and at the end where it begins; a multiple of 8.
        let name = block.get(at + 8).map_or(0, |n| usize::from(*n));
        at += entry_len(name);
    }
    changed
}

/// Zeroes the forks of an inode that is gone.
fn wipe_fork(xfs: &Xfs, dev: &dyn WriteAt, node: Node) -> Result<()> {
    let place = guarded("read inode", || xfs.fs.inode_offset(node))?;
    let mut raw = vec![0; usize::from(xfs.fs.superblock().inodesize)];
    dev.read_at(place, &mut raw)?;
    // Still there under another name, or its chunk was given back.
    if raw.get(..2) != Some(b"IN") || be16(&raw, 2) != Some(0) {
        return Ok(());
    }
    match raw.get_mut(CORE..).filter(|r| r.iter().any(|b| *b != 0)) {
        Some(rest) => rest.fill(0),
        None => return Ok(()),
    }
    write_inode(xfs, dev, node, raw)
}

fn write_inode(xfs: &Xfs, dev: &dyn WriteAt, node: Node, mut raw: Vec<u8>) -> Result<()> {
    let place = guarded("write inode", || xfs.fs.inode_offset(node))?;
    stamp_crc(&mut raw, INODE_CRC);
    dev.write_at(place, &raw)
}

/// Sets the checksum at `at`: CRC32C of all with the field itself as zeros, stored little-endian.
pub(super) fn stamp_crc(bytes: &mut [u8], at: usize) {
    if let Some(field) = bytes.get_mut(at..at + 4) {
        field.fill(0);
    }
    let crc = crc32c::crc32c(bytes);
    if let Some(field) = bytes.get_mut(at..at + 4) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
}

/// Finds what of the log is wiped: all but the record that says it is clean, which recovery of a torn commit needs and is saved.
fn log(xfs: &Xfs, before: &Device) -> Result<Scrubbed> {
    let sb: &Superblock = xfs.fs.superblock();
    let (start, len) = place(sb);
    if sb.logstart == 0 || start.checked_add(len).is_none_or(|end| end > before.len()) {
        return Err(Error::unsupported("its log is on another device"));
    }
    // Edits leave it alone: what it was before is what it is.
    let last = match unmounted(before.as_ref(), sb) {
        Some(record) => Some((record.start, record.end)),
        None => {
            let found = guarded("read the XFS log", || head(&Reader(before.clone()), sb))?;
            let (from, to) = (u64::from(found.prev_block) * 512, u64::from(found.block) * 512);
            // Where the ring begins anew, the head stands at its first byte.
            (found.prev_block != u32::MAX).then_some((from, if to <= from { len } else { to }))
        }
    };
    let mut out = Scrubbed::default();
    match last {
        Some((from, to)) => {
            out.saved.push((start + from, to - from));
            out.stamps.extend([(start, from), (start + to, len - to)]);
        }
        // Never written to.
        None => out.stamps.push((start, len)),
    }
    out.stamps.retain(|(_, n)| *n > 0);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::io::bytes::put_be16;

    #[test]
    fn names_that_are_gone_leave_nothing() {
        let mut block = vec![0x41; 256];
        block[..4].copy_from_slice(b"XDD3");
        // One name in use (inode 1, "ab"), then unused space up to the end.
        block[64..72].copy_from_slice(&1u64.to_be_bytes());
        block[72] = 2;
        assert!(put_be16(&mut block, 80, 0xffff));
        assert!(put_be16(&mut block, 82, 176));
        let before = block.clone();
        assert!(wipe_gaps(&mut block));
        assert_eq!(block[..84], before[..84]);
        assert!(block[84..254].iter().all(|b| *b == 0));
        assert_eq!(block[254..], before[254..]);
        assert!(!wipe_gaps(&mut block));
        assert!(!wipe_gaps(&mut [0xff; 128]));
    }
}
