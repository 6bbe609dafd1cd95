//! `commit`, `rebase`, `flatten`: content against qemu-img doing the same, siblings named, and the flags people type.

use std::path::Path;

use crate::common::{content, cowshed_in, create, dir, noise, qemu_content, qemu_img, qemu_io, run, s, text};
use cowshed::engine::format::Format;

fn ok(cwd: &Path, args: &[&str]) -> String {
    let out = cowshed_in(cwd, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn fails(cwd: &Path, args: &[&str], words: &[&str]) {
    let out = cowshed_in(cwd, args);
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{args:?}: {told}");
    assert!(words.iter().all(|w| told.contains(w)), "{args:?}: {told}");
}

/// Three layers: base.raw, mid.qcow2, top.qcow2, of the sizes given, with data, zeros and discarded ranges in each.
fn three(cwd: &Path, sizes: [&str; 3], options: &str) {
    let bytes = |size: &str| size.trim_end_matches('k').parse::<usize>().unwrap() << 10;
    std::fs::write(cwd.join("base.raw"), text(1, bytes(sizes[0]))).unwrap();
    let in_dir = |args: &[&str]| {
        let out = std::process::Command::new("qemu-img").args(args).current_dir(cwd).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    let with = |more: &str| if options.is_empty() { more.to_string() } else { format!("{options},{more}") };
    in_dir(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        &with("cluster_size=16k"),
        "-b",
        "base.raw",
        "-F",
        "raw",
        "mid.qcow2",
        sizes[1],
    ]);
    qemu_io("qcow2", &cwd.join("mid.qcow2"), &["write -P 5 100k 50k", "write -z 200k 64k", "write -P 6 300k 1k"]);
    in_dir(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        &with("cluster_size=64k"),
        "-b",
        "mid.qcow2",
        "-F",
        "qcow2",
        "top.qcow2",
        sizes[2],
    ]);
    qemu_io("qcow2", &cwd.join("top.qcow2"), &["write -P 7 0 10k", "write -z 128k 64k", "write -P 8 400k 30k"]);
}

#[test]
fn a_commit_does_what_qemu_img_does() {
    for sizes in [["1024k", "1024k", "1024k"], ["512k", "768k", "1024k"], ["1024k", "448k", "768k"], ["1024k", "768k", "512k"]] {
        for (args, options) in
            [(&[][..], ""), (&["-d"][..], "compat=0.10"), (&["-b", "base.raw"][..], ""), (&[][..], "extended_l2=on")]
        {
            let (ours, theirs) = (dir(), dir());
            for d in [ours.path(), theirs.path()] {
                three(d, sizes, options);
            }
            let want = qemu_content("qcow2", &ours.path().join("top.qcow2"));
            // Both are named relative to the chain's folder.
            let command = [&["commit"], args, &["top.qcow2"]].concat();
            assert_eq!(ok(ours.path(), &command), "Image committed.\n");
            let out = std::process::Command::new("qemu-img").args(&command).current_dir(theirs.path()).output().unwrap();
            let what = format!("{sizes:?} {args:?} {options}");
            // It cannot make a version 2 image longer that stands on a longer one.
            let refused = options == "compat=0.10" && !out.status.success();
            assert!(out.status.success() || refused, "{what}: {}", String::from_utf8_lossy(&out.stderr));
            for (name, format) in [("base.raw", "raw"), ("mid.qcow2", "qcow2"), ("top.qcow2", "qcow2")] {
                let (a, b) = (ours.path().join(name), theirs.path().join(name));
                let (a, b) = (qemu_content(format, &a), qemu_content(format, &b));
                assert!(a == b || refused, "{what}: {name} differs, {} and {} bytes", a.len(), b.len());
                if format == "qcow2" {
                    run("qemu-img", &["check", "-q", s(&ours.path().join(name))]);
                }
            }
            assert!(qemu_content("qcow2", &ours.path().join("top.qcow2")) == want, "{what}");
            assert!(content(&ours.path().join("top.qcow2")) == want, "{what}");
            // Emptied as theirs is: what is left maps to the layers below.
            let depth = |d: &Path| qemu_img(&format!("map --output=json {}", s(&d.join("top.qcow2")))).contains("\"depth\": 0");
            assert_eq!(depth(ours.path()), depth(theirs.path()), "{what}");
        }
    }
}

#[test]
fn a_commit_goes_into_every_format_that_can_be_written() {
    let dir = dir();
    let cwd = dir.path();
    let plain = noise(3, 3 << 20);
    for (format, driver) in
        [(Format::Qcow2, "qcow2"), (Format::Vmdk, "vmdk"), (Format::Vdi, "vdi"), (Format::Vhd, "vpc"), (Format::Vhdx, "vhdx")]
    {
        let base = cwd.join(format!("base.{format}"));
        let w = create(format, &base, 3 << 20, &[], None);
        w.write(0, &plain).unwrap();
        w.finish().unwrap();
        drop(w);
        let top = cwd.join(format!("top-{format}.qcow2"));
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", s(&base), "-F", driver, s(&top), "5M"]);
        qemu_io("qcow2", &top, &["write -P 9 1000k 2100k", "write -z 512k 64k", "write -P 3 4M 100k"]);
        let want = content(&top);
        ok(cwd, &["commit", s(&top)]);
        assert!(content(&top) == want && content(&base) == want, "{format}");
        assert!(qemu_content(driver, &base) == want, "{format} as QEMU reads it");
    }
    // Children of their own kind: identities stay, so that the chain holds together.
    for format in [Format::Vmdk, Format::Vdi, Format::Vhd, Format::Vhdx, Format::Qcow, Format::Cow] {
        let base = cwd.join(format!("parent.{format}"));
        let parent = if matches!(format, Format::Qcow | Format::Cow) { Format::Raw } else { format };
        let w = create(parent, &base, 3 << 20, &[], None);
        w.write(0, &plain).unwrap();
        w.finish().unwrap();
        drop(w);
        let top = cwd.join(format!("child.{format}"));
        let w = create(format, &top, 3 << 20, &[], Some(&base));
        w.write(70_000, &noise(9, 200_000)).unwrap();
        w.write_zeroes(1 << 20, 300_000).unwrap();
        w.finish().unwrap();
        drop(w);
        let (want, before) = (content(&top), std::fs::metadata(&top).unwrap());
        ok(cwd, &["commit", s(&top)]);
        assert!(content(&top) == want && content(&base) == want, "{format}");
        use std::os::unix::fs::MetadataExt;
        assert!(std::fs::metadata(&top).unwrap().blocks() < before.blocks(), "{format} takes as much as before");
    }
}

#[test]
fn those_who_would_see_a_change_are_named() {
    let dir = dir();
    let cwd = dir.path();
    three(cwd, ["1024k", "1024k", "1024k"], "");
    std::fs::create_dir(cwd.join("sub")).unwrap();
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "../base.raw", "-F", "raw", s(&cwd.join("sub/sibling.qcow2"))]);
    let before = std::fs::read(cwd.join("base.raw")).unwrap();
    fails(cwd, &["commit", "mid.qcow2"], &["sibling.qcow2", "--force"]);
    fails(cwd, &["commit", "-b", "base.raw", "top.qcow2"], &["sibling.qcow2"]);
    fails(cwd, &["commit", "--dry-run", "mid.qcow2"], &["sibling.qcow2"]);
    assert!(std::fs::read(cwd.join("base.raw")).unwrap() == before);
    // mid is no sibling of top's, and top stands on mid, which goes on showing the same.
    let want = content(&cwd.join("top.qcow2"));
    ok(cwd, &["commit", "top.qcow2"]);
    ok(cwd, &["commit", "--force", "mid.qcow2"]);
    assert!(content(&cwd.join("top.qcow2")) == want && std::fs::read(cwd.join("base.raw")).unwrap() == want);
    fails(cwd, &["commit", "base.raw"], &["stands on nothing"]);
    fails(cwd, &["commit", "-b", "gone", "top.qcow2"], &["gone is not in its chain", "mid.qcow2"]);
    // Snapshots read through as well.
    qemu_io("qcow2", &cwd.join("top.qcow2"), &["write -P 1 0 64k"]);
    run("qemu-img", &["snapshot", "-c", "s", s(&cwd.join("top.qcow2"))]);
    fails(cwd, &["commit", "top.qcow2"], &["snapshot"]);
}

