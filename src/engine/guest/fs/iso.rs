//! ISO 9660 for reading (ECMA-119), with Rock Ridge names, modes and links (SUSP/RRIP), else Joliet names, else plain ones.
//!
//! A node is the byte offset of a directory record on the disc; the root's is that of its record in the volume descriptor.

use super::{DirEntry, FileType, GuestFs, Node, Stat};
use crate::engine::error::{Error, Result};
use crate::engine::guest::recognise::FsInfo;
use crate::engine::io::bytes::{le32, until_nul};
use crate::engine::io::{Device, read_padded};
use crate::engine::units::MIB;

/// Bytes of one folder, at most.
const MAX_FOLDER: u64 = 64 * MIB;
/// Continuation areas followed for one record, at most.
const MAX_CONTINUATIONS: usize = 32;

/// An ISO 9660 disc.
pub(super) struct Iso {
    dev: Device,
    info: FsInfo,
    root: Node,
    block: u64,
    joliet: bool,
    rock_ridge: bool,
}

/// A directory record with what Rock Ridge adds.
struct Record {
    at: Node,
    extent: u64,
    size: u64,
    folder: bool,
    name: Vec<u8>,
    mode: Option<u32>,
    owner: (u32, u32),
    links: u32,
    target: Option<Vec<u8>>,
    date: [u8; 7],
    /// Rock Ridge moved this folder elsewhere; the name is only a stub (`RE`).
    relocated: bool,
}

impl Iso {
    pub(super) fn open(dev: Device, info: FsInfo) -> Result<Self> {
        let (mut primary, mut joliet) = (None, None);
        for i in 0..32u64 {
            let at = (16 + i) * 2048;
            let mut d = vec![0u8; 2048];
            read_padded(dev.as_ref(), at, &mut d)?;
            match (d.first(), d.get(1..6)) {
                (Some(1), Some(b"CD001")) if primary.is_none() => primary = Some((at + 156, d)),
                (Some(2), Some(b"CD001")) if matches!(d.get(88..91), Some(b"%/@" | b"%/C" | b"%/E")) => {
                    joliet = Some((at + 156, d));
                }
                (Some(255), Some(b"CD001")) => break,
                _ => {}
            }
        }
        let Some((root, d)) = primary else { return Err(Error::corrupt("the disc has no primary volume descriptor")) };
        let block =
            d.get(128..130).map(|b| u64::from(b[0]) | u64::from(b[1]) << 8).filter(|b| (512..=2048).contains(b)).unwrap_or(2048);
        let mut iso = Iso { dev, info, root, block, joliet: false, rock_ridge: false };
        // Rock Ridge announces itself in the first record of the root folder (SP, then RR or ER).
        let first = iso.record(iso.record(root)?.extent)?;
        iso.rock_ridge = first.mode.is_some();
        if let (false, Some((at, _))) = (iso.rock_ridge, joliet) {
            (iso.root, iso.joliet) = (at, true);
        }
        Ok(iso)
    }

    fn record(&self, at: Node) -> Result<Record> {
        let mut b = vec![0u8; 256];
        read_padded(self.dev.as_ref(), at, &mut b)?;
        let len = usize::from(b.first().copied().unwrap_or(0));
        let bad = || Error::corrupt("a damaged directory record").op("read ISO 9660 folder").at(at);
        let b = b.get(..len).filter(|b| b.len() >= 34).ok_or_else(bad)?;
        let name_len = usize::from(*b.get(32).ok_or_else(bad)?);
        let name = b.get(33..33 + name_len).ok_or_else(bad)?;
        let skip = u64::from(*b.get(1).ok_or_else(bad)?);
        let mut r = Record {
            at,
            extent: (u64::from(le32(b, 2).ok_or_else(bad)?) + skip) * self.block,
            size: u64::from(le32(b, 10).ok_or_else(bad)?),
            folder: b.get(25).is_some_and(|f| f & 2 != 0),
            name: self.plain_name(name),
            mode: None,
            owner: (0, 0),
            links: 1,
            target: None,
            date: b.get(18..25).and_then(|d| d.try_into().ok()).unwrap_or_default(),
            relocated: false,
        };
        if !self.joliet {
            let system = b.get(33 + name_len + (name_len + 1) % 2..).unwrap_or_default().to_vec();
            self.rock_ridge_fields(&mut r, system);
        }
        Ok(r)
    }

    fn plain_name(&self, name: &[u8]) -> Vec<u8> {
        if self.joliet && name.len() > 1 {
            let wide: Vec<u16> = name.chunks_exact(2).map(|c| u16::from_be_bytes([c[0], c[1]])).collect();
            let text = String::from_utf16_lossy(&wide);
            return text.split(';').next().unwrap_or_default().as_bytes().to_vec();
        }
        let name = name.split(|c| *c == b';').next().unwrap_or_default();
        name.strip_suffix(b".").unwrap_or(name).to_vec()
    }

