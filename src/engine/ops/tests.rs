//! Chains of two layers in memory, of every format that can be one: what a guest sees through the overlay is the same after the power
//! is cut anywhere, and after any write or flush failed.

use std::path::Path;
use std::sync::Arc;

use super::{commit, compact, rebase};
use crate::engine::chain::Disk;
use crate::engine::error::Result;
use crate::engine::format::qcow2::edit::Editor;
use crate::engine::format::write::{Below, CreateSpec, DiskWriter, NewBacking, NewFiles, WriteSource};
use crate::engine::format::{Format, Image, Source};
use crate::engine::io::fault::{Failure, Faulty, power_cuts};
use crate::engine::io::gate::Gate;
use crate::engine::io::memory::Memory;
use crate::engine::io::{Device, ReadAt, WriteDevice};
use crate::engine::job::JobContext;

const SIZE: u64 = 400 << 10;

struct One(WriteDevice);

impl NewFiles for One {
    fn image(&self) -> WriteDevice {
        self.0.clone()
    }
    fn extra(&self, name: &str) -> Result<WriteDevice> {
        panic!("an image in one file asked for {name}")
    }
}

fn image(format: Format, bytes: &[u8]) -> Result<Arc<dyn Image>> {
    open(format, Arc::new(Memory::new(bytes.to_vec())))
}

fn open(format: Format, dev: Device) -> Result<Arc<dyn Image>> {
    (format.entry().open)(Source { dev, path: "image".into(), gate: Gate::closed() })
}

fn writer(format: Format, dev: WriteDevice, below: Option<Device>) -> Result<Arc<dyn DiskWriter>> {
    let source = Source { dev: dev.clone(), path: "image".into(), gate: Gate::closed() };
    let from = WriteSource { below: below.map(Below), ..WriteSource::alone(dev, source) };
    format.entry().open_write.unwrap()(from)
}

fn backing(format: Format, name: &str, image: &Arc<dyn Image>) -> NewBacking {
    let disk = Some(Below(Arc::new(Disk::new(vec![image.clone()]))));
    let identity = image.describe().identity.clone();
    NewBacking { name: name.into(), path: name.into(), format, size: image.size(), identity, disk }
}

/// An image of that format, of `size` bytes, with `marks` (byte, length, value; 0 writes zeros) written into it.
fn make(format: Format, options: &[(&str, &str)], size: u64, below: Option<NewBacking>, marks: &[(u64, u64, u8)]) -> Vec<u8> {
    let dev = Arc::new(Memory::default());
    let spec = CreateSpec {
        size,
        options: options.iter().map(|(a, b)| ((*a).to_string(), (*b).to_string())).collect(),
        backing: below,
        file_name: "image".into(),
    };
    let w = format.entry().create.unwrap()(&spec, &One(dev.clone())).unwrap_or_else(|e| panic!("{format}: {e}"));
    for (at, len, v) in marks {
        match v {
            0 => w.write_zeroes(*at, *len).unwrap(),
            v => w.write(*at, &vec![*v; *len as usize]).unwrap(),
        }
    }
    w.finish().unwrap();
    dev.to_vec()
}

fn view(layers: Vec<Arc<dyn Image>>) -> Vec<u8> {
    let disk = Disk::new(layers);
    let mut all = vec![0; disk.len() as usize];
    disk.read_at(0, &mut all).unwrap();
    all
}

type Options = Vec<(&'static str, &'static str)>;

/// Overlay and base formats, with the overlay's options.
fn pairs() -> Vec<(Format, Format, Options)> {
    use Format::{Cow, Qcow, Qcow2, Raw, Vdi, Vhd, Vhdx, Vmdk};
    let small = vec![("cluster_size", "4k")];
    let mut all: Vec<_> = [Raw, Qcow2, Qcow, Cow, Vmdk, Vdi, Vhd].into_iter().map(|base| (Qcow2, base, small.clone())).collect();
    all.push((Qcow2, Raw, vec![("cluster_size", "512"), ("compat", "0.10")]));
    all.push((Qcow2, Raw, vec![("cluster_size", "16k"), ("extended_l2", "on")]));
    all.extend([(Qcow, Raw), (Cow, Raw), (Vmdk, Vmdk), (Vdi, Vdi), (Vhd, Vhd)].map(|(a, b)| (a, b, vec![])));
    all.push((Vhdx, Vhdx, vec![("block_size", "1M")]));
    all
}

