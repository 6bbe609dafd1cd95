//! The volume descriptors from sector 16 on: those of ISO 9660 and, among them, the marks of UDF.
//!
//! Spec: ECMA-119, 8 (descriptors of 2048 bytes); ECMA-167, 2/9 (marks); Joliet: escape sequences `%/@`, `%/C`, `%/E`.

use crate::engine::io::bytes::{array, be16, be32, le16, le32};
use crate::engine::model::Fact;
use crate::engine::units::printable_bytes;

/// Bytes of a descriptor.
pub const SECTOR: usize = 2048;
/// Byte of the first one.
const FIRST: usize = 16 * SECTOR;

/// What was found among the descriptors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// Where the first ISO 9660 descriptor is.
    pub iso_at: Option<usize>,
    /// The primary volume.
    pub primary: Option<Primary>,
    /// The Joliet level, 1 to 3.
    pub joliet: Option<u8>,
    /// El Torito: the sector of the boot catalog.
    pub boot_catalog: Option<u32>,
    /// `NSR02` or `NSR03`, when UDF's marks are there.
    pub udf: Option<&'static str>,
}

/// The primary volume descriptor, as far as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Primary {
    /// Volume identifier.
    pub volume: String,
    /// System, volume set, publisher, preparer, application; empty ones are left out when told.
    texts: Vec<(&'static str, String)>,
    /// Creation time as `YYYY-MM-DD hh:mm:ss`.
    created: Option<String>,
    /// Blocks of the volume, as both byte orders have it.
    pub blocks: u32,
    both_orders_agree: bool,
    /// Bytes of a block.
    pub block_size: u16,
    /// Block of the root directory.
    pub root_block: u32,
    /// Bytes of the root directory.
    pub root_bytes: u32,
}

impl Descriptors {
    /// Finds them in the first bytes of a disc (72 KiB hold the twenty that matter).
    pub fn of(head: &[u8]) -> Descriptors {
        let mut d = Descriptors::default();
        let (mut extended, mut after_end) = (false, false);
        for (i, s) in head.get(FIRST..).unwrap_or_default().chunks_exact(SECTOR).enumerate() {
            match (s.get(1..6).unwrap_or_default(), s.first().copied().unwrap_or(0)) {
                (b"CD001", kind) if !after_end => {
                    d.iso_at.get_or_insert(FIRST + i * SECTOR);
                    match kind {
                        0 if s.get(7..).is_some_and(|t| t.starts_with(b"EL TORITO SPECIFICATION")) => {
                            d.boot_catalog = d.boot_catalog.or_else(|| le32(s, 71));
                        }
                        1 if d.primary.is_none() => d.primary = Primary::parse(s),
                        2 => d.joliet = d.joliet.or_else(|| joliet_level(s)),
                        255 => after_end = true,
                        _ => {}
                    }
                }
                (b"BEA01", _) => extended = true,
                (b"NSR02", _) if extended => d.udf = Some("NSR02"),
                (b"NSR03", _) if extended => d.udf = Some("NSR03"),
                (b"TEA01", _) => break,
                // Media with blocks of 4 KiB leave gaps between UDF's marks.
                (b"BOOT2" | b"CDW02" | b"\0\0\0\0\0", _) => {}
                _ => break,
            }
        }
        d
    }
}

fn joliet_level(s: &[u8]) -> Option<u8> {
    match &array::<3>(s, 88)? {
        b"%/@" => Some(1),
        b"%/C" => Some(2),
        b"%/E" => Some(3),
        _ => None,
    }
}

impl Primary {
    fn parse(s: &[u8]) -> Option<Primary> {
        let text = |at: usize, len: usize| {
            let raw = s.get(at..at + len).unwrap_or_default();
            printable_bytes(raw.trim_ascii_end().split(|b| *b == 0).next().unwrap_or_default())
        };
        let blocks = le32(s, 80)?;
        Some(Primary {
            volume: text(40, 32),
            texts: vec![
                ("system", text(8, 32)),
                ("volume set", text(190, 128)),
                ("publisher", text(318, 128)),
                ("preparer", text(446, 128)),
                ("application", text(574, 128)),
            ],
            created: date(s.get(813..829)?),
            blocks,
            both_orders_agree: be32(s, 84)? == blocks && le16(s, 128)? == be16(s, 130)?,
            block_size: le16(s, 128)?,
            root_block: le32(s, 158)?,
            root_bytes: le32(s, 166)?,
        })
    }

    /// Bytes of the volume.
    pub fn bytes(&self) -> u64 {
        u64::from(self.blocks) * u64::from(self.block_size)
    }

    /// Tells it, compared with a file of `file` bytes.
    pub(super) fn tell(&self, file: u64, facts: &mut Vec<Fact>, warnings: &mut Vec<String>) {
        facts.push(Fact { label: "volume id", value: self.volume.clone() });
        let told = self.texts.iter().filter(|(_, t)| !t.is_empty());
        facts.extend(told.map(|(label, t)| Fact { label, value: t.clone() }));
        facts.extend(self.created.iter().map(|c| Fact { label: "created", value: c.clone() }));
        let size = format!("{} bytes ({} blocks of {})", self.bytes(), self.blocks, self.block_size);
        facts.push(Fact { label: "volume size", value: size });
        if !self.both_orders_agree {
            warnings.push("the volume's size differs between its two byte orders".into());
        }
        if self.bytes() > file {
            warnings.push(format!("the volume has {} bytes and the file only {file}: it was cut short", self.bytes()));
        } else if file > self.bytes() {
            facts.push(Fact { label: "after the volume", value: format!("{} bytes", file - self.bytes()) });
        }
    }
}

/// `YYYYMMDDhhmmsscc` as a date; `None` when it is not set.
fn date(digits: &[u8]) -> Option<String> {
    let part = |from: usize, to: usize| {
        let d = digits.get(from..to).filter(|d| d.iter().all(u8::is_ascii_digit))?;
        std::str::from_utf8(d).ok()
    };
    let (y, m, d) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    (y != "0000").then(|| Some(format!("{y}-{m}-{d} {}:{}:{}", part(8, 10)?, part(10, 12)?, part(12, 14)?)))?
}
