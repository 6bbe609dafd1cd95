//! What the image service's own safety inspector sees in a file, predicted: which formats it recognises and which of its checks
//! would fail. It looks at other places than a hypervisor does, so its answers differ from ours, on purpose.
//!
//! Spec: the behaviour of oslo.utils 10.2 (`format_inspector`), which the tests run beside this.

use crate::engine::error::Result;
use crate::engine::io::bytes::{array, be32, be64, le16, le32, le64};
use crate::engine::io::{ReadAt, read_up_to};

/// A check that fails, or one that the inspector makes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// The inspector it belongs to: `qcow2`, `gpt`, …
    pub format: &'static str,
    /// Its name there: `backing_file`, `mbr`, …
    pub name: &'static str,
    /// Why it fails; `None` when it passes.
    pub failure: Option<String>,
}

/// What the inspector makes of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Inspected {
    /// Every format it recognises, by its names; `raw` alone when there is none.
    pub formats: Vec<&'static str>,
    /// Every check of those.
    pub checks: Vec<Check>,
    /// The virtual size it computes, in bytes.
    pub virtual_size: u64,
}

impl Inspected {
    /// Checks that fail.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|c| c.failure.is_some())
    }
    fn check(&mut self, format: &'static str, name: &'static str, failure: Option<impl Into<String>>) {
        self.checks.push(Check { format, name, failure: failure.map(Into::into) });
    }
    fn matched(&mut self, format: &'static str, size: Option<u64>) {
        self.formats.push(format);
        self.virtual_size = size.unwrap_or(0);
    }
}

/// Bytes of a header that most of its inspectors wait for.
const HEADER: usize = 512;
/// The most of a descriptor that is looked at.
const DESCRIPTOR: usize = (1 << 20) - 1;

/// Looks at `file` as the inspector does.
pub fn inspect(file: &dyn ReadAt) -> Result<Inspected> {
    let head = read_up_to(file, 0, HEADER)?;
    let mut out = Inspected::default();
    if head.len() == HEADER {
        qcow2(&head, &mut out);
        if head.starts_with(b"QED\0") {
            out.matched("qed", Some(file.len()));
            out.check("qed", "banned", Some("this format is not allowed"));
        }
        if le32(&head, 0x40) == Some(0xbeda_107f) {
            out.matched("vdi", le64(&head, 0x170));
            out.check("vdi", "null", None::<String>);
        }
    }
    if head.starts_with(b"conectix") {
        out.matched("vhd", be64(&head, 40));
        out.check("vhd", "null", None::<String>);
    }
    vhdx(file, &head, &mut out)?;
    vmdk(file, &head, &mut out)?;
    luks(file, &head, &mut out)?;
    iso(file, &mut out)?;
    gpt(&head, file.len(), &mut out);
    if out.formats.is_empty() {
        out.matched("raw", Some(file.len()));
        out.check("raw", "null", None::<String>);
    }
    Ok(out)
}

fn qcow2(head: &[u8], out: &mut Inspected) {
    if !head.starts_with(b"QFI\xfb") {
        return;
    }
    out.matched("qcow2", be64(head, 24));
    out.check("qcow2", "backing_file", (be64(head, 8) != Some(0)).then_some("it has a backing file"));
    let features = be64(head, 72).unwrap_or(0);
    // It reads the feature bits of version 2 too, which has none there.
    out.check("qcow2", "data_file", (features & 4 != 0).then_some("it keeps its data in another file"));
    let unknown = match be32(head, 4) {
        Some(2) => None,
        Some(3) => (features >> 4 != 0).then(|| format!("feature bits it does not know ({:#x})", features & !0xf)),
        v => Some(format!("version {} is not known to it", v.unwrap_or(0))),
    };
    out.check("qcow2", "unknown_features", unknown);
}

/// `8B7CA206-4790-4B9A-B8FE-575F050F886E`, the metadata region, as stored.
const META_REGION: [u8; 16] = [0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e];
/// `2FA54224-CD1B-4876-B211-5DBED83BF4B8`, the virtual size, as stored.
const DISK_SIZE: [u8; 16] = [0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8];

fn vhdx(file: &dyn ReadAt, head: &[u8], out: &mut Inspected) -> Result<()> {
    if !head.starts_with(b"vhdxfile") {
        return Ok(());
    }
    let size = vhdx_size(file)?;
    out.matched("vhdx", size);
    let failure = size.is_none().then_some("its region table cannot be followed to the virtual size");
    out.check("vhdx", "null", failure);
    Ok(())
}

