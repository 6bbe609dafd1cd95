//! Is a FAT filesystem sound enough to be changed? What its boot sector and tables say of themselves, and then every chain.

use super::names::DELETED;
use super::{Fat, FileType, Link, Node};
use crate::engine::error::Result;
use crate::engine::guest::recognise::{FsInfo, FsKind};
use crate::engine::io::bytes::{le16, le32};
use crate::engine::io::{Device, read_vec};
use crate::engine::units::printable_bytes;

/// Findings after which nothing more is looked for.
const ENOUGH: usize = 16;
/// The most clusters each kind has room for.
const MOST: [(FsKind, u64); 3] = [(FsKind::Fat12, 4084), (FsKind::Fat16, 65_524), (FsKind::Fat32, 0x0fff_fff5)];

/// Why it is not written: it says so itself, or its tables do not agree.
pub(in super::super) fn refusal(dev: &Device, info: &FsInfo) -> Result<Option<String>> {
    Fat::open(dev.clone(), info.clone())?.unfit()
}

/// A set of clusters.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Clusters(Vec<u64>);

impl Clusters {
    fn none(count: u64) -> Self {
        Clusters(vec![0; usize::try_from(count / 64 + 1).unwrap_or(0)])
    }
    /// Puts `n` in; false when it was in.
    fn add(&mut self, n: u64) -> bool {
        let bit = 1 << (n % 64);
        match usize::try_from(n / 64).ok().and_then(|i| self.0.get_mut(i)) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }
    fn has(&self, n: u64) -> bool {
        usize::try_from(n / 64).ok().and_then(|i| self.0.get(i)).is_some_and(|word| word & 1 << (n % 64) != 0)
    }
}

/// What a look at every file tells.
pub(super) struct Survey {
    /// What is wrong, in words.
    pub(super) found: Vec<String>,
    /// Clusters in use that no file has. They do no harm, and changes must not make more of them.
    pub(super) lost: Option<Clusters>,
}

impl Fat {
    /// What the boot sector and the tables say against writing it.
    pub(super) fn unfit(&self) -> Result<Option<String>> {
        let boot = read_vec(self.dev.as_ref(), 0, 512, 512)?;
        let wide = self.info.kind == FsKind::Fat32;
        let table = self.table.bytes();
        // Linux marks a volume in use in the boot sector, Windows in the second entry of the table (whole: 1). The bits beside these
        // tell of errors that the disk had.
        let (state, whole) = match self.info.kind {
            FsKind::Fat12 => (37, 3),
            FsKind::Fat16 => (37, u32::from(le16(table, 2).unwrap_or(0) >> 14)),
            _ => (65, le32(table, 4).unwrap_or(0) >> 26 & 3),
        };
        let marks = boot.get(state).copied().unwrap_or(1);
        if marks & 1 != 0 || whole & 2 == 0 {
            return Ok(Some("it was not unmounted cleanly".into()));
        }
        if marks & 2 != 0 || whole & 1 == 0 {
            return Ok(Some("it is marked as having errors".into()));
        }
        if wide && boot.get(40).is_none_or(|flags| flags & 0x80 != 0) {
            return Ok(Some("only one of its tables is kept up to date (its mirroring is switched off)".into()));
        }
        if let Some(version) = le16(&boot, 42).filter(|v| wide && *v != 0) {
            return Ok(Some(format!("it is of a version that is not known ({version:#x})")));
        }
        if !self.table.is_whole() || MOST.iter().any(|(kind, most)| *kind == self.info.kind && self.clusters > *most) {
            return Ok(Some(format!("its table has no room for its {} clusters", self.clusters)));
        }
        let (at, len, count) = self.tables;
        for copy in 1..count {
            let other = read_vec(self.dev.as_ref(), at + copy * len, table.len() as u64, self.dev.len())?;
            if other != table {
                return Ok(Some("its two tables do not agree".into()));
            }
        }
        Ok(None)
    }

