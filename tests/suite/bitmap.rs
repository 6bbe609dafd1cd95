//! Dirty bitmaps: the same steps by `qemu-img bitmap` and by us must leave the same bitmaps, bit by bit as a server shows them; and
//! cut power and failing writes leave the old or the new ones.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cowshed::engine::format::Source;
use cowshed::engine::format::qcow2::edit::{Editor, Step};
use cowshed::engine::io::fault::{Faulty, power_cuts};
use cowshed::engine::io::gate::Gate;

use crate::common::{content, cowshed, every_failure, qemu_img, qemu_io, run, s};

fn memory() -> tempfile::TempDir {
    let builder = || tempfile::Builder::new().prefix("cowshed-test").to_owned();
    builder().tempdir_in("/dev/shm").or_else(|_| builder().tempdir()).unwrap()
}

fn clean(image: &Path, what: &str) {
    let out = Command::new("qemu-img").args(["check", "-f", "qcow2", s(image)]).output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{what}: {out:?}");
}

/// Name, flags and granularity of each bitmap, as `qemu-img info` says.
fn listed(image: &Path) -> serde_json::Value {
    let v: serde_json::Value = serde_json::from_slice(&run("qemu-img", &["info", "--output=json", s(image)]).stdout).unwrap();
    v["format-specific"]["data"]["bitmaps"].clone()
}

