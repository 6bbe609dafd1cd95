//! Sanitising: its form, its page, and what its jobs came to.

use std::path::PathBuf;
use std::sync::Arc;

use super::image::roots;
use super::{check, form, inside};
use crate::app::action::Action;
use crate::app::effect::Effect;
use crate::app::form::{SanitizeForm, UnsanitizeForm};
use crate::app::model::{Model, Screen};
use crate::app::state::jobs::JobRow;
use crate::app::state::sanitize::End;
use crate::app::state::scroll::Scroll;
use crate::app::worker::guest::{KeptLoaded, KeptRequest};
use crate::engine::job::JobState;
use crate::engine::ops::JobSpec;
use crate::engine::ops::sanitize::{Action as Deed, Report, SanitizeSpec};

/// The image that a sanitising is about in the end.
pub(super) fn made(spec: &SanitizeSpec) -> PathBuf {
    spec.target.clone().unwrap_or_else(|| spec.image.clone())
}

pub(super) fn run(m: &mut Model, action: Action) -> Vec<Effect> {
    match action {
        Action::OpenReport => match m.selected_job().map(|j| j.view.spec.clone()) {
            Some(JobSpec::Sanitize(spec)) => open(m, made(&spec)),
            Some(JobSpec::Check(spec)) => {
                let effects = super::run(m, Action::Go(Screen::Check));
                check::show(m, spec.image);
                effects
            }
            _ => Vec::new(),
        },
        Action::Reload => look(m).into_iter().collect(),
        _ => {
            let Some(image) = m.subject() else { return Vec::new() };
            match action {
                Action::Sanitize => {
                    let recipe = SanitizeForm::new(m, &image, roots(m));
                    form::open(m, Arc::new(recipe))
                }
                Action::TakeBack => form::open(m, Arc::new(UnsanitizeForm::new(&image, Deed::Undo, roots(m)))),
                Action::DestroyKept => form::open(m, Arc::new(UnsanitizeForm::new(&image, Deed::DestroyUndo, roots(m)))),
                _ => Vec::new(),
            }
        }
    }
}

/// Goes to the page of `path`.
pub(super) fn open(m: &mut Model, path: PathBuf) -> Vec<Effect> {
    super::run(m, Action::Go(Screen::Sanitize));
    show(m, path)
}

/// Shows what is known of the sanitising of `path`, and looks for what it keeps.
pub(super) fn show(m: &mut Model, path: PathBuf) -> Vec<Effect> {
    if m.sanitize.path.as_ref() != Some(&path) {
        m.sanitize.path = Some(path);
        m.sanitize.kept = None;
    }
    m.sanitize.scroll = Scroll::default();
    look(m).into_iter().collect()
}

fn look(m: &mut Model) -> Option<Effect> {
    let path = m.sanitize.path.clone()?;
    m.sanitize.generation += 1;
    Some(Effect::LookKept(KeptRequest { generation: m.sanitize.generation, path }))
}

pub(super) fn looked(m: &mut Model, loaded: KeptLoaded) -> Vec<Effect> {
    if loaded.generation == m.sanitize.generation {
        m.sanitize.kept = Some(loaded.kept);
        m.dirty = true;
    }
    Vec::new()
}

/// A job ended: a sanitising has a report; the guest is another one than was seen before.
pub(super) fn ended(m: &mut Model, job: &JobRow, state: JobState) -> Vec<Effect> {
    let JobSpec::Sanitize(spec) = &job.view.spec else { return Vec::new() };
    let path = made(spec);
    let mut effects = Vec::new();
    match (state, spec.action) {
        (JobState::Done, Deed::Sanitize) => effects.push(Effect::AskReport(job.view.id)),
        (JobState::Done, Deed::Undo) => drop(m.sanitize.ends.insert(path.clone(), End::TakenBack)),
        _ => {}
    }
    if m.sanitize.path.as_ref() == Some(&path) {
        effects.extend(look(m));
    }
    if m.inside.path.as_ref() == Some(&path) {
        effects.extend(inside::look(m));
    }
    effects
}

pub(super) fn reported(m: &mut Model, report: Arc<Report>) -> Vec<Effect> {
    m.sanitize.ends.insert(report.image.clone(), End::Done(report));
    m.dirty = true;
    Vec::new()
}
