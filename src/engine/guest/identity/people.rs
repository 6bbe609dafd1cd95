//! Who can log in: users with a shell, their passwords' state, the keys they accept; and the host's own keys.

use std::collections::HashSet;

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
    /// The password is kept in `/etc/shadow`.
    pub shadowed: bool,
}

const PASSWD: &str = "/etc/passwd";
const SHADOW: &str = "/etc/shadow";

/// Lines of the password file looked at.
const MAX_LINES: usize = 10_000;
/// Users told.
const MAX_USERS: usize = 200;

/// Lists of keys that open an account, in its home.
const KEY_LISTS: &[&str] = &["authorized_keys", "authorized_keys2"];
/// Where servers keep the keys of the host, and how these are called.
const HOST_KEYS: &[(&str, &str, &str)] = &[("/etc/ssh", "ssh_host_", "_key"), ("/etc/dropbear", "dropbear_", "_host_key")];

/// The lines of the password file, in fields.
fn accounts(passwd: &str) -> impl Iterator<Item = Vec<&str>> {
    passwd.lines().take(MAX_LINES).map(|l| l.split(':').collect::<Vec<_>>()).filter(|f| f.len() >= 6)
}

/// The users with a shell: root and people (not the system's own accounts).
pub fn users(g: &Guest) -> Vec<User> {
    let passwd = g.read_text(PASSWD).unwrap_or_default();
    let shadow = g.read_text(SHADOW).unwrap_or_default();
    let mut out = Vec::new();
    for fields in accounts(&passwd) {
        let (Some(name), Some(hash), Some(uid), Some(home)) = (fields.first(), fields.get(1), fields.get(2), fields.get(5))
        else {
            continue;
        };
        let uid: u32 = uid.parse().unwrap_or(u32::MAX);
        // Without a shell it is /bin/sh (passwd(5)).
        let shell = fields.get(6).copied().unwrap_or_default();
        let login = !shell.ends_with("nologin") && !shell.ends_with("/false");
        // Older Red Hat systems begin with people at 500.
        if !(uid == 0 || (500..65534).contains(&uid)) || !login || out.len() >= MAX_USERS {
            continue;
        }
        // Only an x sends to the other file (passwd(5)).
        let shadowed = *hash == "x";
        let hash = if shadowed {
            shadow.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')?.split(':').next())
        } else {
            Some(*hash)
        };
        let password = match hash {
            None => Password::None,
            Some("") => Password::Empty,
            Some(h) if h.starts_with('!') || h.starts_with('*') => Password::Locked,
            Some(_) => Password::Set,
        };
        let home = home.trim_end_matches('/').to_string();
        out.push(User { name: (*name).to_string(), uid, home, password, shadowed });
    }
    out
}

/// Homes with whose they are: of accounts with or without a shell, and folders of people who come from elsewhere or are gone.
fn homes(g: &Guest) -> Vec<(String, String)> {
    let passwd = g.read_text(PASSWD).unwrap_or_default();
    let mut out: Vec<(String, String)> = Vec::new();
    let mut seen = HashSet::new();
    for fields in accounts(&passwd) {
        let (Some(name), Some(home)) = (fields.first(), fields.get(5)) else { continue };
        let home = home.trim_end_matches('/');
        if seen.insert(home.to_string()) {
            out.push((home.to_string(), (*name).to_string()));
        }
    }
    for name in g.names("/home").iter().take(MAX_LINES) {
        let home = format!("/home/{name}");
        if seen.insert(home.clone()) {
            let whose = format!("'{name}', who is no user here");
            out.push((home, whose));
        }
    }
    out
}

pub(super) fn add(g: &Guest, id: &mut Identity) {
    let users = users(g);
    for user in &users {
        let from = if user.shadowed { format!("{PASSWD}, {SHADOW}") } else { PASSWD.into() };
        id.add("user", format!("{} (uid {}, {})", user.name, user.uid, user.password.text()), from);
    }
    id.users = users;
    let mut told = 0;
    for (home, whose) in homes(g) {
        for list in KEY_LISTS {
            let path = format!("{home}/.ssh/{list}");
            let Ok(text) = g.read_text(&path) else { continue };
            let n = text.lines().filter(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#')).count();
            if told < MAX_USERS {
                id.add("authorized-keys", format!("{n} of {whose}"), path);
            }
            told += 1;
        }
    }
    for (folder, begin, end) in HOST_KEYS {
        for name in g.names(folder).iter().filter(|n| n.starts_with(begin) && n.ends_with(end)) {
            let path = format!("{folder}/{name}");
            let is_file = g.resolve(path.as_bytes(), true).and_then(|s| g.stat(s)).is_ok_and(|s| s.kind == FileType::File);
            if is_file {
                id.add("host-key", name, path);
            }
        }
    }
}
