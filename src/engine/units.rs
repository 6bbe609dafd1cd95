//! Units: bytes, sectors of 512, sizes as people type them, and text that is safe to print.

use super::error::{Error, Result};

/// Bytes of a sector, the unit of most formats' tables.
pub const SECTOR: u64 = 512;
/// 1024 bytes.
pub const KIB: u64 = 1 << 10;
/// 1024 KiB.
pub const MIB: u64 = 1 << 20;
/// 1024 MiB.
pub const GIB: u64 = 1 << 30;
/// 1024 GiB.
pub const TIB: u64 = 1 << 40;

/// `value` rounded up to a multiple of `unit` (any unit but zero); `None` when it does not fit.
pub fn round_up(value: u64, unit: u64) -> Option<u64> {
    value.checked_next_multiple_of(unit)
}

/// `bytes` in the largest binary unit that says it exactly: `64 KiB`, `1 MiB`, `1000 B`. For block sizes and the like; sizes of
/// disks are rounded where they are shown.
pub fn binary(bytes: u64) -> String {
    let units = [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} B"),
    }
}

/// `bytes` rounded to a tenth of the largest binary unit they fill: `299.9 MiB`, `64 KiB`, `12 B`.
pub fn about(bytes: u64) -> String {
    let units = [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, _)) if bytes.is_multiple_of(*unit) => binary(bytes),
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

/// `1 snapshot`, `3 snapshots`.
pub fn count(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// A size as `qemu-img` takes it: `512`, `10G`, `1.5T`, `64k`, `.5M`, `1b`; plain numbers are bytes. Result in bytes.
///
/// Errors: not a number, a negative one, an unknown suffix, or more than 2^63-1.
pub fn parse_size(text: &str) -> Result<u64> {
    let bad =
        |why: &str| Error::usage(format!("'{text}' is not a size: {why}")).hint("write it as 10G, 512M, 1.5T or as plain bytes");
    let t = text.trim();
    let t = t.strip_prefix('+').unwrap_or(t);
    if let Some(hex) = t.strip_prefix("0x").or_else(|| t.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).map_err(|_| bad("not a hexadecimal number"));
    }
    let split = t.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(t.len());
    let (number, suffix) = t.split_at(split);
    let shift = match suffix.trim_end_matches("iB").trim_end_matches(['B', 'b']).to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        "E" => 60,
        _ => return Err(bad("the suffix is none of k, M, G, T, P, E")),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return Err(bad("it does not begin with a digit"));
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad("it is too large"))? };
    let mut bytes = u128::from(whole) << shift;
    if !fraction.is_empty() {
        if fraction.len() > 18 || shift == 0 {
            return Err(bad("a fraction needs a suffix and at most 18 digits"));
        }
        let digits: u128 = fraction.parse().map_err(|_| bad("the fraction is not a number"))?;
        bytes += (digits << shift) / 10u128.pow(fraction.len() as u32);
    }
    u64::try_from(bytes).ok().filter(|&b| b <= i64::MAX as u64).ok_or_else(|| bad("it is larger than 8 EiB"))
}

/// `text` with control bytes, escapes and direction overrides written as `\x1b` or `\u{202e}`, so that a name from an image
/// cannot steer a terminal. Newlines and tabs are escaped too: a name is one line.
pub fn printable(text: &str) -> String {
    // Nearly every name is plain.
    if text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return text.to_string();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0'..='\x1f' | '\x7f' => out.push_str(&format!("\\x{:02x}", c as u32)),
            '\u{80}'..='\u{9f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => {
                out.push_str(&format!("\\u{{{:x}}}", c as u32));
            }
            _ => out.push(c),
        }
    }
    out
}

/// Bytes of a name from an image as printable text; invalid UTF-8 is shown as `\xNN`.
pub fn printable_bytes(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        out.push_str(&printable(chunk.valid()));
        for b in chunk.invalid() {
            out.push_str(&format!("\\x{b:02x}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_type_them() {
        for (text, bytes) in [
            ("512", 512),
            ("10G", 10 * GIB),
            ("1.5T", 3 * TIB / 2),
            ("64k", 65536),
            ("512M", 512 * MIB),
            ("2KiB", 2048),
            ("0x200", 512),
            ("1b", 1),
            (".5M", 512 * KIB),
            ("+1M", MIB),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for bad in ["", "G", "-1", "1x", "9E", "1.5", ".", "++1", "+-1", "99999999999999999999"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_printable_steers_a_terminal() {
        assert_eq!(printable("a\x1b]0;x\x07\n\u{9b}31m\u{202e}é"), "a\\x1b]0;x\\x07\\x0a\\u{9b}31m\\u{202e}é");
        assert_eq!(printable_bytes(b"a\xff\x1b"), "a\\xff\\x1b");
    }
}
