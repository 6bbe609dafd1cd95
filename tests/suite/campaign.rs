//! Random sequences of everything that changes an image and its chain, against a model of plain bytes and `qemu-img check`. A short
//! course in every run; thousands of steps with COWSHED_LONG=1.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::common::{content, dir, noise, qemu_content, run, s, text};
use cowshed::engine::error::ErrorKind;
use cowshed::engine::format::Format;
use cowshed::engine::format::check::Repair;
use cowshed::engine::io::gate::Gate;
use cowshed::engine::job::JobContext;
use cowshed::engine::ops::JobSpec;
use cowshed::engine::ops::check::RepairSpec;
use cowshed::engine::ops::commit::CommitSpec;
use cowshed::engine::ops::compact::CompactSpec;
use cowshed::engine::ops::edit;
use cowshed::engine::ops::rebase::RebaseSpec;
use cowshed::engine::ops::resize::{Change, ResizeSpec};
use cowshed::engine::ops::snapshot::{Action, SnapshotSpec};

/// A stream of numbers, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

/// Does it, unless the format cannot: a refusal is known by its kind, and must leave everything as it was. `qemu` are the arguments
/// with which `qemu-img` does the same with IMAGE, here a copy: it must refuse what we refuse.
fn job(spec: JobSpec, image: &Path, qemu: &str) -> bool {
    let operation = spec.operation();
    let done = operation.plan().and_then(|plan| operation.run(&plan, &JobContext::detached()));
    match done {
        Ok(_) => true,
        Err(e) if matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::Usage) && !qemu.is_empty() => {
            let copy = image.with_extension("copy");
            std::fs::copy(image, &copy).unwrap();
            let args = qemu.split(' ').map(|arg| if arg == "IMAGE" { s(&copy) } else { arg });
            let out = std::process::Command::new("qemu-img").args(args).output().unwrap();
            assert!(!out.status.success(), "{spec:?}: QEMU does it, and we do not: {e}");
            std::fs::remove_file(&copy).unwrap();
            false
        }
        Err(e) => panic!("{spec:?}: {e:?}"),
    }
}

/// Writes nonsense over some of the refcounts, which everything else in the image contradicts.
fn spoil_counts(image: &Path, dice: &mut Dice) {
    let file = std::fs::File::options().read(true).write(true).open(image).unwrap();
    let word = |at: u64| {
        let mut b = [0; 8];
        file.read_exact_at(&mut b, at).unwrap();
        u64::from_be_bytes(b)
    };
    let (table, cluster) = (word(48), 1 << (word(16) & 0xffff_ffff));
    file.write_all_at(&noise(dice.roll(1 << 30), 24), word(table) + dice.roll(cluster - 24)).unwrap();
}

/// A sort of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Write,
    WriteZeros,
    /// Bytes of zeros as a guest writes them, which compact finds.
    StoreZeros,
    Snapshot,
    Apply,
    DeleteAll,
    DeleteSome,
    Resize,
    Commit,
    Rebase,
    Compact,
    Repair,
    /// Repair after nonsense was written over refcounts.
    Mend,
}

/// The sorts of steps, and how many cards each has in a deck.
const DECK: &[(Kind, usize)] = &[
    (Kind::Write, 5),
    (Kind::WriteZeros, 1),
    (Kind::StoreZeros, 1),
    (Kind::Snapshot, 1),
    (Kind::Apply, 1),
    (Kind::DeleteAll, 1),
    (Kind::DeleteSome, 1),
    (Kind::Resize, 1),
    (Kind::Commit, 1),
    (Kind::Rebase, 1),
    (Kind::Compact, 1),
    (Kind::Repair, 1),
    (Kind::Mend, 1),
];

/// A shuffled deck of steps. What cannot be done now waits and goes before all others, so every sort has its turn.
#[derive(Default)]
struct Deck(Vec<Kind>);

impl Deck {
    fn deal(&mut self, dice: &mut Dice, possible: impl Fn(Kind) -> bool) -> Kind {
        if !self.0.iter().any(|k| possible(*k)) {
            let mut fresh: Vec<Kind> = DECK.iter().flat_map(|(kind, n)| vec![*kind; *n]).collect();
            (1..fresh.len()).rev().for_each(|i| fresh.swap(i, dice.roll(i as u64 + 1) as usize));
            self.0.extend(fresh);
        }
        let at = self.0.iter().position(|k| possible(*k)).expect("a write is always possible");
        self.0.remove(at)
    }
}

