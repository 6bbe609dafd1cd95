//! Services: is there an SSH server that starts, and does a firewall stand in the way.

use super::super::find::Survey;
use super::super::{Default, Edit, Found, Operation};
use crate::engine::error::Result;
use crate::engine::guest::fs::FileType;

pub(super) const ALL: &[Operation] = &[
    Operation {
        id: "sshd-check",
        title: "Check that an SSH server is installed and starts",
        files: &["/usr/sbin/sshd", "*.wants/ssh.service, sshd.service, ssh.socket", "/etc/rc*.d/S*ssh*"],
        default: Default::On,
        reports_only: true,
        verified: "the server and the link that starts it are found",
        find: sshd_check,
    },
    Operation {
        id: "firewall",
        title: "Tell whether a firewall is switched on",
        files: &["firewalld, ufw, nftables, iptables, SuSEfirewall2: units and rc links", "/etc/ufw/ufw.conf: ENABLED="],
        default: Default::On,
        reports_only: true,
        verified: "each unit's links are looked at",
        find: firewall,
    },
    Operation {
        id: "firewall-off",
        title: "Switch the firewall off (the cloud's security groups do its work)",
        files: &["the links that start firewalld, ufw, nftables, iptables, SuSEfirewall2", "/etc/ufw/ufw.conf: ENABLED=no"],
        default: Default::Off,
        reports_only: false,
        verified: "no link starts one, and ufw says ENABLED=no",
        find: firewall_off,
    },
];

/// Where units are, and where links that start them are.
const UNITS: &[&str] = &["/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
/// Firewalls: name, and the units and init scripts that start them.
const FIREWALLS: &[(&str, &[&str])] = &[
    ("firewalld", &["firewalld"]),
    ("ufw", &["ufw"]),
    ("nftables", &["nftables"]),
    ("iptables", &["iptables", "ip6tables", "netfilter-persistent"]),
    ("SuSEfirewall2", &["SuSEfirewall2", "SuSEfirewall2_init", "SuSEfirewall2_setup"]),
];

/// The links that start `unit`: systemd's in `*.wants`, and the old rc links.
fn starters(s: &Survey<'_>, unit: &str, kinds: &[&str]) -> Result<Vec<super::super::find::Hit>> {
    let mut patterns: Vec<String> = Vec::new();
    for kind in kinds {
        patterns.push(format!("/etc/systemd/system/*.wants/{unit}.{kind}"));
        patterns.push(format!("/etc/systemd/system/*.requires/{unit}.{kind}"));
    }
    for rc in ["/etc/rc*.d", "/etc/rc.d/rc*.d", "/etc/init.d/rc*.d", "/etc/runlevels/*"] {
        patterns.push(format!("{rc}/S*{unit}"));
    }
    patterns.push(format!("/etc/runlevels/*/{unit}"));
    let refs: Vec<&str> = patterns.iter().map(String::as_str).collect();
    s.all(&refs)
}

/// True when `unit` (with its suffix) is masked.
fn masked(s: &Survey<'_>, unit: &str) -> Result<bool> {
    let Some(hit) = s.at(&format!("/etc/systemd/system/{unit}"))? else { return Ok(false) };
    Ok(hit.stat.kind == FileType::Link && s.guest().read_link(hit.spot)? == b"/dev/null")
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn sshd_check(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    let binaries = ["/usr/sbin/sshd", "/usr/bin/sshd", "/usr/local/sbin/sshd", "/usr/sbin/dropbear"];
    let Some(binary) = binaries.into_iter().find(|p| s.guest().exists(p)) else {
        found.warnings.push("no SSH server is installed: nobody will be able to log in over the network".into());
        return Ok(found);
    };
    found.notes.push(format!("SSH server: {binary}"));
    for name in ["ssh", "sshd", "dropbear"] {
        for kind in ["service", "socket"] {
            for hit in starters(s, name, &[kind])? {
                // systemd starts what the link's name says, where a unit of that name is.
                let leads = s.guest().resolve(&hit.path, true).is_ok()
                    || UNITS.iter().any(|u| s.guest().exists(&format!("{u}/{name}.{kind}")));
                if leads && !masked(s, &format!("{name}.{kind}"))? {
                    found.notes.push(format!("started by {}", text(&hit.path)));
                    return Ok(found);
                }
            }
        }
    }
    found.warnings.push("the SSH server is installed but nothing starts it".into());
    Ok(found)
}

/// Firewalls that start, each with the links that start it; and whether ufw's own switch is on.
fn switched_on(s: &Survey<'_>) -> Result<Vec<(&'static str, Vec<super::super::find::Hit>)>> {
    let mut out = Vec::new();
    for (name, units) in FIREWALLS {
        let mut links = Vec::new();
        for unit in *units {
            if !masked(s, &format!("{unit}.service"))? {
                links.extend(starters(s, unit, &["service"])?);
            }
        }
        let ufw_off = *name == "ufw" && !s.guest().read_text("/etc/ufw/ufw.conf").unwrap_or_default().lines().any(enabled);
        if !links.is_empty() && !ufw_off {
            out.push((*name, links));
        }
    }
    Ok(out)
}

fn enabled(line: &str) -> bool {
    line.trim().strip_prefix("ENABLED=").is_some_and(|v| v.trim().trim_matches('"').eq_ignore_ascii_case("yes"))
}

fn firewall(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    for (name, links) in switched_on(s)? {
        let from: Vec<String> = links.iter().map(|l| text(&l.path)).collect();
        found.warnings.push(format!("{name} is switched on ({}); firewall-off disables it", from.join(", ")));
    }
    if found.warnings.is_empty() {
        found.notes.push("no firewall is switched on".into());
    }
    Ok(found)
}

fn firewall_off(s: &Survey<'_>) -> Result<Found> {
    const WHY: &str = "the cloud filters; a firewall in the image hides instances from it";
    let mut found = Found::default();
    for (name, units) in FIREWALLS {
        for unit in *units {
            for hit in starters(s, unit, &["service"])?.iter().filter(|h| h.stat.kind != FileType::Folder) {
                found.changes.push(hit.change(Edit::Remove, WHY));
            }
        }
        if *name == "ufw" {
            s.rewrite(&mut found, &["/etc/ufw/ufw.conf"], WHY, |t| {
                t.split_inclusive('\n').map(|l| if enabled(l) { "ENABLED=no\n" } else { l }).collect()
            })?;
        }
    }
    Ok(found)
}
