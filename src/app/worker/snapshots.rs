//! Reading what the snapshots' screen shows, in the background: the list first, then what each holds, then where each came from; and
//! what a marked set frees together, and what changed between two.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Outbox;
use super::image::{Reach, guarded};
use super::latest::Latest;
use crate::app::form::Templates;
use crate::app::message::Message;
use crate::engine::chain::Chain;
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::format::Format;
use crate::engine::format::qcow2::lineage::Lineage;
use crate::engine::format::qcow2::usage::Usage;
use crate::engine::io::locks::{LockState, state_at};
use crate::engine::library::Stamp;
use crate::engine::model::Snapshot;
use crate::engine::ops::snapshot;
use crate::engine::ops::snapshot::diff::{Diff, DiffSpec, diff};
use crate::engine::ops::snapshot::export::branch;

/// Asks for the snapshots of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotsRequest {
    /// Numbers the requests.
    pub generation: u64,
    /// The image.
    pub path: PathBuf,
    /// Where its references may lead.
    pub reach: Reach,
}

/// The snapshots of an image, and what the screen says about the image.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Its format.
    pub format: Format,
    /// Bytes a guest sees now.
    pub virtual_size: u64,
    /// Bytes it takes on the host.
    pub on_disk: u64,
    /// Length of the file in bytes.
    pub len: u64,
    /// Last change, seconds since 1970.
    pub modified: i64,
    /// Its internal snapshots, in the order of the table.
    pub snapshots: Vec<Snapshot>,
    /// Who holds it.
    pub lock: LockState,
    /// The chain below it cannot be read.
    pub broken: bool,
    /// How a branch off a snapshot is made, or why none can be.
    pub branch: std::result::Result<Templates, Error>,
}

/// What became known.
#[derive(Debug)]
pub enum News {
    /// The snapshots.
    Listing(Result<Arc<Listing>>),
    /// What each state holds; `None` for formats without snapshots.
    Usage(Result<Option<Usage>>),
    /// Where each state came from.
    Lineage(Result<Lineage>),
}

/// Answers a [`SnapshotsRequest`], part by part.
#[derive(Debug)]
pub struct SnapshotsLoaded {
    /// Of the request.
    pub generation: u64,
    /// The part.
    pub news: News,
}

/// Asks what marked snapshots free together.
#[derive(Debug, Clone, PartialEq)]
pub struct FreedRequest {
    /// Numbers the requests.
    pub generation: u64,
    /// The image.
    pub path: PathBuf,
    /// Indices into its table.
    pub set: Vec<usize>,
}

/// Answers a [`FreedRequest`].
#[derive(Debug)]
pub struct FreedLoaded {
    /// Of the request.
    pub generation: u64,
    /// Bytes.
    pub freed: Result<u64>,
}

/// The threads of the screen.
pub struct SnapshotWorkers {
    /// Lists, with what each costs.
    pub list: Latest<SnapshotsRequest>,
    /// What sets free.
    pub freed: Latest<FreedRequest>,
    /// What changed.
    pub diff: Latest<DiffRequest>,
}

impl SnapshotWorkers {
    /// Starts them.
    ///
    /// Errors: the system gives no thread.
    pub fn spawn(out: &Outbox) -> std::io::Result<Self> {
        let (to_list, to_freed, to_diff) = (out.clone(), out.clone(), out.clone());
        Ok(SnapshotWorkers {
            list: Latest::spawn("cowshed-snapshots", move |r: SnapshotsRequest, stop| load(&r, stop, &to_list))?,
            diff: Latest::spawn("cowshed-diff", move |r: DiffRequest, stop| load_diff(&r, stop, &to_diff))?,
            freed: Latest::spawn("cowshed-freed", move |r: FreedRequest, _| {
                let freed = guarded(|| snapshot::freed_by(&r.path, &r.set));
                let _ = to_freed.send(Message::Freed(Box::new(FreedLoaded { generation: r.generation, freed })));
            })?,
        })
    }
}

