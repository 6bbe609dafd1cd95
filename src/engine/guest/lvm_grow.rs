//! Growing a volume group with its only physical volume, and one linear logical volume in it.
//!
//! ```text
//!  1  the label: the device's size               nobody relies on it while there is metadata
//!  2  the metadata's text, in a free place       the ring has room for the old and the new; nothing points to it yet
//!  3  the area's header: where the text is       one sector: the old text or the new one
//! ```
//!
//! Only what is certain is changed: one physical volume with one metadata area, and nothing but linear volumes on it. The text is edited
//! in place of its numbers, so that all else in it stays. LVM2: `lib/format_text/layout.h`, `lib/label/label.h`.

use std::collections::BTreeMap;
use std::ops::Range;

use super::lvm::crc;
use super::lvm_text::{Text, scan};
use super::partition::grow::{Edits, Step};
use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{le32, le64};
use crate::engine::io::{ReadAt, read_vec};
use crate::engine::units::{MIB, SECTOR, printable};

const MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";

/// A volume group that takes all of its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extended {
    /// The logical volume that grows: `group/volume`.
    pub volume: String,
    /// Bytes it has now and afterwards.
    pub from: u64,
    /// The same afterwards.
    pub to: u64,
    /// What to write on the physical volume.
    pub edits: Edits,
}

/// What lets the group on the physical volume `dev` take all of it, and its logical volume `wanted` (`group/volume`) all that is free at
/// the end. `None` when there is nothing to gain.
///
/// Errors: `Unsupported` where it is not certain what to do, with the reason; damage.
pub fn extend(dev: &dyn ReadAt, wanted: &str) -> Result<Option<Extended>> {
    let pv = Pv::read(dev)?;
    let text = scan(&pv.text)?;
    let group = Group::of(&text, &pv.uuid)?;
    let sectors = dev.len() / SECTOR;
    let room = sectors.checked_sub(group.pe_start).ok_or_else(|| bad("its extents begin behind its end"))?;
    let count = room / group.extent;
    let free = group.used().max().unwrap_or(0);
    if count < free.max(group.pe_count) {
        return Err(bad("its device has less room than it says"));
    }
    let name = wanted.strip_prefix(&format!("{}/", printable(&group.name)));
    let (lv, parts) = name
        .and_then(|n| group.volumes.iter().find(|(v, _)| printable(v) == n))
        .ok_or_else(|| no("the volume that should grow is not in its group"))?;
    let more = count - free;
    if more == 0 && count == group.pe_count {
        return Ok(None);
    }
    let mut changes: Vec<(Range<usize>, String)> = vec![
        (text.number(&[&group.name, "seqno"])?.1, (group.seqno + 1).to_string()),
        (text.number(&[&group.name, "physical_volumes", &group.pv, "dev_size"])?.1, sectors.to_string()),
        (text.number(&[&group.name, "physical_volumes", &group.pv, "pe_count"])?.1, count.to_string()),
    ];
    let last = parts.iter().max_by_key(|p| p.start).ok_or_else(|| no("the volume that should grow has no segment"))?;
    let size: u64 = parts.iter().map(|p| p.len).sum();
    let at = |key: &str| text.number(&[&group.name, "logical_volumes", lv, &last.name, key]);
    if more > 0 && last.place + last.len == free {
        changes.push((at("extent_count")?.1, (last.len + more).to_string()));
    } else if more > 0 {
        let (n, range) = text.number(&[&group.name, "logical_volumes", lv, "segment_count"])?;
        changes.push((range, (n + 1).to_string()));
        let end = text.end(&[&group.name, "logical_volumes", lv, &last.name])?;
        changes.push((end..end, segment(n + 1, size, more, &group.pv, free)));
    }
    let bytes = group.extent * SECTOR;
    Ok(Some(Extended {
        volume: wanted.to_string(),
        from: size * bytes,
        to: (size + more) * bytes,
        edits: pv.edits(replaced(&pv.text, changes), dev.len())?,
    }))
}

/// The text of a further segment, as LVM writes it.
fn segment(n: u64, start: u64, len: u64, pv: &str, place: u64) -> String {
    format!(
        "\n\nsegment{n} {{\nstart_extent = {start}\nextent_count = {len}\n\ntype = \"striped\"\nstripe_count = 1\n\nstripes = \
         [\n\"{pv}\", {place}\n]\n}}"
    )
}

fn replaced(text: &str, mut changes: Vec<(Range<usize>, String)>) -> String {
    changes.sort_by_key(|(r, _)| r.start);
    let mut out = text.to_string();
    for (range, new) in changes.into_iter().rev() {
        out.replace_range(range, &new);
    }
    out
}

fn bad(what: &str) -> Error {
    Error::corrupt(format!("LVM2: {what}")).op("read LVM2 metadata")
}

fn no(why: &str) -> Error {
    Error::unsupported(why)
}

