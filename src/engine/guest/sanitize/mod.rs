//! Sanitising a guest: the table of operations, and what each finds to do. Operations read a guest and say what would change, in
//! plain data; making the changes, wiping what they leave behind and committing them is done elsewhere, once for all of them.
//!
//! A new operation is one entry in one file of [`operations`], and a line in its list. It is verified by asking it again: on the
//! guest as it became, it must find nothing more to do.

pub mod find;
pub mod operations;

use find::Survey;

use crate::engine::error::{Error, Result};

/// When an operation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Default {
    /// Unless it is switched off.
    On,
    /// Only when it is asked for.
    Off,
}

/// One thing sanitising can do.
pub struct Operation {
    /// Stable word, for `--enable` and `--disable`.
    pub id: &'static str,
    /// What it does, in a line.
    pub title: &'static str,
    /// The files it looks at, per distribution where they differ.
    pub files: &'static [&'static str],
    /// When it runs.
    pub default: Default,
    /// It only tells, and changes nothing.
    pub reports_only: bool,
    /// How its result is verified, in a few words.
    pub verified: &'static str,
    /// Looks at the guest and says what would change.
    pub find: fn(&Survey<'_>) -> Result<Found>,
}

/// What an operation found.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Found {
    /// What would change.
    pub changes: Vec<Change>,
    /// What a person should know of it: facts found, and what is not touched and why.
    pub notes: Vec<String>,
    /// What a person should think about first.
    pub warnings: Vec<String>,
}

/// One change of one file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// Absolute path in the guest, free of links but for its last part.
    #[serde(serialize_with = "as_text")]
    pub path: Vec<u8>,
    /// What happens to it.
    pub edit: Edit,
    /// Why.
    pub reason: &'static str,
}

/// What happens to a file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Edit {
    /// It becomes empty; mode, owner and labels stay.
    Empty,
    /// It gets this content; mode, owner and labels stay.
    Replace(#[serde(serialize_with = "as_text")] Vec<u8>),
    /// It is removed (a file, a link, or anything else but a folder).
    Remove,
    /// The folder is removed, when nothing is left in it.
    RemoveFolder,
    /// It becomes a symbolic link to this; what is there now goes.
    Link(#[serde(serialize_with = "as_text")] Vec<u8>),
}

fn as_text<S: serde::Serializer>(bytes: &[u8], s: S) -> std::result::Result<S::Ok, S::Error> {
    s.serialize_str(&String::from_utf8_lossy(bytes))
}

/// A set of operations with a name.
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// What it is for, in a line.
    pub what: &'static str,
    /// Operations it switches on beyond the default ones.
    pub enable: &'static [&'static str],
    /// Default ones it switches off; `*` stands for all.
    pub disable: &'static [&'static str],
}

/// The profiles there are; configurations add their own.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "openstack",
        what: "what OpenStack asks of an image, and the firewall off, as security groups do its work",
        enable: &["firewall-off"],
        disable: &[],
    },
    Profile { name: "clone", what: "a template to clone: everything that must not be the same twice", enable: &[], disable: &[] },
    Profile {
        name: "minimal",
        what: "only what makes two clones collide: network rules and addresses, host keys, machine id, leases",
        enable: &["udev-net", "net-hwaddr", "ssh-hostkeys", "machine-id", "random-seed", "dhcp", "scrub"],
        disable: &["*"],
    },
];

/// Which operations are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Selection {
    /// The profile's name; `None` for the default operations.
    pub profile: Option<String>,
    /// Operations switched on by hand.
    pub enable: Vec<String>,
    /// Operations switched off by hand; these win.
    pub disable: Vec<String>,
}

impl Selection {
    /// The operations it stands for, in the order of the table.
    ///
    /// Errors: a profile or an operation that is not there.
    pub fn operations(&self) -> Result<Vec<&'static Operation>> {
        let profile = match &self.profile {
            None => None,
            Some(name) => Some(PROFILES.iter().find(|p| p.name == name).ok_or_else(|| {
                let all: Vec<_> = PROFILES.iter().map(|p| p.name).collect();
                Error::usage(format!("there is no profile '{name}'")).hint(format!("there are: {}", all.join(", ")))
            })?),
        };
        for id in self.enable.iter().chain(&self.disable) {
            if !operations::all().any(|o| o.id == id) && id != "*" {
                return Err(Error::usage(format!("there is no operation '{id}'")).hint("sanitize --list shows them"));
            }
        }
        let has = |list: &[&str], id: &str| list.contains(&id);
        let named = |list: &[String], id: &str| list.iter().any(|i| i == id || i == "*");
        Ok(operations::all()
            .filter(|o| {
                let (on, off) =
                    profile.map_or((false, false), |p| (has(p.enable, o.id), has(p.disable, "*") || has(p.disable, o.id)));
                let chosen = on || (o.default == Default::On && !off);
                !named(&self.disable, o.id) && (chosen || named(&self.enable, o.id))
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        let mut ids: Vec<_> = operations::all().map(|o| o.id).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "two operations share an id");
        for p in PROFILES {
            for id in p.enable.iter().chain(p.disable).filter(|i| **i != "*") {
                assert!(ids.contains(id), "profile {}: {id}", p.name);
            }
        }
    }

    #[test]
    fn what_is_switched_off_by_hand_stays_off() {
        let ids = |s: &Selection| s.operations().unwrap().iter().map(|o| o.id).collect::<Vec<_>>();
        let all = ids(&Selection::default());
        assert!(all.contains(&"udev-net") && !all.contains(&"firewall-off"));
        let minimal = Selection { profile: Some("minimal".into()), enable: vec!["logs".into()], disable: vec!["dhcp".into()] };
        assert_eq!(ids(&minimal), ["udev-net", "net-hwaddr", "ssh-hostkeys", "machine-id", "random-seed", "logs", "scrub"]);
        assert!(Selection { enable: vec!["nonsense".into()], ..Selection::default() }.operations().is_err());
        assert!(Selection { profile: Some("nonsense".into()), ..Selection::default() }.operations().is_err());
    }
}
