//! The VHDX log (MS-VHDX 2.3): metadata changes that may not have reached their places yet. A dirty log is replayed in memory,
//! onto an overlay, so that reading needs no write. It must not know what the changes mean.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::header::{Header, crc, guid};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::io::bytes::{le32, le64, put, put_le32, put_le64};
use crate::engine::io::overlay::Overlay;
use crate::engine::io::{Device, past_end, with_path};
use crate::engine::limits::MAX_TABLE_BYTES;

/// Bytes of a log sector, the unit of everything in it.
pub const SECTOR: u64 = 4096;
/// Bytes of an entry's header, before its descriptors.
pub const ENTRY_HEADER: u64 = 64;
/// Bytes of a descriptor.
pub const DESCRIPTOR: u64 = 32;

/// The device with the log applied.
pub struct Replayed {
    /// Reads as the file will read once the log has been written back.
    pub device: Device,
    /// What the log changed, if it held anything.
    pub overlay: Option<Arc<Overlay>>,
    /// The log was not empty.
    pub dirty: bool,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// An intact entry of the log.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Byte within the log where it begins.
    at: u64,
    len: u64,
    /// Byte within the log of the oldest entry that is still needed when this one is written.
    tail: u64,
    sequence: u64,
    descriptors: u64,
    /// Bytes the file had on stable storage.
    flushed: u64,
    /// Bytes the file has once this entry is applied.
    last: u64,
}

/// The log as a ring of bytes.
struct Ring<'a> {
    dev: &'a Device,
    at: u64,
    len: u64,
}

impl Ring<'_> {
    /// Reads the sector (or its beginning) at byte `at` of the log, which is a multiple of [`SECTOR`] after wrapping.
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        self.dev.read_at(self.at + at % self.len, buf)
    }

    /// The entry at byte `at`, if there is an intact one of the log called `log`. `budget` bounds the bytes summed up.
    fn entry(&self, at: u64, log: Uuid, budget: &mut u64) -> Result<Option<Entry>> {
        let mut b = [0u8; SECTOR as usize];
        self.read(at, b.get_mut(..ENTRY_HEADER as usize).unwrap_or_default())?;
        let decoded = (|| {
            (b.get(..4)? == b"loge" && guid(&b, 32)? == log).then_some(())?;
            let e = Entry {
                at,
                len: le32(&b, 8)?.into(),
                tail: le32(&b, 12)?.into(),
                sequence: le64(&b, 16)?,
                descriptors: le32(&b, 24)?.into(),
                flushed: le64(&b, 48)?,
                last: le64(&b, 56)?,
            };
            let possible = e.len >= SECTOR
                && e.len.is_multiple_of(SECTOR)
                && e.len <= self.len
                && e.tail < self.len
                && e.tail.is_multiple_of(SECTOR)
                && e.sequence > 0
                && e.descriptor_bytes() <= e.len;
            possible.then_some((e, le32(&b, 4)?))
        })();
        let Some((entry, want)) = decoded else { return Ok(None) };
        *budget = budget
            .checked_sub(entry.len)
            .ok_or_else(|| Error::corrupt("the log's entries overlap each other").op("read VHDX log"))?;
        let mut sum = 0;
        for done in (0..entry.len).step_by(SECTOR as usize) {
            self.read(at + done, &mut b)?;
            if done == 0 {
                let _ = put(&mut b, 4, &[0; 4]);
            }
            sum = crc32c::crc32c_append(sum, &b);
        }
        Ok((sum == want).then_some(entry))
    }
}

impl Entry {
    /// Bytes of the sectors that hold the header and the descriptors.
    fn descriptor_bytes(&self) -> u64 {
        (ENTRY_HEADER + self.descriptors * DESCRIPTOR).next_multiple_of(SECTOR)
    }
}