/// A physical volume: its label, and its metadata area with the text in force.
struct Pv {
    uuid: String,
    /// Where the label's sector is, and the sector.
    label: (u64, Vec<u8>),
    /// Where the size of the device is in it.
    size_at: usize,
    /// Where the area is, and its length.
    area: (u64, u64),
    /// Its header.
    header: Vec<u8>,
    /// Where the text is in it, and its length.
    place: (u64, u64),
    text: String,
}

impl Pv {
    fn read(dev: &dyn ReadAt) -> Result<Pv> {
        let head = read_vec(dev, 0, 4 * SECTOR, 4 * SECTOR)?;
        let found = (0u64..).zip(head.chunks(SECTOR as usize)).find(|(_, s)| s.starts_with(b"LABELONE"));
        let (sector, label) = found.ok_or_else(|| bad("it has no label"))?;
        if le64(label, 8) != Some(sector) || le32(label, 16) != Some(crc(label.get(20..).unwrap_or_default())) {
            return Err(bad("the label's checksum is wrong").at(sector * SECTOR));
        }
        let start = le32(label, 20).map_or(usize::MAX, |o| o as usize);
        let outside = || bad("the label points outside its sector");
        let header = label.get(start..).ok_or_else(outside)?;
        let uuid = header.get(..32).map(|b| String::from_utf8_lossy(b).into_owned()).ok_or_else(outside)?;
        let pairs: Vec<(u64, u64)> =
            header.get(40..).unwrap_or_default().chunks_exact(16).filter_map(|c| Some((le64(c, 0)?, le64(c, 8)?))).collect();
        let mut lists = pairs.split(|p| *p == (0, 0));
        let (data, areas) = (lists.next().unwrap_or_default(), lists.next().unwrap_or_default());
        if data.len() != 1 || data.iter().any(|d| d.1 != 0) {
            return Err(no("its physical volume has data in several areas, or in one of fixed size"));
        }
        let [area] = areas else { return Err(no("its physical volume has no metadata area, or several")) };
        let header = read_vec(dev, area.0, SECTOR, SECTOR)?;
        let word = |at| le64(&header, at).unwrap_or(0);
        if header.get(4..20) != Some(MAGIC) || le32(&header, 0) != Some(crc(header.get(4..).unwrap_or_default())) {
            return Err(bad("the metadata area's checksum is wrong").at(area.0));
        }
        if word(72) != 0 {
            return Err(no("a change of its metadata was interrupted: run vgck in the guest first"));
        }
        let ((at, len), flags) = ((word(40), word(48)), le32(&header, 60).unwrap_or(0));
        if le32(&header, 20) != Some(1) || (word(24), word(32)) != *area || flags != 0 {
            return Err(no("its metadata area is not of the usual kind"));
        }
        if at < SECTOR || at >= area.1 || len == 0 || len > area.1 - SECTOR || len > 16 * MIB {
            return Err(bad("the metadata lies outside its area").at(area.0));
        }
        let first = len.min(area.1 - at);
        let mut text = read_vec(dev, area.0 + at, first, 16 * MIB)?;
        text.extend(read_vec(dev, area.0 + SECTOR, len - first, 16 * MIB)?);
        if le32(&header, 56) != Some(crc(&text)) || text.pop() != Some(0) {
            return Err(bad("the metadata's checksum is wrong").at(area.0 + at));
        }
        let text = String::from_utf8(text).map_err(|_| no("its metadata is not UTF-8"))?;
        let label = (sector * SECTOR, label.to_vec());
        Ok(Pv { uuid, label, size_at: start + 32, area: *area, header, place: (at, len), text })
    }

    /// What makes `text` the metadata, on a device of `size` bytes.
    fn edits(&self, text: String, size: u64) -> Result<Edits> {
        let mut text = text.into_bytes();
        text.push(0);
        let (at, len) = self.place;
        // The old text may go on at the beginning of the ring.
        let wraps = (at + len).saturating_sub(self.area.1);
        let after = if wraps > 0 { SECTOR + wraps } else { at + len }.next_multiple_of(SECTOR);
        let need = text.len() as u64;
        let place = match wraps > 0 {
            true if after + need <= at => after,
            false if after + need <= self.area.1 => after,
            false if SECTOR + need <= at => SECTOR,
            _ => return Err(no("its metadata area has no room for another text")),
        };
        let mut header = self.header.clone();
        put(&mut header, 40, &place.to_le_bytes());
        put(&mut header, 48, &need.to_le_bytes());
        put(&mut header, 56, &crc(&text).to_le_bytes());
        let sum = crc(header.get(4..).unwrap_or_default());
        put(&mut header, 0, &sum.to_le_bytes());
        let mut label = self.label.1.clone();
        put(&mut label, self.size_at, &(size / SECTOR * SECTOR).to_le_bytes());
        let sum = crc(label.get(20..).unwrap_or_default());
        put(&mut label, 16, &sum.to_le_bytes());
        let step = |what: &str, writes| Step { what: what.into(), writes };
        Ok(Edits {
            steps: vec![
                step("the physical volume's label tells the new size", vec![(self.label.0, label)]),
                step("the volume group's new metadata is written beside the old", vec![(self.area.0 + place, text)]),
                step("the metadata area's header leads to it", vec![(self.area.0, header)]),
            ],
        })
    }
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    if let Some(b) = bytes.get_mut(at..at + new.len()) {
        b.copy_from_slice(new);
    }
}

