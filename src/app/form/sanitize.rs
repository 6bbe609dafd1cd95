//! The forms of sanitising: every operation of the engine's table as a switch with what it would find in this guest, and taking a
//! sanitising back.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Recipe;
use super::field::{Answers, Field, Role};
use super::options::{self, Beside};
use crate::app::config::OwnProfile;
use crate::app::model::Model;
use crate::engine::error::Result;
use crate::engine::format::Format;
use crate::engine::guest::sanitize::{Default, Operation, PROFILES, Selection, operations};
use crate::engine::ops::JobSpec;
use crate::engine::ops::sanitize::{Action, Outlook, SanitizeSpec};
use crate::engine::units::printable;

/// The profile of those who say nothing: the default operations.
const USUAL: &str = "clone";
/// The two places.
const PLACES: [&str; 2] = ["in place", "into a new image"];
/// The operation that is a question of how, not of what.
const WIPE: &str = "scrub";

/// What is known of the image when the form is opened, and learned while it is.
#[derive(Debug, Clone)]
pub struct SanitizeForm {
    image: PathBuf,
    format: Option<Format>,
    /// Why it cannot be changed in place.
    fixed: Option<String>,
    own: Vec<OwnProfile>,
    beside: Beside,
    roots: Vec<PathBuf>,
    /// The profile that is proposed.
    profile: &'static str,
    /// Operations that are proposed besides.
    wanted: Vec<&'static str>,
    /// The format of the new image that is proposed.
    to: Option<Format>,
    /// What was seen in the guest; `None` until it was looked.
    outlook: Option<Outlook>,
}

impl SanitizeForm {
    /// The form for `image`; files named inside images may be opened in `roots`.
    pub fn new(m: &Model, image: &Path, roots: Vec<PathBuf>) -> Self {
        let lib = &m.library.data;
        let entry = lib.at(image);
        let format = entry.and_then(|e| e.format());
        let children = entry.map(|e| e.children.as_slice()).unwrap_or_default();
        let names: Vec<&str> = children.iter().filter_map(|id| lib.get(*id)).map(|c| c.name.as_str()).collect();
        // A bare filesystem (ami) is written as the raw disk that it is.
        let fixed = match (names.as_slice(), format) {
            (_, Some(f)) if !f.entry().caps.write && f != Format::Ami => Some(format!("{f} images are not changed in place")),
            ([], _) => None,
            ([one], _) => Some(format!("{one} stands on it and would read what changes under it")),
            ([first, rest @ ..], _) => Some(format!("{first} and {} more stand on it and would read what changes", rest.len())),
        };
        SanitizeForm {
            image: image.to_path_buf(),
            format,
            fixed,
            own: m.config.profiles.clone(),
            beside: Beside::of(m, image.parent().unwrap_or(Path::new("."))),
            roots,
            profile: USUAL,
            wanted: Vec::new(),
            to: None,
            outlook: None,
        }
    }

    /// The same, proposing a profile, operations besides, and a new image of a format.
    pub fn towards(mut self, profile: Option<&'static str>, operations: Vec<&'static str>, to: Option<Format>) -> Self {
        self.profile = profile.unwrap_or(USUAL);
        self.wanted = operations;
        self.to = to;
        self
    }

    /// The profile chosen: its name for the engine, and the operations that it alone switches on and off.
    fn base(&self, a: &Answers<'_>) -> Selection {
        let name = if a.text("profile").is_empty() { self.profile } else { a.text("profile") };
        match self.own.iter().find(|p| p.name == name) {
            Some(own) => Selection { profile: None, enable: own.enable.clone(), disable: own.disable.clone() },
            None => Selection { profile: Some(name.to_string()), ..Selection::default() },
        }
    }

