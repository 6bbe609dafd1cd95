//! What happens on an image's page and on its map.

use std::path::{Path, PathBuf};

use crate::app::action::Action;
use crate::app::effect::Effect;
use crate::app::input::Input;
use crate::app::layer::Layer;
use crate::app::model::{Model, Pane, Screen};
use crate::app::state::map::{Colour, MapState};
use crate::app::state::page::PageState;
use crate::app::worker::image::{
    CursorLoaded, CursorRequest, GridLoaded, GridRequest, InsideLoaded, InsideRequest, PageLoaded, PageRequest, Reach,
    SharesLoaded,
};
use crate::engine::library::Link;
use crate::engine::limits::MAX_CHAIN;

/// The folders references may lead into.
pub(super) fn roots(m: &Model) -> Vec<PathBuf> {
    m.library.data.roots.iter().map(|r| r.real.clone()).collect()
}

/// Where the references of `path` may lead: what the library knows of parents that are named nowhere goes with them.
pub(super) fn reach(m: &Model, path: &Path) -> Reach {
    let lib = &m.library.data;
    let mut parents = Vec::new();
    let mut at = lib.at(path);
    while let Some(e) = at.filter(|_| parents.len() < MAX_CHAIN) {
        let Some(backing) = &e.backing else { break };
        let Link::Entry(id) = backing.link else { break };
        let Some(parent) = lib.get(id) else { break };
        if backing.spelled.is_empty() {
            parents.push((e.path.clone(), parent.path.clone()));
        }
        at = Some(parent);
    }
    Reach { roots: roots(m), parents }
}

/// Opens the page of `path`, fresh: the way back is the screen it was opened from.
pub(super) fn open_page(m: &mut Model, path: Option<PathBuf>) -> Vec<Effect> {
    m.page.trail.clear();
    if path.is_some() && path == m.page.path && m.page.data.is_some() {
        // Seen before: shown at once as it was, and read again behind that.
        return load_page(m);
    }
    show_page(m, path)
}

pub(super) fn show_page(m: &mut Model, path: Option<PathBuf>) -> Vec<Effect> {
    let Some(path) = path else { return Vec::new() };
    let (trail, generation) = (std::mem::take(&mut m.page.trail), m.page.generation);
    m.page = PageState { path: Some(path), generation, trail, ..PageState::default() };
    load_page(m)
}

fn load_page(m: &mut Model) -> Vec<Effect> {
    m.page.generation += 1;
    let Some(path) = m.page.path.clone() else { return Vec::new() };
    let reach = reach(m, &path);
    let page = Effect::LoadPage(PageRequest { generation: m.page.generation, path: path.clone(), reach });
    std::iter::once(page).chain(super::inside::peek(m, Some(path))).collect()
}

/// The file of the page that is shown changed since it was read: read it again, behind what is shown.
pub(super) fn changed(m: &mut Model) -> Vec<Effect> {
    let (Some(data), Some(path)) = (m.page.loaded(), m.page.path.as_ref()) else { return Vec::new() };
    let Some(entry) = m.library.data.at(path).filter(|_| m.screen == Screen::Image) else { return Vec::new() };
    let same = entry.modified() == data.modified && entry.file_len() == data.len;
    if same { Vec::new() } else { load_page(m) }
}

pub(super) fn page_loaded(m: &mut Model, loaded: PageLoaded) -> Vec<Effect> {
    if loaded.generation == m.page.generation {
        if loaded.page.is_err() {
            m.page.shares = loaded.page.as_ref().err().cloned().map(Err);
        }
        m.page.data = Some(loaded.page);
        m.dirty = true;
    }
    Vec::new()
}

pub(super) fn shares_loaded(m: &mut Model, loaded: SharesLoaded) -> Vec<Effect> {
    if loaded.generation == m.page.generation {
        m.page.shares = Some(loaded.shares);
        m.dirty = true;
    }
    Vec::new()
}

