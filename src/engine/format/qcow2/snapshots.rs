//! The table of internal snapshots: read from and written to bytes, unknown extra data kept. Specification: "Snapshots".

use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::io::bytes::{be16, be32, be64};
use crate::engine::io::{ReadAt, read_up_to};
use crate::engine::limits::{MAX_L1_BYTES, MAX_SNAPSHOT_TABLE, MAX_SNAPSHOTS};
use crate::engine::model::Snapshot;

use super::header::Header;

/// Bytes of the fixed part of an entry.
const FIXED: usize = 40;
/// Extra data QEMU accepts, in bytes.
const MAX_EXTRA: usize = 1024;
/// Extra data that is known: VM state size, disk size, instruction count.
const KNOWN_EXTRA: usize = 24;
/// How much of it programs write.
const USUAL_EXTRA: [usize; 3] = [KNOWN_EXTRA, LEAST_EXTRA, 0];
/// Extra data that version 3 demands: VM state size, disk size.
const LEAST_EXTRA: usize = 16;

/// An entry of the snapshot table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Byte offset of its L1 table.
    pub l1_offset: u64,
    /// Entries of its L1 table.
    pub l1_entries: u32,
    /// Seconds since 1970.
    pub date_sec: u32,
    /// Nanoseconds of that second.
    pub date_nsec: u32,
    /// Guest clock in nanoseconds.
    pub vm_clock_nsec: u64,
    /// Bytes of VM state as the 32-bit field has them; [`Entry::vm_state`] knows the larger field too.
    pub vm_state_size: u32,
    /// Extra data: VM state size, disk size, instruction count, and what later versions add.
    pub extra: Vec<u8>,
    /// Identifier.
    pub id: Vec<u8>,
    /// Name.
    pub name: Vec<u8>,
}

impl Entry {
    /// Reads one entry at the beginning of `b`; also how many bytes it takes with its padding. `None`: `b` ends before it.
    fn parse(b: &[u8]) -> Option<(Entry, usize)> {
        Entry::parse_with(b, be32(b, 36)? as usize)
    }

    /// The same, with `extra_len` bytes of extra data whatever it says itself.
    fn parse_with(b: &[u8], extra_len: usize) -> Option<(Entry, usize)> {
        let (id_len, name_len) = (be16(b, 12)? as usize, be16(b, 14)? as usize);
        let id_at = FIXED.checked_add(extra_len)?;
        let end = id_at.checked_add(id_len + name_len)?;
        let entry = Entry {
            l1_offset: be64(b, 0)?,
            l1_entries: be32(b, 8)?,
            date_sec: be32(b, 16)?,
            date_nsec: be32(b, 20)?,
            vm_clock_nsec: be64(b, 24)?,
            vm_state_size: be32(b, 32)?,
            extra: b.get(FIXED..id_at)?.to_vec(),
            id: b.get(id_at..id_at + id_len)?.to_vec(),
            name: b.get(id_at + id_len..end)?.to_vec(),
        };
        Some((entry, end.next_multiple_of(8)))
    }

    /// It stands for nothing: zeros where a table had ended.
    fn is_empty(&self) -> bool {
        self.id.is_empty() && self.name.is_empty() && self.l1_entries == 0
    }
    /// Its texts are such as programs write.
    pub fn reads_well(&self) -> bool {
        let plain = |text: &[u8]| std::str::from_utf8(text).is_ok_and(|t| !t.chars().any(char::is_control));
        !self.id.is_empty() && self.id.is_ascii() && plain(&self.id) && plain(&self.name)
    }

    /// The entry as bytes, padded to a multiple of 8.
    pub fn encode(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(FIXED + self.extra.len() + self.id.len() + self.name.len() + 8);
        b.extend_from_slice(&self.l1_offset.to_be_bytes());
        b.extend_from_slice(&self.l1_entries.to_be_bytes());
        b.extend_from_slice(&(self.id.len() as u16).to_be_bytes());
        b.extend_from_slice(&(self.name.len() as u16).to_be_bytes());
        b.extend_from_slice(&self.date_sec.to_be_bytes());
        b.extend_from_slice(&self.date_nsec.to_be_bytes());
        b.extend_from_slice(&self.vm_clock_nsec.to_be_bytes());
        b.extend_from_slice(&self.vm_state_size.to_be_bytes());
        b.extend_from_slice(&(self.extra.len() as u32).to_be_bytes());
        b.extend_from_slice(&self.extra);
        b.extend_from_slice(&self.id);
        b.extend_from_slice(&self.name);
        b.resize(b.len().next_multiple_of(8), 0);
        b
    }