/// The dirty ranges of bitmap `name`, as a server of QEMU's exports them.
fn dirty(image: &Path, name: &str) -> String {
    let socket = image.with_extension("sock");
    let _ = std::fs::remove_file(&socket);
    let mut server = Command::new("qemu-nbd")
        .args(["-r", "-f", "qcow2", "-x", "", "-B", name, "-k", s(&socket), s(image)])
        .spawn()
        .expect("qemu-nbd: tests/run installs it");
    for _ in 0..500 {
        if socket.exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let options = format!("driver=nbd,server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:{name}", s(&socket));
    let out = run("qemu-img", &["map", "--output=json", "--image-opts", &options]);
    let _ = server.wait();
    let list: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let set = list.as_array().unwrap().iter().filter(|r| r["data"] == false);
    set.map(|r| format!("{}+{} ", r["start"], r["length"])).collect()
}

fn sample(image: &Path, options: &str) {
    let _ = std::fs::remove_file(image);
    qemu_img(&format!("create -q -f qcow2 {options} {} 100M", s(image)));
    qemu_img(&format!("bitmap --add -g 4k {} fine", s(image)));
    qemu_img(&format!("bitmap --add -g 1M {} coarse", s(image)));
    qemu_io("qcow2", image, &["write -P 1 5M 100k", "write -P 2 50M 3M"]);
    qemu_img(&format!("bitmap --disable {} fine", s(image)));
    qemu_io("qcow2", image, &["write -P 3 70M 64k"]);
}

#[test]
fn the_same_steps_leave_the_same_bitmaps() {
    let d = memory();
    let (ours, theirs, other) = (d.path().join("a.qcow2"), d.path().join("b.qcow2"), d.path().join("o.qcow2"));
    for options in ["", "-o cluster_size=512"] {
        sample(&ours, options);
        std::fs::copy(&ours, &theirs).unwrap();
        qemu_img(&format!("create -q -f qcow2 -o cluster_size=4k {} 100M", s(&other)));
        qemu_img(&format!("bitmap --add -g 64k {} there", s(&other)));
        qemu_io("qcow2", &other, &["write -P 1 90M 200k", "write 99M 1M"]);
        let from = format!("-b {} -F qcow2 --merge there @ fine", s(&other));
        for step in [
            "--add @ new",
            "--add -g 512 --disable @ tiny",
            "--merge fine @ coarse",
            "--merge coarse @ fine",
            "--merge coarse --merge fine @ tiny",
            &from,
            "--enable @ fine",
            "--clear @ coarse",
            "--remove @ new",
            "--add --merge tiny --disable @ all",
            "--add --remove @ nothing",
            "--remove @ tiny",
        ] {
            let line = |image: &Path| format!("bitmap {}", step.replace('@', s(image)));
            qemu_img(&line(&theirs));
            let words = line(&ours);
            let out = cowshed(&words.split(' ').collect::<Vec<_>>());
            assert!(out.status.success(), "{options} {step}: {}", String::from_utf8_lossy(&out.stderr));
            clean(&ours, step);
            assert_eq!(listed(&ours), listed(&theirs), "{options} {step}");
        }
        for name in ["fine", "coarse", "all"] {
            assert_eq!(dirty(&ours, name), dirty(&theirs, name), "{options} {name}");
            assert!(!dirty(&ours, "fine").is_empty(), "{options}");
        }
        // QEMU goes on recording in ours.
        qemu_io("qcow2", &ours, &["write -P 9 20M 1M"]);
        assert!(dirty(&ours, "fine").contains("20971520+"), "{}", dirty(&ours, "fine"));
        for name in ["fine", "coarse", "all"] {
            assert!(cowshed(&["bitmap", "--remove", s(&ours), name]).status.success());
        }
        clean(&ours, options);
        assert!(listed(&ours).is_null());
    }
}

#[test]
fn what_cannot_be_is_refused_as_qemu_img_does() {
    let d = memory();
    let (image, old, other) = (d.path().join("a.qcow2"), d.path().join("b.qcow2"), d.path().join("c.qcow2"));
    sample(&image, "");
    qemu_img(&format!("create -q -f qcow2 -o compat=0.10 {} 1M", s(&old)));
    qemu_img(&format!("create -q -f qcow2 {} 1M", s(&other)));
    qemu_img(&format!("bitmap --add {} x", s(&other)));
    let before = std::fs::read(&image).unwrap();
    for args in [
        vec!["--add", s(&image), "fine"],
        vec!["--add", "-g", "1000", s(&image), "n"],
        vec!["--add", "-g", "256", s(&image), "n"],
        vec!["--add", "-g", "4G", s(&image), "n"],
        vec!["--clear", s(&image), "none"],
        vec!["--merge", "none", s(&image), "fine"],
        vec!["--merge", "x", "-b", s(&other), s(&image), "fine"],
        vec!["-g", "4k", "--clear", s(&image), "fine"],
        vec!["-b", s(&other), "--clear", s(&image), "fine"],
        vec![s(&image), "fine"],
        vec!["--add", s(&old), "n"],
        vec!["--add", "--merge", "none", s(&image), "n"],
    ] {
        let theirs = Command::new("qemu-img").arg("bitmap").args(&args).output().unwrap();
        let ours = cowshed(&[&["bitmap"], &args[..]].concat());
        assert_eq!((ours.status.code(), theirs.status.code()), (Some(1), Some(1)), "{args:?}: {ours:?}");
        if args.contains(&"--merge") && args.contains(&"--add") {
            // qemu-img has added it by then; we do all or nothing.
            std::fs::write(&image, &before).unwrap();
        }
        assert_eq!(listed(&image).as_array().unwrap().len(), 2, "{args:?}");
    }
    let plan = cowshed(&["bitmap", "--dry-run", "--clear", s(&image), "fine"]);
    assert!(plan.status.success() && String::from_utf8_lossy(&plan.stdout).contains("not possible"), "{plan:?}");
}

/// The bitmaps of an image, the name of its backing file, and its disk where it stands alone. Nothing may be wrong with it, by our
/// check, and now and then by QEMU's.
fn state(image: &Path, turn: u64) -> (serde_json::Value, serde_json::Value, Vec<u8>) {
    let (_, report) = cowshed::engine::ops::check::check(image, None, None).unwrap_or_else(|e| panic!("{e}"));
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let out = cowshed(&["info", "--output=json", s(image)]);
    let v: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e} {out:?}"));
    let backing = v["backing-filename"].clone();
    if turn.is_multiple_of(6) && backing.is_null() {
        clean(image, "now and then");
    }
    let disk = if backing.is_null() { content(image) } else { Vec::new() };
    (v["format-specific"]["data"]["bitmaps"].clone(), backing, disk)
}

