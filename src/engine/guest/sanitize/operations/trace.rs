//! Traces: what a guest wrote down while it ran.

use super::super::find::{Hit, Survey};
use super::super::{Default, Edit, Found, Operation};
use crate::engine::error::Result;
use crate::engine::guest::fs::FileType;

pub(super) const ALL: &[Operation] = &[
    Operation {
        id: "dhcp",
        title: "Remove DHCP leases",
        files: &[
            "/var/lib/dhcp, /var/lib/dhclient, /var/lib/dhcpcd, /var/lib/dhcp3 (clients and servers)",
            "/var/lib/NetworkManager/*.lease, internal-*",
            "/var/lib/systemd/network, /run/systemd/netif/leases",
            "/var/lib/wicked (SUSE)",
        ],
        default: Default::On,
        reports_only: false,
        verified: "none is left",
        find: dhcp,
    },
    Operation {
        id: "history",
        title: "Remove the histories of shells and tools",
        files: &[
            "~/.bash_history, .zsh_history, .ash_history, .local/share/fish/fish_history, …",
            "~/.mysql_history, .psql_history, .python_history, .lesshst, .viminfo, …",
        ],
        default: Default::On,
        reports_only: false,
        verified: "none is left",
        find: history,
    },
    Operation {
        id: "cloud-init",
        title: "Make cloud-init begin anew: remove its instances and logs",
        files: &["/var/lib/cloud/instances, instance, data, sem, handlers", "/var/log/cloud-init*.log"],
        default: Default::On,
        reports_only: false,
        verified: "none is left",
        find: cloud_init,
    },
    Operation {
        id: "cloud-init-config",
        title: "Remove cloud-init's seeds and the network configuration it wrote",
        files: &["/var/lib/cloud/seed", "/etc/netplan/50-cloud-init.yaml", "/etc/network/interfaces.d/50-cloud-init*"],
        default: Default::Off,
        reports_only: false,
        verified: "none is left",
        find: cloud_init_config,
    },
    Operation {
        id: "logs",
        title: "Empty the logs, remove rotated ones and the journal",
        files: &["/var/log/**"],
        default: Default::On,
        reports_only: false,
        verified: "every file left is empty",
        find: logs,
    },
    Operation {
        id: "tmp",
        title: "Empty the temporary folders",
        files: &["/tmp", "/var/tmp"],
        default: Default::On,
        reports_only: false,
        verified: "nothing is left in them",
        find: tmp,
    },
    Operation {
        id: "mail",
        title: "Remove local mail",
        files: &["/var/spool/mail/*, /var/mail/*", "/var/spool/postfix/*/*, /var/spool/exim*/input, /var/spool/mqueue"],
        default: Default::On,
        reports_only: false,
        verified: "none is left",
        find: mail,
    },
    Operation {
        id: "crash",
        title: "Remove crash dumps",
        files: &["/var/crash, /var/spool/abrt, /var/lib/systemd/coredump, /var/lib/apport/coredump, /var/lib/systemd/pstore"],
        default: Default::On,
        reports_only: false,
        verified: "none is left",
        find: crash,
    },
    Operation {
        id: "package-cache",
        title: "Remove downloaded packages",
        files: &["/var/cache/apt/archives/*.deb", "/var/cache/{dnf,yum,zypp,pacman/pkg}", "/var/cache/apk"],
        default: Default::On,
        reports_only: false,
        verified: "none is left",
        find: package_cache,
    },
    Operation {
        id: "backup-files",
        title: "Remove the copies that account tools leave",
        files: &["/etc/passwd-, shadow-, group-, gshadow-, subuid-, subgid-", "/var/backups/{passwd,shadow,group,gshadow}.bak"],
        default: Default::On,
        reports_only: false,
        verified: "none is left",
        find: backup_files,
    },
    Operation {
        id: "accounting",
        title: "Remove process accounting and resource records",
        files: &["/var/account/pacct*, /var/log/account/*", "/var/lib/dovecot/instances"],
        default: Default::On,
        reports_only: false,
        verified: "none is left",
        find: accounting,
    },
];