    /// The operations as they are switched, in the fewest words.
    fn selection(&self, a: &Answers<'_>) -> Selection {
        let mut out = Selection { profile: self.base(a).profile, ..Selection::default() };
        let base: Vec<&str> = ids(&out);
        for o in operations::all() {
            match (a.on(o.id), base.contains(&o.id)) {
                (true, false) => out.enable.push(o.id.into()),
                (false, true) => out.disable.push(o.id.into()),
                _ => {}
            }
        }
        out
    }

    fn target_format(&self, a: &Answers<'_>) -> Format {
        let made = |f: &Format| f.entry().create.is_some();
        options::chosen(a, "format", self.to.or(self.format).filter(made).unwrap_or(Format::Qcow2))
    }

    /// The switch of an operation.
    fn switch(&self, o: &Operation, on: bool) -> Field {
        let found = self.outlook.as_ref().and_then(|l| l.operations.iter().find(|(id, _)| *id == o.id)).map(|(_, f)| f);
        let told = found.filter(|_| o.reports_only).map(|f| [f.warnings.as_slice(), f.notes.as_slice()].concat().join("; "));
        let told = told.filter(|n| !n.is_empty());
        let doc = told.map_or(o.title.to_string(), |told| printable(&told));
        let note = match found.map(|f| f.changes.len()) {
            _ if o.reports_only => "changes nothing".to_string(),
            _ if o.id == WIPE => String::new(),
            None => String::new(),
            Some(0) => "nothing here".into(),
            Some(1) => "1 file".into(),
            Some(n) => format!("{n} files"),
        };
        let field = Field::switch(o.id, o.id, doc, on).note(note);
        if !on && self.wanted.contains(&o.id) { field.propose("on") } else { field }
    }

    fn places(&self, a: &Answers<'_>) -> Vec<Field> {
        let doc =
            "in place one pass changes it, which can be taken back; else a sanitised copy is made and this image stays as it is";
        let first = if self.fixed.is_some() || self.to.is_some() { PLACES[1] } else { PLACES[0] };
        let place = Field::choice("place", "sanitise", doc, PLACES.map(str::to_string).to_vec()).default(first);
        let new = if a.text("place").is_empty() { first == PLACES[1] } else { a.text("place") == PLACES[1] };
        if !new {
            let doc = "keep what is removed in a file beside the image that only you can read, until you destroy it";
            return vec![place, Field::switch("undo", "keep undo file", doc, true)];
        }
        let format = self.target_format(a);
        let stem = self.image.file_stem().unwrap_or_default().to_string_lossy();
        let name = if a.text("profile").is_empty() { self.profile } else { a.text("profile") };
        let plain = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' };
        let stem = format!("{stem}-{}", name.chars().map(plain).take(64).collect::<String>());
        let new = Role::New(vec![self.image.clone()]);
        vec![
            place,
            Field::path(
                "target",
                "write to",
                "the new image; a relative path is beside the old one (--to)",
                &self.beside.folder,
                new,
            )
            .propose(self.beside.free(&stem, format).to_string_lossy())
            .required(),
            Field::choice("format", "format", format!("{} (-O)", format.entry().title), options::writable())
                .default(format.name()),
        ]
    }
}

/// The operations of a selection that names what there is.
fn ids(selection: &Selection) -> Vec<&'static str> {
    selection.operations().map(|all| all.iter().map(|o| o.id).collect()).unwrap_or_default()
}

impl Recipe for SanitizeForm {
    fn title(&self) -> String {
        format!("Sanitise {}", self.image.file_name().unwrap_or_default().to_string_lossy())
    }

