//! Changing files of a FAT filesystem, as far as sanitising needs: names are removed, and files are emptied or get a content that fits
//! into the clusters they have. Nothing is allocated.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::check::Clusters;
use super::names::Named;
use super::scrub::BLANK;
use super::{Fat, FileType};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::guest::fs::write::{GuestWrite, Owner, regular};
use crate::engine::guest::fs::{DirEntry, FileExtent, GuestFs, Node, Removal, Stat};
use crate::engine::guest::recognise::{FsInfo, FsKind};
use crate::engine::io::{Device, WriteDevice};
use crate::engine::units::printable_bytes;

/// A FAT filesystem open for writing. Its table stays in memory until it is closed.
pub(in super::super) struct FatWriter {
    dev: WriteDevice,
    info: FsInfo,
    fat: Mutex<Fat>,
    /// Clusters that were lost before.
    lost: Option<Clusters>,
}

/// Does what [`super::super::remove_all`] says.
pub(in super::super) fn remove(dev: &WriteDevice, info: FsInfo, wanted: &[Removal<'_>]) -> Result<Vec<bool>> {
    let writer = FatWriter::open(dev.clone(), info)?;
    let mut gone = vec![false; wanted.len()];
    for (w, gone) in wanted.iter().zip(&mut gone).filter(|(w, _)| !w.folder) {
        writer.take(w.dir, w.name, Some(w.node), false)?;
        *gone = true;
    }
    for (w, gone) in wanted.iter().zip(&mut gone).filter(|(w, _)| w.folder) {
        if writer.list(w.node)?.is_empty() {
            writer.take(w.dir, w.name, Some(w.node), true)?;
            *gone = true;
        }
    }
    Box::new(writer).finish()?;
    Ok(gone)
}

impl FatWriter {
    /// Errors: the filesystem is not fit to be written, or damaged.
    pub(in super::super) fn open(dev: WriteDevice, info: FsInfo) -> Result<Self> {
        let read: Device = dev.clone();
        let fat = Fat::open(read, info.clone())?;
        let before = fat.survey()?;
        if let Some(first) = before.found.into_iter().next() {
            return Err(Error::corrupt(format!("its check finds: {first}")).op("open FAT for writing"));
        }
        Ok(FatWriter { dev, info, fat: Mutex::new(fat), lost: before.lost })
    }

    fn fat(&self) -> MutexGuard<'_, Fat> {
        self.fat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the name: of a file, or of a folder that nothing is in. Its entries keep no letter of it, and its clusters become free.
    fn take(&self, dir: Node, name: &[u8], node: Option<Node>, folder: bool) -> Result<()> {
        let mut fat = self.fat();
        let found = fat.names(dir)?.into_iter().find(|n| match node {
            Some(node) => n.node == node,
            None => n.name.eq_ignore_ascii_case(name),
        });
        let shown = printable_bytes(name);
        let Some(Named { name: own, node, long }) = found else {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no '{shown}' in that folder")));
        };
        if !own.eq_ignore_ascii_case(name) {
            return Err(Error::corrupt(format!("'{shown}' stands for another file than was looked up")));
        }
        let e = fat.entry(node)?;
        if (e.kind == FileType::Folder) != folder {
            return Err(Error::usage(format!("'{shown}' is {}", if folder { "no folder" } else { "a folder" })));
        }
        let chain = if e.first == 0 { Vec::new() } else { fat.chain(e.first)?.to_vec() };
        for n in chain {
            fat.table.set(n, false)?;
        }
        for at in long.into_iter().chain([node]) {
            self.dev.write_at(at, &BLANK)?;
        }
        fat.forget_chains();
        Ok(())
    }

    /// Makes `content` that of the file, in the clusters it has; those it no longer needs become free.
    fn fill(&self, node: Node, content: &[u8]) -> Result<()> {
        let mut fat = self.fat();
        let e = fat.entry(node)?;
        let chain = if e.first == 0 { Vec::new() } else { fat.chain(e.first)?.to_vec() };
        let needed = (content.len() as u64).div_ceil(fat.cluster);
        if needed > chain.len() as u64 {
            return Err(Error::unsupported(format!(
                "its new content needs {needed} clusters and it has {}: files on FAT are not made longer than that",
                chain.len()
            )));
        }
        for (part, n) in content.chunks(fat.cluster as usize).zip(&chain) {
            let mut whole = part.to_vec();
            // The rest of the last one held the old content.
            whole.resize(fat.cluster as usize, 0);
            self.dev.write_at(fat.place(*n), &whole)?;
        }
        let (kept, freed) = chain.split_at_checked(needed as usize).unwrap_or((&chain, &[]));
        for n in freed {
            fat.table.set(*n, false)?;
        }
        if let Some(last) = kept.last() {
            fat.table.set(*last, true)?;
        } else {
            // An empty file has no first cluster. The upper half of its number is FAT32's own.
            if self.info.kind == FsKind::Fat32 {
                self.dev.write_at(node + 20, &[0; 2])?;
            }
            self.dev.write_at(node + 26, &[0; 2])?;
        }
        self.dev.write_at(node + 28, &(content.len() as u32).to_le_bytes())?;
        fat.forget_chains();
        Ok(())
    }

    fn not(&self, what: &str) -> Error {
        Error::unsupported(format!("{what} in {}", self.info.kind.name()))
    }
}

impl GuestFs for FatWriter {
    fn info(&self) -> &FsInfo {
        &self.info
    }
    fn root(&self) -> Node {
        0
    }
    fn stat(&self, node: Node) -> Result<Stat> {
        self.fat().stat(node)
    }
    fn list(&self, dir: Node) -> Result<Vec<DirEntry>> {
        self.fat().list(dir)
    }
    fn lookup(&self, dir: Node, name: &[u8]) -> Result<Option<Node>> {
        self.fat().lookup(dir, name)
    }
    fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.fat().read(node, offset, buf)
    }
    fn read_link(&self, node: Node) -> Result<Vec<u8>> {
        self.fat().read_link(node)
    }
    fn extents(&self, node: Node) -> Result<Vec<FileExtent>> {
        self.fat().extents(node)
    }
}

