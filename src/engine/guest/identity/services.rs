//! What runs: the init system, cloud-init, guest agents, the secure shell server and the firewalls, each with what starts it.

use super::{Identity, shell_value};
use crate::engine::guest::tree::Guest;

/// Whether a service starts with the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It starts.
    Enabled,
    /// It is installed and does not start.
    Off,
    /// It is masked: nothing can start it.
    Masked,
}

impl Start {
    /// In a word.
    pub fn text(self) -> &'static str {
        match self {
            Start::Enabled => "enabled",
            Start::Off => "off",
            Start::Masked => "masked",
        }
    }
}

/// A service that is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name, e.g. `ufw`.
    pub name: &'static str,
    /// Whether it starts.
    pub start: Start,
    /// The file that shows it: the link that starts it, the mask, the setting, or the program.
    pub from: String,
}

/// A service that is looked for.
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// systemd units that run it.
    pub units: &'static [&'static str],
    /// Scripts of System V init and OpenRC.
    pub scripts: &'static [&'static str],
    /// Its program, any of which shows that it is installed.
    pub programs: &'static [&'static str],
}

/// Secure shell servers.
pub const SSHD: &[Known] = &[
    Known {
        name: "openssh",
        units: &["ssh.service", "sshd.service", "ssh.socket", "sshd.socket"],
        scripts: &["ssh", "sshd"],
        programs: &["/usr/sbin/sshd", "/sbin/sshd", "/usr/bin/sshd"],
    },
    Known {
        name: "dropbear",
        units: &["dropbear.service", "dropbear.socket"],
        scripts: &["dropbear"],
        programs: &["/usr/sbin/dropbear", "/usr/bin/dropbear"],
    },
];

/// Firewalls.
pub const FIREWALLS: &[Known] = &[
    Known { name: "firewalld", units: &["firewalld.service"], scripts: &["firewalld"], programs: &["/usr/sbin/firewalld"] },
    Known { name: "ufw", units: &["ufw.service"], scripts: &["ufw"], programs: &["/usr/sbin/ufw", "/sbin/ufw"] },
    Known { name: "nftables", units: &["nftables.service"], scripts: &["nftables"], programs: &["/usr/sbin/nft", "/sbin/nft"] },
    Known {
        name: "iptables",
        units: &["iptables.service", "ip6tables.service", "netfilter-persistent.service", "iptables-persistent.service"],
        scripts: &["iptables", "ip6tables", "netfilter-persistent", "iptables-persistent"],
        programs: &["/usr/sbin/iptables", "/sbin/iptables"],
    },
    Known {
        name: "SuSEfirewall2",
        units: &["SuSEfirewall2.service", "SuSEfirewall2_init.service"],
        scripts: &["SuSEfirewall2_init", "SuSEfirewall2_setup"],
        programs: &["/sbin/SuSEfirewall2", "/usr/sbin/SuSEfirewall2"],
    },
];

/// What starts services in this guest: every link that does, found once.
pub struct Starters {
    /// Unit or script name, and the path of the link.
    links: Vec<(String, String)>,
}

