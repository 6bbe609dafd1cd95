//! From the engine's forest to the rows of the tree: sorting siblings, folding, filtering, and the lines that join them. All of it
//! happens when something changed, never while drawing.

use std::cmp::Ordering;
use std::collections::HashSet;

use crate::engine::library::{Entry, EntryId, Forest, Health, Library, NodeKind};

/// A column of the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Column {
    /// File name.
    #[default]
    Name,
    /// Format.
    Format,
    /// Bytes a guest sees.
    Virtual,
    /// Bytes on the host.
    OnDisk,
    /// Share of the virtual size it stores itself.
    Alloc,
    /// Internal snapshots.
    Snapshots,
    /// When its file was written to.
    Changed,
    /// Domains, and who holds it.
    UsedBy,
    /// Whether it can be trusted.
    Health,
}

impl Column {
    /// All, from left to right.
    pub const ALL: [Column; 9] = [
        Column::Name,
        Column::Format,
        Column::Virtual,
        Column::OnDisk,
        Column::Alloc,
        Column::Snapshots,
        Column::Changed,
        Column::UsedBy,
        Column::Health,
    ];
    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Column::Name => "NAME",
            Column::Format => "FMT",
            Column::Virtual => "VIRTUAL",
            Column::OnDisk => "ON-DISK",
            Column::Alloc => "ALLOC",
            Column::Snapshots => "SNAP",
            Column::Changed => "CHANGED",
            Column::UsedBy => "USED BY / LOCK",
            Column::Health => "HEALTH",
        }
    }
    /// The next one, round.
    pub fn next(self) -> Column {
        let at = Self::ALL.iter().position(|c| *c == self).unwrap_or(0);
        Self::ALL.get((at + 1) % Self::ALL.len()).copied().unwrap_or_default()
    }
    /// Whether large values come first when a person asks for this column.
    pub fn downwards(self) -> bool {
        !matches!(self, Column::Name | Column::Format)
    }
}

/// A line of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Index into the forest.
    pub node: usize,
    /// Steps from the top.
    pub depth: usize,
    /// Bit `d` is set when a line runs down at depth `d`, as a sibling follows there. Depths past 127 are drawn without.
    pub lines: u128,
    /// Another sibling follows.
    pub more: bool,
    /// It has something below it.
    pub parent: bool,
    /// What is below is shown.
    pub open: bool,
    /// It passes the filter itself; others are shown only as the way to it.
    pub matched: bool,
}

/// A forest with siblings in the order asked for.
#[derive(Debug, Clone, Default)]
pub struct Sorted {
    /// The forest.
    pub forest: Forest,
    below: Vec<Below>,
}

/// What is below a node, itself not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Below {
    /// Images.
    pub images: usize,
    /// Bytes on the host, of files that are no part of another image.
    pub on_disk: u64,
    /// Bytes guests see, of the same.
    pub virtual_size: u64,
    /// Images that are broken.
    pub broken: usize,
    /// Images with warnings.
    pub warned: usize,
}

impl Below {
    fn of(e: &Entry) -> Self {
        let whole = e.part_of.is_none();
        Below {
            images: 1,
            on_disk: if whole { e.actual_size } else { 0 },
            virtual_size: e.virtual_size().filter(|_| whole).unwrap_or(0),
            broken: usize::from(matches!(e.health, Health::Broken(_))),
            warned: usize::from(matches!(e.health, Health::Warning(_))),
        }
    }
    fn add(&mut self, other: Below) {
        self.images += other.images;
        self.on_disk = self.on_disk.saturating_add(other.on_disk);
        self.virtual_size = self.virtual_size.saturating_add(other.virtual_size);
        self.broken += other.broken;
        self.warned += other.warned;
    }
}

impl Sorted {
    /// What is below a node.
    pub fn below(&self, node: usize) -> Below {
        self.below.get(node).copied().unwrap_or_default()
    }

