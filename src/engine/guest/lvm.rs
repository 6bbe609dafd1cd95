//! LVM2: the text metadata of a physical volume, and its linear logical volumes as devices.
//!
//! Only what a single physical volume answers by itself is offered: linear segments on this volume. Striped, thin, snapshot and
//! mirrored volumes, and those that need another disk, are named with the reason. So are those that cannot be right: they reach
//! outside the physical volume, or share extents with another. Metadata with a wrong checksum is still read, and said to be damaged.

use std::collections::BTreeMap;
use std::path::Path;

use crate::engine::error::{Context, Error, Result};
use crate::engine::io::bytes::{le32, le64};
use crate::engine::io::{Device, HostRange, ReadAt, past_end, read_up_to, read_vec};
use crate::engine::units::{MIB, SECTOR, printable};

/// A volume group, as one physical volume describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeGroup {
    /// Name.
    pub name: String,
    /// Bytes of an extent.
    pub extent_size: u64,
    /// Logical volumes in the order of the metadata.
    pub volumes: Vec<LogicalVolume>,
    /// What of the metadata is damaged, in words. Nothing may be written by what it says then.
    pub problems: Vec<String>,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalVolume {
    /// Name.
    pub name: String,
    /// LVM's UUID.
    pub uuid: String,
    /// Bytes.
    pub size: u64,
    /// Where its bytes lie on this physical volume: (offset in the volume, offset on the disk, length), in order and without
    /// gaps. Empty when it cannot be read.
    pub segments: Vec<(u64, u64, u64)>,
    /// Why it cannot be read.
    pub problem: Option<String>,
}

/// What LVM begins its checksums with.
const SEED: u32 = 0xf597_a6cf;
/// Bytes at the beginning of a physical volume in which its label is.
const HEAD: u64 = 2048;
/// Bytes of a metadata area's header.
const AREA_HEAD: u64 = 512;

/// LVM's CRC-32, which is neither begun nor ended with an inversion.
pub(super) fn crc(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!SEED);
    hasher.update(bytes);
    !hasher.finalize()
}

/// Reads the metadata of the physical volume `dev`. `None` when it holds none (a volume in no group).
///
/// Errors: a damaged label, header or text.
pub fn read(dev: &dyn ReadAt) -> Result<Option<VolumeGroup>> {
    let head = read_up_to(dev, 0, HEAD as usize)?;
    let Some((sector, label)) = (0u64..).zip(head.chunks(512)).find(|(_, s)| s.starts_with(b"LABELONE")) else {
        return Ok(None);
    };
    let at = sector * SECTOR;
    let bad = |what: &str| Error::corrupt(format!("LVM2: {what}")).op("read LVM2 metadata").at(at);
    let mut problems = Vec::new();
    if le64(label, 8) != Some(sector) || le32(label, 16) != Some(crc(label.get(20..).unwrap_or_default())) {
        problems.push(format!("the checksum of the label at {at:#x} is wrong"));
    }
    let header =
        le32(label, 20).and_then(|o| label.get(o as usize..)).ok_or_else(|| bad("the label points outside its sector"))?;
    let uuid = header.get(..32).map(|b| String::from_utf8_lossy(b).into_owned()).ok_or_else(|| bad("no physical volume UUID"))?;
    // After UUID and size: a list of data areas (ended by zeros), then one of metadata areas.
    let pairs: Vec<(u64, u64)> =
        header.get(40..).unwrap_or_default().chunks_exact(16).filter_map(|c| Some((le64(c, 0)?, le64(c, 8)?))).collect();
    let areas = pairs.split(|p| *p == (0, 0)).nth(1).ok_or_else(|| bad("no list of metadata areas"))?;
    let taken = [(0, HEAD)].into_iter().chain(areas.iter().map(|(at, len)| (*at, at.saturating_add(*len)))).collect();
    let pv = Pv { uuid, len: dev.len(), taken };
    // They hold the same; the first that is whole counts, else the first that says anything.
    let (mut damaged, mut why) = (None, None);
    for area in areas {
        match read_area(dev, *area, &pv) {
            Ok(None) => {}
            Ok(Some(Area { group: None, .. })) => return Ok(None),
            Ok(Some(Area { group: Some(group), whole: true })) => {
                return Ok(Some(VolumeGroup { problems: [problems, group.problems].concat(), ..group }));
            }
            Ok(Some(Area { group: Some(group), .. })) => {
                damaged.get_or_insert(group);
            }
            Err(e) => {
                why.get_or_insert(e);
            }
        }
    }
    match (damaged, why) {
        (Some(group), _) => Ok(Some(VolumeGroup { problems: [problems, group.problems].concat(), ..group })),
        (None, why) => Err(why.unwrap_or_else(|| bad("no metadata area could be read"))),
    }
}

