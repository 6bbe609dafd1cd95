//! Internal snapshots: what they cost is what deleting them gives back; changing them against a model, `qemu-img check` and cut
//! power.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cowshed::engine::error::ErrorKind;
use cowshed::engine::format::Source;
use cowshed::engine::format::qcow2::edit::{Editor, find};
use cowshed::engine::io::fault::{Faulty, power_cuts};
use cowshed::engine::io::file::FileDevice;
use cowshed::engine::io::gate::Gate;
use cowshed::engine::io::memory::Memory;

use crate::common::{content, cowshed, dir, every_failure, noise, qemu_content, qemu_img, qemu_io, run, s, text};

/// Clusters with a refcount above zero, read straight from the refcount table (16-bit counts), in bytes.
fn counted(image: &Path) -> u64 {
    let b = std::fs::read(image).unwrap();
    let word = |at: usize| b.get(at..at + 8).map_or(0, |w| u64::from_be_bytes(w.try_into().unwrap()));
    let bits = u32::from_be_bytes(b[20..24].try_into().unwrap());
    let (table, clusters) = (word(48) as usize, u32::from_be_bytes(b[56..60].try_into().unwrap()) as usize);
    let mut n = 0;
    for i in 0..(clusters << bits) / 8 {
        let block = word(table + i * 8) as usize;
        if block != 0 {
            n += b[block..block + (1 << bits)].chunks(2).filter(|c| **c != [0, 0]).count() as u64;
        }
    }
    n << bits
}

fn shares(image: &Path) -> Vec<(String, u64)> {
    let out = cowshed(&["info", "--output=json", s(image)]);
    let v: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let list = v["snapshots"].as_array().unwrap();
    list.iter().map(|s| (s["name"].as_str().unwrap().to_string(), s["exclusive-size"].as_u64().unwrap())).collect()
}

fn sample(image: &Path, options: &str) {
    qemu_img(&format!("create -q -f qcow2 {options} {} 128M", s(image)));
    qemu_io("qcow2", image, &["write -P 1 0 8M", "write -P 1 70M 3M"]);
    for (n, write) in ["write -P 2 1M 2M", "write -P 3 2M 4M", "write -P 4 100M 1M", "discard 0 1M"].iter().enumerate() {
        qemu_img(&format!("snapshot -c s{n} {}", s(image)));
        qemu_io("qcow2", image, &[write]);
    }
}

#[test]
fn what_a_snapshot_holds_alone_is_what_deleting_it_frees() {
    let d = dir();
    for options in ["", "-o cluster_size=4k", "-o compat=0.10", "-o extended_l2=on"] {
        let image = d.path().join("x.qcow2");
        let _ = std::fs::remove_file(&image);
        sample(&image, options);
        for (name, promised) in shares(&image) {
            let copy = d.path().join("copy.qcow2");
            std::fs::copy(&image, &copy).unwrap();
            qemu_img(&format!("snapshot -d {name} {}", s(&copy)));
            assert_eq!(counted(&image) - counted(&copy), promised, "{options}: {name}");
        }
    }
}

#[test]
fn a_set_frees_more_than_its_members_alone() {
    let d = dir();
    let image = d.path().join("x.qcow2");
    sample(&image, "");
    let alone: Vec<u64> = shares(&image).iter().map(|(_, n)| *n).collect();
    for set in [vec![1, 2], vec![0, 1, 2, 3], vec![0, 3]] {
        let together = cowshed::engine::ops::snapshot::freed_by(&image, &set).unwrap();
        let copy = d.path().join("copy.qcow2");
        std::fs::copy(&image, &copy).unwrap();
        for n in &set {
            qemu_img(&format!("snapshot -d s{n} {}", s(&copy)));
        }
        assert_eq!(counted(&image) - counted(&copy), together, "{set:?}");
        assert!(together >= set.iter().map(|n| alone[*n]).sum::<u64>());
    }
}

#[test]
fn compressed_clusters_that_share_a_host_cluster_are_freed_together() {
    let d = dir();
    let (raw, image) = (d.path().join("a.raw"), d.path().join("x.qcow2"));
    std::fs::write(&raw, text(1, 16 << 20)).unwrap();
    qemu_img(&format!("convert -c -O qcow2 {} {}", s(&raw), s(&image)));
    qemu_img(&format!("snapshot -c packed {}", s(&image)));
    qemu_io("qcow2", &image, &["write -P 9 0 10M"]);
    let (name, promised) = shares(&image).remove(0);
    let copy = d.path().join("copy.qcow2");
    std::fs::copy(&image, &copy).unwrap();
    qemu_img(&format!("snapshot -d {name} {}", s(&copy)));
    assert_eq!(counted(&image) - counted(&copy), promised);
    assert!(promised > 0);
}

