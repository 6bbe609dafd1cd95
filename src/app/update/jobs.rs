//! What happens on the jobs panel, and how jobs are started.

use std::path::PathBuf;
use std::sync::Arc;

use super::form;
use super::image::roots;
use crate::app::action::Action;
use crate::app::effect::Effect;
use crate::app::form::{
    AmendForm, BitmapForm, CommitForm, CompactForm, ConvertForm, CreateForm, DeleteForm, FlattenForm, RebaseForm, Recipe,
    RelinkForm, ResizeForm,
};
use crate::app::layer::{Confirm, Layer};
use crate::app::message::Level;
use crate::app::model::{Model, Screen};
use crate::app::state::jobs::{JobRow, LeftRow, Line, next_limit};
use crate::engine::job::{Finished, JobEdge, JobState};
use crate::engine::library::NodeKind;
use crate::engine::ops::JobSpec;
use crate::engine::units::{binary, printable};

/// A job that ran at least so long is told of when nobody looks, in milliseconds.
const LONG: u128 = 10_000;

pub(super) fn run(m: &mut Model, action: Action) -> Vec<Effect> {
    match action {
        Action::Flatten
        | Action::Rebase
        | Action::Commit
        | Action::DeleteImage
        | Action::Compact
        | Action::Relink
        | Action::Amend
        | Action::Bitmap => {
            let Some(image) = m.subject() else { return Vec::new() };
            let recipe: Arc<dyn Recipe> = match action {
                Action::Flatten => Arc::new(FlattenForm::new(m, &image, roots(m))),
                Action::Rebase => Arc::new(RebaseForm::new(m, &image, roots(m))),
                Action::Commit => Arc::new(CommitForm::new(m, &image, roots(m))),
                Action::Compact => Arc::new(CompactForm::new(m, &image)),
                Action::Relink => Arc::new(RelinkForm::new(m, &image, roots(m))),
                Action::Amend => Arc::new(AmendForm::new(m, &image)),
                Action::Bitmap => Arc::new(BitmapForm::new(m, &image)),
                _ => Arc::new(DeleteForm::new(m, &image, roots(m))),
            };
            form::open(m, recipe)
        }
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
        Action::CancelJob => cancel(m),
        Action::PauseJob => match m.selected_job() {
            Some(j) => vec![Effect::PauseJob(j.view.id, j.view.state != JobState::Paused)],
            None => resume(m),
        },
        Action::RetryJob => match m.selected_job() {
            Some(j) => vec![Effect::RetryJob(j.view.id)],
            None => resume(m),
        },
        Action::LimitUp | Action::LimitDown => {
            let Some(v) = m.selected_job().map(|j| j.view.clone()) else { return Vec::new() };
            let rate = v.progress.read_rate.unwrap_or(0).max(v.progress.write_rate.unwrap_or(0));
            let limit = next_limit(v.limit, rate, action == Action::LimitUp);
            m.tell(if limit == 0 { "no limit".to_string() } else { format!("at most {} a second", binary(limit)) }, Level::Info);
            vec![Effect::LimitJob(v.id, limit)]
        }
        Action::RankJob => {
            let rank = |j: &JobRow| {
                // Normal, high, low, and round.
                let next = match j.view.priority {
                    0 => 1,
                    1.. => -1,
                    _ => 0,
                };
                Effect::RankJob(j.view.id, next)
            };
            m.selected_job().map(rank).into_iter().collect()
        }
        Action::ShowLog => {
            if let Some(p) = m.jobs.selected_past() {
                let lines = p.log.iter().map(|(_, text)| printable(text)).collect();
                let title = format!("Log of {}", printable(&p.title));
                m.layers.push(Layer::Text(title, lines, 0));
            } else if let Some(j) = m.selected_job() {
                let lines = j.log.iter().map(|l| printable(&l.text)).collect();
                m.layers.push(Layer::Text(format!("Log of job {}", j.view.id), lines, 0));
            }
            Vec::new()
        }
        Action::ForgetJobs if m.jobs.selected_past().is_some() => {
            let n = m.jobs.past.len();
            let many =
                if n == 1 { "The one job of the history is".to_string() } else { format!("All {n} jobs of the history are") };
            let text = format!(
                "{many} taken off the list for good, with their logs; how long a job will take is told by such jobs, and is not known \
                 for a while. Images are not touched."
            );
            let (words, effect) = (["Keep it", "Clear it"], Effect::ForgetPast);
            m.layers.push(Layer::Confirm(Box::new(Confirm {
                title: "Clear the history?".into(),
                text,
                words,
                yes: false,
                effect,
            })));
            Vec::new()
        }
        Action::ForgetJobs => vec![Effect::ForgetJobs],
        _ => Vec::new(),
    }
}

