//! Which guest ranges two states of a disk may differ in, told by the mapping tables alone: equal pointers are equal content. Reads
//! no guest data. Specification: "Cluster mapping", "Snapshots".

use std::collections::HashSet;
use std::ops::Range;

use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::format::Source;
use crate::engine::io::{Device, read_vec};

use super::edit::find;
use super::extensions::read_head;
use super::image::read_l1;
use super::snapshots;
use super::tables::{COPIED, Geometry};

/// A state of the disk: a snapshot, or the disk as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Id and name of the snapshot; `None` for the disk as it is now.
    pub snapshot: Option<(String, String)>,
    /// Virtual size in bytes.
    pub size: u64,
    l1: Vec<u64>,
}

/// Two states of one image, ready to be compared.
pub struct Pointers {
    dev: Device,
    geometry: Geometry,
    /// The one that is compared from.
    pub from: State,
    /// The one that is compared to.
    pub to: State,
}

impl Pointers {
    /// Reads what leads to the tables of both states; a snapshot by id or name, `None` for the disk as it is now.
    ///
    /// Errors: `NotFound` when there is no such snapshot; the header or an L1 table cannot be read.
    pub fn open(source: &Source, from: Option<&str>, to: Option<&str>) -> Result<Pointers> {
        let dev = source.dev.clone();
        let (header, _) = read_head(&dev)?;
        let list = snapshots::read(dev.as_ref(), &header)?;
        let state = |which: Option<&str>| -> Result<State> {
            let Some(key) = which else {
                let l1 = read_l1(&dev, header.l1_offset, header.l1_entries)?;
                return Ok(State { snapshot: None, size: header.size, l1 });
            };
            let entry = find(&list, key).and_then(|i| list.get(i)).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("there is no snapshot '{key}'")).hint("snapshot -l lists those there are")
            })?;
            let words = entry.describe(&header);
            let l1 = read_l1(&dev, entry.l1_offset, entry.l1_entries)?;
            Ok(State { snapshot: Some((words.id, words.name)), size: words.disk_size, l1 })
        };
        Ok(Pointers { from: state(from)?, to: state(to)?, geometry: Geometry::of(&header), dev })
    }

    /// Calls `visit` with each run of guest bytes below `end` whose pointers differ, in ascending order. What lies past the end of
    /// a state counts as not stored there.
    ///
    /// Errors: a table cannot be read; what `visit` says.
    pub fn each(&self, end: u64, visit: &mut dyn FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        let g = &self.geometry;
        let mut pending: Option<Range<u64>> = None;
        // A table has one place in a disk; one that is named again and again would cost as much as many.
        let mut seen = [HashSet::new(), HashSet::new()];
        for index in 0..end.div_ceil(g.l2_span()) {
            let (x, y) = (self.table_at(&self.from, index)?, self.table_at(&self.to, index)?);
            // One table may show more to the state with the larger disk.
            let whole = (index + 1) * g.l2_span() <= self.from.size.min(self.to.size) || self.from.size == self.to.size;
            if x == y && whole {
                continue;
            }
            for (seen, at) in seen.iter_mut().zip([x, y]) {
                if at.is_some_and(|at| !seen.insert(at)) {
                    return Err(Error::corrupt("an L2 table stands in two places of one disk").hint("run check on the image"));
                }
            }
            let (x, y) = (self.table(x)?, self.table(y)?);
            for n in 0..g.l2_entries() {
                let at = index * g.l2_span() + (n << g.cluster_bits);
                if at >= end {
                    break;
                }
                if self.key(&self.from, &x, at, n) == self.key(&self.to, &y, at, n) {
                    continue;
                }
                let stop = (at + g.cluster()).min(end);
                match &mut pending {
                    Some(run) if run.end == at => run.end = stop,
                    _ => {
                        if let Some(run) = pending.replace(at..stop) {
                            visit(run)?;
                        }
                    }
                }
            }
        }
        pending.map_or(Ok(()), visit)
    }

    /// Where the L2 table of `index` is in `state`.
    fn table_at(&self, state: &State, index: u64) -> Result<Option<u64>> {
        let entry = usize::try_from(index).ok().and_then(|i| state.l1.get(i)).copied().unwrap_or(0);
        self.geometry.l2_offset(entry)
    }

    fn table(&self, at: Option<u64>) -> Result<Vec<u8>> {
        let len = self.geometry.cluster();
        at.map_or(Ok(Vec::new()), |at| read_vec(self.dev.as_ref(), at, len, len).map_err(|e| e.op("read an L2 table")))
    }

    /// What decides the content of the cluster at guest byte `at`, entry `n` of its table: everything but the COPIED flag.
    fn key(&self, state: &State, table: &[u8], at: u64, n: u64) -> (u64, u64) {
        if at >= state.size || table.is_empty() {
            return (0, 0);
        }
        let (entry, bitmap) = self.geometry.entry(table, n << self.geometry.cluster_bits).unwrap_or_default();
        (entry & !COPIED, bitmap)
    }
}
