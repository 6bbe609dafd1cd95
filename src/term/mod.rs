//! All that touches the tty: entering and leaving it, input, capabilities, clipboard, notifications; and the door to the workbench.
//! It must not know the command line.

pub mod background;
pub mod caps;
pub mod clipboard;
pub mod dirs;
pub mod input;
pub mod setup;
pub mod tty;

pub use setup::run;
