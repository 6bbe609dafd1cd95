//! Black-box tests of the engine and the command line against independent oracles, one file per subject.
//!
//! Oracles that are not installed make a test fail with a plain word, not pass: `tests/run` installs them.

mod common;
mod amazon;
mod chain;
mod cli;
mod convert;
mod cow;
mod extents;
mod hostile;
mod iso;
mod jobs;
mod library;
mod locks;
mod probe;
mod qcow;
mod qcow2;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;
mod create;
mod resize;
mod snapshots;
mod check;
mod guest;
