//! The LUKS version 1 header: 592 bytes, big-endian. A pure function over bytes, as it also lies inside qcow2 images.
//!
//! Spec: "LUKS On-Disk Format Specification", version 1.2.3, figures 1 and 2.

use serde_json::{Map, Value, json};

use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{array, be16, be32, until_nul};
use crate::engine::model::{Description, Fact};
use crate::engine::units::{SECTOR, printable_bytes};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 592;
/// What marks a key slot in use.
const SLOT_ACTIVE: u32 = 0x00ac_71f3;
/// Bytes of a key slot's row, and where the first one is.
const SLOT_BYTES: usize = 48;
const SLOTS_AT: usize = 208;

/// A key slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// A passphrase is set.
    pub active: bool,
    /// PBKDF2 iterations.
    pub iterations: u32,
    /// First sector of its key material, from the header on.
    pub key_sector: u32,
    /// Anti-forensic stripes (4000).
    pub stripes: u32,
}

/// What the header says. Texts are hostile bytes made printable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// `aes`, `serpent`, `twofish`, …
    pub cipher: String,
    /// `xts-plain64`, `cbc-essiv:sha256`, …
    pub mode: String,
    /// `sha1`, `sha256`, …
    pub hash: String,
    /// First sector of the encrypted data; qcow2 ignores it.
    pub payload_sector: u32,
    /// Bytes of the volume key.
    pub key_bytes: u32,
    /// PBKDF2 iterations of the volume key's digest.
    pub digest_iterations: u32,
    /// The container's UUID.
    pub uuid: String,
    /// The eight key slots.
    pub slots: Vec<Slot>,
}

impl Header {
    /// Parses the header at the start of `b`.
    ///
    /// Errors: too short (`Truncated` by way of `Corrupt`), wrong magic or version, an impossible key length.
    pub fn parse(b: &[u8]) -> Result<Header> {
        if array::<HEADER_BYTES>(b, 0).is_none() {
            return Err(Error::new(
                crate::engine::error::ErrorKind::Truncated,
                format!("a LUKS header has {HEADER_BYTES} bytes and there are {}", b.len()),
            )
            .at(0));
        }
        if !b.starts_with(super::MAGIC) || be16(b, 6) != Some(1) {
            return Err(Error::corrupt("there is no LUKS version 1 header").at(0));
        }
        let text = |at: usize, len: usize| printable_bytes(until_nul(b.get(at..at + len).unwrap_or_default()));
        let number = |at| be32(b, at).unwrap_or_default();
        let key_bytes = number(108);
        if key_bytes == 0 || key_bytes > 1024 {
            return Err(Error::corrupt(format!("a LUKS volume key of {key_bytes} bytes makes no sense")).at(108));
        }
        let slots = (0..8)
            .map(|i| SLOTS_AT + i * SLOT_BYTES)
            .map(|at| Slot {
                active: number(at) == SLOT_ACTIVE,
                iterations: number(at + 4),
                key_sector: number(at + 40),
                stripes: number(at + 44),
            })
            .collect();
        Ok(Header {
            cipher: text(8, 32),
            mode: text(40, 32),
            hash: text(72, 32),
            payload_sector: number(104),
            key_bytes,
            digest_iterations: number(164),
            uuid: text(168, 40),
            slots,
        })
    }

    /// Byte of the container where the encrypted data begins.
    pub fn payload_offset(&self) -> u64 {
        u64::from(self.payload_sector) * SECTOR
    }
    /// Key slots with a passphrase.
    pub fn active_slots(&self) -> usize {
        self.slots.iter().filter(|s| s.active).count()
    }
    /// Key size of the cipher in bits: XTS splits the volume key in two.
    pub fn cipher_bits(&self) -> u32 {
        let bits = self.key_bytes * 8;
        if self.mode.starts_with("xts") { bits / 2 } else { bits }
    }

    /// `mode` taken apart: chaining mode, IV generator, hash of the IV generator.
    fn mode_parts(&self) -> (&str, &str, Option<&str>) {
        let (chain, iv) = self.mode.split_once('-').unwrap_or((&self.mode, ""));
        match iv.split_once(':') {
            Some((iv, hash)) => (chain, iv, Some(hash)),
            None => (chain, iv, None),
        }
    }

    /// The keys of qemu-img's `format-specific` data, as its luks driver and (under `encrypt`) its qcow2 driver print them.
    pub fn qemu_info(&self) -> Map<String, Value> {
        let (chain, iv, iv_hash) = self.mode_parts();
        let slots: Vec<Value> = self
            .slots
            .iter()
            .map(|s| {
                let offset = u64::from(s.key_sector) * SECTOR;
                if s.active {
                    json!({"active": true, "iters": s.iterations, "key-offset": offset, "stripes": s.stripes})
                } else {
                    json!({"active": false, "key-offset": offset})
                }
            })
            .collect();
        let mut m = Map::new();
        m.insert("ivgen-alg".into(), json!(iv));
        if let Some(hash) = iv_hash {
            m.insert("ivgen-hash-alg".into(), json!(hash));
        }
        m.insert("hash-alg".into(), json!(self.hash));
        m.insert("cipher-alg".into(), json!(format!("{}-{}", self.cipher, self.cipher_bits())));
        m.insert("uuid".into(), json!(self.uuid));
        m.insert("cipher-mode".into(), json!(chain));
        m.insert("slots".into(), Value::Array(slots));
        m.insert("payload-offset".into(), json!(self.payload_offset()));
        m.insert("master-key-iters".into(), json!(self.digest_iterations));
        m
    }

    /// Facts for people.
    pub fn facts(&self) -> Vec<Fact> {
        vec![
            Fact { label: "LUKS version", value: "1".into() },
            Fact { label: "cipher", value: format!("{}-{} ({} bits)", self.cipher, self.mode, self.cipher_bits()) },
            Fact { label: "hash", value: self.hash.clone() },
            Fact { label: "key slots", value: format!("{} of {} in use", self.active_slots(), self.slots.len()) },
            Fact { label: "UUID", value: self.uuid.clone() },
            Fact { label: "encrypted data", value: format!("from byte {}", self.payload_offset()) },
        ]
    }

    /// All of it, for a container of its own.
    pub(super) fn describe(&self) -> Description {
        let mut data = self.qemu_info();
        data.insert("detached-header".into(), json!(false));
        Description {
            facts: self.facts(),
            specific: json!({"type": "luks", "data": data}),
            encrypted: Some("LUKS1".into()),
            ..Description::default()
        }
    }
}