/// Goes on with the interrupted job under the cursor; one that would begin anew asks first.
fn resume(m: &mut Model) -> Vec<Effect> {
    if m.read_only {
        m.tell("read-only mode: nothing is written", Level::Warning);
        return Vec::new();
    }
    let Some(left) = m.jobs.selected_left() else { return Vec::new() };
    let effect = Effect::ResumeLeft(left.record.key.clone());
    let Some(why) = &left.why_not else { return vec![effect] };
    let text = format!("It cannot go on where it was: {why}. It would begin anew, and what it had written so far is removed.");
    let confirm = Confirm { title: "Begin anew?".into(), text, words: ["Leave it", "Begin anew"], yes: false, effect };
    m.layers.push(Layer::Confirm(Box::new(confirm)));
    Vec::new()
}

/// Cancels the job under the cursor, or discards the interrupted one, once a person has said yes.
fn cancel(m: &mut Model) -> Vec<Effect> {
    let confirm = match (m.selected_job(), m.jobs.selected_left()) {
        // It has made nothing yet.
        (Some(j), _) if j.view.state == JobState::Queued => return vec![Effect::CancelJob(j.view.id)],
        (Some(j), _) => Confirm {
            title: format!("Cancel job {}?", j.view.id),
            text: format!(
                "{}. What it has written so far is removed. To go on later pause it, or quit and leave it.",
                j.view.title
            ),
            words: ["Let it be", "Cancel it"],
            yes: false,
            effect: Effect::CancelJob(j.view.id),
        },
        (None, Some(left)) => Confirm {
            title: "Discard the interrupted job?".into(),
            text: format!("{}. What it had written so far is removed, and it cannot be resumed any more.", left.record.title),
            words: ["Keep it", "Discard it"],
            yes: false,
            effect: Effect::DiscardLeft(left.record.key.clone()),
        },
        (None, None) => return Vec::new(),
    };
    m.layers.push(Layer::Confirm(Box::new(confirm)));
    Vec::new()
}

/// The interrupted jobs as they are now.
pub(super) fn left(m: &mut Model, rows: Vec<LeftRow>) -> Vec<Effect> {
    let kept = m.jobs.line();
    m.jobs.left = rows;
    hide_known(m);
    m.jobs.keep(kept);
    if !std::mem::replace(&mut m.jobs.looked, true) && !m.jobs.left.is_empty() {
        let n = m.jobs.left.len();
        let what = if n == 1 { "1 interrupted job".to_string() } else { format!("{n} interrupted jobs") };
        m.tell(format!("{what}; 4 shows the jobs, R there resumes"), Level::Warning);
    }
    m.dirty = true;
    Vec::new()
}

/// The jobs that are over, as the history has them now.
pub(super) fn past(m: &mut Model, history: Vec<Arc<Finished>>) -> Vec<Effect> {
    let kept = m.jobs.line();
    m.jobs.history = history;
    hide_known(m);
    m.jobs.keep(kept);
    m.dirty |= m.screen == Screen::Jobs;
    Vec::new()
}

/// What a job of this process goes on with, stopped at, or was, has its own line already.
fn hide_known(m: &mut Model) {
    let (me, rows) = (std::process::id(), &m.jobs.rows);
    let shown = |by: (u32, u64)| by.0 == me && rows.iter().any(|j| j.view.id.0 == by.1);
    m.jobs.past = m.jobs.history.iter().filter(|p| !shown(p.by)).cloned().collect();
    if !m.jobs.left.is_empty() {
        let known: Vec<JobSpec> = m.jobs.rows.iter().map(|j| j.view.spec.clone().absolute().resumed()).collect();
        m.jobs.left.retain(|l| !known.contains(&l.record.resumed()));
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
    let (kept, live) = (m.jobs.line(), m.live_jobs());
    // Nobody looks at a line of the history while the list is not shown: a new job comes before it.
    let kept = kept.filter(|k| m.screen == Screen::Jobs || !matches!(k, Line::Past(..)));
    if kept.is_none() {
        m.jobs.scroll.at = 0;
    }
    m.jobs.rows = rows;
    hide_known(m);
    m.jobs.keep(kept);
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
    if edge.state.is_over() || edge.state == JobState::Running {
        effects.push(Effect::LookLeft);
    }
    let Some(job) = m.jobs.rows.iter().find(|j| j.view.id == edge.id) else { return effects };
    let job = job.clone();
    if edge.state.is_over() {
        effects.extend(super::check::ended(m, &job, edge.state, edge.why.as_deref()));
        effects.extend(super::sanitize::ended(m, &job, edge.state));
    }
    let title = printable(&job.view.title);
    let long = job.view.progress.elapsed.as_millis() >= LONG;
    let (text, level) = match edge.state {
        JobState::Done => {
            let came = edge.why.as_deref().map_or(String::new(), printable);
            // A sentence about the file itself says less than the title does.
            let came = if came.is_empty() || came.ends_with("is complete") { String::new() } else { format!(": {came}") };
            // What begins with the file that the title is about says it all.
            let about = title.split_once(' ').map_or("", |(_, file)| file);
            let whole = !about.is_empty() && edge.why.as_deref().is_some_and(|w| printable(w).starts_with(about));
            (if whole { format!("done{came}") } else { format!("done: {title}{came}") }, Level::Info)
        }
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
