//! Accounts: people's keys, passwords and jobs. Off by default: an image without them may be one that nobody can enter.

use super::super::find::Survey;
use super::super::{Default, Edit, Found, Operation};
use crate::engine::error::Result;
use crate::engine::guest::fs::FileType;

pub(super) const ALL: &[Operation] = &[
    Operation {
        id: "cron-spool",
        title: "Remove people's cron and at jobs",
        files: &["/var/spool/cron/crontabs/* (Debian), /var/spool/cron/* (RHEL)", "/var/spool/at/*, /var/spool/cron/atjobs/*"],
        default: Default::Off,
        reports_only: false,
        verified: "none is left",
        find: cron_spool,
    },
    Operation {
        id: "ssh-userdir",
        title: "Remove people's SSH keys and known hosts",
        files: &["~/.ssh/*"],
        default: Default::Off,
        reports_only: false,
        verified: "none is left",
        find: ssh_userdir,
    },
    Operation {
        id: "passwords",
        title: "Lock every password",
        files: &["/etc/shadow"],
        default: Default::Off,
        reports_only: false,
        verified: "no hash is left in the file",
        find: passwords,
    },
];

fn cron_spool(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    let files = [
        "/var/spool/cron/*",
        "/var/spool/cron/crontabs/*",
        "/var/spool/cron/tabs/*",
        "/var/spool/at/*",
        "/var/spool/cron/atjobs/*",
    ];
    s.remove(&mut found, &files, "a person's jobs", false)?;
    found.changes.retain(|c| !c.path.ends_with(b"/.SEQ"));
    Ok(found)
}

fn ssh_userdir(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    s.remove(&mut found, &["~/.ssh/*"], "a person's keys and the hosts known to them", false)?;
    Ok(found)
}

fn passwords(s: &Survey<'_>) -> Result<Found> {
    let mut found = Found::default();
    for hit in s.all(&["/etc/shadow"])?.into_iter().filter(|h| h.stat.kind == FileType::File) {
        let text = s.text(&hit);
        let new = locked(&text);
        if new != text {
            found.changes.push(hit.change(Edit::Replace(new.into_bytes()), "the hash goes; logging in by key stays possible"));
        }
    }
    if !found.changes.is_empty() {
        found.warnings.push("nobody can log in by password any more: see that keys or cloud-init let somebody in".into());
    }
    Ok(found)
}

/// `shadow` with every password hash replaced by `!`, which no password fits.
fn locked(shadow: &str) -> String {
    let line = |l: &str| match l.split(':').collect::<Vec<_>>() {
        fields if fields.len() >= 2 && fields.get(1).is_some_and(|h| !h.starts_with(['!', '*'])) => {
            let rest = fields.get(2..).unwrap_or_default().join(":");
            format!("{}:!:{rest}", fields.first().unwrap_or(&""))
        }
        fields if fields.get(1).is_some_and(|h| h.len() > 2 && h.contains('$')) => {
            let rest = fields.get(2..).unwrap_or_default().join(":");
            format!("{}:!:{rest}", fields.first().unwrap_or(&""))
        }
        _ => l.to_string(),
    };
    shadow
        .split_inclusive('\n')
        .map(|l| {
            let body = l.strip_suffix('\n').unwrap_or(l);
            line(body) + l.get(body.len()..).unwrap_or_default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn hashes_go_and_the_rest_stays() {
        let text =
            "root:$6$salt$hash:19000:0:99999:7:::\nbin:*:19000:0:99999:7:::\nempty::1::::\nlocked:!$6$s$h:1::::\nx:!!:1::::\n";
        let new = "root:!:19000:0:99999:7:::\nbin:*:19000:0:99999:7:::\nempty:!:1::::\nlocked:!:1::::\nx:!!:1::::\n";
        assert_eq!(super::locked(text), new);
    }
}
