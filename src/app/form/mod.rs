//! Forms: fields asked for one below another, checked while they are typed, with the plan of what they ask for as the last page.
//! Every dialog of the workbench that starts a job is one of these. A form knows nothing of what its fields mean and does no I/O.
//!
//! To add one:
//!
//! 1. write a [`Recipe`]: plain data about the image, [`Recipe::fields`] that says what is asked (fields may come and go with the
//!    answers: they are asked for again after every key), and [`Recipe::spec`] that makes the job's spec of the answers;
//! 2. open it from a command: `form::open(m, Arc::new(MyRecipe { … }))` in `app::update::form`.
//!
//! Everything else is here: keys, mouse, defaults, what is wrong beside its field, the look at the disk (paths, the plan), the plan
//! page, typing the name of what cannot be undone, `Y` for the command line ([`JobSpec::command`]), and the start. A recipe without
//! fields opens on its plan.

mod amend;
mod bitmap;
mod chain;
mod compact;
mod convert;
mod create;
mod extract;
mod field;
mod options;
mod relink;
mod repair;
mod resize;
mod sanitize;
mod snapshots;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use crossterm::event::{KeyCode, KeyModifiers};

pub use amend::AmendForm;
pub use bitmap::BitmapForm;
pub use chain::{CommitForm, DeleteForm, FlattenForm, RebaseForm};
pub use compact::CompactForm;
pub use convert::ConvertForm;
pub use create::CreateForm;
pub use extract::ExtractForm;
pub use field::{Answers, Field, Kind, Remark, Role};
pub use relink::RelinkForm;
pub use repair::RepairForm;
pub use resize::ResizeForm;
pub use sanitize::{SanitizeForm, UnsanitizeForm};
pub use snapshots::{BranchForm, Deed, SnapshotForm, Templates};

use super::input::Input;
use super::key::Key;
use super::message::Level;
use crate::engine::error::Result;
use crate::engine::ops::JobSpec;
use crate::engine::ops::plan::{Plan, Undo};
use crate::engine::ops::sanitize::{Outlook, SanitizeSpec};

/// What makes a form: its fields, and the job they ask for.
pub trait Recipe: fmt::Debug + Send + Sync {
    /// Title of the dialog. May hold names from outside.
    fn title(&self) -> String;

    /// The fields for the answers so far (none at first). A field that stays keeps its answer; one a person has not answered takes
    /// what is proposed now.
    fn fields(&self, answers: &Answers<'_>) -> Vec<Field>;

    /// What is wrong beyond what each field's kind tells: the field, and why.
    fn wrong(&self, answers: &Answers<'_>) -> Vec<(&'static str, String)> {
        let _ = answers;
        Vec::new()
    }

    /// The job that is asked for. Only called when nothing is wrong.
    fn spec(&self, answers: &Answers<'_>) -> Result<JobSpec>;

    /// The word on the button that starts it.
    fn verb(&self) -> &'static str {
        "Start"
    }

    /// The guest it would like to know more of; `None` when it knows, or does not care.
    fn wonders(&self) -> Option<SanitizeSpec> {
        None
    }

    /// The same recipe, knowing that.
    fn learned(&self, outlook: Outlook) -> Option<Arc<dyn Recipe>> {
        let _ = outlook;
        None
    }
}

/// Which page is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// What is asked.
    Fields,
    /// What will be done.
    Plan,
}

/// What a key did to a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Did {
    /// Nothing, or only the cursor moved.
    Moved,
    /// An answer changed: it has to be looked at again.
    Changed,
    /// The form is closed.
    Closed,
    /// The command line is wanted.
    Copy,
    /// The job is wanted.
    Start,
}

/// A form on the screen.
#[derive(Debug, Clone)]
pub struct Form {
    /// What made it.
    pub recipe: Arc<dyn Recipe>,
    /// What is asked now.
    pub fields: Vec<Field>,
    /// Answered fields that are not asked now.
    hidden: Vec<Field>,
    /// Which page is shown.
    pub page: Page,
    /// Field under the cursor; after the last field come the buttons.
    pub at: usize,
    /// On the plan's page: the part under the cursor, of [`Form::parts`].
    pub part: usize,
    /// What will happen, or why it cannot; `None` while it is found out, or while the answers are none.
    pub plan: Option<Result<Plan>>,
    /// The plan is being found out.
    pub waiting: bool,
    /// First line of the plan shown.
    pub top: usize,
    /// The name typed for what cannot be undone.
    pub typed: Input,
    /// A person wanted to go on: what is missing is an error now.
    pub asked: bool,
}

