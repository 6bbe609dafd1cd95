//! Wiping what folders keep of names that are gone: a FAT only marks them, and their names, sizes and places stay.

use super::names::DELETED;
use super::{Fat, Traces};
use crate::engine::error::Result;
use crate::engine::guest::fs::Scrubbed;
use crate::engine::guest::recognise::FsInfo;
use crate::engine::io::bytes::is_zero;
use crate::engine::io::{Device, WriteDevice};

/// An entry that is nobody's and tells nothing.
pub(super) const BLANK: [u8; 32] = {
    let mut e = [0; 32];
    e[0] = DELETED;
    e
};

/// Does what [`super::super::scrub`] says. What files left in clusters lies in free space now.
pub(in super::super) fn scrub(dev: &WriteDevice, info: FsInfo, traces: &Traces) -> Result<Scrubbed> {
    let read: Device = dev.clone();
    let fat = Fat::open(read, info)?;
    for dir in &traces.folders {
        for (at, e) in fat.folder(*dir)? {
            match (e[0], e.get(1..).is_some_and(is_zero)) {
                // What is in use behind the end of a folder is not touched: to Linux it is a file.
                (0, false) => dev.write_at(at, &[0; 32])?,
                (DELETED, false) => dev.write_at(at, &BLANK)?,
                _ => {}
            }
        }
    }
    Ok(Scrubbed::default())
}
