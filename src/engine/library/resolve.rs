//! Where references lead that are no plain paths of images that were found: through links and odd spellings, to files that were not
//! walked over, to nothing, or out of the gate. Looks at the disk; the rest of the graph does not.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use super::scan::{Index, Located, ScanEvent};
use super::walk::Crew;
use crate::engine::error::{Error, ErrorKind};
use crate::engine::io::gate::{Gate, locate_text, missing};
use crate::engine::model::BackingRef;

/// Files taken in only because an image refers to them, at most in one scan.
const MAX_TAKEN: usize = 10_000;

/// The path of an image that `reference` of the image at `child` plainly names, if `is_image` knows it. Looks at no disk.
pub(super) fn plain_target(child: &Path, reference: &BackingRef, is_image: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    reference.names.iter().filter(|n| is_plain(n)).filter_map(|n| locate_text(child, n).ok()).find(|p| is_image(p))
}

/// `..` after a folder's name depends on whether that folder is a link; only the disk can tell.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components().skip_while(|c| !matches!(c, Component::Normal(_)));
    parts.all(|c| c != Component::ParentDir)
}

/// Resolves what is left, taking files in that images stand on, and tells where each leads.
pub(super) fn resolve(crew: &Crew<'_>, gate: &Gate, index: &mut Index, sink: &mut dyn FnMut(ScanEvent)) {
    if !index.images.iter().any(|(_, _, f)| f.backing.is_some()) {
        return;
    }
    // What was walked over, and behind it what is taken in here, which has its turn too.
    let walked = std::mem::take(&mut index.images);
    let known: HashSet<&OsStr> = walked.iter().map(|(p, ..)| p.as_os_str()).collect();
    let mut taken: HashSet<OsString> = HashSet::new();
    let mut located = Vec::new();
    let mut next = 0;
    while let Some((child, root, facts)) = walked.get(next).or_else(|| index.images.get(next - walked.len())) {
        next += 1;
        if crew.cancelled() {
            break;
        }
        let Some(reference) = facts.backing.as_ref().filter(|r| !r.names.is_empty()) else { continue };
        if plain_target(child, reference, |p| known.contains(p.as_os_str()) || taken.contains(p.as_os_str())).is_some() {
            continue;
        }
        let target = find(child, reference, gate);
        located.push((child.clone(), target.clone().map_or_else(Located::Error, Located::Path)));
        if let Ok(path) = target
            && taken.len() < MAX_TAKEN
            && !known.contains(path.as_os_str())
            && taken.insert(path.clone().into())
        {
            let root = *root;
            index.take(crew.referenced(&path, root), sink);
        }
    }
    index.images = {
        let new = std::mem::take(&mut index.images);
        walked.into_iter().chain(new).collect()
    };
    if crew.cancelled() {
        return;
    }
    if !located.is_empty() {
        sink(ScanEvent::Located(located));
    }
}

/// The first spelling that may be opened; else the error of the first.
fn find(child: &Path, reference: &BackingRef, gate: &Gate) -> Result<PathBuf, Error> {
    let mut first = None;
    for name in &reference.names {
        match gate.locate(child, name).and_then(|path| {
            let opened = gate.open_path(&path);
            opened.map_err(|e| if e.kind() == ErrorKind::NotFound { missing(&path, child) } else { e })?;
            Ok(path)
        }) {
            Ok(path) => return Ok(path),
            Err(e) => {
                first.get_or_insert(e);
            }
        }
    }
    Err(first.unwrap_or_else(|| missing(child, child)))
}