    /// Sorts siblings; what is not known comes last either way.
    pub fn new(library: &Library, mut forest: Forest, sort: (Column, bool)) -> Self {
        let order = |nodes: &Forest, ids: &mut Vec<usize>| {
            let entry = |i: usize| match nodes.nodes.get(i).map(|n| &n.kind) {
                Some(NodeKind::Entry(id)) => library.get(*id),
                _ => None,
            };
            // Folders and roots keep their order and stay above images.
            ids.sort_by(|a, b| match (entry(*a), entry(*b)) {
                (Some(a), Some(b)) => compare(a, b, sort).then_with(|| natural(&a.name, &b.name)),
                (None, None) => Ordering::Equal,
                (None, Some(_)) => Ordering::Less,
                (Some(_), None) => Ordering::Greater,
            });
        };
        for i in 0..forest.nodes.len() {
            let Some(mut children) = forest.nodes.get_mut(i).map(|n| std::mem::take(&mut n.children)) else { continue };
            if children.len() > 1 {
                order(&forest, &mut children);
            }
            if let Some(n) = forest.nodes.get_mut(i) {
                n.children = children;
            }
        }
        let mut below = vec![Below::default(); forest.nodes.len()];
        for (i, n) in forest.nodes.iter().enumerate().rev() {
            let mut own = below.get(i).copied().unwrap_or_default();
            if let NodeKind::Entry(id) = n.kind
                && let Some(e) = library.get(id)
            {
                own.add(Below::of(e));
            }
            if let Some(b) = n.parent.and_then(|p| below.get_mut(p)) {
                b.add(own);
            }
        }
        Sorted { forest, below }
    }

    /// Every entry with its place in the forest.
    pub fn entries<'a>(&'a self, library: &'a Library) -> impl Iterator<Item = (usize, &'a Entry)> {
        self.forest.nodes.iter().enumerate().filter_map(|(i, n)| match n.kind {
            NodeKind::Entry(id) => Some((i, library.get(id)?)),
            _ => None,
        })
    }

    /// Where an entry is in the forest.
    pub fn find(&self, id: EntryId) -> Option<usize> {
        self.forest.nodes.iter().position(|n| n.kind == NodeKind::Entry(id))
    }
}

/// The rows to show: all that is not folded; with a filter, what is `wanted` and the way to it.
pub fn visible(sorted: &Sorted, folded: &HashSet<NodeKind>, wanted: Option<&HashSet<usize>>) -> Vec<Row> {
    let nodes = &sorted.forest.nodes;
    // The way to what is wanted: a parent stands before its children, so one pass from the end suffices.
    let shown: Option<Vec<bool>> = wanted.map(|set| {
        let mut shown = vec![false; nodes.len()];
        for (i, n) in nodes.iter().enumerate().rev() {
            if set.contains(&i) || shown.get(i).copied().unwrap_or(false) {
                for j in [Some(i), n.parent].into_iter().flatten() {
                    if let Some(s) = shown.get_mut(j) {
                        *s = true;
                    }
                }
            }
        }
        shown
    });
    let is_shown = |i: &usize| shown.as_ref().is_none_or(|s| s.get(*i).copied().unwrap_or(false));
    let mut out = Vec::with_capacity(nodes.len());
    let mut stack: Vec<(usize, u128, bool)> = Vec::new();
    let push = |stack: &mut Vec<(usize, u128, bool)>, ids: &[usize], lines: u128| {
        let from = stack.len();
        stack.extend(ids.iter().filter(|i| is_shown(i)).map(|i| (*i, lines, true)));
        stack.get_mut(from..).unwrap_or_default().reverse();
        if let Some(last) = stack.get_mut(from) {
            last.2 = false;
        }
    };
    push(&mut stack, &sorted.forest.tops, 0);
    while let Some((i, lines, more)) = stack.pop() {
        let Some(node) = nodes.get(i) else { continue };
        let parent = node.children.iter().any(is_shown);
        let open = parent && (wanted.is_some() || !folded.contains(&node.kind));
        let matched = wanted.is_none_or(|s| s.contains(&i));
        out.push(Row { node: i, depth: node.depth, lines, more, parent, open, matched });
        if open {
            let bit = if more { 1u128.checked_shl(node.depth as u32).unwrap_or(0) } else { 0 };
            push(&mut stack, &node.children, lines | bit);
        }
    }
    out
}

