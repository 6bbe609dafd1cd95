//! Replaying an ext journal for good, as mounting it would: what was committed reaches its place, files that were deleted while they were
//! open go, and the superblock's counts are made anew, which the journal does not keep up to date (the kernel and e2fsck do the same).
//! Documentation/filesystems/ext4/{journal,orphan,super}.rst.

use std::sync::Arc;

use fs_ext4::error::Error as ExtError;
use fs_ext4::fs::Filesystem;

use super::device::{Reader, Writer};
use super::ext_super::raw_crc32c;
use super::guarded;
use crate::engine::error::{Error, Result};
use crate::engine::guest::recognise::{FsKind, recognise};
use crate::engine::io::bytes::{le32, put_le32};
use crate::engine::io::{Device, WriteDevice, read_vec};

/// Where the superblock is, and its length.
const AT: u64 = 1024;
const LEN: u64 = 1024;
/// `s_feature_incompat` and bits of it: needs recovery, 64bit, checksum seed.
const INCOMPAT: usize = 0x60;
const RECOVER: u32 = 0x4;
const WIDE: u32 = 0x80;
const CSUM_SEED: u32 = 0x2000;
/// `s_feature_ro_compat` and bits of it: checksums, files wait in the orphan file.
const READ_ONLY: usize = 0x64;
const METADATA_CSUM: u32 = 0x400;
const ORPHANS: u32 = 0x1_0000;
/// End of a block of the orphan file: its magic, then its checksum.
const ORPHAN_MAGIC: u32 = 0x0b10_ca04;
/// Bytes of the orphan file, at most (e2fsprogs makes 2 MiB at most).
const MAX_ORPHANS: u64 = 16 << 20;

/// Replays the journal of the ext filesystem on `dev` where it waits for that; true when it did.
///
/// Several structures change: `dev` is a [`crate::engine::io::draft::Draft`].
///
/// Errors: `Unsupported` for a journal that cannot be replayed here; damage.
pub fn replay(dev: &WriteDevice) -> Result<bool> {
    let Some(info) = recognise(dev.as_ref())? else { return Ok(false) };
    if !matches!(info.kind, FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4) {
        return Ok(false);
    }
    let mut sb = Head::read(dev)?;
    if sb.word(INCOMPAT) & RECOVER == 0 {
        return Ok(false);
    }
    // Files that wait in the orphan file are seen to below, when it is known which they are.
    sb.clear(READ_ONLY, ORPHANS, dev)?;
    mount_once(dev)?;
    let mut sb = Head::read(dev)?;
    if sb.word(READ_ONLY) & ORPHANS != 0 {
        chain_orphans(&mut sb, dev)?;
        sb.clear(READ_ONLY, ORPHANS, dev)?;
    }
    if sb.word(0xe8) != 0 {
        mount_once(dev)?;
    }
    recount(dev)?;
    Ok(true)
}

/// Lets the crate replay the journal and remove chained orphans, which it does on opening.
fn mount_once(dev: &WriteDevice) -> Result<()> {
    let open = || -> std::result::Result<(), ExtError> { Filesystem::mount(Arc::new(Writer(dev.clone())))?.finish() };
    guarded("replay the journal of an ext filesystem", open)
        .map_err(|e| e.hint("start the guest and shut it down, or run e2fsck on it"))
}

fn reader(dev: &WriteDevice) -> Result<Filesystem> {
    let read: Device = dev.clone();
    guarded("open ext filesystem", || Filesystem::mount(Arc::new(Reader(read))))
}

