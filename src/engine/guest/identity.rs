//! Who the guest is: distribution, hostname, kernels, init, cloud-init, agents, users, keys; each fact with the file it is from.

use super::fs::FileType;
use super::tree::Guest;
use crate::engine::io::bytes::le16;
use crate::engine::units::printable;

/// One fact about the guest.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct GuestFact {
    /// What, a stable word: `os`, `hostname`, `architecture`, `kernel`, `virtio`, `init`, `cloud-init`, `agent`, `machine-id`,
    /// `user`, `host-key`, `authorized-keys`, `last-use`.
    pub what: &'static str,
    /// The value, printable.
    pub value: String,
    /// The guest's file it comes from.
    pub from: String,
}

/// What is known of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Identity {
    /// Every fact, in reading order.
    pub facts: Vec<GuestFact>,
}

impl Identity {
    /// The first fact called `what`.
    pub fn get(&self, what: &str) -> Option<&str> {
        self.facts.iter().find(|f| f.what == what).map(|f| f.value.as_str())
    }
    /// All facts called `what`.
    pub fn all<'a>(&'a self, what: &'a str) -> impl Iterator<Item = &'a GuestFact> {
        self.facts.iter().filter(move |f| f.what == what)
    }
    fn add(&mut self, what: &'static str, value: impl AsRef<str>, from: impl Into<String>) {
        let value = printable(value.as_ref().trim());
        if !value.is_empty() {
            self.facts.push(GuestFact { what, value, from: from.into() });
        }
    }
}

/// Reads the guest's identity. What is not there is left out.
pub fn identify(guest: &Guest) -> Identity {
    let mut id = Identity::default();
    system(guest, &mut id);
    kernels(guest, &mut id);
    services(guest, &mut id);
    people(guest, &mut id);
    id
}

/// The value of `KEY=value` in a shell-like file, unquoted.
fn shell_value(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='))?;
    Some(line.trim().trim_matches(['"', '\'']).to_string())
}

fn system(g: &Guest, id: &mut Identity) {
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
    if let Ok(text) = g.read_text("/etc/hostname") {
        id.add("hostname", text.lines().find(|l| !l.starts_with('#')).unwrap_or_default(), "/etc/hostname");
    }
    for from in ["/bin/sh", "/usr/bin/env", "/sbin/init"] {
        if let Some(arch) = architecture(g, from) {
            id.add("architecture", arch, from);
            break;
        }
    }
    if let Ok(bytes) = g.read_file("/etc/machine-id") {
        let text = String::from_utf8_lossy(&bytes).trim().to_string();
        let state = if text.is_empty() { "empty (made at first boot)".into() } else { text };
        id.add("machine-id", state, "/etc/machine-id");
    }
}

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

fn kernels(g: &Guest, id: &mut Identity) {
    let modules = g.names("/lib/modules");
    for name in
        g.names("/boot").iter().filter(|n| n.starts_with("vmlinuz-") || n.starts_with("vmlinux-") || n.starts_with("Image-"))
    {
        let version = name.split_once('-').map_or(name.as_str(), |(_, v)| v);
        id.add("kernel", version, format!("/boot/{name}"));
    }
    for name in g.names("/boot").iter().filter(|n| n.starts_with("initrd") || n.starts_with("initramfs")) {
        id.add("initramfs", name, format!("/boot/{name}"));
    }
    for version in modules {
        let from = format!("/lib/modules/{version}/modules.builtin");
        if g.read_text(&from).is_ok_and(|t| t.contains("virtio_blk.ko")) {
            id.add("virtio", format!("built into {version}"), from);
        }
    }
}