impl GuestWrite for FatWriter {
    fn empty(&self, dir: Node, name: &[u8]) -> Result<()> {
        self.replace(dir, name, &[])
    }
    fn replace(&self, dir: Node, name: &[u8], content: &[u8]) -> Result<()> {
        self.fill(regular(self, dir, name)?, content)
    }
    fn remove(&self, dir: Node, name: &[u8]) -> Result<()> {
        self.take(dir, name, None, false)
    }
    fn remove_folder(&self, dir: Node, name: &[u8]) -> Result<()> {
        let node = crate::engine::guest::fs::write::present(self, dir, name)?;
        if !self.list(node)?.is_empty() {
            return Err(Error::usage("something is in that folder"));
        }
        self.take(dir, name, None, true)
    }
    fn create(&self, _: Node, _: &[u8], _: Owner) -> Result<Node> {
        Err(self.not("files are not made"))
    }
    fn make_folder(&self, _: Node, _: &[u8], _: Owner) -> Result<Node> {
        Err(self.not("folders are not made"))
    }
    fn symlink(&self, _: Node, _: &[u8], _: &[u8]) -> Result<Node> {
        Err(self.not("there are no symbolic links"))
    }
    fn set_mode(&self, _: Node, _: u16) -> Result<()> {
        Err(self.not("there are no permissions"))
    }
    fn finish(self: Box<Self>) -> Result<()> {
        let fat = self.fat.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (at, len, copies) = fat.tables;
        fat.table.store(self.dev.as_ref(), at, len, copies)?;
        if let (Some(at), Some(_)) = (fat.counts, fat.told_free()?) {
            self.dev.write_at(at + 488, &(fat.table.free() as u32).to_le_bytes())?;
        }
        let after = fat.survey()?;
        match after.found.first() {
            Some(first) => Err(Error::new(ErrorKind::Internal, format!("the changed FAT is not sound: {first}"))),
            None if after.lost != self.lost => Err(Error::new(ErrorKind::Internal, "a change of FAT loses clusters")),
            None => Ok(()),
        }
    }
}
