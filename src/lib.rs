//! cowshed: a terminal workbench for virtual-machine disk images, and the engine under it. This page is the architecture.
//!
//! # The house
//!
//! One direction, proved by a test (`tests/arch`) and by the library building without the `tui` feature:
//!
//! ```text
//!  main ─▶ cli ─▶ term ─▶ ui ─▶ app ─▶ engine
//!   │       │       │      │      │       └─ everything known of disk images; plain, synchronous, no terminal, no environment
//!   │       │       │      │      └───────── the workbench as a state machine: Message ─▶ update(&mut Model) ─▶ Effects
//!   │       │       │      └──────────────── drawing, a pure function of (model, theme, size)
//!   │       │       └─────────────────────── all that touches the tty
//!   │       └─────────────────────────────── the verbs, one file each, thin over the engine
//!   └─────────────────────────────────────── the only place that prints a report
//! ```
//!
//! # The engine
//!
//! ```text
//!        cli, app
//!           │  inspect, scan, plan, submit
//!  ┌────────▼───────────────────────────────────────────────────────────────┐
//!  │ job       states, control, progress, claims, journal, history          │
//!  │ ops       one verb each: info, map, compare, measure, convert, check   │
//!  │ library   scan of folders, cache, the graph of images, finder of parents│
//!  │ guest     partitions, LVM, filesystems, the guest's tree and identity   │
//!  │ chain     what an image stands on ─▶ Disk: all layers read through      │
//!  │ format    one folder per format: Image (reading), DiskWriter (writing)  │
//!  │ io        ReadAt / WriteAt: files, block devices, windows, locks, gate  │
//!  └─────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! - [`engine::io::ReadAt`] and [`engine::io::WriteAt`] are the block layer: positioned, from any thread. A [`engine::chain::Disk`]
//!   is a `ReadAt` again, so whatever reads devices reads disks of any format, any chain, any snapshot.
//! - [`engine::format::Image`] is one layer: it answers [`engine::format::Image::map`] ("what is at this guest byte, how far, and
//!   where in the file") and reads what is stored compressed. A chain asks its layers from the top down.
//! - [`engine::format::FORMATS`] is the one table of formats: probe, open, create, options, capabilities, the words of the guide.
//! - [`engine::io::gate::Gate`] decides which files named inside an image may be opened at all.
//! - [`engine::format::write::DiskWriter`] is the write side: guest bytes in, the format's structures kept in an order that a power
//!   cut can only leave whole or leaking. New files come from the caller, under partial names, so that nothing half done ever has a
//!   good name.
//!
//! # A read through a chain
//!
//! ```text
//!  Disk::read_at(offset)
//!    └─ top.map ──▶ Data      read the file at the place it names
//!               ├─▶ Compressed  top.read decodes the unit
//!               ├─▶ Zero      zeros, and nothing below is asked
//!               └─▶ Unallocated ─▶ the next layer, for as many bytes as this one had nothing
//! ```
//!
//! # The loop of the workbench
//!
//! ```text
//!  keys, mouse ─┐               ┌──────────── pure ─────────────┐
//!  signals ─────┤               │                               │
//!  tick ────────┼─▶ Message ─▶ top layer's keymap ─▶ Action ─▶ update(&mut Model) ─▶ Effects
//!  job edges ───┤                                                │ changed?
//!  loaded data ─┘                                                ▼
//!        ▲                                       draw(&Model, &Theme, Frame) ─▶ hit areas
//!        └──────────────── the runtime carries Effects out, in threads ◀──────┘
//! ```
//!
//! All waiting messages are taken, then at most one frame is drawn in 16 ms; the answer to a key waits for no frame but another key's.
//! Idle, nothing is drawn. Loads in the background carry a generation, and an answer that is no longer wanted is dropped.
//!
//! # Jobs
//!
//! ```text
//!  queued ─▶ running ⇄ paused ─▶ cancelling ─▶ cancelled
//!               └─▶ finishing ─▶ done | failed
//! ```
//!
//! Named threads do the work and call `checkpoint()` often: go on, park, or stop. Progress is atomics that the screen samples; only
//! edges are messages. Percent stays below 100 until the result is durable. Images are claimed by (device, inode) of every file of
//! the chain. The journal lets a conversion that was killed go on where it was durable.
//!
//! # Where a thing belongs
//!
//! A new format: a folder under `engine/format` and a row in `FORMATS`. A new verb: a file in `cli` and a line in its list. A new
//! command of the workbench: a row in `app/command.rs`, from which keys, footer, help and palette are made. A new dialog that starts a
//! job: a `Recipe` in `app/form`, which brings fields, checks, the plan and the command line. A new rule of the house:
//! a test in `tests/arch`.

#[cfg(feature = "tui")]
pub mod app;
#[cfg(feature = "tui")]
pub mod cli;
pub mod engine;
#[cfg(feature = "tui")]
pub mod term;
#[cfg(feature = "tui")]
pub mod ui;