const LOG: &str = "tells what the machine did, with names and addresses";

/// `syslog.1`, `messages-20240101`, `x.log.2.gz`, `y.old`: turned away, never written again.
fn rotated(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name);
    let name = ["gz", "xz", "bz2", "zst", "lzma"]
        .iter()
        .find_map(|z| name.strip_suffix(&format!(".{z}")))
        .map_or((&*name, false), |n| (n, true));
    let (name, packed) = name;
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    packed
        || name.ends_with(".old")
        || name.rsplit_once('.').is_some_and(|(_, n)| digits(n))
        || name.rsplit_once('-').is_some_and(|(_, n)| n.len() >= 8 && digits(n))
}

fn logs(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    let hits = s.glob("/var/log/**")?;
    let journal = |h: &Hit| {
        h.path.windows(9).any(|w| w == b"/journal/") && (h.path.ends_with(b".journal") || h.path.ends_with(b".journal~"))
    };
    for hit in hits.iter().filter(|h| h.stat.kind == FileType::File) {
        if rotated(hit.name()) || journal(hit) {
            found.changes.push(hit.change(Edit::Remove, "an old log, never written again"));
        } else if hit.stat.size > 0 {
            found.changes.push(hit.change(Edit::Empty, LOG));
        }
    }
    for hit in hits.iter().filter(|h| h.stat.kind == FileType::File && h.stat.links > 1) {
        found.warnings.push(format!(
            "{} has {} names: emptying it empties them all",
            String::from_utf8_lossy(&hit.path),
            hit.stat.links
        ));
    }
    Ok(found)
}

fn dhcp(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    let files = [
        "/var/lib/dhcp/*.lease*",
        "/var/lib/dhcp/*/*.lease*",
        "/var/lib/dhcp3/*.lease*",
        "/var/lib/dhclient/*.lease*",
        "/var/lib/dhcpcd/*.lease*",
        "/var/lib/dhcpcd/*.lease",
        "/var/lib/dhcpd/*.leases*",
        "/var/db/dhcpcd/*.lease*",
        "/var/lib/NetworkManager/*.lease",
        "/var/lib/NetworkManager/secret_key",
        "/var/lib/NetworkManager/seen-bssids",
        "/var/lib/systemd/network/*lease*",
        "/var/lib/wicked/lease-*",
        "/var/lib/wicked/duid.xml",
        "/var/lib/misc/dnsmasq.leases",
    ];
    s.remove(&mut found, &files, "an address that another network gave", false)?;
    Ok(found)
}

fn history(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    let files = [
        "~/.bash_history",
        "~/.zsh_history",
        "~/.zhistory",
        "~/.histfile",
        "~/.ash_history",
        "~/.sh_history",
        "~/.history",
        "~/.ksh_history",
        "~/.local/share/fish/fish_history",
        "~/.mysql_history",
        "~/.mariadb_history",
        "~/.psql_history",
        "~/.sqlite_history",
        "~/.rediscli_history",
        "~/.python_history",
        "~/.node_repl_history",
        "~/.php_history",
        "~/.irb_history",
        "~/.lesshst",
        "~/.viminfo",
        "~/.local/state/python_history",
        "~/.local/state/lesshst",
        "~/.local/state/bash/history",
        "~/.wget-hsts",
        "~/.sudo_as_admin_successful",
    ];
    s.remove(&mut found, &files, "what was typed, passwords among it", false)?;
    Ok(found)
}

fn cloud_init(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    let why = "cloud-init would take the clone for the instance it has seen";
    let files = [
        "/var/lib/cloud/instance",
        "/var/lib/cloud/instances/**",
        "/var/lib/cloud/data/**",
        "/var/lib/cloud/sem/**",
        "/var/lib/cloud/handlers/**",
        "/var/log/cloud-init.log",
        "/var/log/cloud-init-output.log",
    ];
    s.remove(&mut found, &files, why, true)?;
    Ok(found)
}

fn cloud_init_config(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    let files = ["/var/lib/cloud/seed/**", "/etc/netplan/50-cloud-init.yaml", "/etc/network/interfaces.d/50-cloud-init*"];
    s.remove(&mut found, &files, "written for one instance", false)?;
    Ok(found)
}

