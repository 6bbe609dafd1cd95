//! Wiping what the file stores where nothing in the image refers to: clusters lost when a writer was cut off, clusters let go of on a
//! device that has no holes, and what is between the compressed units of a host cluster. No table and no count changes, so it may be
//! cut off at any write.

use crate::engine::error::Result;
use crate::engine::format::check::Severity;
use crate::engine::format::lost::zero;
use crate::engine::format::ranges::Ranges;
use crate::engine::io::bytes::be64;
use crate::engine::io::{Device, WriteDevice, read_padded};
use crate::engine::units::SECTOR;

use super::check::Checker;
use super::extensions::{BACKING_FORMAT, BITMAPS, CRYPTO, DATA_FILE, FEATURES};
use super::header;
use super::stored::Last;
use super::tables::COMPRESSED;
use super::writer::Shared;

impl Shared {
    /// Makes everything durable and then wipes what nothing refers to; how many bytes that were. An image with damage is left as it
    /// is: there nobody knows what is used.
    pub fn wipe_unused(&self) -> Result<u64> {
        let mut s = self.sound()?;
        if !s.untouched {
            self.flush(&mut s)?;
        }
        let wiped = wipe(&self.dev)?;
        if wiped > 0 {
            self.barrier(&mut s, &self.dev)?;
        }
        Ok(wiped)
    }
}

fn wipe(dev: &WriteDevice) -> Result<u64> {
    let reader: Device = dev.clone();
    let (c, report) = Checker::run(&reader, true, &|_, _| Ok(()))?;
    if report.count(Severity::Corruption) + report.count(Severity::Unchecked) > 0 {
        return Ok(0);
    }
    let packed = if report.compressed > 0 { packed(&c)? } else { Ranges::default() };
    let all_known = all_known(&c);
    let cluster = c.geometry.cluster();
    let (mut wiped, mut at, mut last) = (0, 0, Last::default());
    // What is unused so far and not wiped yet.
    let mut run = 0..0;
    while at < dev.len() {
        let here = dev.host_range(at, dev.len() - at)?;
        let end = at + here.len.clamp(1, dev.len() - at);
        while !here.hole && at < end {
            let n = c.cluster(at);
            let stop = ((n + 1) * cluster).min(end);
            let unused = c.counts.get(n).uses == 0 && (all_known || c.stored.get(n, &mut last) == 0);
            let gaps = match unused {
                true => std::iter::once(at..stop).collect(),
                false => gaps(&packed, at, stop, n * cluster..(n + 1) * cluster),
            };
            for gap in gaps {
                if gap.start != run.end {
                    wiped += zero(dev.as_ref(), run.start, run.end)?;
                    run.start = gap.start;
                }
                run.end = gap.end;
            }
            at = stop;
        }
        at = end;
    }
    Ok(wiped + zero(dev.as_ref(), run.start, run.end)?)
}

/// True when every structure the header may lead to is one that was followed.
fn all_known(c: &Checker) -> bool {
    let followed = c.header.autoclear & header::BITMAPS != 0;
    c.ext.list.iter().all(|e| match e.id {
        BITMAPS => followed,
        id => matches!(id, BACKING_FORMAT | FEATURES | CRYPTO | DATA_FILE),
    })
}

/// The sectors that compressed units lie in, as bytes.
fn packed(c: &Checker) -> Result<Ranges> {
    let mut out = Ranges::default();
    let mut table = vec![0; c.geometry.cluster() as usize];
    for at in c.tables.keys() {
        read_padded(c.dev.as_ref(), *at, &mut table)?;
        for raw in table.chunks_exact(c.geometry.entry_size()) {
            let entry = be64(raw, 0).unwrap_or(0);
            if entry & COMPRESSED != 0 {
                let unit = c.geometry.packed(entry);
                out.insert(unit.offset / SECTOR * SECTOR..unit.offset + unit.len);
            }
        }
    }
    Ok(out)
}

/// What of `at..stop` no compressed unit lies in, when there are any in its `cluster`.
fn gaps(packed: &Ranges, at: u64, stop: u64, cluster: std::ops::Range<u64>) -> Vec<std::ops::Range<u64>> {
    let mut out = Vec::new();
    if packed.first_in(cluster).is_none() {
        return out;
    }
    let mut free = at;
    while free < stop {
        let next = packed.first_in(free..stop).unwrap_or(stop);
        if next > free {
            out.push(free..next);
        }
        free = next;
        while free < stop && packed.contains(free) {
            free = (free / SECTOR + 1) * SECTOR;
        }
    }
    out
}
