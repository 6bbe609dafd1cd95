//! The form of another virtual size.

use std::path::{Path, PathBuf};

use super::Recipe;
use super::field::{Answers, Field};
use crate::app::model::Model;
use crate::engine::error::Result;
use crate::engine::format::Format;
use crate::engine::ops::JobSpec;
use crate::engine::ops::resize::{Change, Preallocation, ResizeSpec};
use crate::engine::units::{binary, parse_size};

/// What is known of the image when the form is opened.
#[derive(Debug, Clone)]
pub struct ResizeForm {
    image: PathBuf,
    format: Option<Format>,
    size: Option<u64>,
    roots: Vec<PathBuf>,
    wanted: String,
}

impl ResizeForm {
    /// The form for `image`.
    pub fn new(m: &Model, image: &Path, roots: Vec<PathBuf>) -> Self {
        let entry = m.library.data.at(image);
        ResizeForm {
            image: image.to_path_buf(),
            format: entry.and_then(|e| e.format()),
            size: entry.and_then(|e| e.virtual_size()),
            roots,
            wanted: String::new(),
        }
    }
    /// The same, proposing a size.
    pub fn towards(mut self, size: String) -> Self {
        self.wanted = size;
        self
    }

    /// The change that is asked for.
    fn change(text: &str) -> Result<Change> {
        Ok(match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(more), _) => Change::By(parse_size(more)?),
            (_, Some(less)) => Change::Less(parse_size(less)?),
            _ => Change::To(parse_size(text)?),
        })
    }
    /// It becomes smaller, as far as that is known here.
    fn shrinks(&self, a: &Answers<'_>) -> bool {
        match (Self::change(a.text("size")), self.size) {
            (Ok(Change::Less(n)), _) => n > 0,
            (Ok(Change::To(n)), Some(old)) => n < old,
            _ => false,
        }
    }
}

impl Recipe for ResizeForm {
    fn title(&self) -> String {
        format!("Resize {}", self.image.file_name().unwrap_or_default().to_string_lossy())
    }

    fn fields(&self, a: &Answers<'_>) -> Vec<Field> {
        let now = self.size.map(|s| format!("; it is {} now", binary(s))).unwrap_or_default();
        let doc = format!("the new size, or a change of it: 40G, +10G, -1G{now}");
        let mut out = vec![Field::change("size", "size", doc).propose(self.wanted.clone()).required()];
        if self.shrinks(a) || a.on("shrink") {
            let doc = "let it become smaller: what lies beyond the new end is lost; shrink the filesystems in it first";
            out.push(Field::switch("shrink", "shrink", doc, false));
        }
        let modes: &[&str] = match self.format {
            Some(Format::Raw) => &["off", "falloc", "full"],
            Some(Format::Qcow2) => &["off", "metadata", "falloc", "full"],
            _ => &[],
        };
        if !modes.is_empty() && !self.shrinks(a) {
            let words = modes.iter().map(ToString::to_string).collect();
            out.push(Field::choice(
                "preallocation",
                "preallocation",
                "what is reserved of the new part: nothing, space, or space filled with zeros",
                words,
            ));
        }
        if !self.shrinks(a) {
            let doc = "the guest's last partition becomes as long as the disk allows, and its ext2, ext3, ext4 or XFS with it, without \
                       mounting: checked before and after, all or nothing. Off: that is left to the guest, whose cloud-init runs growpart \
                       at first boot if both are there; the plan says whether they are";
            out.push(Field::switch("grow-guest", "grow the guest", doc, false));
        }
        // What grows the guest moves the table's backup as well.
        if !self.shrinks(a) && !a.on("grow-guest") {
            let doc = "where the guest has a GPT: write its backup anew at the new end of the disk, so that partitions can use the space";
            out.push(Field::switch("move-gpt", "move backup GPT", doc, false));
        }
        out
    }

    fn wrong(&self, a: &Answers<'_>) -> Vec<(&'static str, String)> {
        if self.shrinks(a) && !a.on("shrink") {
            vec![("shrink", "it would become smaller: turn this on to allow that".into())]
        } else {
            Vec::new()
        }
    }

    fn spec(&self, a: &Answers<'_>) -> Result<JobSpec> {
        let mut spec = ResizeSpec::new(&self.image, Self::change(a.text("size"))?);
        spec.format = self.format;
        spec.shrink = a.on("shrink");
        spec.grow_guest = a.on("grow-guest") && !self.shrinks(a);
        spec.move_gpt = a.on("move-gpt") && !spec.grow_guest;
        spec.preallocation = match a.text("preallocation") {
            "metadata" => Preallocation::Metadata,
            "falloc" => Preallocation::Falloc,
            "full" => Preallocation::Full,
            _ => Preallocation::Off,
        };
        spec.roots.clone_from(&self.roots);
        Ok(JobSpec::Resize(spec))
    }

    fn verb(&self) -> &'static str {
        "Resize"
    }
}