/// The virtual size, found through the first region table and the metadata it names.
fn vhdx_size(file: &dyn ReadAt) -> Result<Option<u64>> {
    let regions = read_up_to(file, 192 << 10, 64 << 10)?;
    if regions.len() < 64 << 10 || le32(&regions, 0) != Some(0x6967_6572) {
        return Ok(None);
    }
    let count = le32(&regions, 8).unwrap_or(0);
    if count >= 2048 {
        return Ok(None);
    }
    let entries = regions.get(16..).unwrap_or_default().chunks_exact(32).take(count as usize);
    let Some(at) = entries.filter(|e| e.starts_with(&META_REGION)).find_map(|e| le64(e, 16)) else { return Ok(None) };
    let table = read_up_to(file, at, 64 << 10)?;
    if !table.starts_with(b"metadata") {
        return Ok(None);
    }
    let count = usize::from(le16(&table, 10).unwrap_or(0));
    let entries = table.get(32..).unwrap_or_default().chunks_exact(32).take(count);
    let Some(item) = entries.filter(|e| e.starts_with(&DISK_SIZE)).find_map(|e| le32(e, 16)) else { return Ok(None) };
    let Some(place) = at.checked_add(u64::from(item)) else { return Ok(None) };
    Ok(le64(&read_up_to(file, place, 8)?, 0))
}

fn vmdk(file: &dyn ReadAt, head: &[u8], out: &mut Inspected) -> Result<()> {
    let binary = head.starts_with(b"KDMV") && head.len() >= 64;
    let text = if binary {
        match (le64(head, 28), le64(head, 36)) {
            (Some(1), Some(sectors)) if matches!(le32(head, 4), Some(1..=3)) => {
                let len = usize::try_from(sectors).unwrap_or(usize::MAX).saturating_mul(512).min(DESCRIPTOR);
                descriptor(&read_up_to(file, 512, len)?)
            }
            // A header it gives up on: the descriptor is never read.
            _ => None,
        }
    } else if !head.is_empty() && head.iter().all(|b| is_text(*b)) {
        let text = descriptor(&read_up_to(file, 0, 4096)?);
        if text.is_none() {
            out.check("vmdk", "crash", Some("it fails on text with other bytes behind it"));
        }
        text
    } else {
        None
    };
    let kind = text.as_deref().and_then(create_type);
    if !binary && kind.is_none() {
        return Ok(());
    }
    let known = matches!(kind, Some("monolithicsparse" | "streamoptimized"));
    out.matched("vmdk", if binary && known { le64(head, 12).and_then(|s| s.checked_mul(512)) } else { None });
    let failure = match &text {
        None => Some("it has no descriptor where the inspector looks (byte 0x200)".to_string()),
        Some(_) if !known => Some(format!("layout {} is not among monolithicSparse, streamOptimized", kind.unwrap_or("unknown"))),
        Some(text) => descriptor_failure(text),
    };
    out.check("vmdk", "descriptor", failure);
    if binary && le64(head, 56) == Some(u64::MAX) {
        out.check("vmdk", "footer", footer_failure(file, head)?);
    }
    Ok(())
}

/// What it takes for text: what prints, and every kind of space.
fn is_text(b: u8) -> bool {
    matches!(b, b' '..=b'~' | b'\t'..=b'\r' | 0x1c..=0x1f)
}

/// A descriptor up to its NUL, in lower case; `None` when it is not ASCII.
fn descriptor(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.split(|b| *b == 0).next().unwrap_or_default();
    bytes.is_ascii().then(|| String::from_utf8_lossy(bytes).to_ascii_lowercase())
}

fn create_type(text: &str) -> Option<&str> {
    let rest = text.split_once("createtype=\"")?.1;
    let kind = rest.split('"').next().unwrap_or_default();
    (rest.contains('"') && kind.len() < 64).then_some(kind)
}

fn descriptor_failure(text: &str) -> Option<String> {
    let mut extents = 0;
    for line in text.split('\n').map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#') && !l.starts_with("ddb")) {
        let field = line.split_once('=').is_some_and(|(key, _)| !key.contains(' '));
        if field {
            continue;
        }
        if !matches!(line.split(' ').next(), Some("rw" | "rdonly" | "noaccess")) {
            return Some("its descriptor has a line that is none of the known".into());
        }
        if line.contains('/') {
            return Some("an extent's name holds a slash".into());
        }
        extents += 1;
    }
    (extents == 0).then(|| "its descriptor names no extent".into())
}

