//! The text descriptor: `key=value` lines, the extent lines and the disk database, as VMware, VirtualBox and QEMU write them.
//!
//! Knows text only; which files the extents are is for [`super::extent`] to find out.

use crate::engine::error::{Error, Result};
use crate::engine::units::SECTOR;

/// What the guest may do with an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Read and write.
    ReadWrite,
    /// Read only.
    ReadOnly,
    /// Neither.
    Barred,
}

impl Access {
    /// The word in the descriptor.
    pub(super) fn word(self) -> &'static str {
        match self {
            Access::ReadWrite => "RW",
            Access::ReadOnly => "RDONLY",
            Access::Barred => "NOACCESS",
        }
    }
    fn parse(word: &str) -> Option<Self> {
        [Access::ReadWrite, Access::ReadOnly, Access::Barred].into_iter().find(|a| a.word().eq_ignore_ascii_case(word))
    }
}

/// One extent line: `ACCESS SECTORS TYPE ["file" [offset [uuid [device]]]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExtentLine {
    /// What the guest may do with it.
    pub(super) access: Access,
    /// Sectors of the guest disk it stands for.
    pub(super) sectors: u64,
    /// `FLAT`, `SPARSE`, `ZERO`, `VMFS`, … in capitals.
    pub(super) kind: String,
    /// The file, as spelled. `ZERO` has none.
    pub(super) file: Option<String>,
    /// Sector of the file where a flat extent begins.
    pub(super) offset: u64,
}

/// A descriptor, parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// `key=value` lines in order, quotes removed.
    pub(super) entries: Vec<(String, String)>,
    /// The extent lines in order.
    pub(super) extents: Vec<ExtentLine>,
    /// Numbers of lines (from 1) that are none of the known sorts.
    pub(super) odd_lines: Vec<usize>,
}

impl Descriptor {
    /// Parses the text up to its first NUL. Line ends may be LF, CRLF or CR; comments and blank lines may stand anywhere.
    ///
    /// Errors: an extent line that cannot be understood, as the disk's layout would be a guess without it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Descriptor> {
        let text = decode(crate::engine::io::bytes::until_nul(bytes));
        let mut out = Descriptor::default();
        for (i, line) in lines(&text) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let first = line.split_whitespace().next().unwrap_or_default();
            if let Some(access) = Access::parse(first) {
                let extent = extent_line(access, line).ok_or_else(|| {
                    Error::corrupt(format!("line {i} of the descriptor is not an extent that can be understood: '{line}'"))
                        .op("read the descriptor")
                })?;
                out.extents.push(extent);
            } else if let Some((key, value)) = line.split_once('=') {
                out.entries.push((key.trim().to_string(), unquote(value.trim()).to_string()));
            } else {
                out.odd_lines.push(i);
            }
        }
        Ok(out)
    }

    /// The value of `key` (any case), the first one counts.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.entries.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v.as_str())
    }
    /// A content id: eight hexadecimal digits.
    fn id(&self, key: &str) -> Option<u32> {
        let text = self.get(key)?;
        u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
    }
    /// The content id, renewed by every session that writes.
    pub(super) fn cid(&self) -> Option<u32> {
        self.id("CID")
    }
    /// The content id its parent had when this was made; `None` for a disk without parent.
    pub(super) fn parent_cid(&self) -> Option<u32> {
        self.id("parentCID").filter(|&c| c != NO_PARENT)
    }
}

/// The parent CID of a disk that stands alone.
pub(super) const NO_PARENT: u32 = 0xffff_ffff;

/// Where the digits of the CID stand in the raw text.
pub(super) fn cid_digits(bytes: &[u8]) -> Option<std::ops::Range<usize>> {
    let bytes = crate::engine::io::bytes::until_nul(bytes);
    let mut at = 0;
    for line in bytes.split(|&b| b == b'\n' || b == b'\r') {
        if line.get(..4).is_some_and(|k| k.eq_ignore_ascii_case(b"CID=")) {
            let digits = line.get(4..)?.iter().take_while(|b| b.is_ascii_hexdigit()).count();
            return (digits > 0).then_some(at + 4..at + 4 + digits);
        }
        at += line.len() + 1;
    }
    None
}

/// Whether the first bytes of a file are a text descriptor, and why.
pub(super) fn looks_like_one(head: &[u8]) -> Option<String> {
    let head = head.get(..head.len().min(4096))?;
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    // Binary files are told apart before any decoding: a descriptor begins with printable text.
    if head.iter().take(16).any(|&b| b < 0x20 && !matches!(b, b'\r' | b'\n' | b'\t')) {
        return None;
    }
    let text = decode(crate::engine::io::bytes::until_nul(head));
    let mut named = false;
    for (i, line) in lines(&text) {
        if let Some(comment) = line.strip_prefix('#') {
            named |= comment.trim().eq_ignore_ascii_case("disk descriptorfile");
            if named {
                return Some(format!("line {i} is '# Disk DescriptorFile'"));
            }
        } else if !line.is_empty() {
            let version = line.split_once('=').is_some_and(|(k, v)| {
                k.trim().eq_ignore_ascii_case("version") && v.trim().parse::<u32>().is_ok_and(|v| (1..=4).contains(&v))
            });
            let rest = ["CID=", "createType"].iter().any(|k| text.contains(k));
            return (version && rest).then(|| format!("line {i} is '{line}' and a createType or CID follows"));
        }
    }
    None
}

/// Lines with their numbers from 1, white space at both ends removed.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split('\n').flat_map(|l| l.trim_end_matches('\r').split('\r')).map(str::trim).enumerate().map(|(i, l)| (i + 1, l))
}

