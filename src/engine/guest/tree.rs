//! The guest's file tree: its root filesystem with what its fstab mounts below it, and paths resolved inside it.
//!
//! Symbolic links, `..` and absolute targets lead somewhere in the guest and nowhere else: the host's files are never looked at.

use std::sync::Arc;

use super::fs::{self, DirEntry, FileType, GuestFs, Node, Stat};
use super::names::Names;
use super::recognise::FsKind;
use super::volumes::{Layout, Volume, volumes};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::io::Device;
use crate::engine::io::cached::Cached;
use crate::engine::units::printable_bytes;

/// Symbolic links followed for one path, as Linux does.
const MAX_LINKS: usize = 40;
/// Bytes of a text file read whole (fstab, os-release, …).
const MAX_TEXT: u64 = 4 << 20;

/// A filesystem in its place.
#[derive(Clone)]
pub struct Mount {
    /// Where, as an absolute path without a trailing slash; empty for the root.
    pub at: Vec<u8>,
    /// Index into [`Layout::volumes`].
    pub volume: usize,
    /// The filesystem.
    pub fs: Arc<dyn GuestFs>,
    /// The folder of it that is mounted (a btrfs subvolume's, else its root).
    pub root: Node,
}

/// A place in the guest: which mount, and which file of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Spot {
    /// Index into [`Guest::mounts`].
    pub mount: usize,
    /// File number.
    pub node: Node,
}

/// A disk seen as its guest sees it.
pub struct Guest {
    /// The disk's volumes.
    pub layout: Layout,
    /// The root first, then what is mounted below it.
    pub mounts: Vec<Mount>,
    /// What could not be mounted, in words.
    pub problems: Vec<String>,
    names: Names,
}

impl Guest {
    /// Finds the guest on `disk`: the volume that looks like a root filesystem, and what its fstab (or systemd by itself) mounts from
    /// the same disk.
    ///
    /// Errors: the disk cannot be read. A disk without a root filesystem has no mounts.
    pub fn open(disk: &Device) -> Result<Guest> {
        let cached: Device = Arc::new(Cached::new(disk.clone()));
        Guest::over(&cached)
    }

    /// The same over a device whose reads are cheap already.
    ///
    /// Errors: as [`Guest::open`].
    pub fn over(disk: &Device) -> Result<Guest> {
        let mut guest = Guest { layout: volumes(disk)?, mounts: Vec::new(), problems: Vec::new(), names: Names::default() };
        for i in 0..guest.layout.volumes.len() {
            let Some(fs) = guest.open_volume(i) else { continue };
            if let Some(root) = root_folder(fs.as_ref()) {
                guest.mounts.push(Mount { at: Vec::new(), volume: i, fs, root });
                guest.mount_fstab();
                guest.mount_firmware();
                return Ok(guest);
            }
        }
        Ok(guest)
    }

    /// Only the filesystem of partition `number` (`--partition N`), or of a disk without a table (`None`).
    ///
    /// Errors: there is no such partition, or its filesystem cannot be read.
    pub fn open_partition(disk: &Device, number: Option<u32>) -> Result<Guest> {
        let cached: Device = Arc::new(Cached::new(disk.clone()));
        let layout = volumes(&cached)?;
        let found = layout.volumes.iter().position(|v| v.partition == number && !v.logical_volume);
        let Some((i, dev)) = found.and_then(|i| Some((i, layout.volumes.get(i)?.dev.clone()?))) else {
            let names: Vec<_> = layout.volumes.iter().map(|v| v.name.as_str()).collect();
            return Err(Error::usage(format!("there is no partition {}", number.unwrap_or(0)))
                .hint(format!("there are: {}", names.join(", "))));
        };
        let fs: Arc<dyn GuestFs> = Arc::from(fs::open(dev)?);
        let root = fs.root();
        Ok(Guest {
            layout,
            mounts: vec![Mount { at: Vec::new(), volume: i, fs, root }],
            problems: Vec::new(),
            names: Names::default(),
        })
    }