/// What a course did: steps of each sort that were done, not refused.
type Done = BTreeMap<Kind, u64>;

fn course(seed: u64, options: &str, steps: u64, done: &mut Done) {
    let dir = dir();
    let cwd = dir.path();
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    std::fs::write(cwd.join("base.raw"), text(seed, 900 << 10)).unwrap();
    std::fs::write(cwd.join("other.raw"), text(seed + 1, 1200 << 10)).unwrap();
    let image = cwd.join("a.qcow2");
    let data_file = options.contains("data_file").then(|| format!(",data_file={}", s(&cwd.join("a.data"))));
    let options = &format!("{options}{}", data_file.unwrap_or_default());
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, "-b", "base.raw", "-F", "raw", s(&image), "1M"]);
    let mut deck = Deck::default();
    let shown = std::env::var_os("COWSHED_COURSE").is_some();
    let mut model = text(seed, 900 << 10);
    model.resize(1 << 20, 0);
    let mut snapshots: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut standing = true;
    let snapshot = |image: &Path, action: Action| JobSpec::Snapshot(SnapshotSpec { image: image.into(), format: None, action });
    let open = || edit::open(&image, None, &Gate::around(&image)).unwrap().writer;
    for step in 0..steps {
        let what = deck.deal(&mut dice, |kind| match kind {
            Kind::Snapshot => snapshots.len() < 3,
            Kind::Apply | Kind::DeleteAll | Kind::DeleteSome => !snapshots.is_empty(),
            Kind::Commit => standing && snapshots.is_empty(),
            Kind::Rebase => snapshots.is_empty(),
            _ => true,
        });
        let mut range = |model: &[u8]| {
            let at = dice.roll(model.len() as u64) & !511;
            let len = (dice.roll(90 << 10) + 1).min(model.len() as u64 - at);
            (at, len as usize)
        };
        let did = match what {
            Kind::Write => {
                let (at, len) = range(&model);
                let data = noise(seed ^ step, len);
                let w = open();
                w.write(at, &data).unwrap();
                w.finish().unwrap();
                model[at as usize..at as usize + len].copy_from_slice(&data);
                true
            }
            Kind::WriteZeros | Kind::StoreZeros => {
                let (at, len) = range(&model);
                let w = open();
                match what {
                    Kind::StoreZeros => w.write(at, &vec![0; len]).unwrap(),
                    _ => w.write_zeroes(at, len as u64).unwrap(),
                }
                w.finish().unwrap();
                model[at as usize..at as usize + len].fill(0);
                true
            }
            Kind::Snapshot => {
                let name = format!("s{step}");
                let made = job(snapshot(&image, Action::Create(name.clone())), &image, &format!("snapshot -c {name} IMAGE"));
                if made {
                    snapshots.insert(name, model.clone());
                }
                made
            }
            Kind::Apply => {
                let (name, then) = snapshots.iter().nth(dice.roll(snapshots.len() as u64) as usize).unwrap();
                let action = Action::Apply { name: name.clone(), keep: false };
                let applied = job(snapshot(&image, action), &image, &format!("snapshot -a {name} IMAGE"));
                if applied {
                    model.clone_from(then);
                }
                applied
            }
            Kind::DeleteAll | Kind::DeleteSome => {
                let mut gone: Vec<String> = snapshots.keys().cloned().collect();
                if what == Kind::DeleteSome {
                    gone.truncate(1 + dice.roll(gone.len() as u64) as usize);
                }
                snapshots.retain(|name, _| !gone.contains(name));
                job(snapshot(&image, Action::Delete(gone)), &image, "")
            }
            Kind::Resize => {
                let size = (700 + dice.roll(700)) << 10;
                // Snapshots of another size are QEMU's to refuse in version 2.
                let mut resized = false;
                if size > model.len() as u64 || snapshots.is_empty() {
                    let mut spec = ResizeSpec::new(&image, Change::To(size));
                    spec.shrink = true;
                    resized = job(JobSpec::Resize(spec), &image, &format!("resize -q --shrink -f qcow2 IMAGE {size}"));
                }
                if resized {
                    model.resize(size as usize, 0);
                }
                resized
            }
            Kind::Commit => job(JobSpec::Commit(CommitSpec { keep: dice.roll(2) == 0, ..CommitSpec::new(&image) }), &image, ""),
            Kind::Rebase => {
                let bases = if standing { &["", "base.raw", "other.raw"][..] } else { &["base.raw", "other.raw"] };
                let base = bases[dice.roll(bases.len() as u64) as usize];
                let mut spec = RebaseSpec::new(&image, Some(base.to_string()));
                spec.base_format = (!base.is_empty()).then_some(Format::Raw);
                spec.compress = dice.roll(3) == 0 && !options.contains("data_file");
                job(JobSpec::Rebase(spec), &image, "");
                standing = !base.is_empty();
                true
            }
            Kind::Compact => job(JobSpec::Compact(CompactSpec::new(&image)), &image, ""),
            Kind::Repair | Kind::Mend => {
                if what == Kind::Mend {
                    spoil_counts(&image, &mut dice);
                }
                job(JobSpec::Repair(RepairSpec::mend(&image, Repair::All)), &image, "")
            }
        };
        *done.entry(what).or_default() += u64::from(did);
        if shown {
            println!("step {step}: {what:?}, done {did}");
        }
        let place = format!("seed {seed}, {options}, step {step}, kind {what:?}");
        assert!(content(&image) == model, "{place}");
        if step % 8 == 7 || step + 1 == steps {
            run("qemu-img", &["check", "-q", s(&image)]);
            assert!(qemu_content("qcow2", &image) == model, "{place}, as QEMU reads it");
            for (name, then) in &snapshots {
                let raw = cwd.join("snap");
                run("qemu-img", &["convert", "-l", name, "-f", "qcow2", "-O", "raw", s(&image), s(&raw)]);
                let seen = std::fs::read(&raw).unwrap();
                // A tool shows a snapshot as long as the disk is now.
                let both = seen.len().min(then.len());
                assert!(seen[..both] == then[..both], "{place}, snapshot {name}");
            }
        }
    }
}

