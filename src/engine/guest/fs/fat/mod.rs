//! FAT12, FAT16 and FAT32 (Microsoft FAT specification, version 1.03), with long names: reading them here, the rest in rooms of its own.
//!
//! FAT has no inodes: a node is the byte offset of a file's short directory entry on the volume, and 0 is the root folder.

mod check;
mod names;
mod scrub;
mod table;
mod write;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

pub(super) use check::refusal;
use names::{Named, named};
pub(super) use scrub::scrub;
use table::{Link, Table};
pub(super) use write::{FatWriter, remove};

use super::{DirEntry, FileExtent, FileType, GuestFs, Node, Stat, Traces};
use crate::engine::error::{Error, Result};
use crate::engine::guest::recognise::{FsInfo, FsKind};
use crate::engine::io::bytes::{le16, le32};
use crate::engine::io::{Device, ReadAt, read_vec};
use crate::engine::units::MIB;

/// Bytes of one folder, at most (the specification's limit is 2 MiB).
const MAX_FOLDER: u64 = 4 * MIB;

/// A FAT filesystem.
pub(super) struct Fat {
    dev: Device,
    info: FsInfo,
    /// The file allocation table as a whole; at most 4 bytes per cluster of the volume.
    table: Table,
    cluster: u64,
    clusters: u64,
    /// Byte where cluster 2 begins.
    data: u64,
    /// Where the root folder lies: a fixed area (FAT12/16) or its first cluster (FAT32).
    root: Root,
    /// Chains of clusters already followed, by first cluster: reading a large file in pieces must not follow it each time.
    chains: Mutex<HashMap<u64, std::sync::Arc<Vec<u64>>>>,
    /// Where the tables are: the first's byte, bytes of each, how many.
    tables: (u64, u64, u64),
    /// Where FAT32 keeps its count of free clusters, if it does.
    counts: Option<u64>,
}

enum Root {
    Area { at: u64, len: u64 },
    Cluster(u64),
}

/// A short directory entry.
struct Entry {
    kind: FileType,
    read_only: bool,
    first: u64,
    size: u64,
    mtime: i64,
}

impl Fat {
    pub(super) fn open(dev: Device, info: FsInfo) -> Result<Self> {
        let b = read_vec(dev.as_ref(), 0, 512, 512)?;
        let bad = || Error::corrupt("a damaged FAT boot sector");
        let word = |at| le16(&b, at).map(u64::from).ok_or_else(bad);
        let long = |at| le32(&b, at).map(u64::from).ok_or_else(bad);
        let (sector, reserved, root_entries) = (word(11)?, word(14)?, word(17)?);
        let per_cluster = u64::from(*b.get(13).ok_or_else(bad)?);
        let fats = u64::from(*b.get(16).ok_or_else(bad)?);
        let total = if word(19)? == 0 { long(32)? } else { word(19)? };
        let fat_sectors = if word(22)? == 0 { long(36)? } else { word(22)? };
        let cluster = per_cluster * sector;
        let root_at = (reserved + fats * fat_sectors) * sector;
        let root_len = (root_entries * 32).next_multiple_of(sector.max(1));
        let data = root_at + root_len;
        let clusters = (total * sector).checked_sub(data).filter(|_| cluster > 0).ok_or_else(bad)? / cluster;
        let table_len = (fat_sectors * sector).min(Table::needed(info.kind, clusters));
        let table = read_vec(dev.as_ref(), reserved * sector, table_len, dev.len())?;
        let root = if info.kind == FsKind::Fat32 {
            Root::Cluster(long(44)?)
        } else {
            Root::Area { at: root_at, len: root_entries * 32 }
        };
        let counts = match info.kind {
            FsKind::Fat32 => counts(dev.as_ref(), word(48)?, reserved, sector)?,
            _ => None,
        };
        Ok(Fat {
            table: Table::new(table, info.kind, clusters),
            dev,
            info,
            cluster,
            clusters,
            data,
            root,
            chains: Mutex::default(),
            tables: (reserved * sector, fat_sectors * sector, fats),
            counts,
        })
    }

    /// The cluster after `n`; `None` at the end of the chain.
    fn next(&self, n: u64) -> Result<Option<u64>> {
        match self.table.link(n) {
            Some(Link::End) => Ok(None),
            Some(Link::Next(next)) => Ok(Some(next)),
            _ => Err(Error::corrupt(format!("the cluster chain breaks off after cluster {n}")).op("read FAT")),
        }
    }

