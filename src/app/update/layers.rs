//! Keys and pasted text for the topmost layer.

use crossterm::event::{KeyCode, KeyModifiers};

use super::{form, image, inside, library, run};
use crate::app::action::Action;
use crate::app::effect::Effect;
use crate::app::input::Input;
use crate::app::key::Key;
use crate::app::layer::{Layer, QUIT_CHOICES};
use crate::app::message::Level;
use crate::app::model::{Model, Screen};
use crate::engine::units::parse_size;

/// Hands a key to the topmost layer. The layer is taken off while it works and put back unless it is done.
pub(super) fn key(m: &mut Model, key: Key) -> Vec<Effect> {
    let Some(layer) = m.layers.pop() else { return Vec::new() };
    let (keep, effects) = match layer {
        Layer::Filter => filter(m, key),
        Layer::GoTo(input, _) => go_to(m, input, key),
        Layer::Search(input) => search(m, input, key),
        Layer::Help(mut h) => {
            if key.code == KeyCode::Esc {
                let searching = !h.search.is_empty();
                h.search = Input::default();
                (searching.then_some(Layer::Help(h)), Vec::new())
            } else if key.code == KeyCode::Enter || (h.search.is_empty() && matches!(key.code, KeyCode::Char('?' | 'q'))) {
                (None, Vec::new())
            } else {
                let last = m.hits.layer_len.saturating_sub(m.hits.layer);
                match list_move(key, m.hits.layer, false) {
                    Some(by) => h.top = h.top.saturating_add_signed(by).min(last),
                    None => {
                        if h.search.key(key) {
                            h.top = 0;
                        }
                    }
                }
                (Some(Layer::Help(h)), Vec::new())
            }
        }
        Layer::Palette(mut p) => match key.code {
            KeyCode::Esc => (None, Vec::new()),
            KeyCode::Enter => {
                let rows = p.rows(m);
                return match rows.get(p.selected) {
                    Some((c, Ok(()))) => run(m, c.action),
                    Some((c, Err(why))) => {
                        m.tell(format!("{}: {why}", c.title), Level::Warning);
                        m.layers.push(Layer::Palette(p));
                        Vec::new()
                    }
                    None => {
                        m.layers.push(Layer::Palette(p));
                        Vec::new()
                    }
                };
            }
            _ => {
                let len = p.rows(m).len();
                match list_move(key, m.hits.layer, false) {
                    Some(by) => p.selected = p.selected.saturating_add_signed(by).min(len.saturating_sub(1)),
                    None => {
                        if p.input.key(key) {
                            p.selected = 0;
                        }
                    }
                }
                (Some(Layer::Palette(p)), Vec::new())
            }
        },
        Layer::Form(form) => return form::key(m, form, key),
        Layer::Quit(at) => return quit(m, at, key),
        Layer::Confirm(mut c) => match key.code {
            KeyCode::Enter => (None, if c.yes { vec![c.effect] } else { Vec::new() }),
            KeyCode::Esc | KeyCode::Char('q') => (None, Vec::new()),
            KeyCode::Left | KeyCode::Up | KeyCode::Char('h' | 'k') => {
                c.yes = false;
                (Some(Layer::Confirm(c)), Vec::new())
            }
            KeyCode::Right | KeyCode::Down | KeyCode::Char('l' | 'j') => {
                c.yes = true;
                (Some(Layer::Confirm(c)), Vec::new())
            }
            KeyCode::Tab => {
                c.yes = !c.yes;
                (Some(Layer::Confirm(c)), Vec::new())
            }
            _ => (Some(Layer::Confirm(c)), Vec::new()),
        },
        Layer::Text(title, lines, top) => match key.code {
            KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q') => (None, Vec::new()),
            _ => {
                let by = list_move(key, m.hits.layer, true).unwrap_or(0);
                let top = top.saturating_add_signed(by).min(lines.len().saturating_sub(1));
                (Some(Layer::Text(title, lines, top)), Vec::new())
            }
        },
    };
    m.layers.extend(keep);
    effects
}

/// How far a key moves in a layer's list; letters only where nothing is typed.
fn list_move(key: Key, height: usize, letters: bool) -> Option<isize> {
    let page = isize::try_from(height.max(2) - 1).unwrap_or(1);
    let ctrl = key.mods == KeyModifiers::CONTROL;
    Some(match key.code {
        KeyCode::Up => -1,
        KeyCode::Down => 1,
        KeyCode::PageUp => -page,
        KeyCode::PageDown => page,
        KeyCode::Char('p') if ctrl => -1,
        KeyCode::Char('n') if ctrl => 1,
        KeyCode::Char('d') if ctrl => page / 2,
        KeyCode::Char('k') if letters => -1,
        KeyCode::Char('j') if letters => 1,
        KeyCode::Char('g') | KeyCode::Home if letters => isize::MIN / 2,
        KeyCode::Char('G') | KeyCode::End if letters => isize::MAX / 2,
        _ => return None,
    })
}

