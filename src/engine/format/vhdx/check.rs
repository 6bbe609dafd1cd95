//! Checking a VHDX: both headers and region tables, the log, the metadata, and every entry of the BAT. A log that waits is replayed
//! in memory first: what is checked is what a reader sees.

use super::metadata::Metadata;
use super::regions::{self, Region, Regions};
use super::{header, log, split, state};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::format::Source;
use crate::engine::format::check::{CheckReport, Rule, Spot};
use crate::engine::format::rules::{self, rules};
use crate::engine::format::table::Table;
use crate::engine::format::uses::Uses;
use crate::engine::io::Device;
use crate::engine::units::MIB;

/// Bits of a BAT entry that must be zero: 3 to 19.
const RESERVED: u64 = 0x000f_fff8;

rules! {
    HEADER "header-copy" Corruption All,
        "one of the two headers is damaged",
        "The guest's data is not concerned; without a second header a power cut during a write can leave none.",
        "It is written again with what the other says.";
    TABLE_COPY "region-table-copy" Corruption All,
        "one of the two region tables is damaged, or they do not say the same",
        "The guest's data is not concerned; programs that read the other one may look in the wrong place.",
        "The first intact one is written over the other.";
    LOG "log" Corruption All,
        "the image was not closed properly: changes wait in its log",
        "The guest's data is right once the log is replayed, which cowshed does in memory; other programs refuse to read the image.",
        "The log is replayed for good, and emptied.";
    LOG_DAMAGE "log-damage" Corruption No,
        "the log cannot be replayed",
        "Which changes of the tables are the last ones is not known, so nothing else was checked.",
        "Nothing: what the log held is lost. What the tables say without it can be copied: convert --salvage.";
    REGIONS "regions" Corruption No,
        "the region tables or the metadata are damaged",
        "Without them no block can be found: the guest's data cannot be read.",
        "Nothing: where the tables are and how large the blocks are is not known.";
    RESERVED_BITS "reserved-bits" Corruption No,
        "entries of the BAT have bits set that must be zero",
        "The table was overwritten or belongs to a newer version; where its entries point is doubtful.",
        "Nothing: it cannot be told which bits are right. Copy the image: convert --salvage.";
    FREE "free" Note No,
        "parts of the file hold no block",
        "Nothing is lost: writers make files larger than they need and put new blocks there. QEMU leaves such a gap in every new one.",
        "Nothing has to be mended. A copy of the image (convert) leaves it out.";
    NO_BITMAP "sector-bitmap" Corruption No,
        "blocks are partly stored, and the bitmap that says which sectors is not there",
        "Which sectors are the image's own and which the parent's is not known: the guest's data there cannot be read.",
        "Nothing: the bitmap is lost.";
}

/// Checks the image. Only reads.
///
/// Errors: it is no VHDX, or neither header can be believed.
pub fn check(source: &Source) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    let spot = |at: u64, detail: String| Spot { offset: Some(at), guest: None, detail };
    let found = header::find(source.dev.as_ref())?;
    for (intact, at) in header::intact(source.dev.as_ref())?.into_iter().zip(header::AT) {
        if !intact {
            report.note(&HEADER, spot(at, "its checksum is wrong, or it is none".into()));
        }
    }
    let h = &found.header;
    let replayed = match log::replay(source.dev.clone(), h) {
        Ok(replayed) => replayed,
        Err(e) => return stopped(report, &LOG_DAMAGE, h.log_at, e),
    };
    if replayed.dirty {
        report.note(&LOG, spot(h.log_at, replayed.warnings.join("; ")));
    }
    let dev = replayed.device;
    let (regions, differ) = match Regions::read(dev.as_ref()) {
        Ok(found) => found,
        Err(e) => return stopped(report, &REGIONS, regions::AT[0], e),
    };
    if differ {
        report.note(&TABLE_COPY, spot(regions::AT[1], "the first intact one is believed".into()));
    }
    let metadata = match Metadata::read(dev.as_ref(), regions.metadata) {
        Ok(m) => m,
        Err(e) => return stopped(report, &REGIONS, regions.metadata.at, e),
    };
    let bytes = metadata.bat_entries() * 8;
    if bytes > regions.bat.len {
        let e = Error::corrupt(format!("the BAT needs {bytes} bytes, but its region has {}", regions.bat.len));
        return stopped(report, &REGIONS, regions.bat.at, e);
    }
    report.total = metadata.blocks();
    let mut uses = Uses::default();
    uses.structure("the headers", 0, MIB, &mut report);
    if h.log_len > 0 {
        uses.structure("the log", h.log_at, h.log_len, &mut report);
    }
    for r in &regions.all {
        let what = if *r == regions.bat {
            "the BAT"
        } else if *r == regions.metadata {
            "the metadata"
        } else {
            "a region"
        };
        uses.structure(what, r.at, r.len, &mut report);
    }
    Bat { dev: &dev, metadata: &metadata, region: regions.bat, uses: &mut uses, report: &mut report }.check();
    report.image_end = Some(uses.end());
    uses.unused(dev.len(), metadata.block_size, &FREE, |at| at, &mut report);
    Ok(report)
}

