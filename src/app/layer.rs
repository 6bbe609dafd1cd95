//! What can lie on top of a screen. The topmost takes every key; Esc takes it off.

use super::action::Action;
use super::command::{COMMANDS, Command, Scope};
use super::effect::Effect;
use super::filter::Fuzzy;
use super::form::Form;
use super::input::Input;
use super::key::Keymap;
use super::model::{Model, Screen};

/// What can become of running jobs when a person quits.
pub const QUIT_CHOICES: [&str; 4] = [
    "wait for them, then quit",
    "leave them and quit; what is durable of them can be resumed",
    "cancel them and quit; what they had written is removed",
    "stay",
];

/// A layer.
#[derive(Debug, Clone)]
pub enum Layer {
    /// What can be done here.
    Help(Help),
    /// Every command.
    Palette(Palette),
    /// The library's filter is being typed; its text is in the library's state.
    Filter,
    /// An offset is being typed for the map's cursor, with why the last one was wrong.
    GoTo(Input, Option<String>),
    /// A name is being typed that is searched for in the guest.
    Search(Input),
    /// A form, with the plan of what it asks for.
    Form(Box<Form>),
    /// Something that cannot be taken back: what, and what is done on yes.
    Confirm(Box<Confirm>),
    /// Quitting while jobs run: the choice under the cursor.
    Quit(usize),
    /// A text to read in full: title, lines, first line shown.
    Text(String, Vec<String>, usize),
}

/// A question whose answer is yes or no; no is under the cursor first.
#[derive(Debug, Clone, PartialEq)]
pub struct Confirm {
    /// Title of the dialog.
    pub title: String,
    /// What will happen. May hold names from outside.
    pub text: String,
    /// The two buttons: no, yes.
    pub words: [&'static str; 2],
    /// Yes is under the cursor.
    pub yes: bool,
    /// What yes does.
    pub effect: Effect,
}

/// The help of a screen.
#[derive(Debug, Clone, Default)]
pub struct Help {
    /// What is searched for.
    pub search: Input,
    /// First line shown.
    pub top: usize,
}

impl Help {
    /// The commands to show for `screen`, in the order of the table with the screen's own first.
    pub fn rows(&self, screen: Screen, keymap: &Keymap) -> Vec<&'static Command> {
        let scopes = Scope::of(screen);
        let mut rows: Vec<&Command> = scopes.iter().flat_map(|s| COMMANDS.iter().filter(move |c| c.scope == *s)).collect();
        if !self.search.is_empty() {
            let mut fuzzy = Fuzzy::new(self.search.text());
            let mut words = Fuzzy::words(self.search.text());
            rows.retain(|c| {
                let keys: Vec<String> = keymap.keys(c).iter().map(ToString::to_string).collect();
                let named = keys.iter().any(|k| k == self.search.text()) || fuzzy.score(c.title).is_some();
                named || words.score(c.doc).is_some()
            });
        }
        rows
    }
}

/// The palette: every command, found by typing.
#[derive(Debug, Clone, Default)]
pub struct Palette {
    /// What is typed.
    pub input: Input,
    /// Line under the cursor.
    pub selected: usize,
}

impl Palette {
    /// The commands that match, each once: those whose name matches before those whose words do, and those of other screens last,
    /// which say so. What can be done with an image can be done from every page about it.
    pub fn rows(&self, model: &Model) -> Vec<(&'static Command, Result<(), String>)> {
        let scopes = Scope::of(model.screen);
        let about = matches!(model.screen.tab(), Screen::Image | Screen::Map);
        let here = |c: &Command| {
            let own = matches!(c.action, Action::OpenLayer | Action::Reload);
            scopes.contains(&c.scope) || about && c.scope == Scope::Image && !own
        };
        let state = |c: &Command| {
            if here(c) { (c.enabled)(model) } else { Err(format!("works on the screen {}", c.scope.title())) }
        };
        // Of several rows with one name the one that works here, else the first.
        let chosen = |c: &&'static Command| {
            let same = |o: &&'static Command| o.action == c.action && o.title == c.title;
            let best = COMMANDS.iter().filter(same).find(|o| here(o)).or_else(|| COMMANDS.iter().find(same));
            best.is_some_and(|b| std::ptr::eq(b, *c))
        };
        let mut fuzzy = Fuzzy::new(self.input.text());
        let mut words = Fuzzy::words(self.input.text());
        let mut rows: Vec<_> = COMMANDS
            .iter()
            .filter(|c| !matches!(c.action, Action::Interrupt | Action::Palette))
            .filter(chosen)
            .filter_map(|c| {
                let named = fuzzy.score(c.title);
                let score = named.or_else(|| words.score(&format!("{} {} {}", c.title, c.id, c.doc)))?;
                Some((named.is_none(), score, c, state(c)))
            })
            .collect();
        let by_score = !self.input.is_empty();
        rows.sort_by_key(|(unnamed, score, c, state)| {
            let moving = c.scope == Scope::Moving;
            (by_score && *unnamed, state.is_err(), if by_score { u32::MAX - score } else { u32::from(moving) })
        });
        rows.into_iter().map(|(.., c, state)| (c, state)).collect()
    }
}
