//! The forms of what is done with a snapshot: take one, revert to one, delete some, rename one, branch off one. (Exporting is a
//! conversion: [`super::ConvertForm::at_snapshot`].)

use std::path::{Path, PathBuf};

use super::Recipe;
use super::field::{Answers, Field, Role};
use super::options::Beside;
use crate::app::model::Model;
use crate::engine::error::{Error, Result};
use crate::engine::format::Format;
use crate::engine::model::Snapshot;
use crate::engine::ops::JobSpec;
use crate::engine::ops::convert::ConvertSpec;
use crate::engine::ops::snapshot::{Action, SnapshotSpec};

/// The longest name, in bytes.
const LONGEST: usize = 255;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// Take one.
    Take,
    /// Make the disk what it was at this one.
    Revert(usize),
    /// Delete these.
    Delete(Vec<usize>),
    /// Rename this one.
    Rename(usize),
}

/// A change of an image's snapshots.
#[derive(Debug, Clone)]
pub struct SnapshotForm {
    image: PathBuf,
    format: Format,
    list: Vec<Snapshot>,
    deed: Deed,
    /// A name for a new one.
    free: String,
}

/// What the snapshot at `i` is called so that it and no other is meant: by its name, or by its id where `by_id` first.
fn key(list: &[Snapshot], i: usize, by_id: bool) -> Result<String> {
    let find = |key: &str, id: bool| list.iter().position(|s| (if id { &s.id } else { &s.name }) == key);
    let meant = |key: &str| find(key, by_id).or_else(|| find(key, !by_id));
    let snap = list.get(i).ok_or_else(|| Error::usage("there is no such snapshot"))?;
    let words = [&snap.name, &snap.id];
    let found = words.into_iter().find(|k| meant(k) == Some(i));
    found.cloned().ok_or_else(|| Error::unsupported("other snapshots have its name and its id: it cannot be told from them"))
}

impl SnapshotForm {
    /// The form for `deed` on `image`, whose snapshots are `list`.
    pub fn new(image: &Path, format: Format, list: &[Snapshot], deed: Deed) -> Self {
        let taken = |name: &String| list.iter().any(|s| s.name == *name);
        let named = |n: usize| format!("snapshot-{n}");
        let free = (list.len() + 1..list.len() + 1000).map(named).find(|n| !taken(n)).unwrap_or_default();
        SnapshotForm { image: image.to_path_buf(), format, list: list.to_vec(), deed, free }
    }
    fn name(&self, i: usize) -> &str {
        self.list.get(i).map_or("", |s| &s.name)
    }
}

impl Recipe for SnapshotForm {
    fn title(&self) -> String {
        let image = self.image.file_name().unwrap_or_default().to_string_lossy();
        match &self.deed {
            Deed::Take => format!("New snapshot of {image}"),
            Deed::Revert(i) => format!("Revert {image} to {}", self.name(*i)),
            Deed::Delete(set) => match set.as_slice() {
                [i] => format!("Delete snapshot {} of {image}", self.name(*i)),
                many => format!("Delete {} snapshots of {image}", many.len()),
            },
            Deed::Rename(i) => format!("Rename snapshot {} of {image}", self.name(*i)),
        }
    }

    fn fields(&self, _: &Answers<'_>) -> Vec<Field> {
        match &self.deed {
            Deed::Take => {
                let doc = "what to call the disk as it is now";
                vec![Field::text("name", "name", doc).propose(self.free.clone()).required()]
            }
            Deed::Revert(_) => {
                let doc = "first keep the disk as it is now in a snapshot of its own, to come back to";
                vec![Field::switch("keep", "safety snapshot", doc, true)]
            }
            Deed::Delete(_) => Vec::new(),
            Deed::Rename(i) => vec![Field::text("name", "new name", "its id stays").propose(self.name(*i)).required()],
        }
    }

    fn wrong(&self, a: &Answers<'_>) -> Vec<(&'static str, String)> {
        let name = a.text("name");
        let own = if let Deed::Rename(i) = self.deed { Some(i) } else { None };
        let other = self.list.iter().enumerate().any(|(i, s)| s.name == name && Some(i) != own);
        if name.len() > LONGEST {
            vec![("name", format!("a name has at most {LONGEST} bytes, and this has {}", name.len()))]
        } else if other && !name.is_empty() {
            vec![("name", "another snapshot is called that".into())]
        } else if own.is_some_and(|i| self.name(i) == name) {
            vec![("name", "it is called that already".into())]
        } else {
            Vec::new()
        }
    }

