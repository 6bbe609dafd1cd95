//! The log of XFS ("XFS Algorithms & Data Structures": journaling log), which is kept clean and left as it is.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use fs_xfs::Superblock;
use fs_xfs::log::{LogState, inspect};

use super::device::Reader;
use crate::engine::error::Result;
use crate::engine::io::bytes::{be32, put};
use crate::engine::io::{Device, HostRange, ReadAt, WriteAt};

const SECTOR: u64 = 512;
/// First word of a record. That of any other sector is the cycle it was written in.
const RECORD: u32 = 0xfeed_babe;
/// Where a record has its cycle, version, length, number of operations, byte order, filesystem, and how long records are.
const CYCLE: usize = 4;
const VERSION: usize = 8;
const LEN: usize = 12;
const OPERATIONS: usize = 40;
const ORDER: usize = 300;
const UUID: usize = 304;
const SIZE: usize = 320;
/// The byte order of this machine, as records have it.
const NATIVE: u32 = if cfg!(target_endian = "little") { 1 } else { 2 };
/// Where an operation has its flags, and the one of an unmount.
const FLAGS: usize = 9;
const UNMOUNT: u8 = 0x20;
/// Bytes of a record that one sector of its head tells of, and sectors that may be written at once: 2 MiB.
const PER_HEAD: u32 = 32 << 10;
const WINDOW: u64 = 4096;
/// Sectors read at a time.
const PIECE: u64 = 128;

/// Whether the log of `sb` on `dev` holds nothing that was not done yet.
///
/// Errors: it is on another device, or makes no sense.
pub(super) fn is_clean(dev: &Device, sb: &Superblock) -> fs_xfs::Result<bool> {
    Ok(unmounted(dev.as_ref(), sb).is_some() || inspect(&Reader(dev.clone()), sb)? != LogState::NeedsReplay)
}

/// Where in the log (in bytes of it) the record lies that says the filesystem was unmounted, when it is the last and all is as the kernel
/// leaves it. What else there may be is for the crate to tell, which takes a copy of all it looks at, several times as long.
pub(super) fn unmounted(dev: &dyn ReadAt, sb: &Superblock) -> Option<Range<u64>> {
    if sb.logstart == 0 {
        return None;
    }
    let (start, len) = place(sb);
    let total = len / SECTOR;
    let read = |at: u64, buf: &mut [u8]| dev.read_at(start.checked_add(at.checked_mul(SECTOR)?)?, buf).ok();
    let mut one = [0; SECTOR as usize];
    let mut cycle_at = |at| read(at, &mut one).and_then(|()| cycle(&one));
    // A ring: behind the last record is what the cycle before left, or nothing.
    let (first, last) = (cycle_at(0)?, cycle_at(total.checked_sub(1)?)?);
    let end = if first == last {
        total
    } else {
        let (mut low, mut high) = (0, total - 1);
        while high - low > 1 {
            let middle = low.midpoint(high);
            match cycle_at(middle)? {
                c if c == first => low = middle,
                c if c == last => high = middle,
                _ => return None,
            }
        }
        high
    };
    if first == 0 || (first != last && last != 0 && last != first - 1) {
        return None;
    }
    // What may have been written at once before it ended must be of one cycle without gaps, back into the cycle before.
    let window = WINDOW.min(total);
    let (mut buf, mut record) = (Vec::new(), None);
    let mut look = |mut at: u64, to: u64, expected: u32| {
        while at < to {
            let n = PIECE.min(to - at);
            buf.resize((n * SECTOR) as usize, 0);
            read(at, &mut buf)?;
            for sector in buf.chunks_exact(SECTOR as usize) {
                if cycle(sector)? != expected {
                    return None;
                }
                if be32(sector, 0) == Some(RECORD) && sector.get(UUID..UUID + 16)? == sb.uuid {
                    record = Some((at, <[u8; SECTOR as usize]>::try_from(sector).ok()?));
                }
                at += 1;
            }
        }
        Some(())
    };
    if end < window && last != 0 {
        look(total - (window - end), total, last)?;
    }
    look(end.saturating_sub(window), end, first)?;
    let (at, record) = record?;
    let word = |field| be32(&record, field);
    let size = word(SIZE).filter(|size| size.is_power_of_two() && (SECTOR..=len).contains(&u64::from(*size)))?;
    let operation = at.checked_add(size.div_ceil(PER_HEAD).into())?;
    let behind = operation.checked_add(u64::from(word(LEN)?).div_ceil(SECTOR))?;
    if (behind, word(VERSION)? & 2, word(OPERATIONS)?, word(ORDER)?) != (end, 2, 1, NATIVE) || operation >= end {
        return None;
    }
    read(operation, &mut one)?;
    (one.get(FLAGS)? & UNMOUNT != 0).then_some(at * SECTOR..end * SECTOR)
}

/// The cycle that a sector was written in.
fn cycle(sector: &[u8]) -> Option<u32> {
    match be32(sector, 0)? {
        RECORD => be32(sector, CYCLE),
        cycle => Some(cycle),
    }
}

