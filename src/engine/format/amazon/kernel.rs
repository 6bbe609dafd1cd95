//! A Linux kernel as a file. Spec: Linux, Documentation/arch/{x86/boot,arm64/booting,riscv/boot-image-header}.rst; ELF.

use super::Seen;
use super::peek::peek;
use crate::engine::io::ReadAt;
use crate::engine::io::bytes::{be16, be32, be64, le16, le32, le64, until_nul};
use crate::engine::units::printable_bytes;

/// Looks for a kernel in the first bytes of `dev`, also inside a compressed stream.
pub(super) fn recognise(head: &[u8], dev: &dyn ReadAt) -> Option<Seen> {
    if let Some(seen) = plain(head) {
        return Some(seen);
    }
    let packed = peek(head, dev, 0)?;
    let inner = plain(&packed.head)?;
    Some(
        Seen { evidence: format!("{} stream at byte 0; inside: {}", packed.how, inner.evidence), ..inner }
            .fact("compression", packed.how),
    )
}

fn plain(head: &[u8]) -> Option<Seen> {
    bzimage(head).or_else(|| image(head)).or_else(|| vmlinux(head))
}

/// x86: `HdrS` behind the old boot sector's mark.
fn bzimage(head: &[u8]) -> Option<Seen> {
    if le16(head, 0x1fe)? != 0xaa55 || head.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let (protocol, version_at) = (le16(head, 0x206)?, usize::from(le16(head, 0x20e)?));
    let mut seen = Seen::because("a bzImage: 55 AA at byte 0x1FE and 'HdrS' at 0x202")
        .fact("kernel", "bzImage (x86)")
        .fact("boot protocol", format!("{}.{:02}", protocol >> 8, protocol & 0xff));
    if version_at != 0 {
        let text = head.get(version_at + 0x200..).unwrap_or_default();
        let text = printable_bytes(until_nul(text.get(..text.len().min(200)).unwrap_or_default()));
        seen = seen.fact("version", text);
    }
    Some(seen)
}

/// arm64 and RISC-V share the header; each has its magic.
fn image(head: &[u8]) -> Option<Seen> {
    let (name, place) = if head.get(0x38..0x3c)? == b"ARM\x64" {
        ("arm64", "'ARM\\x64' at byte 0x38")
    } else if head.get(0x38..0x3c)? == b"RSC\x05" && head.get(0x30..0x35)? == b"RISCV" {
        ("RISC-V", "'RISCV' at byte 0x30 and 'RSC\\x05' at 0x38")
    } else {
        return None;
    };
    let size = le64(head, 16)?;
    Some(
        Seen::because(format!("an {name} kernel Image: {place}"))
            .fact("kernel", format!("Image ({name})"))
            .fact("size in memory", format!("{size} bytes")),
    )
}

/// An ELF executable that is loaded where only a kernel is: the upper half of the address space.
fn vmlinux(head: &[u8]) -> Option<Seen> {
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let (wide, big) = (*head.get(4)? == 2, *head.get(5)? == 2);
    let half = |at| if big { be16(head, at) } else { le16(head, at) };
    let word = |at| if big { be32(head, at) } else { le32(head, at) };
    let address = |at| match (wide, big) {
        (true, true) => be64(head, at),
        (true, false) => le64(head, at),
        _ => word(at).map(u64::from),
    };
    let machine = match half(18)? {
        3 => "x86",
        62 => "x86-64",
        183 => "arm64",
        40 => "arm",
        243 => "RISC-V",
        20 | 21 => "PowerPC",
        22 => "S/390",
        258 => "LoongArch",
        _ => return None,
    };
    let table = usize::try_from(address(if wide { 32 } else { 28 })?).ok()?;
    let (row, rows) = (usize::from(half(if wide { 54 } else { 42 })?), usize::from(half(if wide { 56 } else { 44 })?));
    let upper = if wide { 1 << 63 } else { 0x8000_0000 };
    // Program headers: a segment to load (1) in the upper half, and no interpreter (3).
    let mut loaded = false;
    for i in 0..rows.min(64) {
        let at = table.checked_add(i * row)?;
        match word(at)? {
            3 => return None,
            1 => loaded |= address(at + if wide { 16 } else { 8 })? >= upper,
            _ => {}
        }
    }
    let seen = Seen::because("an ELF file loaded into the upper half of memory, as vmlinux is");
    loaded.then(|| seen.fact("kernel", format!("vmlinux ({machine})")))
}