    fn spec(&self, a: &Answers<'_>) -> Result<JobSpec> {
        let action = match &self.deed {
            Deed::Take => Action::Create(a.text("name").to_string()),
            Deed::Revert(i) => Action::Apply { name: key(&self.list, *i, true)?, keep: a.on("keep") },
            Deed::Delete(set) => Action::Delete(set.iter().map(|i| key(&self.list, *i, false)).collect::<Result<_>>()?),
            Deed::Rename(i) => Action::Rename { from: key(&self.list, *i, true)?, to: a.text("name").to_string() },
        };
        Ok(JobSpec::Snapshot(SnapshotSpec { image: self.image.clone(), format: Some(self.format), action }))
    }

    fn verb(&self) -> &'static str {
        match self.deed {
            Deed::Take => "Take it",
            Deed::Revert(_) => "Revert",
            Deed::Delete(_) => "Delete",
            Deed::Rename(_) => "Rename",
        }
    }
}

/// How branches of an image are made: in its own folder, and in another.
#[derive(Debug, Clone, PartialEq)]
pub struct Templates {
    /// Beside the image.
    pub beside: ConvertSpec,
    /// Anywhere else.
    pub elsewhere: ConvertSpec,
}

/// A new image that goes on from a snapshot.
#[derive(Debug, Clone)]
pub struct BranchForm {
    image: PathBuf,
    id: String,
    name: String,
    templates: Templates,
    beside: Beside,
    roots: Vec<PathBuf>,
}

impl BranchForm {
    /// The form for a branch of `image` off `snapshot`.
    pub fn new(m: &Model, image: &Path, snapshot: &Snapshot, templates: Templates, roots: Vec<PathBuf>) -> Self {
        let beside = Beside::of(m, image.parent().unwrap_or(Path::new(".")));
        let (id, name) = (snapshot.id.clone(), snapshot.name.clone());
        BranchForm { image: image.to_path_buf(), id, name, templates, beside, roots }
    }
}

impl Recipe for BranchForm {
    fn title(&self) -> String {
        format!("Branch off {} of {}", self.name, self.image.file_name().unwrap_or_default().to_string_lossy())
    }

    fn fields(&self, _: &Answers<'_>) -> Vec<Field> {
        let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        let name: String = self.name.chars().map(|c| if plain(c) { c } else { '-' }).take(64).collect();
        let stem = format!("{}-{name}", self.image.file_stem().unwrap_or_default().to_string_lossy());
        let doc = match &self.templates.beside.backing {
            Some(base) => {
                format!("the new image: it stands on {base} as this one does, and holds what the snapshot has above it")
            }
            None => "the new image: it stands alone and holds all that the snapshot has".into(),
        };
        let target = Field::path("target", "make", doc, &self.beside.folder, Role::New(vec![self.image.clone()]));
        vec![target.propose(self.beside.free(&stem, Format::Qcow2).to_string_lossy()).required()]
    }

    fn spec(&self, a: &Answers<'_>) -> Result<JobSpec> {
        let target = a.path("target").unwrap_or_default();
        let same = target.parent() == self.image.parent();
        let mut spec = if same { self.templates.beside.clone() } else { self.templates.elsewhere.clone() };
        spec.snapshot = Some(self.id.clone());
        spec.target = target;
        spec.roots.clone_from(&self.roots);
        Ok(JobSpec::Convert(spec))
    }

    fn verb(&self) -> &'static str {
        "Make it"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_is_never_another_one() {
        let snap = |id: &str, name: &str| Snapshot {
            id: id.into(),
            name: name.into(),
            vm_state_size: 0,
            date_sec: 0,
            date_nsec: 0,
            vm_clock_nsec: 0,
            icount: None,
            disk_size: 0,
        };
        // One is called as another's id; two have one name.
        let list = [snap("1", "2"), snap("2", "b"), snap("3", "twice"), snap("4", "twice"), snap("5", "5")];
        for i in 0..list.len() {
            for by_id in [true, false] {
                let key = key(&list, i, by_id).unwrap();
                let find = |id: bool| list.iter().position(|s| (if id { &s.id } else { &s.name }) == &key);
                assert_eq!(find(by_id).or_else(|| find(!by_id)), Some(i), "{key}");
            }
        }
        // Nothing tells these apart.
        let same = [snap("1", "a"), snap("1", "a")];
        assert!(key(&same, 0, true).is_ok() && key(&same, 1, true).is_err());
    }
}
