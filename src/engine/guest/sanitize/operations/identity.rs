//! Identity: what must not be the same in two clones.

use super::super::find::Survey;
use super::super::{Default, Edit, Found, Operation};
use crate::engine::error::Result;
use crate::engine::guest::fs::FileType;
use crate::engine::guest::identity::UNSET_ID;

pub(super) const ALL: &[Operation] = &[
    Operation {
        id: "ssh-hostkeys",
        title: "Remove the SSH host keys",
        files: &["/etc/ssh/ssh_host_*", "/etc/dropbear/dropbear_*_host_key"],
        default: Default::On,
        reports_only: false,
        verified: "no key is there, and none in the image's bytes",
        find: ssh_hostkeys,
    },
    Operation {
        id: "machine-id",
        title: "Empty the machine id",
        files: &["/etc/machine-id", "/var/lib/dbus/machine-id (where it is a file of its own)"],
        default: Default::On,
        reports_only: false,
        verified: "the file is empty",
        find: machine_id,
    },
    Operation {
        id: "random-seed",
        title: "Remove saved random seeds",
        files: &[
            "/var/lib/systemd/random-seed",
            "/var/lib/urandom/random-seed, /var/lib/urandom-seed, /var/lib/random-seed (Debian, RHEL)",
            "/var/lib/misc/random-seed",
            "loader/random-seed of systemd-boot in /boot, /boot/efi and /efi",
            "/var/lib/seedrng",
        ],
        default: Default::On,
        reports_only: false,
        verified: "absent",
        find: random_seed,
    },
    Operation {
        id: "subscription",
        title: "Remove subscriptions and their credentials",
        files: &[
            "/etc/pki/consumer, /etc/pki/entitlement, /var/lib/rhsm (RHSM)",
            "/etc/sysconfig/rhn/systemid (RHN)",
            "/etc/SUSEConnect, /etc/zypp/credentials.d (SUSE)",
            "/var/lib/ubuntu-advantage/private (Ubuntu Pro)",
        ],
        default: Default::On,
        reports_only: false,
        verified: "absent",
        find: subscription,
    },
    Operation {
        id: "kerberos-keytab",
        title: "Remove the host's Kerberos keytab",
        files: &["/etc/krb5.keytab"],
        default: Default::Off,
        reports_only: false,
        verified: "absent",
        find: keytab,
    },
    Operation {
        id: "kerberos-data",
        title: "Remove the data of a Kerberos server",
        files: &["/var/kerberos/krb5kdc/*"],
        default: Default::Off,
        reports_only: false,
        verified: "absent",
        find: kerberos_data,
    },
    Operation {
        id: "ipa",
        title: "Remove the enrolment in an IPA domain",
        files: &["/etc/ipa/ca.crt, /etc/ipa/default.conf", "/var/lib/ipa-client"],
        default: Default::Off,
        reports_only: false,
        verified: "absent",
        find: ipa,
    },
    Operation {
        id: "sssd",
        title: "Remove SSSD's caches",
        files: &["/var/lib/sss/db, /var/lib/sss/mc, /var/log/sssd"],
        default: Default::Off,
        reports_only: false,
        verified: "absent",
        find: sssd,
    },
    Operation {
        id: "samba",
        title: "Remove Samba's secrets and caches",
        files: &["/var/lib/samba/**/*.tdb, *.ldb", "/var/cache/samba", "/var/log/samba"],
        default: Default::Off,
        reports_only: false,
        verified: "absent",
        find: samba,
    },
    Operation {
        id: "ca-certificates",
        title: "Remove certificate authorities added by hand",
        files: &[
            "/etc/pki/ca-trust/source/anchors (RHEL)",
            "/usr/local/share/ca-certificates (Debian)",
            "/etc/pki/trust/anchors (SUSE)",
        ],
        default: Default::Off,
        reports_only: false,
        verified: "absent",
        find: ca_certificates,
    },
];

fn ssh_hostkeys(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    let why = "every clone would have the same key, and whoever has one has them all";
    s.remove(&mut found, &["/etc/ssh/ssh_host_*", "/etc/dropbear/dropbear_*_host_key"], why, false)?;
    if !found.changes.is_empty() && !regenerates(s)? {
        found.warnings.push("nothing was found that makes new host keys at boot: SSH may not start in a clone".into());
    }
    Ok(found)
}

