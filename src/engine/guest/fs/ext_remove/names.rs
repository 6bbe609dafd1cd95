//! Names in a folder's blocks. Documentation/filesystems/ext4/directory.rst.

use std::collections::HashMap;

use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{le16, le32, put_le16};

/// Bytes of an entry before its name.
const HEAD: usize = 8;

/// One entry of a region of names.
struct Entry {
    /// What it stands for; 0 when it is not used.
    node: u32,
    /// Its bytes, up to the next entry.
    len: usize,
    /// Bytes of its name.
    name: usize,
}

impl Entry {
    fn at(region: &[u8], at: usize, typed: bool) -> Result<Entry> {
        let node = le32(region, at);
        let len = le16(region, at + 4).map(|n| length(n, region.len()));
        let name = if typed { region.get(at + 6).map(|n| usize::from(*n)) } else { le16(region, at + 6).map(usize::from) };
        match (node, len, name) {
            (Some(node), Some(len), Some(name))
                if len >= HEAD
                    && len.is_multiple_of(4)
                    && len <= region.len() - at
                    && (node == 0 || (name > 0 && HEAD + name <= len)) =>
            {
                Ok(Entry { node, len, name })
            }
            _ => Err(Error::corrupt("names that make no sense").hint("let e2fsck mend it")),
        }
    }
}

/// The length of an entry as it is stored: in blocks of 64 KiB two bits of it stand where lower ones are not needed.
fn length(stored: u16, region: usize) -> usize {
    let n = usize::from(stored);
    match region {
        0x1_0000 if n == 0 || n == 0xffff => region,
        0x1_0000 => (n & 0xfffc) | (n & 3) << 16,
        _ => n,
    }
}

/// The same the other way.
fn stored(len: usize) -> u16 {
    if len == 0x1_0000 { 0xffff } else { (len & 0xfffc) as u16 | (len >> 16) as u16 }
}

/// Takes the names in `wanted` out of `region`, which is full of entries, and of `wanted`. Their bytes become zeros, and their room the
/// name's before them. Returns how many.
///
/// Errors: the entries make no sense; a name stands for something else than `wanted` says.
pub(super) fn take(region: &mut [u8], typed: bool, wanted: &mut HashMap<&[u8], u32>) -> Result<usize> {
    let (mut at, mut before, mut taken) = (0, None::<usize>, 0);
    while at < region.len() {
        let e = Entry::at(region, at, typed)?;
        let name = region.get(at + HEAD..at + HEAD + e.name).unwrap_or_default();
        match wanted.get(name).filter(|_| e.node != 0).copied() {
            Some(node) if node == e.node => {
                wanted.remove(name);
                taken += 1;
                match before {
                    Some(first) => {
                        let whole = at + e.len - first;
                        region.get_mut(at..at + e.len).unwrap_or_default().fill(0);
                        let _ = put_le16(region, first + 4, stored(whole));
                        at += e.len;
                        continue;
                    }
                    None => {
                        region.get_mut(at..at + 4).unwrap_or_default().fill(0);
                        region.get_mut(at + 6..at + e.len).unwrap_or_default().fill(0);
                    }
                }
            }
            Some(_) => return Err(Error::corrupt("a name that stands for another file than was looked up")),
            None => {}
        }
        before = Some(at);
        at += e.len;
    }
    Ok(taken)
}

/// Names in `region` beside `.` and `..`.
pub(super) fn count(region: &[u8], typed: bool) -> Result<usize> {
    let (mut at, mut n) = (0, 0);
    while at < region.len() {
        let e = Entry::at(region, at, typed)?;
        let name = region.get(at + HEAD..at + HEAD + e.name).unwrap_or_default();
        n += usize::from(e.node != 0 && name != b"." && name != b"..");
        at += e.len;
    }
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::io::bytes::put;

    /// A region of `len` bytes with one entry for each name, the last of which reaches to its end.
    fn region(len: usize, names: &[(u32, &str)]) -> Vec<u8> {
        let (mut out, mut at) = (vec![0; len], 0);
        for (i, (node, name)) in names.iter().enumerate() {
            let whole = if i + 1 == names.len() { len - at } else { (HEAD + name.len()).next_multiple_of(4) };
            assert!(put(&mut out, at, &node.to_le_bytes()) && put_le16(&mut out, at + 4, stored(whole)));
            assert!(put(&mut out, at + 6, &[name.len() as u8, 1]) && put(&mut out, at + 8, name.as_bytes()));
            at += whole;
        }
        out
    }

    fn listed(region: &[u8]) -> Vec<(u32, String)> {
        let (mut at, mut out) = (0, Vec::new());
        while at < region.len() {
            let e = Entry::at(region, at, true).unwrap();
            let name = String::from_utf8_lossy(&region[at + HEAD..at + HEAD + e.name]).into_owned();
            out.extend((e.node != 0).then_some((e.node, name)));
            at += e.len;
        }
        assert_eq!(at, region.len(), "entries fill it");
        out
    }

    #[test]
    fn what_is_taken_leaves_zeros_and_the_others() {
        let all = [(11, "first"), (12, "second"), (13, "a-third-one"), (14, "last")];
        for len in [128, 4096, 0x1_0000] {
            for taken in 0..16u32 {
                let mut bytes = region(len, &all);
                let (go, stay): (Vec<_>, Vec<_>) = all.iter().partition(|(node, _)| taken & (1 << (node - 11)) != 0);
                let mut wanted: HashMap<&[u8], u32> = go.iter().map(|(node, name)| (name.as_bytes(), *node)).collect();
                assert_eq!(take(&mut bytes, true, &mut wanted).unwrap(), go.len());
                let stay: Vec<(u32, String)> = stay.iter().map(|(node, name)| (*node, (*name).to_string())).collect();
                assert_eq!((listed(&bytes), count(&bytes, true).unwrap(), wanted.len()), (stay.clone(), stay.len(), 0));
                let left = |name: &str| bytes.windows(name.len()).any(|w| w == name.as_bytes());
                assert!(go.iter().all(|(_, name)| !left(name)), "{len} {taken}");
            }
        }
    }

    #[test]
    fn entries_that_make_no_sense_are_an_error() {
        let good = region(64, &[(11, "a"), (12, "b")]);
        for (at, word) in [(4, 0u16), (4, 7), (4, 10), (4, 68), (6, 0x0100), (6, 0x01ff), (16, 0xffff), (16, 48)] {
            let mut bad = good.clone();
            assert!(put_le16(&mut bad, at, word));
            let mut wanted: HashMap<&[u8], u32> = HashMap::from([(&b"b"[..], 12)]);
            assert!(take(&mut bad, true, &mut wanted).is_err() && count(&bad, true).is_err(), "{at} {word}");
        }
        let mut wanted: HashMap<&[u8], u32> = HashMap::from([(&b"b"[..], 99)]);
        assert!(take(&mut good.clone(), true, &mut wanted).is_err(), "another file");
    }
}
