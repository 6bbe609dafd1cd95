//! Letting go of clusters that hold nothing but zeros, however many tables share them: every entry that points to one tells zeros
//! instead, in the disk and in all snapshots, by one switch of the image. Clusters kept for what reads as zeros without them go too.
//!
//! Where entries cannot tell zeros (version 2, on a backing file) clusters keep their place, and become holes of the host file.

use crate::engine::error::Result;
use crate::engine::format::ranges::Ranges;
use crate::engine::io::Device;
use crate::engine::io::bytes::{be64, is_zero};

use super::super::image::unpack;
use super::super::tables::{COMPRESSED, OFFSET, ZERO};
use super::Editor;
use super::compact::{Moved, redirect};
use super::share::{Tables, uses};

/// An L2 entry and its subcluster bitmap (0 without).
type Entry = (u64, u64);

impl Editor {
    /// The L2 tables of the disk and of all snapshots.
    pub(super) fn all_tables(&self) -> Result<Tables> {
        self.check_tables()?;
        let mut tables = Tables::new();
        self.collect(&mut tables, &self.l1, 1)?;
        for entry in &self.list {
            self.collect(&mut tables, &self.l1_of(entry)?, 1)?;
        }
        Ok(tables)
    }

    /// The clusters of the file in which the disk or a snapshot has data that is not compressed. None with an external data file.
    pub fn data_clusters(&self, tick: &dyn Fn() -> Result<()>) -> Result<Ranges> {
        let mut out = Ranges::default();
        if self.header.external_data() {
            return Ok(out);
        }
        for &at in self.all_tables()?.keys() {
            tick()?;
            let mut run = 0..0;
            for entry in self.entries(&self.l2(at)?) {
                if entry.0 & COMPRESSED == 0 && !self.reads_without(entry) {
                    let n = self.cluster(entry.0 & OFFSET);
                    if n == run.end {
                        run.end += 1;
                    } else {
                        out.insert(std::mem::replace(&mut run, n..n + 1));
                    }
                }
            }
            out.insert(run);
        }
        Ok(out)
    }

    /// Lets go of `zeros`, clusters that hold nothing but zeros, of compressed ones that do, and of those that are not read. How many
    /// clusters of the file came free.
    ///
    /// Errors: counts or tables contradict each other (`Corrupt`); reading or writing failed.
    pub fn drop_zeros(&mut self, zeros: &Ranges, tick: &dyn Fn() -> Result<()>) -> Result<u64> {
        if self.header.external_data() {
            return Ok(0);
        }
        if !self.geometry.zero_flag && self.ext.backing_name().is_some() {
            return self.punch(zeros);
        }
        let mut tables = Tables::new();
        for (at, holders) in self.all_tables()? {
            tick()?;
            let table = self.l2(at)?;
            for entry in self.entries(&table) {
                if self.without(entry, zeros)?.is_some() {
                    tables.insert(at, holders);
                    break;
                }
            }
        }
        if tables.is_empty() {
            return Ok(0);
        }
        self.change(|e| {
            let (mut moved, mut freed) = (Moved::default(), 0);
            for (&at, &holders) in &tables {
                tick()?;
                let mut table = e.l2(at)?;
                freed += e.tell_zeros(&mut table, holders, zeros)?;
                let new = e.alloc.metadata_run(1)?;
                e.replace_table(at, new, &table, &mut moved)?;
            }
            e.move_list(u64::MAX, &mut moved)?;
            let mut l1 = e.l1.clone();
            redirect(&mut l1, &moved);
            // What a snapshot let go of may be the disk's alone now.
            e.set_copied(&mut l1, 1)?;
            e.place_l1(l1)?;
            Ok(freed)
        })
    }

    /// The entries of an L2 table.
    fn entries(&self, table: &[u8]) -> Vec<Entry> {
        let size = self.geometry.entry_size();
        table.chunks_exact(size).map(|raw| (be64(raw, 0).unwrap_or(0), be64(raw, 8).unwrap_or(0))).collect()
    }

    /// No byte of the cluster that this entry has, if it has one, is the guest's.
    fn reads_without(&self, (entry, bitmap): Entry) -> bool {
        let told = if self.geometry.extended { bitmap as u32 == 0 } else { entry & ZERO != 0 };
        entry & OFFSET == 0 || told
    }

    /// What is told instead of an entry whose cluster is not needed; `None` when it is, or there is none.
    fn without(&self, (entry, bitmap): Entry, zeros: &Ranges) -> Result<Option<Entry>> {
        let zero = if self.geometry.zero_flag { ZERO } else { 0 };
        if entry & COMPRESSED != 0 {
            let place = self.geometry.packed(entry);
            // Zeros pack to a thousandth; what takes more is not even unpacked.
            let cluster = self.geometry.cluster();
            if place.len > cluster / 512 + 64 + 512 {
                return Ok(None);
            }
            let (dev, mut data): (Device, _) = (self.dev.clone(), vec![0; cluster as usize]);
            unpack(&dev, self.header.compression, place, &mut data)?;
            let told = if self.geometry.extended { (0, u64::from(u32::MAX) << 32) } else { (zero, 0) };
            return Ok(is_zero(&data).then_some(told));
        }
        if entry & OFFSET == 0 || !self.reads_without((entry, bitmap)) && !zeros.contains(self.cluster(entry & OFFSET)) {
            return Ok(None);
        }
        // Subclusters that fall through go on doing so.
        let data = bitmap & u64::from(u32::MAX);
        Ok(Some(if self.geometry.extended { (0, bitmap & !data | data << 32) } else { (zero, 0) }))
    }

    /// Changes the entries of an L2 table, which `holders` L1 entries point to; how many clusters nobody uses any more.
    fn tell_zeros(&mut self, table: &mut [u8], holders: i64, zeros: &Ranges) -> Result<u64> {
        let mut freed = 0;
        for raw in table.chunks_exact_mut(self.geometry.entry_size()) {
            let old = (be64(raw, 0).unwrap_or(0), be64(raw, 8).unwrap_or(0));
            let Some(new) = self.without(old, zeros)? else { continue };
            if let Some((first, last)) = uses(&self.geometry, old.0)? {
                for n in first..=last {
                    freed += u64::from(self.alloc.drop_use(n, holders)? == 0);
                }
            }
            let bytes = [new.0.to_be_bytes(), new.1.to_be_bytes()].concat();
            raw.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        }
        Ok(freed)
    }

    /// Gives the space of `zeros` back to the host, which shows zeros there all the same.
    fn punch(&self, zeros: &Ranges) -> Result<u64> {
        let mut given = 0;
        for range in zeros.iter() {
            let (start, end) =
                (range.start << self.header.cluster_bits, (range.end << self.header.cluster_bits).min(self.dev.len()));
            if start < end {
                self.dev.write_zeroes(start, end - start)?;
                given += range.end - range.start;
            }
        }
        self.dev.flush()?;
        Ok(given)
    }
}