/// Makes the files in the orphan file members of the older chain, which leads from the superblock through their deletion times, and
/// empties it.
fn chain_orphans(sb: &mut Head, dev: &WriteDevice) -> Result<()> {
    let fs = reader(dev)?;
    let file = sb.word(0x280);
    let inode = guarded("read the orphan file", || fs.read_inode_verified(file))?.0;
    let block = u64::from(fs.sb.block_size());
    if inode.size > MAX_ORPHANS {
        return Err(Error::corrupt(format!("the orphan file has {} bytes", inode.size)));
    }
    let mut next = sb.word(0xe8);
    for logical in 0..inode.size / block.max(1) {
        let Some(physical) = guarded("read the orphan file", || fs.map_inode_logical(&inode, logical))? else { continue };
        let mut bytes = guarded("read the orphan file", || fs.read_block(physical))?;
        let end = bytes.len().saturating_sub(8);
        if le32(&bytes, end) != Some(ORPHAN_MAGIC) {
            return Err(Error::corrupt(format!("block {logical} of the orphan file is none")));
        }
        let waiting: Vec<u32> = (0..end / 4).filter_map(|i| le32(&bytes, i * 4)).filter(|ino| *ino != 0).collect();
        if waiting.is_empty() {
            continue;
        }
        for ino in waiting {
            let at = inode_at(&fs, ino)?;
            dev.write_at(at + 0x14, &next.to_le_bytes())?;
            next = ino;
        }
        bytes.get_mut(..end).unwrap_or_default().fill(0);
        if sb.word(READ_ONLY) & METADATA_CSUM != 0 {
            let seed = raw_crc32c(raw_crc32c(sb.seed(), &file.to_le_bytes()), &inode.generation.to_le_bytes());
            let sum = raw_crc32c(raw_crc32c(seed, &physical.to_le_bytes()), bytes.get(..end).unwrap_or_default());
            bytes.get_mut(end + 4..end + 8).unwrap_or_default().copy_from_slice(&sum.to_le_bytes());
        }
        dev.write_at(physical.saturating_mul(block), &bytes)?;
    }
    sb.set(0xe8, next);
    sb.write(dev)
}

/// Where the inode `ino` is, in bytes.
fn inode_at(fs: &Filesystem, ino: u32) -> Result<u64> {
    let bad = || Error::corrupt(format!("the orphan file names inode {ino}, which is not there"));
    let per_group = fs.sb.inodes_per_group.max(1);
    let index = ino.checked_sub(1).ok_or_else(bad)?;
    let group = fs.groups.get((index / per_group) as usize).ok_or_else(bad)?;
    let within = u64::from(index % per_group) * u64::from(fs.sb.inode_size);
    group.inode_table.checked_mul(u64::from(fs.sb.block_size())).and_then(|t| t.checked_add(within)).ok_or_else(bad)
}

/// Makes the superblock's free counts what its groups say.
fn recount(dev: &WriteDevice) -> Result<()> {
    let fs = reader(dev)?;
    let blocks: u64 = fs.groups.iter().map(|g| u64::from(g.free_blocks_count)).sum();
    let inodes: u64 = fs.groups.iter().map(|g| u64::from(g.free_inodes_count)).sum();
    let mut sb = Head::read(dev)?;
    sb.set(0xc, blocks as u32);
    if sb.word(INCOMPAT) & WIDE != 0 {
        sb.set(0x158, (blocks >> 32) as u32);
    }
    sb.set(0x10, inodes as u32);
    sb.write(dev)
}

/// The superblock's bytes.
struct Head(Vec<u8>);

impl Head {
    fn read(dev: &WriteDevice) -> Result<Head> {
        Ok(Head(read_vec(dev.as_ref(), AT, LEN, LEN)?))
    }

    fn word(&self, at: usize) -> u32 {
        le32(&self.0, at).unwrap_or(0)
    }

    fn set(&mut self, at: usize, word: u32) {
        let _ = put_le32(&mut self.0, at, word);
    }

    fn seed(&self) -> u32 {
        match self.word(INCOMPAT) & CSUM_SEED != 0 {
            true => self.word(0x270),
            false => raw_crc32c(!0, self.0.get(0x68..0x78).unwrap_or_default()),
        }
    }

    fn clear(&mut self, at: usize, bits: u32, dev: &WriteDevice) -> Result<()> {
        let word = self.word(at);
        self.set(at, word & !bits);
        if word & bits != 0 { self.write(dev) } else { Ok(()) }
    }

    fn write(&mut self, dev: &WriteDevice) -> Result<()> {
        if self.word(READ_ONLY) & METADATA_CSUM != 0 {
            let sum = raw_crc32c(!0, self.0.get(..0x3fc).unwrap_or_default());
            self.set(0x3fc, sum);
        }
        dev.write_at(AT, &self.0)
    }
}
