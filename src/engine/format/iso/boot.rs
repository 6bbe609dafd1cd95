//! El Torito: the boot catalog. Spec: "El Torito" Bootable CD-ROM Format Specification 1.0, chapter 2.

use std::fmt;

use super::volume::SECTOR;
use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{le16, le32};
use crate::engine::io::{ReadAt, read_up_to};

/// Bytes of a catalog entry.
const ENTRY: usize = 32;

/// A boot image in the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// For which firmware: 0 x86, 1 PowerPC, 2 Mac, 0xEF EFI.
    pub platform: u8,
    /// Marked as bootable.
    pub bootable: bool,
    /// 0 no emulation, 1 to 3 floppies, 4 hard disk.
    pub media: u8,
    /// Virtual sectors of 512 bytes loaded at boot.
    pub sectors: u16,
    /// Sector of 2048 bytes where the image is.
    pub start: u32,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let platform = match self.platform {
            0 => "BIOS",
            1 => "PowerPC",
            2 => "Mac",
            0xef => "EFI",
            _ => "unknown platform",
        };
        let media = match self.media {
            0 => "no emulation",
            1..=3 => "floppy emulation",
            4 => "hard disk emulation",
            _ => "unknown emulation",
        };
        let boots = if self.bootable { "bootable" } else { "not bootable" };
        write!(f, "{platform}, {media}, {boots}, {} sectors of 512 at sector {}", self.sectors, self.start)
    }
}

/// The boot images of the catalog at `sector`; only the catalog's first sector is read.
///
/// Errors: the file ends before it, or the validation entry is wrong.
pub fn entries(dev: &dyn ReadAt, sector: u32) -> Result<Vec<Entry>> {
    let at = u64::from(sector) * SECTOR as u64;
    let catalog = read_up_to(dev, at, SECTOR)?;
    let validation = catalog.get(..ENTRY).ok_or_else(|| Error::corrupt("the file ends before it").at(at))?;
    let sum = (0..ENTRY / 2).filter_map(|i| le16(validation, i * 2)).fold(0u16, u16::wrapping_add);
    if validation.first() != Some(&1) || le16(validation, 30) != Some(0xaa55) || sum != 0 {
        return Err(Error::corrupt("its validation entry is wrong").at(at));
    }
    let mut platform = validation.get(1).copied().unwrap_or(0);
    let mut found = Vec::new();
    // Entries still due in the section; the first one, the default entry, has no header.
    let mut due = 1u16;
    for e in catalog.chunks_exact(ENTRY).skip(1) {
        let kind = e.first().copied().unwrap_or(0);
        if due > 0 {
            due -= 1;
            let (media, sectors, start) = (e.get(1).copied().unwrap_or(0) & 0xf, le16(e, 6), le32(e, 8));
            if let (0x88 | 0, Some(sectors), Some(start @ 1..)) = (kind, sectors, start) {
                found.push(Entry { platform, bootable: kind == 0x88, media, sectors, start });
            }
        } else if matches!(kind, 0x90 | 0x91) {
            platform = e.get(1).copied().unwrap_or(0);
            due = le16(e, 2).unwrap_or(0);
        } else if kind != 0x44 {
            // 0x44 continues the entry before it; anything else is the end.
            break;
        }
    }
    Ok(found)
}