    /// Bytes of VM state.
    pub fn vm_state(&self) -> u64 {
        be64(&self.extra, 0).unwrap_or(u64::from(self.vm_state_size))
    }
    /// Virtual size in bytes then, if stored.
    pub fn disk_size(&self) -> Option<u64> {
        be64(&self.extra, 8)
    }
    /// Instruction count, if stored.
    pub fn icount(&self) -> Option<u64> {
        be64(&self.extra, 16).filter(|&n| n != u64::MAX)
    }

    /// The entry as plain data.
    pub fn describe(&self, header: &Header) -> Snapshot {
        Snapshot {
            id: String::from_utf8_lossy(&self.id).into_owned(),
            name: String::from_utf8_lossy(&self.name).into_owned(),
            vm_state_size: self.vm_state(),
            date_sec: self.date_sec,
            date_nsec: self.date_nsec,
            vm_clock_nsec: self.vm_clock_nsec,
            icount: self.icount(),
            disk_size: self.disk_size().unwrap_or(header.size),
        }
    }
}

/// Reads the snapshot table `header` points to.
///
/// Errors: the table is cut short or larger than [`MAX_SNAPSHOT_TABLE`]; an entry's L1 table is too large, not on a cluster, or
/// outside the file.
pub fn read(dev: &dyn ReadAt, header: &Header) -> Result<Vec<Entry>> {
    let list = read_table(dev, header)?;
    for s in &list {
        check(s, dev, header).map_err(|e| e.op("read the snapshot table").at(header.snapshots_offset))?;
    }
    Ok(list)
}

/// The same without a look at where the entries point.
///
/// Errors: the table is cut short or larger than [`MAX_SNAPSHOT_TABLE`].
pub fn read_table(dev: &dyn ReadAt, header: &Header) -> Result<Vec<Entry>> {
    if header.snapshots == 0 {
        return Ok(Vec::new());
    }
    let place = |e: Error| e.op("read the snapshot table").at(header.snapshots_offset);
    // The table's length is nowhere stored: take what such a table usually needs, and more only when it goes on.
    let mut want = u64::from(header.snapshots) * 128;
    loop {
        let bytes = read_up_to(dev, header.snapshots_offset, want.min(MAX_SNAPSHOT_TABLE) as usize).map_err(place)?;
        match parse(&bytes, header.snapshots)? {
            Some(list) => return Ok(list),
            None if (bytes.len() as u64) < want.min(MAX_SNAPSHOT_TABLE) => {
                return Err(place(Error::new(ErrorKind::Truncated, "the file ends within the snapshot table")));
            }
            None if want >= MAX_SNAPSHOT_TABLE => {
                return Err(place(Error::corrupt(format!("the snapshot table is larger than {MAX_SNAPSHOT_TABLE} bytes"))));
            }
            None => want = want.saturating_mul(8),
        }
    }
}

/// `count` entries out of `bytes`; `None` when they end before.
fn parse(bytes: &[u8], count: u32) -> Result<Option<Vec<Entry>>> {
    let mut out = Vec::new();
    let mut at = 0;
    for n in 0..count {
        let rest = bytes.get(at..).unwrap_or_default();
        if be32(rest, 36).is_some_and(|extra| extra as usize > MAX_EXTRA) {
            return Err(Error::corrupt(format!("snapshot {n} has more than {MAX_EXTRA} bytes of extra data"))
                .op("read the snapshot table"));
        }
        let Some((entry, len)) = Entry::parse(rest) else { return Ok(None) };
        out.push(entry);
        at += len;
    }
    Ok(Some(out))
}

/// What there is of a snapshot table that may be damaged.
#[derive(Default)]
pub struct Salvage {
    /// Its snapshots; what was missing in an entry has its value.
    pub list: Vec<Entry>,
    /// Bytes from its beginning to the end of its last snapshot.
    pub len: u64,
    /// What was put right, or stands for no snapshot: where, and what.
    pub mended: Vec<(u64, String)>,
    /// From where on it is no table, and why: snapshots may have been there.
    pub broken: Option<(u64, Error)>,
}