    /// The guest to look into: its root with what it mounts, or `partition` alone. A disk that is one filesystem without a system
    /// on it (a data disk, a disc) is shown all the same.
    pub fn open_for(disk: &Device, partition: Option<u32>) -> Result<Guest> {
        if partition.is_some() {
            return Guest::open_partition(disk, partition);
        }
        let guest = Guest::open(disk)?;
        if guest.mounts.is_empty() && guest.layout.table.is_none() {
            return Guest::open_partition(disk, None);
        }
        Ok(guest)
    }

    /// The filesystem of volume `i` of the disk alone.
    ///
    /// Errors: there is no such volume, or its filesystem cannot be read.
    pub fn open_alone(disk: &Device, i: usize) -> Result<Guest> {
        let layout = volumes(disk)?;
        let dev = layout.volumes.get(i).and_then(|v| v.dev.clone()).ok_or_else(|| Error::usage("there is no such volume"))?;
        let fs: Arc<dyn GuestFs> = Arc::from(fs::open(dev)?);
        let root = fs.root();
        Ok(Guest {
            layout,
            mounts: vec![Mount { at: Vec::new(), volume: i, fs, root }],
            problems: Vec::new(),
            names: Names::default(),
        })
    }

    fn open_volume(&mut self, i: usize) -> Option<Arc<dyn GuestFs>> {
        let v = self.layout.volumes.get(i)?;
        let (dev, info) = (v.dev.clone()?, v.info.as_ref()?);
        let readable = matches!(
            info.kind,
            FsKind::Ext2
                | FsKind::Ext3
                | FsKind::Ext4
                | FsKind::Xfs
                | FsKind::Btrfs
                | FsKind::Fat12
                | FsKind::Fat16
                | FsKind::Fat32
                | FsKind::Iso9660
        );
        if !readable {
            return None;
        }
        match fs::open(dev) {
            Ok(fs) => Some(Arc::from(fs)),
            Err(e) => {
                self.problems.push(format!("{}: {e}", v.name));
                None
            }
        }
    }

    fn mount_fstab(&mut self) {
        let Ok(text) = self.read_text("/etc/fstab") else { return };
        let mut wanted: Vec<(String, String, String)> = text
            .lines()
            .filter_map(|l| {
                let mut words = l.split_whitespace();
                let (device, at) = (words.next()?, words.next()?);
                let options = words.nth(1).unwrap_or("");
                (!device.starts_with('#') && at.starts_with('/') && at != "/").then(|| (device.into(), at.into(), options.into()))
            })
            .take(64)
            .collect();
        // Outer mounts before those inside them.
        wanted.sort_by_key(|(_, at, _)| at.matches('/').count());
        for (device, at, options) in wanted {
            let Some(volume) = self.layout.volumes.iter().position(|v| names(v, &device)) else { continue };
            let same = self.mounts.iter().find(|m| m.volume == volume).map(|m| m.fs.clone());
            let Some(fs) = same.or_else(|| self.open_volume(volume)) else { continue };
            let subvolume = options.split(',').find_map(|o| o.strip_prefix("subvol="));
            let root = match subvolume {
                None => Some(fs.root()),
                Some(path) => walk_plain(fs.as_ref(), path),
            };
            if let Some(root) = root {
                self.mounts.push(Mount { at: at.trim_end_matches('/').as_bytes().to_vec(), volume, fs, root });
            }
        }
    }

    /// The file at `path`. With `follow`, a link at its end is followed too.
    ///
    /// Errors: `NotFound`, a link that loops, a part of the path that is no folder, damage.
    pub fn resolve(&self, path: &[u8], follow: bool) -> Result<Spot> {
        self.resolve_named(path, follow).map(|(spot, _)| spot)
    }

