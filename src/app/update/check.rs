//! What happens on the check page, and what checks found.

use std::path::PathBuf;
use std::sync::Arc;

use super::image::roots;
use crate::app::action::Action;
use crate::app::effect::Effect;
use crate::app::form::RepairForm;
use crate::app::model::{Model, Screen};
use crate::app::state::jobs::JobRow;
use crate::app::state::scroll::Scroll;
use crate::engine::format::check::Repair;
use crate::engine::job::JobState;
use crate::engine::ops::JobSpec;
use crate::engine::ops::check::RepairAction;
use crate::engine::ops::checking::{CheckSpec, Checked};

pub(super) fn run(m: &mut Model, action: Action) -> Vec<Effect> {
    match action {
        Action::Check => {
            let Some(path) = m.subject() else { return Vec::new() };
            let mut effects = super::run(m, Action::Go(Screen::Check));
            show(m, path);
            effects.extend(start(m));
            effects
        }
        Action::Repair => {
            let Some(checked) = m.check.shown() else { return Vec::new() };
            // Where only space is lost, giving it back is all there is to do.
            let damaged = checked.report.split(Repair::Leaks).0.len() < checked.report.split(Repair::All).0.len();
            let repair = if damaged { Repair::All } else { Repair::Leaks };
            let form = RepairForm::new(&checked.image, RepairAction::Mend(repair));
            super::form::open(m, Arc::new(form))
        }
        Action::UndoRepair => match m.subject() {
            Some(image) => super::form::open(m, Arc::new(RepairForm::new(&image, RepairAction::Undo))),
            None => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// Shows the report of `path`, as far as there is one.
pub(super) fn show(m: &mut Model, path: PathBuf) {
    if m.check.path.as_ref() != Some(&path) {
        m.check.path = Some(path);
        m.check.failed = None;
        m.check.scroll = Scroll::default();
    }
}

/// Starts a check of the image that is shown, unless one runs.
fn start(m: &mut Model) -> Option<Effect> {
    let image = m.check.path.clone().filter(|_| !m.checking())?;
    m.check.failed = None;
    let format = m.library.data.at(&image).and_then(|e| e.format());
    Some(Effect::Submit(JobSpec::Check(CheckSpec { image, format, roots: roots(m) })))
}

/// A job ended: a check has a report, or failed; after a repair one looks again.
pub(super) fn ended(m: &mut Model, job: &JobRow, state: JobState, why: Option<&str>) -> Option<Effect> {
    match &job.view.spec {
        JobSpec::Check(_) if state == JobState::Done => Some(Effect::AskFound(job.view.id)),
        JobSpec::Check(spec) if m.check.path.as_ref() == Some(&spec.image) => {
            m.check.failed = Some(why.unwrap_or("it was cancelled").to_string());
            None
        }
        JobSpec::Repair(spec) if state == JobState::Done && m.check.path.as_ref() == Some(&spec.image) => start(m),
        _ => None,
    }
}

pub(super) fn found(m: &mut Model, checked: Arc<Checked>) -> Vec<Effect> {
    m.check.found.insert(checked.image.clone(), checked);
    m.dirty = true;
    Vec::new()
}
