//! The LUKS version 2 header: a binary block of 4 KiB, big-endian, then a JSON area; both twice.
//!
//! Spec: "LUKS2 On-Disk Format Specification", version 1.1.4. QEMU has no reader for it.

use serde_json::Value;
use sha2::{Digest, Sha256, Sha512};

use crate::engine::error::{Context, Error, Result};
use crate::engine::io::bytes::{be16, be64, put, until_nul};
use crate::engine::io::{ReadAt, read_vec};
use crate::engine::model::{Description, Fact};
use crate::engine::units::{printable, printable_bytes};

/// Bytes of the binary block, where the JSON area begins.
const BINARY_BYTES: u64 = 4096;
/// Bytes of both together, at most (the specification's largest size).
const MAX_HEADER: u64 = 4 << 20;
/// Where the checksum is, and its room.
const CHECKSUM_AT: usize = 448;
const CHECKSUM_BYTES: usize = 64;
/// Rows of JSON objects looked at, at most.
const MAX_OBJECTS: usize = 64;

/// What the header says. Texts are made printable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Label given by the user; may be empty.
    pub label: String,
    /// The container's UUID.
    pub uuid: String,
    /// Cipher of the data, e.g. `aes-xts-plain64`.
    pub cipher: String,
    /// Bytes of an encryption sector.
    pub sector_size: u64,
    /// Hash of the volume key's digest.
    pub hash: String,
    /// Key slots in use: each one's key derivation, e.g. `argon2id`.
    pub key_slots: Vec<String>,
    /// Byte where the encrypted data begins.
    pub payload_offset: u64,
    /// The stored checksum is right; `None` when its hash is not known here.
    pub checksum_ok: Option<bool>,
}

impl Header {
    /// Reads the primary header of `dev`.
    ///
    /// Errors: a size that the specification does not have, JSON that is none, a file that ends too early.
    pub fn read(dev: &dyn ReadAt) -> Result<Header> {
        let binary = read_vec(dev, 0, BINARY_BYTES, BINARY_BYTES)?;
        if !binary.starts_with(super::MAGIC) || be16(&binary, 6) != Some(2) {
            return Err(Error::corrupt("there is no LUKS version 2 header").at(0));
        }
        let size = be64(&binary, 8).unwrap_or_default();
        if size <= BINARY_BYTES || size > MAX_HEADER || !size.is_multiple_of(BINARY_BYTES) {
            return Err(Error::corrupt(format!("a header of {size} bytes; the format has 16 KiB to 4 MiB")).at(8));
        }
        let whole = read_vec(dev, 0, size, MAX_HEADER)?;
        let text = |at: usize, len: usize| printable_bytes(until_nul(binary.get(at..at + len).unwrap_or_default()));
        let json = until_nul(whole.get(BINARY_BYTES as usize..).unwrap_or_default());
        let json: Value = serde_json::from_slice(json)
            .map_err(|e| Error::corrupt(format!("the LUKS2 metadata is no JSON: {e}")).at(BINARY_BYTES))
            .op("read metadata")?;
        let segment = objects(&json, "segments").find(|s| s.get("type").and_then(Value::as_str) == Some("crypt"));
        let word =
            |v: Option<&Value>, key: &str| printable(v.and_then(|v| v.get(key)).and_then(Value::as_str).unwrap_or("unknown"));
        let key_slots = objects(&json, "keyslots").map(|s| word(s.get("kdf"), "type")).collect();
        Ok(Header {
            label: text(24, 48),
            uuid: text(168, 40),
            cipher: word(segment, "encryption"),
            sector_size: segment.and_then(|s| s.get("sector_size")).and_then(Value::as_u64).unwrap_or(512),
            hash: word(objects(&json, "digests").next(), "hash"),
            key_slots,
            // 64-bit numbers are texts there.
            payload_offset: segment
                .and_then(|s| s.get("offset"))
                .and_then(Value::as_str)
                .and_then(|s| s.parse().ok())
                .unwrap_or(size.saturating_mul(2)),
            checksum_ok: checksum(&whole, &text(72, 32)),
        })
    }

    /// All of it for people.
    pub(super) fn describe(&self) -> Description {
        let slots = if self.key_slots.is_empty() { "none".into() } else { self.key_slots.join(", ") };
        let mut facts = vec![
            Fact { label: "LUKS version", value: "2".into() },
            Fact { label: "cipher", value: self.cipher.clone() },
            Fact { label: "encryption sector", value: format!("{} bytes", self.sector_size) },
            Fact { label: "hash", value: self.hash.clone() },
            Fact { label: "key slots", value: format!("{} in use ({slots})", self.key_slots.len()) },
            Fact { label: "UUID", value: self.uuid.clone() },
            Fact { label: "encrypted data", value: format!("from byte {}", self.payload_offset) },
        ];
        if !self.label.is_empty() {
            facts.push(Fact { label: "label", value: self.label.clone() });
        }
        let warnings = match self.checksum_ok {
            Some(false) => vec!["the header's checksum is wrong; cryptsetup would use the second copy".to_string()],
            _ => Vec::new(),
        };
        Description { facts, warnings, encrypted: Some("LUKS2".into()), ..Description::default() }
    }
}

/// The objects under `key`, a bounded number of them.
fn objects<'a>(json: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    json.get(key).and_then(Value::as_object).into_iter().flat_map(|m| m.values()).take(MAX_OBJECTS)
}

/// Compares the stored checksum with that of the header, the checksum's own bytes counted as zeros.
fn checksum(whole: &[u8], algorithm: &str) -> Option<bool> {
    let stored = whole.get(CHECKSUM_AT..CHECKSUM_AT + CHECKSUM_BYTES)?;
    let mut bytes = whole.to_vec();
    put(&mut bytes, CHECKSUM_AT, &[0; CHECKSUM_BYTES]).then_some(())?;
    let sum = match algorithm {
        "sha256" => Sha256::digest(&bytes).to_vec(),
        "sha512" => Sha512::digest(&bytes).to_vec(),
        _ => return None,
    };
    Some(stored.starts_with(&sum))
}
