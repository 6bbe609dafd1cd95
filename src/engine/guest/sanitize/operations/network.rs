//! Network: what ties a guest to the hardware address of the machine it was made on.

use super::super::find::Survey;
use super::super::{Change, Default, Edit, Found, Operation};
use crate::engine::error::Result;
use crate::engine::guest::fs::FileType;

pub(super) const ALL: &[Operation] = &[
    Operation {
        id: "udev-net",
        title: "Replace the persistent network rules of udev by empty files",
        files: &[
            "/etc/udev/rules.d/70-persistent-net.rules",
            "/usr/lib/udev/rules.d/75-persistent-net-generator.rules",
            "/lib/udev/rules.d/75-persistent-net-generator.rules",
            "/etc/udev/rules.d/75-persistent-net-generator.rules",
        ],
        default: Default::On,
        reports_only: false,
        verified: "both files are there and empty",
        find: udev_net,
    },
    Operation {
        id: "net-hwaddr",
        title: "Remove hardware addresses from network configuration",
        files: &[
            "/etc/sysconfig/network-scripts/ifcfg-*: HWADDR, MACADDR (RHEL, Fedora)",
            "/etc/sysconfig/network/ifcfg-*: LLADDR (SUSE)",
            "/etc/netplan/*.yaml: macaddress (Ubuntu)",
            "/etc/NetworkManager/system-connections/*: mac-address, cloned-mac-address",
            "/etc/systemd/network/*.link, *.network: MACAddress, PermanentMACAddress",
            "/etc/network/interfaces, interfaces.d/*: hwaddress (Debian)",
        ],
        default: Default::On,
        reports_only: false,
        verified: "no such line is left",
        find: net_hwaddr,
    },
    Operation {
        id: "net-hostname",
        title: "Remove the host name from DHCP requests of ifcfg files",
        files: &["/etc/sysconfig/network-scripts/ifcfg-*: DHCP_HOSTNAME, HOSTNAME"],
        default: Default::On,
        reports_only: false,
        verified: "no such line is left",
        find: net_hostname,
    },
    Operation {
        id: "hostname",
        title: "Empty the host name",
        files: &["/etc/hostname"],
        default: Default::Off,
        reports_only: false,
        verified: "the file is empty",
        find: hostname,
    },
];

const RULES: &[&str] = &["/etc/udev/rules.d/70-persistent-net.rules"];
const GENERATORS: &[&str] = &[
    "/usr/lib/udev/rules.d/75-persistent-net-generator.rules",
    "/lib/udev/rules.d/75-persistent-net-generator.rules",
    "/etc/udev/rules.d/75-persistent-net-generator.rules",
];
const WHY_EMPTY: &str = "names network cards by their addresses; empty rather than deleted, as udev would make it anew";

fn udev_net(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    for hit in s.all(&[RULES, GENERATORS].concat())? {
        match hit.stat.kind {
            FileType::File if hit.stat.size > 0 => found.changes.push(hit.change(Edit::Empty, WHY_EMPTY)),
            FileType::File => {}
            // Masked by a link to /dev/null, which is as good as empty.
            _ => found.notes.push(format!("{} is no regular file and was left alone", String::from_utf8_lossy(&hit.path))),
        }
    }
    // What is mounted or linked twice is one file.
    found.changes.dedup_by(|a, b| a.path == b.path);
    Ok(found)
}

/// Lines of `text` without those that `gone` picks.
fn without(text: &str, gone: impl Fn(&str) -> bool) -> String {
    text.split_inclusive('\n').filter(|l| !gone(l.trim())).collect()
}

/// True when `line` sets one of `keys`, as `KEY=value` or `key: value`, in any case of letters.
fn sets(line: &str, keys: &[&str]) -> bool {
    let line = line.trim_start_matches("export ").trim_start_matches("- ");
    let key = line.split(['=', ':']).next().unwrap_or_default().trim().trim_matches(['"', '\'']);
    key.len() < line.len() && keys.iter().any(|k| k.eq_ignore_ascii_case(key))
}