/// The report as it ends where `e` leaves nothing more to look at.
fn stopped(mut report: CheckReport, rule: &'static Rule, at: u64, e: Error) -> Result<CheckReport> {
    if !matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Truncated) {
        return Err(e);
    }
    report.note(rule, Spot { offset: Some(e.offset().unwrap_or(at)), guest: None, detail: e.why().into() });
    Ok(report)
}

/// The BAT, entry by entry.
struct Bat<'a> {
    dev: &'a Device,
    metadata: &'a Metadata,
    region: Region,
    uses: &'a mut Uses,
    report: &'a mut CheckReport,
}

impl Bat<'_> {
    fn check(&mut self) {
        let m = self.metadata;
        let table = Table::new(self.dev.clone(), self.region.at, m.bat_entries() * 8);
        let mut cursor = table.cursor();
        let chunk = m.chunk_ratio() + 1;
        for n in 0..m.bat_entries() {
            let entry = match cursor.le64(n) {
                Ok(entry) => entry,
                Err(e) => {
                    self.note(&rules::UNREADABLE, n, None, format!("the BAT: {}", e.why()));
                    return;
                }
            };
            if entry & RESERVED != 0 {
                self.note(&RESERVED_BITS, n, None, format!("entry {n}: {entry:#x}"));
            }
            if n % chunk == chunk - 1 {
                self.bitmap(n, entry);
                continue;
            }
            self.block(n, n - n / chunk, entry, &table);
        }
    }

    /// Notes a finding about entry `n`, for `guest` bytes.
    fn note(&mut self, rule: &'static Rule, n: u64, guest: Option<(u64, u64)>, detail: String) {
        self.report.note(rule, Spot { offset: Some(self.region.at + n * 8), guest, detail });
    }

    fn block(&mut self, n: u64, index: u64, entry: u64, table: &Table) {
        let m = self.metadata;
        let (state, at) = split(entry);
        let start = index * m.block_size;
        let used = m.block_size.min(m.size.saturating_sub(start));
        let guest = Some((start, used));
        match state {
            state::FULLY_PRESENT => {}
            state::PARTIALLY_PRESENT if m.has_parent => {
                let chunk = m.chunk_ratio() + 1;
                let bitmap = table.cursor().le64(n / chunk * chunk + chunk - 1).map(split);
                if !matches!(bitmap, Ok((state::FULLY_PRESENT, _))) {
                    self.note(&NO_BITMAP, n, guest, format!("block {index}"));
                }
            }
            state::NOT_PRESENT | state::UNDEFINED | state::ZERO | state::UNMAPPED | state::UNMAPPED_OLD => {
                // A block that was given up may keep its place.
                if at >= MIB && at < self.dev.len() {
                    self.uses.reserve(at, m.block_size);
                }
                return;
            }
            other => return self.note(&rules::NONSENSE, n, guest, format!("block {index}: state {other}")),
        }
        let end = self.dev.len();
        if at.saturating_add(used) > end {
            return self.note(&rules::OUTSIDE, n, guest, format!("block {index} at {at:#x}"));
        }
        // QEMU left last blocks short in the past.
        if let Some(other) = self.uses.data(at, m.block_size.min(end - at), self.report) {
            self.note(&rules::OVERLAP, n, guest, format!("block {index} at {at:#x}, over {other}"));
        }
    }

    fn bitmap(&mut self, n: u64, entry: u64) {
        match split(entry) {
            (state::NOT_PRESENT, _) => {}
            (state::FULLY_PRESENT, at) if at.saturating_add(MIB) > self.dev.len() => {
                self.note(&rules::OUTSIDE, n, None, format!("a sector bitmap at {at:#x}"));
            }
            (state::FULLY_PRESENT, at) => {
                if let Some(other) = self.uses.unit(at, MIB) {
                    self.note(&rules::OVERLAP, n, None, format!("a sector bitmap at {at:#x}, over {other}"));
                }
            }
            (other, _) => self.note(&rules::NONSENSE, n, None, format!("a sector bitmap: state {other}")),
        }
    }
}