/// The physical volume that is read.
struct Pv {
    /// Without hyphens.
    uuid: String,
    /// Bytes of its device.
    len: u64,
    /// Where its label and its metadata areas are: first byte, and the byte after the last.
    taken: Vec<(u64, u64)>,
}

/// What a metadata area says.
struct Area {
    /// `None`: it is in no group.
    group: Option<VolumeGroup>,
    /// Its checksums are right.
    whole: bool,
}

/// Reads the metadata area at `offset`, `size` bytes long; `None` when there is none.
fn read_area(dev: &dyn ReadAt, (offset, size): (u64, u64), pv: &Pv) -> Result<Option<Area>> {
    let bad = |what: &str| Error::corrupt(format!("LVM2: {what}")).op("read LVM2 metadata").at(offset);
    let header = read_vec(dev, offset, AREA_HEAD, AREA_HEAD).op("read LVM2 metadata")?;
    if header.get(4..20) != Some(b" LVM2 x[5A%r0N*>".as_slice()) {
        return Ok(None);
    }
    let (Some(at), Some(len)) = (le64(&header, 40), le64(&header, 48)) else { return Ok(None) };
    let mut problems = Vec::new();
    if le32(&header, 0) != Some(crc(header.get(4..).unwrap_or_default())) {
        problems.push(format!("the checksum of the metadata area at {offset:#x} is wrong"));
    }
    if len == 0 {
        return Ok(Some(Area { group: None, whole: problems.is_empty() }));
    }
    if at >= size || len > size || len > 16 * MIB || offset.checked_add(size).is_none() {
        return Err(bad("the metadata lies outside its area"));
    }
    // The area is a ring that begins again behind its own header.
    let first = len.min(size - at);
    let mut text = read_vec(dev, offset + at, first, 16 * MIB)?;
    if first < len {
        text.extend(read_vec(dev, offset + AREA_HEAD, len - first, 16 * MIB)?);
    }
    if le32(&header, 56) != Some(crc(&text)) {
        problems.push(format!("the checksum of the metadata at {:#x} is wrong", offset + at));
    }
    let whole = problems.is_empty();
    let group = group(&text, pv).map_err(|e| e.at(offset + at))?;
    Ok(Some(Area { group: Some(VolumeGroup { problems: [problems, group.problems].concat(), ..group }), whole }))
}

fn group(text: &[u8], on: &Pv) -> Result<VolumeGroup> {
    let text = String::from_utf8_lossy(text);
    let tree = Parser { rest: text.trim_end_matches('\0'), depth: 0 }.section()?;
    let bad = |what: &str| Error::corrupt(format!("LVM2 metadata: {what}")).op("read LVM2 metadata");
    let (name, vg) = tree.iter().find_map(|(n, v)| Some((n, v.map()?))).ok_or_else(|| bad("no volume group"))?;
    let extent =
        vg.get("extent_size").and_then(Value::number).and_then(|n| n.checked_mul(SECTOR)).ok_or_else(|| bad("no extent size"))?;
    let mut ours = BTreeMap::new();
    for (n, pv) in vg.get("physical_volumes").and_then(Value::map).into_iter().flatten() {
        let pv = pv.map();
        let id = pv.and_then(|p| p.get("id")).and_then(Value::text).map(|t| t.replace('-', ""));
        let start = pv.and_then(|p| p.get("pe_start")).and_then(Value::number).and_then(|s| s.checked_mul(SECTOR));
        if let (true, Some(start)) = (id.as_deref() == Some(on.uuid.as_str()), start) {
            ours.insert(n.clone(), start);
        }
    }
    let mut volumes = Vec::new();
    for (n, lv) in vg.get("logical_volumes").and_then(Value::map).into_iter().flatten() {
        if let Some(lv) = lv.map() {
            volumes.push(volume(n, lv, extent, &ours));
        }
    }
    outside(&mut volumes, ours.values().min().copied(), on);
    shared(&mut volumes);
    Ok(VolumeGroup { name: printable(name), extent_size: extent, volumes, problems: Vec::new() })
}

