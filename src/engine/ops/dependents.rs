//! Who stands on an image: the overlays in its folder, in those below it, and in the library's folders. Nothing is written to a member of a chain
//! before these are known and named.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::engine::chain::{Chain, OpenOptions, check_identity};
use crate::engine::error::{Error, Result};
use crate::engine::format::probe::{best, probe};
use crate::engine::format::{Format, Source};
use crate::engine::io::Device;
use crate::engine::io::file::{FileDevice, FileId};
use crate::engine::io::gate::Gate;
use crate::engine::library::{Library, ScanOptions, scan};
use crate::engine::model::{Identity, ParentIdentity};

/// Files looked at in the image's folder and below, at most.
const MAX_BESIDE: usize = 4096;
/// Levels of folders below the image's own that are looked through.
const LEVELS: usize = 2;
/// How long the folders of the library may take.
const LOOK: Duration = Duration::from_secs(2);

/// An image that stands on another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependent {
    /// Where.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Its virtual size in bytes.
    pub size: u64,
    /// It knows what it stands on by an id that changes with the content, so that any write to that breaks the link.
    pub by_content: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dependents {
    /// The images that stand on it directly, by path.
    pub all: Vec<Dependent>,
    /// Everything that was to be looked at was.
    pub complete: bool,
}

impl Dependents {
    /// The names, for a sentence: at most five, then how many more.
    pub fn names(&self) -> String {
        let shown: Vec<String> = self.all.iter().take(5).map(|d| d.path.display().to_string()).collect();
        match self.all.len().checked_sub(5).filter(|n| *n > 0) {
            Some(more) => format!("{} and {more} more", shown.join(", ")),
            None => shown.join(", "),
        }
    }

    /// Refuses a write to `image` that would break those that know it by its content.
    pub fn refuse_broken(&self, image: &Path) -> Result<()> {
        match self.all.iter().find(|d| d.by_content) {
            Some(d) => Err(Error::usage(format!("{} stands on it and would no longer accept it", d.path.display()))
                .path(image)
                .hint("convert that image to one that stands alone first, or move it away if it is no longer wanted")),
            None => Ok(()),
        }
    }
}

/// The images that stand directly on the one at `image`, apart from those in `except`.
pub fn others(image: &Path, identity: &Identity, roots: &[PathBuf], except: &[FileId]) -> Result<Dependents> {
    let mut found = of(image, identity, roots)?;
    found.all.retain(|d| std::fs::metadata(&d.path).is_ok_and(|m| !except.contains(&FileId::of(&m))));
    Ok(found)
}

/// Refuses to change or remove `image` under those that stand on it, naming them; with `force` they become warnings.
pub fn refuse(verb: &str, image: &Path, found: &Dependents, force: bool) -> Result<Vec<String>> {
    let told = |d: &Dependent| format!("{} stands on {} and will not be readable as it was", d.path.display(), image.display());
    match (found.all.is_empty(), force) {
        (true, _) => Ok(Vec::new()),
        (false, true) => Ok(found.all.iter().map(told).collect()),
        (false, false) => Err(Error::usage(format!("other images stand on it: {}", found.names()))
            .op(verb)
            .path(image)
            .hint("flatten them or rebase them onto another image first; --force does it all the same")),
    }
}

/// Who stands on the image at `target`, whose content is about to become another, and will not be readable as it was: a line each.
/// None when there is no such file.
pub fn losing(target: &Path, roots: &[PathBuf]) -> Result<Vec<String>> {
    if !std::fs::metadata(target).is_ok_and(|m| m.is_file()) {
        return Ok(Vec::new());
    }
    // Whatever is there now: most formats know what they stand on by its name.
    let identity = Chain::open(target, &OpenOptions::default()).ok();
    let identity = identity.and_then(|c| c.nodes.first().map(|n| n.description.identity.clone())).unwrap_or_default();
    refuse("replace", target, &of(target, &identity, roots)?, true)
}