/// The three sectors at the end of a stream: footer marker, footer, end-of-stream marker.
fn footer_failure(file: &dyn ReadAt, head: &[u8]) -> Result<Option<String>> {
    let start = file.len().saturating_sub(1536);
    let end = read_up_to(file, start, 1536)?;
    let marker = |at: usize, kind: u32, with_value: bool| {
        let rest_zero = end.get(at + 16..at + 512).is_some_and(|r| r.iter().all(|b| *b == 0));
        let value = with_value || le64(&end, at) == Some(0);
        rest_zero && value && le32(&end, at + 8) == Some(0) && le32(&end, at + 12) == Some(kind)
    };
    let same = |at: usize, len: usize| end.get(512 + at..512 + at + len) == head.get(at..at + len);
    Ok(if !same(0, 4) || !same(4, 4) || !same(28, 16) {
        Some("its footer differs from its header".into())
    } else if le64(&end, 512 + 56) == Some(u64::MAX) {
        Some("its footer points to another footer".into())
    } else if !marker(0, 3, true) || !marker(1024, 0, false) {
        Some("its footer or end-of-stream marker is damaged".into())
    } else {
        None
    })
}

fn luks(file: &dyn ReadAt, head: &[u8], out: &mut Inspected) -> Result<()> {
    if !head.starts_with(b"LUKS\xba\xbe") || file.len() < 592 {
        return Ok(());
    }
    let version = array::<2>(head, 6).map_or(0, u16::from_be_bytes);
    let payload = u64::from(be32(head, 104).unwrap_or(0)).saturating_mul(512);
    out.matched("luks", Some(file.len().saturating_sub(payload)));
    out.check("luks", "version", (version != 1).then(|| format!("LUKS version {version} is not supported by it")));
    Ok(())
}

fn iso(file: &dyn ReadAt, out: &mut Inspected) -> Result<()> {
    let d = read_up_to(file, 32 << 10, 2048)?;
    if d.len() < 2048 || !matches!(d.get(1..6), Some(b"CD001" | b"NSR02" | b"NSR03")) {
        return Ok(());
    }
    let primary = d.first() == Some(&1);
    let size = le32(&d, 80).zip(le16(&d, 128)).map(|(n, b)| u64::from(n) * u64::from(b)).filter(|_| primary);
    out.matched("iso", size);
    out.check("iso", "null", None::<String>);
    Ok(())
}

fn gpt(head: &[u8], len: u64, out: &mut Inspected) {
    let fat = head.get(0x10) == Some(&2) && head.get(0x15) == Some(&0xf8);
    if head.len() < HEADER || le16(head, 510) != Some(0xaa55) || fat {
        return;
    }
    // A disc that boots as a disk too keeps the size its descriptor gave.
    let size = if out.formats.is_empty() { len } else { out.virtual_size };
    out.matched("gpt", Some(size));
    out.check("gpt", "mbr", mbr_failure(head));
}

fn mbr_failure(head: &[u8]) -> Option<String> {
    let entries: Vec<&[u8]> = head.get(446..510)?.chunks_exact(16).collect();
    let kind = |e: &[u8]| e.get(4).copied().unwrap_or(0);
    for (n, e) in entries.iter().enumerate() {
        if !matches!(e.first(), Some(0 | 0x80)) {
            return Some(format!("entry {n} of its MBR has a boot flag that is neither 00 nor 80"));
        }
        if kind(e) == 0xee {
            if e.get(1..4) != Some(&[0, 2, 0]) {
                return Some("its protective MBR does not begin at cylinder 0, head 0, sector 2".into());
            }
            if le32(e, 8) != Some(1) {
                return Some("its protective MBR does not begin at sector 1".into());
            }
        }
    }
    let used: Vec<usize> = entries.iter().enumerate().filter(|(_, e)| kind(e) != 0).map(|(n, _)| n).collect();
    let protective = entries.iter().any(|e| kind(e) == 0xee);
    if protective && used != [0] {
        return Some("its protective MBR defines more partitions (a hybrid)".into());
    }
    used.is_empty().then(|| "there is a boot sector whose partition table is empty".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::io::memory::Memory;

    /// Found by fuzzing: a file that ends before the places where discs have their descriptors.
    #[test]
    fn short_files_are_raw() {
        for len in [0, 1, 100, 511, 20_000, 33_000] {
            let seen = inspect(&Memory::new(vec![0; len])).unwrap();
            assert_eq!(seen.formats, ["raw"], "{len}");
        }
    }
}
