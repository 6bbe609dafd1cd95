//! Amend: what `qemu-img amend` makes of an image, option by option; refusals; cut power and failing writes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cowshed::engine::format::qcow2::amend::Amendment;
use cowshed::engine::format::write::CreateSpec;
use cowshed::engine::io::fault::{Faulty, power_cuts};
use cowshed::engine::io::{Device, WriteDevice};

use crate::common::{content, cowshed, every_failure, qemu_content, qemu_img, qemu_io, run, s};

fn memory() -> tempfile::TempDir {
    let builder = || tempfile::Builder::new().prefix("cowshed-test").to_owned();
    builder().tempdir_in("/dev/shm").or_else(|_| builder().tempdir()).unwrap()
}

fn check(image: &Path) -> (i32, String) {
    let out = Command::new("qemu-img").args(["check", "-f", "qcow2", s(image)]).output().unwrap();
    (out.status.code().unwrap(), format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
}

fn clean(image: &Path, what: &str) {
    let (code, said) = check(image);
    assert_eq!(code, 0, "{what}: {said}");
}

/// What `qemu-img info` says of the format, and the virtual size.
fn info(image: &Path) -> (serde_json::Value, u64) {
    let v: serde_json::Value = serde_json::from_slice(&run("qemu-img", &["info", "--output=json", s(image)]).stdout).unwrap();
    (v["format-specific"]["data"].clone(), v["virtual-size"].as_u64().unwrap())
}

fn amend(options: &str, image: &Path) -> std::process::Output {
    cowshed(&["amend", "-o", options, s(image)])
}

fn sample(image: &Path, options: &str, snapshots: bool) {
    let _ = std::fs::remove_file(image);
    qemu_img(&format!("create -q -f qcow2 {options} {} 10M", s(image)));
    qemu_io("qcow2", image, &["write -P 1 0 1M", "write -P 2 3M 1M"]);
    if snapshots {
        qemu_img(&format!("snapshot -c one {}", s(image)));
        qemu_io("qcow2", image, &["write -P 3 512k 1M"]);
    }
    if !options.contains("0.10") {
        qemu_io("qcow2", image, &["write -z 3M 512k", "write -z 6M 1M", "write -z -u 0 128k"]);
    }
}

fn at_snapshot(image: &Path) -> Vec<u8> {
    let raw = image.with_extension("at");
    qemu_img(&format!("convert -l snapshot.name=one -O raw {} {}", s(image), s(&raw)));
    std::fs::read(raw).unwrap()
}

#[test]
fn every_option_does_what_qemu_img_does() {
    let d = memory();
    let (ours, theirs) = (d.path().join("a.qcow2"), d.path().join("b.qcow2"));
    for (before, snapshots, steps) in [
        ("", true, &["compat=0.10", "compat=1.1", "compat=v3,lazy_refcounts=on", "lazy_refcounts=off"][..]),
        ("-o compat=0.10", true, &["compat=1.1,refcount_bits=64,lazy_refcounts=on", "compat=0.10,refcount_bits=16"]),
        ("", false, &["size=20M", "size=5M,refcount_bits=32", "compat=0.10,size=6M,refcount_bits=16"]),
        ("-o cluster_size=512", true, &["refcount_bits=64", "compat=0.10,refcount_bits=16", "compat=1.1,size=3M"]),
        ("-o extended_l2=on", true, &["refcount_bits=32,lazy_refcounts=on", "size=64M"]),
    ] {
        sample(&ours, before, snapshots);
        std::fs::copy(&ours, &theirs).unwrap();
        let then = if snapshots { at_snapshot(&ours) } else { Vec::new() };
        for step in steps {
            let what = format!("{before}: {step}");
            qemu_img(&format!("amend -o {step} {}", s(&theirs)));
            let plan = cowshed(&["amend", "--dry-run", "-o", step, s(&ours)]);
            assert!(plan.status.success() && String::from_utf8_lossy(&plan.stdout).contains("step"), "{what}: {plan:?}");
            let out = amend(step, &ours);
            assert!(out.status.success(), "{what}: {}", String::from_utf8_lossy(&out.stderr));
            clean(&ours, &what);
            assert_eq!(info(&ours), info(&theirs), "{what}");
            assert!(content(&ours) == qemu_content("qcow2", &theirs), "{what}");
            // QEMU 10.0 writes zeros over clusters that a snapshot shares when it goes down to version 2: not our model here.
            // And it shows a snapshot with the size the disk has now.
            let now = if snapshots { at_snapshot(&ours) } else { Vec::new() };
            assert!(then.iter().zip(&now).all(|(a, b)| a == b), "{what}: the snapshot");
        }
        qemu_io("qcow2", &ours, &["write -P 9 0 2M"]);
        clean(&ours, before);
    }
}

/// QEMU takes a minute for these.
#[test]
fn refcounts_of_every_width_are_sound() {
    let d = memory();
    let image = d.path().join("x.qcow2");
    for create in ["-o cluster_size=4k", "-o refcount_bits=64,cluster_size=512"] {
        sample(&image, create, false);
        let before = content(&image);
        for bits in [1, 2, 4, 8, 16, 32, 64, 1, 32] {
            let out = amend(&format!("refcount_bits={bits}"), &image);
            assert!(out.status.success(), "{bits}: {}", String::from_utf8_lossy(&out.stderr));
            clean(&image, &format!("{create} {bits}"));
            assert_eq!(info(&image).0["refcount-bits"], bits);
        }
        assert!(content(&image) == before);
    }
}

#[test]
fn over_a_backing_file_zeros_stay_zeros_without_the_zero_flag() {
    let d = memory();
    let (base, image) = (d.path().join("base.raw"), d.path().join("x.qcow2"));
    std::fs::write(&base, vec![7; 10 << 20]).unwrap();
    for (zeros, count) in [("write -z 2M 64k", 1), ("write -z 1M 4M", 64)] {
        let _ = std::fs::remove_file(&image);
        qemu_img(&format!("create -q -f qcow2 -b {} -F raw {}", s(&base), s(&image)));
        qemu_io("qcow2", &image, &["write -P 1 1M 512k", zeros]);
        let before = content(&image);
        assert!(amend("compat=0.10", &image).status.success());
        clean(&image, "zeros");
        assert!(content(&image) == before && qemu_content("qcow2", &image) == before, "{count}");
        qemu_io("qcow2", &image, &["write -P 9 2M 1M", "read -P 9 2M 1M"]);
        clean(&image, "written");
        qemu_img(&format!("amend -o compat=1.1 {}", s(&image)));
    }
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_written() {
    let d = memory();
    let (image, data, raw) = (d.path().join("x.qcow2"), d.path().join("x.data"), d.path().join("x.raw"));
    sample(&image, "", true);
    qemu_img(&format!("resize -q {} 20M", s(&image)));
    let before = std::fs::read(&image).unwrap();
    for (options, word) in [
        ("compat=0.10", "snapshot"),
        ("refcount_bits=1", "count to 1"),
        ("refcount_bits=7", "power of two"),
        ("refcount_bits=128", "power of two"),
        ("compat=0.10,refcount_bits=8", "needs refcount_bits=16"),
        ("compat=0.10,lazy_refcounts=on", "needs compat"),
        ("cluster_size=4k", "no option"),
        ("backing_file=other", "rebase"),
        ("data_file=x", "data file"),
        ("compat=2", "takes one of"),
    ] {
        let out = amend(options, &image);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(1) && said.contains(word), "{options}: {said}");
        assert!(std::fs::read(&image).unwrap() == before, "{options}");
    }
    qemu_img(&format!("create -q -f qcow2 -o data_file={} {} 1M", s(&data), s(&image)));
    assert_eq!(amend("compat=0.10", &image).status.code(), Some(1));
    assert!(amend("refcount_bits=32", &image).status.success());
    clean(&image, "data file");
    qemu_img(&format!("create -q -f qcow2 {} 1M", s(&image)));
    qemu_img(&format!("bitmap --add {} b", s(&image)));
    let out = amend("compat=0.10", &image);
    assert!(String::from_utf8_lossy(&out.stderr).contains("bitmap"), "{out:?}");
    std::fs::write(&raw, [0; 512]).unwrap();
    assert_eq!(amend("size=1M", &raw).status.code(), Some(1));
    assert_eq!(cowshed(&["amend", s(&image)]).status.code(), Some(1));
    let help = cowshed(&["amend", "-o", "help", s(&image)]);
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("lazy_refcounts"));
}

