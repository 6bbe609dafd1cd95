//! Checking a qcow2 image: every use of every cluster is counted, and compared with the refcounts the file has.
//!
//! ```text
//!  header ┐
//!  tables ├─▶ uses per cluster ─┐
//!  data   ┘                     ├─▶ equal? lower (damage waiting to happen), higher (a leak)
//!  refcount blocks ─▶ counts ───┘
//! ```
//!
//! Each L2 table is read once, however many snapshots share it: its entries count as often as L1 entries point to it. A repair
//! starts from the same counts. Specification: "Host cluster management", "Cluster mapping", "Snapshots", "Bitmaps".

mod compare;
mod counts;
mod judge;
pub(super) mod rules;
mod search;
mod structures;
mod walk;

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::error::Result;
use crate::engine::format::Source;
use crate::engine::format::check::{CheckReport, Spot};
use crate::engine::format::ranges::Ranges;
use crate::engine::io::Device;

use super::extensions::{Extensions, read_head_with};
use super::header::{CORRUPT, DIRTY, Header};
use super::snapshots::Entry;
use super::stored::Stored;
use super::tables::Geometry;
pub(super) use counts::{Counts, PAGE};
pub(super) use judge::{Judge, Table};

/// What the parts of a check share, and what a repair goes on from.
pub(super) struct Checker {
    pub dev: Device,
    pub header: Header,
    pub ext: Extensions,
    pub geometry: Geometry,
    pub judge: Judge,
    pub counts: Counts,
    pub stored: Stored,
    /// The snapshots, those too that cannot be followed.
    pub list: Vec<Entry>,
    /// The table they stand in.
    pub table: SnapshotTable,
    /// Every L2 table by its place.
    pub tables: BTreeMap<u64, L2Use>,
    /// Tables that lie where another structure is.
    pub crossed: Crossed,
    /// Clusters of the bitmaps.
    pub bitmap_places: Ranges,
    /// L1 tables that are hardly where they are said to be: snapshots by their number, `None` for the active one.
    suspects: BTreeSet<Option<usize>>,
}

/// How the snapshot table is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SnapshotTable {
    /// Bytes it takes.
    pub len: u64,
    /// Snapshots may have stood where it cannot be followed.
    pub lost: bool,
    /// It is to be written anew.
    pub anew: bool,
    /// It could not be read.
    pub unreadable: bool,
}

/// Tables that lie where another structure is, which stays there.
#[derive(Debug, Clone, Default)]
pub(super) struct Crossed {
    /// The active L1 table.
    pub l1: bool,
    /// Snapshots whose L1 table does, by their number.
    pub l1_of: BTreeSet<usize>,
    /// L2 tables.
    pub tables: BTreeSet<u64>,
}

/// Places that are taken instead of what the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Given {
    /// The snapshot table.
    pub table: Option<u64>,
    /// L1 tables, of snapshots by their number, `None` for the active one: place and entries.
    pub l1: BTreeMap<Option<usize>, (u64, u32)>,
}

/// A table of entries to follow, and how often.
#[derive(Debug, Clone, Copy)]
pub(super) struct L2Use {
    /// L1 entries that point to it.
    pub uses: u32,
    /// The active L1 table is among them, which alone has COPIED flags.
    pub active: bool,
    /// Guest byte where its span begins.
    pub start: u64,
}

/// Asked often, with tables read and tables there are; an error stops the check.
pub(super) type Tick<'a> = &'a (dyn Fn(u64, u64) -> Result<()> + Sync);

/// Checks the image. Only reads.
///
/// Errors: the header, or the active L1 table, without which nothing can be followed, cannot be read.
pub fn check(source: &Source) -> Result<CheckReport> {
    Checker::run(&source.dev, true, &|_, _| Ok(())).map(|(_, report)| report)
}

pub(super) fn spot(offset: u64, detail: impl Into<String>) -> Spot {
    Spot { offset: Some(offset), guest: None, detail: detail.into() }
}

impl Checker {
    /// Counts everything in the image on `dev`; without `bitmaps` as if it had none. Tables that are not where they are said to be
    /// are looked for.
    pub(super) fn run(dev: &Device, bitmaps: bool, tick: Tick<'_>) -> Result<(Checker, CheckReport)> {
        let (checker, report) = Checker::count(dev, bitmaps, &Given::default(), tick)?;
        search::tables(checker, report, bitmaps, tick)
    }

    /// Counts everything once.
    fn count(dev: &Device, bitmaps: bool, given: &Given, tick: Tick<'_>) -> Result<(Checker, CheckReport)> {
        let (mut header, ext) = read_head_with(dev, Header::parse_damaged)?;
        header.snapshots_offset = given.table.unwrap_or(header.snapshots_offset);
        (header.l1_offset, header.l1_entries) = given.l1.get(&None).copied().unwrap_or((header.l1_offset, header.l1_entries));
        let geometry = Geometry::of(&header);
        let clusters = dev.len().div_ceil(geometry.cluster());
        let mut c = Checker {
            dev: dev.clone(),
            geometry,
            judge: Judge { geometry, clusters, covered: ext.backing.is_some() },
            counts: Counts::new(clusters)?,
            stored: Stored::open(dev.clone(), &header),
            list: Vec::new(),
            table: SnapshotTable::default(),
            tables: BTreeMap::new(),
            crossed: Crossed::default(),
            bitmap_places: Ranges::default(),
            suspects: BTreeSet::new(),
            header,
            ext,
        };
        let mut report = CheckReport { total: c.header.size.div_ceil(geometry.cluster()), ..CheckReport::default() };
        for (bit, rule) in [(DIRTY, &rules::DIRTY), (CORRUPT, &rules::MARKED)] {
            if c.header.incompatible & bit != 0 {
                report.note(rule, spot(72, "a bit of the incompatible features"));
            }
        }
        c.use_range(0, geometry.cluster(), "the header", &mut report);
        c.crypto_header(&mut report);
        c.snapshot_table(given, &mut report);
        if bitmaps {
            c.bitmaps(&mut report);
        }
        c.l1_tables(&mut report)?;
        c.refcount_structures(&mut report);
        c.follow(&mut report, tick)?;
        c.compare(&mut report);
        Ok((c, report))
    }

    pub(super) fn cluster(&self, offset: u64) -> u64 {
        offset >> self.header.cluster_bits
    }
}