    /// All clusters from `first` on. Errors: a broken chain, or one that loops.
    fn chain(&self, first: u64) -> Result<std::sync::Arc<Vec<u64>>> {
        let mut known = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(c) = known.get(&first) {
            return Ok(c.clone());
        }
        if !self.table.has(first) {
            return Err(Error::corrupt(format!("a file begins at cluster {first}, which is not there")).op("read FAT"));
        }
        let mut all = vec![first];
        let mut n = first;
        while let Some(next) = self.next(n)? {
            if all.len() as u64 >= self.clusters {
                return Err(Error::corrupt("a cluster chain comes back to itself").op("read FAT"));
            }
            all.push(next);
            n = next;
        }
        let all = std::sync::Arc::new(all);
        known.insert(first, all.clone());
        Ok(all)
    }

    /// Chains are no longer what they were.
    fn forget_chains(&mut self) {
        self.chains.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn place(&self, cluster: u64) -> u64 {
        self.data + (cluster - 2) * self.cluster
    }

    /// Reads part of a chain.
    fn read_chain(&self, first: u64, offset: u64, buf: &mut [u8]) -> Result<()> {
        let chain = self.chain(first)?;
        let mut done = 0usize;
        while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
            let at = offset + done as u64;
            let within = at % self.cluster;
            let n = (self.cluster - within).min(rest.len() as u64) as usize;
            let c = usize::try_from(at / self.cluster).ok().and_then(|i| chain.get(i));
            let c = c.ok_or_else(|| Error::corrupt("a file is longer than its cluster chain").op("read FAT"))?;
            self.dev.read_at(self.place(*c) + within, rest.get_mut(..n).unwrap_or_default())?;
            done += n;
        }
        Ok(())
    }

    /// A folder's bytes, each 32-byte entry with its offset on the volume.
    fn folder(&self, dir: Node) -> Result<Vec<(u64, [u8; 32])>> {
        let first = match (dir, &self.root) {
            (0, Root::Area { at, len }) => {
                let bytes = read_vec(self.dev.as_ref(), *at, *len, MAX_FOLDER)?;
                return Ok(bytes.as_chunks::<32>().0.iter().enumerate().map(|(i, e)| (at + i as u64 * 32, *e)).collect());
            }
            (0, Root::Cluster(c)) => *c,
            _ => {
                let e = self.entry(dir)?;
                if e.kind != FileType::Folder {
                    return Err(Error::usage("it is not a folder"));
                }
                e.first
            }
        };
        let mut out = Vec::new();
        for c in self.chain(first)?.iter() {
            let at = self.place(*c);
            let bytes = read_vec(self.dev.as_ref(), at, self.cluster, MAX_FOLDER)?;
            out.extend(bytes.as_chunks::<32>().0.iter().enumerate().map(|(i, e)| (at + i as u64 * 32, *e)));
            if out.len() as u64 * 32 > MAX_FOLDER {
                return Err(Error::corrupt("a folder is larger than FAT allows").op("read FAT"));
            }
        }
        Ok(out)
    }

    /// The names in folder `dir`.
    fn names(&self, dir: Node) -> Result<Vec<Named>> {
        self.folder(dir).map(|entries| named(&entries))
    }

    fn entry(&self, node: Node) -> Result<Entry> {
        let mut e = [0u8; 32];
        self.dev.read_at(node, &mut e)?;
        let high = if self.info.kind == FsKind::Fat32 { u64::from(le16(&e, 20).unwrap_or(0)) << 16 } else { 0 };
        let attributes = e[11];
        Ok(Entry {
            kind: if attributes & 0x10 != 0 { FileType::Folder } else { FileType::File },
            read_only: attributes & 1 != 0,
            first: high | u64::from(le16(&e, 26).unwrap_or(0)),
            size: u64::from(le32(&e, 28).unwrap_or(0)),
            mtime: seconds(le16(&e, 24).unwrap_or(0), le16(&e, 22).unwrap_or(0)),
        })
    }

    /// Where the chain from cluster `first` on lies.
    fn places(&self, first: u64) -> Result<Vec<FileExtent>> {
        let mut out: Vec<FileExtent> = Vec::new();
        for (i, c) in self.chain(first)?.iter().enumerate() {
            let next = FileExtent { offset: i as u64 * self.cluster, place: self.place(*c), len: self.cluster };
            match out.last_mut().filter(|l| l.place + l.len == next.place) {
                Some(last) => last.len += self.cluster,
                None => out.push(next),
            }
        }
        Ok(out)
    }
}