/// A part of the plan's page that can have the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The line where the name is typed.
    Name,
    /// The button that starts.
    Start,
    /// The button that leads back.
    Back,
}

impl Form {
    /// The form of a recipe, nothing answered yet.
    pub fn new(recipe: Arc<dyn Recipe>) -> Self {
        let mut form = Form {
            recipe,
            fields: Vec::new(),
            hidden: Vec::new(),
            page: Page::Fields,
            at: 0,
            part: 0,
            plan: None,
            waiting: false,
            top: 0,
            typed: Input::default(),
            asked: false,
        };
        form.refresh();
        if form.fields.is_empty() {
            form.page = Page::Plan;
        }
        form
    }

    /// Asks the recipe again, until its fields stay as they are.
    fn refresh(&mut self) {
        let at = self.fields.get(self.at).map(|f| f.id);
        // Each round may bring fields that depend on those of the round before; no form is deeper than this.
        for _ in 0..4 {
            let fresh = self.recipe.fields(&Answers(&self.fields));
            let same = fresh.iter().map(|f| f.id).eq(self.fields.iter().map(|f| f.id));
            let mut old: Vec<Field> = std::mem::take(&mut self.fields);
            old.append(&mut self.hidden);
            self.fields = fresh
                .into_iter()
                .map(|new| match old.iter().position(|o| o.id == new.id) {
                    Some(i) => {
                        let o = old.swap_remove(i);
                        // A word that can no longer be chosen is answered anew.
                        let fits = new.typed() || new.words().contains(&o.input.text());
                        if o.touched && fits {
                            Field { input: o.input, touched: true, remark: o.remark, ..new }
                        } else {
                            Field { remark: o.remark, ..new }
                        }
                    }
                    None => new,
                })
                .collect();
            self.hidden = old.into_iter().filter(|o| o.touched).collect();
            if same {
                break;
            }
        }
        for f in &mut self.fields {
            f.error = f.wrong();
        }
        for (id, why) in self.recipe.wrong(&Answers(&self.fields)) {
            if let Some(f) = self.fields.iter_mut().find(|f| f.id == id) {
                f.error.get_or_insert(why);
            }
        }
        self.at = match at.and_then(|id| self.fields.iter().position(|f| f.id == id)) {
            Some(i) => i,
            None => self.at.min(self.fields.len() + 1),
        };
    }