    fn fields(&self, a: &Answers<'_>) -> Vec<Field> {
        let base = self.base(a);
        let on = ids(&base);
        let known = PROFILES.iter().map(|p| p.name.to_string());
        let words: Vec<String> = known.chain(self.own.iter().map(|p| p.name.clone())).collect();
        let name = if a.text("profile").is_empty() { self.profile } else { a.text("profile") };
        let doc = PROFILES.iter().find(|p| p.name == name).map_or("from your configuration", |p| p.what);
        let mut out = vec![Field::choice("profile", "profile", doc, words).default(self.profile)];
        out.extend(self.places(a));
        let all = || operations::all().filter(|o| o.id != WIPE);
        out.extend(operations::all().filter(|o| o.id == WIPE).map(|o| self.switch(o, on.contains(&o.id))));
        out.push(Field::switch("replay", "replay journal", "first replay a journal that the guest left (ext)", false));
        for (default, title) in [(Default::On, "Removed unless switched off"), (Default::Off, "Only when it is asked for")] {
            let mut fields: Vec<Field> =
                all().filter(|o| o.default == default).map(|o| self.switch(o, on.contains(&o.id))).collect();
            if let Some(first) = fields.first_mut() {
                first.section = Some(title.into());
            }
            out.extend(fields);
        }
        out
    }

    fn wrong(&self, a: &Answers<'_>) -> Vec<(&'static str, String)> {
        let mut out = Vec::new();
        let in_place = a.text("place") == PLACES[0];
        match (&self.fixed, self.outlook.as_ref().and_then(|l| l.kept.as_ref())) {
            (Some(why), _) if in_place => out.push(("place", why.clone())),
            (None, Some(k)) if in_place && !k.half_done => out.push((
                "place",
                "an earlier sanitise keeps what it removed: take that back (u) or destroy it (x) first, on the page Sanitised (Z)"
                    .into(),
            )),
            _ => {}
        }
        if !operations::all().any(|o| a.on(o.id)) {
            out.push(("profile", "nothing is switched on".into()));
        }
        out
    }

    fn spec(&self, a: &Answers<'_>) -> Result<JobSpec> {
        let mut spec = SanitizeSpec::new(&self.image);
        spec.selection = self.selection(a);
        spec.target = a.path("target");
        spec.target_format = spec.target.is_some().then(|| self.target_format(a));
        spec.keep_undo = a.field("undo").is_none() || a.on("undo");
        spec.replay = a.on("replay");
        spec.roots.clone_from(&self.roots);
        Ok(JobSpec::Sanitize(spec))
    }

    fn verb(&self) -> &'static str {
        "Sanitise"
    }

    fn wonders(&self) -> Option<SanitizeSpec> {
        let spec = SanitizeSpec { roots: self.roots.clone(), ..SanitizeSpec::new(&self.image) };
        self.outlook.is_none().then_some(spec)
    }

    fn learned(&self, outlook: Outlook) -> Option<Arc<dyn Recipe>> {
        Some(Arc::new(SanitizeForm { outlook: Some(outlook), ..self.clone() }))
    }
}

/// Taking a sanitising back, or destroying what it kept: nothing is asked, the plan is all there is.
#[derive(Debug, Clone)]
pub struct UnsanitizeForm {
    image: PathBuf,
    action: Action,
    roots: Vec<PathBuf>,
}

impl UnsanitizeForm {
    /// The form for `image`.
    pub fn new(image: &Path, action: Action, roots: Vec<PathBuf>) -> Self {
        UnsanitizeForm { image: image.to_path_buf(), action, roots }
    }
}

impl Recipe for UnsanitizeForm {
    fn title(&self) -> String {
        let image = self.image.file_name().unwrap_or_default().to_string_lossy();
        match self.action {
            Action::DestroyUndo => format!("Destroy what was removed from {image}"),
            _ => format!("Take back the sanitising of {image}"),
        }
    }

    fn fields(&self, _: &Answers<'_>) -> Vec<Field> {
        Vec::new()
    }

    fn spec(&self, _: &Answers<'_>) -> Result<JobSpec> {
        let roots = self.roots.clone();
        Ok(JobSpec::Sanitize(SanitizeSpec { action: self.action, roots, ..SanitizeSpec::new(&self.image) }))
    }

    fn verb(&self) -> &'static str {
        match self.action {
            Action::DestroyUndo => "Destroy",
            _ => "Take back",
        }
    }
}
