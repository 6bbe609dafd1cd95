//! Requirements that several targets share: about the image itself, and about the guest in it.

use super::subject::Inside;
use super::{Answer, Finding, Part, Readiness, Remedy, Subject};
use crate::engine::guest::identity::services::Start;
use crate::engine::ops::inspect::Health;

/// What every target wants of an image: readable, whole, not in use.
pub(super) fn image(s: &Subject, out: &mut Readiness) {
    let damaged = matches!(s.health, Health::Corrupt | Health::Broken);
    out.add(match (damaged, s.problems.first()) {
        (true, why) => {
            let finding = Finding::no("whole", why.map_or("it is damaged", String::as_str));
            if s.health == Health::Corrupt { finding.fix(Remedy::Check) } else { finding.by_hand("bring back what it stands on") }
        }
        (false, Some(why)) => Finding::advice("whole", why.as_str()),
        (false, None) => Finding::yes("whole", "it opens, with all it stands on"),
    });
    if let Some(who) = &s.held {
        out.add(Finding::no("not in use", who.as_str()).by_hand("shut the guest down first"));
    }
    if let Err(e) = &s.inside
        && !damaged
    {
        out.add(Finding::unknown("content", e.to_string()));
    }
}

/// It stands on nothing: targets take one file.
pub(super) fn alone(s: &Subject, out: &mut Readiness) {
    out.add(match &s.stands_on {
        None => Finding::yes("stands alone", "no backing file, no parent"),
        Some(name) => {
            Finding::no("stands alone", format!("it stands on {name}, {} layers in all", s.layers)).fix(Remedy::Convert)
        }
    });
    if s.specific("data-file").is_some() {
        out.add(Finding::no("one file", "its data is kept in another file").fix(Remedy::Convert));
    }
    let n = s.description.snapshots.len();
    if n > 0 {
        out.add(
            Finding::advice(
                "no snapshots",
                format!("{n} internal snapshots: they are sent along, with all that was removed since"),
            )
            .by_hand("delete them, or convert a copy, which leaves them out"),
        );
    }
}

/// What a target asks of the guest.
pub(super) struct Wants {
    /// Any driver of each group must be at hand at boot: (what for, drivers).
    pub(super) drivers: &'static [(&'static str, &'static [&'static str])],
    /// A driver that is missing keeps the guest from coming up.
    pub(super) drivers_decide: bool,
    /// The guest agent of the platform, as `identity` calls it.
    pub(super) agent: Option<&'static str>,
    /// The guest is cloned and configured from outside: identity must be clean, cloud-init and sshd there.
    pub(super) cloud: bool,
}

/// The requirements of `wants`.
pub(super) fn guest(s: &Subject, wants: &Wants, out: &mut Readiness) {
    let before = out.findings.len();
    inside(s, wants, out);
    out.findings.iter_mut().skip(before).for_each(|f| f.part = Part::Guest);
}

fn inside(s: &Subject, wants: &Wants, out: &mut Readiness) {
    let Ok(inside) = &s.inside else { return };
    if !inside.encrypted.is_empty() {
        out.add(Finding::unknown("guest", format!("encrypted: {}", inside.encrypted.join(", "))));
    }
    if !inside.found {
        let seen = if inside.volumes.is_empty() { "nothing known on it".into() } else { inside.volumes.join(", ") };
        out.add(Finding::unknown("guest", format!("no root filesystem of a Linux guest could be read: {seen}")));
        return;
    }
    drivers(inside, wants, out);
    if wants.cloud {
        cloud(inside, out);
    }
    if let Some(agent) = wants.agent {
        out.add(match inside.identity.all("agent").find(|f| f.value == agent) {
            Some(f) => Finding::yes("guest agent", agent).from(&f.from),
            None => Finding::advice("guest agent", format!("{agent} is not installed")),
        });
    }
}

