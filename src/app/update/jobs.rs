//! What happens on the jobs panel, and how jobs are started.

use std::path::{Path, PathBuf};

use super::image::roots;
use crate::app::action::Action;
use crate::app::effect::Effect;
use crate::app::input::Input;
use crate::app::layer::{Convert, Layer};
use crate::app::message::Level;
use crate::app::model::{Model, Screen};
use crate::app::state::jobs::JobRow;
use crate::app::worker::jobs::{PlanMade, PlanRequest};
use crate::engine::format::Format;
use crate::engine::job::{JobEdge, JobState};
use crate::engine::ops::JobSpec;
use crate::engine::ops::convert::ConvertSpec;
use crate::engine::units::printable;

/// A job that ran at least so long is told of when nobody looks, in milliseconds.
const LONG: u128 = 10_000;

pub(super) fn run(m: &mut Model, action: Action) -> Vec<Effect> {
    match action {
        Action::Convert => {
            let Some(source) = m.subject() else { return Vec::new() };
            let target = Input::new(free_name(m, &source).display().to_string());
            let form = Convert { source, target, field: 0, plan: None };
            m.layers.push(Layer::Convert(Box::new(form)));
            plan(m).into_iter().collect()
        }
        Action::CancelJob => m.selected_job().map(|j| Effect::CancelJob(j.view.id)).into_iter().collect(),
        Action::PauseJob => {
            let pause = |j: &JobRow| Effect::PauseJob(j.view.id, j.view.state != JobState::Paused);
            m.selected_job().map(pause).into_iter().collect()
        }
        Action::ForgetJobs => vec![Effect::ForgetJobs],
        _ => Vec::new(),
    }
}

/// Beside the image, with the extension of a raw disk; numbered until no image known has that name.
fn free_name(m: &Model, source: &Path) -> PathBuf {
    let named = |n: u32| source.with_extension(if n == 0 { "raw".to_string() } else { format!("{n}.raw") });
    (0..1000).map(named).find(|p| p != source && m.library.data.at(p).is_none()).unwrap_or_else(|| source.with_extension("raw"))
}

/// What the form asks for.
pub(super) fn spec(m: &Model, form: &Convert) -> JobSpec {
    let beside = form.source.parent().unwrap_or(Path::new("."));
    let mut spec = ConvertSpec::new(&form.source, beside.join(form.target.text()), Format::Raw);
    spec.roots = roots(m);
    JobSpec::Convert(spec)
}

/// Asks for the plan of the form that is open; until it comes, nothing can be started.
pub(super) fn plan(m: &mut Model) -> Option<Effect> {
    m.jobs.plan_generation += 1;
    let generation = m.jobs.plan_generation;
    let spec = match m.layers.last() {
        Some(Layer::Convert(form)) if !form.target.is_empty() => spec(m, form),
        _ => return None,
    };
    if let Some(Layer::Convert(form)) = m.layers.last_mut() {
        form.plan = None;
    }
    Some(Effect::Plan(PlanRequest { generation, spec }))
}

pub(super) fn planned(m: &mut Model, made: PlanMade) -> Vec<Effect> {
    if made.generation == m.jobs.plan_generation
        && let Some(Layer::Convert(form)) = m.layers.last_mut()
    {
        form.plan = Some(made.plan);
        m.dirty = true;
    }
    Vec::new()
}

/// The jobs as they are now. The cursor stays on its job.
pub(super) fn sampled(m: &mut Model, rows: Vec<JobRow>) -> Vec<Effect> {
    if rows.is_empty() && m.jobs.rows.is_empty() {
        return Vec::new();
    }
    let (kept, live) = (m.selected_job().map(|j| j.view.id), m.live_jobs());
    m.jobs.rows = rows;
    let at = kept.and_then(|id| m.jobs.rows.iter().position(|j| j.view.id == id));
    m.jobs.scroll.go(at.unwrap_or(m.jobs.scroll.at), m.jobs.rows.len());
    // Elsewhere only their number is shown.
    m.dirty |= m.screen == Screen::Jobs || live != m.live_jobs();
    if m.jobs.quit_when_done && m.live_jobs() == 0 {
        m.done = true;
        return vec![Effect::Quit];
    }
    Vec::new()
}

/// A job went into another state. What it ended with is told on every screen.
pub(super) fn edge(m: &mut Model, edge: JobEdge) -> Vec<Effect> {
    let mut effects = vec![Effect::SampleJobs];
    let Some(job) = m.jobs.rows.iter().find(|j| j.view.id == edge.id) else { return effects };
    let title = printable(&job.view.title);
    let long = job.view.progress.elapsed.as_millis() >= LONG;
    let (text, level) = match edge.state {
        JobState::Done => (format!("done: {title}"), Level::Info),
        JobState::Failed => (format!("failed: {title}: {}", edge.why.as_deref().unwrap_or("see the jobs panel")), Level::Error),
        JobState::Cancelled => (format!("cancelled: {title}"), Level::Info),
        JobState::Paused if edge.why.is_some() => {
            (format!("paused: {}", edge.why.as_deref().unwrap_or_default()), Level::Warning)
        }
        _ => return effects,
    };
    if long && !m.focused && m.config.notify {
        effects.push(Effect::Notify(text.clone()));
    }
    m.tell(text, level);
    effects
}

/// The form was confirmed.
pub(super) fn start(m: &mut Model, form: &Convert) -> Vec<Effect> {
    let spec = spec(m, form);
    m.tell(format!("started: {} — 4 shows the jobs", printable(&spec.title())), Level::Info);
    if m.screen == Screen::Jobs {
        m.notice = None;
    }
    vec![Effect::Submit(spec)]
}
