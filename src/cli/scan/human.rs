//! The tree as people read it.

use std::io;

use super::{health, problems};
use crate::cli::out::{Out, Tone, size};
use crate::engine::library::{
    DomainState, Entry, EntryKind, Forest, Grouping, Health, Library, Link, Node, NodeKind, Sameness, duplicates, forest, orphans,
};
use crate::engine::units::printable;

/// Prints everything.
pub(super) fn print(out: &mut Out, library: &Library) -> io::Result<()> {
    let forest = forest(library, Grouping::Chain);
    let mut rows = Vec::new();
    for top in &forest.tops {
        tree(&forest, *top, &mut |node, lines| rows.push(row(out, library, node, lines)));
    }
    out.table(&["name", "format", "virtual", "on disk", "snap", "state"], &rows, &[2, 3, 4])?;
    notes(out, library)?;
    totals(out, library)
}

/// Visits `top` and all below it, with the lines that lead to each.
fn tree(forest: &Forest, top: usize, visit: &mut dyn FnMut(&Node, &str)) {
    let mut stack = vec![(top, String::new(), String::new())];
    while let Some((index, lead, below)) = stack.pop() {
        let Some(node) = forest.nodes.get(index) else { continue };
        visit(node, &lead);
        for (i, child) in node.children.iter().enumerate().rev() {
            let last = i + 1 == node.children.len();
            let (corner, line) = if last { ("└── ", "    ") } else { ("├── ", "│   ") };
            stack.push((*child, format!("{below}{corner}"), format!("{below}{line}")));
        }
    }
}

fn row(out: &Out, library: &Library, node: &Node, lines: &str) -> Vec<String> {
    let number = |n: Option<u64>| n.map_or_else(|| "-".into(), size);
    match &node.kind {
        NodeKind::Entry(id) => match library.get(*id) {
            Some(e) if e.kind == EntryKind::Image => vec![
                format!("{lines}{}", e.name),
                e.format().map_or("?", |f| f.name()).to_string(),
                number(e.virtual_size()),
                size(e.actual_size),
                e.facts.snapshots.filter(|n| *n > 0).map(|n| n.to_string()).unwrap_or_default(),
                state(out, e),
            ],
            Some(e) => vec![format!("{lines}{}/", e.name), String::new(), String::new(), String::new(), String::new(), state(out, e)],
            None => Vec::new(),
        },
        NodeKind::Root(r) => {
            let root = library.roots.get(*r);
            let name = root.map(|r| printable(&r.path.to_string_lossy())).unwrap_or_default();
            let why = root.and_then(|r| r.error.as_ref()).map(|e| out.paint(Tone::Bad, format!("cannot be read: {}", e.why())));
            let blank = String::new;
            vec![format!("{lines}{name}"), blank(), blank(), blank(), blank(), why.unwrap_or_default()]
        }
        // The chain grouping has no others.
        NodeKind::Folder(_) | NodeKind::Format(_) => Vec::new(),
    }
}

/// Health, lock, domains: what there is to say, nothing when all is well.
fn state(out: &Out, e: &Entry) -> String {
    let mut all = Vec::new();
    let tone = if matches!(e.health, Health::Broken(_)) { Tone::Bad } else { Tone::Warning };
    all.extend(problems(e).iter().map(|p| out.paint(tone, format!("{}: {}", health(e), printable(p)))));
    if let Some(Link::Missing(_, candidates)) = e.backing.as_ref().map(|b| &b.link)
        && !candidates.is_empty()
    {
        all.push(format!("{} may be it", count(candidates.len(), "image")));
    }
    if let Some(how) = &e.facts.encrypted {
        all.push(format!("encrypted ({})", printable(how)));
    }
    if e.lock.in_use() {
        all.push(out.paint(Tone::Warning, format!("in use: {}", e.lock)));
    }
    all.extend(e.users.iter().filter(|u| u.target.is_some()).map(|u| {
        let state = match u.state {
            DomainState::Running => ", running",
            DomainState::Off => ", off",
            DomainState::Unknown => "",
        };
        format!("vm {}{state}", u.domain)
    }));
    all.join("; ")
}

/// Orphans with their evidence, and what is there twice.
fn notes(out: &mut Out, library: &Library) -> io::Result<()> {
    let name = |e: &Entry| printable(&e.path.to_string_lossy());
    let orphans = orphans(library);
    if !orphans.is_empty() {
        out.line("")?;
        out.line(out.paint(Tone::Title, "Orphaned overlays"))?;
    }
    for o in orphans {
        let Some(e) = library.get(o.id) else { continue };
        out.line(format!("  {}", name(e)))?;
        for evidence in &o.evidence {
            out.line(format!("    {}", printable(evidence)))?;
        }
        for c in e.backing.iter().filter_map(|b| if let Link::Missing(_, c) = &b.link { Some(c) } else { None }).flatten() {
            let Some(candidate) = library.get(c.id) else { continue };
            out.line(format!("    candidate {}: {}", name(candidate), c.evidence.join(", ")))?;
        }
    }
    // Equal names alone are common (disk.qcow2): programs get those, people do not.
    let twice: Vec<_> = duplicates(library).into_iter().filter(|d| !matches!(d.sameness, Sameness::Name(_))).collect();
    if !twice.is_empty() {
        out.line("")?;
        out.line(out.paint(Tone::Title, "There more than once"))?;
    }
    for d in twice {
        let paths: Vec<_> = d.ids.iter().filter_map(|id| library.get(*id)).map(name).collect();
        let what = match &d.sameness {
            Sameness::File(..) => "the same file".to_string(),
            Sameness::Uuid(u) => format!("the same UUID {}", printable(u)),
            Sameness::Name(n) => format!("the same name {}", printable(n)),
        };
        out.line(format!("  {what}: {}", paths.join(", ")))?;
    }
    Ok(())
}

fn totals(out: &mut Out, library: &Library) -> io::Result<()> {
    let images: Vec<&Entry> = library.iter().filter(|e| e.part_of.is_none() && e.kind == EntryKind::Image).collect();
    let sum = |f: &dyn Fn(&Entry) -> u64| images.iter().map(|e| f(e)).fold(0u64, u64::saturating_add);
    let broken = images.iter().filter(|e| matches!(e.health, Health::Broken(_))).count();
    let broken = if broken > 0 { format!(", {broken} broken") } else { String::new() };
    let (on_disk, virtual_size) = (sum(&|e| e.actual_size), sum(&|e| e.virtual_size().unwrap_or(0)));
    out.line("")?;
    out.line(format!("{}{broken}; {} on disk, {} virtual", count(images.len(), "image"), size(on_disk), size(virtual_size)))
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