/// True when something makes SSH host keys at boot.
fn regenerates(s: &Survey<'_>) -> Result<bool> {
    let g = s.guest();
    let programs = [
        "/usr/bin/cloud-init",
        "/usr/libexec/openssh/sshd-keygen",
        "/usr/sbin/sshd-keygen",
        "/usr/lib/systemd/system/sshd-keygen@.service",
        "/usr/lib/systemd/system/sshdgenkeys.service",
        "/usr/lib/systemd/system/ssh-keygen.service",
        "/etc/systemd/system/regenerate_ssh_host_keys.service",
        "/lib/systemd/system/sshd-keygen.target",
        "/usr/sbin/sshd-gen-keys-start",
    ];
    if programs.iter().any(|p| g.exists(p)) {
        return Ok(true);
    }
    // Alpine's and the older distributions' init scripts do it themselves.
    let scripts = ["/etc/init.d/sshd", "/etc/conf.d/sshd", "/etc/rc.local", "/etc/rc.d/rc.local"];
    Ok(scripts.iter().any(|p| g.read_text(p).is_ok_and(|t| t.contains("ssh-keygen"))))
}

fn machine_id(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    let why = "systemd makes a new one where it finds an empty file; a value would be every clone's";
    for hit in s.all(&["/etc/machine-id"])? {
        match hit.stat.kind {
            FileType::File if hit.stat.size > 0 && s.text(&hit).trim() != UNSET_ID => {
                found.changes.push(hit.change(Edit::Empty, why));
            }
            _ => {}
        }
    }
    for hit in s.all(&["/var/lib/dbus/machine-id"])? {
        // As a link it leads to the one above.
        if hit.stat.kind == FileType::File && hit.stat.size > 0 {
            let new = "D-Bus makes or copies a new one when it is absent";
            found.changes.push(hit.change(Edit::Remove, new));
        }
    }
    Ok(found)
}

fn random_seed(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    let seeds = [
        "/var/lib/systemd/random-seed",
        "/var/lib/urandom/random-seed",
        "/var/lib/urandom-seed",
        "/var/lib/random-seed",
        "/var/lib/misc/random-seed",
        "/var/lib/seedrng/seed.*",
        "/boot/loader/random-seed",
        "/boot/efi/loader/random-seed",
        "/efi/loader/random-seed",
    ];
    s.remove(&mut found, &seeds, "two machines must not begin with the same random numbers", false)?;
    Ok(found)
}

fn subscription(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    let files = [
        "/etc/pki/consumer/*",
        "/etc/pki/entitlement/*",
        "/var/lib/rhsm/facts/*",
        "/var/lib/rhsm/cache/*",
        "/var/lib/rhsm/packages/*",
        "/etc/sysconfig/rhn/systemid",
        "/etc/sysconfig/rhn/osad-auth.conf",
        "/etc/SUSEConnect",
        "/etc/zypp/credentials.d/*",
        "/var/lib/ubuntu-advantage/private/*",
        "/var/lib/ubuntu-pro/private/*",
    ];
    s.remove(&mut found, &files, "belongs to the machine that was registered", false)?;
    Ok(found)
}

fn keytab(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    s.remove(&mut found, &["/etc/krb5.keytab"], "holds the host's own keys", false)?;
    Ok(found)
}

fn kerberos_data(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    s.remove(&mut found, &["/var/kerberos/krb5kdc/**"], "the server's data", false)?;
    // Its configuration is no data of the realm.
    found.changes.retain(|c| !c.path.ends_with(b".conf") && !c.path.ends_with(b".acl"));
    Ok(found)
}

fn ipa(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    let files = ["/etc/ipa/ca.crt", "/etc/ipa/default.conf", "/var/lib/ipa-client/**"];
    s.remove(&mut found, &files, "the enrolment belongs to one machine", false)?;
    Ok(found)
}

fn sssd(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    s.remove(
        &mut found,
        &["/var/lib/sss/db/*", "/var/lib/sss/mc/*", "/var/log/sssd/*"],
        "caches of people and their keys",
        false,
    )?;
    Ok(found)
}

fn samba(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    let files = [
        "/var/lib/samba/*.tdb",
        "/var/lib/samba/*.ldb",
        "/var/lib/samba/*/*.tdb",
        "/var/lib/samba/*/*.ldb",
        "/var/cache/samba/**",
        "/var/log/samba/**",
    ];
    s.remove(&mut found, &files, "the machine's secrets and caches", false)?;
    Ok(found)
}

fn ca_certificates(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    let folders = ["/etc/pki/ca-trust/source/anchors/*", "/usr/local/share/ca-certificates/**", "/etc/pki/trust/anchors/*"];
    s.remove(&mut found, &folders, "added by hand", false)?;
    Ok(found)
}
