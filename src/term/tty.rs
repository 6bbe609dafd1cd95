//! The terminal itself: taken when the workbench opens, given back on quit, error, panic and signals, each step as best it can.

use std::io::{self, BufWriter, Stdout, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ThreadId;

use crossterm::cursor::{Hide, Show};
use crossterm::event::{DisableBracketedPaste, DisableFocusChange, EnableBracketedPaste, EnableFocusChange};
use crossterm::style::Print;
use crossterm::terminal::{
    BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen, SetTitle, disable_raw_mode,
    enable_raw_mode,
};
use crossterm::{execute, queue};
use ratatui::backend::{Backend as _, CrosstermBackend};

use super::caps::Caps;
use super::clipboard;
use crate::app::hits::Hits;
use crate::app::model::Model;
use crate::app::runtime::Terminal;
use crate::ui::{self, Look};

/// Presses and the wheel, in coordinates of any size; not every movement, which would wake us for nothing.
const MOUSE_ON: &str = "\x1b[?1000h\x1b[?1006h";
const MOUSE_OFF: &str = "\x1b[?1006l\x1b[?1000l";

/// True while the terminal is ours.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal, drawn on with ratatui. Gives it back when dropped.
pub struct Tty {
    screen: ratatui::Terminal<CrosstermBackend<BufWriter<Stdout>>>,
    look: Look,
    caps: Caps,
    mouse: bool,
}

impl Tty {
    /// Takes the terminal.
    ///
    /// Errors: there is none, or it cannot be set up; it is left as it was.
    pub fn take(look: Look, caps: Caps, mouse: bool) -> io::Result<Self> {
        let backend = CrosstermBackend::new(BufWriter::with_capacity(1 << 16, io::stdout()));
        let screen = ratatui::Terminal::new(backend)?;
        let mut tty = Tty { screen, look, caps, mouse };
        guard_panics(std::thread::current().id());
        tty.enter()?;
        Ok(tty)
    }

    fn enter(&mut self) -> io::Result<()> {
        TAKEN.store(true, Ordering::SeqCst);
        enable_raw_mode()?;
        let mut out = io::stdout();
        execute!(out, EnterAlternateScreen, EnableBracketedPaste, EnableFocusChange, Hide, SetTitle("cowshed"))?;
        if self.mouse {
            execute!(out, Print(MOUSE_ON))?;
        }
        self.forget()
    }

    /// Clears the screen and what ratatui believes is on it. Its own `clear` asks the terminal where the cursor is, and that answer
    /// would go to the thread that reads keys.
    fn forget(&mut self) -> io::Result<()> {
        self.screen.backend_mut().clear()?;
        // Both buffers are empty after this: the one drawn last, and the one to draw on.
        self.screen.swap_buffers();
        Ok(())
    }

    fn send(&mut self, text: &str) -> io::Result<()> {
        let out = self.screen.backend_mut();
        out.write_all(text.as_bytes())?;
        Write::flush(out)
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        leave();
    }
}

/// Gives the terminal back. Every step is tried, whatever became of the others; done twice it does nothing.
pub fn leave() {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    let mut out = io::stdout();
    let _ = execute!(out, Print(MOUSE_OFF));
    let _ = execute!(out, EndSynchronizedUpdate, DisableFocusChange, DisableBracketedPaste);
    let _ = execute!(out, LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}

/// A panic of the thread that draws gives the terminal back before it is reported. Those of other threads are caught and shown by
/// whoever waits for them, and must not write over the screen.
fn guard_panics(drawing: ThreadId) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() == drawing {
            leave();
            report(info);
        } else if !TAKEN.load(Ordering::SeqCst) {
            report(info);
        }
    }));
}

impl Terminal for Tty {
    fn draw(&mut self, m: &Model) -> io::Result<Hits> {
        let mut hits = Hits::default();
        queue!(self.screen.backend_mut(), BeginSynchronizedUpdate)?;
        self.screen.draw(|frame| hits = ui::draw(m, &self.look, frame))?;
        execute!(self.screen.backend_mut(), EndSynchronizedUpdate)?;
        Ok(hits)
    }
    fn repaint(&mut self) -> io::Result<()> {
        self.forget()
    }
    fn suspend(&mut self) -> io::Result<()> {
        leave();
        // The whole group, so that a program that started us (cargo run) stops too and the shell gets the terminal.
        let _ = rustix::process::kill_current_process_group(rustix::process::Signal::STOP);
        self.enter()
    }
    fn resume(&mut self) -> io::Result<()> {
        leave();
        self.enter()
    }
    fn copy(&mut self, text: &str) -> io::Result<()> {
        let sequence = clipboard::copy(text, self.caps.tmux);
        self.send(&sequence)
    }
    fn mouse(&mut self, on: bool) -> io::Result<()> {
        self.mouse = on;
        self.send(if on { MOUSE_ON } else { MOUSE_OFF })
    }
    fn notify(&mut self, text: &str) -> io::Result<()> {
        let sequence = clipboard::notify(text, self.caps.tmux);
        self.send(&sequence)
    }
    fn size(&self) -> io::Result<(u16, u16)> {
        crossterm::terminal::size()
    }
}