    /// The same, with the path that was reached, free of links.
    pub fn resolve_named(&self, path: &[u8], follow: bool) -> Result<(Spot, Vec<u8>)> {
        let Some(root) = self.mounts.first() else {
            return Err(Error::new(ErrorKind::NotFound, "no root filesystem was found on this disk")
                .hint("name a partition: --partition N"));
        };
        let root = Spot { mount: 0, node: root.root };
        let mut stack: Vec<(Vec<u8>, Spot)> = Vec::new();
        let mut todo: Vec<Vec<u8>> = path.split(|c| *c == b'/').rev().map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    stack.pop();
                    continue;
                }
                _ => {}
            }
            let here = stack.last().map_or(root, |(_, s)| *s);
            // systemd makes the folder of a mount point that is not there.
            let mounted = || {
                let at: Vec<u8> =
                    stack.iter().map(|(n, _)| n).chain([&part]).flat_map(|n| [b"/".as_slice(), n].concat()).collect();
                self.mounted(&at)
            };
            let next = self.child(here, &part)?.or_else(mounted).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("there is no '{}' in the guest", printable_bytes(path)))
            })?;
            let stat = self.stat(next)?;
            if stat.kind == FileType::Link && (follow || !todo.iter().all(|p| p.is_empty())) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Error::new(ErrorKind::Loop, format!("too many links in '{}'", printable_bytes(path))));
                }
                let target = self.fs(next)?.read_link(next.node)?;
                if target.starts_with(b"/") {
                    stack.clear();
                }
                todo.extend(target.split(|c| *c == b'/').rev().map(<[u8]>::to_vec));
                continue;
            }
            stack.push((part, next));
            let at: Vec<u8> = stack.iter().flat_map(|(n, _)| [b"/".as_slice(), n.as_slice()].concat()).collect();
            if let Some(top) = stack.last_mut() {
                top.1 = self.mounted(&at).unwrap_or(top.1);
            }
        }
        let name = stack.iter().flat_map(|(n, _)| [b"/".as_slice(), n.as_slice()].concat()).collect();
        Ok((stack.last().map_or(root, |(_, s)| *s), name))
    }

    /// What is mounted at `path` (free of links).
    fn mounted(&self, path: &[u8]) -> Option<Spot> {
        let found = self.mounts.iter().enumerate().skip(1).find(|(_, m)| m.at == path);
        found.map(|(mount, m)| Spot { mount, node: m.root })
    }

    /// What is at `path` (free of links), which is `node` by the names of the folder `dir`: that, or what is mounted over it.
    pub fn entered(&self, dir: Spot, path: &[u8], node: Node) -> Spot {
        self.mounted(path).unwrap_or(Spot { mount: dir.mount, node })
    }

    fn fs(&self, spot: Spot) -> Result<&dyn GuestFs> {
        self.mounts.get(spot.mount).map(|m| m.fs.as_ref()).ok_or_else(|| Error::usage("no such mount"))
    }

    fn child(&self, dir: Spot, name: &[u8]) -> Result<Option<Spot>> {
        let fs = self.fs(dir)?;
        if fs.stat(dir.node)?.kind != FileType::Folder {
            return Err(Error::new(ErrorKind::NotFound, format!("what stands before '{}' is no folder", printable_bytes(name))));
        }
        let node = match self.names.find(dir, name, || fs.list(dir.node)) {
            Some(known) if known.is_some() || fs.minds_case() => known,
            _ => fs.lookup(dir.node, name)?,
        };
        Ok(node.map(|node| Spot { mount: dir.mount, node }))
    }

    /// Facts of the file at `spot`.
    pub fn stat(&self, spot: Spot) -> Result<Stat> {
        self.fs(spot)?.stat(spot.node)
    }

    /// The names in the folder at `spot`. Mount points are listed as the folders they cover.
    pub fn list(&self, spot: Spot) -> Result<Vec<DirEntry>> {
        self.fs(spot)?.list(spot.node)
    }

    /// Reads up to `buf.len()` bytes of the file at `spot`.
    pub fn read(&self, spot: Spot, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.fs(spot)?.read(spot.node, offset, buf)
    }

    /// The target of the link at `spot`.
    pub fn read_link(&self, spot: Spot) -> Result<Vec<u8>> {
        self.fs(spot)?.read_link(spot.node)
    }

    /// A whole small file, links followed. Errors: as `resolve`; larger than 4 MiB.
    pub fn read_file(&self, path: &str) -> Result<Vec<u8>> {
        self.read_bytes(path.as_bytes())
    }

    /// The same for a path that need not be text.
    pub fn read_bytes(&self, path: &[u8]) -> Result<Vec<u8>> {
        let spot = self.resolve(path, true).op("read guest file")?;
        let stat = self.stat(spot)?;
        if stat.kind != FileType::File {
            return Err(Error::usage(format!("{} is no regular file", printable_bytes(path))));
        }
        if stat.size > MAX_TEXT {
            let (path, size) = (printable_bytes(path), stat.size);
            return Err(Error::unsupported(format!("{path} is too large ({size} bytes) to be read whole")));
        }
        let mut bytes = vec![0u8; stat.size as usize];
        let n = self.read(spot, 0, &mut bytes)?;
        bytes.truncate(n);
        Ok(bytes)
    }

    /// The same as text, invalid UTF-8 replaced.
    pub fn read_text(&self, path: &str) -> Result<String> {
        self.read_file(path).map(|b| String::from_utf8_lossy(&b).into_owned())
    }

    /// True when `path` is there (links followed).
    pub fn exists(&self, path: &str) -> bool {
        self.resolve(path.as_bytes(), true).is_ok()
    }

    /// The names in the folder at `path`, sorted; empty when it is not there.
    pub fn names(&self, path: &str) -> Vec<String> {
        let found = self.resolve(path.as_bytes(), true).and_then(|s| self.list(s)).unwrap_or_default();
        let mut names: Vec<_> = found.iter().map(|e| String::from_utf8_lossy(&e.name).into_owned()).collect();
        names.sort();
        names
    }
}

