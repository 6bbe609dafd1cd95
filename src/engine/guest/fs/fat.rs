//! FAT12, FAT16 and FAT32 for reading, over `fatfs`. FAT has no inodes: a node is a number of ours for a path seen before.

use std::io::{Read, Seek, SeekFrom};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fatfs::{FileSystem, FsOptions};

use super::device::Stream;
use super::{DirEntry, FileType, GuestFs, Node, Stat, guarded};
use crate::engine::error::{Error, Result};
use crate::engine::guest::recognise::FsInfo;
use crate::engine::io::Device;

/// Names in one folder, at most: a folder that loops must not fill the memory.
const MAX_NAMES: usize = 100_000;

/// A FAT filesystem. The crate's handle stays on one thread, so each call opens its own: a boot sector and a FAT sector.
pub(super) struct Fat {
    dev: Device,
    /// Path of each node, its type and size; node `n` is entry `n`, and entry 0 the root.
    seen: Mutex<Vec<(String, FileType, u64)>>,
    info: FsInfo,
}

impl Fat {
    pub(super) fn open(dev: Device, info: FsInfo) -> Result<Self> {
        let fat = Fat { dev, seen: Mutex::new(vec![(String::new(), FileType::Folder, 0)]), info };
        guarded("open FAT", || fat.handle().map(drop))?;
        Ok(fat)
    }
    fn handle(&self) -> std::io::Result<FileSystem<Stream>> {
        FileSystem::new(Stream::new(self.dev.clone()), FsOptions::new())
    }
    fn lock(&self) -> MutexGuard<'_, Vec<(String, FileType, u64)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn seen(&self, node: Node) -> Result<(String, FileType, u64)> {
        usize::try_from(node).ok().and_then(|n| self.lock().get(n).cloned()).ok_or_else(|| Error::usage("no such file number"))
    }
}

impl GuestFs for Fat {
    fn info(&self) -> &FsInfo {
        &self.info
    }
    fn root(&self) -> Node {
        0
    }
    fn stat(&self, node: Node) -> Result<Stat> {
        let (_, kind, size) = self.seen(node)?;
        let mode = if kind == FileType::Folder { 0o755 } else { 0o644 };
        Ok(Stat { node, kind, mode, uid: 0, gid: 0, size, links: 1, mtime: 0 })
    }
    fn list(&self, dir: Node) -> Result<Vec<DirEntry>> {
        let path = self.seen(dir)?.0;
        let found = guarded("read folder", || {
            let fs = self.handle()?;
            let root = fs.root_dir();
            let folder = if path.is_empty() { root } else { root.open_dir(&path)? };
            let names = folder.iter().take(MAX_NAMES).map(|e| e.map(|e| (e.file_name(), e.is_dir(), e.len())));
            names.collect::<std::io::Result<Vec<_>>>()
        })?;
        let mut seen = self.lock();
        let mut out = Vec::new();
        for (name, is_dir, size) in found.into_iter().filter(|(n, ..)| n != "." && n != "..") {
            let full = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            let node = match seen.iter().position(|(p, ..)| *p == full) {
                Some(n) => n,
                None => {
                    seen.push((full, if is_dir { FileType::Folder } else { FileType::File }, size));
                    seen.len() - 1
                }
            };
            out.push(DirEntry { name: name.into_bytes(), node: node as u64 });
        }
        Ok(out)
    }
    fn lookup(&self, dir: Node, name: &[u8]) -> Result<Option<Node>> {
        // FAT does not mind case.
        Ok(self.list(dir)?.into_iter().find(|e| e.name.eq_ignore_ascii_case(name)).map(|e| e.node))
    }
    fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let path = self.seen(node)?.0;
        guarded("read file", || {
            let fs = self.handle()?;
            let mut file = fs.root_dir().open_file(&path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut done = 0;
            while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
                match file.read(rest)? {
                    0 => break,
                    n => done += n,
                }
            }
            Ok::<_, std::io::Error>(done)
        })
    }
    fn read_link(&self, _: Node) -> Result<Vec<u8>> {
        Err(Error::usage("FAT has no symbolic links"))
    }
}
