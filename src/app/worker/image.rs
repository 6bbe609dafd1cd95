//! Reading one image in the background: its page, each layer's share, the cells of its map and what lies under the map's cursor.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Outbox;
use super::latest::Latest;
use crate::app::message::Message;
use crate::engine::chain::{Chain, Disk, OpenOptions, ParentFinder};
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::extents::{Cells, downsample};
use crate::engine::format::Format;
use crate::engine::format::probe::Match;
use crate::engine::guest::free::free_space;
use crate::engine::guest::owners::Owners;
use crate::engine::guest::volumes::volumes;
use crate::engine::inspect;
use crate::engine::io::Device;
use crate::engine::io::gate::Gate;
use crate::engine::io::locks::{LockState, state_at};
use crate::engine::library::Stamp;
use crate::engine::model::{BackingRef, ChainNode, Extent};
use crate::engine::ops::free_space::{least, stored_free};
use crate::engine::spans::Set;

/// Cells of the strip on a page: a few rows on a wide screen.
const PAGE_CELLS: usize = 1024;

/// Where the references of an image may lead.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reach {
    /// Folders whose files may be opened, besides the image's own.
    pub roots: Vec<PathBuf>,
    /// Images that name no file for their parent, and where the library knows it to be.
    pub parents: Vec<(PathBuf, PathBuf)>,
}

impl Reach {
    /// How to open the chain of `path`.
    pub fn options(&self, path: &Path) -> OpenOptions {
        let gate = self.roots.iter().fold(Gate::around(path), |gate, root| gate.allow(root));
        let finder = (!self.parents.is_empty()).then(|| Arc::new(Known(self.parents.clone())) as Arc<dyn ParentFinder>);
        OpenOptions { gate: Some(gate), finder, ..OpenOptions::default() }
    }
}

/// Parents that are known.
struct Known(Vec<(PathBuf, PathBuf)>);

impl ParentFinder for Known {
    fn find(&self, child: &Path, _: &BackingRef) -> Vec<PathBuf> {
        self.0.iter().filter(|(c, _)| c == child).map(|(_, p)| p.clone()).collect()
    }
}

/// Asks for an image's page.
#[derive(Debug, Clone, PartialEq)]
pub struct PageRequest {
    /// Numbers the requests: an answer to an older one is dropped.
    pub generation: u64,
    /// The image.
    pub path: PathBuf,
    /// Where its references may lead.
    pub reach: Reach,
}

/// What a page shows.
#[derive(Debug)]
pub struct PageData {
    /// The chain, top first.
    pub nodes: Vec<ChainNode>,
    /// Everything the file may be.
    pub matches: Vec<Match>,
    /// What is wrong or odd, the worst first.
    pub problems: Vec<String>,
    /// How it is.
    pub health: crate::engine::Health,
    /// Who holds it.
    pub lock: LockState,
    /// Length of the file in bytes.
    pub len: u64,
    /// Last change, seconds since 1970.
    pub modified: i64,
}

/// Answers a [`PageRequest`].
#[derive(Debug)]
pub struct PageLoaded {
    /// Of the request.
    pub generation: u64,
    /// The page.
    pub page: Result<Arc<PageData>>,
}

/// Each layer's share of what a guest sees; follows [`PageLoaded`].
#[derive(Debug)]
pub struct SharesLoaded {
    /// Of the request.
    pub generation: u64,
    /// The whole disk in cells.
    pub shares: Result<Arc<Cells>>,
}

/// Asks for cells of the map.
#[derive(Debug, Clone, PartialEq)]
pub struct GridRequest {
    /// Numbers the requests.
    pub generation: u64,
    /// The image.
    pub path: PathBuf,
    /// Where its references may lead.
    pub reach: Reach,
    /// Only this layer (0 is the top); `None` shows the chain as a guest sees it.
    pub only: Option<usize>,
    /// Guest bytes; `None` is the whole disk.
    pub window: Option<(u64, u64)>,
    /// How many cells.
    pub cells: usize,
}

/// A layer of the map.
#[derive(Debug, Clone, PartialEq)]
pub struct MapLayer {
    /// The image file.
    pub path: PathBuf,
    /// Its format.
    pub format: Option<Format>,
    /// Bytes a guest would see of it.
    pub size: u64,
}

/// Answers a [`GridRequest`].
#[derive(Debug)]
pub struct GridLoaded {
    /// Of the request.
    pub generation: u64,
    /// Layers, top first, the bytes of the disk, and the cells.
    pub grid: Result<(Vec<MapLayer>, u64, Cells)>,
}

/// Asks what lies at a guest byte.
#[derive(Debug, Clone, PartialEq)]
pub struct CursorRequest {
    /// Numbers the requests.
    pub generation: u64,
    /// The image.
    pub path: PathBuf,
    /// Where its references may lead.
    pub reach: Reach,
    /// Only this layer.
    pub only: Option<usize>,
    /// Guest byte.
    pub offset: u64,
}