/// Seconds since 1970 of a FAT date and time, which know no time zone.
fn seconds(date: u16, time: u16) -> i64 {
    let part = |n: u16| i8::try_from(n).unwrap_or(0);
    let day = jiff::civil::Date::new(1980 + (date >> 9) as i16, part(date >> 5 & 15), part(date & 31));
    let days = day.ok().and_then(|d| d.since(jiff::civil::date(1970, 1, 1)).ok()).map_or(0, |s| i64::from(s.get_days()));
    days * 86400 + i64::from(time >> 11) * 3600 + i64::from(time >> 5 & 63) * 60 + i64::from(time & 31) * 2
}

/// Where the count of free clusters is: in the sector `at` of the reserved ones, when it is marked as that.
fn counts(dev: &dyn ReadAt, at: u64, reserved: u64, sector: u64) -> Result<Option<u64>> {
    if at == 0 || at >= reserved {
        return Ok(None);
    }
    let b = read_vec(dev, at * sector, 512, 512)?;
    let marked = [(0, 0x4161_5252), (484, 0x6141_7272), (508, 0xaa55_0000)].iter().all(|(at, v)| le32(&b, *at) == Some(*v));
    Ok(marked.then_some(at * sector))
}

impl GuestFs for Fat {
    fn info(&self) -> &FsInfo {
        &self.info
    }
    fn root(&self) -> Node {
        0
    }
    fn stat(&self, node: Node) -> Result<Stat> {
        if node == 0 {
            return Ok(Stat { node, kind: FileType::Folder, mode: 0o755, uid: 0, gid: 0, size: 0, links: 1, mtime: 0 });
        }
        let e = self.entry(node)?;
        let mode = if e.kind == FileType::Folder { 0o755 } else { 0o644 } & if e.read_only { 0o555 } else { 0o777 };
        Ok(Stat { node, kind: e.kind, mode, uid: 0, gid: 0, size: e.size, links: 1, mtime: e.mtime })
    }
    fn list(&self, dir: Node) -> Result<Vec<DirEntry>> {
        Ok(self.names(dir)?.into_iter().map(|n| DirEntry { name: n.name, node: n.node }).collect())
    }
    fn lookup(&self, dir: Node, name: &[u8]) -> Result<Option<Node>> {
        Ok(self.list(dir)?.into_iter().find(|e| e.name.eq_ignore_ascii_case(name)).map(|e| e.node))
    }
    fn minds_case(&self) -> bool {
        false
    }
    fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let e = self.entry(node)?;
        if e.kind == FileType::Folder {
            return Err(Error::usage("it is not a regular file"));
        }
        let n = e.size.saturating_sub(offset).min(buf.len() as u64) as usize;
        if n > 0 {
            self.read_chain(e.first, offset, buf.get_mut(..n).unwrap_or_default())?;
        }
        Ok(n)
    }
    fn read_link(&self, _: Node) -> Result<Vec<u8>> {
        Err(Error::usage("FAT has no symbolic links"))
    }
    fn extents(&self, node: Node) -> Result<Vec<FileExtent>> {
        let e = self.entry(node)?;
        if e.size == 0 { Ok(Vec::new()) } else { self.places(e.first) }
    }
    fn allocated(&self, node: Node) -> Result<Vec<FileExtent>> {
        let first = match (node, &self.root) {
            (0, Root::Area { .. }) => 0,
            (0, Root::Cluster(c)) => *c,
            _ => self.entry(node)?.first,
        };
        if first == 0 { Ok(Vec::new()) } else { self.places(first) }
    }
    fn own_areas(&self, visit: &mut dyn FnMut(&'static str, u64, u64)) -> Result<()> {
        let (at, len, count) = self.tables;
        visit("boot sector", 0, 512);
        visit("file allocation table", at, len.saturating_mul(count));
        if let Root::Area { at, len } = self.root {
            visit("root folder", at, len);
        }
        Ok(())
    }
    fn check(&self) -> Result<Vec<String>> {
        self.survey().map(|s| s.found)
    }
    fn free_ranges(&self, visit: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let mut run = None;
        for c in 2..self.clusters + 2 {
            let used = self.table.link(c) != Some(Link::Free);
            match (run, used) {
                (None, false) => run = Some(c),
                (Some(s), true) => {
                    visit(self.place(s), (c - s) * self.cluster);
                    run = None;
                }
                _ => {}
            }
        }
        if let Some(s) = run {
            visit(self.place(s), (self.clusters + 2 - s) * self.cluster);
        }
        Ok(())
    }
}