fn services(g: &Guest, id: &mut Identity) {
    for from in ["/sbin/init", "/usr/sbin/init"] {
        if let Ok((_, reached)) = g.resolve_named(from.as_bytes(), true) {
            let reached = String::from_utf8_lossy(&reached).into_owned();
            let init = match reached.rsplit('/').next().unwrap_or_default() {
                "systemd" => "systemd",
                "busybox" => "busybox",
                "openrc-init" => "openrc",
                _ if g.exists("/etc/init/rc.conf") || g.exists("/lib/init/upstart-job") => "upstart",
                _ if g.exists("/sbin/openrc") || g.exists("/usr/sbin/openrc") => "openrc",
                _ => "sysvinit",
            };
            id.add("init", init, reached);
            break;
        }
    }
    if let Some(from) = ["/usr/bin/cloud-init", "/bin/cloud-init", "/usr/local/bin/cloud-init"].into_iter().find(|p| g.exists(p))
    {
        let version = dpkg_version(g, "cloud-init").unwrap_or_else(|| "installed".into());
        id.add("cloud-init", version, from);
    }
    let agents: &[(&str, &[&str])] = &[
        ("qemu-guest-agent", &["/usr/sbin/qemu-ga", "/usr/bin/qemu-ga"]),
        ("open-vm-tools", &["/usr/bin/vmtoolsd", "/usr/sbin/vmtoolsd"]),
        ("walinuxagent", &["/usr/sbin/waagent", "/usr/bin/waagent"]),
        ("hyperv-daemons", &["/usr/sbin/hv_kvp_daemon", "/usr/sbin/hypervkvpd"]),
        ("virtualbox-guest", &["/usr/sbin/VBoxService", "/opt/VBoxGuestAdditions"]),
    ];
    for (name, paths) in agents {
        if let Some(from) = paths.iter().find(|p| g.exists(p)) {
            id.add("agent", name, *from);
        }
    }
    let newest = ["/var/log/wtmp", "/var/log/lastlog", "/var/log/syslog", "/var/log/messages", "/var/log/cloud-init.log"]
        .into_iter()
        .filter_map(|p| Some((g.stat(g.resolve(p.as_bytes(), true).ok()?).ok()?.mtime, p)))
        .max();
    if let Some((at, from)) = newest
        && let Ok(time) = jiff::Timestamp::from_second(at)
    {
        id.add("last-use", time.to_string(), from);
    }
}

/// The version of an installed Debian package.
fn dpkg_version(g: &Guest, package: &str) -> Option<String> {
    let status = g.read_text("/var/lib/dpkg/status").ok()?;
    let entry = status.split("\n\n").find(|e| e.lines().next() == Some(&format!("Package: {package}")))?;
    entry.lines().find_map(|l| l.strip_prefix("Version: ")).map(str::to_string)
}

fn people(g: &Guest, id: &mut Identity) {
    let passwd = g.read_text("/etc/passwd").unwrap_or_default();
    let shadow = g.read_text("/etc/shadow").unwrap_or_default();
    for line in passwd.lines().take(10_000) {
        let fields: Vec<&str> = line.split(':').collect();
        let (Some(name), Some(uid), Some(home), Some(shell)) = (fields.first(), fields.get(2), fields.get(5), fields.get(6))
        else {
            continue;
        };
        let uid: u32 = uid.parse().unwrap_or(u32::MAX);
        let login = !shell.ends_with("nologin") && !shell.ends_with("/false");
        if !(uid == 0 || (1000..65534).contains(&uid)) || !login {
            continue;
        }
        let hash = shadow.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')?.split(':').next());
        let password = match hash {
            None => "no password entry",
            Some("") => "EMPTY password",
            Some(h) if h.starts_with('!') || h.starts_with('*') => "password locked",
            Some(_) => "password set",
        };
        id.add("user", format!("{name} (uid {uid}, {password})"), "/etc/passwd");
        let keys = format!("{}/.ssh/authorized_keys", home.trim_end_matches('/'));
        if let Ok(text) = g.read_text(&keys) {
            let n = text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')).count();
            id.add("authorized-keys", format!("{n} of {name}"), keys);
        }
    }
    for name in g.names("/etc/ssh").iter().filter(|n| n.starts_with("ssh_host_") && n.ends_with("_key")) {
        let path = format!("/etc/ssh/{name}");
        let is_file = g.resolve(path.as_bytes(), true).and_then(|s| g.stat(s)).is_ok_and(|s| s.kind == FileType::File);
        if is_file {
            id.add("host-key", name, path);
        }
    }
}