/// Answers a [`CursorRequest`].
#[derive(Debug)]
pub struct CursorLoaded {
    /// Of the request.
    pub generation: u64,
    /// The volume of the guest that the byte belongs to, in words.
    pub owner: Option<String>,
    /// The extent, and the host file it lies in.
    pub under: Result<(Extent, Option<PathBuf>)>,
}

/// Asks what the guest's filesystems say of the bytes of a disk.
#[derive(Debug, Clone, PartialEq)]
pub struct InsideRequest {
    /// Numbers the requests.
    pub generation: u64,
    /// The image.
    pub path: PathBuf,
    /// Where its references may lead.
    pub reach: Reach,
}

/// Answers an [`InsideRequest`]: what is free comes first, whose the rest is when every file was gone through.
#[derive(Debug)]
pub struct InsideLoaded {
    /// Of the request.
    pub generation: u64,
    /// What is free.
    pub free: Result<Arc<FreeHere>>,
    /// Whose the bytes are; `None` while it is looked for.
    pub owners: Option<Result<Arc<Owners>>>,
}

/// What filesystems call free.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FreeHere {
    /// All of it, in bytes of the disk.
    pub free: Set,
    /// What of it the image itself stores.
    pub stored: Set,
    /// Bytes of that which can be given back.
    pub given: u64,
}

/// The threads that read images.
pub struct ImageWorkers {
    /// Pages.
    pub page: Latest<PageRequest>,
    /// Maps.
    pub grid: Latest<GridRequest>,
    /// What lies under the cursor.
    pub cursor: Latest<CursorRequest>,
    /// What the guest's filesystems say.
    pub inside: Latest<InsideRequest>,
}

impl ImageWorkers {
    /// Starts them.
    ///
    /// Errors: the system gives no thread.
    pub fn spawn(out: &Outbox) -> std::io::Result<Self> {
        let (to_page, to_grid, to_cursor, to_inside) = (out.clone(), out.clone(), out.clone(), out.clone());
        let (mut for_grid, mut for_cursor) = (Opened::default(), Opened::default());
        Ok(ImageWorkers {
            page: Latest::spawn("cowshed-page", move |r: PageRequest, stop| load_page(&r, stop, &to_page))?,
            grid: Latest::spawn("cowshed-map", move |r: GridRequest, stop| {
                let grid = guarded(|| load_grid(&mut for_grid, &r, stop));
                if !matches!(&grid, Err(e) if e.kind() == ErrorKind::Cancelled) {
                    let _ = to_grid.send(Message::Grid(Box::new(GridLoaded { generation: r.generation, grid })));
                }
            })?,
            cursor: Latest::spawn("cowshed-cursor", move |r: CursorRequest, _| {
                let under = guarded(|| load_cursor(&mut for_cursor, &r));
                let owner = guarded(|| owner(&mut for_cursor, &r)).ok().flatten();
                let _ = to_cursor.send(Message::Cursor(Box::new(CursorLoaded { generation: r.generation, owner, under })));
            })?,
            inside: Latest::spawn("cowshed-inside", move |r: InsideRequest, stop| {
                let mut opened = Opened::default();
                let free = guarded(|| free_here(&mut opened, &r, stop));
                let tell = |owners| {
                    let free = free.clone();
                    let _ = to_inside.send(Message::MapInside(Box::new(InsideLoaded { generation: r.generation, free, owners })));
                };
                tell(None);
                let owners = guarded(|| {
                    let disk: Device = Arc::new(opened.chain(&r.path, &r.reach)?.disk()?);
                    Owners::of(&disk, stop).map(Arc::new)
                });
                if !matches!(&owners, Err(e) if e.kind() == ErrorKind::Cancelled) {
                    tell(Some(owners));
                }
            })?,
        })
    }
}

/// A defect in reading one image must not end the thread.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "reading this image hit a defect in cowshed")))
}

fn load_page(request: &PageRequest, stop: &dyn Fn() -> bool, out: &Outbox) {
    let generation = request.generation;
    let mut chain = None;
    let page = guarded(|| {
        let meta = std::fs::metadata(&request.path).path(&request.path)?;
        let inspection = inspect(&request.path, &request.reach.options(&request.path))?;
        let nodes = inspection.chain.nodes.clone();
        chain = Some(inspection.chain);
        Ok(Arc::new(PageData {
            nodes,
            matches: inspection.matches,
            problems: inspection.problems,
            health: inspection.health,
            lock: state_at(&request.path),
            len: meta.len(),
            modified: Stamp::of(&meta).modified(),
        }))
    });
    let _ = out.send(Message::Page(Box::new(PageLoaded { generation, page })));
    let Some(chain) = chain else { return };
    let shares = guarded(|| {
        let disk = chain.disk()?;
        Ok(Arc::new(downsample(&disk, 0, disk.size(), PAGE_CELLS, stop)?))
    });
    if !matches!(&shares, Err(e) if e.kind() == ErrorKind::Cancelled) {
        let _ = out.send(Message::Shares(Box::new(SharesLoaded { generation, shares })));
    }
}

