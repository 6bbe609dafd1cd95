//! Dirty bitmaps added, removed, cleared, switched and merged: any number of steps on one bitmap, and one switch of the image at
//! their end. Specification: "Bitmaps extension", "Bitmap directory", "Bitmap table".

use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::format::Source;
use crate::engine::io::bytes::{be64, is_zero};
use crate::engine::io::{Device, ReadAt, read_vec};
use crate::engine::limits::{MAX_BITMAPS, MAX_NAME, MAX_TABLE_BYTES};

use super::super::bitmaps::{ALL_SET, AUTO, Bits, Entry, IN_USE, read};
use super::super::extensions::{BITMAPS as EXTENSION, Extensions, read_head};
use super::super::header::{BITMAPS, Header};
use super::super::tables::OFFSET;
use super::Editor;

/// Bytes of one bitmap, at most (QEMU: block/qcow2-bitmap.c).
const MAX_BITS: u64 = MAX_TABLE_BYTES;
/// A step in changing a bitmap.
#[derive(Debug, Clone)]
pub enum Step {
    /// Make it; bytes of the disk per bit, `None`: as QEMU chooses.
    Add(Option<u64>),
    /// Remove it.
    Remove,
    /// No bit is set any more.
    Clear,
    /// Record writes from now on, or do not.
    Record(bool),
    /// Set all bits that another bitmap of the image has.
    Merge(String),
    /// Set all these bits.
    MergeBits(BitSet),
}

/// The content of a bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitSet {
    /// Bytes of the disk.
    size: u64,
    /// Bytes of the disk per bit, as a power of two.
    granularity_bits: u32,
    /// One bit each, the lowest first.
    bytes: Vec<u8>,
}

/// A bitmap on its way through the steps.
struct Mark {
    entry: Entry,
    /// Its new content; `None`: what the file has.
    bits: Option<BitSet>,
    /// The file has it.
    stored: bool,
}

impl BitSet {
    /// No bit is set.
    ///
    /// Errors: there would be too many.
    fn empty(size: u64, granularity_bits: u32) -> Result<BitSet> {
        let bytes = size.div_ceil(1 << granularity_bits).div_ceil(8);
        if bytes > MAX_BITS {
            return Err(
                Error::unsupported("a bitmap this fine cannot cover a disk so large").hint("choose a larger granularity (-g)")
            );
        }
        Ok(BitSet { size, granularity_bits, bytes: vec![0; bytes as usize] })
    }

    /// The bitmap called `name` of the qcow2 image in `source`.
    ///
    /// Errors: `NotFound`; it was not saved properly (`Corrupt`); it cannot be read.
    pub fn of(source: &Source, name: &str) -> Result<BitSet> {
        let (header, ext) = read_head(&source.dev)?;
        let list = stored(&source.dev, &header, &ext)?;
        let entry = list.iter().find(|e| e.name == name.as_bytes()).ok_or_else(|| missing(name))?;
        consistent(entry)?;
        BitSet::read(&source.dev, entry, &header)
    }

    fn read(dev: &Device, entry: &Entry, header: &Header) -> Result<BitSet> {
        let mut out = BitSet::empty(header.size, u32::from(entry.granularity_bits))?;
        Bits::open(dev.clone(), entry, header.size, header.cluster_size())?.read_at(0, &mut out.bytes)?;
        out.trim();
        Ok(out)
    }

    /// BitSet past the end of the disk mean nothing.
    fn trim(&mut self) {
        let count = self.size.div_ceil(1 << self.granularity_bits);
        if let Some(last) = self.bytes.last_mut().filter(|_| !count.is_multiple_of(8)) {
            *last &= (1 << (count % 8)) - 1;
        }
    }

    /// Sets the bits whose bytes of the disk any bit of `other` has.
    fn merge(&mut self, other: &BitSet) -> Result<()> {
        if self.size != other.size {
            return Err(Error::usage(format!(
                "bitmaps of different sizes cannot be merged: {} and {} bytes",
                self.size, other.size
            )));
        }
        if self.granularity_bits == other.granularity_bits {
            self.bytes.iter_mut().zip(&other.bytes).for_each(|(a, b)| *a |= b);
            return Ok(());
        }
        for (i, byte) in other.bytes.iter().enumerate().filter(|(_, b)| **b != 0) {
            for bit in (0..8).filter(|n| byte >> n & 1 == 1) {
                let start = (i as u64 * 8 + bit) << other.granularity_bits;
                let end = start.saturating_add(1 << other.granularity_bits).min(self.size);
                for n in start >> self.granularity_bits..end.div_ceil(1 << self.granularity_bits) {
                    if let Some(b) = self.bytes.get_mut((n / 8) as usize) {
                        *b |= 1 << (n % 8);
                    }
                }
            }
        }
        Ok(())
    }
}

fn missing(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no bitmap '{name}'")).hint("cowshed info lists the bitmaps of an image")
}

