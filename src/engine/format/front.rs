//! What stands in the first sectors of a disk: a partition table of which kind. Just enough for probes and for a line of facts;
//! it does not read partitions.

use crate::engine::io::bytes::{le16, le32};

/// Partition tables seen in the first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Front {
    /// An MBR with at least one partition other than the protective one.
    pub mbr: bool,
    /// The MBR's protective entry for a GPT.
    pub protective: bool,
    /// A GPT header, with the sector size that its place tells.
    pub gpt: Option<u32>,
}

impl Front {
    /// Looks at the first bytes of a disk (4 KiB and a bit are enough).
    pub fn of(head: &[u8]) -> Front {
        let gpt = [512u32, 4096].into_iter().find(|s| head.get(*s as usize..).is_some_and(|h| h.starts_with(b"EFI PART")));
        let (mbr, protective) = mbr(head).unwrap_or_default();
        Front { mbr, protective, gpt }
    }

    /// True when there is any partition table.
    pub fn any(self) -> bool {
        self.mbr || self.gpt.is_some()
    }

    /// In words; `None` when there is none.
    pub fn words(self) -> Option<String> {
        let sectors = |s: u32| if s == 512 { String::new() } else { format!(" ({s}-byte sectors)") };
        Some(match (self.mbr, self.gpt) {
            (true, Some(s)) => format!("MBR and GPT{} (hybrid)", sectors(s)),
            (false, Some(s)) => format!("GPT{}", sectors(s)),
            (true, None) => "MBR".to_string(),
            (false, None) if self.protective => "a protective MBR without its GPT".to_string(),
            (false, None) => return None,
        })
    }
}

/// `(a real partition, the protective one)`; `None` when the sector is no MBR: a FAT or NTFS boot sector ends in 55 AA as well.
fn mbr(head: &[u8]) -> Option<(bool, bool)> {
    if le16(head, 510)? != 0xaa55
        || [(3, &b"NTFS    "[..]), (54, b"FAT"), (82, b"FAT32")]
            .iter()
            .any(|(at, text)| head.get(*at..).is_some_and(|h| h.starts_with(text)))
    {
        return None;
    }
    let (mut real, mut protective) = (false, false);
    for at in [446, 462, 478, 494] {
        let (flag, kind, sectors) = (*head.get(at)?, *head.get(at + 4)?, le32(head, at + 12)?);
        if flag & 0x7f != 0 {
            return None;
        }
        match kind {
            0 => {}
            _ if sectors == 0 => return None,
            0xee => protective = true,
            _ => real = true,
        }
    }
    Some((real, protective))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(entries: &[(u8, u8, u32)]) -> Vec<u8> {
        let mut b = vec![0; 1024];
        b[510..512].copy_from_slice(&[0x55, 0xaa]);
        for (i, (flag, kind, sectors)) in entries.iter().enumerate() {
            b[446 + i * 16] = *flag;
            b[450 + i * 16] = *kind;
            b[458 + i * 16..462 + i * 16].copy_from_slice(&sectors.to_le_bytes());
        }
        b
    }

    #[test]
    fn tells_tables_from_boot_sectors() {
        assert_eq!(Front::of(&sector(&[(0x80, 0x83, 100)])).words().as_deref(), Some("MBR"));
        assert_eq!(Front::of(&sector(&[])).words(), None);
        assert_eq!(Front::of(&sector(&[(0x12, 0x83, 100)])), Front::default());
        let mut fat = sector(&[(0x80, 0x83, 100)]);
        fat[54..57].copy_from_slice(b"FAT");
        assert_eq!(Front::of(&fat), Front::default());
        let mut gpt = sector(&[(0, 0xee, 100)]);
        gpt[512..520].copy_from_slice(b"EFI PART");
        assert_eq!(Front::of(&gpt).words().as_deref(), Some("GPT"));
        assert_eq!(Front::of(&[]), Front::default());
    }
}
