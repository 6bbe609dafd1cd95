//! Names in FAT folders: the short one, and the long one in the entries before it.

use super::super::Node;

/// First byte of an entry that is nobody's.
pub(super) const DELETED: u8 = 0xe5;
/// Attributes of a part of a long name.
const LONG: u8 = 0x0f;
/// Parts a long name has, at most.
const MAX_PARTS: usize = 20;

/// A name of a folder.
pub(super) struct Named {
    pub(super) name: Vec<u8>,
    /// Where its short entry is on the volume.
    pub(super) node: Node,
    /// Where the entries of long names before it are.
    pub(super) long: Vec<u64>,
}

/// The names among a folder's entries (each with its place), without `.`, `..` and the volume's label.
pub(super) fn named(entries: &[(u64, [u8; 32])]) -> Vec<Named> {
    let mut out = Vec::new();
    let mut parts: Vec<(u64, &[u8; 32])> = Vec::new();
    for (at, e) in entries {
        match (e[0], e[11]) {
            (0, _) => break,
            (DELETED, _) => parts.clear(),
            (_, LONG) => parts.push((*at, e)),
            // The volume label.
            (_, a) if a & 8 != 0 => parts.clear(),
            _ => {
                let name = long_name(&parts, e).unwrap_or_else(|| short_name(e));
                let long = parts.drain(..).map(|(at, _)| at).collect();
                if name != b"." && name != b".." {
                    out.push(Named { name, node: *at, long });
                }
            }
        }
    }
    out
}

/// The long name of the short entry `e`, whose parts come before it, the last part first. `None` when they belong to another, which a
/// system that knows no long names renamed or removed.
fn long_name(parts: &[(u64, &[u8; 32])], e: &[u8; 32]) -> Option<Vec<u8>> {
    let first = parts.iter().rposition(|(_, p)| p[0] & 0x40 != 0)?;
    let parts = parts.get(first..)?;
    let count = parts.len();
    let sum = e.get(..11)?.iter().fold(0u8, |sum, b| sum.rotate_right(1).wrapping_add(*b));
    let fits = parts.iter().enumerate().all(|(i, (_, p))| usize::from(p[0] & 0x3f) == count - i && p[13] == sum);
    if !fits || count > MAX_PARTS {
        return None;
    }
    let wide: Vec<u16> = parts.iter().rev().flat_map(|(_, p)| long_part(p)).take_while(|c| *c != 0).collect();
    (!wide.is_empty()).then(|| String::from_utf16_lossy(&wide).into_bytes())
}

/// The name of a short entry, in lower case where Windows NT marks it so.
fn short_name(e: &[u8; 32]) -> Vec<u8> {
    let part = |range: std::ops::Range<usize>, lower: bool| {
        let text = e.get(range).unwrap_or_default();
        let end = text.iter().rposition(|c| *c != b' ').map_or(0, |p| p + 1);
        let mut text = text.get(..end).unwrap_or_default().to_vec();
        if lower {
            text.make_ascii_lowercase();
        }
        text
    };
    let mut name = part(0..8, e[12] & 8 != 0);
    if name.first() == Some(&5) {
        name[0] = 0xe5;
    }
    let extension = part(8..11, e[12] & 16 != 0);
    if !extension.is_empty() {
        name.push(b'.');
        name.extend(extension);
    }
    name
}

/// The thirteen characters of a long-name entry.
fn long_part(e: &[u8; 32]) -> Vec<u16> {
    [1..11, 14..26, 28..32]
        .into_iter()
        .flat_map(|r| e.get(r).unwrap_or_default().chunks_exact(2))
        .map(|c| u16::from_le_bytes([c[0], c[1]]))
        .collect()
}