/// Opens the map of `path`; the same image is shown where it was left.
pub(super) fn open_map(m: &mut Model, path: Option<PathBuf>) -> Vec<Effect> {
    if path.is_some() && path != m.map.path {
        let MapState { shape, generation, cursor_generation, inside_generation, colour, shade, .. } = m.map;
        let new =
            MapState { path, shape, generation, cursor_generation, inside_generation, colour, shade, ..MapState::default() };
        m.map = new;
    }
    let mut effects = load_grid(m);
    effects.extend(load_inside(m));
    effects
}

/// Asks what the guest's filesystems say; what was known of the same image is shown until the answer is there.
fn load_inside(m: &mut Model) -> Option<Effect> {
    let path = m.map.path.clone()?;
    m.map.inside_generation += 1;
    Some(Effect::LoadInside(InsideRequest { generation: m.map.inside_generation, reach: reach(m, &path), path }))
}

pub(super) fn inside_loaded(m: &mut Model, loaded: InsideLoaded) -> Vec<Effect> {
    if loaded.generation == m.map.inside_generation {
        m.map.free = Some(loaded.free);
        if loaded.owners.is_some() {
            m.map.owners = loaded.owners;
        }
        m.dirty = true;
    }
    Vec::new()
}

/// Asks for the cells of what is to be shown, and what is under the cursor.
pub(super) fn load_grid(m: &mut Model) -> Vec<Effect> {
    let Some(path) = m.map.path.clone() else { return Vec::new() };
    if m.map.cells() == 0 {
        // Not drawn yet: the first drawing says how many cells there are, and asks.
        m.map.loading = true;
        return Vec::new();
    }
    m.map.generation += 1;
    m.map.loading = true;
    let grid = GridRequest {
        generation: m.map.generation,
        reach: reach(m, &path),
        path,
        only: m.map.only,
        window: m.map.window,
        cells: m.map.cells(),
    };
    let mut effects = vec![Effect::LoadGrid(grid)];
    effects.extend(load_cursor(m));
    effects
}

fn load_cursor(m: &mut Model) -> Option<Effect> {
    let path = m.map.path.clone()?;
    m.map.cursor_generation += 1;
    m.map.under = None;
    Some(Effect::LoadCursor(CursorRequest {
        generation: m.map.cursor_generation,
        reach: reach(m, &path),
        path,
        only: m.map.only,
        offset: m.map.cursor,
    }))
}

pub(super) fn grid_loaded(m: &mut Model, loaded: GridLoaded) -> Vec<Effect> {
    if loaded.generation != m.map.generation {
        return Vec::new();
    }
    m.map.loading = false;
    m.dirty = true;
    match loaded.grid {
        Ok((layers, size, cells)) => {
            m.map.layers = layers;
            m.map.size = size;
            m.map.grid = Some(cells);
            m.map.error = None;
        }
        Err(e) => m.map.error = Some(e),
    }
    Vec::new()
}

pub(super) fn cursor_loaded(m: &mut Model, loaded: CursorLoaded) -> Vec<Effect> {
    if loaded.generation == m.map.cursor_generation {
        m.map.under = Some(loaded.under);
        m.map.owner = loaded.owner;
        m.dirty = true;
    }
    Vec::new()
}

pub(super) fn move_cursor(m: &mut Model, action: Action) -> Vec<Effect> {
    let before = m.map.cursor;
    if m.map.step(action) {
        return load_grid(m);
    }
    if m.map.cursor == before { Vec::new() } else { load_cursor(m).into_iter().collect() }
}

/// A click on a cell.
pub(super) fn cursor_to(m: &mut Model, cell: usize) -> Vec<Effect> {
    m.map.go_to_cell(cell);
    load_cursor(m).into_iter().collect()
}

