//! The workbench as a state machine: one [`Model`], typed [`Message`]s, a pure [`update`], and [`Effect`]s that the runtime
//! carries out. Nothing here draws or touches the terminal; engine calls happen in background threads ([`worker`]).
//!
//! ```text
//!  keys, mouse, signals ─┐
//!  loaded data, job edges ┼─▶ Message ─▶ top layer or keymap ─▶ Action ─▶ update(&mut Model) ─▶ Effects
//!  tick ─────────────────┘                                                    │ dirty?
//!                                              Terminal::draw(&Model) ◀───────┘ at most once per 16 ms
//! ```

pub mod action;
pub mod clock;
pub mod command;
pub mod config;
pub mod effect;
pub mod filter;
#[cfg(test)]
pub(crate) mod fixture;
pub mod form;
pub mod hits;
pub mod input;
pub mod key;
pub mod layer;
pub mod message;
pub mod model;
pub mod runtime;
pub mod session;
pub mod state;
pub mod tree;
pub mod update;
pub mod worker;

pub use action::Action;
pub use effect::Effect;
pub use message::Message;
pub use model::Model;
pub use update::update;

use std::path::PathBuf;

/// How the workbench is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Folders or images to open; empty means the configured roots, else the current folder.
    pub roots: Vec<PathBuf>,
    /// Nothing may be written, not even a converted copy.
    pub read_only: bool,
    /// Configuration file instead of the usual one.
    pub config: Option<PathBuf>,
    /// Draw with ASCII only.
    pub ascii: bool,
    /// Colours: `auto`, `never`, `always`; `None` leaves it to the configuration.
    pub color: Option<String>,
}
