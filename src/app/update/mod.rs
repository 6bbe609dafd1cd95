//! The heart: what a message does to the model, and what is to be carried out for it. No I/O, no clock.

mod check;
mod form;
mod image;
mod inside;
mod jobs;
mod layers;
mod library;
mod mouse;
mod sanitize;
mod snapshots;

use super::action::Action;
use super::command::{Command, Scope};
use super::effect::Effect;
use super::hits::Hits;
use super::key::Key;
use super::layer::{Help, Layer, Palette};
use super::message::{Level, Message};
use super::model::{Model, Notice, Pane, Screen};

/// Takes one message in.
pub fn update(m: &mut Model, message: Message) -> Vec<Effect> {
    match message {
        Message::Key(key) => key_pressed(m, key),
        Message::Paste(text) => layers::paste(m, &text),
        Message::Mouse(what, column, row) => mouse::mouse(m, what, column, row),
        Message::Resize(columns, rows) => {
            m.size = (columns, rows);
            m.dirty = true;
            Vec::new()
        }
        Message::Focus(focused) => {
            m.focused = focused;
            // Somebody may have started or stopped a machine while we were not looked at.
            if focused { vec![Effect::Watch(m.watched.clone())] } else { Vec::new() }
        }
        Message::Tick => {
            tick(m);
            Vec::new()
        }
        Message::Terminate(signal) => {
            m.signal = Some(signal);
            m.done = true;
            vec![Effect::Quit]
        }
        Message::Stop => vec![Effect::Suspend],
        Message::Continue => vec![Effect::Resume],
        Message::Library(snapshot) => library::loaded(m, *snapshot),
        Message::Locks(news) => library::locks(m, news),
        Message::Allocated(news) => library::allocated(m, news),
        Message::Page(page) => image::page_loaded(m, *page),
        Message::Shares(shares) => image::shares_loaded(m, *shares),
        Message::Grid(grid) => image::grid_loaded(m, *grid),
        Message::Cursor(cursor) => image::cursor_loaded(m, *cursor),
        Message::MapInside(inside) => image::inside_loaded(m, *inside),
        Message::Look(loaded) => inside::looked(m, *loaded),
        Message::Files(loaded) => inside::files(m, *loaded),
        Message::Snapshots(loaded) => snapshots::loaded(m, *loaded),
        Message::Diff(diff) => snapshots::compared(m, *diff),
        Message::Freed(freed) => snapshots::freed(m, *freed),
        Message::Kept(loaded) => sanitize::looked(m, *loaded),
        Message::Sanitized(report) => sanitize::reported(m, report),
        Message::Checked(checked) => check::found(m, checked),
        Message::Edge(edge) => jobs::edge(m, edge),
        Message::Plan(made) => form::planned(m, *made),
        Message::Jobs(rows) => jobs::sampled(m, rows),
        Message::Left(rows) => jobs::left(m, rows),
        Message::Past(history) => jobs::past(m, history),
        Message::Told(text, level) => {
            m.tell(&*text, level);
            Vec::new()
        }
    }
}

/// Takes in what drawing found out: areas for the mouse, lines shown, cells of the map.
pub fn drawn(m: &mut Model, hits: Hits) -> Vec<Effect> {
    m.dirty = false;
    m.later = None;
    for &(pane, height, len) in &hits.panes {
        let (scroll, count) = m.scroll_of(pane);
        scroll.height = height;
        scroll.len = len;
        match pane {
            Pane::Tree
            | Pane::Chain
            | Pane::Snapshots
            | Pane::JobList
            | Pane::FormatList
            | Pane::States
            | Pane::Files
            | Pane::Volumes
            | Pane::Targets => scroll.follow(count),
            _ => scroll.top = scroll.top.min(len.saturating_sub(height)),
        }
    }
    let last = hits.layer_len.saturating_sub(hits.layer);
    match m.layers.last_mut() {
        Some(Layer::Form(form)) => form.top = form.top.min(last),
        Some(Layer::Help(help)) => help.top = help.top.min(last),
        _ => {}
    }
    let mut effects = Vec::new();
    if let Some(shape) = hits.map
        && m.screen == Screen::Map
        && shape != m.map.shape
    {
        m.map.shape = shape;
        effects.extend(image::load_grid(m));
    }
    m.hits = hits;
    effects.extend(library::watch(m));
    effects
}

fn tick(m: &mut Model) {
    if m.notice.as_ref().is_some_and(|n| n.until <= m.now.ms) {
        m.notice = None;
        m.dirty = true;
    }
    if m.later.is_some_and(|at| at <= m.now.ms) {
        m.dirty = true;
    }
    m.dirty |= m.moving();
}

fn key_pressed(m: &mut Model, key: Key) -> Vec<Effect> {
    // These work wherever one is, also while typing.
    let global = m.keymap.lookup(&[Scope::Global], key);
    if let Some(action @ (Action::Interrupt | Action::Suspend | Action::Redraw)) = global {
        return run(m, action);
    }
    if m.layer().is_some() {
        m.dirty = true;
        return layers::key(m, key);
    }
    match m.keymap.lookup(&Scope::of(m.screen), key) {
        Some(action) => run(m, action),
        None => Vec::new(),
    }
}