    /// The answers.
    pub fn answers(&self) -> Answers<'_> {
        Answers(&self.fields)
    }
    /// The job that is asked for; `None` while an answer is none.
    pub fn spec(&self) -> Option<Result<JobSpec>> {
        self.fields.iter().all(|f| f.error.is_none()).then(|| self.recipe.spec(&self.answers()))
    }
    /// The field under the cursor, when letters are typed into it.
    fn typing(&self) -> bool {
        match self.page {
            Page::Fields => self.fields.get(self.at).is_some_and(Field::typed),
            Page::Plan => self.parts().get(self.part) == Some(&Part::Name),
        }
    }
    /// The name to type before what cannot be undone.
    pub fn word(&self) -> Option<String> {
        match &self.plan {
            Some(Ok(p)) if matches!(p.undo, Undo::Impossible(_)) => {
                let path = &p.writes.first()?.path;
                Some(path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned())
            }
            _ => None,
        }
    }
    /// The parts of the plan's page, in the order of Tab.
    pub fn parts(&self) -> &'static [Part] {
        if self.word().is_some() { &[Part::Name, Part::Start, Part::Back] } else { &[Part::Start, Part::Back] }
    }
    /// Why it cannot be started now; `None` when it can.
    pub fn obstacle(&self) -> Option<String> {
        match &self.plan {
            None if self.waiting => Some("the plan is still being made".into()),
            None => Some("an answer is wrong".into()),
            Some(Err(e)) => Some(e.why().to_string()),
            Some(Ok(_)) => {
                self.word().filter(|w| w != self.typed.text()).map(|w| format!("type '{w}' first: this cannot be undone"))
            }
        }
    }

    /// Forgets the plan: the answers changed.
    pub(super) fn ask(&mut self) {
        self.plan = None;
        self.typed = Input::default();
        self.part = 0;
        self.top = 0;
    }
    /// Takes in what the disk says of the answers, and the plan when it is made.
    pub(super) fn told(&mut self, remarks: Vec<(&'static str, Remark)>, plan: Option<Result<Plan>>) {
        for f in &mut self.fields {
            f.remark = remarks.iter().find(|(id, _)| *id == f.id).map(|(_, r)| r.clone());
        }
        if plan.is_some() || self.fields.iter().any(bad) {
            self.waiting = false;
        }
        // Without a job to plan there is none; why there is no job is known already.
        if plan.is_some() || !matches!(self.plan, Some(Err(_))) {
            self.plan = plan;
        }
    }

    /// Takes in what there is in the guest. True when something else is asked for now.
    pub(super) fn learn(&mut self, outlook: Outlook) -> bool {
        let before = self.spec().and_then(Result::ok);
        if let Some(recipe) = self.recipe.learned(outlook) {
            self.recipe = recipe;
            self.refresh();
        }
        before != self.spec().and_then(Result::ok)
    }

    /// Takes a key.
    pub(super) fn key(&mut self, key: Key) -> Did {
        if key == ctrl('y') || (key == Key::plain(KeyCode::Char('Y')) && !self.typing()) {
            return Did::Copy;
        }
        match self.page {
            Page::Fields => self.field_key(key),
            Page::Plan => self.plan_key(key),
        }
    }

    fn field_key(&mut self, key: Key) -> Did {
        let (len, shift) = (self.fields.len() + 2, key.mods.contains(KeyModifiers::SHIFT));
        let typed = self.typing();
        match key.code {
            KeyCode::Esc => return Did::Closed,
            KeyCode::Tab if shift => self.at = (self.at + len - 1) % len,
            KeyCode::Tab => self.at = (self.at + 1) % len,
            KeyCode::Up => self.at = self.at.saturating_sub(1),
            KeyCode::Down => self.at = (self.at + 1).min(len - 1),
            KeyCode::PageUp => self.at = self.at.saturating_sub(8),
            KeyCode::PageDown => self.at = (self.at + 8).min(len - 1),
            KeyCode::Enter if self.at == len - 1 => return Did::Closed,
            KeyCode::Enter => self.go_on(),
            KeyCode::Left if self.at >= self.fields.len() => self.at = self.fields.len(),
            KeyCode::Right if self.at >= self.fields.len() => self.at = len - 1,
            _ => return self.answer(key, typed),
        }
        Did::Moved
    }

    /// A key that changes the answer under the cursor.
    fn answer(&mut self, key: Key, typed: bool) -> Did {
        let Some(field) = self.fields.get_mut(self.at) else { return Did::Moved };
        if typed {
            let before = field.input.text().to_string();
            field.input.key(key);
            if before == field.input.text() {
                return Did::Moved;
            }
            field.touched = true;
            return self.changed();
        }
        match key.code {
            KeyCode::Left | KeyCode::Char('h') => field.turn(-1),
            KeyCode::Right | KeyCode::Char(' ' | 'l') => field.turn(1),
            KeyCode::Home => field.pick(0),
            KeyCode::End => field.pick(field.words().len().saturating_sub(1)),
            KeyCode::Backspace | KeyCode::Delete => {
                field.input = Input::new(field.default.clone());
                field.touched = false;
            }
            // The next word that begins with this letter.
            KeyCode::Char(c) if key.mods.is_empty() => {
                let words = field.words();
                let at = words.iter().position(|w| *w == field.input.text()).map_or(0, |i| i + 1);
                let round = (at..words.len()).chain(0..at);
                let mut fits = round.filter(|i| words.get(*i).is_some_and(|w| w.starts_with(c)));
                match fits.next() {
                    Some(n) => field.pick(n),
                    None => return Did::Moved,
                }
            }
            _ => return Did::Moved,
        }
        self.changed()
    }

    fn changed(&mut self) -> Did {
        self.refresh();
        self.ask();
        Did::Changed
    }

    /// To the plan, or to the first answer that is none.
    fn go_on(&mut self) {
        self.asked = true;
        match self.fields.iter().position(|f| f.error.is_some() || bad(f)) {
            Some(i) => self.at = i,
            // The answers are right one by one, and ask for nothing that could be done.
            None if matches!(self.spec(), Some(Err(_))) => {}
            None => {
                self.page = Page::Plan;
                self.part = 0;
                self.top = 0;
            }
        }
    }

    fn plan_key(&mut self, key: Key) -> Did {
        let parts = self.parts();
        let (len, shift) = (parts.len(), key.mods.contains(KeyModifiers::SHIFT));
        let part = parts.get(self.part).copied().unwrap_or(Part::Start);
        match key.code {
            KeyCode::Esc => return self.back(),
            KeyCode::Tab if shift => self.part = (self.part + len - 1) % len,
            KeyCode::Tab => self.part = (self.part + 1) % len,
            KeyCode::Enter => match part {
                // The name typed is the answer: no button has to be found after it.
                Part::Name | Part::Start => return Did::Start,
                Part::Back => return self.back(),
            },
            KeyCode::Up => self.top = self.top.saturating_sub(1),
            KeyCode::Down => self.top = self.top.saturating_add(1),
            KeyCode::PageUp => self.top = self.top.saturating_sub(8),
            KeyCode::PageDown => self.top = self.top.saturating_add(8),
            KeyCode::Home => self.top = 0,
            KeyCode::End => self.top = usize::MAX,
            _ if part == Part::Name => {
                self.typed.key(key);
            }
            KeyCode::Left => self.part = len - 2,
            KeyCode::Right => self.part = len - 1,
            KeyCode::Char('k') => self.top = self.top.saturating_sub(1),
            KeyCode::Char('j') => self.top = self.top.saturating_add(1),
            _ => {}
        }
        Did::Moved
    }

    fn back(&mut self) -> Did {
        if self.fields.is_empty() {
            return Did::Closed;
        }
        self.page = Page::Fields;
        Did::Moved
    }

    /// Text was pasted.
    pub(super) fn paste(&mut self, text: &str) -> Did {
        let text = text.trim();
        match self.page {
            Page::Plan => {
                if self.typing() {
                    self.typed.insert(text);
                }
                Did::Moved
            }
            Page::Fields if self.typing() => {
                if let Some(f) = self.fields.get_mut(self.at) {
                    f.input.insert(text);
                    f.touched = true;
                }
                self.changed()
            }
            Page::Fields => Did::Moved,
        }
    }

    /// A field, button or part was clicked.
    pub(super) fn click(&mut self, n: usize) -> Did {
        let enter = Key::plain(KeyCode::Enter);
        match self.page {
            Page::Fields => {
                self.at = n;
                if n >= self.fields.len() {
                    return self.field_key(enter);
                }
                Did::Moved
            }
            Page::Plan => {
                self.part = n;
                if self.parts().get(n) == Some(&Part::Name) { Did::Moved } else { self.plan_key(enter) }
            }
        }
    }
    /// A word of a field was clicked.
    pub(super) fn click_word(&mut self, field: usize, word: usize) -> Did {
        self.at = field;
        match self.fields.get_mut(field) {
            Some(f) => f.pick(word),
            None => return Did::Moved,
        }
        self.changed()
    }
    /// The wheel was turned.
    pub(super) fn wheel(&mut self, by: isize) {
        match self.page {
            Page::Fields => self.at = self.at.saturating_add_signed(by.signum()).min(self.fields.len() + 1),
            Page::Plan => self.top = self.top.saturating_add_signed(by),
        }
    }
}

/// The disk says no.
fn bad(f: &Field) -> bool {
    f.remark.as_ref().is_some_and(|r| r.level == Level::Error)
}

fn ctrl(c: char) -> Key {
    Key { code: KeyCode::Char(c), mods: KeyModifiers::CONTROL }
}