/// The folder of `fs` that looks like a root: `/etc` with `/usr` or `/bin` beside it; on btrfs also inside a subvolume.
fn root_folder(fs: &dyn GuestFs) -> Option<Node> {
    let looks = |dir: Node| {
        let names = fs.list(dir).unwrap_or_default();
        let has = |n: &[u8]| names.iter().any(|e| e.name == n);
        has(b"etc") && (has(b"usr") || has(b"bin"))
    };
    if looks(fs.root()) {
        return Some(fs.root());
    }
    if fs.info().kind != FsKind::Btrfs {
        return None;
    }
    ["root", "@", "@rootfs", "@/.snapshots/1/snapshot"].iter().filter_map(|p| walk_plain(fs, p)).find(|n| looks(*n))
}

/// Follows `path` from the filesystem's own root without links.
fn walk_plain(fs: &dyn GuestFs, path: &str) -> Option<Node> {
    path.split('/').filter(|p| !p.is_empty()).try_fold(fs.root(), |dir, name| fs.lookup(dir, name.as_bytes()).ok().flatten())
}

/// True when fstab's `device` means volume `v`.
fn names(v: &Volume, device: &str) -> bool {
    let info = v.info.as_ref();
    let same = |have: Option<&String>, want: &str| have.is_some_and(|h| h.eq_ignore_ascii_case(want.trim_matches('"')));
    if let Some(uuid) = device.strip_prefix("UUID=").or_else(|| device.strip_prefix("/dev/disk/by-uuid/")) {
        return same(info.and_then(|i| i.uuid.as_ref()), uuid);
    }
    if let Some(label) = device.strip_prefix("LABEL=").or_else(|| device.strip_prefix("/dev/disk/by-label/")) {
        return same(info.and_then(|i| i.label.as_ref()), label);
    }
    if v.logical_volume {
        // The device mapper writes vg-lv, and doubles hyphens within either name.
        let mapped = v.name.split('/').map(|n| n.replace('-', "--")).collect::<Vec<_>>().join("-");
        return device == format!("/dev/{}", v.name) || device == format!("/dev/mapper/{mapped}");
    }
    // /dev/vda3, /dev/sda3, /dev/nvme0n1p3: the number at the end counts, as there is one disk.
    let number = device.strip_prefix("/dev/").map(|d| d.trim_start_matches(|c: char| !c.is_ascii_digit()));
    let plain = ["/dev/sd", "/dev/vd", "/dev/xvd", "/dev/hd"].iter().any(|p| device.starts_with(p));
    let nvme = device.strip_prefix("/dev/nvme0n1p");
    match (v.partition, plain, nvme) {
        (Some(n), true, _) => number == Some(n.to_string().as_str()),
        (Some(n), _, Some(p)) => p == n.to_string(),
        _ => false,
    }
}
