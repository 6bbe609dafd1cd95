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

/// Does it, unless the format cannot: a refusal is known by its kind, and must leave everything as it was.
fn job(spec: JobSpec) -> bool {
    let operation = spec.operation();
    let done = operation.plan().and_then(|plan| operation.run(&plan, &JobContext::detached()));
    match done {
        Ok(_) => true,
        Err(e) if matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::Usage) => false,
        Err(e) => panic!("{spec:?}: {e}"),
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

/// What a course did: steps of each sort that were done, not refused.
type Done = BTreeMap<&'static str, u64>;

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
    let mut count = |what: &'static str, yes: bool| *done.entry(what).or_default() += u64::from(yes);
    // Snapshots need counts above 1, and a file that holds the data.
    let narrow = options.contains("refcount_bits=1,") || options.contains("refcount_bits=2") || options.contains("data_file");
    let mut model = text(seed, 900 << 10);
    model.resize(1 << 20, 0);
    let mut snapshots: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut standing = true;
    let snapshot = |image: &Path, action: Action| JobSpec::Snapshot(SnapshotSpec { image: image.into(), format: None, action });
    let open = || edit::open(&image, None, &Gate::around(&image)).unwrap().writer;
    for step in 0..steps {
        let what = dice.roll(16);
        let mut range = |model: &[u8]| {
            let at = dice.roll(model.len() as u64) & !511;
            let len = (dice.roll(90 << 10) + 1).min(model.len() as u64 - at);
            (at, len as usize)
        };
        match what {
            0..=4 => {
                let (at, len) = range(&model);
                let data = noise(seed ^ step, len);
                let w = open();
                w.write(at, &data).unwrap();
                w.finish().unwrap();
                model[at as usize..at as usize + len].copy_from_slice(&data);
                count("write", true);
            }
            5 | 6 => {
                let (at, len) = range(&model);
                let w = open();
                match what {
                    // Zeros as a guest writes them, which compact finds.
                    5 => w.write(at, &vec![0; len]).unwrap(),
                    _ => w.write_zeroes(at, len as u64).unwrap(),
                }
                w.finish().unwrap();
                model[at as usize..at as usize + len].fill(0);
                count("zeros", true);
            }
            7 if snapshots.len() < 3 => {
                let name = format!("s{step}");
                let made = job(snapshot(&image, Action::Create(name.clone())));
                assert!(made || narrow, "{options}, step {step}: a snapshot was refused");
                if made {
                    snapshots.insert(name, model.clone());
                }
                count("snapshot", made);
            }
            8 => {
                if let Some((name, then)) = snapshots.iter().nth(dice.roll(3) as usize) {
                    let applied = job(snapshot(&image, Action::Apply { name: name.clone(), keep: false }));
                    assert!(applied || narrow, "{options}, step {step}: applying was refused");
                    if applied {
                        model.clone_from(then);
                    }
                    count("apply", applied);
                }
            }
            9 | 10 => {
                let all = std::mem::take(&mut snapshots);
                let gone: Vec<String> = all.keys().filter(|_| what == 9 || dice.roll(2) == 0).cloned().collect();
                snapshots = all.into_iter().filter(|(n, _)| !gone.contains(n)).collect();
                if !gone.is_empty() {
                    assert!(job(snapshot(&image, Action::Delete(gone))), "{options}, step {step}");
                    count("delete", true);
                }
            }
            11 => {
                let size = (700 + dice.roll(700)) << 10;
                // Snapshots of another size are QEMU's to refuse in version 2.
                if size > model.len() as u64 || snapshots.is_empty() {
                    let mut spec = ResizeSpec::new(&image, Change::To(size));
                    spec.shrink = true;
                    let resized = job(JobSpec::Resize(spec));
                    assert!(resized || !snapshots.is_empty() || size == model.len() as u64, "{options}, step {step}: resize");
                    if resized {
                        model.resize(size as usize, 0);
                    }
                    count("resize", resized);
                }
            }
            12 if standing && snapshots.is_empty() => {
                let done = job(JobSpec::Commit(CommitSpec { keep: dice.roll(2) == 0, ..CommitSpec::new(&image) }));
                assert!(done, "{options}, step {step}: commit");
                count("commit", done);
            }
            13 if snapshots.is_empty() => {
                let base = ["", "base.raw", "other.raw"][dice.roll(3) as usize];
                if !base.is_empty() || standing {
                    let mut spec = RebaseSpec::new(&image, Some(base.to_string()));
                    spec.base_format = (!base.is_empty()).then_some(Format::Raw);
                    spec.compress = dice.roll(3) == 0 && !options.contains("data_file");
                    assert!(job(JobSpec::Rebase(spec)), "{options}, step {step}: rebase");
                    standing = !base.is_empty();
                    count("rebase", true);
                }
            }
            14 => {
                let done = job(JobSpec::Compact(CompactSpec::new(&image)));
                assert!(done || narrow, "{options}, step {step}: compact");
                count("compact", done);
            }
            15 => {
                let spoilt = dice.roll(2) == 0;
                if spoilt {
                    spoil_counts(&image, &mut dice);
                }
                assert!(job(JobSpec::Repair(RepairSpec::mend(&image, Repair::All))), "{options}, step {step}: repair");
                count(if spoilt { "repair of nonsense" } else { "repair" }, true);
            }
            _ => {}
        }
        let place = format!("seed {seed}, {options}, step {step}, kind {what}");
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
    let mut done = Done::new();
    if long {
        (0..8).for_each(|seed| OPTIONS.iter().for_each(|options| course(seed * 31 + 7, options, 500, &mut done)));
    } else {
        OPTIONS.iter().for_each(|options| course(7, options, 25, &mut done));
    }
    println!("{} steps done: {done:?}", done.values().sum::<u64>());
    assert!(done.values().filter(|n| **n > 0).count() >= if long { 11 } else { 9 }, "something was never done: {done:?}");
}
