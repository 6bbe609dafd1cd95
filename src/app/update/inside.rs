//! What happens on the screens Inside and Ready.

use std::path::PathBuf;
use std::sync::Arc;

use super::image::{command_words, reach, roots};
use super::{form, run as run_action};
use crate::app::action::Action;
use crate::app::effect::Effect;
use crate::app::form::{ConvertForm, ExtractForm, ResizeForm, SanitizeForm};
use crate::app::input::Input;
use crate::app::layer::Layer;
use crate::app::message::Level;
use crate::app::model::{Model, Pane, Screen};
use crate::app::state::inside::InsideState;
use crate::app::worker::guest::{FilesLoaded, FilesRequest, LookLoaded, LookRequest, News, Want, below};
use crate::engine::guest::fs::FileType;
use crate::engine::guest::ready::Next;
use crate::engine::units::printable;

/// Shows the inside of `path`; the same image is shown where it was left.
pub(super) fn open(m: &mut Model, path: Option<PathBuf>) -> Vec<Effect> {
    if path.is_none() {
        return Vec::new();
    }
    let mut effects: Vec<Effect> = peek(m, path).into_iter().collect();
    if m.inside.rows.is_none() && m.screen == Screen::Inside {
        effects.extend(ask(m, Want::Open(b"/".to_vec())));
    }
    effects
}

/// Looks who is inside `path`, without its files: the image's page tells it in a few lines.
pub(super) fn peek(m: &mut Model, path: Option<PathBuf>) -> Option<Effect> {
    if path != m.inside.path {
        let (generation, files_generation) = (m.inside.generation, m.inside.files_generation);
        m.inside = InsideState { path, generation, files_generation, ..InsideState::default() };
    }
    look(m)
}

pub(super) fn look(m: &mut Model) -> Option<Effect> {
    m.inside.generation += 1;
    let path = m.inside.path.clone()?;
    Some(Effect::Look(LookRequest { generation: m.inside.generation, reach: reach(m, &path), path }))
}

fn ask(m: &mut Model, want: Want) -> Option<Effect> {
    let path = m.inside.path.clone()?;
    m.inside.files_generation += 1;
    m.inside.reading = true;
    let (generation, volume) = (m.inside.files_generation, m.inside.volume);
    Some(Effect::Files(FilesRequest { generation, reach: reach(m, &path), path, volume, want }))
}

pub(super) fn looked(m: &mut Model, loaded: LookLoaded) -> Vec<Effect> {
    if loaded.generation == m.inside.generation {
        m.inside.look = Some(loaded.look);
        m.dirty = true;
    }
    Vec::new()
}

pub(super) fn files(m: &mut Model, loaded: FilesLoaded) -> Vec<Effect> {
    if loaded.generation != m.inside.files_generation {
        return Vec::new();
    }
    m.dirty = true;
    m.inside.reading = false;
    let s = &mut m.inside;
    match loaded.news {
        Ok(News::Folder(path, rows)) => {
            let at = s.select.take().and_then(|name| rows.iter().position(|r| r.name == name)).unwrap_or(0);
            let len = rows.len();
            s.folder = if path.is_empty() { b"/".to_vec() } else { path };
            (s.rows, s.found) = (Some(Ok(rows)), None);
            s.files.top = 0;
            s.files.go(at, len);
        }
        Ok(News::Found(rows, more)) => {
            let Some((_, cut)) = &mut s.found else { return Vec::new() };
            *cut = more;
            s.rows = Some(Ok(rows));
            (s.files.at, s.files.top) = (0, 0);
        }
        Ok(News::Text(title, lines)) => m.layers.push(Layer::Text(title, lines, 0)),
        Err(e) if s.rows.as_ref().is_some_and(Result::is_ok) => m.tell(e.to_string(), Level::Error),
        Err(e) => s.rows = Some(Err(e)),
    }
    Vec::new()
}

/// Left and Right where they mean more than the next panel: out of a folder, into one.
pub(super) fn sideways(m: &mut Model, action: Action) -> Vec<Effect> {
    match action {
        Action::Left => up(m),
        _ if m.inside.file().is_some_and(|f| f.stat.kind != FileType::File) => enter(m),
        _ => Vec::new(),
    }
}