const BASE: &[(u64, u64, u8)] = &[(0, 40_000, 1), (100_000, 3000, 2), (204_800, 8192, 3)];
const TOP: &[(u64, u64, u8)] = &[(1000, 5000, 7), (90_112, 20_480, 0), (208_896, 512, 8), (330_240, 1024, 9)];

/// Options for small images, as every state of them is looked at.
fn small(format: Format) -> &'static [(&'static str, &'static str)] {
    match format {
        Format::Qcow2 => &[("cluster_size", "4k")],
        Format::Vhdx => &[("block_size", "1M")],
        _ => &[],
    }
}

/// Base and overlay, and what a guest sees.
fn chain(top: Format, base: Format, options: &[(&str, &str)], base_size: u64) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let base_options = small(base);
    let marks: Vec<_> = BASE.iter().copied().filter(|(at, len, _)| at + len <= base_size).collect();
    let below = make(base, base_options, base_size, None, &marks);
    let base_image = image(base, &below).unwrap();
    let over = make(top, options, SIZE, Some(backing(base, "base", &base_image)), TOP);
    let seen = view(vec![image(top, &over).unwrap(), base_image]);
    (below, over, seen)
}

/// Commits as the operation does: `base` first, then the overlay.
fn commit_into(top: Format, base: Format, over: &WriteDevice, below: &WriteDevice) -> Result<()> {
    let upper = Disk::new(vec![open(top, over.clone())?]);
    let base = writer(base, below.clone(), None)?;
    base.keep_identity();
    commit::pour(&upper, base.as_ref(), Path::new("base"), &JobContext::detached())?;
    let top = writer(top, over.clone(), Some(Arc::new(Disk::new(vec![base.reader()]))))?;
    top.keep_identity();
    top.clear()?;
    top.finish()
}

#[test]
fn a_commit_changes_nothing_that_is_seen_wherever_it_is_cut() {
    for (top, base, options) in pairs() {
        for base_size in [SIZE, 150 << 10] {
            let what = format!("{top} {options:?} on {base} of {base_size}");
            let (below, over, seen) = chain(top, base, &options, base_size);
            let (b, o) = (Faulty::new(below.clone()), Faulty::new(over.clone()));
            let (bd, od): (WriteDevice, WriteDevice) = (b.clone(), o.clone());
            match commit_into(top, base, &od, &bd) {
                Err(e) if e.kind() == crate::engine::error::ErrorKind::Unsupported && base_size < SIZE => {
                    // A format that cannot grow: nothing is written.
                    assert!(
                        b.record().is_empty() && o.record().is_empty() && matches!(base, Format::Qcow | Format::Cow),
                        "{what}: {e}"
                    );
                    continue;
                }
                done => done.unwrap_or_else(|e| panic!("{what}: {e}")),
            }
            // The base is durable before the overlay is touched, so one of the two is whole at any moment.
            let full = image(top, &over).unwrap();
            power_cuts(&below, &b.record(), |cut, bytes| {
                let base = image(base, &bytes).unwrap_or_else(|e| panic!("{what}, base {cut}: {e}"));
                assert!(view(vec![full.clone(), base]) == seen, "{what}, base {cut}");
            });
            let whole = image(base, &b.to_vec()).unwrap();
            power_cuts(&over, &o.record(), |cut, bytes| {
                let top = image(top, &bytes).unwrap_or_else(|e| panic!("{what}, overlay {cut}: {e}"));
                assert!(view(vec![top, whole.clone()]) == seen, "{what}, overlay {cut}");
            });
            // The base has it all by itself, and the overlay nothing.
            assert!(view(vec![whole]) == seen, "{what}");
            let empty = image(top, &o.to_vec()).unwrap();
            let m = empty.map(0, SIZE).unwrap();
            assert!(m.kind == crate::engine::model::Kind::Unallocated && m.len == SIZE, "{what}: {m:?}");
        }
    }
}