/// Replays the log that `header` names, if it is not empty.
///
/// Errors: the log lies outside the file, or the file is shorter than an entry knows it to have been (`Truncated`); an entry
/// contradicts itself (`Corrupt`).
pub fn replay(dev: Device, header: &Header) -> Result<Replayed> {
    if header.log.is_nil() || header.log_len == 0 {
        return Ok(Replayed { device: dev, overlay: None, dirty: false, warnings: Vec::new() });
    }
    if header.log_at.checked_add(header.log_len).is_none_or(|end| end > dev.len()) {
        return Err(past_end(dev.as_ref(), header.log_at, header.log_len).op("read VHDX log"));
    }
    let ring = Ring { dev: &dev, at: header.log_at, len: header.log_len };
    let entries = active(&ring, header.log).map_err(|e| with_path(e.at(header.log_at), dev.as_ref()))?;
    let Some(head) = entries.last() else {
        // The log was announced in the header, but nothing was written to it before the crash: there is nothing to do.
        let warnings = vec!["the log is marked as in use but holds no intact entry; nothing was replayed".to_string()];
        return Ok(Replayed { device: dev, overlay: None, dirty: true, warnings });
    };
    if dev.len() < head.flushed {
        return Err(with_path(
            Error::new(
                ErrorKind::Truncated,
                format!("the log knows of {} bytes, but the file has only {}", head.flushed, dev.len()),
            )
            .op("replay VHDX log")
            .hint("the file was cut short or is still being copied"),
            dev.as_ref(),
        ));
    }
    let mut overlay = Overlay::new(dev.clone());
    for e in &entries {
        apply(&ring, e, &mut overlay)
            .map_err(|error| with_path(error.op("replay VHDX log").at(header.log_at + e.at), dev.as_ref()))?;
    }
    overlay.grow(head.last);
    let warnings = vec![format!("it was not closed properly: {} log entries were replayed in memory", entries.len())];
    let overlay = Arc::new(overlay);
    Ok(Replayed { device: overlay.clone(), overlay: Some(overlay), dirty: true, warnings })
}

/// The active sequence, oldest entry first: the one whose head has the highest sequence number and whose tail is unbroken.
fn active(ring: &Ring<'_>, log: Uuid) -> Result<Vec<Entry>> {
    let mut all = BTreeMap::new();
    let mut budget = ring.len.saturating_mul(4);
    for at in (0..ring.len).step_by(SECTOR as usize) {
        if let Some(e) = ring.entry(at, log, &mut budget)? {
            all.insert(at, e);
        }
    }
    let mut heads: Vec<&Entry> = all.values().collect();
    heads.sort_by_key(|e| std::cmp::Reverse(e.sequence));
    let mut steps = all.len().saturating_mul(4);
    for head in heads {
        let mut sequence: Vec<Entry> = Vec::new();
        let mut bytes = 0u64;
        let mut at = head.tail;
        while let Some(e) = all.get(&at).filter(|e| sequence.last().is_none_or(|p| p.sequence.checked_add(1) == Some(e.sequence)))
        {
            bytes += e.len;
            steps = steps.saturating_sub(1);
            if bytes > ring.len || steps == 0 {
                break;
            }
            sequence.push(*e);
            if e.at == head.at {
                return Ok(sequence);
            }
            at = (e.at + e.len) % ring.len;
        }
    }
    Ok(Vec::new())
}