fn filter(m: &mut Model, key: Key) -> (Option<Layer>, Vec<Effect>) {
    match key.code {
        KeyCode::Esc => {
            library::filtered(m, Input::default());
            (None, Vec::new())
        }
        KeyCode::Enter => (None, Vec::new()),
        KeyCode::Up | KeyCode::Down => {
            let len = m.library.rows.len();
            m.library.scroll.step(if key.code == KeyCode::Up { Action::Up } else { Action::Down }, len);
            (Some(Layer::Filter), Vec::new())
        }
        _ => {
            let mut input = m.library.filter.clone();
            if input.key(key) && input.text() != m.library.filter.text() {
                library::filtered(m, input);
            } else {
                m.library.filter = input;
            }
            (Some(Layer::Filter), Vec::new())
        }
    }
}

/// A name to look for in the guest.
fn search(m: &mut Model, mut input: Input, key: Key) -> (Option<Layer>, Vec<Effect>) {
    match key.code {
        KeyCode::Esc => (None, Vec::new()),
        KeyCode::Enter if input.is_empty() => (None, Vec::new()),
        KeyCode::Enter => (None, inside::search(m, input.text())),
        _ => {
            input.key(key);
            (Some(Layer::Search(input)), Vec::new())
        }
    }
}

fn go_to(m: &mut Model, mut input: Input, key: Key) -> (Option<Layer>, Vec<Effect>) {
    match key.code {
        KeyCode::Esc => (None, Vec::new()),
        KeyCode::Enter => match parse_size(input.text()) {
            Ok(offset) if offset < m.map.size.max(1) => (None, image::go_to(m, offset)),
            Ok(_) => (Some(Layer::GoTo(input, Some("the disk ends before that".into()))), Vec::new()),
            Err(e) => (Some(Layer::GoTo(input, Some(e.why().to_string()))), Vec::new()),
        },
        _ => {
            input.key(key);
            (Some(Layer::GoTo(input, None)), Vec::new())
        }
    }
}

/// Quitting while jobs run: one of [`QUIT_CHOICES`].
fn quit(m: &mut Model, at: usize, key: Key) -> Vec<Effect> {
    let at = match key.code {
        KeyCode::Esc | KeyCode::Char('q') => return choose_quit(m, QUIT_CHOICES.len() - 1),
        KeyCode::Up | KeyCode::Left | KeyCode::Char('k' | 'h') => at.saturating_sub(1),
        KeyCode::Down | KeyCode::Right | KeyCode::Tab | KeyCode::Char('j' | 'l') => (at + 1).min(QUIT_CHOICES.len() - 1),
        KeyCode::Enter => return choose_quit(m, at),
        _ => at,
    };
    m.layers.push(Layer::Quit(at));
    Vec::new()
}

/// What one of [`QUIT_CHOICES`] does.
pub(super) fn choose_quit(m: &mut Model, at: usize) -> Vec<Effect> {
    match at {
        0 => {
            m.screen = Screen::Jobs;
            m.tell("waiting for the jobs; cowshed quits when they have ended", Level::Info);
            m.jobs.quit_when_done = true;
            Vec::new()
        }
        1 | 2 => {
            m.done = true;
            m.leave_jobs = at == 1;
            vec![Effect::Quit]
        }
        _ => {
            m.jobs.quit_when_done = false;
            Vec::new()
        }
    }
}

/// Pasted text goes where text is typed.
pub(super) fn paste(m: &mut Model, text: &str) -> Vec<Effect> {
    m.dirty = true;
    let Some(layer) = m.layers.pop() else { return Vec::new() };
    let layer = match layer {
        Layer::Filter => {
            let mut input = m.library.filter.clone();
            input.insert(text);
            library::filtered(m, input);
            Layer::Filter
        }
        Layer::GoTo(mut input, _) => {
            input.insert(text.trim());
            Layer::GoTo(input, None)
        }
        Layer::Search(mut input) => {
            input.insert(text.trim());
            Layer::Search(input)
        }
        Layer::Help(mut h) => {
            h.search.insert(text);
            Layer::Help(h)
        }
        Layer::Palette(mut p) => {
            p.input.insert(text);
            Layer::Palette(p)
        }
        Layer::Form(form) => return form::paste(m, form, text),
        other => other,
    };
    m.layers.push(layer);
    Vec::new()
}
