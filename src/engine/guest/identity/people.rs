//! Who can log in: users with a shell, their passwords' state, the keys they accept; and the host's own keys.

use super::Identity;
use crate::engine::guest::fs::FileType;
use crate::engine::guest::tree::Guest;

/// State of a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Password {
    /// There is no entry for it.
    None,
    /// Empty: whoever knows the name gets in.
    Empty,
    /// Locked: no password opens it.
    Locked,
    /// A password is set.
    Set,
}

impl Password {
    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            Password::None => "no password entry",
            Password::Empty => "EMPTY password",
            Password::Locked => "password locked",
            Password::Set => "password set",
        }
    }
    /// Someone can log in with it.
    pub fn opens(self) -> bool {
        matches!(self, Password::Empty | Password::Set)
    }
}

/// Somebody with a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name; from the guest.
    pub name: String,
    /// User number.
    pub uid: u32,
    /// Home folder in the guest.
    pub home: String,
    /// State of the password.
    pub password: Password,
}

/// Lines of the password file looked at.
const MAX_LINES: usize = 10_000;
/// Users told.
const MAX_USERS: usize = 200;

/// The users with a shell: root and people (not the system's own accounts).
pub fn users(g: &Guest) -> Vec<User> {
    let passwd = g.read_text("/etc/passwd").unwrap_or_default();
    let shadow = g.read_text("/etc/shadow").unwrap_or_default();
    let mut out = Vec::new();
    for line in passwd.lines().take(MAX_LINES) {
        let fields: Vec<&str> = line.split(':').collect();
        let (Some(name), Some(uid), Some(home), Some(shell)) = (fields.first(), fields.get(2), fields.get(5), fields.get(6))
        else {
            continue;
        };
        let uid: u32 = uid.parse().unwrap_or(u32::MAX);
        let login = !shell.ends_with("nologin") && !shell.ends_with("/false");
        if !(uid == 0 || (1000..65534).contains(&uid)) || !login || out.len() >= MAX_USERS {
            continue;
        }
        let hash = shadow.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')?.split(':').next());
        let password = match hash {
            None => Password::None,
            Some("") => Password::Empty,
            Some(h) if h.starts_with('!') || h.starts_with('*') => Password::Locked,
            Some(_) => Password::Set,
        };
        out.push(User { name: (*name).to_string(), uid, home: home.trim_end_matches('/').to_string(), password });
    }
    out
}

pub(super) fn add(g: &Guest, id: &mut Identity) {
    let users = users(g);
    for user in &users {
        id.add("user", format!("{} (uid {}, {})", user.name, user.uid, user.password.text()), "/etc/passwd");
        let keys = format!("{}/.ssh/authorized_keys", user.home);
        if let Ok(text) = g.read_text(&keys) {
            let n = text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')).count();
            id.add("authorized-keys", format!("{n} of {}", user.name), keys);
        }
    }
    id.users = users;
    for name in g.names("/etc/ssh").iter().filter(|n| n.starts_with("ssh_host_") && n.ends_with("_key")) {
        let path = format!("/etc/ssh/{name}");
        let is_file = g.resolve(path.as_bytes(), true).and_then(|s| g.stat(s)).is_ok_and(|s| s.kind == FileType::File);
        if is_file {
            id.add("host-key", name, path);
        }
    }
}
