//! Checking a VMDK: its descriptor and extents, and of each sparse extent both grain directories, every table, every grain.

use std::sync::Arc;

use super::extent::{Part, Sparse, Storage};
use super::grains::{Grains, Packing, Unit, raw_entry};
use super::image::{Vmdk, load};
use super::sparse::{NEWLINE_BYTES, NEWLINES};
use super::stream::{MARKER, Marker};
use crate::engine::error::Result;
use crate::engine::format::Source;
use crate::engine::format::check::{CheckReport, Rule, Severity, Spot};
use crate::engine::format::rules::{self, rules};
use crate::engine::format::uses::Uses;
use crate::engine::io::bytes::le32;
use crate::engine::io::{Device, read_vec};
use crate::engine::units::SECTOR;

rules! {
    EXTENT "extent" Unchecked No,
        "an extent could not be opened",
        "The guest's data in it cannot be read, and was not checked.",
        "Nothing: the file has to be found, or the descriptor has to name another.";
    DIRECTORY "grain-directory" Corruption All,
        "the grain directory, or a table it names, is not within the file, and the redundant one is",
        "The guest's data can still be read through the redundant copy, which not every program looks at.",
        "It is written again from the redundant copy.";
    REDUNDANT "redundant-tables" Corruption All,
        "the two grain tables do not say the same",
        "The guest's data is read through the first one, which is written last; the redundant copy is of no use as it is.",
        "The redundant table is written again from the first one.";
    NO_CID "cid" Note No,
        "the descriptor has no content id",
        "Disks that stand on this one cannot tell whether it was changed.",
        "Nothing has to be mended: the first writer gives it one.";
    UNCLEAN "unclean" Note No,
        "a writer has not closed it, or has it open",
        "What is in the tables was checked as it is.",
        "Nothing has to be mended: the next writer that closes it takes the mark away.";
    TEXT_MODE "text-mode" Corruption No,
        "the file was changed by a transfer in text mode",
        "Every byte that looked like the end of a line is doubtful, in the tables as in the guest's data.",
        "Nothing: transfer the file again, in binary mode.";
    MARKERS "marker" Corruption No,
        "grains or tables of a stream do not stand behind their markers",
        "Programs that read the stream from its beginning to its end get other data than those that follow its tables.",
        "Nothing in place. A copy made by convert has the right markers; it has the data as the tables show it.";
}

/// Checks the image. Only reads.
///
/// Errors: the descriptor or the header of the image file cannot be read.
pub(super) fn check(source: &Source) -> Result<CheckReport> {
    let mut open = |name: &str, _| Ok(Arc::new(source.gate.open(&source.path, name)?) as Device);
    let image = load(source, &mut open)?;
    let mut report = CheckReport::default();
    // An extent of a split disk has room for a descriptor, and nothing in it.
    let written = |at: u64| read_vec(source.dev.as_ref(), at, 1, 1).is_ok_and(|b| b != [0]);
    if let Some((at, _)) = image.text.filter(|(at, _)| image.description.identity.cid.is_none() && written(*at)) {
        report.note(&NO_CID, Spot { offset: Some(at), guest: None, detail: "there is no line 'CID='".into() });
    }
    for (n, part) in image.parts.iter().enumerate() {
        match &part.storage {
            Storage::Zero => {}
            Storage::Unavailable(e) => {
                let detail = format!("extent {}, {}: {}", n + 1, part.path.display(), e.why());
                report.note(&EXTENT, Spot { offset: None, guest: Some((part.start, part.len)), detail });
            }
            Storage::Flat { dev, offset, .. } => flat(part, dev, *offset, &mut report),
            Storage::Sparse(grains) => Extent::new(&image, part, grains, n, &mut report).check()?,
        }
    }
    Ok(report)
}

/// What of the file of sparse extent `n` is used by nothing. Nothing where it is damaged: there nobody knows.
pub(super) fn unused(image: &Vmdk, part: &Part, grains: &Grains, n: usize) -> Result<Vec<(u64, u64)>> {
    let mut report = CheckReport::default();
    Extent::new(image, part, grains, n, &mut report).check()?;
    let sound = report.count(Severity::Corruption) + report.count(Severity::Unchecked) == 0;
    Ok(if sound { report.unused } else { Vec::new() })
}