fn apply(dev: &Arc<Faulty>, options: &[(&str, &str)]) -> cowshed::engine::error::Result<()> {
    let device: WriteDevice = dev.clone();
    let reader: Device = dev.clone();
    let options = options.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect();
    Amendment::new(&reader, &CreateSpec { options, ..CreateSpec::default() })?.apply(&device, &|_, _| Ok(()))
}

/// What an image is: its options, and what it shows. Nothing may be wrong with it, by our check, and now and then by QEMU's.
fn state(image: &Path, turn: u64) -> ((Vec<u8>, u32), Vec<u8>) {
    let bytes = std::fs::read(image).unwrap();
    let (_, report) = cowshed::engine::ops::check::check(image, None, None).unwrap_or_else(|e| panic!("{e}"));
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    if turn.is_multiple_of(6) {
        clean(image, "now and then");
    }
    let version = u32::from_be_bytes(bytes[4..8].try_into().unwrap());
    let fields = if version > 2 { bytes[72..104].to_vec() } else { Vec::new() };
    ((fields, version), content(image))
}

const CHANGES: &[(&str, &[(&str, &str)])] = &[
    ("", &[("compat", "0.10")]),
    ("", &[("refcount_bits", "64"), ("lazy_refcounts", "on")]),
    ("-o compat=0.10,cluster_size=4k", &[("compat", "1.1"), ("refcount_bits", "8")]),
    ("-o compat=0.10", &[("compat", "1.1")]),
    ("-o cluster_size=512", &[("compat", "0.10")]),
];

