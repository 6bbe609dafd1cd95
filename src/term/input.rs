//! Input: a thread that reads the terminal and turns what it finds into messages.

use crossterm::event::{self, Event, KeyEventKind, MouseButton, MouseEventKind};

use super::background::Late;
use crate::app::key::Key;
use crate::app::message::{Message, Mouse};
use crate::app::worker::Outbox;

/// Starts the thread; an answer of the terminal that comes late is kept out. It ends with the process, or when nobody listens any more.
///
/// Errors: the system gives no thread.
pub fn spawn(out: Outbox, mut late: Late) -> std::io::Result<()> {
    std::thread::Builder::new().name("cowshed-input".into()).spawn(move || {
        loop {
            let message = match event::read() {
                Ok(Event::Key(e)) if e.kind != KeyEventKind::Release && late.swallows(&Key::from(e)) => None,
                Ok(event) => message(event),
                // The terminal is gone.
                Err(_) => Some(Message::Terminate(libc::SIGHUP)),
            };
            let gone = matches!(message, Some(Message::Terminate(_)));
            if message.is_some_and(|m| out.send(m).is_err()) || gone {
                return;
            }
        }
    })?;
    Ok(())
}

fn message(event: Event) -> Option<Message> {
    Some(match event {
        Event::Key(e) if e.kind == KeyEventKind::Release => return None,
        Event::Key(e) => Message::Key(Key::from(e)),
        Event::Paste(text) => Message::Paste(text),
        Event::Resize(columns, rows) => Message::Resize(columns, rows),
        Event::FocusGained => Message::Focus(true),
        Event::FocusLost => Message::Focus(false),
        Event::Mouse(e) => {
            let what = match e.kind {
                MouseEventKind::Down(MouseButton::Left) => Mouse::Press,
                MouseEventKind::ScrollUp => Mouse::WheelUp,
                MouseEventKind::ScrollDown => Mouse::WheelDown,
                _ => return None,
            };
            Message::Mouse(what, e.column, e.row)
        }
    })
}