fn extent_line(access: Access, line: &str) -> Option<ExtentLine> {
    let mut rest = line;
    let mut word = || {
        rest = rest.trim_start();
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (w, r) = rest.split_at(end);
        rest = r;
        w
    };
    word();
    let sectors: u64 = word().parse().ok()?;
    sectors.checked_mul(SECTOR).filter(|&b| b <= i64::MAX as u64)?;
    let kind = word().to_ascii_uppercase();
    if kind.is_empty() || !kind.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let rest = rest.trim();
    let (file, rest) = match rest.strip_prefix('"') {
        Some(quoted) => {
            let (name, rest) = quoted.split_once('"')?;
            (Some(name.to_string()), rest.trim())
        }
        None => {
            let (name, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            ((!name.is_empty()).then(|| name.to_string()), rest.trim())
        }
    };
    if file.is_none() && kind != "ZERO" && access != Access::Barred {
        return None;
    }
    // After the offset, device disks carry a partition UUID and a device name, which say nothing about the layout.
    let offset = match rest.split_whitespace().next() {
        Some(o) => o.parse().ok()?,
        None => 0,
    };
    Some(ExtentLine { access, sectors, kind, file, offset })
}

fn unquote(value: &str) -> &str {
    value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value)
}

/// UTF-8 as it is; anything else is read as windows-1252, VMware's usual one, so that no byte is lost on the way.
fn decode(bytes: &[u8]) -> String {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘', '’', '“',
        '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_string(),
        Err(_) => bytes
            .iter()
            .map(|&b| match b {
                0x80..=0x9f => HIGH.get(usize::from(b - 0x80)).copied().unwrap_or('\u{fffd}'),
                _ => char::from(b),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_writers_write() {
        let text = "\u{feff}\r\n# Disk DescriptorFile\r\nversion=1\r\nencoding=\"UTF-8\"\r\nCID=34cc93dd\r\nparentCID=FFFFFFFF\r\n\
            createType = \"custom\"\r\n\r\n# Extent description\r\nRW 63 FLAT \"a b-pt.vmdk\" 7\r\nRDONLY 10 SPARSE \"é.vmdk\"\r\n\
            RW 5 ZERO\r\nNOACCESS 9 ZERO \r\nRW 100 FLAT \"\\\\.\\PhysicalDrive0\" 63 1234 dev\r\nRW 1 VMFS x.vmdk\r\nnonsense\r\n\
            ddb.adapterType = \"lsilogic\"\r\n\0CID=1";
        let d = Descriptor::parse(text.as_bytes()).unwrap();
        assert_eq!((d.cid(), d.parent_cid(), d.get("CREATETYPE")), (Some(0x34cc_93dd), None, Some("custom")));
        assert_eq!(d.get("ddb.adapterType"), Some("lsilogic"));
        let line = |access, sectors, kind: &str, file: Option<&str>, offset| ExtentLine {
            access,
            sectors,
            kind: kind.into(),
            file: file.map(Into::into),
            offset,
        };
        assert_eq!(
            d.extents,
            [
                line(Access::ReadWrite, 63, "FLAT", Some("a b-pt.vmdk"), 7),
                line(Access::ReadOnly, 10, "SPARSE", Some("é.vmdk"), 0),
                line(Access::ReadWrite, 5, "ZERO", None, 0),
                line(Access::Barred, 9, "ZERO", None, 0),
                line(Access::ReadWrite, 100, "FLAT", Some("\\\\.\\PhysicalDrive0"), 63),
                line(Access::ReadWrite, 1, "VMFS", Some("x.vmdk"), 0),
            ]
        );
        assert_eq!(d.odd_lines.len(), 1);
    }

    #[test]
    fn a_broken_extent_line_is_an_error_with_its_number() {
        for bad in
            ["RW", "RW x FLAT \"a\" 0", "RW 10 FLAT", "RW 10 FLAT \"a", "RW 99999999999999999999 ZERO", "RW 1 FLAT \"a\" x"]
        {
            let e = Descriptor::parse(format!("version=1\n{bad}\n").as_bytes()).unwrap_err();
            assert!(e.why().contains("line 2"), "{bad}: {e}");
        }
    }

    #[test]
    fn names_in_windows_1252_keep_their_letters() {
        let d = Descriptor::parse(b"RW 1 FLAT \"\xe4\x80.vmdk\" 0").unwrap();
        assert_eq!(d.extents.first().and_then(|e| e.file.as_deref()), Some("ä€.vmdk"));
    }

    #[test]
    fn the_cid_is_found_where_it_stands() {
        let text = b"# x\r\nparentCID=ffffffff\r\nCID=31ca209\r\n";
        assert_eq!(cid_digits(text).and_then(|r| text.get(r)), Some(&b"31ca209"[..]));
        assert_eq!(cid_digits(b"parentCID=1\nCID=\n\0CID=1"), None);
    }

    #[test]
    fn text_is_told_from_other_text() {
        assert!(looks_like_one(b"# Disk DescriptorFile\nversion=1\n").is_some());
        assert!(looks_like_one(b"\r\n# a comment\r\n\r\nversion=2\r\nCID=1\r\n").is_some());
        assert!(looks_like_one(b"# a comment\n#  disk descriptorfile \n").is_some());
        for no in [&b"version=1\n"[..], b"hello", b"", b"#!/bin/sh\necho createType CID=\n", b"\0\0\0\0", b"KDMV\x01\0\0\0"] {
            assert_eq!(looks_like_one(no), None, "{no:?}");
        }
    }
}
