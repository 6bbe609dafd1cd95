//! What a qcow2 image says about itself, as plain data: qemu-img's `format-specific` and the facts for people.

use serde_json::{Map, Value, json};

use crate::engine::model::{Bitmap, Description, Fact, Snapshot};
use crate::engine::units::count;

use super::encryption::Encryption;
use super::extensions::{BACKING_FORMAT, BITMAPS as BITMAPS_EXT, CRYPTO, DATA_FILE, Extensions, FEATURES};
use super::header::{BITMAPS, CORRUPT, DIRTY, FEATURE_NAMES, Header, LAZY_REFCOUNTS};

/// What was read besides the header.
pub struct Parts<'a> {
    /// The header.
    pub header: &'a Header,
    /// Its extensions.
    pub ext: &'a Extensions,
    /// Internal snapshots.
    pub snapshots: Vec<Snapshot>,
    /// Dirty bitmaps.
    pub bitmaps: Vec<Bitmap>,
    /// How it is encrypted.
    pub encryption: Option<Encryption>,
    /// What else a person should know.
    pub warnings: Vec<String>,
}

/// The description of an image.
pub fn describe(parts: Parts<'_>) -> Description {
    let h = parts.header;
    Description {
        cluster_size: Some(h.cluster_size()),
        facts: facts(&parts),
        specific: json!({ "type": "qcow2", "data": specific(&parts) }),
        dirty: h.incompatible & DIRTY != 0,
        corrupt: h.incompatible & CORRUPT != 0,
        encrypted: parts.encryption.map(|e| e.name),
        snapshots: parts.snapshots,
        bitmaps: parts.bitmaps,
        warnings: parts.warnings,
        ..Description::default()
    }
}

/// `format-specific.data` of `qemu-img info`, with the same conditions for each key.
fn specific(parts: &Parts<'_>) -> Map<String, Value> {
    let h = parts.header;
    let v3 = h.version >= 3;
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| drop(out.insert(key.into(), value));
    put("compat", json!(if v3 { "1.1" } else { "0.10" }));
    put("compression-type", json!(h.compression.name()));
    if v3 {
        put("lazy-refcounts", json!(h.compatible & LAZY_REFCOUNTS != 0));
    }
    if !parts.bitmaps.is_empty() {
        put("bitmaps", parts.bitmaps.iter().map(bitmap).collect());
    }
    put("refcount-bits", json!(h.refcount_bits()));
    if let Some(e) = &parts.encryption {
        put("encrypt", e.details.clone());
    }
    if v3 {
        if let Some(name) = parts.ext.data_file() {
            put("data-file", json!(name));
        }
        if h.external_data() {
            put("data-file-raw", json!(h.raw_external()));
        }
        put("corrupt", json!(h.incompatible & CORRUPT != 0));
        put("extended-l2", json!(h.extended_l2()));
    }
    out
}

fn bitmap(b: &Bitmap) -> Value {
    let flags: Vec<_> = [(b.in_use, "in-use"), (b.auto, "auto")].iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    json!({ "flags": flags, "name": b.name, "granularity": b.granularity })
}

fn facts(parts: &Parts<'_>) -> Vec<Fact> {
    let (h, ext) = (parts.header, parts.ext);
    let mut out = Vec::new();
    let mut fact = |label: &'static str, value: String| out.push(Fact { label, value });
    fact("version", format!("{} (compat {})", h.version, if h.version >= 3 { "1.1" } else { "0.10" }));
    fact("cluster size", size(h.cluster_size()));
    fact("refcount width", format!("{} bits", h.refcount_bits()));
    fact("L1 table", format!("{} entries at {:#x}", h.l1_entries, h.l1_offset));
    fact("refcount table", format!("{} at {:#x}", count(u64::from(h.reftable_clusters), "cluster"), h.reftable_offset));
    fact("compression", h.compression.name().into());
    for (label, kind, bits) in [
        ("incompatible features", 0, h.incompatible),
        ("compatible features", 1, h.compatible),
        ("autoclear features", 2, h.autoclear),
    ] {
        if bits != 0 {
            fact(label, bit_names(ext, kind, bits).join(", "));
        }
    }
    if h.extended_l2() {
        fact("subclusters", format!("32 of {}", size(h.cluster_size() / 32)));
    }
    if let Some(name) = ext.data_file() {
        fact("data file", if h.raw_external() { format!("{name} (a raw disk by itself)") } else { name });
    }
    if let Some(e) = &parts.encryption {
        fact("encryption", encryption(e));
    }
    if !parts.snapshots.is_empty() {
        fact("internal snapshots", parts.snapshots.len().to_string());
    }
    if !parts.bitmaps.is_empty() {
        fact("dirty bitmaps", parts.bitmaps.iter().map(|b| b.name.as_str()).collect::<Vec<_>>().join(", "));
    }
    fact("header length", format!("{} bytes", h.header_length));
    let known = [BACKING_FORMAT, FEATURES, BITMAPS_EXT, CRYPTO, DATA_FILE];
    let unknown: Vec<_> = ext.list.iter().filter(|e| !known.contains(&e.id)).map(|e| format!("{:#010x}", e.id)).collect();
    if !unknown.is_empty() {
        fact("unknown header extensions", unknown.join(", "));
    }
    out
}

fn encryption(e: &Encryption) -> String {
    let field = |key: &str| e.details.get(key).and_then(Value::as_str).unwrap_or_default();
    if e.name == "AES" {
        return "AES-128-CBC (deprecated: weak)".into();
    }
    let active = e.details.get("slots").and_then(Value::as_array).map_or(0, |s| s.iter().filter(|s| s["active"] == true).count());
    format!(
        "{}, {} {} {}, {} of 8 key slots in use",
        e.name,
        field("cipher-alg"),
        field("cipher-mode"),
        field("ivgen-alg"),
        active
    )
}

/// Names of the bits set in `bits`: ours, else the image's own, else the number.
pub fn bit_names(ext: &Extensions, kind: u8, bits: u64) -> Vec<String> {
    (0..64u8)
        .filter(|bit| bits >> bit & 1 == 1)
        .map(|bit| {
            let ours = FEATURE_NAMES.iter().find(|(k, b, _)| (*k, *b) == (kind, bit)).map(|(_, _, name)| (*name).to_string());
            ours.or_else(|| ext.feature_name(kind, bit).filter(|n| !n.is_empty()).map(|n| format!("{n} (bit {bit})")))
                .unwrap_or_else(|| format!("bit {bit}"))
        })
        .collect()
}

/// Warnings the header alone gives rise to.
pub fn warnings(header: &Header, ext: &Extensions, untrusted_bitmaps: bool) -> Vec<String> {
    let mut out = Vec::new();
    if header.incompatible & DIRTY != 0 {
        out.push("it was not closed properly: refcounts may be stale; check -r all brings them up to date, and nothing is written to it before".into());
    }
    if header.incompatible & CORRUPT != 0 {
        out.push("it is marked as damaged: read what you can, then check and repair it".into());
    }
    if untrusted_bitmaps {
        out.push("its bitmaps are not listed: a program that does not know bitmaps wrote to it since they were saved".into());
    }
    if header.autoclear & BITMAPS != 0 && ext.get(BITMAPS_EXT).is_none() {
        out.push("it claims to have bitmaps and has none".into());
    }
    out
}

/// A power of two bytes as people say it.
fn size(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 20 => format!("{} MiB", b >> 20),
        b if b >= 1 << 10 => format!("{} KiB", b >> 10),
        b => format!("{b} bytes"),
    }
}
