//! The library as a forest: by chain (bases with their overlays below them), by folder, by format. Plain data made from plain data;
//! an arena and no recursion, as chains in hostile images may be deep.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::{Entry, EntryId, Library, Link};
use crate::engine::format::Format;

/// How the tree is grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grouping {
    /// Roots, below them the images that stand on nothing, below each what stands on it.
    #[default]
    Chain,
    /// Roots, below them folders as on disk.
    Folder,
    /// Formats, below each its images.
    Format,
}

/// What a node of the forest is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// A library root: index into [`Library::roots`].
    Root(usize),
    /// A folder below a root.
    Folder(PathBuf),
    /// All images of a format; `None` for what could not be looked at.
    Format(Option<Format>),
    /// An image (or an unreadable folder).
    Entry(EntryId),
}

/// A node of the forest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Index of the node above it in [`Forest::nodes`].
    pub parent: Option<usize>,
    /// Indices of the nodes below it, in the order of their paths.
    pub children: Vec<usize>,
    /// Steps from the top; 0 for a top.
    pub depth: usize,
}

/// Trees of nodes. Every shown entry is in it exactly once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forest {
    /// All nodes; a parent stands before its children.
    pub nodes: Vec<Node>,
    /// Indices of the nodes that have nothing above them.
    pub tops: Vec<usize>,
}

impl Forest {
    fn add(&mut self, kind: NodeKind, parent: Option<usize>) -> usize {
        let index = self.nodes.len();
        let above = parent.and_then(|p| self.nodes.get_mut(p));
        let depth = above.as_ref().map_or(0, |p| p.depth + 1);
        match above {
            Some(p) => p.children.push(index),
            None => self.tops.push(index),
        }
        self.nodes.push(Node { kind, parent, children: Vec::new(), depth });
        index
    }

    /// Every node in reading order: a node, then all below it.
    pub fn walk(&self) -> impl Iterator<Item = &Node> {
        let mut stack: Vec<usize> = self.tops.iter().rev().copied().collect();
        std::iter::from_fn(move || {
            let node = self.nodes.get(stack.pop()?)?;
            stack.extend(node.children.iter().rev());
            Some(node)
        })
    }
}

/// The forest of `library` in this grouping. A root that holds nothing is still there.
pub fn forest(library: &Library, grouping: Grouping) -> Forest {
    let mut shown: Vec<&Entry> = library.iter().filter(|e| e.part_of.is_none()).collect();
    // As bytes: comparing paths part by part costs ten times as much.
    shown.sort_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
    match grouping {
        Grouping::Chain => by_chain(library, &shown),
        Grouping::Folder => by_folder(library, &shown),
        Grouping::Format => by_format(&shown),
    }
}

fn by_chain(library: &Library, shown: &[&Entry]) -> Forest {
    let mut out = Forest::default();
    let roots: Vec<usize> = (0..library.roots.len()).map(|r| out.add(NodeKind::Root(r), None)).collect();
    let mut placed = HashSet::new();
    // Tops first: whoever has no parent that is shown. What is left after them hangs on a loop: as none of its images is below the
    // others, each is a top, with what hangs on it from outside the loop below.
    let is_top = |e: &Entry| {
        let parent = e.backing.as_ref().and_then(|b| library.get(b.link.entry()?));
        parent.is_none_or(|p| p.part_of.is_some())
    };
    let looping = |e: &Entry| matches!(e.backing.as_ref().map(|b| &b.link), Some(Link::Loop(..)));
    for top in shown.iter().filter(|e| is_top(e) || looping(e)) {
        let mut stack = vec![(top.id, roots.get(top.root).copied())];
        while let Some((id, parent)) = stack.pop() {
            let Some(entry) = library.get(id).filter(|e| e.part_of.is_none()) else { continue };
            if placed.insert(id) {
                let node = out.add(NodeKind::Entry(id), parent);
                let below = entry.children.iter().rev().filter(|c| library.get(**c).is_some_and(|c| !looping(c)));
                stack.extend(below.map(|c| (*c, Some(node))));
            }
        }
    }
    out
}

fn by_folder(library: &Library, shown: &[&Entry]) -> Forest {
    let mut out = Forest::default();
    let roots: Vec<usize> = (0..library.roots.len()).map(|r| out.add(NodeKind::Root(r), None)).collect();
    let mut folders: HashMap<(usize, PathBuf), usize> = HashMap::new();
    for entry in shown {
        let Some((&top, root)) = roots.get(entry.root).zip(library.roots.get(entry.root)) else { continue };
        let below = entry.folder().strip_prefix(&root.real).unwrap_or(Path::new(""));
        let (mut parent, mut at) = (top, root.real.clone());
        for part in below.components() {
            at.push(part);
            parent = match folders.get(&(entry.root, at.clone())) {
                Some(&node) => node,
                None => {
                    let node = out.add(NodeKind::Folder(at.clone()), Some(parent));
                    folders.insert((entry.root, at.clone()), node);
                    node
                }
            };
        }
        out.add(NodeKind::Entry(entry.id), Some(parent));
    }
    out
}

fn by_format(shown: &[&Entry]) -> Forest {
    let mut groups: BTreeMap<Option<Format>, Vec<EntryId>> = BTreeMap::new();
    for e in shown {
        groups.entry(e.facts.format).or_default().push(e.id);
    }
    let mut out = Forest::default();
    // What could not be looked at stands last.
    let unknown = groups.remove(&None);
    for (format, ids) in groups.into_iter().chain(unknown.map(|ids| (None, ids))) {
        let top = out.add(NodeKind::Format(format), None);
        for id in ids {
            out.add(NodeKind::Entry(id), Some(top));
        }
    }
    out
}
