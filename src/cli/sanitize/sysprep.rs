//! The other backend: `virt-sysprep` of libguestfs, where it is installed, for what cowshed refuses.

use std::process::Command;

use super::super::Failure;
use super::super::out::Out;
use crate::engine::error::{Error, ErrorKind};
use crate::engine::ops::sanitize::{Action, SanitizeSpec};

const PROGRAM: &str = "virt-sysprep";

/// Our operations in its words. What it does not know is left out; what it cannot do at all (wiping) is said.
const NAMES: &[(&str, &[&str])] = &[
    ("udev-net", &["udev-persistent-net"]),
    ("net-hwaddr", &["net-hwaddr", "net-nmconn"]),
    ("net-hostname", &["net-hostname"]),
    ("ssh-hostkeys", &["ssh-hostkeys"]),
    ("machine-id", &["machine-id"]),
    ("subscription", &["rh-subscription-manager", "rhn-systemid"]),
    ("logs", &["logfiles", "utmp"]),
    ("dhcp", &["dhcp-client-state", "dhcp-server-state"]),
    ("history", &["bash-history"]),
    ("tmp", &["tmp-files"]),
    ("mail", &["mail-spool"]),
    ("crash", &["crash-data", "abrt-data"]),
    ("package-cache", &["package-manager-cache"]),
    ("backup-files", &["passwd-backups"]),
    ("accounting", &["pacct-log", "dovecot-data"]),
    ("cron-spool", &["cron-spool"]),
    ("ssh-userdir", &["ssh-userdir"]),
    ("kerberos-keytab", &["kerberos-hostkeytab"]),
    ("kerberos-data", &["kerberos-data"]),
    ("ipa", &["ipa-client"]),
    ("sssd", &["sssd-db-log"]),
    ("samba", &["samba-db-log"]),
    ("ca-certificates", &["ca-certificates"]),
];

fn installed() -> bool {
    std::env::var_os("PATH").is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(PROGRAM).is_file()))
}

/// A refusal, with the other way to it where there is one.
pub(super) fn offer_in(failure: Failure) -> Failure {
    if failure.refused() && installed() {
        return failure.or_hint("virt-sysprep is installed: --backend libguestfs uses it (no undo, no wiping)");
    }
    failure
}

/// Has `virt-sysprep` do it, in place.
pub(super) fn run(spec: &SanitizeSpec, dry: bool, out: &mut Out) -> Result<u8, Failure> {
    if spec.action != Action::Sanitize || spec.target.is_some() {
        return Err(Error::usage("--backend libguestfs works in place and knows no undo").into());
    }
    if !installed() {
        return Err(Error::new(ErrorKind::NotFound, format!("{PROGRAM} is not installed"))
            .hint("it comes with guestfs-tools (libguestfs-tools on older systems)")
            .into());
    }
    let operations = spec.selection.operations()?;
    let theirs: Vec<&str> = operations
        .iter()
        .filter_map(|o| NAMES.iter().find(|(id, _)| *id == o.id))
        .flat_map(|(_, names)| names.iter().copied())
        .collect();
    for o in operations.iter().filter(|o| !o.reports_only && !NAMES.iter().any(|(id, _)| *id == o.id)) {
        eprintln!("cowshed: warning: {PROGRAM} has nothing like '{}'; it is not done", o.id);
    }
    let mut command = Command::new(PROGRAM);
    if let Some(f) = spec.format {
        command.args(["--format", f.name()]);
    }
    command.arg("--enable").arg(theirs.join(",")).arg("-a").arg(&spec.image);
    if dry {
        command.arg("--dryrun");
    }
    out.flush()?;
    let status = command.status().map_err(|e| Error::from(e).op("run virt-sysprep"))?;
    Ok(u8::from(!status.success()))
}
