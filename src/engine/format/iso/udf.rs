//! The volume of a UDF disc: its anchor and the descriptors it points to. Spec: ECMA-167, 3/10; UDF 2.60, 2.2.

use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{le16, le32};
use crate::engine::io::{ReadAt, read_up_to};
use crate::engine::model::Fact;
use crate::engine::units::printable;

/// The anchor's place, in blocks.
const ANCHOR: u64 = 256;
/// Descriptors looked at in the sequence.
const MAX_DESCRIPTORS: u64 = 32;
/// Bytes of a descriptor.
const DESCRIPTOR: usize = 512;

/// What the descriptors say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volume {
    /// Bytes of a block on the medium.
    pub block: u64,
    /// Logical volume identifier (the name people see).
    pub name: String,
    /// Primary volume identifier.
    pub volume: String,
    /// Volume set identifier; begins with a number of its own.
    pub set: String,
    /// `1.02`, `2.01`, …
    pub revision: Option<String>,
    /// End of the last partition, in bytes.
    pub end: u64,
}

impl Volume {
    /// Reads the anchor and the main sequence of descriptors.
    ///
    /// Errors: no anchor where one must be, for blocks of 2048, 512 or 4096 bytes.
    pub fn read(dev: &dyn ReadAt) -> Result<Volume> {
        for block in [2048u64, 512, 4096, 1024] {
            let anchor = read_up_to(dev, ANCHOR * block, DESCRIPTOR)?;
            if tag(&anchor) != Some(2) || le32(&anchor, 12).map(u64::from) != Some(ANCHOR) {
                continue;
            }
            let (len, start) = (le32(&anchor, 16).unwrap_or(0), le32(&anchor, 20).unwrap_or(0));
            let mut v = Volume { block, ..Volume::default() };
            for i in 0..(u64::from(len) / block).min(MAX_DESCRIPTORS) {
                let d = read_up_to(dev, (u64::from(start) + i) * block, DESCRIPTOR)?;
                match tag(&d) {
                    Some(1) => {
                        v.volume = dstring(d.get(24..56).unwrap_or_default());
                        v.set = dstring(d.get(72..200).unwrap_or_default());
                    }
                    Some(5) => {
                        let sectors = u64::from(le32(&d, 188).unwrap_or(0)) + u64::from(le32(&d, 192).unwrap_or(0));
                        v.end = v.end.max(sectors * block);
                    }
                    Some(6) => {
                        v.name = dstring(d.get(84..212).unwrap_or_default());
                        if d.get(217..).is_some_and(|id| id.starts_with(b"*OSTA UDF Compliant")) {
                            v.revision = le16(&d, 240).map(|r| format!("{:x}.{:02x}", r >> 8, r & 0xff));
                        }
                    }
                    Some(8) | None => break,
                    _ => {}
                }
            }
            return Ok(v);
        }
        Err(Error::corrupt("there is no anchor at block 256").at(ANCHOR * 2048))
    }

    /// Tells it, compared with a file of `file` bytes. `alone`: there is no ISO 9660 volume that told its name and size.
    pub(super) fn tell(&self, file: u64, alone: bool, facts: &mut Vec<Fact>, warnings: &mut Vec<String>) {
        let label = if alone { "volume id" } else { "UDF volume id" };
        facts.push(Fact { label, value: if self.name.is_empty() { self.volume.clone() } else { self.name.clone() } });
        facts.push(Fact { label: "UDF block size", value: format!("{} bytes", self.block) });
        if alone {
            facts.push(Fact { label: "volume size", value: format!("{} bytes to the end of its partition", self.end) });
        }
        if self.end > file {
            warnings.push(format!("the UDF partition ends at {} and the file at {file}: it was cut short", self.end));
        }
    }
}

/// The kind of a descriptor whose tag has the right checksum.
fn tag(b: &[u8]) -> Option<u16> {
    let tag = b.get(..16)?;
    let sum = tag.iter().enumerate().filter(|(i, _)| *i != 4).fold(0u8, |s, (_, b)| s.wrapping_add(*b));
    (tag.get(4) == Some(&sum)).then(|| le16(tag, 0)).flatten().filter(|t| *t != 0)
}

/// A string in OSTA compressed Unicode: its length is the field's last byte, its first byte says 8 or 16 bits a character.
fn dstring(field: &[u8]) -> String {
    let len = field.last().map_or(0, |l| usize::from(*l));
    let Some((kind, text)) = field.get(..len).and_then(|t| t.split_first()) else { return String::new() };
    let text = match kind {
        8 => text.iter().map(|b| char::from(*b)).collect(),
        16 => {
            let units: Vec<u16> = text.chunks_exact(2).filter_map(|c| Some(u16::from_be_bytes(c.try_into().ok()?))).collect();
            String::from_utf16_lossy(&units)
        }
        _ => String::new(),
    };
    printable(&text)
}
