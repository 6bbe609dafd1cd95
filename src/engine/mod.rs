//! The shared engine: everything cowshed knows of disk images, as a plain synchronous library. It knows no terminal, no
//! command line, no environment and no home folder.
//!
//! This is its front: the command line and the workbench call what is named here; the modules below are the rooms behind it.

pub mod chain;
pub mod error;
#[doc(hidden)]
pub mod exercise;
pub mod extents;
pub mod format;
pub mod guest;
pub mod io;
pub mod job;
pub mod library;
pub mod limits;
pub mod model;
pub mod ops;
pub mod spans;
pub mod units;

pub use ops::inspect::{Health, Inspection, inspect};