/// Folders of units.
const UNITS: &[&str] = &["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

impl Starters {
    /// Looks through the folders of systemd, System V and OpenRC.
    pub fn of(g: &Guest) -> Starters {
        let mut links = Vec::new();
        for base in ["/etc/systemd/system", "/usr/lib/systemd/system"] {
            for folder in g.names(base).iter().filter(|n| n.ends_with(".wants") || n.ends_with(".requires")).take(500) {
                let at = format!("{base}/{folder}");
                links.extend(g.names(&at).into_iter().map(|name| (name.clone(), format!("{at}/{name}"))));
            }
        }
        for level in ["2", "3", "4", "5"] {
            let at = ["/etc/rc", "/etc/rc.d/rc"].map(|p| format!("{p}{level}.d"));
            for (folder, name) in at.iter().flat_map(|f| g.names(f).into_iter().map(move |n| (f, n))) {
                // S20ssh starts ssh.
                let script = name.strip_prefix('S').map(|n| n.trim_start_matches(|c: char| c.is_ascii_digit()));
                if let Some(script) = script {
                    links.push((script.to_string(), format!("{folder}/{name}")));
                }
            }
        }
        for level in ["boot", "default"] {
            let at = format!("/etc/runlevels/{level}");
            links.extend(g.names(&at).into_iter().map(|name| (name.clone(), format!("{at}/{name}"))));
        }
        Starters { links }
    }

    /// The links that start `known`.
    pub fn links<'a>(&'a self, known: &'a Known) -> impl Iterator<Item = &'a str> {
        let names = || known.units.iter().chain(known.scripts);
        self.links.iter().filter(move |(n, _)| names().any(|w| w == n)).map(|(_, path)| path.as_str())
    }

    /// How `known` stands in the guest; `None` when it is not installed.
    pub fn state(&self, g: &Guest, known: &Known) -> Option<Service> {
        let program = known.programs.iter().find(|p| g.exists(p))?;
        let service = |start, from: String| Some(Service { name: known.name, start, from });
        for unit in known.units {
            let mask = format!("/etc/systemd/system/{unit}");
            let target = g.resolve(mask.as_bytes(), false).and_then(|s| g.read_link(s));
            if target.is_ok_and(|t| t == b"/dev/null") {
                return service(Start::Masked, mask);
            }
        }
        // A link to a unit that is not there starts nothing; scripts are their own file.
        let starts = |link: &str| {
            let name = link.rsplit('/').next().unwrap_or_default();
            !name.contains('.') || UNITS.iter().any(|u| g.exists(&format!("{u}/{name}")))
        };
        if let Some(link) = self.links(known).find(|l| starts(l)) {
            return service(Start::Enabled, link.to_string());
        }
        // Upstart starts what has a job file.
        if let Some(job) = known.scripts.iter().map(|s| format!("/etc/init/{s}.conf")).find(|p| g.exists(p)) {
            return service(Start::Enabled, job);
        }
        service(Start::Off, (*program).to_string())
    }
}

/// The secure shell server, if one is installed: an enabled one before others.
pub fn sshd(g: &Guest, starters: &Starters) -> Option<Service> {
    let all: Vec<_> = SSHD.iter().filter_map(|k| starters.state(g, k)).collect();
    all.iter().find(|s| s.start == Start::Enabled).or(all.first()).cloned()
}

/// The firewalls that are installed. ufw's own switch counts as well as what starts it.
pub fn firewalls(g: &Guest, starters: &Starters) -> Vec<Service> {
    let mut out = Vec::new();
    for known in FIREWALLS {
        let Some(mut service) = starters.state(g, known) else { continue };
        if known.name == "ufw" && service.start == Start::Enabled {
            let conf = g.read_text(UFW_CONF).unwrap_or_default();
            if !shell_value(&conf, "ENABLED").is_some_and(|v| v.eq_ignore_ascii_case("yes")) {
                service = Service { start: Start::Off, from: UFW_CONF.into(), ..service };
            }
        }
        out.push(service);
    }
    out
}

/// Where ufw's switch is.
pub const UFW_CONF: &str = "/etc/ufw/ufw.conf";

pub(super) fn add(g: &Guest, id: &mut Identity) {
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
        match dpkg_version(g, "cloud-init") {
            Some(version) => id.add("cloud-init", version, DPKG),
            None => id.add("cloud-init", "installed", from),
        }
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
    let starters = Starters::of(g);
    id.sshd = sshd(g, &starters);
    id.firewalls = firewalls(g, &starters);
    if let Some(s) = id.sshd.clone() {
        id.add("sshd", format!("{} {}", s.name, s.start.text()), s.from);
    }
    for f in id.firewalls.clone() {
        id.add("firewall", format!("{} {}", f.name, f.start.text()), f.from);
    }
}

/// What Debian has installed.
const DPKG: &str = "/var/lib/dpkg/status";

/// The version of an installed Debian package.
fn dpkg_version(g: &Guest, package: &str) -> Option<String> {
    let status = g.read_text(DPKG).ok()?;
    let entry = status.split("\n\n").find(|e| e.lines().next() == Some(&format!("Package: {package}")))?;
    entry.lines().find_map(|l| l.strip_prefix("Version: ")).map(str::to_string)
}
