//! An initramfs: one or several cpio archives one after the other, the last usually compressed. Spec: Linux,
//! Documentation/driver-api/early-userspace/buffer-format.rst; cpio(5).

use super::Seen;
use super::peek::peek;
use crate::engine::io::bytes::{be16, le16};
use crate::engine::io::{ReadAt, read_up_to};

/// Files of an archive looked at, at most: early archives hold a handful, and a long one is the last.
const MAX_FILES: usize = 256;
/// Archives looked at.
const MAX_ARCHIVES: usize = 8;
/// Zeros skipped between two archives, at most.
const MAX_PADDING: usize = 64 << 10;

/// Looks for an initramfs at the start of `dev`.
pub(super) fn recognise(head: &[u8], dev: &dyn ReadAt) -> Option<Seen> {
    let mut parts: Vec<String> = Vec::new();
    let mut microcode = false;
    let mut at = 0u64;
    for _ in 0..MAX_ARCHIVES {
        let here = if at == 0 { head.to_vec() } else { read_up_to(dev, at, MAX_PADDING).ok()? };
        if let Some(entry) = Entry::parse(&here) {
            let archive = walk(dev, at);
            microcode |= archive.microcode;
            parts.push(format!("{} at byte {at:#x}", entry.kind));
            match archive.end {
                Some(end) => at = end,
                None => break,
            }
            let gap = read_up_to(dev, at, MAX_PADDING).ok()?;
            match gap.iter().position(|b| *b != 0) {
                Some(zeros) => at += zeros as u64,
                None => break,
            }
        } else if let Some(packed) = peek(&here, dev, at) {
            let entry = Entry::parse(&packed.head)?;
            parts.push(format!("{} of {} at byte {at:#x}", packed.how, entry.kind));
            break;
        } else {
            break;
        }
    }
    let evidence = (!parts.is_empty()).then(|| parts.join(", then "))?;
    let mut seen = Seen::because(evidence).fact("archives", parts.len().to_string());
    if microcode {
        seen = seen.fact("early microcode", "in the first archive");
    }
    Some(seen)
}

/// The header of one file in an archive.
pub(super) struct Entry {
    kind: &'static str,
    /// Bytes of header and name, padded: the file's content follows.
    head: u64,
    /// Bytes of content, padded.
    body: u64,
    /// Where the name is, and its length without the NUL.
    name: (usize, usize),
}

impl Entry {
    /// Parses the header at the start of `b`. Numbers and the name's end are checked, as two of the magics are only 16 bits.
    pub(super) fn parse(b: &[u8]) -> Option<Entry> {
        let (kind, header, name, body, align) = Entry::fields(b)?;
        let end = header.checked_add(name).filter(|_| (1..=4096).contains(&name))?;
        let text = b.get(header as usize..end as usize)?;
        let (nul, text) = text.split_last()?;
        (*nul == 0 && !text.contains(&0)).then(|| Entry {
            kind,
            head: end.next_multiple_of(align),
            body: body.next_multiple_of(align),
            name: (header as usize, text.len()),
        })
    }

    /// Kind, bytes of the header, bytes of the name with its NUL, bytes of content, and what both are padded to.
    fn fields(b: &[u8]) -> Option<(&'static str, u64, u64, u64, u64)> {
        let number = |at: usize, len: usize, base| {
            let digits = b.get(at..at + len).filter(|d| d.iter().all(u8::is_ascii_alphanumeric))?;
            u64::from_str_radix(std::str::from_utf8(digits).ok()?, base).ok()
        };
        Some(match b.get(..6)? {
            b"070701" => ("cpio (newc)", 110u64, number(94, 8, 16)?, number(54, 8, 16)?, 4u64),
            b"070702" => ("cpio (newc with checksums)", 110, number(94, 8, 16)?, number(54, 8, 16)?, 4),
            b"070707" => ("cpio (portable ASCII)", 76, number(59, 6, 8)?, number(65, 11, 8)?, 1),
            _ => {
                let (kind, big) = match b.get(..2)? {
                    [0xc7, 0x71] => ("cpio (old binary)", false),
                    [0x71, 0xc7] => ("cpio (old binary, big-endian)", true),
                    _ => return None,
                };
                let field = |at| if big { be16(b, at) } else { le16(b, at) };
                // A number of 32 bits has its upper half first, in either byte order.
                let body = u64::from(field(22)?) << 16 | u64::from(field(24)?);
                (kind, 26, u64::from(field(20)?), body, 2)
            }
        })
    }

    /// Bytes of the header whose first 26 bytes `b` are.
    pub(super) fn header_len(b: &[u8]) -> Option<usize> {
        match b.get(..6)? {
            b"070701" | b"070702" => Some(110),
            b"070707" => Some(76),
            _ => matches!(b.get(..2)?, [0xc7, 0x71] | [0x71, 0xc7]).then_some(26),
        }
    }

    /// Bytes of the name behind the header `b`, its NUL among them.
    pub(super) fn name_len(b: &[u8]) -> Option<usize> {
        let (_, _, name, _, _) = Entry::fields(b)?;
        (1..=4096).contains(&name).then_some(name as usize)
    }

    /// Bytes of padding behind header and name, of which `seen` were read, and of content with its padding.
    pub(super) fn after(&self, seen: usize) -> (u64, u64) {
        (self.head.saturating_sub(seen as u64), self.body)
    }
}

/// What walking an archive found.
struct Archive {
    /// The byte behind its last file; `None` when it was not reached.
    end: Option<u64>,
    microcode: bool,
}

fn walk(dev: &dyn ReadAt, start: u64) -> Archive {
    let mut archive = Archive { end: None, microcode: false };
    let mut at = start;
    for _ in 0..MAX_FILES {
        let Ok(b) = read_up_to(dev, at, 4096 + 110) else { break };
        let Some(entry) = Entry::parse(&b) else { break };
        let name = b.get(entry.name.0..entry.name.0 + entry.name.1).unwrap_or_default();
        archive.microcode |= name.starts_with(b"kernel/x86/microcode");
        let next = at.checked_add(entry.head).and_then(|a| a.checked_add(entry.body)).filter(|n| *n <= dev.len());
        let Some(next) = next else { break };
        at = next;
        if name == b"TRAILER!!!" {
            archive.end = Some(at);
            break;
        }
    }
    archive
}