fn drivers(inside: &Inside, wants: &Wants, out: &mut Readiness) {
    let d = &inside.identity.drivers;
    let refuse = if wants.drivers_decide { Answer::No } else { Answer::Advice };
    for (what, names) in wants.drivers {
        let known: Vec<Option<bool>> = names.iter().map(|n| d.has(n)).collect();
        let listed = names.join(" or ");
        let finding = if let Some(n) = names.iter().zip(&known).find(|(_, k)| **k == Some(true)).map(|(n, _)| n) {
            let how = if d.builtin.contains(n) { "built into the kernel" } else { "in the initramfs" };
            let from = if d.builtin.contains(n) { d.builtin_list.clone() } else { d.initramfs.clone() };
            Finding::yes(what, format!("{n} {how}")).from(from.unwrap_or_default())
        } else if known.iter().all(|k| *k == Some(false)) {
            Finding::new(what, refuse, format!("{listed} is neither in the initramfs nor built in"))
                .from(d.source())
                .by_hand("rebuild the initramfs with it, in the guest (dracut --add-drivers, update-initramfs)")
        } else if let Some(why) = &d.problem {
            Finding::unknown(what, format!("the initramfs could not be read: {why}")).from(d.source())
        } else {
            let why = "no initramfs was found in the guest: it boots only with a kernel from outside";
            Finding::advice(what, why).from("/boot")
        };
        out.add(finding);
    }
}

/// What a guest needs that is cloned and set up from outside.
fn cloud(inside: &Inside, out: &mut Readiness) {
    let id = &inside.identity;
    out.add(match id.first("cloud-init") {
        Some(f) => Finding::yes("cloud-init", f.value.as_str()).from(&f.from),
        None => Finding::no("cloud-init", "not installed: no keys, no user data, no growing").by_hand("install it in the guest"),
    });
    out.add(match &id.sshd {
        Some(s) if s.start == Start::Enabled => Finding::yes("sshd enabled", s.name).from(&s.from),
        Some(s) => Finding::no("sshd enabled", format!("{} is {}", s.name, s.start.text()))
            .from(&s.from)
            .by_hand("enable it in the guest"),
        None => Finding::no("sshd enabled", "no secure shell server is installed").by_hand("install one in the guest"),
    });
    let on: Vec<_> = id.firewalls.iter().filter(|f| f.start == Start::Enabled).collect();
    out.add(match on.first() {
        None => Finding::yes("firewall off", "none starts: the platform's own rules decide"),
        Some(f) => {
            let names: Vec<_> = on.iter().map(|f| f.name).collect();
            Finding::advice(
                "firewall off",
                format!("{} {} with the guest", names.join(", "), if names.len() == 1 { "starts" } else { "start" }),
            )
            .from(&f.from)
            .fix(Remedy::Sanitize("firewall-off"))
        }
    });
    out.add(match id.addresses.first() {
        None => Finding::yes("no hardware addresses", "none in the network configuration"),
        Some(a) => {
            let more = id.addresses.len() - 1;
            let others = if more > 0 { format!(" and {more} more") } else { String::new() };
            let operation = if a.path.contains("/rules.d/") { "udev-net" } else { "net-hwaddr" };
            Finding::no("no hardware addresses", format!("{}{others}", a.text)).from(&a.path).fix(Remedy::Sanitize(operation))
        }
    });
    out.add(match (inside.machine_id_empty, id.first("machine-id")) {
        (Some(false), Some(f)) => {
            Finding::no("machine id empty", f.value.as_str()).from(&f.from).fix(Remedy::Sanitize("machine-id"))
        }
        (Some(_), _) => Finding::yes("machine id empty", "each clone makes its own").from("/etc/machine-id"),
        (None, _) => Finding::yes("machine id empty", "there is none"),
    });
    out.add(match inside.host_keys.first() {
        None => Finding::yes("no host keys", "each clone makes its own"),
        Some(first) => {
            let n = inside.host_keys.len();
            let keys = format!("{n} private host keys, the same in every clone");
            Finding::no("no host keys", keys).from(first).fix(Remedy::Sanitize("ssh-hostkeys"))
        }
    });
    let open: Vec<_> = id.users.iter().filter(|u| u.password.opens()).collect();
    out.add(match open.first() {
        None => Finding::yes("no password logins", "every password is locked"),
        Some(_) => {
            let names: Vec<_> = open.iter().map(|u| format!("{} ({})", u.name, u.password.text())).collect();
            let open = Finding::advice("no password logins", names.join(", ")).from("/etc/shadow");
            // Without another way in, an image whose passwords are locked is one that nobody can enter.
            let keys = id.first("cloud-init").is_some() && id.sshd.as_ref().is_some_and(|s| s.start == Start::Enabled);
            if keys {
                open.fix(Remedy::Sanitize("passwords"))
            } else {
                open.by_hand("lock them as soon as keys let people in (sanitize --enable passwords)")
            }
        }
    });
    root(inside, out);
    out.add(match (&id.console.serial, &id.console.looked) {
        (Some(from), _) => Finding::yes("console on ttyS0", "the kernel is told so").from(from),
        (None, Some(from)) => Finding::advice("console on ttyS0", "the kernel's messages go elsewhere")
            .from(from)
            .by_hand("add console=ttyS0 to the kernel's command line, in the guest"),
        (None, None) => Finding::advice("console on ttyS0", "no boot loader configuration was found"),
    });
}

