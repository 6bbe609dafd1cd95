//! Giving a VHD another parent, or none. The dynamic header takes two sectors and cannot be changed at once, so it is written where
//! nothing is, and the footers, one sector each, are pointed to it. What a crash leaves after each step:
//!
//! 1. the new header and the parent's name behind the last block, the footer with its old content behind them: the old image;
//! 2. the footer's copy at the start points to the new header: the footer at the end counts, and says the old;
//! 3. the footer at the end: the new image.
//!
//! The header then goes back to where it was, in the same three steps, as some programs look for it right after the footer's copy.

use uuid::Uuid;

use super::create::name_parent;
use super::footer::{BYTES, DiskType};
use super::header::{self, Header, Locator};
use super::write::Writer;
use crate::engine::error::Result;
use crate::engine::format::write::NewBacking;
use crate::engine::units::SECTOR;

impl Writer {
    /// See the module.
    pub(super) fn reparent(&mut self, backing: Option<&NewBacking>) -> Result<()> {
        let home = self.footer.data_offset;
        let mut h: Header = self.header()?.clone();
        let at = self.end.next_multiple_of(SECTOR);
        let name_at = at + header::BYTES as u64;
        let text = match backing {
            Some(parent) => name_parent(&mut h, parent, name_at)?,
            None => {
                (h.parent, h.parent_timestamp, h.parent_name) = (Uuid::nil(), 0, Vec::new());
                h.locators = [Locator::default(); 8];
                Vec::new()
            }
        };
        // Behind the name's whole sectors; the header's own place there is given up again, which is 1 KiB.
        self.end = name_at + (text.len() as u64).next_multiple_of(SECTOR);
        self.dev.set_len(self.end + BYTES as u64)?;
        self.dev.write_at(name_at, &text)?;
        self.dev.write_at(at, &h.encode())?;
        self.write_footer()?;
        self.dev.flush()?;
        self.footer.kind = if backing.is_some() { DiskType::Differencing } else { DiskType::Dynamic };
        self.point_to(at)?;
        self.dev.write_at(home, &h.encode())?;
        self.dev.flush()?;
        self.point_to(home)
    }

    /// Makes both footers name the header at byte `at`, the copy first.
    fn point_to(&mut self, at: u64) -> Result<()> {
        self.footer.data_offset = at;
        self.dev.write_at(0, &self.footer.encode())?;
        self.dev.flush()?;
        self.write_footer()?;
        self.dev.flush()
    }
}