/// Carries out a command, or says why it cannot be done now. Why another command could not be done before is told no
/// longer once a screen or a dialog opens.
pub fn run(m: &mut Model, action: Action) -> Vec<Effect> {
    let (screen, layers, until) = (m.screen, m.layers.len(), m.notice.as_ref().map(|n| n.until));
    let effects = carry_out(m, action);
    let stale = |n: &Notice| n.level == Level::Warning && Some(n.until) == until;
    if (m.screen != screen || m.layers.len() > layers) && m.notice.as_ref().is_some_and(stale) {
        m.notice = None;
    }
    effects
}

fn carry_out(m: &mut Model, action: Action) -> Vec<Effect> {
    m.dirty = true;
    if let Some(command) = Command::of(action, m.screen)
        && let Err(why) = (command.enabled)(m)
    {
        m.tell(format!("{}: {why}", command.title.trim_end_matches('…')), Level::Warning);
        return Vec::new();
    }
    match action {
        Action::Up
        | Action::Down
        | Action::Left
        | Action::Right
        | Action::First
        | Action::Last
        | Action::PageUp
        | Action::PageDown
        | Action::HalfUp
        | Action::HalfDown => moved(m, action),
        Action::NextPane => turn_pane(m, 1),
        Action::PreviousPane => turn_pane(m, -1),
        Action::Go(screen) => go(m, screen),
        Action::Back => back(m),
        // Pressed again while it asks: the safe way out.
        Action::Interrupt if matches!(m.layer(), Some(Layer::Quit(_))) => layers::choose_quit(m, 1),
        Action::Quit | Action::Interrupt => quit(m),
        Action::Suspend => vec![Effect::Suspend],
        Action::Redraw => vec![Effect::Repaint],
        Action::Help => {
            m.layers.push(Layer::Help(Help::default()));
            Vec::new()
        }
        Action::Palette => {
            m.layers.push(Layer::Palette(Palette::default()));
            Vec::new()
        }
        Action::ToggleMouse => {
            m.mouse = !m.mouse;
            m.tell(if m.mouse { "the mouse is cowshed's" } else { "the mouse is the terminal's" }, Level::Info);
            vec![Effect::Mouse(m.mouse)]
        }
        Action::WriteConfig => m.config_path.clone().map(Effect::WriteConfig).into_iter().collect(),
        Action::CopyPath => {
            let text = m.subject().map(|p| p.display().to_string());
            copy(m, text, "the path")
        }
        Action::CopyError => {
            let text = m.error_text();
            copy(m, text, "the error")
        }
        Action::CopyCommand => {
            let text = image::command_line(m);
            copy(m, text, "the command line")
        }
        Action::Open
        | Action::Filter
        | Action::NextMatch
        | Action::PreviousMatch
        | Action::Fold
        | Action::UnfoldAll
        | Action::FoldAll
        | Action::Group
        | Action::Sort
        | Action::Reverse
        | Action::Problems
        | Action::Rescan => library::run(m, action),
        Action::Reload if matches!(m.screen, Screen::Inside | Screen::Ready) => inside::run(m, action),
        Action::OpenFile | Action::FolderUp | Action::Search | Action::Extract | Action::Mend => inside::run(m, action),
        Action::Reload if m.screen == Screen::Sanitize => sanitize::run(m, action),
        Action::Sanitize | Action::TakeBack | Action::DestroyKept | Action::OpenReport => sanitize::run(m, action),
        Action::Reload if m.screen == Screen::Snapshots => snapshots::run(m, action),
        Action::Flatten
        | Action::Rebase
        | Action::Commit
        | Action::DeleteImage
        | Action::Compact
        | Action::Relink
        | Action::Amend
        | Action::Bitmap => jobs::run(m, action),
        Action::Check | Action::Repair | Action::UndoRepair => check::run(m, action),
        Action::OpenImage
        | Action::Mark
        | Action::ClearMarks
        | Action::TakeSnapshot
        | Action::Revert
        | Action::DeleteSnapshots
        | Action::RenameSnapshot
        | Action::Export
        | Action::Branch
        | Action::Diff => snapshots::run(m, action),
        Action::OpenLayer
        | Action::Reload
        | Action::Map
        | Action::ZoomIn
        | Action::ZoomOut
        | Action::ZoomFit
        | Action::MapLayer
        | Action::MapColour
        | Action::MapFree
        | Action::GoTo => image::run(m, action),
        Action::Convert
        | Action::Create
        | Action::Resize
        | Action::CancelJob
        | Action::PauseJob
        | Action::RetryJob
        | Action::LimitUp
        | Action::LimitDown
        | Action::RankJob
        | Action::ShowLog
        | Action::ForgetJobs => jobs::run(m, action),
    }
}

