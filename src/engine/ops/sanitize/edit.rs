//! Making the planned changes in the filesystems of a draft.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::prepare::on_draft;
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::guest::fs::{self, GuestWrite, Node, Traces};
use crate::engine::guest::sanitize::Edit;
use crate::engine::guest::tree::{Guest, Spot};
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

/// Makes them all: files first, then folders from the innermost out. Notes in `traces`, by volume, what they may have left.
pub(super) fn apply(guest: &Guest, draft: &Arc<Draft>, targets: &[Target], traces: &mut BTreeMap<usize, Traces>) -> Result<()> {
    let mut open: BTreeMap<usize, Box<dyn GuestWrite>> = BTreeMap::new();
    let mut order: Vec<&Target> = targets.iter().collect();
    order.sort_by_key(|t| (t.edit == Edit::RemoveFolder, std::cmp::Reverse(t.path.iter().filter(|b| **b == b'/').count())));
    for t in order {
        let missing = || Error::new(ErrorKind::Internal, "a change on a volume that is not there");
        let v = guest.mounts.get(t.dir.mount).map(|m| m.volume).ok_or_else(missing)?;
        let writer = match open.entry(v) {
            std::collections::btree_map::Entry::Occupied(o) => o.into_mut(),
            std::collections::btree_map::Entry::Vacant(e) => {
                let volume = guest.layout.volumes.get(v).ok_or_else(missing)?;
                e.insert(fs::open_rw(on_draft(volume, draft))?)
            }
        };
        let left = traces.entry(v).or_default();
        one(writer.as_ref(), t, left).map_err(|e| e.op(format!("change {}", printable_bytes(&t.path))))?;
    }
    for (v, writer) in open {
        writer.finish().op("close a guest filesystem")?;
        if let Some(left) = traces.get_mut(&v) {
            left.folders.sort_unstable();
            left.folders.dedup();
            // A folder that is gone itself has nothing left to look through.
            let gone = left.gone.clone();
            left.folders.retain(|f| !gone.contains(f));
        }
    }
    Ok(())
}

fn one(fs: &dyn GuestWrite, t: &Target, left: &mut Traces) -> Result<()> {
    let (dir, name) = (t.dir.node, t.name.as_slice());
    match &t.edit {
        Edit::Empty => fs.empty(dir, name),
        Edit::Replace(content) => fs.replace(dir, name, content),
        Edit::Remove => {
            left.folders.push(dir);
            left.gone.push(t.node);
            fs.remove(dir, name)
        }
        Edit::RemoveFolder => {
            // Something that is not removed may be in it; then it stays.
            if !fs.list(t.node)?.is_empty() {
                return Ok(());
            }
            left.folders.push(dir);
            left.gone.push(t.node);
            fs.remove_folder(dir, name)
        }
        Edit::Link(target) => {
            left.folders.push(dir);
            left.gone.push(t.node);
            fs.remove(dir, name)?;
            fs.symlink(dir, name, target).map(drop)
        }
    }
}