/// Puts the changes of one entry onto the overlay.
fn apply(ring: &Ring<'_>, e: &Entry, overlay: &mut Overlay) -> Result<()> {
    let bad = |what: &str| Error::corrupt(format!("log entry {} {what}", e.sequence));
    let mut sector = vec![0u8; SECTOR as usize];
    let mut data_at = e.descriptor_bytes();
    for n in 0..e.descriptors {
        let at = ENTRY_HEADER + n * DESCRIPTOR;
        if n == 0 || at.is_multiple_of(SECTOR) {
            ring.read(e.at + at - at % SECTOR, &mut sector)?;
        }
        let d = sector.get((at % SECTOR) as usize..).and_then(|s| s.get(..DESCRIPTOR as usize)).unwrap_or_default();
        let (Some(place), Some(sequence)) = (le64(d, 16), le64(d, 24)) else { return Err(bad("is too short")) };
        if sequence != e.sequence || !place.is_multiple_of(SECTOR) {
            return Err(bad("has a descriptor that does not belong to it"));
        }
        match d.get(..4) {
            Some(b"zero") => {
                let len = le64(d, 8).unwrap_or_default();
                match place.checked_add(len).filter(|end| len.is_multiple_of(SECTOR) && *end <= i64::MAX as u64) {
                    Some(end) => overlay.zero(place, end),
                    None => return Err(bad("zeroes an impossible range")),
                }
            }
            Some(b"desc") => {
                if data_at >= e.len || place > i64::MAX as u64 {
                    return Err(bad("has fewer data sectors than it says"));
                }
                let mut data = vec![0u8; SECTOR as usize];
                ring.read(e.at + data_at, &mut data)?;
                data_at += SECTOR;
                let (high, low) = (le32(&data, 4).unwrap_or_default(), le32(&data, 4092).unwrap_or_default());
                if data.get(..4) != Some(b"data") || u64::from(high) << 32 | u64::from(low) != e.sequence {
                    return Err(bad("has a torn data sector"));
                }
                // The first 8 and the last 4 bytes made way for the sector's own signature and sequence number.
                let ok =
                    put(&mut data, 0, d.get(8..16).unwrap_or_default()) && put(&mut data, 4092, d.get(4..8).unwrap_or_default());
                if !ok || overlay.pieces() as u64 * SECTOR > MAX_TABLE_BYTES {
                    return Err(bad("does not fit into memory"));
                }
                overlay.put(place, data.into());
            }
            _ => return Err(bad("has a descriptor of an unknown sort")),
        }
    }
    Ok(())
}

/// The bytes of an entry that changes `sectors` (each [`SECTOR`] bytes at a multiple of that) of a file of `file_len` bytes. It is
/// meant for the log's beginning and needs no other entry.
pub fn entry(log: Uuid, sequence: u64, sectors: &[(u64, Vec<u8>)], file_len: u64) -> Vec<u8> {
    let count = sectors.len() as u64;
    let descriptors = (ENTRY_HEADER + count * DESCRIPTOR).next_multiple_of(SECTOR);
    let len = descriptors + count * SECTOR;
    let mut b = vec![0u8; len as usize];
    let mut ok = put(&mut b, 0, b"loge")
        && put_le32(&mut b, 8, len as u32)
        && put_le64(&mut b, 16, sequence)
        && put_le32(&mut b, 24, count as u32)
        && put(&mut b, 32, &log.to_bytes_le())
        && put_le64(&mut b, 48, file_len)
        && put_le64(&mut b, 56, file_len);
    for (n, (place, bytes)) in sectors.iter().enumerate() {
        let o = (ENTRY_HEADER + n as u64 * DESCRIPTOR) as usize;
        let at = (descriptors + n as u64 * SECTOR) as usize;
        ok &= put(&mut b, o, b"desc")
            && put(&mut b, o + 4, bytes.get(4092..4096).unwrap_or_default())
            && put(&mut b, o + 8, bytes.get(..8).unwrap_or_default())
            && put_le64(&mut b, o + 16, *place)
            && put_le64(&mut b, o + 24, sequence)
            && put(&mut b, at, bytes)
            && put(&mut b, at, b"data")
            && put_le32(&mut b, at + 4, (sequence >> 32) as u32)
            && put_le32(&mut b, at + 4092, sequence as u32);
    }
    let sum = crc(&b);
    ok &= put_le32(&mut b, 4, sum);
    debug_assert!(ok, "room was made for every sector");
    b
}
