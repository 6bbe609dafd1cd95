//! Random sequences of everything that changes an image and its chain, against a model of plain bytes and `qemu-img check`. A short
//! course in every run; thousands of steps with COWSHED_LONG=1.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::{content, dir, noise, qemu_content, run, s, text};
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

fn job(spec: JobSpec) {
    let operation = spec.operation();
    let told = format!("{spec:?}");
    let plan = operation.plan().unwrap_or_else(|e| panic!("{told}: {e}"));
    operation.run(&plan, &JobContext::detached()).unwrap_or_else(|e| panic!("{told}: {e}"));
}

fn course(seed: u64, options: &str, steps: u64) {
    let dir = dir();
    let cwd = dir.path();
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    std::fs::write(cwd.join("base.raw"), text(seed, 900 << 10)).unwrap();
    std::fs::write(cwd.join("other.raw"), text(seed + 1, 1200 << 10)).unwrap();
    let image = cwd.join("a.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, "-b", "base.raw", "-F", "raw", s(&image), "1M"]);
    let mut model = text(seed, 900 << 10);
    model.resize(1 << 20, 0);
    let mut snapshots: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut standing = true;
    let snapshot = |image: &Path, action: Action| JobSpec::Snapshot(SnapshotSpec { image: image.into(), format: None, action });
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
                let w = edit::open(&image, None, &Gate::around(&image)).unwrap().writer;
                w.write(at, &data).unwrap();
                w.finish().unwrap();
                model[at as usize..at as usize + len].copy_from_slice(&data);
            }
            5 => {
                // Zeros as a guest writes them, which compact finds.
                let (at, len) = range(&model);
                let w = edit::open(&image, None, &Gate::around(&image)).unwrap().writer;
                w.write(at, &vec![0; len]).unwrap();
                w.finish().unwrap();
                model[at as usize..at as usize + len].fill(0);
            }
            6 => {
                let (at, len) = range(&model);
                let w = edit::open(&image, None, &Gate::around(&image)).unwrap().writer;
                w.write_zeroes(at, len as u64).unwrap();
                w.finish().unwrap();
                model[at as usize..at as usize + len].fill(0);
            }
            7 if snapshots.len() < 3 => {
                let name = format!("s{step}");
                job(snapshot(&image, Action::Create(name.clone())));
                snapshots.insert(name, model.clone());
            }
            8 => {
                if let Some((name, then)) = snapshots.iter().nth(dice.roll(3) as usize) {
                    job(snapshot(&image, Action::Apply { name: name.clone(), keep: false }));
                    model.clone_from(then);
                }
            }
            9 | 10 => {
                let all = std::mem::take(&mut snapshots);
                let gone: Vec<String> = all.keys().filter(|_| what == 9 || dice.roll(2) == 0).cloned().collect();
                snapshots = all.into_iter().filter(|(n, _)| !gone.contains(n)).collect();
                if !gone.is_empty() {
                    job(snapshot(&image, Action::Delete(gone)));
                }
            }
            11 => {
                let size = (700 + dice.roll(700)) << 10;
                // Snapshots of another size are QEMU's to refuse in version 2.
                if size > model.len() as u64 || snapshots.is_empty() {
                    let mut spec = ResizeSpec::new(&image, Change::To(size));
                    spec.shrink = true;
                    let operation = JobSpec::Resize(spec).operation();
                    if let Ok(plan) = operation.plan()
                        && operation.run(&plan, &JobContext::detached()).is_ok()
                    {
                        model.resize(size as usize, 0);
                    }
                }
            }
            12 if standing && snapshots.is_empty() => {
                job(JobSpec::Commit(CommitSpec { keep: dice.roll(2) == 0, ..CommitSpec::new(&image) }));
            }
            13 if snapshots.is_empty() => {
                let base = ["", "base.raw", "other.raw"][dice.roll(3) as usize];
                if !base.is_empty() || standing {
                    let mut spec = RebaseSpec::new(&image, Some(base.to_string()));
                    spec.base_format = (!base.is_empty()).then_some(Format::Raw);
                    spec.compress = dice.roll(3) == 0;
                    job(JobSpec::Rebase(spec));
                    standing = !base.is_empty();
                }
            }
            14 => job(JobSpec::Compact(CompactSpec::new(&image))),
            15 => job(JobSpec::Repair(RepairSpec::mend(&image, Repair::All))),
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
                assert!(std::fs::read(&raw).unwrap() == *then, "{place}, snapshot {name}");
            }
        }
    }
}

#[test]
fn random_courses_agree_with_a_model() {
    let long = std::env::var_os("COWSHED_LONG").is_some();
    let (seeds, steps) = if long { (0..8, 500) } else { (0..1, 40) };
    for seed in seeds {
        for options in [
            "cluster_size=4k",
            "cluster_size=64k",
            "cluster_size=512,compat=0.10",
            "cluster_size=16k,extended_l2=on",
            "cluster_size=4k,refcount_bits=64,compression_type=zstd",
            "cluster_size=2M,refcount_bits=8",
        ] {
            course(seed * 31 + 7, options, steps);
        }
    }
}
