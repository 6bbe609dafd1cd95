//! Hardware addresses written down in the guest: a clone on another host has others, and its network would not come up.

use super::Identity;
use crate::engine::guest::tree::Guest;

/// Where a kind of file lies, and the keys under which it keeps a hardware address.
pub struct AddressFiles {
    /// Folder.
    pub folder: &'static str,
    /// How the names begin.
    pub prefix: &'static str,
    /// How they end, any of these.
    pub suffixes: &'static [&'static str],
    /// Keys, compared without case.
    pub keys: &'static [&'static str],
    /// What stands between key and value.
    pub separator: char,
}

/// Every kind of file that keeps hardware addresses.
pub const ADDRESS_FILES: &[AddressFiles] = &[
    AddressFiles {
        folder: "/etc/sysconfig/network-scripts",
        prefix: "ifcfg-",
        suffixes: &[""],
        keys: &["HWADDR", "MACADDR"],
        separator: '=',
    },
    AddressFiles {
        folder: "/etc/sysconfig/network",
        prefix: "ifcfg-",
        suffixes: &[""],
        keys: &["LLADDR", "HWADDR", "MACADDR"],
        separator: '=',
    },
    AddressFiles { folder: "/etc/netplan", prefix: "", suffixes: &[".yaml", ".yml"], keys: &["macaddress"], separator: ':' },
    AddressFiles {
        folder: "/etc/NetworkManager/system-connections",
        prefix: "",
        suffixes: &[""],
        keys: &["mac-address", "cloned-mac-address"],
        separator: '=',
    },
    AddressFiles {
        folder: "/etc/systemd/network",
        prefix: "",
        suffixes: &[".link", ".network"],
        keys: &["MACAddress", "PermanentMACAddress"],
        separator: '=',
    },
];

/// Rules that udev wrote for the cards it saw; they name hardware addresses.
pub const UDEV_NET_RULES: &[&str] = &[
    "/etc/udev/rules.d/70-persistent-net.rules",
    "/lib/udev/rules.d/75-persistent-net-generator.rules",
    "/usr/lib/udev/rules.d/75-persistent-net-generator.rules",
];

/// A hardware address in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HardwareAddress {
    /// The guest's file.
    pub path: String,
    /// Line, counted from 1; 0 for the file as a whole.
    pub line: usize,
    /// What stands there; from the guest.
    pub text: String,
}

/// Addresses told, at most.
const MAX: usize = 200;

/// True when `value` begins with six bytes in hexadecimal.
pub fn is_address(value: &str) -> bool {
    let v = value.trim().trim_matches(['"', '\'']);
    let bytes: Vec<&str> = v.split(['-', ':']).take(6).collect();
    bytes.len() == 6
        && bytes.iter().all(|b| b.get(..2).is_some_and(|d| d.bytes().all(|c| c.is_ascii_hexdigit())))
        && bytes.iter().take(5).all(|b| b.len() == 2)
}

/// True when `line` of a file of this kind keeps a hardware address.
pub fn keeps_address(kind: &AddressFiles, line: &str) -> bool {
    let Some((key, value)) = line.split_once(kind.separator) else { return false };
    let key = key.trim().trim_start_matches("- ");
    kind.keys.iter().any(|k| k.eq_ignore_ascii_case(key)) && is_address(value)
}

/// Every hardware address in the guest's configuration, and the udev rules that are not empty.
pub fn hardware_addresses(g: &Guest) -> Vec<HardwareAddress> {
    let mut out = Vec::new();
    for path in UDEV_NET_RULES {
        // A rule file counts once: /lib is usually a link to /usr/lib.
        let Ok((spot, reached)) = g.resolve_named(path.as_bytes(), true) else { continue };
        let size = g.stat(spot).map_or(0, |s| s.size);
        let reached = String::from_utf8_lossy(&reached).into_owned();
        if size > 0 && !out.iter().any(|a: &HardwareAddress| a.path == reached) {
            out.push(HardwareAddress { path: reached, line: 0, text: format!("{size} bytes of udev rules for network cards") });
        }
    }
    for kind in ADDRESS_FILES {
        for name in g.names(kind.folder) {
            if !name.starts_with(kind.prefix) || !kind.suffixes.iter().any(|s| name.ends_with(s)) {
                continue;
            }
            let path = format!("{}/{name}", kind.folder);
            let text = g.read_text(&path).unwrap_or_default();
            for (n, line) in text.lines().enumerate().filter(|(_, l)| keeps_address(kind, l)) {
                if out.len() >= MAX {
                    return out;
                }
                out.push(HardwareAddress { path: path.clone(), line: n + 1, text: line.trim().to_string() });
            }
        }
    }
    out
}

pub(super) fn add(g: &Guest, id: &mut Identity) {
    id.addresses = hardware_addresses(g);
    for a in id.addresses.clone() {
        let from = if a.line == 0 { a.path } else { format!("{}:{}", a.path, a.line) };
        id.add("mac", a.text, from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_other_values() {
        for good in ["52:54:00:12:34:56", "\"52:54:00:12:34:56\"", " 52-54-00-AA-bb-cc", "52:54:00:12:34:56 # eth0"] {
            assert!(is_address(good), "{good}");
        }
        for bad in ["permanent", "random", "", "52:54:00:12:34", "5:54:00:12:34:56", "$MAC", "zz:54:00:12:34:56"] {
            assert!(!is_address(bad), "{bad}");
        }
        let netplan = ADDRESS_FILES.iter().find(|k| k.folder == "/etc/netplan").unwrap();
        assert!(keeps_address(netplan, "        macaddress: 52:54:00:12:34:56"));
        assert!(!keeps_address(netplan, "      set-name: eth0"));
    }
}