fn flat(part: &Part, dev: &Device, offset: u64, report: &mut CheckReport) {
    let have = dev.len().saturating_sub(offset);
    if have < part.len {
        let detail = format!("{}: {have} of {} bytes", part.path.display(), part.len);
        report.note(&rules::OUTSIDE, Spot { offset: Some(dev.len()), guest: Some((part.start + have, part.len - have)), detail });
    }
}

/// One sparse extent being checked.
struct Extent<'a> {
    part: &'a Part,
    grains: &'a Grains,
    /// Which file, for the details of a disk in several.
    name: String,
    /// Bytes of its file.
    len: u64,
    /// Its tables follow markers.
    marked_tables: bool,
    /// The embedded descriptor.
    text: Option<(u64, u64)>,
    uses: Uses,
    report: &'a mut CheckReport,
}

impl<'a> Extent<'a> {
    fn new(image: &Vmdk, part: &'a Part, grains: &'a Grains, n: usize, report: &'a mut CheckReport) -> Self {
        let name = if image.parts.len() > 1 { format!("extent {}, {}: ", n + 1, part.path.display()) } else { String::new() };
        let text = image.text.filter(|_| grains.file() == 0);
        Extent { part, grains, name, len: grains.dev.len(), marked_tables: false, text, uses: Uses::default(), report }
    }

    fn note(&mut self, rule: &'static Rule, offset: u64, guest: Option<(u64, u64)>, detail: String) {
        let guest = guest.map(|(at, len)| (self.part.start.saturating_add(at), len));
        self.report.note(rule, Spot { offset: Some(offset), guest, detail: format!("{}{detail}", self.name) });
    }

    fn check(mut self) -> Result<()> {
        let g = &self.grains.geometry;
        self.report.total += g.capacity.div_ceil(g.grain);
        self.header()?;
        let bytes = (g.tables() * g.width()).next_multiple_of(SECTOR);
        self.uses.structure("the header", 0, SECTOR, self.report);
        if let Some((at, len)) = self.text {
            self.uses.structure("the descriptor", at, len, self.report);
        }
        if g.stood_in {
            self.note(&DIRECTORY, g.directory, None, "the grain directory itself".into());
        }
        for (n, directory) in self.grains.directories().enumerate() {
            let what = if n == 0 { "the grain directory" } else { "the redundant grain directory" };
            self.uses.structure(what, directory, bytes, self.report);
        }
        self.directory();
        if let Some((at, _)) = self.text.filter(|_| self.marked_tables) {
            self.marker(g.directory, at, |m| matches!(m, Marker::Directory(_)), "the grain directory");
        }
        let end = self.uses.end();
        self.report.image_end = self.report.image_end.max(Some(end));
        // Room before the first grain is nobody's loss; a stream holds what stands between its grains.
        if g.packing == Packing::Plain && self.uses_are_known() {
            let (uses, grain) = (std::mem::take(&mut self.uses), g.grain);
            uses.unused(self.len, grain, &rules::UNUSED, |at| at, self.report);
        }
        Ok(())
    }

    /// COWD and seSparse files have parts that are not followed here.
    fn uses_are_known(&self) -> bool {
        matches!(Sparse::open(&self.grains.dev), Ok(Some(Sparse::Hosted(_))))
    }

    /// What the extent's own header says of itself.
    fn header(&mut self) -> Result<()> {
        let sparse = Sparse::open(&self.grains.dev)?;
        if sparse.as_ref().is_some_and(Sparse::unclean) {
            self.note(&UNCLEAN, 0, None, "the mark is in the header".into());
        }
        if let Some(Sparse::Hosted(o)) = sparse {
            if o.header.flags & NEWLINES != 0 && o.header.newlines != NEWLINE_BYTES {
                self.note(&TEXT_MODE, 73, None, format!("{:02x?} where 0a 20 0d 0a stands", o.header.newlines));
            }
            self.marked_tables = o.has_footer && self.grains.geometry.packing == Packing::Deflate { markers: true };
            // What stands before the first grain belongs to the header.
            self.uses.reserve(0, o.header.overhead.saturating_mul(SECTOR).min(self.len));
        }
        Ok(())
    }

