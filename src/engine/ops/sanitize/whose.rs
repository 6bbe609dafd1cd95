//! Whose the bytes of a disk are: the file that keeps them, or nothing that should. Each filesystem is gone through once for all that
//! is asked, and its names only as far as is needed.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;

use crate::engine::chain::Disk;
use crate::engine::error::Result;
use crate::engine::guest::fs::{FileType, GuestFs, Node, side_by_side};
use crate::engine::guest::tree::{Guest, Mount};
use crate::engine::io::Device;
use crate::engine::units::printable_bytes;

/// Files whose content is in their inodes that are looked into, and folders gone through, at most.
const MOST: usize = 500_000;
/// Bytes of content that an inode may hold, at most.
const INLINE: u64 = 4096;

/// A byte of the disk, and the content that lies there: any of these.
pub(super) struct Asked<'a> {
    pub(super) at: u64,
    pub(super) wanted: Vec<&'a [u8]>,
}

/// Of each byte asked for: what lies there, in words, and whether removed data has no business there.
pub(super) fn whose(disk: &Arc<Disk>, asked: &[Asked<'_>]) -> Result<Vec<(String, bool)>> {
    let mut told: Vec<(String, bool)> = vec![(String::new(), true); asked.len()];
    if asked.is_empty() {
        return Ok(told);
    }
    let dev: Device = disk.clone();
    let guest = Guest::open(&dev)?;
    // By volume: its byte, and which of those asked for it is.
    let mut within: Vec<Vec<(u64, usize)>> = vec![Vec::new(); guest.layout.volumes.len()];
    for (i, (one, told)) in asked.iter().zip(&mut told).enumerate() {
        match volume_at(&guest, one.at) {
            Ok((volume, at)) => within.get_mut(volume).map(|w| w.push((at, i))).unwrap_or_default(),
            Err(words) => told.0 = words,
        }
    }
    for (number, (volume, mut within)) in guest.layout.volumes.iter().zip(within).enumerate() {
        let mounts: Vec<&Mount> = guest.mounts.iter().filter(|m| m.volume == number).collect();
        let Some(fs) = mounts.first().map(|m| m.fs.as_ref()).filter(|_| !within.is_empty()) else { continue };
        within.sort_unstable();
        let owners = owners(fs, asked, &within)?;
        let names = names(&mounts, &owners);
        for (_, i) in within {
            let Some(told) = told.get_mut(i) else { continue };
            *told = match owners.files.get(&i) {
                Some(node) => {
                    let name = names.get(node).cloned().unwrap_or_else(|| format!("file {node} of {}", volume.name));
                    (format!("{name}, which is kept"), false)
                }
                None => (format!("{}, in no file", volume.name), true),
            };
        }
    }
    Ok(told)
}

/// The mounted volume that byte `at` of the disk lies on, and which byte of it it is; else what is there, in words.
fn volume_at(guest: &Guest, at: u64) -> std::result::Result<(usize, u64), String> {
    let volumes = &guest.layout.volumes;
    // Logical volumes before the partition that holds them.
    for (i, v) in volumes.iter().enumerate().rev() {
        let Some((offset, place, _)) = v.places.iter().find(|(_, p, n)| (*p..p + n).contains(&at)) else { continue };
        if guest.mounts.iter().any(|m| m.volume == i) {
            return Ok((i, offset + (at - place)));
        }
        if !volumes.iter().any(|o| o.logical_volume && !v.logical_volume && o.partition == v.partition) {
            return Err(format!("{}, which is not a filesystem of the guest", v.name));
        }
    }
    Err("outside the volumes".into())
}

/// What a filesystem says about bytes of it.
struct Owners {
    /// The file of each byte that has one, by the number of what was asked.
    files: HashMap<usize, Node>,
    /// All folders, ascending.
    folders: Vec<Node>,
}

/// The files that have the bytes `within` the volume (ascending, and which of those asked each is), or that keep what is wanted there
/// in their inodes.
fn owners(fs: &dyn GuestFs, asked: &[Asked<'_>], within: &[(u64, usize)]) -> Result<Owners> {
    let mut out = Owners { files: HashMap::new(), folders: Vec::new() };
    let mut inline = Vec::new();
    fs.each_stored(&mut |stored| {
        match stored.kind {
            FileType::Folder if out.folders.len() < MOST => out.folders.push(stored.node),
            FileType::File if stored.places.is_empty() && (1..INLINE).contains(&stored.size) && inline.len() < MOST => {
                inline.push((stored.node, stored.size));
            }
            _ => {}
        }
        for p in stored.places {
            let first = within.partition_point(|(at, _)| *at < p.place);
            let inside = within.iter().skip(first).take_while(|(at, _)| *at < p.place.saturating_add(p.len));
            out.files.extend(inside.map(|(_, i)| (*i, stored.node)));
        }
    })?;
    out.folders.sort_unstable();
    for (node, size) in inline {
        let mut left = within.iter().filter(|(_, i)| !out.files.contains_key(i)).peekable();
        if left.peek().is_none() {
            break;
        }
        let mut content = vec![0; size as usize];
        let n = fs.read(node, 0, &mut content)?;
        let holds = |w: &&[u8]| content.get(..n).is_some_and(|c| c.windows(w.len()).any(|c| c == *w));
        let found = |(_, i): &&(u64, usize)| asked.get(*i).is_some_and(|a| a.wanted.iter().any(holds));
        let found: Vec<usize> = left.filter(found).map(|(_, i)| *i).collect();
        out.files.extend(found.into_iter().map(|i| (i, node)));
    }
    Ok(out)
}

/// The paths of the files that `owners` names, as the guest sees them through `mounts`, which are of one filesystem.
fn names(mounts: &[&Mount], owners: &Owners) -> HashMap<Node, String> {
    let Some(fs) = mounts.first().map(|m| m.fs.as_ref()) else { return HashMap::new() };
    let wanted: HashSet<Node> = owners.files.values().copied().collect();
    let Held { mut above, mut names } = held(fs, &owners.folders, &wanted);
    above.sort_unstable();
    // Of a file with several names always the same, whichever was met first.
    names.sort_unstable();
    names.dedup_by_key(|(node, _, _)| *node);
    let mut out = HashMap::new();
    for (node, folder, name) in names {
        if let Some(way) = mounts.iter().find_map(|m| way(m, folder, &above)) {
            out.insert(node, format!("{way}/{}", printable_bytes(&name)));
        }
    }
    out
}

/// What folders hold.
#[derive(Default)]
struct Held {
    /// Folders, and the folder that holds each.
    above: Vec<(Node, Node)>,
    /// Files that are wanted, the folder that holds each and its name there.
    names: Vec<(Node, Node, Vec<u8>)>,
}

/// What `folders` (ascending) hold of themselves and of what is `wanted`. One that cannot be read is left out.
fn held(fs: &dyn GuestFs, folders: &[Node], wanted: &HashSet<Node>) -> Held {
    const AT_ONCE: usize = 64;
    let some: Vec<&[Node]> = folders.chunks(AT_ONCE).collect();
    let read = |n: usize| -> std::result::Result<Held, Infallible> {
        let mut out = Held::default();
        for folder in some.get(n).copied().unwrap_or_default() {
            let _ = fs.each_name(*folder, &mut |name, node| {
                if wanted.contains(&node) {
                    out.names.push((node, *folder, name.to_vec()));
                } else if folders.binary_search(&node).is_ok() {
                    out.above.push((node, *folder));
                }
            });
        }
        Ok(out)
    };
    let Ok(parts) = side_by_side(some.len(), read);
    parts.into_iter().fold(Held::default(), |mut all, part| {
        all.above.extend(part.above);
        all.names.extend(part.names);
        all
    })
}

/// The path of `folder` as it is seen through `mount`, without a slash at its end; `above` tells of each folder which one holds it.
fn way(mount: &Mount, folder: Node, above: &[(Node, Node)]) -> Option<String> {
    let (mut at, mut names) = (folder, Vec::new());
    while at != mount.root {
        let holds = above.get(above.binary_search_by_key(&at, |(node, _)| *node).ok()?)?.1;
        let mut name = None;
        let mut met = |n: &[u8], node| {
            if node == at {
                name = Some(n.to_vec());
            }
        };
        mount.fs.each_name(holds, &mut met).ok()?;
        names.push(name?);
        // In a circle, the way becomes longer than there are folders.
        if names.len() > above.len() {
            return None;
        }
        at = holds;
    }
    let path =
        names.iter().rev().fold(printable_bytes(&mount.at).to_string(), |path, n| format!("{path}/{}", printable_bytes(n)));
    Some(path)
}