/// The chain opened last: moving and zooming opens nothing again, unless the file changed.
#[derive(Default)]
struct Opened {
    held: Option<(PathBuf, Stamp, Arc<Chain>)>,
    /// The volumes of its disk, once they were asked for: name, first byte, bytes.
    volumes: Option<Vec<(String, u64, u64)>>,
}

impl Opened {
    fn chain(&mut self, path: &Path, reach: &Reach) -> Result<Arc<Chain>> {
        let stamp = Stamp::of(&std::fs::metadata(path).path(path)?);
        if let Some((held, at, chain)) = &self.held
            && held == path
            && *at == stamp
        {
            return Ok(chain.clone());
        }
        (self.held, self.volumes) = (None, None);
        let chain = Arc::new(Chain::open(path, &reach.options(path))?);
        self.held = Some((path.to_path_buf(), stamp, chain.clone()));
        Ok(chain)
    }
}

/// The disk to show: the chain's, or one layer of it alone.
fn disk(chain: &Chain, only: Option<usize>) -> Result<Disk> {
    match only {
        None => chain.disk(),
        Some(depth) => match chain.layers.get(depth) {
            Some(layer) => Ok(Disk::new(vec![layer.clone()])),
            None => Err(Error::usage("there is no such layer")),
        },
    }
}

fn load_grid(opened: &mut Opened, r: &GridRequest, stop: &dyn Fn() -> bool) -> Result<(Vec<MapLayer>, u64, Cells)> {
    let chain = opened.chain(&r.path, &r.reach)?;
    let layers = chain.nodes.iter().zip(&chain.layers);
    let layers =
        layers.map(|(n, l)| MapLayer { path: n.path.clone(), format: n.format, size: l.size() }).collect::<Vec<MapLayer>>();
    let size = layers.first().map_or(0, |l| l.size);
    let disk = disk(&chain, r.only)?;
    let (start, end) = r.window.unwrap_or((0, size));
    let mut cells = downsample(&disk, start, end, r.cells, stop)?;
    if let Some(depth) = r.only {
        // The one layer shown keeps its own number.
        for cell in cells.cells.iter_mut().chain([&mut cells.total]) {
            if !cell.by_depth.is_empty() {
                cell.by_depth.splice(0..0, std::iter::repeat_n(0, depth));
            }
        }
    }
    Ok((layers, size, cells))
}

fn load_cursor(opened: &mut Opened, r: &CursorRequest) -> Result<(Extent, Option<PathBuf>)> {
    let chain = opened.chain(&r.path, &r.reach)?;
    let disk = disk(&chain, r.only)?;
    let mut extent = disk.extent(r.offset, u64::MAX)?;
    let file = extent.place.and_then(|p| Some(disk.files(extent.depth).get(p.file)?.path()?.to_path_buf()));
    extent.depth += r.only.unwrap_or(0);
    Ok((extent, file))
}

fn free_here(opened: &mut Opened, r: &InsideRequest, stop: &dyn Fn() -> bool) -> Result<Arc<FreeHere>> {
    let chain = opened.chain(&r.path, &r.reach)?;
    let disk = Arc::new(chain.disk()?);
    let device: Device = disk.clone();
    let all = free_space(&device, false, stop)?;
    let Some(top) = disk.layers().first() else { return Ok(Arc::default()) };
    let found = stored_free(top.as_ref(), &all)?;
    let unit = least(top.as_ref());
    Ok(Arc::new(FreeHere {
        given: found.iter().map(|f| f.whole(unit)).sum(),
        free: Set::of(all.iter().filter_map(|v| v.free.as_ref().ok()).flat_map(Set::iter)),
        stored: Set::of(found.iter().flat_map(|f| f.stored.iter().chain(f.compressed.iter()))),
    }))
}

/// Which volume of the guest the byte belongs to; `None` on a disk without volumes that are known.
fn owner(opened: &mut Opened, r: &CursorRequest) -> Result<Option<String>> {
    let chain = opened.chain(&r.path, &r.reach)?;
    if opened.volumes.is_none() {
        let disk: Device = Arc::new(chain.disk()?);
        let layout = volumes(&disk)?;
        let told = layout.volumes.iter().filter(|v| v.info.is_some() || layout.table.is_some()).filter_map(|v| {
            let holds = v.info.as_ref().map(|i| format!(" {}", i.kind.name())).unwrap_or_default();
            let label = v.info.as_ref().and_then(|i| i.label.as_ref()).map(|l| format!(" '{l}'")).unwrap_or_default();
            Some((format!("{}{holds}{label}", v.name), v.start?, v.len))
        });
        opened.volumes = Some(told.collect());
    }
    let all = opened.volumes.as_deref().unwrap_or_default();
    // A logical volume stands behind the partition that holds it, and says more.
    let found = all.iter().rev().find(|(_, start, len)| r.offset >= *start && r.offset - start < *len);
    let outside = (!all.is_empty()).then(|| "no volume".to_string());
    Ok(found.map(|(name, ..)| name.clone()).or(outside))
}