    /// Follows both directories side by side.
    fn directory(&mut self) {
        let (grains, g) = (self.grains, &self.grains.geometry);
        let directories: Vec<u64> = grains.directories().collect();
        let (mut index, tables) = (0, g.tables());
        while index < tables {
            let at = |d: &u64| d + index * g.width();
            let raw: Vec<_> = directories.iter().map(|d| grains.raw(at(d)).ok()).collect();
            let Some(Some(first)) = raw.first().copied() else {
                let place = directories.first().map_or(0, at);
                self.note(&rules::UNREADABLE, place, None, "the grain directory".into());
                return;
            };
            if raw.iter().all(|r| *r == Some(0)) {
                // A directory may be large and never written: what the host stores nothing of needs no look.
                let hole = |d: &u64| {
                    grains.dev.host_range(at(d), (tables - index) * g.width()).map_or(0, |r| if r.hole { r.len } else { 0 })
                };
                index += (directories.iter().map(hole).min().unwrap_or(0) / g.width()).max(1);
                continue;
            }
            let place = directories.first().map_or(0, at);
            self.table(index, place, first, raw.get(1).copied());
            index += 1;
        }
    }

    /// Where the table is that directory entry `raw` names; `Err` when it cannot be there.
    fn place(&self, index: u64, raw: u64) -> std::result::Result<Option<u64>, ()> {
        match self.grains.geometry.table_place(raw).ok_or(())? {
            Some(at) if at.checked_add(self.grains.used(index)).is_none_or(|end| end > self.len) => Err(()),
            other => Ok(other),
        }
    }

    /// Table `index`, named by `raw` in the directory entry at byte `entry`, and by `spare` in the redundant directory if there is
    /// one.
    fn table(&mut self, index: u64, entry: u64, raw: u64, spare: Option<Option<u64>>) {
        let g = &self.grains.geometry;
        let guest = Some((index * g.table_span(), g.table_span().min(g.capacity.saturating_sub(index * g.table_span()))));
        let first = self.place(index, raw);
        let second = spare.map(|r| r.ok_or(()).and_then(|r| self.place(index, r)));
        let mut places = Vec::new();
        match (first, second) {
            (Err(()), Some(Ok(Some(at)))) => {
                self.note(&DIRECTORY, entry, guest, format!("entry {index}: {raw:#x}"));
                places.push(at);
            }
            (Err(()), _) => self.note(&rules::OUTSIDE, entry, guest, format!("entry {index} of the grain directory: {raw:#x}")),
            (Ok(Some(at)), None) => places.push(at),
            (Ok(Some(at)), Some(Ok(Some(other)))) if other == at => places.push(at),
            (Ok(Some(at)), Some(Ok(Some(other)))) => places.extend([at, other]),
            (Ok(None), None | Some(Ok(None))) => {}
            (Ok(at), Some(_)) => {
                self.note(&REDUNDANT, entry, guest, format!("table {index} is in one directory and not in the other"));
                places.extend(at);
            }
        }
        let bytes = (g.per_table * g.width()).next_multiple_of(SECTOR);
        for at in places.clone() {
            if let Some(other) = self.uses.unit(at, bytes.min(self.len.saturating_sub(at))) {
                // Followed once only: a table that many entries name must not cost as much as many tables.
                self.note(&rules::OVERLAP, entry, guest, format!("grain table {index} at {at:#x}, over {other}"));
                places.retain(|p| *p != at);
            }
        }
        if let [at, other] = places[..] {
            self.compare(index, at, other);
        }
        if let Some(at) = places.first() {
            if self.marked_tables {
                self.marker(*at, entry, |m| matches!(m, Marker::Table(_)), "a grain table");
            }
            self.entries(index, *at);
        }
    }

    /// Compares the two tables of `index`.
    fn compare(&mut self, index: u64, at: u64, other: u64) {
        let (used, width) = (self.grains.used(index), self.grains.geometry.width());
        let mut done = 0;
        while done < used {
            let slices = (self.slice(at + done, used - done), self.slice(other + done, used - done));
            let (Ok(a), Ok(b)) = slices else {
                self.note(&rules::UNREADABLE, at + done, None, format!("grain table {index}"));
                return;
            };
            let n = a.len().min(b.len()) / width as usize * width as usize;
            let differ =
                a.chunks_exact(width as usize).zip(b.chunks_exact(width as usize)).enumerate().filter(|(_, (x, y))| x != y);
            let mut differ = differ.map(|(i, _)| i as u64);
            if let Some(first) = differ.next() {
                let count = 1 + differ.count() as u64;
                let g = &self.grains.geometry;
                let number = index * g.per_table + done / width + first;
                let spot = Spot {
                    offset: Some(other + done + first * width),
                    guest: Some((self.part.start + number * g.grain, g.grain)),
                    detail: format!("{}grain {number}, in the redundant table", self.name),
                };
                self.report.note_many(&REDUNDANT, spot, count);
            }
            done += n.max(1) as u64;
        }
    }

