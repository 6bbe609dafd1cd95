//! The form of copying a file or folder out of a guest.

use std::path::{Path, PathBuf};

use super::Recipe;
use super::field::{Answers, Field, Role};
use crate::engine::error::Result;
use crate::engine::ops::JobSpec;
use crate::engine::ops::extract::ExtractSpec;

/// What is to be copied.
#[derive(Debug, Clone)]
pub struct ExtractForm {
    image: PathBuf,
    file: String,
    partition: Option<u32>,
    roots: Vec<PathBuf>,
}

impl ExtractForm {
    /// The form for `file` of the guest in `image`, or of its partition alone.
    pub fn new(image: &Path, file: &[u8], partition: Option<u32>, roots: Vec<PathBuf>) -> Self {
        ExtractForm { image: image.to_path_buf(), file: String::from_utf8_lossy(file).into_owned(), partition, roots }
    }

    /// A name on the host that cannot lead anywhere else.
    fn proposed(&self) -> String {
        let name = self.file.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let plain = |c: char| if c.is_alphanumeric() || "-_.+@".contains(c) { c } else { '-' };
        let name: String = name.chars().map(plain).take(100).collect();
        if name.trim_matches('.').is_empty() { "guest".to_string() } else { name }
    }
}

impl Recipe for ExtractForm {
    fn title(&self) -> String {
        format!("Extract {}", self.file)
    }

    fn fields(&self, _: &Answers<'_>) -> Vec<Field> {
        let folder = self.image.parent().unwrap_or(Path::new("."));
        let doc = "what it becomes on the host; a relative path is beside the image";
        let target = Field::path("target", "write to", doc, folder, Role::Free).propose(self.proposed()).required();
        let doc = "read the image although another process is writing to it: what is copied may be stale (-U)";
        vec![target, Field::switch("share", "though in use", doc, false)]
    }

    fn spec(&self, a: &Answers<'_>) -> Result<JobSpec> {
        let target = a.path("target").unwrap_or_default();
        let mut spec = ExtractSpec::new(&self.image, &self.file, target);
        spec.partition = self.partition;
        spec.force_share = a.on("share");
        spec.roots.clone_from(&self.roots);
        Ok(JobSpec::Extract(spec))
    }

    fn verb(&self) -> &'static str {
        "Extract"
    }
}
