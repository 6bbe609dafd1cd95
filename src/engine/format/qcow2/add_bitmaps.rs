//! Keeping dirty bitmaps in an image whose content was just written.
//!
//! ```text
//!  1  bits, bitmap tables, the directory, in clusters nobody uses; their counts     a longer file, leaked clusters
//!  2  the header: extension and autoclear bit                                       the bitmaps are there
//! ```
//!
//! Step 2 is one sector, so a cut leaves the image without the bitmaps or with them. In an image that is there already the names of
//! feature bits, a courtesy, are left out where the sector would not hold all.
//!
//! From then on guest writes are recorded in them: [`super::track`].

use crate::engine::error::{Error, Result};
use crate::engine::io::Device;
use crate::engine::io::bytes::is_zero;
use crate::engine::limits::{MAX_BITMAPS, MAX_TABLE_BYTES};
use crate::engine::model::Bitmap;
use crate::engine::units::SECTOR;

use super::bitmaps::{ALL_SET, AUTO, Entry};
use super::extensions::{self, Extensions, FEATURES, read_head};
use super::header;
use super::writer::{Shared, State};

impl Shared {
    /// Adds `bitmaps` to an image that has none.
    ///
    /// Errors: a version 2 image; bitmaps of another size of disk, or too fine for it; an image that has bitmaps already.
    pub fn add_bitmaps(&self, bitmaps: &[(Bitmap, Device)]) -> Result<()> {
        if bitmaps.is_empty() {
            return Ok(());
        }
        if self.lock().header.version < 3 {
            return Err(Error::unsupported("a version 2 image cannot keep bitmaps").hint("make it with compat=1.1"));
        }
        if !self.description.bitmaps.is_empty() || bitmaps.len() > MAX_BITMAPS as usize {
            return Err(Error::usage("it has bitmaps of its own").hint("remove them first: qemu-img bitmap --remove"));
        }
        let mut s = self.change()?;
        let mut directory = Vec::new();
        for (bitmap, bits) in bitmaps {
            directory.extend(self.store_bitmap(&mut s, bitmap, bits)?.encode());
        }
        let offset = self.store(&mut s, &directory)?;
        self.flush(&mut s)?;
        let mut data = (bitmaps.len() as u32).to_be_bytes().to_vec();
        data.extend([0; 4]);
        data.extend((directory.len() as u64).to_be_bytes());
        data.extend(offset.to_be_bytes());
        self.point_to_bitmaps(&mut s, data)
    }

    /// Stores the bits and the table of one bitmap; its directory entry.
    fn store_bitmap(&self, s: &mut State, bitmap: &Bitmap, bits: &Device) -> Result<Entry> {
        let cluster = self.geometry.cluster();
        let count = self.size().div_ceil(bitmap.granularity.max(1));
        if !(512..=1 << 31).contains(&bitmap.granularity)
            || !bitmap.granularity.is_power_of_two()
            || bits.len() != count.div_ceil(8)
        {
            return Err(Error::usage(format!("bitmap '{}' does not fit a disk of {} bytes", bitmap.name, self.size())));
        }
        if bits.len().div_ceil(cluster) * 8 > MAX_TABLE_BYTES {
            return Err(Error::unsupported(format!("bitmap '{}' is too fine for a disk so large", bitmap.name)));
        }
        let (mut table, mut at) = (Vec::new(), 0);
        while at < bits.len() {
            let mut part = vec![0u8; (bits.len() - at).min(cluster) as usize];
            bits.read_at(at, &mut part)?;
            let last = at + part.len() as u64 == bits.len();
            let mask = if last && !count.is_multiple_of(8) { (1u8 << (count % 8)) - 1 } else { 0xff };
            // What is behind the last bit must be zero.
            if let Some(byte) = part.last_mut() {
                *byte &= mask;
            }
            let full = part.split_last().is_some_and(|(end, rest)| *end == mask && rest.iter().all(|b| *b == 0xff));
            table.push(match (is_zero(&part), full) {
                (true, _) => 0,
                (_, true) => ALL_SET,
                _ => self.store(s, &part)?,
            });
            at += part.len() as u64;
        }
        let bytes: Vec<u8> = table.iter().flat_map(|e| e.to_be_bytes()).collect();
        Ok(Entry {
            table_offset: self.store(s, &bytes)?,
            table_entries: table.len() as u32,
            flags: if bitmap.auto { AUTO } else { 0 },
            kind: 1,
            granularity_bits: bitmap.granularity.trailing_zeros() as u8,
            extra: Vec::new(),
            name: bitmap.name.clone().into_bytes(),
        })
    }

    /// Writes `bytes` into clusters of their own; where.
    pub(super) fn store(&self, s: &mut State, bytes: &[u8]) -> Result<u64> {
        let cluster = self.geometry.cluster();
        let clusters = (bytes.len() as u64).div_ceil(cluster).max(1);
        let at = s.alloc.metadata_run(clusters)?;
        let mut padded = bytes.to_vec();
        padded.resize((clusters * cluster) as usize, 0);
        self.dev.write_at(at, &padded)?;
        Ok(at)
    }

    /// The write that counts.
    fn point_to_bitmaps(&self, s: &mut State, data: Vec<u8>) -> Result<()> {
        let dev: Device = self.dev.clone();
        let (_, mut ext) = read_head(&dev)?;
        let mut fresh = s.header.clone();
        fresh.autoclear |= header::BITMAPS;
        ext.set(extensions::BITMAPS, Some(data));
        let mut bytes = ext.encode(&mut fresh)?;
        if !self.is_new && bytes.len() as u64 > SECTOR {
            ext = Extensions { list: ext.list.into_iter().filter(|e| e.id != FEATURES).collect(), ..ext };
            bytes = ext.encode(&mut fresh)?;
            if bytes.len() as u64 > SECTOR {
                return Err(Error::unsupported("its header has no room for bitmaps in the first sector")
                    .hint("convert to a new image instead of into this one"));
            }
        }
        bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0);
        self.dev.write_at(0, &bytes)?;
        self.barrier(s, &self.dev)?;
        s.header = fresh;
        // The next guest write must take the bit away again.
        s.untouched = true;
        Ok(())
    }
}
