//! Who the guest is: distribution, hostname, kernels, init, services, users, keys, network; each fact with the file it is from.
//!
//! [`Identity`] holds every fact as text for people and programs, and those that decisions hang on (readiness, sanitising) as
//! values. One subject per file below; none of them writes.

pub mod boot;
pub mod network;
pub mod people;
pub mod root;
pub mod services;
mod system;
mod used;

pub use system::UNSET_ID;

use super::tree::Guest;
use crate::engine::units::printable;

/// One fact about the guest.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct GuestFact {
    /// What, a stable word: `os`, `hostname`, `architecture`, `kernel`, `initramfs`, `virtio`, `drivers`, `console`, `root`,
    /// `growable`, `init`, `cloud-init`, `agent`, `sshd`, `firewall`, `mac`, `machine-id`, `user`, `host-key`,
    /// `authorized-keys`, `last-use`.
    pub what: &'static str,
    /// The value, printable.
    pub value: String,
    /// The guest's file it comes from, or where else it was seen.
    pub from: String,
}

/// What is known of the guest.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Identity {
    /// Every fact, in reading order.
    pub facts: Vec<GuestFact>,
    /// Drivers at hand when the guest boots.
    #[serde(skip)]
    pub drivers: boot::Drivers,
    /// Where the kernel writes its messages.
    #[serde(skip)]
    pub console: boot::Console,
    /// Where the root filesystem lies and whether it can grow.
    #[serde(skip)]
    pub root: Option<root::RootPlace>,
    /// The secure shell server.
    #[serde(skip)]
    pub sshd: Option<services::Service>,
    /// Firewalls that are installed.
    #[serde(skip)]
    pub firewalls: Vec<services::Service>,
    /// Hardware addresses kept in the guest's configuration.
    #[serde(skip)]
    pub addresses: Vec<network::HardwareAddress>,
    /// People who can log in.
    #[serde(skip)]
    pub users: Vec<people::User>,
}

impl Identity {
    /// The first fact called `what`.
    pub fn get(&self, what: &str) -> Option<&str> {
        self.first(what).map(|f| f.value.as_str())
    }
    /// The same with its file.
    pub fn first(&self, what: &str) -> Option<&GuestFact> {
        self.facts.iter().find(|f| f.what == what)
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
    if guest.mounts.is_empty() {
        return id;
    }
    system::add(guest, &mut id);
    boot::add(guest, &mut id);
    root::add(guest, &mut id);
    services::add(guest, &mut id);
    network::add(guest, &mut id);
    people::add(guest, &mut id);
    used::add(guest, &mut id);
    id
}

/// The value of `KEY=value` in a shell-like file, unquoted.
fn shell_value(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find_map(|l| l.trim_start().strip_prefix(key)?.strip_prefix('='))?;
    Some(line.trim().trim_matches(['"', '\'']).to_string())
}
