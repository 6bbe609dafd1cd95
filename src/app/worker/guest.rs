//! Looking inside an image's guest, in the background: its volumes, who it is, where it would be taken; its folders, files and
//! searches.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Outbox;
use super::image::{Reach, guarded};
use super::latest::Latest;
use crate::app::message::Message;
use crate::engine::chain::Chain;
use crate::engine::error::{Context, Error, ErrorKind, Result};
use crate::engine::guest::fs::{FileType, Stat};
use crate::engine::guest::identity::GuestFact;
use crate::engine::guest::ready::{Readiness, Subject, TARGETS, assess};
use crate::engine::guest::tree::{Guest, Spot};
use crate::engine::guest::walk::{Step, walk};
use crate::engine::inspect;
use crate::engine::io::Device;
use crate::engine::library::Stamp;
use crate::engine::ops::sanitize::{Kept, kept_of};
use crate::engine::units::printable_bytes;

/// Names of one folder shown, at most.
const MAX_ROWS: usize = 100_000;
/// Hits of a search shown, at most.
const MAX_HITS: usize = 2_000;
/// Bytes of a file shown as text, at most.
const VIEW_TEXT: usize = 512 << 10;
/// Bytes of a file shown as numbers, at most.
const VIEW_BYTES: usize = 16 << 10;
/// How long a search may go on.
const SEARCH: Duration = Duration::from_secs(60);

/// Asks who is inside an image.
#[derive(Debug, Clone, PartialEq)]
pub struct LookRequest {
    /// Numbers the requests.
    pub generation: u64,
    /// The image.
    pub path: PathBuf,
    /// Where its references may lead.
    pub reach: Reach,
}

/// A volume of the disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeRow {
    /// `p1`, `vg/lv`, `disk`.
    pub name: String,
    /// Its number as a partition, for `--partition`; `None` for logical volumes and whole disks.
    pub partition: Option<u32>,
    /// First byte on the disk.
    pub start: Option<u64>,
    /// Bytes.
    pub len: u64,
    /// What the partition table says it is.
    pub kind: String,
    /// What it holds.
    pub holds: String,
    /// Label of that.
    pub label: String,
    /// Bytes that its filesystem says are free.
    pub free: Option<u64>,
    /// Where the guest mounts it.
    pub at: String,
    /// It is a logical volume.
    pub logical: bool,
    /// What is wrong with it.
    pub notes: Vec<String>,
}

/// What is inside an image.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Look {
    /// Bytes of the disk.
    pub size: u64,
    /// The partition table, in words.
    pub table: String,
    /// Volumes, in the order of the disk.
    pub volumes: Vec<VolumeRow>,
    /// Who the guest is.
    pub facts: Vec<GuestFact>,
    /// A root filesystem was found.
    pub found: bool,
    /// What could not be read.
    pub problems: Vec<String>,
    /// Why nothing of the content can be read.
    pub error: Option<Refusal>,
    /// Whether each target would take it.
    pub readiness: Vec<Readiness>,
}

/// An error as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What, where, why.
    pub text: String,
    /// What next.
    pub hint: String,
}

/// Answers a [`LookRequest`].
#[derive(Debug)]
pub struct LookLoaded {
    /// Of the request.
    pub generation: u64,
    /// What was seen.
    pub look: Result<Arc<Look>>,
}

/// What is wanted of the guest's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Want {
    /// What is at this path: a folder's names, or a file's content.
    Open(Vec<u8>),
    /// Files below this folder with this in their name.
    Search(Vec<u8>, String),
}

/// Asks for files of the guest.
#[derive(Debug, Clone, PartialEq)]
pub struct FilesRequest {
    /// Numbers the requests.
    pub generation: u64,
    /// The image.
    pub path: PathBuf,
    /// Where its references may lead.
    pub reach: Reach,
    /// Only the filesystem of this volume; `None` is the guest's root with what it mounts.
    pub volume: Option<usize>,
    /// What.
    pub want: Want,
}

/// A file in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRow {
    /// Its name, or its path below the folder of a search; hostile.
    pub name: Vec<u8>,
    /// Its facts.
    pub stat: Stat,
    /// Where a link leads.
    pub target: Option<Vec<u8>>,
}

/// What became known.
#[derive(Debug)]
pub enum News {
    /// The folder at this path, free of links.
    Folder(Vec<u8>, Vec<FileRow>),
    /// A file's content, ready to be read: title, lines.
    Text(String, Vec<String>),
    /// What a search found; true when there is more.
    Found(Vec<FileRow>, bool),
}

/// Answers a [`FilesRequest`].
#[derive(Debug)]
pub struct FilesLoaded {
    /// Of the request.
    pub generation: u64,
    /// The answer.
    pub news: Result<News>,
}