#[test]
fn cut_power_leaves_the_old_or_the_new_options() {
    let d = memory();
    let image = d.path().join("x.qcow2");
    for (create, options) in CHANGES {
        sample(&image, create, true);
        let before = std::fs::read(&image).unwrap();
        let old = state(&image, 0);
        let dev = Faulty::new(before.clone());
        apply(&dev, options).unwrap();
        std::fs::write(&image, dev.to_vec()).unwrap();
        let new = state(&image, 0);
        assert!(new.0 != old.0 && new.1 == old.1, "{options:?}");
        let mut turn = 0;
        power_cuts(&before, &dev.record(), |what, bytes| {
            turn += 1;
            std::fs::write(&image, bytes).unwrap();
            let now = state(&image, turn);
            assert!(now == old || now == new, "{create} {options:?} {what}");
        });
    }
}

#[test]
fn a_failing_write_leaves_the_old_or_the_new_options() {
    let d = memory();
    let image = d.path().join("x.qcow2");
    for (create, options) in CHANGES.iter().take(3) {
        sample(&image, create, true);
        let before = std::fs::read(&image).unwrap();
        let old = state(&image, 0);
        let dev = Faulty::new(before.clone());
        dev.fail(None);
        apply(&dev, options).unwrap();
        std::fs::write(&image, dev.to_vec()).unwrap();
        let new = state(&image, 0);
        let mut seen: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
        every_failure(
            &before,
            |dev| apply(dev, options),
            |what, done, bytes| {
                let turn = seen.len() as u64;
                let is_new = *seen.entry(bytes.to_vec()).or_insert_with(|| {
                    std::fs::write(&image, bytes).unwrap();
                    let now = state(&image, turn);
                    assert!(now == old || now == new, "{options:?}: {what}");
                    now == new
                });
                assert!(done.is_err() || is_new, "{options:?}: {what}");
            },
        );
    }
}