#[test]
fn a_commit_that_fails_changes_nothing_that_is_seen() {
    for (top, base, options) in pairs() {
        let (below, over, seen) = chain(top, base, &options, 150 << 10);
        let mut at = 0;
        loop {
            let mut reached = false;
            for in_base in [true, false] {
                for (once, errno) in FAILURES {
                    let (b, o) = (Faulty::new(below.clone()), Faulty::new(over.clone()));
                    let faulty = if in_base { &b } else { &o };
                    faulty.fail(Some(Failure { at, once, errno, reads: false }));
                    let (bd, od): (WriteDevice, WriteDevice) = (b.clone(), o.clone());
                    let done = commit_into(top, base, &od, &bd);
                    reached |= faulty.operations() > at;
                    let what = format!("{top} {options:?} on {base}, operation {at} (base {in_base}, once {once}): {done:?}");
                    let layers = [(top, o.to_vec()), (base, b.to_vec())]
                        .map(|(f, b)| image(f, &b).unwrap_or_else(|e| panic!("{what}: {e}")));
                    assert!(view(layers.to_vec()) == seen, "{what}");
                }
            }
            if !reached {
                break;
            }
            // Every operation of the shorter courses, a sample of the longest.
            at += 1 + at / 8;
        }
    }
}

/// How a device may fail: once or for ever, broken or full.
const FAILURES: [(bool, i32); 4] = [(true, libc::EIO), (false, libc::EIO), (true, libc::ENOSPC), (false, libc::ENOSPC)];

/// Runs `change` on a copy of `before` with each of its writes and flushes failing in each way, and shows what is left to `look`.
fn every_failure(before: &[u8], change: impl Fn(WriteDevice) -> Result<()>, look: impl Fn(&str, Vec<u8>)) {
    let well = Faulty::new(before.to_vec());
    change(well.clone()).unwrap();
    for at in 0..well.operations() {
        for (once, errno) in FAILURES {
            let dev = Faulty::new(before.to_vec());
            dev.fail(Some(Failure { at, once, errno, reads: false }));
            let done = change(dev.clone());
            let what = format!("operation {at}, once {once}, errno {errno}: {done:?}");
            // A hole that cannot be punched takes nothing away; every other failure is told, as what it is.
            if let Err(e) = &done {
                use crate::engine::error::ErrorKind::{Io, NoSpace};
                assert_eq!(e.kind(), if errno == libc::ENOSPC { NoSpace } else { Io }, "{what}");
            }
            look(&what, dev.to_vec());
        }
    }
}

/// An overlay that is to stand on another image, or on nothing.
struct Move {
    what: String,
    top: Format,
    over: Vec<u8>,
    old: Arc<dyn Image>,
    new: Option<Arc<dyn Image>>,
    base: Format,
    seen: Vec<u8>,
}

impl Move {
    /// Every pair of formats, onto an image of other content and onto nothing.
    fn all() -> Vec<Move> {
        Move::of(pairs())
    }

    /// Every overlay format with its options once: what fails is the overlay, whatever it stands on.
    fn each_top() -> Vec<Move> {
        let mut seen = std::collections::HashSet::new();
        Move::of(pairs().into_iter().filter(|(top, _, options)| seen.insert((*top, options.clone()))).collect())
    }

    fn of(pairs: Vec<(Format, Format, Options)>) -> Vec<Move> {
        let mut out = Vec::new();
        for (top, base, options) in pairs {
            for (new_marks, flat) in [(&[(4096u64, 50_000u64, 5u8), (204_800, 8192, 3)][..], false), (&[], true)] {
                let (below, over, seen) = chain(top, base, &options, 300 << 10);
                let old = image(base, &below).unwrap();
                let other = make(base, small(base), SIZE, None, new_marks);
                let new = (!flat).then(|| image(base, &other).unwrap());
                out.push(Move { what: format!("{top} {options:?} on {base}, flat {flat}"), top, over, old, new, base, seen });
            }
        }
        out
    }

    fn to(&self) -> Option<NewBacking> {
        self.new.as_ref().map(|new| backing(self.base, "elsewhere/other", new))
    }

