//! The form of other options for an image that is there. What they are now is shown where the image's page has been read.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Recipe;
use super::chain::name;
use super::field::{Answers, Field};
use crate::app::model::Model;
use crate::engine::error::{Error, Result};
use crate::engine::format::Format;
use crate::engine::library::Entry;
use crate::engine::ops::JobSpec;
use crate::engine::ops::amend::{AmendSpec, options};

/// No change, where it is not known what there is.
const KEEP: &str = "(as it is)";
/// The options a form asks for: name, its key in `format-specific`, the words. The size has a form of its own.
const CHOICES: [(&str, &str, &[&str]); 3] = [
    ("compat", "compat", &["1.1", "0.10"]),
    ("lazy_refcounts", "lazy-refcounts", &["on", "off"]),
    ("refcount_bits", "refcount-bits", &["1", "2", "4", "8", "16", "32", "64"]),
];

/// Changing the options of an image.
#[derive(Debug, Clone)]
pub struct AmendForm {
    image: PathBuf,
    format: Format,
    /// `format-specific.data` of the image, where it was read.
    now: Value,
}

impl AmendForm {
    /// The form for `image`.
    pub fn new(m: &Model, image: &Path) -> Self {
        let node = m.page.loaded().and_then(|d| d.nodes.iter().find(|n| n.path == image));
        let now = node.and_then(|n| n.description.specific.get("data")).cloned().unwrap_or_default();
        let format = m.library.data.at(image).and_then(Entry::format).or(node.and_then(|n| n.format));
        AmendForm { image: image.to_path_buf(), format: format.unwrap_or(Format::Qcow2), now }
    }

    /// What an option is now, as `-o` spells it.
    fn is(&self, key: &str) -> Option<String> {
        match self.now.get(key)? {
            Value::Bool(on) => Some(if *on { "on" } else { "off" }.into()),
            Value::String(s) => Some(s.clone()),
            other => Some(other.to_string()),
        }
    }
    /// What an option means, in the words of the engine's list.
    fn doc(&self, name: &str) -> &'static str {
        let all = options(self.format).unwrap_or_default();
        all.iter().find(|o| o.name == name).map_or("", |o| o.doc)
    }
    /// Names and values of what is to change.
    fn given(&self, a: &Answers<'_>) -> Vec<(String, String)> {
        let names = CHOICES.iter().map(|c| c.0).chain(["data_file", "data_file_raw"]);
        names.filter_map(|n| Some((n.to_string(), a.given(n)?.to_string()))).collect()
    }
}

impl Recipe for AmendForm {
    fn title(&self) -> String {
        format!("Amend {}", name(&self.image))
    }

    fn fields(&self, _: &Answers<'_>) -> Vec<Field> {
        let choice = |(name, key, words): &(&'static str, &str, &[&str])| {
            // Lazy refcounts are off in version 2, which does not list them.
            let old = self.is(key).or_else(|| (*name == "lazy_refcounts").then(|| self.is("compat").map(|_| "off".into()))?);
            let keep = old.is_none().then(|| KEEP.to_string());
            let words = keep.into_iter().chain(words.iter().map(ToString::to_string)).collect();
            let field = Field::choice(name, *name, self.doc(name), words);
            match old {
                Some(old) => field.default(old),
                None => field,
            }
        };
        let mut out: Vec<Field> = CHOICES.iter().map(choice).collect();
        if let Some(file) = self.is("data-file") {
            out.push(Field::text("data_file", "data_file", self.doc("data_file")).default(file));
        }
        if self.is("data-file-raw").as_deref() == Some("on") {
            out.push(Field::switch("data_file_raw", "data_file_raw", self.doc("data_file_raw"), true));
        }
        out
    }

    fn wrong(&self, a: &Answers<'_>) -> Vec<(&'static str, String)> {
        if a.text("compat") != "0.10" {
            return Vec::new();
        }
        let mut out = Vec::new();
        if a.on("lazy_refcounts") {
            out.push(("lazy_refcounts", "compat 0.10 has none: choose off, or compat 1.1".into()));
        }
        if !["16", KEEP].contains(&a.text("refcount_bits")) {
            out.push(("refcount_bits", "compat 0.10 has 16 bits and no others".into()));
        }
        out
    }

    fn spec(&self, a: &Answers<'_>) -> Result<JobSpec> {
        let options = self.given(a);
        if options.is_empty() {
            return Err(Error::usage("nothing changes yet: choose another value"));
        }
        Ok(JobSpec::Amend(AmendSpec { image: self.image.clone(), format: Some(self.format), options, follow: false }))
    }

    fn verb(&self) -> &'static str {
        "Amend"
    }
}