/// Every option of the format that changes how it is laid out, and how these go together.
const OPTIONS: &[&str] = &[
    "cluster_size=4k",
    "cluster_size=64k",
    "cluster_size=512,compat=0.10",
    "cluster_size=16k,extended_l2=on",
    "cluster_size=4k,refcount_bits=64,compression_type=zstd",
    "cluster_size=2M,refcount_bits=8",
    "cluster_size=4k,lazy_refcounts=on,refcount_bits=32",
    "refcount_bits=1,cluster_size=4k",
    "cluster_size=8k,refcount_bits=2",
    "cluster_size=1k,refcount_bits=4",
    "cluster_size=4k,data_file_raw=off",
    "cluster_size=128k,extended_l2=on,preallocation=off,compression_type=zstd,lazy_refcounts=on",
];

#[test]
fn random_courses_agree_with_a_model() {
    let long = std::env::var_os("COWSHED_LONG").is_some();
    let (seeds, steps) = if long { (8, 500) } else { (1, 20) };
    let (mut done, mut failed) = (Done::new(), 0);
    // One course alone, by its seed and the number of its options, with its steps shown: to look into one that failed.
    let only = std::env::var("COWSHED_COURSE").ok();
    let wanted = |seed: u64, number: usize| only.as_ref().is_none_or(|o| *o == format!("{seed},{number}"));
    for seed in 0..seeds {
        for (number, options) in OPTIONS.iter().enumerate().filter(|(number, _)| wanted(seed, *number)) {
            // One that fails does not keep the others from running.
            let one = || course(seed * 31 + 7 + number as u64 * 1009, options, steps, &mut done);
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(one)).is_err() {
                println!("failed: COWSHED_COURSE={seed},{number}, {options}");
                failed += 1;
            }
        }
    }
    assert_eq!(failed, 0, "courses failed: {done:?}");
    println!("{} steps done: {done:?}", done.values().sum::<u64>());
    let never: Vec<Kind> = DECK.iter().map(|d| d.0).filter(|kind| done.get(kind).is_none_or(|n| *n == 0)).collect();
    assert!(never.is_empty(), "{never:?} were never done: {done:?}");
}