    /// As the operation does it.
    fn rebase(&self, dev: WriteDevice) -> Result<()> {
        let disk = |image: &Arc<dyn Image>| Disk::new(vec![image.clone()]);
        let merge = |top| rebase::Merge::new(top, Some(disk(&self.old)), self.new.as_ref().map(disk), false);
        let below = merge(open(self.top, dev.clone())?).below().map(|b| b.0);
        let w = writer(self.top, dev, below)?;
        w.keep_identity();
        merge(w.reader()).run(w.as_ref(), Path::new("image"), &JobContext::detached())?;
        w.keep_identity();
        w.set_backing(self.to().as_ref())
    }

    /// As `relink` does it: the reference alone.
    fn relink(&self, dev: WriteDevice) -> Result<()> {
        let w = writer(self.top, dev, None)?;
        w.keep_identity();
        w.set_backing(self.to().as_ref())
    }

    /// Whether `top` names the new base (a VDI's parent has no name, but a UUID).
    fn names_new(&self, top: &dyn Image) -> bool {
        match (top.backing(), &self.new) {
            (None, new) => new.is_none(),
            (Some(_), None) => false,
            (Some(b), Some(_)) if !b.names.is_empty() => b.names.iter().any(|n| n.contains("other")),
            (Some(b), Some(new)) => b.identity == identity(new),
        }
    }

    /// What a guest sees of the overlay in `bytes` on the base that it names, and whether that is the new one.
    fn view(&self, what: &str, bytes: &[u8]) -> (bool, Vec<u8>) {
        let top = image(self.top, bytes).unwrap_or_else(|e| panic!("{}, {what}: {e}", self.what));
        let is_new = self.names_new(top.as_ref());
        let below = if is_new { self.new.clone() } else { Some(self.old.clone()) };
        (is_new, view([Some(top), below].into_iter().flatten().collect()))
    }

    fn same(&self, what: &str, bytes: &[u8]) -> bool {
        let (is_new, got) = self.view(what, bytes);
        let first = got.iter().zip(&self.seen).position(|(a, b)| a != b);
        assert!(got == self.seen, "{}, {what}, new {is_new}: at {first:?}", self.what);
        is_new
    }
}

#[test]
fn a_rebase_keeps_what_is_seen_wherever_it_is_cut() {
    for course in Move::all() {
        let o = Faulty::new(course.over.clone());
        course.rebase(o.clone()).unwrap_or_else(|e| panic!("{}: {e}", course.what));
        let states = std::cell::RefCell::new([0, 0]);
        power_cuts(&course.over, &o.record(), |cut, bytes| {
            states.borrow_mut()[usize::from(course.same(cut, &bytes))] += 1;
        });
        assert!(states.borrow().iter().all(|n| *n > 0), "{}: {states:?}", course.what);
        assert!(course.same("at the end", &o.to_vec()), "{}", course.what);
    }
}

#[test]
fn a_rebase_that_fails_keeps_what_is_seen() {
    for course in Move::each_top() {
        every_failure(&course.over, |dev| course.rebase(dev), |what, bytes| _ = course.same(what, &bytes));
    }
}

#[test]
fn a_relink_leaves_the_old_reference_or_the_new_one() {
    for course in Move::each_top().into_iter().filter(|c| c.new.is_some()) {
        // What the overlay itself holds stays, whatever it names.
        let own = view(vec![image(course.top, &course.over).unwrap()]);
        let whole = |what: &str, bytes: Vec<u8>| {
            let top = image(course.top, &bytes).unwrap_or_else(|e| panic!("{}, {what}: {e}", course.what));
            let was = image(course.top, &course.over).unwrap().backing().unwrap();
            let now = top.backing().unwrap_or_else(|| panic!("{}, {what}: it stands on nothing", course.what));
            assert!(course.names_new(top.as_ref()) || now == was, "{}, {what}: {now:?}", course.what);
            assert!(view(vec![top]) == own, "{}, {what}", course.what);
        };
        let o = Faulty::new(course.over.clone());
        course.relink(o.clone()).unwrap_or_else(|e| panic!("{}: {e}", course.what));
        power_cuts(&course.over, &o.record(), whole);
        every_failure(&course.over, |dev| course.relink(dev), whole);
    }
}

