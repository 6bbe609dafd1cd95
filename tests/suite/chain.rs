//! Chains: what a disk over several images shows, and what happens when a chain loops, breaks, is too deep or leads outside.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use cowshed::engine::chain::{Chain, OpenOptions, ParentFinder};
use cowshed::engine::error::ErrorKind;
use cowshed::engine::io::ReadAt;
use cowshed::engine::io::gate::Gate;
use cowshed::engine::model::{BackingRef, Kind};
use serde_json::Value;

use crate::common::{cowshed_in, dir, noise, qemu_io, run, s, text};

fn qemu(cwd: &Path, args: &[&str]) {
    let out = Command::new("qemu-img").args(args).current_dir(cwd).output().expect("qemu-img is installed by tests/run");
    assert!(out.status.success(), "qemu-img {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn open(path: &Path) -> Chain {
    Chain::open(path, &OpenOptions::default()).unwrap()
}

/// What a guest sees, read in pieces of an odd size.
fn content(path: &Path) -> Vec<u8> {
    let disk = open(path).disk().unwrap();
    let mut out = vec![0; disk.len() as usize];
    for (i, piece) in out.chunks_mut(77_777).enumerate() {
        disk.read_at(i as u64 * 77_777, piece).unwrap();
    }
    out
}

fn as_qemu_reads(path: &Path, format: &str) -> Vec<u8> {
    let raw = path.with_extension("oracle");
    run("qemu-img", &["convert", "-f", format, "-O", "raw", s(path), s(&raw)]);
    std::fs::read(raw).unwrap()
}

fn broken(path: &Path) -> (ErrorKind, usize) {
    let chain = open(path);
    let kind = chain.error().expect("the chain is broken").kind();
    assert_eq!(chain.disk().err().unwrap().kind(), kind);
    (kind, chain.layers.len())
}

#[test]
fn every_format_can_be_the_base() {
    let dir = dir();
    let cwd = dir.path();
    let bytes = [text(1, 400_000 / 512 * 512), vec![0; 1 << 20], noise(2, 1 << 18)].concat();
    std::fs::write(cwd.join("base.raw"), &bytes).unwrap();
    let bases = [
        ("raw", ""),
        ("qcow2", "cluster_size=4k"),
        ("qcow", ""),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=twoGbMaxExtentFlat"),
        ("vdi", ""),
        ("vpc", "force_size=on"),
        ("vpc", "subformat=fixed,force_size=on"),
        ("vhdx", ""),
    ];
    for (n, (format, options)) in bases.iter().enumerate() {
        let base = format!("base{n}.{format}");
        let options: &[&str] = if options.is_empty() { &[] } else { &["-o", options] };
        qemu(cwd, &[&["convert", "-O", format], options, &["base.raw", &base]].concat());
        // A second layer of the same cluster size, and a third of another, longer than what it stands on.
        let (middle, top) = (format!("middle{n}.qcow2"), format!("top{n}.qcow2"));
        qemu(cwd, &["create", "-q", "-f", "qcow2", "-b", &base, "-F", format, &middle]);
        qemu_io("qcow2", &cwd.join(&middle), &["write -P 3 64k 100k", "write -z 300k 64k"]);
        qemu(cwd, &["create", "-q", "-f", "qcow2", "-o", "cluster_size=1k", "-b", &middle, "-F", "qcow2", &top, "3M"]);
        qemu_io("qcow2", &cwd.join(&top), &["write -P 4 100k 3k", "write -z 1M 10k", "write -P 5 2900k 5k"]);
        let top = cwd.join(top);
        assert!(content(&top) == as_qemu_reads(&top, "qcow2"), "{format}");
        assert_eq!(open(&top).nodes.len(), 3);
    }
}

#[test]
fn overlays_shorter_and_longer_than_their_base() {
    let dir = dir();
    let cwd = dir.path();
    std::fs::write(cwd.join("base.raw"), noise(1, 1 << 20)).unwrap();
    qemu(cwd, &["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "short.qcow2", "300k"]);
    qemu(cwd, &["create", "-q", "-f", "qcow2", "-b", "short.qcow2", "-F", "qcow2", "long.qcow2", "2M"]);
    for name in ["short.qcow2", "long.qcow2"] {
        let path = cwd.join(name);
        assert!(content(&path) == as_qemu_reads(&path, "qcow2"), "{name}");
    }
    // Past the short layer nothing of the base may be seen again.
    let disk = open(&cwd.join("long.qcow2")).disk().unwrap();
    let past = disk.extent(300 << 10, u64::MAX).unwrap();
    assert_eq!((past.kind, past.depth, past.len), (Kind::Unallocated, 0, (2 << 20) - (300 << 10)));
}

#[test]
fn names_are_followed_as_qemu_follows_them() {
    let dir = dir();
    let cwd = dir.path();
    std::fs::create_dir_all(cwd.join("sub/deep")).unwrap();
    std::fs::write(cwd.join("sub/base.raw"), noise(1, 65536)).unwrap();
    std::fs::write(cwd.join("sub/a:b.raw"), noise(2, 65536)).unwrap();
    let absolute = cwd.join("sub/base.raw").display().to_string();
    let file = format!("file:{absolute}");
    for (n, name) in ["base.raw", "./base.raw", "deep/../base.raw", &absolute, &file, "./a:b.raw"].iter().enumerate() {
        let top = cwd.join(format!("sub/top{n}.qcow2"));
        qemu(cwd, &["create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "raw", s(&top), "64k"]);
        assert!(content(&top) == as_qemu_reads(&top, "qcow2"), "{name}");
    }
    // A relative name behind `file:` QEMU looks for where it was started; beside the image is what was meant.
    qemu(cwd, &["create", "-q", "-u", "-f", "qcow2", "-b", "file:base.raw", "-F", "raw", "sub/file.qcow2", "64k"]);
    assert!(content(&cwd.join("sub/file.qcow2")) == noise(1, 65536));
    // Through a symbolic link the folder of the link counts, as it does for QEMU.
    std::os::unix::fs::symlink("sub/top0.qcow2", cwd.join("link.qcow2")).unwrap();
    assert_eq!(broken(&cwd.join("link.qcow2")).0, ErrorKind::MissingReference);
    std::fs::copy(cwd.join("sub/base.raw"), cwd.join("base.raw")).unwrap();
    assert!(content(&cwd.join("link.qcow2")) == noise(1, 65536));
}

#[test]
fn loops_end() {
    let dir = dir();
    let cwd = dir.path();
    for (name, backing) in [("a", "b"), ("b", "c"), ("c", "a"), ("self", "./self"), ("link", "hard")] {
        qemu(cwd, &["create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", "qcow2", name, "1M"]);
    }
    // The same file by another name.
    std::fs::hard_link(cwd.join("link"), cwd.join("hard")).unwrap();
    for (name, layers) in [("a", 3), ("self", 1), ("link", 1)] {
        assert_eq!(broken(&cwd.join(name)), (ErrorKind::Loop, layers), "{name}");
        let info = cowshed_in(cwd, &["info", "--output=json", name]);
        let value: Value = serde_json::from_slice(&info.stdout).unwrap();
        assert_eq!((info.status.code(), &value["health"]), (Some(0), &Value::from("broken")));
        assert_eq!(cowshed_in(cwd, &["map", name]).status.code(), Some(1));
    }
}

#[test]
fn a_chain_may_be_deep_but_not_endless() {
    let dir = dir();
    let cwd = dir.path();
    qemu(cwd, &["create", "-q", "-u", "-f", "qcow2", "-b", "n999", "-F", "qcow2", "model", "1M"]);
    let model = std::fs::read(cwd.join("model")).unwrap();
    let at = model.windows(4).position(|w| w == b"n999").unwrap();
    for i in 0..=250 {
        let mut bytes = model.clone();
        bytes[at..at + 4].copy_from_slice(format!("n{:03}", i + 1).as_bytes());
        std::fs::write(cwd.join(format!("n{i:03}")), bytes).unwrap();
    }
    qemu(cwd, &["create", "-q", "-f", "qcow2", "n200", "1M"]);
    let start = Instant::now();
    // 200 layers are well; one more is too many.
    assert!(open(&cwd.join("n001")).disk().is_ok());
    assert_eq!(open(&cwd.join("n001")).layers.len(), 200);
    assert_eq!(broken(&cwd.join("n000")), (ErrorKind::Loop, 200));
    assert!(start.elapsed().as_secs() < 10);
}

#[test]
fn nothing_is_opened_that_an_image_names_outside_its_folder() {
    let dir = dir();
    let outside = dir.path().join("outside.raw");
    std::fs::write(&outside, noise(1, 65536)).unwrap();
    let cwd = &dir.path().join("images");
    std::fs::create_dir(cwd).unwrap();
    std::os::unix::fs::symlink("../outside.raw", cwd.join("link.raw")).unwrap();
    let names = [
        ("/etc/passwd", "raw"),
        ("../outside.raw", "raw"),
        (s(&outside), "raw"),
        ("link.raw", "raw"),
        ("file:../outside.raw", "raw"),
        ("nbd://localhost:1/x", "raw"),
        ("nbd:unix:/tmp/nothing", "raw"),
        ("http://localhost:1/x.img", "raw"),
        ("json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}}", "raw"),
        ("/dev/zero", "raw"),
        ("/proc/self/mem", "raw"),
    ];
    for (n, (name, format)) in names.iter().enumerate() {
        let image = format!("top{n}.qcow2");
        qemu(cwd, &["create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", format, &image, "64k"]);
        assert_eq!(broken(&cwd.join(&image)), (ErrorKind::Gated, 1), "{name}");
        let opened = opened_by(cwd, &["info", "--output=json", &image]);
        let target = name.rsplit(['/', ':']).next().unwrap();
        let touched: Vec<_> =
            opened.iter().filter(|p| p.ends_with("outside.raw") || p.ends_with(&format!("/{target}"))).collect();
        assert!(touched.is_empty(), "{name}: {touched:?}");
        assert!(opened.iter().any(|p| p.ends_with(&image)), "strace saw nothing");
        // The look at the image itself succeeds, and shows the name as it is.
        let out = cowshed_in(cwd, &["info", "--output=json", &image]);
        let value: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!((out.status.code(), &value["backing-filename"]), (Some(0), &Value::from(*name)));
        let map = cowshed_in(cwd, &["map", &image]);
        assert_eq!(map.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&map.stderr).contains("hint: "), "{}", String::from_utf8_lossy(&map.stderr));
    }
    // A person may say so.
    for image in ["top1.qcow2", "top2.qcow2", "top3.qcow2"] {
        assert!(cowshed_in(cwd, &["map", "--follow", image]).status.success());
        let gate = Gate::around(&cwd.join(image)).allow(dir.path());
        let options = OpenOptions { gate: Some(gate), ..OpenOptions::default() };
        assert!(Chain::open(&cwd.join(image), &options).unwrap().disk().is_ok());
    }
    assert!(!cowshed_in(cwd, &["map", "--follow", "top5.qcow2"]).status.success());
}

/// Every file the program opens, as the kernel sees it.
fn opened_by(cwd: &Path, args: &[&str]) -> Vec<String> {
    let log = cwd.join("strace.log");
    let out = Command::new("strace")
        .args(["-f", "-qq", "-s", "4096", "-e", "trace=open,openat,openat2", "-o", s(&log), env!("CARGO_BIN_EXE_cowshed")])
        .args(args)
        .current_dir(cwd)
        .output()
        .expect("strace cannot be run: tests/run installs it");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = std::fs::read_to_string(&log).unwrap();
    text.lines().filter_map(|l| Some(l.split('"').nth(1)?.to_string())).collect()
}

#[test]
fn a_missing_base_is_told_and_its_candidates_are_not_taken() {
    let dir = dir();
    let cwd = dir.path();
    qemu(cwd, &["create", "-q", "-f", "qcow2", "base.qcow2", "1M"]);
    qemu(cwd, &["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2"]);
    std::fs::create_dir(cwd.join("moved")).unwrap();
    let moved = cwd.join("moved/base.qcow2");
    std::fs::rename(cwd.join("base.qcow2"), &moved).unwrap();
    struct Knows(PathBuf);
    impl ParentFinder for Knows {
        fn find(&self, _: &Path, _: &BackingRef) -> Vec<PathBuf> {
            vec![self.0.clone()]
        }
    }
    let top = cwd.join("top.qcow2");
    let options = OpenOptions { finder: Some(Arc::new(Knows(moved))), ..OpenOptions::default() };
    // A file of the same name elsewhere may be another disk: whoever knows must relink.
    let chain = Chain::open(&top, &options).unwrap();
    let error = chain.error().unwrap();
    assert_eq!((error.kind(), chain.layers.len(), chain.nodes.len()), (ErrorKind::MissingReference, 1, 2));
    assert_eq!(chain.nodes[1].path, cwd.join("base.qcow2"));
    assert!(error.advice().is_some());
    let out = cowshed_in(cwd, &["info", "--backing-chain", "top.qcow2"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stdout).starts_with("image: top.qcow2\n"));
}

#[test]
fn a_broken_base_does_not_hide_the_image() {
    let dir = dir();
    let cwd = dir.path();
    std::fs::create_dir(cwd.join("folder")).unwrap();
    std::fs::write(cwd.join("garbage"), b"no qcow2 at all").unwrap();
    std::fs::write(cwd.join("empty"), b"").unwrap();
    run("mkfifo", &[s(&cwd.join("fifo"))]);
    for name in ["folder", "garbage", "empty", "fifo"] {
        qemu(cwd, &["create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "qcow2", "top.qcow2", "1M"]);
        let out = cowshed_in(cwd, &["info", "top.qcow2"]);
        assert_eq!(out.status.code(), Some(0), "{name}");
        assert!(open(&cwd.join("top.qcow2")).error().is_some(), "{name}");
    }
}

#[test]
fn reading_through_fragments_stays_linear() {
    let dir = dir();
    let cwd = dir.path();
    // Every second cluster of the smallest size written, over a base that is one run, and the other way round.
    let clusters = 4096u64;
    let size = clusters * 512;
    std::fs::write(cwd.join("run.raw"), noise(1, size as usize)).unwrap();
    qemu(cwd, &["create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "-b", "run.raw", "-F", "raw", "top.qcow2"]);
    let writes: Vec<String> = (0..clusters / 2).map(|i| format!("write -q -P 7 {} 512", i * 1024)).collect();
    for part in writes.chunks(500) {
        qemu_io("qcow2", &cwd.join("top.qcow2"), &part.iter().map(String::as_str).collect::<Vec<_>>());
    }
    qemu(cwd, &["create", "-q", "-f", "qcow2", "-b", "top.qcow2", "-F", "qcow2", "over.qcow2", "64T"]);
    for name in ["top.qcow2", "over.qcow2"] {
        let disk = open(&cwd.join(name)).disk().unwrap();
        let start = Instant::now();
        let mut extents = 0;
        let mut data = 0;
        for extent in disk.extents(0, u64::MAX) {
            let extent = extent.unwrap();
            extents += 1;
            if extent.kind == Kind::Data {
                data += extent.len;
            }
        }
        assert_eq!(data, size, "{name}");
        assert!(extents >= clusters, "{name}: {extents}");
        assert!(start.elapsed().as_secs() < 5, "{name}: {:?}", start.elapsed());
    }
}