fn compare(a: &Entry, b: &Entry, (column, down): (Column, bool)) -> Ordering {
    // Unknown values are last in both directions.
    fn known<T: PartialOrd>(a: Option<T>, b: Option<T>, down: bool) -> Ordering {
        match (a, b) {
            (Some(a), Some(b)) => {
                let o = a.partial_cmp(&b).unwrap_or(Ordering::Equal);
                if down { o.reverse() } else { o }
            }
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        }
    }
    match column {
        Column::Name => {
            let o = natural(&a.name, &b.name);
            if down { o.reverse() } else { o }
        }
        Column::Format => known(a.format().map(|f| f.name()), b.format().map(|f| f.name()), down),
        Column::Virtual => known(a.virtual_size(), b.virtual_size(), down),
        Column::OnDisk => known(Some(a.actual_size), Some(b.actual_size), down),
        Column::Alloc => known(a.share(), b.share(), down),
        Column::Snapshots => known(a.facts.snapshots, b.facts.snapshots, down),
        Column::Changed => known(Some(a.modified()), Some(b.modified()), down),
        Column::UsedBy => known(Some(use_rank(a)), Some(use_rank(b)), down),
        Column::Health => known(Some(health_rank(a)), Some(health_rank(b)), down),
    }
}

fn use_rank(e: &Entry) -> (bool, usize) {
    (e.lock.in_use(), e.users.len())
}

fn health_rank(e: &Entry) -> u8 {
    match e.health {
        Health::Ok => 0,
        Health::Warning(_) => 1,
        Health::Broken(_) => 2,
    }
}

/// As people sort names: case does not matter, and numbers count as numbers (`web-2` before `web-10`).
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a.chars().peekable(), b.chars().peekable());
    loop {
        match (x.peek().copied(), y.peek().copied()) {
            (None, None) => return a.cmp(b),
            (None, _) => return Ordering::Less,
            (_, None) => return Ordering::Greater,
            (Some(c), Some(d)) if c.is_ascii_digit() && d.is_ascii_digit() => {
                let number = |it: &mut std::iter::Peekable<std::str::Chars<'_>>| {
                    let mut n = 0u128;
                    while let Some(v) = it.peek().and_then(|c| c.to_digit(10)) {
                        n = n.saturating_mul(10).saturating_add(u128::from(v));
                        it.next();
                    }
                    n
                };
                match number(&mut x).cmp(&number(&mut y)) {
                    Ordering::Equal => {}
                    o => return o,
                }
            }
            (Some(c), Some(d)) => {
                match c.to_lowercase().cmp(d.to_lowercase()) {
                    Ordering::Equal => {}
                    o => return o,
                }
                x.next();
                y.next();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::library::Node;

    fn chain() -> Sorted {
        let node = |root, parent, children: &[usize], depth| Node {
            kind: NodeKind::Root(root),
            parent,
            children: children.to_vec(),
            depth,
        };
        // 0 ─┬ 1 ─ 2
        //    └ 3
        let nodes =
            vec![node(0, None, &[1, 3], 0), node(1, Some(0), &[2], 1), node(2, Some(1), &[], 2), node(3, Some(0), &[], 1)];
        Sorted { forest: Forest { nodes, tops: vec![0] }, below: Vec::new() }
    }

    #[test]
    fn folded_rows_hide_what_is_below_and_lines_join_siblings() {
        let rows = visible(&chain(), &HashSet::new(), None);
        assert_eq!(
            rows.iter().map(|r| (r.node, r.depth, r.more, r.lines)).collect::<Vec<_>>(),
            [(0, 0, false, 0), (1, 1, true, 0), (2, 2, false, 0b10), (3, 1, false, 0),]
        );
        let folded = HashSet::from([NodeKind::Root(1)]);
        assert_eq!(visible(&chain(), &folded, None).iter().map(|r| r.node).collect::<Vec<_>>(), [0, 1, 3]);
    }

    #[test]
    fn a_filter_shows_matches_and_the_way_to_them_even_where_folded() {
        let folded = HashSet::from([NodeKind::Root(1)]);
        let rows = visible(&chain(), &folded, Some(&HashSet::from([2])));
        assert_eq!(rows.iter().map(|r| (r.node, r.matched)).collect::<Vec<_>>(), [(0, false), (1, false), (2, true)]);
    }

    #[test]
    fn names_sort_as_people_sort_them() {
        let mut names = vec!["web-10", "Web-2", "web-2b", "alpha", "web-1"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["alpha", "web-1", "Web-2", "web-2b", "web-10"]);
    }
}
