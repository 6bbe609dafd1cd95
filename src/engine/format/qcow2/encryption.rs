//! How an encrypted qcow2 image says it is encrypted: legacy AES, or a LUKS header in clusters of its own. Describes only.

use serde_json::{Value, json};

use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{be16, be32, until_nul};
use crate::engine::io::{ReadAt, read_vec};

use super::extensions::Extensions;
use super::header::Header;

/// Bytes of a LUKS version 1 header.
const LUKS1_LENGTH: u64 = 592;

/// What encrypts the image.
#[derive(Debug, Clone, PartialEq)]
pub struct Encryption {
    /// `AES` or `LUKS1`.
    pub name: String,
    /// The `encrypt` object of qemu-img's JSON.
    pub details: Value,
}

/// Reads how `header` says the content is encrypted; `None` when it is not.
///
/// Errors: a LUKS header that is missing, cut short or not one.
pub fn read(dev: &dyn ReadAt, header: &Header, ext: &Extensions) -> Result<Option<Encryption>> {
    match header.crypt_method {
        0 => Ok(None),
        1 => Ok(Some(Encryption { name: "AES".into(), details: json!({ "format": "aes" }) })),
        _ => {
            let (offset, len) = ext
                .crypto_header()
                .ok_or_else(|| Error::corrupt("the image is encrypted with LUKS and has no pointer to its header"))?;
            if len < LUKS1_LENGTH || offset & (header.cluster_size() - 1) != 0 {
                return Err(Error::corrupt(format!("the pointer to the LUKS header ({len} bytes at {offset:#x}) is wrong")));
            }
            let bytes = read_vec(dev, offset, LUKS1_LENGTH, LUKS1_LENGTH).map_err(|e| e.op("read the LUKS header"))?;
            let details = luks1(&bytes)
                .ok_or_else(|| Error::corrupt("there is no LUKS version 1 header").op("read the LUKS header").at(offset))?;
            Ok(Some(Encryption { name: "LUKS1".into(), details }))
        }
    }
}

/// The fields of a LUKS version 1 header (LUKS On-Disk Format Specification 1.2.3) under the names qemu-img gives them.
fn luks1(b: &[u8]) -> Option<Value> {
    if b.get(..6)? != b"LUKS\xba\xbe" || be16(b, 6)? != 1 {
        return None;
    }
    let text = |at: usize, len: usize| b.get(at..at + len).map(|t| String::from_utf8_lossy(until_nul(t)).into_owned());
    let key_bytes = be32(b, 108)?;
    let mode = text(40, 32)?;
    // `xts-plain64`, `cbc-essiv:sha256`.
    let (chain, iv) = mode.split_once('-').unwrap_or((&mode, ""));
    let (generator, iv_hash) = iv.split_once(':').map_or((iv, None), |(g, h)| (g, Some(h)));
    // XTS splits its key in two.
    let key_bits = u64::from(key_bytes) * if chain == "xts" { 4 } else { 8 };
    let mut out = json!({
        "format": "luks",
        "ivgen-alg": generator,
        "detached-header": false,
        "hash-alg": text(72, 32)?,
        "cipher-alg": format!("{}-{key_bits}", text(8, 32)?),
        "uuid": text(168, 40)?,
        "cipher-mode": chain,
        "payload-offset": u64::from(be32(b, 104)?) * 512,
        "master-key-iters": be32(b, 164)?,
    });
    if let Some(hash) = iv_hash {
        out["ivgen-hash-alg"] = json!(hash);
    }
    let slots: Option<Vec<Value>> = (0..8)
        .map(|n| {
            let at = 208 + n * 48;
            let key_offset = u64::from(be32(b, at + 40)?) * 512;
            Some(if be32(b, at)? == 0x00ac_71f3 {
                json!({ "active": true, "iters": be32(b, at + 4)?, "key-offset": key_offset, "stripes": be32(b, at + 44)? })
            } else {
                json!({ "active": false, "key-offset": key_offset })
            })
        })
        .collect();
    out["slots"] = json!(slots?);
    Some(out)
}