fn editor(dev: &Arc<Faulty>) -> Editor {
    Editor::open_any(dev.clone(), Source { dev: dev.clone(), path: "x".into(), gate: Gate::closed() }).unwrap()
}

fn small(image: &Path, backing: &str) {
    let _ = std::fs::remove_file(image);
    qemu_img(&format!("create -q -f qcow2 -u {backing} {} 1M", s(image)));
    qemu_img(&format!("bitmap --add -g 4k {} one", s(image)));
    if backing.is_empty() {
        qemu_io("qcow2", image, &["write -P 1 0 300k"]);
    }
}

fn steps() -> Vec<(&'static str, Vec<Step>)> {
    vec![
        ("two", vec![Step::Add(Some(512)), Step::Merge("one".into())]),
        ("one", vec![Step::Clear, Step::Record(false)]),
        ("one", vec![Step::Remove]),
    ]
}

#[test]
fn cut_power_leaves_the_old_or_the_new_bitmaps() {
    let d = memory();
    let image = d.path().join("x.qcow2");
    let long = format!("-b /{} -F raw", "n".repeat(500));
    for backing in ["", &long] {
        for (name, steps) in steps() {
            small(&image, backing);
            let before = std::fs::read(&image).unwrap();
            let old = state(&image, 0);
            let dev = Faulty::new(before.clone());
            editor(&dev).change_bitmap(name, &steps).unwrap();
            std::fs::write(&image, dev.to_vec()).unwrap();
            let new = state(&image, 0);
            assert!(old != new, "{name} {steps:?}");
            let mut turn = 0;
            power_cuts(&before, &dev.record(), |what, bytes| {
                turn += 1;
                std::fs::write(&image, bytes).unwrap();
                let now = state(&image, turn);
                assert!(now == old || now == new, "{name} {what}: {:?} {:?}", now.0, now.1);
            });
        }
    }
}

#[test]
fn a_failing_write_leaves_the_old_or_the_new_bitmaps() {
    let d = memory();
    let image = d.path().join("x.qcow2");
    for (name, steps) in steps() {
        small(&image, "");
        let before = std::fs::read(&image).unwrap();
        let old = state(&image, 0);
        let dev = Faulty::new(before.clone());
        let mut e = editor(&dev);
        dev.fail(None);
        e.change_bitmap(name, &steps).unwrap();
        std::fs::write(&image, dev.to_vec()).unwrap();
        let new = state(&image, 0);
        // Most failures leave the same bytes: each sort of them is looked at once.
        let mut seen: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
        every_failure(
            &before,
            |dev| editor(dev).change_bitmap(name, &steps),
            |what, done, bytes| {
                let turn = seen.len() as u64;
                let is_new = *seen.entry(bytes.to_vec()).or_insert_with(|| {
                    std::fs::write(&image, bytes).unwrap();
                    let now = state(&image, turn);
                    assert!(now == old || now == new, "{name}: {what}");
                    now == new
                });
                assert!(done.is_err() || is_new, "{name}: {what}");
            },
        );
    }
}

#[test]
fn a_plan_already_knows_what_would_be_refused_and_writes_nothing() {
    let dir = memory();
    let image = dir.path().join("a.qcow2");
    sample(&image, "");
    let before = std::fs::read(&image).unwrap();
    let dry = |args: &[&str]| {
        let out = cowshed(&[&["bitmap", "--dry-run"], args].concat());
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let path = s(&image);
    for (args, why) in [
        (&["--remove", path, "none"][..], "no bitmap 'none'"),
        (&["--add", path, "fine"][..], "already"),
        (&["--merge", "none", path, "fine"][..], "no bitmap 'none'"),
        (&["--add", "-g", "3000", path, "new"][..], "power of two"),
    ] {
        let (ok, told) = dry(args);
        assert!(!ok && told.contains(why), "{args:?}: {told}");
    }
    for args in [&["--add", path, "new"][..], &["--merge", "coarse", path, "fine"], &["--remove", path, "fine"]] {
        let (ok, told) = dry(args);
        assert!(ok, "{args:?}: {told}");
    }
    assert!(std::fs::read(&image).unwrap() == before, "a plan wrote");
}
