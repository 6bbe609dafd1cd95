//! The system itself: distribution, hostname, machine, machine id.

use super::{Identity, shell_value};
use crate::engine::guest::tree::Guest;
use crate::engine::io::bytes::le16;

pub(super) fn add(g: &Guest, id: &mut Identity) {
    let release = ["/etc/os-release", "/usr/lib/os-release"].into_iter().find_map(|p| Some((p, g.read_text(p).ok()?)));
    match release {
        Some((from, text)) => {
            for (what, key) in [("os", "PRETTY_NAME"), ("distribution", "ID"), ("version", "VERSION_ID")] {
                id.add(what, shell_value(&text, key).unwrap_or_default(), from);
            }
        }
        None => {
            for from in ["/etc/redhat-release", "/etc/SuSE-release", "/etc/debian_version", "/etc/alpine-release"] {
                if let Ok(text) = g.read_text(from) {
                    let name = if from == "/etc/debian_version" { format!("Debian {}", text.trim()) } else { text };
                    id.add("os", name.lines().next().unwrap_or_default(), from);
                    break;
                }
            }
        }
    }
    for (from, key) in HOSTNAMES {
        let Ok(text) = g.read_text(from) else { continue };
        let name = match key {
            None => text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_string),
            Some(key) => shell_value(&text, key),
        };
        if let Some(name) = name.filter(|n| !n.is_empty()) {
            id.add("hostname", name, *from);
            break;
        }
    }
    for from in ["/bin/sh", "/usr/bin/env", "/sbin/init"] {
        if let Some(arch) = architecture(g, from) {
            id.add("architecture", arch, from);
            break;
        }
    }
    if let Ok(bytes) = g.read_file("/etc/machine-id") {
        let text = String::from_utf8_lossy(&bytes).trim().to_string();
        let state = match text.as_str() {
            "" => EMPTY_ID.into(),
            UNSET_ID => format!("{UNSET_ID} (made at first boot)"),
            _ => text,
        };
        id.add("machine-id", state, "/etc/machine-id");
    }
}

/// Where distributions keep the host name: as the file's text, or as a setting.
const HOSTNAMES: &[(&str, Option<&str>)] = &[
    ("/etc/hostname", None),
    ("/etc/HOSTNAME", None),
    ("/etc/sysconfig/network", Some("HOSTNAME")),
    ("/etc/conf.d/hostname", Some("hostname")),
];

/// What the fact `machine-id` says of an empty one.
const EMPTY_ID: &str = "empty (made at first boot)";
/// What stands in `/etc/machine-id` of an image that is to take its first start for one (machine-id(5)).
pub const UNSET_ID: &str = "uninitialized";

/// The machine of an ELF program (ELF specification, `e_machine`).
fn architecture(g: &Guest, path: &str) -> Option<&'static str> {
    let spot = g.resolve(path.as_bytes(), true).ok()?;
    let mut head = [0u8; 20];
    if g.read(spot, 0, &mut head).ok()? < 20 || !head.starts_with(b"\x7fELF") {
        return None;
    }
    Some(match le16(&head, 18)? {
        0x3e => "x86_64",
        0x03 => "i686",
        0xb7 => "aarch64",
        0x28 => "armv7",
        0xf3 => "riscv64",
        // Big-endian machines store the number the other way round.
        0x15 => "ppc64le",
        0x1500 => "ppc64",
        0x1600 => "s390x",
        0x102 => "loongarch64",
        _ => return None,
    })
}