/// The cursor to a guest byte, showing the part it is in.
pub(super) fn go_to(m: &mut Model, offset: u64) -> Vec<Effect> {
    m.map.cursor = offset.min(m.map.size.saturating_sub(1));
    let row = m.map.cell_bytes().saturating_mul(u64::from(m.map.shape.0.max(1)));
    if m.map.reveal(row) { load_grid(m) } else { load_cursor(m).into_iter().collect() }
}

pub(super) fn run(m: &mut Model, action: Action) -> Vec<Effect> {
    let moved = match action {
        Action::OpenLayer => {
            let path = m.page.loaded().and_then(|d| d.nodes.get(m.page.chain.at)).map(|n| n.path.clone());
            m.page.trail.extend(m.page.path.clone());
            return show_page(m, path);
        }
        Action::Reload => return load_page(m),
        Action::Map => return super::run(m, Action::Go(Screen::Map)),
        Action::ZoomIn => m.map.zoom_in(),
        Action::ZoomOut => m.map.zoom_out(),
        Action::ZoomFit => m.map.window.take().is_some(),
        Action::MapLayer => {
            let count = m.map.layers.len();
            m.map.only = match m.map.only {
                None => Some(0),
                Some(n) if n + 1 < count => Some(n + 1),
                Some(_) => None,
            };
            true
        }
        Action::MapColour => {
            m.map.colour = match m.map.colour {
                Colour::Kind => Colour::Depth,
                Colour::Depth => Colour::Kind,
            };
            false
        }
        Action::MapFree => {
            m.map.shade = !m.map.shade;
            false
        }
        Action::GoTo => {
            m.layers.push(Layer::GoTo(Input::default(), None));
            false
        }
        _ => false,
    };
    if moved { load_grid(m) } else { Vec::new() }
}

/// The command line that does what the screen shows.
pub(super) fn command_line(m: &Model) -> Option<String> {
    if let Some(Layer::Form(form)) = m.layer() {
        return super::form::command_line(form);
    }
    if let (Screen::Jobs, Some(job)) = (m.screen, m.selected_job()) {
        return Some(command_words(&job.view.spec.command()));
    }
    if m.screen == Screen::Jobs
        && let Some(past) = m.jobs.selected_past()
    {
        return Some(command_words(&past.command));
    }
    let path = shell_word(&m.subject()?.display().to_string());
    Some(match m.screen {
        Screen::Map => match m.map.window {
            Some((start, end)) => format!("cowshed map -s {start} -l {} {path}", end - start),
            None => format!("cowshed map {path}"),
        },
        Screen::Check => format!("cowshed check {path}"),
        Screen::Sanitize => match m.sanitizing() {
            Some(job) => command_words(&job.view.spec.command()),
            None => format!("cowshed sanitize --dry-run {path}"),
        },
        Screen::Ready => match m.inside.verdict() {
            Some(v) => format!("cowshed ready --for {} {path}", v.target.entry().name),
            None => format!("cowshed ready {path}"),
        },
        Screen::Inside if m.pane() == Pane::Files => {
            let what = shell_word(&format!("{}:{}", m.subject()?.display(), super::inside::guest_path(m)));
            format!("cowshed ls {what}")
        }
        Screen::Inside => format!("cowshed inspect {path}"),
        Screen::Snapshots => format!("cowshed snapshot -l {path}"),
        _ => format!("cowshed info --backing-chain {path}"),
    })
}

/// A cowshed command of these arguments.
pub(super) fn command_words(arguments: &[String]) -> String {
    let words: Vec<String> = arguments.iter().map(|w| shell_word(w)).collect();
    format!("cowshed {}", words.join(" "))
}

/// A word as a shell takes it.
pub(super) fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_string() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_survive_a_shell() {
        for word in ["/a/b.qcow2", "/a b/it's", "", "$HOME;x", "née"] {
            let out = std::process::Command::new("sh")
                .arg("-c")
                .arg(format!("printf %s {}", super::shell_word(word)))
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), word);
        }
    }
}