    /// Looks at every file.
    pub(super) fn survey(&self) -> Result<Survey> {
        if let Some(why) = self.unfit()? {
            return Ok(Survey { found: vec![why], lost: None });
        }
        let (mut found, mut used) = (Vec::new(), Clusters::none(self.clusters + 2));
        let mut todo: Vec<Node> = Vec::new();
        match self.root {
            super::Root::Cluster(first) => match self.follow(first, &mut used) {
                Ok(_) => todo.push(0),
                Err(why) => found.push(format!("the root folder {why}")),
            },
            super::Root::Area { .. } => todo.push(0),
        }
        // Each folder has a cluster of its own, or is not gone into: this ends.
        while let Some(dir) = todo.pop().filter(|_| found.len() < ENOUGH) {
            let entries = self.folder(dir)?;
            // Where a folder ends, systems do not agree about what comes behind.
            let end = entries.iter().position(|(_, e)| e[0] == 0).unwrap_or(entries.len());
            if entries.iter().skip(end).any(|(_, e)| e[0] != 0 && e[0] != DELETED) {
                found.push("a folder has entries behind its end".into());
            }
            for n in super::named(&entries) {
                let e = self.entry(n.node)?;
                if let Err(why) = self.one(&e, &mut used) {
                    found.push(format!("'{}' (its entry is at byte {}) {why}", printable_bytes(&n.name), n.node));
                } else if e.kind == FileType::Folder {
                    todo.push(n.node);
                }
                if found.len() >= ENOUGH {
                    break;
                }
            }
        }
        self.count_agrees(&mut found)?;
        let mut lost = Clusters::none(self.clusters + 2);
        for n in (2..self.clusters + 2).filter(|n| !used.has(*n)) {
            if !matches!(self.table.link(n), Some(Link::Free | Link::Bad)) {
                lost.add(n);
            }
        }
        Ok(Survey { found, lost: Some(lost) })
    }

    /// One file or folder: its chain is whole, its own, and as long as its size says.
    fn one(&self, e: &super::Entry, used: &mut Clusters) -> std::result::Result<(), String> {
        let count = if e.first == 0 { 0 } else { self.follow(e.first, used)? };
        let needed = e.size.div_ceil(self.cluster);
        match e.kind {
            FileType::Folder if count == 0 => Err("is a folder without a cluster".into()),
            FileType::Folder if count * self.cluster > super::MAX_FOLDER => Err("is a folder larger than FAT allows".into()),
            FileType::Folder => Ok(()),
            _ if count != needed => Err(format!("has {} bytes and {count} clusters where {needed} would do", e.size)),
            _ => Ok(()),
        }
    }

    /// Goes along the chain from `first` on, and takes its clusters as used: how many there are, or what is wrong.
    fn follow(&self, first: u64, used: &mut Clusters) -> std::result::Result<u64, String> {
        let (mut n, mut count) = (first, 0);
        if !self.table.has(first) {
            return Err(format!("begins at cluster {first}, which is not there"));
        }
        loop {
            if !used.add(n) {
                return Err(format!("comes to cluster {n}, which is in a chain already"));
            }
            count += 1;
            n = match self.table.link(n) {
                Some(Link::End) => return Ok(count),
                Some(Link::Next(next)) => next,
                Some(Link::Free) => return Err(format!("has cluster {n}, which is free")),
                Some(Link::Bad) => return Err(format!("has cluster {n}, which is marked as bad")),
                Some(Link::Wrong(to)) => return Err(format!("goes on from cluster {n} to {to}, which is not there")),
                None => return Err(format!("has cluster {n}, of which the table says nothing")),
            };
        }
    }

    /// The count of free clusters, where there is one that is not marked as unknown.
    fn count_agrees(&self, found: &mut Vec<String>) -> Result<()> {
        let (Some(told), free) = (self.told_free()?, self.table.free()) else { return Ok(()) };
        if u64::from(told) != free {
            found.push(format!("it counts {told} free clusters where there are {free}"));
        }
        Ok(())
    }

    /// Clusters that FAT32 says are free; `None` where it does not know.
    pub(super) fn told_free(&self) -> Result<Option<u32>> {
        let Some(at) = self.counts else { return Ok(None) };
        let b = read_vec(self.dev.as_ref(), at + 488, 4, 4)?;
        Ok(le32(&b, 0).filter(|n| *n != u32::MAX))
    }
}
