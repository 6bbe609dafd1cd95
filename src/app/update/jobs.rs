//! What happens on the jobs panel, and how jobs are started.

use std::path::PathBuf;
use std::sync::Arc;

use super::form;
use super::image::roots;
use crate::app::action::Action;
use crate::app::effect::Effect;
use crate::app::form::{ConvertForm, CreateForm, ResizeForm};
use crate::app::message::Level;
use crate::app::model::{Model, Screen};
use crate::app::state::jobs::JobRow;
use crate::engine::job::{JobEdge, JobState};
use crate::engine::library::NodeKind;
use crate::engine::units::printable;

/// A job that ran at least so long is told of when nobody looks, in milliseconds.
const LONG: u128 = 10_000;

pub(super) fn run(m: &mut Model, action: Action) -> Vec<Effect> {
    match action {
        Action::Convert => {
            let Some(source) = m.subject() else { return Vec::new() };
            let recipe = ConvertForm::new(m, &source, roots(m));
            form::open(m, Arc::new(recipe))
        }
        Action::Create => {
            let recipe = match (m.screen, m.subject()) {
                // On an image's page it is an overlay on that image.
                (Screen::Image, Some(base)) => CreateForm::overlay(m, &base, roots(m)),
                _ => CreateForm::new(m, &folder(m), roots(m)),
            };
            form::open(m, Arc::new(recipe))
        }
        Action::Resize => {
            let Some(image) = m.subject() else { return Vec::new() };
            let recipe = ResizeForm::new(m, &image, roots(m));
            form::open(m, Arc::new(recipe))
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

/// Where a new image goes: beside the selected one, in the selected folder, else in the first root.
fn folder(m: &Model) -> PathBuf {
    let beside = m.library.selected().map(|e| e.folder().to_path_buf());
    let root = |i: usize| m.library.data.roots.get(i).map(|r| r.real.clone());
    let chosen = match m.library.selected_kind() {
        Some(NodeKind::Folder(p)) => Some(p.clone()),
        Some(NodeKind::Root(i)) => root(*i),
        _ => beside,
    };
    chosen.or_else(|| root(0)).filter(|p| m.library.data.at(p).is_none()).unwrap_or_else(|| PathBuf::from("."))
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
    if edge.state.is_over() && m.screen == Screen::Snapshots {
        // It may have changed what is shown.
        effects.extend(super::snapshots::load(m));
    }
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