/// Where the log is, and how long, in bytes.
pub(super) fn place(sb: &Superblock) -> (u64, u64) {
    (sb.fsblock_offset(sb.logstart), u64::from(sb.logblocks).saturating_mul(u64::from(sb.blocksize)))
}

/// A volume whose log shows itself short and clean, and takes nothing: the crate looks for the log's end at every change, over two
/// megabytes of a real one.
pub(super) struct Unlogged<D: ?Sized> {
    dev: Arc<D>,
    /// Where the log is, in bytes.
    log: Range<u64>,
    /// What is read at its beginning; the rest is zeros.
    clean: Vec<u8>,
}

impl<D: ?Sized> Unlogged<D> {
    /// The filesystem `sb` on `dev`, whose log is known to hold nothing that was not done yet.
    pub(super) fn new(dev: Arc<D>, sb: &Superblock) -> Self {
        let (start, len) = place(sb);
        Unlogged { dev, log: start..start.saturating_add(len), clean: clean_log(&sb.uuid) }
    }

    /// Whether `len` bytes at `offset` are all the log's.
    fn holds(&self, offset: u64, len: u64) -> bool {
        self.log.start <= offset && offset.saturating_add(len) <= self.log.end
    }
}

/// The beginning of a log, zeros behind it, that says: unmounted, and nothing before. One record with one operation, in the first cycle.
fn clean_log(uuid: &[u8; 16]) -> Vec<u8> {
    const HEAD: usize = SECTOR as usize;
    let mut log = vec![0; 2 * HEAD];
    // Its own place and that of the oldest (cycle before block), and no record before. Longer records have heads of several sectors,
    // which the crate does not write.
    let head = [(0, RECORD), (CYCLE, 1), (VERSION, 2), (LEN, SECTOR as u32), (16, 1), (24, 1), (36, u32::MAX)];
    for (at, word) in head.into_iter().chain([(OPERATIONS, 1), (ORDER, NATIVE), (SIZE, PER_HEAD), (HEAD, 1)]) {
        let _ = put(&mut log, at, &word.to_be_bytes());
    }
    let _ = put(&mut log, UUID, uuid);
    let _ = put(&mut log, HEAD + FLAGS, &[UNMOUNT]);
    log
}

impl<D: ReadAt + ?Sized> ReadAt for Unlogged<D> {
    fn len(&self) -> u64 {
        self.dev.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset.saturating_add(buf.len() as u64);
        let (from, to) = (offset.max(self.log.start), end.min(self.log.end));
        if (from, to) != (offset, end) {
            self.dev.read_at(offset, buf)?;
        }
        if from >= to {
            return Ok(());
        }
        if let Some(log) = buf.get_mut((from - offset) as usize..(to - offset) as usize) {
            let known = self.clean.get((from - self.log.start).min(self.clean.len() as u64) as usize..).unwrap_or_default();
            let n = known.len().min(log.len());
            let (begin, rest) = log.split_at_mut(n);
            begin.copy_from_slice(known.get(..n).unwrap_or_default());
            rest.fill(0);
        }
        Ok(())
    }
    fn path(&self) -> Option<&Path> {
        self.dev.path()
    }
    fn host_range(&self, offset: u64, max: u64) -> Result<HostRange> {
        self.dev.host_range(offset, max)
    }
    fn allocated(&self) -> u64 {
        self.dev.allocated()
    }
}

impl WriteAt for Unlogged<dyn WriteAt> {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        match self.holds(offset, buf.len() as u64) {
            true => Ok(()),
            false => self.dev.write_at(offset, buf),
        }
    }
    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        match self.holds(offset, len) {
            true => Ok(()),
            false => self.dev.write_zeroes(offset, len),
        }
    }
    fn flush(&self) -> Result<()> {
        self.dev.flush()
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.dev.set_len(len)
    }
}

#[cfg(test)]
mod tests {
    use fs_xfs::log::head;
    use proptest::prelude::*;

    use super::*;
    use crate::engine::error::Error;
    use crate::engine::io::WriteDevice;
    use crate::engine::io::memory::Memory;

    /// A device of which only the log is there.
    struct Ring {
        start: u64,
        bytes: Vec<u8>,
    }

    impl ReadAt for Ring {
        fn len(&self) -> u64 {
            self.start + self.bytes.len() as u64
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
            let at = offset.checked_sub(self.start).ok_or_else(|| Error::corrupt("before the log"))? as usize;
            buf.copy_from_slice(self.bytes.get(at..at + buf.len()).ok_or_else(|| Error::corrupt("behind the log"))?);
            Ok(())
        }
    }

    /// The superblock that `mkfs.xfs` makes.
    fn made() -> Superblock {
        static MADE: std::sync::OnceLock<Superblock> = std::sync::OnceLock::new();
        let make = || {
            let image = tempfile::NamedTempFile::new().unwrap();
            image.as_file().set_len(300 << 20).unwrap();
            assert!(std::process::Command::new("mkfs.xfs").args(["-q", "-f"]).arg(image.path()).status().unwrap().success());
            let dev: Device = Arc::new(crate::engine::io::file::FileDevice::open(image.path()).unwrap());
            let sb = crate::engine::guest::fs::xfs::superblock(dev.as_ref()).unwrap();
            assert!(unmounted(dev.as_ref(), &sb).is_some(), "as mkfs.xfs leaves it");
            sb
        };
        MADE.get_or_init(make).clone()
    }

