//! Finding parents that an image does not name, or that moved: by identity (UUID, CID), by file name, by size and format. Works on
//! a copy of what the library knows, so that jobs on other threads may ask.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Library;
use super::entry::Facts;
use crate::engine::chain::{ParentFinder, check_identity};
use crate::engine::format::Format;
use crate::engine::model::{BackingRef, ParentIdentity};

/// Guesses handed out at most.
const MAX_GUESSES: usize = 8;
/// Images looked at for one guess: a folder of clones may hold thousands of one name, one size and one CID.
const MAX_LOOKED: usize = 256;

/// An image that may be the parent somebody looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guess {
    /// Where it is.
    pub path: PathBuf,
    /// Why it may be the one, strongest first.
    pub evidence: Vec<String>,
    /// An identity (UUID, CID) proves it.
    pub proven: bool,
}

/// What the library knows of where images are.
#[derive(Debug, Default)]
pub struct Finder {
    images: Vec<(PathBuf, Arc<Facts>)>,
    by_path: HashMap<PathBuf, usize>,
    by_uuid: HashMap<String, Vec<usize>>,
    by_cid: HashMap<u32, Vec<usize>>,
    by_name: HashMap<String, Vec<usize>>,
    /// By virtual size in bytes and driver.
    by_size: HashMap<(u64, &'static str), Vec<usize>>,
}

impl Finder {
    /// A copy of what `library` knows now.
    pub fn new(library: &Library) -> Self {
        let mut out = Finder::default();
        for e in library.iter().filter(|e| e.part_of.is_none() && e.facts.virtual_size.is_some()) {
            let i = out.images.len();
            out.images.push((e.path.clone(), e.facts.clone()));
            out.by_path.insert(e.path.clone(), i);
            if let Some(uuid) = &e.facts.identity.uuid {
                out.by_uuid.entry(uuid.clone()).or_default().push(i);
            }
            if let Some(cid) = e.facts.identity.cid {
                out.by_cid.entry(cid).or_default().push(i);
            }
            out.by_name.entry(last_part(&e.path.to_string_lossy())).or_default().push(i);
            if let (Some(size), Some(format)) = (e.facts.virtual_size, e.facts.format) {
                out.by_size.entry((size, format.driver())).or_default().push(i);
            }
        }
        out
    }

    /// Images that may be what `reference` of the image at `child` means, best first, with the reasons.
    ///
    /// An image with the right identity is proven. Without one, the same file name or the same size and recorded format make a
    /// guess, unless an identity says that it is another image.
    pub fn guesses(&self, child: &Path, reference: &BackingRef) -> Vec<Guess> {
        let size = self.by_path.get(child).and_then(|i| self.images.get(*i)).and_then(|(_, f)| f.virtual_size);
        let by_identity: Vec<usize> = match &reference.identity {
            ParentIdentity::VdiUuids { image: u, .. } | ParentIdentity::Uuid(u) => {
                self.by_uuid.get(u).cloned().unwrap_or_default()
            }
            ParentIdentity::AnyUuid(all) => all.iter().filter_map(|u| self.by_uuid.get(u)).flatten().copied().collect(),
            ParentIdentity::Cid(cid) => self.by_cid.get(cid).cloned().unwrap_or_default(),
            ParentIdentity::Name | ParentIdentity::Mtime(_) => Vec::new(),
        };
        let names: Vec<String> = reference.names.iter().map(|n| last_part(n)).collect();
        let by_name = names.iter().filter_map(|n| self.by_name.get(n)).flatten().copied();
        let recorded = reference.format.as_deref().and_then(|f| Format::parse(f).ok());
        let mut order: Vec<usize> = Vec::new();
        for i in by_identity.iter().copied().chain(by_name).take(MAX_LOOKED) {
            if !order.contains(&i) {
                order.push(i);
            }
        }
        let judge = |i: usize| {
            let (path, facts) = self.images.get(i)?;
            self.judge(child, reference, size, recorded, &names, path, facts, by_identity.contains(&i))
        };
        let mut out: Vec<Guess> = order.into_iter().filter_map(judge).collect();
        // Beside one that is proven or has the name, those of the same size are mere chance.
        if let (true, Some(size), Some(format)) = (out.is_empty(), size, recorded) {
            let all = self.by_size.get(&(size, format.driver())).map_or(&[][..], Vec::as_slice);
            out.extend(all.iter().take(MAX_LOOKED).filter_map(|i| judge(*i)).take(MAX_GUESSES));
        }
        out.sort_by_key(|g| (std::cmp::Reverse(g.proven), std::cmp::Reverse(g.evidence.len())));
        out.truncate(MAX_GUESSES);
        out
    }

    #[expect(clippy::too_many_arguments, reason = "all that speaks for or against one image, gathered once by the only caller")]
    fn judge(
        &self,
        child: &Path,
        reference: &BackingRef,
        size: Option<u64>,
        recorded: Option<Format>,
        names: &[String],
        path: &Path,
        facts: &Facts,
        identified: bool,
    ) -> Option<Guess> {
        if path == child || self.stands_on(path, child) {
            return None;
        }
        let fits = |f: Format| facts.format.is_some_and(|have| have == f || have.driver() == f.driver());
        if recorded.is_some_and(|f| !fits(f)) {
            return None;
        }
        // An identity that is known and wrong rules an image out, however well it is called.
        check_identity(&reference.identity, &facts.identity, path, child).ok()?;
        let mut evidence = Vec::new();
        if identified {
            evidence.push("it has the identity that is looked for".to_string());
        }
        let same_name = names.contains(&last_part(&path.to_string_lossy()));
        if same_name {
            evidence.push("it has the same name, in another folder".to_string());
        }
        let same_size = size.is_some() && facts.virtual_size == size;
        if same_size {
            evidence.push("it has the same virtual size".to_string());
        }
        if let Some(f) = recorded {
            evidence.push(format!("it has the format that is recorded, {f}"));
        }
        (identified || same_name || same_size).then(|| Guess { path: path.to_path_buf(), evidence, proven: identified })
    }

    /// True when the chain of `path` (by plain names) comes to `below`: then it cannot be its parent.
    fn stands_on(&self, path: &Path, below: &Path) -> bool {
        let mut at = path.to_path_buf();
        for _ in 0..crate::engine::limits::MAX_CHAIN {
            let Some((_, facts)) = self.by_path.get(&at).and_then(|i| self.images.get(*i)) else { return false };
            let Some(next) =
                facts.backing.as_ref().and_then(|r| super::resolve::plain_target(&at, r, |p| self.by_path.contains_key(p)))
            else {
                return false;
            };
            if next == below {
                return true;
            }
            at = next;
        }
        true
    }
}

impl ParentFinder for Finder {
    /// Only proven parents when the image does not name one; otherwise a person must choose among [`Finder::guesses`].
    fn find(&self, child: &Path, reference: &BackingRef) -> Vec<PathBuf> {
        self.guesses(child, reference).into_iter().filter(|g| g.proven).map(|g| g.path).collect()
    }
}

/// The file name in a path of this system or of Windows, in lower case.
fn last_part(name: &str) -> String {
    name.rsplit(['/', '\\']).next().unwrap_or(name).to_lowercase()
}