/// A folder in memory where there is one: no power is really cut.
fn memory() -> tempfile::TempDir {
    let builder = || tempfile::Builder::new().prefix("cowshed-test").to_owned();
    builder().tempdir_in("/dev/shm").or_else(|_| builder().tempdir()).unwrap()
}

/// What `qemu-img check` says: 0 clean, 3 leaks; and its words.
fn check(image: &Path) -> (i32, String) {
    let out = Command::new("qemu-img").args(["check", "-f", "qcow2", s(image)]).output().unwrap();
    (out.status.code().unwrap(), format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
}

fn clean(image: &Path, what: &str) {
    let (code, said) = check(image);
    assert_eq!(code, 0, "{what}: {said}");
}

fn editor(image: &Path) -> Editor {
    let dev = Arc::new(FileDevice::open_rw(image).unwrap());
    Editor::open(dev.clone(), Source { dev, path: image.to_path_buf(), gate: Gate::closed() }).unwrap_or_else(|e| panic!("{e}"))
}

/// What the disk was at snapshot `name`, as qemu-img reads it.
fn at_snapshot(image: &Path, name: &str) -> Vec<u8> {
    let raw = image.with_extension("at");
    qemu_img(&format!("convert -l snapshot.name={name} -O raw {} {}", s(image), s(&raw)));
    let bytes = std::fs::read(&raw).unwrap();
    std::fs::remove_file(raw).unwrap();
    bytes
}

fn names(image: &Path) -> Vec<String> {
    let v: serde_json::Value =
        serde_json::from_slice(&run("qemu-img", &["info", "-U", "--output=json", s(image)]).stdout).unwrap();
    v["snapshots"].as_array().into_iter().flatten().map(|s| s["name"].as_str().unwrap().to_string()).collect()
}

#[test]
fn random_steps_agree_with_a_model_and_with_qemu_img() {
    let d = memory();
    let image = d.path().join("x.qcow2");
    let matrix = [
        "compat=0.10,cluster_size=4k",
        "cluster_size=512,refcount_bits=64",
        "cluster_size=64k",
        "cluster_size=4k,refcount_bits=2",
        "cluster_size=4k,refcount_bits=4",
        "cluster_size=4k,refcount_bits=8",
        "cluster_size=16k,extended_l2=on,refcount_bits=32",
    ];
    for (n, options) in matrix.iter().enumerate() {
        qemu_img(&format!("create -q -f qcow2 -o {options} {} 2M", s(&image)));
        let mut model = vec![0u8; 2 << 20];
        let mut kept: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for (step, r) in noise(n as u64 + 1, 8 * 24).chunks(8).enumerate() {
            let what = format!("{options} step {step}");
            let (at, len) = (u64::from(r[0]) * 4096, (u64::from(r[1]) + 1) * 2048);
            let len = len.min(model.len() as u64 - at);
            let range = at as usize..(at + len) as usize;
            let some = kept.keys().nth(usize::from(r[2]) % kept.len().max(1)).cloned();
            match r[3] % 8 {
                0..=2 => {
                    qemu_io("qcow2", &image, &[&format!("write -P {} {at} {len}", r[4])]);
                    model[range].fill(r[4]);
                }
                3 => {
                    qemu_io("qcow2", &image, &[&format!("write -z {at} {len}")]);
                    model[range].fill(0);
                }
                4 | 5 => {
                    let name = format!("s{step}");
                    match editor(&image).create(&name, Duration::from_secs(5)) {
                        Ok(_) => drop(kept.insert(name, model.clone())),
                        // Two bits count to three.
                        Err(e) => assert!(e.kind() == ErrorKind::Unsupported && options.contains("bits=2"), "{what}: {e}"),
                    }
                }
                6 => {
                    if let Some(name) = some {
                        let mut e = editor(&image);
                        let index = find(e.list(), &name).unwrap();
                        match e.apply(index) {
                            Ok(()) => model.clone_from(&kept[&name]),
                            Err(e) => assert!(e.kind() == ErrorKind::Unsupported && options.contains("bits=2"), "{what}: {e}"),
                        }
                    }
                }
                _ => {
                    let gone: Vec<String> = kept.keys().filter(|k| k.len() % 2 == usize::from(r[5]) % 2).cloned().collect();
                    let mut e = editor(&image);
                    let set: BTreeSet<usize> = gone.iter().map(|k| find(e.list(), k).unwrap()).collect();
                    e.delete(&set).unwrap();
                    kept.retain(|k, _| !gone.contains(k));
                }
            }
            clean(&image, &what);
            assert!(content(&image) == model, "{what}");
            assert_eq!(names(&image).into_iter().collect::<BTreeSet<_>>(), kept.keys().cloned().collect(), "{what}");
        }
        assert!(qemu_content("qcow2", &image) == model, "{options}");
        for (name, then) in &kept {
            assert!(at_snapshot(&image, name) == *then, "{options} {name}");
        }
    }
}

/// A step to cut the power in.
type Step = (&'static str, fn(&mut Editor));

const STEPS: &[Step] = &[
    ("create", |e| drop(e.create("new", Duration::from_secs(9)).unwrap())),
    ("apply", |e| e.apply(0).unwrap()),
    ("delete", |e| e.delete(&BTreeSet::from([0, 2])).unwrap()),
    ("rename", |e| e.rename(1, "other").unwrap()),
];

fn on_device(dev: &Arc<Faulty>) -> Editor {
    Editor::open(dev.clone(), Source { dev: dev.clone(), path: "x".into(), gate: Gate::closed() }).unwrap()
}

#[test]
fn cut_power_leaves_the_old_or_the_new_state() {
    let d = memory();
    let image = d.path().join("x.qcow2");
    for options in ["compat=0.10,cluster_size=4k", "cluster_size=64k", "cluster_size=512"] {
        qemu_img(&format!("create -q -f qcow2 -o {options} {} 1M", s(&image)));
        qemu_io("qcow2", &image, &["write -P 1 0 300k"]);
        for n in 0..3 {
            qemu_img(&format!("snapshot -c s{n} {}", s(&image)));
            qemu_io("qcow2", &image, &[&format!("write -P {} {n}00k 60k", n + 5)]);
        }
        if !options.contains("0.10") {
            qemu_img(&format!("bitmap --add {} b", s(&image)));
        }
        let before = std::fs::read(&image).unwrap();
        let old = (names(&image), content(&image));
        for (step, work) in STEPS {
            let dev = Faulty::new(before.clone());
            work(&mut on_device(&dev));
            std::fs::write(&image, dev.to_vec()).unwrap();
            clean(&image, step);
            let new = (names(&image), content(&image));
            assert!(old != new, "{step}");
            let mut seen = 0;
            power_cuts(&before, &dev.record(), |state, bytes| {
                seen += 1;
                std::fs::write(&image, bytes).unwrap();
                let (code, said) = check(&image);
                assert!(code == 0 || code == 3, "{options} {step} {state}: {said}");
                let now = (names(&image), content(&image));
                assert!(now == old || now == new, "{options} {step} {state}");
            });
            assert!(seen > 5);
        }
    }
}

#[test]
fn a_failing_write_or_flush_leaves_the_image_no_worse() {
    let d = memory();
    let image = d.path().join("x.qcow2");
    qemu_img(&format!("create -q -f qcow2 -o cluster_size=4k {} 1M", s(&image)));
    qemu_io("qcow2", &image, &["write -P 1 0 300k"]);
    for n in 0..3 {
        qemu_img(&format!("snapshot -c s{n} {}", s(&image)));
        qemu_io("qcow2", &image, &[&format!("write -P {} {n}00k 60k", n + 5)]);
    }
    let before = std::fs::read(&image).unwrap();
    let old = (names(&image), content(&image));
    type Try = fn(&mut Editor) -> cowshed::engine::error::Result<()>;
    let steps: [(&str, Try); 4] = [
        ("create", |e| e.create("new", Duration::from_secs(9)).map(drop)),
        ("apply", |e| e.apply(0)),
        ("delete", |e| e.delete(&BTreeSet::from([0, 2]))),
        ("rename", |e| e.rename(1, "other")),
    ];
    for (step, work) in steps {
        let dev = Faulty::new(before.clone());
        work(&mut on_device(&dev)).unwrap();
        std::fs::write(&image, dev.to_vec()).unwrap();
        let new = (names(&image), content(&image));
        // Most failures leave the same bytes: each sort of them is looked at once.
        let mut seen: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
        let run = |dev: &Arc<Faulty>| {
            let mut e = on_device(dev);
            let done = work(&mut e);
            // An editor that failed does nothing more.
            if done.is_err() {
                dev.fail(None);
                assert!(work(&mut e).is_err(), "{step}");
            }
            done
        };
        every_failure(&before, run, |what, done, bytes| {
            let is_new = *seen.entry(bytes.to_vec()).or_insert_with(|| {
                std::fs::write(&image, bytes).unwrap();
                let (code, said) = check(&image);
                assert!(code == 0 || code == 3, "{step}: {what}: {said}");
                let now = (names(&image), content(&image));
                assert!(now == old || now == new, "{step}: {what}");
                now == new
            });
            assert!(done.is_err() || is_new, "{step}: {what}: it said that it was done");
        });
    }
}

#[test]
fn what_is_freed_is_right_to_the_byte_where_counts_need_new_blocks() {
    let d = memory();
    let image = d.path().join("x.qcow2");
    // A refcount block counts 256 clusters of 512 bytes: the sizes go over the edges of several, and of the refcount table.
    for sectors in (150..460).step_by(19) {
        qemu_img(&format!("create -q -f qcow2 -o cluster_size=512 {} 1M", s(&image)));
        qemu_io("qcow2", &image, &[&format!("write -P 1 0 {}", sectors * 512)]);
        for (n, at) in [(0, 10), (1, 20), (2, 40)] {
            editor(&image).create(&format!("s{n}"), Duration::from_secs(5)).unwrap();
            qemu_io("qcow2", &image, &[&format!("write -P {} {} {}", n + 2, at * 512, 30 * 512)]);
        }
        for set in [vec![1], vec![0, 1]] {
            let promised = cowshed::engine::ops::snapshot::freed_by(&image, &set).unwrap();
            let before = counted(&image);
            editor(&image).delete(&set.iter().copied().collect()).unwrap();
            assert_eq!(before as i64 - counted(&image) as i64, promised as i64, "{sectors} sectors, {set:?}");
        }
        clean(&image, &format!("{sectors}"));
    }
}

#[test]
fn deleting_frees_what_was_promised_and_the_host_gets_it_back() {
    use std::os::unix::fs::MetadataExt;
    let d = memory();
    let image = d.path().join("x.qcow2");
    for options in ["", "-o cluster_size=4k", "-o compat=0.10", "-o extended_l2=on"] {
        let _ = std::fs::remove_file(&image);
        sample(&image, options);
        let (before, blocks) = (counted(&image), std::fs::metadata(&image).unwrap().blocks());
        let live = content(&image);
        let promised = cowshed::engine::ops::snapshot::freed_by(&image, &[1, 3]).unwrap();
        let plan = cowshed(&["snapshot", "--dry-run", "-d", "s1", "-d", "s3", s(&image)]);
        assert!(plan.status.success() && String::from_utf8_lossy(&plan.stdout).contains("frees"), "{plan:?}");
        assert_eq!(counted(&image), before, "a plan writes nothing");
        let out = cowshed(&["snapshot", "-d", "s1", "s3", s(&image)]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        clean(&image, options);
        assert_eq!(names(&image), ["s0", "s2"]);
        assert_eq!(before - counted(&image), promised, "{options}");
        assert!(std::fs::metadata(&image).unwrap().blocks() * 512 <= blocks * 512 - promised + (1 << 20), "{options}");
        assert!(content(&image) == live);
    }
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let d = memory();
    let (image, data) = (d.path().join("x.qcow2"), d.path().join("x.data"));
    qemu_img(&format!("create -q -f qcow2 -o refcount_bits=1 {} 1M", s(&image)));
    qemu_io("qcow2", &image, &["write -P 1 0 64k"]);
    let before = std::fs::read(&image).unwrap();
    let out = cowshed(&["snapshot", "-c", "a", s(&image)]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("counts to 1"), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(std::fs::read(&image).unwrap() == before, "nothing was written");

    qemu_img(&format!("create -q -f qcow2 -o data_file={} {} 1M", s(&data), s(&image)));
    let out = cowshed(&["snapshot", "-c", "a", s(&image)]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("another file"), "{}", String::from_utf8_lossy(&out.stderr));

    qemu_img(&format!("create -q -f raw {} 1M", s(&data)));
    assert_eq!(cowshed(&["snapshot", "-c", "a", "-f", "raw", s(&data)]).status.code(), Some(1));
    assert_eq!(cowshed(&["snapshot", "-d", "a", "-f", "qcow2", s(&data)]).status.code(), Some(1));

    qemu_img(&format!("create -q -f qcow2 {} 1M", s(&image)));
    for args in [["-a", "none"], ["-d", "none"]] {
        assert_eq!(cowshed(&["snapshot", args[0], args[1], s(&image)]).status.code(), Some(1));
    }
    assert_eq!(cowshed(&["snapshot", "-c", "a", "-d", "b", s(&image)]).status.code(), Some(1));
    let held = FileDevice::open(&image).unwrap();
    let _guard = cowshed::engine::io::locks::lock(&held, cowshed::engine::io::locks::LockMode::Read).unwrap();
    let out = cowshed(&["snapshot", "-c", "a", s(&image)]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("in use"), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn other_sizes_vm_state_and_bitmaps_live_through_a_revert() {
    let d = memory();
    let image = d.path().join("x.qcow2");
    qemu_img(&format!("create -q -f qcow2 -o cluster_size=4k {} 3M", s(&image)));
    qemu_io("qcow2", &image, &["write -P 1 0 1M", "write -b -P 7 0 100k"]);
    let then = content(&image);
    assert!(cowshed(&["snapshot", "-c", "small", s(&image)]).status.success());
    qemu_img(&format!("resize -q {} 30M", s(&image)));
    qemu_io("qcow2", &image, &["write -P 2 20M 1M"]);
    qemu_img(&format!("bitmap --add -g 64k {} b", s(&image)));
    let now = content(&image);
    let out = cowshed(&["snapshot", "-a", "small", "--keep", s(&image)]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    clean(&image, "smaller");
    assert!(content(&image) == then);
    assert_eq!(names(&image), ["small", "before-small"]);
    qemu_io("qcow2", &image, &["read -b -P 7 0 100k"]);
    let info: serde_json::Value = serde_json::from_slice(&run("qemu-img", &["info", "--output=json", s(&image)]).stdout).unwrap();
    assert_eq!(info["format-specific"]["data"]["bitmaps"][0]["name"], "b");
    assert!(cowshed(&["snapshot", "-a", "before-small", s(&image)]).status.success());
    clean(&image, "larger");
    assert!(content(&image) == now);
    // Loading the bitmap for writing is what checks it.
    qemu_io("qcow2", &image, &["write -P 3 0 512"]);
    clean(&image, "bitmap loaded");
}

#[test]
fn the_command_line_is_qemu_imgs() {
    let d = memory();
    let image = d.path().join("x.qcow2");
    qemu_img(&format!("create -q -f qcow2 {} 1M", s(&image)));
    assert!(cowshed(&["snapshot", s(&image)]).stdout.is_empty());
    assert!(cowshed(&["snapshot", "-q", "-c", "one", s(&image)]).status.success());
    assert!(cowshed(&["snapshot", "-c", "two", s(&image)]).status.success());
    assert!(cowshed(&["snapshot", "--rename", "two", "zwei", s(&image)]).status.success());
    let theirs: serde_json::Value =
        serde_json::from_slice(&run("qemu-img", &["info", "--output=json", s(&image)]).stdout).unwrap();
    let ours: serde_json::Value =
        serde_json::from_slice(&cowshed(&["snapshot", "-l", "--output", "json", s(&image)]).stdout).unwrap();
    let info: serde_json::Value = serde_json::from_slice(&cowshed(&["info", "--output", "json", s(&image)]).stdout).unwrap();
    assert_eq!(ours, info["snapshots"]);
    for (mine, want) in ours.as_array().unwrap().iter().zip(theirs["snapshots"].as_array().unwrap()) {
        for (key, value) in want.as_object().unwrap() {
            assert_eq!(&mine[key], value, "{key}");
        }
    }
    assert_eq!(names(&image), ["one", "zwei"]);
    let listed = String::from_utf8_lossy(&cowshed(&["snapshot", "-l", s(&image)]).stdout).into_owned();
    assert!(listed.contains("zwei"), "{listed}");
    // Our snapshots are theirs.
    qemu_img(&format!("snapshot -a one {}", s(&image)));
    qemu_img(&format!("snapshot -d zwei {}", s(&image)));
    clean(&image, "after qemu-img");
}

#[test]
fn damage_is_refused_or_survived() {
    let d = memory();
    let image = d.path().join("x.qcow2");
    let mut specimens = Vec::new();
    for options in ["cluster_size=4k", "cluster_size=16k,extended_l2=on", "cluster_size=512,compat=0.10"] {
        qemu_img(&format!("create -q -f qcow2 -o {options} {} 1M", s(&image)));
        for n in 0..3 {
            qemu_io("qcow2", &image, &[&format!("write -P {} {n}00k 60k", n + 5)]);
            qemu_img(&format!("snapshot -c s{n} {}", s(&image)));
        }
        if !options.contains("0.10") {
            qemu_img(&format!("bitmap --add {} b", s(&image)));
        }
        specimens.push(std::fs::read(&image).unwrap());
    }
    let mut refused = 0;
    for (round, r) in noise(77, 8 * 600).chunks(8).enumerate() {
        let mut bytes = specimens[round % 3].clone();
        let span = [104, 1024, 40_000, bytes.len()][usize::from(r[0]) % 4].min(bytes.len());
        for i in 0..=usize::from(r[1]) % 3 {
            let at = (usize::from(r[2 + i]) * 256 + usize::from(r[3 + i])) * 7 % span;
            bytes[at] ^= 1 << (r[6] % 8);
        }
        let dev = Arc::new(Memory::new(bytes.clone()));
        let source = Source { dev: dev.clone(), path: image.clone(), gate: Gate::closed() };
        let Ok(mut e) = Editor::open(dev.clone(), source) else { continue };
        let some = usize::from(r[7]) % e.list().len().max(1);
        let done = match round % 4 {
            0 => e.create("x", Duration::ZERO).map(drop),
            1 => e.apply(some),
            2 => e.rename(some, "y"),
            _ => e.delete(&BTreeSet::from([0, some])),
        };
        if done.is_err() {
            refused += 1;
            // Refused before the switch: the header still says what it said.
            assert!(round % 4 == 1 || dev.to_vec()[..104] == bytes[..104], "round {round}");
        }
    }
    assert!(refused > 0, "nothing was damaged enough");
}

/// Which snapshot each came from is what was done, also after reverting, and however little is written.
#[test]
fn where_snapshots_came_from_is_seen_from_what_they_share() {
    use cowshed::engine::format::qcow2::lineage::lineage;
    let d = dir();
    for options in ["", "-o cluster_size=4k", "-o compat=0.10", "-o extended_l2=on"] {
        let image = d.path().join("x.qcow2");
        let _ = std::fs::remove_file(&image);
        qemu_img(&format!("create -q -f qcow2 {options} {} 1G", s(&image)));
        // (write, snapshot taken after it, revert to this first)
        let steps: &[(&str, &str, Option<&str>)] = &[
            ("write -P 1 0 8M", "a", None),
            ("write -P 2 1M 2M", "b", None),
            ("write -P 3 20M 1M", "c", None),
            ("write -P 4 600M 2M", "d", None),
            ("write -P 5 40M 1M", "e", Some("b")),
            ("write -P 6 41M 64k", "f", None),
            ("discard 0 1M", "g", Some("a")),
        ];
        for (write, name, from) in steps {
            if let Some(from) = from {
                qemu_img(&format!("snapshot -a {from} {}", s(&image)));
            }
            qemu_io("qcow2", &image, &[write]);
            qemu_img(&format!("snapshot -c {name} {}", s(&image)));
        }
        qemu_img(&format!("snapshot -a f {}", s(&image)));
        let source = Source { dev: Arc::new(FileDevice::open(&image).unwrap()), path: image.clone(), gate: Gate::closed() };
        let found = lineage(&source, &|| false).unwrap();
        let parents: Vec<_> = found.snapshots.iter().map(|k| k.parent).collect();
        assert_eq!(parents, [None, Some(0), Some(1), Some(2), Some(1), Some(4), Some(0)], "{options}");
        assert_eq!((found.live.parent, found.sampled), (Some(5), false), "{options}");
        assert!(found.snapshots.iter().all(|k| k.shared <= k.own && (k.parent.is_none() || k.shared > 0)), "{found:?}");
        assert_eq!(lineage(&source, &|| true).unwrap_err().kind(), ErrorKind::Cancelled);
    }
}