/// Asks what the last sanitising of an image keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRequest {
    /// Numbers the requests.
    pub generation: u64,
    /// The image.
    pub path: PathBuf,
}

/// Answers a [`KeptRequest`].
#[derive(Debug)]
pub struct KeptLoaded {
    /// Of the request.
    pub generation: u64,
    /// Its undo file, if there is one.
    pub kept: Result<Option<Kept>>,
}

/// The threads.
pub struct GuestWorkers {
    /// Who is inside.
    pub look: Latest<LookRequest>,
    /// Files.
    pub files: Latest<FilesRequest>,
    /// Undo files.
    pub kept: Latest<KeptRequest>,
}

impl GuestWorkers {
    /// Starts them.
    ///
    /// Errors: the system gives no thread.
    pub fn spawn(out: &Outbox) -> std::io::Result<Self> {
        let (to_look, to_files, to_kept) = (out.clone(), out.clone(), out.clone());
        let mut opened = None;
        Ok(GuestWorkers {
            kept: Latest::spawn("cowshed-kept", move |r: KeptRequest, _| {
                let kept = guarded(|| kept_of(&r.path));
                let _ = to_kept.send(Message::Kept(Box::new(KeptLoaded { generation: r.generation, kept })));
            })?,
            look: Latest::spawn("cowshed-guest", move |r: LookRequest, _| {
                let look = guarded(|| Ok(Arc::new(self::look(&r)?)));
                let _ = to_look.send(Message::Look(Box::new(LookLoaded { generation: r.generation, look })));
            })?,
            files: Latest::spawn("cowshed-files", move |r: FilesRequest, stop| {
                let news = guarded(|| files(&mut opened, &r, stop));
                if !matches!(&news, Err(e) if e.kind() == ErrorKind::Cancelled) {
                    let _ = to_files.send(Message::Files(Box::new(FilesLoaded { generation: r.generation, news })));
                }
            })?,
        })
    }
}

/// Looks inside, and asks every target.
fn look(r: &LookRequest) -> Result<Look> {
    let inspection = inspect(&r.path, &r.reach.options(&r.path))?;
    let subject = Subject::of(&inspection, None)?;
    let mut out = Look { size: subject.size, ..Look::default() };
    match &subject.inside {
        Err(e) => out.error = Some(Refusal { text: e.to_string(), hint: e.advice().unwrap_or_default().to_string() }),
        Ok(inside) => {
            out.found = inside.found;
            out.facts.clone_from(&inside.identity.facts);
            out.problems.clone_from(&inside.problems);
            out.table = match &inside.guest.layout.table {
                Some(t) => format!("{:?}", t.kind).to_uppercase(),
                None => "no partition table".into(),
            };
            out.volumes = volumes(&inside.guest);
        }
    }
    out.readiness = TARGETS.iter().map(|t| assess(&subject, t.target)).collect();
    Ok(out)
}

fn volumes(guest: &Guest) -> Vec<VolumeRow> {
    let partitions = guest.layout.table.as_ref().map(|t| t.partitions.as_slice()).unwrap_or_default();
    let rows = guest.layout.volumes.iter().enumerate().map(|(i, v)| {
        let own = partitions.iter().find(|p| Some(p.number) == v.partition && !v.logical_volume);
        let at = guest.mounts.iter().filter(|m| m.volume == i);
        let at: Vec<_> = at.map(|m| if m.at.is_empty() { "/".to_string() } else { printable_bytes(&m.at) }).collect();
        VolumeRow {
            name: v.name.clone(),
            partition: v.partition.filter(|_| !v.logical_volume),
            start: v.start,
            len: v.len,
            kind: own.map(|p| p.kind.clone()).unwrap_or_default(),
            holds: v.info.as_ref().map(|f| f.kind.name().to_string()).unwrap_or_default(),
            label: v.info.as_ref().and_then(|f| f.label.clone()).unwrap_or_default(),
            free: v.info.as_ref().and_then(|f| f.free),
            at: at.join(" "),
            logical: v.logical_volume,
            notes: v.info.iter().flat_map(|f| f.notes.clone()).chain(v.problem.clone()).collect(),
        }
    });
    rows.collect()
}

/// The guest opened last.
struct Opened {
    path: PathBuf,
    stamp: Stamp,
    volume: Option<usize>,
    guest: Guest,
}

