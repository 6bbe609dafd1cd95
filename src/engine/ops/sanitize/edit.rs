//! Making the planned changes in the filesystems of a draft.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::prepare::on_draft;
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::guest::fs::{self, GuestWrite, Node, Removal, Traces};
use crate::engine::guest::sanitize::Edit;
use crate::engine::guest::tree::{Guest, Spot};
use crate::engine::io::WriteDevice;
use crate::engine::io::draft::Draft;
use crate::engine::units::printable_bytes;

/// One change, and where it is made.
pub(super) struct Target {
    /// The guest's path.
    pub(super) path: Vec<u8>,
    /// The folder it is in.
    pub(super) dir: Spot,
    /// Its name there.
    pub(super) name: Vec<u8>,
    /// What it is now.
    pub(super) node: Node,
    /// What happens to it.
    pub(super) edit: Edit,
}

/// Makes them all. Notes in `traces`, by volume, what they may have left.
///
/// What stays is edited first, each file by itself; then goes what is removed, all of a volume at once.
pub(super) fn apply(guest: &Guest, draft: &Arc<Draft>, targets: &[Target], traces: &mut BTreeMap<usize, Traces>) -> Result<()> {
    let missing = || Error::new(ErrorKind::Internal, "a change on a volume that is not there");
    let mut volumes: BTreeMap<usize, (Vec<&Target>, Vec<&Target>)> = BTreeMap::new();
    for t in targets {
        let v = guest.mounts.get(t.dir.mount).map(|m| m.volume).ok_or_else(missing)?;
        let (edited, removed) = volumes.entry(v).or_default();
        match t.edit {
            Edit::Remove | Edit::RemoveFolder => removed.push(t),
            Edit::Empty | Edit::Replace(_) | Edit::Link(_) => edited.push(t),
        }
    }
    for (v, (edited, removed)) in volumes {
        let volume = guest.layout.volumes.get(v).ok_or_else(missing)?;
        let left = traces.entry(v).or_default();
        if !edited.is_empty() {
            let writer = fs::open_rw(on_draft(volume, draft))?;
            for t in edited {
                one(writer.as_ref(), t, left).map_err(|e| e.op(format!("change {}", printable_bytes(&t.path))))?;
            }
            writer.finish().op("close a guest filesystem")?;
        }
        remove(&on_draft(volume, draft), removed, left)?;
        left.folders.sort_unstable();
        left.folders.dedup();
        // A folder that is gone itself has nothing left to look through.
        let gone: HashSet<Node> = left.gone.iter().copied().collect();
        left.folders.retain(|f| !gone.contains(f));
    }
    Ok(())
}

/// Removes all of `removed`: files, and folders from the innermost out.
fn remove(dev: &WriteDevice, mut removed: Vec<&Target>, left: &mut Traces) -> Result<()> {
    removed.sort_by_key(|t| std::cmp::Reverse(t.path.iter().filter(|b| **b == b'/').count()));
    let wanted: Vec<Removal<'_>> = removed
        .iter()
        .map(|t| Removal { dir: t.dir.node, name: &t.name, node: t.node, folder: t.edit == Edit::RemoveFolder })
        .collect();
    // A folder that something is left in stays.
    for (w, gone) in wanted.iter().zip(fs::remove_all(dev, &wanted).op("remove files of a guest")?) {
        if gone {
            left.folders.push(w.dir);
            left.gone.push(w.node);
        }
    }
    Ok(())
}

fn one(fs: &dyn GuestWrite, t: &Target, left: &mut Traces) -> Result<()> {
    let (dir, name) = (t.dir.node, t.name.as_slice());
    match &t.edit {
        Edit::Empty => fs.empty(dir, name),
        Edit::Replace(content) => fs.replace(dir, name, content),
        Edit::Link(target) => {
            left.folders.push(dir);
            left.gone.push(t.node);
            fs.remove(dir, name)?;
            fs.symlink(dir, name, target).map(drop)
        }
        // Done all at once.
        Edit::Remove | Edit::RemoveFolder => Ok(()),
    }
}