fn copy(m: &mut Model, text: Option<String>, what: &str) -> Vec<Effect> {
    let Some(text) = text else { return Vec::new() };
    m.tell(format!("copied {what}: {}", crate::engine::units::printable(&text)), Level::Info);
    vec![Effect::Copy(text)]
}

fn moved(m: &mut Model, action: Action) -> Vec<Effect> {
    match (m.pane(), action) {
        (Pane::Grid, _) => image::move_cursor(m, action),
        (Pane::Tree, Action::Left | Action::Right) => library::sideways(m, action),
        (Pane::Files, Action::Left | Action::Right) => inside::sideways(m, action),
        (_, Action::Left) => turn_pane(m, -1),
        (_, Action::Right) => turn_pane(m, 1),
        (
            pane @ (Pane::Identity
            | Pane::Findings
            | Pane::Detail
            | Pane::Facts
            | Pane::JobLog
            | Pane::FormatText
            | Pane::State
            | Pane::Sanitized
            | Pane::Report),
            _,
        ) => {
            let (scroll, len) = m.scroll_of(pane);
            scroll.roll(action, len);
            Vec::new()
        }
        (pane, _) => {
            let (scroll, len) = m.scroll_of(pane);
            scroll.step(action, len);
            selected(m, pane);
            Vec::new()
        }
    }
}

/// Another line of a list was selected: what is shown about it begins at its top.
fn selected(m: &mut Model, pane: Pane) {
    match pane {
        Pane::Tree => m.library.detail.top = 0,
        Pane::JobList => m.jobs.log.top = 0,
        Pane::FormatList => m.guide.text.top = 0,
        Pane::States => m.snaps.detail.top = 0,
        Pane::Targets => m.inside.findings.top = 0,
        _ => {}
    }
}

fn turn_pane(m: &mut Model, by: isize) -> Vec<Effect> {
    let panes = Pane::of(m.screen);
    let at = panes.iter().position(|p| *p == m.pane()).unwrap_or(0);
    let to = (at as isize + by).rem_euclid(panes.len() as isize) as usize;
    if let Some(p) = panes.get(to) {
        m.set_pane(*p);
    }
    Vec::new()
}

/// Goes to another screen; Esc comes back.
fn go(m: &mut Model, screen: Screen) -> Vec<Effect> {
    let subject = m.subject();
    if screen == m.screen {
        return Vec::new();
    }
    // A screen is only once on the way back, so that Esc never goes in circles.
    m.back.retain(|s| *s != screen);
    if screen == Screen::Library {
        m.back.clear();
    } else {
        let from = m.screen;
        m.back.retain(|s| *s != from);
        m.back.push(from);
    }
    let from = std::mem::replace(&mut m.screen, screen);
    let shown = matches!(from, Screen::Jobs | Screen::Guide);
    match screen {
        Screen::Image => image::open_page(m, if shown { m.page.path.clone().or(subject) } else { subject }),
        Screen::Map => image::open_map(m, if shown { m.map.path.clone().or(subject) } else { subject }),
        Screen::Inside | Screen::Ready => inside::open(m, if shown { m.inside.path.clone().or(subject) } else { subject }),
        Screen::Sanitize => {
            let path = if shown { m.sanitize.path.clone().or(subject) } else { subject };
            path.map(|p| sanitize::show(m, p)).unwrap_or_default()
        }
        Screen::Snapshots => snapshots::open(m, if shown { m.snaps.path.clone().or(subject) } else { subject }),
        Screen::Check => {
            let path = if shown { m.check.path.clone().or(subject) } else { subject };
            path.into_iter().for_each(|p| check::show(m, p));
            Vec::new()
        }
        _ => Vec::new(),
    }
}

/// Exactly one level back.
fn back(m: &mut Model) -> Vec<Effect> {
    match m.screen {
        Screen::Library if !m.library.filter.is_empty() => {
            m.library.filter = Default::default();
            m.library.refresh();
        }
        Screen::Library if m.library.problems => {
            m.library.problems = false;
            m.library.refresh();
        }
        Screen::Library => m.set_pane(Pane::Tree),
        Screen::Image if !m.page.trail.is_empty() => {
            let path = m.page.trail.pop();
            return image::show_page(m, path);
        }
        Screen::Inside if m.inside.found.is_some() => return inside::up(m),
        Screen::Snapshots if !m.snaps.trail.is_empty() => {
            let path = m.snaps.trail.pop();
            return snapshots::show(m, path);
        }
        Screen::Map if m.map.zoomed() => {
            m.map.window = None;
            return image::load_grid(m).into_iter().collect();
        }
        _ => m.screen = m.back.pop().unwrap_or_default(),
    }
    Vec::new()
}

fn quit(m: &mut Model) -> Vec<Effect> {
    if m.live_jobs() == 0 {
        m.done = true;
        return vec![Effect::Quit];
    }
    if !matches!(m.layer(), Some(Layer::Quit(_))) {
        m.layers.push(Layer::Quit(0));
    }
    Vec::new()
}

#[cfg(test)]
pub(crate) mod tests;
