//! The model's parts, one per screen: plain data with the little arithmetic that belongs to it.

pub mod check;
pub mod guide;
pub mod inside;
pub mod jobs;
pub mod library;
pub mod map;
pub mod page;
pub mod sanitize;
pub mod scroll;
pub mod snapshots;