    fn slice(&self, at: u64, want: u64) -> Result<super::pages::Slice> {
        self.grains.pages().slice(self.grains.file(), self.grains.dev.as_ref(), at, want)
    }

    /// Every entry of table `index`, which is at byte `at`.
    fn entries(&mut self, index: u64, at: u64) {
        let (used, width, per_table) = (self.grains.used(index), self.grains.geometry.width(), self.grains.geometry.per_table);
        let mut done = 0;
        while done < used {
            let slice = match self.slice(at + done, used - done) {
                Ok(slice) => slice,
                Err(e) => return self.note(&rules::UNREADABLE, at + done, None, format!("grain table {index}: {}", e.why())),
            };
            for (i, raw) in slice.chunks_exact(width as usize).enumerate() {
                let place = done + i as u64 * width;
                self.grain(index * per_table + place / width, at + place, raw_entry(raw).unwrap_or_default());
            }
            done += (slice.len() as u64 / width * width).max(1);
        }
    }

    /// Grain `number`, whose entry `raw` is at byte `entry`.
    fn grain(&mut self, number: u64, entry: u64, raw: u64) {
        let g = &self.grains.geometry;
        let start = number * g.grain;
        let guest = Some((start, g.grain.min(g.capacity.saturating_sub(start))));
        let at = match g.unit(raw) {
            Some(Unit::None | Unit::Zero) => return,
            Some(Unit::At(at)) => at,
            None => return self.note(&rules::NONSENSE, entry, guest, format!("grain {number}: {raw:#x}")),
        };
        if at.checked_add(self.grains.stored(number)).is_none_or(|end| end > self.len) {
            return self.note(&rules::OUTSIDE, entry, guest, format!("grain {number} at {at:#x}"));
        }
        let len = match g.packing {
            Packing::Plain => g.grain.min(self.len - at),
            Packing::Deflate { markers } => {
                self.report.compressed += 1;
                if !markers { SECTOR } else { self.packed(number, entry, at, guest).unwrap_or(SECTOR) }
            }
        };
        if let Some(other) = self.uses.data(at, len, self.report) {
            self.note(&rules::OVERLAP, entry, guest, format!("grain {number} at {at:#x}, over {other}"));
        }
    }

    /// Looks at the marker of the compressed grain at `at`; the bytes the grain takes.
    fn packed(&mut self, number: u64, entry: u64, at: u64, guest: Option<(u64, u64)>) -> Option<u64> {
        let head = match read_vec(self.grains.dev.as_ref(), at, MARKER, MARKER) {
            Ok(head) => head,
            Err(e) => {
                self.note(&rules::UNREADABLE, at, guest, format!("the marker of grain {number}: {}", e.why()));
                return None;
            }
        };
        let sector = number * self.grains.geometry.grain / SECTOR;
        let size = u64::from(le32(&head, 8).unwrap_or_default());
        let own = crate::engine::io::bytes::le64(&head, 0);
        if size == 0 || own != Some(sector) {
            let own = own.unwrap_or_default();
            self.note(
                &MARKERS,
                at,
                guest,
                format!("grain {number} of sector {sector}: the marker says sector {own}, {size} bytes"),
            );
        }
        if at + MARKER + size > self.len {
            self.note(&rules::OUTSIDE, entry, guest, format!("grain {number}: {size} bytes at {at:#x}"));
            return None;
        }
        Some((MARKER + size).next_multiple_of(SECTOR).min(self.len - at))
    }

    /// Looks for the marker in the sector before the table at `at`.
    fn marker(&mut self, at: u64, entry: u64, wanted: fn(Marker) -> bool, what: &str) {
        let sector = at.checked_sub(SECTOR).and_then(|s| read_vec(self.grains.dev.as_ref(), s, SECTOR, SECTOR).ok());
        if !sector.and_then(|s| Marker::parse(&s)).is_some_and(wanted) {
            self.note(&MARKERS, entry, None, format!("{what} at {at:#x} has no marker before it"));
        }
    }
}