fn tmp(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    s.remove(&mut found, &["/tmp/**", "/var/tmp/**"], "temporary", true)?;
    Ok(found)
}

fn mail(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    let files = [
        "/var/spool/mail/*",
        "/var/mail/*",
        "/var/spool/mqueue/*",
        "/var/spool/clientmqueue/*",
        "/var/spool/postfix/*/*",
        "/var/spool/exim/input/**",
        "/var/spool/exim4/input/**",
        "/var/spool/exim4/msglog/**",
    ];
    s.remove(&mut found, &files, "local mail", false)?;
    // Postfix keeps its chroot (libraries, resolv.conf) and sockets beside its queues.
    let queues = ["active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "maildrop", "saved", "trace"];
    found.changes.retain(|c| {
        let text = String::from_utf8_lossy(&c.path).into_owned();
        text.strip_prefix("/var/spool/postfix/").is_none_or(|r| queues.contains(&r.split('/').next().unwrap_or_default()))
    });
    Ok(found)
}

fn crash(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    let files = [
        "/var/crash/**",
        "/var/spool/abrt/**",
        "/var/tmp/abrt/**",
        "/var/lib/systemd/coredump/*",
        "/var/lib/systemd/pstore/**",
        "/var/lib/apport/coredump/*",
        "/var/lib/kdump/*",
    ];
    s.remove(&mut found, &files, "memory of programs, with whatever was in it", true)?;
    Ok(found)
}

fn package_cache(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    let files = [
        "/var/cache/apt/archives/*.deb",
        "/var/cache/apt/archives/partial/*",
        "/var/cache/apt/*.bin",
        "/var/cache/dnf/**",
        "/var/cache/libdnf5/**",
        "/var/cache/yum/**",
        "/var/cache/zypp/**",
        "/var/cache/pacman/pkg/*",
        "/var/cache/apk/*",
    ];
    s.remove(&mut found, &files, "can be downloaded again", false)?;
    Ok(found)
}

fn backup_files(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    let files = [
        "/etc/passwd-",
        "/etc/shadow-",
        "/etc/group-",
        "/etc/gshadow-",
        "/etc/subuid-",
        "/etc/subgid-",
        "/var/backups/passwd.bak",
        "/var/backups/shadow.bak",
        "/var/backups/group.bak",
        "/var/backups/gshadow.bak",
    ];
    s.remove(&mut found, &files, "an old copy, with password hashes that no longer count", false)?;
    Ok(found)
}

/// The file that the one at `path`, found by [`backup_files`], is a copy of.
pub fn copied_from(path: &[u8]) -> Option<Vec<u8>> {
    let name = path.strip_prefix(b"/var/backups/").and_then(|n| n.strip_suffix(b".bak"));
    let name = name.or_else(|| path.strip_prefix(b"/etc/")?.strip_suffix(b"-"))?;
    Some([b"/etc/", name].concat())
}

fn accounting(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    s.remove(&mut found, &["/var/account/pacct*", "/var/log/account/*", "/var/lib/dovecot/instances"], "records of use", false)?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    #[test]
    fn copies_name_what_they_are_of() {
        let of = |p: &[u8]| super::copied_from(p);
        assert_eq!(
            (of(b"/etc/shadow-"), of(b"/var/backups/group.bak")),
            (Some(b"/etc/shadow".to_vec()), Some(b"/etc/group".to_vec()))
        );
        assert_eq!((of(b"/etc/shadow"), of(b"/home/a-"), of(b"/var/backups/group.1")), (None, None, None));
    }

    #[test]
    fn rotated_logs_are_told_from_those_in_use() {
        for old in ["syslog.1", "messages-20240101", "dpkg.log.2.gz", "x.old", "y.xz"] {
            assert!(super::rotated(old.as_bytes()), "{old}");
        }
        for used in ["syslog", "dpkg.log", "wtmp", "cloud-init-output.log", "boot-2.log"] {
            assert!(!super::rotated(used.as_bytes()), "{used}");
        }
    }
}