#[test]
fn the_plan_tells_and_writes_nothing() {
    let dir = dir();
    let cwd = dir.path();
    three(cwd, ["512k", "768k", "1024k"], "");
    let before: Vec<_> = ["base.raw", "mid.qcow2", "top.qcow2"].map(|n| std::fs::read(cwd.join(n)).unwrap()).to_vec();
    let told = ok(cwd, &["commit", "--dry-run", "top.qcow2"]);
    assert!(told.contains("grows from 786432 bytes to 1048576") && told.contains("is emptied"), "{told}");
    let told = ok(cwd, &["rebase", "--dry-run", "-b", "base.raw", "-F", "raw", "top.qcow2"]);
    assert!(told.contains("the old chain") && told.contains("the new chain"), "{told}");
    let told = ok(cwd, &["flatten", "--dry-run", "top.qcow2"]);
    assert!(told.contains("stand alone"), "{told}");
    assert!(before == ["base.raw", "mid.qcow2", "top.qcow2"].map(|n| std::fs::read(cwd.join(n)).unwrap()));
}

#[test]
fn a_rebase_does_what_qemu_img_does() {
    for sizes in [["1024k", "1024k", "1024k"], ["512k", "768k", "1024k"], ["1024k", "448k", "768k"]] {
        for args in [
            &["-b", "base.raw", "-F", "raw"][..],
            &["-b", "other.qcow2", "-F", "qcow2"],
            &["-b", ""],
            &["-c", "-b", "base.raw", "-F", "raw"],
            &["-u", "-b", "other.qcow2", "-F", "qcow2"],
            &["-u", "-b", "gone.qcow2", "-F", "qcow2"],
        ] {
            let (ours, theirs) = (dir(), dir());
            for d in [ours.path(), theirs.path()] {
                three(d, sizes, "");
                std::fs::write(d.join("other.raw"), text(9, 1536 << 10)).unwrap();
                run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", s(&d.join("other.raw")), s(&d.join("other.qcow2"))]);
            }
            let want = qemu_content("qcow2", &ours.path().join("top.qcow2"));
            let command = [&["rebase", "-f", "qcow2"], args, &["top.qcow2"]].concat();
            ok(ours.path(), &command);
            let out = std::process::Command::new("qemu-img").args(&command).current_dir(theirs.path()).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            let what = format!("{sizes:?} {args:?}");
            let info = |d: &Path| {
                let text = qemu_img(&format!("info --output=json {}", s(&d.join("top.qcow2"))));
                let v: serde_json::Value = serde_json::from_str(&text).unwrap();
                (v["backing-filename"].clone(), v["backing-filename-format"].clone())
            };
            assert_eq!(info(ours.path()), info(theirs.path()), "{what}");
            if args.contains(&"gone.qcow2") {
                continue;
            }
            run("qemu-img", &["check", "-q", s(&ours.path().join("top.qcow2"))]);
            let (a, b) = (ours.path().join("top.qcow2"), theirs.path().join("top.qcow2"));
            assert!(qemu_content("qcow2", &a) == qemu_content("qcow2", &b), "{what}");
            if !args.contains(&"-u") {
                assert!(qemu_content("qcow2", &a) == want && content(&a) == want, "{what}");
            }
        }
    }
}