/// To the folder this one lies in, or from what was found back to the folder.
pub(super) fn up(m: &mut Model) -> Vec<Effect> {
    let s = &mut m.inside;
    if s.found.take().is_some() {
        let folder = s.folder.clone();
        return ask(m, Want::Open(folder)).into_iter().collect();
    }
    let Some(slash) = s.folder.iter().rposition(|c| *c == b'/') else { return Vec::new() };
    let name = s.folder.get(slash + 1..).unwrap_or_default().to_vec();
    if name.is_empty() {
        return Vec::new();
    }
    let parent = s.folder.get(..slash).filter(|p| !p.is_empty()).unwrap_or(b"/").to_vec();
    s.select = Some(name);
    ask(m, Want::Open(parent)).into_iter().collect()
}

fn enter(m: &mut Model) -> Vec<Effect> {
    let path = m.inside.file_path();
    path.and_then(|p| ask(m, Want::Open(p))).into_iter().collect()
}

/// Searches for `text` below the folder shown.
pub(super) fn search(m: &mut Model, text: &str) -> Vec<Effect> {
    let folder = m.inside.folder.clone();
    m.inside.found = Some((text.to_string(), false));
    ask(m, Want::Search(folder, text.to_string())).into_iter().collect()
}

pub(super) fn run(m: &mut Model, action: Action) -> Vec<Effect> {
    match action {
        Action::OpenFile => match m.pane() {
            Pane::Volumes => {
                let only = m.inside.volumes.at;
                let mounted = m.inside.seen().and_then(|l| l.volumes.get(only)).is_some_and(|v| v.at == "/");
                m.inside.volume = (!mounted).then_some(only);
                m.set_pane(Pane::Files);
                (m.inside.rows, m.inside.found) = (None, None);
                ask(m, Want::Open(b"/".to_vec())).into_iter().collect()
            }
            _ => enter(m),
        },
        Action::FolderUp => up(m),
        Action::Search => {
            m.layers.push(Layer::Search(Input::default()));
            Vec::new()
        }
        Action::Extract => {
            let (Some(image), Some(file)) = (m.inside.path.clone(), m.inside.file_path()) else { return Vec::new() };
            let partition = m.inside.volume.and_then(|i| m.inside.seen()?.volumes.get(i)?.partition);
            let recipe = ExtractForm::new(&image, &file, partition, roots(m));
            form::open(m, Arc::new(recipe))
        }
        Action::Reload => {
            let folder = if m.inside.folder.is_empty() { b"/".to_vec() } else { m.inside.folder.clone() };
            m.inside.select = m.inside.file().map(|f| f.name.clone());
            m.inside.found = None;
            look(m).into_iter().chain(ask(m, Want::Open(folder))).collect()
        }
        Action::Mend => mend(m),
        _ => Vec::new(),
    }
}

/// The one action that the verdict names: a form where the workbench has one, else its command line.
fn mend(m: &mut Model) -> Vec<Effect> {
    let Some(image) = m.inside.path.clone() else { return Vec::new() };
    let Some((target, Some(next))) = m.inside.verdict().map(|v| (v.target, v.next())) else { return Vec::new() };
    match next {
        Next::Convert => {
            let (format, options) = target.entry().make;
            let recipe = ConvertForm::new(m, &image, roots(m)).towards(format, options);
            form::open(m, Arc::new(recipe))
        }
        Next::Resize(size) => {
            let recipe = ResizeForm::new(m, &image, roots(m)).towards(size.to_string());
            form::open(m, Arc::new(recipe))
        }
        Next::Sanitize { operations, to } => {
            let recipe = SanitizeForm::new(m, &image, roots(m)).towards(target.profile(), operations, to);
            form::open(m, Arc::new(recipe))
        }
        Next::Check => {
            let words = m.inside.verdict().and_then(|v| v.action(&image)).unwrap_or_default();
            let line = command_words(&words);
            m.tell(format!("copied: {}", printable(&line)), Level::Info);
            vec![Effect::Copy(line)]
        }
    }
}

/// What a double click on a row does.
pub(super) fn double(m: &mut Model, pane: Pane) -> Vec<Effect> {
    match pane {
        Pane::Files | Pane::Volumes => run_action(m, Action::OpenFile),
        Pane::Targets => run_action(m, Action::Mend),
        _ => Vec::new(),
    }
}

/// The path in the guest that the cursor is on, or the folder shown.
pub(super) fn guest_path(m: &Model) -> String {
    let s = &m.inside;
    let path = s.file_path().unwrap_or_else(|| below(&s.folder, b""));
    String::from_utf8_lossy(&path).into_owned()
}
