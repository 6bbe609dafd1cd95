//! The VHDX headers (MS-VHDX 2.2): two copies in the first MiB, of which the one with the higher sequence number counts. It owns
//! their fields and which copy is current; it must not look at anything they point to.

use uuid::Uuid;

use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::format::windows::utf16;
use crate::engine::io::bytes::{array, le16, le32, le64, put, put_le16, put_le32, put_le64};
use crate::engine::io::{ReadAt, read_up_to, read_vec, with_path};
use crate::engine::units::{KIB, MIB};

/// First bytes of the file.
pub const SIGNATURE: &[u8; 8] = b"vhdxfile";
/// Where the two headers are.
pub const AT: [u64; 2] = [64 * KIB, 128 * KIB];
/// Bytes of a header.
pub const BYTES: u64 = 4096;

/// A header's fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The higher one counts.
    pub sequence: u64,
    /// Changes when the file is opened for writing.
    pub file_write: Uuid,
    /// Changes when what a guest sees is about to change; by this children know their parent.
    pub data_write: Uuid,
    /// Entries of the log carry it; nil: the log is empty.
    pub log: Uuid,
    /// Bytes of the log.
    pub log_len: u64,
    /// Byte where the log begins.
    pub log_at: u64,
}

/// CRC-32C of `b` with the four bytes at 4, where every VHDX structure keeps it, taken as zeros.
pub fn crc(b: &[u8]) -> u32 {
    let head = crc32c::crc32c(b.get(..4).unwrap_or_default());
    crc32c::crc32c_append(crc32c::crc32c_append(head, &[0; 4]), b.get(8..).unwrap_or_default())
}

/// The 16 bytes at `at` as a GUID.
pub fn guid(b: &[u8], at: usize) -> Option<Uuid> {
    array::<16>(b, at).map(Uuid::from_bytes_le)
}

impl Header {
    /// The header in `b`, if it is one and its checksum is right.
    fn decode(b: &[u8]) -> Option<Result<Header>> {
        if b.get(..4)? != b"head" || le32(b, 4)? != crc(b) {
            return None;
        }
        let (log_version, version) = (le16(b, 64)?, le16(b, 66)?);
        if version != 1 || log_version != 0 {
            return Some(Err(Error::unsupported(format!(
                "it is a VHDX of version {version} with a log of version {log_version}; cowshed reads 1 and 0"
            ))));
        }
        Some(Ok(Header {
            sequence: le64(b, 8)?,
            file_write: guid(b, 16)?,
            data_write: guid(b, 32)?,
            log: guid(b, 48)?,
            log_len: le32(b, 68)?.into(),
            log_at: le64(b, 72)?,
        }))
    }

    /// The 4096 bytes of this header, with its checksum.
    pub fn encode(&self) -> Vec<u8> {
        let mut b = vec![0u8; BYTES as usize];
        let mut ok = put(&mut b, 0, b"head")
            && put_le64(&mut b, 8, self.sequence)
            && put_le16(&mut b, 66, 1)
            && put_le32(&mut b, 68, self.log_len as u32)
            && put_le64(&mut b, 72, self.log_at);
        for (at, id) in [(16, &self.file_write), (32, &self.data_write), (48, &self.log)] {
            ok &= put(&mut b, at, &id.to_bytes_le());
        }
        let sum = crc(&b);
        ok &= put_le32(&mut b, 4, sum);
        debug_assert!(ok, "every field lies within 4096 bytes");
        b
    }
}

/// Which of the two headers are intact.
pub(super) fn intact(dev: &dyn ReadAt) -> Result<[bool; 2]> {
    let one = |at: u64| Ok::<_, Error>(Header::decode(&read_vec(dev, at, BYTES, BYTES)?).is_some());
    Ok([one(AT[0])?, one(AT[1])?])
}

/// The current header, which of the two it is, and who made the file.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its fields.
    pub header: Header,
    /// Index into [`AT`].
    pub slot: usize,
    /// Program that made the file.
    pub creator: String,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Reads both headers and takes the current one.
///
/// Errors: not a VHDX (`Format`), too short (`Truncated`), no intact header or two that contradict each other (`Corrupt`).
pub fn find(dev: &dyn ReadAt) -> Result<Found> {
    let id = read_up_to(dev, 0, 520)?;
    if id.get(..8) != Some(SIGNATURE) {
        return Err(with_path(Error::new(ErrorKind::Format, "there is no VHDX signature").at(0), dev));
    }
    let creator = utf16(id.get(8..520).unwrap_or_default(), false);
    // A file this short has been cut: not even the log fits.
    let first = Header::decode(&read_vec(dev, AT[0], BYTES, BYTES)?);
    let second = Header::decode(&read_vec(dev, AT[1], BYTES, BYTES)?);
    let bad = |why: &str| {
        with_path(
            Error::corrupt(why).op("read VHDX headers").at(AT[0]).hint("copy what can be read: cowshed convert --salvage"),
            dev,
        )
    };
    let mut warnings = Vec::new();
    let (header, slot) = match (first, second) {
        (None, None) => return Err(bad("neither of the two headers is intact")),
        (Some(one), None) => {
            warnings.push("the second header is damaged; the first was believed".to_string());
            (one?, 0)
        }
        (None, Some(two)) => {
            warnings.push("the first header is damaged; the second was believed".to_string());
            (two?, 1)
        }
        (Some(one), Some(two)) => {
            let (one, two) = (one?, two?);
            if one.sequence == two.sequence && one != two {
                return Err(bad("the two headers differ but have the same sequence number"));
            }
            if two.sequence > one.sequence { (two, 1) } else { (one, 0) }
        }
    };
    if header.log_at < MIB || !header.log_at.is_multiple_of(MIB) || !header.log_len.is_multiple_of(MIB) {
        return Err(bad(&format!("a log of {:#x} bytes at {:#x} is not possible", header.log_len, header.log_at)));
    }
    Ok(Found { header, slot, creator, warnings })
}