fn files(opened: &mut Option<Opened>, r: &FilesRequest, stop: &dyn Fn() -> bool) -> Result<News> {
    let stamp = Stamp::of(&std::fs::metadata(&r.path).path(&r.path)?);
    if !opened.as_ref().is_some_and(|o| o.path == r.path && o.stamp == stamp && o.volume == r.volume) {
        *opened = None;
        let chain = Chain::open(&r.path, &r.reach.options(&r.path))?;
        let disk: Device = Arc::new(chain.disk()?);
        let guest = match r.volume {
            Some(i) => Guest::open_alone(&disk, i)?,
            None => Guest::open_for(&disk, None)?,
        };
        *opened = Some(Opened { path: r.path.clone(), stamp, volume: r.volume, guest });
    }
    let Some(Opened { guest, .. }) = opened.as_ref() else {
        return Err(Error::new(ErrorKind::Internal, "a guest that is not open"));
    };
    match &r.want {
        Want::Open(path) => open(guest, path),
        Want::Search(folder, text) => search(guest, folder, text, stop),
    }
}

fn open(guest: &Guest, path: &[u8]) -> Result<News> {
    let (spot, real) = guest.resolve_named(path, true)?;
    let stat = guest.stat(spot)?;
    match stat.kind {
        FileType::Folder => {
            let mut rows = Vec::new();
            for e in guest.list(spot)?.into_iter().take(MAX_ROWS) {
                let below = [real.as_slice(), b"/", e.name.as_slice()].concat();
                // What is mounted there counts, not the folder it covers; a link is shown as one.
                let at = guest.resolve(&below, false).unwrap_or(Spot { mount: spot.mount, node: e.node });
                let Ok(stat) = guest.stat(at) else { continue };
                let target = (stat.kind == FileType::Link).then(|| guest.read_link(at).unwrap_or_default());
                rows.push(FileRow { name: e.name, stat, target });
            }
            rows.sort_by(|a, b| (a.stat.kind != FileType::Folder, &a.name).cmp(&(b.stat.kind != FileType::Folder, &b.name)));
            Ok(News::Folder(real, rows))
        }
        FileType::File => {
            let mut head = vec![0u8; VIEW_TEXT.min(usize::try_from(stat.size).unwrap_or(VIEW_TEXT))];
            let n = guest.read(spot, 0, &mut head)?;
            head.truncate(n);
            Ok(News::Text(format!("{} — {} bytes", printable_bytes(&real), stat.size), content(&head, stat.size)))
        }
        _ => Err(Error::usage("it is neither a file nor a folder")),
    }
}

/// A file's first bytes as lines: text, or numbers beside what prints.
fn content(head: &[u8], size: u64) -> Vec<String> {
    if head.is_empty() {
        return vec!["(empty)".into()];
    }
    let text = !head.contains(&0) && head.utf8_chunks().map(|c| c.invalid().len()).sum::<usize>() * 20 < head.len();
    let (mut out, shown): (Vec<String>, usize) = if text {
        let lines = head.split(|b| *b == b'\n').map(|l| printable_bytes(l).replace("\\x09", "    ")).collect();
        (lines, head.len())
    } else {
        let shown = head.len().min(VIEW_BYTES);
        let lines = head.get(..shown).unwrap_or_default().chunks(16).enumerate().map(|(n, row)| {
            let hex: Vec<String> = row.iter().map(|b| format!("{b:02x}")).collect();
            let plain: String = row.iter().map(|b| if (0x20..0x7f).contains(b) { *b as char } else { '.' }).collect();
            format!("{:08x}  {:<47}  {plain}", n * 16, hex.join(" "))
        });
        (lines.collect(), shown)
    };
    if (shown as u64) < size {
        out.push(format!("(the first {shown} of {size} bytes; x extracts it whole)"));
    }
    out
}

fn search(guest: &Guest, folder: &[u8], text: &str, stop: &dyn Fn() -> bool) -> Result<News> {
    let wanted = text.as_bytes();
    let begun = Instant::now();
    let (mut rows, mut more) = (Vec::new(), false);
    walk(guest, folder, &mut |met| {
        if stop() {
            return Err(Error::new(ErrorKind::Cancelled, "another search began"));
        }
        let name = met.path.rsplit(|c| *c == b'/').next().unwrap_or_default();
        if !wanted.is_empty() && name.windows(wanted.len()).any(|w| w.eq_ignore_ascii_case(wanted)) {
            let target = (met.stat.kind == FileType::Link).then(|| guest.read_link(met.spot).unwrap_or_default());
            rows.push(FileRow { name: met.path.to_vec(), stat: met.stat.clone(), target });
        }
        more = rows.len() >= MAX_HITS || begun.elapsed() > SEARCH;
        Ok(if more { Step::Stop } else { Step::On })
    })?;
    Ok(News::Found(rows, more))
}

/// `path` with a name below it.
pub fn below(path: &[u8], name: &[u8]) -> Vec<u8> {
    [path.strip_suffix(b"/").unwrap_or(path), b"/", name].concat()
}

/// The image's file name, for a title.
pub fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}