fn consistent(entry: &Entry) -> Result<()> {
    if entry.flags & IN_USE == 0 {
        return Ok(());
    }
    let name = String::from_utf8_lossy(&entry.name).into_owned();
    Err(Error::corrupt(format!("bitmap '{name}' was not saved properly, and cannot be used")).hint("it can only be removed"))
}

/// The bitmaps of an image. Those a program without bitmaps may have spoiled are none.
fn stored(dev: &Device, header: &Header, ext: &Extensions) -> Result<Vec<Entry>> {
    if header.autoclear & BITMAPS == 0 {
        return Ok(Vec::new());
    }
    ext.bitmaps(header)?.map_or(Ok(Vec::new()), |directory| read(dev.as_ref(), &directory))
}

impl Editor {
    /// Takes `steps` with the bitmap called `name`.
    ///
    /// Errors: what a step cannot do; nothing is changed then.
    pub fn change_bitmap(&mut self, name: &str, steps: &[Step]) -> Result<()> {
        if self.header.version < 3 {
            return Err(Error::unsupported("version 2 images have no bitmaps").hint("amend it first: amend -o compat=1.1"));
        }
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(Error::usage(format!("a bitmap's name has 1 to {MAX_NAME} bytes")));
        }
        let dev: Device = self.dev.clone();
        let old = stored(&dev, &self.header, &self.ext)?;
        let mut marks: Vec<Mark> = old.iter().map(|e| Mark { entry: e.clone(), bits: None, stored: true }).collect();
        for step in steps {
            self.step(&dev, name, step, &mut marks)?;
        }
        self.change(|e| e.place_bitmaps(&dev, &old, marks))
    }

    fn step(&self, dev: &Device, name: &str, step: &Step, marks: &mut Vec<Mark>) -> Result<()> {
        let index = marks.iter().position(|m| m.entry.name == name.as_bytes());
        if let Step::Add(granularity) = step {
            if index.is_some() {
                return Err(Error::usage(format!("there is a bitmap '{name}' already")));
            }
            marks.push(self.new_mark(name, *granularity, marks.len())?);
            return Ok(());
        }
        let index = index.ok_or_else(|| missing(name))?;
        if let Step::Remove = step {
            marks.remove(index);
            return Ok(());
        }
        let from = match step {
            Step::Merge(from) => {
                let from = marks.iter().find(|m| m.entry.name == from.as_bytes()).ok_or_else(|| missing(from))?;
                consistent(&from.entry)?;
                Some(self.bits(dev, from)?)
            }
            Step::MergeBits(bits) => Some(bits.clone()),
            _ => None,
        };
        let Some(mark) = marks.get_mut(index) else { return Ok(()) };
        consistent(&mark.entry)?;
        match step {
            Step::Clear => mark.bits = Some(BitSet::empty(self.header.size, u32::from(mark.entry.granularity_bits))?),
            Step::Record(true) => mark.entry.flags |= AUTO,
            Step::Record(false) => mark.entry.flags &= !AUTO,
            _ => {}
        }
        if let Some(from) = from {
            let mut bits = self.bits(dev, mark)?;
            bits.merge(&from)?;
            mark.bits = Some(bits);
        }
        Ok(())
    }

    fn bits(&self, dev: &Device, mark: &Mark) -> Result<BitSet> {
        match &mark.bits {
            Some(bits) => Ok(bits.clone()),
            None => BitSet::read(dev, &mark.entry, &self.header),
        }
    }

    fn new_mark(&self, name: &str, granularity: Option<u64>, count: usize) -> Result<Mark> {
        // QEMU's choice: a cluster, within 4 and 64 KiB.
        let granularity = granularity.unwrap_or_else(|| self.geometry.cluster().clamp(4096, 65536));
        if !granularity.is_power_of_two() || !(512..=1 << 31).contains(&granularity) {
            return Err(Error::usage("a bitmap's granularity is a power of two between 512 and 2G"));
        }
        if count as u64 >= u64::from(MAX_BITMAPS) {
            return Err(Error::unsupported(format!("it has {MAX_BITMAPS} bitmaps, and there cannot be more")));
        }
        let entry = Entry {
            table_offset: 0,
            table_entries: 0,
            flags: AUTO,
            kind: 1,
            granularity_bits: granularity.trailing_zeros() as u8,
            extra: Vec::new(),
            name: name.as_bytes().to_vec(),
        };
        let bits = BitSet::empty(self.header.size, granularity.trailing_zeros())?;
        Ok(Mark { entry, bits: Some(bits), stored: false })
    }

    /// Writes what changed of `marks`, which were `old`, and the directory to new places.
    fn place_bitmaps(&mut self, dev: &Device, old: &[Entry], marks: Vec<Mark>) -> Result<()> {
        let keeps = |e: &Entry| marks.iter().any(|m| m.stored && m.bits.is_none() && m.entry.name == e.name);
        for entry in old.iter().filter(|e| !keeps(e)) {
            self.drop_bitmap(dev, entry)?;
        }
        if let Some(directory) = self.ext.bitmaps(&self.header)?.filter(|_| !old.is_empty()) {
            self.alloc.drop_range(directory.directory_offset, directory.directory_size)?;
        }
        let count = marks.len() as u32;
        let mut directory = Vec::new();
        for mut mark in marks {
            if let Some(bits) = &mark.bits {
                let table = self.place_bits(bits)?;
                mark.entry.table_entries = table.len() as u32;
                mark.entry.table_offset = self.place(&super::bytes(&table))?;
            }
            directory.extend(mark.entry.encode());
        }
        if directory.is_empty() {
            self.header.autoclear &= !BITMAPS;
            self.ext.set(EXTENSION, None);
        } else {
            let at = self.place(&directory)?;
            let mut data = count.to_be_bytes().to_vec();
            data.extend_from_slice(&[0; 4]);
            data.extend_from_slice(&(directory.len() as u64).to_be_bytes());
            data.extend_from_slice(&at.to_be_bytes());
            self.header.autoclear |= BITMAPS;
            self.ext.set(EXTENSION, Some(data));
        }
        self.new_head = true;
        Ok(())
    }

    /// Whether anything of the bitmaps lies at cluster `limit` or behind it, and can be moved: a bitmap that was not saved
    /// properly is left as it is, with all others.
    pub(super) fn bitmaps_reach(&self, limit: u64) -> Result<bool> {
        let dev: Device = self.dev.clone();
        let list = stored(&dev, &self.header, &self.ext)?;
        if list.is_empty() || list.iter().any(|e| e.flags & IN_USE != 0) {
            return Ok(false);
        }
        let behind = |at: u64, len: u64| len > 0 && self.cluster(at + (len - 1)) >= limit;
        if self.ext.bitmaps(&self.header)?.is_some_and(|d| behind(d.directory_offset, d.directory_size)) {
            return Ok(true);
        }
        for entry in &list {
            let len = u64::from(entry.table_entries) * 8;
            let table =
                read_vec(dev.as_ref(), entry.table_offset, len, MAX_TABLE_BYTES).map_err(|e| e.op("read a bitmap table"))?;
            let mut places = (0..table.len() / 8).filter_map(|i| be64(&table, i * 8)).map(|e| e & OFFSET);
            if behind(entry.table_offset, len) || places.any(|at| at > 0 && behind(at, 1)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes all bitmaps to new places.
    pub(super) fn move_bitmaps(&mut self) -> Result<()> {
        let dev: Device = self.dev.clone();
        let old = stored(&dev, &self.header, &self.ext)?;
        let mark = |entry: &Entry| {
            let bits = BitSet::read(&dev, entry, &self.header)?;
            Ok(Mark { entry: entry.clone(), bits: Some(bits), stored: true })
        };
        let marks = old.iter().map(mark).collect::<Result<_>>()?;
        self.place_bitmaps(&dev, &old, marks)
    }

    /// Writes the clusters of a bitmap; its table.
    fn place_bits(&mut self, bits: &BitSet) -> Result<Vec<u64>> {
        let cluster = self.geometry.cluster() as usize;
        let mut table = Vec::new();
        for part in bits.bytes.chunks(cluster) {
            table.push(match part {
                p if is_zero(p) => 0,
                p if p.len() == cluster && p.iter().all(|b| *b == 0xff) => ALL_SET,
                p => self.place(p)?,
            });
        }
        Ok(table)
    }

    /// The clusters of a bitmap that goes.
    fn drop_bitmap(&mut self, dev: &Device, entry: &Entry) -> Result<()> {
        let len = u64::from(entry.table_entries) * 8;
        let table = read_vec(dev.as_ref(), entry.table_offset, len, MAX_TABLE_BYTES).map_err(|e| e.op("read a bitmap table"))?;
        for at in (0..table.len() / 8).filter_map(|i| be64(&table, i * 8)).map(|e| e & OFFSET).filter(|o| *o != 0) {
            self.alloc.drop_use(self.cluster(at), 1)?;
        }
        self.alloc.drop_range(entry.table_offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coarse_and_fine_bits_cover_each_other() {
        let mut fine = BitSet::empty(10_000, 9).unwrap();
        fine.bytes[0] = 0b0001_0001;
        fine.bytes[2] = 0b1000;
        let mut coarse = BitSet::empty(10_000, 12).unwrap();
        coarse.merge(&fine).unwrap();
        assert_eq!(coarse.bytes, [0b101]);
        let mut back = BitSet::empty(10_000, 9).unwrap();
        back.merge(&coarse).unwrap();
        assert_eq!(back.bytes, [0xff, 0, 0b1111]);
        assert!(BitSet::empty(20_000, 9).unwrap().merge(&fine).is_err());
    }
}