/// Reads as much of the snapshot table as makes sense.
///
/// Errors: it cannot be read.
pub fn salvage(dev: &dyn ReadAt, header: &Header) -> Result<Salvage> {
    let (start, mut out) = (header.snapshots_offset, Salvage::default());
    if header.snapshots > 0 && start & (header.cluster_size() - 1) != 0 {
        out.broken = Some((start, Error::corrupt("the snapshot table does not begin on a cluster")));
        return Ok(out);
    }
    let (mut bytes, mut at, mut empty) = (Vec::new(), 0, false);
    for n in 0..header.snapshots.min(MAX_SNAPSHOTS) {
        let parsed = loop {
            let most = dev.len().saturating_sub(start).min(MAX_SNAPSHOT_TABLE);
            match Entry::parse(bytes.get(at..).unwrap_or_default()) {
                None if (bytes.len() as u64) < most => {
                    bytes = read_up_to(dev, start, (bytes.len() * 8).max(1 << 16).min(most as usize))?;
                }
                other => break other,
            }
        };
        let here = start.saturating_add(at as u64);
        let followed = |e: &Entry| check(e, dev, header).is_ok();
        let rest = bytes.get(at..).unwrap_or_default();
        let (mut entry, len) = match parsed {
            Some((e, len)) if e.is_empty() => {
                empty = true;
                at += len;
                out.mended.push((here, format!("entry {n} stands for no snapshot")));
                continue;
            }
            Some((e, len)) if e.reads_well() && (followed(&e) || !empty) => (e, len),
            // Where no entry was any more there was none behind it either: the number of snapshots is wrong.
            _ if empty => break,
            // With extra data of a usual length it may be one.
            other => {
                match USUAL_EXTRA.iter().filter_map(|n| Entry::parse_with(rest, *n)).find(|(e, _)| e.reads_well() && followed(e))
                {
                    Some((e, len)) => {
                        out.mended.push((here, format!("entry {n} does not say how long its extra data is")));
                        (e, len)
                    }
                    None => match other {
                        Some((e, len)) if e.l1_entries > 0 && followed(&e) && e.extra.len() <= MAX_EXTRA => (e, len),
                        _ => {
                            out.broken = Some((here, Error::corrupt(format!("entry {n} of the snapshot table is none"))));
                            break;
                        }
                    },
                }
            }
        };
        at += len;
        if entry.extra.len() > MAX_EXTRA {
            out.mended.push((here, format!("entry {n} has {} bytes of extra data", entry.extra.len())));
            entry.extra.truncate(KNOWN_EXTRA);
        }
        if header.version >= 3 && entry.extra.len() < LEAST_EXTRA {
            out.mended.push((here, format!("entry {n} has {} bytes of extra data", entry.extra.len())));
            entry.extra = [entry.vm_state(), header.size].iter().flat_map(|v| v.to_be_bytes()).collect();
        }
        out.list.push(entry);
        out.len = at as u64;
    }
    if header.snapshots > MAX_SNAPSHOTS && out.broken.is_none() {
        out.mended.push((start, format!("{} snapshots are claimed, more than {MAX_SNAPSHOTS}", header.snapshots)));
    }
    Ok(out)
}

/// Refuses a snapshot whose L1 table cannot be where its entry says.
pub fn check(s: &Entry, dev: &dyn ReadAt, header: &Header) -> Result<()> {
    let bytes = u64::from(s.l1_entries) * 8;
    let name = String::from_utf8_lossy(&s.name);
    if bytes > MAX_L1_BYTES || s.l1_offset & (header.cluster_size() - 1) != 0 {
        return Err(Error::corrupt(format!(
            "snapshot '{name}' has an L1 table of {} entries at {:#x}",
            s.l1_entries, s.l1_offset
        ))
        .hint("look with cowshed check, repair with check -r all"));
    }
    if s.l1_offset.saturating_add(bytes) > dev.len() {
        let why = format!("snapshot '{name}' has an L1 table at {:#x}, and the file ends at {:#x}", s.l1_offset, dev.len());
        return Err(Error::new(ErrorKind::Truncated, why).hint("look with cowshed check, repair with check -r all"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_extra_data_survives() {
        let e = Entry {
            l1_offset: 0x50000,
            l1_entries: 4,
            date_sec: 5,
            date_nsec: 6,
            vm_clock_nsec: 7,
            vm_state_size: 8,
            extra: [9u64, 1 << 30, 11, 0x0123_4567_89ab_cdef].iter().flat_map(|v| v.to_be_bytes()).collect(),
            id: b"12".to_vec(),
            name: "vor dem Umbau".into(),
        };
        let mut bytes = e.encode();
        bytes.extend(e.encode());
        let list = parse(&bytes, 2).unwrap().unwrap();
        assert_eq!(list, [e.clone(), e.clone()]);
        assert_eq!((e.vm_state(), e.disk_size(), e.icount()), (9, Some(1 << 30), Some(11)));
        for n in 0..bytes.len() - 7 {
            assert_eq!(parse(&bytes[..n], 2).unwrap(), None, "{n}");
        }
    }
}