fn root(inside: &Inside, out: &mut Readiness) {
    let Some(place) = &inside.identity.root else { return };
    let finding = if !place.last {
        Finding::no("root can grow", format!("another partition lies behind {}", place.volume))
            .by_hand("move the partitions behind it, or put the root last")
    } else {
        match (&place.grower, place.logical) {
            (_, true) => Finding::advice(
                "root can grow",
                format!("{} is a logical volume: cloud-init grows only its partition", place.volume),
            )
            .by_hand("cowshed resize --grow-guest grows it with the disk, or pvresize and lvextend in the guest"),
            (Some((how, from)), false) => {
                Finding::yes("root can grow", format!("{} is last; {how} is there", place.volume)).from(from)
            }
            (None, false) if inside.firmware == super::subject::Firmware::Neither => {
                Finding::yes("root can grow", "it fills a disk without partitions")
            }
            (None, false) => {
                Finding::advice("root can grow", format!("{} is last, but nothing grows it (growpart)", place.volume)).by_hand(
                    "cowshed resize --grow-guest grows it with the disk, or install cloud-guest-utils or \
                         cloud-utils-growpart in the guest",
                )
            }
        }
    };
    let from = if finding.from.is_empty() { "partition table".to_string() } else { finding.from.clone() };
    out.add(finding.from(from));
}

/// Formats that a target takes; `None` in `refusal` says that this layout is good.
pub(super) fn format(s: &Subject, out: &mut Readiness, good: Result<String, String>) {
    out.add(match good {
        Ok(why) => Finding::yes("format", why),
        Err(why) => Finding::no("format", why).fix(Remedy::Convert),
    });
    if s.declared != s.format {
        out.add(
            Finding::no("declared format", format!("it is {}, and would be declared as {}", s.format, s.declared))
                .by_hand(format!("declare it as {}", s.format)),
        );
    }
}

/// The size must be a whole number of `unit` bytes and at most `max`.
pub(super) fn size(s: &Subject, out: &mut Readiness, unit: u64, unit_name: &str, max: u64, max_name: &str) {
    if unit > 1 {
        out.add(if s.size.is_multiple_of(unit) && s.size > 0 {
            Finding::yes("size", format!("{} bytes, whole {unit_name}", s.size))
        } else {
            let next = s.size.div_ceil(unit).max(1).saturating_mul(unit);
            Finding::no("size", format!("{} bytes are no whole {unit_name}", s.size)).fix(Remedy::Resize(next))
        });
    }
    if s.size > max {
        out.add(Finding::no("size limit", format!("{} bytes, more than {max_name}", s.size)).by_hand("shrink the guest's disk"));
    }
}