/// Refuses volumes that reach outside the extents of the physical volume, which begin at `start`, or into its own areas.
fn outside(volumes: &mut [LogicalVolume], start: Option<u64>, pv: &Pv) {
    for v in volumes {
        let why = v.segments.iter().find_map(|(_, at, len)| {
            let end = at.checked_add(*len).filter(|end| *end <= pv.len && Some(*at) >= start);
            match end {
                None => Some(format!("it reaches outside its physical volume ({len} bytes from {at:#x} on, of {})", pv.len)),
                Some(end) if pv.taken.iter().any(|(from, to)| at < to && *from < end) => {
                    Some(format!("it lies where its physical volume keeps the metadata ({at:#x})"))
                }
                Some(_) => None,
            }
        });
        refuse(v, why);
    }
}

/// Refuses volumes that share a place with another, or have one twice.
fn shared(volumes: &mut [LogicalVolume]) {
    let mut all: Vec<(u64, u64, usize)> = Vec::new();
    for (i, v) in volumes.iter().enumerate() {
        all.extend(v.segments.iter().filter(|s| s.2 > 0).map(|(_, at, len)| (*at, at.saturating_add(*len), i)));
    }
    all.sort_unstable();
    let names: Vec<String> = volumes.iter().map(|v| v.name.clone()).collect();
    let mut furthest: Option<(u64, usize)> = None;
    for (at, end, i) in all {
        if let Some((_, other)) = furthest.filter(|(e, _)| *e > at) {
            for (this, with) in [(i, other), (other, i)] {
                let with = names.get(with).map_or("another", String::as_str);
                if let Some(v) = volumes.get_mut(this) {
                    refuse(v, Some(format!("it overlaps {with} at {at:#x} of its physical volume")));
                }
            }
        }
        if furthest.is_none_or(|(e, _)| end > e) {
            furthest = Some((end, i));
        }
    }
}

/// Says that `v` cannot be read, if there is a reason.
fn refuse(v: &mut LogicalVolume, why: Option<String>) {
    if let Some(why) = why {
        v.problem.get_or_insert(why);
        v.segments.clear();
    }
}

type Map = BTreeMap<String, Value>;

fn volume(name: &str, lv: &Map, extent: u64, ours: &BTreeMap<String, u64>) -> LogicalVolume {
    let mut out = LogicalVolume {
        name: printable(name),
        uuid: lv.get("id").and_then(Value::text).map(printable).unwrap_or_default(),
        size: 0,
        segments: Vec::new(),
        problem: None,
    };
    let mut parts = Vec::new();
    for segment in lv.values().filter_map(Value::map) {
        match one_segment(segment, extent, ours) {
            Ok(part) => parts.push(part),
            Err((size, why)) => {
                out.size = out.size.saturating_add(size);
                out.problem.get_or_insert(why);
            }
        }
    }
    parts.sort_unstable();
    let mut next = 0u64;
    for (start, _, len) in &parts {
        if *start != next {
            out.problem.get_or_insert_with(|| "its segments leave a gap or overlap".into());
        }
        next = start.saturating_add(*len);
    }
    out.size = out.size.saturating_add(parts.iter().fold(0u64, |sum, p| sum.saturating_add(p.2)));
    if out.problem.is_none() {
        out.segments = parts;
    }
    out
}

/// (start in the volume, place on the disk, length) of a linear segment, or its size and why it cannot be read.
fn one_segment(s: &Map, extent: u64, ours: &BTreeMap<String, u64>) -> std::result::Result<(u64, u64, u64), (u64, String)> {
    let bytes = |key: &str| s.get(key).and_then(Value::number).and_then(|n| n.checked_mul(extent));
    let len = bytes("extent_count").unwrap_or(0);
    let kind = s.get("type").and_then(Value::text).unwrap_or("unknown");
    if kind != "striped" || s.get("stripe_count").and_then(Value::number) != Some(1) {
        let kind = if kind == "striped" { "striped over several disks" } else { kind };
        return Err((len, format!("it is {}, and only linear volumes can be read", printable(kind))));
    }
    let Some(Value::List(stripes)) = s.get("stripes") else { return Err((len, "a segment without a place".into())) };
    let (Some(pv), Some(first)) = (stripes.first().and_then(Value::text), stripes.get(1).and_then(Value::number)) else {
        return Err((len, "a segment without a place".into()));
    };
    let Some(base) = ours.get(pv) else { return Err((len, format!("part of it lies on another disk ({})", printable(pv)))) };
    match (bytes("start_extent"), first.checked_mul(extent).and_then(|o| o.checked_add(*base))) {
        (Some(start), Some(place)) => Ok((start, place, len)),
        _ => Err((len, "a segment that reaches past 2^64 bytes".into())),
    }
}

/// A value of the metadata's text: `name = 1`, `name = "text"`, `name = [ … ]`, `name { … }`.
enum Value {
    Number(u64),
    Text(String),
    List(Vec<Value>),
    Map(Map),
}