#[test]
fn compacting_keeps_what_is_seen_wherever_it_is_cut_and_whatever_fails() {
    for options in [
        &[("cluster_size", "4k")][..],
        &[("cluster_size", "512"), ("compat", "0.10")],
        &[("cluster_size", "16k"), ("extended_l2", "on")],
    ] {
        let marks = [(0, 60_000, 1), (100_000, 3000, 2), (204_800, 8192, 3), (300_000, 50_000, 4)];
        let start = make(Format::Qcow2, options, SIZE, None, &marks);
        // Holes at the front, zeros that are stored, data at the end.
        let dev = Arc::new(Memory::new(start));
        let w = writer(Format::Qcow2, dev.clone(), None).unwrap();
        w.write_zeroes(0, 49_152).unwrap();
        w.write(307_200, &[0; 20_480]).unwrap();
        w.finish().unwrap();
        let before = dev.to_vec();
        let seen = view(vec![image(Format::Qcow2, &before).unwrap()]);
        let run = |dev: WriteDevice| {
            let source = Source { dev: dev.clone(), path: "image".into(), gate: Gate::closed() };
            let mut editor = Editor::open_any(dev.clone(), source)?;
            compact::zeros::drop_clusters(&dev, &mut editor, &JobContext::detached())?;
            editor.compact(&|| Ok(())).map(drop)
        };
        let dev = Faulty::new(before.clone());
        run(dev.clone()).unwrap();
        assert!(dev.to_vec().len() < before.len(), "{options:?}: {} then {}", before.len(), dev.to_vec().len());
        power_cuts(&before, &dev.record(), |cut, bytes| {
            let now = image(Format::Qcow2, &bytes).unwrap_or_else(|e| panic!("{options:?} {cut}: {e}"));
            assert!(view(vec![now]) == seen, "{options:?} {cut}");
        });
        every_failure(&before, run, |what, bytes| {
            let now = image(Format::Qcow2, &bytes).unwrap_or_else(|e| panic!("{options:?} {what}: {e}"));
            assert!(view(vec![now]) == seen, "{options:?} {what}");
        });
    }
}

#[test]
fn free_space_given_back_leaves_the_rest_alone_wherever_it_is_cut() {
    use super::free_space::{StoredFree, give_back};
    use crate::engine::spans::Set;
    let kinds: &[(Format, &[(&str, &str)])] = &[
        (Format::Qcow2, &[("cluster_size", "4k")]),
        (Format::Qcow2, &[("cluster_size", "16k"), ("extended_l2", "on")]),
        (Format::Qcow2, &[("cluster_size", "512"), ("compat", "0.10")]),
        (Format::Vdi, &[]),
        (Format::Vhdx, &[]),
        (Format::Raw, &[]),
    ];
    for (format, options) in kinds {
        let before = make(*format, options, SIZE, None, &[(0, SIZE, 7)]);
        let seen = view(vec![image(*format, &before).unwrap()]);
        // Whole units, parts of units, and a range within one.
        let free = Set::of([(5_000, 90_000), (100_000, 100_700), (204_800, 300_000), (390_000, SIZE)]);
        let found = [StoredFree { name: String::new(), free: 0, stored: free.clone(), compressed: Set::default() }];
        let dev = Faulty::new(before.clone());
        let w = writer(*format, dev.clone(), None).unwrap();
        assert_eq!(give_back(w.as_ref(), &found, &JobContext::detached()).unwrap(), free.bytes(), "{format}");
        w.finish().unwrap();
        let agrees = |bytes: &[u8], what: &str, done: bool| {
            let now = view(vec![image(*format, bytes).unwrap_or_else(|e| panic!("{format} {what}: {e}"))]);
            let wrong = (0..SIZE).find(|i| {
                let (old, new) = (seen[*i as usize], now[*i as usize]);
                if free.at(*i).is_some() { new != 0 && (done || new != old) } else { new != old }
            });
            assert_eq!(wrong, None, "{format} {options:?} {what}");
        };
        agrees(&dev.to_vec(), "at the end", true);
        power_cuts(&before, &dev.record(), |cut, bytes| agrees(&bytes, cut, false));
    }
}

fn identity(image: &Arc<dyn Image>) -> crate::engine::model::ParentIdentity {
    let id = image.describe().identity.clone();
    crate::engine::model::ParentIdentity::VdiUuids {
        image: id.uuid.unwrap_or_default(),
        modification: id.modification.unwrap_or_default(),
    }
}
