//! The screens' panels, one file each.

pub mod check;
pub mod detail;
pub mod guide;
pub mod image;
pub mod inside;
pub mod job;
pub mod jobs;
pub mod library;
pub mod map;
pub mod ready;
pub mod sanitize;
pub mod snapshots;
