//! The form of an image's dirty bitmaps: one made, removed, cleared, switched or merged. Their names are offered where the image's
//! page has been read, else typed.

use std::path::{Path, PathBuf};

use super::Recipe;
use super::chain::name;
use super::field::{Answers, Field, Role};
use crate::app::model::Model;
use crate::engine::error::Result;
use crate::engine::format::Format;
use crate::engine::library::Entry;
use crate::engine::model::Bitmap;
use crate::engine::ops::JobSpec;
use crate::engine::ops::bitmap::{Action, BitmapSpec};
use crate::engine::units::binary;

/// What can be done, and what it means.
const DEEDS: [(&str, &str); 6] = [
    ("add", "make a bitmap; it records which parts of the disk are written from then on"),
    ("clear", "no part counts as written any more: what a backup program does after a full backup"),
    ("merge", "what another bitmap has recorded is added to this one"),
    ("enable", "record writes from now on"),
    ("disable", "record no writes any more; what it has stays"),
    ("remove", "remove the bitmap and what it has recorded"),
];

/// Changing the dirty bitmaps of an image.
#[derive(Debug, Clone)]
pub struct BitmapForm {
    image: PathBuf,
    format: Option<Format>,
    /// Those there are, where they were read.
    known: Option<Vec<Bitmap>>,
}

impl BitmapForm {
    /// The form for `image`.
    pub fn new(m: &Model, image: &Path) -> Self {
        let node = m.page.loaded().and_then(|d| d.nodes.iter().find(|n| n.path == image && n.error.is_none()));
        let known = node.map(|n| n.description.bitmaps.clone());
        BitmapForm { image: image.to_path_buf(), format: m.library.data.at(image).and_then(Entry::format), known }
    }

    fn deed<'a>(&self, a: &Answers<'a>) -> &'a str {
        let at = a.text("action");
        if at.is_empty() { DEEDS[0].0 } else { at }
    }
    /// A field for the name of a bitmap that is there, other than `not`.
    fn existing(&self, id: &'static str, label: &str, a: &Answers<'_>, not: Option<&str>) -> Field {
        let Some(known) = &self.known else {
            return Field::text(id, label, "its name; cowshed info and the image's page list those there are").required();
        };
        let others = || known.iter().filter(|b| not != Some(b.name.as_str()));
        let at = others().find(|b| b.name == a.text(id)).or(others().next());
        let doc = at.map_or("there is no other in this image".into(), |b| {
            let state = match (b.in_use, b.auto) {
                (true, _) => "not saved properly: it can only be removed",
                (_, true) => "records writes",
                _ => "does not record",
            };
            format!("one bit for {}; {state}", binary(b.granularity))
        });
        Field::choice(id, label, doc, others().map(|b| b.name.clone()).collect())
    }
    /// A name no bitmap has.
    fn free(&self) -> String {
        let taken = |n: &String| self.known.iter().flatten().any(|b| b.name == *n);
        (1..).map(|n| format!("bitmap-{n}")).take(1000).find(|n| !taken(n)).unwrap_or_default()
    }
}

impl Recipe for BitmapForm {
    fn title(&self) -> String {
        format!("Dirty bitmaps of {}", name(&self.image))
    }

    fn fields(&self, a: &Answers<'_>) -> Vec<Field> {
        let none = self.known.as_ref().is_some_and(Vec::is_empty);
        let deeds = DEEDS.iter().take(if none { 1 } else { DEEDS.len() });
        let deed = self.deed(a);
        let doc = DEEDS.iter().find(|d| d.0 == deed).map_or("", |d| d.1);
        let mut out = vec![Field::choice("action", "action", doc, deeds.map(|d| d.0.to_string()).collect())];
        if deed == "add" {
            let size = "bytes of the disk for each bit, a power of two; without it a cluster, between 4k and 64k (-g)";
            out.extend([
                Field::text("new", "name", "what the new bitmap is called").propose(self.free()).required(),
                Field::size("granularity", "granularity", size),
                Field::switch("recording", "recording", "record writes from the start; else --disable", true),
            ]);
            return out;
        }
        out.push(self.existing("name", "bitmap", a, None));
        if deed == "merge" {
            let folder = self.image.parent().unwrap_or(Path::new("."));
            let doc = "the image whose bitmap is merged, of the same virtual size; left empty it is this one (-b)";
            out.push(Field::path("source", "from image", doc, folder, Role::Existing));
            out.push(match a.text("source") {
                "" => self.existing("from", "merge", a, Some(out.last().map_or("", |_| a.text("name")))),
                _ => Field::text("other", "merge", "the name of the bitmap in that image").required(),
            });
        }
        out
    }

    fn wrong(&self, a: &Answers<'_>) -> Vec<(&'static str, String)> {
        let mut out = Vec::new();
        if self.known.iter().flatten().any(|b| b.name == a.text("new")) {
            out.push(("new", "another bitmap is called that".into()));
        }
        if a.size("granularity").is_ok_and(|g| g.is_some_and(|g| !g.is_power_of_two() || !(512..=1 << 31).contains(&g))) {
            out.push(("granularity", "it must be a power of two between 512 and 2G".into()));
        }
        if a.field("from").is_some_and(|f| f.value().is_empty()) {
            out.push(("from", "there is no other bitmap: name an image that has one".into()));
        }
        out
    }

    fn spec(&self, a: &Answers<'_>) -> Result<JobSpec> {
        let actions = match self.deed(a) {
            "clear" => vec![Action::Clear],
            "enable" => vec![Action::Enable],
            "disable" => vec![Action::Disable],
            "remove" => vec![Action::Remove],
            "merge" if a.field("other").is_some() => vec![Action::Merge(a.text("other").into())],
            "merge" => vec![Action::Merge(a.text("from").into())],
            _ if a.on("recording") => vec![Action::Add],
            _ => vec![Action::Add, Action::Disable],
        };
        let name = if self.deed(a) == "add" { "new" } else { "name" };
        Ok(JobSpec::Bitmap(BitmapSpec {
            image: self.image.clone(),
            format: self.format,
            name: a.text(name).to_string(),
            actions,
            granularity: a.size("granularity")?,
            source: a.path("source"),
            source_format: None,
        }))
    }

    fn verb(&self) -> &'static str {
        "Change it"
    }
}