    /// A ring of `blocks` blocks whose last record ends at sector `end`, with `behind` of the cycle before (else nothing): an unmount, in
    /// records that have heads of `heads` sectors.
    fn ring(sb: &Superblock, end: u64, cycle: u32, behind: bool, heads: u32) -> Ring {
        let (start, len) = place(sb);
        let mut bytes = vec![0; len as usize];
        for (i, sector) in bytes.chunks_exact_mut(512).enumerate() {
            let of = if (i as u64) < end {
                cycle
            } else if behind {
                cycle - 1
            } else {
                0
            };
            sector[..4].copy_from_slice(&of.to_be_bytes());
        }
        let mut record = clean_log(&sb.uuid);
        let at = ((end - u64::from(heads) - 1) * 512) as usize;
        for (field, word) in [(CYCLE, cycle), (16, cycle), (20, (at / 512) as u32), (SIZE, heads * PER_HEAD)] {
            assert!(put(&mut record, field, &word.to_be_bytes()));
        }
        bytes[at..at + 512].copy_from_slice(&record[..512]);
        bytes[end as usize * 512 - 512..end as usize * 512][4..].copy_from_slice(&record[516..]);
        Ring { start, bytes }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// Against the crate: what we take for unmounted, it does, and finds the same record.
        #[test]
        fn an_unmount_that_ends_the_log_is_what_the_crate_finds(
            blocks in 80u32..900,
            end in 12u64..7200,
            behind in any::<bool>(),
            wide in any::<bool>(),
            harm in prop::collection::vec((0u64..24, 0usize..512, any::<u8>(), any::<bool>()), 0..3),
        ) {
            let mut sb = made();
            sb.logblocks = blocks;
            let total = u64::from(blocks) * u64::from(sb.blocksize) / 512;
            let end = end.min(total);
            // Of the first cycle there is none before.
            let mut ring = ring(&sb, end, if behind { 7 } else { 1 }, behind, if wide { 8 } else { 1 });
            for (back, at, byte, near) in &harm {
                let sector = if *near { end.saturating_sub(*back) } else { total.saturating_sub(1 + back * 97 % total) };
                if let Some(b) = ring.bytes.get_mut(sector as usize * 512 + at) { *b = *byte; }
            }
            let found = unmounted(&ring, &sb);
            let dev: Device = Arc::new(ring);
            let known = Reader(dev);
            if let Some(record) = &found {
                prop_assert_eq!(inspect(&known, &sb).unwrap(), LogState::CleanlyUnmounted);
                let head = head(&known, &sb).unwrap();
                prop_assert_eq!((u64::from(head.prev_block) * 512, u64::from(head.block) * 512), (record.start, record.end % (total * 512)));
            }
            prop_assert!(found.is_some() || !harm.is_empty());
        }
    }

    #[test]
    fn a_log_that_is_left_alone_looks_clean_and_takes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("a.xfs");
        std::fs::File::create(&image).unwrap().set_len(300 << 20).unwrap();
        let made = std::process::Command::new("mkfs.xfs").arg("-q").arg(&image).status().expect("mkfs.xfs runs");
        assert!(made.success());
        let before = std::fs::read(&image).unwrap();
        let sb = Superblock::parse(&before).unwrap();
        let dev: WriteDevice = Arc::new(Memory::new(before.clone()));
        let unlogged = Arc::new(Unlogged::new(dev.clone(), &sb));
        let seen = Reader(unlogged.clone());
        assert_eq!(fs_xfs::log::inspect(&seen, &sb).unwrap(), LogState::CleanlyUnmounted);
        let head = fs_xfs::log::head(&seen, &sb).unwrap();
        assert_eq!((head.block, head.cycle, head.prev_block, head.iclog_size), (2, 1, 0, 32 << 10));
        let log = unlogged.log.clone();
        for at in [log.start, log.start + 700, log.end - 4096] {
            unlogged.write_at(at, &[7; 4096]).unwrap();
        }
        unlogged.write_at(log.end, &[7; 512]).unwrap();
        let mut now = vec![0; before.len()];
        dev.read_at(0, &mut now).unwrap();
        let (start, end) = (log.start as usize, log.end as usize);
        assert!(now[..end] == before[..end] && now[end..end + 512] == [7; 512] && now[end + 512..] == before[end + 512..]);
        // Over both edges: what is beside the log is the device's own.
        unlogged.read_at(0, &mut now).unwrap();
        assert!(now[..start] == before[..start] && now[end + 512..] == before[end + 512..]);
        assert!(now[start..start + 1024] == clean_log(&sb.uuid) && now[start + 1024..end].iter().all(|b| *b == 0));
    }
}
