//! cowshed: a terminal workbench for virtual-machine disk images, and the engine under it.

#[cfg(feature = "tui")]
pub mod app;
#[cfg(feature = "tui")]
pub mod cli;
pub mod engine;
#[cfg(feature = "tui")]
pub mod term;
#[cfg(feature = "tui")]
pub mod ui;