    /// System use entries: PX mode, NM name, SL link, CE continuation, RE/CL relocation (RRIP 1.12).
    fn rock_ridge_fields(&self, r: &mut Record, mut area: Vec<u8>) {
        let (mut name, mut target, mut go_on) = (Vec::new(), Vec::new(), false);
        for _ in 0..MAX_CONTINUATIONS {
            let mut next = None;
            let mut rest = area.as_slice();
            while let (Some(sign), Some(len)) = (rest.get(..2), rest.get(2).map(|l| usize::from(*l)).filter(|l| *l >= 4)) {
                let Some(e) = rest.get(..len) else { break };
                match sign {
                    b"PX" => {
                        r.mode = le32(e, 4);
                        r.links = le32(e, 12).unwrap_or(1);
                        r.owner = (le32(e, 20).unwrap_or(0), le32(e, 28).unwrap_or(0));
                    }
                    b"NM" if e.get(4).is_some_and(|f| f & 6 == 0) => name.extend_from_slice(e.get(5..).unwrap_or_default()),
                    b"SL" => link_parts(e.get(5..).unwrap_or_default(), &mut target, &mut go_on),
                    b"CL" => {
                        // A folder that lies elsewhere because it was too deep: its place is the child's.
                        r.folder = true;
                        if let Some(first) = le32(e, 4).and_then(|n| self.record_extent(u64::from(n) * self.block)) {
                            (r.extent, r.size) = first;
                        }
                    }
                    b"RE" => r.relocated = true,
                    b"CE" => next = le32(e, 4).zip(le32(e, 12)).zip(le32(e, 20)),
                    _ => {}
                }
                rest = rest.get(len..).unwrap_or_default();
            }
            let Some(((block, offset), len)) = next else { break };
            area = vec![0u8; (len as usize).min(2048)];
            if read_padded(self.dev.as_ref(), u64::from(block) * self.block + u64::from(offset), &mut area).is_err() {
                break;
            }
        }
        if !name.is_empty() {
            r.name = name;
        }
        if !target.is_empty() {
            r.target = Some(target);
        }
    }

    /// Place and size of the folder whose own record (`.`) is at `at`.
    fn record_extent(&self, at: u64) -> Option<(u64, u64)> {
        let mut b = [0u8; 34];
        read_padded(self.dev.as_ref(), at, &mut b).ok()?;
        Some((u64::from(le32(&b, 2)?) * self.block, u64::from(le32(&b, 10)?)))
    }
}

/// Adds the components of one SL entry to a link's target.
fn link_parts(mut parts: &[u8], target: &mut Vec<u8>, go_on: &mut bool) {
    while let (Some(flags), Some(len)) = (parts.first().copied(), parts.get(1).map(|l| usize::from(*l))) {
        let text = parts.get(2..2 + len).unwrap_or_default();
        if !target.is_empty() && !*go_on && target.last() != Some(&b'/') {
            target.push(b'/');
        }
        match flags & 0xe {
            2 => target.push(b'.'),
            4 => target.extend_from_slice(b".."),
            8 => target.push(b'/'),
            _ => target.extend_from_slice(text),
        }
        *go_on = flags & 1 != 0;
        parts = parts.get(2 + len..).unwrap_or_default();
    }
}

impl GuestFs for Iso {
    fn info(&self) -> &FsInfo {
        &self.info
    }
    fn root(&self) -> Node {
        self.root
    }
    fn stat(&self, node: Node) -> Result<Stat> {
        let r = self.record(node)?;
        let kind = match r.mode {
            Some(m) if !r.folder => FileType::of_mode(m),
            _ if r.folder => FileType::Folder,
            _ => FileType::File,
        };
        let mode = r.mode.map_or(if r.folder { 0o555 } else { 0o444 }, |m| m & 0o7777);
        let size = r.target.as_ref().map_or(r.size, |t| t.len() as u64);
        Ok(Stat { node, kind, mode, uid: r.owner.0, gid: r.owner.1, size, links: r.links, mtime: seconds(r.date) })
    }
    fn list(&self, dir: Node) -> Result<Vec<DirEntry>> {
        let folder = self.record(dir)?;
        if !folder.folder {
            return Err(Error::usage("it is not a folder"));
        }
        if folder.size > MAX_FOLDER || folder.extent.saturating_add(folder.size) > self.dev.len() {
            return Err(Error::corrupt("a folder reaches past the end of the disc").at(dir));
        }
        let mut out = Vec::new();
        let mut at = folder.extent;
        let end = folder.extent + folder.size;
        let mut first = 0;
        while at < end {
            let mut len = [0u8];
            read_padded(self.dev.as_ref(), at, &mut len)?;
            let [len] = len;
            if len == 0 {
                // Records do not cross sectors: the rest of this one is padding.
                at = (at / 2048 + 1) * 2048;
                continue;
            }
            // The first two are the folder itself and its parent.
            first += 1;
            if first > 2 {
                let r = self.record(at)?;
                if !r.relocated {
                    out.push(DirEntry { name: until_nul(&r.name).to_vec(), node: r.at });
                }
            }
            at += u64::from(len);
        }
        Ok(out)
    }
    fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let r = self.record(node)?;
        if r.folder {
            return Err(Error::usage("it is not a regular file"));
        }
        let n = r.size.saturating_sub(offset).min(buf.len() as u64) as usize;
        self.dev.read_at(r.extent.saturating_add(offset), buf.get_mut(..n).unwrap_or_default())?;
        Ok(n)
    }
    fn read_link(&self, node: Node) -> Result<Vec<u8>> {
        self.record(node)?.target.ok_or_else(|| Error::usage("it is not a symbolic link"))
    }
}

/// Seconds since 1970 UTC of a record's date: years since 1900, month, day, hour, minute, second, quarter hours from UTC.
fn seconds(d: [u8; 7]) -> i64 {
    let [year, month, day, hour, minute, second, zone] = d;
    let date = jiff::civil::Date::new(1900 + i16::from(year), i8::try_from(month).unwrap_or(0), i8::try_from(day).unwrap_or(0));
    let Ok(date) = date else { return 0 };
    let days = date.since(jiff::civil::date(1970, 1, 1)).map(|s| i64::from(s.get_days())).unwrap_or(0);
    let clock = i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
    days * 86400 + clock - i64::from(zone as i8) * 900
}
