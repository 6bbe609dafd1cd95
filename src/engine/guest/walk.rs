//! Going through a guest's tree: every file below a folder, mounts among them, links not followed. Bounded in number and depth,
//! and safe from folders that contain themselves.

use std::collections::HashSet;

use super::fs::{FileType, Stat};
use super::tree::{Guest, Spot};
use crate::engine::error::{Error, Result};

/// Files gone through, at most.
pub const MAX_FILES: usize = 2_000_000;
/// Folders within folders, at most.
const MAX_DEPTH: usize = 512;

/// A file met on the way.
pub struct Met<'a> {
    /// Its path below where the walk began, without a leading slash.
    pub path: &'a [u8],
    /// Where it is.
    pub spot: Spot,
    /// Its facts.
    pub stat: &'a Stat,
}

/// Goes on, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Go on.
    On,
    /// Do not go into this folder.
    Past,
    /// End the walk.
    Stop,
}

/// What a walk could not read, in words; at most [`MAX_PROBLEMS`].
pub type Problems = Vec<String>;

/// Problems kept, at most.
const MAX_PROBLEMS: usize = 50;

/// Calls `visit` for every file below the folder at `path`, a folder before what is in it, names in their order.
///
/// What cannot be read is told in the answer and passed over. Errors: the folder itself cannot be read; too many files; what
/// `visit` fails with.
pub fn walk(guest: &Guest, path: &[u8], visit: &mut dyn FnMut(&Met<'_>) -> Result<Step>) -> Result<Problems> {
    let (start, real) = guest.resolve_named(path, true)?;
    let mut problems = Problems::new();
    // Folders on the way or done: hard links to folders are no part of any sane filesystem, but of damaged ones.
    let mut seen: HashSet<Spot> = HashSet::from([start]);
    let mut todo: Vec<(Vec<u8>, Spot, usize)> = vec![(Vec::new(), start, 0)];
    let mut count = 0usize;
    while let Some((at, folder, depth)) = todo.pop() {
        let mut entries = match guest.list(folder) {
            Ok(entries) => entries,
            Err(e) if depth == 0 => return Err(e),
            Err(e) => {
                note(&mut problems, &at, &e);
                continue;
            }
        };
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let mut folders = Vec::new();
        for entry in entries {
            count += 1;
            if count > MAX_FILES {
                return Err(Error::unsupported(format!("there are more than {MAX_FILES} files")));
            }
            let mut path = at.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&entry.name);
            let spot = mounted(guest, &real, &path).unwrap_or(Spot { mount: folder.mount, node: entry.node });
            let stat = match guest.stat(spot) {
                Ok(stat) => stat,
                Err(e) => {
                    note(&mut problems, &path, &e);
                    continue;
                }
            };
            let step = visit(&Met { path: &path, spot, stat: &stat })?;
            match step {
                Step::Stop => return Ok(problems),
                Step::On if stat.kind == FileType::Folder => {
                    if depth + 1 >= MAX_DEPTH {
                        note(&mut problems, &path, &Error::corrupt("folders are nested too deeply"));
                    } else if seen.insert(spot) {
                        folders.push((path, spot, depth + 1));
                    } else {
                        note(&mut problems, &path, &Error::corrupt("a folder that is met twice"));
                    }
                }
                _ => {}
            }
        }
        folders.reverse();
        todo.append(&mut folders);
    }
    Ok(problems)
}

fn note(problems: &mut Problems, path: &[u8], e: &Error) {
    if problems.len() < MAX_PROBLEMS {
        problems.push(format!("{}: {e}", crate::engine::units::printable_bytes(path)));
    }
}

/// The root of what is mounted at `path` below `real`, if something is.
fn mounted(guest: &Guest, real: &[u8], path: &[u8]) -> Option<Spot> {
    if guest.mounts.len() < 2 {
        return None;
    }
    let full = [real.strip_suffix(b"/").unwrap_or(real), b"/", path].concat();
    let (mount, m) = guest.mounts.iter().enumerate().skip(1).find(|(_, m)| m.at == full)?;
    Some(Spot { mount, node: m.root })
}