fn load(r: &SnapshotsRequest, stop: &dyn Fn() -> bool, out: &Outbox) {
    let tell = |news| {
        let _ = out.send(Message::Snapshots(Box::new(SnapshotsLoaded { generation: r.generation, news })));
    };
    let listing = guarded(|| list(r));
    let format = listing.as_ref().ok().filter(|l| !l.snapshots.is_empty()).map(|l| l.format);
    tell(News::Listing(listing));
    let Some(format) = format.filter(|_| !stop()) else {
        tell(News::Usage(Ok(None)));
        return tell(News::Lineage(Ok(Lineage::default())));
    };
    tell(News::Usage(guarded(|| snapshot::usage(&r.path, format))));
    let lineage = guarded(|| snapshot::lineage(&r.path, stop));
    if !matches!(&lineage, Err(e) if e.kind() == ErrorKind::Cancelled) {
        tell(News::Lineage(lineage));
    }
}

fn list(r: &SnapshotsRequest) -> Result<Arc<Listing>> {
    let meta = std::fs::metadata(&r.path).path(&r.path)?;
    let chain = Chain::open(&r.path, &r.reach.options(&r.path))?;
    let top = chain.nodes.first();
    Ok(Arc::new(Listing {
        format: top.and_then(|n| n.format).unwrap_or(Format::Raw),
        virtual_size: top.and_then(|n| n.virtual_size).unwrap_or(0),
        on_disk: top.and_then(|n| n.actual_size).unwrap_or(0),
        len: meta.len(),
        modified: Stamp::of(&meta).modified(),
        snapshots: top.map(|n| n.description.snapshots.clone()).unwrap_or_default(),
        lock: state_at(&r.path),
        broken: chain.error().is_some(),
        branch: templates(r, top.map(|n| n.description.snapshots.as_slice()).unwrap_or_default()),
    }))
}

/// How branches are made: all snapshots of an image are branched off in the same way.
fn templates(r: &SnapshotsRequest, list: &[Snapshot]) -> Result<Templates> {
    let Some(any) = list.first() else { return Err(Error::usage("there is no snapshot")) };
    let options = r.reach.options(&r.path);
    let make = |target: &Path| branch(&r.path, &any.id, target, &options);
    Ok(Templates { beside: make(&r.path.with_file_name("branch"))?, elsewhere: make(Path::new("/branch"))? })
}

/// Asks what changed between two states.
#[derive(Debug, Clone, PartialEq)]
pub struct DiffRequest {
    /// Numbers the requests.
    pub generation: u64,
    /// The image.
    pub path: PathBuf,
    /// Where its references may lead.
    pub reach: Reach,
    /// Id of the one snapshot.
    pub from: String,
    /// Id of the other; `None` is the disk as it is now.
    pub to: Option<String>,
}

/// Answers a [`DiffRequest`]: at first by the mapping tables alone, then by content.
#[derive(Debug)]
pub struct DiffLoaded {
    /// Of the request.
    pub generation: u64,
    /// What changed.
    pub diff: Result<Arc<Diff>>,
}

fn load_diff(r: &DiffRequest, stop: &dyn Fn() -> bool, out: &Outbox) {
    for quick in [true, false] {
        let spec = DiffSpec {
            image: r.path.clone(),
            format: Some(Format::Qcow2),
            from: r.from.clone(),
            to: r.to.clone(),
            quick,
            gate: r.reach.options(&r.path).gate,
        };
        let diff = guarded(|| diff(&spec, &|_, _| !stop()).map(Arc::new));
        let failed = diff.is_err();
        if !matches!(&diff, Err(e) if e.kind() == ErrorKind::Cancelled) {
            let _ = out.send(Message::Diff(Box::new(DiffLoaded { generation: r.generation, diff })));
        }
        if failed {
            return;
        }
    }
}
