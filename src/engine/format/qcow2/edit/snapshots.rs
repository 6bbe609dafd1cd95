//! Internal snapshots changed: create, apply, delete (many in one pass), rename. Each is one switch of the image.

use std::collections::BTreeSet;

use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::limits::{MAX_L1_BYTES, MAX_SNAPSHOT_TABLE, MAX_SNAPSHOTS};

use super::super::header::BITMAPS;
use super::super::snapshots::Entry;
use super::share::Tables;
use super::{Editor, bytes};

/// The longest name, in bytes: what QEMU keeps of one.
const MAX_SNAPSHOT_NAME: usize = 255;

/// The snapshot called `key`: by its id, else by its name, as QEMU looks for the one to apply.
pub fn find(list: &[Entry], key: &str) -> Option<usize> {
    list.iter().position(|s| s.id == key.as_bytes()).or_else(|| list.iter().position(|s| s.name == key.as_bytes()))
}

/// The snapshot called `key`: by its name, else by its id, as QEMU looks for the one to delete (by name alone).
pub fn find_by_name(list: &[Entry], key: &str) -> Option<usize> {
    list.iter().position(|s| s.name == key.as_bytes()).or_else(|| list.iter().position(|s| s.id == key.as_bytes()))
}

fn check_name(name: &str) -> Result<()> {
    if name.len() > MAX_SNAPSHOT_NAME {
        return Err(Error::usage(format!(
            "a snapshot's name has at most {MAX_SNAPSHOT_NAME} bytes, and this has {}",
            name.len()
        )));
    }
    Ok(())
}

impl Editor {
    /// Takes a snapshot of the disk as it is; its id. `date` is the time since 1970.
    ///
    /// Errors: `Unsupported` when a cluster would be counted higher than the refcounts are wide, or there are too many snapshots.
    pub fn create(&mut self, name: &str, date: std::time::Duration) -> Result<String> {
        check_name(name)?;
        if self.list.len() as u64 >= u64::from(MAX_SNAPSHOTS) {
            return Err(Error::unsupported(format!("it has {MAX_SNAPSHOTS} snapshots, and there cannot be more")));
        }
        let number = |s: &Entry| std::str::from_utf8(&s.id).ok()?.parse::<u64>().ok();
        let id = self.list.iter().filter_map(number).max().unwrap_or(0).saturating_add(1).to_string();
        self.change(|e| {
            let mut l1 = e.l1.clone();
            let mut tables = Tables::new();
            e.collect(&mut tables, &l1, 1)?;
            e.recount(&tables)?;
            e.set_copied(&mut l1, 2)?;
            let l1_offset = e.place(&bytes(&l1))?;
            let extra = [0u64, e.header.size, u64::MAX].iter().flat_map(|v| v.to_be_bytes()).collect();
            e.list.push(Entry {
                l1_offset,
                l1_entries: l1.len() as u32,
                date_sec: date.as_secs() as u32,
                date_nsec: date.subsec_nanos(),
                vm_clock_nsec: 0,
                vm_state_size: 0,
                extra,
                id: id.clone().into_bytes(),
                name: name.as_bytes().to_vec(),
            });
            e.place_l1(l1)?;
            e.place_list()
        })?;
        Ok(id)
    }

    /// Makes the disk what it was at snapshot `index`, with the size it had; other snapshots stay as they are. Dirty bitmaps say
    /// afterwards that everything changed.
    pub fn apply(&mut self, index: usize) -> Result<()> {
        let entry = self.entry(index)?.clone();
        let size = entry.disk_size().unwrap_or(self.header.size);
        if size != self.header.size && self.list.iter().any(|s| s.disk_size().is_none()) {
            return Err(Error::unsupported("the disk had another size then, and other snapshots do not store theirs")
                .hint("export the snapshot instead: convert -l"));
        }
        let needed = Self::l1_needed(&self.header, size);
        if needed as u64 * 8 > MAX_L1_BYTES {
            return Err(Error::corrupt(format!("the snapshot says its disk has {size} bytes, more than there can be")));
        }
        let bitmaps = self.header.autoclear & BITMAPS != 0;
        self.change(|e| {
            let mut l1 = e.l1_of(&entry)?;
            l1.resize(l1.len().max(needed).max(1), 0);
            let mut tables = Tables::new();
            e.collect(&mut tables, &e.l1, -1)?;
            e.collect(&mut tables, &l1, 1)?;
            e.recount(&tables)?;
            e.set_copied(&mut l1, 1)?;
            e.header.size = size;
            // They are trusted again once they are right.
            e.header.autoclear &= !BITMAPS;
            e.place_l1(l1)
        })?;
        if bitmaps { self.bitmaps_all_dirty() } else { Ok(()) }
    }

    /// Deletes the snapshots `set`, all in one pass.
    pub fn delete(&mut self, set: &BTreeSet<usize>) -> Result<()> {
        let gone: Vec<Entry> = set.iter().map(|i| self.entry(*i).cloned()).collect::<Result<_>>()?;
        if gone.is_empty() {
            return Ok(());
        }
        self.check_tables()?;
        self.change(|e| {
            let mut tables = Tables::new();
            for entry in &gone {
                let l1 = e.l1_of(entry)?;
                e.collect(&mut tables, &l1, -1)?;
            }
            e.recount(&tables)?;
            for entry in &gone {
                e.alloc.drop_range(entry.l1_offset, u64::from(entry.l1_entries) * 8)?;
            }
            let mut l1 = e.l1.clone();
            e.set_copied(&mut l1, 1)?;
            if l1 != e.l1 {
                e.place_l1(l1)?;
            }
            let mut n = 0;
            let old = e.list_len();
            e.list.retain(|_| {
                n += 1;
                !set.contains(&(n - 1))
            });
            e.place_list_after(old)
        })
    }

    /// Renames snapshot `index`.
    pub fn rename(&mut self, index: usize, name: &str) -> Result<()> {
        check_name(name)?;
        self.entry(index)?;
        self.change(|e| {
            let old = e.list_len();
            if let Some(s) = e.list.get_mut(index) {
                s.name = name.as_bytes().to_vec();
            }
            e.place_list_after(old)
        })
    }

    fn entry(&self, index: usize) -> Result<&Entry> {
        self.list.get(index).ok_or_else(|| Error::new(ErrorKind::Usage, format!("there is no snapshot number {index}")))
    }

    pub(super) fn list_len(&self) -> u64 {
        self.list.iter().map(|s| s.encode().len() as u64).sum()
    }

    /// Writes the table after an entry was added.
    fn place_list(&mut self) -> Result<()> {
        let added = self.list.last().map_or(0, |s| s.encode().len() as u64);
        let old = self.list_len() - added;
        self.place_list_after(old)
    }

    /// Writes the table to a new place; the old one had `old` bytes.
    pub(super) fn place_list_after(&mut self, old: u64) -> Result<()> {
        let table: Vec<u8> = self.list.iter().flat_map(Entry::encode).collect();
        if table.len() as u64 > MAX_SNAPSHOT_TABLE {
            return Err(Error::unsupported(format!("the snapshot table would be larger than {MAX_SNAPSHOT_TABLE} bytes")));
        }
        self.alloc.drop_range(self.header.snapshots_offset, old)?;
        self.header.snapshots_offset = self.place(&table)?;
        self.header.snapshots = self.list.len() as u32;
        Ok(())
    }
}
