//! Finding files in a guest for the operations: patterns, homes, text. Reads only; links lead somewhere in the guest.

use std::collections::BTreeMap;

use super::{Change, Edit, Found};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::guest::fs::{FileType, Stat};
use crate::engine::guest::tree::{Guest, Spot};
use crate::engine::units::printable_bytes;

/// Names one pattern may match, at most.
const MAX_FOUND: usize = 1_000_000;
/// Folders within folders that `**` goes down, at most.
const MAX_DEPTH: usize = 200;

/// A file that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Its path, free of links but for its last part.
    pub path: Vec<u8>,
    /// Where it is.
    pub spot: Spot,
    /// Its facts; of the link itself, when it is one.
    pub stat: Stat,
}

impl Hit {
    /// The change that does `edit` to it.
    pub fn change(&self, edit: Edit, reason: &'static str) -> Change {
        Change { path: self.path.clone(), edit, reason }
    }
    /// Its last name.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|b| *b == b'/').next().unwrap_or_default()
    }
}

/// A guest as operations look at it: as it will be after what earlier operations found.
pub struct Survey<'a> {
    guest: &'a Guest,
    homes: Vec<String>,
    /// What is going to happen to files, by path.
    pending: BTreeMap<Vec<u8>, Edit>,
}

impl<'a> Survey<'a> {
    /// Of `guest`.
    pub fn new(guest: &'a Guest) -> Self {
        let mut homes = vec!["/root".to_string()];
        for line in guest.read_text("/etc/passwd").unwrap_or_default().lines().take(10_000) {
            let fields: Vec<&str> = line.split(':').collect();
            let (Some(uid), Some(home)) = (fields.get(2).and_then(|u| u.parse::<u32>().ok()), fields.get(5)) else { continue };
            // Services have their "homes" in places that are no homes.
            if (uid == 0 || uid >= 500) && home.starts_with('/') && *home != "/" && !homes.iter().any(|h| h == home) {
                homes.push((*home).to_string());
            }
        }
        // People may come from elsewhere (LDAP), or be gone while their folder is not.
        for name in guest.names("/home") {
            let home = format!("/home/{name}");
            if !homes.contains(&home) {
                homes.push(home);
            }
        }
        Survey { guest, homes, pending: BTreeMap::new() }
    }
    /// Takes `changes` as made: later operations see the guest with them.
    pub fn accept(&mut self, changes: &[Change]) {
        for c in changes {
            self.pending.insert(c.path.clone(), c.edit.clone());
        }
    }
    /// What is going to happen, each file once.
    pub fn pending(&self) -> &BTreeMap<Vec<u8>, Edit> {
        &self.pending
    }
    /// The content of the regular file at `path` (free of links) as it will be; `None` when it is not there or too large.
    pub fn content(&self, path: &[u8]) -> Option<Vec<u8>> {
        match self.pending.get(path) {
            Some(Edit::Empty) => Some(Vec::new()),
            Some(Edit::Replace(bytes)) => Some(bytes.clone()),
            Some(_) => None,
            None => self.guest.read_bytes(path).ok(),
        }
    }
    /// The hit as it will be; `None` when it will be gone.
    fn then(&self, mut hit: Hit) -> Option<Hit> {
        match self.pending.get(&hit.path) {
            None => {}
            Some(Edit::Empty) => hit.stat.size = 0,
            Some(Edit::Replace(bytes)) => hit.stat.size = bytes.len() as u64,
            Some(_) => return None,
        }
        Some(hit)
    }
    /// The guest itself.
    pub fn guest(&self) -> &'a Guest {
        self.guest
    }
    /// The homes of root and of people.
    pub fn homes(&self) -> &[String] {
        &self.homes
    }

    /// What is at `path`; the last part is not followed when it is a link. `None` when nothing is.
    pub fn at(&self, path: &str) -> Result<Option<Hit>> {
        match self.guest.resolve_named(path.as_bytes(), false) {
            Ok((spot, path)) => Ok(self.then(Hit { path, spot, stat: self.guest.stat(spot)? })),
            // A link in the middle that leads nowhere, or in circles, has nothing behind it either.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Loop) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What matches `pattern`: `*` stands for any part of a name, `**` as the last part for everything below, `~` at the beginning
    /// for each home. Links at the end are found as links. In the order of the guest's folders; a folder comes before what is in it.
    pub fn glob(&self, pattern: &str) -> Result<Vec<Hit>> {
        let mut out = Vec::new();
        if let Some(rest) = pattern.strip_prefix('~') {
            for home in &self.homes {
                self.glob_into(&format!("{home}{rest}"), &mut out)?;
            }
        } else {
            self.glob_into(pattern, &mut out)?;
        }
        Ok(out)
    }

    /// What matches any of `patterns`, each file once.
    pub fn all(&self, patterns: &[&str]) -> Result<Vec<Hit>> {
        let mut out: Vec<Hit> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for pattern in patterns {
            out.extend(self.glob(pattern)?.into_iter().filter(|h| seen.insert(h.path.clone())));
        }
        Ok(out)
    }

    fn glob_into(&self, pattern: &str, out: &mut Vec<Hit>) -> Result<()> {
        let parts: Vec<&str> = pattern.split('/').filter(|p| !p.is_empty()).collect();
        let plain = parts.iter().take_while(|p| !p.contains('*')).count();
        let head: String = parts.iter().take(plain).flat_map(|p| ["/", p]).collect();
        if plain == parts.len() {
            out.extend(self.at(&head)?);
            return Ok(());
        }
        // A folder reached through a link (/var/run, /lib) is the folder it leads to.
        let found = match self.guest.resolve_named(head.as_bytes(), true) {
            Ok(found) => found,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Loop) => return Ok(()),
            Err(e) => return Err(e),
        };
        self.down(found, parts.get(plain..).unwrap_or_default(), 0, out)
    }

    fn down(&self, (dir, path): (Spot, Vec<u8>), parts: &[&str], depth: usize, out: &mut Vec<Hit>) -> Result<()> {
        let (Some(part), rest) = (parts.first(), parts.get(1..).unwrap_or_default()) else { return Ok(()) };
        if self.guest.stat(dir)?.kind != FileType::Folder {
            return Ok(());
        }
        if depth > MAX_DEPTH {
            return Err(Error::unsupported(format!("folders more than {MAX_DEPTH} deep in {}", top(&path))));
        }
        let everything = *part == "**";
        for entry in self.guest.list(dir)? {
            // A name with a slash is no name: nothing may be reached through it.
            if entry.name.contains(&b'/') || entry.name.is_empty() {
                continue;
            }
            if !everything && !matches(part.as_bytes(), &entry.name) {
                continue;
            }
            if out.len() >= MAX_FOUND {
                return Err(Error::unsupported(format!("more than {MAX_FOUND} files in {}", top(&path))));
            }
            let path = [path.as_slice(), b"/", entry.name.as_slice()].concat();
            let spot = self.guest.entered(dir, &path, entry.node);
            let stat = self.guest.stat(spot)?;
            let folder = stat.kind == FileType::Folder;
            if everything || rest.is_empty() {
                out.extend(self.then(Hit { path: path.clone(), spot, stat }));
            }
            if folder && everything {
                self.down((spot, path), parts, depth + 1, out)?;
            } else if folder && !rest.is_empty() {
                self.down((spot, path), rest, depth + 1, out)?;
            }
        }
        Ok(())
    }

    /// The text of a hit, links followed; empty when it is no readable file.
    pub fn text(&self, hit: &Hit) -> String {
        let path = self.guest.resolve_named(&hit.path, true).map_or(hit.path.clone(), |(_, p)| p);
        String::from_utf8_lossy(&self.content(&path).unwrap_or_default()).into_owned()
    }

    /// Removes every regular file and link that matches, and empty folders where `folders` says so (deepest first).
    pub fn remove(&self, found: &mut Found, patterns: &[&str], reason: &'static str, folders: bool) -> Result<()> {
        let hits = self.all(patterns)?;
        for hit in hits.iter().filter(|h| matches!(h.stat.kind, FileType::File | FileType::Link)) {
            found.changes.push(hit.change(Edit::Remove, reason));
        }
        if folders {
            for hit in hits.iter().rev().filter(|h| h.stat.kind == FileType::Folder) {
                found.changes.push(hit.change(Edit::RemoveFolder, reason));
            }
        }
        Ok(())
    }

    /// Rewrites each regular file that matches, where `edit` gives another text. A link is followed, so that the file it leads to
    /// is the one that changes.
    pub fn rewrite(
        &self,
        found: &mut Found,
        patterns: &[&str],
        reason: &'static str,
        edit: impl Fn(&str) -> String,
    ) -> Result<()> {
        let mut done = std::collections::HashSet::new();
        for hit in self.all(patterns)? {
            let Ok((spot, path)) = self.guest.resolve_named(&hit.path, true) else { continue };
            if self.guest.stat(spot)?.kind != FileType::File || !done.insert(path.clone()) {
                continue;
            }
            // Bytes that are no UTF-8 would not survive the edit.
            let Some(bytes) = self.content(&path) else { continue };
            let Ok(text) = String::from_utf8(bytes) else {
                found.notes.push(format!("{} is no UTF-8 text and was left alone", String::from_utf8_lossy(&path)));
                continue;
            };
            let new = edit(&text);
            if new != text {
                let edit = if new.is_empty() { Edit::Empty } else { Edit::Replace(new.into_bytes()) };
                found.changes.push(Change { path, edit, reason });
            }
        }
        Ok(())
    }
}

/// True when `name` fits `pattern`, in which `*` stands for any bytes.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let mut parts = pattern.split(|b| *b == b'*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let parts: Vec<&[u8]> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle.iter().filter(|p| !p.is_empty()) {
        match rest.windows(part.len()).position(|w| w == *part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The beginning of a path that may be very long.
fn top(path: &[u8]) -> String {
    let parts: Vec<&[u8]> = path.split(|b| *b == b'/').take(3).collect();
    printable_bytes(&parts.join(&b'/')).to_string()
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, name, fits) in [
            ("ssh_host_*", "ssh_host_rsa_key", true),
            ("ssh_host_*", "ssh_config", false),
            ("*.log", "a.log", true),
            ("*.log", "log", false),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("ab*ba", "aba", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), fits, "{pattern} {name}");
        }
    }
}
