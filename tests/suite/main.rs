//! Black-box tests of the engine and the command line against independent oracles, one file per subject.
//!
//! Oracles that are not installed make a test fail with a plain word, not pass: `tests/run` installs them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::semicolon_if_nothing_returned, unreachable_pub)]

mod amazon;
mod amend;
mod bitmap;
mod bitmaps;
mod campaign;
mod chain;
mod check;
mod check_formats;
mod cli;
mod commit;
mod common;
mod compact;
mod convert;
mod convert_matrix;
mod cow;
mod create;
mod delete;
mod devices;
mod extents;
mod extract;
mod free_space;
mod golden;
mod grow;
mod guest;
mod guest_write;
mod hostile;
mod hostile_guest;
mod identity;
mod iso;
mod jobs;
mod kinds;
mod library;
mod locks;
mod partition_grow;
mod probe;
mod qcow;
mod qcow2;
mod qcow2_write;
mod ready;
mod repair;
mod repair_formats;
mod repair_qcow;
mod resize;
mod sanitize;
mod snapshot_images;
mod snapshots;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;
mod vmdk_write;
mod writing;