impl Value {
    fn number(&self) -> Option<u64> {
        if let Value::Number(n) = self { Some(*n) } else { None }
    }
    fn text(&self) -> Option<&str> {
        if let Value::Text(t) = self { Some(t) } else { None }
    }
    fn map(&self) -> Option<&Map> {
        if let Value::Map(m) = self { Some(m) } else { None }
    }
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    /// Skips white space and comments; the next character.
    fn peek(&mut self) -> Option<char> {
        loop {
            self.rest = self.rest.trim_start();
            match self.rest.strip_prefix('#') {
                Some(comment) => self.rest = comment.split_once('\n').map_or("", |(_, after)| after),
                None => return self.rest.chars().next(),
            }
        }
    }
    fn eat(&mut self, c: char) -> bool {
        let hit = self.peek() == Some(c);
        if hit {
            self.rest = self.rest.get(c.len_utf8()..).unwrap_or("");
        }
        hit
    }
    fn word(&mut self) -> &str {
        self.peek();
        let end = self.rest.find(|c: char| !(c.is_alphanumeric() || "_.+-".contains(c))).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }
    fn section(&mut self) -> Result<Map> {
        let bad = |what: &str| Error::corrupt(format!("LVM2 metadata: {what}")).op("read LVM2 metadata");
        self.depth += 1;
        if self.depth > 8 {
            return Err(bad("sections are nested too deeply"));
        }
        let mut map = Map::new();
        while !self.eat('}') {
            if self.peek().is_none() {
                if self.depth == 1 {
                    break;
                }
                return Err(bad("a section does not end"));
            }
            let name = self.word().to_string();
            if name.is_empty() {
                return Err(bad("a name was expected"));
            }
            let value = if self.eat('{') {
                Value::Map(self.section()?)
            } else if self.eat('=') {
                self.value()?
            } else {
                return Err(bad("neither a value nor a section"));
            };
            if map.insert(name, value).is_some() {
                return Err(bad("a name stands twice in a section"));
            }
        }
        self.depth -= 1;
        Ok(map)
    }
    fn value(&mut self) -> Result<Value> {
        let bad = || Error::corrupt("LVM2 metadata: a value was expected").op("read LVM2 metadata");
        if self.eat('"') {
            let mut text = String::new();
            let mut chars = self.rest.char_indices();
            while let Some((i, c)) = chars.next() {
                match c {
                    '"' => {
                        self.rest = self.rest.get(i + 1..).unwrap_or("");
                        return Ok(Value::Text(text));
                    }
                    '\\' => text.extend(chars.next().map(|(_, c)| c)),
                    c => text.push(c),
                }
            }
            return Err(bad());
        }
        if self.eat('[') {
            let mut list = Vec::new();
            while !self.eat(']') {
                // Lists hold numbers and texts only, so this does not recurse further.
                if self.peek() == Some('[') {
                    return Err(bad());
                }
                list.push(self.value()?);
                self.eat(',');
            }
            return Ok(Value::List(list));
        }
        let word = self.word();
        word.parse().map(Value::Number).or_else(|_| if word.is_empty() { Err(bad()) } else { Ok(Value::Text(word.to_string())) })
    }
}

/// A linear logical volume as a device.
pub struct LinearVolume {
    disk: Device,
    segments: Vec<(u64, u64, u64)>,
    size: u64,
}

impl LinearVolume {
    /// The volume `lv` on the physical volume `pv`. Errors: it cannot be read (see [`LogicalVolume::problem`]).
    pub fn new(pv: Device, lv: &LogicalVolume) -> Result<Self> {
        match &lv.problem {
            Some(why) => Err(Error::unsupported(format!("logical volume {}: {why}", lv.name))),
            None => Ok(LinearVolume { disk: pv, segments: lv.segments.clone(), size: lv.size }),
        }
    }
    /// Where byte `offset` lies on the physical volume, and how many bytes from there on are contiguous.
    pub fn place(&self, offset: u64) -> Option<(u64, u64)> {
        let i = self.segments.partition_point(|(start, ..)| *start <= offset).checked_sub(1)?;
        let (start, place, len) = self.segments.get(i)?;
        let within = offset - start;
        (within < *len).then(|| (place + within, len - within))
    }
}

