//! Forms: opening one, its keys and clicks, the look at the disk and the plan behind it, and the start of its job.

use std::sync::Arc;

use super::{image, run};
use crate::app::action::Action;
use crate::app::effect::Effect;
use crate::app::form::{Did, Form, Kind, Recipe};
use crate::app::key::Key;
use crate::app::layer::Layer;
use crate::app::message::Level;
use crate::app::model::{Model, Screen};
use crate::app::worker::jobs::{PlanMade, PlanRequest};
use crate::app::worker::paths::PathCheck;
use crate::engine::ops::JobSpec;
use crate::engine::units::printable;

/// Opens the form of a recipe.
pub(super) fn open(m: &mut Model, recipe: Arc<dyn Recipe>) -> Vec<Effect> {
    m.layers.push(Layer::Form(Box::new(Form::new(recipe))));
    ask(m)
}

/// Asks the disk about the answers of the form on top, and for its plan.
fn ask(m: &mut Model) -> Vec<Effect> {
    m.jobs.plan_generation += 1;
    let generation = m.jobs.plan_generation;
    let Some(Layer::Form(form)) = m.layers.last_mut() else { return Vec::new() };
    form.ask();
    let spec = match form.spec() {
        Some(Ok(spec)) => Some(spec),
        Some(Err(e)) => {
            form.waiting = false;
            form.plan = Some(Err(e));
            None
        }
        None => None,
    };
    let answers = form.answers();
    let paths = form.fields.iter().filter_map(|f| match &f.kind {
        Kind::Path { role, .. } => Some(PathCheck { field: f.id, path: answers.path(f.id)?, role: role.clone() }),
        _ => None,
    });
    let request = PlanRequest { generation, spec, paths: paths.collect(), wonders: form.recipe.wonders().map(Box::new) };
    form.waiting = request.spec.is_some();
    vec![Effect::Plan(request)]
}

/// What the disk says, and the plan when it is made.
pub(super) fn planned(m: &mut Model, made: PlanMade) -> Vec<Effect> {
    if made.generation == m.jobs.plan_generation
        && let Some(Layer::Form(form)) = m.layers.iter_mut().rev().find(|l| matches!(l, Layer::Form(_)))
    {
        m.dirty = true;
        if let Some(outlook) = made.outlook {
            return if form.learn(outlook) { ask(m) } else { Vec::new() };
        }
        form.told(made.remarks, made.plan);
    }
    Vec::new()
}

/// Hands a key to the form, which was taken off the layers.
pub(super) fn key(m: &mut Model, mut form: Box<Form>, key: Key) -> Vec<Effect> {
    let did = form.key(key);
    after(m, form, did)
}

/// Text was pasted into it.
pub(super) fn paste(m: &mut Model, mut form: Box<Form>, text: &str) -> Vec<Effect> {
    let did = form.paste(text);
    after(m, form, did)
}

/// What a key, a click or a paste comes to.
pub(super) fn after(m: &mut Model, form: Box<Form>, did: Did) -> Vec<Effect> {
    match did {
        Did::Closed => Vec::new(),
        Did::Moved => {
            m.layers.push(Layer::Form(form));
            Vec::new()
        }
        Did::Changed => {
            m.layers.push(Layer::Form(form));
            ask(m)
        }
        Did::Copy => {
            m.layers.push(Layer::Form(form));
            run(m, Action::CopyCommand)
        }
        Did::Start => start(m, form),
    }
}

fn start(m: &mut Model, form: Box<Form>) -> Vec<Effect> {
    if let Some(why) = form.obstacle() {
        m.tell(why, Level::Warning);
        m.layers.push(Layer::Form(form));
        return Vec::new();
    }
    let Some(Ok(spec)) = form.spec() else { return Vec::new() };
    let shown = if m.screen == Screen::Jobs { "" } else { "; 4 shows the jobs" };
    m.tell(format!("started: {}{shown}", printable(&spec.title())), Level::Info);
    let mut effects = vec![Effect::Submit(spec.clone())];
    // What it does and did is the next thing one wants to see.
    if let JobSpec::Sanitize(spec) = &spec {
        effects.extend(super::sanitize::open(m, super::sanitize::made(spec)));
    }
    effects
}

/// The command line that does what the form asks for; `None` while an answer is none.
pub(super) fn command_line(form: &Form) -> Option<String> {
    Some(image::command_words(&form.spec()?.ok()?.command()))
}