fn net_hwaddr(s: &Survey<'_>) -> Result<Found> {
    const WHY: &str = "ties the interface to the hardware address of the machine it was made on";
    let mut found = Found::default();
    let ifcfg = |t: &str| without(t, |l| sets(l, &["HWADDR", "MACADDR"]));
    s.rewrite(&mut found, &["/etc/sysconfig/network-scripts/ifcfg-*"], WHY, ifcfg)?;
    s.rewrite(&mut found, &["/etc/sysconfig/network/ifcfg-*"], WHY, |t| without(t, |l| sets(l, &["LLADDR", "HWADDR"])))?;
    s.rewrite(&mut found, &["/etc/netplan/*.yaml", "/etc/netplan/*.yml"], WHY, netplan)?;
    let nm =
        |t: &str| without(t, |l| sets(l, &["mac-address", "cloned-mac-address"]) && !l.contains("cloned-mac-address=stable"));
    s.rewrite(&mut found, &["/etc/NetworkManager/system-connections/*"], WHY, nm)?;
    let link = |t: &str| without(t, |l| sets(l, &["MACAddress", "PermanentMACAddress"]));
    s.rewrite(&mut found, &["/etc/systemd/network/*.link", "/etc/systemd/network/*.network"], WHY, link)?;
    let interfaces = |t: &str| without(t, |l| l.starts_with("hwaddress ") || l.starts_with("hwaddress\t"));
    s.rewrite(&mut found, &["/etc/network/interfaces", "/etc/network/interfaces.d/*"], WHY, interfaces)?;
    Ok(found)
}

/// Netplan without `macaddress`; a `match:` that had nothing else goes too, with the `set-name:` that needs one.
fn netplan(text: &str) -> String {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let depth = |l: &str| l.len() - l.trim_start().len();
    let blank = |l: &str| l.trim().is_empty() || l.trim().starts_with('#');
    let mut keep = vec![true; lines.len()];
    for (i, line) in lines.iter().enumerate() {
        if sets(line.trim(), &["macaddress"])
            && let Some(k) = keep.get_mut(i)
        {
            *k = false;
        }
    }
    for (i, line) in lines.iter().enumerate() {
        if line.trim_end() != format!("{}match:", " ".repeat(depth(line))) {
            continue;
        }
        let inner = |j: usize| lines.get(j).filter(|l| blank(l) || depth(l) > depth(line));
        let body: Vec<usize> = (i + 1..lines.len()).take_while(|j| inner(*j).is_some()).collect();
        let had = body.iter().any(|j| keep.get(*j) == Some(&false));
        let left = body.iter().any(|j| keep.get(*j) == Some(&true) && lines.get(*j).is_some_and(|l| !blank(l)));
        if !had || left {
            continue;
        }
        if let Some(k) = keep.get_mut(i) {
            *k = false;
        }
        // `set-name` in the same block needs a match.
        for j in block_of(&lines, i, &depth, &blank) {
            if lines.get(j).is_some_and(|l| depth(l) == depth(line) && sets(l.trim(), &["set-name"]))
                && let Some(k) = keep.get_mut(j)
            {
                *k = false;
            }
        }
    }
    lines.iter().zip(keep).filter(|(_, k)| *k).map(|(l, _)| *l).collect()
}

/// The lines of the block that line `i` stands in.
fn block_of(lines: &[&str], i: usize, depth: &dyn Fn(&str) -> usize, blank: &dyn Fn(&str) -> bool) -> Vec<usize> {
    let own = lines.get(i).map_or(0, |l| depth(l));
    let inside = |j: &usize| lines.get(*j).is_some_and(|l| blank(l) || depth(l) >= own);
    let before = (0..i).rev().take_while(inside);
    let after = (i + 1..lines.len()).take_while(inside);
    before.chain(after).collect()
}

fn net_hostname(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    let why = "every clone would ask for the same name";
    s.rewrite(&mut found, &["/etc/sysconfig/network-scripts/ifcfg-*"], why, |t| {
        without(t, |l| sets(l, &["DHCP_HOSTNAME", "HOSTNAME"]))
    })?;
    Ok(found)
}

fn hostname(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    if let Some(hit) = s.at("/etc/hostname")?.filter(|h| h.stat.kind == FileType::File && h.stat.size > 0) {
        found.changes.push(Change { edit: Edit::Empty, reason: "the name comes from metadata or DHCP", path: hit.path });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_address_lines_go() {
        let text = "DEVICE=\"eth0\"\nHWADDR=52:54:00:12:34:56\n# HWADDR was here\nMACADDR_POLICY=x\n  macaddr = 1\nONBOOT=yes";
        let left = without(text, |l| sets(l, &["HWADDR", "MACADDR"]));
        assert_eq!(left, "DEVICE=\"eth0\"\n# HWADDR was here\nMACADDR_POLICY=x\nONBOOT=yes");
    }

    #[test]
    fn netplan_stays_valid() {
        let text = "network:\n  ethernets:\n    eth0:\n      dhcp4: true\n      match:\n        macaddress: 52:54:00:12:34:56\n      set-name: eth0\n    eth1:\n      match:\n        driver: virtio\n        macaddress: 1\n      set-name: lan\n";
        let left = "network:\n  ethernets:\n    eth0:\n      dhcp4: true\n    eth1:\n      match:\n        driver: virtio\n      set-name: lan\n";
        assert_eq!(netplan(text), left);
    }
}