impl ReadAt for LinearVolume {
    fn len(&self) -> u64 {
        self.size
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut done = 0usize;
        while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
            let (place, left) = self.place(offset + done as u64).ok_or_else(|| past_end(self, offset, 0))?;
            let n = left.min(rest.len() as u64) as usize;
            self.disk.read_at(place, rest.get_mut(..n).unwrap_or_default())?;
            done += n;
        }
        Ok(())
    }
    fn path(&self) -> Option<&Path> {
        self.disk.path()
    }
    fn host_range(&self, offset: u64, max: u64) -> Result<HostRange> {
        match self.place(offset) {
            Some((place, left)) => self.disk.host_range(place, max.min(left).max(1)),
            None => Ok(HostRange { len: 1, hole: false }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"vg0 {
id = "x"
extent_size = 8192 # 4 Megabytes
flags = []
physical_volumes { pv0 { id = "AAAAAA-BBBB-CCCC-DDDD-EEEE-FFFF-GGGGGG" pe_start = 2048 } pv1 { id = "other" pe_start = 2048 } }
logical_volumes {
 root { id = "r" segment_count = 2
  segment1 { start_extent = 0 extent_count = 2 type = "striped" stripe_count = 1 stripes = [ "pv0", 5 ] }
  segment2 { start_extent = 2 extent_count = 1 type = "striped" stripe_count = 1 stripes = [ "pv0", 0 ] } }
 away { segment1 { start_extent = 0 extent_count = 1 type = "striped" stripe_count = 1 stripes = [ "pv1", 0 ] } }
 thin { segment1 { start_extent = 0 extent_count = 1 type = "thin-pool" } }
} }
contents = "Text Format Volume Group"
description = "Write from lvcreate --config 'devices{filter=[\"a|/dev/loop0.*|\"]}'"
version = 1
"#;

    /// On a device of a GiB.
    fn of(text: &str) -> Result<VolumeGroup> {
        group(text.as_bytes(), &Pv { uuid: "AAAAAABBBBCCCCDDDDEEEEFFFFGGGGGG".into(), len: 1 << 30, taken: vec![(0, MIB)] })
    }

    #[test]
    fn linear_volumes_are_placed_and_others_explained() {
        let vg = of(TEXT).unwrap();
        let lv = |n: &str| vg.volumes.iter().find(|v| v.name == n).unwrap();
        let x = 4 * MIB;
        assert_eq!(lv("root").segments, [(0, MIB + 5 * x, 2 * x), (2 * x, MIB, x)]);
        assert_eq!(lv("root").size, 3 * x);
        assert!(lv("away").problem.as_deref().unwrap().contains("another disk"));
        assert!(lv("thin").problem.as_deref().unwrap().contains("thin-pool"));
    }

    #[test]
    fn volumes_outside_their_disk_or_in_one_place_are_not_read() {
        let with = |root: &str, away: &str| {
            let text = TEXT.replace("\"pv0\", 0 ]", root).replace("\"pv1\", 0 ]", away);
            let vg = of(&text).unwrap();
            ["root", "away"].map(|n| vg.volumes.iter().find(|v| v.name == n).unwrap().problem.clone().unwrap_or_default())
        };
        let [root, away] = with("\"pv0\", 0 ]", "\"pv0\", 1 ]");
        assert_eq!((root.as_str(), away.as_str()), ("", ""));
        // A GiB has room for 255 extents behind the first MiB.
        assert_eq!(with("\"pv0\", 254 ]", "\"pv0\", 1 ]")[0], "");
        assert!(with("\"pv0\", 255 ]", "\"pv0\", 1 ]")[0].contains("outside"));
        assert!(with("\"pv0\", 1099511627776 ]", "\"pv0\", 1 ]")[0].contains("outside"));
        // Extent 5 and 6 are of the first segment.
        let [root, away] = with("\"pv0\", 0 ]", "\"pv0\", 6 ]");
        assert!(root.contains("overlaps away") && away.contains("overlaps root"), "{root}, {away}");
        assert!(with("\"pv0\", 5 ]", "\"pv0\", 1 ]")[0].contains("overlaps root"), "with itself");
    }

    #[test]
    fn a_volume_on_the_metadata_is_not_read() {
        let vg = of(&TEXT.replace("GGGGGG\" pe_start = 2048", "GGGGGG\" pe_start = 1")).unwrap();
        let root = vg.volumes.iter().find(|v| v.name == "root").unwrap();
        assert!(root.problem.as_deref().is_some_and(|p| p.contains("metadata")) && root.segments.is_empty());
    }

    #[test]
    fn broken_text_is_an_error() {
        for text in ["vg {", "vg { a = ", "vg { a = [ [ ] }", "{", &"a{".repeat(50), "vg { a = 1 a = 2 }"] {
            assert!(of(text).is_err(), "{text}");
        }
    }
}