/// A segment of a logical volume, in extents.
struct Part {
    name: String,
    start: u64,
    len: u64,
    /// Its first extent on the physical volume.
    place: u64,
}

/// A volume group on one physical volume, with linear volumes only.
struct Group {
    name: String,
    seqno: u64,
    /// Sectors of an extent.
    extent: u64,
    /// Name of the physical volume in the text.
    pv: String,
    /// Sector where its extents begin, and how many there are.
    pe_start: u64,
    pe_count: u64,
    volumes: BTreeMap<String, Vec<Part>>,
}

impl Group {
    /// Errors: anything in it is other than what is understood here.
    fn of(text: &Text<'_>, uuid: &str) -> Result<Group> {
        let name = text.sections(&[]).next().ok_or_else(|| bad("no volume group"))?.to_string();
        let known = |s: &str| matches!(s, "physical_volumes" | "logical_volumes");
        if let Some(other) = text.sections(&[&name]).find(|s| !known(s)) {
            return Err(no(&format!("its volume group has {}, which is not understood", printable(other))));
        }
        if text.value(&[&name, "lock_type"]).is_some_and(|l| l != "\"none\"") {
            return Err(no("its volume group is shared between hosts"));
        }
        text.only(&[&name, "status"], &["RESIZEABLE", "READ", "WRITE"])?;
        text.only(&[&name, "flags"], &[])?;
        let pvs: Vec<&str> = text.sections(&[&name, "physical_volumes"]).collect();
        let [pv] = pvs.as_slice() else { return Err(no("its volume group has several physical volumes")) };
        let path = |key| [name.as_str(), "physical_volumes", *pv, key];
        text.only(&path("status"), &["ALLOCATABLE"])?;
        text.only(&path("flags"), &[])?;
        if text.value(&path("id")).map(|id| id.trim_matches('"').replace('-', "")).as_deref() != Some(uuid) {
            return Err(bad("its metadata is of another physical volume"));
        }
        let mut volumes = BTreeMap::new();
        for lv in text.sections(&[&name, "logical_volumes"]) {
            volumes.insert(lv.to_string(), parts(text, &name, lv, pv)?);
        }
        let extent = text.number(&[&name, "extent_size"])?.0;
        let group = Group {
            seqno: text.number(&[&name, "seqno"])?.0,
            extent,
            pv: pv.to_string(),
            pe_start: text.number(&path("pe_start"))?.0,
            pe_count: text.number(&path("pe_count"))?.0,
            volumes,
            name: name.clone(),
        };
        let end = group.used().max().unwrap_or(0);
        if extent == 0 || extent > u64::from(u32::MAX) || end > group.pe_count || group.pe_count > u64::from(u32::MAX) {
            return Err(bad("its extents make no sense"));
        }
        Ok(group)
    }

    /// Where each segment ends on the physical volume.
    fn used(&self) -> impl Iterator<Item = u64> {
        self.volumes.values().flatten().map(|p| p.place.saturating_add(p.len))
    }
}

fn parts(text: &Text<'_>, group: &str, lv: &str, pv: &str) -> Result<Vec<Part>> {
    text.only(&[group, "logical_volumes", lv, "status"], &["READ", "WRITE", "VISIBLE"])?;
    text.only(&[group, "logical_volumes", lv, "flags"], &[])?;
    let mut out = Vec::new();
    for segment in text.sections(&[group, "logical_volumes", lv]) {
        let path = |key| [group, "logical_volumes", lv, segment, key];
        let number = |key| text.number(&path(key)).map(|n| n.0);
        if text.value(&path("type")) != Some("\"striped\"") || number("stripe_count")? != 1 {
            return Err(no(&format!("{} is not a linear volume", printable(lv))));
        }
        let list = text.list(&path("stripes"));
        let place = match list.as_slice() {
            [on, place] if on.trim_matches('"') == pv => place.parse().ok(),
            _ => None,
        };
        let place = place.ok_or_else(|| bad("a segment lies nowhere"))?;
        out.push(Part { name: segment.to_string(), start: number("start_extent")?, len: number("extent_count")?, place });
    }
    out.sort_by_key(|p| p.start);
    let mut next = 0u64;
    for p in &out {
        if p.start != next || p.len > u64::from(u32::MAX) || p.place > u64::from(u32::MAX) {
            return Err(bad("the segments of a volume leave a gap, or overlap"));
        }
        next += p.len;
    }
    if text.number(&[group, "logical_volumes", lv, "segment_count"])?.0 != out.len() as u64 {
        return Err(bad("a volume has other segments than it counts"));
    }
    Ok(out)
}