#[test]
fn every_format_that_stands_on_another_can_be_rebased_and_flattened() {
    let dir = dir();
    let cwd = dir.path();
    let (one, two) = (noise(3, 3 << 20), text(4, 4 << 20));
    for format in [Format::Vmdk, Format::Vdi, Format::Vhd, Format::Vhdx, Format::Qcow, Format::Cow, Format::Qcow2] {
        let parent = if matches!(format, Format::Qcow | Format::Cow | Format::Qcow2) { Format::Raw } else { format };
        let bases = [("a", &one), ("b", &two)].map(|(n, bytes)| {
            std::fs::create_dir_all(cwd.join(n)).unwrap();
            let path = cwd.join(format!("{n}/base.{format}"));
            let w = create(parent, &path, bytes.len() as u64, &[], None);
            w.write(0, bytes).unwrap();
            w.finish().unwrap();
            path
        });
        let top = cwd.join(format!("top.{format}"));
        let base = cwd.join(format!("beside.{format}"));
        std::fs::copy(&bases[0], &base).unwrap();
        let w = create(format, &top, 4 << 20, &[], Some(&base));
        w.write(70_000, &noise(9, 200_000)).unwrap();
        w.write_zeroes(1 << 20, 300_000).unwrap();
        w.finish().unwrap();
        drop(w);
        let want = content(&top);
        let to = format!("b/base.{format}");
        if format != Format::Vdi {
            // A VDI's parent has no name: it is looked for beside it.
            ok(cwd, &["rebase", "-b", &to, "-F", parent.name(), s(&top)]);
            std::fs::remove_file(&base).unwrap();
            assert!(content(&top) == want, "{format} rebased");
        }
        ok(cwd, &["flatten", s(&top)]);
        std::fs::remove_dir_all(cwd.join("b")).unwrap();
        assert!(content(&top) == want, "{format} flattened");
        let driver = format.driver();
        if format != Format::Cow {
            assert!(qemu_content(driver, &top) == want, "{format} flattened, as QEMU reads it");
        }
        fails(cwd, &["flatten", s(&top)], &["stands on nothing"]);
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let dir = dir();
    let cwd = dir.path();
    three(cwd, ["1024k", "1024k", "1024k"], "");
    let before = std::fs::read(cwd.join("top.qcow2")).unwrap();
    fails(cwd, &["rebase", "-b", "top.qcow2", "-F", "qcow2", "top.qcow2"], &["itself"]);
    fails(cwd, &["rebase", "-b", "top.qcow2", "-F", "qcow2", "mid.qcow2"], &["itself"]);
    fails(cwd, &["rebase", "-b", "base.raw", "top.qcow2"], &["-F raw"]);
    fails(cwd, &["rebase", "-b", "gone", "-F", "raw", "top.qcow2"], &["gone"]);
    fails(cwd, &["rebase", "-b", "mid.qcow2", "-F", "qcow2", "base.raw"], &["cannot stand on another"]);
    fails(cwd, &["flatten", "base.raw"], &["stands on nothing"]);
    assert!(std::fs::read(cwd.join("top.qcow2")).unwrap() == before);
    run("qemu-img", &["snapshot", "-c", "s", s(&cwd.join("top.qcow2"))]);
    fails(cwd, &["flatten", "top.qcow2"], &["snapshot", "--force"]);
}

#[test]
fn an_image_without_a_base_can_be_given_one() {
    let dir = dir();
    let cwd = dir.path();
    std::fs::write(cwd.join("base.raw"), text(1, 2 << 20)).unwrap();
    run("qemu-img", &["create", "-q", "-f", "qcow2", s(&cwd.join("a.qcow2")), "1M"]);
    qemu_io("qcow2", &cwd.join("a.qcow2"), &["write -P 7 100k 10k"]);
    let want = content(&cwd.join("a.qcow2"));
    ok(cwd, &["rebase", "-b", "base.raw", "-F", "raw", "a.qcow2"]);
    assert!(qemu_content("qcow2", &cwd.join("a.qcow2")) == want);
    run("qemu-img", &["check", "-q", s(&cwd.join("a.qcow2"))]);
}