/// Finds the images that stand on the one at `image`, which says `identity` of itself: in its own folder, in the two levels of folders
/// below, and below `roots`.
pub fn of(image: &Path, identity: &Identity, roots: &[PathBuf]) -> Result<Dependents> {
    let real = std::fs::canonicalize(image).unwrap_or_else(|_| image.to_path_buf());
    let mut out = Dependents { all: Vec::new(), complete: true };
    let folder = real.parent().unwrap_or(Path::new("/"));
    let id = FileDevice::open(&real)?.id()?;
    let mut todo = VecDeque::from([(folder.to_path_buf(), LEVELS)]);
    let mut looked = 0;
    while let Some((folder, levels)) = todo.pop_front() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(t) if t.is_dir() && levels > 0 => todo.push_back((path, levels - 1)),
                Ok(t) if t.is_file() && path != real => {
                    looked += 1;
                    if looked > MAX_BESIDE {
                        out.complete = false;
                        todo.clear();
                        break;
                    }
                    // What cannot be opened says nothing, and stands on nothing that it could be read through.
                    out.all.extend(look(&path, id, identity).ok().flatten());
                }
                _ => {}
            }
        }
    }
    if !roots.is_empty() {
        library(&real, roots, &mut out)?;
    }
    out.all.sort_by(|a, b| a.path.cmp(&b.path));
    out.all.dedup_by(|a, b| a.path == b.path);
    Ok(out)
}

/// The file at `path`, if it is an image that stands on the file `id`.
fn look(path: &Path, id: FileId, identity: &Identity) -> Result<Option<Dependent>> {
    let dev: Device = Arc::new(FileDevice::open(path)?);
    let format = best(&probe(dev.as_ref())?);
    if !format.entry().caps.backing {
        return Ok(None);
    }
    let gate = Gate::around(path);
    let image = (format.entry().open)(Source { dev, path: path.to_path_buf(), gate: gate.clone() })?;
    let Some(reference) = image.backing() else { return Ok(None) };
    let named = reference
        .names
        .iter()
        .filter_map(|n| gate.locate(path, n).ok())
        .any(|p| std::fs::metadata(p).is_ok_and(|m| FileId::of(&m) == id));
    let known = reference.names.is_empty() && check_identity(&reference.identity, identity, path, path).is_ok();
    let stands = named || known && matches!(reference.identity, ParentIdentity::VdiUuids { .. });
    Ok(stands.then(|| Dependent {
        path: path.to_path_buf(),
        format,
        size: image.size(),
        by_content: by_content(&reference.identity, format),
    }))
}

fn by_content(identity: &ParentIdentity, format: Format) -> bool {
    match identity {
        ParentIdentity::Cid(_) | ParentIdentity::AnyUuid(_) | ParentIdentity::VdiUuids { .. } => true,
        // A VHD's own id stays when it is written, a VHDX's does not.
        ParentIdentity::Uuid(_) => format == Format::Vhdx,
        ParentIdentity::Name | ParentIdentity::Mtime(_) => false,
    }
}

/// Adds what the library's folders hold.
fn library(real: &Path, roots: &[PathBuf], out: &mut Dependents) -> Result<()> {
    let (stop, begin) = (AtomicBool::new(false), Instant::now());
    let mut library = Library::new();
    let options = ScanOptions { roots: roots.to_vec(), ..ScanOptions::default() };
    scan(&options, &stop, |event| {
        library.apply(event);
        if begin.elapsed() > LOOK {
            stop.store(true, Relaxed);
        }
    })?;
    out.complete &= !stop.load(Relaxed);
    library.relink();
    let Some(entry) = library.at(real) else { return Ok(()) };
    for child in entry.children.iter().filter_map(|id| library.get(*id)) {
        let format = child.facts.format.unwrap_or(Format::Raw);
        let by_content = child.facts.backing.as_ref().is_some_and(|b| by_content(&b.identity, format));
        out.all.push(Dependent { path: child.path.clone(), format, size: child.facts.virtual_size.unwrap_or(0), by_content });
    }
    Ok(())
}
